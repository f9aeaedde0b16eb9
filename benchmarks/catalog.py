"""What the catalog costs: rows written a second, bytes a row, and the time to ask it something.

Rows are those of a job of subjects x samplers x guidance scales x seeds, rendered in batches of
eight, with random digests as real ones are. They are appended in parts of 50,000, read by `farm`
(which tasks are finished) and by DuckDB (mean render time, seed x guidance scale), from warm files.
Goals: 100,000 rows/s written, 2 s for the pivot, 60 bytes a row, at ten million rows.

The digits of a row's digests alone (task 16 bytes, image 32, its first twelve digits in the file
name 6, and the folder 1) are 55 bytes that no encoding can shrink; the perceptual hash and the mean
colour are 11 more, which the goal for the size was set without.

    python benchmarks/catalog.py [--rows N]
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from farm.store import Row, Store, StoredImage, row_for, with_image
from farm.store.catalog import SCHEMA, encode_part, publish_part
from farm.store.files import LocalFiles
from farm.task import Rendered, RenderFacts, TaskSpec

PART_ROWS = 50_000
SEEDS, GUIDANCE, SUBJECTS = 100, 10, 1000
SAMPLERS = ("euler", "euler_a", "heun", "ddim", "dpmpp_2m")
BATCH = 8
GOALS = {"append_rows_per_s": 100_000.0, "pivot_s": 2.0, "bytes_per_row": 60.0}
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def parts(rows: int) -> Iterator[Any]:
    """Yield tables of `PART_ROWS` rows with the catalog's schema, made without Python objects."""
    rng = np.random.default_rng(20260517)
    for start in range(0, rows, PART_ROWS):
        yield part(rng, start, min(PART_ROWS, rows - start))


