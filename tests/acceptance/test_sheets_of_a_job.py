"""Sheets that a job lists are made when its run ends, and never stand in its way."""

from __future__ import annotations

import json
from pathlib import Path

import farm
from farm.engine import Notice
from farm.engine.events import Event
from farm.store import Store

JOB = """
name: three
backend: pattern
defaults: {width: 32, height: 32, prompt: a sword}
matrix:
  sampler: [euler_a, ddim]
  seed: 1..3
sheets:
  - {x: seed, y: sampler}
  - {score: rating, file: rated}
  - {sort: sharpness desc, file: best.pdf}
"""


def test_a_run_makes_its_sheets_and_survives_one_that_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "three.yaml"
    path.write_text(JOB)
    job = farm.load_job(path, overrides=[f"output={tmp_path / 'out'}"])
    told: list[Event] = []
    report = farm.submit(job, executor="inline", on_event=told.append)
    assert (report.rendered, report.failed) == (6, 0)
    [kept] = Store.open(job.output).reports()
    assert kept == json.loads(json.dumps(report.to_json()))
    sheets = tmp_path / "out" / "sheets"
    assert sorted(file.name for file in sheets.iterdir()) == ["best.pdf", "seed-sampler.png"]
    notices = [event.message for event in told if isinstance(event, Notice)]
    unmade = (
        "a sheet could not be made: 'rating' has no values here; a score is a number, such as "
        "sharpness, render_ms or guidance_scale"
    )
    assert notices == [
        f"sheet: {sheets / 'seed-sampler.png'}",
        unmade,
        f"sheet: {sheets / 'best.pdf'}",
    ]
