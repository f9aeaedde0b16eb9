"""Type on sheets: the bundled typeface, and the system's fonts for what it cannot write.

Inter (see `fonts/OFL.txt`) writes Latin, Greek and Cyrillic, and looks the same on every machine.
Prompts are written in every script, so a character that Inter lacks is taken from the first font of
this machine that has it; where none has, the reader sees the usual empty box.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import resources
from itertools import groupby
from types import MappingProxyType

from PIL import ImageDraw, ImageFont

from farm.view.layout import Style, leading

_FILES = MappingProxyType(
    {
        Style.TITLE: "Inter-SemiBold.otf",
        Style.LABEL: "Inter-SemiBold.otf",
        Style.FACT: "Inter-Regular.otf",
        Style.AXIS: "Inter-Regular.otf",
    }
)
_SYSTEM_FONTS = (
    # Debian and its kin, Fedora and Arch, macOS, Windows; found by name wherever they are installed
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoSansSymbols2-Regular.ttf",
    "DejaVuSans.ttf",
    "wqy-microhei.ttc",
    "unifont.otf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "Apple Symbols.ttf",
    "msyh.ttc",
    "meiryo.ttc",
    "malgun.ttf",
    "seguisym.ttf",
    "segoeui.ttf",
)
_NOWHERE = "\U0010fffe"
"""A code point that is no character, so every font shows its empty box for it."""


def measure(text: str, size: int, style: Style) -> float:
    """Return the width in pixels of a line of text at a type size in pixels."""
    return sum(font.getlength(run) for font, run in _runs(text, size, style))


def write(
    draw: ImageDraw.ImageDraw,
    text: str,
    *,
    left: float,
    top: float,
    size: int,
    style: Style,
    ink: tuple[int, int, int],
) -> None:
    """Draw a line of text, `leading(size)` pixels high, with its top left corner there."""
    ascent, descent = _font(_FILES[style], size).getmetrics()
    baseline = top + (leading(size) - ascent - descent) / 2 + ascent
    for font, run in _runs(text, size, style):
        draw.text((left, baseline), run, font=font, fill=ink, anchor="ls")
        left += font.getlength(run)


def _runs(text: str, size: int, style: Style) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """Yield the pieces of a line with the font that has their characters."""
    bundled = _FILES[style]
    if text.isascii():
        yield _font(bundled, size), text
        return
    names: list[str] = []
    for character in text:
        # Marks and joiners belong to what they follow.
        follows = unicodedata.category(character) in {"Mn", "Me", "Cf"} and bool(names)
        names.append(names[-1] if follows else _font_with(character, bundled))
    place = 0
    for name, group in groupby(names):
        length = len(list(group))
        yield _font(name, size), text[place : place + length]
        place += length


@lru_cache(maxsize=65_536)
def _font_with(character: str, bundled: str) -> str:
    """Return the file of the first font that has a character; the bundled one if none has."""
    if character.isspace():
        return bundled
    candidates = (bundled, *_system_fonts())
    return next((name for name in candidates if _has(name, character)), bundled)


@cache
def _system_fonts() -> tuple[str, ...]:
    found = []
    for name in _SYSTEM_FONTS:
        try:
            ImageFont.truetype(name, 16)
        except OSError:
            continue
        found.append(name)
    return tuple(found)


def system_font_files() -> tuple[str, ...]:
    """Return the files of this machine's fonts that write what Inter lacks, best first."""
    return tuple(str(ImageFont.truetype(name, 16).path) for name in _system_fonts())


def _has(name: str, character: str) -> bool:
    font = _font(name, 16)
    glyph, box = font.getmask(character), font.getmask(_NOWHERE)
    return glyph.size != box.size or bytes(glyph) != bytes(box)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name not in _FILES.values():
        return ImageFont.truetype(name, size)
    data = resources.files("farm.view").joinpath("fonts", name).read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size)
