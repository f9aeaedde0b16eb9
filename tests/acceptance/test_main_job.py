"""The promises of the main job, through the command line, on the model-free renderer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from PIL import Image
from sd_parsers import ParserManager

if TYPE_CHECKING:
    from tests.acceptance.conftest import Farm

INLINE = ("--executor", "inline", "--json")


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_submit_renders_every_cell_and_leaves_a_catalog_that_pandas_reads(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    done = farm("submit", job_file, *INLINE)
    assert (done.code, done.json["rendered"], done.json["failed"]) == (0, 12, 0)
    assert {
        "rendered", "failed", "skipped", "seconds", "images_per_second", "denoiser_evaluations",
        "efficiency", "output",
    } <= set(done.json)  # fmt: skip

    rows = pd.read_parquet(tmp_path / "out" / "catalog")
    assert len(rows) == 12
    assert set(rows["status"]) == {"rendered"}
    assert sorted(rows["seed"].unique()) == [1, 2, 3]
    for name in rows["image_path"]:
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (64, 64)


def test_the_second_submit_renders_nothing(farm: Farm, job_file: Path) -> None:
    farm("submit", job_file, *INLINE)
    again = farm("submit", job_file, *INLINE)
    assert (again.code, again.json["rendered"], again.json["skipped"]) == (0, 0, 12)


def test_a_new_axis_value_renders_exactly_the_new_cells(farm: Farm, job_file: Path) -> None:
    farm("submit", job_file, *INLINE)
    rewrite(job_file, "[cat, dog]", "[cat, fox, dog]")
    wider = farm("submit", job_file, *INLINE)
    assert (wider.json["rendered"], wider.json["skipped"]) == (6, 12)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: little", "name: renamed"),
        ("  seed: 1..3\n", ""),
        ("seed: 1..3", "seed: [3, 2, 1]"),
        ("guidance_scale: [1.0, 4.0]", "cfg: [4, 1]"),
    ],
)
def test_another_order_spelling_or_name_is_the_same_matrix(
    farm: Farm, job_file: Path, old: str, new: str
) -> None:
    farm("submit", job_file, *INLINE)
    rewrite(job_file, old, new)
    if not new:
        rewrite(job_file, "matrix:\n", "matrix:\n  seed: 1..3\n")
    again = farm("submit", job_file, *INLINE)
    assert (again.code, again.json["rendered"], again.json["skipped"]) == (0, 0, 12)


def test_plan_counts_what_submit_then_does(farm: Farm, job_file: Path) -> None:
    farm("submit", job_file, *INLINE, "--limit", "5")
    plan = farm("plan", job_file, "--json").json
    assert (plan["tasks"], plan["unique_tasks"], plan["done"], plan["to_render"]) == (12, 12, 5, 7)
    assert plan["axes"] == {"subject": 2, "prompt": 1, "guidance_scale": 2, "seed": 3} or plan[
        "axes"
    ] == {"var_subject": 2, "prompt": 1, "guidance_scale": 2, "seed": 3}
    assert {"failed", "denoiser_evaluations", "chunks", "model_loads"} <= set(plan)
    assert farm("submit", job_file, *INLINE).json["rendered"] == 7


def test_force_renders_again_and_replaces_nothing(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    farm("submit", job_file, *INLINE)
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "images").rglob("*.png")}
    forced = farm("submit", job_file, *INLINE, "--force")
    assert forced.json["rendered"] == 12
    assert all(path.read_bytes() == data for path, data in before.items())
    assert farm("verify", tmp_path / "out").code == 0


def test_set_replaces_an_axis_and_an_unknown_field_is_refused(farm: Farm, job_file: Path) -> None:
    assert farm("plan", job_file, "--json", "--set", "seed=1..2").json["tasks"] == 8
    wrong = farm("plan", job_file, "--set", "guidence_scale=3")
    assert wrong.code == 2
    assert "guidance_scale" in wrong.err


def test_query_answers_in_sql_and_in_csv(farm: Farm, job_file: Path, tmp_path: Path) -> None:
    farm("submit", job_file, *INLINE)
    sql = "select var_subject, count(*) as n from catalog group by 1 order by 1"
    told = farm("query", tmp_path / "out", sql, "--format", "csv")
    assert told.code == 0
    assert list(csv.reader(told.out.splitlines())) == [
        ["var_subject", "n"],
        ["cat", "6"],
        ["dog", "6"],
    ]
    some = farm(
        "query", tmp_path / "out", "--where", "guidance_scale > 2 and seed = 1", "--format", "json"
    )
    assert len(json.loads(some.out)) == 2


def test_sheets_are_drawn_and_named_on_stdout(farm: Farm, job_file: Path, tmp_path: Path) -> None:
    farm("submit", job_file, *INLINE)
    drawn = farm(
        "sheet", tmp_path / "out", "--x", "guidance_scale", "--y", "subject",
        "-o", tmp_path / "sheet.png",
    )  # fmt: skip
    assert drawn.code == 0, drawn.err
    [name] = drawn.out.split()
    with Image.open(name) as image:
        assert image.width > 128


def test_an_independent_reader_finds_the_settings_in_the_png(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    farm("submit", job_file, *INLINE, "--limit", "1")
    [path] = (tmp_path / "out" / "images").rglob("*.png")
    read = ParserManager().parse(path)
    assert read is not None
    assert [prompt.value for prompt in read.prompts] == ["a cat"]
    sampler = read.samplers[0]
    assert sampler.parameters["seed"] == "1"
    assert sampler.parameters["steps"] == "4"
    assert sampler.parameters["cfg_scale"] == "1.0"
    assert "64x64" in str(read.metadata)


def test_the_store_is_rebuilt_from_its_images_alone(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    farm("submit", job_file, *INLINE)
    out = tmp_path / "out"
    content = ["task_id", "prompt", "seed", "guidance_scale", "image_path", "image_sha256"]
    before = pd.read_parquet(out / "catalog")[content].sort_values("task_id", ignore_index=True)
    for part in (out / "catalog").glob("*.parquet"):
        part.unlink()
    assert farm("plan", job_file, "--json").json["done"] == 0
    assert farm("rebuild", out).code == 0
    after = pd.read_parquet(out / "catalog")[content].sort_values("task_id", ignore_index=True)
    pd.testing.assert_frame_equal(before, after)


def test_verify_tells_an_altered_image(farm: Farm, job_file: Path, tmp_path: Path) -> None:
    farm("submit", job_file, *INLINE)
    out = tmp_path / "out"
    assert farm("verify", out).code == 0
    victim = next((out / "images").rglob("*.png"))
    victim.write_bytes(victim.read_bytes()[:-9] + b"tampering")
    told = farm("verify", out, "--json")
    assert told.code == 1
    assert victim.name in told.out


def test_compact_and_gc_keep_every_row(farm: Farm, job_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    farm("submit", job_file, *INLINE, "--limit", "5")
    farm("submit", job_file, *INLINE)
    assert farm("compact", out).code == 0
    assert farm("gc", out, "--grace", "0").code == 0
    assert len(pd.read_parquet(out / "catalog")) == 12
    assert farm("verify", out).code == 0
    assert farm("submit", job_file, *INLINE).json["skipped"] == 12


def test_status_is_told_from_the_output_alone(farm: Farm, job_file: Path, tmp_path: Path) -> None:
    farm("submit", job_file, *INLINE, "--limit", "5")
    state = farm("status", tmp_path / "out", "--json")
    assert state.code == 0
    assert state.json["rendered"] == 5
    assert state.json["tasks"] == 12


def test_a_webp_job_keeps_its_facts_in_exif(farm: Farm, job_file: Path, tmp_path: Path) -> None:
    done = farm("submit", job_file, *INLINE, "--set", "image.format=webp", "--limit", "2")
    assert done.json["rendered"] == 2
    assert len(list((tmp_path / "out" / "images").rglob("*.webp"))) == 2
    for part in (tmp_path / "out" / "catalog").glob("*.parquet"):
        part.unlink()
    farm("rebuild", tmp_path / "out")
    assert farm("plan", job_file, "--json").json["done"] == 2


def test_a_matrix_above_the_cap_asks_for_consent(farm: Farm, job_file: Path) -> None:
    asked = farm("submit", job_file, *INLINE, "--set", "max_tasks=10")
    assert asked.code == 2
    assert "--yes" in asked.err
    given = farm("submit", job_file, *INLINE, "--set", "max_tasks=10", "--yes", "--limit", "1")
    assert given.code == 0


def test_an_output_that_cannot_be_written_is_refused(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file stands here")
    refused = farm("submit", job_file, *INLINE, "--set", f"output={tmp_path / 'taken'}")
    assert refused.code == 2
    assert str(tmp_path / "taken") in refused.err


def test_every_problem_of_a_job_is_told_at_once_with_its_place(farm: Farm, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "name: bad\n"
        "matrix:\n"
        "  guidence_scale: [1, 2]\n"
        "  seed: []\n"
        '  prompt: "a ${creature}"\n'
        "  sampler: eulr\n"
    )
    told = farm("check", bad)
    assert told.code == 2
    places = [line.split(": ")[0] for line in told.out.splitlines()]
    assert len(places) == 4
    assert all(
        place.startswith(f"{bad}:{line}:") for place, line in zip(places, (3, 4, 5, 6), strict=True)
    )
    assert "guidance_scale" in told.out
    assert "creature" in told.out


def test_a_damaged_part_is_told_and_mended_before_anything_is_rendered_again(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    farm("submit", job_file, *INLINE)
    parts = [path for path in (out / "catalog").glob("*.parquet") if path.stat().st_size > 2000]
    for part in parts:
        part.write_bytes(part.read_bytes()[:300])
    for command in (("plan", job_file), ("submit", job_file, *INLINE)):
        told = farm(*command)
        assert told.code == 2
        assert parts[0].name in told.err
        assert "farm rebuild" in told.err
    assert farm("rebuild", out).code == 0
    assert farm("submit", job_file, *INLINE).json["skipped"] == 12


def test_a_second_job_in_an_output_shares_its_catalog_and_is_told_so(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    farm("submit", job_file, *INLINE)
    rewrite(job_file, "name: little", "name: other")
    rewrite(job_file, "[cat, dog]", "[dog, owl]")
    second = farm("submit", job_file, *INLINE)
    assert (second.json["rendered"], second.json["skipped"]) == (6, 6)
    assert "also holds images of job 'little'" in second.err
    assert farm("verify", tmp_path / "out").code == 0


def test_a_bad_argument_is_refused_before_anything_is_written(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    assert farm("submit", job_file, "--executor", "slurm").code == 2
    assert farm("submit", job_file, "--set", "output=memory://x", "--executor", "ray").code == 2
    assert not (tmp_path / "out").exists()


def test_an_impossible_pair_is_refused_with_the_line_that_leaves_it_out(
    farm: Farm, job_file: Path
) -> None:
    pairs = ("--set", "backend=diffusers", "--set", "sampler=[Euler a, DPM++ 2S a]")
    told = farm("check", job_file, *pairs, "--set", "schedule=[default, karras]")
    assert told.code == 2
    assert "exclude: [{sampler: euler_a, sigma_schedule: karras}]" in told.out
    assert told.out.count("exclude: [{sampler: dpmpp_2s_a}]") == 1


def test_an_impossible_pair_has_the_place_of_its_schedule_or_else_of_its_sampler(
    farm: Farm, job_file: Path
) -> None:
    rewrite(job_file, "backend: pattern", "backend: diffusers")
    rewrite(job_file, "  seed: 1..3", "  sampler:\n    - Euler a\n    - DPM++ SDE\n  seed: 1..3")
    told = farm("check", job_file)
    assert told.code == 0, told.out
    rewrite(job_file, "  seed: 1..3", "  sigma_schedule: [default, polyexponential]\n  seed: 1..3")
    told = farm("check", job_file)
    assert told.code == 2
    places = {line.partition(": ")[0] for line in told.out.splitlines()}
    assert places == {f"{job_file}:12:29"}


def test_a_pair_that_another_backend_can_do_says_so_and_passes_there(
    farm: Farm, job_file: Path
) -> None:
    rewrite(job_file, "backend: pattern", "backend: diffusers")
    rewrite(job_file, "  seed: 1..3", "  sampler: [Euler a Karras, DPM++ 2S a]\n  seed: 1..3")
    told = farm("check", job_file)
    assert told.code == 2
    assert told.out.count("set backend: torch") == 2
    rewrite(job_file, "backend: diffusers", "backend: torch")
    told = farm("check", job_file)
    assert told.code == 0, told.out
