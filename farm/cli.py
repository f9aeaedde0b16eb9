"""The `farm` command: parse, call one function, present.

Results go to stdout, talk to stderr. Nothing heavy is imported before a command needs it, so that
`farm --help` answers at once. Commands stand in the order of work.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farm.errors import ExitCode, FarmError, ManifestError
from farm.version import __version__

if TYPE_CHECKING:
    from farm.engine.requests import Verb
    from farm.manifest import Job

app = typer.Typer(
    name="farm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # with it, help imports Rich's Markdown and takes twice as long
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A batch render farm for diffusion models: one YAML matrix in, images and a Parquet "
    "catalog out.",
    epilog="Exit codes: 0 everything rendered, 1 finished with failed tasks, 2 bad input, "
    "3 cannot run here, 130 interrupted.",
)

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="A job file.", show_default=False)]
Output = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="An output folder or URL.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field or job key; replaces an axis of that name. May be repeated.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Where = Annotated[
    str | None,
    typer.Option(metavar="EXPR", help="Only rows for which this SQL expression holds."),
]


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print versions and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback for every error, ours or yours.")
    ] = False,
) -> None:
    """Hold what every command shares."""
    ctx.obj = {"debug": debug}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if debug:
        os.environ["FARM_DEBUG"] = "1"
    if version:
        print(_versions())
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        raise typer.Exit(ExitCode.BAD_INPUT)


# --- before a run -------------------------------------------------------------------------------


@app.command()
def check(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Job files.")],
    overrides: Overrides = None,
) -> None:
    """Find every problem of job files at once, each with its place."""
    from farm import api

    problems = 0
    for path in jobs:
        try:
            job = api.load_job(path, overrides=overrides or ())
            space = api.expand(job)
        except ManifestError as error:
            problems += len(error.problems)
            for problem in error.problems:
                print(problem)
        else:
            nothing = "" if len(space) else ": exclude, where or sample leave nothing"
            _say(f"{path}: ok, {len(space):,} {_plural('task', len(space))}{nothing}")
    if problems:
        _say(f"{problems} {_plural('problem', problems)}")
        raise typer.Exit(ExitCode.BAD_INPUT)


@app.command()
def plan(
    job: JobFile,
    *,
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many tasks.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Count finished tasks too.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Count failed tasks too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what a submit would do, without loading a model."""
    from farm import api
    from farm.view import summary

    loaded = _load(job, overrides)
    todo = api.plan(loaded, force=force, retry_failed=retry_failed, limit=limit)
    if as_json:
        _print_json({**todo.to_json(), **summary.estimate(todo).to_json()})
    else:
        summary.print_plan(todo, job=loaded)


# --- the run ------------------------------------------------------------------------------------


