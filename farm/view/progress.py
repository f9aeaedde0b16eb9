"""A run as it happens: three readers of the engine's one stream of events.

`RunView` folds the events into what there is to know; the readers only differ in how they say it:
`LiveProgress` draws on a terminal, `PlainProgress` writes a line now and then into a log, and
`JsonProgress` hands every event on to a script. All of them write to stderr: stdout is for results.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from farm.engine import events
from farm.engine.events import Event
from farm.store import layout
from farm.view.words import clock_time, one_line, rate, rough_time, shorten

Clock = Callable[[], float]
"""Seconds from anywhere, never backwards."""
_LOG = logging.getLogger(__name__)


# --- what there is to know ----------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class WorkerView:
    """A worker: where it is, what it is doing, and what it has finished but not yet committed."""

    node: str = ""
    device: str = ""
    phase: str = "starting"
    settings: str = ""
    in_flight: int = 0
    rendered: int = 0
    failed: int = 0


_LEAST_WINDOW_S = 30.0
_SAMPLE_S = 1.0


class Speed:
    """Images a second, steady enough to promise a time of arrival by.

    It is measured over the latter half of the run so far, at least half a minute: long enough that
    a slow chunk does not throw it, short enough to notice that the work has changed. The clock
    starts with the first image, so that loading a model does not count as slowness.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._begin: float | None = None

    def note(self, now: float, finished: int) -> None:
        """Take down how many images are finished."""
        if self._begin is None:
            if not finished:
                return
            self._begin = now
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, finished))
        window = max(_LEAST_WINDOW_S, (now - self._begin) / 2)
        while len(self._samples) > 2 and self._samples[1][0] <= now - window:  # noqa: PLR2004
            self._samples.popleft()

    def per_second(self) -> float | None:
        """Return the speed; None until there are two moments to compare."""
        if len(self._samples) < 2:  # noqa: PLR2004 - the two ends of a span
            return None
        (begin, before), (end, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (end - begin))


@dataclass(slots=True, kw_only=True)
class RunView:
    """Everything that the events of a run have said so far."""

    clock: Clock = time.monotonic
    started: events.RunStarted | None = None
    report: events.RunReport | None = None
    workers: dict[str, WorkerView] = field(default_factory=dict)
    last_image: str | None = None
    failures: Counter[str] = field(default_factory=Counter)
    began: float = 0.0
    _committed: int = 0
    _speed: Speed = field(default_factory=Speed)

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        match event:
            case events.RunStarted():
                self.started, self.began = event, self.clock()
            case events.WorkerReady(worker=name, node=node, device=device):
                self.workers[name] = WorkerView(node=node, device=device, phase="idle")
            case events.WorkerLost(worker=name):
                self.workers.pop(name, None)
            case events.Progress(worker=name):
                worker = self.workers.setdefault(name, WorkerView())
                worker.phase, worker.settings = event.phase, event.settings
                worker.in_flight = event.in_flight
                worker.rendered, worker.failed = event.rendered, event.failed
                self.last_image = event.last_image or self.last_image
            case events.ChunkDone(worker=name):
                worker = self.workers.setdefault(name, WorkerView())
                worker.rendered = worker.failed = 0
                self._committed += event.rendered
                self.last_image = event.last_image or self.last_image
            case events.TaskFailed(kind=kind):
                self.failures[kind] += 1
            case events.RunFinished(report=report):
                self.report = report
            case _:
                pass
        self._speed.note(self.clock(), self.finished)

    @property
    def rendered(self) -> int:
        """Images of this run so far, committed or about to be."""
        if self.report is not None:
            return self.report.rendered
        return self._committed + sum(worker.rendered for worker in self.workers.values())

    @property
    def failed(self) -> int:
        """Tasks of this run so far that have no image."""
        if self.report is not None:
            return self.report.failed
        return self.failures.total() + sum(worker.failed for worker in self.workers.values())

    @property
    def finished(self) -> int:
        """Tasks of this run so far that need no more work."""
        return self.rendered + self.failed

    @property
    def to_render(self) -> int:
        """Tasks of this run."""
        return self.started.to_render if self.started else 0

    @property
    def share(self) -> float:
        """How much of the run is finished, 0 to 1."""
        return min(1.0, self.finished / self.to_render) if self.to_render else 1.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.began if self.started else 0.0

    @property
    def images_per_second(self) -> float | None:
        """Recent speed; None before it is known."""
        return self._speed.per_second()

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the recent speed; None before that is known."""
        speed = self.images_per_second
        left = self.to_render - self.finished
        if left <= 0:
            return 0.0
        return left / speed if speed else None


# --- in words -----------------------------------------------------------------------------------


def facts(view: RunView) -> list[str]:
    """Return what a line about a run says, most important first."""
    parts = [f"{view.rendered:,} rendered"]
    if view.failed:
        parts.append(f"{view.failed:,} failed")
    if speed := view.images_per_second:
        parts.append(rate(speed))
    if view.report is None and (eta := view.eta_s):
        parts.append(f"about {rough_time(eta)} left")
    parts.append(f"{clock_time(view.elapsed_s)} elapsed")
    if view.started and (before := view.started.tasks - view.started.to_render):
        parts.append(f"{before:,} skipped")
    return parts


_TOLD_PER_KIND = 3
"""Failures of one kind that are told one by one; the rest are only counted."""


class _Teller:
    """Decides which events are worth a line of their own, and words it."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def line(self, event: Event) -> tuple[str, str] | None:
        """Return (level, text), level being `note`, `warning` or `error`; None to say nothing."""
        told: tuple[str, str] | None = None
        match event:
            case events.RunStarted(reason=reason):
                told = "note", reason
            case events.Notice(message=message):
                told = "note", message
            case events.WorkerLost(worker=worker, reason=reason):
                told = "warning", f"lost {worker}: {reason}"
            case events.ChunkRetried(tasks=tasks, reason=reason):
                told = "warning", f"{tasks} back in the queue: {reason}"
            case events.TaskFailed(kind=kind):
                self._told[kind] += 1
                if self._told[kind] <= _TOLD_PER_KIND:
                    told = "error", _failure(event)
                if self._told[kind] == _TOLD_PER_KIND + 1:
                    told = "error", f"more failures of kind {kind}; they are only counted from here"
            case _:
                pass
        return told and (told[0], one_line(told[1]))


