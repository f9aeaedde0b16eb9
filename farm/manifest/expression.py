"""Conditions on cells: `guidance_scale > 6 and sampler == 'ddim'`, in a closed grammar of our own.

    condition   = all {"or" all}
    all         = claim {"and" claim}
    claim       = "not" claim | sum {("==" "!=" "<" "<=" ">" ">=") sum | ["not"] "in" list}
    sum         = product {("+" "-") product}
    product     = value {("*" "/" "%") value}
    value       = "-" value | number | text | name | "none" | "true" | "false" | "(" condition ")"
    list        = "[" value {"," value} "]"          (or in parentheses)

Comparisons chain as in Python: `1 < a <= 4`. There is nothing to call and nothing to reach, so an
expression can neither leave its cell nor run for long, and it means the same on every Python.

Text and numbers meet often, because template variables are text: where one side of a comparison is
a number and the other is text that reads as one, they are compared as numbers; otherwise a text and
a number are never equal and never ordered. Whatever is absent (`none`) equals only `none`, and a
calculation that has no result (text times two, a division by zero) is absent too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias, cast

from farm.task import Scalar

MAX_LENGTH = 1_000_000
"""Characters of an expression; a bound on the work that reading one can cost."""
MAX_DEPTH = 100
"""Levels of an expression; what reads, pickles and evaluates one goes down as far."""

Value: TypeAlias = "str | int | float | bool | None"
Order: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">="]
Sign: TypeAlias = Literal["+", "-", "*", "/", "%"]
Resolve: TypeAlias = Callable[[str], str]
"""Turns a name as written into the catalog's; raises ValueError if there is none."""
Spell: TypeAlias = Callable[[str, Value, Order], Value]
"""Turns what is compared with a catalog name into what cells hold; raises ValueError if the
comparison can never mean anything."""


class ExpressionError(ValueError):
    """An expression that cannot be read: a sentence, and the column where (from 0)."""

    def __init__(self, message: str, *, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


# --- the tree -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Literal:
    value: Value

    def of(self, values: Mapping[str, Scalar]) -> Value:
        del values
        return self.value


@dataclass(frozen=True, slots=True)
class _Name:
    name: str

    def of(self, values: Mapping[str, Scalar]) -> Value:
        return values.get(self.name)


@dataclass(frozen=True, slots=True)
class _All:
    parts: tuple[_Node, ...]

    def of(self, values: Mapping[str, Scalar]) -> bool:
        return all(part.of(values) for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Any:
    parts: tuple[_Node, ...]

    def of(self, values: Mapping[str, Scalar]) -> bool:
        return any(part.of(values) for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Not:
    part: _Node

    def of(self, values: Mapping[str, Scalar]) -> bool:
        return not self.part.of(values)


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    sign: Sign
    left: _Node
    right: _Node

    def of(self, values: Mapping[str, Scalar]) -> Value:
        left, right = self.left.of(values), self.right.of(values)
        if self.sign == "+" and isinstance(left, str) and isinstance(right, str):
            return left + right
        one, other = number_of(left), number_of(right)
        if one is None or other is None:
            return None
        return _calculate(self.sign, one, other)


@dataclass(frozen=True, slots=True)
class _Comparison:
    order: Order
    left: _Node
    right: _Node

    def of(self, values: Mapping[str, Scalar]) -> bool:
        return _compare(self.order, self.left.of(values), self.right.of(values))


@dataclass(frozen=True, slots=True)
class _Membership:
    """`left in [...]`; literals, of which there may be thousands, are looked up, not compared."""

    left: _Node
    texts: frozenset[str]
    numbers: frozenset[float]
    readable: frozenset[float]
    """What those of `texts` that read as numbers are worth."""
    has_none: bool
    others: tuple[_Node, ...]
    """Members that depend on the cell."""

    def of(self, values: Mapping[str, Scalar]) -> bool:
        left = self.left.of(values)
        if left is None:
            found = self.has_none
        elif isinstance(left, str):
            found = left in self.texts or number_of(left) in self.numbers
        else:
            found = left in self.numbers or left in self.readable
        return found or any(_compare("==", left, other.of(values)) for other in self.others)


_Node: TypeAlias = "_Literal | _Name | _All | _Any | _Not | _Arithmetic | _Comparison | _Membership"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A condition on the values of a cell. Two are equal if they were written alike."""

    text: str
    names: frozenset[str]
    """Task fields and `var_*` variables that it reads."""
    root: _Node

    def holds(self, values: Mapping[str, Scalar]) -> bool:
        """Return whether the condition is true of a cell; absent names count as `none`."""
        return bool(self.root.of(values))


# --- reading ------------------------------------------------------------------------------------


def parse_expression(
    text: str, *, resolve: Resolve | None = None, spell: Spell | None = None
) -> Expression:
    """Read an expression.

    Args:
        text: the condition, in the closed grammar of this module.
        resolve: from a name as written to the catalog's; by default names are taken as they are.
        spell: from (catalog name, literal, how the two are compared) to the value that cells hold,
            so that `sampler == 'Euler a'` means `euler_a`.

    Raises:
        ExpressionError: the text is not of the grammar, or one of the callables refused a word.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"it is longer than {MAX_LENGTH:,} characters")
    reader = _Reader(text, resolve=resolve, spell=spell)
    root = reader.condition()
    return Expression(text=text, names=frozenset(reader.names), root=root)


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?!\w))
      | (?P<text>'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*")
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>==|!=|<=|>=|[-+*/%<>()\[\],])
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_ORDERS = ("==", "!=", "<", "<=", ">", ">=")
_WORDS: Mapping[str, Value] = {"none": None, "null": None, "true": True, "false": False}
_RESERVED = ("and", "or", "not", "in", *_WORDS)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    offset: int

    @property
    def word(self) -> str:
        """A sign, or a reserved word in small letters; empty for everything else."""
        if self.kind == "sign":
            return self.text
        lowered = self.text.lower()
        return lowered if self.kind == "name" and lowered in _RESERVED else ""


