"""YAML with a place for everything: the one module that knows the YAML library.

A document is a tree of `Entries`, `Items` and `Leaf`, each knowing its file, line and column. It is
YAML 1.2 (`1e-4` is a number, `no` is text) without what a job file has no use for: custom
tags, several documents, duplicate keys, merge keys. Aliases are allowed, but what they expand to
is counted, so a small file cannot become a large one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from farm.errors import Problem

MAX_CHARACTERS = 20_000_000
"""A job file is written by people; what is longer belongs into a `{file: ...}`."""
MAX_NODES = 2_000_000
"""Nodes of a document after its aliases are expanded."""
MAX_ALIASED = 100_000
"""Nodes that aliases may add to those that are written out."""
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
MAX_DEPTH = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a file, and line and column counted from 1 as editors do."""

    path: str
    line: int | None = None
    column: int | None = None

    def shifted(self, characters: int) -> Place:
        """Return the place some characters further on the same line."""
        if self.column is None:
            return self
        return Place(self.path, self.line, self.column + characters)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar: its value, and the text it was written as."""

    value: str | int | float | bool | None
    text: str
    place: Place
    quoted: bool = False
    """Written in quotes or as a block: text, and nothing but text."""
    is_folded: bool = False
    """Written as a block or over several lines: columns inside it are not known."""


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and what it holds."""

    key: str
    place: Place
    """Of the key."""
    node: Node


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping, in the order of the file."""

    entries: tuple[Entry, ...]
    place: Place

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key, or None."""
        return next((entry for entry in self.entries if entry.key == key), None)

    @property
    def keys(self) -> frozenset[str]:
        """All keys."""
        return frozenset(entry.key for entry in self.entries)


Node: TypeAlias = "Leaf | Items | Entries"


class Problems:
    """Everything that is wrong, gathered so that it can be told at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, int, int], Problem] = {}

    def add(self, place: Place, message: str, *, hint: str | None = None) -> None:
        """Note a problem; the same one at the same place counts once."""
        key = (message, place.path, place.line or 0, place.column or 0)
        self._found[key] = Problem(
            message=message, path=place.path, line=place.line, column=place.column, hint=hint
        )

    def sorted(self) -> tuple[Problem, ...]:
        """Return the problems in the order of their places, file by file."""
        files = list(dict.fromkeys(problem.path for problem in self._found.values()))
        return tuple(
            sorted(
                self._found.values(),
                key=lambda p: (files.index(p.path), p.line or 0, p.column or 0),
            )
        )


def read_document(
    path: str, *, read: Callable[[str], str], problems: Problems, place: Place | None = None
) -> Node | None:
    """Read a YAML file that `place` refers to; return None, and note why, if that fails."""
    text = read_text(path, read=read, problems=problems, place=place or Place(path))
    return None if text is None else parse_document(text, path=path, problems=problems)


def read_text(
    path: str, *, read: Callable[[str], str], problems: Problems, place: Place
) -> str | None:
    """Read a text file that `place` refers to; return None, and note why, if that fails."""
    try:
        return read(path)
    except FileNotFoundError:
        problems.add(place, f"there is no file {path!r}", hint="paths are relative to the job file")
    except IsADirectoryError:
        problems.add(place, f"{path!r} is a folder, not a file")
    except UnicodeDecodeError as error:
        problems.add(place, f"{path!r} is not UTF-8 (byte {error.start})", hint="save it as UTF-8")
    except OSError as error:
        problems.add(place, f"{path!r} cannot be read: {error.strerror or error}")
    except ValueError as error:
        problems.add(place, f"{path!r} cannot be read: {error}")
    return None


def parse_document(text: str, *, path: str, problems: Problems) -> Node | None:
    """Parse YAML text; return None, and note why, if it is not YAML of the kind we read."""
    if len(text) > MAX_CHARACTERS:
        problems.add(Place(path), f"is longer than {MAX_CHARACTERS:,} characters")
        return None
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(path, mark.line + 1, mark.column + 1) if mark else Place(path)
        problems.add(place, *_explain(error, text))
        return None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(path, before.count("\n") + 1, len(before) - before.rfind("\n"))
        problems.add(place, f"the character U+{error.character:04X} cannot stand in YAML")
        return None
    except (YAMLError, RecursionError, ValueError) as error:
        problems.add(Place(path), f"cannot be read as YAML: {str(error).splitlines()[0]}")
        return None
    if root is None:
        return Entries((), Place(path, 1, 1))
    return _Converter(path, yaml=yaml, problems=problems).convert(root)


def _explain(error: MarkedYAMLError, text: str) -> tuple[str]:
    """Return a sentence for what the YAML library found."""
    said = " ".join(filter(None, (str(error.context or ""), str(error.problem or "")))).strip()
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\\t" in said or line.lstrip(" ").startswith("\t"):
        return ("a tab cannot indent YAML; use spaces",)
    if "but found another document" in said:
        return ("a second document begins here; a job file holds one",)
    if "undefined alias" in said:
        return ("this alias (*name) has no anchor (&name) above it",)
    return (f"is not valid YAML here: {said}",)


class _Converter:
    """Turns the library's nodes into ours, with an eye on what aliases expand to."""

    def __init__(self, path: str, *, yaml: YAML, problems: Problems) -> None:
        self._path = path
        self._construct: Callable[[Any], Any] = yaml.constructor.construct_object
        self._problems = problems
        self._weights: dict[int, int] = {}
        self._written = 0

    def convert(self, root: Any) -> Node | None:  # noqa: ANN401 - the library has no types
        try:
            self._check_size(root)
            return self._node(root)
        except _TooLargeError as error:
            self._problems.add(self._place(root), str(error), hint="write it without anchors")
            return None

    def _place(self, node: Any) -> Place:  # noqa: ANN401 - the library has no types
        return Place(self._path, node.start_mark.line + 1, node.start_mark.column + 1)

    def _check_size(self, root: Any) -> None:  # noqa: ANN401 - the library has no types
        added = self._weigh(root, above=()) - self._written
        if added > MAX_ALIASED:
            raise _TooLargeError(f"has aliases that add {added:,} values to what is written")

    def _weigh(self, node: Any, *, above: tuple[int, ...]) -> int:  # noqa: ANN401 - as above
        """Return how many nodes `node` is with its aliases expanded, without expanding them."""
        if isinstance(node, ScalarNode):
            self._written += 1
            return 1
        known = self._weights.get(id(node))
        if known is None:
            if id(node) in above:
                raise _TooLargeError("contains itself through an alias")
            if len(above) == MAX_DEPTH:
                raise _TooLargeError(f"is nested more than {MAX_DEPTH} levels deep")
            pairs = node.value if isinstance(node, MappingNode) else ((v,) for v in node.value)
            within = (*above, id(node))
            self._written += 1
            known = 1 + sum(self._weigh(child, above=within) for pair in pairs for child in pair)
            self._weights[id(node)] = known
        if known > MAX_NODES:
            raise _TooLargeError(f"expands to more than {MAX_NODES:,} values")
        return known

    def _node(self, node: Any) -> Node:  # noqa: ANN401 - the library has no types
        place = self._place(node)
        if not isinstance(node, ScalarNode) and str(node.tag) not in _COLLECTIONS:
            self._refuse_tag(str(node.tag), place)
        if isinstance(node, MappingNode):
            return Entries(tuple(self._entries(node)), place)
        if isinstance(node, SequenceNode):
            return Items(tuple(self._node(item) for item in node.value), place)
        assert isinstance(node, ScalarNode), node
        return self._leaf(node, place)

    def _entries(self, node: MappingNode) -> Iterator[Entry]:
        seen: dict[str, Place] = {}
        for key, value in node.value:
            place = self._place(key)
            if not isinstance(key, ScalarNode):
                self._problems.add(place, "a key must be a plain word")
                continue
            name = str(key.value)
            if name == "<<":
                self._problems.add(place, "merge keys (<<) are not read; write the keys out")
                continue
            if name in seen:
                first = seen[name].line
                self._problems.add(place, f"'{name}' stands here twice; first on line {first}")
                continue
            seen[name] = place
            child = self._node(value)
            if child == Leaf(None, "", child.place):  # nothing, somewhere below: it is missing here
                child = Leaf(None, "", place)
            yield Entry(name, place, child)

    def _leaf(self, node: ScalarNode, place: Place) -> Leaf:
        text, tag = str(node.value), str(node.tag)
        quoted = node.style in ("'", '"', "|", ">")
        folded = node.style in ("|", ">") or node.start_mark.line != node.end_mark.line
        kind = tag.removeprefix("tag:yaml.org,2002:")
        if kind in ("int", "float", "bool", "null") and not quoted:
            try:
                value = self._construct(node)
            except (ValueError, YAMLError):
                value = text
            if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
                value = text
            return Leaf(value, text, place)
        if kind not in ("str", "timestamp"):
            self._refuse_tag(tag, place)
        return Leaf(text, text, place, quoted=quoted, is_folded=folded)

    def _refuse_tag(self, tag: str, place: Place) -> None:
        self._problems.add(place, f"tags such as {tag!r} are not read; write a plain value")


