from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farm
from farm.errors import InputError
from farm.store import Store
from farm.store.files import open_files
from farm.store.votes import (
    Vote,
    VoteKind,
    choices,
    compact_votes,
    counting,
    encode_votes,
    read_votes,
    read_votes_part,
)
from farm.task import TaskSpec, format_task_id, task_id
from tests.view.conftest import make_output, task

__all__ = ["make_output", "task"]

IDS = [format_task_id(bytes([number]) * 16) for number in range(3)]
START = datetime(2026, 1, 1, tzinfo=UTC)


def vote(kind: str, value: Any = True, *, image: int = 0, second: int = 0, **more: Any) -> Vote:  # noqa: FBT002 - reads as a claim
    facts: dict[str, Any] = {"rater": "ada", "at": START + timedelta(seconds=second)}
    return Vote(kind=VoteKind(kind), task_id=IDS[image], value=value, **(facts | more))


def summary(*votes: Vote, image: int = 0) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {
        row["task_id"]: row for row in choices(counting(votes)).to_pylist()
    }
    return rows.get(IDS[image], {})


def test_of_one_rater_the_latest_counts_and_of_several_the_mean() -> None:
    votes = [vote("stars", 2, second=0), vote("stars", 4, second=1)]
    assert summary(*reversed(votes))["rating"] == 4
    assert summary(*votes, vote("stars", 1, rater="bob"))["rating"] == 2.5
    assert summary(*votes, vote("favorite"))["rating"] == 4


def test_a_vote_without_a_value_takes_the_earlier_back() -> None:
    assert summary(vote("stars", 5), vote("stars", None, second=1)) == {}
    noted = (vote("note", "sharp"), vote("note", "", second=1), vote("favorite", value=False))
    assert summary(*noted) == {
        "task_id": IDS[0], "rating": None, "favorite": False, "rejected": None, "tags": None,
        "notes": None, "wins": None, "comparisons": None,
    }  # fmt: skip


def test_tags_and_notes_of_all_raters_come_together() -> None:
    found = summary(
        vote("tags", ("hero", "blue")), vote("tags", ("hero", "alt"), rater="bob"),
        vote("note", "keep"), vote("note", "crop", rater="bob", second=1),
    )  # fmt: skip
    assert found["tags"] == ["alt", "blue", "hero"]
    assert found["notes"] == "keep\ncrop"


def test_a_pair_is_the_same_pair_whichever_way_round() -> None:
    first = vote("comparison", "first", other_id=IDS[1])
    again = vote("comparison", "first", image=1, other_id=IDS[0], second=1)
    tie = vote("comparison", "tie", other_id=IDS[2], second=2)
    assert (summary(first, again)["wins"], summary(first, again)["comparisons"]) == (0, 1)
    assert (summary(first, again, image=1)["wins"]) == 1
    assert (summary(first, tie)["wins"], summary(first, tie)["comparisons"]) == (1.5, 2)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("stars", 0), ("stars", 6), ("stars", True), ("stars", "5"), ("favorite", 1),
        ("tags", ("",)), ("tags", "hero"), ("tags", ("x" * 201,)), ("note", "x" * 10_001),
        ("note", 1),
    ],
)  # fmt: skip
def test_what_no_vote_can_say_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(InputError, match="no value of"):
        vote(kind, value)


def test_a_vote_names_its_images_and_its_rater() -> None:
    for wrong in (
        {"rater": " "}, {"task_id": "t1:xyz"}, {"other_id": IDS[1]}, {"kind": VoteKind.COMPARISON}
    ):  # fmt: skip
        given: dict[str, Any] = {
            "kind": VoteKind.STARS, "task_id": IDS[0], "value": 1, "rater": "ada"
        }  # fmt: skip
        with pytest.raises(InputError):
            Vote(**(given | wrong))


def values(kind: VoteKind) -> st.SearchStrategy[Any]:
    by_kind: dict[VoteKind, st.SearchStrategy[Any]] = {
        VoteKind.STARS: st.integers(1, 5),
        VoteKind.FAVORITE: st.booleans(),
        VoteKind.REJECT: st.booleans(),
        VoteKind.TAGS: st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
        VoteKind.NOTE: st.text(max_size=9),
        VoteKind.COMPARISON: st.sampled_from(["first", "second", "tie"]),
    }
    return st.none() | by_kind[kind]


