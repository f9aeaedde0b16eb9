"""Grids to lay out, and a typeface that is easy to reckon with."""

from __future__ import annotations

from farm.view.layout import Grid, Style


def measure(text: str, size: int, style: Style) -> float:
    """A typeface with every character six tenths of its size wide."""
    assert style
    return 0.6 * size * len(text)


def grid(rows: int = 3, columns: int = 4, *, slots: int = 1, edge: int = 64) -> Grid:
    """Return a grid of so many rows and columns of cells, each with `slots` square tiles."""
    return Grid(
        title="assets",
        facts=("model builtin:sprites", "12 pictures"),
        x_name="guidance_scale",
        y_name="subject",
        columns=tuple(f"{n}.5" for n in range(columns)),
        rows=tuple(f"subject {n}" for n in range(rows)),
        slots=slots,
        tile=(edge, edge),
    )
