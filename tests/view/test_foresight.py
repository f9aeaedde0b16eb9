"""What is wrong with the sheets of a job is told by `farm check`, each problem at its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import farm
from farm.errors import ManifestError
from farm.store.catalog import SCHEMA
from farm.store.votes import CHOICES
from farm.task import TaskSpec

JOB = """\
backend: pattern
output: {output}
matrix:
  subject: [sword, shield]
  size: [512, large]
  prompt: "a ${{subject}}"
  guidance_scale: [1.0, 4.0]
  sampler: [euler_a, ddim]
  seed: 1..2000
sheets:
"""


@pytest.fixture
def problems(tmp_path: Path) -> Callable[..., list[str]]:
    """Returns every problem of a job with these sheets as `line:column: message (hint)`.

    The first sheet is on line 1.
    """

    def told(*sheets: str, job: str = JOB) -> list[str]:
        path = tmp_path / "job.yaml"
        text = job.format(output=tmp_path / "out")
        path.write_text(text + "".join(f"- {{{sheet}}}\n" for sheet in sheets), encoding="utf-8")
        try:
            farm.load_job(path)
        except ManifestError as error:
            return [
                f"{(problem.line or 0) - text.count(chr(10))}:{problem.column}: {problem.message}"
                f" ({problem.hint})"
                for problem in error.problems
            ]
        return []

    return told


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        ("x: nosuchcolumn", "1:7: the catalog has no column 'nosuchcolumn' (columns are task"),
        ("y: smapler", "1:7: the catalog has no column 'smapler' (did you mean 'sampler'?)"),
        ("page: subjct", "no column 'subjct' (did you mean 'var_subject'?)"),
        ("super_x: 3", "no column '3'"),
        ("x: sampler, super_y: sampler", "1:25: 'sampler' is x of this sheet already"),
        ("x: seed", "1:7: 'seed' has 2,000 values, and an axis has room for 1,000 (page: seed"),
        (
            "page: seed",
            "1:10: 'seed' has 2,000 values, which would be as many files (file: seed.pdf",
        ),
        ("score: prompt", "1:11: 'prompt' is no column of numbers (a score is a number, such as"),
        ("score: size", "1:11: 'size' is no column of numbers"),
        ("score: tags", "1:11: 'tags' is no column of numbers"),
        ("score: sharpnes", "1:11: the catalog has no column 'sharpnes' (did you mean 'sharpness'"),
        ("sort: sharpnes desc", "1:10: the catalog has no column 'sharpnes' (did you mean"),
        ("sort: sharpness down", "1:10: 'sharpness down' is no order (write a column, or"),
        ("where: seed >", "1:11: in this condition: Parser Error: the expression ends too early"),
        ("where: guidence_scale > 3", '"guidence_scale" not found in FROM clause! (did you mean'),
        ("where: sampler = ddim", "(text stands in single quotes: 'ddim')"),
        ("where: prompt > 3", "1:11: in this condition: Binder Error: Cannot compare values of"),
        ("where: 'var_size::int > 3'", "1:11: in this condition: Conversion Error"),
        ("file: best.gif", "1:10: a sheet cannot be written as '.gif' (end the file's name with"),
        ("diff_against: nosuch=3", "1:18: the catalog has no column 'nosuch'"),
        ("diff_against: sampler=eulr_a", "has no value 'eulr_a' in this job or its output (did"),
        (
            "diff_against: cfg=5",
            "'guidance_scale' has no value '5' in this job or its output (ther",
        ),
        ("diff_against: num_inference_steps=30", "has one value in this job: there is nothing"),
    ],
)
def test_a_sheet_that_cannot_be_made_is_refused(
    sheet: str, said: str, problems: Callable[..., list[str]]
) -> None:
    [found] = problems(sheet)
    assert said in found


@pytest.mark.parametrize(
    "sheet",
    [
        "x: cfg, y: subject, super_x: var_size, theme: dark, tile: 96, page: seed, file: all.tif",
        "x: seed, where: seed <= 100",
        "sort: sharpness desc, score: brightness, file: best.pdf",
        "x: brightness, y: job",
        "score: rating, file: v1.5",
        "where: rating >= 4 and sampler = 'ddim'",
        "where: \"prompt like '%sword' -- the sharp ones\"",
        "diff_against: cfg=1.0",
        "diff_against: 'sampler = ddim'",
        "diff_against: width=64, x: width",
        "diff_against: subject=sword, x: subject",
    ],
)
def test_a_sheet_that_can_be_made_is_not(sheet: str, problems: Callable[..., list[str]]) -> None:
    assert problems(sheet) == []


def test_everything_is_told_at_once(problems: Callable[..., list[str]]) -> None:
    broken = JOB.replace("1..2000", "many")
    found = problems("x: nosuchcolumn", "x: seed", "score: prompt, tile: 0", job=broken)
    assert len(found) == 4
    assert "'seed' must be a whole number" in found[0]
    assert found[1].startswith("1:7: the catalog has no column 'nosuchcolumn'")
    assert found[2].startswith("3:11: 'prompt' is no column of numbers")
    assert found[3].startswith("3:25: 'tile' must be at least 8")
    [unread] = problems("x: size", job=JOB.replace("[512, large]", "[{{a: 1}}]"))
    assert "this mapping is no axis value" in unread  # and no word of a column that is not there


def test_two_sheets_of_one_name_are_told(problems: Callable[..., list[str]]) -> None:
    [found] = problems("x: sampler", "x: sampler, tile: 64", "x: sampler, theme: dark")
    assert found.startswith("2:3: sheet 1 of this job is written to 'sampler.png' too")
    assert problems("where: seed < 3", "where: seed > 3", "where: seed <= 3") == []


def test_a_value_that_another_job_rendered_can_be_compared_with(
    problems: Callable[..., list[str]], make_output: Callable[..., str]
) -> None:
    assert problems("diff_against: backend=torch") != []
    assert problems("diff_against: subject=axe") != []
    make_output([TaskSpec(backend="torch", vars={"subject": "axe"})])
    assert problems("diff_against: backend=torch", "diff_against: subject=axe") == []
    assert problems("diff_against: subject=bow") != []


def columns() -> list[Any]:
    return [*(set(SCHEMA.names) - {"vars"}), "image_file", *CHOICES.names]


@pytest.mark.parametrize("column", sorted(columns()))
def test_every_column_of_the_catalog_can_be_an_axis(
    column: str, problems: Callable[..., list[str]]
) -> None:
    assert problems(f"x: {column}, where: seed < 3") == []
