"""The numbers of a picture, against the definitions they claim to follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import fft, ndimage, stats

from farm.store.looks import measure_looks

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(side: int = 96, seed: int = 1) -> Pixels:
    """A soft picture of a few blobs."""
    small = Image.fromarray(noise(6, 6, seed=seed))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def luma_of(pixels: Pixels) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(Image.fromarray(pixels).convert("L"), np.float64)


@given(st.integers(3, 150), st.integers(3, 90), st.integers(0, 99))
def test_numbers_are_what_their_definitions_say(height: int, width: int, seed: int) -> None:
    pixels = noise(height, width, seed=seed)
    looks, luma = measure_looks(pixels), luma_of(pixels)
    assert looks.brightness == pytest.approx(luma.mean() / 255, abs=6e-4)
    assert looks.contrast == pytest.approx(luma.std() / 255, abs=6e-4)
    levels = np.unique(luma, return_counts=True)[1]
    assert looks.entropy == pytest.approx(stats.entropy(levels, base=2), abs=1e-3)
    laplacian = ndimage.laplace(luma)[1:-1, 1:-1]
    assert looks.sharpness == pytest.approx(laplacian.var(), rel=6e-3)
    mean = [int(str(looks.mean_color)[place : place + 2], 16) for place in (1, 3, 5)]
    assert np.abs(pixels.mean((0, 1)) - mean).max() <= 0.5 + 1e-9
    assert looks.alpha_coverage is None


def test_the_hash_is_that_of_imagehash() -> None:
    """Its `phash` is two DCTs of scipy, the lowest 8 x 8, and their median."""
    for seed in range(20):
        pixels = smooth(100, seed)
        small = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
        plain = np.asarray(small, np.float64)
        lowest = fft.dct(fft.dct(plain, axis=0, type=2), axis=1, type=2)[:8, :8]
        bits = "".join("01"[one] for one in (lowest > np.median(lowest)).ravel().astype(int))
        assert measure_looks(pixels).phash == f"{int(bits, 2):016x}"


def distance(one: Pixels, other: Pixels) -> int:
    first, second = (int(measure_looks(pixels).phash, 16) for pixels in (one, other))
    return (first ^ second).bit_count()


def test_the_hash_is_of_what_is_seen_not_of_the_bytes() -> None:
    pixels = smooth()
    brighter = (pixels.astype(np.int16) * 9 // 10 + 12).astype(np.uint8)
    larger = np.asarray(Image.fromarray(pixels).resize((200, 200)))
    assert max(distance(pixels, brighter), distance(pixels, larger)) <= 4
    assert distance(pixels, smooth(seed=2)) > 12


def test_a_blank_picture_has_no_contrast_edges_or_entropy() -> None:
    looks = measure_looks(np.full((16, 16, 3), 255, np.uint8))
    assert (looks.mean_color, looks.brightness) == ("#ffffff", 1.0)
    assert (looks.contrast, looks.sharpness, looks.entropy) == (0.0, 0.0, 0.0)
    assert str(looks.entropy) == "0.0"  # not -0.0


def test_a_blurred_picture_is_less_sharp() -> None:
    pixels = noise(64, 64)
    blurred = ndimage.gaussian_filter(pixels, (2, 2, 0))
    assert measure_looks(blurred).sharpness < measure_looks(pixels).sharpness / 50


def test_what_cannot_be_seen_does_not_count() -> None:
    pixels = noise(32, 32, 4)
    pixels[..., 3] = 0
    pixels[8:24, 8:24] = (200, 100, 50, 255)
    looks = measure_looks(pixels)
    assert looks.mean_color == "#c86432"
    assert looks.alpha_coverage == pytest.approx(0.25, abs=6e-4)
    assert looks.contrast == looks.entropy == 0
    pixels[:8, :8, :3] = 7  # still invisible
    assert measure_looks(pixels) == looks


def test_nothing_visible_has_no_colour() -> None:
    looks = measure_looks(np.zeros((16, 16, 4), np.uint8))
    assert looks.alpha_coverage == 0
    assert (looks.mean_color, looks.brightness, looks.contrast, looks.entropy) == (None,) * 4


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (8, 1)])
def test_pictures_without_an_inside_have_numbers_too(shape: tuple[int, int]) -> None:
    assert measure_looks(noise(*shape)).sharpness == 0
