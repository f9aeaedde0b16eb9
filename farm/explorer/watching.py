"""What the page of a run shows, from the output alone: counts, workers, failures, logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from farm.view.status import status

RECENT: Final = timedelta(minutes=5)
"""Span over which a worker's speed is measured."""
MOST_FAILURES: Final = 200


def overview(output: str, table: pa.Table, *, kept: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of an output as JSON values.

    Args:
        output: folder or URL.
        table: its catalog, as an exhibit has it.
        kept: the logs that lie in it.

    Raises:
        OutputError: there is no readable output.
    """
    return {
        "status": status(output).to_json(),
        "workers": workers(table),
        "failures": failures(table),
        "logs": list(kept),
    }


def workers(table: pa.Table) -> list[dict[str, Any]]:
    """Return the workers of the last run: what each one finished, and how fast it is now."""
    rows = table.filter(pc.is_valid(table["run"])) if "run" in table.column_names else table[:0]
    if not rows.num_rows:
        return []
    rows = rows.filter(pc.equal(rows["run"], pc.max(rows["run"])))
    end: datetime = pc.max(rows["finished_at"]).as_py()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    columns = ("worker", "node", "device", "status", "finished_at")
    for row in rows.select(columns).to_pylist():
        one = found.setdefault(
            (row["node"], row["worker"]),
            {"worker": row["worker"], "node": row["node"], "device": row["device"],
             "rendered": 0, "failed": 0, "first": None, "last": None, "recent": 0},
        )  # fmt: skip
        one[row["status"]] += 1
        when = row["finished_at"]
        one["device"] = one["device"] or row["device"]
        one["last"] = max(one["last"] or when, when)
        if when > end - RECENT:
            one["recent"] += row["status"] == "rendered"
            one["first"] = min(one["first"] or when, when)
    return [_told(one, end) for _, one in sorted(found.items())]


def _told(one: dict[str, Any], end: datetime) -> dict[str, Any]:
    span = (end - one.pop("first")).total_seconds() if one["first"] else 0.0
    one.pop("first", None)
    recent = one.pop("recent")
    speed = recent / span if span > 1 else None
    return one | {"last": one["last"].astimezone(UTC).isoformat(), "images_per_second": speed}


def failures(table: pa.Table) -> list[dict[str, Any]]:
    """Return the latest failed tasks: kind, message, and what was asked for."""
    rows = table.filter(pc.equal(table["status"], "failed"))
    if "finished_at" in rows.column_names:
        rows = rows.sort_by([("finished_at", "descending")])
    wanted = ("task_id", "error_kind", "error_message", "prompt", "seed", "node", "worker")
    names = [name for name in wanted if name in rows.column_names]
    found: list[dict[str, Any]] = rows.slice(0, MOST_FAILURES).select(names).to_pylist()
    for row in found:
        row["id"] = row["task_id"].partition(":")[2][:12]
        row["seed"] = str(row["seed"])
    return found
