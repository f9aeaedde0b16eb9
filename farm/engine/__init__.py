"""The engine: a plan goes in, events come out, the store fills.

`run` is the one scheduling loop, `choose_executor` says who runs its workers. Everything that a
caller needs to know about a run is in the events.
"""

from __future__ import annotations

from farm.engine.choose import choose_executor, cluster_address
from farm.engine.decide import Policy
from farm.engine.events import Event, Notice, RunFinished, RunReport
from farm.engine.executor import Executor, Stop
from farm.engine.loop import run

__all__ = [
    "Event",
    "Executor",
    "Notice",
    "Policy",
    "RunFinished",
    "RunReport",
    "Stop",
    "choose_executor",
    "cluster_address",
    "run",
]
