"""Draws a contact sheet: a layout and its pictures in, an image file out.

Pictures are opened by a few threads, a few ahead of the one that is placed, so a page costs its own
pixels and some pictures more. The look of a sheet (colours, typefaces, hatching) is decided here
and nowhere else.
"""

from __future__ import annotations

import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from PIL import Image, ImageChops, ImageDraw, TiffImagePlugin

from farm.errors import FarmError, InputError
from farm.view.layout import Box, Layout, Slot, Style, Text, leading, wrap
from farm.view.pages import Limits
from farm.view.pdf import write_pdf
from farm.view.typeface import measure, write

Colour: TypeAlias = "tuple[int, int, int]"
"""8-bit sRGB."""
Read: TypeAlias = Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a strip says: a number, and where it lies between the lowest (0) and highest (1)."""

    text: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A slot with an image: `read` returns the bytes of its file.

    With `less`, which reads another, the slot shows where the two differ.
    """

    read: Read
    less: Read | None = None
    score: Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A slot without an image: hatched, with the reason if there is one to tell."""

    headline: str = ""
    reason: str = ""
    is_failure: bool = False


Content = Picture | Missing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hatching:
    """Colours of a slot without image."""

    ground: Colour
    lines: Colour
    ink: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The colours of a sheet."""

    paper: Colour
    ink: Mapping[Style, Colour]
    rule: Colour
    checker: tuple[int, int]
    """Grey levels of the board that shows through what is transparent."""
    missing: _Hatching
    failure: _Hatching


LIGHT = Theme(
    paper=(242, 242, 239),
    ink=MappingProxyType(
        {
            Style.TITLE: (23, 23, 26),
            Style.LABEL: (23, 23, 26),
            Style.FACT: (98, 100, 108),
            Style.AXIS: (128, 130, 138),
        }
    ),
    rule=(206, 206, 201),
    checker=(255, 226),
    missing=_Hatching(ground=(250, 250, 248), lines=(226, 226, 222), ink=(120, 122, 128)),
    failure=_Hatching(ground=(251, 236, 233), lines=(241, 211, 205), ink=(160, 52, 40)),
)
DARK = Theme(
    paper=(24, 25, 28),
    ink=MappingProxyType(
        {
            Style.TITLE: (240, 240, 243),
            Style.LABEL: (232, 232, 236),
            Style.FACT: (160, 162, 170),
            Style.AXIS: (132, 134, 143),
        }
    ),
    rule=(64, 66, 72),
    checker=(72, 56),
    missing=_Hatching(ground=(32, 33, 37), lines=(50, 52, 58), ink=(142, 144, 152)),
    failure=_Hatching(ground=(52, 28, 27), lines=(84, 42, 39), ink=(240, 144, 132)),
)
THEMES: Mapping[str, Theme] = MappingProxyType({"light": LIGHT, "dark": DARK})


def theme_of(name: str) -> Theme:
    """Return the theme of that name.

    Raises:
        InputError: there is none.
    """
    if name not in THEMES:
        raise InputError(f"there is no theme '{name}'", hint=f"there are: {', '.join(THEMES)}")
    return THEMES[name]


_SCALE: tuple[Colour, ...] = (
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (40, 174, 128),
    (94, 201, 98), (173, 220, 48), (253, 231, 37),
)  # fmt: skip
"""Viridis (Smith and van der Walt, CC0), at equal distances: even steps to every eye, and in grey.
"""

