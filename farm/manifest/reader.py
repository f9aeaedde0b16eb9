"""Reading a job file: keys, defaults, matrix, conditions, overrides; every problem at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from farm import samplers
from farm.errors import ManifestError, suggest
from farm.manifest import template
from farm.manifest.document import (
    Entries,
    Entry,
    Items,
    Leaf,
    Node,
    Place,
    Problems,
    parse_document,
    read_document,
)
from farm.manifest.expression import (
    Expression,
    ExpressionError,
    match_mapping,
    parse_expression,
)
from farm.manifest.job import (
    VAR_PREFIX,
    ImageSettings,
    Job,
    Point,
    Product,
    Resources,
    Sample,
)
from farm.manifest.matrix import KEYWORDS, MatrixReader
from farm.manifest.scope import ScopeCheck, describe_unknown, ever_assigned, resolve_name
from farm.manifest.values import Reader
from farm.task import ALIASES, FIELDS, Scalar

JOB_KEYS = (
    "name", "output", "model", "backend", "defaults", "matrix", "exclude", "where", "sample",
    "file_name", "image", "resources", "retries", "max_tasks",
)  # fmt: skip
"""Everything that may stand at the top level of a job file."""
FILE_NAME_EXTRAS = ("task_id",)
"""What a `file_name` template may name besides fields and variables."""
IMAGE_FORMATS = ("png", "webp", "jpeg")
_SAFE_NAME = re.compile(r"\w(?:[\w .+-]*\w)?")
_MAX_NAME = 100


def load(path: str, *, read: Callable[[str], str], overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
        path: of the file; also names it in messages.
        read: returns a file's text; raises OSError or UnicodeDecodeError.
        overrides: `field=value` texts. A value is read as YAML, so it may be a list or a range. An
            override of a name that the matrix has as an axis replaces the axis; of another field,
            it sets the default, or adds an axis if it has several values; of a job key
            (`output=...`, `image.format=webp`), it sets the key.

    Raises:
        ManifestError: everything that is wrong with the file, in the order of the file.
    """
    problems = Problems()
    root = read_document(path, read=read, problems=problems)
    if root is not None and not isinstance(root, Entries):
        problems.add(root.place, "a job file is a mapping such as `matrix: ...`")
        root = None
    job = None
    if isinstance(root, Entries):
        for override in overrides:
            root = _override(root, override, problems=problems)
        job = _JobReader(path, problems=problems, read=read).job(root)
    if found := problems.sorted():
        raise ManifestError(found)
    assert job is not None, "no job and no problem"
    return job