class _Reader:
    """Reads one expression by recursive descent, one method a rule of the grammar."""

    def __init__(self, text: str, *, resolve: Resolve | None, spell: Spell | None) -> None:
        self._text = text
        self._resolve = resolve
        self._spell = spell
        self._depth = 0
        self.names: set[str] = set()
        self._token = self._scan(0)
        if self._token.kind == "end":
            raise ExpressionError('it is empty; write a condition such as "guidance_scale > 6"')

    # --- tokens ---

    def _scan(self, start: int) -> _Token:
        found = _TOKEN.match(self._text, start)
        if found is None:
            raise self._unreadable(start)
        kind = found.lastgroup
        assert kind is not None
        return _Token(kind, found[kind], found.start(kind))

    def _next(self) -> _Token:
        """Return the current token and step behind it."""
        token = self._token
        self._token = self._scan(token.offset + len(token.text))
        return token

    def _take(self, *words: str) -> _Token | None:
        return self._next() if self._token.word in words else None

    def _expect(self, word: str, *, opened: _Token) -> None:
        if self._take(word) is None:
            if self._token.kind == "end":
                raise ExpressionError(f"this '{opened.text}' is never closed", offset=opened.offset)
            raise self._misplaced()

    def _unreadable(self, start: int) -> ExpressionError:
        found = self._text[start:].lstrip()[0]
        offset = self._text.index(found, start)
        if found == "=":
            said = "'=' is no comparison; compare with '=='"
        elif found in "'\"":
            said = "this quote is never closed"
        else:
            said = f"{found!r} means nothing here"
        return ExpressionError(said, offset=offset)

    def _misplaced(self) -> ExpressionError:
        token = self._token
        if token.kind == "end":
            return ExpressionError("it ends too early", offset=token.offset)
        said = f"{token.text!r} does not fit here"
        if token.kind == "name" and not token.word:
            said += "; join conditions with and, or; put text in quotes"
        return ExpressionError(said, offset=token.offset)

    # --- rules ---

    def condition(self) -> _Node:
        root = self._either()
        if self._token.kind != "end":
            if self._token.word == "(":
                raise ExpressionError("there is nothing to call here", offset=self._token.offset)
            raise self._misplaced()
        return root

    def _either(self) -> _Node:
        parts = [self._every()]
        while self._take("or"):
            parts.append(self._every())
        return parts[0] if len(parts) == 1 else _Any(tuple(parts))

    def _every(self) -> _Node:
        parts = [self._claim()]
        while self._take("and"):
            parts.append(self._claim())
        return parts[0] if len(parts) == 1 else _All(tuple(parts))

    def _claim(self) -> _Node:
        if token := self._take("not"):
            return _Not(self._deeper(self._claim, token))
        first = self._token
        left = self._sum()
        steps: list[_Node] = []
        while True:
            if token := self._take(*_ORDERS):
                after = self._token
                right = self._sum()
                order = cast("Order", token.text)
                steps.append(
                    _Comparison(
                        order,
                        self._spelled(left, beside=right, order=order, token=first),
                        self._spelled(right, beside=left, order=order, token=after),
                    )
                )
                first, left = after, right
            elif negated := self._take("not"):
                if self._take("in") is None:
                    raise ExpressionError("'not' lacks its 'in'", offset=negated.offset)
                steps.append(_Not(self._members(left)))
            elif self._take("in"):
                steps.append(self._members(left))
            else:
                break
        if not steps:
            return left
        return steps[0] if len(steps) == 1 else _All(tuple(steps))

    def _members(self, left: _Node) -> _Membership:
        opened = self._take("[", "(")
        if opened is None:
            raise ExpressionError("'in' needs a list such as [1, 2]", offset=self._token.offset)
        closing = {"[": "]", "(": ")"}[opened.text]
        members: list[_Node] = []
        while self._token.word != closing:
            token = self._token
            member = self._sum()
            members.append(self._spelled(member, beside=left, order="==", token=token))
            if self._take(",") is None:
                break
        self._expect(closing, opened=opened)
        return _member(left, members)

    def _sum(self) -> _Node:
        return self._chain(self._product, ("+", "-"))

    def _product(self) -> _Node:
        return self._chain(self._value, ("*", "/", "%"))

    def _chain(self, operand: Callable[[], _Node], signs: tuple[Sign, ...]) -> _Node:
        """Read operands joined by signs, from the left; each sign is one level of the tree."""
        node = operand()
        length = 0
        while token := self._take(*signs):
            length += 1
            self._check_depth(self._depth + length, token)
            node = _Arithmetic(cast("Sign", token.text), node, operand())
        return node

    def _value(self) -> _Node:  # noqa: PLR0911 - one return a kind of value
        if token := self._take("-"):
            node = self._deeper(self._value, token)
            if isinstance(node, _Literal) and (number := number_of(node.value)) is not None:
                return _Literal(-number)
            return _Arithmetic("-", _Literal(0), node)
        if token := self._take("("):
            node = self._deeper(self._either, token)
            self._expect(")", opened=token)
            return node
        match self._token.kind:
            case "number":
                return _Literal(self._read_number(self._next()))
            case "text":
                return _Literal(_ESCAPE.sub(_unescape, self._next().text[1:-1]))
            case "name" if self._token.word in _WORDS:
                return _Literal(_WORDS[self._next().word])
            case "name" if not self._token.word:
                return self._name(self._next())
        if self._token.word == "[":
            raise ExpressionError("a list stands only after 'in'", offset=self._token.offset)
        raise self._misplaced()

    def _deeper(self, rule: Callable[[], _Node], token: _Token) -> _Node:
        self._depth += 1
        self._check_depth(self._depth, token)
        node = rule()
        self._depth -= 1
        return node

    def _check_depth(self, depth: int, token: _Token) -> None:
        if depth > MAX_DEPTH:
            raise ExpressionError(
                f"it is nested more than {MAX_DEPTH} levels deep", offset=token.offset
            )

    # --- words ---

    def _read_number(self, token: _Token) -> int | float:
        number = number_of(token.text)
        if number is None:
            raise ExpressionError("this number is out of range", offset=token.offset)
        return number

    def _name(self, token: _Token) -> _Name:
        try:
            name = self._resolve(token.text) if self._resolve else token.text
        except ValueError as error:
            raise ExpressionError(str(error), offset=token.offset) from None
        self.names.add(name)
        return _Name(name)

    def _spelled(self, node: _Node, *, beside: _Node, order: Order, token: _Token) -> _Node:
        """Return one side of a comparison; a literal beside a name is spelled as cells spell it."""
        if self._spell is None or not isinstance(node, _Literal) or not isinstance(beside, _Name):
            return node
        try:
            return _Literal(self._spell(beside.name, node.value, order))
        except ValueError as error:
            raise ExpressionError(str(error), offset=token.offset) from None


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1], 16))
    return _ESCAPED.get(found[2], found[0])