def _ending(report: events.RunReport) -> str:
    left = f", {report.unfinished:,} left" if report.unfinished else ""
    how = "interrupted" if report.interrupted else "finished"
    took = clock_time(report.seconds)
    return f"{how} after {took}: {report.rendered:,} rendered, {report.failed:,} failed{left}"


def _failure(event: events.TaskFailed) -> str:
    return f"failed {event.task_id[:11]}, {event.kind}: {event.message}"


# --- readers ------------------------------------------------------------------------------------


class Reader(Protocol):
    """What is called with every event of a run, in order."""

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""


class PlainProgress:
    """Lines for a log: what happened, and every few seconds how far the run is.

    The pauses grow with the run, from five seconds to a minute, so a night's log stays short.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        clock: Clock = time.monotonic,
        stamp: Callable[[], str] = str,
    ) -> None:
        """Write to `stream`, each line after what `stamp` returns."""
        self._stream = stream
        self._view = RunView(clock=clock)
        self._teller = _Teller()
        self._stamp = stamp
        self._last: float | None = None

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        self._view.apply(event)
        if told := self._teller.line(event):
            level, text = told
            self._write(text if level == "note" else f"{level}: {text}")
        if isinstance(event, events.Progress | events.ChunkDone) and self._is_due():
            self._write(f"{self._view.share:4.0%}  {', '.join(facts(self._view))}")

    def _is_due(self) -> bool:
        now = self._view.clock()
        pause = min(60.0, max(5.0, self._view.elapsed_s / 20))
        if self._last is not None and now - self._last < pause:
            return False
        self._last = now
        return True

    def _write(self, text: str) -> None:
        self._stream.write(f"{self._stamp()}{text}\n")
        self._stream.flush()


class LoggedProgress:
    """Another reader, and the same run as a log in its output's `logs/`, for whoever comes later.

    Nothing is kept of a run that renders nothing, or whose output is not a local folder. A log that
    cannot be written is no reason to end a run.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._file: TextIO | None = None
        self._log: PlainProgress | None = None

    def __call__(self, event: Event) -> None:
        """Hand the event on, and write down what it says."""
        self._reader(event)
        try:
            self._keep(event)
        except OSError as error:
            self._log = None
            _LOG.info("the run's log is not kept: %s", error)

    def close(self) -> None:
        """End the log."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _keep(self, event: Event) -> None:
        match event:
            case events.RunStarted(output=output, to_render=to_render):
                if to_render and "://" not in output:
                    path = Path(output, layout.log_file(datetime.now(UTC)))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = path.open("a", encoding="utf-8")
                    self._log = PlainProgress(self._file, stamp=_now)
            case events.RunFinished(report=report) if self._file is not None:
                self._file.write(f"{_now()}{_ending(report)}\n")
        if self._log is not None:
            self._log(event)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  "


class JsonProgress:
    """One JSON object a line: every event, as it is, and with each `progress` the run's totals.

    Totals come at most once a second, instead of the `progress` of every worker.
    """

    def __init__(self, stream: TextIO, *, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._view = RunView(clock=clock)
        self._last: float | None = None

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        self._view.apply(event)
        if not isinstance(event, events.Progress):
            self._write(event.to_json())
        if isinstance(event, events.Progress | events.ChunkDone):
            now = self._view.clock()
            if self._last is None or now - self._last >= 1:
                self._last = now
                self._write(self._totals())

    def _totals(self) -> dict[str, Any]:
        view = self._view
        speed, eta = view.images_per_second, view.eta_s
        return {
            "event": "totals",
            "to_render": view.to_render,
            "rendered": view.rendered,
            "failed": view.failed,
            "seconds": round(view.elapsed_s, 3),
            "images_per_second": None if speed is None else round(speed, 3),
            "eta_s": None if eta is None else round(eta, 1),
            "last_image": view.last_image,
            "workers": {name: worker.phase for name, worker in view.workers.items()},
        }

    def _write(self, value: dict[str, Any]) -> None:
        self._stream.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._stream.flush()


_STYLES = {"note": "dim", "warning": "yellow", "error": "red"}
_PHASES = {"rendering": "green", "loading": "yellow", "starting": "dim", "idle": "dim"}
_FRAME_LINES = 6
"""Lines of the live view besides those of the workers."""


class LiveProgress:
    """A picture of the run on a terminal, redrawn in place; what is worth keeping scrolls above."""

    def __init__(self, console: Console, *, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._view = RunView(clock=clock)
        self._teller = _Teller()
        # Rich redraws from a thread of its own.
        self._lock = threading.Lock()
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=5,
            transient=False,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._view.workers.clear()
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take note of one event."""
        with self._lock:
            self._view.apply(event)
            told = self._teller.line(event)
        if told:
            level, text = told
            self._live.console.print(Text(text, style=_STYLES[level]))

    def _draw(self) -> RenderableType:
        with self._lock:
            return draw(self._view, width=self._console.width, height=self._console.height)


