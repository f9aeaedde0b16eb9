"""Compiled tables against diffusers: the same noise, the same network, the same latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.render.batches import Refusal
from farm.render.tables import table_for
from farm.samplers import DEFAULT, SAMPLERS, Sampler
from tests.render.tables.trials import (
    difference,
    flow_model,
    generator_after_diffusers,
    model,
    run_diffusers,
    run_table,
    scheduler_for,
)

# diffusers' KDPM2 calls NumPy on torch tensors, which NumPy will one day not allow.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_wrap__ must:DeprecationWarning"),
    # torchsde remarks on the last bit of the times that diffusers asks it for.
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),
]

SHARED = [
    entry for entry in SAMPLERS.values()
    if entry.schedules_on("diffusers") and entry.name not in {DEFAULT, "dpmpp_sde"}
]  # fmt: skip
"""Samplers that draw the same picture on diffusers and from a table."""
PREDICTIONS = ("epsilon", "v_prediction")


def original_for(entry: Sampler, prediction: str = "epsilon") -> Any:
    return flow_model() if entry.family == "flow" else model(prediction)


def check_parity(entry: Sampler, *, schedule: str, steps: int, prediction: str) -> None:
    original = original_for(entry, prediction)
    table = table_for(original, sampler=entry.name, sigma_schedule=schedule, steps=steps)
    scheduler = scheduler_for(original, sampler=entry.name, sigma_schedule=schedule, steps=steps)
    # diffusers' DPM2 a rounds the level between two at 1e-2 of a timestep, of a thousand.
    told = [float(t) for t in scheduler.timesteps]
    assert table.timesteps.tolist() == pytest.approx(told, abs=0.05)
    assert table.evaluations == entry.count_evaluations(steps)
    off = difference(run_table(table), run_diffusers(scheduler, None))
    assert off < 1e-4, (schedule, off)


def brief() -> Iterator[Any]:
    for entry in SHARED:
        for prediction in PREDICTIONS:
            # diffusers' DPM2 takes a second to set up.
            is_slow = entry.name.startswith("dpm2") and prediction != "epsilon"
            marks = [pytest.mark.slow] if is_slow else []
            yield pytest.param(entry, prediction, marks=marks, id=f"{entry.name}-{prediction}")


@pytest.mark.parametrize(("entry", "prediction"), list(brief()))
def test_a_table_draws_what_diffusers_draws(entry: Sampler, prediction: str) -> None:
    check_parity(entry, schedule=entry.schedules[-1], steps=8, prediction=prediction)
    check_parity(entry, schedule=entry.schedules[0], steps=1, prediction=prediction)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("entry", SHARED, ids=lambda entry: entry.name)
def test_a_table_draws_what_diffusers_draws_at_every_schedule(entry: Sampler, steps: int) -> None:
    # diffusers' DPM2 takes a second to set up.
    predictions = PREDICTIONS[:1] if entry.name.startswith("dpm2") else PREDICTIONS
    for schedule in entry.schedules:
        for prediction in predictions:
            check_parity(entry, schedule=schedule, steps=steps, prediction=prediction)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in SHARED if entry.name != "dpm2"],  # slow to set up, and draws nothing
    ids=lambda entry: entry.name,
)
def test_a_table_takes_from_the_generator_as_often_as_diffusers(entry: Sampler) -> None:
    original = original_for(entry)
    steps: dict[str, Any] = {"sampler": entry.name, "sigma_schedule": "default", "steps": 4}
    table = table_for(original, **steps)
    generator = torch.Generator("cpu").manual_seed(7)
    for _ in range(1 + int(table.draws.sum())):
        torch.randn(1, 4, 4, 4, generator=generator)
    expected = generator_after_diffusers(scheduler_for(original, **steps), seed=7)
    assert torch.equal(generator.get_state(), expected.get_state())


@pytest.mark.parametrize("sampler", ["ddim", "tcd"])
@given(steps=st.integers(1, 40), eta=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_eta_is_that_of_diffusers(sampler: str, steps: int, eta: float) -> None:
    table = table_for(model(), sampler=sampler, sigma_schedule="default", steps=steps, eta=eta)
    scheduler = scheduler_for(model(), sampler=sampler, sigma_schedule="default", steps=steps)
    assert difference(run_table(table), run_diffusers(scheduler, eta)) < 1e-4


@given(
    entry=st.sampled_from([entry for entry in SAMPLERS.values() if entry.schedules_on("torch")]),
    steps=st.integers(1, 40),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_every_table_is_finite_exact_and_of_the_promised_shape(
    entry: Sampler, steps: int, data: st.DataObject
) -> None:
    can = entry.schedules_on("torch" if entry.name != DEFAULT else "nowhere")[:5]
    schedule = data.draw(st.sampled_from(can))
    original = original_for(entry)
    table = table_for(original, sampler=entry.name, sigma_schedule=schedule, steps=steps)
    count, registers = table.inputs.shape
    assert count == len(table.timesteps) == len(table.draws) == entry.count_evaluations(steps)
    noises = table.steps.shape[2] - registers - 1
    assert table.steps.shape == (count, registers, registers + 1 + noises)
    assert table.initial.shape == (registers,)
    assert noises == table.draws.max()
    assert (table.draws >= 0).all()
    assert table.residual < 1e-10
    for numbers in (table.timesteps, table.inputs, table.steps, table.initial):
        assert numbers.dtype == np.float64
        assert np.isfinite(numbers).all()


@pytest.mark.parametrize(
    ("sampler", "registers"),
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("dpmpp_3m_sde", 3), ("unipc", 4),
     ("pndm", 4), ("lms", 4), ("dpm2", 2)],
)  # fmt: skip
def test_a_table_remembers_no_more_than_it_reads(sampler: str, registers: int) -> None:
    table = table_for(model(), sampler=sampler, sigma_schedule="default", steps=8)
    assert table.registers == registers


# --- models that ship with any scheduler ---------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
     "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "HeunDiscreteScheduler",
     "LMSDiscreteScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "LCMScheduler",
     "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler",
     pytest.param("KDPM2AncestralDiscreteScheduler", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_models_own_scheduler_has_a_table(kind: str) -> None:
    original = getattr(diffusers, kind)()
    table = table_for(original, sampler="default", sigma_schedule="default", steps=4)
    scheduler = scheduler_for(original, sampler="default", sigma_schedule="default", steps=4)
    assert difference(run_table(table), run_diffusers(scheduler, None)) < 1e-4


def test_levels_that_begin_with_two_equal_timesteps_have_a_table() -> None:
    """diffusers' own pipelines run off the end there."""
    table = table_for(model(), sampler="dpmpp_2m", sigma_schedule="beta", steps=50)
    assert table.timesteps[0] == table.timesteps[1]
    assert np.isfinite(run_table(table)).all()


