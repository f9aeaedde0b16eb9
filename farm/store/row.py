"""One row of the catalog: what was asked for, what became of it, and where it is.

A `Row` is a `TaskSpec` and its result. The columns of the catalog follow from it: every field of
`TaskSpec`, `task_id`, `vars`, and every field below, with its text. So a new task field is a new
column, and the documentation of a column is written once.

Three columns say what was *used* where the task says what was *asked for*: `width`, `height` and
`dtype`. Everything else about the task is kept as asked.

A row also travels inside its image, as the JSON of `to_record`, which is enough to make the row
again without any catalog.

Pure: no file, no Arrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from farm.store.looks import Looks, measure_looks
from farm.task import FIELDS, Failed, Rendered, RenderResult, TaskSpec, format_task_id, task_digest
from farm.version import __version__

RECORD_VERSION: Final = 1
"""Version of the JSON inside images."""

Kind: TypeAlias = Literal[
    "text", "word", "words", "int32", "int64", "float32", "float64", "ms", "time"
]
"""Type of a column; a `word` is text that repeats, `words` map text to text, `ms` are durations."""


def _column(doc: str, kind: Kind, **default: Any) -> Any:  # noqa: ANN401 - as dataclasses.field
    return field(metadata={"doc": doc, "kind": kind}, **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image in the store."""

    path: str
    """Relative to the output, with forward slashes."""
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attempt at one task, rendered or failed."""

    task: TaskSpec
    task_id: str = _column("Content hash of everything meant to change pixels.", "text")
    status: Literal["rendered", "failed"] = _column("`rendered` or `failed`.", "word")
    job: str = _column("Name of the job that made this row.", "word")
    run: int = _column("Number of the submit that made this row, from 1.", "int32")
    attempt: int = _column("Which try of the task in that run, from 1.", "int32")
    width: int | None = _column("Width in pixels, of the image if there is one.", "int32")
    height: int | None = _column("Height in pixels, of the image if there is one.", "int32")
    dtype: str = _column("Number type the networks really used, if known.", "word")
    model_sha256: str | None = _column(
        "SHA-256 of the model's weights, hexadecimal.", "word", default=None
    )
    error_kind: str | None = _column("Kind of failure, see the reference.", "word", default=None)
    error_message: str | None = _column("What went wrong.", "word", default=None)
    image_path: str | None = _column(
        "The image's file, relative to the output.", "text", default=None
    )
    image_sha256: str | None = _column(
        "SHA-256 of the image's file, hexadecimal.", "text", default=None
    )
    image_bytes: int | None = _column("Size of the image's file.", "int64", default=None)
    format: str | None = _column("`png`, `webp` or `jpeg`.", "word", default=None)
    mean_color: str | None = _column("Mean colour of the picture, `#rrggbb`.", "text", default=None)
    brightness: float | None = _column(
        "Mean luma of the picture, 0 (black) to 1 (white).", "float32", default=None
    )
    contrast: float | None = _column(
        "RMS contrast: standard deviation of the luma, 0 to 0.5.", "float32", default=None
    )
    sharpness: float | None = _column(
        "Variance of the Laplacian of the 8-bit luma; compare pictures of one size.",
        "float32", default=None,
    )  # fmt: skip
    entropy: float | None = _column(
        "Entropy of the histogram of the luma, 0 (one tone) to 8 bits.", "float32", default=None
    )
    phash: str | None = _column(
        "Perceptual hash, 64 bits in hexadecimal: pictures that look alike differ in few bits.",
        "text", default=None,
    )  # fmt: skip
    alpha_coverage: float | None = _column(
        "Mean opacity, 0 to 1; null for a picture without alpha.", "float32", default=None
    )
    batch_size: int | None = _column(
        "Images that were rendered together with this one, itself included.",
        "int32", default=None,
    )  # fmt: skip
    denoiser_evaluations: int | None = _column(
        "Network evaluations of one row each, conditional and unconditional apart.",
        "int32", default=None,
    )  # fmt: skip
    render_ms: float | None = _column(
        "This image's share of the time its batch took, milliseconds.", "ms", default=None
    )
    encode_ms: float | None = _column(
        "Time to measure, encode and write the image, milliseconds.", "ms", default=None
    )
    started_at: datetime = _column("When the task began, UTC.", "time")  # noqa: RUF009 - a field
    finished_at: datetime = _column("When the task ended, UTC.", "time")  # noqa: RUF009 - a field
    worker: str = _column("Name of the worker.", "word")
    node: str = _column("Name of the machine.", "word")
    device: str | None = _column("Device that rendered, as torch names it.", "word", default=None)
    renderer: str | None = _column(
        "What drew: `lane` (settings mix in one batch), `pipeline` (diffusers' own, also where "
        "backend `torch` does not know the model), or `pattern`.",
        "word", default=None,
    )  # fmt: skip
    farm_version: str = _column("Version of the farm.", "word", default=__version__)
    torch_version: str | None = _column("Version of torch.", "word", default=None)
    diffusers_version: str | None = _column("Version of diffusers.", "word", default=None)

    @property
    def is_rendered(self) -> bool:
        """Whether the row names an image, or will once it is written."""
        return self.status == "rendered"


RESULT_FIELDS: Mapping[str, dataclasses.Field[Any]] = MappingProxyType(
    {entry.name: entry for entry in dataclasses.fields(Row) if entry.metadata}
)
"""The fields of `Row` beside `task`, in order."""
ASKED = tuple(name for name in FIELDS if name not in RESULT_FIELDS)
"""Task fields that the catalog keeps as asked."""
LOOKS = tuple(entry.name for entry in dataclasses.fields(Looks))
"""Columns that describe how the picture looks."""
_IMAGE_FACTS = ("image_path", "image_sha256", "image_bytes", "format")
_FORMATS = {"png": "png", "webp": "webp", "jpg": "jpeg"}


def row_for(
    result: RenderResult,
    *,
    job: str,
    image: StoredImage | None,
    run: int,
    attempt: int,
    worker: str,
    node: str,
    started_at: datetime,
    finished_at: datetime,
    encode_ms: float | None = None,
) -> Row:
    """Return the row of one result.

    A rendered result has its row twice: first without `image`, to be written into the image, then
    with it, to be committed. Times are aware datetimes.
    """
    common: dict[str, Any] = {
        "task": result.task,
        "task_id": format_task_id(task_digest(result.task)),
        "job": job,
        "run": run,
        "attempt": attempt,
        "worker": worker,
        "node": node,
        "started_at": started_at,
        "finished_at": finished_at,
    }
    if (facts := result.facts) is not None:
        common |= {
            "model_sha256": facts.model_sha256,
            "device": facts.device,
            "renderer": facts.renderer,
            "torch_version": facts.torch_version,
            "diffusers_version": facts.diffusers_version,
        }
    match result:
        case Rendered():
            height, width = result.pixels.shape[:2]
            row = Row(
                **common,
                status="rendered",
                width=width,
                height=height,
                dtype=result.facts.dtype,
                batch_size=result.batch_size,
                denoiser_evaluations=result.denoiser_evaluations,
                render_ms=result.render_ms,
                encode_ms=encode_ms,
            )
            row = with_looks(row, measure_looks(result.pixels))
            return with_image(row, image) if image else row
        case Failed():
            return Row(
                **common,
                status="failed",
                width=result.task.width,
                height=result.task.height,
                dtype=result.facts.dtype if result.facts else result.task.dtype,
                error_kind=str(result.kind),
                error_message=result.message,
            )


def with_looks(row: Row, looks: Looks) -> Row:
    """Return `row` with the numbers of its picture."""
    # `asdict` would copy every number first.
    return dataclasses.replace(row, **{name: getattr(looks, name) for name in LOOKS})


def with_image(row: Row, image: StoredImage) -> Row:
    """Return `row` with the facts of its image."""
    suffix = image.path.rpartition(".")[2]
    return dataclasses.replace(
        row,
        image_path=image.path,
        image_sha256=image.sha256,
        image_bytes=image.size,
        format=_FORMATS[suffix],
    )


def row_from_columns(columns: Mapping[str, Any]) -> Row:
    """Return the row that a catalog has as `columns`, without template variables.

    The task's size and number type are those that were used, for those asked for are not kept.
    """
    task = TaskSpec(**{name: columns[name] for name in FIELDS})
    return Row(task=task, **{name: columns[name] for name in RESULT_FIELDS})


_MOST_UNANSWERED: Final = 16
"""Rows that were used alike for which all ways of asking are tried in vain."""


def asked_tasks(rows: Iterable[Mapping[str, Any]]) -> Iterator[TaskSpec | None]:
    """Yield the task that a catalog has as each of `rows`, as it was asked for, without variables.

    The catalog keeps the size and the number type that were used. Those asked for are what gives
    the row's `task_id` in their place: the same, or left to the model. None if neither does, as
    when a model draws in another size than it was told.

    A hash takes its time and rows are many. Those of one job that used the same were mostly asked
    for alike, so what answered for one is tried first for the next; and where several have had no
    answer, nothing else is tried any more.
    """
    learned: dict[tuple[Any, ...], _Ways] = {}
    for columns in rows:
        kind = tuple(columns[name] for name in ("job", "model", "backend", *_USED))
        if kind not in learned:
            learned[kind] = _Ways.of(columns)
        yield learned[kind].asked(columns)


_USED = ("height", "width", "dtype")
"""Fields of which the catalog has what was used."""


@dataclass(slots=True, kw_only=True)
class _Ways:
    """How rows that used the same may have been asked for: values of the fields in `_USED`."""

    answered: list[tuple[Any, ...]]
    """Those that some row was asked for by, the last one first."""
    others: list[tuple[Any, ...]]
    unanswered: int = 0

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> _Ways:
        height, width, used = (columns[name] for name in _USED)
        # What jobs say most comes first.
        sizes = dict.fromkeys([(None, None), (height, width), (height, None), (None, width)])
        dtypes = dict.fromkeys(["auto", used, *FIELDS["dtype"].choices])
        return cls(answered=[], others=[(*size, one) for one in dtypes for size in sizes])

    def asked(self, columns: Mapping[str, Any]) -> TaskSpec | None:
        values = {name: columns[name] for name in FIELDS}
        untried = self.others if self.unanswered < _MOST_UNANSWERED else []
        for way in (*self.answered, *untried):
            task = TaskSpec(**values | dict(zip(_USED, way, strict=True)))
            if format_task_id(task_digest(task)) == columns["task_id"]:
                self.answered = [way, *(one for one in self.answered if one != way)]
                self.others = [one for one in self.others if one != way]
                return task
        self.unanswered += 1
        return None


def to_record(row: Row) -> dict[str, Any]:
    """Return `row` as plain JSON values, without what its image cannot know of itself."""
    task = {name: getattr(row.task, name) for name in FIELDS}
    result: dict[str, Any] = {}
    for name in RESULT_FIELDS:
        value = getattr(row, name)
        if value is None or name in _IMAGE_FACTS:
            continue
        result[name] = value.isoformat() if isinstance(value, datetime) else value
    return {
        "version": RECORD_VERSION,
        "task": {name: value for name, value in task.items() if value is not None},
        "vars": dict(row.task.vars),
        "result": result,
    }


def from_record(record: Mapping[str, Any], *, image: StoredImage) -> Row:
    """Return the row that `to_record` wrote into `image`.

    Raises:
        ValueError: the record is of another version, or damaged.
    """
    if record.get("version") != RECORD_VERSION:
        raise ValueError(f"its record has version {record.get('version')!r}")
    try:
        asked: dict[str, Any] = {
            name: FIELDS[name].coerce(value) for name, value in record["task"].items()
        }
        variables = {str(name): str(value) for name, value in record["vars"].items()}
        task = TaskSpec(**asked, vars=MappingProxyType(variables))
        result = {name: value for name, value in record["result"].items() if name in RESULT_FIELDS}
        for name, entry in RESULT_FIELDS.items():
            if entry.metadata["kind"] == "time":
                result[name] = datetime.fromisoformat(result[name])
        row = Row(task=task, **({"width": None, "height": None} | result))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its record is damaged: {error!r}") from error
    if row.task_id != format_task_id(task_digest(task)):
        raise ValueError("its record and its task id disagree")
    return with_image(row, image)
