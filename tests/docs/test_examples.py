"""Examples are product: what ships in jobs/ and manifests/, and every job shown in a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

import farm
from farm.manifest import load
from tests.docs.markdown import PAGES, ROOT, Fence, fences

JOBS = tuple(sorted((ROOT / "jobs").glob("*.yaml")))
MATRICES = tuple(sorted((ROOT / "manifests").glob("*.yaml")))
SCHEMA_LINE = "# yaml-language-server: $schema="

every_example = pytest.mark.parametrize("path", [*JOBS, *MATRICES], ids=lambda path: path.name)


def from_yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_of_ours_is_right_and_not_empty(path: Path) -> None:
    assert len(farm.expand(farm.load_job(path))) > 0


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.name)
def test_a_matrix_of_ours_stands_behind_matrix_as_it_is(path: Path) -> None:
    job = load(
        "jobs/any.yaml", read=reader({"jobs/any.yaml": f"matrix: ../manifests/{path.name}\n"})
    )
    assert len(farm.expand(job)) > 0


@every_example
def test_an_example_names_a_schema_and_satisfies_it(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith(SCHEMA_LINE)
    schema = path.parent / first.removeprefix(SCHEMA_LINE)
    jsonschema.validate(from_yaml(path.read_text("utf-8")), json.loads(schema.read_text("utf-8")))


@every_example
def test_an_example_opens_with_what_it_is_for(path: Path) -> None:
    _, blank, *lines = path.read_text(encoding="utf-8").splitlines()
    opening = lines[: lines.index("")]
    assert blank == "#"
    assert all(line.startswith("#") for line in opening)
    assert len(" ".join(opening).split()) >= 12


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_of_ours_says_what_it_teaches(path: Path) -> None:
    assert "# Teaches: " in path.read_text(encoding="utf-8")


def test_the_schema_refuses_what_check_refuses() -> None:
    schema = json.loads((ROOT / "manifests/job.schema.json").read_text(encoding="utf-8"))
    wrongs: list[dict[str, Any]] = [{"matrx": {}}, {"retries": -1}, {"defaults": {"guidance": 3}}]
    for wrong in wrongs:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


YAML_BLOCKS = [fence for page in PAGES for fence in fences(page) if fence.language == "yaml"]


@pytest.mark.parametrize("fence", YAML_BLOCKS, ids=str)
def test_yaml_in_a_page_is_what_it_says(fence: Fence) -> None:
    match fence.words:
        case ("cluster",):
            config = prepare_config(
                from_yaml((ROOT / "cluster.yaml").read_text()) | from_yaml(fence.body)
            )
            validate_config(config)
        case ("axes",):
            indented = "".join(f"  {line}\n" for line in fence.body.splitlines())
            check("jobs/page.yaml", f"matrix:\n{indented}")
        case (path,):
            check(path, fence.body)
            if (ROOT / path).exists():
                shown = load(path, read=reader({path: fence.body}))
                assert shown == load(path, read=reader({})), "the file says something else"
        case ():
            check("jobs/page.yaml", fence.body)
        case _:
            pytest.fail(f"what is {' '.join(fence.words)}?")


def check(path: str, text: str) -> None:
    """Load a job as if it stood at `path` of the repository; a page of keys alone is one, too."""
    assert len(farm.expand(load(path, read=reader({path: text})))) > 0


def reader(files: dict[str, str]) -> Callable[[str], str]:
    """Return a reader of these files, and of the repository's."""

    def read(path: str) -> str:
        return files[path] if path in files else (ROOT / path).read_text(encoding="utf-8")

    return read
