"""Who runs the workers, how many there are, and why: said in a sentence before anything starts.

The driver never imports torch: that would take seconds and, on a GPU machine, memory of the device
that the workers need. GPUs are counted by what the driver's processes and files say.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import psutil

from farm.engine.executor import Executor
from farm.engine.inline import InlineExecutor
from farm.engine.ray_executor import RayExecutor
from farm.errors import InputError, MissingLibraryError
from farm.manifest.job import Resources

EXECUTORS = ("auto", "inline", "ray")
MEMORY_PER_CPU_WORKER = 3 * 2**30
"""Bytes: a process with torch and a small model. A large model wants `--workers` or a GPU."""
_GPU_FILES = Path("/proc/driver/nvidia/gpus")


def choose_executor(
    choice: str = "auto",
    *,
    address: str | None = None,
    workers: int | None = None,
    resources: Resources | None = None,
) -> tuple[Executor, str]:
    """Return an executor, not started yet, and a sentence that says which it is and why.

    Args:
        choice: `auto`, `inline` or `ray`.
        address: a running Ray cluster to join; None takes `RAY_ADDRESS`, as every Ray program
            does, and starts Ray here if that is not set.
        workers: how many workers; None decides.
        resources: what each worker asks of the cluster.

    Raises:
        InputError: no executor has that name, or the arguments contradict each other.
        MissingLibraryError: Ray is asked for and not installed.
    """
    resources = resources or Resources()
    if choice not in EXECUTORS:
        raise InputError(f"unknown executor '{choice}'; there are {', '.join(EXECUTORS)}")
    if workers is not None and workers < 1:
        raise InputError(f"a run needs at least one worker, not {workers}")
    if choice == "inline":
        if address is not None or (workers or 1) > 1:
            raise InputError(
                "the inline executor is one worker in this process",
                hint="leave --address and --workers out, or use --executor ray",
            )
        return InlineExecutor(), "inline: one worker in this process, as asked"
    address = cluster_address(address)
    if importlib.util.find_spec("ray") is None:
        if choice == "auto" and address is None:
            return InlineExecutor(), "inline: one worker in this process, as Ray is not installed"
        raise MissingLibraryError(
            "executor ray needs Ray, which is not installed", hint="pip install 'ray>=2.53,<3'"
        )
    if address is not None:
        return _on_cluster(address, workers=workers, resources=resources)
    return _on_this_machine(workers=workers, resources=resources)


def cluster_address(address: str | None) -> str | None:
    """Return the Ray cluster to join: what is asked for, else `RAY_ADDRESS`; None for none."""
    return address or os.environ.get("RAY_ADDRESS") or None


def _on_cluster(address: str, *, workers: int | None, resources: Resources) -> tuple[Executor, str]:
    executor = RayExecutor(
        address=address,
        workers=workers,
        num_gpus=resources.num_gpus,
        num_cpus=resources.num_cpus,
        accelerator_type=resources.accelerator_type,
    )
    many = "workers as the cluster has room for" if workers is None else _count(workers, "worker")
    return executor, f"ray: {many}, on the cluster at {address}"


def _on_this_machine(*, workers: int | None, resources: Resources) -> tuple[Executor, str]:
    gpus = count_gpus()
    cores = count_cores()
    if gpus and resources.num_gpus != 0:
        per_worker = resources.num_gpus or 1.0
        many = workers or max(1, int(gpus / per_worker))
        executor = RayExecutor(
            workers=many,
            num_gpus=per_worker,
            num_cpus=resources.num_cpus or 1.0,
            total_gpus=gpus,
            threads=max(1, cores // many),
        )
        return (
            executor,
            f"ray: {_count(many, 'GPU worker')}, as this machine has {_count(gpus, 'GPU')}",
        )
    many = workers or _cpu_workers(cores)
    threads = int(resources.num_cpus or max(1, cores // many))
    executor = RayExecutor(workers=many, num_gpus=0.0, num_cpus=1.0, total_gpus=0, threads=threads)
    why = "as asked" if resources.num_gpus == 0 else "as there is no GPU"
    return (
        executor,
        f"ray: {_count(many, 'CPU worker')} with {_count(threads, 'thread')} each, {why}",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _cpu_workers(cores: int) -> int:
    """Return how many CPU workers use this machine well.

    Several small workers beat one large one, because a network's small operations do not spread
    over many threads; but each holds the model, so memory is the other bound.
    """
    threads = min(4, max(1, cores // 4))
    by_memory = int(psutil.virtual_memory().available // MEMORY_PER_CPU_WORKER)
    return max(1, min(cores // threads, by_memory))


def count_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_gpus() -> int:
    """Return how many NVIDIA GPUs this process may use, without touching one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return len([name for name in names if name and name not in {"-1", "NoDevFiles"}])
    if _GPU_FILES.is_dir():
        return len(list(_GPU_FILES.iterdir()))
    return _count_by_tool()


def _count_by_tool() -> int:
    """Ask `nvidia-smi`, for systems without the driver's files: Windows and its Linux."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command
            [tool, "-L"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