@st.composite
def any_vote(draw: st.DrawFn) -> Vote:
    kind = draw(st.sampled_from(VoteKind))
    one, other = draw(st.permutations(IDS))[:2]
    return Vote(
        kind=kind,
        task_id=one,
        other_id=other if kind is VoteKind.COMPARISON else None,
        value=draw(values(kind)),
        rater=draw(st.sampled_from(["ada", "bob"])),
        at=START + timedelta(seconds=draw(st.integers(0, 5))),
    )


@given(st.lists(any_vote(), max_size=12))
def test_votes_read_back_as_they_were_and_in_any_order(votes: list[Vote]) -> None:
    part = read_votes_part("x.parquet", encode_votes(votes, covers=["a", "b"]))
    assert part.votes == tuple(votes)
    assert part.covers == ("a", "b")
    assert counting(reversed(votes)) == counting(votes)
    assert choices(counting(counting(votes))) == choices(counting(votes))


def test_votes_are_columns_of_the_catalog(
    task: Callable[..., TaskSpec], make_output: Callable[..., str]
) -> None:
    from farm.view.query import query

    tasks = [task(prompt="a", seed=seed, variables={"x": "y"}) for seed in range(3)]
    output = make_output(tasks)
    store = Store.open(output)
    assert farm.catalog(output).table["rating"].null_count == 3
    ids = [task_id(one) for one in tasks]
    store.vote([Vote(kind=VoteKind.STARS, task_id=ids[1], value=4, rater="ada")])
    store.vote([Vote(kind=VoteKind.TAGS, task_id=ids[1], value=("hero",), rater="ada")])
    best = query(output, "select seed, tags, rating from catalog where rating >= 4")
    assert best.to_pylist() == [{"seed": 1, "tags": ["hero"], "rating": 4.0}]
    assert query(output, where="list_contains(tags, 'hero')", columns=["seed"]).num_rows == 1
    frame = farm.catalog(output).to_pandas()
    assert frame.loc[frame.seed == 1, "rating"].item() == 4
    assert list(frame.columns)[-1] == "var_x"


def test_votes_outlive_compaction_and_sweeping(
    task: Callable[..., TaskSpec], make_output: Callable[..., str]
) -> None:
    output = make_output([task(prompt="a")], job="backend: pattern\n")
    store = Store.open(output)
    for stars in (1, 2, 3):
        store.vote([vote("stars", stars, second=stars)])
    before = store.ballot()
    report = store.compact()
    assert (report.vote_parts_before, report.vote_parts_after) == (3, 1)
    assert len(list(Path(output, "ratings").iterdir())) == 1
    assert len(list(Path(output, "retired").iterdir())) == 3
    assert store.ballot().votes == before.votes
    assert store.ballot().cast == 3
    assert len(store.gc(grace_s=0).parts) == 3
    assert store.ballot().votes == before.votes
    assert store.compact().vote_parts_after == 1
    assert store.verify().votes == 3
    assert store.verify().clean


def test_a_compaction_that_died_half_way_counts_nothing_twice(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    store = Store.open(tmp_path, create=True)
    store.vote([vote("stars", 3), vote("comparison", "first", other_id=IDS[1])])
    store.vote([vote("stars", 5, second=1)])
    parts = read_votes(files).parts
    every = [one for part in parts for one in part.votes]
    snapshot = encode_votes(every, covers=[part.name for part in parts])
    files.put_new("ratings/votes-all-x.parquet", snapshot)
    assert read_votes(files).cast == 3
    assert compact_votes(files) == (3, 1)
    assert read_votes(files).cast == 3


def test_a_damaged_part_is_told_and_takes_no_other_along(tmp_path: Path) -> None:
    store = Store.open(tmp_path, create=True)
    store.vote([vote("stars", 3)])
    (tmp_path / "ratings/votes-bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "ratings/.hidden").write_bytes(b"")
    assert store.ballot().cast == 1
    report = store.verify()
    assert not report.clean
    assert any("votes-bad.parquet" in problem for problem in report.problems)
    store.compact()
    assert (tmp_path / "ratings/votes-bad.parquet").exists()
