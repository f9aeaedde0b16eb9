"""What people ask of a run from elsewhere: pause, resume, cancel, as small files in its output.

Whoever can write the output can ask, from any machine, with Ray or the driver's terminal out of
reach. Requests are numbered, and the last one counts, whatever order they are seen in. A run heeds
those made after it began: what was asked of one run is not held against the next.

A paused run leases nothing more and finishes what is leased; its workers keep their models. It says
so in a file of its own, which is how `farm status` knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeAlias, get_args

Verb: TypeAlias = Literal["pause", "resume", "cancel"]
VERBS: tuple[Verb, ...] = get_args(Verb)

PAUSED = "paused"
"""Name of the text that is there for as long as a run is paused."""
_PREFIX = "requests/"


class Control(Protocol):
    """The part of `Store.control` that requests need: small named texts."""

    def read(self, name: str) -> str | None:
        """Return a text, or None if there is none of that name."""
        ...

    def write(self, name: str, text: str) -> None:
        """Write or replace a text, whole."""
        ...

    def names(self, prefix: str) -> Iterable[str]:
        """Return the names that begin with `prefix`."""
        ...

    def delete(self, name: str) -> None:
        """Delete a text; harmless if there is none."""
        ...


class Creator(Control, Protocol):
    """What asking needs beside."""

    def create(self, name: str, text: str) -> bool:
        """Create a text; return False, and change nothing, if it exists."""
        ...


def ask(control: Creator, verb: Verb) -> None:
    """Ask whatever runs write to this output to pause, go on, or end as after Ctrl-C.

    Raises:
        StoreError: the output cannot be written.
    """
    number = _latest(control)
    while True:
        number += 1
        if control.create(f"{_PREFIX}{number:06d}", verb):
            return


class Requests:
    """The requests of one run. Every method raises `StoreError` if the store cannot be used."""

    def __init__(self, control: Control) -> None:
        """Begin to listen: what was asked before is of the past."""
        self._control = control
        self._heard = _latest(control)

    def news(self) -> Verb | None:
        """Return the last thing asked since the last call, or None."""
        latest = _latest(self._control)
        if latest <= self._heard:
            return None
        self._heard = latest
        text = self._control.read(f"{_PREFIX}{latest:06d}")
        return next((verb for verb in VERBS if verb == text), None)

    def say_paused(self, *, paused: bool) -> None:
        """Let readers of the output know."""
        if paused:
            self._control.write(PAUSED, "")
        else:
            self._control.delete(PAUSED)


def _latest(control: Control) -> int:
    """Return the number of the last request; 0 if there is none."""
    names = (name.removeprefix(_PREFIX) for name in control.names(_PREFIX))
    return max((int(name) for name in names if name.isdigit()), default=0)
