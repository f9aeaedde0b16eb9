"""The sampling algorithms and noise schedules by name: one table, no code that samples.

A *sampler* is the diffusion algorithm (`euler`, `dpmpp_2m`, ...), named as in k-diffusion; a
*sigma schedule* is where it puts its noise levels (`karras`, ...), a separate axis. The table says
what each is called elsewhere (A1111's names are accepted everywhere), which diffusers scheduler
class and options compute it, what each backend can do, and, where one has no such algorithm, why
the farm refuses instead of substituting another.

Backend `diffusers` can do what diffusers can. Backends `torch` and `onnx` render from tables
(`farm.render.tables`): those compiled from diffusers' classes, and those written out by hand.

Sources: the sampler and schedule tables of AUTOMATIC1111/stable-diffusion-webui
(`modules/sd_samplers_kdiffusion.py`, `modules/sd_schedulers.py`), the k-diffusion correspondence in
diffusers' `docs/source/en/api/schedulers/overview.md`, and the signatures of the pinned diffusers,
against which a test checks every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from farm.errors import suggest

DEFAULT = "default"
"""The sampler or schedule that a model ships with."""

TABLE_BACKENDS = ("torch", "onnx")
"""Backends that render from tables."""
SAMPLING_BACKENDS = ("diffusers", *TABLE_BACKENDS)
"""Backends that run samplers at all."""

Option: TypeAlias = "str | int | float | bool"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmaSchedule:
    """Where a sampler puts its noise levels, and how diffusers is asked for it."""

    name: str
    label: str
    """A1111's `Schedule type`."""
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """One sampling algorithm."""

    name: str
    label: str
    """A1111's name, or the paper's where A1111 has none."""
    a1111: str | None = None
    """A1111's name where another sampler of the farm has it as its label."""
    doc: str
    scheduler: str | None = None
    """diffusers scheduler class; None where diffusers has no such algorithm."""
    options: Mapping[str, Option] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    schedules: tuple[str, ...] = (DEFAULT,)
    """Sigma schedules that the diffusers class can do."""
    handwritten: tuple[str, ...] = ()
    """Sigma schedules of the table written out by hand, which backends that render from tables use
    instead of a compiled one; empty where there is none."""
    automatic: str = "normal"
    """The schedule that A1111 means by `Automatic`."""
    evaluations: Literal["n", "n+1", "2n-1"] = "n"
    """Network evaluations of n steps; one step is always one."""
    takes_eta: bool = False
    """Whether the diffusers class has an eta."""
    handwritten_takes_eta: bool = False
    """Whether the table written out by hand has one."""
    one_noise_per_batch: bool = False
    """diffusers draws this sampler's noise from one source for the whole batch, so images are
    rendered one at a time to keep each a function of its own seed."""
    family: Literal["diffusion", "flow"] = "diffusion"
    """Which models it samples: epsilon- and v-prediction, or flow matching."""
    requires: str | None = None
    """A library that diffusers needs for it."""
    refusal: str | None = None
    """Why backend `diffusers` does not offer it, nor any other if no table is written out."""

    def count_evaluations(self, steps: int) -> int:
        """Return how often `steps` steps evaluate the network, for one row without guidance."""
        return {"n": steps, "n+1": steps + (steps > 1), "2n-1": 2 * steps - 1}[self.evaluations]

    def schedules_on(self, backend: str) -> tuple[str, ...]:
        """Return the sigma schedules that a backend can do with it; none if it has not got it."""
        if self.handwritten and backend in TABLE_BACKENDS:
            return self.handwritten
        return () if self.refusal else self.schedules

    def takes_eta_on(self, backend: str) -> bool:
        """Return whether a backend can vary its eta."""
        if self.handwritten and backend in TABLE_BACKENDS:
            return self.handwritten_takes_eta
        return self.takes_eta


_SPACED = (DEFAULT, "normal", "sgm_uniform", "simple", "ddim_uniform")
_SIGMAS = (*_SPACED, "karras", "exponential", "beta")
_SINGLESTEP = (DEFAULT, "karras", "exponential", "beta")

