"""What the explorer costs: building it with thumbnails, opening it, and changing an axis.

The build is `farm gallery` over images of 128 pixels, as the embedded model draws them, and over
images of 512, where most of the time is the decoding of PNG files. The page is that of a generated
catalog (10 subjects x 10 styles x 10 samplers x 10 guidance scales x 100 seeds at 100,000 rows) in
headless Chromium, from a disk: from the start of the navigation until it answers, then from a
change of an axis until its frame is painted. All its images are links to one of 128 pixels. Goals:
10,000 images in 60 s; 100,000 rows interactive in 3 s, an axis changed in 300 ms.

The ratios are to the time that plain Pillow takes for the same thumbnails in one thread, and to the
time that the browser takes to parse the same rows as JSON.

    python benchmarks/explorer.py [--images N] [--rows N]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from farm.errors import MissingLibraryError
from farm.explorer.chunks import ROWS_PER_CHUNK, scripts
from farm.explorer.exhibit import make_exhibit
from farm.explorer.gallery import PAGE, make_gallery, page_files
from farm.store import Store, row_for, with_image
from farm.store.catalog import SCHEMA
from farm.store.row import Row
from farm.task import Rendered, RenderFacts, TaskSpec
from farm.view.thumbnails import shrink

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
GOALS = {
    "build_128_10000_s": 60.0,
    "build_512_10000_s": 60.0,
    "ready_s": 3.0,
    "axis_change_ms": 300.0,
}
EDGES = (128, 512)
SOURCES = 40
"""Distinct pictures; the rest are their copies under other names, and cost the same."""
START = datetime(2026, 1, 1, tzinfo=UTC)


# --- building -----------------------------------------------------------------------------------


def pictures(edge: int) -> list[bytes]:
    """Return square PNG files with as much in them as renderings have."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(SOURCES):
        small = Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8))
        sink = io.BytesIO()
        small.resize((edge, edge), Image.Resampling.BICUBIC).save(sink, "PNG", compress_level=1)
        found.append(sink.getvalue())
    return found


def fill(output: Path, count: int, edge: int) -> None:
    """Write an output of `count` images."""
    store = Store.open(output, create=True)
    run, sources = store.begin_run(), pictures(edge)
    pixels = np.zeros((edge, edge, 3), np.uint8)
    facts = RenderFacts(dtype="float32", device="cpu")

    def rows(start: int) -> Iterator[Row]:
        for number in range(start, min(start + 1000, count)):
            task = TaskSpec(prompt=f"subject {number % 50}", seed=number)
            result = Rendered(
                task=task, pixels=pixels, render_ms=1.0, batch_size=1, denoiser_evaluations=1,
                facts=facts,
            )  # fmt: skip
            row = row_for(
                result, job="benchmark", image=None, run=run, attempt=1, worker="w", node="n",
                started_at=START, finished_at=START,
            )  # fmt: skip
            image = store.put_image(task, sources[number % SOURCES], suffix=".png")
            yield with_image(row, image)

    for start in range(0, count, 1000):
        store.commit(list(rows(start)), run=run, chunk=f"c{start}", attempt=1)


def build(folder: Path, count: int, edge: int) -> tuple[float, float]:
    """Return the seconds of `farm gallery`, and those of Pillow alone for the same thumbnails."""
    fill(folder, count, edge)
    start = time.perf_counter()
    made = make_gallery(str(folder))
    seconds = time.perf_counter() - start
    assert (made.images, made.unreadable) == (count, ())
    sources = pictures(edge)
    start = time.perf_counter()
    for source in sources:
        shrink(source, 256)
    return seconds, (time.perf_counter() - start) / SOURCES * count


# --- opening ------------------------------------------------------------------------------------


