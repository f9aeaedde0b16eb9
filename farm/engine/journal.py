"""Which tasks may be in flight, written where a death cannot take it along.

A worker writes a small file in the store before it hands tasks to its renderer and deletes it once
their rows are committed. So a file without a living worker is suspicion: one of its tasks may have
killed the process. The driver reads it when a worker dies; the next run reads what a driver left
behind that died with its workers. A poison task is therefore not forgotten by starting again.

A chunk rendered one at a time names only the task in flight, so its file is proof, not suspicion.

Suspicion is only ever advice about care. Were every file lost, or a stale one believed, the catalog
would be the same: tasks would be rendered at another pace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from farm.engine.decide import History

_PREFIX = "leases/"


class Control(Protocol):
    """The part of `Store.control` that the journal needs: small named texts."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a worker had in hand. No digests: it was still loading its pipeline."""

    digests: tuple[bytes, ...]
    crashes: int
    alone: bool

    @property
    def names_one(self) -> bool:
        """A death under this lease has one author."""
        return len(self.digests) == 1


class Journal:
    """The leases of one run, among those of every other run into the same output.

    Every method raises `StoreError` if the store cannot be used.
    """

    def __init__(self, control: Control, *, run: int) -> None:
        self._control = control
        self._own = f"{_PREFIX}r{run:05d}-"

    def note(self, chunk: str, *, digests: Sequence[bytes], history: History) -> None:
        """Write that these tasks, and no others of `chunk`, may be in flight from now on."""
        facts = {
            "crashes": history.crashes,
            "alone": history.alone,
            "tasks": [digest.hex() for digest in digests],
        }
        self._control.write(self._name(chunk), json.dumps(facts))

    def clear(self, chunk: str) -> None:
        """Forget a chunk: nothing of it is in flight."""
        self._control.delete(self._name(chunk))

    def read(self, chunk: str) -> Lease | None:
        """Return what a worker had in hand of `chunk`; None: nothing was begun, or all is done."""
        text = self._control.read(self._name(chunk))
        return None if text is None else _parse(text)

    def left_behind(self) -> Mapping[bytes, int]:
        """Return, by task digest, how many deaths the leases of other runs make it suspect of."""
        suspects: dict[bytes, int] = {}
        for name in self._control.names(_PREFIX):
            text = None if name.startswith(self._own) else self._control.read(name)
            lease = _parse(text) if text is not None else None
            if lease is None:
                continue
            crashes = lease.crashes + 1 if lease.names_one else max(1, lease.crashes)
            for digest in lease.digests:
                suspects[digest] = max(crashes, suspects.get(digest, 0))
        return suspects

    def forgive(self, *, everybody: bool) -> None:
        """Delete the leases of this run, at its end; with `everybody`, those of other runs too.

        The latter is for a run that has tried everything again that they name.
        """
        for name in self._control.names(_PREFIX):
            if everybody or name.startswith(self._own):
                self._control.delete(name)

    def tidy(self, have_rows: Callable[[Collection[bytes]], bool]) -> None:
        """Delete the leases of other runs that name nothing but tasks that have rows.

        Their workers, or the driver that wrote the rows, were killed before they could. Whoever is
        alive there is about to delete the lease too; or is loading, and names nothing yet: should
        it die of that, one more try is the price.
        """
        for name in self._control.names(_PREFIX):
            text = None if name.startswith(self._own) else self._control.read(name)
            lease = _parse(text) if text is not None else None
            if lease is not None and have_rows(lease.digests):
                self._control.delete(name)

    def _name(self, chunk: str) -> str:
        return f"{self._own}{chunk}.json"


def _parse(text: str) -> Lease | None:
    """Return the lease that `text` spells, or None if it is not one: it is only advice."""
    try:
        facts = json.loads(text)
        return Lease(
            digests=tuple(bytes.fromhex(digits) for digits in facts["tasks"]),
            crashes=int(facts["crashes"]),
            alone=bool(facts["alone"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
