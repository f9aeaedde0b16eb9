"""verify tells the truth, compact and gc lose nothing, rebuild brings rows back."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pytest

from farm.manifest.job import ImageSettings
from farm.store import Store, maintenance
from farm.store.catalog import read_part
from farm.store.files import Entry, Files, LocalFiles, open_files
from farm.task import Failed, FailureKind, TaskSpec

WEEK = 7 * 86_400.0


@pytest.fixture
def full(store: Store, finish: Any, tasks: list[TaskSpec], failure: Failed) -> Store:
    """Two chunks, one failure, one task rendered twice; in an output of each kind."""
    finish(store, tasks[:3])
    finish(store, [*tasks[3:], failure], chunk="c2")
    finish(store, tasks[:1], run=2)
    store.write_job("name: j\n", name="j")
    return store


@pytest.fixture
def local(folder_store: Store, finish: Any, tasks: list[TaskSpec]) -> Store:
    finish(folder_store, tasks[:3])
    finish(folder_store, tasks[3:], chunk="c2")
    folder_store.write_job("name: j\n", name="j")
    return folder_store


def rows(store: Store) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.table().sort_by("task_id").to_pylist()
    return found


def images(store: Store) -> list[Path]:
    return sorted(path for path in Path(store.url, "images").rglob("*") if path.is_file())


def age(path: Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(path, (when, when))


# --- verify -------------------------------------------------------------------------------------


def test_a_whole_store_is_clean(full: Store) -> None:
    told: list[tuple[int, int]] = []
    report = full.verify(progress=lambda done, total: told.append((done, total)))
    assert report.clean
    assert (report.rendered, report.failed, report.rows) == (6, 1, 8)
    assert (report.parts, report.images, report.orphans) == (3, 7, ())
    assert told[-1] == (6, 6)
    assert json.loads(json.dumps(report.to_json()))["clean"] is True


def test_a_missing_image_is_told(local: Store) -> None:
    victim = images(local)[0]
    victim.unlink()
    for report in (local.verify(), local.verify(quick=True)):
        [problem] = report.problems
        assert problem == f"{victim.relative_to(local.url).as_posix()}: the image is missing"
        assert problem in str(report)


def test_a_shorter_image_is_told_even_quickly(local: Store) -> None:
    victim = images(local)[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    [problem] = local.verify(quick=True).problems
    assert victim.name in problem
    assert "bytes, not" in problem


def test_an_altered_image_is_told_by_its_hash(local: Store) -> None:
    victim = images(local)[0]
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    assert local.verify(quick=True).clean
    [problem] = local.verify().problems
    assert problem.endswith("was altered, its SHA-256 differs")


def test_orphans_are_told_and_are_no_problem(local: Store) -> None:
    orphan = local.put_image(TaskSpec(seed=77), b"never committed", suffix="png")
    report = local.verify()
    assert report.clean
    assert report.orphans == (orphan.path,)
    assert "farm gc" in str(report)


def test_a_lost_job_file_is_told(local: Store) -> None:
    Path(local.url, "job.yaml").unlink()
    assert "job.yaml is missing" in local.verify().problems[0]


# --- compact ------------------------------------------------------------------------------------


def test_compaction_changes_no_winning_row(full: Store) -> None:
    before = rows(full)
    report = full.compact()
    assert rows(full) == before
    assert (report.rows, report.dropped) == (7, 1)
    assert (report.parts_before, report.parts_after) == (3, 1)
    assert full.verify().clean
    assert full.compact().parts_after == 1
    assert rows(full) == before


def test_after_compaction_plain_pandas_sees_each_task_once(
    local: Store, finish: Any, tasks: list[TaskSpec]
) -> None:
    finish(local, tasks, run=2)
    catalog = Path(local.url, "catalog")
    assert len(pd.read_parquet(catalog)) == 12
    local.compact()
    assert len(pd.read_parquet(catalog)) == 6


def test_a_snapshot_may_have_several_files(local: Store) -> None:
    before = rows(local)
    report = maintenance.compact(LocalFiles(Path(local.url)), rows_per_part=4)
    assert report.parts_after == 2
    assert rows(local) == before


def test_parts_that_a_crash_left_behind_retire_at_the_next_compaction(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(local)
    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "move", lambda *_: None)
        local.compact()
    assert len(list(Path(local.url, "catalog").iterdir())) == 4  # two parts, both, the schema
    assert rows(local) == before
    local.compact()
    assert len(list(Path(local.url, "catalog").iterdir())) == 2
    assert rows(local) == before


def test_a_broken_part_is_left_alone_by_compaction(local: Store) -> None:
    victim = next(Path(local.url, "catalog").glob("quick-start-*"))
    victim.write_bytes(b"broken")
    report = local.compact()
    assert victim.name in report.warnings[0]
    assert victim.exists()


def test_readers_never_lose_a_row_while_others_write_and_compact(local: Store, finish: Any) -> None:
    stop, counts, troubles = threading.Event(), list[int](), list[BaseException]()

    def read() -> None:
        mine = Store.open(local.url)
        try:
            while not stop.is_set():
                counts.append(len(mine.finished().rendered))
                assert mine.warnings == ()
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            troubles.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for seed in range(100, 112):
        finish(local, [TaskSpec(seed=seed)], chunk=f"c{seed}")
        local.compact()
        local.gc(grace_s=0)
    stop.set()
    for reader in readers:
        reader.join()
    assert troubles == []
    assert min(counts) >= 6


class Shifting(LocalFiles):
    """A folder whose listing walks while a compaction does all of its work."""

    def __init__(self, root: Path, compact: list[Callable[[], object]]) -> None:
        super().__init__(root)
        self._compact = compact

    def scan(self, folder: str) -> Iterator[Entry]:
        listed = list(super().scan(folder))
        if folder == "catalog" and self._compact:
            self._compact.pop()()
            gone = [entry for entry in listed if not self.exists(entry.name)]
            listed = [entry for entry in listed if entry not in gone]
        yield from listed


def test_a_listing_that_misses_old_and_new_parts_is_made_again(local: Store) -> None:
    wanted = rows(local)
    assert rows(Store(Shifting(Path(local.url), [local.compact]))) == wanted


def test_two_compactions_at_once_lose_nothing(local: Store, finish: Any) -> None:
    troubles: list[BaseException] = []

    def tidy() -> None:
        try:
            for _ in range(5):
                Store.open(local.url).compact()
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            troubles.append(error)

    threads = [threading.Thread(target=tidy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seed in range(100, 110):
        finish(local, [TaskSpec(seed=seed)], chunk=f"c{seed}")
    for thread in threads:
        thread.join()
    assert troubles == []
    assert len(local.finished().rendered) == 16
    assert local.verify().clean


# --- gc -----------------------------------------------------------------------------------------


def test_gc_deletes_what_nothing_names_and_nothing_else(full: Store) -> None:
    full.compact()
    orphan = full.put_image(TaskSpec(seed=77), b"never committed", suffix="png")
    before = rows(full)
    dry = full.gc(grace_s=0, dry_run=True)
    assert orphan.path in dry.images
    assert full.verify().orphans  # nothing happened yet
    report = full.gc(grace_s=0)
    assert replace(report, dry_run=True) == dry
    assert (len(report.parts), len(report.images)) == (3, 2)  # the orphan, and the image of a row
    assert report.bytes > 0  # that did not win and went with its part
    assert rows(full) == before
    assert full.verify().clean
    assert full.verify().orphans == ()


def test_gc_leaves_what_is_young(local: Store) -> None:
    local.compact()
    young = local.put_image(TaskSpec(seed=77), b"commit to come", suffix="png")
    old = local.put_image(TaskSpec(seed=78), b"never committed", suffix="png")
    age(Path(local.url, old.path), WEEK + 60)
    litter = Path(local.url, "tmp", "litter")
    litter.write_bytes(b"half")
    report = local.gc()
    assert report.images == (old.path,)
    assert report.parts == ()
    assert Path(local.url, young.path).exists()
    assert litter.exists()
    age(litter, WEEK + 60)
    assert local.gc().temporaries == ("tmp/litter",)


def test_the_grace_of_a_part_begins_when_it_retires(local: Store) -> None:
    for part in Path(local.url, "catalog").iterdir():
        age(part, 10 * WEEK)
    local.compact()
    assert local.gc().parts == ()


def test_a_image_named_only_by_a_retired_part_stays_as_long_as_the_part(
    local: Store, finish: Any, tasks: list[TaskSpec]
) -> None:
    finish(local, tasks, run=2)
    local.compact()
    for path in images(local):
        age(path, WEEK + 60)
    assert local.gc().images == ()


def test_an_orphan_that_is_written_again_is_young_again(local: Store) -> None:
    task = TaskSpec(seed=77)
    orphan = local.put_image(task, b"image", suffix="png")
    age(Path(local.url, orphan.path), WEEK + 60)
    assert local.put_image(task, b"image", suffix="png") == orphan
    assert local.gc().images == ()


def test_gc_deletes_no_image_while_a_part_is_unreadable(local: Store) -> None:
    next(Path(local.url, "catalog").glob("quick-start-*")).write_bytes(b"broken")
    before = images(local)
    report = local.gc(grace_s=0)
    assert report.images == ()
    assert any("no image was deleted" in text for text in report.warnings)
    assert images(local) == before


def test_gc_leaves_files_that_the_farm_did_not_write(local: Store) -> None:
    mine = Path(local.url, "images", "holiday.png")
    mine.write_bytes(b"mine")
    report = local.gc(grace_s=0)
    assert mine.exists()
    assert any("not the farm's" in text for text in report.warnings)


# --- rebuild ------------------------------------------------------------------------------------

NOT_IN_PICTURES = {"chunk", "part", "encode_ms"}


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_rows_come_back_from_the_images_alone(
    store: Store, finish: Any, tasks: list[TaskSpec], kind: Any
) -> None:
    finish(store, tasks, settings=ImageSettings(format=kind))
    finish(store, tasks[:2], run=2, settings=ImageSettings(format=kind))
    before = store.table().drop_columns(list(NOT_IN_PICTURES)).sort_by("task_id")
    wipe(open_files(store.url))
    assert store.table().num_rows == 0
    report = store.rebuild()
    assert (report.images, report.restored, report.warnings) == (8, 6, ())
    after = store.table().drop_columns(list(NOT_IN_PICTURES)).sort_by("task_id")
    assert after.equals(before)
    assert store.rebuild().restored == 0
    assert [text for text in store.verify().problems if "job.yaml" not in text] == []


def wipe(files: Files) -> None:
    for entry in list(files.scan("catalog")):
        files.delete(entry.name)


def test_rebuild_replaces_a_damaged_part(local: Store) -> None:
    before = local.table(["task_id", "image_path"]).sort_by("task_id")
    victim = next(Path(local.url, "catalog").glob("quick-start-*"))
    victim.write_bytes(victim.read_bytes()[:-20])
    assert not local.verify().clean
    report = local.rebuild()
    assert report.restored == 3
    assert report.retired == (f"catalog/{victim.name}",)
    assert local.verify().clean
    assert local.table(["task_id", "image_path"]).sort_by("task_id").equals(before)
    assert len(pd.read_parquet(victim.parent)) == 6


def test_a_failed_task_whose_image_exists_is_rendered_again(local: Store, finish: Any) -> None:
    task = TaskSpec(seed=50)
    [row] = finish(local, [task])
    wipe(open_files(local.url))
    finish(local, [Failed(task=task, kind=FailureKind.INTERNAL, message="?")], run=9)
    local.rebuild()
    found = local.table().filter(pc.field("task_id") == row.task_id).to_pylist()
    assert [entry["status"] for entry in found] == ["rendered"]


def test_images_that_cannot_be_trusted_are_named(local: Store) -> None:
    altered = images(local)[0]
    altered.write_bytes(altered.read_bytes() + b"?")
    mine = Path(local.url, "images", "holiday.png")
    mine.write_bytes(b"mine")
    plain = local.put_image(TaskSpec(), b"not an image", suffix="png")
    wipe(open_files(local.url))
    report = local.rebuild()
    assert report.restored == 5
    assert len(report.warnings) == 3
    told = "\n".join(report.warnings)
    assert "its SHA-256 differs" in told
    assert "not an image of the farm's" in told
    assert f"{plain.path}: no readable image" in told


def test_reports_are_sentences_and_json(full: Store) -> None:
    for report in (full.verify(), full.compact(), full.gc(dry_run=True), full.rebuild()):
        assert str(report).startswith(full.url)
        assert json.loads(json.dumps(report.to_json()))["output"] == full.url


def test_a_part_names_what_it_covers(local: Store) -> None:
    names = {f"catalog/{path.name}" for path in Path(local.url, "catalog").glob("quick-start-*")}
    local.compact()
    [snapshot] = Path(local.url, "catalog").glob("snapshot-*")
    assert set(read_part("x.parquet", snapshot.read_bytes()).covers) == names
