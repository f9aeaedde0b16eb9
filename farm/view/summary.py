"""Before and after a run: what a submit would do, and what one has done, as people read it.

Everything here is text made of a `Plan` or a `RunReport`, both of which have a `to_json` of their
own for scripts. Where a number is an estimate, it comes from what this output has measured before,
and is not given otherwise.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as TextTable
from rich.text import Text

from farm.errors import InputError, OutputError
from farm.manifest.job import VAR_PREFIX, Job
from farm.planner import Plan
from farm.render.providers import outlook
from farm.store import Store
from farm.view.words import clock_time, count, data_size, one_line, rate, rough_time, shorten

if TYPE_CHECKING:
    from farm.engine.events import RunReport, WorkerSummary
    from farm.store.catalog import Table


def stdout() -> Console:
    """Return the console of results: colours on a terminal, plain text into a pipe or a file."""
    return Console(highlight=False, soft_wrap=False)


def present(view: RenderableType) -> None:
    """Print a view to stdout; without the spaces that only fill a terminal's lines."""
    console = stdout()
    if console.is_terminal:
        console.print(view, crop=False)
        return
    with console.capture() as capture:
        console.print(view, crop=False)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    sys.stdout.write("\n".join(lines) + "\n")


def facts_table(facts: Iterable[tuple[str, str | Text]], *, indent: int = 2) -> RenderableType:
    """Return names and values as two aligned columns."""
    table = TextTable.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, value)
    return Padding(table, (0, 0, 0, indent))


