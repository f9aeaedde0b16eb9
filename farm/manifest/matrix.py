"""From the `matrix:` of a job file to a tree of axes, with every name, value and text checked.

Inside a block, four words are not axes: `product`, `zip`, `union` and `include`. The first three
take a mapping of axes or a list of blocks; `include` takes the path of a file in `manifests/`,
which holds exactly what could stand in its place.

What the tree means as a whole is checked by `scope`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from farm.manifest import template
from farm.manifest.document import Entries, Entry, Items, Leaf, Node, Place, read_document
from farm.manifest.job import VAR_PREFIX, Axis, Block, Point, Product, Union, Zip
from farm.manifest.values import Reader, Written
from farm.task import Scalar

B = TypeVar("B", bound="Block")
_COMBINED: Mapping[str, Callable[[tuple[Block, ...]], Block]] = {
    "product": lambda blocks: Product(blocks=blocks),
    "zip": lambda blocks: Zip(blocks=blocks),
    "union": lambda blocks: Union(blocks=blocks),
}
KEYWORDS = (*_COMBINED, "include")
SPOTTED = ("sampler", "sigma_schedule")
"""Fields of few values that may turn out not to go together."""
MAX_INCLUSIONS = 1_000
"""Files that one matrix may include, counting a file as often as it is included."""


@dataclass(slots=True)
class MatrixReader:
    """Reads blocks, and remembers where everything that may be complained about later stands."""

    values: Reader
    replaced: Mapping[str, Node] = field(default_factory=dict)
    """By name: what `--set` puts in the place of an axis, wherever in the matrix it stands."""
    named: set[str] = field(default_factory=set)
    """Every axis of the matrix, whether its values could be read or not."""
    places: dict[int, Place] = field(default_factory=dict)
    """Of blocks, by identity."""
    texts: dict[tuple[int, str], Place] = field(default_factory=dict)
    """Of texts with names in them, by identity of their point and by what they assign."""
    spots: dict[tuple[str, Scalar], Place] = field(default_factory=dict)
    """Where the values of `SPOTTED` fields are first written."""
    _including: tuple[str, ...] = ()
    _inclusions: int = 0
    _alive: list[Point] = field(default_factory=list)
    """Points that `texts` speaks of: an identity is only one for as long as its object lives."""

    # --- building ---

    def matrix(self, node: Node) -> Block:
        """Read what stands behind `matrix:` (or in a file of `manifests/`)."""
        match node:
            case Items():
                return self._combine("union", node)
            case Leaf(value=str()):
                return self._include(node)
            case Entries():
                return self._block(node)
            case _:
                self.values.problems.add(
                    node.place, "a matrix is a mapping of axes, a list of those, or a file's path"
                )
                return Product(blocks=())

    def _block(self, node: Entries) -> Block:
        """Read a mapping of axes and nested blocks: their product, in the order of the file."""
        blocks = []
        for entry in node:
            if (block := self._entry(entry)) is not None:
                self.places.setdefault(id(block), entry.place)
                blocks.append(block)
        if len(blocks) == 1:
            return blocks[0]
        return self._placed(Product(blocks=tuple(blocks)), node.place)

    def _entry(self, entry: Entry) -> Block | None:
        if entry.key == "include":
            return self._include(entry.node)
        if entry.key in KEYWORDS:
            return self._combine(entry.key, entry.node)
        return self._axis(entry)

    def _combine(self, keyword: str, node: Node) -> Block:
        """Read the operand of `product`, `zip` or `union`: blocks in a list, or axes by name."""
        problems = self.values.problems
        blocks: list[Block] = []
        match node:
            case Entries() if keyword == "union":
                problems.add(
                    node.place, "union needs a list of blocks", hint="begin each with a dash"
                )
                return Product(blocks=())
            case Entries():
                for entry in node:
                    if (block := self._entry(entry)) is not None:
                        self.places.setdefault(id(block), entry.place)
                        blocks.append(block)
            case Items():
                for item in node.items:
                    if isinstance(item, Leaf | Items):
                        problems.add(item.place, f"{keyword} needs blocks: mappings of axes")
                    else:
                        blocks.append(self._placed(self._block(item), item.place))
            case _:
                problems.add(node.place, f"{keyword} needs a mapping of axes or a list of blocks")
        if node in (Items((), node.place), Entries((), node.place)):
            problems.add(node.place, f"this {keyword} is empty")
        return self._placed(_COMBINED[keyword](tuple(blocks)), node.place)

    def _include(self, node: Node) -> Block:
        if isinstance(node, Items):
            blocks = tuple(self._include(item) for item in node.items)
            return self._placed(Product(blocks=blocks), node.place)
        if not isinstance(node, Leaf) or not isinstance(node.value, str):
            self.values.problems.add(node.place, "include needs the path of a file in manifests/")
            return Product(blocks=())
        path = self.values.locate(node.text, node.place)
        content = self._included(path, node.place)
        if content is None:
            return Product(blocks=())
        outer = self._including
        self._including = (*outer, path)
        try:
            return self._placed(self.matrix(content), node.place)
        finally:
            self._including = outer

    def _included(self, path: str, place: Place) -> Node | None:
        """Return what a file named at `place` holds; None, with a problem, if it is not usable."""
        problems = self.values.problems
        self._inclusions += 1
        if path in self._including:
            chain = " -> ".join((*self._including, path))
            problems.add(place, f"files include each other in a circle: {chain}")
            return None
        if self._inclusions > MAX_INCLUSIONS:
            if self._inclusions == MAX_INCLUSIONS + 1:
                problems.add(place, f"files are included more than {MAX_INCLUSIONS:,} times")
            return None
        content = read_document(path, read=self.values.read, problems=problems, place=place)
        if content == Entries((), Place(path, 1, 1)):
            problems.add(place, f"{path!r} is empty; it should hold a matrix")
            return None
        return content

    def _axis(self, entry: Entry) -> Axis | None:
        name = self.values.name(entry.key, entry.place)
        if name is not None:
            self.named.add(name)
        if name is not None and name in self.replaced:
            return self.axis(Entry(entry.key, entry.place, self.replaced[name]), name)
        return self.axis(entry, name)

    def axis(self, entry: Entry, name: str | None) -> Axis | None:
        """Read the values of an axis; `name` is None if what it is called names nothing."""
        if name is None:
            # The values are read all the same, for the problems in them.
            if not isinstance(entry.node, Entries):
                list(self.values.spread(entry.node, name=VAR_PREFIX + "unknown"))
            return None
        if isinstance(entry.node, Entries) and _is_bundle(entry.node):
            return self._bundle(entry, entry.node, name)
        points: list[Point] = []
        labels: list[str] = []
        for written in self.values.spread(entry.node, name=name):
            assigned = self.values.typed(written, name=name)
            if assigned is not None:
                points.append(self._remember(assigned, written))
                labels.append(" ".join(template.as_text(value) for value in assigned.values()))
        if not points:
            return None
        axis = Axis(name=name, points=tuple(points), labels=tuple(labels))
        return self._placed(axis, entry.place)

    def _bundle(self, entry: Entry, node: Entries, name: str) -> Axis | None:
        if not name.startswith(VAR_PREFIX):
            self.values.problems.add(
                entry.place,
                f"'{name}' is a field, and a bundle needs a name of its own",
                hint=f"call it, say, 'look'; its options may set {name}",
            )
            return None
        points: list[Point] = []
        labels: list[str] = []
        for option in node:
            assert isinstance(option.node, Entries)
            point = self.assignments(option.node)
            if name in point:
                self.values.problems.add(option.place, f"'{entry.key}' cannot set itself")
                continue
            both: Point = {name: option.key, **point}
            self.move(point, both)
            points.append(both)
            labels.append(option.key)
        if not points:
            return None
        axis = Axis(name=name, points=tuple(points), labels=tuple(labels))
        return self._placed(axis, entry.place)

    def assignments(self, node: Entries, *, fields_only: bool = False) -> Point:
        """Read a mapping in which each name has one value: a bundle's option, or `defaults`."""
        problems = self.values.problems
        point: dict[str, Scalar] = {}
        given: dict[str, Entry] = {}
        texts: list[tuple[dict[str, Scalar], Written]] = []
        for entry in node:
            name = self.values.name(entry.key, entry.place)
            if name is None:
                continue
            if fields_only and name.startswith(VAR_PREFIX):
                problems.add(
                    entry.place,
                    f"unknown field '{entry.key}'",
                    hint="defaults hold task fields; a template variable is an axis of the matrix",
                )
                continue
            if name in given:
                first = given[name]
                problems.add(
                    entry.place,
                    f"'{entry.key}' and '{first.key}' (line {first.place.line}) are the same field",
                )
                continue
            given[name] = entry
            if not isinstance(entry.node, Leaf):
                problems.add(entry.node.place, f"'{entry.key}' needs one value here")
                continue
            written = Written(entry.node.value, entry.node.text, entry.node.place)
            assigned = self.values.typed(written, name=name)
            if assigned is not None:
                texts.append((assigned, written))
        for assigned, written in texts:
            for name, value in assigned.items():
                if name in point and point[name] != value:
                    problems.add(
                        written.place,
                        f"two values for {name}: '{point[name]}' and '{value}'",
                        hint="a sampler's name may carry its schedule; say it once",
                    )
                point[name] = value
                self._remember(point, written, name=name)
        return point

    def _remember(self, point: Point, written: Written, *, name: str | None = None) -> Point:
        for word in (name,) if name else point:
            value = point[word]
            if word in SPOTTED:
                self.spots.setdefault((word, value), written.place)
            if isinstance(value, str) and "${" in value:
                self._alive.append(point)
                self.texts[id(point), word] = written.place
        return point

    def move(self, old: Point, new: Point) -> None:
        """Keep the places of a point's texts when the point is written anew."""
        self._alive += (old, new)
        for name in old:
            if place := self.texts.pop((id(old), name), None):
                self.texts[id(new), name] = place

    def _placed(self, block: B, place: Place) -> B:
        self.places[id(block)] = place
        return block


def _is_bundle(node: Entries) -> bool:
    return bool(node.entries) and all(isinstance(entry.node, Entries) for entry in node)
