"""Whether a mixed grid runs at the machine's limit: the lane against diffusers, pixels first.

Contenders, on the same weights, threads, noise and format of image files:

- R: the networks alone, at the batch size at which a row takes least; the denominators.
- N: what one writes first: one call of the pipeline an image, `images[0].save(...)`. Its images do
  not depend on each other, so every seventh is drawn, and the time counted for all by evaluations.
- H: what one writes next: one call for each (cfg, sampler, steps, size), in batches of R's size.
- L: backend `torch`: the tasks as a stream in the matrix's order, images saved by two threads.

Workloads: W1 is one prompt and many seeds; W2 is prompts x seeds x cfg (1.0 among them) x two
samplers; W3 is three models x two sizes x step counts x seeds, model by model, and every contender
opens each model in its own time. Each on the embedded model (W3 also on two like it, made here
from its weights and a little noise), and W2 on *mini*, a random-weight model of 20 million
parameters that is made here.

First the pictures: those of H and L must equal N's (PSNR of 40 dB or more, each), or no figure is
printed. Then, for each contender, images per second and *efficiency*: what its evaluations and
decodings take in R, over what it took. Goals for L: efficiency 0.95 on W1 and 0.90 on W2 and W3,
twice N on W2, 1.2 times H on W2 and W3, and no more evaluations than sharing needs. Prompts and
seeds differ from repetition to repetition; each contender's figure is the median of its own.

    python benchmarks/lane.py [--quick] [--repeats N] [--images N] [--threads N]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from farm.render import open_renderer
from farm.render.difference import psnr
from farm.render.lane.renderer import LaneRenderer
from farm.render.loading import LoadedPipeline, load_pipeline
from farm.render.noise import float32_noise, generators_of
from farm.render.scheduling import build_scheduler
from farm.render.tables import table_for
from farm.samplers import SAMPLERS
from farm.task import PipelineKey, Rendered, TaskSpec, pipeline_key

DECIBELS = 40.0
SAMPLED = 7
"""Of so many images N draws one: prime to the settings that vary, so that it meets all of them."""
BATCHES = (1, 2, 4, 8, 16, 32)
Pixels = NDArray[np.uint8]
Pictures = Mapping[TaskSpec, Pixels]


# --- workloads -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A grid of tasks, and what the farm aims at on it."""

    name: str
    tasks: Sequence[TaskSpec]
    efficiency: float
    against_naive: float | None = None
    against_hand: float | None = None

    @property
    def is_of_several_models(self) -> bool:
        """Every contender opens its models while the clock runs."""
        return len({task.model for task in self.tasks}) > 1

    def again(self, repetition: int) -> Sequence[TaskSpec]:
        """Return the same grid with other prompts and seeds, so that nothing is remembered."""
        return [
            replace(task, prompt=f"{task.prompt} {repetition}", seed=task.seed + 1000 * repetition)
            for task in self.tasks
        ]