def list_table(*columns: str, right: Iterable[str] = ()) -> TextTable:
    """Return an empty table with these column names; those in `right` hold numbers."""
    table = TextTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        is_number = name in right
        table.add_column(
            name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    return table


def place(output: str) -> str:
    """Return an output as one types it here: relative where that is shorter, quoted if need be."""
    if "://" not in output:
        relative = os.path.relpath(output)
        output = relative if len(relative) < len(output) else output
    return shlex.quote(output)


# --- before -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a plan will take, from what the same output has measured, and what will run it.

    None where nothing was measured.
    """

    device_seconds: float | None
    """Time on one device, without loading models."""
    image_bytes: int | None
    onnx_provider: str | None = None
    """What runs the networks of backend `onnx` on this machine; None if nothing asks for it."""

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return asdict(self)


_MEASURED = (
    *("status", "backend", "model"),
    *("render_ms", "denoiser_evaluations", "image_bytes", "width", "height"),
)


@dataclass(slots=True, kw_only=True)
class _Measured:
    """What the images of one model on one backend took together."""

    images: int = 0
    milliseconds: float = 0.0
    evaluations: int = 0
    image_bytes: int = 0
    pixels: int = 0


def estimate(plan: Plan) -> Estimate:
    """Estimate a plan by the images that its output already has, and by this machine.

    Raises:
        OutputError: the output exists and cannot be read.
    """
    return replace(_estimate_by_images(plan), onnx_provider=_onnx_outlook(plan))


def _onnx_outlook(plan: Plan) -> str | None:
    """Return what will run the networks of backend `onnx` on this machine; None if none are asked.

    Workers on other machines choose by what they find there.
    """
    dtypes = {work.key.dtype for work in plan.pipelines if work.key.backend == "onnx"}
    if not dtypes:
        return None
    try:
        return str(outlook(sorted(dtypes)))
    except ModuleNotFoundError:
        return "nothing: ONNX Runtime is not installed here"
    except InputError as error:
        return f"nothing: {error.message}" + (f"; {error.hint}" if error.hint else "")


def _estimate_by_images(plan: Plan) -> Estimate:
    """Estimate a plan by the images that its output already has of the same models and backends.

    Time goes by the network evaluation (by the image where there is no network), bytes by the
    pixel, so images of other step counts and sizes count as well. What one of the plan's models
    takes is unknown until there is an image of it, and then so is the whole.

    Raises:
        OutputError: the output exists and cannot be read.
    """
    try:
        rows = Store.open(plan.output).table(_MEASURED)
    except OutputError:
        return Estimate(device_seconds=None, image_bytes=None)
    measured = _measure(rows)
    known = [measured.get((work.key.backend, work.key.model)) for work in plan.pipelines]
    if any(one is None for one in known):
        return Estimate(device_seconds=None, image_bytes=None)
    milliseconds, image_bytes, pixels = 0.0, 0, 0
    for work, one in zip(plan.pipelines, known, strict=True):
        assert one is not None, "just seen"
        if work.denoiser_evaluations and one.evaluations:
            milliseconds += one.milliseconds / one.evaluations * work.denoiser_evaluations
        else:
            milliseconds += one.milliseconds / one.images * work.tasks
        image_bytes += one.image_bytes
        pixels += one.pixels
    return Estimate(
        device_seconds=milliseconds / 1000,
        image_bytes=round(image_bytes / pixels * plan.pixels) if plan.pixels and pixels else None,
    )


def _measure(rows: Table) -> dict[tuple[str, str], _Measured]:
    """Return what rendered `rows` took, by backend and model."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = rows.filter(pc.equal(rows["status"], "rendered"))
    area = pc.multiply(rows["width"].cast(pa.int64()), rows["height"].cast(pa.int64()))
    sums = ("render_ms", "denoiser_evaluations", "image_bytes", "pixels")
    groups = rows.append_column("pixels", area).group_by(["backend", "model"])
    table = groups.aggregate([([], "count_all"), *((name, "sum") for name in sums)])
    return {
        (row["backend"], row["model"]): _Measured(
            images=row["count_all"],
            milliseconds=row["render_ms_sum"] or 0.0,
            evaluations=row["denoiser_evaluations_sum"] or 0,
            image_bytes=row["image_bytes_sum"] or 0,
            pixels=row["pixels_sum"] or 0,
        )
        for row in table.to_pylist()
    }


def print_plan(plan: Plan, *, job: Job) -> None:
    """Print what a submit would do."""
    present(plan_view(plan, job=job, expected=estimate(plan)))


def plan_view(plan: Plan, *, job: Job, expected: Estimate) -> RenderableType:
    """Return what a submit would do, for a terminal."""
    lines: list[RenderableType] = [
        Text.assemble((job.name, "bold"), f" into {place(plan.output)}"),
        "",
        facts_table(_axes(plan)),
        "",
        facts_table(_counts(plan)),
    ]
    if plan.pipelines:
        work = list_table(
            "model", "backend", "dtype", "tasks", "evaluations", right=("tasks", "evaluations")
        )
        for pipeline in plan.pipelines:
            key = pipeline.key
            numbers = (f"{pipeline.tasks:,}", f"{pipeline.denoiser_evaluations:,}")
            work.add_row(key.model, key.backend, key.dtype, *numbers)
        lines += ["", Padding(work, (0, 0, 0, 2)), "", facts_table(_expected(plan, expected))]
    return Group(*lines)


def _axes(plan: Plan) -> Iterator[tuple[str, str]]:
    for name, labels in plan.space.axes.items():
        values = shorten(", ".join(labels[:40]), 60)
        yield name.removeprefix(VAR_PREFIX), f"{len(labels):>5,}  {values}"


def _counts(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "tasks", f"{plan.tasks:>5,}"
    if plan.unique_tasks < plan.tasks:
        yield "different ones", f"{plan.unique_tasks:>5,}  equal tasks are rendered once"
    if plan.done:
        yield "rendered", f"{plan.done:>5,}"
    if plan.failed:
        yield "failed before", f"{plan.failed:>5,}  --retry-failed tries them again"
    yield "to render", f"{plan.to_render:>5,}"


def _expected(plan: Plan, expected: Estimate) -> Iterator[tuple[str, str]]:
    yield "evaluations", f"{plan.denoiser_evaluations:,} of the network, if none are shared"
    loads = count(plan.model_loads, "model load") + " by each worker that takes part"
    yield "work", f"{loads}, about {count(plan.chunks, 'chunk')}"
    if expected.onnx_provider is not None:
        yield "backend onnx", f"here on {expected.onnx_provider}"
    if expected.device_seconds is not None:
        yield "time", f"about {rough_time(expected.device_seconds)} on one device like before"
    else:
        yield "time", "unknown until this output has images; try submit --limit 20"
    if expected.image_bytes is not None:
        yield "disk", f"about {data_size(expected.image_bytes)}"
    elif plan.pixels is not None:
        yield "disk", f"at most {data_size(3 * plan.pixels)}"


# --- after --------------------------------------------------------------------------------------


def print_report(report: RunReport, *, submitted: Sequence[str]) -> None:
    """Print what a run did, and what to do next.

    Args:
        report: of the run.
        submitted: the job file as it was typed, with what changes it: `("job.yaml", "--set", ...)`.
    """
    messages = example_messages(Store.open(report.output), run=report.run) if report.failed else {}
    present(report_view(report, submitted=submitted, messages=messages))


def example_messages(store: Store, *, run: int | None = None) -> Mapping[str, str]:
    """Return one message for each kind of failure: the commonest of a run, or of the catalog."""
    import pyarrow.compute as pc

    table = store.table(("status", "error_kind", "error_message", "run"))
    failed = table.filter(pc.equal(table["status"], "failed"))
    if run is not None:
        failed = failed.filter(pc.equal(failed["run"], run))
    counts = failed.group_by(["error_kind", "error_message"]).aggregate([([], "count_all")])
    examples: dict[str, str] = {}
    for row in counts.sort_by(
        [("count_all", "descending"), ("error_message", "ascending")]
    ).to_pylist():
        examples.setdefault(row["error_kind"] or "unknown", row["error_message"] or "")
    return examples


def report_view(
    report: RunReport, *, submitted: Sequence[str], messages: Mapping[str, str]
) -> RenderableType:
    """Return what a run did, for a terminal; `messages` has an example for each kind of failure."""
    lines: list[RenderableType] = [_outcome(report), facts_table(_numbers(report))]
    if report.failures:
        lines += ["", failures_view(report.failures, messages)]
    lines += ["", Text("next", style="dim")]
    lines += [
        Text(f"  {command}", no_wrap=True, overflow="ignore")
        for command in _next_commands(report, submitted)
    ]
    return Group(*lines)


def _outcome(report: RunReport) -> Text:
    bad = report.failed or report.failed_before
    style = "bold yellow" if report.interrupted else "bold red" if bad else "bold green"
    parts = [f"{report.rendered:,} rendered"]
    if not (report.rendered or report.failed or report.unfinished):
        parts = ["nothing to render"]
    if report.failed:
        parts.append(f"{report.failed:,} failed")
    if report.failed_before:
        parts.append(f"{report.failed_before:,} failed before")
    if report.skipped:
        parts.append(f"{report.skipped:,} skipped")
    if report.unfinished:
        parts.append(f"{report.unfinished:,} left to do")
    return Text(("interrupted: " if report.interrupted else "") + ", ".join(parts), style=style)


def _numbers(report: RunReport) -> Iterator[tuple[str, str]]:
    yield "output", place(report.output)
    if report.rendered or report.failed:
        speed = f", {rate(report.images_per_second)}" if report.images_per_second else ""
        yield "time", f"{clock_time(report.seconds)}{speed}"
    if report.denoiser_evaluations:
        shared = report.shared_evaluations
        more = f", and {shared:,} that another image had made already" if shared else ""
        yield "evaluations", f"{report.denoiser_evaluations:,} of the network{more}"
    if report.efficiency is not None:
        yield "efficiency", f"{report.efficiency:.0%} of what the hardware can do at best"
    if spent := [f"{name} {share:.0%}" for name, share in _largest(report.time_shares)]:
        yield "spent on", ", ".join(spent)
    if len(report.workers) > 1:
        for worker in report.workers:
            yield worker.worker, _worker_line(worker)


_LEAST_SHARE = 0.005
"""Of the time; what rounds to nothing is not told."""


def _largest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    told = [(name, share) for name, share in shares.items() if share >= _LEAST_SHARE]
    return sorted(told, key=lambda entry: -entry[1])


def _worker_line(worker: WorkerSummary) -> str:
    of = "" if worker.efficiency is None else f", efficiency {worker.efficiency:.0%}"
    return f"{count(worker.rendered, 'image')}{of} ({worker.device} of {worker.node})"


def failures_view(kinds: Mapping[Any, int], messages: Mapping[str, str]) -> RenderableType:
    """Return failures by kind with an example each, the most frequent first."""
    table = list_table("failed", "kind", "for example", right=("failed",))
    for kind, number in sorted(kinds.items(), key=lambda item: (-item[1], str(item[0]))):
        message = shorten(one_line(messages.get(str(kind), "")), 200)
        table.add_row(f"{number:,}", Text(str(kind), style="red"), Text(message))
    return Padding(table, (0, 0, 0, 2))


_EXAMPLE = "select sampler, count(*), avg(render_ms) from catalog group by all"


def _next_commands(report: RunReport, submitted: Sequence[str]) -> Sequence[str]:
    output, job = place(report.output), shlex.join(submitted)
    commands = []
    if report.interrupted or report.unfinished:
        commands.append(f"farm submit {job}")
    if report.failed or report.failed_before:
        question = f"{output} --where \"status = 'failed'\" --columns prompt,seed,error_message"
        commands.append(f"farm query {question}")
        commands.append(f"farm submit {job} --retry-failed")
    if report.rendered or report.skipped:
        commands.append(f"farm sheet {output}")
        commands.append(f'farm query {output} "{_EXAMPLE}"')
    return commands
