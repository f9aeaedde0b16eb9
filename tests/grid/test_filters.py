"""`where`, `exclude` and `sample` choose tasks; they change neither their order nor their ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InputError
from farm.grid import TaskSpace, expand, space
from farm.manifest.expression import Expression, parse_expression
from farm.manifest.job import Job, Sample
from farm.task import FIELDS, Scalar, TaskSpec, task_id
from tests.grid.matrices import axis, job, jobs, product, samples

CLAIMS = (
    "seed > 1",
    "guidance_scale <= 1 and sampler == 'default'",
    "var_a == 'sword'",
    "prompt == 'plain' or negative_prompt == 'not icon'",
    "num_inference_steps in [4] and not backend == 'pattern'",
    "model == 'org/shield'",
)
expressions = st.lists(st.sampled_from(CLAIMS).map(parse_expression), max_size=2).map(tuple)


def values(task: TaskSpec) -> Mapping[str, Scalar]:
    fields: dict[str, Scalar] = {name: getattr(task, name) for name in FIELDS}
    return fields | {f"var_{name}": value for name, value in task.vars.items()}


@given(jobs(), expressions, expressions)
def test_filters_keep_what_each_task_says_by_itself(
    drawn: Job, where: tuple[Expression, ...], exclude: tuple[Expression, ...]
) -> None:
    found = expand(dataclasses.replace(drawn, where=where, exclude=exclude))
    expected = [
        task
        for task in expand(drawn)
        if all(claim.holds(values(task)) for claim in where)
        and not any(claim.holds(values(task)) for claim in exclude)
    ]
    assert list(found) == expected
    assert [found[index] for index in range(len(found))] == expected
    assert set(found.levels("seed")) == {task.seed for task in expected}
    digests = [row.tobytes() for row in found.digests(0, len(found))]
    assert [f"t1:{digest.hex()}" for digest in digests] == [task_id(task) for task in expected]


def test_a_filter_may_leave_nothing() -> None:
    found = expand(job(axis("seed", 1, 2), where=(parse_expression("seed > 2"),)))
    assert list(found) == []
    assert found.levels("seed") == ()
    assert found.digests(0, 0).shape == (0, 16)


@given(jobs(), expressions, samples)
def test_a_sample_is_some_tasks_in_their_order(
    drawn: Job, where: tuple[Expression, ...], sample: Sample
) -> None:
    filtered = dataclasses.replace(drawn, where=where)
    everything = list(expand(filtered))
    drawn_tasks = iter(everything)
    sampled = list(expand(dataclasses.replace(filtered, sample=sample)))
    assert len(sampled) == min(sample.n, len(everything))
    assert all(task in drawn_tasks for task in sampled), "a subsequence of the whole"


NUMBERS = product(axis("prompt", *"abcdefghij"), axis("seed", *range(10)))


def ids(space: TaskSpace) -> set[str]:
    return {task_id(task) for task in space}


def test_a_larger_sample_contains_the_smaller_one() -> None:
    few = expand(job(NUMBERS, sample=Sample(n=10, seed=7)))
    more = expand(job(NUMBERS, sample=Sample(n=30, seed=7)))
    assert ids(few) < ids(more)


def test_another_seed_is_another_sample() -> None:
    one = expand(job(NUMBERS, sample=Sample(n=10, seed=7)))
    other = expand(job(NUMBERS, sample=Sample(n=10, seed=8)))
    assert ids(one) != ids(other)


def test_a_sample_does_not_depend_on_the_order_of_the_axes() -> None:
    turned = product(*reversed(NUMBERS.blocks))
    sample = Sample(n=25, seed=1)
    assert ids(expand(job(NUMBERS, sample=sample))) == ids(expand(job(turned, sample=sample)))


def test_a_wider_matrix_loses_of_its_sample_only_what_new_tasks_displace() -> None:
    wider = product(axis("prompt", *"abcdefghijk"), axis("seed", *range(10)))
    sample = Sample(n=25, seed=1)
    before, after = ids(expand(job(NUMBERS, sample=sample))), ids(expand(job(wider, sample=sample)))
    assert not (after - before) & ids(expand(job(NUMBERS)))


def test_a_known_sample_never_changes() -> None:
    matrix = product(axis("backend", "diffusers"), NUMBERS)
    found = expand(job(matrix, sample=Sample(n=6, seed=2026)))
    assert [(task.prompt, task.seed) for task in found] == [
        ("g", 3),
        ("g", 6),
        ("h", 1),
        ("h", 5),
        ("j", 2),
        ("j", 8),
    ]


@given(jobs(), samples)
def test_sampling_in_small_pieces_draws_the_same_tasks(drawn: Job, sample: Sample) -> None:
    sampled = dataclasses.replace(drawn, sample=sample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "_BLOCK", 3)
        piecewise = list(expand(sampled))
    assert piecewise == list(expand(sampled))


def test_filters_on_an_endless_matrix_are_refused() -> None:
    matrix = product(*(axis("seed", *range(10)) for _ in range(10)))
    with pytest.raises(InputError, match="10,000,000,000 cells"):
        expand(job(matrix, sample=Sample(n=5, seed=0)))
