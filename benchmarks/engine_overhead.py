"""What the farm itself costs an image: everything but painting, encoding and writing it.

The pattern renderer paints 128 x 128 pictures in no time to speak of; two Ray workers write them as
PNG. So what is left is ours: planning, leasing, messages, rows, parts, digests. Processor time is
what counts here, summed over driver and workers: it is the same on a busy machine, where wall time
is not. Encoding, writing and painting are measured by themselves, in one thread, and taken off.
Goal: 1 ms an image.

    python benchmarks/engine_overhead.py [--images N] [--workers N]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import psutil

import farm
from farm import engine
from farm.engine.events import ChunkDone, RunFinished, WorkerReady
from farm.grid import TaskSpace
from farm.manifest import Job
from farm.render.pattern import PatternRenderer
from farm.store import Store, encode_image, image_suffix, row_for
from farm.task import Rendered

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
    spent: dict[int, float] = {}
    at_start: dict[int, float] = {}
    ready = began = 0.0
    driver = _processor_seconds(me)
    for event in engine.run(farm.plan(job), job=job, store=store, executor=executor):
        match event:
            case WorkerReady():
                ready = time.perf_counter()
                began = began or ready
                at_start |= {k: v for k, v in _workers(me).items() if k not in at_start}
            case ChunkDone():
                spent |= _workers(me)
                ended = time.perf_counter()
            case RunFinished(report=report):
                pass
    images = report.rendered
    in_workers = sum(seconds - at_start.get(pid, 0.0) for pid, seconds in spent.items())
    return {
        "images": images,
        "wall_ms": (ended - began) / images * 1e3,
        "driver_ms": (_processor_seconds(me) - driver) / images * 1e3,
        "workers_ms": in_workers / images * 1e3,
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


def measure_picture(space: TaskSpace, job: Job, folder: Path) -> dict[str, float]:
    """Return the processor time of painting, and of encoding and writing, one picture, in ms."""
    store = Store.open(folder / "alone", create=True)
    tasks = list(islice(space, SAMPLE))
    started = time.process_time()
    painted = [r for r in PatternRenderer().render(iter(tasks)) if isinstance(r, Rendered)]
    paint = time.process_time() - started
    now = datetime.now(UTC)
    rows = [
        row_for(
            result, job=job.name, image=None, run=1, attempt=1, worker="w", node="n",
            started_at=now, finished_at=now,
        )
        for result in painted
    ]  # fmt: skip
    started = time.process_time()
    for result, row in zip(painted, rows, strict=True):
        data = encode_image(result.pixels, job.image, row)
        store.put_image(result.task, data, suffix=image_suffix(job.image))
    write = time.process_time() - started
    return {"paint_ms": paint / SAMPLE * 1e3, "encode_and_write_ms": write / SAMPLE * 1e3}


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
        seen |= measure_picture(farm.expand(job), job, folder)
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
