"""The machine: devices, memory, disk, clock, and what its environment does to connections."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from farm.doctor.apart import ProbeError, ask
from farm.doctor.finding import Finding, fail, ok, warn
from farm.doctor.libraries import installed_version
from farm.view.words import count, data_size

_GB = 10**9
_LOOK_S = 120.0
"""Importing torch from a cold network disk may take a minute."""

# --- devices ------------------------------------------------------------------------------------


def examine_devices() -> Iterator[Finding]:
    """Look at what torch can render on."""
    if installed_version("torch") is None:
        return  # the libraries say so already
    try:
        seen = ask("farm.doctor.devices", timeout_s=_LOOK_S)
    except ProbeError as error:
        yield fail(
            "devices", f"torch cannot be asked for devices: {error}", "python -c 'import torch'"
        )
        return
    yield from judge_devices(seen, has_nvidia_driver=Path("/proc/driver/nvidia").exists())
    if seen["onnx"] is not None:
        yield judge_onnx(seen["onnx"])


def judge_devices(seen: Mapping[str, Any], *, has_nvidia_driver: bool) -> Iterator[Finding]:
    """Judge what `farm.doctor.devices` has seen."""
    for number, gpu in enumerate(seen["gpus"]):
        memory = f"{data_size(gpu['free'])} of {data_size(gpu['total'])} free"
        text = f"cuda:{number} {gpu['name']}, {memory}, compute capability {gpu['capability']}"
        if gpu["free"] < gpu["total"] / 2:
            yield warn("devices", text, "something else holds its memory: nvidia-smi tells what")
        else:
            yield ok("devices", text)
    if seen["gpus"]:
        return
    if seen["mps"]:
        yield ok("devices", "Apple GPU (mps)")
    elif has_nvidia_driver and seen["cuda"] is None:
        yield warn(
            "devices",
            f"there is an NVIDIA driver, but torch {seen['torch']} is built for CPUs",
            "install torch for CUDA, see https://pytorch.org/get-started/locally",
        )
    elif has_nvidia_driver:
        yield warn(
            "devices",
            f"there is an NVIDIA driver, but torch (CUDA {seen['cuda']}) sees no GPU",
            "compare with nvidia-smi; the driver may be too old, or CUDA_VISIBLE_DEVICES empty",
        )
    else:
        yield ok("devices", f"no GPU; {count(_cores(), 'CPU core')}")


def judge_onnx(seen: Mapping[str, Any]) -> Finding:
    """Judge what backend `onnx` will run on, as `farm.doctor.devices` has seen it."""
    if "refused" in seen:
        return fail("onnx", seen["refused"], seen["next"])
    others = f" (usable: {', '.join(seen['usable'])})" if len(seen["usable"]) > 1 else ""
    text = f"backend onnx runs on {seen['chosen']}{others}"
    if seen["instead_of"]:
        return warn("onnx", text, "pip install onnxruntime-gpu, built for the CUDA that torch has")
    return ok("onnx", text)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- memory and disk ----------------------------------------------------------------------------

_LITTLE_MEMORY = 2 * _GB
_LITTLE_DISK = 10 * _GB
_HARDLY_ANY_DISK = 1 * _GB
_RAY_FOLDER = "Ray's temporary folder"
_RAY_FULL = 0.95
"""Share of a disk above which Ray refuses to write (its `local_fs_capacity_threshold`)."""


def examine_memory() -> Iterator[Finding]:
    """Look at how much memory is left."""
    memory = psutil.virtual_memory()
    text = f"{data_size(memory.available)} of {data_size(memory.total)} available"
    if memory.available < _LITTLE_MEMORY:
        yield warn("memory", text, "close something, or render with fewer workers (--workers 1)")
    else:
        yield ok("memory", text)


def examine_disk(output: str | None) -> Iterator[Finding]:
    """Look at the room for images, for Ray's session and for models."""
    places = {_RAY_FOLDER: Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))}
    places["the cache of models"] = hub_cache()
    if output is not None and "://" not in output:
        places["the output"] = Path(output)
    for name, folder in places.items():
        yield judge_disk(name, folder, usage=shutil.disk_usage(existing_parent(folder)))


def judge_disk(name: str, folder: Path, *, usage: Any) -> Finding:  # noqa: ANN401 - shutil's own
    """Judge the room on the disk of a folder."""
    text = f"{name} ({folder}): {data_size(usage.free)} free"
    if usage.free < _HARDLY_ANY_DISK:
        return fail("disk", text, f"make room, or put {name} elsewhere")
    if name == _RAY_FOLDER and usage.used / usage.total > _RAY_FULL:
        return warn("disk", f"{text}, over 95% full: Ray will refuse", "set RAY_TMPDIR elsewhere")
    if usage.free < _LITTLE_DISK:
        return warn("disk", text, f"a long run may fill it; make room, or put {name} elsewhere")
    return ok("disk", text)


def existing_parent(folder: Path) -> Path:
    """Return the folder itself or the nearest one above it that exists."""
    folder = folder.expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def hub_cache() -> Path:
    """Return where the Hugging Face libraries keep models, by their own rules."""
    if found := os.environ.get("HF_HUB_CACHE"):
        return Path(found).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{base}/huggingface")).expanduser() / "hub"


# --- clock and connections ----------------------------------------------------------------------

_BUILT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""No clock that is right says less."""


def examine_clock(now: float | None = None) -> Iterator[Finding]:
    """Look at the clock; rows carry its time, and certificates are judged by it."""
    now = time.time() if now is None else now
    text = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < _BUILT:
        yield warn("clock", f"{text} is in the past", "set the clock; rows carry its time")
    else:
        yield ok("clock", text)


_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def examine_proxies(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Look for a proxy that would come between Ray's own processes. No address is shown."""
    lower = {name.lower(): value for name, value in environment.items() if value}
    found = [name for name in _PROXIES if name in lower]
    if not found:
        return
    spared = {name.strip() for name in lower.get("no_proxy", "").split(",")}
    if spared & {"*", "localhost", "127.0.0.1"}:
        yield ok("proxies", f"{', '.join(found)}, not for this machine")
    else:
        yield warn(
            "proxies",
            f"{', '.join(found)} is set, and Ray's own connections may go through it",
            "export NO_PROXY=localhost,127.0.0.1 and the addresses of the cluster's nodes",
        )
