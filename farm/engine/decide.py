"""What to do after something went wrong: one pure function, read and tested as a table.

Two kinds of count are kept apart. A task's own failures spend its *tries*. Deaths of workers raise
*suspicion* (`crashes`): a death has no author until it happens with one task alone in flight, so
the first death of a chunk only sends its tasks elsewhere, one at a time, and the next one has a
name. Failures of the machinery (store, model loading) charge no task at all.

A worker that is silent for much longer than its work should take is as good as dead, and is treated
so. A node whose workers keep dying, whatever they render, is avoided while there is another.

Everything here is bounded, which is why a run ends. A task that goes back does so with a higher
`attempt`, and no attempt goes beyond `attempts`; most end long before that, at the limit of their
tries or crashes. Store faults in a row, and deaths with no task finished in between, end the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from farm.task import FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The limits of patience."""

    retries: int = 2
    """More tries of a task after a failure that another try may cure."""
    attempts: int = 100
    """A task that came back this often is given up, whatever the reasons were."""
    deaths_alone: int = 3
    """A task is given up when this many workers died with it, the last ones with it alone."""
    load_failures: int = 2
    """A pipeline is given up when it failed to load this often in a row and nobody has it open."""
    store_faults: int = 8
    """The run ends at this many store faults with nothing committed in between."""
    store_delay_s: float = 1.0
    """Pause after the first store fault; doubles with each, up to `store_delay_max_s`."""
    store_delay_max_s: float = 30.0
    fruitless_deaths: int = 40
    """The run ends at this many deaths of workers without a task finished in between."""
    node_deaths: int = 3
    """A node is avoided after this many deaths in a row there that no one task explains."""
    stuck_after_s: float | None = None
    """A worker without progress for so long is replaced; 0 never; None goes by what work takes:"""
    stuck_factor: float = 20.0
    """So many times longer than images of this pipeline have taken,"""
    stuck_least_s: float = 300.0
    """but not less than this;"""
    stuck_unknown_s: float = 3600.0
    """and this while nothing has been measured, or a pipeline is loading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the tasks of a chunk have been through in this run."""

    attempt: int = 1
    """Counts leases; orders the rows of one task."""
    tries: int = 0
    """Failures of the task itself that another try might have cured."""
    crashes: int = 0
    """Workers that died while these tasks were, or may have been, in flight."""
    alone: bool = False
    """Rendered one at a time, each noted in the store before it starts."""
    nodes: frozenset[str] = frozenset()
    """Where those workers died, in this run: the next try had better be elsewhere."""


# --- what can go wrong --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed:
    """A renderer answered `Failed`, or raised with this task in flight.

    `in_company`: it raised while it held other tasks too, so it is not known whose fault it was.
    """

    kind: FailureKind
    in_company: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied:
    """The process or its node went away. `known`: exactly one task was in flight."""

    known: bool
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """A worker could not open the pipeline, or died while it tried."""

    in_a_row: int
    """With no task of this pipeline finished in between, this one included."""
    elsewhere: bool
    """Another worker has it open, or is about to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A chunk came back with these tasks unfinished, through no fault of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed:
    """The output could not be written or read. `in_a_row`: this one included."""

    in_a_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fruitless:
    """Workers died, and no task was finished in between. `in_a_row`: this one included."""

    in_a_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A worker has leases and has shown no progress for `silent_s` seconds.

    `expected_s`: how long what it has in flight should take; None: not known.
    """

    silent_s: float
    expected_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStruck:
    """Workers died on a node, with no task finished there in between.

    `in_a_row`: this death included; 0 if one task was in flight in all of them. `elsewhere`:
    workers of other nodes do finish tasks.
    """

    in_a_row: int
    elsewhere: bool


Failure: TypeAlias = (
    "TaskFailed | WorkerDied | LoadFailed | Returned | StoreFailed | Fruitless"
    " | Silent | NodeStruck"
)


