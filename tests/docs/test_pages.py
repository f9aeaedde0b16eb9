from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from farm import cli
from tests.docs.markdown import PAGES, ROOT, Fence, anchors, farm_commands, fences, links

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_everything_derived_from_the_code_says_what_the_code_says() -> None:
    derived = load_generator().derived()
    stale = [
        name for name, text in derived.items() if (ROOT / name).read_text(encoding="utf-8") != text
    ]
    assert not stale, "`make docs` writes these again"
    assert {"manifests/job.schema.json", "docs/reference/cli.md"} <= set(derived)


def test_every_derived_table_is_shown_in_some_page() -> None:
    generator = load_generator()
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {found["name"] for found in generator.REGION.finditer(text)} == set(generator.REGIONS)


def test_the_keys_of_a_plan_are_those_that_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("backend: pattern\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["farm", "plan", str(job), "--json"])
    with contextlib.suppress(SystemExit):
        cli.main()
    rows = load_generator().json_plan().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(json.loads(capsys.readouterr().out))


def test_every_variable_that_the_code_reads_is_in_the_table_of_the_environment() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "farm").rglob("*.py"))
    read = {name for text in sources for name in re.findall(r'"(FARM_[A-Z_]+)"', text)}
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    told = page.partition("\n## Environment\n")[2].partition("\n## ")[0]
    assert "FARM_MODELS" in read
    assert set(re.findall(r"`(FARM_[A-Z_]+)`", told)) == read


def test_the_glossary_is_in_order() -> None:
    for section in (ROOT / "GLOSSARY.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        words = [line.split("**")[1].lower() for line in section.splitlines() if line[:2] == "**"]
        assert words
        assert words == sorted(words)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in links(page):
        if "://" in target:
            continue
        place, _, anchor = unquote(target).partition("#")
        goal = (page.parent / place).resolve() if place else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            dead.append(target)
    assert not dead


@every_page
def test_lines_are_plain_ascii_where_words_would_do(page: Path) -> None:
    odd = {c for c in page.read_text(encoding="utf-8") if ord(c) > 127}
    assert odd <= {"→"}


SHELL_BLOCKS = [
    fence for page in PAGES for fence in fences(page) if fence.language in {"sh", "console"}
]


@pytest.mark.parametrize("fence", SHELL_BLOCKS, ids=str)
def test_commands_and_their_options_exist(fence: Fence) -> None:
    root: Any = typer.main.get_command(cli.app)
    for words in farm_commands(fence):
        name, *arguments = words
        assert name in root.commands, name
        root.commands[name].make_context(name, arguments)


def test_every_command_is_shown_in_use_somewhere() -> None:
    root: Any = typer.main.get_command(cli.app)
    shown = {words[0] for fence in SHELL_BLOCKS for words in farm_commands(fence)}
    quoted = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [
        name for name in root.commands if name not in shown and f"`farm {name}`" not in quoted
    ]
    assert not missing


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs/adr").glob("0*.md")), ids=lambda page: page.stem
)
def test_a_decision_has_its_four_parts_and_stands_in_the_list(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.name[:4]}: ")
    parts = [line for line in text.splitlines() if line.startswith("## ")]
    assert parts == ["## Context", "## Decision", "## Consequences", "## Rejected"]
    assert f"({page.name})" in (page.parent / "README.md").read_text(encoding="utf-8")
