from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from farm.errors import OutputError
from farm.store import Store
from farm.task import TaskSpec
from farm.view.status import Phase, Status, status, status_line, status_view, watch

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]

JOB = """
name: assets
output: out
defaults: {width: 32, height: 32, num_inference_steps: 20}
matrix:
  prompt: [an apple]
  seed: 1..10
"""


@pytest.fixture
def apples(task: MakeTask) -> list[TaskSpec]:
    """The tasks of `JOB`."""
    return [task(prompt="an apple", seed=seed) for seed in range(1, 11)]


def written(output: str, *, at: float) -> None:
    """Give everything in an output the same age."""
    for path in Path(output).rglob("*"):
        os.utime(path, (at, at))


def text_of(state: Status) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with console.capture() as capture:
        console.print(status_view(state, now=datetime(2026, 1, 1, 1, tzinfo=UTC)))
    return capture.get()


NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp() + 10_000


def test_the_counts_are_those_of_the_job(
    apples: list[TaskSpec], task: MakeTask, make_output: MakeOutput
) -> None:
    stranger = task(prompt="a pear")
    output = make_output([*apples[:6], stranger], failed={apples[6]: "black"}, job=JOB)
    written(output, at=NOW)
    state = status(output, now=lambda: NOW + 3600)
    assert (state.job, state.tasks) == ("assets", 10)
    assert (state.rendered, state.failed, state.to_do, state.other_tasks) == (6, 1, 3, 1)
    assert state.failures == {"bad_output": 1}
    assert state.examples == {"bad_output": "black"}
    assert state.runs == 1
    assert state.phase is Phase.INCOMPLETE


def test_everything_rendered_or_failed_is_complete(
    apples: list[TaskSpec], make_output: MakeOutput
) -> None:
    output = make_output(apples[:9], failed={apples[9]: "black"}, job=JOB)
    assert status(output).phase is Phase.COMPLETE
    assert status(output).to_do == 0


def test_a_lease_and_a_sign_of_life_mean_a_run(
    apples: list[TaskSpec], make_output: MakeOutput
) -> None:
    output = make_output(apples[:4], job=JOB)
    Store.open(output).control.write("leases/r00001-c00002.json", "{}")
    written(output, at=NOW)
    running = status(output, now=lambda: NOW + 30)
    assert running.phase is Phase.RUNNING
    assert running.is_running
    assert running.in_flight == 1
    assert running.images_per_second == pytest.approx(1.0)
    assert running.eta_s == pytest.approx(6.0)


def test_a_lease_without_a_sign_of_life_is_that_of_the_dead(
    apples: list[TaskSpec], make_output: MakeOutput
) -> None:
    output = make_output(apples[:4], job=JOB)
    Store.open(output).control.write("leases/r00001-c00002.json", "{}")
    written(output, at=NOW)
    silent = status(output, now=lambda: NOW + 3600)
    assert silent.phase is Phase.SILENT
    assert not silent.is_running
    assert silent.eta_s is None
    assert "submit the job again" in text_of(silent)


def test_a_run_that_has_only_begun_is_taken_for_one_for_a_while(
    apples: list[TaskSpec], make_output: MakeOutput
) -> None:
    output = make_output(apples[:4], job=JOB)
    written(output, at=NOW)
    Store.open(output).begin_run()
    for path in (Path(output) / "control" / "runs").iterdir():
        os.utime(path, (NOW + 1000, NOW + 1000))
    assert status(output, now=lambda: NOW + 1060).phase is Phase.RUNNING
    assert status(output, now=lambda: NOW + 2000).phase is Phase.INCOMPLETE


def test_without_a_job_the_catalog_speaks_alone(
    apples: list[TaskSpec], make_output: MakeOutput
) -> None:
    for number, job in enumerate((None, "from_the_future: {}")):
        state = status(make_output(apples[:4], job=job, name=f"out-{number}"))
        assert (state.job, state.tasks, state.to_do) == (None, None, None)
        assert (state.rendered, state.other_tasks) == (4, 0)
        assert "unknown job" in text_of(state)


def test_an_output_with_nothing_yet_has_a_state(make_output: MakeOutput) -> None:
    output = make_output([], job=JOB)
    written(output, at=NOW)
    state = status(output, now=lambda: NOW + 3600)
    assert (state.rendered, state.to_do, state.images_per_second) == (0, 10, None)
    assert "0 of 10" in text_of(state)


def test_a_state_is_plain_values_for_a_script(
    apples: list[TaskSpec], make_output: MakeOutput
) -> None:
    told = json.loads(json.dumps(status(make_output(apples[:4], job=JOB)).to_json()))
    assert told["rendered"] == 4
    assert told["tasks"] == 10
    assert datetime.fromisoformat(told["last_activity"]).tzinfo is not None


def test_no_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        status(str(tmp_path / "nothing"))


# --- watching -----------------------------------------------------------------------------------


def test_watching_ends_when_nobody_is_at_work(
    apples: list[TaskSpec], make_output: MakeOutput, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three looks: two while a run goes on, one after the last image."""
    output = make_output(apples[:4], job=JOB)
    Store.open(output).control.write("leases/r00001-c00002.json", "{}")
    written(output, at=NOW)
    looks: list[str] = []
    pauses: list[float] = []

    def look(place: str) -> Status:
        looks.append(place)
        if len(looks) == 3:
            Store.open(output).control.delete("leases/r00001-c00002.json")
        return status(place, now=lambda: NOW + 30)

    watch(output, interval_s=7.0, sleep=pauses.append, look=look)
    assert looks == [output] * 3
    assert pauses == [7.0, 7.0]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["running", "incomplete"]


def test_ctrl_c_ends_watching_quietly(apples: list[TaskSpec], make_output: MakeOutput) -> None:
    output = make_output(apples[:4], job=JOB)
    Store.open(output).control.write("leases/r00001-c00002.json", "{}")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    watch(output, sleep=interrupt)


def test_a_line_holds_what_matters(apples: list[TaskSpec], make_output: MakeOutput) -> None:
    output = make_output(apples[:8], failed={apples[8]: "black"}, job=JOB)
    written(output, at=NOW)
    line = status_line(status(output, now=lambda: NOW + 3600))
    assert line == "incomplete: 8 of 10 rendered, 1 failed"
