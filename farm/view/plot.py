"""Plots of the catalog: how a number goes with a setting, apart by another.

What is drawn follows from the columns. A number over few numbers is a line through the means, with
the interval that holds the mean with 95% confidence; over many different numbers, points; over
words, every picture as a point with the mean of each word. Without a `y`, pictures are counted.
Values stand in the order of the job, and colours tell apart what `hue` says (Okabe and Ito's, which
colour-blind people can tell apart too; viridis where there are more).

matplotlib is known to this module alone, and only where something is drawn.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from farm.errors import InputError, MissingLibraryError
from farm.store import Store
from farm.store.layout import SHEETS
from farm.view.publish import publish
from farm.view.table import Record, Table, display, show
from farm.view.typeface import system_font_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES: Final = (".png", ".svg", ".pdf")
_FEW = 40
"""More different numbers than this on the x axis are points, not a line."""
_TOLD = 20
"""So many different numbers are told one by one below the x axis."""
_MOST_WORDS = 60
_MOST_HUES = 24
_CONFIDENCE = 1.96
"""Standard errors on both sides of a mean that hold it in 95 of 100 samples, if they are normal."""
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b", "#b8a500",
)  # fmt: skip
"""Okabe and Ito's, grey for their black, their yellow darker so that thin lines show on white."""
_BINS = 30
_WIDTH, _HEIGHT = 8.0, 5.0
"""Inches of a plot; what has long labels is higher."""
_LINE = 0.21
"""Inches of a line of a label."""
_BELOW = 18
"""Characters of a line of a label below the plot."""
_MOST_BELOW = 90
"""Characters that labels below the plot have room for beside each other."""
_BESIDE = 42
"""Characters of a line of a label on the left of the plot, and of the legend below it."""
_ACROSS = 100
"""Characters that the width of a plot has room for."""
_SHORT = 24
"""Characters of a label that a legend on the right of the plot has room for."""
Values: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotSettings:
    """What a plot shows. Names are columns of the catalog, aliases, or bare variables."""

    x: str
    y: str | None = None
    """A column of numbers; without it, pictures are counted."""
    hue: str | None = None
    """Column whose values have colours of their own."""
    where: str | None = None
    """SQL expression; only rows for which it holds."""
    title: str | None = None


def make_plot(
    output: str, settings: PlotSettings, *, out: str | os.PathLike[str] | None = None
) -> str:
    """Write a plot of an output and return its file: `.png`, `.svg` or `.pdf`.

    By default it is a PNG in the output's folder `sheets`.

    Raises:
        OutputError: there is no readable output at `output`, or `out` cannot be written.
        InputError: there is nothing to draw, a column does not exist, or cannot be drawn so.
        MissingLibraryError: matplotlib is not installed.
    """
    names = [name for name in (settings.y, settings.x, settings.hue) if name]
    store = Store.open(output)
    path = Path(out) if out is not None else Path(f"plot-{'-'.join(map(display, names))}.png")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"a plot cannot be written as '{path.suffix or 'a file without suffix'}'",
            hint=f"end the file's name with one of {', '.join(SUFFIXES)}",
        )
    figure = draw_plot(Table.read(store, where=settings.where), settings)
    folder = f"{store.url}/{SHEETS}" if out is None else str(path.parent)

    def save(file: Path) -> None:
        with _typeface():  # a figure asks for its fonts when it is written
            figure.savefig(file, dpi=144)

    return publish(folder, path.name, save, what="the plot")


