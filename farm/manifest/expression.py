"""Conditions on cells: `guidance_scale > 6 and sampler == 'ddim'`, without `eval`.

An expression is read by Python's own parser and then admitted node by node: comparisons, `in`,
`and or not`, arithmetic, names and literals. Anything else (calls, attributes, subscripts) is
refused, so an expression can neither reach outside the cell nor run for long. What is admitted
becomes a small tree of our own, which is picklable and means the same on every Python version.

Text and numbers meet often, because template variables are text: where one side of a comparison is
a number and the other is text that reads as one, they are compared as numbers; otherwise a text and
a number are never equal and never ordered. A field that is absent (`none`) equals only `none`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from farm.task import Scalar

MAX_LENGTH = 100_000
"""Characters of an expression; a bound on the work that reading one can cost."""

Value: TypeAlias = "str | int | float | bool | None"
Operator: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
Resolve: TypeAlias = Callable[[str], str]
"""Turns a name as written into the catalog's; raises ValueError if there is none."""


class ExpressionError(ValueError):
    """An expression that cannot be read: a sentence, and the column where (from 0)."""

    def __init__(self, message: str, *, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class _Literal:
    value: Value

    def of(self, values: Mapping[str, Scalar]) -> Value:  # noqa: ARG002 - the node's interface
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
        return all(_truth(part.of(values)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Any:
    parts: tuple[_Node, ...]

    def of(self, values: Mapping[str, Scalar]) -> bool:
        return any(_truth(part.of(values)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Not:
    part: _Node

    def of(self, values: Mapping[str, Scalar]) -> bool:
        return not _truth(self.part.of(values))


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    operator: Literal["+", "-", "*", "/", "%"]
    left: _Node
    right: _Node

    def of(self, values: Mapping[str, Scalar]) -> Value:
        left, right = self.left.of(values), self.right.of(values)
        if self.operator == "+" and isinstance(left, str) and isinstance(right, str):
            return left + right
        one, other = _number(left), _number(right)
        if one is None or other is None:
            return None
        return _calculate(self.operator, one, other)


@dataclass(frozen=True, slots=True)
class _Comparison:
    operator: Operator
    left: _Node
    right: tuple[_Node, ...]
    """One node, or the members of the list after `in`."""

    def of(self, values: Mapping[str, Scalar]) -> bool:
        left = self.left.of(values)
        right = [node.of(values) for node in self.right]
        if self.operator in ("in", "not in"):
            return any(_equal(left, member) for member in right) == (self.operator == "in")
        [other] = right
        if self.operator in ("==", "!="):
            return _equal(left, other) == (self.operator == "==")
        return _ordered(self.operator, left, other)


_Node: TypeAlias = "_Literal | _Name | _All | _Any | _Not | _Arithmetic | _Comparison"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A condition on the values of a cell. Two are equal if they were written alike."""

    text: str
    names: frozenset[str]
    """Task fields and `var_*` variables that it reads."""
    root: _Node

    def holds(self, values: Mapping[str, Scalar]) -> bool:
        """Return whether the condition is true of a cell; absent names count as `none`."""
        return _truth(self.root.of(values))


def parse_expression(
    text: str,
    *,
    resolve: Resolve | None = None,
    literal: Callable[[str, str], str] | None = None,
) -> Expression:
    """Read an expression.

    Args:
        text: the condition, in the closed grammar of this module.
        resolve: from a name as written to the catalog's; by default names are taken as they are.
        literal: from (catalog name, text compared with it) to the text that cells hold, so that
            `sampler == 'Euler a'` means `euler_a`; raises ValueError with a sentence.

    Raises:
        ExpressionError: the text is not of the grammar, or one of the callables refused a word.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
    reader = _Reader(text, resolve=resolve or str, literal=literal)
    root = reader.read()
    return Expression(text=text, names=frozenset(reader.names), root=root)


_BINARY: Mapping[type[ast.operator], Literal["+", "-", "*", "/", "%"]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Mod: "%",
}  # fmt: skip
_COMPARISONS: Mapping[type[ast.cmpop], Operator] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip
_WORDS: Mapping[str, Value] = {"none": None, "null": None, "true": True, "false": False}


class _Reader:
    """Admits the nodes of one expression."""

    def __init__(
        self, text: str, *, resolve: Resolve, literal: Callable[[str, str], str] | None
    ) -> None:
        self._text = text
        self._resolve = resolve
        self._literal = literal
        self.names: set[str] = set()

    def read(self) -> _Node:
        # One line to Python, whatever folding YAML did; blanks keep every column where it was.
        line = "".join(" " if c.isspace() else c for c in self._text)
        start = len(line) - len(line.lstrip())
        if not line.strip():
            raise ExpressionError('is empty; write a condition such as "guidance_scale > 6"')
        try:
            tree = ast.parse(line.lstrip(), mode="eval")
        except SyntaxError as error:
            offset = start + max(0, (error.offset or 1) - 1)
            hint = "; compare with '=='" if _lone_equals(line) else ""
            raise ExpressionError(f"cannot be read as a condition{hint}", offset=offset) from None
        except (ValueError, RecursionError, MemoryError):
            raise ExpressionError("cannot be read: it is nested too deeply") from None
        self._source = line.lstrip().encode()
        self._start = start
        try:
            return self._node(tree.body)
        except RecursionError:
            raise ExpressionError("cannot be read: it is nested too deeply") from None

    def _node(self, node: ast.expr) -> _Node:  # noqa: C901, PLR0911 - one case a kind of node
        match node:
            case ast.Constant(value=str() | int() | float() as value):
                if isinstance(value, float) and not math.isfinite(value):
                    raise self._refused(node, "an infinite number")
                return _Literal(value)
            case ast.Constant(value=None):
                return _Literal(None)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.BoolOp(op=ast.And(), values=parts):
                return _All(tuple(map(self._node, parts)))
            case ast.BoolOp(op=ast.Or(), values=parts):
                return _Any(tuple(map(self._node, parts)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _Not(self._node(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _Arithmetic("-", _Literal(0), self._node(operand))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
                return _Arithmetic(_BINARY[type(operator)], self._node(left), self._node(right))
            case ast.Compare():
                return self._comparison(node)
            case _:
                raise self._refused(node, _NOT_ADMITTED.get(type(node), "this"))

    def _comparison(self, node: ast.Compare) -> _Node:
        steps: list[_Node] = []
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if type(operator) not in _COMPARISONS:
                raise self._refused(node, "'is'")
            symbol = _COMPARISONS[type(operator)]
            one, other = left, right
            members = [right]
            if symbol in ("in", "not in"):
                if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                    raise ExpressionError(
                        f"'{symbol}' needs a list such as [1, 2]", offset=self._offset(right)
                    )
                members = right.elts
            typed = [self._side(member, beside=one) for member in members]
            steps.append(_Comparison(symbol, self._side(one, beside=other), tuple(typed)))
            left = right
        return steps[0] if len(steps) == 1 else _All(tuple(steps))

    def _side(self, node: ast.expr, *, beside: ast.expr) -> _Node:
        """Read one side of a comparison; a text beside a name is spelled as cells spell it."""
        if (
            self._literal is not None
            and isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and isinstance(beside, ast.Name)
            and beside.id.lower() not in _WORDS
        ):
            name = self._resolved(beside, beside.id)
            try:
                return _Literal(self._literal(name, node.value))
            except ValueError as error:
                raise ExpressionError(str(error), offset=self._offset(node)) from None
        return self._node(node)

    def _name(self, node: ast.expr, name: str) -> _Node:
        if name.lower() in _WORDS:
            return _Literal(_WORDS[name.lower()])
        resolved = self._resolved(node, name)
        self.names.add(resolved)
        return _Name(resolved)

    def _resolved(self, node: ast.expr, name: str) -> str:
        try:
            return self._resolve(name)
        except ValueError as error:
            raise ExpressionError(str(error), offset=self._offset(node)) from None

    def _refused(self, node: ast.expr, what: str) -> ExpressionError:
        return ExpressionError(
            f"{what} is not part of a condition: only comparisons, in, and, or, not, arithmetic, "
            "names, numbers and quoted text are",
            offset=self._offset(node),
        )

    def _offset(self, node: ast.expr) -> int:
        """Return the column of a node in the text, in characters (Python counts bytes)."""
        return self._start + len(self._source[: node.col_offset].decode(errors="replace"))


_NOT_ADMITTED: Mapping[type[ast.expr], str] = {
    ast.Call: "a function call", ast.Attribute: "a dot", ast.Subscript: "an index",
    ast.Lambda: "a function", ast.JoinedStr: "an f-string", ast.IfExp: "an if",
    ast.List: "a list outside 'in'", ast.Tuple: "a comma", ast.NamedExpr: "an assignment",
}  # fmt: skip


def _lone_equals(text: str) -> bool:
    bare = text.replace("==", "").replace("!=", "").replace("<=", "").replace(">=", "")
    return "=" in bare


# --- what comparisons mean ----------------------------------------------------------------------


def _truth(value: Value) -> bool:
    return bool(value)


def _number(value: Value) -> float | int | None:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    return value


def _calculate(
    operator: Literal["+", "-", "*", "/", "%"], left: float, right: float
) -> float | None:
    try:
        match operator:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                return left / right
            case "%":
                return left % right
    except (ZeroDivisionError, OverflowError):
        return None


def _equal(left: Value, right: Value) -> bool:
    if left is None or right is None:
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    one, other = _number(left), _number(right)
    return one is not None and one == other


def _ordered(operator: Operator, left: Value, right: Value) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        one: float | str | None = _number(left)
        other: float | str | None = _number(right)
        if one is None or other is None:
            one, other = left, right
    else:
        one, other = _number(left), _number(right)
    if one is None or other is None:
        return False
    pair: tuple[float, float] | tuple[str, str] = (one, other)  # type: ignore[assignment]
    smaller, equal = pair[0] < pair[1], pair[0] == pair[1]  # type: ignore[operator]
    return {"<": smaller, "<=": smaller or equal, ">": not smaller and not equal}.get(
        operator, not smaller
    )


# --- conditions written as mappings -------------------------------------------------------------


def match_mapping(mapping: Mapping[str, Sequence[Scalar]]) -> Expression:
    """Return the condition that every field has one of the values listed for it.

    Names and values are the catalog's: whoever reads the file has typed and resolved them.
    """
    return parse_expression(
        " and ".join(
            f"{name} in [{', '.join(map(_spell, values))}]" for name, values in mapping.items()
        )
    )


def _spell(value: Scalar) -> str:
    return "none" if value is None else repr(value)