_FORMATS = MappingProxyType(
    {
        ".png": "PNG",
        ".jpg": "JPEG",
        ".jpeg": "JPEG",
        ".webp": "WEBP",
        ".pdf": "PDF",
        ".tif": "TIFF",
        ".tiff": "TIFF",
    }
)
_OF_PAGES = frozenset({"PDF", "TIFF"})
"""Formats of which one file holds any number of pages."""
PAGE_PIXELS = 48_000_000
"""A page holds at most this many pixels: 144 MB while it is painted."""
_PDF_DPI = 144
_LIMITS = MappingProxyType(
    {
        # The longest side that each format can hold, libjpeg's being a little below its 16 bits;
        # PDF's is 200 inches. A page of a PDF is for paper and screens, so it is smaller.
        "PNG": Limits(pixels=PAGE_PIXELS, edge=65_535),
        "JPEG": Limits(pixels=PAGE_PIXELS, edge=65_500),
        "WEBP": Limits(pixels=PAGE_PIXELS, edge=16_383),
        "TIFF": Limits(pixels=PAGE_PIXELS, edge=65_535),
        "PDF": Limits(pixels=16_000_000, edge=200 * _PDF_DPI),
    }
)
_PNG_LEVEL = 1
"""zlib level: 6, the default, takes several times as long for a seventh fewer bytes."""
_JPEG_QUALITY = 92


_SUFFIX = re.compile(r"\.[A-Za-z][0-9A-Za-z]*")


def suffix_of(name: str) -> str:
    """Return the suffix by which a file's name asks for a format; none if it asks for nothing.

    In `v1.5` the number is part of the name.
    """
    suffix = Path(name).suffix
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def image_format(suffix: str) -> str:
    """Return Pillow's name of the format that a file with this suffix has.

    Raises:
        InputError: sheets are not written in such files.
    """
    if found := _FORMATS.get(suffix.lower()):
        return found
    raise InputError(
        f"a sheet cannot be written as '{suffix or 'a file without suffix'}'",
        hint=f"end the file's name with one of {', '.join(_FORMATS)}",
    )


def limits_of(suffix: str, *, pixels: int | None = None) -> Limits:
    """Return how large a page in a file with this suffix may be."""
    limits = _LIMITS[image_format(suffix)]
    return limits if pixels is None else Limits(pixels=pixels, edge=limits.edge)


def holds_pages(suffix: str) -> bool:
    """Return whether one file with this suffix holds all pages."""
    return image_format(suffix) in _OF_PAGES


def paint(
    layout: Layout, contents: Mapping[tuple[int, int, int], Content], theme: Theme = LIGHT
) -> Image.Image:
    """Return the sheet: uint8 sRGB.

    `contents` tells, by row, column and number in the cell, what a slot holds; a slot that is not
    in it stays empty paper. An image that cannot be read becomes a hatched slot that says so.
    """
    sheet = Image.new("RGB", (layout.width, layout.height), theme.paper)
    draw = ImageDraw.Draw(sheet)
    for text in layout.texts:
        _write(draw, text, theme)
    for rule in layout.rules:
        draw.rectangle((rule.left, rule.top, rule.right - 1, rule.bottom - 1), fill=theme.rule)
    if layout.scale is not None:
        for place in range(layout.scale.width):
            left = layout.scale.left + place
            line = (left, layout.scale.top, left, layout.scale.bottom - 1)
            draw.line(line, fill=_heat(place / (layout.scale.width - 1)))
    held = (
        (slot, content)
        for slot in layout.slots
        if (content := contents.get((slot.row, slot.column, slot.number))) is not None
    )
    for slot, content, image in _opened(held, theme):
        if isinstance(image, Missing):
            _hatch(sheet, slot.box, image, theme)
            continue
        left = slot.box.left + (slot.box.width - image.width) // 2
        top = slot.box.top + (slot.box.height - image.height) // 2
        sheet.paste(image, (left, top))
        if isinstance(content, Picture) and content.score and slot.strip.height:
            _score(draw, slot.strip, content.score)
    return sheet


_THREADS = min(8, os.cpu_count() or 1)
_AHEAD = 4
"""Pictures that wait to be placed, for each thread that opens them."""


def _opened(
    held: Iterator[tuple[Slot, Content]], theme: Theme
) -> Iterator[tuple[Slot, Content, Image.Image | Missing]]:
    """Yield every slot with its picture as large as it will be shown, or why it has none."""

    def open_(slot: Slot, content: Content) -> Image.Image | Missing:
        return _open(content, slot.box, theme) if isinstance(content, Picture) else content

    with ThreadPoolExecutor(_THREADS) as pool:

        def begun() -> Iterator[tuple[Slot, Content, Future[Image.Image | Missing]]]:
            for slot, content in held:
                yield slot, content, pool.submit(open_, slot, content)

        work = begun()
        waiting = deque(islice(work, _THREADS * _AHEAD))
        while waiting:
            slot, content, future = waiting.popleft()
            yield slot, content, future.result()
            waiting.extend(islice(work, 1))


