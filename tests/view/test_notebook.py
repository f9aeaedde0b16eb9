from __future__ import annotations

import base64
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import farm
from farm.errors import InputError
from farm.task import TaskSpec, task_digest

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def tasks(task: MakeTask) -> list[TaskSpec]:
    return [
        task(prompt=f"a {subject}", sampler=sampler, seed=seed, variables={"subject": subject})
        for subject in ("sword", EVIL)
        for sampler in ("euler", "ddim")
        for seed in (1, 2)
    ]


@pytest.fixture
def output(tasks: list[TaskSpec], make_output: MakeOutput, task: MakeTask) -> str:
    return make_output(tasks, failed={task(prompt="a dragon", seed=9): "too large"})


def page_of(shown: Any) -> str:
    """What a notebook displays."""
    return str(shown._repr_html_())


def pictures(page: str) -> list[tuple[int, ...]]:
    """The colour in the middle of each picture on a page."""
    found = []
    for text in re.findall(r'src="data:image/webp;base64,([^"]+)"', page):
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            found.append(np.asarray(image.convert("RGB"))[16, 16])
    return [tuple(map(int, colour)) for colour in found]


def is_colour_of(task: TaskSpec, colour: tuple[int, ...]) -> bool:
    """Thumbnails are lossy."""
    return max(abs(a - b) for a, b in zip(task_digest(task)[:3], colour, strict=True)) < 8


def test_a_frame_shows_the_pictures_of_its_rows(output: str, tasks: list[TaskSpec]) -> None:
    frame = farm.catalog(output).to_pandas()
    found = pictures(page_of(frame))
    assert len(found) == len(tasks)  # the failed row has none
    by_id = {farm.task.task_id(task): task for task in tasks}
    rendered = frame[frame["status"] == "rendered"]
    for name, colour in zip(rendered["task_id"], found, strict=True):
        assert is_colour_of(by_id[name], colour)
    assert pictures(page_of(farm.catalog(output))) == found


def test_numbers_have_no_digits_that_were_not_stored(
    task: MakeTask, make_output: MakeOutput
) -> None:
    tasks = [task(prompt="a", seed=seed, guidance_scale=7.125) for seed in range(2)]
    output = make_output(tasks, facts=lambda one: {"brightness": 0.3 + one.seed / 10})
    frame = farm.catalog(output).to_pandas()
    cells = re.findall(r"<td>([^<]*)</td>", page_of(frame[["image_file", "brightness"]]))
    assert cells == ["0.3", "0.4"]
    assert "0.3</figcaption>" in page_of(farm.show(frame, columns=["brightness"]))


def test_it_still_does_after_filtering_sorting_and_choosing(output: str) -> None:
    frame = farm.catalog(output).to_pandas()
    few = frame[frame["sampler"] == "ddim"].sort_values("seed").head(3)
    assert len(pictures(page_of(few))) == 3
    chosen = frame[["sampler", "image_file"]]
    page = page_of(chosen)
    assert len(pictures(page)) == 8
    assert "<th>sampler</th>" in page
    without = frame[["sampler", "seed"]]
    assert page_of(without) == page_of(pd.DataFrame(without))


def test_it_is_a_pandas_frame_in_everything_else(output: str, tmp_path: Path) -> None:
    frame = farm.catalog(output).to_pandas()
    plain = farm.catalog(output).to_arrow().to_pandas()
    assert isinstance(frame, pd.DataFrame)
    pd.testing.assert_frame_equal(pd.DataFrame(frame), plain)
    assert pickle.loads(pickle.dumps(frame)).equals(frame)
    frame.drop(columns=["tags"]).to_parquet(tmp_path / "f.parquet")
    assert frame.groupby("sampler")["seed"].mean()["ddim"] == 1.5


def test_what_comes_from_the_output_is_text(output: str) -> None:
    frame = farm.catalog(output).to_pandas()
    for page in (page_of(frame), page_of(farm.show(frame))):
        assert EVIL not in page
        assert "&lt;script&gt;" in page


def test_a_row_whose_image_is_gone_is_shown_without(output: str) -> None:
    for path in Path(output, "images").rglob("*.png"):
        path.unlink()
    frame = farm.catalog(output).to_pandas()
    assert pictures(page_of(frame)) == []
    assert "euler" in page_of(frame)


def test_show_lays_pictures_out_with_what_varies(output: str) -> None:
    frame = farm.catalog(output).to_pandas()
    rendered = frame[frame["status"] == "rendered"]
    shown = farm.show(rendered)
    assert set(shown.columns) == {"var_subject", "sampler", "seed"}
    assert len(pictures(page_of(shown))) == 8
    few = farm.show(rendered, columns=["cfg"], limit=3, size=64)
    assert few.columns == ("guidance_scale",)
    assert "and 5 more" in page_of(few)
    assert len(pictures(page_of(farm.show(farm.catalog(output))))) == 8


def test_sheet_is_a_picture_of_the_rows(output: str, tasks: list[TaskSpec]) -> None:
    frame = farm.catalog(output).to_pandas()
    image = farm.sheet(frame, x="sampler", y="subject")
    assert isinstance(image, Image.Image)
    pixels = np.asarray(image)
    for task in tasks:
        assert (pixels == tuple(task_digest(task)[:3])).all(axis=-1).sum() == 32 * 32
    few = np.asarray(farm.sheet(frame[frame["sampler"] == "ddim"], x="seed", y="subject"))
    for task in tasks:
        seen = (few == tuple(task_digest(task)[:3])).all(axis=-1).sum() == 32 * 32
        assert seen == (task.sampler == "ddim")
    assert farm.sheet(farm.catalog(output), x="sampler", theme="dark").getpixel((0, 0)) != (
        image.getpixel((0, 0))
    )


def test_a_frame_without_images_is_refused(output: str) -> None:
    frame = farm.catalog(output).to_pandas()
    with pytest.raises(InputError, match="image_file"):
        farm.sheet(frame[["sampler", "seed"]], x="sampler")
    with pytest.raises(InputError, match="did you mean 'sampler'"):
        farm.sheet(frame, x="smapler")
    with pytest.raises(InputError, match="nothing to show"):
        farm.sheet(frame[frame["seed"] > 100])
