"""What is wrong with a job file is told in one report, each problem with its place."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from farm.errors import ManifestError
from farm.manifest import load


def problems(
    text: str, *, files: Mapping[str, str] | None = None, overrides: tuple[str, ...] = ()
) -> list[str]:
    """Return every problem of a job file as `line:column: message (hint)`."""
    contents = {"job.yaml": text, **(files or {})}

    def read(path: str) -> str:
        if path not in contents:
            raise FileNotFoundError(path)
        return contents[path]

    try:
        load("job.yaml", read=read, overrides=overrides)
    except ManifestError as error:
        return [str(problem).removeprefix("job.yaml:") for problem in error.problems]
    return []


def test_a_good_job_has_no_problems() -> None:
    assert problems("matrix: {seed: 1..3}") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # names
        ("matrx: {seed: 1}", "1:1: unknown job key 'matrx' (did you mean 'matrix'?)"),
        ("seed: 3", "1:1: unknown job key 'seed' (put it under 'defaults:'"),
        (
            "matrix:\n  guidence_scale: 3",
            "2:3: unknown field 'guidence_scale' (did you mean 'guidance_scale'?)",
        ),
        ("defaults: {style: oil}", "1:12: unknown field 'style' (defaults hold task fields"),
        (
            "defaults:\n  cfg: 3\n  guidance_scale: 4",
            "3:3: 'guidance_scale' and 'cfg' (line 2) are the same field",
        ),
        ("matrix: {cfg: 3, guidance_scale: 4}", "1:18: 'guidance_scale' is assigned here and on"),
        ("matrix: {var_style: [1]}", "1:10: 'var_style' begins with 'var_', which the catalog"),
        ("matrix: {look: {soft: 3}}", "1:16: this mapping is no axis value (known forms are"),
        ("matrix: {a-b: [1]}", "1:10: 'a-b' cannot name a variable"),
        ("model: a/b\ndefaults: {model: c/d}", "1:1: 'model' has another value under 'defaults:'"),
        # types and ranges of values
        ("matrix: {steps: many}", "1:17: 'num_inference_steps' must be a whole number, not 'many'"),
        ("matrix: {steps: [4, 0]}", "1:21: 'num_inference_steps' must be at least 1, not 0"),
        (
            "matrix: {seed: 9223372036854775808}",
            "must be at most 9223372036854775807, not 9223372036854775808",
        ),
        ("matrix: {cfg: -1}", "1:15: 'guidance_scale' must be at least 0, not -1"),
        ("matrix: {cfg: .nan}", "1:15: 'guidance_scale' must be a finite number, not nan"),
        ("matrix: {cfg: .inf}", "1:15: 'guidance_scale' must be a finite number, not inf"),
        ("matrix: {width: 100}", "1:17: 'width' must be a multiple of 8, not 100"),
        ("matrix: {seed: yes}", "1:16: 'seed' must be a whole number"),
        ("matrix: {style: [oil, null]}", "1:23: 'style' has no value"),
        # axis forms
        ("matrix: {seed: []}", "1:16: this axis is empty (give it a value)"),
        ("matrix: {seed: [[1]]}", "1:17: a list inside a list"),
        ("matrix: {seed: 4..1}", "1:16: the range '4..1' is empty: its step leads away"),
        ("matrix: {cfg: 1..2 step 0}", "1:15: the range '1..2 step 0' has step 0 and never ends"),
        ("matrix: {cfg: 1..2 step -1}", "1:15: the range '1..2 step -1' is empty"),
        ("matrix: {cfg: 0.5..2}", "1:15: the range '0.5..2' needs a step"),
        ("matrix: {cfg: 1..2 step fast}", "1:15: the step of '1..2 step fast' is not a number"),
        ("matrix: {guidance: [1, 2]}", "1:10: variable 'guidance' is used in no text"),
        ("matrix: {seed: 8...16}", "1:16: '8...16' has too many dots for a range"),
        ("matrix: {seed: 1..}", "1:16: the range '1..' lacks an end"),
        ("matrix: {seed: 1..99999999999}", "1:16: the range '1..99999999999' has 99,999,999,999"),
        ("matrix: {cfg: 1..1e999999}", "1:15: 'guidance_scale' must be a number, not '1..1e9"),
        ("matrix: {cfg: 1..9e99 step 1e-99}", "'1..9e99 step 1e-99' has far too many values"),
        ("matrix: {prompt: }", "1:10: 'prompt' has no value"),
        (
            "matrix: {seed: {file: words.txt}}",
            "words.txt:2:1: 'seed' must be a whole number, not 'x'",
        ),
        ("matrix: {seed: {randm: 3}}", "1:16: this mapping is no axis value"),
        ("matrix: {seed: {random: 3}}", "1:16: {random: n} needs a seed"),
        ("matrix: {steps: {random: 3, seed: 1}}", "1:17: {random: n} makes seeds"),
        ("matrix: {cfg: {linspace: [1, 2]}}", "1:26: linspace needs [first, last, n]"),
        (
            "matrix: {cfg: {linspace: [1, 2, 1]}}",
            "1:33: linspace makes 2 to 1,000,000 values, not 1",
        ),
        ("matrix: {cfg: {linspace: [1, x, 3]}}", "1:30: 'linspace' needs numbers, not 'x'"),
        ("matrix: {prompt: {file: no.txt}}", "1:25: there is no file 'no.txt'"),
        ("matrix: {prompt: {file: empty.txt}}", "1:25: 'empty.txt' holds no values"),
        # bundles
        ("matrix: {sampler: {a: {cfg: 3}}}", "1:10: 'sampler' is a field, and a bundle needs"),
        ("matrix: {look: {a: {cfg: [1, 2]}}}", "1:26: 'cfg' needs one value here"),
        ("matrix: {look: {a: {cfg: high}}}", "1:26: 'guidance_scale' must be a number"),
        # blocks
        (
            "matrix:\n  zip: {a: [1, 2], b: [1, 2, 3]}",
            "2:8: zipped axes need equal lengths: 'a' has 2, 'b' has 3",
        ),
        ("matrix: {union: {a: [1]}}", "1:17: union needs a list of blocks"),
        ("matrix: {zip: [3]}", "1:16: zip needs blocks: mappings of axes"),
        ("matrix: 3", "1:9: a matrix is a mapping of axes"),
        ("matrix: none.yaml", "1:9: there is no file 'none.yaml'"),
        ("matrix:\n  # seed: 1", "1:1: a matrix is a mapping of axes"),
        ("matrix: empty.yaml", "1:9: 'empty.yaml' is empty; it should hold a matrix"),
        ("matrix: circle.yaml", "circle.yaml:1:11: files include each other in a circle"),
        ("matrix: wrong.yaml", "wrong.yaml:1:8: 'seed' must be a whole number, not 'x'"),
        (
            "matrix: {seed: 1, product: {seed: 2}}",
            "1:28: 'seed' is assigned here and on line 1",
        ),
        (
            "matrix: {sampler: DPM++ 2M Karras, schedule: beta}",
            "1:36: 'sigma_schedule' is assigned here and on line 1",
        ),
        # names of things
        ("matrix: {sampler: eulr}", "1:19: unknown sampler 'eulr' (did you mean 'euler'?)"),
        ("matrix: {schedule: karas}", "1:20: unknown sigma schedule 'karas' (did you mean"),
        ("backend: tensorrt", "1:10: 'backend' must be one of"),
        ("model: builtin:spritez", "1:8: 'model' names no builtin model ('builtin:spritez')"),
        ("model: old.ckpt", "1:8: 'model' names a pickle ('old.ckpt')"),
        ("model: [a, b]", "1:8: 'model' needs one value here (several values make an axis"),
        # texts
        (
            'matrix: {creature: [cat], prompt: "a ${creture}"}',
            "1:35: unknown variable 'creture' (did you mean 'creature'?)",
        ),
        ('defaults: {prompt: "a ${x}"}', "1:20: unknown variable 'x' (the matrix defines no"),
        ('matrix: {prompt: "a ${"}', "1:18: '${' must be followed by a name and '}'"),
        (
            'matrix: {a: "${b}", b: "${a}"}',
            "1:13: these texts are made of each other: a -> b -> a",
        ),
        ('matrix: {prompt: "${prompt} again"}', "1:18: these texts are made of each other"),
        (
            'matrix: {union: [{a: x}, {b: y}], prompt: "${a}"}',
            "1:43: '${a}' is not defined in every combination",
        ),
        (
            'defaults: {prompt: "${a}"}\nmatrix: [{a: x}, {b: y}]',
            "1:20: '${a}' is not defined in every combination",
        ),
        # conditions
        (
            "exclude: [sampler == 'eulr']",
            "1:22: in this condition, unknown sampler 'eulr' (did you",
        ),
        (
            'where: "guidance_scal > 3"',
            "1:9: in this condition, unknown name 'guidance_scal' (did you mean",
        ),
        ('where: "f(seed)"', "1:9: in this condition, unknown name 'f'"),
        ('where: "seed(1) > 1"', "1:13: in this condition, there is nothing to call here"),
        ('where: "seed = 3"', "1:14: in this condition, '=' is no comparison (compare with '==')"),
        ('where: "seed > 3 sampler"', "1:18: in this condition, 'sampler' does not fit here"),
        ('where: "seed > (3"', "1:16: in this condition, this '(' is never closed"),
        ("where: seed > 'x", "1:15: in this condition, this quote is never closed"),
        ("where: seed >", "1:14: in this condition, it ends too early"),
        ("where: sampler > 3", "1:18: in this condition, 'sampler' is text, and 3 is not"),
        ("where: seed == 'a'", "1:16: in this condition, 'seed' is a number, and 'a' is not"),
        ("where: \"'many' == steps\"", "1:9: in this condition, 'num_inference_steps' is a number"),
        ("where: backend == 'cuda'", "1:19: in this condition, 'backend' is one of torch"),
        (
            "where: sampler == 'DPM++ 2M Karras'",
            "1:19: in this condition, 'DPM++ 2M Karras' names a sampler and its schedule (compare",
        ),
        ("where: seed in 3", "1:16: in this condition, 'in' needs a list"),
        ("where: {seed: x}", "1:15: 'seed' must be a whole number"),
        ("where: {colour: red}", "1:9: unknown name 'colour'"),
        ("where: 3", "1:8: 'where' takes conditions"),
        ("where: {}", "1:8: an empty condition would hold for every cell"),
        # the rest of the job
        ("name: a/b", "1:7: the name 'a/b' cannot be a folder's name"),
        ("name: Aux.v2", "1:7: the name 'Aux.v2' is a device on Windows"),
        ("sample: {seed: 3}", "1:10: sample needs n"),
        ("sample: {n: 0}", "1:13: a sample of 0 cells renders nothing"),
        ("image: {format: gif}", "1:17: 'format' must be one of png, webp, jpeg"),
        ("image: {quality: 90}", "1:9: PNG is lossless and has no quality"),
        ("image: {format: webp, quality: 101}", "1:32: 'quality' must be 1 to 100, not 101"),
        ("image: {formt: png}", "1:9: unknown key 'formt' of image (did you mean 'format'?)"),
        ("retries: -1", "1:10: 'retries' needs a whole number of 0 or more, not '-1'"),
        ("resources: {accelerator_type: [L4]}", "1:31: 'accelerator_type' needs a text"),
        ("resources: {num_gpus: -1}", "1:23: 'num_gpus' must be at least 0"),
        ("sheets: [seed]", "1:10: a sheet is a mapping such as"),
        ("sheets: {xx: seed}", "1:10: unknown key 'xx' of a sheet"),
        ("sheets: {super-x: seed}", "unknown key 'super-x' of a sheet (did you mean 'super_x'?)"),
        ("sheets: {theme: pink}", "1:17: 'theme' must be one of light, dark"),
        ("sheets: {tile: 7}", "1:16: 'tile' must be at least 8"),
        ("sheets: {tile: large}", "1:16: 'tile'"),
        ("sheets: {file: ../../x.png}", "1:16: 'file' is a name in the output's folder"),
        ("sheets: {diff_against: euler}", "1:24: 'diff_against' needs the form column=value"),
        ("resources: {stuck_after_s: -5}", "1:28: 'stuck_after_s' must be at least 0"),
        ("file_name: ../../x", "1:12: 'file_name' leads out of the output"),
        ("file_name: /etc/x", "1:12: 'file_name' leads out of the output"),
        ("file_name: 'C:x'", "1:12: 'file_name' leads out of the output"),
        ('file_name: "a\\\\b"', "1:12: 'file_name' needs single slashes"),
        ('file_name: "${nothing}"', "1:12: unknown variable 'nothing'"),
        # YAML
        ("a:\n\tb: 1", "2:1: a tab cannot indent YAML; use spaces"),
        ("name: x\nname: y", "2:1: 'name' stands here twice; first on line 1"),
        ("name: !!python/object x", "1:7: tags such as 'tag:yaml.org,2002:python/object'"),
        ("matrix: {prompt: !!python/object/apply:os.system [ls]}", "1:18: tags such as"),
        ("matrix: !!set {seed: 1}", "1:9: tags such as 'tag:yaml.org,2002:set'"),
        ("name: a\n---\nname: b", "2:1: a second document begins here"),
        ("matrix: {seed: *x}", "1:16: this alias (*name) has no anchor"),
        ("name: [1,", "is not valid YAML here"),
        ("matrix: {<<: {seed: 1}}", "1:10: merge keys (<<) are not read"),
        ("", "1:1: this job file is empty"),
        ("- 1", "1:1: a job file is a mapping"),
        ("name: \x07", "1:7: the character U+0007 cannot stand in YAML"),
    ],
)
def test_a_problem_is_told_with_its_place(text: str, said: str) -> None:
    files = {
        "empty.txt": "# nothing\n\n",
        "words.txt": "1\nx\n",
        "empty.yaml": "# nothing",
        "circle.yaml": "{include: circle.yaml}",
        "wrong.yaml": "{seed: x}",
    }
    found = problems(text, files=files)
    assert len(found) == 1, found
    assert said in found[0]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        "name: bad\n"
        "matrix:\n"
        "  guidence_scale: [1, 2]\n"
        "  seed: []\n"
        '  prompt: "a ${creature}"\n'
        "  sampler: eulr\n"
        "sample: {n: x}\n"
    )
    places = [":".join(problem.split(":")[:2]) for problem in problems(text)]
    assert places == ["3:3", "4:9", "5:11", "6:12", "7:13"]


def test_anchors_that_expand_to_a_flood_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    [said] = problems("\n".join(lines))
    assert "expands to more than" in said
    [said] = problems("\n".join(lines[:6]))
    assert "aliases that add 1,234,550 values" in said


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    assert problems("name: &a [*a, *a]") == [
        "1:1: contains itself through an alias (write it without anchors)"
    ]


def test_files_that_include_each_other_into_a_flood_are_refused() -> None:
    files = {
        f"m{i}.yaml": f"union: [{', '.join([f'{{include: m{i + 1}.yaml}}'] * 10)}]"
        for i in range(9)
    }
    [said] = problems("matrix: m0.yaml", files=files | {"m9.yaml": "{seed: 1}"})
    assert "files are included more than 1,000 times" in said


def test_deep_nesting_is_refused() -> None:
    [said] = problems("matrix: " + "[" * 500 + "]" * 500)
    assert "nested" in said or "cannot be read" in said


def test_a_file_that_is_missing_or_not_utf_8_is_named() -> None:
    def unreadable(_path: str) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    with pytest.raises(ManifestError, match=r"job.yaml: 'job.yaml' is not UTF-8 \(byte 0\)"):
        load("job.yaml", read=unreadable)
    with pytest.raises(ManifestError, match=r"there is no file 'gone\.yaml'"):
        load("gone.yaml", read=lambda path: open(path).read())  # noqa: PTH123, SIM115


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "--set seed: needs the form field=value"),
        ("guidence_scale=3", "--set guidence_scale=3: unknown field 'guidence_scale' (did you"),
        ("seed=x", "--set seed=x: 'seed' must be a whole number, not 'x'"),
        ("prompt=[a", "--set prompt=[a: is not valid YAML here"),
        ("subjct=axe", "--set subjct=axe: unknown field 'subjct' (did you mean 'subject'?)"),
        ("cfg=3", "--set cfg=3: 'guidance_scale' is set by an axis of another name"),
        ("schedule=beta", "--set schedule=beta: 'sigma_schedule' is set by an axis of another"),
        ("image.format=gif", "--set image.format=gif: 'format' must be one of"),
    ],
)
def test_an_override_is_named_as_the_place_of_its_problem(override: str, said: str) -> None:
    text = "matrix: {subject: gem, look: {soft: {cfg: 2}}, sampler: DPM++ 2M Karras}"
    [problem] = problems(text, overrides=(override,))
    assert problem.startswith(said)
