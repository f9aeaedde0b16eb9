"""Outputs of every kind, and small finished tasks to put into them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from farm.manifest.job import ImageSettings
from farm.store import Row, Store, encode_image, image_suffix, row_for, with_image
from farm.task import Failed, FailureKind, Rendered, RenderFacts, RenderResult, TaskSpec

MOMENT = datetime(2026, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A local object store that speaks S3; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"farm-{secrets.token_hex(6)}"
    fsspec.filesystem("s3").mkdir(bucket)
    return bucket


@pytest.fixture(params=["folder", "memory", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for an output: a folder, or one of two object stores."""
    match request.param:
        case "folder":
            return str(tmp_path / "out")
        case "memory":
            return f"memory://{secrets.token_hex(6)}/out"
        case _:
            return f"s3://{request.getfixturevalue('s3_bucket')}/out"


@pytest.fixture
def store(output: str) -> Store:
    return Store.open(output, create=True)


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "out", create=True)


class Finish(Protocol):
    """Does to some tasks what a worker does: images, then their rows."""

    def __call__(
        self,
        store: Store,
        tasks: Iterable[TaskSpec | Failed],
        *,
        run: int = 1,
        attempt: int = 1,
        chunk: str = "c1",
        job: str = "quick start",
        settings: ImageSettings = ...,
    ) -> Sequence[Row]: ...


def render(task: TaskSpec) -> Rendered:
    """Return an image of noise that depends on the seed alone."""
    shape = (task.height or 16, task.width or 24, 3)
    return Rendered(
        task=task,
        pixels=np.random.default_rng(task.seed).integers(0, 256, shape, dtype=np.uint8),
        render_ms=12.5,
        batch_size=4,
        denoiser_evaluations=2 * task.num_inference_steps,
        facts=RenderFacts(dtype="float32", device="cpu", torch_version="2.13.0"),
    )


@pytest.fixture
def finish() -> Finish:
    def work(
        store: Store,
        tasks: Iterable[TaskSpec | Failed],
        *,
        run: int = 1,
        attempt: int = 1,
        chunk: str = "c1",
        job: str = "quick start",
        settings: ImageSettings = ImageSettings(),  # noqa: B008 - frozen
    ) -> Sequence[Row]:
        rows = []
        for task in tasks:
            result: RenderResult = render(task) if isinstance(task, TaskSpec) else task
            row = row_for(
                result, job=job, image=None, run=run, attempt=attempt, worker="w1", node="n1",
                started_at=MOMENT, finished_at=MOMENT, encode_ms=1.5,
            )  # fmt: skip
            if isinstance(result, Rendered):
                data = encode_image(result.pixels, settings, row)
                suffix = image_suffix(settings)
                row = with_image(row, store.put_image(result.task, data, suffix=suffix))
            rows.append(row)
        store.commit(rows, run=run, chunk=chunk, attempt=attempt)
        return rows

    return work


@pytest.fixture
def tasks() -> list[TaskSpec]:
    """Six tasks, no two alike."""
    return [
        TaskSpec(prompt=f"a {noun}", seed=seed, guidance_scale=4.0, vars={"noun": noun})
        for noun in ("sword", "shield")
        for seed in (1, 2, 3)
    ]


@pytest.fixture
def failure() -> Failed:
    return Failed(
        task=TaskSpec(prompt="a dragon", seed=9), kind=FailureKind.BAD_TASK, message="too large"
    )
