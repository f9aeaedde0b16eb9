"""The JSON Schema: every job that the farm reads is valid, common mistakes are marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from farm.manifest import job_schema, load, matrix_schema, resolve_yaml
from farm.samplers import SAMPLERS, SAMPLING_BACKENDS
from farm.task import ALIASES, FIELDS

ROOT = Path(__file__).parents[2]
JOB = jsonschema.Draft7Validator(job_schema())
MATRIX = jsonschema.Draft7Validator(matrix_schema())


def plain(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_schemas_are_schemas() -> None:
    for schema in (job_schema(), matrix_schema()):
        jsonschema.Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/*.yaml")), ids=lambda path: path.stem)
def test_an_example_job_is_valid_and_so_is_what_it_resolves_to(path: Path) -> None:
    assert list(JOB.iter_errors(plain(path.read_text()))) == []
    resolved = resolve_yaml(load(str(path), read=lambda name: Path(name).read_text()))
    assert list(JOB.iter_errors(plain(resolved))) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("manifests/*.yaml")), ids=lambda path: path.stem)
def test_an_example_matrix_is_valid(path: Path) -> None:
    assert list(MATRIX.iter_errors(plain(path.read_text()))) == []


@pytest.mark.parametrize(
    "text",
    [
        "name: one",
        "matrix: {seed: [1, 3..5, {random: 2, seed: 1}], cfg: 1.0..2.0 step 0.5}",
        "matrix: {cfg: {linspace: [1, 2, 3]}, prompt: {file: prompts.txt}, level: 1..3}",
        "matrix: {look: {soft: {cfg: 3}, crisp: {sampler: DPM++ 2M Karras, size: 3}}}",
        "matrix: [{seed: 1}, {zip: [{a: [1]}, {b: [2]}]}, {union: [{a: 1}]}]",
        "matrix: ../manifests/x.yaml",
        "matrix: {include: [a.yaml, b.yaml], zip: {a: 1, b: 2}, eta: [null, 0.5]}",
        "exclude: [{seed: 1..3, style: oil, eta: null}, 'seed > 4']\nwhere: {cfg: [1, 2]}",
        "sample: {n: 3}\nimage: {format: jpg, quality: 90}\nretries: 0",
        "resources: {num_gpus: 0.5, num_cpus: 2, accelerator_type: L4, stuck_after_s: 900}",
    ],
)
def test_what_a_job_may_say_is_valid(text: str) -> None:
    assert list(JOB.iter_errors(plain(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "matrx: {seed: 1}",
        "name: [1]",
        "backend: cuda",
        "defaults: {style: oil}",
        "defaults: {steps: many}",
        "defaults: {width: 100}",
        "matrix: {steps: 0}",
        "matrix: {seed: []}",
        "matrix: {seed: {random: 3}}",
        "matrix: {cfg: {linspace: [1, 2]}}",
        "matrix: {union: {a: 1}}",
        "sample: {seed: 3}",
        "image: {format: gif}",
        "image: {quality: 101}",
        "retries: -1",
        "resources: {num_gpu: 1}",
    ],
)
def test_a_common_mistake_is_marked(text: str) -> None:
    assert list(JOB.iter_errors(plain(text)))


def test_an_editor_can_complete_fields_aliases_and_samplers() -> None:
    properties = job_schema()["properties"]["defaults"]["properties"]
    assert set(properties) == {*FIELDS, *ALIASES}
    assert all(entry["description"] for entry in properties.values())
    offered = properties["sampler"]["anyOf"][0]["enum"]
    assert set(offered) == {
        name for name, entry in SAMPLERS.items() if any(map(entry.schedules_on, SAMPLING_BACKENDS))
    }
