"""What the page is told, before any browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from farm import grid, manifest
from farm.explorer import chunks
from farm.explorer.exhibit import Exhibit, read_exhibit
from farm.store import Store
from farm.task import TaskSpec, task_digest
from tests.explorer.conftest import JOB

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]


def shapes() -> list[TaskSpec]:
    return list(grid.expand(manifest.load("job.yaml", read=lambda _: JOB)))


def exhibit_of(output: str, after: Exhibit | None = None) -> Exhibit:
    return read_exhibit(Store.open(output), after=after)


def values(exhibit: Exhibit, name: str) -> list[Any]:
    """The values of a column as the page will see them."""
    column = next(column for column in exhibit.columns if column.name == name)
    if column.kind == "level":
        return [None if code < 0 else column.levels[code] for code in column.values.tolist()]
    return list(column.values)


def test_rows_stand_in_the_order_of_the_job_whatever_was_rendered_first(
    make_output: MakeOutput,
) -> None:
    tasks = shapes()
    exhibit = exhibit_of(make_output(reversed(tasks[3:]), job=JOB))
    assert exhibit.ids == tuple(task_digest(task).hex()[:12] for task in tasks)
    assert values(exhibit, "status") == ["missing"] * 3 + ["rendered"] * 21
    assert values(exhibit, "place") == list(range(24))


def test_levels_stand_in_the_order_of_the_axis_and_others_behind(
    task: MakeTask, make_output: MakeOutput
) -> None:
    stranger = task(prompt="a pear", guidance_scale=2.0, variables={"subject": "pear"})
    exhibit = exhibit_of(make_output([stranger, *shapes()], job=JOB))
    levels = {column.name: column.levels for column in exhibit.columns}
    assert levels["guidance_scale"] == (4.0, 1.0, 7.5, 2.0)
    assert levels["var_subject"] == ("sword", "apple", "pear")
    assert values(exhibit, "var_subject")[-1] == "pear"
    assert np.isnan(values(exhibit, "place")[-1])


def test_levels_that_only_an_earlier_job_knows_stand_beside_their_neighbours(
    task: MakeTask, make_output: MakeOutput
) -> None:
    make_output(shapes(), job=JOB)
    plum = task(prompt="a plum", guidance_scale=2.0, variables={"subject": "plum"})
    narrow = JOB.replace("[4.0, 1.0, 7.5]", "[2.0, 1.0]").replace("[sword, apple]", "[plum]")
    assert narrow.count("plum") == 1
    assert "[2.0, 1.0]" in narrow
    exhibit = exhibit_of(make_output([plum], job=narrow))
    levels = {column.name: column.levels for column in exhibit.columns}
    assert levels["guidance_scale"] == (2.0, 4.0, 1.0, 7.5)
    assert levels["var_subject"] == ("plum", "sword", "apple")


def test_axes_are_the_columns_that_tell_rows_apart(make_output: MakeOutput) -> None:
    exhibit = exhibit_of(make_output(shapes(), job=JOB))
    assert exhibit.axes == ("var_subject", "guidance_scale", "sampler", "seed")
    assert (exhibit.x, exhibit.y) == ("guidance_scale", "var_subject")


def test_an_output_of_one_image_has_no_axes(task: MakeTask, make_output: MakeOutput) -> None:
    exhibit = exhibit_of(make_output([task(prompt="alone")]))
    assert (exhibit.axes, exhibit.x, exhibit.y) == ((), None, None)


def test_two_jobs_in_one_output_are_an_axis_of_their_own(make_output: MakeOutput) -> None:
    tasks = shapes()
    output = make_output(tasks[:4], job=JOB)
    make_output(tasks[4:6], job=JOB)  # the same output: all of it belongs to one job
    exhibit = exhibit_of(output)
    assert "job" not in exhibit.axes
    assert exhibit.count("rendered") == 6


def test_seeds_are_exact_however_large(task: MakeTask, make_output: MakeOutput) -> None:
    seeds = [2**63 - 1, 2**53 + 1, 7]
    exhibit = exhibit_of(make_output([task(prompt="a", seed=seed) for seed in seeds]))
    [column] = [column for column in exhibit.columns if column.name == "seed"]
    assert column.levels == (7, str(2**53 + 1), str(2**63 - 1))


def test_more_lacking_cells_than_a_page_holds_are_only_counted(make_output: MakeOutput) -> None:
    job = JOB.replace("seed: 1..2", "seed: 1..2000")
    exhibit = exhibit_of(make_output(shapes()[:2], job=job))
    assert (len(exhibit), exhibit.unseen) == (2, 23_998)


def test_an_exhibit_that_follows_another_keeps_every_row_in_its_place(
    make_output: MakeOutput,
) -> None:
    tasks = shapes()
    output = make_output(tasks[5:9])
    before = exhibit_of(output)
    make_output(tasks[:2])
    now = exhibit_of(output, after=before)
    assert now.ids[:4] == before.ids
    assert now.changed_since(before) == [4, 5]
    assert now.changed_since(now) == []


def test_the_title_names_every_job_as_sheets_do(make_output: MakeOutput) -> None:
    tasks = shapes()
    assert exhibit_of(make_output(tasks[:2], job_name="first")).title == "first"
    make_output(tasks[2:4], job_name="second")
    assert exhibit_of(make_output(tasks[2:4], job_name="second")).title == "first + second"
    assert exhibit_of(make_output([], job=JOB)).title == "first + second + shapes"
    make_output(tasks[4:5], job_name="fourth")
    assert exhibit_of(make_output([])).title == "out"


def test_a_page_names_no_folder_of_the_machine_it_was_made_on(
    make_output: MakeOutput, tmp_path: Path
) -> None:
    exhibit = exhibit_of(make_output(shapes()[:3], job=JOB))
    for name, data in chunks.scripts(exhibit, root="../"):
        assert str(tmp_path).encode() not in data, name
    assert chunks.meta(exhibit, root="../")["output"] == "out"


def test_a_cell_that_was_missing_changes_when_it_is_there(make_output: MakeOutput) -> None:
    tasks = shapes()
    output = make_output(tasks[:20], job=JOB)
    before = exhibit_of(output)
    make_output(tasks[20:22], job=JOB)
    now = exhibit_of(output, after=before)
    assert now.changed_since(before) == [20, 21]


def test_a_column_that_comes_or_goes_asks_for_a_fresh_page(
    task: MakeTask, make_output: MakeOutput
) -> None:
    output = make_output([task(prompt="a")])
    before = exhibit_of(output)
    make_output([task(prompt="b", clip_skip=1)])
    assert exhibit_of(output, after=before).changed_since(before) is None


def told(script: bytes, call: str) -> list[Any]:
    """The arguments of the one call that a data script makes."""
    text = script.decode("ascii")
    assert text.startswith(f"farmData.{call}(")
    assert text.endswith(");\n")
    found = json.loads(f"[{text[len(call) + 10 : -3]}]")
    return [json.loads(one) if isinstance(one, str) else one for one in found]


def test_scripts_hold_every_row_once(make_output: MakeOutput, monkeypatch: Any) -> None:
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 10)
    monkeypatch.setattr(chunks, "ROWS_PER_DETAIL", 7)
    tasks = shapes()
    exhibit = exhibit_of(make_output(tasks[:-1], failed={tasks[-1]: "black"}))
    files = dict(chunks.scripts(exhibit, root="../"))
    assert list(files)[-1] == "meta.js"
    rows = [told(files[f"rows-{number}.js"], "rows") for number in range(3)]
    assert [(revision, number) for revision, number, _ in rows] == [(0, 0), (0, 1), (0, 2)]
    assert [one for _, _, part in rows for one in part["id"]] == list(exhibit.ids)
    seeds = [code for _, _, part in rows for code in part["seed"]]
    assert [(1, 2)[code] for code in seeds] == values(exhibit, "seed")
    details = [
        one for number in range(4) for one in told(files[f"details-{number}.js"], "details")[2]
    ]
    assert len(details) == 24
    assert [one["parameters"] is None for one in details] == [False] * 23 + [True]
    assert details[0]["parameters"].startswith("a sword\nSteps: 20")


def test_a_size_that_no_task_of_that_id_has_is_not_taken_for_one_that_was_asked(
    task: MakeTask, make_output: MakeOutput
) -> None:
    asked = task(prompt="a", width=64, height=None)
    output = make_output([asked], facts=lambda _: {"width": 40, "height": 32})
    assert chunks.details(exhibit_of(output), 0)[0]["asked"] is None
    other = make_output([asked], facts=lambda _: {"width": 64, "height": 32}, name="other")
    assert chunks.details(exhibit_of(other), 0)[0]["asked"] == {
        "dtype": "auto", "height": None, "width": 64, "seed": "0"
    }  # fmt: skip


def test_numbers_have_no_more_digits_than_were_stored(
    task: MakeTask, make_output: MakeOutput
) -> None:
    tasks = [task(prompt="a", seed=seed) for seed in range(3)]
    exhibit = exhibit_of(
        make_output(tasks, facts=lambda one: {"brightness": 0.3, "sharpness": one.seed + 0.7})
    )
    told = chunks.rows(exhibit, range(3))
    assert told["brightness"] == [0.3, 0.3, 0.3]
    assert told["sharpness"] == [0.7, 1.7, 2.7]


def test_what_was_measured_can_be_divided_and_settings_cannot(
    task: MakeTask, make_output: MakeOutput
) -> None:
    tasks = [task(prompt="a", seed=seed) for seed in range(40)]
    exhibit = exhibit_of(make_output(tasks, facts=lambda one: {"brightness": one.seed / 40}))
    ranges = {
        column["name"]: column["ranges"] for column in chunks.meta(exhibit, root="../")["columns"]
    }
    assert ranges["brightness"]["labels"][:2] == ["0 to 0.2", "0.2 to 0.4"]
    assert ranges["brightness"]["edges"] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ranges["seed"] is None
    assert ranges["place"] is None


def test_constant_codes_are_said_once_and_nothing_is_null() -> None:
    assert chunks.compact(np.array([3, 3, 3], np.int32)) == 3
    assert chunks.compact(np.array([3, 4], np.int32)) == [3, 4]
    assert chunks.compact(np.array([np.nan, 0.5, 2.0])) == [None, 0.5, 2]


def test_the_page_names_no_other_host() -> None:
    folder = Path(chunks.__file__).parent / "page"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "http:" not in text, path.name
        assert "https:" not in text, path.name
        assert "innerHTML" not in text, path.name
        assert "insertAdjacentHTML" not in text, path.name
