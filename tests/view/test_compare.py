"""Pictures are compared with the same cell at another value, and measured as others measure."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import farm
from farm.errors import InputError
from farm.render.difference import psnr, ssim
from farm.task import TaskSpec
from farm.view.query import query

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]


def image_of(task: TaskSpec) -> bytes:
    """The same noise for a seed, one level brighter on backend onnx."""
    noise = np.random.default_rng(task.seed).integers(0, 250, (32, 32, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise + np.uint8(task.backend == "onnx")).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def output(task: MakeTask, make_output: MakeOutput) -> str:
    tasks = [
        task(seed=seed, backend=backend)
        for seed in range(2)
        for backend in ("torch", "onnx", "diffusers")
    ]
    lonely = task(seed=7, backend="onnx")
    return make_output([*tasks, lonely], draw=image_of)


def test_the_catalog_gains_the_distance_to_the_counterpart(output: str) -> None:
    frame = farm.catalog(output).compare("backend", "torch").to_pandas()
    by = frame.set_index(["backend", "seed"])
    assert by.loc[("onnx", 0), "psnr"] == pytest.approx(20 * math.log10(255))
    assert by.loc[("diffusers", 1), "psnr"] == math.inf
    assert by.loc[("diffusers", 1), "ssim"] == pytest.approx(1)
    alone = by["psnr"].isna()
    assert set(alone.index[alone]) == {("torch", 0), ("torch", 1), ("onnx", 7)}


def test_sql_asks_for_it(output: str) -> None:
    table = query(
        output,
        "SELECT backend, min(psnr) AS worst FROM catalog WHERE psnr IS NOT NULL "
        "GROUP BY backend ORDER BY backend",
        compare="backend=torch",
    )
    assert table["backend"].to_pylist() == ["diffusers", "onnx"]
    assert table["worst"].to_pylist() == [math.inf, pytest.approx(48.13, abs=0.01)]


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ("backend", "does not say what to compare with"),
        ("backnd=torch", "has no column 'backnd'"),
        ("backend=torhc", "nothing rendered has backend 'torhc'"),
    ],
)
def test_what_cannot_be_compared_is_said(output: str, compare: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        query(output, compare=compare)


@given(st.integers(0, 2**32), st.integers(7, 20), st.integers(7, 20), st.integers(1, 60))
def test_ssim_is_that_of_its_definition(seed: int, height: int, width: int, noise: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 256, (height, width, 3), np.uint8)
    other = np.clip(one + rng.normal(0, noise, one.shape), 0, 255).astype(np.uint8)
    found = []
    for channel in range(3):
        for top in range(height - 6):
            for left in range(width - 6):
                x = one[top : top + 7, left : left + 7, channel].astype(float).ravel()
                y = other[top : top + 7, left : left + 7, channel].astype(float).ravel()
                covariance = np.cov(x, y)
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append(
                    (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
                    / (x.mean() ** 2 + y.mean() ** 2 + c1)
                    / (covariance[0, 0] + covariance[1, 1] + c2)
                )  # fmt: skip
    assert ssim(one, other) == pytest.approx(np.mean(found), abs=1e-9)


def test_pictures_of_two_sizes_have_no_distance() -> None:
    small, large = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="8 x 8 and 16 x 8"):
        psnr(small, large)
    with pytest.raises(ValueError, match="less than 7"):
        ssim(small[:4], small[:4])