def save(path: Path, pages: Iterable[Image.Image]) -> None:
    """Write pages to a file of the format that its suffix names, one at a time.

    PNG, WebP and TIFF are lossless; JPEG and the pages of a PDF have quality 92. Formats that hold
    one picture take one page.

    Raises:
        OSError: the file cannot be written.
    """
    match format_ := image_format(path.suffix):
        case "PDF":
            with path.open("wb") as sink:
                write_pdf(sink, pages, dpi=_PDF_DPI, quality=_JPEG_QUALITY)
        case "TIFF":
            with TiffImagePlugin.AppendingTiffWriter(str(path), new=True) as writer:
                for page in pages:
                    page.save(writer, format_, compression="tiff_adobe_deflate")
                    writer.newFrame()
        case _:
            [page] = pages
            match format_:
                case "JPEG":
                    page.save(path, format_, quality=_JPEG_QUALITY, subsampling=0)
                case "WEBP":
                    page.save(path, format_, lossless=True, quality=40, method=2)
                case _:
                    page.save(path, format_, compress_level=_PNG_LEVEL)


def _write(draw: ImageDraw.ImageDraw, text: Text, theme: Theme) -> None:
    size, style = text.size, text.style
    for number, line in enumerate(text.lines):
        left: float = text.box.left
        if text.align == "center":
            left += (text.box.width - measure(line, size, style)) / 2
        top = text.box.top + number * leading(size)
        write(draw, line, left=left, top=top, size=size, style=style, ink=theme.ink[style])


def _heat(share: float) -> Colour:
    """Return the colour of a score, 0 (lowest) to 1 (highest)."""
    place = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    index = min(int(place), len(_SCALE) - 2)
    low, high, rest = _SCALE[index], _SCALE[index + 1], place - index
    red, green, blue = (round(a + (b - a) * rest) for a, b in zip(low, high, strict=True))
    return red, green, blue


_LIGHT_FROM = 0.55
"""Share of the scale from which dark type is the one that can be read on it."""


def _score(draw: ImageDraw.ImageDraw, strip: Box, score: Score) -> None:
    """Fill a strip with the colour of its score, and write the number where there is room."""
    area = (strip.left, strip.top, strip.right - 1, strip.bottom - 1)
    draw.rectangle(area, fill=_heat(score.share))
    size = int(strip.height / 1.32)
    if size < _TINY or measure(score.text, size, Style.LABEL) > strip.width - 4:
        return
    ink = LIGHT.ink[Style.TITLE] if score.share >= _LIGHT_FROM else DARK.ink[Style.TITLE]
    left = strip.left + (strip.width - measure(score.text, size, Style.LABEL)) / 2
    top = strip.top + (strip.height - leading(size)) / 2
    write(draw, score.text, left=left, top=top, size=size, style=Style.LABEL, ink=ink)