class _JobReader:
    """Reads the keys of one job file."""

    def __init__(self, path: str, *, problems: Problems, read: Callable[[str], str]) -> None:
        self._path = path
        self._problems = problems
        self._values = Reader(problems, read)
        self._matrix = MatrixReader(self._values)

    def job(self, root: Entries) -> Job:
        for entry in root:
            if entry.key not in JOB_KEYS:
                self._unknown_key(entry)
        written = root.get("matrix")
        matrix = self._matrix.matrix(written.node) if written else Product(blocks=())
        defaults = self._defaults(root)
        ScopeCheck(
            problems=self._problems, blocks=self._matrix.places, texts=self._matrix.texts
        ).check(matrix, defaults=defaults)
        variables = frozenset(n for n in ever_assigned(matrix) if n.startswith(VAR_PREFIX))
        name = self._name(root)
        return Job(
            name=name,
            output=self._text(root, "output") or f"out/{name}",
            defaults=defaults,
            matrix=matrix,
            exclude=self._conditions(root, "exclude", variables),
            where=self._conditions(root, "where", variables),
            sample=self._sample(root),
            file_name=self._file_name(root, variables),
            image=self._image(root),
            resources=self._resources(root),
            source=self._path,
            **self._wholes(root),
        )

    def _unknown_key(self, entry: Entry) -> None:
        if entry.key in FIELDS or entry.key in ALIASES:
            hint = "put it under 'defaults:' or, as an axis, under 'matrix:'"
        else:
            hint = suggest(entry.key, JOB_KEYS) or f"known keys are {', '.join(JOB_KEYS)}"
        self._problems.add(entry.place, f"unknown job key '{entry.key}'", hint=hint)

    def _name(self, root: Entries) -> str:
        entry = root.get("name")
        stem = re.split(r"[\\/]", self._path)[-1].rpartition(".")[0] or "job"
        name = self._text(root, "name") or stem
        if not _SAFE_NAME.fullmatch(name) or len(name) > _MAX_NAME:
            if entry is not None:
                self._problems.add(
                    entry.node.place,
                    f"the name {name!r} cannot be a folder's name",
                    hint="use letters, digits, spaces, '-', '_' and '.'",
                )
            name = re.sub(r"[^\w.+-]+", "_", name).strip("._-+")[:_MAX_NAME] or "job"
        return name

    def _text(self, root: Entries, key: str) -> str | None:
        entry = root.get(key)
        if entry is None:
            return None
        if (
            isinstance(entry.node, Leaf)
            and entry.node.value is not None
            and entry.node.text.strip()
        ):
            return entry.node.text
        self._problems.add(entry.node.place, f"'{key}' needs a text")
        return None

    def _defaults(self, root: Entries) -> Point:
        given: dict[str, Scalar] = {name: info.default for name, info in FIELDS.items()}
        texts: Point = {}
        entry = root.get("defaults")
        if entry is not None:
            if isinstance(entry.node, Entries):
                texts = self._matrix.assignments(entry.node, fields_only=True)
            else:
                self._problems.add(entry.node.place, "'defaults' needs a mapping of task fields")
        defaults = given | dict(texts)
        self._matrix.move(texts, defaults)
        for key in ("model", "backend"):
            if (top := root.get(key)) is not None:
                self._top_level(top, defaults, given=texts)
        return defaults

    def _top_level(self, top: Entry, defaults: dict[str, Scalar], *, given: Point) -> None:
        """Read `model:` or `backend:` at the top, which stand for a default of that name."""
        if not isinstance(top.node, Leaf):
            self._problems.add(
                top.node.place, f"'{top.key}' needs one value here",
                hint=f"several values make an axis: put '{top.key}' under 'matrix:'",
            )  # fmt: skip
            return
        point = self._matrix.assignments(Entries((top,), top.place))
        if top.key in given and top.key in point and given[top.key] != point[top.key]:
            self._problems.add(
                top.place, f"'{top.key}' has another value under 'defaults:'", hint="say it once"
            )
        self._matrix.move(point, defaults)
        defaults.update(point)

    # --- conditions ---

    def _conditions(
        self, root: Entries, key: str, variables: frozenset[str]
    ) -> tuple[Expression, ...]:
        entry = root.get(key)
        if entry is None:
            return ()
        nodes = entry.node.items if isinstance(entry.node, Items) else (entry.node,)
        found = [self._condition(node, key, variables) for node in nodes]
        return tuple(expression for expression in found if expression is not None)

    def _condition(self, node: Node, key: str, variables: frozenset[str]) -> Expression | None:
        if isinstance(node, Entries):
            return self._mapping_condition(node, variables)
        if not isinstance(node, Leaf) or not isinstance(node.value, str):
            self._problems.add(
                node.place, f"'{key}' takes conditions: {{field: value}} or \"field > 3\""
            )
            return None

        def resolve(written: str) -> str:
            resolved = resolve_name(written)
            if resolved not in FIELDS and resolved not in variables:
                raise ValueError(describe_unknown(written, variables=variables, noun="name"))
            return resolved

        try:
            return parse_expression(node.text, resolve=resolve, literal=_spell_as_cells_do)
        except ExpressionError as error:
            head, _, hint = str(error).partition("; ")
            place = node.place.shifted(error.offset + node.quoted)
            self._problems.add(
                place,
                f"condition {head}" if not head.startswith("unknown") else head,
                hint=hint or None,
            )
            return None

    def _mapping_condition(self, node: Entries, variables: frozenset[str]) -> Expression | None:
        wanted: dict[str, list[Scalar]] = {}
        fine = True
        for entry in node:
            name = resolve_name(entry.key)
            if name not in FIELDS and name not in variables:
                said = describe_unknown(entry.key, variables=variables, noun="name")
                head, _, hint = said.partition("; ")
                self._problems.add(entry.place, head, hint=hint)
                fine = False
                continue
            for written in self._values.spread(entry.node, name=name):
                if written.value is None:
                    wanted.setdefault(name, []).append(None)
                elif (assigned := self._values.typed(written, name=name)) is None:
                    fine = False
                else:
                    for assignee, value in assigned.items():
                        wanted.setdefault(assignee, []).append(value)
        if not wanted:
            if fine:
                self._problems.add(node.place, "an empty condition would hold for every cell")
            return None
        return match_mapping(wanted)

    # --- small mappings ---

    def _mapping(self, root: Entries, key: str, *, allowed: tuple[str, ...]) -> Mapping[str, Entry]:
        entry = root.get(key)
        if entry is None:
            return {}
        if not isinstance(entry.node, Entries):
            self._problems.add(entry.node.place, f"'{key}' needs a mapping of {', '.join(allowed)}")
            return {}
        found = {}
        for child in entry.node:
            if child.key in allowed:
                found[child.key] = child
            else:
                hint = suggest(child.key, allowed) or f"known are {', '.join(allowed)}"
                self._problems.add(child.place, f"unknown key '{child.key}' of {key}", hint=hint)
        return found

    def _sample(self, root: Entries) -> Sample | None:
        found = self._mapping(root, "sample", allowed=("n", "seed"))
        if not found:
            return None
        numbers = {key: self._values.whole(entry.node, key) for key, entry in found.items()}
        if "n" not in numbers:
            place = next(iter(found.values())).place
            self._problems.add(place, "sample needs n", hint="write {n: 500, seed: 7}")
        n, seed = numbers.get("n"), numbers.get("seed", 0)
        if n == 0:
            self._problems.add(found["n"].node.place, "a sample of 0 cells renders nothing")
        return Sample(n=n, seed=seed) if n and seed is not None else None

    def _image(self, root: Entries) -> ImageSettings:
        found = self._mapping(root, "image", allowed=("format", "quality"))
        settings = ImageSettings()
        if entry := found.get("format"):
            word = entry.node.text.lower() if isinstance(entry.node, Leaf) else ""
            word = "jpeg" if word == "jpg" else word
            if word in IMAGE_FORMATS:
                settings = replace(settings, format=word)  # type: ignore[arg-type]  # just checked
            else:
                self._problems.add(
                    entry.node.place, f"'format' must be one of {', '.join(IMAGE_FORMATS)}"
                )
        if entry := found.get("quality"):
            quality = self._values.whole(entry.node, "quality")
            if quality is not None and not 1 <= quality <= 100:  # noqa: PLR2004
                self._problems.add(entry.node.place, f"'quality' must be 1 to 100, not {quality}")
            elif settings.format == "png":
                self._problems.add(
                    entry.place, "PNG is lossless and has no quality",
                    hint="choose format: webp or jpeg, or leave quality out",
                )  # fmt: skip
            settings = replace(settings, quality=quality)
        return settings

    def _resources(self, root: Entries) -> Resources:
        found = self._mapping(
            root, "resources", allowed=("num_gpus", "num_cpus", "accelerator_type")
        )
        amounts: dict[str, float] = {}
        for key in ("num_gpus", "num_cpus"):
            if entry := found.get(key):
                amount = self._values.number(entry.node, key)
                if amount is not None and amount < 0:
                    self._problems.add(entry.node.place, f"'{key}' must be at least 0")
                elif amount is not None:
                    amounts[key] = float(amount)
        kind = found.get("accelerator_type")
        return Resources(
            num_gpus=amounts.get("num_gpus"),
            num_cpus=amounts.get("num_cpus"),
            accelerator_type=kind.node.text if kind and isinstance(kind.node, Leaf) else None,
        )

    def _wholes(self, root: Entries) -> dict[str, Any]:
        """Read the keys that are whole numbers; absent ones keep the job's own defaults."""
        found = {}
        for key in ("retries", "max_tasks"):
            if (entry := root.get(key)) is not None:
                number = self._values.whole(entry.node, key)
                if number is not None:
                    found[key] = number
        return found

    def _file_name(self, root: Entries, variables: frozenset[str]) -> str | None:
        entry = root.get("file_name")
        text = self._text(root, "file_name")
        if entry is None or text is None:
            return None
        try:
            parsed = template.parse(text)
        except template.TemplateError as error:
            self._problems.add(entry.node.place, str(error))
            return None
        for word in dict.fromkeys(parsed.references):
            name = resolve_name(word)
            if name not in FIELDS and name not in variables and word not in FILE_NAME_EXTRAS:
                said = describe_unknown(word, variables=variables, noun="variable")
                head, _, hint = said.partition("; ")
                self._problems.add(entry.node.place, head, hint=hint)
        written = "x".join(parsed.literals)
        parts = written.split("/")
        if written.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", written):
            self._problems.add(
                entry.node.place, f"'file_name' leads out of the output: {text!r}",
                hint="it is relative to the folder images/",
            )  # fmt: skip
        elif "\\" in written or "" in parts:
            self._problems.add(
                entry.node.place, "'file_name' needs single slashes between its folders"
            )
        return text


