"""What it costs to measure how a picture looks, beside what it costs to encode it.

Every image is measured in the threads that encode and write it. Processor time, the least of many
tries, on smooth noise; PNG is encoded as the store does. Goal: less than half a millisecond for
128 x 128 pixels.

    python benchmarks/looks.py [--tries N]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from PIL import Image

from farm.manifest.job import ImageSettings
from farm.store import encode_image, row_for
from farm.store.looks import measure_looks
from farm.task import Rendered, RenderFacts, TaskSpec

SIDES = (128, 512, 1024)
GOAL_MS = 0.5


def least_ms(act: Callable[[], object], tries: int) -> float:
    """Return the least processor time that `act` took, milliseconds."""
    seen = []
    for _ in range(tries):
        started = time.thread_time()
        act()
        seen.append(time.thread_time() - started)
    return min(seen) * 1e3


def measure(side: int, tries: int) -> tuple[float, float]:
    """Return the time to measure and the time to encode a picture, milliseconds."""
    rng = np.random.default_rng(20260517)
    grain = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
    pixels = np.asarray(grain.resize((side, side), Image.Resampling.BICUBIC))
    moment = datetime(2026, 5, 17, tzinfo=UTC)
    result = Rendered(
        task=TaskSpec(prompt="a sword"), pixels=pixels, render_ms=1.0, batch_size=1,
        denoiser_evaluations=1, facts=RenderFacts(dtype="float32", device="cpu"),
    )  # fmt: skip
    row = row_for(
        result, job="looks", image=None, run=1, attempt=1, worker="w", node="n",
        started_at=moment, finished_at=moment,
    )  # fmt: skip
    settings = ImageSettings()
    return (
        least_ms(lambda: measure_looks(pixels), tries),
        least_ms(lambda: encode_image(pixels, settings, row), tries),
    )


def main() -> int:
    """Measure, and print a table for people and a line for machines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tries", type=int, default=50)
    tries = parser.parse_args().tries
    seen: dict[str, float] = {}
    print(f"{'pixels':>12} {'measure':>10} {'encode':>10} {'share':>7}   milliseconds")
    for side in SIDES:
        looks, encode = measure(side, tries)
        seen |= {f"looks_{side}_ms": looks, f"encode_{side}_ms": encode}
        goal = f"   (goal {GOAL_MS:g})" if side == SIDES[0] else ""
        size = f"{side} x {side}"
        print(f"{size:>12} {looks:10.3f} {encode:10.3f} {looks / encode:7.0%}{goal}")
    print(json.dumps({"benchmark": "looks", **seen}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
