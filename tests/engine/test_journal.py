"""What a death leaves behind, and what the next run makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.engine.decide import History
from farm.engine.journal import Journal
from farm.store import Control, Store

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Store.open(tmp_path / "out", create=True).control


def test_a_lease_is_there_until_it_is_cleared(control: Control) -> None:
    journal = Journal(control, run=1)
    assert journal.read("c1") is None
    journal.note("c1", digests=[A, B], history=History(crashes=1, alone=True))
    lease = journal.read("c1")
    assert lease is not None
    assert (lease.digests, lease.crashes, lease.alone) == ((A, B), 1, True)
    journal.clear("c1")
    assert journal.read("c1") is None


def test_a_lease_of_many_is_suspicion_and_a_lease_of_one_is_proof(control: Control) -> None:
    dead = Journal(control, run=1)
    dead.note("c1", digests=[A, B], history=History())
    dead.note("c2", digests=[C], history=History(crashes=1, alone=True))
    assert Journal(control, run=2).left_behind() == {A: 1, B: 1, C: 2}


def test_suspicion_grows_from_run_to_run(control: Control) -> None:
    for run in range(1, 4):
        crashes = Journal(control, run=run).left_behind().get(C, 0)
        Journal(control, run=run).note("c1", digests=[C], history=History(crashes=crashes))
    assert Journal(control, run=4).left_behind() == {C: 3}


def test_a_run_does_not_suspect_itself(control: Control) -> None:
    journal = Journal(control, run=7)
    journal.note("c1", digests=[A], history=History())
    assert journal.left_behind() == {}


def test_a_run_that_ends_tidies_up_its_own_leases_or_everybodys(control: Control) -> None:
    Journal(control, run=1).note("c1", digests=[A], history=History())
    journal = Journal(control, run=2)
    journal.note("c1", digests=[B], history=History())
    journal.forgive(everybody=False)
    assert journal.left_behind() == {A: 1}
    journal.forgive(everybody=True)
    assert journal.left_behind() == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"tasks": ["xy"]}', '{"tasks": 3}'])
def test_a_damaged_lease_suspects_nobody(control: Control, text: str) -> None:
    control.write("leases/r00001-c1.json", text)
    assert Journal(control, run=2).left_behind() == {}


def test_a_run_with_nothing_to_do_deletes_the_leases_whose_tasks_all_have_rows(
    control: Control,
) -> None:
    Journal(control, run=1).note("c1", digests=[A, B], history=History())
    Journal(control, run=1).note("c2", digests=[A], history=History())
    Journal(control, run=2).note("c1", digests=[], history=History())
    Journal(control, run=3).tidy({A}.issuperset)
    assert control.names("leases/") == ["leases/r00001-c1.json"]
    assert Journal(control, run=3).left_behind() == {A: 1, B: 1}
