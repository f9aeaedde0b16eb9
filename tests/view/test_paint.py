from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm.errors import InputError
from farm.view.layout import Grid, Layout, Style, lay_out
from farm.view.paint import (
    Missing,
    Picture,
    encode,
    image_format,
    limits_of,
    paint,
)
from farm.view.typeface import measure

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def noise(width: int, height: int, *, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def source(pixels: Pixels, format_: str = "PNG") -> Callable[[], bytes]:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format_)
    return sink.getvalue


def sheet(tile: tuple[int, int], *, columns: int = 1) -> Layout:
    return lay_out(
        Grid(title="t", columns=("",) * columns, rows=("",), tile=tile),
        measure,
    )


def slot_pixels(layout: Layout, image: Image.Image, place: int = 0) -> Pixels:
    box = layout.slots[place].box
    return np.asarray(image)[box.top : box.bottom, box.left : box.right]


def test_a_cell_holds_the_very_pixels_of_its_image() -> None:
    layout = sheet((40, 24), columns=3)
    pictures = [noise(40, 24, seed=seed) for seed in range(3)]
    contents = {(0, place, 0): Picture(read=source(one)) for place, one in enumerate(pictures)}
    painted = paint(layout, contents)
    assert painted.size == (layout.width, layout.height)
    for place, one in enumerate(pictures):
        assert (slot_pixels(layout, painted, place) == one).all()


def test_a_small_image_stands_in_the_middle_unscaled() -> None:
    layout = sheet((40, 40))
    image = noise(30, 20)
    found = slot_pixels(layout, paint(layout, {(0, 0, 0): Picture(read=source(image))}))
    assert (found[10:30, 5:35] == image).all()


def test_an_image_is_enlarged_by_whole_numbers_only() -> None:
    layout = sheet((70, 70))
    image = noise(20, 20)
    found = slot_pixels(layout, paint(layout, {(0, 0, 0): Picture(read=source(image))}))
    assert (found[5:65, 5:65] == image.repeat(3, axis=0).repeat(3, axis=1)).all()


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_a_large_image_is_reduced_to_the_cell(format_: str) -> None:
    layout = sheet((40, 40))
    image = np.full((300, 400, 3), (200, 30, 60), np.uint8)
    found = slot_pixels(layout, paint(layout, {(0, 0, 0): Picture(read=source(image, format_))}))
    assert np.abs(found[6:34].astype(int) - (200, 30, 60)).max() <= 3
    assert (found[:4] == found[0, 0]).all()


def test_transparency_shows_a_checkerboard() -> None:
    layout = sheet((32, 32))
    sink = io.BytesIO()
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((10, 20, 30, 255), (0, 0, 16, 32))
    image.save(sink, "PNG")
    found = slot_pixels(layout, paint(layout, {(0, 0, 0): Picture(read=sink.getvalue)}))
    assert (found[:, :16] == (10, 20, 30)).all()
    assert {tuple(pixel) for pixel in found[:, 16:].reshape(-1, 3).tolist()} == {
        (255, 255, 255),
        (226, 226, 226),
    }


def test_grey_images_are_shown() -> None:
    layout = sheet((16, 16))
    sink = io.BytesIO()
    Image.new("L", (16, 16), 77).save(sink, "PNG")
    found = slot_pixels(layout, paint(layout, {(0, 0, 0): Picture(read=sink.getvalue)}))
    assert (found == 77).all()


def test_an_empty_slot_is_paper() -> None:
    layout = sheet((32, 32))
    found = slot_pixels(layout, paint(layout, {}))
    assert (found == np.asarray(paint(layout, {}))[0, 0]).all()


