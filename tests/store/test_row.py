from __future__ import annotations

from typing import Any

import pytest

from farm.store import row
from farm.store.row import asked_tasks
from farm.task import FIELDS, TaskSpec, task_digest, task_id


def used(task: TaskSpec, *, height: int, width: int, dtype: str = "float32") -> dict[str, Any]:
    """The columns of a rendered task, with what was used."""
    columns = {name: getattr(task, name) for name in FIELDS}
    columns |= {"height": height, "width": width, "dtype": dtype}
    return columns | {"job": "shapes", "task_id": task_id(task)}


def test_a_task_is_found_whatever_was_left_to_the_model() -> None:
    tasks = [
        TaskSpec(prompt="a", seed=1),
        TaskSpec(prompt="a", seed=2, height=64, width=32),
        TaskSpec(prompt="a", seed=3, width=32, dtype="float32"),
        TaskSpec(prompt="a", seed=4),
    ]
    assert list(asked_tasks(used(task, height=64, width=32) for task in tasks)) == tasks


def test_what_was_asked_for_otherwise_is_not_searched_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashes = 0

    def counted(task: TaskSpec) -> bytes:
        nonlocal hashes
        hashes += 1
        return task_digest(task)

    monkeypatch.setattr(row, "task_digest", counted)
    known = [TaskSpec(prompt="a", seed=seed) for seed in range(2)]
    odd = [TaskSpec(prompt="b", seed=seed, height=100, width=100) for seed in range(1000)]
    rows = [used(task, height=64, width=32) for task in (known[0], *odd, known[1])]
    assert list(asked_tasks(rows)) == [known[0], *[None] * len(odd), known[1]]
    assert hashes < 2 * len(rows)
