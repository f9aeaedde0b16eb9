"""Reading a job file: keys, defaults, matrix, conditions, overrides; every problem at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

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
    Order,
    Value,
    match_mapping,
    number_of,
    parse_expression,
)
from farm.manifest.job import (
    DEVICE_NAME,
    LEAST_TILE,
    VAR_PREFIX,
    Block,
    ImageSettings,
    Job,
    Point,
    Product,
    Resources,
    Sample,
    SheetSettings,
)
from farm.manifest.matrix import MatrixReader
from farm.manifest.scope import ScopeCheck, describe_unknown, ever_assigned, resolve_name
from farm.manifest.values import Reader
from farm.task import ALIASES, FIELDS, Scalar

JOB_KEYS = (
    "name", "output", "model", "backend", "defaults", "matrix", "exclude", "where", "sample",
    "file_name", "image", "resources", "retries", "max_tasks", "sheets",
)  # fmt: skip
"""Everything that may stand at the top level of a job file."""
_NESTED_KEYS = ("image", "resources", "sample")
IMAGE_FORMATS = ("png", "webp", "jpeg")
THEMES = ("light", "dark")
SHEET_KEYS = tuple(entry.name for entry in fields(SheetSettings))
"""Everything that may describe a contact sheet."""
_SHEET_COLUMNS = ("x", "y", "page", "super_x", "super_y", "score")
_SAFE_NAME = re.compile(r"\w(?:[\w .+-]*\w)?")
_MAX_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetProblem:
    """What is wrong with one key of one of a job's sheets."""

    sheet: int
    """Its number, from 0."""
    key: str
    message: str
    hint: str | None = None


class SheetCheck(Protocol):
    """Looks at the sheets of a job with an eye on the catalog, which this room does not know."""

    def __call__(
        self, sheets: Sequence[SheetSettings], *, variables: frozenset[str], job: Job | None
    ) -> Iterable[SheetProblem]:
        """Yield everything that is wrong with the sheets.

        Args:
            sheets: as they were read; what could not be read is as if it were not written.
            variables: the `var_*` columns that the job adds to the catalog.
            job: the whole job; None if something else in its file is wrong.
        """


def load(
    path: str,
    *,
    read: Callable[[str], str],
    overrides: Sequence[str] = (),
    check_sheets: SheetCheck | None = None,
) -> Job:
    """Read a job file.

    Args:
        path: of the file; also names it in messages.
        read: returns a file's text; raises OSError or UnicodeDecodeError.
        overrides: `field=value` texts. A value is read as YAML, so it may be a list or a range. An
            override of a name that the matrix has as an axis replaces its values, in included files
            too; of another field, it sets the default, or adds an axis, which varies fastest, if it
            has several values; of a job key (`output=...`, `image.format=webp`), it sets the key.
            Of two overrides of the same name the later one counts.
        check_sheets: finds what is wrong with `sheets:`; without it, they are taken as they are.

    Raises:
        ManifestError: everything that is wrong with the file, in the order of the file.
    """
    problems = Problems()
    root = read_document(path, read=read, problems=problems)
    if root is not None and not isinstance(root, Entries):
        problems.add(root.place, "a job file is a mapping such as `matrix: ...`")
    elif root is not None and not root.entries and not problems.sorted():
        problems.add(root.place, "this job file is empty")
    job = None
    if isinstance(root, Entries) and root.entries:
        changes = [_read_override(text, problems=problems) for text in overrides]
        reader = _JobReader(path, problems=problems, read=read)
        job = reader.job(root, changes=[change for change in changes if change is not None])
        if check_sheets is not None and job.sheets:
            reader.check_sheets(job, check_sheets)
    if found := problems.sorted():
        raise ManifestError(found)
    assert job is not None, "no job and no problem"
    return job


