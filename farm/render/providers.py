"""ONNX Runtime's execution providers: which are here, which one runs a graph, and what is amiss.

Asked by backend `onnx` when it opens a model, and before by whoever wants to know: `farm plan`,
`farm submit` and `farm doctor`. So this needs no torch. Whether there is a GPU is told by torch
where it is loaded anyway, else by what lies on this machine: a driver, and a build of torch that
could use it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from farm.errors import InputError, ModelError, suggest

PROVIDERS: Mapping[str, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""ONNX Runtime's execution providers, by the name people write."""
PROVIDER_VARIABLE = "FARM_ONNX_PROVIDER"
"""Environment variable that names the provider to use, on this machine, in place of our choice."""
ON_GPU = frozenset({"tensorrt", "cuda"})
_BY_ITSELF = ("cuda", "directml", "openvino")
"""What `auto` takes before the CPU, the first that is usable."""
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The provider that runs the graphs on this machine, and why."""

    name: str
    """A key of `PROVIDERS`."""
    instead_of: str | None = None
    """A provider that was to be tried first, and is not usable here."""

    def __str__(self) -> str:
        fallback = f", for want of {self.instead_of}" if self.instead_of else ""
        return f"ONNX Runtime {runtime_version()}, {PROVIDERS[self.name]}{fallback}"


def choose(device: str, *, wanted: str | None, has_gpu: bool) -> Choice:
    """Return the provider for a device.

    `auto` takes CUDA where there is a GPU and ONNX Runtime's build for it is installed, DirectML or
    OpenVINO where such a build of ONNX Runtime is installed, else the CPU. TensorRT compiles for
    minutes before its first image, so it is taken only when it is asked for.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        wanted: a key of `PROVIDERS` that overrules the choice.
        has_gpu: torch can use a CUDA device.

    Raises:
        InputError: there is no such provider, or it is not usable here.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    usable = usable_providers(has_gpu=has_gpu)
    if wanted is not None:
        _require_usable(wanted, usable)
        return Choice(name=wanted)
    if device.partition(":")[0] == "cuda" and "cuda" not in usable:
        raise InputError(
            f"device '{device}' cannot be used by ONNX Runtime here",
            note=f"usable providers: {', '.join(usable)}",
            hint="use device auto or cpu, or install onnxruntime-gpu beside a CUDA build of torch",
        )
    if device == "cpu":
        return Choice(name="cpu")
    for name in _BY_ITSELF:
        if name in usable:
            return Choice(name=name)
    return Choice(name="cpu", instead_of=PROVIDERS["cuda"] if has_gpu else None)


def usable_providers(*, has_gpu: bool) -> list[str]:
    """Return the keys of `PROVIDERS` that the installed ONNX Runtime has and this machine can use.

    Raises:
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    built_in = _built_in()
    return [
        name
        for name, provider in PROVIDERS.items()
        if provider in built_in and (has_gpu or name not in ON_GPU)
    ]


def _require_usable(wanted: str, usable: Sequence[str]) -> None:
    if wanted not in PROVIDERS:
        raise InputError(
            f"there is no ONNX Runtime provider '{wanted}'; there are {', '.join(PROVIDERS)}",
            hint=suggest(wanted, PROVIDERS),
        )
    if wanted not in usable:
        lacks = (
            "this machine has no CUDA device"
            if PROVIDERS[wanted] in _built_in()
            else f"the installed ONNX Runtime {runtime_version()} was built without it"
        )
        raise InputError(
            f"ONNX Runtime's provider '{wanted}' cannot be used here: {lacks}",
            note=f"usable here: {', '.join(usable)}",
            hint=f"unset {PROVIDER_VARIABLE}, or install the build of ONNX Runtime that has it",
        )


def outlook(dtypes: Iterable[str] = ()) -> Choice:
    """Return the provider that backend `onnx` will choose on this machine, without loading torch.

    Args:
        dtypes: what the models are to compute in, as in a job.

    Raises:
        InputError: `$FARM_ONNX_PROVIDER` names one that is not usable here.
        ModelError: the provider does not compute in one of the dtypes.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    choice = choose("auto", wanted=named_provider(), has_gpu=seems_to_have_gpu())
    for dtype in dtypes:
        choose_dtype(dtype, choice)
    return choice


def choose_dtype(asked: str, choice: Choice) -> str:
    """Return what the networks compute in: `auto` is float16 on a GPU, as everywhere.

    Raises:
        ModelError: the provider does not compute in what is asked for.
    """
    is_on_gpu = choice.name in ON_GPU
    if asked == "auto":
        return "float16" if is_on_gpu else "float32"
    if asked == "bfloat16" or (asked == "float16" and not is_on_gpu):
        raise ModelError(
            f"backend onnx does not compute in {asked} on {'cuda' if is_on_gpu else 'cpu'}",
            hint="use dtype auto or float32; on a CPU a bundle made with --quantize is faster",
        )
    return asked


def named_provider() -> str | None:
    """Return what `$FARM_ONNX_PROVIDER` says, None if nothing."""
    return os.environ.get(PROVIDER_VARIABLE) or None


def seems_to_have_gpu() -> bool:
    """Return whether torch might find a CUDA device: a driver, and a build that uses it."""
    try:
        build = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
    # Without the driver's files, on Windows and its Linux, its tool tells of it.
    has_driver = _DRIVER.exists() or shutil.which("nvidia-smi") is not None
    return has_driver and not build.endswith("+cpu")


def runtime_version() -> str:
    """Return the version of the installed ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _built_in() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())
