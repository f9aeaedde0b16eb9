"""What compiling a sampler to a table costs: milliseconds for each sampler, at 20 and at 50 steps.

The model is Stable Diffusion's training schedule; no network runs. Goal: a table in under 100 ms.
`loop` is diffusers' own loop over the same sampler on 64 values in float32, without a network: what
its pipeline spends on the scheduler for every batch, where a table is compiled once. Each figure is
the slower of two sigma schedules, each the best of several runs.

    python benchmarks/tables.py [--quick]
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import diffusers
import torch

from farm.render.scheduling import configure_scheduler, takes
from farm.render.tables import table_for
from farm.samplers import DEFAULT, SAMPLERS, Sampler

GOAL_MS = 100.0
REPEATS = 5
STEPS = (20, 50)


def models(family: str) -> Iterator[Any]:
    """Yield what models of a family ship with, each trained a little differently.

    So no table is there already.
    """
    for i in count():
        if family == "flow":
            yield diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0 + i * 1e-9)
        else:
            yield diffusers.DDIMScheduler(
                beta_start=0.00085, beta_end=0.012 + i * 1e-9, beta_schedule="scaled_linear"
            )


@dataclass(frozen=True, slots=True)
class Case:
    """One sampler at one step count."""

    entry: Sampler
    schedule: str
    steps: int

    def compile(self, original: Any) -> object:  # noqa: ANN401 - diffusers ships no types
        """Return the table for a model."""
        return table_for(
            original, sampler=self.entry.name, sigma_schedule=self.schedule, steps=self.steps
        )

    def loop(self, original: Any) -> object:  # noqa: ANN401 - as above
        """Run diffusers' scheduler as its pipeline would, with nothing in place of the network."""
        scheduler = configure_scheduler(
            original, sampler=self.entry.name, sigma_schedule=self.schedule
        )
        scheduler.set_timesteps(self.steps)
        generator = torch.Generator().manual_seed(0)
        extra = {"generator": generator} if takes(type(scheduler).step, "generator") else {}
        x = torch.randn(1, 4, 4, 4, generator=generator)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if self.entry.family == "diffusion" else x
            x = scheduler.step(scaled, t, x, **extra, return_dict=False)[0]
        return x

    def best_ms(self, work: Callable[[Any], object], repeats: int) -> float:
        """Return the shortest of several runs on models of this sampler's family."""
        shortest = float("inf")
        for _, original in zip(range(repeats), models(self.entry.family), strict=False):
            started = time.perf_counter()
            work(original)
            shortest = min(shortest, time.perf_counter() - started)
        return shortest * 1e3


def main() -> None:
    """Print a table and one JSON line."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    Case(SAMPLERS["euler"], "beta", 4).compile(next(models("diffusion")))  # imports SciPy
    repeats = 1 if "--quick" in sys.argv[1:] else REPEATS
    print(f"{'sampler':18} {'20 steps':>10} {'50 steps':>10} {'loop, 50':>10}")
    slowest = dict.fromkeys(STEPS, 0.0)
    for entry in SAMPLERS.values():
        can = entry.schedules_on("torch")
        if not can or entry.name == DEFAULT:
            continue
        wanted = {can[0], "karras" if "karras" in can else can[-1]}
        line = f"{entry.name:18}"
        for steps in STEPS:
            cases = [Case(entry, schedule, steps) for schedule in wanted]
            ms = max(case.best_ms(case.compile, repeats) for case in cases)
            slowest[steps] = max(slowest[steps], ms)
            line += f" {ms:7.1f} ms"
        if entry.schedules_on("diffusers"):
            case = Case(entry, can[0], STEPS[-1])
            line += f" {case.best_ms(case.loop, repeats):7.1f} ms"
        print(line)
    print(f"slowest: {slowest[20]:.0f} ms and {slowest[50]:.0f} ms; goal {GOAL_MS:.0f} ms")
    found = {f"slowest_{steps}_steps_ms": round(ms, 1) for steps, ms in slowest.items()}
    print(json.dumps({"benchmark": "tables", "goal_ms": GOAL_MS, **found}))


if __name__ == "__main__":
    main()