def _member(left: _Node, members: Sequence[_Node]) -> _Membership:
    literals = [member.value for member in members if isinstance(member, _Literal)]
    texts = frozenset(value for value in literals if isinstance(value, str))
    readable = frozenset(number for text in texts if (number := number_of(text)) is not None)
    return _Membership(
        left=left,
        texts=texts,
        numbers=frozenset(v for v in literals if v is not None and not isinstance(v, str)),
        readable=readable,
        has_none=None in literals,
        others=tuple(member for member in members if not isinstance(member, _Literal)),
    )


# --- what comparisons mean ----------------------------------------------------------------------

_WHOLE = re.compile(r"\s*[-+]?\d{1,40}\s*", re.ASCII)
_NUMERIC = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)


def number_of(value: Value) -> float | int | None:
    """Return what a value is worth as a number; None if it is absent or text of another kind."""
    if not isinstance(value, str):
        return value
    if _WHOLE.fullmatch(value):
        return int(value)
    if _NUMERIC.fullmatch(value) and math.isfinite(number := float(value)):
        return number
    return None


def _calculate(sign: Sign, left: float, right: float) -> float | None:
    try:
        match sign:
            case "+":
                result = left + right
            case "-":
                result = left - right
            case "*":
                result = left * right
            case "/":
                result = left / right
            case "%":
                result = left % right
    except (ZeroDivisionError, OverflowError):
        return None
    return result if isinstance(result, int) or math.isfinite(result) else None


