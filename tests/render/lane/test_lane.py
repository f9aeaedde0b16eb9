"""A lane draws each row as if it were alone, whatever it is mixed with and whatever goes wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.render.lane.networks import Pictures
from farm.render.lane.renderer import LaneRenderer
from farm.render.lane.rows import Program, Registers
from farm.render.lane.sizes import BatchSize, Experience, Sizes
from farm.task import Failed, FailureKind, Rendered, RenderResult, TaskSpec
from tests.render.lane.fakes import SCHEDULER, SineNetworks, expected_latents

TASKS = st.builds(
    TaskSpec,
    prompt=st.sampled_from(["a", "b", "c"]),
    negative_prompt=st.sampled_from(["", "x"]),
    seed=st.integers(0, 2),
    guidance_scale=st.sampled_from([0.0, 1.0, 3.5, 8.0]),
    guidance_rescale=st.sampled_from([None, 0.0, 0.6]),
    sampler=st.sampled_from(["ddim", "euler", "euler_a", "dpmpp_2m", "heun", "unipc"]),
    num_inference_steps=st.integers(1, 6),
    height=st.sampled_from([8, 12]),
)


def finished(
    networks: SineNetworks, tasks: Sequence[TaskSpec], *, is_sharing: bool = True
) -> tuple[dict[TaskSpec, torch.Tensor], dict[TaskSpec, Failed], LaneRenderer]:
    """Render `tasks` in one stream; return latents and failures by task."""
    renderer = LaneRenderer(networks, is_sharing=is_sharing)
    results = list(renderer.render(iter(tasks)))
    assert sorted(map(repr, tasks)) == sorted(repr(result.task) for result in results)
    decoded = [result.task for result in results if not is_undecoded(result)]
    latents = dict(zip(decoded, networks.latents, strict=True))
    failures = {result.task: result for result in results if isinstance(result, Failed)}
    return latents, failures, renderer


def is_undecoded(result: RenderResult) -> bool:
    return isinstance(result, Failed) and result.kind is not FailureKind.BAD_OUTPUT


def assert_as_expected(latents: dict[TaskSpec, torch.Tensor]) -> None:
    for task, found in latents.items():
        expected = expected_latents(task)
        error = np.abs(found.numpy() - expected).max() / max(1.0, np.abs(expected).max())
        assert error < 1e-3, task


@settings(max_examples=20)
@given(
    tasks=st.lists(TASKS, min_size=1, max_size=20, unique_by=repr),
    is_sharing=st.booleans(),
    rows_that_fit=st.sampled_from([1, 3, 1000]),
)
def test_a_row_is_the_same_whatever_it_is_drawn_with(
    tasks: list[TaskSpec], *, is_sharing: bool, rows_that_fit: int
) -> None:
    networks = SineNetworks(rows_that_fit=rows_that_fit)
    latents, failures, renderer = finished(networks, tasks, is_sharing=is_sharing)
    assert not failures
    assert_as_expected(latents)
    assert renderer.tally.executed == sum(networks.calls)
    required = sum(evaluations_of(task) for task in tasks)
    assert renderer.tally.executed + renderer.tally.shared == required
    assert is_sharing or not renderer.tally.shared


def evaluations_of(task: TaskSpec) -> int:
    steps = task.num_inference_steps
    once = 2 * steps - 1 if task.sampler == "heun" else steps
    return once if task.guidance_scale <= 1 else 2 * once


def test_first_questions_are_asked_once_for_all_guidance_and_samplers() -> None:
    """The formula: per seed, P prompts need P + 1 first evaluations, whatever else varies."""
    prompts, seeds, guidances, samplers, steps = 3, 2, (2.0, 4.0, 8.0), ("ddim", "euler"), 5
    tasks = [
        TaskSpec(
            prompt=f"p{prompt}", seed=seed, guidance_scale=guidance, sampler=sampler,
            sigma_schedule="ddim_uniform", num_inference_steps=steps,
        )
        for prompt, seed, guidance, sampler in itertools.product(
            range(prompts), range(seeds), guidances, samplers
        )
    ]  # fmt: skip
    latents, _, renderer = finished(SineNetworks(), tasks)
    assert_as_expected(latents)
    images = prompts * len(guidances) * len(samplers)
    per_seed = 2 * images * (steps - 1) + prompts + 1
    assert renderer.tally.executed == seeds * per_seed


def test_without_sharing_every_question_is_asked() -> None:
    tasks = [TaskSpec(prompt="a", guidance_scale=g, num_inference_steps=4) for g in (2.0, 3.0)]
    _, _, renderer = finished(SineNetworks(), tasks, is_sharing=False)
    assert renderer.tally.executed == 2 * 2 * 4


def test_a_whole_prefix_is_shared_while_rows_are_equal() -> None:
    """Rescaled by nothing or not at all: one picture under two names."""
    task = TaskSpec(prompt="a", guidance_scale=3.0, num_inference_steps=6)
    networks = SineNetworks()
    latents, _, renderer = finished(networks, [task, replace(task, guidance_rescale=0.0)])
    assert renderer.tally.executed == 2 * 6
    assert_as_expected(latents)


def test_a_row_that_comes_later_is_given_the_answers_it_will_need() -> None:
    """Two rows with equal questions, one tick apart all the way."""
    renderer = LaneRenderer(SineNetworks())
    task = TaskSpec(prompt="a", guidance_scale=3.0, num_inference_steps=6)
    lane = renderer.berth(8, 8).lane
    lane.admit(renderer.prepare(task))
    lane.tick()
    lane.admit(renderer.prepare(replace(task, guidance_rescale=0.0)))
    while lane.rows:
        lane.tick()
    assert renderer.tally.executed == renderer.tally.shared == 2 * 6


def test_a_row_without_guidance_never_asks_the_unconditional_side() -> None:
    networks = SineNetworks()
    finished(networks, [TaskSpec(prompt="a", guidance_scale=1.0, num_inference_steps=3)])
    assert networks.calls == [1, 1, 1]
    assert [text.is_negative for text in networks.encoded] == [False]


def test_each_text_is_encoded_once() -> None:
    networks = SineNetworks()
    tasks = [TaskSpec(prompt=p, seed=s, num_inference_steps=1) for p in "ab" for s in range(5)]
    finished(networks, tasks)
    assert len(networks.encoded) == len({"a", "b", "the empty negative"})


def test_the_batch_stays_full_across_settings() -> None:
    networks = SineNetworks(rows_that_fit=8)
    samplers = itertools.cycle(["ddim", "euler_a", "dpmpp_2m"])
    tasks = [
        TaskSpec(
            prompt=str(seed), seed=seed, sampler=next(samplers), num_inference_steps=3 + seed % 5,
            guidance_scale=1.0 + seed % 2,
        )
        for seed in range(300)
    ]  # fmt: skip
    _, _, renderer = finished(networks, tasks)
    shape = renderer.shape(8, 8)
    middle = networks.calls[len(networks.calls) // 3 : -12]
    assert shape.sizes.batch.is_settled
    # A row with guidance needs two seats, so one may stay empty.
    assert min(middle) >= shape.sizes.batch.current - 1


def test_rows_of_different_lengths_end_together() -> None:
    """The longest are begun first when the end is seen, so the batch drains in one go."""
    networks = SineNetworks()
    sizes = Sizes(batch=BatchSize(largest=8, smallest=8), decoding=BatchSize(largest=16))
    renderer = LaneRenderer(networks, experience=Experience({(8, 8): sizes}))
    steps = (4, 6, 10, 15)
    tasks = [
        TaskSpec(prompt="a", seed=seed, guidance_scale=1.0, num_inference_steps=steps[seed % 4])
        for seed in range(48)
    ]
    assert len(list(renderer.render(iter(tasks)))) == 48
    full = sum(task.num_inference_steps for task in tasks) / 8
    assert len(networks.calls) < full + max(steps) / 2


def test_a_small_lane_is_not_passed_over_forever() -> None:
    answered: list[int] = []

    def endless() -> Iterator[TaskSpec]:
        for seed in itertools.count():
            yield TaskSpec(prompt="a", seed=seed, height=8, width=8, num_inference_steps=1)
            if seed == 20:
                yield TaskSpec(prompt="odd one", height=12, width=12, num_inference_steps=2)

    for result in LaneRenderer(SineNetworks(rows_that_fit=2)).render(endless()):
        assert isinstance(result, Rendered)
        answered.append(len(result.pixels))
        if answered[-1] == 12:
            break
        assert len(answered) < 2000


# --- what goes wrong ----------------------------------------------------------------------------


def some_tasks() -> list[TaskSpec]:
    return [TaskSpec(prompt=prompt, seed=4, num_inference_steps=3) for prompt in "abcde"]


def test_what_is_no_number_fails_its_own_row() -> None:
    networks = SineNetworks()
    networks.nan_text = "c"
    latents, failures, _ = finished(networks, some_tasks())
    assert {task.prompt: failed.kind for task, failed in failures.items()} == {
        "c": FailureKind.BAD_OUTPUT
    }
    assert_as_expected({task: found for task, found in latents.items() if task.prompt != "c"})


def test_what_breaks_a_batch_fails_alone() -> None:
    networks = SineNetworks()
    networks.broken_text = "b"
    latents, failures, _ = finished(networks, some_tasks())
    [failed] = failures.values()
    assert failed.task.prompt == "b"
    assert failed.kind is FailureKind.INTERNAL
    assert "a kernel broke" in failed.message
    assert len(latents) == 4
    assert_as_expected(latents)


def test_out_of_memory_makes_batches_smaller_and_loses_no_row() -> None:
    networks = SineNetworks(rows_that_fit=2, pictures_that_fit=1)
    latents, failures, _ = finished(networks, some_tasks())
    assert not failures
    assert max(networks.calls) == 2
    assert_as_expected(latents)


@pytest.mark.parametrize("operands", [2, 3], ids=["its input", "its step"])
def test_out_of_memory_beside_the_network_leaves_no_trace(
    operands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is made again draws no other noise."""
    product = torch.bmm
    refused = []

    def bmm(coefficients: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        if len(values) > 1 and values.shape[1] == operands:
            refused.append(len(values))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return product(coefficients, values)

    monkeypatch.setattr(torch, "bmm", bmm)
    tasks = [replace(task, sampler="euler_a") for task in some_tasks()]
    latents, failures, _ = finished(SineNetworks(), tasks)
    assert refused
    assert not failures
    assert_as_expected(latents)


def test_a_row_for_which_there_is_no_memory_yet_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    take, give_back = Registers.take_slot, Registers.give_back
    held: list[int] = []
    refused = []

    def take_one(registers: Registers, program: Program, noise: torch.Tensor) -> int:
        if len(held) == 2:
            refused.append(noise)
            raise torch.OutOfMemoryError("CUDA out of memory")
        held.append(slot := take(registers, program, noise))
        return slot

    def give_one_back(registers: Registers, slot: int) -> None:
        held.remove(slot)
        give_back(registers, slot)

    monkeypatch.setattr(Registers, "take_slot", take_one)
    monkeypatch.setattr(Registers, "give_back", give_one_back)
    latents, failures, _ = finished(SineNetworks(), some_tasks())
    assert refused
    assert not failures
    assert_as_expected(latents)


def test_a_decoder_that_breaks_once_costs_nobody_a_picture_or_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = [TaskSpec(prompt="a", seed=seed, num_inference_steps=1) for seed in range(40)]
    decode = SineNetworks.decode
    together: list[int] = []

    def breaking(networks: SineNetworks, latents: torch.Tensor) -> Pictures:
        together.append(len(latents))
        if len(latents) > 1 and not any(earlier > 1 for earlier in together[:-1]):
            raise RuntimeError("a kernel broke")
        return decode(networks, latents)

    monkeypatch.setattr(SineNetworks, "decode", breaking)
    latents, failures, _ = finished(SineNetworks(), tasks)
    assert not failures
    assert_as_expected(latents)
    broke = next(place for place, rows in enumerate(together) if rows > 1)
    assert together[broke + 1 : broke + 1 + together[broke]] == [1] * together[broke]
    assert max(together[broke + 1 :]) > 1


def test_a_row_that_does_not_fit_alone_fails() -> None:
    _, failures, _ = finished(SineNetworks(rows_that_fit=0), some_tasks())
    assert {failed.kind for failed in failures.values()} == {FailureKind.OUT_OF_MEMORY}
    assert len(failures) == 5


def test_a_picture_that_does_not_fit_is_decoded_with_less_memory() -> None:
    networks = SineNetworks(pictures_that_fit=0)
    networks.can_save_memory = True
    latents, failures, _ = finished(networks, some_tasks())
    assert not failures
    assert_as_expected(latents)


def test_a_picture_that_never_fits_fails() -> None:
    _, failures, _ = finished(SineNetworks(pictures_that_fit=0), some_tasks())
    assert {failed.kind for failed in failures.values()} == {FailureKind.OUT_OF_MEMORY}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clip_skip": 1}, "clip_skip means nothing"),
        ({"height": 9}, "even pictures"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"sampler": "flow_euler"}, "samples flow models"),
        ({"sampler": "euler", "eta": 0.5}, "has no eta"),
        ({"sampler": "nonsense"}, "no sampler 'nonsense'"),
    ],
)
def test_bad_settings_fail_with_a_reason_beside_good_ones(
    change: dict[str, object], reason: str
) -> None:
    good = TaskSpec(prompt="a", num_inference_steps=2)
    bad = replace(good, **change)  # type: ignore[arg-type] # one field by name
    latents, failures, _ = finished(SineNetworks(), [good, bad, replace(good, seed=1)])
    assert failures[bad].kind is FailureKind.BAD_TASK
    assert reason in failures[bad].message
    assert len(latents) == 2