def test_karras_levels_that_a_model_ships_with_are_kept() -> None:
    karras = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    table = table_for(karras, sampler="euler", sigma_schedule="default", steps=6)
    plain = table_for(karras, sampler="euler", sigma_schedule="normal", steps=6)
    assert not np.array_equal(table.timesteps, plain.timesteps)


# --- a pure function, kept -----------------------------------------------------------------------


def test_a_table_is_made_once_for_equal_configurations() -> None:
    asked: dict[str, Any] = {"sampler": "dpmpp_2m", "sigma_schedule": "karras", "steps": 7}
    table = table_for(model(), **asked)
    assert table_for(model(), **asked) is table
    assert table_for(model("v_prediction"), **asked) is not table
    assert table_for(model(), **{**asked, "steps": 8}) is not table


@pytest.mark.parametrize("kind", [list, np.array])
def test_a_training_schedule_may_be_given_as_numbers(kind: Any) -> None:
    betas = np.linspace(0.001, 0.02, 200)
    asked: dict[str, Any] = {"sampler": "euler", "sigma_schedule": "default", "steps": 5}
    trained = table_for(diffusers.DDIMScheduler(trained_betas=kind(betas.tolist())), **asked)
    other = table_for(diffusers.DDIMScheduler(trained_betas=kind(betas[::-1].tolist())), **asked)
    assert not np.array_equal(trained.steps, other.steps)


