"""What may stand behind an axis, and what it means: `1..4`, `{linspace: [1, 2, 5]}`, files, lists.

Values are read twice over: *spread* turns every form into a list of written values with their
places, and *typed* makes one written value what its field says it is. Ranges are exact: `0.0..0.3
step 0.1` is computed in decimal and has four values. Random seeds are a hash, not a generator, so
they are the same on every machine and in every Python version.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import NamedTuple

from farm import samplers
from farm.errors import suggest
from farm.manifest.document import Entries, Items, Leaf, Node, Place, Problems, read_text
from farm.manifest.job import VAR_PREFIX
from farm.manifest.scope import resolve_name
from farm.task import ALIASES, FIELDS, Scalar

MAX_VALUES = 1_000_000
"""Values that one range, file or other short form may stand for."""
BUILTIN_MODELS = ("sprites",)
"""Models that come with the farm: the folders of `farm/render/builtin/`."""

_DECIMAL = r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?"
"""A decimal number whose sums and quotients `_EXACT` holds without rounding."""
_EXACT = Context(prec=400)
_RANGE = re.compile(
    rf"\s*(?P<first>(?:{_DECIMAL})?)\s*\.\.\s*(?P<last>(?:{_DECIMAL})?)"
    r"(?:\s+step\s+(?P<step>\S+))?\s*",
    re.ASCII,
)
_FORMS = {"linspace": ("linspace",), "random": ("random", "seed"), "file": ("file",)}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MISSPELT = 0.8
"""Similarity from which an unknown axis is taken for a misspelt field: `guidence_scale` is one,
`background` (against `backend`) is a variable."""
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


class Written(NamedTuple):
    """One value as it stands in the file: what YAML read, and its text."""

    value: str | int | float | bool | None
    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class Reader:
    """What reading values needs: where to note problems, and how to read files."""

    problems: Problems
    read: Callable[[str], str]
    job: str
    """Path of the job file: what `--set` names is relative to it too."""

    # --- names ---

    def name(self, written: str, place: Place) -> str | None:
        """Return the catalog's name of what an axis or bundle is called.

        As `resolve_name` has it, but a word close to a field is taken for a misspelt one.
        """
        resolved = resolve_name(written)
        if resolved in FIELDS:
            return resolved
        if hint := suggest(written, (*FIELDS, *ALIASES), cutoff=_MISSPELT):
            self.problems.add(place, f"unknown field '{written}'", hint=hint)
            return None
        if not _NAME.fullmatch(written):
            self.problems.add(
                place,
                f"'{written}' cannot name a variable",
                hint="use letters, digits and underscores, and begin with a letter",
            )
            return None
        if written.startswith(VAR_PREFIX):
            self.problems.add(
                place,
                f"'{written}' begins with '{VAR_PREFIX}', which the catalog puts before variables",
                hint="choose a name without it",
            )
            return None
        return resolved

    def locate(self, name: str, place: Place) -> str:
        """Return the path of a file that is named at `place`: relative to the naming file."""
        return beside(self.job if place.line is None else place.path, name)

    # --- many values ---

    def spread(self, node: Node, *, name: str) -> Iterator[Written]:
        """Yield every value that stands behind the axis `name`, with its place."""
        if isinstance(node, Items):
            for item in node.items:
                yield from self._spread_item(item, name=name)
            if not node.items:
                self.problems.add(node.place, "this axis is empty", hint="give it a value")
        else:
            yield from self._spread_item(node, name=name)

    def _spread_item(self, node: Node, *, name: str) -> Iterator[Written]:
        if isinstance(node, Leaf):
            yield from self._spread_leaf(node, name=name)
        elif isinstance(node, Items):
            self.problems.add(node.place, "a list inside a list", hint="write one list")
        else:
            yield from self._spread_form(node, name=name)

    def _spread_leaf(self, leaf: Leaf, *, name: str) -> Iterator[Written]:
        numeric = name in FIELDS and FIELDS[name].type is not str
        variable = name.startswith(VAR_PREFIX)
        found = _RANGE.fullmatch(leaf.text) if isinstance(leaf.value, str) else None
        if found and (numeric or (variable and not leaf.quoted)):
            if "..." not in leaf.text:
                yield from self._range(found, leaf)
                return
            self.problems.add(  # one of the dots could belong to a number
                leaf.place,
                f"'{leaf.text.strip()}' has too many dots for a range",
                hint="two dots make one: 8..16",
            )
        else:
            yield Written(leaf.value, leaf.text, leaf.place)

    def _range(self, found: re.Match[str], leaf: Leaf) -> Iterator[Written]:
        place, shown = leaf.place, leaf.text.strip()
        if not found["first"] or not found["last"]:
            self.problems.add(place, f"the range '{shown}' lacks an end", hint="write it as 1..4")
            return
        first, last = Decimal(found["first"]), Decimal(found["last"])
        if found["step"] is None:
            step = Decimal(1)
            if first != first.to_integral_value() or last != last.to_integral_value():
                self.problems.add(
                    place,
                    f"the range '{shown}' needs a step, because its ends are not whole",
                    hint=f"write '{shown} step 0.1'",
                )
                return
        elif not re.fullmatch(_DECIMAL, found["step"]):
            self.problems.add(place, f"the step of '{shown}' is not a number")
            return
        else:
            step = Decimal(found["step"])
        if step == 0:
            self.problems.add(place, f"the range '{shown}' has step 0 and never ends")
            return
        width = _EXACT.subtract(last, first)
        if width and (width < 0) != (step < 0):
            self.problems.add(
                place,
                f"the range '{shown}' is empty: its step leads away from its end",
                hint=f"write '{found['first']}..{found['last']} step {step.copy_negate()}'",
            )
            return
        count = int(_EXACT.divide_int(width, step)) + 1
        if count > MAX_VALUES:
            self.problems.add(
                place,
                f"the range '{shown}' has {_count(count)} values; {MAX_VALUES:,} is the limit",
            )
            return
        for i in range(count):
            yield _number(_EXACT.fma(step, i, first), place)

    def _spread_form(self, node: Entries, *, name: str) -> Iterator[Written]:
        form = next((form for form in _FORMS if form in node.keys), None)
        if form is None:
            self.problems.add(
                node.place,
                "this mapping is no axis value",
                hint="known forms are {linspace: [first, last, n]}, {random: n, seed: s} and "
                "{file: name}; in a bundle every option is a mapping",
            )
            return
        for entry in node:
            if entry.key not in _FORMS[form]:
                allowed = " and ".join(_FORMS[form])
                self.problems.add(
                    entry.place, f"'{entry.key}' means nothing beside '{form}'",
                    hint=f"only {allowed} may stand here",
                )  # fmt: skip
                return
        yield from {"linspace": self._linspace, "random": self._random, "file": self._file}[form](
            node, name
        )

    def _linspace(self, node: Entries, _name: str) -> Iterator[Written]:
        entry = node.entries[0]
        ends = entry.node.items if isinstance(entry.node, Items) else ()
        numbers = [self.number(end, "linspace") for end in ends]
        match numbers:
            case [Decimal() as first, Decimal() as last, Decimal() as count]:
                if count != count.to_integral_value() or not 2 <= count <= MAX_VALUES:  # noqa: PLR2004
                    self.problems.add(
                        ends[2].place, f"linspace makes 2 to {MAX_VALUES:,} values, not {count}"
                    )
                    return
                width = Fraction(last) - Fraction(first)
                for i in range(int(count)):
                    exact = Fraction(first) + width * i / (int(count) - 1)
                    yield _number(Decimal(repr(float(exact))), entry.node.place)
            case [_, _, _]:
                return
            case _:
                self.problems.add(entry.node.place, "linspace needs [first, last, n]")

    def _random(self, node: Entries, name: str) -> Iterator[Written]:
        values = {entry.key: self.whole(entry.node, entry.key) for entry in node}
        place = node.place
        if name != "seed":
            self.problems.add(place, "{random: n} makes seeds; it stands behind the axis 'seed'")
        elif "seed" not in values:
            self.problems.add(
                place, "{random: n} needs a seed, so that it is the same everywhere",
                hint="write {random: 4, seed: 1}",
            )  # fmt: skip
        else:
            count, seed = values["random"], values["seed"]
            if count is not None and seed is not None:
                if not 1 <= count <= MAX_VALUES:
                    self.problems.add(place, f"random needs 1 to {MAX_VALUES:,} seeds")
                    return
                for drawn in random_seeds(count, seed=seed):
                    yield Written(drawn, str(drawn), place)

    def _file(self, node: Entries, name: str) -> Iterator[Written]:
        entry = node.entries[0]
        if not isinstance(entry.node, Leaf):
            self.problems.add(entry.node.place, "file needs the name of a text file")
            return
        place = entry.node.place
        path = self.locate(entry.node.text, place)
        text = read_text(path, read=self.read, problems=self.problems, place=place)
        if text is None:
            return
        found = 0
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
            value = line.strip()
            if value and not value.startswith("#"):
                found += 1
                yield self._line(value, Place(path, number, 1), name=name)
            if found > MAX_VALUES:
                self.problems.add(place, f"{path!r} holds more than {MAX_VALUES:,} values")
                return
        if not found:
            self.problems.add(place, f"{path!r} holds no values, only blank lines and comments")

    @staticmethod
    def _line(text: str, place: Place, *, name: str) -> Written:
        """Return a line of a file as if it stood in the job: a number where the field is one."""
        if name in FIELDS and FIELDS[name].type is not str and re.fullmatch(_DECIMAL, text):
            return _number(Decimal(text), place)
        return Written(text, text, place)

    # --- single numbers ---

    def number(self, node: Node, what: str) -> Decimal | None:
        """Return a number, exactly as it is written; None, with a problem, if it is none."""
        if (
            isinstance(node, Leaf)
            and isinstance(node.value, int | float)
            and not isinstance(node.value, bool)
            and re.fullmatch(_DECIMAL, node.text)
        ):
            return Decimal(node.text)
        shown = f", not {node.text!r}" if isinstance(node, Leaf) else ""
        self.problems.add(node.place, f"'{what}' needs numbers{shown}")
        return None

    def whole(self, node: Node, what: str) -> int | None:
        """Return a whole number of 0 or more; None, with a problem, if it is none."""
        if (
            isinstance(node, Leaf)
            and isinstance(node.value, int)
            and not isinstance(node.value, bool)
            and node.value >= 0
        ):
            return node.value
        shown = f", not {node.text!r}" if isinstance(node, Leaf) else ""
        self.problems.add(node.place, f"'{what}' needs a whole number of 0 or more{shown}")
        return None

    # --- one value, typed ---

    def typed(self, written: Written, *, name: str) -> dict[str, Scalar] | None:
        """Return what one value of `name` assigns; None, with a problem, if it is not usable.

        That is one assignment, or two for a sampler whose name carries a schedule.
        """
        bare = name.removeprefix(VAR_PREFIX)
        if written.value is None and not (name in FIELDS and FIELDS[name].optional):
            self.problems.add(written.place, f"'{bare}' has no value")
            return None
        try:
            if name.startswith(VAR_PREFIX):
                return {name: _text(written)}
            if name == "sampler":
                return _sampler(written)
            if name == "sigma_schedule":
                return {name: samplers.parse_schedule(_text(written))}
            info = FIELDS[name]
            value = info.coerce(_text(written) if info.type is str else written.value)
            if name == "model":
                _check_model(str(value))
        except ValueError as error:
            said = str(error)
            message = said if said.startswith("unknown ") else f"'{bare}' {said}"
            head, _, hint = message.partition("; ")
            self.problems.add(written.place, head, hint=hint or None)
            return None
        return {name: value}


def _text(written: Written) -> str:
    """Return text as it stands in the file: `1.50` and `yes` keep their spelling."""
    try:
        written.text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a character that UTF-8 cannot write") from None
    if "\x00" in written.text:
        raise ValueError("holds a NUL character")
    return written.text


def _sampler(written: Written) -> dict[str, Scalar]:
    sampler, schedule = samplers.parse_sampler(_text(written))
    assigned: dict[str, Scalar] = {"sampler": sampler}
    if schedule:
        assigned["sigma_schedule"] = schedule
    return assigned


def _check_model(model: str) -> None:
    if not model.strip():
        raise ValueError("is empty; `farm models` lists what is at hand")
    if model.lower().endswith(_PICKLES):
        raise ValueError(
            f"names a pickle ({model!r}), which can run any code; convert it to .safetensors"
        )
    kind, colon, name = model.partition(":")
    if colon and kind == "builtin" and name not in BUILTIN_MODELS and "${" not in name:
        hint = suggest(name, BUILTIN_MODELS) or f"there is: {', '.join(BUILTIN_MODELS)}"
        raise ValueError(f"names no builtin model ({model!r}); {hint}")


def _number(value: Decimal, place: Place) -> Written:
    """Return a computed number as if it had been written: `2.0..3.0` goes through 2.0, not 2."""
    text = f"{value:f}"
    return Written(float(text) if "." in text else int(text), text, place)


def _count(number: int) -> str:
    """Return a count as people read it, however large."""
    return f"{number:,}" if number < 10**15 else "far too many"


def random_seeds(count: int, *, seed: int) -> Iterator[int]:
    """Yield `count` distinct seeds below 2**32, a pure function of `seed`.

    The n-th candidate is the first four bytes of BLAKE2b over `farm seed`, the seed and n, so the
    first seeds stay when more are asked for. 32 bits, because that is what other tools take.
    """
    seen: set[int] = set()
    counter = 0
    while len(seen) < count:
        block = hashlib.blake2b(f"farm seed {seed} {counter}".encode(), digest_size=4).digest()
        drawn = int.from_bytes(block, "big")
        counter += 1
        if drawn not in seen:
            seen.add(drawn)
            yield drawn


def beside(path: str, name: str) -> str:
    """Return the path of a file named in `path`: relative to the folder of the naming file."""
    if posixpath.isabs(name) or re.match(r"[A-Za-z]:[\\/]", name):
        return name
    folder = re.split(r"[\\/](?=[^\\/]*$)", path)[0] if re.search(r"[\\/]", path) else ""
    return posixpath.normpath(posixpath.join(folder, name))
