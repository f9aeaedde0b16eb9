"""The cells of a job beside the rows of its catalog: which row answers which, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from farm import grid
from farm.grid import TaskSpace
from farm.manifest.job import VAR_PREFIX, Job
from farm.task import FIELDS, IDENTITY_TAG, format_task_id

MISSING: Final = "missing"
"""`status` of a cell of the job that the catalog has no row for."""
MOST_MISSING: Final = 20_000
"""With more cells to do than this, only their number is told."""

Places: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A catalog with the cells that its job still lacks as rows of status `missing`."""

    table: pa.Table
    places: Places
    """`[rows]`: each row's number in the job; NaN for the rows of other jobs."""
    unseen: int
    """How many cells are missing in the table, because there are more than `MOST_MISSING`."""
    space: TaskSpace | None
    """The job's cells; None where the output knows no job."""


def compare_with_job(catalog: pa.Table, job: Job | None) -> Comparison:
    """Return the catalog's rows and, after them, a row for each task of the job without one.

    Of several cells of one task the first one counts.
    """
    places = np.full(catalog.num_rows, np.nan)
    if job is None:
        return Comparison(table=catalog, places=places, unseen=0, space=None)
    space = grid.expand(job)
    row_of = {text: row for row, text in enumerate(catalog["task_id"].to_pylist())}
    lacking: dict[bytes, int] = {}
    count = 0
    for start, stop in space.blocks():
        for number, coded in enumerate(space.digests(start, stop), start):
            digest = coded.tobytes()
            row = row_of.get(f"{IDENTITY_TAG}:{digest.hex()}")
            if row is not None:
                if np.isnan(places[row]):
                    places[row] = number
            elif digest not in lacking:
                count += 1
                if count <= MOST_MISSING:
                    lacking[digest] = number
    if not lacking or count > MOST_MISSING:
        return Comparison(table=catalog, places=places, unseen=count, space=space)
    cells = cell_rows(space, lacking, job=job.name)
    return Comparison(
        table=pa.concat_tables([catalog, cells], promote_options="permissive"),
        places=np.concatenate([places, np.array(list(lacking.values()), np.float64)]),
        unseen=0,
        space=space,
    )


def cell_rows(space: TaskSpace, numbers: Mapping[bytes, int], *, job: str) -> pa.Table:
    """Return a row for each cell of these digests and numbers: what it asks for, and `missing`."""
    rows = []
    for digest, number in numbers.items():
        task = space[number]
        row: dict[str, Any] = {"task_id": format_task_id(digest), "status": MISSING, "job": job}
        row |= {name: getattr(task, name) for name in FIELDS}
        rows.append(row | {VAR_PREFIX + name: value for name, value in task.vars.items()})
    return pa.Table.from_pylist(rows)
