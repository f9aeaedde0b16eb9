"""A plan renders every task that is missing, once, model by model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InputError
from farm.grid import Digests, expand, space
from farm.manifest.job import Job
from farm.planner import CHUNK_EVALUATIONS, CHUNK_TASKS, Plan, plan
from farm.samplers import SAMPLERS
from farm.task import PipelineKey, TaskSpec, pipeline_key, task_digest
from tests.grid.matrices import axis, job, jobs, product, union

NOTHING: Digests = np.zeros((0, 16), dtype=np.uint8)


def digests(tasks: Iterable[TaskSpec]) -> Digests:
    joined = b"".join(map(task_digest, tasks))
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, 16)


def planned(
    job: Job, *, rendered: Digests = NOTHING, failed: Digests = NOTHING, **options: Any
) -> Plan:
    return plan(expand(job), job=job, rendered=rendered, failed=failed, **options)


def queue(plan: Plan, *, at_once: int = 7) -> list[TaskSpec]:
    """Return everything in the backlog, taken a few at a time."""
    backlog = plan.backlog()
    taken: list[TaskSpec] = []
    while keys := backlog.keys():
        taken += backlog.take(keys[0], at_once)
    return taken


def unique(tasks: Iterable[TaskSpec]) -> list[TaskSpec]:
    first: dict[bytes, TaskSpec] = {}
    for task in tasks:
        first.setdefault(task_digest(task), task)
    return list(first.values())


@given(jobs(), st.data())
def test_the_backlog_holds_every_missing_task_exactly_once(drawn: Job, data: st.DataObject) -> None:
    tasks = unique(expand(drawn))
    state = st.sampled_from(["new", "rendered", "failed", "both"])
    states = data.draw(st.lists(state, min_size=len(tasks), max_size=len(tasks)))
    force, retry_failed = data.draw(st.booleans()), data.draw(st.booleans())
    limit = data.draw(st.none() | st.integers(0, 20))
    by_state = list(zip(tasks, states, strict=True))
    found = planned(
        drawn,
        rendered=digests(task for task, state in by_state if state in ("rendered", "both")),
        failed=digests(task for task, state in by_state if state in ("failed", "both")),
        force=force,
        retry_failed=retry_failed,
        limit=limit,
    )
    wanted = {"new"} | ({"failed"} if retry_failed else set())
    pending = [task for task, state in by_state if force or state in wanted][:limit]

    assert found.tasks == len(expand(drawn))
    assert found.unique_tasks == len(tasks)
    assert found.done == sum(state in ("rendered", "both") for state in states)
    assert found.failed == states.count("failed")
    assert found.to_render == len(pending)
    assert found.model_loads == len({pipeline_key(task) for task in pending})
    taken = queue(found)
    assert sorted(map(task_digest, taken)) == sorted(map(task_digest, pending))
    for key in {pipeline_key(task) for task in pending}:
        own = [task for task in pending if pipeline_key(task) == key]
        assert [task for task in taken if pipeline_key(task) == key] == own, "in space order"


@given(jobs())
def test_planning_in_small_pieces_is_the_same_plan(drawn: Job) -> None:
    rendered = expand(drawn)[::3].digests(0, len(expand(drawn)))
    whole = planned(drawn, rendered=rendered)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "_BLOCK", 3)
        piecewise = planned(drawn, rendered=rendered)
    assert piecewise == whole
    assert queue(piecewise) == queue(whole)


@given(jobs())
def test_evaluations_and_pixels_are_those_of_the_tasks(drawn: Job) -> None:
    tasks = unique(expand(drawn))
    found = planned(drawn)
    assert found.denoiser_evaluations == sum(map(evaluations, tasks))
    sizes = [(task.height, task.width) for task in tasks]
    if any(None in size for size in sizes):
        assert found.pixels is None
    else:
        assert found.pixels == sum((h or 0) * (w or 0) for h, w in sizes)
    for work in found.pipelines:
        own = [task for task in tasks if pipeline_key(task) == work.key]
        assert work.tasks == len(own)
        assert work.denoiser_evaluations == sum(map(evaluations, own))


def evaluations(task: TaskSpec) -> int:
    if task.backend == "pattern":
        return 0
    steps = SAMPLERS[task.sampler].count_evaluations(task.num_inference_steps)
    return steps * (2 if task.guidance_scale > 1 else 1)


@given(jobs())
def test_submitting_a_finished_job_again_renders_nothing(drawn: Job) -> None:
    tasks = expand(drawn)
    assert planned(drawn, rendered=tasks.digests(0, len(tasks))).to_render == 0


def test_evaluations_count_guidance_twice_and_second_order_steps_twice() -> None:
    def cost(**fields: Any) -> int:
        blocks = [axis(name, value) for name, value in fields.items()]
        return planned(job(product(*blocks))).denoiser_evaluations

    assert cost(num_inference_steps=20, guidance_scale=1.0) == 20
    assert cost(num_inference_steps=20, guidance_scale=1.5) == 40
    assert cost(num_inference_steps=20, guidance_scale=7.0, sampler="heun") == 78
    assert cost(num_inference_steps=20, guidance_scale=7.0, backend="pattern") == 0


def test_a_task_in_several_cells_is_rendered_once_at_its_first_place() -> None:
    found = planned(job(product(axis("seed", 3, 1, 3), axis("var_unused", "x", "y"))))
    assert (found.tasks, found.unique_tasks, found.to_render) == (6, 2, 2)
    assert [(task.seed, task.vars["unused"]) for task in queue(found)] == [(3, "x"), (1, "x")]


def test_twins_far_apart_in_a_large_space_are_found() -> None:
    seeds = range(66_000)
    found = planned(job(union(axis("seed", *seeds), axis("eta", 0.5), axis("seed", *seeds[::-2]))))
    assert (found.tasks, found.unique_tasks) == (99_001, 66_001)
    assert len(found.pipelines[0].places) == 66_001
    assert found.pipelines[0].places.max() == 66_000


def test_models_are_the_outermost_loop_whatever_the_order_of_the_axes() -> None:
    found = planned(job(product(axis("seed", 1, 2, 3), axis("model", "org/a", "org/b"))))
    assert [task.model for task in queue(found)] == ["org/a"] * 3 + ["org/b"] * 3
    assert [task.seed for task in queue(found)] == [1, 2, 3, 1, 2, 3]
    assert found.model_loads == 2


def test_a_limit_counts_tasks_that_would_be_rendered_in_the_order_of_the_matrix() -> None:
    limited = job(product(axis("seed", 1, 2, 3), axis("model", "org/a", "org/b")))
    done = expand(limited)[:3]
    found = planned(limited, rendered=digests(done), limit=2)
    assert [(task.seed, task.model) for task in queue(found)] == [(3, "org/a"), (2, "org/b")]
    assert planned(limited, limit=0).to_render == 0
    assert planned(limited, limit=99).to_render == 6


def test_a_pipeline_with_nothing_left_is_not_loaded() -> None:
    both = job(product(axis("model", "org/a", "org/b"), axis("seed", 1, 2)))
    found = planned(both, rendered=digests(expand(both)[:2]))
    assert [work.key for work in found.pipelines] == [PipelineKey("torch", "org/b", "auto")]


def test_a_backlog_counts_down_and_never_gives_a_task_twice() -> None:
    backlog = planned(job(axis("seed", *range(5)))).backlog()
    [key] = backlog.keys()
    assert (len(backlog), backlog.remaining(key)) == (5, 5)
    assert [task.seed for task in backlog.take(key, 2)] == [0, 1]
    assert backlog.remaining(key) == 3
    assert [task.seed for task in backlog.take(key, 9)] == [2, 3, 4]
    assert (backlog.take(key, 1), backlog.keys(), len(backlog)) == ((), (), 0)


def test_each_backlog_of_a_plan_starts_from_the_beginning() -> None:
    found = planned(job(axis("seed", 1, 2)))
    assert queue(found, at_once=1) == queue(found)


def test_store_digests_that_share_their_first_half_are_told_apart() -> None:
    some = job(axis("seed", *range(4)))
    rows = digests(expand(some)).copy()
    twins = np.repeat(rows[1:2], 5, axis=0)
    twins[:, 15] ^= np.arange(1, 6, dtype=np.uint8)
    assert planned(some, rendered=twins).done == 0
    assert planned(some, rendered=np.concatenate([twins, rows[1:2], twins])).done == 1


def test_digests_of_other_jobs_in_the_store_do_not_count() -> None:
    other = expand(job(product(axis("prompt", "other"), axis("seed", *range(4)))))
    found = planned(job(axis("seed", *range(4))), rendered=digests(other), failed=digests(other))
    assert (found.done, found.failed, found.to_render) == (0, 0, 4)


@pytest.mark.parametrize(
    ("count", "steps", "chunks"),
    [(0, 30, 0), (1, 30, 1), (41, 30, 2), (41, 1, 1)],
)
def test_chunks_are_estimated_from_the_work(count: int, steps: int, chunks: int) -> None:
    assert CHUNK_EVALUATIONS == 2_400
    found = planned(
        job(product(axis("seed", *range(41)), axis("num_inference_steps", steps))), limit=count
    )
    assert found.chunks == chunks


def test_tasks_without_evaluations_fill_chunks_by_number() -> None:
    found = planned(job(product(axis("seed", *range(CHUNK_TASKS + 1)), axis("backend", "pattern"))))
    assert (found.denoiser_evaluations, found.chunks) == (0, 2)


def test_json_says_what_a_submit_would_do() -> None:
    matrix = product(
        axis("var_subject", "sword", "shield"),
        axis("prompt", "a ${subject}"),
        axis("model", "org/a", "org/b"),
        axis("height", 64),
        axis("width", 128),
    )
    found = planned(job(matrix))
    assert json.loads(json.dumps(found.to_json())) == {
        "job": "test",
        "output": "out",
        "tasks": 4,
        "unique_tasks": 4,
        "done": 0,
        "failed": 0,
        "failed_standing": 0,
        "to_render": 4,
        "denoiser_evaluations": 4 * 2 * 30,
        "model_loads": 2,
        "chunks": 2,
        "pixels": 4 * 64 * 128,
        "axes": {"subject": 2, "prompt": 1, "model": 2, "height": 1, "width": 1},
        "pipelines": [
            {
                "backend": "torch",
                "model": model,
                "dtype": "auto",
                "tasks": 2,
                "denoiser_evaluations": 120,
            }
            for model in ("org/a", "org/b")
        ],
    }


def test_a_matrix_too_large_to_plan_is_refused() -> None:
    with pytest.raises(InputError, match="10,000,000,000 tasks"):
        planned(job(product(*(axis("seed", *range(10)) for _ in range(10)))))


def test_widening_an_axis_renders_only_the_new_cells() -> None:
    before = job(product(axis("prompt", "x", "y"), axis("seed", 1, 2)), name="before")
    after = job(product(axis("seed", 1, 2, 3), axis("prompt", "y", "x")), name="after")
    found = planned(after, rendered=digests(expand(before)))
    assert [(task.seed, task.prompt) for task in queue(found)] == [(3, "y"), (3, "x")]
