from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.view.ranges import divide, nice_edges, shortest


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_edges_are_few_round_and_hold_everything(low: float, span: float) -> None:
    high = low + span
    edges = nice_edges(low, high)
    assert edges[0] <= low + 1e-9 * max(abs(low), 1)
    assert high <= edges[-1] + 1e-9 * max(abs(high), 1)
    assert 2 <= len(edges) <= 12
    steps = np.diff(edges)
    assert np.allclose(steps, steps[0], rtol=1e-3)


def test_few_numbers_stand_by_themselves() -> None:
    found = divide(np.array([0.5, np.nan, np.float32(0.3), 4.0, 0.5]))
    assert found.are_single
    assert found.labels == ("0.3", "0.5", "4")
    assert found.places(np.array([4.0, np.nan, 0.3])).tolist() == [2, -1, 0]


def test_many_numbers_stand_in_ranges() -> None:
    numbers = np.linspace(0.12, 0.78, 40)
    found = divide(numbers)
    assert found.labels[0] == "0.1 to 0.2"
    assert found.labels[-1] == "0.7 to 0.8"
    for number, place in zip(numbers, found.places(numbers), strict=True):
        assert found.edges[place] <= number < found.edges[place + 1]


@pytest.mark.parametrize("number", [0.1, 0.3, 0.7])
def test_what_is_stored_in_32_bits_belongs_where_its_digits_say(number: float) -> None:
    found = divide(np.linspace(0, 0.79, 40))
    stored = np.array([np.float32(number)], np.float64)
    assert found.labels[found.places(stored)[0]].startswith(f"{number:g} to")


def test_nothing_is_divided_into_nothing() -> None:
    found = divide(np.array([np.nan, np.inf]))
    assert found.labels == ()
    assert found.places(np.array([np.nan])).tolist() == [-1]


@given(st.lists(st.floats(width=32), min_size=1))
def test_the_shortest_digits_are_the_same_number(numbers: list[float]) -> None:
    held = np.array(numbers, np.float32)
    assert np.array_equal(shortest(held).astype(np.float32), held, equal_nan=True)


def test_no_digit_stands_behind_those_that_are_stored() -> None:
    assert shortest(np.array([0.3, 10.0, 1e20], np.float32)).tolist() == [0.3, 10.0, 1e20]