def draw_plot(table: Table, settings: PlotSettings) -> Figure:
    """Return a plot of the rendered rows of a table, as a matplotlib figure.

    Raises:
        InputError: there is nothing to draw, a column does not exist, or cannot be drawn so.
        MissingLibraryError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingLibraryError(
            "plots need matplotlib, which is not installed",
            hint="pip install '.[plot]' in the farm's folder",
        ) from error
    x, y, hue = (table.resolve(name) for name in (settings.x, settings.y, settings.hue))
    assert x is not None
    rows = [row for row in table.rows if row["status"] == "rendered" and row[x] is not None]
    if y is not None:
        rows = [row for row in rows if row[y] is not None]
        if rows and not all(_is_number(row[y]) for row in rows):
            raise InputError(
                f"'{display(y)}' is no column of numbers", hint="put it on --x or --hue instead"
            )
    if not rows:
        raise InputError("no rendered image has values to draw", hint="see them with farm query")
    series = _series(table, rows, hue)
    with _typeface():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        is_turned = _draw(axes, table, series, x=x, y=y)
        _dress(axes, title=settings.title or table.title, where=settings.where)
        across, up = display(x), display(y) if y else "images"
        _name(axes, *((up, across) if is_turned else (across, up)), is_turned=is_turned)
        if hue is not None:
            _explain(axes, display(hue))
    return figure


@contextlib.contextmanager
def _typeface() -> Iterator[None]:
    """Set what is drawn inside in the typeface of the sheets."""
    import matplotlib as mpl
    from matplotlib import font_manager

    folder = resources.files("farm.view") / "fonts"
    families = []
    with contextlib.ExitStack() as stack:
        bundled = (
            str(stack.enter_context(resources.as_file(folder / name)))
            for name in ("Inter-Regular.otf", "Inter-SemiBold.otf")
        )
        for file in (*bundled, *system_font_files()):
            known = font_manager.fontManager.ttflist
            if not any(font.fname == file for font in known):
                font_manager.fontManager.addfont(file)
            families += [font.name for font in known if font.fname == file]
    families.append("DejaVu Sans")
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    with (
        mpl.rc_context({"font.family": families, "svg.fonttype": "path"}),
        warnings.catch_warnings(),
    ):
        # Of a character or a weight that a font lacks the reader sees what comes in its place.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """The rows of one value of the hue."""

    label: str
    colour: Any
    rows: Sequence[Record]


def _series(table: Table, rows: Sequence[Record], hue: str | None) -> list[_Series]:
    if hue is None:
        return [_Series(label="", colour=_COLOURS[0], rows=rows)]
    levels = [level for level in table.levels(hue) if any(row[hue] == level for row in rows)]
    if len(levels) > _MOST_HUES:
        raise InputError(
            f"'{display(hue)}' has {len(levels):,} values, too many to tell apart by colour",
            hint="choose some with --where, or give another column to --hue",
        )
    if len(levels) > len(_COLOURS):
        from matplotlib import colormaps

        colours: Sequence[Any] = [
            colormaps["viridis"](share) for share in np.linspace(0, 0.92, len(levels))
        ]
    else:
        colours = _COLOURS
    return [
        _Series(label=show(level), colour=colour, rows=[row for row in rows if row[hue] == level])
        for level, colour in zip(levels, colours, strict=False)
    ]


def _draw(axes: Axes, table: Table, series: Sequence[_Series], *, x: str, y: str | None) -> bool:
    """Draw what the columns ask for; return whether the x axis stands upright."""
    values = {row[x] for one in series for row in one.rows}
    if not all(_is_number(value) for value in values):
        return _draw_words(axes, table, series, x=x, y=y)
    if y is None:
        _draw_counts(axes, series, x=x, values=values)
    elif len(values) <= _FEW:
        _draw_lines(axes, series, x=x, y=y)
    else:
        for one in series:
            axes.scatter(_numbers(one.rows, x), _numbers(one.rows, y), s=14, alpha=0.6, lw=0,
                         color=one.colour, label=one.label)  # fmt: skip
    return False


def _draw_lines(axes: Axes, series: Sequence[_Series], *, x: str, y: str) -> None:
    """Draw the mean at every number, and the interval that holds it."""
    for one in series:
        places, found = _numbers(one.rows, x), _numbers(one.rows, y)
        steps = np.unique(places)
        at = [found[places == step] for step in steps]
        means = np.array([values.mean() for values in at])
        spread = np.array([_interval(values) for values in at])
        axes.plot(steps, means, marker="o", ms=5, lw=1.8, color=one.colour, label=one.label)
        axes.fill_between(steps, means - spread, means + spread, color=one.colour, alpha=0.15, lw=0)
    if len(steps) <= _TOLD:
        every = sorted({row[x] for one in series for row in one.rows})
        axes.set_xticks(every, [show(step) for step in every])


def _interval(values: Values) -> float:
    """Return how far from the mean its 95% confidence interval reaches; 0 for one value."""
    count = len(values)
    return _CONFIDENCE * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0


def _draw_counts(axes: Axes, series: Sequence[_Series], *, x: str, values: set[Any]) -> None:
    if len(values) <= _TOLD:
        _draw_bars(axes, series, x=x, values=values)
        return
    axes.hist(
        [_numbers(one.rows, x) for one in series],
        bins=_BINS,
        stacked=True,
        color=[one.colour for one in series],
        label=[one.label for one in series],
    )


def _draw_bars(axes: Axes, series: Sequence[_Series], *, x: str, values: set[Any]) -> None:
    """Draw a bar at each of a few numbers, the series on top of each other."""
    every = sorted(values)
    width = 0.8 * (float(np.diff(np.array(every, np.float64)).min()) if len(every) > 1 else 1.0)
    below = np.zeros(len(every))
    for one in series:
        found = Counter(row[x] for row in one.rows)
        heights = np.array([found[value] for value in every], np.float64)
        axes.bar(every, heights, width, bottom=below, color=one.colour, label=one.label)
        below += heights
    axes.set_xticks(every, [show(value) for value in every])


def _draw_words(
    axes: Axes, table: Table, series: Sequence[_Series], *, x: str, y: str | None
) -> bool:
    """Draw every picture beside its word, and the mean as a line; or, without `y`, bars.

    Words that have no room beside each other stand below each other; returns whether they do.
    """
    words = [
        word for word in table.levels(x) if any(row[x] == word for s in series for row in s.rows)
    ]
    if len(words) > _MOST_WORDS:
        raise InputError(
            f"'{display(x)}' has {len(words):,} values, too many to stand beside each other",
            hint="choose some with --where, or give another column to --x",
        )
    is_turned = len(words) * min(max(len(show(word)) for word in words), _BELOW) > _MOST_BELOW
    width = 0.8 / len(series)
    for number, one in enumerate(series):
        middle = -0.4 + width * (number + 0.5)
        places = np.arange(len(words)) + middle
        at = [[row for row in one.rows if row[x] == word] for word in words]
        if y is None:
            draw = axes.barh if is_turned else axes.bar
            draw(places, [len(rows) for rows in at], width * 0.9, color=one.colour,
                 label=one.label)  # fmt: skip
            continue
        for place, rows in zip(places, at, strict=True):
            # Spread evenly, not at random: the same catalog draws the same plot.
            aside = place + (np.arange(len(rows)) * 0.618 % 1 - 0.5) * width * 0.6
            found = _numbers(rows, y)
            across, up = (found, aside) if is_turned else (aside, found)
            axes.scatter(across, up, s=12, alpha=0.35, lw=0, color=one.colour)
        seen = [(place, _numbers(rows, y).mean()) for place, rows in zip(places, at, strict=True)
                if rows]  # fmt: skip
        starts, means = zip(*seen, strict=True)
        reach = width * 0.4
        line = axes.vlines if is_turned else axes.hlines
        line(means, np.array(starts) - reach, np.array(starts) + reach, color=one.colour,
             lw=2.5, label=one.label)  # fmt: skip
    labels = [_wrapped(show(word), _BESIDE if is_turned else _BELOW) for word in words]
    if not is_turned:
        axes.set_xticks(range(len(words)), labels)
        return False
    axes.set_yticks(range(len(words)), labels)
    axes.set_ylim(len(words) - 0.5, -0.5)
    lines = sum(max(label.count("\n") + 1, 0.5 * len(series)) + 0.4 for label in labels)
    _heighten(axes, lines - _HEIGHT / _LINE)
    return True


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width) or [""])


def _heighten(axes: Axes, lines: float) -> None:
    """Make a plot higher by some lines of text, so that they take nothing from what is drawn."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(figure.get_figheight() + max(0, lines) * _LINE)


