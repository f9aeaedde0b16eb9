"""What ONNX Runtime buys: backend `onnx` against backend `torch`, on the same cells.

Contenders, on the same weights, threads, noise and sampler tables, pictures kept in memory:

- torch: backend `torch`, the lane with torch's networks.
- fp32: backend `onnx`, the bundle that first use makes.
- int8-dynamic, int8-static: bundles whose UNet was made with `--quantize`.

Models: the embedded one, and *mini*, a random-weight model of 20 million parameters that is made
here; its pictures are noise, so their PSNR is the worst there is. Workloads: W1 is one prompt and
many seeds; W2 is prompts x seeds x cfg (1.0 among them) x two samplers; mini draws W2 alone.

Contenders take turns after a round that finds their batch sizes; the figure is the median over
repetitions of images per second, and its ratio to torch's of the same run. PSNR is against torch's
pictures: the worst, and the mean (of the mean squared error). Goals: 1.5 times torch with fp32,
twice with int8 at 30 dB; an export of the embedded model under 60 s; a session of its UNet under
2 s. The first export has the machine to itself; the others run two at a time, and are not timed.
Memory is the peak of a process of its own that draws W1 with one contender, over what it had before
it opened the model.

What bounds a ratio is told beside it: the arithmetic of both networks, the rate at which each
contender does it at its best batch, and the rate of a large product of matrices alone, in float32
and in 8 bits. A runtime that did nothing but multiply, at that rate, would be so many times as fast
as torch, and no other can be faster.

    python benchmarks/onnx_runtime.py [--quick] [--repeats N] [--images N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lane import evaluations, make_mini
from export_onnx.export import ExportReport
from farm.render import Renderer, open_renderer
from farm.render.difference import psnr
from farm.render.exporting import export_bundle
from farm.render.lane.onnx_runtime import choose_provider, open_session
from farm.render.lane.renderer import LaneRenderer
from farm.render.loading import load_pipeline
from farm.task import PipelineKey, Rendered, TaskSpec

Pixels = NDArray[np.uint8]
QUANTIZE = {"fp32": "none", "int8-dynamic": "dynamic", "int8-static": "static"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model, what is drawn with it, and which bundles of it take part."""

    name: str
    model: str
    side: int
    images: int
    steps: int
    workloads: tuple[str, ...]
    kinds: tuple[str, ...]


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


def peak_memory_mb(backend: str, model: str, subject: Subject, *, threads: int) -> float:
    """Return what drawing W1 adds to the peak memory of a fresh process, in MB."""
    numbers = (threads, subject.images, subject.steps, subject.side)
    command = [sys.executable, __file__, "--memory-of", backend, model, *map(str, numbers)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(said.stdout.split()[-1])


def measure_memory(backend: str, model: str, *numbers: str) -> None:
    """Draw W1 with one contender, and print what that added to this process' peak memory."""
    threads, images, steps, side = map(int, numbers)
    import torch  # noqa: F401 - what is imported before is not the contender's

    before = _peak_kb()
    renderer = open_renderer(PipelineKey(backend, model, "float32"), device="cpu", threads=threads)
    draw(renderer, workloads(images, steps=steps, side=side)["W1"])
    print((_peak_kb() - before) / 1024)


def _peak_kb() -> int:
    """Return the most memory that this program has had, in kB.

    Linux counts what the parent had when it started this process into `ru_maxrss`, so that a small
    child of a large parent seems to need nothing.
    """
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1])


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one bundle, few pictures, once")
    parser.add_argument("--repeats", type=int, help="default: 3, quick: 1")
    parser.add_argument("--images", type=int, help="a workload; default: 32, quick: 8")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    found = parser.parse_args(words)
    found.repeats = found.repeats or (1 if found.quick else 3)
    found.images = found.images or (8 if found.quick else 32)
    return found


def subjects(arguments: argparse.Namespace, folder: Path) -> list[Subject]:
    """Return what is measured."""
    sprites = Subject(
        name="sprites", model="builtin:sprites", side=128, images=arguments.images,
        steps=4 if arguments.quick else 12, workloads=("W1", "W2"),
        kinds=("fp32",) if arguments.quick else tuple(QUANTIZE),
    )  # fmt: skip
    if arguments.quick:
        return [sprites]
    mini = Subject(
        name="mini", model=make_mini(folder / "mini"), side=256, images=16, steps=4,
        workloads=("W2",), kinds=("fp32", "int8-dynamic"),
    )  # fmt: skip
    return [sprites, mini]


