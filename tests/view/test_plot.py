from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm.errors import InputError, MissingLibraryError, OutputError
from farm.store import Store
from farm.task import TaskSpec
from farm.view.plot import PlotSettings, draw_plot, make_plot
from farm.view.table import Table

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]

JOB = """
name: assets
output: out
defaults: {width: 32, height: 32, num_inference_steps: 20, prompt: $a sword$}
matrix:
  sampler: [euler, ddim]
  guidance_scale: [7, 1, 4]
  seed: 1..4
"""


@pytest.fixture
def output(task: MakeTask, make_output: MakeOutput) -> str:
    tasks = [
        task(prompt="$a sword$", sampler=sampler, guidance_scale=cfg, seed=seed)
        for sampler in ("euler", "ddim")
        for cfg in (7.0, 1.0, 4.0)
        for seed in range(1, 5)
    ]
    return make_output(
        tasks,
        failed={task(prompt="$a sword$", sampler="ddim", seed=99): "too black"},
        job=JOB,
        facts=lambda one: {"sharpness": one.guidance_scale * 10 + one.seed},
    )


def axes_of(output: str, **settings: Any) -> Any:
    figure = draw_plot(Table.read(Store.open(output), where=None), PlotSettings(**settings))
    [axes] = figure.axes
    return axes


def test_a_line_goes_through_the_means(output: str) -> None:
    axes = axes_of(output, x="cfg", y="sharpness", hue="sampler")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["euler", "ddim"]
    for line in axes.get_lines():
        assert line.get_xdata().tolist() == [1.0, 4.0, 7.0]
        assert line.get_ydata().tolist() == [12.5, 42.5, 72.5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("guidance_scale", "sharpness")


def test_the_band_is_the_confidence_interval_of_the_mean(output: str) -> None:
    axes = axes_of(output, x="cfg", y="sharpness", hue="sampler")
    corners = axes.collections[0].get_paths()[0].vertices
    at_one = corners[corners[:, 0] == 1.0][:, 1]
    half = 1.96 * np.std([1, 2, 3, 4], ddof=1) / math.sqrt(4)
    assert at_one.min() == pytest.approx(12.5 - half)
    assert at_one.max() == pytest.approx(12.5 + half)


def test_words_stand_in_the_order_of_the_job_with_their_means(output: str) -> None:
    axes = axes_of(output, x="sampler", y="sharpness")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["euler", "ddim"]
    means = axes.collections[-1].get_segments()
    assert [segment[0][1] for segment in means] == [42.5, 42.5]
    points = sum(len(collection.get_offsets()) for collection in axes.collections[:-1])
    assert points == 24  # the failed task has no picture


def test_long_words_stand_below_each_other(task: MakeTask, make_output: MakeOutput) -> None:
    prompts = [f"a sword of {metal}, on a white background" for metal in ("gold", "iron", "tin")]
    tasks = [
        task(prompt=f"{prompt}, {number}", seed=seed)
        for number in range(3)
        for prompt in prompts
        for seed in range(2)
    ]
    output = make_output(tasks, facts=lambda one: {"sharpness": float(one.seed)})
    axes = axes_of(output, x="prompt", y="sharpness")
    names = [text.get_text().replace("\n", " ") for text in axes.get_yticklabels()]
    assert names == sorted({one.prompt for one in tasks})
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("sharpness", "prompt")
    assert {segment[0][0] for segment in axes.collections[-1].get_segments()} == {0.5}
    assert overlapping([text.get_window_extent() for text in axes.get_yticklabels()]) == []
    bars = axes_of(output, x="prompt")
    assert [patch.get_width() for patch in bars.patches] == [2] * 9


def overlapping(boxes: Any) -> list[tuple[Any, Any]]:
    return [(a, b) for a, b in itertools.pairwise(boxes) if a.overlaps(b)]


@pytest.mark.parametrize("words", ["short", "a word that says much more than there is room for"])
def test_a_legend_takes_no_room_from_the_plot(
    words: str, task: MakeTask, make_output: MakeOutput
) -> None:
    tasks = [
        task(prompt=f"{words} {number}", seed=seed) for number in range(20) for seed in range(2)
    ]
    output = make_output(tasks, facts=lambda one: {"sharpness": float(one.seed)})
    axes = axes_of(output, x="seed", y="sharpness", hue="prompt")
    axes.figure.draw_without_rendering()
    box = axes.get_window_extent()
    assert box.width > 0.7 * axes.figure.bbox.width
    assert box.height > 0.7 * 5 * axes.figure.dpi
    legend = axes.get_legend() or axes.figure.legends[0]
    whole = legend.get_window_extent()
    assert not whole.overlaps(axes.get_tightbbox().shrunk(0.98, 0.98))
    for one in legend.get_texts():
        text = one.get_window_extent()
        assert axes.figure.bbox.x0 <= text.x0 < text.x1 <= axes.figure.bbox.x1
        assert axes.figure.bbox.y0 <= text.y0 < text.y1 <= axes.figure.bbox.y1


def test_without_a_number_pictures_are_counted(output: str) -> None:
    axes = axes_of(output, x="sampler")
    assert [patch.get_height() for patch in axes.patches] == [12, 12]
    axes = axes_of(output, x="cfg")
    assert sorted(patch.get_height() for patch in axes.patches if patch.get_height()) == [8, 8, 8]


def test_a_bar_stands_at_each_of_a_few_numbers(task: MakeTask, make_output: MakeOutput) -> None:
    tasks = [
        task(prompt="a", guidance_scale=scale, sampler=sampler, seed=seed)
        for scale in (1.0, 3.0, 5.0, 7.0)
        for sampler in ("euler", "ddim")
        for seed in range(2)
    ]
    axes = axes_of(make_output(tasks), x="cfg", hue="sampler")
    bars = [patch for patch in axes.patches if patch.get_height()]
    middles = sorted(bar.get_x() + bar.get_width() / 2 for bar in bars)
    assert middles == pytest.approx([1, 1, 3, 3, 5, 5, 7, 7])
    assert all(bar.get_width() < 2 for bar in bars)  # they do not touch
    assert {bar.get_y() + bar.get_height() for bar in bars} == {2, 4}  # one on the other
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "3", "5", "7"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_suffix_chooses_the_format(suffix: str, output: str, tmp_path: Path) -> None:
    settings = PlotSettings(x="cfg", y="sharpness", title="a $title$ of $$ signs")
    file = make_plot(output, settings, out=tmp_path / f"p{suffix}")
    head = Path(file).read_bytes()[:5]
    assert head in {b"\x89PNG\r", b"<?xml", b"%PDF-"}


def test_by_default_it_lies_with_the_sheets(output: str) -> None:
    file = make_plot(output, PlotSettings(x="cfg", y="sharpness", hue="sampler"))
    assert Path(file) == Path(output) / "sheets" / "plot-sharpness-cfg-sampler.png"
    with Image.open(file) as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"x": "smapler"}, "did you mean 'sampler'"),
        ({"x": "cfg", "y": "prompt"}, "no column of numbers"),
        ({"x": "cfg", "y": "eta"}, "no rendered image"),
        ({"x": "cfg", "where": "seed > 1000"}, "no rendered image"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings: Any, said: str, output: str) -> None:
    with pytest.raises(InputError, match=said):
        make_plot(output, PlotSettings(**settings))


