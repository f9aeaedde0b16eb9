"""In which order the values of a column stand: as the jobs of an output have them.

The last submitted job comes first. What it does not know stands where an earlier job has it: beside
its neighbours there. So `small, medium, large` stay in this order when a later job asks for
`medium` alone, or for something else. What no job knows is sorted, after the rest.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from farm import grid
from farm.errors import InputError
from farm.grid import TaskSpace
from farm.manifest.job import VAR_PREFIX, Job
from farm.task import FIELDS, Scalar

Value = TypeVar("Value", bound=Hashable)


class Orders:
    """The orders of several jobs, the last submitted one's first.

    A job is read and expanded only when those before it fall short: one of thousands of prompts
    takes seconds, and an output may have seen many.
    """

    def __init__(self, last: TaskSpace | None, earlier: Iterable[Job] = ()) -> None:
        self._spaces = [last] if last is not None else []
        self._rest = iter(earlier)

    def levels(self, name: str, present: Iterable[Scalar]) -> list[Scalar]:
        """Return the values in `present` of a column of the catalog, in order."""
        values = set(present)
        known: list[Scalar] = []
        left = set(values)
        if name in FIELDS or name.startswith(VAR_PREFIX):
            for space in self._each():
                order = [value for value in _levels(space, name) if value in values]
                known = merge(known, order)
                left.difference_update(order)
                if left <= {None}:
                    break
        return [*known, *sorted(left, key=sort_key)]

    def _each(self) -> Iterator[TaskSpace]:
        yield from self._spaces
        for job in self._rest:
            try:
                space = grid.expand(job)
            except InputError:  # it was made by a version that could number more cells
                continue
            self._spaces.append(space)
            yield space


def _levels(space: TaskSpace, name: str) -> tuple[Scalar, ...]:
    try:
        return space.levels(name)
    except KeyError:
        return ()


def merge(known: Sequence[Value], order: Sequence[Value]) -> list[Value]:
    """Return `known` with the values of `order` that it lacks, each after its neighbour in `order`.

    Those before the first known one stand before it; without any known one, all stand at the end.
    """
    held = set(known)
    anchor = next((value for value in order if value in held), None)
    if anchor is None:
        return [*known, *order]
    before: list[Value] = []
    after: dict[Value, list[Value]] = {}
    place = before
    for value in order:
        if value in held:
            place = after.setdefault(value, [])
        else:
            place.append(value)
    merged: list[Value] = []
    for value in known:
        merged += [*before, value] if value == anchor else [value]
        merged += after.get(value, [])
    return merged


def sort_key(value: Any) -> tuple[int, Any]:  # noqa: ANN401 - any column
    """Return what values of any column are sorted by: numbers, then texts, then what is absent."""
    match value:
        case None:
            return (2, 0)
        case int() | float():
            return (0, value)
        case _:
            return (1, str(value))
