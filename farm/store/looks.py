"""How a picture looks, in a few numbers: cheap enough to be measured for every image.

They find what went wrong without anybody looking (black, blank, blurred pictures), sort what came
out, and tell pictures that are nearly the same. They describe the pixels as rendered, before a
lossy format touches them.

Luma is ITU-R BT.601's, `0.299 R + 0.587 G + 0.114 B` of the 8-bit sRGB values, as Pillow's mode
`L`. Where a picture has alpha, colour and luma are those of its visible pixels, at least half
opaque; edges and the hash are those of the picture on white.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_HASH_SIDE = 32
"""Pixels a side of the reduced picture that is hashed."""
_HASH_WAVES = 8
"""Frequencies a direction that are kept of it: 8 x 8 make 64 bits."""
_LEVELS = 256
_CHANNELS_WITH_ALPHA = 4
_HALF_OPAQUE = 128
_DIGITS = 3
"""Digits that are kept. A thousand tones are enough for any question, and values that repeat cost
the catalog a byte or two instead of four."""
_STRIP = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What `measure_looks` finds. Colour and luma are absent where nothing is visible."""

    mean_color: str | None
    brightness: float | None
    contrast: float | None
    sharpness: float
    entropy: float | None
    phash: str
    alpha_coverage: float | None


def measure_looks(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Looks:
    """Return how a picture looks; `pixels` is uint8 `[height, width, 3 or 4]`, sRGB.

    - `mean_color`: mean of each channel, `#rrggbb`.
    - `brightness`, `contrast`: mean and standard deviation (RMS contrast, Peli 1990,
      doi:10.1364/JOSAA.7.002032) of luma, 0 to 1.
    - `sharpness`: variance of the Laplacian of 8-bit luma (Pech-Pacheco et al. 2000,
      doi:10.1109/ICPR.2000.903548).
    - `entropy`: of the histogram of luma, 0 to 8 bits.
    - `phash`: 64 bits as 16 hexadecimal digits; pictures that look alike differ in few of them.
      Which of the lowest 8 x 8 frequencies of the picture, reduced to 32 x 32, exceed their median:
      the same bits as `imagehash.phash`.
    - `alpha_coverage`: mean alpha, 0 to 1; None for a picture without alpha.

    Numbers have three decimals, `sharpness` three digits.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    mask = coverage = None
    on_white = image
    if pixels.shape[2] == _CHANNELS_WITH_ALPHA:
        alpha = image.getchannel("A")
        coverage = _round(float(pixels[..., 3].mean()) / (_LEVELS - 1))
        mask = alpha.point([0] * _HALF_OPAQUE + [255] * (_LEVELS - _HALF_OPAQUE))
        on_white = Image.new("RGB", image.size, "white")
        on_white.paste(image, mask=alpha)
        image = image.convert("RGB")
    channels = np.array(image.histogram(mask), np.float64).reshape(3, _LEVELS)
    luma = np.array(image.convert("L").histogram(mask), np.float64)
    flat = on_white.convert("L")
    visible = float(luma.sum())
    brightness = contrast = entropy = color = None
    if visible:
        levels = np.arange(_LEVELS)
        share = luma / visible
        mean = float(share @ levels)
        brightness = _round(mean / (_LEVELS - 1))
        contrast = _round(float(share @ (levels - mean) ** 2) ** 0.5 / (_LEVELS - 1))
        present = share[share > 0]
        # Of one level only, the logarithm is 0 and its negative -0.0.
        entropy = _round(abs(float(present @ np.log2(present))))
        color = "#" + "".join(f"{round(float(one @ levels) / visible):02x}" for one in channels)
    return Looks(
        mean_color=color,
        brightness=brightness,
        contrast=contrast,
        sharpness=float(f"{_sharpness(np.asarray(flat)):.{_DIGITS}g}"),
        entropy=entropy,
        phash=_perceptual_hash(flat),
        alpha_coverage=coverage,
    )


def _round(value: float) -> float:
    return round(value, _DIGITS)


def _sharpness(luma: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Return the variance of the Laplacian inside the picture; 0 if it has no inside."""
    count, total, squares = 0, 0.0, 0.0
    # In strips that stay in the processor's cache: several times faster on large pictures.
    for top in range(0, luma.shape[0] - 2, _STRIP):
        # Between -1020 and 1020, so 16 bits hold every sum.
        wide = luma[top : top + _STRIP + 2].astype(np.int16)
        laplacian = wide[:-2, 1:-1] + wide[2:, 1:-1]
        laplacian += wide[1:-1, :-2]
        laplacian += wide[1:-1, 2:]
        laplacian -= 4 * wide[1:-1, 1:-1]
        values = laplacian.ravel().astype(np.float32)
        count += values.size
        total += float(values.sum())
        squares += float(values @ values)
    return max(0.0, squares / count - (total / count) ** 2) if count else 0.0


def _perceptual_hash(luma: Image.Image) -> str:
    from PIL import Image

    small = luma.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.LANCZOS)
    waves = _waves()
    lowest = waves @ np.asarray(small, np.float64) @ waves.T
    bits = np.packbits(lowest > np.median(lowest))
    return bits.tobytes().hex()


@cache
def _waves() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the rows of the DCT-II (unnormalised) for the lowest frequencies."""
    step = np.pi / (2 * _HASH_SIDE)
    places = 2 * np.arange(_HASH_SIDE) + 1
    waves: np.ndarray[Any, np.dtype[np.float64]] = np.cos(
        step * np.outer(np.arange(_HASH_WAVES), places)
    )
    return waves