def export_all(
    measured: Sequence[Subject], folder: Path, *, threads: int
) -> tuple[dict[tuple[str, str], Path], float]:
    """Export every bundle; return their folders by model and kind, and seconds of the first."""
    wanted = [(one, kind) for one in measured for kind in one.kinds]
    places = {(one.name, kind): folder / f"{one.name}-{kind}" for one, kind in wanted}
    first, *others = wanted
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as alone:
        reports = [alone.submit(_export, *first, places, threads).result()]
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        running = [pool.submit(_export, *one, places, 1) for one in others]
        reports += [future.result() for future in running]
    for (one, kind), report in zip(wanted, reports, strict=True):
        parity = report.parity
        assert parity is not None, "the CPU can prove its own bundles"
        took = f", exported in {report.seconds:.1f} s" if (one, kind) == first else ""
        print(f"{one.name} {kind}: {report.bytes / 1e6:.1f} MB{took}, proof: PSNR of the worst "
              f"picture {parity.worst_psnr:.1f} dB, mean {parity.mean_psnr:.1f} dB")  # fmt: skip
    return places, round(reports[0].seconds, 1)


def _export(
    subject: Subject, kind: str, places: Mapping[tuple[str, str], Path], threads: int
) -> ExportReport:
    return export_bundle(
        subject.model, places[subject.name, kind], threads=threads, quantize=QUANTIZE[kind],
        has_encoder=False,
    )  # fmt: skip


# --- what bounds it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Floating-point operations; a multiplication with its addition are two."""

    evaluation: float
    """Of the UNet, for one row."""
    decoding: float
    """Of the decoder, for one picture."""


