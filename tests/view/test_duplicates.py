from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from farm.view.duplicates import near_duplicates

bits = st.lists(st.integers(0, 63), max_size=8, unique=True)


@given(st.lists(st.tuples(st.integers(0, 3), bits), max_size=25), st.integers(0, 6))
def test_groups_are_those_of_comparing_every_pair(
    drawn: list[tuple[int, list[int]]], distance: int
) -> None:
    bases = (0, 2**64 - 1, 0x0123456789ABCDEF, 0xAAAAAAAAAAAAAAAA)
    values = [bases[base] ^ sum(1 << bit for bit in flipped) for base, flipped in drawn]
    group = list(range(len(values)))
    for one, other in combinations(range(len(values)), 2):
        if (values[one] ^ values[other]).bit_count() <= distance:
            old, new = group[other], group[one]
            group = [new if name == old else name for name in group]
    found = near_duplicates([f"{value:016x}" for value in values], distance=distance)
    for one, other in combinations(range(len(values)), 2):
        alike = found[one] == found[other] != 0
        assert alike == (group[one] == group[other])
    for place, name in enumerate(group):
        assert (found[place] == 0) == (group.count(name) == 1)


def test_the_largest_group_comes_first() -> None:
    hashes = ["0" * 16, "f" * 16, "f" * 15 + "e", "f" * 16, "0" * 15 + "1", "0123456789abcdef"]
    assert near_duplicates(hashes) == [2, 1, 1, 1, 2, 0]


def test_a_thousand_equal_pictures_are_one_group() -> None:
    assert near_duplicates(["00ff00ff00ff00ff"] * 1000) == [1] * 1000
    assert near_duplicates([]) == []