class _JobReader:
    """Reads the keys of one job file."""

    def __init__(self, path: str, *, problems: Problems, read: Callable[[str], str]) -> None:
        self._path = path
        self._problems = problems
        self._values = Reader(problems, read, path)
        self._matrix = MatrixReader(self._values)
        self._sheet_nodes: tuple[Node, ...] = ()

    def job(self, root: Entries, *, changes: Sequence[Entry]) -> Job:
        """Read the whole file, with the overrides `changes` written into it."""
        for entry in root:
            if entry.key not in JOB_KEYS:
                self._unknown_key(entry)
        replaced: dict[str, Entry] = {}
        for change in changes:
            if _is_job_key(change.key):
                root = _with_key(root, change)
            else:
                replaced[resolve_name(change.key)] = change
        self._matrix.replaced = {name: change.node for name, change in replaced.items()}
        written = root.get("matrix")
        matrix = self._matrix.matrix(written.node) if written else Product(blocks=())
        defaults = self._defaults(root)
        for name, change in replaced.items():
            if name not in self._matrix.named:
                matrix = self._replace(name, change, matrix=matrix, defaults=defaults)
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
            sheets=self._sheets(root),
            source=self._path,
            spots={
                key: (place.path, place.line, place.column)
                for key, place in self._matrix.spots.items()
            },
            **self._wholes(root),
        )

    def _replace(
        self, name: str, change: Entry, *, matrix: Block, defaults: dict[str, Scalar]
    ) -> Block:
        """Let an override of a name that is no axis set the default, or add an axis."""
        assigned = ever_assigned(matrix)
        if name not in FIELDS:
            axes = sorted(n.removeprefix(VAR_PREFIX) for n in assigned if n not in FIELDS)
            hint = suggest(change.key, (*axes, *FIELDS, *ALIASES, *JOB_KEYS))
            hint = hint or "it is no task field, job key or axis of this job"
            self._problems.add(change.place, f"unknown field '{change.key}'", hint=hint)
            return matrix
        if name in assigned:
            self._problems.add(
                change.place,
                f"'{name}' is set by an axis of another name, which an override does not change",
                hint="a bundle or a sampler with its schedule sets it; override that axis instead",
            )
            return matrix
        axis = self._matrix.axis(change, name)
        if axis is None:
            return matrix
        if len(axis.points) == 1:
            self._matrix.move(axis.points[0], defaults)
            defaults.update(axis.points[0])
            return matrix
        outer = (matrix,) if assigned else ()
        return Product(blocks=(*outer, axis))

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
        if DEVICE_NAME.match(name):
            if entry is not None:
                self._problems.add(
                    entry.node.place,
                    f"the name {name!r} is a device on Windows, where no folder can have it",
                    hint=f"call it, say, 'job-{name}'",
                )
            name = f"job-{name}"
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

    def _defaults(self, root: Entries) -> dict[str, Scalar]:
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
            return parse_expression(node.text, resolve=resolve, spell=_spell_as_cells_do)
        except ExpressionError as error:
            head, _, hint = str(error).partition("; ")
            place = node.place if node.is_folded else node.place.shifted(error.offset + node.quoted)
            self._problems.add(place, f"in this condition, {head}", hint=hint or None)
            return None

    def _mapping_condition(self, node: Entries, variables: frozenset[str]) -> Expression | None:
        wanted: dict[str, list[Scalar | Point]] = {}
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
                    one = assigned[name] if len(assigned) == 1 else assigned
                    wanted.setdefault(name, []).append(one)
        if not wanted:
            if fine:
                self._problems.add(node.place, "an empty condition would hold for every cell")
            return None
        try:
            return match_mapping(wanted)
        except ExpressionError as error:
            self._problems.add(node.place, f"in this condition, {error}")
            return None

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
        amount_keys = ("num_gpus", "num_cpus", "stuck_after_s")
        found = self._mapping(root, "resources", allowed=(*amount_keys, "accelerator_type"))
        amounts: dict[str, float] = {}
        for key in amount_keys:
            if entry := found.get(key):
                amount = self._values.number(entry.node, key)
                if amount is not None and amount < 0:
                    self._problems.add(entry.node.place, f"'{key}' must be at least 0")
                elif amount is not None:
                    amounts[key] = float(amount)
        resources = root.get("resources")
        inner = resources.node if resources else None
        return Resources(
            num_gpus=amounts.get("num_gpus"),
            num_cpus=amounts.get("num_cpus"),
            stuck_after_s=amounts.get("stuck_after_s"),
            accelerator_type=(
                self._text(inner, "accelerator_type") if isinstance(inner, Entries) else None
            ),
        )

    def _sheets(self, root: Entries) -> tuple[SheetSettings, ...]:
        entry = root.get("sheets")
        if entry is None:
            return ()
        self._sheet_nodes = entry.node.items if isinstance(entry.node, Items) else (entry.node,)
        return tuple(map(self._sheet, self._sheet_nodes))

    def _sheet(self, node: Node) -> SheetSettings:
        """Read one sheet. Whether there are such columns and values, `check_sheets` is asked."""
        if not isinstance(node, Entries):
            self._problems.add(
                node.place, "a sheet is a mapping such as {x: guidance_scale, y: sampler}"
            )
            return SheetSettings()
        given: dict[str, Any] = {}
        for entry in node:
            if entry.key not in SHEET_KEYS:
                hint = suggest(entry.key, SHEET_KEYS) or f"known are {', '.join(SHEET_KEYS)}"
                self._problems.add(entry.place, f"unknown key '{entry.key}' of a sheet", hint=hint)
            elif entry.key == "tile":
                given["tile"] = self._values.whole(entry.node, "tile")
                if given["tile"] is not None and given["tile"] < LEAST_TILE:
                    self._problems.add(entry.node.place, f"'tile' must be at least {LEAST_TILE}")
            else:
                given[entry.key] = self._text(node, entry.key)
        for name in _SHEET_COLUMNS:  # a job file may say cfg; the catalog says guidance_scale
            if name in given:
                given[name] = ALIASES.get(given[name], given[name])
        self._check_sheet(node, given)
        return SheetSettings(**{key: value for key, value in given.items() if value is not None})

    def _check_sheet(self, node: Entries, given: Mapping[str, Any]) -> None:
        theme = node.get("theme")
        if theme is not None and given["theme"] not in (*THEMES, None):
            self._problems.add(theme.node.place, f"'theme' must be one of {', '.join(THEMES)}")
        file = node.get("file")
        if file is not None and given["file"] and re.search(r"[\\/:]", given["file"]):
            self._problems.add(
                file.node.place,
                f"'file' is a name in the output's folder sheets, not a path: {given['file']!r}",
            )
        difference = node.get("diff_against")
        if difference is not None and given["diff_against"] and "=" not in given["diff_against"]:
            self._problems.add(
                difference.node.place, "'diff_against' needs the form column=value",
                hint="such as sampler=euler",
            )  # fmt: skip

    def check_sheets(self, job: Job, check: SheetCheck) -> None:
        """Note what `check` finds wrong with the sheets of the job, each at its place."""
        sound = None if self._problems.sorted() else job
        # An axis that could not be read is a column all the same.
        names = ever_assigned(job.matrix) | self._matrix.named
        variables = frozenset(name for name in names if name.startswith(VAR_PREFIX))
        for problem in check(job.sheets, variables=variables, job=sound):
            node = self._sheet_nodes[problem.sheet]
            entry = node.get(problem.key) if isinstance(node, Entries) else None
            place = node.place if entry is None else entry.node.place
            self._problems.add(place, problem.message, hint=problem.hint)

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
            if name not in FIELDS and name not in variables:
                said = describe_unknown(word, variables=variables, noun="variable")
                head, _, hint = said.partition("; ")
                self._problems.add(entry.node.place, head, hint=hint)
        written = "\N{SUBSTITUTE}".join(parsed.literals)
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
        return parsed.renamed(lambda word: resolve_name(word).removeprefix(VAR_PREFIX))