class _TooLargeError(Exception):
    """The document expands beyond what a job file can need."""


# --- writing ------------------------------------------------------------------------------------

_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""What JSON writes as it is and YAML does not read."""


def write_document(value: Mapping[str, Any], *, comment: str) -> str:
    """Write plain values as YAML that `parse_document` reads back.

    Every text is quoted, so that none is mistaken for a range or a number. Written by hand, because
    the library takes a tenth of a millisecond a value, and a resolved axis may have a hundred
    thousand.
    """
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += _lines(value, indent="")
    return "\n".join(lines) + "\n"


def _lines(value: Mapping[str, Any] | Sequence[Any], *, indent: str) -> Iterator[str]:
    """Yield a mapping or list in block style, without the line that introduces it."""
    inner = indent + "  "
    if not isinstance(value, Mapping):
        for item in value:
            # The first line of what an item holds stands behind its dash.
            first, *rest = _lines(item, indent=inner) if _is_long(item) else [inner + _scalar(item)]
            yield f"{indent}- {first.removeprefix(inner)}"
            yield from rest
        return
    for key, child in value.items():
        if _is_long(child):
            yield f"{indent}{_key(key)}:"
            yield from _lines(child, indent=inner)
        else:
            yield f"{indent}{_key(key)}: {_scalar(child)}"


def _is_long(value: Any) -> bool:  # noqa: ANN401 - any plain value
    return bool(value) and isinstance(value, Mapping | list | tuple)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[a-z][a-z_]*", key) and key not in _WORDS else _scalar(key)


_WORDS = ("null", "true", "false")


def _scalar(value: Any) -> str:  # noqa: ANN401 - any plain value
    """Return a number, a text, nothing, or an empty mapping or list as JSON, which is YAML too."""
    written = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)