def workloads(models: Sequence[str], *, images: int, steps: int, side: int) -> list[Workload]:
    """Return W1, W2 and W3 with about `images` images each.

    Args:
        models: whose; W1 and W2 use the first.
        images: how many; W2 takes a multiple of 8, at most 256, W3 of 8 times the models.
        steps: of W1 and W2; W3 takes 2/3, 1, 5/3 and 5/2 of them, as 8, 12, 20 and 30 are to 12.
        side: of an image in pixels; W3 takes also 3/4 of it.
    """
    base = TaskSpec(model=models[0], backend="torch", dtype="float32", num_inference_steps=steps,
                    height=side, width=side, sampler="dpmpp_2m", guidance_scale=4.0)  # fmt: skip
    things = ["sword", "shield", "health potion", "key", "boat", "tree", "cat", "house"]
    seeds = min(4, math.isqrt(max(1, images // 8)))
    w2 = itertools.product(
        [f"a {thing}" for thing in things[: max(1, images // 8 // seeds)]],
        range(seeds),
        (1.0, 2.5, 4.0, 7.5),
        ("euler_a", "dpmpp_2m"),
    )
    counts = [round(steps * share) for share in (2 / 3, 1, 5 / 3, 5 / 2)]
    w3 = itertools.product(
        models,
        range(max(1, images // 8 // len(models))),
        counts,
        (side, side * 3 // 32 * 8),
    )
    return [
        Workload(
            name="W1",
            tasks=[replace(base, prompt="a sword", seed=seed) for seed in range(images)],
            efficiency=0.95,
        ),
        Workload(
            name="W2",
            tasks=[
                replace(base, prompt=prompt, seed=seed, guidance_scale=cfg, sampler=sampler)
                for prompt, seed, cfg, sampler in w2
            ],
            efficiency=0.90,
            against_naive=2.0,
            against_hand=1.2,
        ),
        Workload(
            name="W3",
            tasks=[
                replace(base, model=model, prompt="a sword", seed=seed, num_inference_steps=count,
                        height=size, width=size)
                for model, seed, count, size in w3
            ],
            efficiency=0.90,
            against_hand=1.2,
        ),
    ]  # fmt: skip


def evaluations(task: TaskSpec) -> int:
    """Return the network evaluations, of one row each, that a picture takes."""
    count = SAMPLERS[task.sampler].count_evaluations(task.num_inference_steps)
    return count * (2 if task.guidance_scale > 1 else 1)


def shareable(tasks: Sequence[TaskSpec], scheduler: Any) -> int:  # noqa: ANN401 - diffusers' own
    """Return how many first questions of `tasks` repeat another's.

    A first question is given by the noise, what scales it, the timestep and the text (the
    derivation in section C of the research on performance).
    """
    asked: list[tuple[object, ...]] = []
    for task in tasks:
        table = table_for(
            scheduler,
            sampler=task.sampler,
            sigma_schedule=task.sigma_schedule,
            steps=task.num_inference_steps,
        )
        scale = np.float32(table.inputs[0] @ table.initial)
        size = (task.height, task.width)
        place = (task.model, task.seed, *size, float(table.timesteps[0]), float(scale))
        asked.append((*place, task.prompt))
        if task.guidance_scale > 1:
            asked.append((*place, None))
    return len(asked) - len(set(asked))


# --- models --------------------------------------------------------------------------------------


def make_mini(folder: Path) -> str:
    """Make a model of Stable Diffusion's shape with 20 million random weights; return its path.

    It reads text with the encoder of the embedded model, and its pictures are noise.
    """
    sprites = load_pipeline(PipelineKey("diffusers", "builtin:sprites", "float32"), device="cpu")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, block_out_channels=(64, 128, 256),
        layers_per_block=2, norm_num_groups=16, attention_head_dim=8,
        cross_attention_dim=sprites.pipe.unet.config.cross_attention_dim,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 32, 64, 64), norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
    )  # fmt: skip
    diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=sprites.pipe.text_encoder,
        tokenizer=sprites.pipe.tokenizer, scheduler=sprites.pipe.scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def make_like(model: str, folder: Path) -> str:
    """Make a model that differs from `model` by a little noise in its UNet; return its path."""
    pipe = load_pipeline(PipelineKey("diffusers", model, "float32"), device="cpu").pipe
    torch.manual_seed(len(folder.name))
    with torch.no_grad():
        for weights in pipe.unet.parameters():
            weights.mul_(1 + 0.01 * torch.randn_like(weights))
    pipe.save_pretrained(folder)
    return str(folder)


# --- R -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something takes, at least."""

    seconds: float
    cpu_seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds + other.seconds, cpu_seconds=self.cpu_seconds + other.cpu_seconds
        )

    def __mul__(self, times: float) -> Cost:
        return Cost(seconds=self.seconds * times, cpu_seconds=self.cpu_seconds * times)

    def least(self, other: Cost) -> Cost:
        """Return the less of each."""
        return Cost(
            seconds=min(self.seconds, other.seconds),
            cpu_seconds=min(self.cpu_seconds, other.cpu_seconds),
        )


def since(started: float, busy: float) -> Cost:
    """Return what has been spent since the clocks showed `started` and `busy`."""
    return Cost(seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - busy)


NOTHING = Cost(seconds=0.0, cpu_seconds=0.0)
FOREVER = Cost(seconds=math.inf, cpu_seconds=math.inf)


class Limit:
    """R at one picture size: what a row takes at the batch size at which it takes least."""

    def __init__(self, loaded: LoadedPipeline, side: int, *, budget_s: float) -> None:
        """Measure a first time; `budget_s` is for each network, in seconds."""
        pipe = loaded.pipe
        latent = side // pipe.vae_scale_factor
        channels = pipe.unet.config.in_channels
        width = pipe.unet.config.cross_attention_dim
        tokens = pipe.tokenizer.model_max_length

        def denoise(rows: int) -> None:
            pipe.unet(
                torch.randn(rows, channels, latent, latent), torch.full((rows,), 500.0),
                encoder_hidden_states=torch.randn(rows, tokens, width),
            )  # fmt: skip

        def decode(rows: int) -> None:
            pipe.vae.decode(torch.randn(rows, channels, latent, latent))

        self._calls = (denoise, decode)
        self._budget_s = budget_s
        self.network = self.decoder = FOREVER
        self.batches = (1, 1)
        self.measure()

    def measure(self) -> None:
        """Measure again, at every batch size; what takes less counts.

        So a disturbance of one measurement neither passes for a slow network nor decides for good
        which batch size is the best.
        """
        network, decoder = (cost_of_row(call, BATCHES, self._budget_s) for call in self._calls)
        self.batches = (best_of(network), best_of(decoder))
        self.network = self.network.least(network[self.batches[0]])
        self.decoder = self.decoder.least(decoder[self.batches[1]])


def best_of(costs: Mapping[int, Cost]) -> int:
    """Return the batch size at which a row takes least."""
    return min(costs, key=lambda rows: costs[rows].seconds)


@torch.inference_mode()
def cost_of_row(
    call: Callable[[int], None], batches: Sequence[int], budget_s: float
) -> dict[int, Cost]:
    """Return the least cost of a row by batch size, spending about `budget_s` seconds in all."""
    found: dict[int, Cost] = {}
    for rows in batches:
        call(rows)
        least, spent, calls = FOREVER, 0.0, 0
        while calls < 2 or spent < budget_s / len(batches):  # noqa: PLR2004 - one has no least
            started, busy = time.perf_counter(), time.process_time()
            call(rows)
            took = since(started, busy)
            least = least.least(took * (1 / rows))
            spent, calls = spent + took.seconds, calls + 1
        found[rows] = least
        if spent > budget_s:
            break
    return found


# --- contenders ----------------------------------------------------------------------------------


class Bench:
    """The contenders, each with one model open at a time."""

    def __init__(self, folder: Path, *, batch: int, threads: int) -> None:
        """Open nothing yet.

        Args:
            folder: where images go.
            batch: rows a call, of H.
            threads: of every contender.
        """
        self._folder = folder
        self._batch = batch
        self._threads = threads
        self._loaded: tuple[str, LoadedPipeline, Any] | None = None
        self._lane: tuple[PipelineKey, LaneRenderer] | None = None
        self.opening = NOTHING
        """What the contender that draws has spent on opening models."""
        self.executed = 0
        """Evaluations that the lane has made."""

    def shut(self) -> None:
        """Close what is open, so that the next contender begins with nothing."""
        if self._lane is not None:
            self._lane[1].close()
        self._lane = self._loaded = None
        self.opening = NOTHING

    def naive(self, tasks: Sequence[TaskSpec]) -> Pictures:
        """N."""
        pictures = {}
        for number, task in enumerate(tasks):
            [image] = self._call_pipeline([task])
            image.save(self._folder / f"n-{number}.png")
            pictures[task] = np.asarray(image)
        return pictures

    def by_hand(self, tasks: Sequence[TaskSpec]) -> Pictures:
        """H."""
        groups: dict[tuple[object, ...], list[TaskSpec]] = {}
        for task in tasks:
            settings = (task.guidance_scale, task.sampler, task.num_inference_steps, task.height)
            groups.setdefault((task.model, *settings), []).append(task)
        pictures: dict[TaskSpec, Pixels] = {}
        for group in groups.values():
            rows = 2 if group[0].guidance_scale > 1 else 1
            size = max(1, self._batch // rows)
            for start in range(0, len(group), size):
                some = group[start : start + size]
                for task, image in zip(some, self._call_pipeline(some), strict=True):
                    image.save(self._folder / f"h-{len(pictures)}.png")
                    pictures[task] = np.asarray(image)
        return pictures

    def in_lane(self, tasks: Sequence[TaskSpec]) -> Pictures:
        """L."""
        pictures: dict[TaskSpec, Pixels] = {}
        with ThreadPoolExecutor(2) as writers:
            for key, some in itertools.groupby(tasks, pipeline_key):
                lane = self._lane_of(key)
                before = lane.tally.executed
                for result in lane.render(some):
                    assert isinstance(result, Rendered), result
                    path = self._folder / f"l-{len(pictures)}.png"
                    writers.submit(Image.fromarray(result.pixels).save, path)
                    pictures[result.task] = result.pixels
                self.executed += lane.tally.executed - before
        return pictures

    def _call_pipeline(self, tasks: Sequence[TaskSpec]) -> list[Any]:
        """Return diffusers' pictures of tasks with equal settings."""
        task = tasks[0]
        if self._loaded is None or self._loaded[0] != task.model:
            with self._opening():
                self._loaded = None
                key = PipelineKey("diffusers", task.model, task.dtype)
                loaded = load_pipeline(key, device="cpu")
                self._loaded = (task.model, loaded, loaded.pipe.scheduler)
        _, loaded, scheduler = self._loaded
        loaded.pipe.scheduler = build_scheduler(scheduler, task)
        with float32_noise(loaded.pipe, loaded.pipe.scheduler):
            images: list[Any] = loaded.pipe(
                prompt=[one.prompt for one in tasks],
                generator=generators_of(tasks),
                num_inference_steps=task.num_inference_steps,
                guidance_scale=task.guidance_scale,
                height=task.height,
                width=task.width,
            ).images
        return images

    def _lane_of(self, key: PipelineKey) -> LaneRenderer:
        if self._lane is None or self._lane[0] != key:
            with self._opening():
                if self._lane is not None:
                    self._lane[1].close()
                lane = open_renderer(key, device="cpu", threads=self._threads)
                assert isinstance(lane, LaneRenderer)
                self._lane = (key, lane)
        return self._lane[1]

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        started, busy = time.perf_counter(), time.process_time()
        yield
        self.opening += since(started, busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One contender at one repetition of a workload."""

    took: Cost
    executed: int
    opening: Cost
    """What opening models took of it."""


def measure(
    bench: Bench, workload: Workload, *, repeats: int, sampled: int
) -> dict[str, list[Outcome]]:
    """Run every contender in turn, `repeats` times; N draws one image of `sampled`.

    Raises:
        SystemExit: the pictures differ; nothing is to be measured.
    """
    contenders = {"N": bench.naive, "H": bench.by_hand, "L": bench.in_lane}
    found: dict[str, list[Outcome]] = {name: [] for name in contenders}
    for repetition in range(1, repeats + 1):
        tasks = workload.again(repetition)
        pictures: dict[str, Pictures] = {}
        for name in rotated(list(contenders), repetition - 1):
            if workload.is_of_several_models:
                bench.shut()
            some = tasks[::sampled] if name == "N" else tasks
            executed = sum(map(evaluations, tasks))
            bench.opening, before = NOTHING, bench.executed
            started, busy = time.perf_counter(), time.process_time()
            pictures[name] = contenders[name](some)
            # Models are opened once, however few of the images are drawn.
            drawing = since(started, busy) + bench.opening * -1
            took = bench.opening + drawing * (executed / sum(map(evaluations, some)))
            if name == "L":
                executed = bench.executed - before
            found[name].append(Outcome(took=took, executed=executed, opening=bench.opening))
        check(pictures, workload)
    return found


def check(pictures: Mapping[str, Pictures], workload: Workload) -> None:
    """Compare the pictures of H and L with N's.

    Raises:
        SystemExit: one of them is another picture.
    """
    for name in ("H", "L"):
        for task, reference in pictures["N"].items():
            likeness = psnr(pictures[name][task], reference)
            if likeness < DECIBELS:
                raise SystemExit(
                    f"{workload.name}: {name} draws another picture than N ({likeness:.1f} dB): "
                    f"{task}\nno figures"
                )


def rotated(names: Sequence[str], by: int) -> Iterator[str]:
    """Yield `names` beginning at another one each time: no contender is always first."""
    for i in range(len(names)):
        yield names[(i + by) % len(names)]


# --- the report ----------------------------------------------------------------------------------


def run_model(
    name: str, grids: Sequence[Workload], *, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure workloads, the first of them of one model, and print their lines."""
    task = grids[0].tasks[0]
    loaded = load_pipeline(PipelineKey("diffusers", task.model, "float32"), device="cpu")
    scheduler = loaded.pipe.scheduler
    sides = sorted({one.height or 0 for grid in grids for one in grid.tasks})
    limits = {side: Limit(loaded, side, budget_s=arguments.limit_s) for side in sides}
    batch = max(limit.batches[0] for limit in limits.values())
    bench = Bench(folder, batch=batch, threads=arguments.threads)
    outcomes = {}
    for grid in grids:
        if not grid.is_of_several_models:
            # Caches, threads and the lane's search; these pictures are not asked for again.
            warmth = [replace(one, num_inference_steps=3) for one in grid.again(99)]
            bench.in_lane(warmth)
            bench.naive(warmth[:1])
        outcomes[grid.name] = measure(
            bench, grid, repeats=arguments.repeats, sampled=1 if arguments.quick else SAMPLED
        )
        for limit in limits.values():
            limit.measure()
    bench.shut()
    for side, limit in limits.items():
        print(
            f"{name} R, {side} px: {limit.network.seconds * 1e3:.2f} ms an evaluation at "
            f"{limit.batches[0]} rows, {limit.decoder.seconds * 1e3:.2f} ms a decoding at "
            f"{limit.batches[1]}"
        )
    return {grid.name: report(name, grid, outcomes[grid.name], limits, scheduler) for grid in grids}


def report(
    model: str,
    grid: Workload,
    outcomes: Mapping[str, Sequence[Outcome]],
    limits: Mapping[int, Limit],
    scheduler: Any,  # noqa: ANN401 - diffusers' own
) -> dict[str, Any]:
    """Print the lines of one workload and return its figures."""
    count = len(grid.tasks)
    required = sum(map(evaluations, grid.tasks))
    predicted = required - shareable(grid.again(1), scheduler)
    executed = {name: median(one.executed for one in each) for name, each in outcomes.items()}
    seconds = {name: median(one.took.seconds for one in each) for name, each in outcomes.items()}
    cpu = {name: median(one.took.cpu_seconds for one in each) for name, each in outcomes.items()}
    networks, decoders = NOTHING, NOTHING
    for task in grid.tasks:
        limit = limits[task.height or 0]
        networks += limit.network * evaluations(task)
        decoders += limit.decoder
    best = {name: networks * (executed[name] / required) + decoders for name in outcomes}
    efficiency = {name: best[name].seconds / seconds[name] for name in outcomes}
    of_cpu = {name: best[name].cpu_seconds / cpu[name] for name in outcomes}
    opening = {name: median(one.opening.seconds for one in each) for name, each in outcomes.items()}
    print(f"{model} {grid.name}: {count} images, pictures equal")
    for name in outcomes:
        print(
            f"    {name}  {count / seconds[name]:7.3f} images/s   "
            f"efficiency {efficiency[name]:5.3f}   "
            f"{cpu[name] / count:6.3f} CPU s an image, efficiency {of_cpu[name]:5.3f}"
            + (f"   {opening[name]:.1f} s to open models" if grid.is_of_several_models else "")
        )
    goals = {
        "efficiency": (efficiency["L"], grid.efficiency),
        "L/N": (seconds["N"] / seconds["L"], grid.against_naive),
        "L/H": (seconds["H"] / seconds["L"], grid.against_hand),
    }
    for name, (figure, goal) in goals.items():
        print(f"    {name} {figure:.3f}" + (f" (goal {goal:g})" if goal else ""))
    # Nothing is left to gain at an efficiency of 1.
    print(
        f"    at most, here: L/N {seconds['N'] / best['L'].seconds:.2f}, "
        f"L/H {seconds['H'] / best['L'].seconds:.2f}"
    )
    print(
        f"    in CPU seconds: L/N {cpu['N'] / cpu['L']:.3f}, L/H {cpu['H'] / cpu['L']:.3f}\n"
        f"    evaluations: {required} required, {executed['L']:.0f} executed, "
        f"{predicted} predicted ({executed['L'] / required - 1:+.1%})"
    )
    return {
        "images": count,
        "images_per_second": {name: round(count / each, 4) for name, each in seconds.items()},
        "efficiency": {name: round(each, 4) for name, each in efficiency.items()},
        "efficiency_of_cpu": {name: round(each, 4) for name, each in of_cpu.items()},
        "ratio_to_naive": round(seconds["N"] / seconds["L"], 3),
        "ratio_to_hand": round(seconds["H"] / seconds["L"], 3),
        "cpu_ratio_to_naive": round(cpu["N"] / cpu["L"], 3),
        "cpu_ratio_to_hand": round(cpu["H"] / cpu["L"], 3),
        "evaluations": {
            "required": required,
            "executed": round(executed["L"]),
            "predicted": predicted,
        },
    }


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small grids, once")
    parser.add_argument("--repeats", type=int, default=1, help="of every workload; default: 1")
    parser.add_argument("--images", type=int, help="images a workload; default: 256, quick: 16")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    found = parser.parse_args(words)
    found.images = found.images or (16 if found.quick else 256)
    found.limit_s = 1.0 if found.quick else 2.5
    return found


def main() -> None:
    """Measure both models; print tables and one JSON line."""
    arguments = parse(sys.argv[1:])
    torch.set_num_threads(arguments.threads)
    steps = 6 if arguments.quick else 12
    images = arguments.images
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        first = "builtin:sprites"
        models = [first, *(make_like(first, folder / name) for name in ("other", "another"))]
        sprites = workloads(models, images=images, steps=steps, side=128)
        found = {"sprites": run_model("sprites", sprites, folder=folder, arguments=arguments)}
        mini = workloads(
            [make_mini(folder / "mini")], images=16 if arguments.quick else 32,
            steps=3 if arguments.quick else 8, side=256,
        )  # fmt: skip
        found["mini"] = run_model("mini", mini[1:2], folder=folder, arguments=arguments)
    print(json.dumps({"benchmark": "lane", "threads": arguments.threads, **found}))


if __name__ == "__main__":
    main()
