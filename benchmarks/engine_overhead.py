"""What the farm itself costs an image: everything but painting, encoding and writing it.

The pattern renderer paints 128 x 128 pictures in no time to speak of; two Ray workers write them as
PNG. So what is left is ours: planning, leasing, messages, rows, parts, digests. Processor time is
what counts here, summed over driver and workers: it is the same on a busy machine, where wall time
is not. The processor time of encoding and writing, measured in the threads that do it, and of
painting, measured by itself, are taken off. Goal: 1 ms an image.

    python benchmarks/engine_overhead.py [--images N] [--workers N]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import psutil

import farm
from farm import engine
from farm.engine.events import ChunkDone, WorkerReady
from farm.grid import TaskSpace
from farm.manifest import Job
from farm.render.pattern import PatternRenderer
from farm.store import Store

GOAL_MS = 1.0
SAMPLE = 500
JOB = """\
name: overhead
output: {output}
backend: pattern
defaults: {{height: 128, width: 128}}
matrix:
  prompt: [a cat, a dog, a bird, a fish, a fox]
  guidance_scale: [1.0, 4.0]
  seed: 1..{seeds}
"""


def job_in(folder: Path, images: int) -> Job:
    """Return a job of at least `images` pictures that writes below `folder`."""
    path = folder / "overhead.yaml"
    path.write_text(JOB.format(output=folder / "out", seeds=-(-images // 10)), encoding="utf-8")
    return farm.load_job(path)


def measure_run(job: Job, *, workers: int) -> dict[str, float]:
    """Render `job` through Ray; return wall and processor time an image, milliseconds."""
    store = Store.open(job.output, create=True)
    executor, _ = engine.choose_executor("ray", workers=workers)
    me = psutil.Process()
    ready = done = 0
    writing = 0.0
    for event in engine.run(farm.plan(job), job=job, store=store, executor=executor):
        if isinstance(event, WorkerReady):
            ready += 1
            if ready == workers:  # what came before is Ray's start and the workers' imports
                began, done_before, writing = time.perf_counter(), done, 0.0
                driver, at_start = _processor_seconds(me), _workers(me)
        elif isinstance(event, ChunkDone):
            done += event.rendered
            writing += event.write_seconds
            ended, at_end = time.perf_counter(), _workers(me)
    images = done - done_before
    in_workers = sum(seconds - at_start[pid] for pid, seconds in at_end.items())
    return {
        "images": images,
        "wall_ms": (ended - began) / images * 1e3,
        "driver_ms": (_processor_seconds(me) - driver) / images * 1e3,
        "workers_ms": in_workers / images * 1e3,
        "encode_and_write_ms": writing / images * 1e3,
    }


def _workers(me: psutil.Process) -> dict[int, float]:
    """Return the processor time that each Ray actor has used, seconds by process id."""
    return {
        child.pid: _processor_seconds(child)
        for child in me.children(recursive=True)
        if child.name().startswith("ray::Actor")
    }


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def measure_painting(space: TaskSpace) -> float:
    """Return the processor time of painting one picture, milliseconds."""
    tasks = list(islice(space, SAMPLE))
    started = time.process_time()
    for _ in PatternRenderer().render(iter(tasks)):
        pass
    return (time.process_time() - started) / SAMPLE * 1e3


def main() -> int:
    """Measure, and print a table for people and a line for machines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = job_in(folder, options.images)
        seen = measure_run(job, workers=options.workers)
        seen["paint_ms"] = measure_painting(farm.expand(job))
    in_all = seen["driver_ms"] + seen["workers_ms"]
    seen["processor_ms"] = in_all
    seen["overhead_ms"] = in_all - seen["paint_ms"] - seen["encode_and_write_ms"]
    print(f"{seen['images']:,.0f} images of 128 x 128 as PNG, {options.workers} Ray workers")
    print(f"{'':34} ms an image")
    for label, key in (
        ("wall time, in all", "wall_ms"),
        ("processor time, in all", "processor_ms"),
        ("  in the driver", "driver_ms"),
        ("  in the workers", "workers_ms"),
        ("    painting", "paint_ms"),
        ("    encoding and writing", "encode_and_write_ms"),
    ):
        print(f"{label:34} {seen[key]:8.3f}")
    print(f"{'the farm itself':34} {seen['overhead_ms']:8.3f}  (goal {GOAL_MS:g})")
    print(json.dumps({"benchmark": "engine_overhead", **seen}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
