"""What a failure means, as a table."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.engine.decide import (
    Avoid,
    Decision,
    EndRun,
    Failure,
    Fruitless,
    GiveUp,
    History,
    LoadFailed,
    NodeStruck,
    Pause,
    Policy,
    Proceed,
    Replace,
    Retry,
    Returned,
    Silent,
    Split,
    StoreFailed,
    TaskFailed,
    WorkerDied,
    decide,
)
from farm.task import FailureKind

POLICY = Policy(
    retries=2,
    attempts=100,
    deaths_alone=3,
    load_failures=2,
    store_faults=4,
    store_delay_s=1.0,
    store_delay_max_s=3.0,
    fruitless_deaths=40,
)
FRESH = History()


def _has(*, attempt: int = 1, tries: int = 0, crashes: int = 0, alone: bool = False) -> History:
    return History(attempt=attempt, tries=tries, crashes=crashes, alone=alone)


TABLE: list[tuple[str, Failure, History, Decision]] = [
    # A task's own failures.
    (
        "what the task asks for is impossible",
        TaskFailed(kind=FailureKind.BAD_TASK),
        FRESH,
        GiveUp(kind=FailureKind.BAD_TASK),
    ),
    (
        "it does not fit, even alone",
        TaskFailed(kind=FailureKind.OUT_OF_MEMORY),
        FRESH,
        GiveUp(kind=FailureKind.OUT_OF_MEMORY),
    ),
    (
        "the picture is black",
        TaskFailed(kind=FailureKind.BAD_OUTPUT),
        FRESH,
        Retry(history=_has(attempt=2, tries=1, alone=True)),
    ),
    (
        "the picture is black once more",
        TaskFailed(kind=FailureKind.BAD_OUTPUT),
        _has(attempt=2, tries=1, alone=True),
        Retry(history=_has(attempt=3, tries=2, alone=True)),
    ),
    (
        "the picture stays black",
        TaskFailed(kind=FailureKind.BAD_OUTPUT),
        _has(attempt=3, tries=2, alone=True),
        GiveUp(kind=FailureKind.BAD_OUTPUT),
    ),
    (
        "the renderer raised with others in flight: nobody is charged",
        TaskFailed(kind=FailureKind.INTERNAL, in_company=True),
        FRESH,
        Retry(history=_has(attempt=2, alone=True)),
    ),
    (
        "the renderer raised with this task alone",
        TaskFailed(kind=FailureKind.INTERNAL),
        _has(attempt=2, alone=True),
        Retry(history=_has(attempt=3, tries=1, alone=True)),
    ),
    # Deaths.
    (
        "a worker died, and any of many may be the reason",
        WorkerDied(known=False),
        FRESH,
        Split(history=_has(attempt=2, crashes=1, alone=True)),
    ),
    (
        "a worker died with this task alone, for the first time",
        WorkerDied(known=True),
        FRESH,
        Retry(history=_has(attempt=2, crashes=1, alone=True)),
    ),
    (
        "a worker died with this task alone, after dying in company",
        WorkerDied(known=True),
        _has(attempt=2, crashes=1, alone=True),
        Retry(history=_has(attempt=3, crashes=2, alone=True)),
    ),
    (
        "a third worker died",
        WorkerDied(known=True),
        _has(attempt=3, crashes=2, alone=True),
        GiveUp(kind=FailureKind.WORKER_DIED),
    ),
    # Loading.
    (
        "a pipeline did not load",
        LoadFailed(in_a_row=1, elsewhere=False),
        FRESH,
        Retry(history=_has(attempt=2)),
    ),
    (
        "a pipeline did not load again, and nobody has it",
        LoadFailed(in_a_row=2, elsewhere=False),
        _has(attempt=2),
        GiveUp(kind=FailureKind.LOAD_FAILED),
    ),
    (
        "a pipeline that others have open fails on a few workers",
        LoadFailed(in_a_row=5, elsewhere=True),
        FRESH,
        Retry(history=_has(attempt=2)),
    ),
    # Nobody's fault.
    ("a chunk came back", Returned(), FRESH, Retry(history=_has(attempt=2))),
    (
        "a chunk came back too often",
        Returned(),
        _has(attempt=100),
        GiveUp(kind=FailureKind.INTERNAL),
    ),
    ("the store failed", StoreFailed(in_a_row=1), FRESH, Pause(delay_s=1.0)),
    ("the store failed again", StoreFailed(in_a_row=2), FRESH, Pause(delay_s=2.0)),
    ("pauses have a limit", StoreFailed(in_a_row=3), FRESH, Pause(delay_s=3.0)),
    ("the store keeps failing", StoreFailed(in_a_row=4), FRESH, EndRun()),
    ("workers die now and then", Fruitless(in_a_row=39), FRESH, Proceed()),
    ("workers only ever die", Fruitless(in_a_row=40), FRESH, EndRun()),
    # Nodes.
    (
        "a death is remembered with its node",
        WorkerDied(known=False, node="n1"),
        FRESH,
        Split(history=History(attempt=2, crashes=1, alone=True, nodes=frozenset({"n1"}))),
    ),
    ("a node where workers die", NodeStruck(in_a_row=2, elsewhere=True), FRESH, Proceed()),
    ("a sick node", NodeStruck(in_a_row=3, elsewhere=True), FRESH, Avoid()),
    ("the last node is never avoided", NodeStruck(in_a_row=9, elsewhere=False), FRESH, Proceed()),
    # Silence.
    ("an image takes its time", Silent(silent_s=299.0, expected_s=1.0), FRESH, Proceed()),
    ("no image for five minutes", Silent(silent_s=300.0, expected_s=1.0), FRESH, Replace()),
    ("images that take minutes", Silent(silent_s=1199.0, expected_s=60.0), FRESH, Proceed()),
    ("twenty times too slow", Silent(silent_s=1200.0, expected_s=60.0), FRESH, Replace()),
    ("nothing measured yet", Silent(silent_s=3599.0, expected_s=None), FRESH, Proceed()),
    ("nothing for an hour", Silent(silent_s=3600.0, expected_s=None), FRESH, Replace()),
]


@pytest.mark.parametrize(
    ("failure", "history", "expected"), [pytest.param(*row[1:], id=row[0]) for row in TABLE]
)
def test_the_table(failure: Failure, history: History, expected: Decision) -> None:
    assert decide(failure, history, POLICY) == expected


@pytest.mark.parametrize("expected_s", [None, 60.0])
def test_a_job_may_say_itself_how_long_silence_may_last(expected_s: float | None) -> None:
    at_once, never = Policy(stuck_after_s=10.0), Policy(stuck_after_s=0.0)
    silence = Silent(silent_s=10.0, expected_s=expected_s)
    assert decide(silence, FRESH, at_once) == Replace()
    assert decide(Silent(silent_s=1e9, expected_s=expected_s), FRESH, never) == Proceed()


task_failures: st.SearchStrategy[Failure] = st.one_of(
    st.builds(TaskFailed, kind=st.sampled_from(FailureKind), in_company=st.booleans()),
    st.builds(WorkerDied, known=st.booleans()),
    st.builds(LoadFailed, in_a_row=st.integers(1, 9), elsewhere=st.booleans()),
    st.builds(Returned),
)


@given(st.lists(task_failures, min_size=1, max_size=8))
def test_whatever_happens_to_a_task_it_is_given_up_in_the_end(cycle: list[Failure]) -> None:
    history = FRESH
    for failure in itertools.islice(itertools.cycle(cycle), POLICY.attempts):
        match decide(failure, history, POLICY):
            case Retry(history=later) | Split(history=later):
                assert later.attempt == history.attempt + 1
                assert later.tries >= history.tries
                assert later.crashes >= history.crashes
                assert later.alone >= history.alone
                history = later
            case decision:
                assert isinstance(decision, GiveUp)
                return
    raise AssertionError(f"still alive: {history}")


@given(st.integers(1, POLICY.store_faults - 1))
def test_pauses_never_get_shorter(count: int) -> None:
    pauses = [decide(StoreFailed(in_a_row=number), FRESH, POLICY) for number in range(1, count + 1)]
    for one, next_ in itertools.pairwise(pauses):
        assert isinstance(one, Pause)
        assert isinstance(next_, Pause)
        assert one.delay_s <= next_.delay_s <= POLICY.store_delay_max_s
