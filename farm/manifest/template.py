"""Text with `${name}` in it, parsed once and filled many times.

Prompts are full of braces, brackets and dollar signs, so only `${` begins a name; `$${` stands for
`${` itself, and every other `$` is a `$`. Whatever is filled in is text and is not read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from farm.task import Scalar

_PIECE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<broken>\$\{)")


class TemplateError(ValueError):
    """A template that cannot be read: the message says what was found, `offset` where (from 0)."""

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text: literal pieces and, between them, names."""

    literals: tuple[str, ...]
    """One more than there are names; any of them may be empty."""
    references: tuple[str, ...]
    """The names in the order of the text, as they are written."""

    @property
    def names(self) -> frozenset[str]:
        """The distinct names that have to be filled in."""
        return frozenset(self.references)

    def fill(self, values: Mapping[str, Scalar]) -> str:
        """Return the text with each name replaced by its value."""
        pieces = [self.literals[0]]
        for name, literal in zip(self.references, self.literals[1:], strict=True):
            pieces += (as_text(values[name]), literal)
        return "".join(pieces)

    def renamed(self, rename: Callable[[str], str]) -> str:
        """Return the text of this template with every name in it exchanged."""
        pieces = [escape(self.literals[0])]
        for name, literal in zip(self.references, self.literals[1:], strict=True):
            pieces += (f"${{{rename(name)}}}", escape(literal))
        return "".join(pieces)


@lru_cache(maxsize=4096)
def parse(text: str) -> Template:
    """Parse a template.

    Raises:
        TemplateError: `${` is not followed by a name and `}`.
    """
    literals, references, start, literal = [], [], 0, ""
    for piece in _PIECE.finditer(text):
        literal += text[start : piece.start()]
        start = piece.end()
        if piece["broken"]:
            raise TemplateError(
                "'${' must be followed by a name and '}'; write '$${' for the two characters",
                offset=piece.start(),
            )
        if piece["name"] is None:
            literal += "${"
        else:
            literals.append(literal)
            references.append(piece["name"])
            literal = ""
    literals.append(literal + text[start:])
    return Template(tuple(literals), tuple(references))


def escape(text: str) -> str:
    """Return a template that fills to `text` itself."""
    return text.replace("${", "$${")


def as_text(value: Scalar) -> str:
    """Return a value as people write it: `4`, not `4.0`; nothing for an absent one."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)
