from __future__ import annotations

import io
import itertools
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm.errors import InputError, OutputError
from farm.manifest import SheetSettings
from farm.store import Store
from farm.store.files import open_files
from farm.store.votes import Vote, VoteKind
from farm.task import TaskSpec, task_digest, task_id
from farm.view import paint
from farm.view import sheet as sheets
from farm.view.layout import Layout, Style
from farm.view.query import catalog
from farm.view.sheet import choose_axes
from farm.view.table import Table, show

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

JOB = """
name: assets
output: out
defaults: {width: 32, height: 32, num_inference_steps: 20}
matrix:
  subject: [sword, axe]
  prompt: "a ${subject}"
  sampler: [euler, ddim]
  seed: 1..3
"""


def make_sheet(
    output: str, *, out: Path | str | None = None, max_pixels: int | None = None, **settings: Any
) -> list[str]:
    return sheets.make_sheet(output, SheetSettings(**settings), out=out, max_pixels=max_pixels)


def read(path: str) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image)


def place_of(task: TaskSpec, sheet: Pixels) -> tuple[int, int] | None:
    """Left and top of the picture of a task on a sheet; None if it is not there, whole."""
    colour = tuple(task_digest(task)[:3])
    rows, columns = np.nonzero((sheet == colour).all(axis=-1))
    if len(rows) < 32 * 32:
        return None
    assert (rows.max() - rows.min(), columns.max() - columns.min()) == (31, 31)
    return int(columns.min()), int(rows.min())


@pytest.fixture
def assets(task: MakeTask) -> dict[tuple[str, str, int], TaskSpec]:
    """The tasks of `JOB`."""
    return {
        (subject, sampler, seed): task(
            prompt=f"a {subject}", sampler=sampler, seed=seed, variables={"subject": subject}
        )
        for subject in ("sword", "axe")
        for sampler in ("euler", "ddim")
        for seed in (1, 2, 3)
    }


Assets = dict[tuple[str, str, int], TaskSpec]


