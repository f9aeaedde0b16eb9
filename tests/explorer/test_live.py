from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farm import grid, manifest
from farm.explorer.live import KEPT, Showing
from farm.store import Store
from farm.store.votes import Vote, VoteKind
from farm.task import TaskSpec, task_digest, task_id
from tests.explorer.conftest import JOB

MakeOutput = Callable[..., str]


def shapes() -> list[TaskSpec]:
    return list(grid.expand(manifest.load("job.yaml", read=lambda _: JOB)))


def showing(output: str) -> Showing:
    return Showing(Store.open(output), root="files/", served={"rater": "ada"})


def test_a_commit_is_a_new_state_and_nothing_else_is(make_output: MakeOutput) -> None:
    tasks = shapes()
    live = showing(make_output(tasks[:3], job=JOB))
    assert (live.refresh(), live.revision) == (False, 1)
    make_output(tasks[3:5], job=JOB)
    assert (live.refresh(), live.revision) == (True, 2)
    told = live.changes(1)
    assert told["rows"] == [3, 4]
    assert told["meta"]["revision"] == 2
    levels = {column["name"]: column["levels"] for column in told["meta"]["columns"]}
    status = told["values"]["status"]
    assert levels["status"][status] == "rendered"
    assert live.changes(2)["rows"] == []


def test_a_vote_changes_its_row(make_output: MakeOutput) -> None:
    tasks = shapes()
    live = showing(make_output(tasks))
    store = live.exhibit
    Store.open(store.url).vote(
        [Vote(kind=VoteKind.STARS, task_id=task_id(tasks[7]), value=5, rater="ada")]
    )
    assert live.refresh()
    told = live.changes(1)
    assert told["rows"] == [live.exhibit.ids.index(task_digest(tasks[7]).hex()[:12])]
    assert live.task_of(live.exhibit.ids[told["rows"][0]]) == task_id(tasks[7])
    assert live.task_of("nowhere") is None


def test_who_is_too_far_behind_loads_anew(make_output: MakeOutput) -> None:
    tasks = shapes()
    live = showing(make_output(tasks[:1], job=JOB))
    for number in range(1, KEPT + 1):
        make_output(tasks[number : number + 1], job=JOB)
        assert live.refresh()
    assert live.changes(1) == {"reload": True}
    assert live.changes(2)["rows"] == list(range(2, KEPT + 1))
    assert live.changes(99) == {"reload": True}


def test_compaction_is_no_change_to_look_at(make_output: MakeOutput) -> None:
    tasks = shapes()
    output = make_output(tasks[:2], job=JOB)
    make_output(tasks[2:4], job=JOB)
    live = showing(output)
    Store.open(output).compact()
    live.refresh()
    told: dict[str, Any] = live.changes(1)
    assert told["rows"] == []
