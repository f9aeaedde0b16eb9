"""What an exception of a network, or a picture that came out wrong, means for a task."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from farm.task import FailureKind

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "ALLOC_FAILED",
)
"""What memory errors say that come as a plain RuntimeError."""


def kind_of(error: Exception) -> FailureKind:
    """Return what an exception means for a task that was alone when it was raised."""
    if isinstance(error, ValueError):
        return FailureKind.BAD_TASK
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY):
        return FailureKind.OUT_OF_MEMORY
    return FailureKind.INTERNAL


def fault_in(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], *, is_finite: bool, dtype: str
) -> str | None:
    """Return what is wrong with a picture, or None if it may be looked at.

    Args:
        pixels: uint8 `[height, width, 3]`.
        is_finite: its values were all numbers before they were rounded.
        dtype: what the networks computed in.
    """
    if not is_finite:
        fault = "the image has values that are not numbers"
    elif pixels.min() == pixels.max():
        fault = f"every pixel of the image is {pixels.flat[0]}"
    else:
        return None
    if dtype == "float16":
        fault += "; float16 overflows in some models: try dtype float32 or bfloat16"
    return fault


def free_memory() -> None:
    """Give back what a failed call left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
