"""Rows: the images a lane is drawing, each with its sampler as numbers and its place in them.

What makes a row's next evaluation what it is, is hashed step by step: seed, coefficients,
timesteps, conditioning, guidance, noise. Two rows with equal keys would ask the network the very
same question, so it is asked once. Nothing is ever compared approximately.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from farm.render.lane.networks import Conditioning
from farm.render.tables import SamplerTable
from farm.task import TaskSpec

Key: TypeAlias = bytes
"""Equal keys, equal questions to the network. Within one lane, so within one model and shape."""


class Spoken(NamedTuple):
    """An encoded text."""

    digest: bytes
    """16 bytes that stand for the text."""
    conditioning: Conditioning


class Question(NamedTuple):
    """One evaluation of the network: a row's input as of now, under one conditioning."""

    key: Key
    conditioning: Conditioning


class Coefficients(NamedTuple):
    """A sampler's table for a lane's own number of registers and noises, float32."""

    inputs: NDArray[np.float32]
    """`[E, R + 1]`, over the registers and the initial noise."""
    steps: NDArray[np.float32]
    """`[E, R, R + 1 + N]`, over the registers, the network's output and fresh noises."""


class Program:
    """A sampler's table as a lane runs it, and a digest of what each of its steps does.

    The first evaluation's input is a multiple of the initial noise itself. So samplers that scale
    their latents differently, but show the network the same picture at first, ask the same question
    to the last bit.
    """

    def __init__(self, table: SamplerTable) -> None:
        self.evaluations = table.evaluations
        self.registers = table.registers
        self.noises: int = table.steps.shape[2] - table.registers - 1
        self.timesteps = table.timesteps.astype(np.float32)
        self.draws = [int(draws) for draws in table.draws]
        self.initial = table.initial.astype(np.float32)
        self._steps = table.steps.astype(np.float32)
        self._inputs = table.inputs.astype(np.float32)
        self._first_input = np.float32(table.inputs[0] @ table.initial)
        self._wide: dict[tuple[int, int], Coefficients] = {}
        first = (self.timesteps[0].tobytes(), self._first_input.tobytes())
        self.questions = [
            _digest(*(first if e == 0 else (self.timesteps[e].tobytes(), inputs.tobytes())))
            for e, inputs in enumerate(self._inputs)
        ]
        """What of evaluation e is the sampler's doing, beside what the registers hold."""
        self.effects = [
            _digest(question, bytes([draws]), steps.tobytes())
            for question, draws, steps in zip(self.questions, self.draws, self._steps, strict=True)
        ]
        """What step e does, beside what the registers hold and the network says."""

    def widened(self, registers: int, noises: int) -> Coefficients:
        """Return the coefficients with zeros for the registers and noises it does not have."""
        if (wide := self._wide.get((registers, noises))) is None:
            own = self.registers
            inputs = np.zeros((self.evaluations, registers + 1), np.float32)
            inputs[1:, :own] = self._inputs[1:]
            inputs[0, -1] = self._first_input
            steps = np.zeros((self.evaluations, registers, registers + 1 + noises), np.float32)
            steps[:, :own, :own] = self._steps[:, :, :own]
            steps[:, :own, registers : registers + 1 + self.noises] = self._steps[:, :, own:]
            wide = self._wide[registers, noises] = Coefficients(inputs, steps)
        return wide


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One image on its way. Changed by its lane alone."""

    task: TaskSpec
    program: Program
    positive: Spoken
    negative: Spoken | None
    """None where guidance is off: then the unconditional side is never evaluated."""
    guidance: float
    rescale: float
    generator: torch.Generator
    slot: int
    chain: Sequence[tuple[Key, ...]]
    """For each evaluation, the keys of its questions: the conditional side, then the other."""
    done: int = 0
    """Evaluations behind it."""
    executed: int = 0
    """Evaluations of one row each that were made for it."""
    seconds: float = 0.0
    """Its share of the time that was spent."""
    drawn: tuple[torch.Tensor, ...] = ()
    """What it has drawn for the step that comes next, if that was tried already."""
    most_together: int = 1
    """Most rows that were drawn together with it, itself among them."""

    @property
    def questions(self) -> tuple[Question, ...]:
        """What it asks the network next."""
        keys = self.chain[self.done]
        if self.negative is None:
            return (Question(keys[0], self.positive.conditioning),)
        return (
            Question(keys[0], self.positive.conditioning),
            Question(keys[1], self.negative.conditioning),
        )

    @property
    def is_at_last(self) -> bool:
        """Its next evaluation is its last."""
        return self.done + 1 == self.program.evaluations

    @property
    def is_finished(self) -> bool:
        """Register 0 is the picture's latents."""
        return self.done == self.program.evaluations

    @property
    def required(self) -> int:
        """Evaluations of one row each that the image takes by itself."""
        return self.program.evaluations * (1 if self.negative is None else 2)


