"""What a job file means once it has been read: frozen, typed, nothing left to default.

People write the *template* (YAML with aliases, ranges and files); the machine runs a `Job`. The two
are different types, so nothing downstream can hold a half-filled one, and no spelling that is only
for people (`cfg`, `1..4`, `DPM++ 2M Karras`) survives past this module's makers.

A matrix is a tree of four kinds of node. Every leaf is an `Axis`, a list of *points*; a point says
what it assigns. A plain value assigns one name, a bundle several. Names are those of the catalog:
task fields, and template variables with their `var_` prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from farm.manifest.expression import Expression
from farm.task import Scalar

VAR_PREFIX = "var_"
"""What distinguishes a template variable from a task field, here and in the catalog."""

Point: TypeAlias = Mapping[str, Scalar]
"""What one value of an axis assigns: task fields (typed) and `var_*` variables (text).

Text may still hold `${name}` templates: they are filled in cell by cell, by the grid."""


DEVICE_NAME: Final = re.compile(
    r"(?:con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3]|conin\$|conout\$)"
    r" *(?:\.|$)",
    re.IGNORECASE,
)
"""Begins a name that Windows keeps for a device, whatever follows a dot."""

Spot: TypeAlias = "tuple[str, int | None, int | None]"
"""File, line and column, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A list of points under a name: the leaf of a matrix."""

    name: str
    """The field, or the variable with its `var_` prefix, that the axis was written under."""
    points: tuple[Point, ...]
    labels: tuple[str, ...]
    """One readable label a point, for plans and sheets; a bundle's are the names of its options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Every combination; the first block varies slowest, the last fastest."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Zip:
    """Blocks of equal length walked in step."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """One block after the other."""

    blocks: tuple[Block, ...]


Block: TypeAlias = "Axis | Product | Zip | Union"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A deterministic random subset: `n` cells, in the order of the matrix."""

    n: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """How images are written. Not part of a task's identity: the pixels asked for are the same."""

    format: Literal["png", "webp", "jpeg"] = "png"
    quality: int | None = None
    """1 to 100 for JPEG and lossy WebP; absent means lossless where the format can, else 92."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker asks of the cluster; absent values are decided by the executor."""

    num_gpus: float | None = None
    num_cpus: float | None = None
    accelerator_type: str | None = None
    """Ray's name of a GPU model, such as `L4`."""
    stuck_after_s: float | None = None
    """Seconds without progress, loading included, after which a worker is killed and its tasks go
    to another; 0 never. Absent: 20 times what images have taken, at least five minutes; an hour
    before the first image and while a model loads."""


Theme: TypeAlias = Literal["light", "dark"]
LEAST_TILE = 8
"""Pixels; smaller pictures on a sheet show nothing."""


def _setting(doc: str, default: Any = None) -> Any:  # noqa: ANN401 - as dataclasses.field
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetSettings:
    """What a contact sheet shows.

    Columns are those of the catalog; aliases, and variables without their prefix, will do.
    """

    x: str | None = _setting("Column whose values stand across; by default chosen, as is `y`.")
    y: str | None = _setting("Column whose values stand down.")
    page: str | None = _setting("Column with a page for each of its values.")
    super_x: str | None = _setting("Column that groups the columns of the sheet.")
    super_y: str | None = _setting("Column that groups its rows.")
    where: str | None = _setting("SQL expression; only rows for which it holds.")
    sort: str | None = _setting(
        "Order of the pictures: a column, or `COLUMN desc`. Without axes, one ranking of all."
    )
    diff_against: str | None = _setting(
        "`column=value`: show where each picture differs from the one with that value."
    )
    score: str | None = _setting("Column of numbers that colours a strip below each picture.")
    theme: Theme = _setting("`light` or `dark`.", "light")  # noqa: RUF009 - a field
    tile: int | None = _setting(
        f"Longest side of a picture on the sheet, in pixels, at least {LEAST_TILE}; by default its "
        "own, up to 512."
    )
    file: str | None = _setting(
        "Name of the file in the output's folder `sheets`; its suffix chooses the format. By "
        "default a PNG named after the axes."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One matrix, where its images go, and how they are written."""

    name: str
    output: str
    """A folder, or an fsspec URL."""
    defaults: Point
    """A value for every task field; what no axis assigns."""
    matrix: Block
    exclude: tuple[Expression, ...] = ()
    """Cells for which any of these holds are left out."""
    where: tuple[Expression, ...] = ()
    """Cells for which any of these does not hold are left out."""
    sample: Sample | None = None
    file_name: str | None = None
    """Template of image names below `images/`; absent means the store's default."""
    image: ImageSettings = field(default_factory=ImageSettings)
    resources: Resources = field(default_factory=Resources)
    retries: int = 2
    """How often a task is tried again after a failure that another try may cure."""
    max_tasks: int = 1_000_000
    """A larger matrix asks for consent before it is submitted."""
    sheets: tuple[SheetSettings, ...] = ()
    """Contact sheets to make when a run ends."""
    source: str | None = None
    """The file it was read from, as given."""
    spots: Mapping[tuple[str, Scalar], Spot] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Where each sampler and sigma schedule is first written, by field and value: which of them go
    together shows in cells, and a message about a pair should still have a place."""
