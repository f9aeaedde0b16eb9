"""The state of an output, from the output alone: during a run, after it, without Ray or a driver.

What is finished is asked of the catalog, what is wanted of `job.yaml`, and whether somebody is at
work of the leases that workers keep while they render. A worker that is killed leaves its lease
behind, so a lease is taken for life only as long as something has changed recently.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from farm import grid, planner
from farm.engine.requests import PAUSED
from farm.store import Store
from farm.store.files import open_files
from farm.view.summary import example_messages, facts_table, failures_view, place, present, stdout
from farm.view.words import rate, rough_time

SILENCE_S = 600.0
"""Leases without any other sign of life for this long are taken for those of the dead."""
_PAUSE_S = 5.0
"""Between two chunks a worker may hold no lease; a commit this young still means a run."""
_START_S = 120.0
"""A run that has begun and neither leased nor committed anything may be starting its workers."""
_RECENT = timedelta(minutes=5)
"""Span over which the speed is measured."""


class Phase(StrEnum):
    """What is going on in an output."""

    RUNNING = "running"
    PAUSED = "paused"
    """A run was asked to pause, and waits."""
    SILENT = "silent"
    """Leases, but no sign of life: killed, cut off, or busy with one very slow image."""
    INCOMPLETE = "incomplete"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of an output at one moment. Counts are of unique tasks."""

    output: str
    phase: Phase
    job: str | None
    """Job of the last submit; None if there is none that this version can read."""
    tasks: int | None
    """Tasks of that job."""
    rendered: int
    """Of the job's tasks, or of all in the catalog where no job is known."""
    failed: int
    to_do: int | None
    other_tasks: int
    """Tasks in the catalog that the job does not ask for: those of others, or of an earlier one."""
    failures: Mapping[str, int]
    """Failed tasks in the catalog, by kind."""
    runs: int
    in_flight: int
    """Leases: batches begun and not committed."""
    images_per_second: float | None
    last_activity: datetime | None
    examples: Mapping[str, str]
    """A message for each kind of failure."""

    @property
    def is_running(self) -> bool:
        """Whether somebody seems to be at work, or waits to be."""
        return self.phase in (Phase.RUNNING, Phase.PAUSED)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the job is done at the recent speed; None if nothing is running."""
        if self.phase is not Phase.RUNNING or not self.images_per_second or self.to_do is None:
            return None
        return self.to_do / self.images_per_second

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        when = self.last_activity
        return asdict(self) | {
            "last_activity": when.isoformat() if when else None,
            "eta_s": self.eta_s,
        }


def status(output: str, *, now: Callable[[], float] = time.time) -> Status:
    """Return the state of an output.

    Args:
        output: folder or URL.
        now: seconds since 1970.

    Raises:
        OutputError: there is no readable output at `output`.
    """
    store = Store.open(output)
    plan = _plan(store)
    table = store.table(("status", "error_kind", "finished_at", "run"))
    total = Counter(table["status"].to_pylist())
    failed = table.filter(pc.equal(table["status"], "failed"))
    leases = store.control.names("leases/")
    finished_at: datetime | None = pc.max(table["finished_at"]).as_py()
    begun, life = _signs_of_life(store, finished_at)
    is_starting = begun is not None and (life is None or begun > life)
    life = begun if is_starting else life
    silence = math.inf if life is None else now() - life.timestamp()
    patience = SILENCE_S if leases else _START_S if is_starting else _PAUSE_S
    to_do = plan.to_render if plan else None
    known = plan.done + plan.failed if plan else total.total()
    return Status(
        output=store.url,
        phase=_phase(
            is_alive=silence < patience,
            is_paused=store.control.read(PAUSED) is not None,
            has_leases=bool(leases),
            to_do=to_do,
        ),
        job=plan.job if plan else None,
        tasks=plan.unique_tasks if plan else None,
        rendered=plan.done if plan else total["rendered"],
        failed=plan.failed if plan else total["failed"],
        to_do=to_do,
        other_tasks=total.total() - known,
        failures=dict(Counter(failed["error_kind"].to_pylist()).most_common()),
        runs=len(store.control.names("runs/")),
        in_flight=len(leases),
        images_per_second=_speed(table),
        last_activity=life,
        examples=example_messages(store) if failed.num_rows else {},
    )


def _phase(*, is_alive: bool, is_paused: bool, has_leases: bool, to_do: int | None) -> Phase:
    if to_do == 0:
        return Phase.COMPLETE
    if is_paused:
        return Phase.PAUSED
    if is_alive:
        return Phase.RUNNING
    return Phase.SILENT if has_leases else Phase.INCOMPLETE


def _plan(store: Store) -> planner.Plan | None:
    """Return what the last job lacks, if there is a job that this version can read."""
    job = store.last_job()
    if job is None:
        return None
    done = store.finished()
    return planner.plan(grid.expand(job), job=job, rendered=done.rendered, failed=done.failed)


def _signs_of_life(
    store: Store, finished_at: datetime | None
) -> tuple[datetime | None, datetime | None]:
    """Return when the last run began, and when anything was last finished, committed or leased."""
    files = open_files(store.url)

    def changed(*folders: str) -> list[datetime]:
        return [
            datetime.fromtimestamp(entry.modified, UTC)
            for folder in folders
            for entry in files.scan(folder)
            if entry.modified is not None
        ]

    worked = changed("catalog", "control/leases") + ([finished_at] if finished_at else [])
    return max(changed("control/runs"), default=None), max(worked, default=None)


def _speed(table: Any) -> float | None:  # noqa: ANN401 - a pyarrow.Table
    """Return images a second at the end of the last run, None if it rendered too few to tell."""
    rows = table.filter(pc.equal(table["status"], "rendered"))
    rows = rows.filter(pc.equal(rows["run"], pc.max(rows["run"])))
    if rows.num_rows == 0:
        return None
    last: datetime = pc.max(rows["finished_at"]).as_py()
    begin = max(pc.min(rows["finished_at"]).as_py(), last - _RECENT)
    recent = rows.filter(pc.greater(rows["finished_at"], begin))
    span = (last - begin).total_seconds()
    return recent.num_rows / span if span > 0 else None


# --- as people read it --------------------------------------------------------------------------

_PHASE_STYLES = {
    Phase.RUNNING: "bold green",
    Phase.PAUSED: "bold yellow",
    Phase.SILENT: "bold yellow",
    Phase.INCOMPLETE: "bold yellow",
    Phase.COMPLETE: "bold",
}


def print_status(state: Status) -> None:
    """Print the state of an output."""
    present(status_view(state))


def status_view(state: Status, *, now: datetime | None = None) -> RenderableType:
    """Return the state of an output, for a terminal."""
    title = Text.assemble(
        (state.job or "unknown job", "bold"), " in ", place(state.output), "  ",
        (state.phase.value, _PHASE_STYLES[state.phase]),
    )  # fmt: skip
    lines: list[RenderableType] = [title]
    lines.append(facts_table(_facts(state, now or datetime.now(UTC))))
    if state.failures:
        lines += ["", failures_view(state.failures, state.examples)]
    if state.phase is Phase.PAUSED:
        lines += ["", Text(f"farm resume {place(state.output)}")]
    if state.phase is Phase.SILENT:
        lines += ["", Text("no sign of life; if its process is gone, submit the job again")]
    return Group(*lines)


def _facts(state: Status, now: datetime) -> Iterator[tuple[str, str]]:
    of = f" of {state.tasks:,}, {state.rendered / state.tasks:.0%}" if state.tasks else ""
    yield "rendered", f"{state.rendered:,}{of}"
    if state.failed:
        yield "failed", f"{state.failed:,}"
    if state.to_do:
        yield "to do", f"{state.to_do:,}"
    if state.other_tasks:
        yield "other tasks", f"{state.other_tasks:,} that the last job does not ask for"
    if state.images_per_second:
        left = f", about {rough_time(state.eta_s)} left" if state.eta_s else ""
        yield "speed", f"{rate(state.images_per_second)}{left}"
    if state.last_activity:
        ago = (now - state.last_activity).total_seconds()
        yield "last activity", f"{state.last_activity:%Y-%m-%d %H:%M:%S} UTC, {_ago(ago)}"
    if state.in_flight:
        yield "in flight", f"{state.in_flight:,}"


def _ago(seconds: float) -> str:
    return "just now" if seconds < 10 else f"{rough_time(seconds)} ago"  # noqa: PLR2004 - as said


def watch(
    output: str,
    *,
    interval_s: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
    look: Callable[[str], Status] = status,
) -> None:
    """Show the state of an output again and again, until nobody is at work or Ctrl-C.

    On a terminal the picture is redrawn in place; elsewhere every change is a line.

    Raises:
        OutputError: there is no readable output at `output`.
    """
    console = stdout()
    state = look(output)
    try:
        if not console.is_terminal or console.is_dumb_terminal:
            _watch_in_lines(state, output, interval_s=interval_s, sleep=sleep, look=look)
            return
        with Live(console=console, auto_refresh=False) as live:
            live.update(status_view(state), refresh=True)
            while state.is_running:
                sleep(interval_s)
                state = look(output)
                live.update(status_view(state), refresh=True)
    except KeyboardInterrupt:
        return


def _watch_in_lines(
    state: Status,
    output: str,
    *,
    interval_s: float,
    sleep: Callable[[float], None],
    look: Callable[[str], Status],
) -> None:
    console = stdout()
    line = ""
    while True:
        if (now := status_line(state)) != line:
            line = now
            console.print(line, soft_wrap=True)
        if not state.is_running:
            return
        sleep(interval_s)
        state = look(output)


def status_line(state: Status) -> str:
    """Return the state of an output in one line."""
    of = f" of {state.tasks:,}" if state.tasks is not None else ""
    parts = [f"{state.phase.value}: {state.rendered:,}{of} rendered"]
    if state.failed:
        parts.append(f"{state.failed:,} failed")
    if state.is_running and state.images_per_second:
        parts.append(rate(state.images_per_second))
    if state.eta_s:
        parts.append(f"about {rough_time(state.eta_s)} left")
    return ", ".join(parts)
