"""What can go wrong, said in one form.

Every error that a user can cause or mend is a `FarmError`: it says what was found, where, and what
to type next, prints without a traceback, and carries the exit code of its class. Anything else that
escapes is a bug of ours and keeps its traceback.

This module imports nothing of the farm, so every room may raise from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the `farm` command's exit status means. A contract with scripts."""

    OK = 0
    """Everything asked for is there."""
    FAILED_TASKS = 1
    """The run finished, and some tasks failed."""
    BAD_INPUT = 2
    """The job file, an argument or an output folder is not usable as given."""
    CANNOT_RUN = 3
    """The input is fine, but this machine or cluster cannot run it now."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM; what was finished is committed."""


class FarmError(Exception):
    """An error that its reader can do something about.

    Attributes:
        reference: stable kebab-case name, an entry in `docs/reference/errors.md`.
        where: the place, such as `jobs/assets.yaml:14:12`, or an output folder.
        note: a fact that explains the message.
        hint: the next step, ready to type where possible.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.CANNOT_RUN
    reference: ClassVar[str] = "farm-error"

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        note: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.note = note
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.message}" if self.where else self.message]
        if self.note:
            lines.append(f"  note: {self.note}")
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, because errors travel from workers to the driver."""
        return (_rebuild, (type(self), self.message, self.where, self.note, self.hint))


def _rebuild(
    kind: type[FarmError], message: str, where: str | None, note: str | None, hint: str | None
) -> FarmError:
    return kind(message, where=where, note=note, hint=hint)


class InputError(FarmError):
    """An argument, a query or a reference that cannot be used as given."""

    exit_code = ExitCode.BAD_INPUT
    reference = "bad-input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a job file: a place, what was found, and what to do about it."""

    message: str
    path: str = "<job>"
    line: int | None = None
    column: int | None = None
    hint: str | None = None

    @property
    def where(self) -> str:
        """`file:line:column`, both counted from 1 as editors do."""
        place = (self.path, self.line, self.column)
        return ":".join(str(part) for part in place if part is not None)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ManifestError(InputError):
    """A job file with problems: all of them at once, in the order of the file."""

    reference = "bad-job"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return (ManifestError, (self.problems,))


class OutputError(InputError):
    """An output folder or URL that cannot be opened, read or written, found before any work."""

    reference = "bad-output"


class StoreError(FarmError):
    """The store failed while work was under way: disk full, mount gone, object store unreachable.

    No task is to blame. What was committed stays, and the same command goes on from there.
    """

    reference = "store-failed"


class ModelError(InputError):
    """A model that cannot be found, read or loaded."""

    reference = "model-unusable"


class MissingLibraryError(FarmError):
    """An optional library is not installed; the hint is the exact install line."""

    reference = "missing-library"


def suggest(word: str, known: Iterable[str], *, cutoff: float = 0.7) -> str | None:
    """Return `did you mean 'x'?` for the known word closest to `word`, or None if none is close.

    Close is a similarity of at least `cutoff` (difflib's ratio, 0 to 1). Of words that differ only
    in case, the first known one is suggested.
    """
    by_lower: dict[str, str] = {}
    for name in known:
        by_lower.setdefault(name.lower(), name)
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=cutoff)
    return f"did you mean '{by_lower[close[0]]}'?" if close else None
