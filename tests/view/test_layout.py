from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.view.layout import (
    Box,
    Grid,
    Group,
    Layout,
    arrange,
    lay_out,
    leading,
    wrap,
)
from tests.view.grids import grid, measure


def overlap(one: Box, other: Box) -> bool:
    return (
        one.left < other.right
        and other.left < one.right
        and one.top < other.bottom
        and other.top < one.bottom
    )


def boxes(layout: Layout) -> list[Box]:
    return [text.box for text in layout.texts] + [slot.box for slot in layout.slots]


LABELS = st.text(alphabet="ab_ -ä", max_size=120)


@st.composite
def groups(draw: st.DrawFn, count: int) -> tuple[Group, ...]:
    """Groups of together so many rows or columns; or none."""
    if draw(st.booleans()):
        return ()
    ends = sorted({*draw(st.lists(st.integers(1, count), max_size=3)), count})
    sizes = [end - start for start, end in itertools.pairwise([0, *ends])]
    return tuple(Group(label="g" + draw(LABELS), size=size) for size in sizes)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    columns, rows = (draw(st.lists(LABELS, min_size=1, max_size=4)) for _ in range(2))
    captioned = draw(st.booleans())
    cells = len(columns) * len(rows)
    wrap, fold = draw(st.sampled_from([(None, None), (1, None), (2, None), (None, 1), (None, 3)]))
    return Grid(
        wrap=wrap,
        fold=fold,
        title=draw(LABELS),
        facts=tuple(draw(st.lists(LABELS, max_size=2))),
        x_name=draw(st.sampled_from(["", "sampler"])),
        y_name=draw(st.sampled_from(["", "prompt"])),
        columns=tuple(columns),
        rows=tuple(rows),
        column_groups=draw(groups(len(columns))),
        row_groups=draw(groups(len(rows))),
        captions=tuple(draw(st.lists(LABELS, min_size=cells, max_size=cells)) * captioned),
        slots=draw(st.integers(1, 7)),
        tile=(draw(st.integers(8, 200)), draw(st.integers(8, 200))),
    )


@given(grids())
def test_nothing_overlaps_and_nothing_leaves_the_page(sheet: Grid) -> None:
    layout = lay_out(sheet, measure)
    for box in boxes(layout):
        assert box.left >= 0
        assert box.top >= 0
        assert box.right <= layout.width
        assert box.bottom <= layout.height
    for one, other in itertools.combinations(boxes(layout), 2):
        assert not overlap(one, other), (one, other)


@given(grids())
def test_labels_are_never_cut(sheet: Grid) -> None:
    """Every character of every label is on the page, inside its box, at a size one can read."""
    layout = lay_out(sheet, measure)
    written = "".join("".join(text.lines) for text in layout.texts)
    for label in (*sheet.columns, *sheet.rows, *sheet.captions, sheet.title, *sheet.facts):
        assert "".join(label.split()) in "".join(written.split())
    for text in layout.texts:
        assert text.size >= 10
        assert text.box.height == leading(text.size) * len(text.lines)
        for line in text.lines:
            assert len(line) <= 1 or measure(line, text.size, text.style) <= text.box.width


@given(grids())
def test_every_slot_of_every_cell_is_there_once_in_reading_order(sheet: Grid) -> None:
    slots = lay_out(sheet, measure).slots
    places = [(slot.row, slot.column, slot.number) for slot in slots]
    assert places == [
        place
        for rows, columns in sheet.blocks
        for place in itertools.product(rows, columns, range(sheet.slots))
    ]
    assert all((slot.box.width, slot.box.height) == sheet.tile for slot in slots)
    for one, other in itertools.pairwise(slots):
        if (one.row, one.column) == (other.row, other.column):
            assert (one.box.top, one.box.left) < (other.box.top, other.box.left)


def test_rows_and_columns_stand_in_line() -> None:
    slots = lay_out(grid(3, 4), measure).slots
    for row in range(3):
        assert len({slot.box.top for slot in slots if slot.row == row}) == 1
    for column in range(4):
        assert len({slot.box.left for slot in slots if slot.column == column}) == 1
    lefts = sorted({slot.box.left for slot in slots})
    assert len({b - a for a, b in itertools.pairwise(lefts)}) == 1


def labels_of(layout: Layout) -> list[str]:
    return [" ".join(text.lines) for text in layout.texts if text.style in ("label", "axis")]


