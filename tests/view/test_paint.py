from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm.errors import InputError, StoreError
from farm.view.layout import Grid, Layout, Legend, Style, lay_out
from farm.view.paint import (
    DARK,
    LIGHT,
    Missing,
    Picture,
    Score,
    Theme,
    image_format,
    limits_of,
    paint,
    save,
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


LOSSLESS = (".png", ".webp", ".tif", ".tiff")


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg", ".JPEG"])
def test_sheets_are_written_in_the_format_of_their_name(suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(40, 30))
    save(tmp_path / f"s{suffix}", [image])
    with Image.open(tmp_path / f"s{suffix}") as written:
        assert written.format == image_format(suffix)
        assert written.size == (40, 30)
        if suffix in LOSSLESS:
            assert (np.asarray(written.convert("RGB")) == np.asarray(image)).all()


def test_a_tiff_holds_all_pages_one_after_the_other(tmp_path: Path) -> None:
    pages = [Image.fromarray(noise(40 + page, 30, seed=page)) for page in range(3)]
    save(tmp_path / "s.tif", iter(pages))
    with Image.open(tmp_path / "s.tif") as written:
        assert written.n_frames == 3  # type: ignore[attr-defined]  # of TIFF files
        for page, image in enumerate(pages):
            written.seek(page)
            assert (np.asarray(written) == np.asarray(image)).all()


def test_a_pdf_holds_all_pages(tmp_path: Path) -> None:
    save(tmp_path / "s.pdf", (Image.fromarray(noise(40 + page, 30)) for page in range(3)))
    data = (tmp_path / "s.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert [int(width) for width in re.findall(rb"/Width (\d+)", data)] == [40, 41, 42]
    assert b"/Count 3" in data


def test_a_theme_changes_the_page_and_no_picture() -> None:
    layout = sheet((40, 40))
    image = noise(40, 40)
    light, dark = (
        paint(layout, {(0, 0, 0): Picture(read=source(image))}, theme) for theme in (LIGHT, DARK)
    )
    assert (slot_pixels(layout, light) == image).all()
    assert (slot_pixels(layout, dark) == image).all()
    assert np.asarray(light)[0, 0].min() > 200
    assert np.asarray(dark)[0, 0].max() < 60


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Contrast ratio of two colours, as WCAG 2.2 defines it."""

    def luminance(colour: tuple[int, int, int]) -> float:
        parts = [level / 255 for level in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
                  for part in parts]  # fmt: skip
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_type_can_be_read_on_its_ground(theme: Theme) -> None:
    for style in (Style.TITLE, Style.LABEL, Style.FACT):
        assert contrast(theme.ink[style], theme.paper) >= 4.5
    assert contrast(theme.ink[Style.AXIS], theme.paper) >= 3
    assert contrast(theme.failure.ink, theme.failure.ground) >= 4.5
    assert contrast(theme.missing.ink, theme.missing.ground) >= 3


def test_a_difference_is_black_where_two_pictures_agree() -> None:
    layout = sheet((40, 40))
    one = noise(40, 40)
    other = one.copy()
    other[10:20, 10:20] ^= 1  # the least difference there is
    both = Picture(read=source(one), less=source(other))
    found = slot_pixels(layout, paint(layout, {(0, 0, 0): both}))
    assert (found[10:20, 10:20] == 16).all()
    found = found.copy()
    found[10:20, 10:20] = 0
    assert not found.any()


def test_pictures_of_two_sizes_have_no_difference() -> None:
    layout = sheet((40, 40))
    both = Picture(read=source(noise(40, 40)), less=source(noise(40, 32)))
    found = slot_pixels(layout, paint(layout, {(0, 0, 0): both}))
    assert np.ptp(found.reshape(-1, 3).mean(axis=0)) < 5  # hatched grey: no failure


def test_the_strip_below_a_picture_has_the_colour_of_its_score() -> None:
    grid = Grid(
        title="t", columns=("",) * 3, rows=("",), tile=(40, 40), strip=6,
        legend=Legend(name="sharpness", low="0", high="9"),
    )  # fmt: skip
    layout = lay_out(grid, measure)
    contents = {
        (0, place, 0): Picture(
            read=source(noise(40, 40)), score=Score(text=str(place), share=place / 2)
        )
        for place in range(3)
    }
    pixels = np.asarray(paint(layout, contents))
    scale = layout.scale
    assert scale is not None
    ends = [pixels[scale.top, scale.left], pixels[scale.top, scale.right - 1]]
    strips = [
        pixels[slot.strip.top : slot.strip.bottom, slot.strip.left : slot.strip.right]
        for slot in layout.slots
    ]
    assert all((strip == strip[0, 0]).all() for strip in strips)
    assert (strips[0][0, 0] == ends[0]).all()
    assert (strips[2][0, 0] == ends[1]).all()
    brightness = [int(strip[0, 0].sum()) for strip in strips]
    assert brightness == sorted(brightness)


def test_a_store_that_fails_is_a_failure_in_its_own_cell() -> None:
    def refuse() -> bytes:
        raise StoreError("cannot read: Input/output error", where="images/a.png")

    layout = sheet((48, 48), columns=2)
    good = noise(48, 48)
    contents = {(0, 0, 0): Picture(read=refuse), (0, 1, 0): Picture(read=source(good))}
    painted = paint(layout, contents)
    red, green, _ = slot_pixels(layout, painted, 0).reshape(-1, 3).mean(axis=0)
    assert red > green + 5
    assert (slot_pixels(layout, painted, 1) == good).all()


@pytest.mark.parametrize("suffix", [".gif", ""])
def test_other_formats_are_refused(suffix: str) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        image_format(suffix)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_longest_page_of_a_format_can_be_written(suffix: str, tmp_path: Path) -> None:
    edge = limits_of(suffix).edge
    save(tmp_path / f"s{suffix}", [Image.new("RGB", (edge, 1))])
    with Image.open(tmp_path / f"s{suffix}") as written:
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


def test_cjk_is_written_where_the_machine_has_a_font_for_it() -> None:
    from PIL import ImageFont

    for name in ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc"):
        with contextlib.suppress(OSError):
            ImageFont.truetype(name, 16)
            break
    else:
        pytest.skip("no CJK font on this machine")

    def inked(title: str) -> Pixels:
        grid = Grid(title=title, columns=("",), rows=("",), tile=(8, 8))
        return np.asarray(paint(lay_out(grid, measure), {}))

    # An empty box would look the same for every character.
    assert (
        inked("\N{CJK UNIFIED IDEOGRAPH-5263}") != inked("\N{CJK UNIFIED IDEOGRAPH-9F8D}")
    ).any()


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
