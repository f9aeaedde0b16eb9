"""Crash at every step, lose the power after every step: what was promised is still there.

Three machines of torment:

- `Trap` counts the verbs of the file protocol, on any backend, and stops the world before the k-th
  one, or lets it report a fault.
- `Kernel` counts what a folder asks of the operating system and stops the world there, also in the
  middle of a write; after the stop nothing runs any more, not even the tidying of `finally`.
- `PowerCut` forgets, as a disk may, all that was not fsynced: contents and directory entries.

The invariants after each: a rendered row has its image (`verify`), finished tasks stay finished,
and finishing the rest gives the catalog of an undisturbed run.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from farm.errors import StoreError
from farm.store import Store
from farm.store.files import Entry, Files, open_files
from farm.task import Failed, FailureKind, TaskSpec, task_digest

TASKS = [TaskSpec(prompt="a sword", seed=seed) for seed in (1, 2)]
REFUSED = TaskSpec(prompt="a dragon", seed=9)
CONTENT = ["task_id", "status", "prompt", "seed", "error_kind", "width", "height", "format"]
Fault = Literal["stop", "error"]


class Stop(BaseException):
    """The process is gone: no handler of errors may catch this."""


class Trap:
    """Files whose `step`-th verb that changes something goes wrong."""

    def __init__(self, files: Files, *, step: int | None, fault: Fault = "stop") -> None:
        self._files = files
        self._step = step
        self._fault = fault
        self.steps = 0

    def _act(self, act: Callable[[], Any]) -> Any:
        self.steps += 1
        if self.steps != self._step:
            return act()
        if self._fault == "error":
            raise StoreError("cannot write: No space left on device")
        raise Stop

    @property
    def url(self) -> str:
        return self._files.url

    def put_new(self, name: str, data: bytes) -> bool:
        return bool(self._act(lambda: self._files.put_new(name, data)))

    def put(self, name: str, data: bytes) -> None:
        self._act(lambda: self._files.put(name, data))

    def put_cached(self, name: str, data: bytes) -> None:
        self._act(lambda: self._files.put_cached(name, data))

    def get(self, name: str) -> bytes:
        return self._files.get(name)

    def exists(self, name: str) -> bool:
        return self._files.exists(name)

    def scan(self, folder: str) -> Iterator[Entry]:
        return self._files.scan(folder)

    def delete(self, name: str) -> None:
        self._act(lambda: self._files.delete(name))

    def move(self, name: str, to: str) -> None:
        self._act(lambda: self._files.move(name, to))

    def touch(self, name: str) -> None:
        self._act(lambda: self._files.touch(name))

    def sync(self, folders: Iterable[str]) -> None:
        self._act(lambda: self._files.sync(folders))

    def tidy(self) -> None:
        self._act(self._files.tidy)


def missing(store: Store, tasks: Iterable[TaskSpec]) -> list[TaskSpec]:
    finished = store.finished()
    known = {row.tobytes() for row in (*finished.rendered, *finished.failed)}
    return [task for task in tasks if task_digest(task) not in known]


def submit(store: Store, finish: Any) -> None:
    """Do what a submit does: claim a run, render what is missing in small chunks, tidy up."""
    run = store.begin_run()
    store.write_job("name: j\n", name="j")
    for index, task in enumerate(missing(store, TASKS)):
        finish(store, [task], run=run, chunk=f"c{index}")
    for task in missing(store, [REFUSED]):
        failed = Failed(task=task, kind=FailureKind.BAD_TASK, message="too large")
        finish(store, [failed], run=run, chunk="failed")
    store.compact()
    store.gc(grace_s=0)


def content(store: Store) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.table(CONTENT).sort_by("task_id").to_pylist()
    return rows


def rendered(store: Store) -> set[bytes]:
    return {row.tobytes() for row in store.finished().rendered}


def check(store: Store) -> None:
    """Assert what holds at every moment."""
    assert store.verify().problems == ()
    assert store.warnings == ()
    ids = store.table(["task_id"])["task_id"].to_pylist()
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("kind", "fault"), [("folder", "stop"), ("memory", "stop"), ("memory", "error")]
)
def test_a_submit_goes_on_after_a_fault_at_any_step(
    tmp_path: Path, finish: Any, kind: str, fault: Fault
) -> None:
    def prepared() -> Files:
        name = secrets.token_hex(6)
        files = open_files(f"memory://{name}" if kind == "memory" else tmp_path / name)
        Store.open(files.url, create=True)
        return files

    calm = prepared()
    counting = Trap(calm, step=None)
    submit(Store(counting), finish)
    wanted = content(Store(calm))
    assert counting.steps > 15

    for step in range(1, counting.steps + 1):
        files = prepared()
        with pytest.raises((Stop, StoreError)):
            submit(Store(Trap(files, step=step, fault=fault)), finish)
        after = Store.open(files.url)
        check_without_job(after)
        finished = rendered(after)
        submit(after, finish)
        check(after)
        assert finished <= rendered(after)
        assert content(after) == wanted


def check_without_job(store: Store) -> None:
    """Assert what holds at every moment, even before the job was written."""
    assert [text for text in store.verify().problems if "job.yaml" not in text] == []


def test_a_put_reported_as_a_conflict_after_it_happened_counts(
    finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer may get lost; the retry inside the library then meets its own object."""
    files = open_files(f"memory://{secrets.token_hex(6)}")
    Store.open(files.url, create=True)
    really = files.put_new

    def forgetful(name: str, data: bytes) -> bool:
        really(name, data)
        return False

    monkeypatch.setattr(files, "put_new", forgetful)
    store = Store(files)
    assert store.begin_run() == 1
    finish(store, TASKS)
    assert rendered(store) == {task_digest(task) for task in TASKS}
    assert [text for text in store.verify().problems if "job.yaml" not in text] == []