def test_what_the_model_ships_with_is_left_as_it_is() -> None:
    original = model()
    before = dict(original.config), original.alphas_cumprod.clone(), original.timesteps.clone()
    table_for(original, sampler="default", sigma_schedule="sgm_uniform", steps=5)
    assert dict(original.config) == before[0]
    assert original.alphas_cumprod.dtype == torch.float32
    assert torch.equal(original.alphas_cumprod, before[1])
    assert torch.equal(original.timesteps, before[2])


def test_compiling_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    table_for(model(), sampler="ddpm", sigma_schedule="normal", steps=9)
    assert torch.equal(torch.get_rng_state(), before)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "asked", "reason"),
    [
        (model(thresholding=True), {}, "DDIMScheduler is not linear with thresholding: true"),
        (model(clip_sample=True), {}, "not linear with clip_sample: true"),
        (model(thresholding=True), {"sampler": "dpmpp_2m"}, "not linear with thresholding: true"),
        (diffusers.DDPMScheduler(variance_type="learned"), {}, "cannot do 4 steps"),
        (diffusers.DPMSolverSDEScheduler(), {}, "noise of its own; name sampler dpmpp_sde"),
        (model(), {"sampler": "dpmpp_2m", "steps": 1000, "sigma_schedule": "normal"},
         "divides by zero at 1000 steps"),
        (model(), {"sampler": "ddim", "steps": 1000, "sigma_schedule": "ddim_uniform"},
         "cannot do 1000 steps: DDIMScheduler says IndexError"),
        (model(), {"steps": 0}, "cannot do 0 steps"),
        (model(), {"sampler": "euler", "eta": 0.5}, "'euler' has no eta on backend torch; euler_a"),
        (diffusers.EulerDiscreteScheduler(), {"eta": 0.5}, "EulerDiscreteScheduler has no eta"),
        (model(), {"sampler": "flow_euler"}, "samples flow models"),
        (flow_model(), {"sampler": "euler_a"}, "samples diffusion models"),
        (model(), {"sampler": "nonsense"}, "there is no sampler 'nonsense'"),
        (model(), {"sampler": "dpm_adaptive"}, "backend torch cannot do sampler 'dpm_adaptive'"),
        (model(), {"sampler": "lcm", "sigma_schedule": "karras"}, "it can do: default"),
        (model(), {"sigma_schedule": "karras"}, "DDIMScheduler, has no sigma schedule 'karras'"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous"), {"sampler": "heun"},
         "timestep_type continuous"),
        (model("flow_prediction"), {"sampler": "lms"}, "samples diffusion models"),
    ],
)  # fmt: skip
def test_what_no_table_can_hold_is_refused_by_name(
    original: Any, asked: dict[str, Any], reason: str
) -> None:
    asked = {"sampler": "default", "sigma_schedule": "default", "steps": 4, **asked}
    with pytest.raises(Refusal, match=reason):
        table_for(original, **asked)


def test_a_refusal_names_the_backend_that_asks() -> None:
    asked: dict[str, Any] = {"sampler": "dpm_fast", "sigma_schedule": "default", "steps": 4}
    with pytest.raises(Refusal, match="backend onnx cannot do sampler 'dpm_fast'"):
        table_for(model(), **asked, backend="onnx")


def test_a_scheduler_that_hides_what_it_remembers_is_refused() -> None:
    class Secretive(diffusers.DDIMScheduler):  # type: ignore[misc] # diffusers ships no types
        def step(self, output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
            secret = self.__dict__.setdefault("secret", {"sum": 0.0})
            secret["sum"] = secret["sum"] + output
            return super().step(secret["sum"], timestep, sample, **options)

    original = Secretive(clip_sample=False)
    with pytest.raises(Refusal, match="Secretive is not linear"):
        table_for(original, sampler="default", sigma_schedule="default", steps=4)


def test_a_tables_own_run_asks_for_exactly_its_noises() -> None:
    table = table_for(model(), sampler="ddpm", sigma_schedule="normal", steps=5)
    taken = 0

    def counted() -> Iterator[Any]:
        nonlocal taken
        while True:
            taken += 1
            yield np.ones(3)

    table.run(lambda x, _: x, counted())
    assert taken == 1 + table.draws.sum()