def test_every_picture_stands_in_its_row_and_column(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    [file] = make_sheet(output, x="sampler", y="subject", out=tmp_path / "sheet.png")
    sheet = read(file)
    places = {key: place_of(one, sheet) for key, one in assets.items()}
    assert None not in places.values()
    for seed in (1, 2, 3):
        left = [places[s, "euler", seed] for s in ("sword", "axe")]
        right = [places[s, "ddim", seed] for s in ("sword", "axe")]
        assert left[0] is not None and left[1] is not None  # noqa: PT018 - for the type checker
        assert right[0] is not None and right[1] is not None  # noqa: PT018 - same
        assert left[0][0] == left[1][0] < right[0][0] == right[1][0]
        assert left[0][1] == right[0][1] < left[1][1] == right[1][1]


def test_values_stand_in_the_order_of_the_job(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    """`euler` before `ddim`, `sword` before `axe`; without a job, as they sort."""
    for job, expected in ((JOB, ["euler", "ddim"]), (None, ["ddim", "euler"])):
        output = make_output(assets.values(), job=job, name=f"out-{expected[0]}")
        [file] = make_sheet(output, x="sampler", y="subject", out=tmp_path / "sheet.png")
        sheet = read(file)
        lefts = {name: place_of(assets["axe", name, 1], sheet) for name in expected}
        assert sorted(expected, key=lambda name: lefts[name] or (0, 0)) == expected


def test_axes_can_be_swapped_without_rendering(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    [one] = make_sheet(output, x="sampler", y="seed", out=tmp_path / "one.png")
    [other] = make_sheet(output, x="seed", y="sampler", out=tmp_path / "other.png")
    for path in (one, other):
        assert all(place_of(task, read(path)) for task in assets.values())


def test_a_page_for_every_value(assets: Assets, make_output: MakeOutput, tmp_path: Path) -> None:
    output = make_output(assets.values(), job=JOB)
    files = make_sheet(output, x="sampler", y="seed", page="subject", out=tmp_path / "s.png")
    assert [Path(file).name for file in files] == ["s-01.png", "s-02.png"]
    for file, subject in zip(files, ("sword", "axe"), strict=True):
        sheet = read(file)
        for (its_subject, *_), one in assets.items():
            assert (place_of(one, sheet) is not None) == (its_subject == subject)


def test_a_sheet_needs_no_axes(assets: Assets, make_output: MakeOutput) -> None:
    output = make_output(assets.values(), job=JOB)
    [file] = make_sheet(output)
    assert Path(file).parent == Path(output) / "sheets"
    assert all(place_of(task, read(file)) for task in assets.values())


def test_where_leaves_out_pictures(assets: Assets, make_output: MakeOutput, tmp_path: Path) -> None:
    output = make_output(assets.values(), job=JOB)
    [file] = make_sheet(output, where="sampler = 'ddim' and seed < 3", out=tmp_path / "s.png")
    sheet = read(file)
    for (_, sampler, seed), one in assets.items():
        assert (place_of(one, sheet) is not None) == (sampler == "ddim" and seed < 3)


def test_what_is_not_rendered_yet_keeps_its_place(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    done = [one for key, one in assets.items() if key != ("sword", "euler", 2)]
    whole = make_output(assets.values(), job=JOB, name="whole")
    part = make_output(done, job=JOB, name="part")
    [of_whole] = make_sheet(whole, x="sampler", y="subject", out=tmp_path / "whole.png")
    [of_part] = make_sheet(part, x="sampler", y="subject", out=tmp_path / "part.png")
    before, after = read(of_whole), read(of_part)
    assert before.shape == after.shape
    for one in done:
        assert place_of(one, before) == place_of(one, after)
    left, top = place_of(assets["sword", "euler", 2], before) or (0, 0)
    hatched = after[top : top + 32, left : left + 32]
    assert (hatched != after[0, 0]).any(axis=-1).mean() > 0.9


def test_an_output_with_nothing_rendered_shows_the_whole_matrix_to_do(
    make_output: MakeOutput, tmp_path: Path
) -> None:
    [file] = make_sheet(make_output([], job=JOB), out=tmp_path / "s.png")
    assert read(file).shape[0] > 100


def test_a_cell_the_job_excludes_is_left_blank(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    job = JOB + "exclude:\n  - {subject: axe, sampler: euler}\n"
    wanted = {key: one for key, one in assets.items() if key[:2] != ("axe", "euler")}
    output = make_output(wanted.values(), job=job)
    [file] = make_sheet(output, x="sampler", y="subject", out=tmp_path / "s.png")
    sheet = read(file)
    places = {key: place_of(one, sheet) for key, one in wanted.items()}
    right, bottom = places["axe", "ddim", 1], places["sword", "euler", 1]
    assert right is not None
    assert bottom is not None
    left, top = bottom[0], right[1]
    assert (sheet[top : top + 32, left : left + 32] == sheet[0, 0]).all()


def test_a_failed_cell_is_red(assets: Assets, make_output: MakeOutput, tmp_path: Path) -> None:
    broken = assets["axe", "ddim", 3]
    done = [one for one in assets.values() if one is not broken]
    whole = make_output(assets.values(), job=JOB, name="whole")
    part = make_output(done, failed={broken: "the picture is black"}, job=JOB, name="part")
    [of_whole] = make_sheet(whole, out=tmp_path / "whole.png")
    [of_part] = make_sheet(part, out=tmp_path / "part.png")
    left, top = place_of(broken, read(of_whole)) or (0, 0)
    # The header of the second sheet says `1 failed`, in a line that the first has as well.
    red, green, _ = read(of_part)[top : top + 32, left : left + 32].reshape(-1, 3).mean(axis=0)
    assert red > green + 5


def test_rows_of_other_jobs_are_shown_after_those_of_the_job(
    assets: Assets, task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    stranger = task(prompt="a bow", sampler="ddim", seed=1, variables={"subject": "bow"})
    output = make_output([*assets.values(), stranger], job=JOB)
    [file] = make_sheet(output, x="sampler", y="subject", out=tmp_path / "s.png")
    sheet = read(file)
    last = max(place_of(one, sheet) or (0, 0) for one in assets.values())
    bow = place_of(stranger, sheet)
    assert bow is not None
    assert bow[1] > last[1]


def test_values_of_earlier_jobs_stand_in_the_order_of_their_job(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    """And what only an earlier job still lacks is no cell: nobody asked for it last."""
    sizes = ["large", "medium", "small", "tiny"]
    tasks = {size: task(prompt=f"a {size} axe", variables={"size": size}) for size in sizes}
    head = "output: out\ndefaults: {width: 32, height: 32, num_inference_steps: 20}\n"
    prompt = 'prompt: "a ${size} axe", seed: 1'
    make_output(
        [tasks["small"], tasks["medium"], tasks["large"]],
        job=f"{head}matrix: {{size: [large, medium, small, never], {prompt}}}\n",
    )
    output = make_output([tasks["tiny"]], job=f"{head}matrix: {{size: [tiny], {prompt}}}\n")
    [file] = make_sheet(output, x="size", out=tmp_path / "s.png")
    places = {size: place_of(one, read(file)) for size, one in tasks.items()}
    assert sorted(places, key=lambda size: places[size] or (0, 0)) == ["tiny", *sizes[:3]]
    table = Table.read(Store.open(output), where=None)
    assert {row["var_size"] for row in table.rows} == set(sizes)


def test_a_job_this_version_cannot_read_is_no_obstacle(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job="from_the_future: {}")
    [file] = make_sheet(output, out=tmp_path / "s.png")
    assert all(place_of(task, read(file)) for task in assets.values())


def test_one_axis_is_wrapped_with_a_caption_for_every_picture(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    tasks = [task(prompt="an apple", seed=seed) for seed in range(10)]
    [file] = make_sheet(make_output(tasks), out=tmp_path / "s.png")
    sheet = read(file)
    places = [place_of(one, sheet) for one in tasks]
    assert None not in places
    reading_order = [place and (place[1], place[0]) for place in places]
    assert reading_order == sorted(reading_order, key=lambda place: place or (0, 0))
    assert len({place[1] for place in places if place}) > 1


def test_a_single_picture_is_a_sheet(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    one = task(prompt="an apple")
    [file] = make_sheet(make_output([one]), out=tmp_path / "s.png")
    assert place_of(one, read(file))


def test_too_much_for_a_page_makes_pages(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    files = make_sheet(output, x="sampler", y="seed", out=tmp_path / "s.png", max_pixels=110_000)
    assert len(files) > 1
    sheets = [read(file) for file in files]
    for one in assets.values():
        assert sum(place_of(one, sheet) is not None for sheet in sheets) == 1
    assert all(sheet.shape[0] * sheet.shape[1] <= 110_000 for sheet in sheets)


def test_pictures_too_small_to_see_are_refused(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output([task()])
    with pytest.raises(InputError, match="pictures of 7 pixels are too small") as caught:
        make_sheet(output, tile=7, out=tmp_path / "s.png")
    assert caught.value.hint == "let tile be at least 8"
    make_sheet(output, tile=8, out=tmp_path / "s.png")


def test_tiles_can_be_enlarged(task: MakeTask, make_output: MakeOutput, tmp_path: Path) -> None:
    one = task(prompt="an apple")
    [file] = make_sheet(make_output([one]), out=tmp_path / "s.png", tile=96)
    colour = tuple(task_digest(one)[:3])
    assert (read(file) == colour).all(axis=-1).sum() == 96 * 96


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_the_suffix_chooses_the_format(
    suffix: str, task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    [file] = make_sheet(make_output([task(seed=1)]), out=tmp_path / f"s{suffix}")
    with Image.open(file) as image:
        assert image.format == {".jpg": "JPEG", ".webp": "WEBP", ".png": "PNG"}[suffix]


def test_an_unknown_column_is_refused_with_a_suggestion(
    assets: Assets, make_output: MakeOutput
) -> None:
    output = make_output(assets.values(), job=JOB)
    with pytest.raises(InputError, match="did you mean 'sampler'"):
        make_sheet(output, x="smapler")


def test_aliases_and_bare_variables_name_columns(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    assert make_sheet(output, x="cfg", y="subject", out=tmp_path / "s.png")


@pytest.mark.parametrize(
    "options",
    [
        {"x": "seed", "y": "seed"},
        {"out": "sheet.gif"},
        {"where": "seed > 100"},
        {"where": "this is no sql"},
    ],
)
def test_what_cannot_be_shown_is_refused(
    options: dict[str, Any], assets: Assets, make_output: MakeOutput
) -> None:
    output = make_output(assets.values(), job=JOB)
    with pytest.raises(InputError):
        make_sheet(output, **options)


def test_a_place_that_cannot_be_written_is_an_error_of_the_output(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        make_sheet(output, out=tmp_path / "file" / "s.png")


def test_nothing_is_left_behind_in_the_output(assets: Assets, make_output: MakeOutput) -> None:
    output = make_output(assets.values(), job=JOB)
    [file] = make_sheet(output)
    assert [path.name for path in (Path(output) / "sheets").iterdir()] == [Path(file).name]


# --- groups, orders, scores, differences --------------------------------------------------------


def test_super_axes_group_rows_and_columns(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    [file] = make_sheet(
        output, x="seed", y="sampler", super_x="subject", out=tmp_path / "across.png"
    )
    places = {key: place_of(one, read(file)) for key, one in assets.items()}
    lefts = [places[s, "euler", seed] for s in ("sword", "axe") for seed in (1, 2, 3)]
    found = [place[0] for place in lefts if place]
    assert found == sorted(found)
    steps = np.diff(found)
    assert len(set(steps)) == 2  # the step between groups is wider than the others
    assert steps.argmax() == 2
    [file] = make_sheet(output, x="seed", y="sampler", super_y="subject", out=tmp_path / "down.png")
    places = {key: place_of(one, read(file)) for key, one in assets.items()}
    tops = [places[s, name, 1] for s in ("sword", "axe") for name in ("euler", "ddim")]
    found = [place[1] for place in tops if place]
    assert found == sorted(found)
    assert np.diff(found).argmax() == 1


def facts_of(task: TaskSpec) -> dict[str, Any]:
    """Pictures of one colour, whose brightness the catalog is told."""
    return {"brightness": sum(task_digest(task)[:3]) / 765, "sharpness": float(task.seed)}


def test_a_sorted_sheet_is_one_ranking(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB, facts=facts_of)
    [file] = make_sheet(output, sort="brightness desc", out=tmp_path / "s.png")
    sheet = read(file)
    places = {one: place_of(one, sheet) for one in assets.values()}
    order = sorted(places, key=lambda one: (places[one] or (0, 0))[::-1])
    assert order == sorted(places, key=lambda one: -facts_of(one)["brightness"])


def test_pictures_of_a_cell_are_sorted_too(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB, facts=facts_of)
    [file] = make_sheet(
        output, x="sampler", y="subject", sort="sharpness desc", out=tmp_path / "s.png"
    )
    sheet = read(file)
    places = [place_of(assets["sword", "euler", seed], sheet) or (0, 0) for seed in (3, 2, 1)]
    assert places == sorted(places, key=lambda place: place[::-1])


def test_a_measured_column_becomes_an_axis_of_ranges(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    tasks = [task(prompt="an apple", seed=seed) for seed in range(20)]
    output = make_output(tasks, facts=facts_of)
    [file] = make_sheet(output, x="brightness", out=tmp_path / "s.png")
    sheet = read(file)
    places = {one: place_of(one, sheet) for one in tasks}
    assert None not in places.values()
    columns = [
        [facts_of(one)["brightness"] for one in tasks if (places[one] or (0, 0))[0] == left]
        for left in sorted({place[0] for place in places.values() if place})
    ]
    assert max(columns[0]) < min(columns[-1])


def test_differences_are_black_where_nothing_differs(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    def draw(one: TaskSpec) -> bytes:
        level = 100 if one.sampler == "euler" or one.seed == 1 else 104
        sink = io.BytesIO()
        Image.new("RGB", (32, 32), (level, 100, 100)).save(sink, "PNG")
        return sink.getvalue()

    output = make_output(assets.values(), job=JOB, draw=draw)
    [file] = make_sheet(
        output, x="sampler", y="subject", diff_against="sampler=euler", out=tmp_path / "s.png"
    )
    sheet = read(file)
    counts = [
        int((sheet == colour).all(axis=-1).sum()) // 1024
        for colour in ((100, 100, 100), (0, 0, 0), (32, 0, 0))
    ]
    assert counts == [6, 2, 4]  # references, equal ones, and those that differ by four levels


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("sampler", "column=value"),
        ("sampler=eulr", "did you mean 'euler'"),
        ("cfg=1", "is no axis of this sheet"),
        ("smapler=x", "did you mean 'sampler'"),
    ],
)
def test_a_difference_to_nothing_is_refused(
    asked: str, said: str, assets: Assets, make_output: MakeOutput
) -> None:
    with pytest.raises(InputError, match=said):
        make_sheet(make_output(assets.values(), job=JOB), diff_against=asked)


def test_a_score_has_numbers(assets: Assets, make_output: MakeOutput, tmp_path: Path) -> None:
    output = make_output(assets.values(), job=JOB, facts=facts_of)
    plain = make_sheet(output, x="sampler", y="subject", out=tmp_path / "plain.png")
    scored = make_sheet(
        output, x="sampler", y="subject", score="brightness", out=tmp_path / "scored.png"
    )
    assert read(scored[0]).shape[0] > read(plain[0]).shape[0]
    for column in ("prompt", "eta"):
        with pytest.raises(InputError, match=r"numbers|no values"):
            make_sheet(output, score=column)


@pytest.mark.parametrize(
    ("first", "ends"),
    [(11700.0, ["11", "≥29"]), (-11700.0, ["≤11", "29"]), (30.0, ["11", "30"])],
)
def test_an_outlier_leaves_the_colours_to_the_others(
    first: float,
    ends: list[str],
    task: MakeTask,
    make_output: MakeOutput,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    told: list[tuple[Layout, Any]] = []
    draw = paint.paint

    def listen(layout: Layout, contents: Any, *rest: Any) -> Image.Image:
        told.append((layout, contents))
        return draw(layout, contents, *rest)

    monkeypatch.setattr(paint, "paint", listen)
    tasks = [task(prompt="a", seed=seed) for seed in range(20)]
    output = make_output(
        tasks, facts=lambda one: {"render_ms": 10.0 + one.seed if one.seed else first}
    )
    make_sheet(output, score="render_ms", out=tmp_path / "s.png")
    [(layout, contents)] = told
    texts = [" ".join(text.lines) for text in layout.texts]
    at = texts.index(f"render_ms {ends[0]}")
    assert texts[at + 1] == ends[1]
    shares = sorted(one.score.share for one in contents.values())
    assert shares[0] == 0
    assert shares[-1] == 1
    assert 0.3 < shares[10] < 0.7


def test_an_axis_of_ten_thousand_values_asks_for_paging(
    make_output: MakeOutput, tmp_path: Path
) -> None:
    job = "name: j\nbackend: pattern\nmatrix:\n  sampler: [euler, ddim]\n  seed: 1..10000\n"
    with pytest.raises(InputError, match=r"10,000 values.*[\s\S]*--page"):
        make_sheet(make_output([], job=job), x="seed", y="sampler", out=tmp_path / "s.png")


def test_a_theme_that_is_none_is_named(make_output: MakeOutput, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no theme 'pink'") as raised:
        make_sheet(make_output([TaskSpec()]), theme="pink", out=tmp_path / "s.png")
    assert raised.value.hint == "there are: light, dark"


def test_what_fits_no_axis_gets_pages() -> None:
    rows = [
        {"sampler": sampler, "seed": seed} for sampler in ("euler", "ddim") for seed in range(1001)
    ]
    axes = choose_axes(rows, order=("sampler", "seed"))
    assert (axes.x, axes.y, axes.page) == (None, "sampler", "seed")


def test_an_image_that_was_deleted_is_hatched(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    [before] = make_sheet(output, x="sampler", y="subject", out=tmp_path / "before.png")
    gone = assets["axe", "ddim", 2]
    left, top = place_of(gone, read(before)) or (0, 0)
    frame = catalog(output).to_pandas()
    [victim] = frame[frame["task_id"] == task_id(gone)]["image_file"]
    Path(victim).unlink()
    [after] = make_sheet(output, x="sampler", y="subject", out=tmp_path / "after.png")
    red, green, _ = read(after)[top : top + 32, left : left + 32].reshape(-1, 3).mean(axis=0)
    assert red > green + 5
    for one in assets.values():
        assert one is gone or place_of(one, read(after)) == place_of(one, read(before))


Listen = Callable[..., list[list[str]]]


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Listen:
    """Makes a sheet and returns its texts of some kinds, page by page."""
    drawn: list[list[tuple[Style, str]]] = []
    draw = paint.paint

    def listen(layout: Layout, *rest: Any) -> Image.Image:
        drawn.append([(text.style, " ".join(text.lines)) for text in layout.texts])
        return draw(layout, *rest)

    monkeypatch.setattr(paint, "paint", listen)

    def told(output: str, out: Path, kinds: set[Style], **settings: Any) -> list[list[str]]:
        drawn.clear()
        make_sheet(output, out=out, **settings)
        return [[text for style, text in page if style in kinds] for page in drawn]

    return told


@pytest.fixture
def header(texts: Listen) -> Listen:
    """Makes a sheet and returns the lines above its pictures, page by page."""
    return lambda output, out, **settings: texts(output, out, {Style.TITLE, Style.FACT}, **settings)


def test_the_header_counts_what_is_shown_and_what_is_not(
    assets: Assets,
    make_output: MakeOutput,
    header: Callable[..., list[list[str]]],
    tmp_path: Path,
) -> None:
    broken, undone = assets["axe", "ddim", 3], assets["sword", "euler", 2]
    done = [one for one in assets.values() if one not in (broken, undone)]
    output = make_output(done, failed={broken: "the picture is black"}, job=JOB)
    frame = catalog(output).to_pandas()
    for place in frame[frame["seed"] == 1]["image_file"][:3]:
        Path(place).unlink()
    [[_, *facts]] = header(output, tmp_path / "s.png", x="sampler", y="subject")
    assert facts[-1] == "7 images · 3 deleted · 1 failed · 1 not rendered yet"
    [[_, *facts]] = header(output, tmp_path / "s.png", where="seed = 1")
    assert facts[-1] == "1 image · 3 deleted"
    assert header(output, tmp_path / "s.png", x="status")  # a column as any other


def test_a_label_tells_what_follows_from_its_value(
    task: MakeTask, make_output: MakeOutput, texts: Listen, tmp_path: Path
) -> None:
    tasks = [
        task(prompt=f"a {subject}", sampler=sampler, sigma_schedule=schedule, seed=seed,
             variables={"subject": subject})
        for subject in ("sword", "axe")
        for sampler, schedule in (("euler", "default"), ("dpmpp_2m", "karras"))
        for seed in (1, 2)
    ]  # fmt: skip
    output = make_output(tasks)

    def told(**settings: Any) -> list[list[str]]:
        kinds = {Style.LABEL, Style.TITLE}
        pages = texts(output, tmp_path / "s.pdf", kinds, tile=160, **settings)
        return [[text.replace("\N{NO-BREAK SPACE}", " ") for text in page] for page in pages]

    [matrix] = told(x="seed", y="sampler", super_y="subject")
    assert {"euler", "dpmpp_2m · karras"} <= set(matrix)
    assert not any("a sword" in text for text in matrix)  # it says no more than its variable
    [gallery] = told(where="seed = 1 and var_subject = 'axe'")
    assert {"euler", "dpmpp_2m · karras"} <= set(gallery)
    titles = [page[0] for page in told(x="seed", page="sampler")]
    assert titles == ["assets · sampler dpmpp_2m · karras", "assets · sampler euler"]


def test_what_only_some_pictures_of_a_value_have_is_not_in_its_label(
    task: MakeTask, make_output: MakeOutput, texts: Listen, tmp_path: Path
) -> None:
    tasks = [
        task(prompt="a", sampler=sampler, sigma_schedule=schedule, seed=seed)
        for sampler, schedule in (
            ("dpmpp_2m", "default"),
            ("dpmpp_2m", "karras"),
            ("euler", "default"),
        )
        for seed in (1, 2)
    ]
    output = make_output(tasks)
    [told] = texts(output, tmp_path / "s.png", {Style.LABEL}, x="seed", y="sampler")
    assert {"euler", "dpmpp_2m"} <= set(told)


def test_pictures_of_the_same_settings_are_counted_apart(
    task: MakeTask, make_output: MakeOutput, header: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    """The catalog keeps the number type that was used, and two tasks may have come to one."""
    one, other = task(seed=1), task(seed=1, dtype="float32")
    [[_, *facts]] = header(make_output([one, other]), tmp_path / "s.png", x="seed")
    assert facts[-1] == "1 image · 1 of the same settings not shown"


def test_a_long_value_of_a_page_stands_below_the_title(
    task: MakeTask, make_output: MakeOutput, header: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    long = "a lighthouse on a cliff at dusk, " * 9
    prompts = ["a cat", long.strip() + " 1", long.strip() + " 2"]
    tasks = [task(prompt=prompt, seed=seed) for prompt in prompts for seed in (1, 2)]
    output = make_output(tasks)
    pages = header(output, tmp_path / "s.png", page="prompt", x="seed")
    assert [title for title, *_ in pages] == [
        "assets · prompt a cat",
        "assets · prompt 2 of 3",
        "assets · prompt 3 of 3",
    ]
    assert [facts[0] for _, *facts in pages[1:]] == [f"prompt: {prompt}" for prompt in prompts[1:]]


def test_a_thousand_files_are_enough(
    make_output: MakeOutput, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = "name: j\nbackend: pattern\nmatrix:\n  sampler: [euler, ddim]\n  seed: 1..1001\n"
    output = make_output([], job=job)
    with pytest.raises(InputError, match=r"1,001 pages.*[\s\S]*-o s.pdf holds all pages"):
        make_sheet(output, page="seed", out=tmp_path / "s.png")
    assert not list(tmp_path.glob("*.png"))
    monkeypatch.setattr(sheets, "MOST_FILES", 1)
    small = make_output([], job=job.replace("1001", "2"), name="small")
    assert make_sheet(small, page="seed", out=tmp_path / "s.pdf")


def test_an_axis_of_lists_is_an_axis_of_texts(
    assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    tagged = assets["axe", "ddim", 2]
    vote = Vote(kind=VoteKind.TAGS, task_id=task_id(tagged), value=("sharp", "red"), rater="r")
    Store.open(output).vote([vote])
    [file] = make_sheet(output, x="tags", y="subject", out=tmp_path / "s.png")
    assert all(place_of(task, read(file)) for task in assets.values())


def test_ranges_leave_no_slots_for_what_is_in_others(
    task: MakeTask, make_output: MakeOutput, header: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    """Half of the seeds are equally bright: a cell holds eight of sixteen, or one."""
    tasks = [task(seed=seed, sampler=name) for seed in range(16) for name in ("euler", "ddim")]
    output = make_output(tasks, facts=lambda one: {"brightness": max(8, one.seed) / 16 + 0.001})
    out = tmp_path / "s.png"
    [[_, *facts]] = header(output, out, x="brightness", y="sampler")
    assert "in each cell: different seed" in facts
    assert all(place_of(one, read(str(out))) for one in tasks)


def test_pictures_of_several_sizes_share_a_sheet(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    sizes = [(32, 32), (64, 32), (32, 96)]
    tasks = [
        task(prompt="an apple", width=w, height=h, seed=seed) for w, h in sizes for seed in (1, 2)
    ]
    [file] = make_sheet(make_output(tasks), x="seed", out=tmp_path / "s.png")
    sheet = read(file)
    for one in tasks:
        colour = tuple(task_digest(one)[:3])
        inked = int((sheet == colour).all(axis=-1).sum())
        assert inked == (one.width or 0) * (one.height or 0) * (4 if one.width == 32 == one.height
                                                                else 1)  # fmt: skip


def test_every_page_has_the_size_of_its_own_pictures(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    sizes = [(32, 64), (128, 48)]
    tasks = [task(prompt="a", width=w, height=h, seed=seed) for w, h in sizes for seed in (1, 2)]
    output = make_output(tasks)
    pages = [
        read(file) for file in make_sheet(output, page="width", x="seed", out=tmp_path / "s.png")
    ]
    assert len(pages) == 2
    for page, (width, height) in zip(pages, sizes, strict=True):
        first, second = (
            np.nonzero((page == tuple(task_digest(one)[:3])).all(axis=-1))
            for one in tasks
            if one.width == width
        )
        assert int(np.ptp(first[1])) + 1 == width
        assert int(np.ptp(first[0])) + 1 == height
        assert second[1].min() - first[1].max() < 16  # nothing but the gap is between them


def test_several_jobs_share_a_sheet(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output([task(seed=1)], job_name="first")
    make_output([task(seed=2)], job_name="second")
    [file] = make_sheet(output, x="job", out=tmp_path / "s.png")
    sheet = read(file)
    first, second = (place_of(task(seed=seed), sheet) for seed in (1, 2))
    assert first is not None
    assert second is not None
    assert first[0] < second[0]
    assert first[1] == second[1]


@pytest.mark.parametrize("suffix", [".pdf", ".tif"])
def test_all_pages_are_in_one_file(
    suffix: str, assets: Assets, make_output: MakeOutput, tmp_path: Path
) -> None:
    output = make_output(assets.values(), job=JOB)
    files = make_sheet(output, x="sampler", page="subject", out=tmp_path / f"s{suffix}")
    assert files == [str(tmp_path / f"s{suffix}")]
    assert [path.name for path in tmp_path.glob("*s.*")] == [f"s{suffix}"]


def test_large_images_are_shown_from_thumbnails_that_are_kept(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    one = task(prompt="an apple", width=512, height=512)
    output = make_output([one])
    make_sheet(output, tile=100, out=tmp_path / "s.png")
    [kept] = Path(output, "thumbnails").rglob("*.webp")
    assert kept.parts[-3] == "128"
    make_sheet(output, tile=500, out=tmp_path / "s.png")  # hardly reduced: the image itself
    assert [kept] == list(Path(output, "thumbnails").rglob("*.webp"))


def test_a_sheet_of_an_object_store_goes_there(task: MakeTask, make_output: MakeOutput) -> None:
    source = make_output([task(seed=1), task(seed=2)])
    place = f"memory://{secrets.token_hex(6)}/out"
    files = open_files(place)
    for path in Path(source).rglob("*"):
        if path.is_file():
            files.put(path.relative_to(source).as_posix(), path.read_bytes())
    [sheet] = make_sheet(place, x="seed")
    assert sheet == f"{place}/sheets/seed.png"
    with Image.open(io.BytesIO(files.get("sheets/seed.png"))) as image:
        assert image.format == "PNG"


# --- choosing axes ------------------------------------------------------------------------------


def rows(**axes: list[Any]) -> list[dict[str, Any]]:
    names = list(axes)
    return [
        dict(zip(names, combination, strict=True))
        for combination in itertools.product(*axes.values())
    ]


ORDER = ("var_subject", "var_style", "prompt", "guidance_scale", "sampler", "seed")


def with_prompt(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"prompt": f"{row['var_subject']}, painted"} for row in table]


def test_words_go_down_and_settings_across() -> None:
    table = with_prompt(
        rows(var_subject=["sword", "shield"], guidance_scale=[1.0, 4.0], seed=[1, 2])
    )
    axes = choose_axes(table, order=[name for name in ORDER if name in table[0]])
    assert (axes.x, axes.y, axes.page) == ("guidance_scale", "var_subject", None)
    assert axes.inside == ("seed",)


def test_a_prompt_that_follows_from_its_variables_is_no_axis() -> None:
    table = with_prompt(rows(var_subject=["sword", "shield"], seed=[1, 2]))
    axes = choose_axes(table, order=[name for name in ORDER if name in table[0]])
    assert "prompt" not in (axes.x, axes.y, *axes.inside)


def test_seeds_are_an_axis_where_nothing_else_can_be() -> None:
    table = rows(guidance_scale=[1.0, 4.0], seed=[1, 2, 3])
    axes = choose_axes(table, order=("guidance_scale", "seed"))
    assert {axes.x, axes.y} == {"guidance_scale", "seed"}
    assert axes.inside == ()


def test_an_axis_that_is_given_is_kept_and_the_other_found() -> None:
    table = rows(var_subject=["sword", "shield"], guidance_scale=[1.0, 4.0, 7.0], seed=[1, 2])
    axes = choose_axes(table, order=("var_subject", "guidance_scale", "seed"), x="seed")
    assert axes.x == "seed"
    assert axes.y == "var_subject"
    assert axes.inside == ("guidance_scale",)


def test_what_would_crowd_the_cells_gets_pages() -> None:
    table = rows(
        var_subject=["sword", "shield"],
        guidance_scale=[1.0, 2.0, 3.0, 4.0],
        sampler=["euler", "ddim", "heun"],
        seed=list(range(8)),
    )
    axes = choose_axes(table, order=("var_subject", "guidance_scale", "sampler", "seed"))
    assert axes.page == "sampler"
    assert axes.inside == ("seed",)


def test_every_row_has_a_place_of_its_own() -> None:
    table = with_prompt(
        rows(var_subject=["a", "b"], guidance_scale=[1.0, 2.0], sampler=["x", "y"], seed=[1, 2])
    )
    axes = choose_axes(table, order=[name for name in ORDER if name in table[0]])
    names = [name for name in (axes.x, axes.y, axes.page, *axes.inside) if name]
    assert len({tuple(row[name] for name in names) for row in table}) == len(table)


@pytest.mark.parametrize(
    ("value", "label"),
    [(7.0, "7"), (7.5, "7.5"), (0.1, "0.1"), (None, "none"), ("", "(empty)"), (3, "3")],
)
def test_labels_are_short_and_never_empty(value: object, label: str) -> None:
    assert show(value) == label