def test_a_sampler_that_no_table_can_hold_fails_its_own_tasks() -> None:
    networks = SineNetworks()
    networks.scheduler = type(SCHEDULER).from_config(SCHEDULER.config, clip_sample=True)
    good = TaskSpec(prompt="a", sampler="euler", num_inference_steps=3)
    bad = replace(good, sampler="default")
    latents, failures, _ = finished(networks, [bad, good])
    assert failures[bad].kind is FailureKind.BAD_TASK
    assert "not linear with clip_sample: true" in failures[bad].message
    assert_as_expected(latents)
    assert list(latents) == [good]


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_refusal_names_the_backend_that_was_asked(backend: str) -> None:
    bad = TaskSpec(prompt="a", backend=backend, sampler="lcm", sigma_schedule="karras")
    worse = TaskSpec(prompt="a", backend=backend, sampler="euler", eta=0.5)
    _, failures, _ = finished(SineNetworks(), [bad, worse])
    for task in (bad, worse):
        assert f"backend {backend}" in failures[task].message


def test_a_stream_can_be_left_and_another_begun() -> None:
    renderer = LaneRenderer(SineNetworks())
    next(renderer.render(iter(some_tasks())))
    assert len(list(renderer.render(iter(some_tasks())))) == 5


def test_what_is_not_begun_can_be_given_back() -> None:
    """As when a run is stopped: rows in flight are finished, and no other is begun."""
    renderer = LaneRenderer(SineNetworks())
    taken: list[TaskSpec] = []
    is_stopped = False

    def stream() -> Iterator[TaskSpec]:
        while not is_stopped:
            number = len(taken)
            taken.append(TaskSpec(prompt=str(number), seed=number, num_inference_steps=4))
            yield taken[-1]

    results = renderer.render(stream())
    drawn = [next(results).task]
    is_stopped = True
    back = renderer.withdraw()
    drawn += [result.task for result in results]
    assert back
    assert sorted(map(repr, [*drawn, *back])) == sorted(map(repr, taken))
    assert not renderer.withdraw()


def test_closing_closes_the_networks() -> None:
    networks = SineNetworks()
    renderer = LaneRenderer(networks)
    renderer.close()
    renderer.close()
    assert networks.is_closed