def catalog(rows: int) -> pa.Table:
    """Return a catalog as `read_catalog` gives it: five axes, and the facts of a finished run."""
    cell = np.arange(rows)
    digits = np.random.default_rng(9).integers(0, 2**63, (rows, 2), np.int64)
    axis = {
        "seed": cell % 100,
        "guidance_scale": cell // 100 % 10,
        "sampler": cell // 1000 % 10,
        "style": cell // 10_000 % 10,
        "subject": cell // 100_000 % 1000,
    }
    axis["subject"] = (axis["subject"] + cell // 97) % 10  # a catalog's rows are in no order
    constant: dict[str, Any] = {
        "status": "rendered", "job": "benchmark", "run": 1, "attempt": 1, "width": 128,
        "height": 128, "num_inference_steps": 20, "worker": "w0", "node": "n0", "device": "cuda",
        "model": "builtin:sprites", "backend": "diffusers", "dtype": "float16",
        "negative_prompt": "", "sigma_schedule": "default", "part": "part.parquet",
    }  # fmt: skip
    ids = [f"t1:{a:016x}{b:016x}" for a, b in digits.tolist()]
    columns: dict[str, Any] = {
        "task_id": ids,
        "image_path": [f"images/{one[3:5]}/a-picture-{one[3:15]}.png" for one in ids],
        "image_sha256": [one[3:] * 2 for one in ids],
        "prompt": [
            f"style {style} of subject number {subject}, on white"
            for style, subject in zip(axis["style"], axis["subject"], strict=True)
        ],
        "seed": axis["seed"],
        "guidance_scale": axis["guidance_scale"] * 1.5,
        "sampler": [f"sampler_{code}" for code in axis["sampler"]],
        "render_ms": np.random.default_rng(1).gamma(4, 30, rows).astype(np.float32),
        "image_bytes": np.random.default_rng(2).integers(20_000, 40_000, rows),
        "finished_at": [START + timedelta(seconds=int(second)) for second in cell // 20],
        "var_style": [f"style {code}" for code in axis["style"]],
        "var_subject": [f"subject {code}" for code in axis["subject"]],
    }
    columns |= {name: [value] * rows for name, value in constant.items()}
    absent = [name for name in SCHEMA.names if name not in columns and name != "vars"]
    columns |= {name: [None] * rows for name in absent}
    return pa.table(columns)


def write_page(folder: Path, rows: int) -> float:
    """Write a page of `rows` generated rows; return the seconds that its data took."""
    start = time.perf_counter()
    exhibit = make_exhibit(catalog(rows), url=str(folder), job=None)
    (folder / "data").mkdir(parents=True)
    for name in page_files():
        (folder / name).write_bytes((PAGE / name).read_bytes())
    for name, data in scripts(exhibit, root="../"):
        if not name.startswith("details"):
            (folder / "data" / name).write_bytes(data)
    seconds = time.perf_counter() - start
    link_images(folder.parent, exhibit.table["image_path"].to_pylist())
    return seconds


def link_images(output: Path, paths: list[str]) -> None:
    """Make links of all these names to one picture."""
    source = output / "image.png"
    source.write_bytes(pictures(128)[0])
    for place in {(output / path).parent for path in paths}:
        place.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (output / path).symlink_to(source)


CHANGES = (
    {"x": "sampler"}, {"y": "var_style"}, {"x": "seed", "y": "sampler"}, {"sx": "guidance_scale"},
    {"x": "", "y": "", "sx": "", "sy": ""}, {"x": "seed", "y": "var_subject"},
    {"color": "render_ms"}, {"sort": "-render_ms"}, {"q": "style 3"}, {"q": ""},
    {"x": "render_ms"}, {"y": "sampler"},
)  # fmt: skip
CHANGE = """async (change) => {
  const start = performance.now();
  farm.set(change);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""
PARSE = """() => {
  const held = Array.from({length: farm.rows}, (_, row) =>
    farm.columns.map((column) => column.value(row)));
  const text = JSON.stringify(held);
  const start = performance.now();
  JSON.parse(text);
  return performance.now() - start;
}"""


def browse(page: Path) -> dict[str, float | str]:
    """Open the page and change its axes; return seconds, milliseconds and the slowest change."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingLibraryError(
            "this benchmark drives a browser", hint="pip install playwright"
        ) from error
    import shutil

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise MissingLibraryError("there is no Chromium", hint="apt-get install chromium")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser)
        tab = chromium.new_page(viewport={"width": 1400, "height": 900})
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]", timeout=60_000)
        ready = tab.evaluate("performance.getEntriesByName('ready')[0].startTime") / 1000
        changes = [tab.evaluate(CHANGE, change) for change in CHANGES]
        tab.evaluate("farm.set({ x: 'seed', y: 'var_subject', sx: '', sy: '' })")
        parse = tab.evaluate(PARSE)
        chromium.close()
    worst = max(range(len(changes)), key=changes.__getitem__)
    return {
        "ready_s": ready,
        "axis_change_ms": statistics.median(changes),
        "axis_change_worst_ms": changes[worst],
        "axis_change_worst": ", ".join(f"{key}={value}" for key, value in CHANGES[worst].items()),
        "json_parse_ms": parse,
        "ready_over_parse": ready * 1000 / parse,
    }


def main() -> int:
    """Measure, print a table and one JSON line; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--rows", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builds = {edge: build(folder / f"out{edge}", asked.images, edge) for edge in EDGES}
        data = write_page(folder / "page" / "gallery", asked.rows)
        size = sum(path.stat().st_size for path in (folder / "page").rglob("rows-*.js"))
        found = browse(folder / "page" / "gallery" / "index.html")
    told = {
        "images": asked.images, "rows": asked.rows, "chunks": -(-asked.rows // ROWS_PER_CHUNK),
        **{f"build_{edge}_s": took for edge, (took, _) in builds.items()},
        **{f"build_{edge}_10000_s": took / asked.images * 10_000
           for edge, (took, _) in builds.items()},
        **{f"build_{edge}_over_pillow": took / alone for edge, (took, alone) in builds.items()},
        "data_s": data, "data_mb": size / 1e6, **found,
    }  # fmt: skip
    for key, value in told.items():
        goal = f"   goal {GOALS[key]:,.0f}" if key in GOALS else ""
        shown = f"{value:>12,.2f}" if isinstance(value, int | float) else f"{value:>12}"
        print(f"{key:>22} {shown}{goal}")
    print(json.dumps(told))
    return int(any(told[key] > goal for key, goal in GOALS.items()))


if __name__ == "__main__":
    sys.exit(main())
