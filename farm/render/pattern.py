"""Backend `pattern`: no model, a small picture made from the task alone.

An instrument. It renders a picture in well under a millisecond, so what a run costs on it is the
cost of everything around the model; and it needs no weights, so tests and tutorials can run the
real farm on it. The pictures are made to be looked at in a sheet, where each axis should show:

- the prompt chooses the colours of the figure, the negative prompt those of the backdrop,
- the seed chooses the shape, a mirrored figure of merging balls ("metaballs", J. Blinn 1982,
  doi:10.1145/357306.357310),
- `num_inference_steps` sets how finely the figure is shaded, `guidance_scale` how vivid it is,
- anything else moves the stars, which are scattered by the task's digest.

The same task gives the same bytes on every machine: whole numbers and single IEEE 754 operations
(add, multiply, divide) in a fixed order, no transcendental function, no library random generator.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from farm.render.protocol import Renderer
from farm.task import PipelineKey, Rendered, RenderFacts, RenderResult, TaskSpec, task_digest

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
Floats: TypeAlias = "npt.NDArray[np.float32]"

DEFAULT_SIZE = 128
"""Height and width in pixels where a task leaves them to the model."""

_FACTS = RenderFacts(dtype="uint8", device="cpu", renderer="pattern")
_STRIP = 256
"""Rows painted at a time: what bounds the memory of a very tall picture."""

_EDGE = 96
"""Of the 256 levels of the palette, those below are backdrop and those from here on figure."""
_OUTLINE = 10
"""Levels of the dark line between the two."""
_BALLS = 4
"""Balls on each side of the mirror."""
_HUES = 6 * 256
"""Hues on the colour wheel: six ramps of 256 from one of red, yellow, green, ... to the next."""
_FINEST = 40
"""Number of steps beyond which shading no longer gets finer."""


class PatternRenderer:
    """Paints every task by itself; nothing is loaded and nothing can fail."""

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        """Yield one picture per task, in order."""
        for task in tasks:
            started = time.perf_counter()
            pixels = paint(task)
            yield Rendered(
                task=task,
                pixels=pixels,
                render_ms=(time.perf_counter() - started) * 1e3,
                batch_size=1,
                denoiser_evaluations=0,
                facts=_FACTS,
            )

    def close(self) -> None:
        """Do nothing: nothing is held."""


def open_pattern_renderer(
    key: PipelineKey,  # noqa: ARG001 - every factory takes it; a pattern has no model
    *,
    device: str,  # noqa: ARG001 - painted by the CPU wherever it runs
    threads: int | None,  # noqa: ARG001 - one thread is enough
) -> Renderer:
    """Return the pattern renderer; entry point of backend `pattern`."""
    return PatternRenderer()


def paint(task: TaskSpec) -> Pixels:
    """Return the picture of a task: uint8 `[height, width, 3]`, the same bytes everywhere."""
    height, width = task.height or DEFAULT_SIZE, task.width or DEFAULT_SIZE
    palette = _palette(task)
    half = (width + 1) // 2
    # Coordinates of pixel centres: the shorter side of the picture spans -1 to 1.
    scale = np.float32(1 / min(height, width))
    x = (np.arange(1 - width, 2 * half - width, 2, dtype=np.float32) * scale)[np.newaxis, :]
    y = (np.arange(1 - height, height, 2, dtype=np.float32) * scale)[:, np.newaxis]
    balls = _balls(task.seed)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP):
        levels = _levels(x=x, y=y[top : top + _STRIP], balls=balls)
        pixels[top : top + _STRIP, :half] = np.take(palette, levels, axis=0)
    pixels[:, half:] = pixels[:, : width - half][:, ::-1]
    _scatter_stars(pixels, task_digest(task))
    return pixels


def _balls(seed: int) -> list[tuple[float, float, float]]:
    """Return (x, y, radius) of the balls on one side of the mirror."""
    dice = hashlib.blake2b(str(seed).encode(), digest_size=3 * _BALLS, person=b"farm pattern")
    rolls = np.frombuffer(dice.digest(), np.uint8).reshape(_BALLS, 3).tolist()
    return [(a / 400, (b - 128) / 200, 0.11 + c / 1700) for a, b, c in rolls]


def _levels(*, x: Floats, y: Floats, balls: list[tuple[float, float, float]]) -> Pixels:
    """Return the palette level of every pixel of `[y, x]`: the summed pull of the balls."""
    pull = np.zeros((y.shape[0], x.shape[1]), np.float32)
    for ball_x, ball_y, radius in balls:
        down = (y - np.float32(ball_y)) ** 2
        for mirrored in (ball_x, -ball_x):
            distance = (x - np.float32(mirrored)) ** 2 + down
            distance += np.float32(1e-4)
            pull += np.divide(np.float32(radius * radius), distance, out=distance)
    pull *= np.float32(_EDGE)
    return np.minimum(pull, np.float32(255), out=pull).astype(np.uint8)


def _palette(task: TaskSpec) -> Pixels:
    """Return 256 colours, uint8 `[256, 3]`: far backdrop, near backdrop, outline, figure."""
    vivid = int(256 * task.guidance_scale / (task.guidance_scale + 3))
    figure, highlight = _hues(task.prompt)
    sky, _ = _hues(task.negative_prompt)
    shades = max(2, min(task.num_inference_steps, _FINEST))
    shade = np.arange(256 - _EDGE) * shades // (256 - _EDGE) * 255 // (shades - 1)
    palette = np.empty((256, 3), np.int64)
    palette[:_EDGE] = _ramp(_tint(sky, 24, 208), _tint(sky, 44, 250), np.arange(_EDGE) * 255 // 95)
    palette[_EDGE:] = _ramp(_tint(figure, vivid, 150), _tint(highlight, vivid, 255), shade)
    palette[_EDGE : _EDGE + _OUTLINE] = _tint(figure, vivid, 60)
    return palette.astype(np.uint8)


def _hues(text: str) -> tuple[int, int]:
    """Return two hues that go together, from the hash of a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=4, person=b"farm pattern").digest()
    first = int.from_bytes(digest[:2], "big") % _HUES
    return first, (first + 128 + digest[2]) % _HUES


def _tint(hue: int, vivid: int, value: int) -> npt.NDArray[np.int64]:
    """Return a colour, int64 `[3]` within 0 to 255: hue on the wheel, vividness 0 to 256, value."""
    offsets = (hue + np.array([0, 2 * _HUES // 3, _HUES // 3])) % _HUES
    pure = np.minimum(np.maximum(np.abs(offsets - _HUES // 2) - 256, 0), 255)
    colour: npt.NDArray[np.int64] = value * (256 * 255 - vivid * (255 - pure)) // (256 * 255)
    return colour


def _ramp(
    start: npt.NDArray[np.int64], end: npt.NDArray[np.int64], at: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return colours from `start` to `end` at positions 0 to 255, int64 `[len(at), 3]`."""
    return start + (end - start) * at[:, np.newaxis] // 255


def _scatter_stars(pixels: Pixels, digest: bytes) -> None:
    """Set eight small white crosses whose places are the 16 bytes of the digest."""
    height, width, _ = pixels.shape
    rolls = np.frombuffer(digest, np.uint8).astype(np.int64)
    rows, columns = rolls[:8] * (height - 2) // 256 + 1, rolls[8:] * (width - 2) // 256 + 1
    for row, column in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)):
        pixels[rows + row, columns + column] = 255
