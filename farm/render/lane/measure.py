"""What a model's networks take at best on a device, measured with nothing else going on.

The yardstick of efficiency, apart from any run: the same networks, number type and device, fed with
noise, at one batch size after the other until more rows gain nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from farm.render.failures import kind_of
from farm.render.lane.networks import Networks, Text
from farm.render.lane.sizes import BatchSize
from farm.task import FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds a row by batch size, of one network at one shape."""

    times: dict[int, float]

    @property
    def best(self) -> float:
        """Seconds a row at the best batch size."""
        return min(self.times.values())

    @property
    def best_batch(self) -> int:
        """The batch size that is fastest a row."""
        return min(self.times, key=lambda rows: self.times[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """What the denoiser and the decoder take, isolated."""

    network: Pace
    decoder: Pace


def measure_paces(networks: Networks, *, height: int, width: int, seconds: float) -> Paces:
    """Measure both networks, each for about `seconds` at most, but every first size in full."""
    shape = networks.latent_shape(height, width)
    text = Text(prompt="", is_negative=False, clip_skip=None, height=height, width=width)
    [conditioning] = networks.encode([text])

    def denoise(rows: int) -> None:
        sample = torch.zeros(rows, *shape, device=networks.device)
        times = torch.full((rows,), 500.0, device=networks.device)
        batch = {name: torch.stack([value] * rows) for name, value in conditioning.items()}
        networks.denoise(sample, times, batch)

    def decode(rows: int) -> None:
        networks.decode(torch.zeros(rows, *shape, device=networks.device))

    with torch.inference_mode():
        return Paces(
            network=_pace(denoise, networks.device, seconds=seconds),
            decoder=_pace(decode, networks.device, seconds=seconds),
        )


def _pace(call: Callable[[int], None], device: torch.device, *, seconds: float) -> Pace:
    size = BatchSize(largest=64, smallest=1, leap=1)
    until = time.perf_counter() + seconds
    while not size.is_settled and (time.perf_counter() < until or not size.times):
        rows = size.current
        started = time.perf_counter()
        try:
            call(rows)
            _wait_for(device)
        except Exception as error:
            if kind_of(error) is not FailureKind.OUT_OF_MEMORY or not size.shrink(rows):
                raise
            continue
        size.record(rows, time.perf_counter() - started)
    return Pace(times=dict(size.times))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