def arithmetic_of(model: str, side: int) -> Arithmetic:
    """Count what the networks of a model compute for one picture size."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    pipe = load_pipeline(PipelineKey("diffusers", model, "float32"), device="cpu").pipe
    latents = torch.zeros(1, pipe.unet.config.in_channels, *[side // pipe.vae_scale_factor] * 2)
    text = torch.zeros(1, pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim)
    calls: list[Callable[[], object]] = [
        lambda: pipe.unet(latents, torch.zeros(1), encoder_hidden_states=text),
        lambda: pipe.vae.decode(latents),
    ]
    counts = []
    with torch.inference_mode():
        for call in calls:
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(float(counter.get_total_flops()))
    evaluation, decoding = counts
    return Arithmetic(evaluation=evaluation, decoding=decoding)


def rate_of_products(*, bits: int, threads: int) -> float:
    """Return operations a second of ONNX Runtime's product of two large matrices, at best."""
    import onnx
    import onnxruntime

    side = 1024
    chance = np.random.default_rng(0)
    if bits == 8:  # noqa: PLR2004 - the other is 32
        operator, kinds = "MatMulInteger", (onnx.TensorProto.UINT8, onnx.TensorProto.INT32)
        weights = chance.integers(-64, 64, (side, side), np.int8)
        values: NDArray[Any] = chance.integers(0, 255, (side, side), np.uint8)
    else:
        operator, kinds = "MatMul", (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT)
        weights = chance.standard_normal((side, side), np.float32)
        values = chance.standard_normal((side, side), np.float32)
    given, said = (
        onnx.helper.make_tensor_value_info(name, kind, [side, side])
        for name, kind in zip("xy", kinds, strict=True)
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x", "w"], ["y"])], "product", [given], [said],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    least = math.inf
    for _ in range(30):
        started = time.perf_counter()
        session.run(None, {"x": values})
        least = min(least, time.perf_counter() - started)
    return float(2 * side**3 / least)


def tell_bounds(
    subject: Subject,
    renderers: Mapping[str, Renderer],
    tasks: Sequence[TaskSpec],
    *,
    threads: int,
) -> dict[str, float]:
    """Print at what rate each contender's networks compute, and how much faster torch could be."""
    work = arithmetic_of(subject.model, subject.side)
    exact, in_8_bits = (rate_of_products(bits=bits, threads=threads) for bits in (32, 8))
    print(f"\n{subject.name:8} {'contender':13} {'UNet, a row':>18} {'decoder, a picture':>20}")
    summary = {}
    for name, renderer in renderers.items():
        assert isinstance(renderer, LaneRenderer)
        paces = renderer.measure(tasks[0], seconds=4.0)
        rates = [work.evaluation / paces.network.best, work.decoding / paces.decoder.best]
        print(f"{'':8} {name:13} {paces.network.best * 1e3:7.2f} ms {rates[0] / 1e9:4.0f} G/s"
              f"{paces.decoder.best * 1e3:10.2f} ms {rates[1] / 1e9:4.0f} G/s")  # fmt: skip
        summary[f"{name}_network_ms"] = round(paces.network.best * 1e3, 3)
        summary[f"{name}_decoder_ms"] = round(paces.decoder.best * 1e3, 3)
    asked = sum(map(evaluations, tasks))
    takes = asked * summary["torch_network_ms"] + len(tasks) * summary["torch_decoder_ms"]
    least = 1e3 * (asked * work.evaluation + len(tasks) * work.decoding) / exact
    print(f"{'':8} products alone: {exact / 1e9:.0f} G/s in float32, {in_8_bits / 1e9:.0f} G/s in "
          f"8 bits: at most {takes / least:.2f} times torch in float32, "
          f"{takes / least * in_8_bits / exact:.2f} times in 8 bits")  # fmt: skip
    return {**summary, "most_fp32": round(takes / least, 2),
            "most_int8": round(takes / least * in_8_bits / exact, 2)}  # fmt: skip


def session_seconds(bundle: Path, *, threads: int) -> float:
    """Return what it takes to open a bundle's UNet."""
    started = time.perf_counter()
    open_session(bundle / "unet/model.onnx", provider=choose_provider("cpu"), threads=threads)
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print tables and one line of JSON."""
    if sys.argv[1:2] == ["--memory-of"]:
        measure_memory(*sys.argv[2:])
        return
    arguments = parse(sys.argv[1:])
    summary: dict[str, Any] = {"threads": arguments.threads}
    with tempfile.TemporaryDirectory() as name:
        measured = subjects(arguments, Path(name))
        places, summary["first_export_s"] = export_all(
            measured, Path(name), threads=arguments.threads
        )
        for one in measured:
            models = {
                "torch": ("torch", one.model),
                **{kind: ("onnx", str(places[one.name, kind])) for kind in one.kinds},
            }
            found = compare(one, models, arguments)
            for contender, (backend, model) in models.items():
                memory = peak_memory_mb(backend, model, one, threads=arguments.threads)
                found[f"{contender}_peak_mb"] = round(memory)
                print(f"{one.name} {contender}: peak memory {memory:.0f} MB")
                if backend == "onnx":
                    session = session_seconds(Path(model), threads=arguments.threads)
                    found[f"{contender}_session_s"] = round(session, 2)
                    print(f"{one.name} {contender}: session of the UNet {session:.2f} s")
            print()
            summary[one.name] = found
    print(json.dumps(summary))


def compare(
    subject: Subject, models: Mapping[str, tuple[str, str]], arguments: argparse.Namespace
) -> dict[str, float | None]:
    """Draw the workloads with every contender in turn; print a table and return its figures."""
    renderers = {
        name: open_renderer(
            PipelineKey(backend, model, "float32"), device="cpu", threads=arguments.threads
        )
        for name, (backend, model) in models.items()
    }
    summary: dict[str, float | None] = {}
    print(f"\n{subject.name:8} {'contender':13} {'images/s':>9} {'x torch':>8} "
          f"{'worst dB':>9} {'mean dB':>8}")  # fmt: skip
    everything = workloads(subject.images, steps=subject.steps, side=subject.side)
    for workload in subject.workloads:
        tasks = everything[workload]
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
    tasks = everything[subject.workloads[0]]
    summary |= tell_bounds(subject, renderers, tasks, threads=arguments.threads)
    for renderer in renderers.values():
        renderer.close()
    print()
    return summary


if __name__ == "__main__":
    main()
