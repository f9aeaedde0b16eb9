"""From a cut-out drawing to a training picture.

Every picture is made from a *master*: ``uint8 [128, 128, 4]``, straight (not premultiplied) RGBA.
All functions are pure; the same master and shot give the same pixels.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sprites.catalogue import BACKGROUNDS, COLOURS, PIXEL_ART, Shot
from sprites.networks import SIZE

PIXEL_ART_SIZE = 32
PIXEL_ART_COLOURS = 14

VISIBLE_ALPHA = 8
"""Alpha bytes up to this one do not count as part of a drawing."""

LEAST_DIFFERENCE = 0.12
LEAST_COLOUR = 0.25
LEAST_COLOURED_PIXELS = 20.0
"""What counts as drawn and as coloured when a picture's colour is measured, of 0 to 1."""

TURNED_VALUE = 0.75
"""A drawing in another hue is lightened to this mean value, so that the hue shows."""

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def read_master(encoded: bytes) -> Bytes:
    """A WebP or PNG file as a master: its drawing centred on the square with a narrow margin."""
    image = Image.open(io.BytesIO(encoded)).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > VISIBLE_ALPHA)).getbbox()
    if box is None:
        message = "the drawing is fully transparent"
        raise ValueError(message)
    image = image.crop(box)
    scale = (SIZE - 12) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Premultiplied, so that colours under full transparency do not bleed into the edge.
    image = image.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(image, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(canvas)


def to_hsv(rgb: Floats) -> tuple[Floats, Floats, Floats]:
    """Hue in degrees, saturation and value in 0 to 1, of ``float32 [..., 3]`` in 0 to 1."""
    top: Floats = rgb.max(-1)
    span = np.maximum(top - rgb.min(-1), np.float32(1e-6))
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sector = np.where(
        top == red,
        (green - blue) / span,
        np.where(top == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    saturation = np.where(top > 0, span / np.maximum(top, np.float32(1e-6)), 0)
    return np.float32(60) * sector % np.float32(360), np.minimum(saturation, 1), top


def from_hsv(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """The inverse of :func:`to_hsv`: ``float32 [..., 3]`` in 0 to 1."""
    shift = np.array([5, 3, 1], np.float32)
    sector = (shift + hue[..., None] / 60) % 6
    ramp = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb: Floats = value[..., None] * (1 - saturation[..., None] * ramp)
    return rgb


def main_hue(hue: Floats, weight: Floats) -> float:
    """The weighted mean on the circle, in degrees from -180 to 180."""
    angle = np.deg2rad(hue)
    across, up = (weight * np.cos(angle)).sum(), (weight * np.sin(angle)).sum()
    return float(np.rad2deg(np.arctan2(up, across)))


def turn_hue(rgb: Floats, visible: Floats, hue: float) -> Floats:
    """The drawing in the given hue (degrees): shading kept, its own hues pulled close together.

    Greys are tinted too, but for the darkest and the lightest, so that a sword turns red and
    its glint stays white. ``rgb`` is ``float32 [H, W, 3]`` in 0 to 1, ``visible`` its alpha.
    """
    own, saturation, value = to_hsv(rgb)
    apart = (own - main_hue(own, visible * saturation * value) + 180) % 360 - 180
    turned = (hue + np.float32(0.07) * apart) % 360
    mean_value = float((visible * value).sum() / max(float(visible.sum()), 1e-6))
    if mean_value < TURNED_VALUE:
        exponent = np.log(TURNED_VALUE) / np.log(max(mean_value, 0.05))
        value = value ** np.float32(max(0.5, exponent))
    is_glint = np.clip((value - 0.9) / 0.1, 0, 1) * np.clip((0.2 - saturation) / 0.2, 0, 1)
    saturation = np.maximum(saturation, 0.72 * (1 - 0.75 * is_glint))
    return from_hsv(turned, saturation, value)


def draw(master: Bytes, shot: Shot) -> Bytes:
    """The training picture of a shot: ``uint8 [128, 128, 3]``."""
    rgba = (master / np.float32(255)).astype(np.float32)
    if shot.is_mirrored:
        rgba = rgba[:, ::-1]
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    if shot.colour is not None:
        rgb = turn_hue(rgb, alpha, COLOURS[shot.colour])
    background = (np.array(BACKGROUNDS[shot.background]) / 255).astype(np.float32)
    if shot.style == PIXEL_ART:
        return _draw_pixel_art(rgb, alpha, background)
    picture = rgb * alpha[..., None] + background * (1 - alpha[..., None])
    return (picture * 255 + 0.5).astype(np.uint8)


def _draw_pixel_art(rgb: Floats, alpha: Floats, background: Floats) -> Bytes:
    """32 x 32 hard-edged pixels of few colours, each four pixels wide in the picture."""
    step = SIZE // PIXEL_ART_SIZE
    blocks = (PIXEL_ART_SIZE, step, PIXEL_ART_SIZE, step)
    cover = alpha.reshape(blocks).mean((1, 3))
    total = (rgb * alpha[..., None]).reshape(*blocks, 3).mean((1, 3))
    small = total / np.maximum(cover, 1e-6)[..., None]
    is_drawn = cover >= 1 / 2
    image = Image.fromarray((np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8))
    palette = image.quantize(PIXEL_ART_COLOURS, dither=Image.Dither.NONE).convert("RGB")
    small = np.where(is_drawn[..., None], np.asarray(palette, np.float32) / 255, background)
    large = small.repeat(step, 0).repeat(step, 1)
    return (large * 255 + 0.5).astype(np.uint8)


def border(picture: Bytes) -> Bytes:
    """The outermost four pixels on each side, ``uint8 [pixels, 3]``."""
    sides = [picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]]
    return np.concatenate([side.reshape(-1, 3) for side in sides])


def nearest_background(picture: Bytes) -> str:
    """The background word whose colour is nearest to the median of the picture's border."""
    middle = np.median(border(picture), axis=0)
    distance = {
        name: float(np.square(middle - np.array(rgb)).sum()) for name, rgb in BACKGROUNDS.items()
    }
    return min(distance, key=distance.__getitem__)


def nearest_colour(picture: Bytes, background: str) -> str | None:
    """The colour word nearest to the drawing's main hue; ``None`` where nothing is coloured.

    The drawing is what differs from the named background; its hues are averaged on the circle,
    weighted by saturation and value.
    """
    rgb = (picture / np.float32(255)).astype(np.float32)
    ground = np.array(BACKGROUNDS[background], np.float32) / 255
    is_drawn = np.abs(rgb - ground).max(-1) > LEAST_DIFFERENCE
    hue, saturation, value = to_hsv(rgb)
    is_coloured = is_drawn & (np.minimum(saturation, value) > LEAST_COLOUR)
    weight = np.where(is_coloured, saturation * value, 0)
    if float(weight.sum()) < LEAST_COLOURED_PIXELS:
        return None
    main = main_hue(hue, weight)
    apart = {name: abs((main - at + 180) % 360 - 180) for name, at in COLOURS.items()}
    return min(apart, key=apart.__getitem__)
