"""What tests of the documentation read out of Markdown: fenced blocks, links, headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    sorted(
        page
        for folder in (".", "docs", "docs/*", "sprites", "benchmarks")
        for page in ROOT.glob(f"{folder}/*.md")
    )
)

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """One fenced block: the words behind its backticks, its text, and where it stands."""

    page: Path
    line: int
    """Of the opening backticks, from 1."""
    language: str
    words: tuple[str, ...]
    """What follows the language."""
    body: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def fences(page: Path) -> Iterator[Fence]:
    """Yield the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        language, *words = found["info"].split() or [""]
        yield Fence(
            page=page,
            line=text.count("\n", 0, found.start()) + 1,
            language=language,
            words=tuple(words),
            body=found["body"],
        )


def links(page: Path) -> Iterator[str]:
    """Yield the targets of all links and images of a page, code left out."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for found in _LINK.finditer(prose):
        yield found["target"]


def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return frozenset(
        re.sub(r"[^\w\- ]", "", found["text"].lower()).strip().replace(" ", "-")
        for found in _HEADING.finditer(prose)
    )


def farm_commands(fence: Fence) -> Iterator[list[str]]:
    """Yield the words after `farm` of every farm command in a block of shell."""
    for line in fence.body.replace("\\\n", " ").splitlines():
        command = line.removeprefix("$ ") if fence.language == "console" else line
        if command.startswith("farm "):
            words = shlex.split(command, comments=True)
            yield words[1 : words.index(">")] if ">" in words else words[1:]
