"""The exhibit of an output that may still grow, with a number for each of its states.

Whoever has seen revision 7 asks what changed since, and gets the rows that differ; who has seen one
that is no longer kept, or one before a column came, loads everything anew. Nothing is read again
that was read before, because parts never change.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final

from farm.explorer import chunks
from farm.explorer.exhibit import Exhibit, make_exhibit
from farm.store import Store
from farm.store.votes import Ballot
from farm.view.query import complete

KEPT: Final = 16
"""States that differences are computed from; a page that is further behind loads anew."""


class Showing:
    """What a server shows of one output. Safe for any number of threads."""

    def __init__(self, store: Store, *, root: str, served: dict[str, Any]) -> None:
        self._store = store
        self._root = root
        self._served = served
        self._following = store.follow()
        self._seen: tuple[object, ...] | None = None
        self._states: deque[tuple[int, Exhibit]] = deque(maxlen=KEPT)
        self._ballot: Ballot | None = None
        self._lock = threading.Lock()
        self.refresh()

    @property
    def revision(self) -> int:
        """The number of the latest state, from 1."""
        return self._states[-1][0]

    @property
    def exhibit(self) -> Exhibit:
        """The latest state."""
        return self._states[-1][1]

    @property
    def ballot(self) -> Ballot:
        """The votes of the latest state."""
        assert self._ballot is not None, "set by the first refresh"
        return self._ballot

    def refresh(self) -> bool:
        """Look at the output; return whether there is a new state.

        Raises:
            StoreError: the output cannot be read now; the latest state stays.
        """
        with self._lock:
            seen = (*self._following.names(), self._store.read_job())
            if seen == self._seen:
                return False
            table = self._following.table()
            ballot = self._store.ballot()
            before = self._states[-1] if self._states else (0, None)
            exhibit = make_exhibit(
                complete(table, url=self._store.url, ballot=ballot).table,
                url=self._store.url,
                job=self._store.last_job(),
                earlier=self._store.earlier_jobs(),
                after=before[1],
                rated=True,
            )
            self._ballot = ballot
            self._states.append((before[0] + 1, exhibit))
            self._seen = seen
            return True

    def state(self, revision: int) -> Exhibit | None:
        """Return the state with this number, if it is kept."""
        return dict(self._states).get(revision)

    def meta(self) -> dict[str, Any]:
        """Return what the page is told first."""
        revision, exhibit = self._states[-1]
        return chunks.meta(exhibit, root=self._root, revision=revision, served=self._served)

    def changes(self, since: int) -> dict[str, Any]:
        """Return what differs from state `since`, or that the page has to be loaded anew."""
        before = self.state(since)
        revision, now = self._states[-1]
        rows = None if before is None else now.changed_since(before)
        if rows is None:
            return {"reload": True}
        meta = chunks.meta(now, root=self._root, revision=revision, served=self._served)
        return {"meta": meta, "rows": rows, "values": chunks.rows(now, rows)}

    def task_of(self, short: str) -> str | None:
        """Return the task id of a row by its id in the page."""
        exhibit = self.exhibit
        try:
            place = exhibit.ids.index(short)
        except ValueError:
            return None
        return str(exhibit.table["task_id"][place].as_py())
