"""The batch size is found from the times of calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.render.lane.sizes import BatchSize


def settle(size: BatchSize, seconds: Callable[[int], float], *, calls: int = 200) -> int:
    """Make calls of the current size until the search is over."""
    for _ in range(calls):
        size.record(size.current, seconds(size.current))
    assert size.is_settled
    return size.current


def test_batches_grow_while_a_row_gets_cheaper() -> None:
    # A call costs 8 whatever its size, and a row 1: at 128 rows there is nothing left to gain.
    assert settle(BatchSize(largest=1024), lambda rows: 8 + rows) in (128, 256)


def test_a_network_that_gains_nothing_gets_small_batches() -> None:
    assert settle(BatchSize(largest=64), float) == 2


def test_a_network_that_is_full_early_gets_the_smallest_full_batch() -> None:
    assert settle(BatchSize(largest=64), lambda rows: max(rows, 8)) == 8


def test_a_search_begins_further_up_where_calls_are_short() -> None:
    size = BatchSize(largest=64)
    size.record(2, 0.1)
    assert size.current == 8


def test_a_long_first_call_makes_nobody_wait_for_a_longer_one() -> None:
    size = BatchSize(largest=64)
    size.record(2, 10.0)
    assert size.current == 2


@pytest.mark.parametrize("best", [1, 2, 4, 8, 16, 32])
def test_the_best_size_is_found_below_and_above_where_the_search_begins(best: int) -> None:
    def seconds(rows: int) -> float:
        return float(1e-3 * rows * (max(rows, best) / min(rows, best)) ** 0.5)

    assert settle(BatchSize(largest=64, smallest=1), seconds) == best


def test_a_size_that_is_clearly_worse_is_not_gone_beyond() -> None:
    seen: list[int] = []

    def seconds(rows: int) -> float:
        seen.append(rows)
        return 1e-3 * rows * rows

    settle(BatchSize(largest=64, smallest=1), seconds)
    assert max(seen) == 8


def test_one_disturbed_size_does_not_end_the_search() -> None:
    assert settle(BatchSize(largest=64), lambda rows: 44 if rows == 4 else max(rows, 16)) == 16


def test_the_warm_up_does_not_count() -> None:
    size = BatchSize(largest=8)
    times = itertools.chain([9.0], itertools.repeat(2.0))
    settle(size, lambda _: next(times))
    assert size.times[2] == 1.0


def test_a_fast_call_of_another_size_does_not_end_the_search_with_nothing() -> None:
    size = BatchSize(largest=8)
    size.record(3, 0.03)
    assert settle(size, float) == 2


def test_memory_bounds_the_search() -> None:
    size = BatchSize(largest=1024)
    while size.current < 16:
        size.record(size.current, 1.0)
    assert size.shrink(16)
    assert size.current <= 8
    assert size.is_settled
    assert not size.shrink(1)
    assert size.current == 1


def test_what_a_row_takes_at_best_ignores_disturbances() -> None:
    size = BatchSize(largest=4)
    for number in range(200):
        size.record(size.current, 4.0 if number % 2 else 100.0)
    assert size.seconds_per_row == 1.0


def test_nothing_is_claimed_before_anything_was_measured() -> None:
    assert BatchSize(largest=4).seconds_per_row is None


@given(
    st.sampled_from([1, 2, 8, 64]),
    st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 1e3)), max_size=60),
)
def test_the_size_stays_a_power_of_two_within_bounds(
    largest: int, calls: list[tuple[int, float]]
) -> None:
    size = BatchSize(largest=largest)
    for rows, seconds in calls:
        size.record(min(rows, size.current), seconds)
        assert 1 <= size.current <= largest
        assert size.current & (size.current - 1) == 0


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16])
def test_shrinking_goes_below_what_did_not_fit(rows: int) -> None:
    size = BatchSize(largest=64)
    assert size.shrink(rows) is (rows > 1)
    assert size.current < max(rows, 2)