def draw(view: RunView, *, width: int, height: int) -> RenderableType:
    """Return the live view: a bar, the numbers, the workers and the latest image."""
    if view.started is None:
        return Text("starting", style="dim")
    lines: list[RenderableType] = [_bar(view), _numbers(view, width)]
    lines.extend(_workers(view, room=max(1, height - _FRAME_LINES)))
    if not view.workers and view.report is None and view.to_render and not view.finished:
        lines.append(Text("starting workers", style="dim"))
    if view.last_image and view.report is None:
        lines.append(Text(shorten(f"latest: {view.last_image}", width), style="dim"))
    return Group(*lines)


def _bar(view: RunView) -> RenderableType:
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    row.add_row(
        ProgressBar(
            total=max(1, view.to_render),
            completed=view.finished if view.to_render else 1,
            complete_style="green",
            finished_style="red" if view.failed else "green",
        ),
        Text(f"{view.finished:,}/{view.to_render:,}  {view.share:4.0%}", style="bold"),
    )
    return row


def _numbers(view: RunView, width: int) -> Text:
    """Return the line of numbers, without those at the end that find no room."""
    line = Text(no_wrap=True)
    for part in facts(view):
        separator = " · " if line else ""
        if line.cell_len + len(separator) + len(part) > width:
            continue
        line.append(separator, style="dim")
        line.append(part, style="bold red" if part.endswith(" failed") else "")
    return line


def _workers(view: RunView, *, room: int) -> Iterator[RenderableType]:
    """Yield a line for each worker, as far as there is room, and one for the others."""
    names = list(view.workers)
    shown = names if len(names) <= room else names[: room - 1]
    long = max(map(len, shown), default=0)
    for name in shown:
        worker = view.workers[name]
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{name:<{long}}  ", style="cyan")
        line.append(f"{worker.phase:<9}", style=_PHASES.get(worker.phase, ""))
        line.append(f" {worker.in_flight or '':>3}  ", style="bold")
        line.append(one_line(worker.settings))
        yield line
    if rest := names[len(shown) :]:
        phases = Counter(view.workers[name].phase for name in rest)
        told = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
        yield Text(f"and {len(rest)} more workers: {told}", style="dim")


@contextmanager
def open_progress(*, as_json: bool = False, log: bool = False) -> Iterator[Reader]:
    """Give the reader that suits stderr: JSON lines, a live view on a terminal, or plain lines.

    With `log`, the run's output keeps its plain lines too.
    """
    with _open_reader(as_json=as_json) as reader:
        if not log:
            yield reader
            return
        with closing(LoggedProgress(reader)) as logged:
            yield logged


@contextmanager
def _open_reader(*, as_json: bool) -> Iterator[Reader]:
    if as_json:
        yield JsonProgress(sys.stderr)
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainProgress(sys.stderr)
        return
    with LiveProgress(console) as live:
        yield live