_SCHEDULES = (
    SigmaSchedule(
        name=DEFAULT, label="Automatic", aliases=("automatic",),
        doc="As the model's own scheduler configuration says.",
    ),
    SigmaSchedule(
        name="normal", label="Uniform", aliases=("uniform",),
        options={"timestep_spacing": "linspace", "steps_offset": 0},
        doc="Evenly spaced timesteps from the last to the first.",
    ),
    SigmaSchedule(
        name="karras", label="Karras",
        options={"timestep_spacing": "linspace", "steps_offset": 0, "use_karras_sigmas": True},
        doc="Equation 5 of arXiv:2206.00364 with rho = 7.",
    ),
    SigmaSchedule(
        name="exponential", label="Exponential",
        options={"timestep_spacing": "linspace", "steps_offset": 0, "use_exponential_sigmas": True},
        doc="Evenly spaced in the logarithm of sigma.",
    ),
    SigmaSchedule(
        name="beta", label="Beta",
        options={"timestep_spacing": "linspace", "steps_offset": 0, "use_beta_sigmas": True},
        doc="Quantiles of the Beta(0.6, 0.6) distribution, arXiv:2407.12173.",
    ),
    SigmaSchedule(
        name="sgm_uniform", label="SGM Uniform", aliases=("trailing",),
        options={"timestep_spacing": "trailing"},
        doc="Evenly spaced timesteps that begin at the very last, arXiv:2305.08891 table 2.",
    ),
    SigmaSchedule(
        name="simple", label="Simple", options={"timestep_spacing": "trailing"},
        doc="Every n-th training sigma from the last; in diffusers the same as sgm_uniform.",
    ),
    SigmaSchedule(
        name="ddim_uniform", label="DDIM", aliases=("ddim", "leading"),
        options={"timestep_spacing": "leading", "steps_offset": 1},
        doc="Timesteps 1, 1 + 1000/n, ...: DDIM's own.",
    ),
)  # fmt: skip

