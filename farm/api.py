"""The Python interface: what the commands do, as functions that return values.

Each function behaves as the command of its name, raises `FarmError` where the command would print
one, and never exits the process.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import grid, manifest, planner, samplers
from farm.errors import (
    FarmError,
    InputError,
    ManifestError,
    MissingLibraryError,
    OutputError,
    Problem,
    StoreError,
)
from farm.manifest import Job, SheetProblem, SheetSettings
from farm.task import Scalar

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image

    from farm.engine import RunReport
    from farm.engine.events import Event
    from farm.engine.requests import Verb
    from farm.grid import TaskSpace
    from farm.manifest.job import Theme
    from farm.planner import Plan
    from farm.store import Store
    from farm.view.bench import Bench
    from farm.view.notebook import Gallery
    from farm.view.query import Catalog

EventReader = Callable[["Event"], None]
_THIS_PROCESS = "memory://"
"""Outputs that vanish with the process that wrote them: for tests and trials."""


def load_job(path: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> Job:
    """Read a job file; `overrides` are `field=value` texts, as after `--set`.

    Raises:
        ManifestError: everything that is wrong with the file, at once.
    """
    return manifest.load(
        os.fspath(path), read=_read_text, overrides=tuple(overrides), check_sheets=_check_sheets
    )


def _check_sheets(
    sheets: Sequence[SheetSettings], *, variables: frozenset[str], job: Job | None
) -> Iterable[SheetProblem]:
    """Check the sheets of a job that has some: only then are Arrow and DuckDB needed."""
    from farm.view.foresight import check_sheets

    return check_sheets(sheets, variables=variables, job=job)


def expand(job: Job) -> TaskSpace:
    """Return the job's tasks: a lazy sequence with `len`, `[i]` and iteration.

    Raises:
        ManifestError: the matrix asks for pairs of sampler and schedule that its backend cannot do.
    """
    space = grid.expand(job)
    refused = space.column(("backend", "sampler", "sigma_schedule"), partial(_refused, job)).levels
    if problems := [problem for problem in refused if problem is not None]:
        raise ManifestError(sorted(problems, key=lambda problem: problem.line or 0))
    return space


def _refused(job: Job, pair: Mapping[str, Scalar]) -> Problem | None:
    """Return what is wrong with a pair, at the place of its schedule or, lacking that, sampler."""
    if (problem := _refusal(pair)) is None:
        return None
    spots = (job.spots.get((name, pair[name])) for name in ("sigma_schedule", "sampler"))
    path, line, column = next(filter(None, spots), (job.source or "<job>", None, None))
    return replace(problem, path=path, line=line, column=column)


def _refusal(pair: Mapping[str, Scalar]) -> Problem | None:
    backend, sampler, schedule = (str(value) for value in pair.values())
    if backend == "pattern":
        return None
    reason = samplers.refuse(backend=backend, sampler=sampler, sigma_schedule=schedule)
    if reason is None:
        return None
    never = not samplers.SAMPLERS[sampler].schedules_on(backend)
    cells = f"sampler: {sampler}" + ("" if never else f", sigma_schedule: {schedule}")
    hint = f"leave it out with exclude: [{{{cells}}}]"
    if samplers.table_backends_can(sampler=sampler, sigma_schedule=schedule):
        hint = f"set backend: torch, or {hint}"
    return Problem(message=reason, hint=hint)


def plan(
    job: Job, *, force: bool = False, retry_failed: bool = False, limit: int | None = None
) -> Plan:
    """Return what `submit` would do now, given what the job's output already holds.

    Loads no model and writes nothing.

    Raises:
        ManifestError: the matrix asks for what its backend cannot do.
        OutputError: the output exists and cannot be read, or parts of its catalog are damaged:
            what they name would be rendered again.
    """
    return _plan(expand(job), job=job, force=force, retry_failed=retry_failed, limit=limit)


def _plan(
    space: TaskSpace, *, job: Job, force: bool, retry_failed: bool, limit: int | None
) -> Plan:
    from farm.store import Store

    finished = Store.peek(job.output)
    if finished.unreadable:
        raise OutputError(
            "the catalog has files that cannot be read:\n  " + "\n  ".join(finished.unreadable),
            where=job.output,
            note="the images that they name would be rendered again",
            hint=f"farm rebuild {shlex.quote(job.output)} restores the rows from the images",
        )
    return planner.plan(
        space,
        job=job,
        rendered=finished.rendered,
        failed=finished.failed,
        force=force,
        retry_failed=retry_failed,
        limit=limit,
    )


def submit(
    job: Job,
    *,
    executor: str = "auto",
    address: str | None = None,
    workers: int | None = None,
    limit: int | None = None,
    force: bool = False,
    retry_failed: bool = False,
    consent: bool = False,
    on_event: EventReader | None = None,
) -> RunReport:
    """Render what the job describes and the output lacks; return what happened.

    Ctrl-C and SIGTERM (in the main thread) stop after the batch in flight and commit what is
    finished; a second one stops at once. Failed tasks are rows of the catalog, not exceptions.
    At the end, the sheets that the job lists are made; one that cannot be made is told of as an
    event, and changes nothing else.

    Raises:
        InputError: the matrix is larger than the job's `max_tasks` and `consent` is false, or no
            worker on this machine could run a backend of the job.
        ModelError: a model of the job is not on this machine and is no hub id.
        MissingLibraryError: a library that the job needs is not installed.
        OutputError: the output cannot be written.
        StoreError: the output failed during the run; what was committed stays.
    """
    from farm import engine
    from farm.store import Store

    space = expand(job)
    if len(space) > job.max_tasks and not consent:
        raise InputError(
            f"the matrix has {len(space):,} tasks, more than max_tasks = {job.max_tasks:,}",
            where=job.source,
            hint="look at `farm plan`, then submit with --yes, or raise max_tasks in the job",
        )
    if job.output.startswith(_THIS_PROCESS) and executor == "auto":
        executor = "inline"
    chosen, reason = engine.choose_executor(
        executor, address=address, workers=workers, resources=job.resources
    )
    if job.output.startswith(_THIS_PROCESS) and chosen.name != "inline":
        raise InputError(
            f"{_THIS_PROCESS} exists in one process only, and Ray's workers are others",
            where=job.output,
            hint="use --executor inline, or a folder",
        )
    todo = _plan(space, job=job, force=force, retry_failed=retry_failed, limit=limit)
    is_here = chosen.name == "inline" or engine.cluster_address(address) is None
    if is_here:
        _require_loadable(todo)
    store = Store.open(job.output, create=True)
    tell = on_event or _ignore
    for message in _forewarnings(todo, job=job, store=store, is_here=is_here):
        tell(engine.Notice(message=message))
    store.write_job(manifest.resolve_yaml(job), name=job.name)
    report: RunReport | None = None
    with _stop_on_signal() as stop:
        events = engine.run(todo, job=job, store=store, executor=chosen, reason=reason, stop=stop)
        for event in events:
            tell(event)
            if isinstance(event, engine.RunFinished):
                report = event.report
    assert report is not None, "the last event of a run carries its report"
    _wind_up(job, report, store=store, tell=tell)
    return report


def _require_loadable(todo: Plan) -> None:
    """Refuse what no worker on this machine could load, before it is noted task by task.

    Workers elsewhere may have other models, libraries and devices.

    Raises:
        FarmError: a model is not here, or nothing here runs backend `onnx` as it is asked to.
    """
    from farm.render.exporting import INSTALL_ONNX
    from farm.render.models import resolve_model
    from farm.render.providers import outlook

    keys = [work.key for work in todo.pipelines if work.key.backend != "pattern"]
    for key in keys:
        resolve_model(key.model)
    if dtypes := {key.dtype for key in keys if key.backend == "onnx"}:
        try:
            outlook(sorted(dtypes))
        except ModuleNotFoundError as error:
            raise MissingLibraryError(
                f"library '{error.name}' is not installed, and backend onnx needs it",
                hint=INSTALL_ONNX,
            ) from error


def _forewarnings(todo: Plan, *, job: Job, store: Store, is_here: bool) -> Iterator[str]:
    """Yield what a person may want to know before a run begins; `is_here`: on this machine."""
    from farm.render.exporting import awaits_export

    if (other := _other_job(store, job)) is not None:
        yield (
            f"{store.url} also holds images of job '{other}': both share one catalog, and tasks "
            "that both ask for are rendered once"
        )
    keys = [work.key for work in todo.pipelines if work.key.backend == "onnx"]
    awaited = {key.model for key in keys if is_here and awaits_export(key.model, key.dtype)}
    for model in sorted(awaited):
        yield f"backend onnx: {model} is exported first, once a machine; that takes a minute"


def _wind_up(job: Job, report: RunReport, *, store: Store, tell: EventReader) -> None:
    """Keep what a run did; make the sheets that its job lists, unless it was interrupted."""
    if report.rendered or report.failed:
        with suppress(StoreError):  # the images are safe, whatever is kept of the run
            store.keep_report(report.to_json())
    if report.interrupted or not job.sheets:
        return
    from farm.engine import Notice
    from farm.view.sheet import make_sheet

    for settings in job.sheets:
        try:
            files = make_sheet(report.output, settings)
        except Exception as error:  # noqa: BLE001 - the images are safe; a run never fails for this
            said = error.message if isinstance(error, FarmError) else f"{error!r}"
            hint = f"; {error.hint}" if isinstance(error, FarmError) and error.hint else ""
            tell(Notice(message=f"a sheet could not be made: {said}{hint}"))
        else:
            for file in files:
                tell(Notice(message=f"sheet: {file}"))


def _ignore(_event: Event) -> None:
    """Read an event for a caller who wants none."""


def _other_job(store: Store, job: Job) -> str | None:
    """Return the name of the job that was last submitted to this output, if it is another one."""
    before = store.last_job()
    return before.name if before is not None and before.name != job.name else None


def ask(output: str | os.PathLike[str], verb: Verb) -> bool:
    """Ask the runs in an output to `pause`, `resume` or `cancel`; return whether any seems at work.

    Raises:
        OutputError: there is no output there.
        StoreError: it cannot be written.
    """
    from farm.engine import requests
    from farm.store import Store
    from farm.view.status import status

    requests.ask(Store.open(output).control, verb)
    return status(os.fspath(output)).is_running


def catalog(output: str | os.PathLike[str]) -> Catalog:
    """Return the finished tasks of an output folder or URL, one winning row each."""
    from farm.view.query import catalog as read_catalog

    return read_catalog(os.fspath(output))


def show(
    rows: DataFrame | Catalog | str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    limit: int = 60,
    size: int = 128,
) -> Gallery:
    """Return pictures beside each other for a notebook, each over what tells it from the others.

    Args:
        rows: an output, its catalog, or a frame of one (`farm.catalog(...).to_pandas()`), filtered
            as you like.
        columns: what the captions say.
        limit: pictures at most.
        size: longest side of a picture, pixels.

    Raises:
        InputError: the frame has no column `image_file`, or none of a name in `columns`.
    """
    from farm.view.notebook import gallery

    return gallery(_frame(rows), columns=columns, limit=limit, size=size)


def sheet(
    rows: DataFrame | Catalog | str | os.PathLike[str],
    *,
    x: str | None = None,
    y: str | None = None,
    super_x: str | None = None,
    super_y: str | None = None,
    sort: str | None = None,
    diff_against: str | None = None,
    score: str | None = None,
    theme: Theme = "light",
    tile: int | None = None,
) -> Image:
    """Return a contact sheet as a PIL image; the arguments are those of `farm sheet`.

    Args:
        rows: an output, its catalog, or a frame of one (`farm.catalog(...).to_pandas()`), filtered
            as you like.
        x: column whose values stand across; by default chosen, as is `y`.
        y: column whose values stand down.
        super_x: column that groups the columns of the sheet.
        super_y: column that groups its rows.
        sort: order of the pictures: a column, or `COLUMN desc`.
        diff_against: `column=value`: show where pictures differ from those with that value.
        score: column of numbers that colours a strip below each picture.
        theme: `light` or `dark`.
        tile: longest side of a picture, pixels.

    Raises:
        InputError: there is nothing to show, a column does not exist, an axis has too many values,
            or the sheet is larger than one picture should be.
    """
    from farm.view.sheet import draw_sheet

    settings = SheetSettings(
        x=x, y=y, super_x=super_x, super_y=super_y, sort=sort, diff_against=diff_against,
        score=score, theme=theme, tile=tile,
    )  # fmt: skip
    return draw_sheet(_frame(rows), settings)


def _frame(rows: DataFrame | Catalog | str | os.PathLike[str]) -> DataFrame:
    from farm.view.query import Catalog

    if isinstance(rows, str | os.PathLike):
        rows = catalog(rows)
    return rows.to_pandas() if isinstance(rows, Catalog) else rows


def _read_text(path: str) -> str:
    return Path(path).read_bytes().decode("utf-8")


@contextmanager
def _stop_on_signal() -> Iterator[Any]:
    """Turn SIGINT and SIGTERM into a stop request for as long as a run lasts."""
    from farm.engine import Stop

    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}
    for number in watched:
        signal.signal(number, lambda *_: stop.request())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the yardstick ------------------------------------------------------------------------------


def bench(
    model: str, *, backend: str = "torch", images: int = 32, sets: Sequence[str] = ()
) -> Bench:
    """Measure a model's networks by themselves, then a run that mixes settings.

    Nothing is kept: the run goes to a temporary folder.

    Args:
        model: as in a job file.
        backend: one that renders in lanes.
        images: of the run, at least 1.
        sets: `field=value` texts, as after `--set`: dtype, height, width, num_inference_steps.

    Raises:
        InputError: the backend has no lane, or not for this model.
        ModelError: the model cannot be loaded.
    """
    from farm.render import open_renderer
    from farm.render.lane.renderer import LaneRenderer
    from farm.task import pipeline_key
    from farm.view.bench import Bench

    with tempfile.TemporaryDirectory(prefix="farm-bench-") as folder:
        path = Path(folder, "bench.yaml")
        path.write_text(_bench_job(images), encoding="utf-8")
        settings = (f"model={model}", f"backend={backend}", f"output={Path(folder, 'out')}", *sets)
        job = load_job(path, overrides=settings)
        task = expand(job)[0]
        renderer = open_renderer(pipeline_key(task), device="auto")
        try:
            if not isinstance(renderer, LaneRenderer):
                raise InputError(
                    f"backend {backend} does not draw model '{model}' in a lane",
                    hint="bench measures Stable Diffusion 1, 2 and XL on backends torch and onnx",
                )
            paces = renderer.measure(task, seconds=_BENCH_SECONDS)
            height, width = renderer.size_of(task)
            facts = renderer.facts
        finally:
            renderer.close()
        written: list[float] = []

        def listen(event: Event) -> None:
            written.append(getattr(event, "write_seconds", 0.0))

        report = submit(job, executor="inline", limit=images, consent=True, on_event=listen)
    best = report.denoiser_evaluations * paces.network.best + report.rendered * paces.decoder.best
    return Bench(
        model=model,
        device=facts.device,
        dtype=facts.dtype,
        width=width,
        height=height,
        network={rows: 1e3 * seconds for rows, seconds in paces.network.times.items()},
        decoder={rows: 1e3 * seconds for rows, seconds in paces.decoder.times.items()},
        report=report,
        efficiency=best / report.seconds if report.seconds else 0.0,
        write_seconds=sum(written),
    )


_BENCH_SECONDS = 10.0
"""For each network; a large one on a CPU takes longer, because each size is tried in full."""


def _bench_job(images: int) -> str:
    """Return a job file with at least so many tasks; the first ones are always the same."""
    seeds = max(64, math.ceil(images / _BENCH_CELLS))
    return f"{_BENCH_JOB}  seed: 1..{seeds}\nsample: {{n: {max(256, images)}, seed: 1}}\n"


_BENCH_JOB = """\
name: bench
sheets: []
defaults:
  num_inference_steps: 20
matrix:
  prompt: [a red sword, a wooden shield]
  guidance_scale: [1.0, 4.0, 7.5]
  sampler: [euler_a, dpmpp_2m, ddim]
"""
_BENCH_CELLS = 18
"""Of each seed."""