@app.command()
def submit(
    job: JobFile,
    *,
    executor: Annotated[
        str, typer.Option(help="auto, inline (this process) or ray.", metavar="NAME")
    ] = "auto",
    address: Annotated[
        str | None,
        typer.Option(help="Join the Ray cluster at this address; `auto` finds a local one."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of workers; by default what fits.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Render at most this many.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Render finished tasks again; nothing is replaced.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the tasks that failed before.")
    ] = False,
    overrides: Overrides = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Consent to a matrix above max_tasks.")
    ] = False,
    log: Annotated[
        bool, typer.Option(help="Keep what the run says in the output's `logs/`.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Render what the job describes and the output lacks.

    Submit again after anything: what is finished is never rendered twice.
    """
    from farm import api
    from farm.view import progress, summary

    loaded = _load(job, overrides)
    with progress.open_progress(as_json=as_json, log=log) as reader:
        report = api.submit(
            loaded,
            executor=executor,
            address=address,
            workers=workers,
            limit=limit,
            force=force,
            retry_failed=retry_failed,
            consent=yes,
            on_event=reader,
        )
    if as_json:
        _print_json(report.to_json())
    else:
        changes = (word for text in overrides or () for word in ("--set", text))
        summary.print_report(report, submitted=(job, *changes))
    if report.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if report.failed or report.failed_before:
        raise typer.Exit(ExitCode.FAILED_TASKS)


@app.command()
def status(output: Output, *, as_json: AsJson = False) -> None:
    """Show the state of an output, during a run or after it.

    From the output alone: nothing is asked of Ray or of the driver.
    """
    from farm.view import status as states

    state = states.status(output)
    if as_json:
        _print_json(state.to_json())
    else:
        states.print_status(state)


@app.command()
def watch(
    output: Output,
    interval: Annotated[
        float, typer.Option(min=0.2, help="Seconds between two looks.", metavar="S")
    ] = 2.0,
) -> None:
    """Follow a run from its output, until it ends.

    Ctrl-C ends the watching, not the run.
    """
    from farm.view import status as states

    states.watch(output, interval_s=interval)


@app.command()
def pause(output: Output) -> None:
    """Ask the run in an output to pause.

    Leased chunks are finished, and models stay loaded. To give a GPU back, cancel instead, and
    submit again later.
    """
    _ask(output, "pause")


@app.command()
def resume(output: Output) -> None:
    """Ask the paused run in an output to go on."""
    _ask(output, "resume")


@app.command()
def cancel(output: Output) -> None:
    """Ask the run in an output to end, as Ctrl-C would.

    What is finished is committed; submit the job again for the rest.
    """
    _ask(output, "cancel")


def _ask(output: str, verb: Verb) -> None:
    from farm import api

    if api.ask(output, verb):
        _say(f"asked to {verb}; a run looks for requests every few seconds")
    else:
        _say(f"asked to {verb}, but no run seems to be at work there; farm submit JOB begins one")


# --- what came out ------------------------------------------------------------------------------


@app.command()
def query(
    output: Output,
    sql: Annotated[
        str | None,
        typer.Argument(
            metavar="SQL|VIEW",
            help="A SELECT over the table `catalog`, or the name of a view.",
            show_default=False,
        ),
    ] = None,
    *,
    where: Where = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns to show, separated by commas.", metavar="NAMES")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many rows.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="table, csv, json or parquet.", metavar="FORMAT")
    ] = "table",
    save: Annotated[
        str | None, typer.Option(help="Keep the SQL in the output as a view.", metavar="NAME")
    ] = None,
    views: Annotated[bool, typer.Option("--views", help="List the views there are.")] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Add columns psnr and ssim: how far each picture is from the same cell with this "
            "value, such as backend=torch.",
            metavar="COLUMN=VALUE",
        ),
    ] = None,
) -> None:
    """Ask the catalog: DuckDB SQL over one row per finished task.

    Views are questions with a name: failures, timings, workers, blank, duplicates, and yours.
    """
    from farm.view import query as queries

    if save is not None:
        queries.save_view(output, save, sql, where=where)
    if views:
        queries.print_table(queries.list_views(output), format_=format_)
        return
    wanted = [name.strip() for name in columns.split(",")] if columns else None
    table = queries.query(output, sql, where=where, columns=wanted, limit=limit, compare=compare)
    queries.print_table(table, format_=format_)


@app.command()
def sheet(
    output: Output,
    *,
    x: Annotated[
        str | None,
        typer.Option("--x", metavar="COLUMN", help="Column across; by default chosen."),
    ] = None,
    y: Annotated[
        str | None,
        typer.Option("--y", metavar="COLUMN", help="Column down; by default chosen."),
    ] = None,
    page: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A sheet for each of its values.")
    ] = None,
    super_x: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Groups what stands across.")
    ] = None,
    super_y: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Groups what stands down.")
    ] = None,
    where: Where = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN [desc]",
            help="Order of the pictures in a cell; without axes, one ranking of all.",
        ),
    ] = None,
    diff_against: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=VALUE", help="Show where pictures differ from those with this value."
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Colour a strip below each picture by its number."),
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Light type on a dark page.")] = False,
    tile: Annotated[
        int | None,
        typer.Option(help="Longest side of a picture, pixels; at least 8.", metavar="N"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write: .png, .jpg, .webp; all pages in one: .pdf, .tif. By default a PNG "
            "in the output's sheets/, named after what it shows.",
        ),
    ] = None,
) -> None:
    """Lay the images out on labelled contact sheets."""
    from farm.manifest import SheetSettings
    from farm.view.sheet import make_sheet

    settings = SheetSettings(
        x=x,
        y=y,
        page=page,
        super_x=super_x,
        super_y=super_y,
        where=where,
        sort=sort,
        diff_against=diff_against,
        score=score,
        theme="dark" if dark else "light",
        tile=tile,
    )
    for path in make_sheet(output, settings, out=out):
        print(path)


@app.command()
def gallery(
    output: Output,
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER",
            help="Write here, with copies of the images; by default `gallery` in the output, "
            "without.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Write the explorer: a folder of static files to open in any browser, from anywhere."""
    from farm.explorer.gallery import make_gallery

    made = make_gallery(output, out=out)
    for sentence in made.unreadable:
        _say(f"warning: {sentence}")
    _say(str(made))
    print(made.index)


@app.command()
def serve(
    output: Output,
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on. By default 8765, or a free one."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="What visitors must know. By default a fresh one, where it is needed."),
    ] = None,
    rater: Annotated[
        str | None, typer.Option(help="Whose votes those are that name nobody; by default yours.")
    ] = None,
) -> None:
    """Serve the explorer: live while a job runs, with votes, progress and a form to submit jobs."""
    from farm.explorer import server

    def tell(address: str) -> None:
        print(address, flush=True)
        _say("serving until Ctrl-C; votes are kept in the output")

    server.serve(output, host=host, port=port, token=token, rater=rater, on_start=tell)


@app.command()
def rank(
    output: Output,
    *,
    by: Annotated[str, typer.Option("--by", help="The setting to rank, such as sampler.")],
    as_json: AsJson = False,
) -> None:
    """Rank the values of a setting by the blind comparisons that people made."""
    from farm.view import ranking

    found = ranking.rank(output, by=by)
    if as_json:
        _print_json(found.to_json())
    else:
        ranking.print_ranking(found)


@app.command()
def plot(
    output: Output,
    *,
    x: Annotated[str, typer.Option("--x", help="Column of the catalog across.")],
    y: Annotated[
        str | None,
        typer.Option("--y", help="Column of numbers; without it, images are counted."),
    ] = None,
    hue: Annotated[str | None, typer.Option(help="Column told apart by colour.")] = None,
    where: Where = None,
    title: Annotated[str | None, typer.Option(help="By default the job's name.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Plot a number of the catalog over a setting, apart by another."""
    from farm.view.plot import PlotSettings, make_plot

    settings = PlotSettings(x=x, y=y, hue=hue, where=where, title=title)
    print(make_plot(output, settings, out=out))


@app.command()
def report(
    output: Output,
    *,
    score: Annotated[
        str | None, typer.Option(help="Column that says which images are best.")
    ] = None,
    where: Where = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write: .html.")] = None,
) -> None:
    """Write one HTML page about an output: what ran, timings, failures, best images, sheets."""
    from farm.view.report import make_report

    print(make_report(output, score=score, where=where, out=out))


# --- the store ----------------------------------------------------------------------------------


@app.command()
def verify(
    output: Output,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare sizes only; do not hash the images.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that every catalogued image is there, whole and unaltered."""
    from farm.store import Store

    report = Store.open(output).verify(quick=quick)
    _present(report, as_json=as_json)
    if not report.clean:
        raise typer.Exit(ExitCode.FAILED_TASKS)


@app.command()
def compact(output: Output, *, as_json: AsJson = False) -> None:
    """Merge the catalog's many small parts into few.

    Nothing is lost if it is interrupted.
    """
    from farm.store import Store

    _present(Store.open(output).compact(), as_json=as_json)


@app.command()
def gc(
    output: Output,
    *,
    grace: Annotated[
        float, typer.Option(min=0, help="Leave what is younger than this.", metavar="HOURS")
    ] = 7 * 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what no row of the catalog names.

    These are temporary files left over, retired parts and orphan images.
    """
    from farm.store import Store

    _present(Store.open(output).gc(grace_s=grace * 3600, dry_run=dry_run), as_json=as_json)


@app.command()
def rebuild(output: Output, *, as_json: AsJson = False) -> None:
    """Restore missing catalog rows from the images.

    Every image holds its own row as metadata.
    """
    from farm.store import Store

    _present(Store.open(output).rebuild(), as_json=as_json)


# --- what exists and what works here ------------------------------------------------------------


@app.command()
def samplers(*, as_json: AsJson = False) -> None:
    """List samplers and sigma schedules, with their names elsewhere."""
    from farm.view import listings

    if as_json:
        _print_json(listings.samplers_json())
    else:
        listings.print_samplers()


@app.command()
def models(*, as_json: AsJson = False) -> None:
    """List the models at hand.

    These are the builtin ones, local files and folders, and the hub's cache.
    """
    from farm.view import listings

    if as_json:
        _print_json(listings.models_json())
    else:
        listings.print_models()


@app.command(name="export-onnx")
def export_onnx(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model, as in job files.", show_default=False)
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Where the ONNX bundle goes.", show_default=False),
    ],
    *,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.", metavar="N")] = 23,
    dtype: Annotated[
        str, typer.Option(help="What the UNet computes in: float32, or float16 for CUDA.")
    ] = "float32",
    sizes: Annotated[
        str,
        typer.Option(help="Picture sizes, such as 512x512,512x768; one size is built in."),
    ] = "any",
    optimize: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda: write the graphs for ONNX Runtime there; any: the standard's "
            "operators only. By default what suits the dtype.",
        ),
    ] = None,
    quantize: Annotated[
        str, typer.Option(help="8-bit weights for the CPU: none, dynamic or static.")
    ] = "none",
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="Fuse a LoRA, a .safetensors file; may be repeated.", metavar="FILE[:WEIGHT]"
        ),
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            help="Add a textual inversion, a .safetensors file; may be repeated.",
            metavar="[TOKEN=]FILE",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export a model to an ONNX bundle, and prove that it draws the same pictures."""
    from farm.render.exporting import export_bundle
    from farm.view import listings

    report = export_bundle(
        model,
        folder,
        opset=opset,
        dtype=dtype,
        sizes=sizes,
        optimize=optimize,
        quantize=quantize,
        loras=lora or (),
        embeddings=embedding or (),
        tell=_say,
    ).to_json()
    if as_json:
        _print_json(report)
    else:
        listings.print_export(report)


@app.command()
def doctor(
    output: Annotated[str | None, typer.Argument(help="Also check this output.")] = None,
    *,
    address: Annotated[str | None, typer.Option(help="Also check this Ray cluster.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, and an output or a cluster.

    Libraries, devices, memory, disk, models and Ray, each with what to do about it.
    """
    from farm import doctor as examiner
    from farm.view import listings

    findings = examiner.examine(output=output, address=address)
    if as_json:
        _print_json([finding.to_json() for finding in findings])
    else:
        listings.print_findings(findings)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(ExitCode.CANNOT_RUN)


@app.command()
def bench(
    model: Annotated[str, typer.Argument(help="As in a job file.")] = "builtin:sprites",
    *,
    backend: Annotated[str, typer.Option(help="torch or onnx.")] = "torch",
    images: Annotated[int, typer.Option(min=1, help="Images of the run.", metavar="N")] = 32,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model here, by itself and in a run.

    First its networks with nothing else going on, by batch size: `t_net` and `t_decode`, the
    yardstick of efficiency. Then a run that mixes guidance, samplers and seeds, and where its time
    went. Nothing is kept.
    """
    from farm import api
    from farm.view.bench import print_bench

    measured = api.bench(model, backend=backend, images=images, sets=tuple(overrides or ()))
    if as_json:
        _print_json(measured.to_json())
    else:
        print_bench(measured)


@app.command()
def schema(
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write here instead of to stdout.")
    ] = None,
) -> None:
    """Print the JSON Schema of job files, for editors."""
    from farm.manifest import job_schema

    text = json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


# --- presentation -------------------------------------------------------------------------------


def _load(path: str, overrides: list[str] | None) -> Job:
    from farm import api

    return api.load_job(path, overrides=overrides or ())


def _present(report: Any, *, as_json: bool) -> None:  # noqa: ANN401 - any report of the store
    if as_json:
        _print_json(report.to_json())
    else:
        print(report)


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    lines = [f"farm {__version__}", f"python {sys.version.split()[0]}"]
    for names in _NAMED:
        found = []
        for name in names:
            with suppress(PackageNotFoundError):
                found.append(f"{name} {version(name)}")
        lines += found or [f"{names[0]} not installed"]
    return "\n".join(lines)


_NAMED = (
    *(("torch",), ("diffusers",), ("transformers",)),
    tuple(f"onnxruntime{build}" for build in ("", "-gpu", "-directml", "-openvino")),
    *(("ray",), ("pandas",), ("pyarrow",), ("duckdb",)),
)
"""Libraries whose versions matter; each by the names it may be installed under."""


def main() -> None:
    """Run the command line; print errors meant for people without a traceback."""
    try:
        app()
    except FarmError as error:
        if os.environ.get("FARM_DEBUG"):
            raise
        label = "" if isinstance(error, ManifestError) else "error: "
        _say(f"{label}{error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
