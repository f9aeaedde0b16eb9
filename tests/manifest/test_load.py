"""What a job file means: every form of an axis, blocks, conditions, overrides."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import ManifestError
from farm.grid import expand
from farm.manifest import Job, SheetSettings, load, resolve_yaml
from farm.manifest.expression import ExpressionError, match_mapping, parse_expression
from farm.manifest.matrix import KEYWORDS
from farm.manifest.reader import JOB_KEYS
from farm.manifest.template import escape, parse
from farm.manifest.values import random_seeds
from farm.task import ALIASES, FIELDS, Scalar


def read_job(
    text: str, *, files: Mapping[str, str] | None = None, overrides: tuple[str, ...] = ()
) -> Job:
    contents = {"jobs/job.yaml": text, **(files or {})}
    return load("jobs/job.yaml", read=contents.__getitem__, overrides=overrides)


def values(text: str, field: str, **options: Any) -> list[Scalar]:
    """Return what a field is worth, cell by cell."""
    tasks = expand(read_job(text, **options))
    if field.startswith("var_"):
        return [task.vars.get(field.removeprefix("var_")) for task in tasks]
    return [getattr(task, field) for task in tasks]


@pytest.mark.parametrize(
    ("written", "field", "meant"),
    [
        ("seed: 7", "seed", [7]),
        ("seed: [3, 1..3, 9]", "seed", [3, 1, 2, 3, 9]),
        ("seed: 4..1 step -1", "seed", [4, 3, 2, 1]),
        ("seed: '1..3'", "seed", [1, 2, 3]),
        ("cfg: 0.0..0.3 step 0.1", "guidance_scale", [0.0, 0.1, 0.2, 0.3]),
        ("cfg: 1.0..1.3 step 0.1", "guidance_scale", [1.0, 1.1, 1.2, 1.3]),
        ("cfg: 1..2 step 0.4", "guidance_scale", [1.0, 1.4, 1.8]),
        ("cfg: {linspace: [4, 8, 5]}", "guidance_scale", [4.0, 5.0, 6.0, 7.0, 8.0]),
        ("cfg: 1e1", "guidance_scale", [10.0]),
        ("schedule: [Karras, sgm_uniform]", "sigma_schedule", ["karras", "sgm_uniform"]),
        ("sampler: [Euler a, DPM++ 2M]", "sampler", ["euler_a", "dpmpp_2m"]),
        ("sampler: DPM++ 2M Karras", "sigma_schedule", ["karras"]),
        ("prompt: 1..3", "prompt", ["1..3"]),
        ("prompt: {file: ../manifests/p.txt}", "prompt", ["a cat", "a dog # really"]),
        ("level: 1..3", "var_level", ["1", "2", "3"]),
        ("level: '1..3'", "var_level", ["1..3"]),
        ("on: [yes, 1.50, 007]", "var_on", ["yes", "1.50", "007"]),
        ("eta: [null, 0.5]", "eta", [None, 0.5]),
        ("seed: {file: ../manifests/seeds.txt}", "seed", [7, 9]),
        ("level: {file: ../manifests/seeds.txt}", "var_level", ["7", "9"]),
        (f"n: {10**36}..{10**36 + 2}", "var_n", [str(10**36 + i) for i in range(3)]),
        ("level: 0.5..2.0 step 0.5", "var_level", ["0.5", "1.0", "1.5", "2.0"]),
    ],
)
def test_an_axis_may_be_written_in_many_forms(
    written: str, field: str, meant: list[Scalar]
) -> None:
    files = {
        "manifests/p.txt": "\ufeff# animals\r\n\r\na cat\r\n  a dog # really  \r\n",
        "manifests/seeds.txt": "7\n9",
    }
    assert values(f"matrix:\n  {written}\n", field, files=files) == meant


@given(st.decimals(-20, 20, places=2), st.decimals("0.01", 3, places=2), st.integers(0, 40))
def test_a_range_is_exact_and_never_passes_its_end(first: Any, step: Any, count: int) -> None:
    last = first + count * step + step / 2
    text = f"matrix:\n  n: {first:f}..{last:f} step {step:f}\n"
    got = [Fraction(str(value)) for value in values(text, "var_n")]
    assert got == [Fraction(first) + i * Fraction(step) for i in range(count + 1)]


def test_random_seeds_are_the_same_everywhere_and_the_first_ones_stay() -> None:
    few = values("matrix: {seed: {random: 3, seed: 1}}", "seed")
    many = values("matrix: {seed: {random: 50, seed: 1}}", "seed")
    assert many[:3] == few == [234767383, 905826808, 3098887761]
    assert len(set(many)) == 50
    assert list(random_seeds(3, seed=2)) != few


def test_the_first_axis_varies_slowest() -> None:
    job = read_job("matrix: {a: [x, y], seed: 1..2}")
    assert [(t.vars["a"], t.seed) for t in expand(job)] == [
        ("x", 1), ("x", 2), ("y", 1), ("y", 2),
    ]  # fmt: skip


def test_a_bundle_sets_several_fields_and_keeps_its_label() -> None:
    text = "matrix: {look: {soft: {cfg: 3}, crisp: {cfg: 8, sampler: DPM++ 2M Karras}}}"
    told = [
        (t.vars["look"], t.guidance_scale, t.sampler, t.sigma_schedule)
        for t in expand(read_job(text))
    ]
    assert told == [("soft", 3.0, "default", "default"), ("crisp", 8.0, "dpmpp_2m", "karras")]


def test_blocks_nest() -> None:
    text = """
    matrix:
      union:
        - zip: {a: [p, q], b: [r, s]}
          seed: 1..2
        - a: t
          b: [u, v]
      cfg: 5
    """
    told = [(t.vars["a"], t.vars["b"], t.seed) for t in expand(read_job(text))]
    assert told == [
        ("p", "r", 1), ("p", "r", 2), ("q", "s", 1), ("q", "s", 2), ("t", "u", 0), ("t", "v", 0),
    ]  # fmt: skip


def test_a_matrix_may_be_a_list_or_a_file_and_a_block_may_include_one() -> None:
    files = {"manifests/m.yaml": "{style: [oil, ink]}"}
    assert values("matrix: [{seed: 1..2}, {seed: 9}]", "seed") == [1, 2, 9]
    assert values("matrix: ../manifests/m.yaml", "var_style", files=files) == ["oil", "ink"]
    both = values("matrix: {include: ../manifests/m.yaml, seed: 1..2}", "seed", files=files)
    assert both == [1, 2, 1, 2]


def test_an_axis_overrides_a_default_and_top_level_keys_are_defaults() -> None:
    job = read_job("backend: pattern\ndefaults: {seed: 5, steps: 4}\nmatrix: {seed: [1]}")
    [task] = expand(job)
    assert (task.seed, task.num_inference_steps, task.backend) == (1, 4, "pattern")
    assert len(expand(read_job("name: one"))) == 1


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        ("exclude: [{seed: 2}]", [1, 3, 4]),
        ("exclude: [{seed: 1..2, cfg: 3}]", [3, 4]),
        ("exclude: [{seed: 1, cfg: 4}]", [1, 2, 3, 4]),
        ("where: 'seed > 2'", [3, 4]),
        ("where: ['seed > 1', 'seed < 4']", [2, 3]),
        ("exclude: ['seed == 1', 'seed == 4']", [2, 3]),
        ("where: \"style == 'oil' and cfg == 3\"", [1, 2, 3, 4]),
        ("where: {style: ink}", []),
        ("where: \"class == 'mage' and var_class != 'rogue'\"", [1, 2, 3, 4]),
        ("where: {seed: [2, 4]}", [2, 4]),
        ("where: {seed: 3..100000}", [3, 4]),
        ("exclude: {seed: [1..100000 step 2]}", [2, 4]),
        ("where: {eta: null}", [1, 2, 3, 4]),
        ("exclude: [{sampler: [DPM++ 2M Karras, Euler a]}]", [1, 2, 3, 4]),
        ("exclude: [{sampler: [DPM++ 2M Beta, Euler a]}]", []),
        ("where: \"sampler == 'DPM++ 2M' and schedule in ['Beta']\"", [1, 2, 3, 4]),
        ("sample: {n: 9}", [1, 2, 3, 4]),
    ],
)
def test_conditions_choose_cells(condition: str, left: list[Scalar]) -> None:
    text = (
        "defaults: {cfg: 3, sampler: dpmpp_2m, sigma_schedule: beta}\n"
        f"matrix: {{style: [oil], class: mage, seed: 1..4}}\n{condition}\n"
    )
    assert values(text, "seed") == left


def test_overrides_replace_axes_set_defaults_and_job_keys() -> None:
    text = "defaults: {cfg: 3}\nmatrix: {style: [oil, ink], seed: 1..4}"
    assert values(text, "seed", overrides=("seed=[8, 9]",)) == [8, 9, 8, 9]
    assert set(values(text, "guidance_scale", overrides=("cfg=5",))) == {5.0}
    assert set(values(text, "guidance_scale", overrides=("guidance_scale=1..2",))) == {1.0, 2.0}
    assert set(values(text, "var_style", overrides=("style=pen",))) == {"pen"}
    job = read_job(text, overrides=("output=out/x", "image.format=webp", "backend=pattern"))
    assert (job.output, job.image.format, job.defaults["backend"]) == ("out/x", "webp", "pattern")


def test_an_override_reaches_axes_in_included_files_and_finds_files_beside_the_job() -> None:
    files = {"manifests/m.yaml": "{style: [oil, ink], seed: 1..9}", "jobs/styles.txt": "pen"}
    overrides = ("seed=3", "style={file: styles.txt}", "guidance_scale=1..2")
    job = read_job("matrix: ../manifests/m.yaml", files=files, overrides=overrides)
    told = [(t.vars["style"], t.seed, t.guidance_scale) for t in expand(job)]
    assert told == [("pen", 3, 1.0), ("pen", 3, 2.0)]


def test_of_two_overrides_the_later_one_counts() -> None:
    assert values("matrix: {seed: 1}", "seed", overrides=("seed=2", "seed=[3, 4]")) == [3, 4]


def test_sheets_are_read_and_written_back() -> None:
    text = """
