"""What `farm bench` submits."""

from __future__ import annotations

import pytest

from farm import api
from farm.engine.events import RunReport
from farm.manifest import Job
from farm.task import RenderFacts, TaskSpec

pytest.importorskip("torch")

from farm import render
from farm.render.lane.measure import Pace, Paces
from farm.render.lane.renderer import LaneRenderer


class Still(LaneRenderer):
    """A lane without a model, measured already."""

    def __init__(self) -> None: ...

    facts = RenderFacts(dtype="float32", device="cpu")

    def measure(self, task: TaskSpec, *, seconds: float) -> Paces:  # noqa: ARG002 - as measured
        return Paces(network=Pace(times={1: 1.0}), decoder=Pace(times={1: 1.0}))

    def size_of(self, task: TaskSpec) -> tuple[int, int]:  # noqa: ARG002 - of any task
        return 64, 64

    def close(self) -> None: ...


@pytest.mark.parametrize("images", [32, 256, 1000, 5000])
def test_a_run_is_as_long_as_asked(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    submitted: list[tuple[Job, int]] = []

    def submit(job: Job, *, limit: int, **_: object) -> RunReport:
        submitted.append((job, limit))
        return RunReport(
            rendered=0, failed=0, failed_before=0, skipped=0, unfinished=0, seconds=1.0,
            images_per_second=0.0, denoiser_evaluations=0, efficiency=None, output="nowhere",
        )  # fmt: skip

    monkeypatch.setattr(render, "open_renderer", lambda *_, **__: Still())
    monkeypatch.setattr(api, "submit", submit)
    api.bench("builtin:sprites", images=images)
    [(job, limit)] = submitted
    assert limit == images
    assert len(api.expand(job)) >= images
    assert {task.sampler for task in api.expand(job)} == {"euler_a", "dpmpp_2m", "ddim"}
