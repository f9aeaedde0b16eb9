import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sprites.catalogue import BACKGROUNDS, COLOURS, PIXEL_ART, Shot
from sprites.networks import SIZE
from sprites.pictures import (
    PIXEL_ART_COLOURS,
    PIXEL_ART_SIZE,
    Bytes,
    draw,
    from_hsv,
    nearest_background,
    nearest_colour,
    read_master,
    to_hsv,
)


@pytest.fixture(name="master")
def _master() -> Bytes:
    image = Image.new("RGBA", (200, 120))
    pen = ImageDraw.Draw(image)
    pen.ellipse((20, 10, 160, 110), fill=(150, 160, 170, 255))
    pen.ellipse((30, 20, 90, 70), fill=(90, 160, 60, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return read_master(file.getvalue())


def test_a_master_is_centred_and_fills_the_square(master: Bytes) -> None:
    assert master.shape == (SIZE, SIZE, 4)
    visible = np.argwhere(master[..., 3] > 128)
    assert np.abs(visible.mean(0) - SIZE / 2).max() < 2
    assert np.ptp(visible[:, 1]) > 0.85 * SIZE


def test_a_transparent_drawing_is_refused() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(file, "PNG")
    with pytest.raises(ValueError, match="transparent"):
        read_master(file.getvalue())


def test_hsv_there_and_back() -> None:
    rgb = np.random.default_rng(0).random((20, 20, 3), np.float32)
    np.testing.assert_allclose(from_hsv(*to_hsv(rgb)), rgb, atol=2e-5)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_background_is_measured(master: Bytes, background: str) -> None:
    for style in ("flat icon", PIXEL_ART):
        assert nearest_background(draw(master, Shot("x", style, None, background))) == background


@pytest.mark.parametrize("colour", COLOURS)
def test_the_colour_is_measured(master: Bytes, colour: str) -> None:
    for background in ("white", "black", "gray"):
        picture = draw(master, Shot("x", "flat icon", colour, background))
        assert nearest_colour(picture, background) == colour


def test_a_picture_without_colour_has_none() -> None:
    grey = np.full((SIZE, SIZE, 3), 90, np.uint8)
    assert nearest_colour(grey, "white") is None


def test_pixel_art_is_made_of_large_pixels_of_few_colours(master: Bytes) -> None:
    picture = draw(master, Shot("x", PIXEL_ART, "red", "teal"))
    step = SIZE // PIXEL_ART_SIZE
    small = picture[::step, ::step]
    np.testing.assert_array_equal(small.repeat(step, 0).repeat(step, 1), picture)
    assert len(np.unique(small.reshape(-1, 3), axis=0)) <= PIXEL_ART_COLOURS + 1


def test_drawing_is_deterministic_and_mirrors(master: Bytes) -> None:
    shot = Shot("x", "cartoon", "blue", "pink")
    mirrored = Shot("x", "cartoon", "blue", "pink", is_mirrored=True)
    np.testing.assert_array_equal(draw(master, shot), draw(master, shot))
    np.testing.assert_array_equal(draw(master, shot)[:, ::-1], draw(master, mirrored))