# --- what can be done ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Lease the tasks again, with this history."""

    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Lease the tasks again one at a time, so that the next death has a name."""

    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The tasks get failed rows of this kind."""

    kind: FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Charge nobody; lease nothing for a while; then go on as before."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Kill the worker and take it for dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Avoid:
    """Start no more workers on the node, and lease nothing to those that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proceed:
    """Nothing beyond what the other failures ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRun:
    """Going on would only burn time. What is committed stays."""


Decision: TypeAlias = "Retry | Split | GiveUp | Pause | Replace | Avoid | Proceed | EndRun"

CURABLE = frozenset({FailureKind.BAD_OUTPUT, FailureKind.INTERNAL})
"""Kinds of failure that another try may cure. The others are properties of the task."""


def decide(  # noqa: C901, PLR0911, PLR0912 - one branch per row of the table
    failure: Failure, history: History, policy: Policy
) -> Decision:
    """Return what to do about `failure`, for tasks that have been through `history`."""
    match failure:
        case TaskFailed() | WorkerDied() | LoadFailed() | Returned() if (
            history.attempt >= policy.attempts
        ):
            return GiveUp(kind=FailureKind.INTERNAL)

        case TaskFailed(in_company=True) if not history.alone:
            return Retry(history=_leased_again(history, alone=True))
        case TaskFailed(kind=kind) if kind in CURABLE and history.tries < policy.retries:
            return Retry(history=_leased_again(history, tries=history.tries + 1, alone=True))
        case TaskFailed(kind=kind):
            return GiveUp(kind=kind)

        case WorkerDied(known=True) if history.crashes + 1 >= policy.deaths_alone:
            return GiveUp(kind=FailureKind.WORKER_DIED)
        case WorkerDied(known=True, node=node):
            crashes = history.crashes + 1
            return Retry(history=_leased_again(history, crashes=crashes, alone=True, node=node))
        case WorkerDied(node=node):
            crashes = max(1, history.crashes)
            return Split(history=_leased_again(history, crashes=crashes, alone=True, node=node))

        case LoadFailed(in_a_row=count, elsewhere=False) if count >= policy.load_failures:
            return GiveUp(kind=FailureKind.LOAD_FAILED)
        case LoadFailed():
            return Retry(history=_leased_again(history))

        case Returned():
            return Retry(history=_leased_again(history))

        case StoreFailed(in_a_row=count) if count >= policy.store_faults:
            return EndRun()
        case StoreFailed(in_a_row=count):
            delay_s = policy.store_delay_s * 2.0 ** (count - 1)
            return Pause(delay_s=min(delay_s, policy.store_delay_max_s))

        case Fruitless(in_a_row=count):
            return EndRun() if count >= policy.fruitless_deaths else Proceed()

        case Silent(silent_s=silent_s, expected_s=expected_s):
            return Replace() if silent_s >= _patience_s(expected_s, policy) else Proceed()

        case NodeStruck(in_a_row=count, elsewhere=elsewhere):
            return Avoid() if elsewhere and count >= policy.node_deaths else Proceed()


def _patience_s(expected_s: float | None, policy: Policy) -> float:
    """Return how long a worker may be silent with work that should take `expected_s`."""
    if policy.stuck_after_s is not None:
        return policy.stuck_after_s or math.inf
    if expected_s is None:
        return policy.stuck_unknown_s
    return max(policy.stuck_least_s, policy.stuck_factor * expected_s)


def _leased_again(
    history: History,
    *,
    tries: int | None = None,
    crashes: int | None = None,
    alone: bool | None = None,
    node: str = "",
) -> History:
    """Return `history` as it is at the next lease; what is not given stays as it was."""
    return History(
        attempt=history.attempt + 1,
        tries=history.tries if tries is None else tries,
        crashes=history.crashes if crashes is None else crashes,
        alone=history.alone if alone is None else alone,
        nodes=history.nodes | {node} if node else history.nodes,
    )
