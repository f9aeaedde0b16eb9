"""What planning a large matrix costs: seconds and memory, from the job file to the plan.

The matrix is a product of subjects x styles x guidance scales x samplers x seeds, whose prompt is a
template of the first two. Goals: ten million cells in 10 s and 200 MB, in time that grows no faster
than the cells; and a finished job of one million tasks planned again in 10 s. Each line runs in a
fresh process. `wall` and `cpu` are of the work alone, `peak` is the process's largest resident
memory in all, with Python and numpy.

    python benchmarks/plan_grid.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from farm import manifest, planner
from farm.grid import Digests, TaskSpace, expand
from farm.manifest import Job

GOALS = {"plan 10M": (10.0, 200.0), "plan 10M, exclude": (10.0, 200.0), "re-plan 1M": (10.0, None)}
"""Wall seconds and peak megabytes."""


def job(cells: int, *, more: str = "") -> Job:
    """Return a job of `cells` cells, a multiple of 10,000."""
    subjects = max(1, cells // 100_000)
    seeds = cells // (1000 * subjects)
    names = ", ".join(f"subject number {number}" for number in range(subjects))
    text = f"""
name: large
matrix:
  subject: [{names}]
  style: [oil, ink, pixel art, 3d render, clay, chalk, neon, paper, felt, glass]
  prompt: "a picture of ${{subject}} in the style of ${{style}}, centred, on a white background"
  guidance_scale: 1..10
  sampler: [euler, euler_a, heun, lms, ddim, ddpm, unipc, deis, dpmpp_2m, dpm2]
  seed: 1..{seeds}
{more}"""
    return manifest.load("large.yaml", read=lambda _: text)


def digests(space: TaskSpace) -> Digests:
    """Return the digests of all tasks of a space."""
    return space.digests(0, len(space))


def plan(job: Job, *, finished: bool = False) -> Callable[[], object]:
    """Return the work of planning `job`, on an output that holds nothing or everything."""
    nothing = digests(expand(job)[:0])
    rendered = digests(expand(job)) if finished else nothing
    wanted = 0 if finished else len(expand(job))

    def work() -> object:
        found = planner.plan(expand(job), job=job, rendered=rendered, failed=nothing)
        assert found.to_render == wanted
        return found

    return work


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one piece of work cost."""

    wall_s: float
    cpu_s: float
    peak_mb: float


EXCLUDE = "exclude: [{style: clay, sampler: heun}, 'guidance_scale > 8 and seed > 50']"
WORK: dict[str, Callable[[], Callable[[], object]]] = {
    "plan 10k": lambda: plan(job(10_000)),
    "plan 100k": lambda: plan(job(100_000)),
    "plan 1M": lambda: plan(job(1_000_000)),
    "plan 10M": lambda: plan(job(10_000_000)),
    "plan 10M, exclude": lambda: plan(job(10_000_000, more=EXCLUDE)),
    "re-plan 1M": lambda: plan(job(1_000_000), finished=True),
    "10M digests": lambda: digest_by_block,
}


QUICK = ("plan 10k", "plan 100k")


def digest_by_block() -> None:
    """Compute the digests of ten million tasks, a block at a time."""
    space = expand(job(10_000_000))
    for start, stop in space.blocks():
        space.digests(start, stop)


def measure(name: str) -> Measured:
    """Do one piece of work in this process."""
    work = WORK[name]()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Measured(
        wall_s=round(time.perf_counter() - wall, 3),
        cpu_s=round(time.process_time() - cpu, 3),
        peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )


def main() -> None:
    """Measure each piece of work in its own process, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", nargs="?", choices=WORK, help="measure this alone, in this process")
    parser.add_argument("--quick", action="store_true", help="only the small plans")
    options = parser.parse_args()
    if options.work:
        found = measure(options.work)
        print(json.dumps([found.wall_s, found.cpu_s, found.peak_mb]))
        return
    print(f"{'work':20} {'wall':>8} {'cpu':>8} {'peak':>8}   goal")
    results = {}
    for name in QUICK if options.quick else WORK:
        told = subprocess.run(
            [sys.executable, __file__, name], check=True, stdout=subprocess.PIPE, text=True
        )
        wall_s, cpu_s, peak_mb = json.loads(told.stdout)
        seconds, megabytes = GOALS.get(name, (None, None))
        goal = f"{seconds:g} s" if seconds else ""
        goal += f", {megabytes:g} MB" if megabytes else ""
        print(f"{name:20} {wall_s:7.2f}s {cpu_s:7.2f}s {peak_mb:6.0f}MB   {goal}")
        results[name] = {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb}
    print(json.dumps({"benchmark": "plan_grid", **results}))


if __name__ == "__main__":
    main()
