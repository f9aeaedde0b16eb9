"""The catalog's schema, the rule of the winner, and files that do not belong."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from farm.store import Store
from farm.store.catalog import COLUMNS, SCHEMA, SCHEMA_VERSION, Keys, winners
from farm.store.looks import measure_looks
from farm.task import FIELDS, Failed, TaskSpec

CONTRACT = set(
    """
    task_id job status error_kind error_message prompt negative_prompt seed sampler sigma_schedule
    guidance_scale num_inference_steps width height model model_sha256 backend dtype image_path
    image_sha256 image_bytes batch_size worker node device started_at finished_at render_ms
    encode_ms farm_version torch_version diffusers_version attempt vars
""".split()  # noqa: SIM905 - as the contract writes them
)


# --- the schema ---------------------------------------------------------------------------------


def test_the_contract_and_every_task_field_have_a_column() -> None:
    assert set(SCHEMA.names) >= CONTRACT
    assert set(FIELDS) <= set(SCHEMA.names)
    assert len(set(SCHEMA.names)) == len(COLUMNS)


def test_every_column_says_what_it_holds() -> None:
    for field in SCHEMA:
        assert field.metadata[b"doc"].decode().endswith("."), field.name
    assert SCHEMA.metadata == {b"farm_schema_version": str(SCHEMA_VERSION).encode()}


def test_types_are_what_the_contract_says() -> None:
    assert SCHEMA.field("seed").type == pa.int64()
    assert SCHEMA.field("guidance_scale").type == pa.float64()
    assert SCHEMA.field("vars").type == pa.map_(pa.string(), pa.string())
    assert SCHEMA.field("started_at").type == pa.timestamp("us", tz="UTC")
    assert SCHEMA.field("prompt").type == pa.string()


def test_every_part_has_the_same_schema(
    folder_store: Store, finish: Any, tasks: list[TaskSpec], failure: Failed
) -> None:
    finish(folder_store, [failure])  # every optional column is null here
    finish(folder_store, tasks)
    folder_store.compact()
    finish(folder_store, [failure], run=2)
    schemas = [pq.read_schema(path) for path in Path(folder_store.url, "catalog").iterdir()]
    assert len(schemas) == 3
    for schema in schemas:
        assert schema.equals(schemas[0])
        assert schema.names == SCHEMA.names
        assert schema.types == SCHEMA.types


# --- the winner rule ----------------------------------------------------------------------------

rows = st.lists(
    st.tuples(
        st.integers(0, 5),  # which task
        st.booleans(),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(0, 4),
    ),
    max_size=40,
)
Plain = tuple[int, bool, int, int, int]


def digest(task: int) -> bytes:
    """Return digests that share their first half in pairs, as two tasks one day might."""
    return (task // 2).to_bytes(8, "big") + (task % 2).to_bytes(8, "big")


def keys_of(table: list[Plain]) -> Keys:
    columns = list(zip(*table, strict=True)) or [()] * 5
    return Keys(
        digests=np.array([list(digest(task)) for task in columns[0]], np.uint8).reshape(-1, 16),
        rendered=np.array(columns[1], np.bool_),
        run=np.array(columns[2], np.int32),
        attempt=np.array(columns[3], np.int32),
        part=np.array(columns[4], np.int64),
    )


def reduce(table: list[Plain]) -> list[Plain]:
    wins = winners(keys_of(table))
    return [row for row, win in zip(table, wins, strict=True) if win]


def oracle(table: list[Plain]) -> list[Plain]:
    best: dict[int, Plain] = {}
    for row in table:
        best[row[0]] = max(best.get(row[0], row), row, key=lambda row: row[1:])
    return sorted(best.values())


@given(rows)
def test_each_task_has_one_winner_the_rendered_or_the_latest(table: list[Plain]) -> None:
    assert sorted(reduce(table)) == oracle(table)


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(table: list[Plain], chance: random.Random) -> None:
    mixed = list(table)
    chance.shuffle(mixed)
    assert sorted(reduce(mixed)) == sorted(reduce(table))


@given(rows)
def test_to_choose_twice_is_to_choose_once(table: list[Plain]) -> None:
    assert reduce(reduce(table)) == reduce(table)


@given(rows, rows)
def test_to_choose_early_is_to_choose_late(first: list[Plain], second: list[Plain]) -> None:
    """So that a compaction of some parts changes nothing."""
    assert sorted(reduce(reduce(first) + second)) == sorted(reduce(first + second))


@given(rows, rows)
def test_more_rows_never_take_a_rendered_task_away(first: list[Plain], more: list[Plain]) -> None:
    before = {row[0] for row in reduce(first) if row[1]}
    after = {row[0] for row in reduce(first + more) if row[1]}
    assert before <= after


# --- files that do not belong -------------------------------------------------------------------


@pytest.fixture
def full(folder_store: Store, finish: Any, tasks: list[TaskSpec]) -> Store:
    finish(folder_store, tasks[:3])
    finish(folder_store, tasks[3:], chunk="c2")
    folder_store.write_job("name: j\n", name="j")
    return folder_store


def parts(store: Store) -> list[Path]:
    return sorted(Path(store.url, "catalog").glob("quick-start-*.parquet"))


@pytest.mark.parametrize("left", [0, 3, 100, -9, -1])
def test_a_truncated_part_is_named_and_the_others_are_read(full: Store, left: int) -> None:
    victim = parts(full)[0]
    victim.write_bytes(victim.read_bytes()[:left])
    assert full.table().num_rows == 3
    [warning] = full.warnings
    assert warning.startswith(f"catalog/{victim.name}: truncated or damaged")
    assert len(full.finished().rendered) == 3
    report = full.verify()
    assert not report.clean
    assert victim.name in report.problems[0]


def test_a_part_with_rotten_pages_is_named(full: Store) -> None:
    victim = parts(full)[0]
    data = bytearray(victim.read_bytes())
    data[4:400] = bytes(396)
    victim.write_bytes(data)
    assert full.table().num_rows == 3
    assert victim.name in full.warnings[0]


def test_foreign_parquet_is_named(full: Store) -> None:
    path = Path(full.url, "catalog", "sales.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(path)
    assert full.table().num_rows == 6
    assert full.warnings == ("catalog/sales.parquet: a Parquet file that no farm wrote",)


def test_a_part_of_a_newer_farm_is_named_and_never_swept(full: Store) -> None:
    path = Path(full.url, "catalog", "future.parquet")
    table = pa.table({"task_id": ["t9:0"]})
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"farm_schema_version": "99"})
    assert full.table().num_rows == 6
    assert "schema version 99" in full.warnings[0]
    full.rebuild()
    full.compact()
    full.gc(grace_s=0)
    assert path.exists()


def rewrite(part: Path, table: pa.Table) -> None:
    with pq.ParquetWriter(part, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"farm_schema_version": str(SCHEMA_VERSION)})


def test_a_part_older_than_a_column_has_nulls_there(full: Store) -> None:
    victim = parts(full)[0]
    rewrite(victim, pq.read_table(victim).drop_columns(["eta", "encode_ms"]))
    assert full.table(["encode_ms"])["encode_ms"].null_count == 3
    full.compact()
    assert full.table().num_rows == 6
    assert full.warnings == ()


@pytest.fixture
def yesterday(tmp_path: Path) -> Store:
    """An output that a farm with version 1 of the schema wrote: two images and a failure."""
    shutil.copytree(Path(__file__).with_name("version-1"), tmp_path / "yesterday")
    return Store.open(tmp_path / "yesterday")


def test_an_output_of_version_1_opens_with_nulls_where_it_did_not_measure(yesterday: Store) -> None:
    table = yesterday.table()
    assert yesterday.warnings == ()
    assert table.schema.names == SCHEMA.names
    assert table["seed"].to_pylist() == [1, 2, 9]
    assert table["phash"].null_count == table["brightness"].null_count == 3
    assert yesterday.verify().problems == (
        "job.yaml is missing: the job of these images is not known",
    )


def test_an_output_of_version_1_grows_and_is_compacted_into_this_version(
    yesterday: Store, finish: Any
) -> None:
    finish(yesterday, [TaskSpec(seed=3)])
    frame = pd.read_parquet(Path(yesterday.url, "catalog"))
    assert sorted(frame["seed"]) == [1, 2, 3, 9]
    yesterday.compact()
    yesterday.gc(grace_s=0)
    table = yesterday.table()
    assert table.num_rows == 4
    assert table["phash"].null_count == 3
    [part] = Path(yesterday.url, "catalog").iterdir()
    assert pq.read_metadata(part).metadata[b"farm_schema_version"] == str(SCHEMA_VERSION).encode()


def test_rebuild_measures_images_of_version_1(yesterday: Store, finish: Any) -> None:
    for part in Path(yesterday.url, "catalog").iterdir():
        part.unlink()
    [fresh] = finish(yesterday, [TaskSpec(seed=3)])
    for part in Path(yesterday.url, "catalog").glob("quick-*"):
        part.unlink()
    assert yesterday.rebuild().restored == 3
    rows = {row["seed"]: row for row in yesterday.table().to_pylist()}
    for seed in (1, 2):
        path = Path(yesterday.url, rows[seed]["image_path"])
        with Image.open(path) as image:
            looks = measure_looks(np.asarray(image))
        assert rows[seed]["phash"] == looks.phash
        assert rows[seed]["sharpness"] == pytest.approx(looks.sharpness, rel=1e-6)
    assert rows[3]["phash"] == fresh.phash is not None


def test_a_part_with_unknown_columns_is_named_and_kept(full: Store) -> None:
    victim = parts(full)[0]
    table = pq.read_table(victim)
    rewrite(victim, table.append_column("lora", pa.nulls(table.num_rows, pa.string())))
    full.compact()
    assert victim.exists()
    assert full.table().num_rows == 3
    assert "columns of a newer farm" in full.warnings[0]


def test_other_files_are_named_but_hidden_ones_are_not(full: Store) -> None:
    Path(full.url, "catalog", "notes.txt").write_text("mine")
    Path(full.url, "catalog", ".DS_Store").write_text("the system's")
    full.finished()
    assert full.warnings == ("catalog/notes.txt: not a part: only Parquet files belong here",)


def test_a_task_id_of_another_version_is_named(full: Store) -> None:
    victim = parts(full)[0]
    table = pq.read_table(victim)
    ids = pa.array(["t9:" + text[3:-1] for text in table["task_id"].to_pylist()])
    rewrite(victim, table.set_column(0, "task_id", ids))
    assert full.table().num_rows == 3
    assert "task ids of another version" in full.warnings[0]


def test_a_warning_goes_when_its_cause_goes(full: Store) -> None:
    path = Path(full.url, "catalog", "notes.txt")
    path.write_text("mine")
    full.table()
    path.unlink()
    full.table()
    assert full.warnings == ()
