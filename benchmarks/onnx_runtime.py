"""What ONNX Runtime buys: backend `onnx` against backend `torch`, on the same cells.

Contenders, on the same weights, threads, noise and sampler tables, pictures kept in memory:

- torch: backend `torch`, the lane with torch's networks.
- fp32: backend `onnx`, the bundle that first use makes.
- int8-dynamic, int8-static: bundles whose UNet was made with `--quantize`.

Workloads: W1 is one prompt and many seeds; W2 is prompts x seeds x cfg (1.0 among them) x two
samplers. Contenders take turns; the figure is the median over repetitions of images per second, and
its ratio to torch's of the same run. PSNR is against torch's pictures: the worst, and the mean (of
the mean squared error). Goals: 1.5 times torch with fp32, twice with int8 at 30 dB; an export of
the embedded model under 60 s; a session of its UNet under 2 s. Memory is the peak of a process of
its own that draws W1 with one contender, over what it had before it opened the model.

    python benchmarks/onnx_runtime.py [--quick] [--repeats N] [--images N] [--threads N] [--model M]
        [--side N] [--kinds KINDS]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farm.render import Renderer, open_renderer
from farm.render.difference import psnr
from farm.render.exporting import export_bundle
from farm.render.lane.onnx_runtime import choose_provider, open_session
from farm.task import PipelineKey, Rendered, TaskSpec

Pixels = NDArray[np.uint8]
KINDS = ("fp32", "int8-dynamic", "int8-static")
QUANTIZE = {"fp32": "none", "int8-dynamic": "dynamic", "int8-static": "static"}


def workloads(images: int, *, steps: int, side: int) -> Mapping[str, Sequence[TaskSpec]]:
    """Return W1 and W2 with about `images` images each."""
    base = TaskSpec(
        num_inference_steps=steps, height=side, width=side, sampler="dpmpp_2m", guidance_scale=4.0
    )
    things = ("sword", "shield", "health potion", "key")
    values = dict(base_fields(base))
    w1 = [TaskSpec(**{**values, "prompt": "a sword", "seed": seed}) for seed in range(images)]
    w2 = [
        TaskSpec(
            **{**values, "prompt": f"a {thing}", "seed": seed, "guidance_scale": cfg,
               "sampler": sampler}
        )
        for thing in things
        for seed in range(max(1, images // 32))
        for cfg in (1.0, 2.5, 4.0, 7.5)
        for sampler in ("euler_a", "dpmpp_2m")
    ]  # fmt: skip
    return {"W1": w1, "W2": w2[:images]}


def base_fields(task: TaskSpec) -> Mapping[str, Any]:
    """Return the fields of a task that are set here."""
    names = ("num_inference_steps", "height", "width", "sampler", "guidance_scale")
    return {name: getattr(task, name) for name in names}


def draw(renderer: Renderer, tasks: Sequence[TaskSpec]) -> tuple[float, dict[TaskSpec, Pixels]]:
    """Return the seconds that a stream of tasks takes, and its pictures."""
    started = time.perf_counter()
    results = list(renderer.render(iter(tasks)))
    seconds = time.perf_counter() - started
    drawn = {one.task: one.pixels for one in results if isinstance(one, Rendered)}
    if len(drawn) != len(tasks):
        sys.exit(f"not every picture was drawn: {[r for r in results if r.task not in drawn][:1]}")
    return seconds, drawn


def likeness(
    ours: Mapping[TaskSpec, Pixels], theirs: Mapping[TaskSpec, Pixels]
) -> tuple[float, float]:
    """Return the worst PSNR in dB, and that of the mean squared error."""
    found = [psnr(ours[task], theirs[task]) for task in theirs]
    mean = statistics.fmean(10 ** (-one / 10) for one in found)
    return min(found), -10 * math.log10(mean) if mean else math.inf


def peak_memory_mb(backend: str, model: str, arguments: argparse.Namespace) -> float:
    """Return what drawing W1 adds to the peak memory of a fresh process, in MB."""
    command = [
        sys.executable, __file__, "--memory-of", backend, "--model", model,
        "--images", str(arguments.images), "--threads", str(arguments.threads),
        "--side", str(arguments.side), "--steps", str(arguments.steps),
    ]  # fmt: skip
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(said.stdout.split()[-1])


def measure_memory(arguments: argparse.Namespace) -> None:
    """Draw W1 with one contender, and print what that added to this process' peak memory."""
    key = PipelineKey(arguments.memory_of, arguments.model, "float32")
    import torch  # noqa: F401 - what is imported before is not the contender's

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    renderer = open_renderer(key, device="cpu", threads=arguments.threads)
    draw(renderer, workloads(arguments.images, steps=arguments.steps, side=arguments.side)["W1"])
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fp32 alone, few pictures, once")
    parser.add_argument("--repeats", type=int, help="default: 3, quick: 1")
    parser.add_argument("--images", type=int, help="a workload; default: 32, quick: 8")
    parser.add_argument("--steps", type=int, help="default: 12, quick: 4")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default="builtin:sprites")
    parser.add_argument("--side", type=int, default=128, help="of a picture in pixels")
    parser.add_argument("--kinds", help=f"of {','.join(KINDS)}")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    found = parser.parse_args(words)
    found.repeats = found.repeats or (1 if found.quick else 3)
    found.images = found.images or (8 if found.quick else 32)
    found.steps = found.steps or (4 if found.quick else 12)
    found.kinds = (found.kinds or ("fp32" if found.quick else ",".join(KINDS))).split(",")
    return found


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    arguments = parse(sys.argv[1:])
    if arguments.memory_of:
        measure_memory(arguments)
        return
    summary: dict[str, Any] = {"model": arguments.model, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder:
        models = {"torch": ("torch", arguments.model)}
        for kind in arguments.kinds:
            report = export_bundle(
                arguments.model, Path(folder, kind), threads=arguments.threads,
                quantize=QUANTIZE[kind],
            )  # fmt: skip
            started = time.perf_counter()
            open_session(
                Path(folder, kind, "unet/model.onnx"),
                provider=choose_provider("cpu"),
                threads=arguments.threads,
            )
            session = time.perf_counter() - started
            models[kind] = ("onnx", str(Path(folder, kind)))
            print(f"{kind}: export {report.seconds:.1f} s, session of the UNet {session:.2f} s, "
                  f"{report.bytes / 1e6:.1f} MB")  # fmt: skip
            summary[f"{kind}_export_s"] = round(report.seconds, 1)
            summary[f"{kind}_session_s"] = round(session, 2)
        summary |= compare(models, arguments)
        for name, (backend, model) in models.items():
            memory = peak_memory_mb(backend, model, arguments)
            print(f"{name}: peak memory {memory:.0f} MB")
            summary[f"{name}_peak_mb"] = round(memory)
    print(json.dumps(summary))


def compare(
    models: Mapping[str, tuple[str, str]], arguments: argparse.Namespace
) -> dict[str, float | None]:
    """Draw both workloads with every contender in turn; print a table and return its figures."""
    renderers = {
        name: open_renderer(
            PipelineKey(backend, model, "float32"), device="cpu", threads=arguments.threads
        )
        for name, (backend, model) in models.items()
    }
    summary: dict[str, float | None] = {}
    print(f"\n{'workload':8} {'contender':13} {'images/s':>9} {'x torch':>8} "
          f"{'worst dB':>9} {'mean dB':>8}")  # fmt: skip
    for workload, tasks in workloads(
        arguments.images, steps=arguments.steps, side=arguments.side
    ).items():
        for renderer in renderers.values():  # finds its batch size
            draw(renderer, tasks)
        times: dict[str, list[float]] = {name: [] for name in renderers}
        pictures = {}
        for _ in range(arguments.repeats):
            for name, renderer in renderers.items():
                seconds, pictures[name] = draw(renderer, tasks)
                times[name].append(seconds)
        for name, taken in times.items():
            speed = len(tasks) / statistics.median(taken)
            ratio = statistics.median(
                one / other for one, other in zip(times["torch"], taken, strict=True)
            )
            worst, mean = likeness(pictures[name], pictures["torch"])
            print(f"{workload:8} {name:13} {speed:9.2f} {ratio:8.2f} {worst:9.1f} {mean:8.1f}")
            summary[f"{workload}_{name}_images_per_s"] = round(speed, 3)
            summary[f"{workload}_{name}_ratio"] = round(ratio, 3)
            summary[f"{workload}_{name}_mean_db"] = round(mean, 1) if math.isfinite(mean) else None
    for renderer in renderers.values():
        renderer.close()
    print()
    return summary


if __name__ == "__main__":
    main()
