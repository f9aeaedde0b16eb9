from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm import grid
from farm.manifest import Job, load
from farm.view.orders import Orders, merge


def job(matrix: str) -> Job:
    return load("job.yaml", read=lambda _: f"backend: pattern\nmatrix: {matrix}\n")


def sizes(*jobs: str, present: str) -> list[object]:
    """The order of sizes in an output to which these jobs were submitted, the last one first."""
    last, *earlier = (job(f"{{size: [{one}]}}") for one in jobs)
    return list(Orders(grid.expand(last), earlier).levels("var_size", present.split()))


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (["large, medium, small"], "large medium small"),
        (["huge", "large, medium, small"], "huge large medium small"),
        (["medium", "large, medium, small"], "large medium small"),
        (["small, large", "large, medium, small"], "small large medium"),
        (["tiny", "huge", "large, medium, small"], "tiny huge large medium small"),
        (["huge, tiny", "large, medium, tiny", "small, medium"], "huge large small medium tiny"),
    ],
)
def test_values_stand_as_the_last_job_has_them_then_as_earlier_ones_do(
    jobs: list[str], expected: str
) -> None:
    assert sizes(*jobs, present=expected) == expected.split()


def test_what_no_job_knows_is_sorted_after_the_rest() -> None:
    assert sizes("large, small", present="b large a small") == ["large", "small", "a", "b"]
    assert Orders(None).levels("brightness", [0.5, None, 0.25]) == [0.25, 0.5, None]
    assert Orders(None).levels("var_size", ["b", None, "a"]) == ["a", "b", None]


def test_values_that_are_not_there_are_left_out() -> None:
    assert sizes("large, medium, small", present="small large") == ["large", "small"]


def test_earlier_jobs_are_read_only_where_the_last_one_falls_short() -> None:
    def earlier() -> Iterator[Job]:
        yield job("{size: [b, a]}")
        raise AssertionError("read too far")

    orders = Orders(grid.expand(job("{size: [z]}")), earlier())
    assert orders.levels("var_size", ["z", None]) == ["z", None]
    assert orders.levels("var_size", ["a", "b", "z"]) == ["z", "b", "a"]
    assert orders.levels("var_size", ["a", "b"]) == ["b", "a"]


words = st.lists(st.integers(0, 9), unique=True)


@given(words, words)
def test_a_merge_keeps_the_first_order_and_all_values(one: list[int], other: list[int]) -> None:
    merged = merge(one, other)
    assert [value for value in merged if value in one] == one
    assert sorted(merged) == sorted({*one, *other})


@given(words, st.data())
def test_a_merge_with_a_part_of_an_order_is_that_order(one: list[int], data: st.DataObject) -> None:
    part = [value for value in one if data.draw(st.booleans())]
    if part or not one:
        assert merge(part, one) == one