# --- the operating system -----------------------------------------------------------------------


class Kernel:
    """Stops the world at the `step`-th system call that changes the disk, and from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: int | None, torn: bool) -> None:
        self._step = step
        self._torn = torn
        self.steps = 0
        for owner, name in [
            (os, "fsync"), (os, "utime"), (Path, "hardlink_to"), (Path, "replace"),
            (Path, "rename"), (Path, "unlink"), (Path, "mkdir"),
        ]:  # fmt: skip
            monkeypatch.setattr(owner, name, self._guard(getattr(owner, name)))
        really = Path.open

        def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
            if args != ("xb",):
                return really(path, *args, **kwargs)
            self._count()
            return TornFile(really(path, *args, **kwargs), self)

        monkeypatch.setattr(Path, "open", opened)

    def _guard(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return act(*args, **kwargs)

        return guarded

    def _count(self) -> None:
        self.steps += 1
        if self._step is not None and self.steps >= self._step:
            raise Stop

    def write(self, handle: Any, data: memoryview) -> int:
        try:
            self._count()
        except Stop:
            if self._torn and self.steps == self._step:
                handle.write(data[: len(data) // 2])
            raise
        return int(handle.write(data[: max(1, len(data) // 2)]))  # writes may be short


class TornFile:
    def __init__(self, handle: Any, kernel: Kernel) -> None:
        self._handle = handle
        self._kernel = kernel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def write(self, data: memoryview) -> int:
        return self._kernel.write(self._handle, data)

    def fileno(self) -> int:
        return int(self._handle.fileno())


def test_a_killed_process_leaves_nothing_half_done(tmp_path: Path, finish: Any) -> None:
    base = tmp_path / "base"
    finish(Store.open(base, create=True), TASKS[:1])

    def go_on(step: int | None, *, torn: bool) -> tuple[Store, int]:
        folder = tmp_path / secrets.token_hex(6)
        shutil.copytree(base, folder)
        store = Store.open(folder)
        with pytest.MonkeyPatch.context() as patch:
            kernel = Kernel(patch, step=step, torn=torn)
            try:
                finish(store, TASKS[1:], chunk="c2")
                store.compact()
                store.gc(grace_s=0)
            except Stop:
                assert step is not None
        return store, kernel.steps

    calm, steps = go_on(None, torn=False)
    wanted = content(calm)
    assert steps > 30
    for step in range(1, steps + 1):
        store, _ = go_on(step, torn=bool(step % 2))
        check_without_job(store)
        assert task_digest(TASKS[0]) in rendered(store)
        if todo := missing(store, TASKS):
            finish(store, todo, run=2)
        check_without_job(store)
        assert content(store) == wanted


# --- the power ----------------------------------------------------------------------------------


class PowerCut:
    """Remembers what was fsynced under `root`; `strike` leaves only that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}
        self._entries: dict[Path, dict[str, int]] = {}
        really = os.fsync

        def remember(handle: int) -> None:
            really(handle)
            place = Path(f"/proc/self/fd/{handle}").resolve()
            inode = os.fstat(handle).st_ino
            if place.is_dir():
                self._entries[place] = {entry.name: entry.inode() for entry in os.scandir(place)}
            else:
                self._contents[inode] = place.read_bytes()

        monkeypatch.setattr(os, "fsync", remember)

    def strike(self, folder: Path | None = None) -> None:
        folder = folder or self._root
        lasting = self._entries.get(folder, {})
        for entry in list(os.scandir(folder)):
            path = Path(entry.path)
            if lasting.get(entry.name) != entry.inode():
                shutil.rmtree(path) if entry.is_dir() else path.unlink()
            elif entry.is_dir():
                self.strike(path)
            else:
                path.write_bytes(self._contents.get(entry.inode(), b""))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the names of open files")
def test_what_a_commit_returned_for_survives_a_power_cut(
    tmp_path: Path, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    power = PowerCut(monkeypatch, root)
    store = Store.open(root, create=True)
    run = store.begin_run()
    finish(store, TASKS[:1], run=run)
    finish(store, TASKS[1:], run=run, chunk="c2")
    store.put_image(REFUSED, b"never committed", suffix="png")
    power.strike()
    after = Store.open(root)
    assert rendered(after) == {task_digest(task) for task in TASKS}
    check_without_job(after)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the names of open files")
def test_a_compaction_survives_a_power_cut(
    tmp_path: Path, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    power = PowerCut(monkeypatch, root)
    store = Store.open(root, create=True)
    finish(store, TASKS[:1])
    finish(store, TASKS[1:], chunk="c2")
    store.compact()
    power.strike()
    assert rendered(Store.open(root)) == {task_digest(task) for task in TASKS}
