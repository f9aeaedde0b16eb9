"""What a matrix means as a whole: equal lengths, names assigned once, texts that can be filled.

A name is in scope for a text if every combination in which the text occurs assigns it: a task field
(which has a default), or a variable of the same combination. In a union each branch has its own
variables, so a text outside may only use those that all branches define.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from farm.errors import suggest
from farm.manifest import template
from farm.manifest.document import Place, Problems
from farm.manifest.job import VAR_PREFIX, Axis, Block, Point, Product, Union, Zip
from farm.task import ALIASES, FIELDS


def count(block: Block) -> int:
    """Return the number of combinations of a block."""
    match block:
        case Axis():
            return len(block.points)
        case Product():
            return math.prod(map(count, block.blocks))
        case Zip():
            return min(map(count, block.blocks), default=0)
        case Union():
            return sum(map(count, block.blocks))


def ever_assigned(block: Block) -> frozenset[str]:
    """Return every name that some combination of the block assigns."""
    if isinstance(block, Axis):
        return frozenset(name for point in block.points for name in point)
    return frozenset().union(*map(ever_assigned, block.blocks))


def always_assigned(block: Block) -> frozenset[str]:
    """Return the names that every combination of the block assigns."""
    match block:
        case Axis():
            return frozenset.intersection(*(frozenset(point) for point in block.points))
        case Union() if block.blocks:
            return frozenset.intersection(*map(always_assigned, block.blocks))
        case _:
            return frozenset().union(*map(always_assigned, block.blocks))


def resolve_name(written: str) -> str:
    """Return the catalog's name of a word in a template or condition.

    Fields keep their names, aliases become fields, anything else is a variable with its prefix.
    """
    if written in FIELDS:
        return written
    if written in ALIASES:
        return ALIASES[written]
    return VAR_PREFIX + written.removeprefix(VAR_PREFIX)


def describe_unknown(written: str, *, variables: frozenset[str], noun: str) -> str:
    """Return a sentence about a word that names neither a field nor a variable of the matrix."""
    bare = sorted(name.removeprefix(VAR_PREFIX) for name in variables)
    hint = suggest(written, (*bare, *FIELDS, *ALIASES))
    if hint is None:
        hint = f"the matrix defines {', '.join(bare)}" if bare else "the matrix defines no variable"
    return f"unknown {noun} '{written}'; {hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeCheck:
    """The checks of one matrix; complaints go to `problems` with their places."""

    problems: Problems
    blocks: Mapping[int, Place]
    """Places of blocks, by identity."""
    texts: Mapping[tuple[int, str], Place]
    """Places of texts with names in them, by identity of their point and by what they assign."""

    def check(self, matrix: Block, *, defaults: Point) -> None:
        """Check a whole matrix with its defaults."""
        self._lengths(matrix)
        if self._assigned_once(matrix):
            everything = ever_assigned(matrix)
            always = always_assigned(matrix) if count(matrix) else everything
            self._texts_below(matrix, outer=frozenset(), everything=everything)
            for name in defaults:
                if name not in always:
                    self._text(defaults, name, scope=always, everything=everything)
        points = (defaults, *_points(matrix))
        self._circles(points)
        self._halves(matrix, points)

    def _lengths(self, block: Block) -> None:
        if isinstance(block, Axis):
            return
        if isinstance(block, Zip):
            sizes = [(self._called(child), count(child)) for child in block.blocks]
            if len({size for _, size in sizes}) > 1:
                shown = ", ".join(f"{name} has {size}" for name, size in sizes)
                self.problems.add(self._place(block), f"zipped axes need equal lengths: {shown}")
        for child in block.blocks:
            self._lengths(child)

    def _assigned_once(self, block: Block) -> bool:
        if isinstance(block, Axis):
            return True
        fine = sum(not self._assigned_once(child) for child in block.blocks) == 0
        if isinstance(block, Union):
            return fine
        seen: dict[str, Block] = {}
        for child in block.blocks:
            for name in sorted(ever_assigned(child)):
                if name in seen:
                    fine = False
                    self._twice(name, first=seen[name], second=child)
                seen.setdefault(name, child)
        return fine

    def _twice(self, name: str, *, first: Block, second: Block) -> None:
        place, other = self._place(second), self._place(first)
        bare = name.removeprefix(VAR_PREFIX)
        hint = (
            "a sampler's name may carry its schedule; say it once"
            if name == "sigma_schedule"
            else "one combination can assign it only once"
        )
        where = f"{other.path}:{other.line}" if other.path != place.path else f"line {other.line}"
        self.problems.add(place, f"'{bare}' is assigned here and on {where}", hint=hint)

    def _texts_below(
        self, block: Block, *, outer: frozenset[str], everything: frozenset[str]
    ) -> None:
        if isinstance(block, Axis):
            for point in block.points:
                for name in point:
                    self._text(point, name, scope=outer | frozenset(point), everything=everything)
            return
        for child in block.blocks:
            beside: frozenset[str] = frozenset()
            if not isinstance(block, Union):
                siblings = (other for other in block.blocks if other is not child)
                beside = frozenset().union(*map(always_assigned, siblings))
            self._texts_below(child, outer=outer | beside, everything=everything)

    def _text(
        self, point: Point, name: str, *, scope: frozenset[str], everything: frozenset[str]
    ) -> None:
        place = self.texts.get((id(point), name))
        if place is None:
            return
        text = point[name]
        assert isinstance(text, str)
        try:
            words = template.parse(text).references
        except template.TemplateError as error:
            self.problems.add(place, str(error))
            return
        for word in dict.fromkeys(words):
            resolved = resolve_name(word)
            if resolved in FIELDS or resolved in scope:
                continue
            if resolved in everything:
                self.problems.add(
                    place,
                    f"'${{{word}}}' is not defined in every combination this text is used in",
                    hint="define it in each branch of the union, or move the text into a branch",
                )
            else:
                variables = frozenset(n for n in everything if n.startswith(VAR_PREFIX))
                said = describe_unknown(word, variables=variables, noun="variable")
                head, _, hint = said.partition("; ")
                self.problems.add(place, head, hint=hint)

    def _halves(self, matrix: Block, points: tuple[Point, ...]) -> None:
        """Refuse an axis that no text reads and that begins a field's name: `guidance`.

        It would only make the same pictures several times, and its author waits for others.
        """
        read = {word for words in self._reads(points).values() for word in words}
        for axis in _axes(matrix):
            bare = axis.name.removeprefix(VAR_PREFIX)
            fields = [name for name in FIELDS if name.startswith(f"{bare}_")]
            if fields and axis.name not in read and axis.name not in FIELDS:
                self.problems.add(
                    self._place(axis),
                    f"variable '{bare}' is used in no text",
                    hint=f"did you mean {' or '.join(map(repr, fields))}?",
                )

    def _circles(self, points: tuple[Point, ...]) -> None:
        reads = self._reads(points)
        for path in _find_circles({name: tuple(inputs) for name, inputs in reads.items()}):
            shown = " -> ".join(name.removeprefix(VAR_PREFIX) for name in path)
            self.problems.add(
                reads[path[0]][path[1]], f"these texts are made of each other: {shown}"
            )

    def _reads(self, points: tuple[Point, ...]) -> dict[str, dict[str, Place]]:
        """Return which names the texts read, and where, by the name that each text is for."""
        reads: dict[str, dict[str, Place]] = {}
        for point in points:
            for name, text in point.items():
                place = self.texts.get((id(point), name))
                if place is None or not isinstance(text, str):
                    continue
                try:
                    words = template.parse(text).references
                except template.TemplateError:
                    continue
                for word in words:
                    reads.setdefault(name, {}).setdefault(resolve_name(word), place)
        return reads

    def _called(self, block: Block) -> str:
        if isinstance(block, Axis):
            return f"'{block.name.removeprefix(VAR_PREFIX)}'"
        return f"the block on line {self._place(block).line}"

    def _place(self, block: Block) -> Place:
        return self.blocks.get(id(block), Place("<job>"))


def _axes(block: Block) -> Iterator[Axis]:
    if isinstance(block, Axis):
        yield block
    else:
        for child in block.blocks:
            yield from _axes(child)


def _points(block: Block) -> Iterator[Point]:
    for axis in _axes(block):
        yield from axis.points


def _find_circles(reads: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Yield one path `a -> b -> a` for each circle that a depth-first walk meets."""
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if name in path:
            yield (*path[path.index(name) :], name)
        elif name not in done:
            for other in reads.get(name, ()):
                yield from walk(other, (*path, name))
            done.add(name)

    for start in reads:
        yield from walk(start, ())