def test_missing_and_failed_cells_are_hatched_and_differ() -> None:
    layout = sheet((64, 64), columns=2)
    painted = paint(
        layout,
        {
            (0, 0, 0): Missing(),
            (0, 1, 0): Missing(headline="bad output", reason="black", is_failure=True),
        },
    )
    paper = np.asarray(painted)[0, 0]
    to_do, failed = (slot_pixels(layout, painted, place) for place in (0, 1))
    for hatched in (to_do, failed):
        assert (hatched != paper).any(axis=-1).mean() > 0.9
        assert len(np.unique(hatched.reshape(-1, 3), axis=0)) > 1
    red, green, _ = failed.reshape(-1, 3).mean(axis=0)
    assert red > green + 5
    assert np.ptp(to_do.reshape(-1, 3).mean(axis=0)) < 5


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n torn", b"GIF89a"])
def test_an_unreadable_image_is_a_failure_in_its_own_cell(data: bytes) -> None:
    layout = sheet((48, 48), columns=2)
    good = noise(48, 48)
    contents = {(0, 0, 0): Picture(read=lambda: data), (0, 1, 0): Picture(read=source(good))}
    painted = paint(layout, contents)
    red, green, _ = slot_pixels(layout, painted, 0).reshape(-1, 3).mean(axis=0)
    assert red > green + 5
    assert (slot_pixels(layout, painted, 1) == good).all()


def test_a_file_that_is_gone_is_a_failure_in_its_own_cell() -> None:
    def gone() -> bytes:
        raise FileNotFoundError("images/gone.png")

    layout = sheet((48, 48))
    red, green, _ = (
        slot_pixels(layout, paint(layout, {(0, 0, 0): Picture(read=gone)}))
        .reshape(-1, 3)
        .mean(axis=0)
    )
    assert red > green + 5


@pytest.mark.parametrize("edge", [1, 5, 12, 40])
def test_a_reason_fits_any_slot(edge: int) -> None:
    layout = sheet((edge, edge))
    reason = "a long story " * 30
    paint(layout, {(0, 0, 0): Missing(headline="out of memory", reason=reason, is_failure=True)})


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_sheets_are_written_in_the_format_of_their_name(suffix: str) -> None:
    image = Image.fromarray(noise(40, 30))
    with Image.open(io.BytesIO(encode(image, suffix))) as written:
        assert written.format == image_format(suffix)
        assert written.size == (40, 30)
        if suffix != ".jpg" and suffix.lower() != ".jpeg":
            assert (np.asarray(written) == np.asarray(image)).all()


@pytest.mark.parametrize("suffix", [".gif", ""])
def test_other_formats_are_refused(suffix: str) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        image_format(suffix)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_longest_page_of_a_format_can_be_written(suffix: str) -> None:
    edge = limits_of(suffix).edge
    with Image.open(io.BytesIO(encode(Image.new("RGB", (edge, 1)), suffix))) as written:
        assert written.size == (edge, 1)


def test_text_is_as_wide_as_measured() -> None:
    layout = lay_out(
        Grid(title="Häuser, дома, σπίτια", columns=("",), rows=("",), tile=(600, 8)), measure
    )
    [title] = [text for text in layout.texts if text.style is Style.TITLE]
    pixels = np.asarray(paint(layout, {}))
    box = title.box
    inked = np.flatnonzero(
        (pixels[box.top : box.bottom, :] != pixels[0, 0]).any(axis=-1).any(axis=0)
    )
    wide = measure(title.lines[0], title.size, Style.TITLE)
    assert inked[0] >= box.left - 1
    assert abs((inked[-1] - inked[0]) - wide) < title.size / 3


def test_a_script_that_the_bundled_typeface_lacks_changes_no_other_text() -> None:
    """Whether this machine has a font for it or not, the rest is written and measured as ever."""
    for script in ("剣", "سيف", "✨", "e\N{COMBINING ACUTE ACCENT}"):
        whole = measure(f"a {script} b", 20, Style.LABEL)
        parts = sum(measure(part, 20, Style.LABEL) for part in ("a ", script, " b"))
        assert whole == pytest.approx(parts, abs=1.0)
        assert measure(script, 20, Style.LABEL) > 0


def test_a_character_outside_the_typeface_is_taken_from_a_font_of_the_system() -> None:
    from PIL import ImageFont

    try:
        ImageFont.truetype("DejaVuSans.ttf", 16)
    except OSError:
        pytest.skip("no DejaVu on this machine")
    layout = sheet((8, 8))

    def inked(title: str) -> Pixels:
        grid = Grid(title=title, columns=("",), rows=("",), tile=(8, 8))
        return np.asarray(paint(lay_out(grid, measure), {}))

    assert layout.width > 0
    assert (inked("\N{ALCHEMICAL SYMBOL FOR GOLD}") != inked("\U0010fffe")).any() or (
        inked("\N{ARABIC LETTER SEEN}") != inked("\U0010fffe")
    ).any()