def _spell_as_cells_do(name: str, text: str) -> str:
    """Return what cells hold where a condition says `text`: A1111's names become the farm's."""
    if name == "sampler":
        return samplers.parse_sampler(text)[0]
    if name == "sigma_schedule":
        return samplers.parse_schedule(text)
    return text


# --- overrides ----------------------------------------------------------------------------------


def _override(  # noqa: PLR0911 - one return a kind of target
    root: Entries, text: str, *, problems: Problems
) -> Entries:
    """Return the document with one `field=value` written into it."""
    place = Place(f"--set {text}")
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        problems.add(place, "needs the form field=value")
        return root
    node = parse_document(value, path=place.path, problems=problems)
    if node is None:
        return root
    if isinstance(node, Entries) and not node.entries:
        node = Leaf("", "", place)
    node = _placed_at(node, place)
    head, dot, tail = key.partition(".")
    if dot and head in ("image", "resources", "sample"):
        return _with_entry(
            root,
            head,
            lambda old: _with_entry(_entries(old, place), tail, lambda _: node, place),
            place,
        )
    name = resolve_name(key)
    replaced, hits = _replace_axis(root.get("matrix"), name, node)
    if hits:
        return _with_entry(root, "matrix", lambda _: replaced, place)
    if key in JOB_KEYS and key not in FIELDS:
        return _with_entry(root, key, lambda _: node, place)
    if name not in FIELDS:
        known = (*FIELDS, *ALIASES, *JOB_KEYS)
        hint = suggest(key, known) or "it is no task field, job key or axis of this job"
        problems.add(place, f"unknown field '{key}'", hint=hint)
        return root
    if _is_single(node):
        trimmed = Entries(
            tuple(entry for entry in root if entry.key != name or name not in JOB_KEYS),
            root.place,
        )
        return _with_entry(
            trimmed, "defaults",
            lambda old: _with_entry(_without(_entries(old, place), name), name,
                                    lambda _: node, place),
            place,
        )  # fmt: skip
    axis = Entries((Entry(name, place, node),), place)
    return _with_entry(root, "matrix", lambda old: _appended(old, axis), place)


