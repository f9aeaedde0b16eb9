"""Numbers and texts as people say them, in a terminal and on a sheet."""

from __future__ import annotations

import math

from rich.cells import cell_len, set_cell_size


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 image`, `1,200 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def data_size(size: float) -> str:
    """Return bytes as people say them: `48 kB`, `1.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - SI prefixes
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` terminal cells, its middle left out where it must be."""
    text = " ".join(text.split())
    if cell_len(text) <= width:
        return text
    tail = max(0, (width - 1) // 3)
    head = set_cell_size(text, max(0, width - 1 - tail)).rstrip()
    end = set_cell_size(text[::-1], tail)[::-1].lstrip() if tail else ""
    return f"{head}…{end}"


def one_line(text: str) -> str:
    """Return `text` as one line without control characters, which a library's error may hold."""
    lines = ("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines())
    return "; ".join(" ".join(line.split()) for line in lines if line.strip())


_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def clock_time(seconds: float) -> str:
    """Return a span as a clock shows it: `0:07`, `12:34`, `3:25:45`."""
    minutes, second = divmod(round(seconds), _MINUTE)
    hours, minute = divmod(minutes, _MINUTE)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def rough_time(seconds: float) -> str:
    """Return a span as one says it, in steps coarse enough not to flicker: `25 s`, `3 h 20 min`."""
    if seconds < _MINUTE:
        return f"{max(5, 5 * math.ceil(seconds / 5))} s"
    if seconds < 10 * _MINUTE:
        minutes, half = divmod(math.ceil(seconds / 30), 2)
        return f"{minutes}{'½' if half else ''} min"
    if seconds < _HOUR:
        return f"{math.ceil(seconds / _MINUTE)} min"
    if seconds < 10 * _HOUR:
        hours, tens = divmod(math.ceil(seconds / 600), 6)
        return f"{hours} h {tens * 10} min" if tens else f"{hours} h"
    if seconds < 2 * _DAY:
        return f"{math.ceil(seconds / _HOUR)} h"
    return f"{math.ceil(seconds / _DAY)} days"


def rate(per_second: float) -> str:
    """Return a speed with as many digits as mean something: `31 images/s`, `4.2 images/min`."""
    if per_second >= 1:
        return f"{per_second:.3g} images/s"
    if per_second * _MINUTE >= 1:
        return f"{per_second * _MINUTE:.3g} images/min"
    return f"{per_second * _HOUR:.3g} images/h"