_SAMPLERS = (
    Sampler(
        name=DEFAULT, label="Model default", doc="The scheduler that the model ships with.",
        schedules=_SIGMAS,
    ),
    Sampler(
        name="euler", label="Euler", scheduler="EulerDiscreteScheduler", schedules=_SIGMAS,
        doc="Algorithm 2 of arXiv:2206.00364 without churn.",
    ),
    Sampler(
        name="euler_a", label="Euler a", aliases=("euler_ancestral",),
        scheduler="EulerAncestralDiscreteScheduler", schedules=_SPACED, handwritten=_SIGMAS,
        handwritten_takes_eta=True,
        doc="Euler with ancestral noise, after k-diffusion's sample_euler_ancestral.",
    ),
    Sampler(
        name="heun", label="Heun", scheduler="HeunDiscreteScheduler", schedules=_SIGMAS,
        handwritten=_SIGMAS,
        evaluations="2n-1", doc="Second-order Heun, algorithm 1 of arXiv:2206.00364.",
    ),
    Sampler(
        name="lms", label="LMS", scheduler="LMSDiscreteScheduler", schedules=_SIGMAS,
        handwritten=_SIGMAS,
        doc="Linear multistep of order 4, after k-diffusion's sample_lms.",
    ),
    Sampler(
        name="dpm2", label="DPM2", aliases=("dpm_2",), scheduler="KDPM2DiscreteScheduler",
        schedules=_SIGMAS, handwritten=_SIGMAS, automatic="karras", evaluations="2n-1",
        doc="DPM-Solver-2, arXiv:2206.00927; keeps the next-to-last sigma that A1111 drops.",
    ),
    Sampler(
        name="dpm2_discard", label="DPM2 discard", a1111="DPM2", handwritten=_SIGMAS,
        automatic="karras", evaluations="2n-1",
        doc="DPM2 without the next-to-last sigma, as in A1111 and ComfyUI.",
        refusal="diffusers' KDPM2DiscreteScheduler keeps the next-to-last sigma",
    ),
    Sampler(
        name="dpm2_a", label="DPM2 a", aliases=("dpm_2_ancestral", "dpm2_ancestral"),
        scheduler="KDPM2AncestralDiscreteScheduler", schedules=_SIGMAS, handwritten=_SIGMAS,
        handwritten_takes_eta=True, automatic="karras", evaluations="2n-1",
        doc="DPM2 with ancestral noise; keeps the next-to-last sigma that A1111 drops.",
    ),
    Sampler(
        name="dpm2_a_discard", label="DPM2 a discard", a1111="DPM2 a", handwritten=_SIGMAS,
        handwritten_takes_eta=True, automatic="karras", evaluations="2n-1",
        doc="DPM2 a without the next-to-last sigma, as in A1111 and ComfyUI.",
        refusal="diffusers' KDPM2AncestralDiscreteScheduler keeps the next-to-last sigma",
    ),
    Sampler(
        name="dpmpp_2m", label="DPM++ 2M", scheduler="DPMSolverMultistepScheduler",
        options={"algorithm_type": "dpmsolver++", "solver_order": 2}, schedules=_SIGMAS,
        automatic="karras", doc="DPM-Solver++(2M), algorithm 2 of arXiv:2211.01095.",
    ),
    Sampler(
        name="dpmpp_2m_sde", label="DPM++ 2M SDE", scheduler="DPMSolverMultistepScheduler",
        options={"algorithm_type": "sde-dpmsolver++", "solver_order": 2}, schedules=_SIGMAS,
        automatic="exponential",
        doc="SDE variant of DPM-Solver++(2M); independent noise a step, no Brownian tree.",
    ),
    Sampler(
        name="dpmpp_3m_sde", label="DPM++ 3M SDE", scheduler="DPMSolverMultistepScheduler",
        options={"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, schedules=_SIGMAS,
        automatic="exponential", doc="Third-order SDE-DPM-Solver++; approximates k-diffusion's.",
    ),
    Sampler(
        name="dpmpp_sde", label="DPM++ SDE", scheduler="DPMSolverSDEScheduler", schedules=_SIGMAS,
        handwritten=_SIGMAS, handwritten_takes_eta=True,
        automatic="karras", evaluations="2n-1", one_noise_per_batch=True, requires="torchsde",
        doc="DPM-Solver++ (stochastic), after k-diffusion's sample_dpmpp_sde. A seed's noise, and "
        "so its picture, is not the same on every backend: diffusers draws it from torchsde's "
        "Brownian tree, the others draw the same law from the image's own generator.",
    ),
    Sampler(
        name="dpmpp_singlestep", label="DPM++ 2S", aliases=("dpmpp_2s",),
        scheduler="DPMSolverSinglestepScheduler",
        # diffusers turns lower_order_final on by itself and says so in every run.
        options={
            "algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True,
        },
        schedules=_SINGLESTEP,
        doc="DPM-Solver++(2S), algorithm 1 of arXiv:2211.01095; deterministic.",
    ),
    Sampler(
        name="dpmpp_2s_a", label="DPM++ 2S a", aliases=("dpmpp_2s_ancestral",),
        evaluations="2n-1", automatic="karras", handwritten=_SIGMAS, handwritten_takes_eta=True,
        doc="Ancestral DPM-Solver++(2S) of k-diffusion.",
        refusal="diffusers has no ancestral DPM++ 2S; the nearest, dpmpp_singlestep, is "
        "deterministic and gives other pictures",
    ),
    Sampler(
        name="ddim", label="DDIM", scheduler="DDIMScheduler",
        options={"clip_sample": False, "set_alpha_to_one": False},
        schedules=(DEFAULT, "normal", "sgm_uniform", "simple", "ddim_uniform"), takes_eta=True,
        automatic="ddim_uniform", doc="arXiv:2010.02502.",
    ),
    Sampler(
        name="ddpm", label="DDPM", scheduler="DDPMScheduler", options={"clip_sample": False},
        schedules=(DEFAULT, "normal", "sgm_uniform", "simple", "ddim_uniform"),
        doc="Ancestral sampling of arXiv:2006.11239.",
    ),
    Sampler(
        name="pndm", label="PLMS", aliases=("plms",), scheduler="PNDMScheduler",
        options={"skip_prk_steps": True},
        schedules=(DEFAULT, "normal", "sgm_uniform", "simple", "ddim_uniform"),
        automatic="ddim_uniform", evaluations="n+1",
        doc="Pseudo linear multistep, arXiv:2202.09778.",
    ),
    Sampler(
        name="unipc", label="UniPC", aliases=("uni_pc",), scheduler="UniPCMultistepScheduler",
        # B1(h) = h has no value at the last step to a sigma of zero, where h is infinite.
        options={"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        schedules=_SIGMAS,
        doc="UniPC of order 3 with B1(h), arXiv:2302.04867: A1111's settings.",
    ),
    Sampler(
        name="deis", label="DEIS", scheduler="DEISMultistepScheduler", schedules=_SIGMAS,
        doc="DEIS, arXiv:2204.13902.",
    ),
    Sampler(
        name="ipndm", label="iPNDM", scheduler="IPNDMScheduler", schedules=(DEFAULT,),
        handwritten=_SIGMAS, doc="Fourth-order improved PNDM, as in ComfyUI.",
        refusal="diffusers' IPNDMScheduler ignores the model's training schedule, so its pictures "
        "are wrong on Stable Diffusion models",
    ),
    Sampler(
        name="sa", label="SA-Solver", aliases=("sa_solver",), scheduler="SASolverScheduler",
        schedules=_SIGMAS, doc="Stochastic Adams solver, arXiv:2309.05019.",
    ),
    Sampler(
        name="lcm", label="LCM", scheduler="LCMScheduler", schedules=(DEFAULT,),
        doc="For latent consistency models only, arXiv:2310.04378.",
    ),
    Sampler(
        name="tcd", label="TCD", scheduler="TCDScheduler", schedules=(DEFAULT,), takes_eta=True,
        doc="For trajectory consistency models only, arXiv:2402.19159.",
    ),
    Sampler(
        name="flow_euler", label="Euler (flow matching)",
        scheduler="FlowMatchEulerDiscreteScheduler",
        schedules=(DEFAULT, "karras", "exponential", "beta"), family="flow",
        doc="Euler on the straight path of flow matching, arXiv:2210.02747.",
    ),
    Sampler(
        name="flow_heun", label="Heun (flow matching)", scheduler="FlowMatchHeunDiscreteScheduler",
        schedules=(DEFAULT,), family="flow", evaluations="2n-1",
        doc="Heun on the path of flow matching.",
    ),
    Sampler(
        name="dpm_fast", label="DPM fast", doc="DPM-Solver-fast of k-diffusion.",
        refusal="diffusers has no DPM fast and no near relative of it, and no table of it is "
        "written",
    ),
    Sampler(
        name="dpm_adaptive", label="DPM adaptive", doc="DPM-Solver-12 and -23 with adaptive steps.",
        refusal="its number of steps depends on the picture, which no batch can share and no table "
        "can hold",
    ),
)  # fmt: skip

SAMPLERS: Mapping[str, Sampler] = MappingProxyType({entry.name: entry for entry in _SAMPLERS})
"""Every sampler the farm knows by name, in the order of `farm samplers`."""
SIGMA_SCHEDULES: Mapping[str, SigmaSchedule] = MappingProxyType(
    {entry.name: entry for entry in _SCHEDULES}
)
"""Every sigma schedule the farm knows by name."""


def _normalise(text: str) -> str:
    """Return `text` without what people spell differently: case, spaces, dashes, underscores."""
    return "".join(c for c in text.lower().replace("++", "pp") if c.isalnum())


def _names(entries: Iterable[Sampler | SigmaSchedule]) -> dict[str, str]:
    return {
        _normalise(spelling): entry.name
        for entry in entries
        for spelling in (entry.label, *entry.aliases, entry.name)
    }


_SAMPLER_NAMES = _names(_SAMPLERS)
_SCHEDULE_NAMES = _names(_SCHEDULES)


def parse_schedule(text: str) -> str:
    """Return the name of the schedule that `text` means (`Karras`, `SGM Uniform`, `automatic`).

    Raises:
        ValueError: no schedule has that name; the message suggests the nearest.
    """
    if name := _SCHEDULE_NAMES.get(_normalise(text)):
        return name
    raise ValueError(_unknown("sigma schedule", text, SIGMA_SCHEDULES.values()))


def parse_sampler(text: str) -> tuple[str, str | None]:
    """Return the sampler that `text` means, and the schedule if the name carries one.

    `DPM++ 2M Karras`, as A1111 wrote it before 1.9, is `("dpmpp_2m", "karras")`; a plain name says
    nothing about the schedule.

    Raises:
        ValueError: no sampler has that name; the message suggests the nearest.
    """
    spelling = _normalise(text)
    if name := _SAMPLER_NAMES.get(spelling):
        return name, None
    for suffix, schedule in _SCHEDULE_NAMES.items():
        if (base := spelling.removesuffix(suffix)) != spelling and base in _SAMPLER_NAMES:
            return _SAMPLER_NAMES[base], schedule
    raise ValueError(_unknown("sampler", text, SAMPLERS.values()))


def _unknown(noun: str, text: str, entries: Iterable[Sampler | SigmaSchedule]) -> str:
    entries = list(entries)
    spellings = [word for entry in entries for word in (entry.name, entry.label, *entry.aliases)]
    hint = suggest(text, spellings) or "`farm samplers` lists them"
    return f"unknown {noun} {text!r}; {hint}"


def in_few_words(schedules: Sequence[str], write: Callable[[str], str] = str) -> str:
    """Return sigma schedules as people would say them: `all`, `all but karras`, `none`.

    `write` puts a name into words.
    """
    lacking = [name for name in SIGMA_SCHEDULES if name not in schedules]
    if not lacking:
        return "all"
    if not schedules:
        return "none"
    if len(lacking) < len(schedules):
        return f"all but {', '.join(map(write, lacking))}"
    return ", ".join(map(write, schedules))


def refuse(*, backend: str, sampler: str, sigma_schedule: str) -> str | None:
    """Return why a backend that runs models cannot do this pair, or None if it can."""
    entry = SAMPLERS[sampler]
    can = entry.schedules_on(backend)
    if not can:
        return f"backend {backend} cannot do sampler '{sampler}': {entry.refusal}"
    if sigma_schedule not in can:
        return (
            f"backend {backend} cannot do sampler '{sampler}' with sigma_schedule "
            f"'{sigma_schedule}': {entry.scheduler} has no such option (it can do: "
            f"{', '.join(can)})"
        )
    return None


def table_backends_can(*, sampler: str, sigma_schedule: str) -> bool:
    """Return whether backends that render from tables can do this pair."""
    return sigma_schedule in SAMPLERS[sampler].schedules_on("torch")
