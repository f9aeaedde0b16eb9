"""Writing a job back as YAML with nothing left to default: enough to repeat it in a year.

Ranges, files, random seeds and includes appear as the values they meant, so that the text depends
on no other file and on no rule of a later version. `load` reads it back to an equal job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

from farm.manifest.document import write_document
from farm.manifest.job import VAR_PREFIX, Axis, Block, Job, Product, Union, Zip
from farm.task import FIELDS, Scalar
from farm.version import __version__

_RUN = 100
"""From this many on, consecutive whole numbers are written as a range."""


def resolve_yaml(job: Job) -> str:
    """Return the resolved job as the text of a job file."""
    content: dict[str, Any] = {
        "name": job.name,
        "output": job.output,
        "defaults": {name: job.defaults[name] for name in FIELDS if job.defaults[name] is not None},
        "matrix": _block(job.matrix),
        "exclude": [expression.text for expression in job.exclude],
        "where": [expression.text for expression in job.where],
        "sample": job.sample and {"n": job.sample.n, "seed": job.sample.seed},
        "file_name": job.file_name,
        "image": _settled({"format": job.image.format, "quality": job.image.quality}),
        "resources": _settled(
            {
                "num_gpus": job.resources.num_gpus,
                "num_cpus": job.resources.num_cpus,
                "accelerator_type": job.resources.accelerator_type,
                "stuck_after_s": job.resources.stuck_after_s,
            }
        ),
        "retries": job.retries,
        "max_tasks": job.max_tasks,
        "sheets": [_settled(asdict(sheet)) for sheet in job.sheets],
    }
    comment = (
        f"The resolved job, written by farm {__version__}: every value is explicit.\n"
        "`farm submit` repeats it as it stands."
    )
    return write_document(
        {key: value for key, value in content.items() if value not in (None, [], {})},
        comment=comment,
    )


def _settled(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None}


def _block(block: Block) -> dict[str, Any]:
    match block:
        case Axis():
            return {block.name.removeprefix(VAR_PREFIX): _values(block)}
        case Product(blocks=()):
            return {}
        case Product(blocks=(_, _, *_) as axes) if _are_axes(axes):
            return _merged(axes)
        case Product(blocks=blocks):
            return {"product": _combined(blocks)}
        case Zip(blocks=blocks):
            return {"zip": _combined(blocks)}
        case Union(blocks=blocks):
            return {"union": [_block(child) for child in blocks]}


def _combined(blocks: tuple[Block, ...]) -> dict[str, Any] | list[dict[str, Any]]:
    """Return axes as one mapping, and blocks of other kinds as a list."""
    return _merged(blocks) if _are_axes(blocks) else [_block(child) for child in blocks]


def _merged(axes: tuple[Block, ...]) -> dict[str, Any]:
    return {name: values for axis in axes for name, values in _block(axis).items()}


def _are_axes(blocks: tuple[Block, ...]) -> bool:
    return all(isinstance(block, Axis) for block in blocks)


def _values(axis: Axis) -> list[Scalar] | dict[str, Any]:
    if axis.name.startswith(VAR_PREFIX) and any(len(point) > 1 for point in axis.points):
        return {
            label: {
                name.removeprefix(VAR_PREFIX): value
                for name, value in point.items()
                if name != axis.name
            }
            for label, point in zip(axis.labels, axis.points, strict=True)
        }
    if axis.name == "sampler":
        # A point that also sets the schedule reads back from the sampler's two-word name.
        return [" ".join(map(str, point.values())) for point in axis.points]
    return list(_shortened([point[axis.name] for point in axis.points]))


def _shortened(values: list[Scalar]) -> Iterator[Scalar]:
    """Yield the values with long runs of consecutive whole numbers written as `a..b`."""
    places = enumerate(values)
    # Within a run, the distance between value and place is the same.
    for distance, run in groupby(places, key=lambda at: type(at[1]) is int and at[1] - at[0]):
        found = [value for _, value in run]
        if distance is not False and len(found) >= _RUN:
            yield f"{found[0]}..{found[-1]}"
        else:
            yield from found