def _open(picture: Picture, box: Box, theme: Theme) -> Image.Image | Missing:
    """Return a picture as it is shown in `box`, or why it cannot be."""
    try:
        with Image.open(io.BytesIO(picture.read())) as opened:
            if picture.less is None:
                return _fit(opened, box, theme)
            with Image.open(io.BytesIO(picture.less())) as other:
                if opened.size != other.size:
                    return Missing(headline="another size", reason=_sizes(opened, other))
                return _fit(_difference(opened, other, theme), box, theme)
    except FileNotFoundError:
        return Missing(headline="image missing", reason="its file is gone", is_failure=True)
    except (FarmError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.message if isinstance(error, FarmError) else str(error)
        return Missing(headline="unreadable", reason=reason, is_failure=True)


def _sizes(one: Image.Image, other: Image.Image) -> str:
    return " and ".join(
        f"{image.width} \N{MULTIPLICATION SIGN} {image.height}" for image in (one, other)
    )


_ROOTS = [round((255 * level) ** 0.5) for level in range(256)]


def _difference(one: Image.Image, other: Image.Image, theme: Theme) -> Image.Image:
    """Return where two pictures differ: black where they are equal, on a square-root scale.

    So a difference of one level in 255 can be seen, and large ones still differ in brightness.
    """
    plain = ImageChops.difference(_flatten(one, theme), _flatten(other, theme))
    return plain.point(_ROOTS * 3)


def _fit(image: Image.Image, box: Box, theme: Theme) -> Image.Image:
    """Return `image` as RGB, as large as `box` allows, with its own pixels wherever they fit.

    It is reduced to fit; it is enlarged only by whole numbers, which keep every pixel what it was.
    """
    scale = min(box.width / image.width, box.height / image.height)
    if scale >= 1:
        times = int(scale)
        whole = _flatten(image, theme)
        size = (whole.width * times, whole.height * times)
        return whole if times == 1 else whole.resize(size, Image.Resampling.NEAREST)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image.draft("RGB", size)  # JPEG: decode no more than is needed
    return _flatten(image, theme).resize(size, Image.Resampling.LANCZOS)


_CHECKER = 8


def _flatten(image: Image.Image, theme: Theme) -> Image.Image:
    """Return `image` as RGB; what is transparent shows a checkerboard."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    light, dark = theme.checker
    small = Image.new("L", (2, 2), light)
    small.putpixel((1, 0), dark)
    small.putpixel((0, 1), dark)
    square = small.resize((2 * _CHECKER, 2 * _CHECKER), Image.Resampling.NEAREST).convert("RGBA")
    board = Image.new("RGBA", image.size)
    for top in range(0, image.height, square.height):
        for left in range(0, image.width, square.width):
            board.paste(square, (left, top))
    return Image.alpha_composite(board, image).convert("RGB")


def _hatch(sheet: Image.Image, box: Box, missing: Missing, theme: Theme) -> None:
    colours = theme.failure if missing.is_failure else theme.missing
    tile = Image.new("RGB", (box.width, box.height), colours.ground)
    draw = ImageDraw.Draw(tile)
    step = 9
    for start in range(-box.height, box.width, step):
        draw.line((start, box.height, start + box.height, 0), fill=colours.lines, width=1)
    draw.rectangle((0, 0, box.width - 1, box.height - 1), outline=colours.lines)
    _explain(draw, box, missing, ground=colours.ground, ink=colours.ink)
    sheet.paste(tile, (box.left, box.top))


def _explain(
    draw: ImageDraw.ImageDraw,
    box: Box,
    missing: Missing,
    *,
    ground: Colour,
    ink: Colour,
) -> None:
    """Write why in the middle of a slot, as large as fits; what does not fit is left to the query.

    A slot is small and a message may be long, so here, unlike in a label, words may be left out.
    """
    padding = max(3, box.width // 20)
    width, height = box.width - 2 * padding, box.height - 2 * padding
    largest = min(18, max(_TINY, box.width // 9))
    for size in range(largest, _TINY - 1, -1):
        lines = [*_lines(missing.headline, width, size, Style.LABEL)]
        lines += _lines(missing.reason, width, size, Style.FACT)
        if leading(size) * len(lines) <= height:
            break
    room = height // leading(size)
    if len(lines) > room > 0:
        text, style = lines[room - 1]
        lines[room - 1] = (text[:-1].rstrip() + "…", style)
    lines = lines[:room]
    top = (box.height - leading(size) * len(lines)) / 2
    for number, (text, style) in enumerate(lines):
        long = measure(text, size, style)
        left, line_top = (box.width - long) / 2, top + number * leading(size)
        draw.rectangle((left - 3, line_top, left + long + 3, line_top + leading(size)), fill=ground)
        write(draw, text, left=left, top=line_top, size=size, style=style, ink=ink)


_TINY = 8
"""Smallest type inside a slot."""


def _lines(text: str, width: int, size: int, style: Style) -> list[tuple[str, Style]]:
    if not text:
        return []
    return [(line, style) for line in wrap(text, width, lambda part: measure(part, size, style))]
