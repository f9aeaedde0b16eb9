"""A driver in a process of its own, for tests that kill it.

Usage: driver.py EXECUTOR[@ADDRESS] OUTPUT MODEL SEEDS PROMPT...

Writes its process id into the model's folder, heeds SIGINT and SIGTERM as the command line does,
and prints one JSON object an event.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from farm.engine import Stop, choose_executor
from tests.engine.scenes import make_job, play


def main() -> None:
    executor, output, model, seeds, *prompts = sys.argv[1:]
    job = make_job(Path(output), prompts=prompts, models=[Path(model)], seeds=range(int(seeds)))
    (Path(model) / "driver.pid").write_text(str(os.getpid()))
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.request())
    name, _, address = executor.partition("@")
    workers = 2 if executor == "ray" else None
    chosen, _ = choose_executor(name, address=address or None, workers=workers)
    for event in play(job, chosen, stop=stop):
        print(json.dumps(event.to_json()), flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main()
