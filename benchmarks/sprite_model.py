"""What the embedded model draws: the words it obeys, and how long a picture takes.

The short form of `python -m sprites evaluate`, whose table stands on the model's card: guidance 4,
20 DDIM steps, plain prompts of random style, colour, subject and background, in batches of 16 on
all cores. Backgrounds and colours are measured on the pixels. A picture's subject is looked for
among all drawings that the recipe fetched, where they are (`python -m sprites data`); elsewhere
that is left out. Goals: backgrounds 95 %, colours 90 %, the subject among the nearest five 70 %,
a second a picture.

    python benchmarks/sprite_model.py [--pictures N]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sprites import data, evaluate, networks  # noqa: E402 - the recipe is no installed package
from sprites.__main__ import HERE, MODEL  # noqa: E402
from sprites.catalogue import Shot, plain_caption  # noqa: E402
from sprites.pictures import Bytes  # noqa: E402

GOALS = {"background": 0.95, "colour": 0.90, "top_5": 0.70}
GOAL_S = 1.0


def taught() -> list[str]:
    """Return the subjects that the committed model was taught, by its own evaluation."""
    found: list[str] = json.loads((MODEL / "evaluation.json").read_text("utf-8"))["subjects taught"]
    return found


def gallery() -> evaluate.Gallery | None:
    """Return every drawing's features, or nothing where the recipe's drawings were not fetched."""
    try:
        drawings = [data.load(HERE / "work", name) for name in ("masters", "strangers")]
    except FileNotFoundError:
        return None
    return evaluate.Gallery(*drawings)


def shares(pictures: Bytes, shots: list[Shot]) -> dict[str, float]:
    """Return what share of the pictures shows the word asked for, by kind of word."""
    found = evaluate.score(gallery(), pictures, shots)
    return {name: value for name in GOALS if (value := getattr(found, name)) is not None}


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=64)
    count = parser.parse_args().pictures
    torch.set_num_threads(os.cpu_count() or 1)
    pipeline = networks.load_pipeline(MODEL)
    shots = evaluate.random_shots(taught(), count, seed=0)
    prompts = [plain_caption(shot) for shot in shots]
    evaluate.render(pipeline, prompts[:1], steps=1)
    started = time.perf_counter()
    pictures = evaluate.render(pipeline, prompts)
    seconds = (time.perf_counter() - started) / count
    found = shares(pictures, shots)
    print(f"{'':28} {'share':>6} {'goal':>6}")
    for name, goal in GOALS.items():
        share = f"{found[name]:6.0%}" if name in found else "     -"
        print(f"{name:28} {share} {goal:6.0%}")
    print(f"{'seconds a picture':28} {seconds:6.2f} {GOAL_S:6.2f}")
    print(
        json.dumps(
            {
                "benchmark": "sprite_model",
                "pictures": count,
                "threads": torch.get_num_threads(),
                "seconds_a_picture": round(seconds, 3),
                **{name: round(share, 3) for name, share in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
