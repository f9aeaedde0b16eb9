"""Pages that are sessions: their marked blocks run, in order, and print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from farm import cli
from tests.docs.markdown import PAGES, ROOT, Fence, fences


def is_session(fence: Fence) -> bool:
    return fence.language in {"console", "python"} and "run" in fence.words


SESSIONS = [page for page in PAGES if any(map(is_session, fences(page)))]


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_page_happens_as_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("jobs", "manifests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    names: dict[str, Any] = {}
    if page.name == "README.md":
        run_command("farm submit jobs/quickstart.yaml", monkeypatch)  # what `make demo` does
    for fence in fences(page):
        if fence.language == "yaml" and fence.words and "/" in fence.words[0]:
            Path(fence.words[0]).write_text(fence.body, encoding="utf-8")
        elif is_session(fence) and fence.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(compile(fence.body, str(fence), "exec"), names)
            assert said.getvalue() or "print" not in fence.body
        elif is_session(fence):
            run_console(fence, monkeypatch)


def run_console(fence: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    _, *exchanges = re.split(r"^\$ ", fence.body, flags=re.MULTILINE)
    assert exchanges, "a console block begins its commands with `$ `"
    for exchange in exchanges:
        command, _, shown = exchange.partition("\n")
        said = run_command(command, monkeypatch)
        assert ("error: " in said) == ("error: " in shown), f"{fence}: $ {command}\n{said}"
        assert re.fullmatch(pattern_of(shown), said), (
            f"{fence}: $ {command}\n--- the page says\n{shown}\n--- it is\n{said}"
        )


def pattern_of(shown: str) -> re.Pattern[str]:
    """Return what output must match: `...` alone is any lines, within a line any text."""
    lines = [
        r"(?:[^\n]*\n)*"
        if line.strip() == "..."
        else r"[^\n]*".join(re.escape(piece) for piece in line.split("...")) + r"\n"
        for line in shown.splitlines()
    ]
    return re.compile("".join(lines))


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run one line of a page: `farm` in this process, on the pattern backend; or `rm`."""
    program, *words = shlex.split(command)
    if program == "rm":
        [pattern] = words
        found = list(Path().glob(pattern))
        assert found
        for path in found:
            path.unlink()
        return ""
    assert program == "farm", command
    name, *rest = words
    if name in {"check", "plan", "submit"}:
        words = [name, *rest, "--set", "backend=pattern"]
    if name == "submit":
        words += ["--executor", "inline"]
    monkeypatch.setattr(sys, "argv", ["farm", *words])
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        contextlib.suppress(SystemExit),
    ):
        cli.main()
    said.seek(0)
    return said.read()