def part(rng: np.random.Generator, start: int, count: int) -> Any:  # noqa: ANN401 - Arrow
    """Return rows `start` to `start + count` of the job."""
    cell = np.arange(start, start + count)
    seed = cell % SEEDS
    guidance = cell // SEEDS % GUIDANCE
    sampler = cell // (SEEDS * GUIDANCE) % len(SAMPLERS)
    subject = cell // (SEEDS * GUIDANCE * len(SAMPLERS)) % SUBJECTS
    batch = cell // BATCH
    began = 1_780_000_000_000_000 + batch * 1_600_000
    task, image = (_digits(rng.integers(0, 256, (count, size), np.uint8)) for size in (16, 32))
    subjects = [f"subject number {number}" for number in range(SUBJECTS)]
    slugs = [f"a-picture-of-subject-number-{n}-on-white-s" for n in range(SUBJECTS)]
    columns: dict[str, Any] = {
        "task_id": _text(task, b"t1:"),
        "image_sha256": _text(image),
        "image_path": pc.binary_join_element_wise(
            "images", _text(task[:, :2]),
            pc.binary_join_element_wise(
                _pick(slugs, subject), pa.array(seed).cast(pa.string()), ".",
                _text(image[:, :12]), ".png", "",
            ),
            "/",
        ),
        "image_bytes": pa.array(rng.normal(30_000, 3_000, count).astype(np.int64)),
        "mean_color": _text(_digits(rng.integers(0, 256, (count, 3), np.uint8)), b"#"),
        "phash": _text(_digits(rng.integers(0, 256, (count, 8), np.uint8))),
        "brightness": pa.array(rng.beta(4, 4, count).round(3)),
        "contrast": pa.array((rng.beta(4, 4, count) / 2).round(3)),
        "sharpness": pa.array(rng.gamma(2, 400, count).round()),
        "entropy": pa.array((8 * rng.beta(6, 2, count)).round(3)),
        "prompt": _pick([f"an image of {text}, on white" for text in subjects], subject),
        "vars": pa.MapArray.from_arrays(
            np.arange(count + 1, dtype=np.int32), _same("subject", count),
            _pick(subjects, subject),
        ),
        "sampler": _pick(SAMPLERS, sampler),
        "guidance_scale": pa.array(guidance + 1.0),
        "seed": pa.array(seed),
        "render_ms": _ms(180 + rng.normal(0, 4, count // BATCH + 2)[batch - batch[0]]),
        "encode_ms": _ms(3 + rng.gamma(2, 0.5, count)),
        "started_at": pa.array(began),
        "finished_at": pa.array(
            began + 1_600_000 + cell % BATCH * 9_000 + rng.integers(0, 3_000, count)
        ),
        "worker": _pick([f"worker-{number}" for number in range(8)], batch % 8),
        "node": _pick(["node-0", "node-1"], batch % 2),
    }  # fmt: skip
    same = {
        "job": "assets", "status": "rendered", "run": 1, "attempt": 1, "width": 128, "height": 128,
        "dtype": "float16", "model": "builtin:sprites", "model_sha256": "ab" * 32,
        "backend": "diffusers", "format": "png", "batch_size": BATCH, "denoiser_evaluations": 60,
        "device": "cuda:0", "farm_version": "0.1.0", "torch_version": "2.13.0",
        "diffusers_version": "0.42.1", "num_inference_steps": 30, "sigma_schedule": "default",
        "negative_prompt": "blurry", "chunk": f"c{start}", "part": f"assets-c{start}.parquet",
    }  # fmt: skip
    arrays = [
        columns[field.name].cast(field.type)
        if field.name in columns
        else _same(same.get(field.name), count).cast(field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _digits(digests: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    text = np.empty((len(digests), 2 * digests.shape[1]), np.uint8)
    text[:, 0::2], text[:, 1::2] = _DIGITS[digests >> 4], _DIGITS[digests & 15]
    return text


def _text(digits: np.ndarray[Any, Any], tag: bytes = b"") -> Any:  # noqa: ANN401 - Arrow
    width = len(tag) + digits.shape[1]
    full = np.empty((len(digits), width), np.uint8)
    full[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    full[:, len(tag) :] = digits
    offsets = np.arange(len(digits) + 1, dtype=np.int32) * width
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(full)]
    return pa.Array.from_buffers(pa.string(), len(digits), buffers)


def _pick(words: Any, index: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - Arrow
    return pa.array(words).take(pa.array(index))


def _same(value: object, count: int) -> Any:  # noqa: ANN401 - Arrow
    return pa.array([value]).take(pa.array(np.zeros(count, np.int32)))


def _ms(values: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - Arrow
    return pc.round(pa.array(values.astype(np.float32)), 2)


def real_rows(count: int) -> list[Row]:
    """Return rows as a worker makes them, one Python object each."""
    moment = datetime(2026, 5, 17, tzinfo=UTC)
    facts = RenderFacts(dtype="float16", device="cuda:0", model_sha256="ab" * 32)
    pixels = np.zeros((8, 8, 3), np.uint8)
    rows = []
    for seed in range(count):
        result = Rendered(
            task=TaskSpec(prompt="a sword, on white", seed=seed, vars={"subject": "sword"}),
            pixels=pixels, render_ms=180.0, batch_size=8, denoiser_evaluations=60, facts=facts,
        )  # fmt: skip
        row = row_for(
            result, job="assets", image=None, run=1, attempt=1, worker="w", node="n",
            started_at=moment, finished_at=moment, encode_ms=3.0,
        )  # fmt: skip
        sha256 = secrets.token_hex(32)
        image = StoredImage(path=f"images/a-sword.{sha256[:12]}.png", sha256=sha256, size=30_000)
        rows.append(with_image(row, image))
    return rows


def measure(rows: int, folder: Path) -> dict[str, float]:
    """Return what was seen, in seconds, rows a second and bytes a row."""
    seen: dict[str, float] = {"rows": rows}
    store = Store.open(folder / "objects", create=True)
    objects = real_rows(PART_ROWS)
    # The images of these rows do not exist, and a commit makes their folder last.
    (folder / "objects" / "images").mkdir()
    seconds = []
    for attempt in range(3):
        start = time.perf_counter()
        store.commit(objects, run=1, chunk="c", attempt=attempt)
        seconds.append(time.perf_counter() - start)
    seen["commit_rows_per_s"] = PART_ROWS / min(seconds)

    store = Store.open(folder / "tables", create=True)
    files, spent, size = LocalFiles(folder / "tables"), 0.0, 0
    for index, table in enumerate(parts(rows)):
        start = time.perf_counter()
        data = encode_part(table)
        publish_part(files, f"catalog/assets-{index:06d}.parquet", data)
        spent += time.perf_counter() - start
        size += len(data)
    seen["append_rows_per_s"] = rows / spent
    seen["bytes_per_row"] = size / rows

    start = time.perf_counter()
    assert len(store.finished().rendered) == rows
    seen["finished_s"] = time.perf_counter() - start

    sql = f"""
        pivot (select seed, guidance_scale, render_ms
               from read_parquet('{folder}/tables/catalog/*.parquet'))
        on guidance_scale using avg(render_ms) group by seed
    """
    with duckdb.connect() as database:
        start = time.perf_counter()
        found = database.execute(sql).fetchall()
        seen["pivot_s"] = time.perf_counter() - start
    assert len(found) == SEEDS
    return seen


def main() -> int:
    """Measure, and print a table for people and a line for machines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        seen = measure(rows, Path(folder))
    lines = [
        ("append, from Arrow tables", "append_rows_per_s", "rows/s"),
        ("commit, from Row objects", "commit_rows_per_s", "rows/s"),
        ("size", "bytes_per_row", "bytes/row"),
        ("finished tasks", "finished_s", "s"),
        ("pivot with DuckDB", "pivot_s", "s"),
    ]
    print(f"{rows:,} rows in parts of {PART_ROWS:,}")
    for label, key, unit in lines:
        goal = f"(goal {GOALS[key]:,.0f})" if key in GOALS else ""
        print(f"{label:28} {seen[key]:12,.2f} {unit:10} {goal}")
    print(json.dumps({"benchmark": "catalog", **seen}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
