"""Outputs that cannot be used are refused before any work; faults during work blame no task."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.errors import ExitCode, FarmError, MissingLibraryError, OutputError, StoreError
from farm.store import Store
from farm.store.files import LocalFiles
from farm.task import TaskSpec


def test_an_output_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no farm output here") as caught:
        Store.open(tmp_path / "nowhere")
    assert caught.value.where == str(tmp_path / "nowhere")
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_something_else_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="no farm output here"):
        Store.open(tmp_path)


@pytest.mark.parametrize("url", ["memory://no/such/output", "memory://none"])
def test_an_empty_url_is_no_output(url: str) -> None:
    with pytest.raises(OutputError, match="no farm output here"):
        Store.open(url)


def test_a_bucket_that_does_not_exist_is_refused(s3_bucket: str) -> None:
    for create in (True, False):
        with pytest.raises(OutputError) as caught:
            Store.open(f"s3://{s3_bucket}-not/out", create=create)
        assert caught.value.hint


@pytest.mark.parametrize("create", [True, False])
def test_a_file_is_no_output(tmp_path: Path, create: bool) -> None:  # noqa: FBT001 - a parameter
    (tmp_path / "file").write_text("I am a file")
    with pytest.raises(OutputError):
        Store.open(tmp_path / "file", create=create)
    with pytest.raises(OutputError):
        Store.open(tmp_path / "file" / "below", create=create)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_can_be_read_and_not_submitted_to(
    folder_store: Store, finish: Any, tasks: list[TaskSpec]
) -> None:
    finish(folder_store, tasks)
    root = Path(folder_store.url)
    for folder in (root, *[path for path in root.rglob("*") if path.is_dir()]):
        folder.chmod(0o555)
    try:
        assert Store.open(root).table().num_rows == 6
        with pytest.raises(OutputError, match="Permission denied"):
            Store.open(root, create=True)
    finally:
        for folder in (root, *[path for path in root.rglob("*") if path.is_dir()]):
            folder.chmod(0o755)


def refuse(number: int) -> Callable[..., Any]:
    def act(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return act


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(Path, "mkdir", refuse(number))
    with pytest.raises(OutputError) as caught:
        Store.open(tmp_path / "out", create=True)
    assert os.strerror(number) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_fault_during_the_run_is_a_store_error_and_commits_nothing(
    folder_store: Store, finish: Any, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    finish(folder_store, [TaskSpec(seed=1)])
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, refuse(number))
        with pytest.raises(StoreError) as caught:
            finish(folder_store, [TaskSpec(seed=2)])
    assert os.strerror(number) in caught.value.message
    assert caught.value.hint
    assert caught.value.where
    assert caught.value.where.startswith(folder_store.url)
    assert len(folder_store.finished().rendered) == 1
    assert list(Path(folder_store.url, "tmp").iterdir()) == []


def test_a_full_disk_says_so(folder_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(StoreError) as caught:
        folder_store.put_image(TaskSpec(), b"x", suffix="png")
    assert "free some space" in str(caught.value)


def test_an_unreadable_catalog_is_an_error_and_not_an_empty_one(
    folder_store: Store, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(folder_store, [TaskSpec(seed=1)])
    monkeypatch.setattr(Path, "read_bytes", refuse(errno.EIO))
    with pytest.raises(StoreError):
        folder_store.finished()
    with pytest.raises(OutputError):
        Store.peek(folder_store.url)


def test_where_links_are_missing_a_rename_takes_their_place(
    tmp_path: Path, finish: Any, tasks: list[TaskSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "hardlink_to", refuse(errno.EPERM))
    store = Store.open(tmp_path / "out", create=True)
    assert (store.begin_run(), store.begin_run()) == (1, 2)
    finish(store, tasks)
    store.write_job("name: j\n", name="j")
    assert store.verify().clean
    files = LocalFiles(tmp_path / "out")
    assert files.put_new("control/x", b"1")
    assert not files.put_new("control/x", b"2")
    assert files.get("control/x") == b"1"


def test_an_output_spread_over_file_systems_is_explained(
    folder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "hardlink_to", refuse(errno.EXDEV))
    with pytest.raises(StoreError, match="one file system"):
        folder_store.put_image(TaskSpec(), b"x", suffix="png")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(OutputError, match="floppy") as caught:
        Store.open("floppy://a/out")
    assert "s3://" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("url", "library", "line"),
    [
        ("s3://bucket/out", "s3fs", "pip install s3fs"),
        ("gs://bucket/out", "gcsfs", "pip install gcsfs"),
        ("az://bucket/out", "adlfs", "pip install adlfs"),
    ],
)
def test_a_missing_library_comes_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch, url: str, library: str, line: str
) -> None:
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, url.partition(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError) as caught:
        Store.open(url)
    assert caught.value.hint == line
    assert caught.value.where == url


def test_relative_folders_and_file_urls_are_absolute_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open("out", create=True)
    assert store.url == str(tmp_path / "out")
    assert Store.open(f"file://{tmp_path}/out").url == store.url


def test_every_refusal_is_an_error_for_people() -> None:
    assert issubclass(OutputError, FarmError)
    assert issubclass(StoreError, FarmError)