def _dress(axes: Axes, *, title: str, where: str | None) -> None:
    axes.set_title(title + (f" · {where}" if where else ""), loc="left",
                   fontsize=13, fontweight="semibold", pad=12, parse_math=False)  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _name(axes: Axes, across: str, up: str, *, is_turned: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(across, parse_math=False)
    axes.set_ylabel(up, parse_math=False)
    measured = axes.xaxis if is_turned else axes.yaxis
    measured.grid(visible=True, color="#e4e4e0", lw=0.8)
    if "images" in (across, up):
        measured.set_major_locator(MaxNLocator(integer=True))  # there is no half of an image
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set_parse_math(False)


def _explain(axes: Axes, hue: str) -> None:
    """Say what the colours mean: on the right, or below where that would squeeze the plot."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [_wrapped(label, _BESIDE) for label in labels]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    lines = [label.count("\n") + 1 for label in labels]
    if longest <= _SHORT and (sum(lines) + 2) * _LINE < _HEIGHT - 1:
        legend = axes.legend(handles, labels, title=hue, frameon=False, loc="upper left",
                             bbox_to_anchor=(1.01, 1.0), alignment="left")  # fmt: skip
    else:
        figure = axes.get_figure(root=True)
        assert figure is not None
        columns = max(1, min(3, _ACROSS // (longest + 8)))
        legend = figure.legend(handles, labels, title=hue, frameon=False, alignment="left",
                               loc="outside lower left", ncols=columns)  # fmt: skip
        _heighten(axes, sum(lines) / columns + 2)
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)  # as the eye sees many of them


def _numbers(rows: Sequence[Record], name: str) -> Values:
    return np.array([row[name] for row in rows], np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
