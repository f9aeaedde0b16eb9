"""Noise: a function of the seed alone, in float32, whatever the networks compute in."""

from __future__ import annotations

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given
from hypothesis import strategies as st

from farm.render.noise import draw_float32, float32_noise, generators_of
from farm.task import MAX_SEED, TaskSpec


def seeds(*values: int) -> list[torch.Generator]:
    return generators_of([TaskSpec(seed=seed) for seed in values])


@given(seed=st.integers(0, MAX_SEED), before=st.integers(0, MAX_SEED))
def test_an_image_has_the_same_noise_alone_and_in_a_batch(seed: int, before: int) -> None:
    alone = draw_float32((1, 4, 8, 8), seeds(seed))
    batch = draw_float32((2, 4, 8, 8), seeds(before, seed))
    assert torch.equal(batch[1], alone[0])


def test_in_float32_the_noise_is_what_diffusers_draws() -> None:
    shape = (2, 4, 8, 8)
    assert torch.equal(draw_float32(shape, seeds(1, 2)), randn_tensor(shape, seeds(1, 2)))
    [one], [same] = seeds(3), seeds(3)
    assert torch.equal(draw_float32(shape, one), randn_tensor(shape, same))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sees_the_same_noise_rounded(dtype: torch.dtype) -> None:
    # 13 x 11: torch's own half noise differs where the count is no multiple of 16, and before
    # torch 2.13 everywhere (pytorch/pytorch#166853).
    shape = (2, 4, 13, 11)
    exact = draw_float32(shape, seeds(1, 2))
    assert torch.equal(draw_float32(shape, seeds(1, 2), dtype=dtype), exact.to(dtype))
    assert not torch.equal(randn_tensor(shape, seeds(1, 2), dtype=dtype), exact.to(dtype))


def test_diffusers_gets_its_own_function_back() -> None:
    from diffusers import EulerAncestralDiscreteScheduler
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    def use() -> None:
        with float32_noise(EulerAncestralDiscreteScheduler()):
            assert vars(module)["randn_tensor"] is draw_float32
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert vars(module)["randn_tensor"] is randn_tensor