def test_wrapped_columns_continue_below_under_labels_of_their_own() -> None:
    sheet = replace(
        grid(2, 5), wrap=3, column_groups=(Group(label="a", size=2), Group(label="b", size=3))
    )
    layout = lay_out(sheet, measure)
    of = {(slot.row, slot.column): slot.box for slot in layout.slots}
    assert of[0, 3].left == of[0, 0].left
    assert of[0, 3].top > of[1, 0].bottom
    assert of[0, 4].left == of[0, 1].left
    assert of[0, 2].left - of[0, 1].left > of[0, 1].left - of[0, 0].left  # another group begins
    rows = ["subject 0", "subject 1"]
    first = ["a", "b", "guidance_scale", "subject", "0.5", "1.5", "2.5", *rows]
    second = ["b", "guidance_scale", "subject", "3.5", "4.5", *rows]
    assert labels_of(layout) == first + second


def test_folded_rows_continue_on_the_right_under_labels_of_their_own() -> None:
    sheet = replace(
        grid(5, 2), fold=3, row_groups=(Group(label="a", size=4), Group(label="b", size=1))
    )
    layout = lay_out(sheet, measure)
    of = {(slot.row, slot.column): slot.box for slot in layout.slots}
    assert of[3, 0].top == of[0, 0].top
    assert of[3, 0].left > of[0, 1].right
    head = ["guidance_scale", "subject", "0.5", "1.5"]
    first = [*head, "a", "subject 0", "subject 1", "subject 2"]
    second = [*head, "a", "subject 3", "b", "subject 4"]
    assert labels_of(layout) == first + second


def test_a_column_label_is_centred_over_its_pictures() -> None:
    layout = lay_out(grid(1, 2), measure)
    labels = [text for text in layout.texts if text.align == "center"]
    assert [text.lines for text in labels] == [("0.5",), ("1.5",)]
    for text, slot in zip(labels, layout.slots, strict=True):
        assert text.box.left + text.box.width / 2 == slot.box.left + slot.box.width / 2
        assert text.box.bottom <= slot.box.top


def test_a_long_label_is_wrapped_then_shrunk_then_given_room() -> None:
    def label(text: str) -> tuple[int, int, int]:
        layout = lay_out(replace(grid(1, 3), columns=(text, "b", "c"), tile=(96, 96)), measure)
        [found] = [one for one in layout.texts if "".join(one.lines)[:4] == text[:4]]
        return len(found.lines), found.size, found.box.width

    lines, size, width = label("short")
    assert (lines, width) == (1, 96)
    assert label("three little words") == (2, size, 96)
    shrunk = label("supercalifragil")
    assert shrunk[0] == 1
    assert shrunk[1] < size
    assert label("word " * 60)[2] > 96


def test_one_type_size_serves_all_labels_of_an_axis() -> None:
    layout = lay_out(
        replace(grid(1, 3), columns=("a", "supercalifragil", "c"), tile=(96, 96)), measure
    )
    assert len({text.size for text in layout.texts if text.align == "center"}) == 1


@pytest.mark.parametrize(
    ("count", "tile", "expected"),
    [
        (1, (64, 64), 1),
        (2, (64, 64), 2),
        (3, (64, 64), 3),
        (4, (64, 64), 2),
        (6, (64, 64), 3),
        (12, (64, 64), 4),
        (4, (64, 256), 4),
    ],
)
def test_tiles_make_square_blocks_without_holes(
    count: int, tile: tuple[int, int], expected: int
) -> None:
    assert arrange(count, tile) == expected


def test_only_allowed_arrangements_are_chosen() -> None:
    assert arrange(12, (64, 64), [6, 12]) == 6


@given(st.text(alphabet="abc -_/", max_size=60), st.integers(1, 30))
def test_wrapping_loses_nothing_and_keeps_to_the_width(text: str, width: int) -> None:
    lines = wrap(text, width, len)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(len(line) <= width for line in lines)


def test_words_break_at_their_seams() -> None:
    assert wrap("dpmpp_2m_sde_karras", 12, len) == ("dpmpp_2m_", "sde_karras")
    assert wrap("seed_56,400", 8, len) == ("seed_", "56,400")


def test_no_break_spaces_hold_words_together() -> None:
    assert wrap("steps 20 · cfg\N{NO-BREAK SPACE}7.5", 14, len) == ("steps 20 ·", "cfg\xa07.5")
