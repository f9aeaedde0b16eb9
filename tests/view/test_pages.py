from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.view.layout import Group, Layout, Style, lay_out
from farm.view.pages import Limits, paginate
from tests.view.grids import grid, measure

ROOMY = Limits(pixels=10**12, edge=10**6)
SCREEN = Limits(pixels=48_000_000, edge=65_535)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(900, 3000))
def test_pages_are_within_limits_and_show_everything_once(
    rows: int, columns: int, slots: int, edge: int
) -> None:
    limits = Limits(pixels=edge * edge // 2, edge=edge)
    sheet = grid(rows, columns, slots=slots)
    pages = paginate(sheet, measure, limits)
    shown = [(s.row, s.column, s.number) for page in pages for s in page.slots]
    assert sorted(shown) == list(itertools.product(range(rows), range(columns), range(slots)))
    assert all(limits.hold(page.width, page.height) for page in pages)


@pytest.mark.parametrize(
    ("rows", "columns", "edge"),
    [(1, 400, 64), (3, 400, 64), (6, 40, 512), (400, 3, 64), (40, 4, 512), (40, 40, 512)],
)
@pytest.mark.parametrize("pixels", [16_000_000, 48_000_000])
def test_a_long_axis_makes_pages_of_a_readable_shape(
    rows: int, columns: int, edge: int, pixels: int
) -> None:
    pages = paginate(grid(rows, columns, edge=edge), measure, Limits(pixels=pixels, edge=28_800))
    assert 0.6 < pages[0].width / pages[0].height < 2.2
    shown = [(slot.row, slot.column) for page in pages for slot in page.slots]
    assert sorted(shown) == list(itertools.product(range(rows), range(columns)))
    for page in pages:  # each block of them has its labels
        heads = [text for text in page.texts if text.style is Style.AXIS]
        assert len(heads) >= 2


def beside(layout: Layout) -> int:
    """Columns beside each other."""
    return len({slot.box.left for slot in layout.slots})


def test_what_is_small_or_has_few_columns_stays_together() -> None:
    for sheet in (grid(1, 12, edge=512), grid(2, 30), grid(12, 1, edge=512), grid(6, 8, edge=512)):
        assert paginate(sheet, measure, SCREEN) == (lay_out(sheet, measure),)


def test_a_sheet_is_not_wrapped_for_a_slightly_better_shape() -> None:
    pages = paginate(grid(6, 18, edge=512), measure, SCREEN)
    assert {beside(page) for page in pages} == {18}


def test_blocks_of_one_size_are_preferred() -> None:
    [page] = paginate(grid(1, 400), measure, SCREEN)
    assert 400 % beside(page) == 0


def test_captions_are_never_torn_out_of_their_order() -> None:
    sheet = replace(grid(20, 20), captions=tuple(map(str, range(400))), columns=("",) * 20)
    for page in paginate(replace(sheet, tile=(256, 256)), measure, SCREEN):
        order = [(slot.box.top, slot.box.left) for slot in page.slots]
        assert order == sorted(order)


def test_the_parts_of_a_sheet_say_which_they_are() -> None:
    def facts(page: Layout) -> str:
        return " ".join(" ".join(text.lines) for text in page.texts if text.style is Style.FACT)

    pages = paginate(grid(6, 40, edge=512), measure, SCREEN)
    assert len(pages) > 1
    for number, page in enumerate(pages, 1):
        assert facts(page).endswith(f"12 pictures · part {number} of {len(pages)}")
    [whole] = paginate(grid(), measure, SCREEN)
    assert "part" not in facts(whole)


def test_groups_are_told_in_every_block() -> None:
    sheet = replace(grid(1, 60, edge=128), column_groups=(Group(label="oil on canvas", size=60),))
    [page] = paginate(sheet, measure, SCREEN)
    told = [text for text in page.texts if text.lines == ("oil on canvas",)]
    assert len(told) == 60 // beside(page) > 1


def test_rows_are_divided_before_columns() -> None:
    whole = lay_out(grid(20, 8), measure)
    limits = Limits(pixels=whole.width * whole.height // 3, edge=10**6)
    pages = paginate(grid(20, 8), measure, limits)
    assert len(pages) > 2
    for page in pages:
        assert {slot.column for slot in page.slots} == set(range(8))
    sizes = [len({slot.row for slot in page.slots}) for page in pages]
    assert max(sizes) - min(sizes) <= max(sizes) // 2 + 1


def test_a_page_that_fits_is_one_page() -> None:
    assert paginate(grid(), measure, ROOMY) == (lay_out(grid(), measure),)


def test_a_cell_too_large_for_a_page_is_made_smaller() -> None:
    limits = Limits(pixels=500_000, edge=900)
    [page] = paginate(grid(1, 1, slots=9, edge=1024), measure, limits)
    assert limits.hold(page.width, page.height)
    assert len(page.slots) == 9


def test_labels_larger_than_a_page_are_shown_all_the_same() -> None:
    sheet = replace(grid(2, 2), rows=("word " * 500, "b"))
    pages = paginate(sheet, measure, Limits(pixels=200_000, edge=500))
    assert sum(len(page.slots) for page in pages) == 4


def test_a_long_axis_is_cut_in_few_tries() -> None:
    tries = 0

    def counting(text: str, size: int, style: Style) -> float:
        nonlocal tries
        tries += text == "assets"  # the title, once a layout
        return measure(text, size, style)

    pages = paginate(grid(1000, 4), counting, Limits(pixels=2_000_000, edge=4000))
    assert len(pages) > 10
    assert tries < 400