def _compare(order: Order, left: Value, right: Value) -> bool:
    if order == "!=":
        return not _compare("==", left, right)
    if left is None or right is None:
        return order == "==" and left is right
    if isinstance(left, str) and isinstance(right, str):
        if order == "==":
            return left == right
        one, other = number_of(left), number_of(right)
        if one is None or other is None:
            return _ordered(order, left < right, left == right)
    else:
        one, other = number_of(left), number_of(right)
        if one is None or other is None:
            return False
    return _ordered(order, one < other, one == other)


def _ordered(order: Order, is_less: bool, is_equal: bool) -> bool:  # noqa: FBT001 - two claims
    match order:
        case "<":
            return is_less
        case "<=":
            return is_less or is_equal
        case ">":
            return not is_less and not is_equal
        case ">=":
            return not is_less
        case _:
            return is_equal


# --- conditions written as mappings -------------------------------------------------------------

_RUN = 4
"""From this many on, consecutive whole numbers are written as a span."""


def match_mapping(
    mapping: Mapping[str, Sequence[Scalar | Mapping[str, Scalar]]],
) -> Expression:
    """Return the condition that every name has one of the values listed for it.

    Names and values are the catalog's: whoever reads the file has typed and resolved them. A value
    may be several assignments at once, as `DPM++ 2M Karras` is.

    Raises:
        ExpressionError: the values are too many.
    """
    claims = [_alternatives(name, values) for name, values in mapping.items()]
    return parse_expression(" and ".join(claims))


def _alternatives(name: str, values: Sequence[Scalar | Mapping[str, Scalar]]) -> str:
    choices = [
        "(" + " and ".join(f"{key} == {_spell(value)}" for key, value in both.items()) + ")"
        for both in values
        if isinstance(both, Mapping)
    ]
    single = [value for value in values if not isinstance(value, Mapping)]
    spans, rest = _spans(single)
    choices += [f"{first} <= {name} <= {last}" for first, last in spans]
    if len(rest) == 1:
        choices.append(f"{name} == {_spell(rest[0])}")
    elif rest:
        choices.append(f"{name} in [{', '.join(map(_spell, rest))}]")
    return choices[0] if len(choices) == 1 else f"({' or '.join(choices)})"


def _spans(values: Sequence[Scalar]) -> tuple[list[tuple[int, int]], list[Scalar]]:
    """Return the spans of consecutive whole numbers among `values`, and what is in none of them."""
    wholes = sorted({value for value in values if isinstance(value, int)})
    rest: list[Scalar] = [value for value in values if not isinstance(value, int)]
    spans: list[tuple[int, int]] = []
    # Within a run of consecutive numbers, the distance between value and place is the same.
    for _, places in groupby(range(len(wholes)), key=lambda place: wholes[place] - place):
        run = [wholes[place] for place in places]
        if len(run) >= _RUN:
            spans.append((run[0], run[-1]))
        else:
            rest += run
    return spans, rest


def _spell(value: Scalar) -> str:
    match value:
        case None:
            return "none"
        case str():
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{quoted}"'
        case _:
            return repr(value)
