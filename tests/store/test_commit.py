"""The commit protocol: what is committed is there, once, on every kind of output."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from farm.store import Store
from farm.task import Failed, FailureKind, TaskSpec, task_digest, task_id


def digests(tasks: Sequence[TaskSpec]) -> list[bytes]:
    return sorted(map(task_digest, tasks))


def found(array: np.ndarray[Any, Any]) -> list[bytes]:
    assert array.dtype == np.uint8
    assert array.shape == (len(array), 16)
    return sorted(row.tobytes() for row in array)


def test_a_new_output_has_nothing_finished(store: Store) -> None:
    assert found(store.finished().rendered) == []
    assert found(store.finished().failed) == []
    assert store.table().num_rows == 0
    assert store.warnings == ()


def test_committed_tasks_are_finished(
    store: Store, finish: Any, tasks: list[TaskSpec], failure: Failed
) -> None:
    finish(store, [*tasks[:4], failure])
    finish(store, tasks[4:], chunk="c2")
    again = Store.open(store.url)
    assert found(again.finished().rendered) == digests(tasks)
    assert found(again.finished().failed) == digests([failure.task])


def test_a_image_is_nothing_until_its_row_is_committed(store: Store, tasks: list[TaskSpec]) -> None:
    store.put_image(tasks[0], b"image", suffix="png")
    assert found(store.finished().rendered) == []
    assert store.table().num_rows == 0


def test_the_table_holds_what_was_asked_and_what_became_of_it(
    store: Store, finish: Any, failure: Failed
) -> None:
    task = TaskSpec(prompt="ein Schwert, größer", seed=2**62, dtype="auto", vars={"noun": "🗡"})
    [row, _] = finish(store, [task, failure], run=3, attempt=2, job="assets")
    table = store.table()
    [good, bad] = sorted(table.to_pylist(), key=lambda row: row["status"], reverse=True)
    assert good["task_id"] == task_id(task)
    assert (good["job"], good["run"], good["attempt"], good["chunk"]) == ("assets", 3, 2, "c1")
    assert (good["prompt"], good["seed"]) == (task.prompt, task.seed)
    assert good["vars"] == [("noun", "🗡")]
    assert (good["width"], good["height"], good["dtype"]) == (24, 16, "float32")
    assert good["image_path"] == row.image_path
    assert good["started_at"].isoformat() == "2026-05-17T12:30:15.123456+00:00"
    assert good["error_kind"] is None
    assert (bad["status"], bad["error_kind"]) == ("failed", "bad_task")
    assert bad["error_message"] == "too large"
    assert (bad["image_path"], bad["width"], bad["dtype"]) == (None, None, "auto")


def test_columns_can_be_chosen(store: Store, finish: Any, tasks: list[TaskSpec]) -> None:
    finish(store, tasks)
    table = store.table(["seed", "prompt"])
    assert table.column_names == ["seed", "prompt"]
    assert table.num_rows == 6


def test_what_one_chunk_committed_can_be_asked_for(
    store: Store, finish: Any, tasks: list[TaskSpec], failure: Failed
) -> None:
    finish(store, [tasks[0], failure], run=7, chunk="c3")
    finish(store, [tasks[1]], run=7, chunk="c4")
    finish(store, [tasks[2]], run=8, chunk="c3")
    found = store.committed_by(run=7, chunk="c3")
    assert set(found) == {task_digest(tasks[0]), task_digest(failure.task)}
    assert found[task_digest(tasks[0])] is None
    told = found[task_digest(failure.task)]
    assert told is not None
    assert (told.kind, told.message) == ("bad_task", "too large")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_late_failure_never_hides_a_rendered_image(
    store: Store, finish: Any, tasks: list[TaskSpec], order: tuple[int, int]
) -> None:
    task = tasks[0]
    late = Failed(task=task, kind=FailureKind.INTERNAL, message="woke up too late")
    acts = [
        lambda: finish(store, [task], run=1, attempt=1),
        lambda: finish(store, [late], run=2, attempt=5, chunk="zombie"),
    ]
    for index in order:
        acts[index]()
    assert found(store.finished().rendered) == digests([task])
    assert len(store.finished().failed) == 0
    assert store.table(["status"]).to_pylist() == [{"status": "rendered"}]


def test_the_latest_attempt_wins_and_no_image_is_replaced(
    store: Store, finish: Any, tasks: list[TaskSpec]
) -> None:
    [first] = finish(store, tasks[:1], run=1, attempt=1)
    [last] = finish(store, tasks[:1], run=2, attempt=1, chunk="again")
    [_] = finish(store, tasks[:1], run=1, attempt=9, chunk="old run, many tries")
    assert first.image_path != last.image_path
    assert store.table(["image_path"]).to_pylist() == [{"image_path": last.image_path}]
    assert store.verify(quick=False).images == 3


def test_the_same_bytes_are_the_same_file(store: Store, tasks: list[TaskSpec]) -> None:
    first = store.put_image(tasks[0], b"same", suffix="png")
    again = store.put_image(tasks[0], b"same", suffix="png")
    assert first == again
    assert first.sha256 == hashlib.sha256(b"same").hexdigest()
    assert first.size == 4


def test_tasks_with_equal_names_do_not_collide(store: Store, tasks: list[TaskSpec]) -> None:
    alike = [replace(tasks[0], guidance_scale=scale) for scale in (1.0, 2.0, 3.0)]
    paths = [
        store.put_image(task, f"image {index}".encode(), suffix="png", file_name="${prompt}").path
        for index, task in enumerate(alike)
    ]
    assert len(set(paths)) == 3
    assert all(path.startswith("images/a sword.") for path in paths)


def test_a_name_whose_digest_is_taken_gets_a_longer_one(
    folder_store: Store, tasks: list[TaskSpec]
) -> None:
    first = folder_store.put_image(tasks[0], b"whole", suffix="png")
    (Path(folder_store.url) / first.path).write_bytes(b"tor")  # as a careless copy may leave it
    again = folder_store.put_image(tasks[0], b"whole", suffix="png")
    assert again.path != first.path
    assert (Path(folder_store.url) / again.path).read_bytes() == b"whole"


def test_run_numbers_are_claimed_once(store: Store) -> None:
    claimed: list[int] = []
    others = [Store.open(store.url) for _ in range(3)]

    def claim(mine: Store) -> None:
        claimed.extend(mine.begin_run() for _ in range(3))

    threads = [threading.Thread(target=claim, args=(mine,)) for mine in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 10))


def test_stores_commit_at_once_without_losing_rows(store: Store, finish: Any) -> None:
    def work(worker: int) -> None:
        mine = Store.open(store.url)
        for chunk in range(3):
            tasks = [TaskSpec(prompt=f"{worker}", seed=10 * chunk + k) for k in range(3)]
            finish(mine, tasks, chunk=f"c{chunk}")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.finished().rendered) == 36
    assert store.warnings == ()


def test_a_task_may_stand_only_once_in_a_part(store: Store, tasks: list[TaskSpec]) -> None:
    failed = Failed(task=tasks[0], kind=FailureKind.INTERNAL, message="?")
    with pytest.raises(AssertionError, match="twice"):
        _commit(store, [failed, failed])


def test_a_rendered_row_without_its_image_is_never_committed(
    store: Store, finish: Any, tasks: list[TaskSpec]
) -> None:
    [row] = finish(store, tasks[:1])
    with pytest.raises(AssertionError, match="without an image"):
        store.commit([replace(row, image_path=None)], run=1, chunk="c", attempt=1)


def _commit(store: Store, results: list[Failed]) -> None:
    from datetime import UTC, datetime

    from farm.store import row_for

    now = datetime.now(UTC)
    rows = [
        row_for(result, job="j", image=None, run=1, attempt=1, worker="w", node="n",
                started_at=now, finished_at=now)
        for result in results
    ]  # fmt: skip
    store.commit(rows, run=1, chunk="c", attempt=1)


def test_a_store_travels_to_a_worker(store: Store, finish: Any, tasks: list[TaskSpec]) -> None:
    twin = pickle.loads(pickle.dumps(store))
    finish(twin, tasks)
    assert twin.url == store.url
    assert len(store.finished().rendered) == 6


def test_peek_tells_what_is_finished_and_makes_nothing(output: str, finish: Any) -> None:
    assert len(Store.peek(output).rendered) == 0
    assert len(Store.peek(output).rendered) == 0  # and did not make an output by looking
    finish(Store.open(output, create=True), [TaskSpec(seed=1)])
    assert len(Store.peek(output).rendered) == 1


def test_the_last_job_is_kept_and_every_job_is_remembered(store: Store) -> None:
    assert store.read_job() is None
    for text, name in [("name: a\n", "a"), ("name: b\n", "b / ü"), ("name: a\n", "a")]:
        store.write_job(text, name=name)
    assert store.read_job() == "name: a\n"
    assert {store.control.read(name) for name in store.control.names("jobs/")} == {
        "name: a\n",
        "name: b\n",
    }


def test_earlier_jobs_are_yielded_the_latest_first(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", create=True)
    assert list(store.earlier_jobs()) == []
    for moment, name in enumerate(["a", "from_the_future", "b", "c"]):
        key = "name" if len(name) == 1 else name
        store.write_job(f"{key}: {name}\nmatrix: {{seed: 1}}\n", name=name)
        [kept] = (tmp_path / "out/control/jobs").glob(f"{name.replace('_', '-')}-*")
        os.utime(kept, (moment, moment))
    assert [job.name for job in store.earlier_jobs()] == ["b", "a"]
    store.write_job("name: a\nmatrix: {seed: 1}\n", name="a")  # again: now it is the last
    store.write_job("name: d\nmatrix: {seed: 1}\n", name="d")
    assert [job.name for job in store.earlier_jobs()] == ["a", "c", "b"]


def test_control_files_come_and_go(store: Store) -> None:
    control = store.control
    assert control.read("leases/c1.json") is None
    control.write("leases/c1.json", "1")
    control.write("leases/c1.json", "2")
    assert control.create("leases/c2.json", "é")
    assert not control.create("leases/c2.json", "other")
    assert control.read("leases/c2.json") == "é"
    assert control.names("leases/") == ["leases/c1.json", "leases/c2.json"]
    control.delete("leases/c1.json")
    control.delete("leases/c1.json")
    assert control.names("leases/") == ["leases/c2.json"]


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a//b", "a\\..\\b", "."])
def test_control_names_stay_inside(folder_store: Store, name: str) -> None:
    with pytest.raises(Exception, match="no name for a file"):
        folder_store.control.write(name, "x")


def test_pandas_reads_the_catalog_as_it_is(
    folder_store: Store, finish: Any, tasks: list[TaskSpec]
) -> None:
    catalog = Path(folder_store.url) / "catalog"
    empty = pd.read_parquet(catalog)
    assert len(empty) == 0
    assert {"task_id", "prompt", "image_path"} <= set(empty.columns)
    finish(folder_store, tasks)
    full = pd.read_parquet(catalog)
    assert list(full.columns) == list(empty.columns)
    assert sorted(full["seed"]) == [1, 1, 2, 2, 3, 3]
    assert str(full["started_at"].dtype) == "datetime64[us, UTC]"


def test_nothing_but_parts_ever_lies_in_the_catalog(
    folder_store: Store, finish: Any, tasks: list[TaskSpec]
) -> None:
    finish(folder_store, tasks)
    folder_store.compact()
    root = Path(folder_store.url)
    assert {path.suffix for path in (root / "catalog").iterdir()} == {".parquet"}
    assert list((root / "tmp").iterdir()) == []
