"""Draws a contact sheet: a layout and its pictures in, an image file out.

Pictures are opened one after the other, so a page costs its own pixels and one picture more. The
look of a sheet (colours, typefaces, hatching) is decided here and nowhere else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image, ImageDraw

from farm.errors import InputError
from farm.view.layout import Box, Layout, Limits, Slot, Style, Text, leading, wrap
from farm.view.typeface import measure, write


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A slot with an image: `read` returns the bytes of its file."""

    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A slot without an image: hatched, with the reason if there is one to tell."""

    headline: str = ""
    reason: str = ""
    is_failure: bool = False


Content = Picture | Missing

_PAPER = (242, 242, 239)
_INK = MappingProxyType(
    {
        Style.TITLE: (23, 23, 26),
        Style.LABEL: (23, 23, 26),
        Style.FACT: (98, 100, 108),
        Style.AXIS: (128, 130, 138),
    }
)
_FORMATS = MappingProxyType({".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"})
_EDGES = MappingProxyType({"PNG": 65_535, "JPEG": 65_500, "WEBP": 16_383})
"""The longest side that each format can hold, libjpeg's being a little below its 16 bits."""
PAGE_PIXELS = 48_000_000
"""A page holds at most this many pixels: 144 MB while it is painted."""


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


def limits_of(suffix: str, *, pixels: int = PAGE_PIXELS) -> Limits:
    """Return how large a page in a file with this suffix may be."""
    return Limits(pixels=pixels, edge=_EDGES[image_format(suffix)])


def paint(layout: Layout, contents: Mapping[tuple[int, int, int], Content]) -> Image.Image:
    """Return the sheet: uint8 sRGB.

    `contents` tells, by row, column and number in the cell, what a slot holds; a slot that is not
    in it stays empty paper. An image that cannot be read becomes a hatched slot that says so.
    """
    sheet = Image.new("RGB", (layout.width, layout.height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for text in layout.texts:
        _write(draw, text)
    for slot in layout.slots:
        match contents.get((slot.row, slot.column, slot.number)):
            case Picture(read=read):
                _place(sheet, slot, read)
            case Missing() as missing:
                _hatch(sheet, slot.box, missing)
            case None:
                pass
    return sheet


def encode(sheet: Image.Image, suffix: str) -> bytes:
    """Return the sheet as a file with this suffix: PNG and WebP lossless, JPEG at quality 92."""
    sink = io.BytesIO()
    match format_ := image_format(suffix):
        case "JPEG":
            sheet.save(sink, format_, quality=92, subsampling=0, optimize=True)
        case "WEBP":
            sheet.save(sink, format_, lossless=True, quality=40, method=2)
        case _:
            sheet.save(sink, format_)
    return sink.getvalue()


def _write(draw: ImageDraw.ImageDraw, text: Text) -> None:
    size, style = text.size, text.style
    for number, line in enumerate(text.lines):
        left: float = text.box.left
        if text.align == "center":
            left += (text.box.width - measure(line, size, style)) / 2
        top = text.box.top + number * leading(size)
        write(draw, line, left=left, top=top, size=size, style=style, ink=_INK[style])


def _place(sheet: Image.Image, slot: Slot, read: Callable[[], bytes]) -> None:
    try:
        with Image.open(io.BytesIO(read())) as opened:
            image = _fit(opened, slot.box)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        _hatch(sheet, slot.box, Missing(headline="unreadable", reason=str(error), is_failure=True))
        return
    left = slot.box.left + (slot.box.width - image.width) // 2
    top = slot.box.top + (slot.box.height - image.height) // 2
    sheet.paste(image, (left, top))


def _fit(image: Image.Image, box: Box) -> Image.Image:
    """Return `image` as RGB, as large as `box` allows, with its own pixels wherever they fit.

    It is reduced to fit; it is enlarged only by whole numbers, which keep every pixel what it was.
    """
    scale = min(box.width / image.width, box.height / image.height)
    if scale >= 1:
        times = int(scale)
        whole = _flatten(image)
        size = (whole.width * times, whole.height * times)
        return whole if times == 1 else whole.resize(size, Image.Resampling.NEAREST)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image.draft("RGB", size)  # JPEG: decode no more than is needed
    return _flatten(image).resize(size, Image.Resampling.LANCZOS)


_CHECKER = 8
_CHECKER_TONES = (255, 226)


def _flatten(image: Image.Image) -> Image.Image:
    """Return `image` as RGB; what is transparent shows a checkerboard."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    light, dark = _CHECKER_TONES
    small = Image.new("L", (2, 2), light)
    small.putpixel((1, 0), dark)
    small.putpixel((0, 1), dark)
    square = small.resize((2 * _CHECKER, 2 * _CHECKER), Image.Resampling.NEAREST).convert("RGBA")
    board = Image.new("RGBA", image.size)
    for top in range(0, image.height, square.height):
        for left in range(0, image.width, square.width):
            board.paste(square, (left, top))
    return Image.alpha_composite(board, image).convert("RGB")


_HATCH = MappingProxyType(
    {
        False: ((250, 250, 248), (226, 226, 222), (120, 122, 128)),
        True: ((251, 236, 233), (241, 211, 205), (160, 52, 40)),
    }
)
"""Ground, lines and ink of a slot without image, by whether it is a failure."""


def _hatch(sheet: Image.Image, box: Box, missing: Missing) -> None:
    ground, lines, ink = _HATCH[missing.is_failure]
    tile = Image.new("RGB", (box.width, box.height), ground)
    draw = ImageDraw.Draw(tile)
    step = 9
    for start in range(-box.height, box.width, step):
        draw.line((start, box.height, start + box.height, 0), fill=lines, width=1)
    draw.rectangle((0, 0, box.width - 1, box.height - 1), outline=lines)
    _explain(draw, box, missing, ground=ground, ink=ink)
    sheet.paste(tile, (box.left, box.top))


def _explain(
    draw: ImageDraw.ImageDraw,
    box: Box,
    missing: Missing,
    *,
    ground: tuple[int, int, int],
    ink: tuple[int, int, int],
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
