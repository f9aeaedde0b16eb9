"""What `farm bench` says."""

from __future__ import annotations

import io
import json

from rich.console import Console

from farm.engine.events import RunReport
from farm.view.bench import Bench, bench_view

REPORT = RunReport(
    rendered=8, failed=0, failed_before=0, skipped=0, unfinished=0, seconds=4.0,
    images_per_second=2.0, denoiser_evaluations=120, efficiency=0.8, output="out",
    shared_evaluations=8, time_shares={"network": 0.75, "waiting": 0.25},
)  # fmt: skip
BENCH = Bench(
    model="builtin:sprites", device="cpu", dtype="float32", width=128, height=96,
    network={1: 20.0, 2: 12.5}, decoder={1: 80.0}, report=REPORT, efficiency=0.535,
    write_seconds=0.2,
)  # fmt: skip


def test_it_says_what_a_row_takes_at_best_and_where_the_time_went() -> None:
    stream = io.StringIO()
    Console(file=stream, width=100).print(bench_view(BENCH))
    text = stream.getvalue()
    assert "builtin:sprites 128x96, float32 on cpu" in text
    assert "12.50 ms a row" in text
    assert "80.00 ms a picture" in text
    assert "120, 8 shared" in text
    assert "54% of the isolated times" in text
    assert [line.split() for line in text.splitlines() if "75.0%" in line] == [["network", "75.0%"]]
    assert "5.0%" in text


def test_its_json_has_the_yardstick() -> None:
    found = json.loads(json.dumps(BENCH.to_json()))
    assert (found["t_net_ms"], found["t_decode_ms"]) == (12.5, 80.0)
    assert found["network_ms"] == {"1": 20.0, "2": 12.5}
    assert found["run"]["shared_evaluations"] == 8
