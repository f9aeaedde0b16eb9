"""How far two pictures are from each other, in the numbers by which backends are compared.

Both measures are of the 8-bit sRGB values, as the pictures are looked at.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_PEAK = 255.0
_WINDOW = 7
"""Pixels a side of SSIM's window, as scikit-image's `structural_similarity` has it."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def psnr(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB: 10 log10(255^2 / mean squared error).

    Infinite for equal pictures. From about 40 dB on, nobody sees a difference.

    Raises:
        ValueError: the pictures have different sizes.
    """
    _require_one_shape(one, other)
    error = float(np.mean(np.square(one.astype(np.float64) - other.astype(np.float64))))
    return 10 * math.log10(_PEAK**2 / error) if error else math.inf


def ssim(one: Pixels, other: Pixels) -> float:
    """Return the mean structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    1 for equal pictures. Over uniform windows of 7 x 7 pixels that lie wholly inside, each channel
    by itself, with K1 = 0.01, K2 = 0.03 and sample covariances.

    Raises:
        ValueError: the pictures have different sizes, or a side of less than 7 pixels.
    """
    _require_one_shape(one, other)
    if min(one.shape[:2]) < _WINDOW:
        raise ValueError(f"a side of less than {_WINDOW} pixels: {one.shape[1]} x {one.shape[0]}")
    x, y = one.astype(np.float64), other.astype(np.float64)
    count = _WINDOW**2
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    sample = count / (count - 1)
    variance_x = sample * (_window_mean(x * x) - mean_x**2)
    variance_y = sample * (_window_mean(y * y) - mean_y**2)
    covariance = sample * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(np.mean(above / below))


def _window_mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> Any:  # noqa: ANN401 - NumPy's own
    """Return the mean of every window, by differences of running sums."""
    for axis in (0, 1):
        sums = np.cumsum(values, axis=axis)
        sums = np.concatenate([np.zeros_like(np.take(sums, [0], axis=axis)), sums], axis=axis)
        ends = np.take(sums, np.arange(_WINDOW, sums.shape[axis]), axis=axis)
        begins = np.take(sums, np.arange(sums.shape[axis] - _WINDOW), axis=axis)
        values = (ends - begins) / _WINDOW
    return values


def _require_one_shape(one: Pixels, other: Pixels) -> None:
    if one.shape != other.shape:
        raise ValueError(
            f"pictures of {one.shape[1]} x {one.shape[0]} and {other.shape[1]} x {other.shape[0]}"
        )
