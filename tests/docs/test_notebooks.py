"""Notebooks: their cells run in order, and what each displays can be displayed.

Without Jupyter, which would be some fifty packages for one page: a cell is Python, and what a
notebook shows is the value of its last expression, by the first of `_repr_html_` and `_repr_png_`
that it has.
"""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.docs.markdown import ROOT

NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


def display(value: Any) -> bytes:
    """Return what a notebook shows of a value."""
    for name in ("_repr_html_", "_repr_png_"):
        found = getattr(value, name, lambda: None)()
        if found:
            return found if isinstance(found, bytes) else str(found).encode()
    return repr(value).encode()


def run_cell(source: str, names: dict[str, Any]) -> bytes:
    """Run one cell; return what it displays."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<cell>", "exec"), names)
        return b""
    exec(compile(ast.Module(tree.body[:-1], []), "<cell>", "exec"), names)
    return display(eval(compile(ast.Expression(last.value), "<cell>", "eval"), names))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("jobs", "manifests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["language_info"]["name"]) == (4, "python")
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "notebooks are kept without outputs"
            shown.append(run_cell("".join(cell["source"]), names))
    pictures = [one for one in shown if b"data:image/webp" in one or one.startswith(b"\x89PNG")]
    assert len(pictures) >= 3
    assert all(shown)


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == ["notebook.ipynb"]
