from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import pytest
from PIL import Image

from farm.store import Row, Store
from farm.task import TaskSpec, task_digest, task_id

MakeTask: TypeAlias = Callable[..., TaskSpec]
MakeOutput: TypeAlias = Callable[..., str]

START = datetime(2026, 1, 1, tzinfo=UTC)


def colour_of(task: TaskSpec) -> tuple[int, int, int]:
    """The one colour that the picture of a task has."""
    red, green, blue = task_digest(task)[:3]
    return red, green, blue


def picture(task: TaskSpec) -> bytes:
    sink = io.BytesIO()
    size = (task.width or 32, task.height or 32)
    Image.new("RGB", size, colour_of(task)).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def task() -> MakeTask:
    """Makes a task; keyword arguments that are no field become template variables."""

    def make(*, variables: Mapping[str, str] | None = None, **fields: Any) -> TaskSpec:
        fields = {"width": 32, "height": 32, "num_inference_steps": 20} | fields
        return TaskSpec(**fields, vars=MappingProxyType(dict(variables or {})))

    return make


@pytest.fixture
def make_output(tmp_path: Path) -> MakeOutput:
    """Fills an output with one picture a task, each of one colour, and failures by message."""

    def make(
        tasks: Iterable[TaskSpec],
        *,
        failed: Mapping[TaskSpec, str] | None = None,
        job: str | None = None,
        name: str = "out",
        draw: Callable[[TaskSpec], bytes] = picture,
        facts: Callable[[TaskSpec], Mapping[str, Any]] = lambda _: {},
        job_name: str = "assets",
    ) -> str:
        store = Store.open(tmp_path / name, create=True)
        run = store.begin_run()
        rows = []
        failures = failed or {}
        for number, one in enumerate([*tasks, *failures]):
            known: dict[str, Any] = {
                "task": one,
                "task_id": task_id(one),
                "job": job_name,
                "run": run,
                "attempt": 1,
                "width": one.width,
                "height": one.height,
                "dtype": "float32",
                "started_at": START + timedelta(seconds=number),
                "finished_at": START + timedelta(seconds=number + 1),
                "worker": "worker-0",
                "node": "node",
            }
            if one in failures:
                known |= {"error_kind": "bad_output", "error_message": failures[one]}
                rows.append(Row(status="failed", **known))
                continue
            image = store.put_image(one, draw(one), suffix=".png")
            known |= {"image_path": image.path, "image_sha256": image.sha256}
            known |= {"image_bytes": image.size, "render_ms": 10.0, "denoiser_evaluations": 40}
            known |= facts(one)
            rows.append(Row(status="rendered", **known))
        if rows:
            store.commit(rows, run=run, chunk="c1", attempt=1)
        if job is not None:
            store.write_job(job, name="assets")
        return str(tmp_path / name)

    return make