def chain_of(
    task: TaskSpec, program: Program, sides: Sequence[Spoken], *, salt: bytes
) -> list[tuple[Key, ...]]:
    """Return the keys of all questions that a row will have, evaluation by evaluation.

    They are known before anything is computed, because they stand for how a question comes about,
    not for its numbers. So a lane knows in advance which answers it will need again.

    Args:
        task: gives seed, guidance and rescaling.
        program: the sampler.
        sides: the texts, one a side of guidance.
        salt: rows with different salts share nothing.
    """
    seed = task.seed.to_bytes(8, "little") + salt
    guidance = np.array([task.guidance_scale, task.guidance_rescale or 0.0]).tobytes()
    # The first question does not depend on how a sampler scales its latents; the rest does.
    state, lineage = _digest(seed), _digest(seed, program.initial.tobytes())
    chain: list[tuple[Key, ...]] = []
    for question, effect in zip(program.questions, program.effects, strict=True):
        keys = tuple(_digest(state, question, said.digest) for said in sides)
        chain.append(keys)
        # Without guidance its weight changes nothing, and one side says so.
        weights = guidance if len(sides) > 1 else b""
        state = lineage = _digest(lineage, effect, *keys, weights)
    return chain


def _digest(*parts: bytes) -> bytes:
    """Return 16 bytes that stand for `parts`; whoever asks knows their lengths."""
    return hashlib.blake2b(b"".join(parts), digest_size=16, person=b"farm lane").digest()


@dataclass(slots=True)
class Registers:
    """What rows remember, on the device: float32 `[slots, registers + 1, values]`.

    The last of a slot is the row's initial noise. Grows when more slots or registers are needed.
    """

    device: torch.device
    values: int
    held: torch.Tensor = field(init=False)
    _free: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.held = torch.zeros(0, 2, self.values, device=self.device)

    @property
    def count(self) -> int:
        """Registers a row can have."""
        return self.held.shape[1] - 1

    def take_slot(self, program: Program, noise: torch.Tensor) -> int:
        """Put a row's initial registers into a free slot and return its number."""
        if program.registers > self.count:
            self._grow(len(self.held), program.registers)
        if not self._free:
            self._grow(max(4, 2 * len(self.held)), self.count)
        initial = torch.from_numpy(program.initial).to(self.device, non_blocking=True)
        registers = initial[:, None] * noise
        slot = self._free.pop()  # now that nothing can run out of memory any more
        held = self.held[slot]
        held.zero_()
        held[: program.registers] = registers
        held[-1] = noise
        return slot

    def give_back(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)

    def _grow(self, slots: int, registers: int) -> None:
        old = self.held
        new = torch.zeros(slots, registers + 1, self.values, device=self.device)
        new[: len(old), : old.shape[1] - 1] = old[:, :-1]
        new[: len(old), -1] = old[:, -1]
        self._free.extend(range(len(old), slots))
        self.held = new
