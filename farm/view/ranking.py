"""Which settings win: a ranking by the comparisons that people made.

The model is Bradley and Terry's: setting i has a strength s_i, and beats j with probability
1 / (1 + exp(s_j - s_i)). A tie counts as half a win for each. Strengths are fitted by the MM
algorithm of D. R. Hunter, "MM algorithms for generalized Bradley-Terry models", The Annals of
Statistics 32 (2004), equation 3; intervals come from the observed information matrix.

So that a setting that never lost has a strength at all, each one also has half a win and half a
loss against an imagined setting of average strength. With a dozen comparisons that draws the
strengths together a little; with hundreds it cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from farm.errors import InputError
from farm.store import Store
from farm.store.votes import Vote, VoteKind
from farm.view.query import read_catalog, resolve_column, show_value
from farm.view.summary import present
from farm.view.words import count

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

PRIOR: Final = 0.5
"""Wins, and losses, that each setting has against the imagined one."""
_CONFIDENT = 1.959964
"""Standard errors on each side of an interval that holds the truth 95 times of 100."""
_STEPS = 20_000
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Strengths and how sure they are: natural logarithms, float64, with mean 0."""

    strengths: Array
    """`[n]`"""
    covariance: Array
    """`[n, n]`"""

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """Return by how much `one` is stronger than `other`, and the standard error of that."""
        spread = self.covariance
        error = spread[one, one] + spread[other, other] - 2 * spread[one, other]
        return float(self.strengths[one] - self.strengths[other]), float(np.sqrt(error))


def bradley_terry(wins: Array, *, prior: float = PRIOR) -> Fit:
    """Fit strengths to `wins`: float64 `[n, n]`, how often the row's setting beat the column's.

    Without a prior, every setting must have won and lost, directly or around corners, against every
    other; else there is no finite answer.
    """
    matches = wins + wins.T
    won = wins.sum(axis=1) + prior
    skills = np.ones(len(wins))
    for _ in range(_STEPS):
        sums = skills[:, None] + skills[None, :]
        # The imagined setting has skill 1 and is met twice `prior` times.
        meetings = (matches / sums).sum(axis=1) + 2 * prior / (skills + 1)
        fresh = won / meetings
        if not prior:
            fresh /= np.exp(np.log(fresh).mean())
        moved = np.abs(np.log(fresh / skills)).max(initial=0)
        skills = fresh
        if moved < _TOLERANCE:
            break
    strengths = np.log(skills)
    chances = skills[:, None] / (skills[:, None] + skills[None, :])
    weights = matches * chances * chances.T
    imagined = 2 * prior * skills / (skills + 1) ** 2
    information = np.diag(weights.sum(axis=1) + imagined) - weights
    centred = np.eye(len(wins)) - 1 / max(1, len(wins))
    covariance = centred @ np.linalg.pinv(information) @ centred
    return Fit(strengths=strengths - strengths.mean(), covariance=covariance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One setting in a ranking."""

    value: str | int | float | bool | None
    strength: float
    """Natural logarithm of its odds against a setting of average strength."""
    low: float
    high: float
    """The 95 % interval of `strength`."""
    wins: float
    comparisons: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The settings of one column, the strongest first."""

    by: str
    standings: tuple[Standing, ...]
    comparisons: int
    """Comparisons of two settings of this column; others tell nothing about it."""

    def to_json(self) -> dict[str, Any]:
        """Return the ranking as plain JSON values."""
        return asdict(self)


def rank(output: str, *, by: str) -> Ranking:
    """Return the ranking of the values of a column, by the votes in an output.

    Raises:
        OutputError: there is no readable output at `output`.
        InputError: there is no such column, or nobody compared two of its values.
    """
    store = Store.open(output)
    table = read_catalog(store).table
    name = resolve_column(by, table.column_names)
    values = dict(zip(table["task_id"].to_pylist(), table[name].to_pylist(), strict=True))
    found = rank_votes(store.ballot().votes, values, by=name)
    if not found.standings:
        raise InputError(
            f"nobody has compared two images that differ in '{name}' yet",
            where=output,
            hint=f"farm serve {output}, then A/B",
        )
    return found


def rank_votes(votes: Iterable[Vote], values: Mapping[str, Any], *, by: str) -> Ranking:
    """Return the ranking of the settings of `by`; `values` has each task's.

    A comparison counts that was made for this column, or for none in particular, between two
    images that differ in it.
    """
    matches = []
    for vote in votes:
        if vote.kind is not VoteKind.COMPARISON or vote.axis not in {by, None}:
            continue
        one, other = values.get(vote.task_id), values.get(vote.other_id or "")
        if one != other and vote.task_id in values and vote.other_id in values:
            matches.append((one, other, {"first": 1.0, "second": 0.0}.get(str(vote.value), 0.5)))
    if not matches:
        return Ranking(by=by, standings=(), comparisons=0)
    settings = list(dict.fromkeys(value for match in matches for value in match[:2]))
    place = {value: number for number, value in enumerate(settings)}
    wins = np.zeros((len(settings), len(settings)))
    for one, other, result in matches:
        wins[place[one], place[other]] += result
        wins[place[other], place[one]] += 1 - result
    fit = bradley_terry(wins)
    errors = np.sqrt(np.diag(fit.covariance)) * _CONFIDENT
    standings = [
        Standing(
            value=value,
            strength=float(strength),
            low=float(strength - error),
            high=float(strength + error),
            wins=float(wins[number].sum()),
            comparisons=int((wins[number] + wins[:, number]).sum()),
        )
        for number, (value, strength, error) in enumerate(
            zip(settings, fit.strengths, errors, strict=True)
        )
    ]
    standings.sort(key=lambda one: -one.strength)
    return Ranking(by=by, standings=tuple(standings), comparisons=len(matches))


# --- as people read it --------------------------------------------------------------------------

_BAR = 24
"""Characters of the widest interval."""


def print_ranking(ranking: Ranking) -> None:
    """Print a ranking, each setting with its interval as a bar."""
    present(ranking_view(ranking))


def ranking_view(ranking: Ranking) -> RenderableType:
    """Return a ranking, for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(ranking.by)
    for title in ("wins", "of", "strength", "95 %"):
        table.add_column(title, justify="right")
    table.add_column("")
    low = min(one.low for one in ranking.standings)
    high = max(one.high for one in ranking.standings)
    for one in ranking.standings:
        table.add_row(
            Text(show_value(one.value)),
            f"{one.wins:g}",
            str(one.comparisons),
            f"{one.strength:+.2f}",
            f"{one.low:+.2f} to {one.high:+.2f}",
            _bar(one, low=low, high=high),
        )
    told = f"{count(ranking.comparisons, 'comparison')}; where bars overlap, more would tell"
    return Group(table, "", Text(told, style="dim"))


def _bar(one: Standing, *, low: float, high: float) -> Text:
    """Return an interval as a line with a dot where the strength is."""
    scale = (_BAR - 1) / (high - low) if high > low else 0.0
    start, dot, end = (round((value - low) * scale) for value in (one.low, one.strength, one.high))
    line = " " * start + "─" * (end - start + 1)
    return Text(line[:dot] + "●" + line[dot + 1 :])
