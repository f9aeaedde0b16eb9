"""Grouping, halving and blaming, on a painter that has no model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.render.batches import WINDOW, BatchedStream, Refusal
from farm.task import (
    Failed,
    FailureKind,
    Rendered,
    RenderFacts,
    RenderResult,
    TaskSpec,
    task_id,
)

FACTS = RenderFacts(dtype="float32", device="cpu")
BLANK = np.zeros((8, 8, 3), np.uint8)


@dataclass
class Chalk:
    """A painter whose batches, troubles and memory are those a test chooses."""

    memory: int = 10_000
    """Largest batch that fits."""
    first: int = 8
    largest: int | None = None
    trouble: Callable[[TaskSpec], Exception | None] = lambda _: None
    batches: list[tuple[TaskSpec, ...]] = field(default_factory=list)
    """What was drawn successfully."""
    recoveries: int = 0
    facts: RenderFacts = FACTS

    def settings(self, task: TaskSpec) -> Hashable:
        return task.guidance_scale

    def memory_class(self, task: TaskSpec) -> Hashable:
        return task.height

    def first_batch_size(self, task: TaskSpec) -> int:
        del task
        return self.first

    def largest_batch(self, task: TaskSpec) -> int | None:
        del task
        return self.largest

    def draw(self, tasks: Sequence[TaskSpec]) -> Sequence[RenderResult]:
        for task in tasks:
            if error := self.trouble(task):
                raise error
        if len(tasks) > self.memory:
            raise MemoryError("no room")
        self.batches.append(tuple(tasks))
        return [
            Rendered(
                task=task, pixels=BLANK, render_ms=1.0, batch_size=len(tasks),
                denoiser_evaluations=1, facts=FACTS,
            )
            for task in tasks
        ]  # fmt: skip

    def diagnose(self, error: Exception) -> FailureKind:
        if isinstance(error, MemoryError):
            return FailureKind.OUT_OF_MEMORY
        return FailureKind.BAD_TASK if isinstance(error, ValueError) else FailureKind.INTERNAL

    def recover(self) -> None:
        self.recoveries += 1


def tasks_of(n: int, **fields: float) -> list[TaskSpec]:
    return [replace(TaskSpec(seed=seed), **fields) for seed in range(n)]  # type: ignore[arg-type] # fields by name


def render(painter: Chalk, tasks: Sequence[TaskSpec]) -> list[RenderResult]:
    return list(BatchedStream(painter).render(iter(tasks)))


def sizes(painter: Chalk) -> list[int]:
    return [len(batch) for batch in painter.batches]


def test_tasks_with_equal_settings_share_a_batch_although_they_come_mixed() -> None:
    painter = Chalk()
    mixed = [replace(TaskSpec(seed=n), guidance_scale=float(n % 2)) for n in range(12)]
    render(painter, mixed)
    assert sizes(painter) == [6, 6]
    assert all(len({task.guidance_scale for task in batch}) == 1 for batch in painter.batches)


def test_a_batch_that_does_not_fit_is_halved_and_the_size_that_fits_is_remembered() -> None:
    painter = Chalk(memory=3)
    results = render(painter, tasks_of(20))
    assert all(isinstance(result, Rendered) for result in results)
    assert sizes(painter) == [2] * 10
    assert painter.recoveries == 2


def test_memory_is_remembered_for_each_size_of_image_apart() -> None:
    painter = Chalk(memory=4)
    stream = BatchedStream(painter)
    list(stream.render(iter(tasks_of(8, height=512))))
    painter.memory = 8
    list(stream.render(iter(tasks_of(8, height=64))))
    list(stream.render(iter(tasks_of(8, height=512))))
    assert sizes(painter) == [4, 4, 8, 4, 4]


def test_a_task_that_does_not_fit_alone_fails_and_the_run_goes_on() -> None:
    painter = Chalk(memory=0)
    results = render(painter, tasks_of(3))
    assert [result.kind for result in results if isinstance(result, Failed)] == [
        FailureKind.OUT_OF_MEMORY
    ] * 3


def test_one_bad_task_fails_alone() -> None:
    painter = Chalk(trouble=lambda task: RuntimeError("bad luck") if task.seed == 5 else None)
    results = render(painter, tasks_of(8))
    failures = [result for result in results if isinstance(result, Failed)]
    assert [(failure.task.seed, failure.kind) for failure in failures] == [
        (5, FailureKind.INTERNAL)
    ]
    assert failures[0].message == "RuntimeError: bad luck"
    assert failures[0].facts == FACTS
    assert len(results) == 8


def test_a_value_error_is_the_tasks_own_fault() -> None:
    painter = Chalk(trouble=lambda _: ValueError("`height` has to be divisible by 8"))
    [result] = render(painter, tasks_of(1))
    assert isinstance(result, Failed)
    assert result.kind is FailureKind.BAD_TASK
    assert result.message == "`height` has to be divisible by 8"


def test_refused_settings_fail_the_whole_batch_without_trying_each_task() -> None:
    tried: list[TaskSpec] = []

    def refuse(task: TaskSpec) -> Exception:
        tried.append(task)
        return Refusal("no such thing")

    results = render(Chalk(trouble=refuse), tasks_of(8))
    assert [result.message for result in results if isinstance(result, Failed)] == [
        "no such thing"
    ] * 8
    assert len(tried) == 1


def test_settings_that_forbid_batches_are_drawn_one_at_a_time() -> None:
    painter = Chalk(largest=1)
    render(painter, tasks_of(5))
    assert sizes(painter) == [1] * 5


def test_an_endless_stream_is_taken_lazily() -> None:
    taken = 0

    def endless() -> Iterator[TaskSpec]:
        nonlocal taken
        for taken in itertools.count(1):
            yield TaskSpec(seed=taken)

    results = BatchedStream(Chalk()).render(endless())
    assert len(list(itertools.islice(results, 2 * WINDOW))) == 2 * WINDOW
    assert taken <= 3 * WINDOW


def test_ctrl_c_is_never_swallowed() -> None:
    painter = Chalk()

    def interrupt(_: TaskSpec) -> Exception | None:
        raise KeyboardInterrupt

    painter.trouble = interrupt
    with pytest.raises(KeyboardInterrupt):
        render(painter, tasks_of(4))


@given(
    memory=st.integers(0, 12),
    bad=st.frozensets(st.integers(0, 40)),
    guidances=st.lists(st.sampled_from([1.0, 4.0, 7.5]), max_size=40),
)
def test_every_task_has_exactly_one_result_and_only_the_guilty_fail(
    memory: int, bad: frozenset[int], guidances: list[float]
) -> None:
    tasks = [
        replace(TaskSpec(seed=seed), guidance_scale=guidance)
        for seed, guidance in enumerate(guidances)
    ]
    painter = Chalk(
        memory=memory, trouble=lambda task: ValueError("bad") if task.seed in bad else None
    )
    results = render(painter, tasks)
    assert sorted(task_id(result.task) for result in results) == sorted(map(task_id, tasks))
    for result in results:
        guilty = result.task.seed in bad or memory == 0
        assert isinstance(result, Failed) == guilty
