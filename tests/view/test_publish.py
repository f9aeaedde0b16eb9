from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from farm.errors import OutputError
from farm.store.files import open_files
from farm.view.publish import publish


def test_a_file_appears_whole_in_a_folder_that_is_made_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    where = publish(str(folder), "x.txt", lambda path: save(path, "whole"), what="the file")
    assert Path(where).read_text() == "whole"
    assert [path.name for path in folder.iterdir()] == ["x.txt"]


def save(path: Path, text: str) -> None:
    assert path.suffix == ".txt"
    path.write_text(text)


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="cannot write the file: No space left"):
        publish(str(tmp_path), "x.txt", fail, what="the file")
    assert (tmp_path / "x.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_goes_into_an_output_anywhere() -> None:
    url = f"memory://{secrets.token_hex(6)}/out"
    where = publish(f"{url}/sheets", "x.txt", lambda path: save(path, "whole"), what="the file")
    assert where == f"{url}/sheets/x.txt"
    assert open_files(url).get("sheets/x.txt") == b"whole"
