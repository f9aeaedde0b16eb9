from __future__ import annotations

import dataclasses
import io
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from farm import grid, manifest, planner
from farm.engine.events import RunReport, WorkerSummary
from farm.manifest import Job
from farm.planner import Plan
from farm.samplers import SAMPLERS, SIGMA_SCHEDULES
from farm.store import Store
from farm.task import FailureKind, TaskSpec
from farm.view.listings import (
    findings_view,
    models_json,
    models_view,
    print_samplers,
    samplers_json,
    samplers_view,
)
from farm.view.summary import (
    Estimate,
    estimate,
    example_messages,
    place,
    plan_view,
    print_plan,
    print_report,
    report_view,
)
from farm.view.words import data_size

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]

JOB = """
name: assets
output: {output}
defaults: {{width: 32, height: 32, num_inference_steps: 20, guidance_scale: 1.0}}
matrix:
  subject: [sword, axe]
  prompt: "a ${{subject}}"
  seed: 1..4
"""


def text_of(view: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(view, crop=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def load(output: str) -> Job:
    text = JOB.format(output=output)
    return manifest.load("assets.yaml", read=lambda _: text)


def plan_of(output: str) -> Plan:
    finished = Store.peek(output)
    job = load(output)
    return planner.plan(
        grid.expand(job), job=job, rendered=finished.rendered, failed=finished.failed
    )


@pytest.fixture
def halfway(task: MakeTask, make_output: MakeOutput) -> str:
    """An output with half of the job rendered and one task failed."""
    common = {"guidance_scale": 1.0, "variables": {"subject": "sword"}, "prompt": "a sword"}
    broken = task(**common | {"prompt": "a axe", "seed": 1})
    return make_output(
        [task(**common, seed=seed) for seed in (1, 2, 3, 4)],
        failed={broken: "the picture is black"},
    )


# --- plan ---------------------------------------------------------------------------------------


def test_a_plan_shows_axes_counts_and_pipelines(halfway: str) -> None:
    plan = plan_of(halfway)
    text = text_of(plan_view(plan, job=load(halfway), expected=estimate(plan)))
    for words in ("assets into", "subject", "sword, axe", "1, 2, 3, 4", "builtin:sprites"):
        assert words in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["tasks"][1] == "8"
    assert lines["rendered"][1] == "4"
    assert "--retry-failed" in lines["failed"]
    assert lines["to"][2] == "3"


def test_estimates_come_from_what_the_output_has_measured(halfway: str) -> None:
    """Four images of 20 evaluations took 10 ms and 40 evaluations each, as their rows say."""
    plan = plan_of(halfway)
    expected = estimate(plan)
    assert plan.denoiser_evaluations == 3 * 20
    assert expected.device_seconds == pytest.approx(60 * 10 / 40 / 1000)
    sizes = Store.open(halfway).table(("image_bytes",))["image_bytes"].to_pylist()
    measured = [size for size in sizes if size]
    assert expected.image_bytes == pytest.approx(3 * sum(measured) / 4, abs=1)
    assert json.dumps(expected.to_json())


def test_what_another_backend_took_says_nothing_about_this_one(
    task: MakeTask, make_output: MakeOutput
) -> None:
    plan = plan_of(make_output([task(prompt="a sword", seed=1, backend="pattern")]))
    assert estimate(plan) == Estimate(device_seconds=None, image_bytes=None)


def test_nothing_is_estimated_from_nothing(tmp_path: Path) -> None:
    plan = plan_of(str(tmp_path / "new"))
    expected = estimate(plan)
    assert expected == Estimate(device_seconds=None, image_bytes=None)
    text = text_of(plan_view(plan, job=load(str(tmp_path / "new")), expected=expected))
    assert "unknown until this output has images" in text
    assert "at most" in text


@pytest.mark.parametrize(
    ("named", "words"),
    [("cpu", "here on ONNX Runtime"), ("cdua", "here on nothing: there is no ONNX Runtime prov")],
)
def test_a_plan_says_what_runs_onnx(
    named: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("FARM_ONNX_PROVIDER", named)
    text = JOB.format(output=tmp_path / "new") + "backend: onnx\n"
    job = manifest.load("assets.yaml", read=lambda _: text)
    finished = Store.peek(job.output)
    plan = planner.plan(
        grid.expand(job), job=job, rendered=finished.rendered, failed=finished.failed
    )
    shown = text_of(plan_view(plan, job=job, expected=estimate(plan)))
    assert words in shown


def test_a_plan_without_onnx_says_nothing_of_it(tmp_path: Path) -> None:
    plan = plan_of(str(tmp_path / "new"))
    assert estimate(plan).onnx_provider is None


def test_a_finished_plan_promises_nothing(task: MakeTask, make_output: MakeOutput) -> None:
    tasks = [
        task(prompt=f"a {s}", seed=seed, guidance_scale=1.0, variables={"subject": s})
        for s in ("sword", "axe")
        for seed in (1, 2, 3, 4)
    ]
    plan = plan_of(make_output(tasks))
    text = text_of(plan_view(plan, job=load(plan.output), expected=estimate(plan)))
    assert "to render" in text
    assert "model load" not in text


def test_a_printed_plan_has_no_trailing_spaces(
    halfway: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(plan_of(halfway), job=load(halfway))
    printed = capsys.readouterr().out
    assert printed.startswith("assets into")
    assert all(line == line.rstrip() for line in printed.splitlines())


# --- report -------------------------------------------------------------------------------------


def report(**facts: object) -> RunReport:
    plain = RunReport(
        rendered=10,
        failed=0,
        failed_before=0,
        skipped=0,
        unfinished=0,
        seconds=65.0,
        images_per_second=0.15,
        denoiser_evaluations=400,
        efficiency=None,
        output="/srv/out/assets",
    )
    return dataclasses.replace(plain, **facts)  # type: ignore[arg-type]  # facts by name


def told(messages: Mapping[str, str] | None = None, **facts: object) -> str:
    return text_of(
        report_view(report(**facts), submitted=("jobs/a b.yaml",), messages=messages or {})
    )


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if line.startswith("  farm ")]


def test_a_good_run_names_its_output_and_what_to_look_at() -> None:
    text = told()
    assert "10 rendered" in text
    assert "/srv/out/assets" in text
    assert "1:05, 9 images/min" in text
    assert [command[1] for command in commands(text)] == ["sheet", "query"]
    assert "efficiency" not in text


def test_efficiency_is_told_where_it_was_measured() -> None:
    assert "93% of what the hardware can do" in told(efficiency=0.931)


def test_failures_are_told_by_kind_with_an_example_and_a_way_on() -> None:
    text = told(
        {"bad_output": "the picture is black"},
        failed=3,
        failures={FailureKind.BAD_OUTPUT: 2, FailureKind.OUT_OF_MEMORY: 1},
    )
    rows = [line.split() for line in text.splitlines() if "bad_output" in line]
    assert rows[0][:2] == ["2", "bad_output"]
    assert "the picture is black" in text
    assert ["farm", "submit", "jobs/a b.yaml", "--retry-failed"] in commands(text)


def test_every_command_it_offers_can_be_typed_as_it_stands() -> None:
    text = told(failed=1, failures={FailureKind.BAD_TASK: 1}, output="/srv/with space/out")
    for command in commands(text):
        assert command[0] == "farm"
        assert "/srv/with space/out" in command or "jobs/a b.yaml" in command


def test_commands_are_not_cut_on_a_narrow_terminal() -> None:
    wide = told(failed=1, failures={FailureKind.BAD_TASK: 1})
    narrow = text_of(
        report_view(
            report(failed=1, failures={FailureKind.BAD_TASK: 1}),
            submitted=("jobs/a b.yaml",),
            messages={},
        ),
        width=40,
    )
    assert commands(narrow) == commands(wide)


def test_an_interrupted_run_says_how_to_go_on() -> None:
    text = told(interrupted=True, unfinished=90)
    assert "interrupted: 10 rendered, 90 left to do" in text
    assert commands(text)[0] == ["farm", "submit", "jobs/a b.yaml"]


def test_a_run_with_nothing_to_do_says_so() -> None:
    text = told(rendered=0, skipped=8, denoiser_evaluations=0, images_per_second=0.0)
    assert "nothing to render, 8 skipped" in text


def test_the_example_of_a_kind_is_its_commonest_message(
    task: MakeTask, make_output: MakeOutput
) -> None:
    failed = {task(seed=n): "often" if n else "once" for n in range(4)}
    assert example_messages(Store.open(make_output([], failed=failed))) == {"bad_output": "often"}


def test_examples_are_of_the_run_that_is_reported(
    task: MakeTask, make_output: MakeOutput, capsys: pytest.CaptureFixture[str]
) -> None:
    make_output([], failed={task(seed=n): "the one before" for n in range(3)})
    output = make_output([], failed={task(seed=9): "the one of now"})
    failures = {FailureKind.BAD_OUTPUT: 1}
    print_report(report(output=output, run=2, failed=1, failures=failures), submitted=("job.yaml",))
    printed = capsys.readouterr().out
    assert "the one of now" in printed
    assert "the one before" not in printed


def test_the_lines_of_a_message_stay_apart() -> None:
    text = told(
        {"load_failed": "model.onnx is missing\n  next: copy the folder\x1b[2J again"},
        failed=1,
        failures={FailureKind.LOAD_FAILED: 1},
    )
    assert "model.onnx is missing; next: copy the folder [2J again" in " ".join(text.split())


def test_a_printed_report_finds_its_examples_itself(
    halfway: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = {FailureKind.BAD_OUTPUT: 1}
    print_report(report(output=halfway, failed=1, failures=failures), submitted=("job.yaml",))
    assert "the picture is black" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (48_200, "48.2 kB"), (1.25e9, "1.25 GB"), (3e12, "3 TB")],
)
def test_sizes_have_a_unit_that_suits_them(size: float, text: str) -> None:
    assert data_size(size) == text


def test_places_are_as_one_types_them_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place(str(tmp_path / "out" / "assets")) == "out/assets"
    assert place("s3://bucket/out") == "s3://bucket/out"
    assert place("/a b") == "'/a b'"


# --- listings -----------------------------------------------------------------------------------


def test_every_sampler_and_schedule_is_listed() -> None:
    text = text_of(samplers_view(), width=160)
    for name in (*SAMPLERS, *SIGMA_SCHEDULES):
        assert name in text
    assert "not offered" in text


def test_samplers_as_json_are_complete() -> None:
    listed = json.loads(json.dumps(samplers_json()))
    assert [entry["name"] for entry in listed["samplers"]] == list(SAMPLERS)
    assert [entry["name"] for entry in listed["sigma_schedules"]] == list(SIGMA_SCHEDULES)
    assert all(entry["scheduler"] or entry["refusal"] for entry in listed["samplers"][1:])


def test_a_listing_for_a_pipe_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_samplers()
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert all(line == line.rstrip() for line in printed.splitlines())


def test_models_have_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from farm.render.models import ModelInfo

    model = ModelInfo(
        reference="models/dream", kind="folder", path=tmp_path, size=2_000_000, licence="mit"
    )
    text = text_of(models_view([model]), width=160)
    assert "models/dream" in text
    assert "2 MB" in text
    monkeypatch.chdir(tmp_path)
    assert isinstance(json.loads(json.dumps(models_json())), list)


def test_findings_have_a_line_each_and_a_sum() -> None:
    from farm.doctor import Finding

    findings = [
        Finding(level="ok", topic="python", message="Python 3.12"),
        Finding(level="fail", topic="disk", message="full", next_step="make room"),
    ]
    text = text_of(findings_view(findings))
    assert "FAIL  disk" in text
    assert "next: make room" in text
    assert text.endswith("1 failing, 1 ok")


def test_shared_work_and_where_the_time_went_are_told() -> None:
    shares = {"network": 0.7, "fill": 0.001, "decoder": 0.1, "waiting": 0.199}
    text = told(efficiency=0.8, shared_evaluations=1200, time_shares=shares)
    assert "1,200 that another image had made already" in text
    assert "network 70%, waiting 20%, decoder 10%" in text
    assert "fill" not in text


def test_several_workers_are_told_apart() -> None:
    one = WorkerSummary(
        worker="ray-1", node="alpha", device="cuda:0", rendered=1, seconds=9.0, efficiency=0.5
    )
    two = dataclasses.replace(one, worker="ray-2", rendered=9, efficiency=None)
    assert "ray-1" not in told(workers=(one,))
    text = told(workers=(one, two))
    assert "1 image, efficiency 50% (cuda:0 of alpha)" in text
    assert "9 images (cuda:0 of alpha)" in text


def test_the_next_submit_is_of_the_job_that_ran() -> None:
    """What `--set` changed belongs to it: without that, other tasks would be rendered."""
    submitted = ("job.yaml", "--set", "seed=10..16")
    stopped = report(interrupted=True, unfinished=3)
    text = text_of(report_view(stopped, submitted=submitted, messages={}))
    assert "farm submit job.yaml --set seed=10..16\n" in text
