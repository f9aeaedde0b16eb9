"""The table: one sampler at one step count, written as numbers.

Every sampler the farm runs is linear in what it remembers, in what the network says and in the
noise it draws; only the coefficients differ. So a sampler needs no code where images are made: it
is, per evaluation of the network, a timestep, the coefficients of the network's input, and a small
matrix. Rows of a batch with different samplers, schedules and step counts then differ in numbers
alone.

Knows NumPy and nothing else: no torch, no diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Network: TypeAlias = Callable[[Floats, float], Floats]
"""What a network says about its input at a timestep, after guidance."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerTable:
    """A sampler with its schedule and step count, for one model's training schedule.

    E evaluations of the network, R registers (images that a row remembers; register 0 is the
    latents), N noises an evaluation at most. Everything is float64 and finite. What the network
    predicts (noise, velocity, image, flow) is folded into the coefficients.
    """

    timesteps: Floats
    """`[E]`: what the network is told, in the model's own units; fractions occur."""
    inputs: Floats
    """`[E, R]`: the network's input is `inputs[e] @ registers`."""
    steps: Floats
    """`[E, R, R + 1 + N]`: `registers = steps[e] @ [registers, output, noises]`."""
    draws: NDArray[np.int64]
    """`[E]`: unit normal noises that evaluation e takes from the image's own generator, in this
    order, after the initial one; some samplers draw more than they use."""
    initial: Floats
    """`[R]`: register j begins as `initial[j]` times the initial noise."""
    residual: float
    """Largest difference from the sampler itself that the compiler found, relative to the latents;
    0 for tables that are their own definition."""

    @property
    def evaluations(self) -> int:
        """Return how often the network is evaluated for one row without guidance."""
        return len(self.timesteps)

    @property
    def registers(self) -> int:
        """Return how many images a row remembers."""
        return len(self.initial)

    def run(self, network: Network, noises: Iterator[Floats]) -> Floats:
        """Return the final latents of one image, in float64: what a batch of rows has to equal.

        Args:
            network: called once an evaluation; any shape goes in and the same comes out.
            noises: unit normal arrays of one shape: the initial noise, then each draw.
        """
        first = next(noises)
        registers = np.multiply.outer(self.initial, first)
        spare = self.steps.shape[2] - self.registers - 1
        for e, timestep in enumerate(self.timesteps):
            output = network(np.tensordot(self.inputs[e], registers, 1), float(timestep))
            operands = np.zeros((self.steps.shape[2], *first.shape))
            operands[: self.registers] = registers
            operands[self.registers] = output
            assert self.draws[e] <= spare
            for k in range(self.draws[e]):
                operands[self.registers + 1 + k] = next(noises)
            registers = np.tensordot(self.steps[e], operands, 1)
        result: Any = registers[0]
        return np.asarray(result)
