"""Renderers: what turns tasks into pixels.

`open_renderer` loads a backend; every backend is a `Renderer`, a stream of tasks into results.
`farm.render.models` knows which model a reference means, without loading it.
"""

from __future__ import annotations

from farm.render.protocol import (
    BACKENDS,
    Effort,
    Hungry,
    Measured,
    Remarkable,
    Renderer,
    RendererFactory,
    Withdrawable,
    open_renderer,
)

__all__ = [
    "BACKENDS",
    "Effort",
    "Hungry",
    "Measured",
    "Remarkable",
    "Renderer",
    "RendererFactory",
    "Withdrawable",
    "open_renderer",
]
