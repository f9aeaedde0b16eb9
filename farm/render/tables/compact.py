"""From the steps of a sampler to a table with as few registers as they need.

A scheduler remembers more than it uses: outputs that no later step reads, or an image that follows
from two others. The first are dropped by looking backwards, the second by looking forwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farm.render.tables.table import Floats, SamplerTable
from farm.render.tables.tracing import Evaluation

_NEGLIGIBLE = 1e-13
"""Coefficients below this share of the largest of their row are rounding."""
_INDEPENDENT = 1e-6
"""Rows whose least singular value, at unit length, is above this are left as they are."""
_LARGEST_WEIGHT = 16.0
"""A register becomes a combination of others only if that amplifies their rounding by less."""


def tabulate(evaluations: Sequence[Evaluation], *, initial: float) -> SamplerTable:
    """Return the table of `evaluations`; its residual is not measured.

    Args:
        evaluations: each with the registers that the one before leaves; register 0 is the latents.
        initial: standard deviation of the latents before the first.
    """
    evaluations = _without_unread(_without_dependent(_without_unread(evaluations)))
    most = max(len(one.input) for one in evaluations)
    noises = max(one.draws for one in evaluations)
    count = len(evaluations)
    inputs = np.zeros((count, most))
    steps = np.zeros((count, most, most + 1 + noises))
    for e, one in enumerate(evaluations):
        after, before = len(one.step), len(one.input)
        inputs[e, :before] = one.input
        steps[e, :after, :before] = one.step[:, :before]
        steps[e, :after, most : most + 1 + one.draws] = one.step[:, before:]
    return SamplerTable(
        timesteps=np.array([one.timestep for one in evaluations]),
        inputs=inputs,
        steps=steps,
        draws=np.array([one.draws for one in evaluations], dtype=np.int64),
        initial=np.array([initial] + [0.0] * (most - 1)),
        residual=0.0,
    )


def _without_unread(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Leave out the registers that nothing later reads."""
    kept: list[Evaluation] = []
    read_after = np.array([0])
    for one in reversed(evaluations):
        step = one.step[read_after]
        before = len(one.input)
        read = (step[:, :before] != 0).any(axis=0) | (one.input != 0)
        read[0] = True
        [read_before] = np.nonzero(read)
        kept.append(
            Evaluation(
                timestep=one.timestep,
                input=one.input[read_before],
                step=np.hstack([step[:, read_before], step[:, before:]]),
                draws=one.draws,
            )
        )
        read_after = read_before
    return kept[::-1]


def _without_dependent(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Leave out the registers that are combinations of others, whatever the picture."""
    kept: list[Evaluation] = []
    combinations = np.eye(1)
    for one in evaluations:
        before = len(one.input)
        step = np.hstack([one.step[:, :before] @ combinations, one.step[:, before:]])
        step[np.abs(step) < _NEGLIGIBLE * np.abs(step).max(axis=1, keepdims=True)] = 0.0
        independent, after = _independent(step)
        kept.append(
            Evaluation(
                timestep=one.timestep,
                input=one.input @ combinations,
                step=step[independent],
                draws=one.draws,
            )
        )
        combinations = after
    return kept


def _independent(rows: Floats) -> tuple[list[int], Floats]:
    """Return which rows to keep, the first among them, and every row as a combination of those.

    Rows are kept in order of what the kept ones leave of them, so that the combinations of the
    others are tame.
    """
    if len(rows) == 1:
        return [0], np.eye(1)
    norms = np.linalg.norm(rows, axis=1)
    norms[norms == 0] = 1.0
    unit = rows / norms[:, None]
    if len(rows) <= rows.shape[1] and np.linalg.svd(unit, compute_uv=False)[-1] > _INDEPENDENT:
        return list(range(len(rows))), np.eye(len(rows))
    kept = [0]
    while True:
        weights = np.linalg.lstsq(unit[kept].T, unit.T, rcond=None)[0].T
        missing = np.linalg.norm(unit - weights @ unit[kept], axis=1)
        missing[np.abs(weights).sum(axis=1) > _LARGEST_WEIGHT] = 1.0
        missing[kept] = 0.0
        worst = int(missing.argmax())
        if missing[worst] < _NEGLIGIBLE:
            break
        kept.append(worst)
    combinations = weights * norms[:, None] / norms[kept]
    combinations[np.abs(combinations) < _NEGLIGIBLE] = 0.0
    combinations[kept] = np.eye(len(kept))
    return kept, combinations
