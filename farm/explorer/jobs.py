"""Job files below a folder: what they would do, and submitting them.

Each is a subprocess of `farm` itself: the same checks and the same words as on the command line, no
job can take the server along, and a run goes on when the server ends. What a run says goes to a log
in its output, or beside the server's own where that is no folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from farm.errors import InputError
from farm.store import layout

MOST_FILES: Final = 500
LOG_TAIL_BYTES: Final = 64_000
_SUFFIXES = frozenset({".yaml", ".yml"})
_PLAN_TIMEOUT_S = 120.0
_SKIPPED = frozenset({"node_modules", "__pycache__", layout.CATALOG, layout.CONTROL, layout.IMAGES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What `farm plan` said of a job file."""

    plan: dict[str, Any] | None
    problems: str
    """What is wrong with it, as on the command line; empty if nothing is."""


@dataclass(slots=True, kw_only=True)
class _Run:
    job: str
    output: str
    log: Path
    process: subprocess.Popen[bytes]


class Jobs:
    """The job files below one folder, and the runs that were started from here."""

    def __init__(self, folder: Path, *, logs: Path) -> None:
        self._folder = folder.resolve()
        self._logs = logs
        self._runs: list[_Run] = []
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where job files may be."""
        return self._folder

    def files(self) -> list[str]:
        """Return the YAML files below the folder, relative to it, sorted."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[str]:
        count = 0
        for folder, below, names in os.walk(self._folder):
            below[:] = sorted(
                name for name in below if not name.startswith(".") and name not in _SKIPPED
            )
            if layout.JOB in names and Path(folder, layout.CATALOG).is_dir():
                below.clear()  # an output: its job.yaml is a record, not a job to submit
                continue
            for name in sorted(names):
                if Path(name).suffix in _SUFFIXES:
                    count += 1
                    if count > MOST_FILES:
                        return
                    yield Path(folder, name).relative_to(self._folder).as_posix()

    def path_of(self, name: str) -> Path:
        """Return the job file that a browser asks for.

        Raises:
            InputError: it is not there, is no YAML file, or lies elsewhere.
        """
        path = (self._folder / name).resolve()
        if path.suffix not in _SUFFIXES or not path.is_relative_to(self._folder):
            raise InputError(f"'{name}' is no job file below {self._folder}")
        if not path.is_file():
            raise InputError(f"there is no job file '{name}' below {self._folder}")
        return path

    def plan(self, name: str) -> Planned:
        """Return what a submit of a job file would do.

        Raises:
            InputError: see `path_of`.
        """
        path = self.path_of(name)
        try:
            told = subprocess.run(  # noqa: S603 - our own command, and a path that was checked
                [*_FARM, "plan", "--json", "--", str(path)],
                cwd=self._folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PLAN_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return Planned(plan=None, problems=f"planning took more than {_PLAN_TIMEOUT_S:.0f} s")
        if told.returncode:
            return Planned(plan=None, problems=told.stderr.strip() or told.stdout.strip())
        return Planned(plan=json.loads(told.stdout), problems="")

    def submit(self, name: str, *, retry_failed: bool = False) -> str:
        """Start a run of a job file and return the name of its log.

        Raises:
            InputError: see `path_of`; the job cannot be planned; or it is running already.
        """
        path = self.path_of(name)
        planned = self.plan(name)
        if planned.plan is None:
            raise InputError(planned.problems)
        output = str(planned.plan["output"])
        with self._lock:
            if any(run.output == output and run.process.poll() is None for run in self._runs):
                raise InputError(f"a run into {output} was started from here and is still at work")
            folder = self._logs if "://" in output else self._folder / output / layout.LOGS
            folder.mkdir(parents=True, exist_ok=True)
            log = folder / Path(layout.log_file(datetime.now(UTC), job=path.stem)).name
            with log.open("xb") as sink:
                process = subprocess.Popen(  # noqa: S603 - as above
                    [*_FARM, "submit", "--no-log", *(["--retry-failed"] if retry_failed else []),
                     "--", str(path)],
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    # A run of its own: Ctrl-C in the server's terminal is not meant for it.
                    start_new_session=True,
                )  # fmt: skip
            self._runs.append(_Run(job=name, output=output, log=log, process=process))
        return log.name

    def stop(self, log: str) -> None:
        """Ask a run that was started from here to commit what it has and end, as Ctrl-C does.

        Raises:
            InputError: no such run is at work.
        """
        for run in self._runs:
            if run.log.name == log and run.process.poll() is None:
                run.process.send_signal(signal.SIGINT)
                return
        raise InputError(f"no run with the log '{log}' is at work")

    def started(self) -> list[dict[str, Any]]:
        """Return the runs that were started from here, the latest first."""
        return [
            {
                "job": run.job,
                "output": run.output,
                "log": run.log.name,
                "exit": run.process.poll(),
                "tail": _tail(run.log),
            }
            for run in reversed(self._runs)
        ]


_FARM = (sys.executable, "-m", "farm.cli")


def logs_of(folder: Path) -> list[dict[str, Any]]:
    """Return the logs that lie in an output's folder, the latest first, with their ends."""
    found = sorted(folder.glob("*.log"), key=lambda path: path.name, reverse=True)
    return [{"log": path.name, "tail": _tail(path)} for path in found[:20]]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