matrix: {style: [oil, ink], cfg: [1, 2], seed: 1..3}
sheets:
  - {x: cfg, y: style, super_x: seed, where: "seed < 3", theme: dark, tile: 96}
  - {sort: sharpness desc, score: brightness, file: best.pdf}
  - {x: guidance_scale, diff_against: guidance_scale=1}
"""
    job = read_job(text)
    assert job.sheets == (
        SheetSettings(
            x="guidance_scale", y="style", super_x="seed", where="seed < 3", theme="dark", tile=96
        ),
        SheetSettings(sort="sharpness desc", score="brightness", file="best.pdf"),
        SheetSettings(x="guidance_scale", diff_against="guidance_scale=1"),
    )
    assert read_job("matrix: {seed: 1}\nsheets: {x: seed}").sheets == (SheetSettings(x="seed"),)
    assert read_job(resolve_yaml(job)).sheets == job.sheets


def test_the_file_name_speaks_of_fields_by_their_own_names() -> None:
    text = 'file_name: "$${y}${var_style}/$${x}-${cfg}-${seed}"\nmatrix: {style: oil}'
    assert read_job(text).file_name == "$${y}${style}/$${x}-${guidance_scale}-${seed}"


def test_the_name_and_the_output_default_to_the_files_stem() -> None:
    job = read_job("matrix: {seed: 1}")
    assert (job.name, job.output) == ("job", "out/job")


# --- the resolved job ---------------------------------------------------------------------------

words = st.text("abc ${}'\"[]:#é\n%..1", max_size=8)
axes = st.dictionaries(
    st.sampled_from(["style", "colour", "seed", "cfg", "sampler", "prompt"]),
    st.integers(1, 3),
    min_size=1,
)


@given(axes, words, st.booleans())
def test_the_resolved_job_reads_back_to_the_same_job(
    sizes: dict[str, int],
    word: str,
    zipped: bool,  # noqa: FBT001 - drawn by Hypothesis
) -> None:
    forms: dict[str, list[Any]] = {
        "seed": ["1..2", "5", "{random: 2, seed: 3}"],
        "cfg": ["1..2 step 0.5", "{linspace: [1, 2, 3]}", "7"],
        "sampler": ["Euler", "DPM++ 2M Karras", "ddim"],
    }
    quoted = "'" + escape(word).replace("'", "''").replace("\n", " ") + "'"
    lines = [
        f"  {name}: [{', '.join(forms.get(name, [quoted, 'b', 'c'])[:size])}]"
        for name, size in sizes.items()
    ]
    text = "matrix:\n" + "\n".join(lines) + "\n"
    if zipped:
        text += "  zip: {one: [p, q], two: [r, '1..3']}\n  look: {x: {steps: 3}, y: {eta: 0.5}}\n"
    job = read_job(text)
    again = load("other.yaml", read=lambda _: resolve_yaml(job))
    assert replace(again, source=job.source) == job


def test_the_resolved_job_says_which_version_wrote_it() -> None:
    assert resolve_yaml(read_job("name: one")).startswith("# The resolved job, written by farm ")


def test_a_long_range_stays_short_in_the_resolved_job() -> None:
    job = read_job("matrix: {seed: [5, 1..90000, 7, 8]}")
    resolved = resolve_yaml(job)
    assert len(resolved) < 1000
    assert load("jobs/job.yaml", read=lambda _: resolved) == job


@given(st.text(max_size=80))
def test_whatever_the_text_only_a_report_of_problems_comes_out(text: str) -> None:
    with suppress(ManifestError):
        load("job.yaml", read=lambda _: text)


words_of_a_job = st.sampled_from(
    [*JOB_KEYS, *FIELDS, *ALIASES, *KEYWORDS, "file", "linspace", "random", "x", "y", "n", "format"]
)
garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**65)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(
        ["1..3", "3..1", "${x}", "${", "none", "x.txt", "m.yaml", "seed > 1", "\u2028"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words_of_a_job, inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(words_of_a_job, garbage, max_size=4),
    st.lists(st.builds("{}={}".format, words_of_a_job, garbage.map(json.dumps)), max_size=2),
)
def test_whatever_the_structure_only_a_report_of_problems_comes_out(
    document: dict[str, Any], overrides: list[str]
) -> None:
    files = {"job.yaml": json.dumps(document), "x.txt": "a\n1\n${y}\n", "m.yaml": "{x: [a, b]}"}

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    with suppress(ManifestError):
        load("job.yaml", read=read, overrides=overrides)


# --- templates and expressions -----------------------------------------------------------------


@given(st.text())
def test_an_escaped_text_fills_to_itself(text: str) -> None:
    template = parse(escape(text))
    if not template.names:
        assert template.fill({}) == text.replace("$${", "${") or template.fill({}) == text


def test_templates_fill_names_and_nothing_else() -> None:
    template = parse("{a} ${b} $${c} $5 ${d}")
    assert template.names == {"b", "d"}
    assert template.fill({"b": "${d}", "d": 4.0}) == "{a} ${d} ${c} $5 4"


@given(st.text())
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    with suppress(ExpressionError):
        parse_expression(text).holds({})


scalars = st.none() | st.integers(-9, 9) | st.floats(-9, 9) | st.text("ab \\\"'\n0.", max_size=4)


@given(st.lists(scalars, max_size=6), scalars)
def test_a_mapping_matches_the_values_it_lists(listed: list[Scalar], value: Scalar) -> None:
    wanted = match_mapping({"a": listed or [1]})
    assert parse_expression(wanted.text) == wanted
    assert wanted.holds({"a": value}) == any(
        parse_expression("a == b").holds({"a": value, "b": one}) for one in listed or [1]
    )


def test_an_expression_travels_to_other_processes() -> None:
    wanted = parse_expression("a in [1, 'x', b] and not c > 2 * -3")
    assert pickle.loads(pickle.dumps(wanted)) == wanted


numbers = st.integers(-5, 5) | st.sampled_from([0.5, 1.5, 2.0])
claims = st.recursive(
    st.builds("{} {} {}".format, st.sampled_from(["a", "b", "3", "a + b", "2 * a - 1"]),
              st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
              st.sampled_from(["a", "b", "1", "b % 3", "-a"]))
    | st.just("a in [1, 2, b]") | st.just("1 < a <= b"),
    lambda inner: st.builds("({}) and ({})".format, inner, inner)
    | st.builds("({}) or ({})".format, inner, inner)
    | st.builds("not ({})".format, inner),
    max_leaves=6,
)  # fmt: skip


@given(claims, numbers, numbers)
def test_on_numbers_an_expression_means_what_python_means(text: str, a: float, b: float) -> None:
    meant = eval(text, {"a": a, "b": b})
    assert parse_expression(text).holds({"a": a, "b": b}) == bool(meant)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("size == 5", True),
        ("size > 4.5", True),
        ("size in [4, 5]", True),
        ("2 + 3 in ['4', '5.0']", True),
        ("2 + 3 in ['4', 'five', none]", False),
        ("style > 3", False),
        ("style != 3", True),
        ("eta == none", True),
        ("eta < 1", False),
        ("eta in [none, 1]", True),
        ("size / 0 == 1", False),
        ("style + '!' == 'oil!'", True),
    ],
)
def test_text_and_absent_values_compare_without_surprises(text: str, *, holds: bool) -> None:
    cell: dict[str, Scalar] = {"size": "5", "style": "oil", "eta": None}
    assert parse_expression(text).holds(cell) is holds


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a.b", "a[0]", "lambda: 1", "[x for x in y]", "f'{a}'", "a if b else c",
     "a is b", "(a := 1)", "a ** 9", "a, b", "...", "1 if", "a in b", "a not b", "3seed", "1e999",
     "'a", "a = 1", "[1]", "(" * 300, "-" * 90_000 + "1", "not " * 9000 + "a", "1" + "+1" * 9000],
)  # fmt: skip
def test_the_grammar_is_closed(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text)