def _spell_as_cells_do(name: str, value: Value, order: Order) -> Value:
    """Return what cells hold where a condition says `value`: A1111's names become the farm's.

    Raises:
        ValueError: no cell compares with that value: the field is a number and this is not, or the
            other way round.
    """
    if name not in FIELDS or value is None:
        return value
    info = FIELDS[name]
    if info.type is not str:
        if isinstance(value, bool) or number_of(value) is None:
            raise ValueError(f"'{name}' is a number, and {value!r} is not")
        return value
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - one error type
            f"'{name}' is text, and {value!r} is not; put text in quotes"
        )
    if name == "sampler":
        sampler, schedule = samplers.parse_sampler(value)
        if schedule and order in ("==", "!="):
            raise ValueError(
                f"{value!r} names a sampler and its schedule; compare both: "
                f"sampler == '{sampler}' and sigma_schedule == '{schedule}'"
            )
        return sampler
    if name == "sigma_schedule":
        return samplers.parse_schedule(value)
    if info.choices and value not in info.choices:
        raise ValueError(f"'{name}' is one of {', '.join(info.choices)}, never {value!r}")
    return value


# --- overrides ----------------------------------------------------------------------------------


def _read_override(text: str, *, problems: Problems) -> Entry | None:
    """Read one `field=value`; all of it stands at a place that shows it as it was typed."""
    place = Place(f"--set {text}")
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        problems.add(place, "needs the form field=value")
        return None
    inside = Problems()
    node = parse_document(value, path=place.path, problems=inside)
    for problem in inside.sorted():
        problems.add(place, problem.message, hint=problem.hint)
    if node is None:
        return None
    if node == Entries((), Place(place.path, 1, 1)):
        node = Leaf("", "", place)
    return Entry(key, place, _placed_at(node, place))


def _is_job_key(key: str) -> bool:
    """Whether an override of `key` changes the job around the tasks, not the tasks."""
    head, dot, _ = key.partition(".")
    return head in _NESTED_KEYS if dot else key in JOB_KEYS and key not in FIELDS


def _with_key(root: Entries, change: Entry) -> Entries:
    """Return the document with one job key set; `image.format` sets a key of `image`."""
    head, dot, tail = change.key.partition(".")
    if not dot:
        return _with_entry(root, change)
    old = root.get(head)
    inner = (
        old.node if old is not None and isinstance(old.node, Entries) else Entries((), change.place)
    )
    inner = _with_entry(inner, Entry(tail, change.place, change.node))
    return _with_entry(root, Entry(head, change.place, inner))


def _with_entry(node: Entries, new: Entry) -> Entries:
    """Return the mapping with one entry in the place of the old one, or at the end."""
    if node.get(new.key) is None:
        return Entries((*node.entries, new), node.place)
    return Entries(tuple(new if e.key == new.key else e for e in node), node.place)


def _placed_at(node: Node, place: Place) -> Node:
    """Return the node as if all of it stood at `place`, so that problems name the option."""
    match node:
        case Leaf():
            return replace(node, place=place, is_folded=True)
        case Items():
            return Items(tuple(_placed_at(item, place) for item in node.items), place)
        case Entries():
            moved = (Entry(e.key, place, _placed_at(e.node, place)) for e in node)
            return Entries(tuple(moved), place)
