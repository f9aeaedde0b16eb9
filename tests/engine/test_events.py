"""One stream, many readers."""

from __future__ import annotations

import json
from pathlib import Path

from farm import engine
from farm.engine import events
from farm.engine.inline import InlineExecutor
from farm.task import FailureKind, TaskId
from tests.engine.scenes import make_job, play


def test_an_event_is_its_name_and_its_facts() -> None:
    event = events.TaskFailed(
        task_id=TaskId("t1:00"), kind=FailureKind.BAD_OUTPUT, message="all black"
    )
    assert event.to_json() == {
        "event": "task-failed",
        "task_id": "t1:00",
        "kind": "bad_output",
        "message": "all black",
    }


def test_the_stream_of_a_run_is_json_lines_and_the_last_holds_the_report(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts=("fine", "refuse"), models=[tmp_path / "model"])
    lines = [json.dumps(event.to_json()) for event in play(job, InlineExecutor())]
    objects = [json.loads(line) for line in lines]
    assert objects[0]["event"] == "run-started"
    assert objects[0]["to_render"] == 2
    assert objects[-1]["event"] == "run-finished"
    report = objects[-1]["report"]
    assert (report["rendered"], report["failures"]) == (1, {"bad_task": 1})
    wanted = {"rendered", "failed", "skipped", "seconds", "images_per_second", "output"}
    assert wanted | {"denoiser_evaluations", "efficiency"} <= report.keys()


def test_a_report_and_its_event_say_the_same(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[tmp_path / "model"])
    *_, last = play(job, InlineExecutor())
    assert isinstance(last, engine.RunFinished)
    assert last.to_json() == {"event": "run-finished", "report": last.report.to_json()}
