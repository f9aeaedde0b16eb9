"""The sampler table against the installed diffusers: every row is tried, none is believed."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest

from farm.render import Renderer
from farm.render.batches import Refusal
from farm.render.scheduling import build_scheduler, check_sampler
from farm.samplers import DEFAULT, SAMPLERS, SIGMA_SCHEDULES, Sampler
from farm.task import Failed, FailureKind, Rendered, RenderResult, TaskSpec

pytestmark = [
    # diffusers' KDPM2 calls NumPy on torch tensors, which NumPy will one day not allow.
    pytest.mark.filterwarnings("ignore:__array_wrap__ must:DeprecationWarning"),
    # torchsde remarks on the last bit of the times that diffusers' DPM++ SDE asks for.
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),
]

OFFERED = [entry for entry in SAMPLERS.values() if entry.refusal is None]
NAMED = [entry for entry in OFFERED if entry.name != DEFAULT]
DDIM = diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def original_for(sampler: Sampler) -> object:
    return FLOW if sampler.family == "flow" else DDIM


def render(renderer: Renderer, model: Path, **fields: str | float) -> RenderResult:
    settings: dict[str, str | float] = {"prompt": "a", "guidance_scale": 1.0, **fields}
    task = TaskSpec(model=str(model), **settings)  # type: ignore[arg-type] # fields by name
    [result] = renderer.render(iter([task]))
    return result


@pytest.mark.parametrize("sampler", NAMED, ids=lambda entry: entry.name)
def test_the_class_has_every_option_that_the_table_gives_it(sampler: Sampler) -> None:
    assert sampler.scheduler is not None
    kind = getattr(diffusers, sampler.scheduler)
    known = set(inspect.signature(kind.__init__).parameters)
    assert set(sampler.options) <= known
    for name in sampler.schedules:
        curves = {option for option in SIGMA_SCHEDULES[name].options if option.startswith("use_")}
        assert curves <= known
        if name in {"normal", "sgm_uniform", "simple", "ddim_uniform"}:
            assert "timestep_spacing" in known
    assert sampler.takes_eta == ("eta" in inspect.signature(kind.step).parameters)


@pytest.mark.parametrize("sampler", NAMED, ids=lambda entry: entry.name)
def test_every_schedule_of_a_sampler_renders_in_the_evaluations_that_the_table_says(
    sampler: Sampler,
    renderer_of: Callable[[Path], Renderer],
    tiny_sd: Path,
    tiny_flow: Path,
) -> None:
    if sampler.requires and importlib.util.find_spec(sampler.requires) is None:
        pytest.skip(f"{sampler.requires} is not installed")
    model = tiny_flow if sampler.family == "flow" else tiny_sd
    for schedule in sampler.schedules:
        result = render(
            renderer_of(model), model, sampler=sampler.name, sigma_schedule=schedule,
            num_inference_steps=3,
        )  # fmt: skip
        assert isinstance(result, Rendered), (schedule, result)
        assert result.denoiser_evaluations == sampler.count_evaluations(3), schedule


@pytest.mark.parametrize("sampler", NAMED, ids=lambda entry: entry.name)
def test_one_step_is_one_evaluation(
    sampler: Sampler, renderer_of: Callable[[Path], Renderer], tiny_sd: Path, tiny_flow: Path
) -> None:
    model = tiny_flow if sampler.family == "flow" else tiny_sd
    result = render(renderer_of(model), model, sampler=sampler.name, num_inference_steps=1)
    assert isinstance(result, Rendered), result
    assert result.denoiser_evaluations == sampler.count_evaluations(1) == 1


@pytest.mark.parametrize("sampler", NAMED, ids=lambda entry: entry.name)
def test_the_models_training_schedule_is_kept(sampler: Sampler) -> None:
    original = original_for(sampler)
    built = build_scheduler(original, TaskSpec(sampler=sampler.name))
    if sampler.family == "flow":
        assert built.config.shift == FLOW.config.shift
    else:
        assert built.config.beta_schedule == "scaled_linear"
        assert built.config.prediction_type == "v_prediction"


def test_the_models_own_scheduler_is_left_as_it_is() -> None:
    before = dict(DDIM.config)
    built = build_scheduler(DDIM, TaskSpec())
    assert type(built) is type(DDIM)
    assert built is not DDIM
    assert dict(built.config) == before
    build_scheduler(DDIM, TaskSpec(sigma_schedule="sgm_uniform"))
    assert dict(DDIM.config) == before


def test_the_models_own_scheduler_takes_a_schedule_it_has() -> None:
    built = build_scheduler(DDIM, TaskSpec(sigma_schedule="sgm_uniform"))
    assert built.config.timestep_spacing == "trailing"
    with pytest.raises(Refusal, match="DDIMScheduler, has no sigma schedule 'karras'"):
        build_scheduler(DDIM, TaskSpec(sigma_schedule="karras"))


def test_a_model_that_ships_with_one_curve_can_be_asked_for_another() -> None:
    karras = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    built = build_scheduler(karras, TaskSpec(sampler="euler", sigma_schedule="exponential"))
    assert built.config.use_exponential_sigmas
    assert not built.config.use_karras_sigmas
    plain = build_scheduler(karras, TaskSpec(sampler="euler", sigma_schedule="normal"))
    assert not plain.config.use_karras_sigmas


@pytest.mark.parametrize(
    ("sampler", "original", "reason"),
    [
        ("euler", FLOW, "samples diffusion models, and this is a flow model"),
        ("flow_euler", DDIM, "samples flow models, and this is a diffusion model"),
        ("dpmpp_2s_a", DDIM, "no ancestral"),
        ("ipndm", DDIM, "ignores the model's training schedule"),
        ("nonsense", DDIM, "there is no sampler 'nonsense'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    sampler: str, original: object, reason: str
) -> None:
    with pytest.raises(Refusal, match=reason):
        build_scheduler(original, TaskSpec(sampler=sampler))


@pytest.mark.parametrize("backend", ["diffusers", "torch", "onnx"])
@pytest.mark.parametrize("schedule", [DEFAULT, "karras"])
@pytest.mark.parametrize(("sampler", "original"), [("flow_euler", DDIM), ("euler", FLOW)])
def test_what_a_refusal_offers_instead_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, sampler: str, original: object, schedule: str, backend: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Refusal, match=f"sampler '{sampler}' samples") as caught:
        check_sampler(original, backend=backend, sampler=sampler, sigma_schedule=schedule)
    offered = re.findall(r"[a-z0-9_]+", str(caught.value).partition("it can do: ")[2])
    assert ("default" in offered) is (schedule == DEFAULT or original is FLOW)
    for name in offered:
        check_sampler(original, backend=backend, sampler=name, sigma_schedule=schedule)
        if backend == "diffusers":
            build_scheduler(original, TaskSpec(sampler=name, sigma_schedule=schedule))


def test_a_missing_library_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Refusal, match="needs the library torchsde: pip install torchsde"):
        build_scheduler(DDIM, TaskSpec(sampler="dpmpp_sde"))


def test_a_refusal_is_a_failed_task(renderer_of: Callable[[Path], Renderer], tiny_sd: Path) -> None:
    result = render(renderer_of(tiny_sd), tiny_sd, sampler="flow_euler")
    assert isinstance(result, Failed)
    assert result.kind is FailureKind.BAD_TASK