def _is_single(node: Node) -> bool:
    return isinstance(node, Leaf) and not (isinstance(node.value, str) and ".." in node.value)


def _placed_at(node: Node, place: Place) -> Node:
    """Return the node as if all of it stood at `place`, so that problems name the option."""
    match node:
        case Leaf():
            return replace(node, place=place)
        case Items():
            return Items(tuple(_placed_at(item, place) for item in node.items), place)
        case Entries():
            moved = (Entry(e.key, place, _placed_at(e.node, place)) for e in node)
            return Entries(tuple(moved), place)


def _entries(node: Node | None, place: Place) -> Entries:
    return node if isinstance(node, Entries) else Entries((), place)


def _without(node: Entries, name: str) -> Entries:
    return Entries(tuple(e for e in node if resolve_name(e.key) != name), node.place)


def _with_entry(
    node: Entries, key: str, change: Callable[[Node | None], Node], place: Place
) -> Entries:
    """Return the mapping with one entry changed, or added at the end."""
    if (old := node.get(key)) is None:
        return Entries((*node.entries, Entry(key, place, change(None))), node.place)
    changed = (Entry(e.key, e.place, change(e.node)) if e is old else e for e in node)
    return Entries(tuple(changed), node.place)


def _appended(matrix: Node | None, axis: Entries) -> Node:
    """Return the matrix times one more axis, which varies fastest."""
    if matrix is None:
        return axis
    if isinstance(matrix, Leaf):
        outer: Node = Entries((Entry("include", matrix.place, matrix),), matrix.place)
    elif isinstance(matrix, Items):
        outer = Entries((Entry("union", matrix.place, matrix),), matrix.place)
    else:
        outer = matrix
    both = Items((outer, axis), axis.place)
    return Entries((Entry("product", axis.place, both),), axis.place)


def _replace_axis(entry: Entry | None, name: str, value: Node) -> tuple[Node, int]:
    """Return the matrix with the values of an axis replaced, and how often it was found.

    Axes inside included files are not reached.
    """
    hits = 0

    def walk(node: Node) -> Node:
        nonlocal hits
        if isinstance(node, Items):
            return Items(tuple(map(walk, node.items)), node.place)
        if not isinstance(node, Entries):
            return node
        changed = []
        for child in node:
            if child.key in KEYWORDS:
                changed.append(Entry(child.key, child.place, walk(child.node)))
            elif resolve_name(child.key) == name:
                hits += 1
                changed.append(Entry(child.key, child.place, value))
            else:
                changed.append(child)
        return Entries(tuple(changed), node.place)

    if entry is None:
        return value, 0
    return walk(entry.node), hits
