"""The measures, on real drawings first: a measure that fails on the truth says nothing."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sprites.catalogue import PIXEL_ART, SOURCES, STYLES, Shot, Subject
from sprites.data import Masters
from sprites.evaluate import (
    KNOWN_SUBJECTS,
    SHEET_SUBJECTS,
    Gallery,
    Score,
    known_shots,
    random_shots,
    score,
    sheet_shots,
    table,
)

Boxes = dict[str, tuple[int, int, int, int]]
TAUGHT: Boxes = {"bar": (8, 56, 120, 72), "post": (56, 8, 72, 120), "block": (24, 24, 104, 104)}
STRANGERS: Boxes = {"roof": (8, 8, 120, 24), "wall": (8, 8, 24, 120), "dot": (52, 52, 76, 76)}


def _masters(boxes: Boxes) -> Masters:
    """A subject for each box, drawn a little narrower for every further source."""
    pixels: list[np.ndarray] = []
    keys: list[tuple[str, str]] = []
    for name, (left, top, right, bottom) in boxes.items():
        for inset, source in enumerate(SOURCES):
            image = Image.new("RGBA", (128, 128))
            box = (left + inset, top + inset, right - inset, bottom - inset)
            ImageDraw.Draw(image).rectangle(box, fill=(90, 140, 200, 255))
            pixels.append(np.asarray(image))
            keys.append((name, source))
    return Masters({name: Subject(name, "") for name in boxes}, keys, np.stack(pixels))


@pytest.fixture(name="masters")
def _taught() -> Masters:
    return _masters(TAUGHT)


@pytest.fixture(name="gallery")
def _gallery(masters: Masters) -> Gallery:
    return Gallery(masters, _masters(STRANGERS))


def test_real_pictures_of_any_colour_are_found_among_strangers(
    masters: Masters, gallery: Gallery
) -> None:
    shots = random_shots(list(masters.subjects), 24, seed=3)
    pictures = np.stack([masters.draw(shot) for shot in shots])
    found = score(gallery, pictures, shots)
    assert gallery.subjects == 6
    assert (found.background, found.top_1, found.top_5) == (1, 1, 1)
    assert score(gallery, pictures, shots, by_others=True).top_1 == 1


def test_pictures_of_something_else_are_not_found(masters: Masters, gallery: Gallery) -> None:
    names = list(masters.subjects)
    asked = [Shot(name, style, None, "white") for name in names for style in STYLES]
    wrong = np.stack([masters.draw(shot) for shot in asked[4:] + asked[:4]])
    assert score(gallery, wrong, asked).top_1 == 0


def test_a_drawing_does_not_vouch_for_itself_among_other_styles(
    masters: Masters, gallery: Gallery
) -> None:
    shot = Shot("bar", "cartoon", None, "white")
    every = frozenset(STYLES)
    assert gallery.nearest(masters.draw(shot), every - {PIXEL_ART})[0] == "bar"
    assert gallery.nearest(masters.draw(shot), every) == []


def test_without_a_gallery_words_are_measured_alone(masters: Masters) -> None:
    shot = Shot("bar", "flat icon", "red", "teal")
    found = score(None, masters.draw(shot)[None], [shot])
    assert (found.background, found.colour, found.top_1, found.top_5) == (1, 1, None, None)


def test_the_sheets_are_fixed_and_show_what_they_say() -> None:
    names = [f"thing {number}" for number in range(40)]
    assert sheet_shots(names) == sheet_shots(names)
    assert len(sheet_shots(names)) == 4 * SHEET_SUBJECTS
    plain = known_shots()
    assert len(plain) == 4 * len(KNOWN_SUBJECTS) == 64
    assert {(shot.colour, shot.background) for shot in plain} == {(None, "white")}


def test_the_table_is_what_the_card_shows() -> None:
    scores = {"the model": Score(8, background=1.0, colour=None, top_1=0.25, top_5=0.9375)}
    assert table(scores).splitlines()[2:] == ["| the model | 8 | 100 % | - | 25 % | 94 % |"]
