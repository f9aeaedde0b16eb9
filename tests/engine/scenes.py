"""Small jobs, and what became of them, for tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from farm import engine, grid, planner
from farm.engine import Event, Executor, Policy, RunReport, Stop
from farm.engine.events import RunFinished
from farm.manifest.job import Axis, Job, Product
from farm.store import Store
from farm.task import FIELDS
from tests.engine.fault_renderers import FACTORY

QUICK = Policy(store_delay_s=0.05, store_faults=4)
"""Patience for tests."""
CONTENT = ("task_id", "status", "error_kind", "prompt", "seed", "model", "width", "height")
"""Columns that say what was made and not when, where or how often."""


def make_job(
    output: Path, *, prompts: Sequence[str], models: Sequence[Path], seeds: Sequence[int] = (0,)
) -> Job:
    """Return a job of little pattern pictures: models slowest, seeds fastest."""
    for model in models:
        model.mkdir(exist_ok=True)
    defaults = {name: info.default for name, info in FIELDS.items()}
    defaults |= {"backend": "pattern", "width": 16, "height": 16, "num_inference_steps": 3}
    axes = (
        _axis("model", [str(model) for model in models]),
        _axis("prompt", prompts),
        _axis("seed", seeds),
    )
    return Job(name="scene", output=str(output), defaults=defaults, matrix=Product(blocks=axes))


def _axis(name: str, values: Sequence[str | int]) -> Axis:
    labels = tuple(str(value) for value in values)
    return Axis(name=name, points=tuple({name: value} for value in values), labels=labels)


def plan_of(job: Job, **options: Any) -> planner.Plan:
    """Return what is left of `job`."""
    finished = Store.peek(job.output)
    return planner.plan(
        grid.expand(job), job=job, rendered=finished.rendered, failed=finished.failed, **options
    )


def play(
    job: Job,
    executor: Executor,
    *,
    stop: Stop | None = None,
    factory: str | None = FACTORY,
    policy: Policy = QUICK,
    **options: Any,
) -> Iterator[Event]:
    """Submit `job`; yield its events."""
    store = Store.open(job.output, create=True)
    plan = plan_of(job, **options)
    yield from engine.run(
        plan, job=job, store=store, executor=executor, stop=stop, factory=factory, policy=policy
    )


def finish(events: Iterator[Event]) -> RunReport:
    """Read a run to its end; return its report."""
    *_, last = events
    assert isinstance(last, RunFinished)
    return last.report


def content(job: Job) -> list[dict[str, Any]]:
    """Return what the catalog holds, in an order of its own."""
    table = Store.open(job.output).table(CONTENT)
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(rows, key=lambda row: str(row["task_id"]))


def images(job: Job) -> list[Path]:
    """Return every picture of the output."""
    return sorted((Path(job.output) / "images").rglob("*.png"))