def test_too_many_colours_or_words_are_refused(task: MakeTask, make_output: MakeOutput) -> None:
    tasks = [task(prompt=f"sword number {number}", seed=number) for number in range(70)]
    output = make_output(tasks)
    for settings in ({"x": "cfg", "hue": "seed"}, {"x": "prompt"}):
        with pytest.raises(InputError, match="70 values"):
            make_plot(output, PlotSettings(**settings))


def test_a_place_that_cannot_be_written_is_an_error_of_the_output(
    output: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        make_plot(output, PlotSettings(x="cfg"), out=tmp_path / "file" / "p.png")
    with pytest.raises(InputError, match="cannot be written"):
        make_plot(output, PlotSettings(x="cfg"), out=tmp_path / "p.gif")


def test_without_matplotlib_the_command_to_install_it_is_told(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingLibraryError, match=r"pip install '\.\[plot\]'"):
        make_plot(output, PlotSettings(x="cfg"))


def test_no_script_makes_a_plot_talk(
    task: MakeTask,
    make_output: MakeOutput,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = [task(prompt=prompt, seed=1) for prompt in ("\u5263", "\u76fe\u306e\u7d75", "sword")]
    output = make_output(tasks, facts=lambda one: {"sharpness": float(one.seed)})
    make_plot(output, PlotSettings(x="prompt", y="sharpness"), out=tmp_path / "plot.png")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert "font" not in caplog.text
