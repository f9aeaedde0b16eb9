"""Fill in what the documentation says about the code: `make docs`.

Pages are written by hand, except for regions that begin with `<!-- generated: NAME -->` and end
with `<!-- end -->`. Those are tables made of the code itself: task fields, the command tree, the
sampler table, the catalog's schema, the error classes. The JSON Schemas in `manifests/` are derived
as a whole.

`derived()` returns what the files should say, so a test can tell whether they do.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import typer

import farm
from farm import cli, errors, planner, samplers
from farm.engine import events
from farm.engine.decide import CURABLE
from farm.engine.events import Event, RunReport
from farm.errors import ExitCode, FarmError
from farm.grid import expand
from farm.manifest import SheetSettings, job_schema, load, matrix_schema
from farm.planner import Plan
from farm.store import layout
from farm.store.catalog import COLUMNS, SCHEMA
from farm.store.votes import CHOICES
from farm.task import DIGEST_BYTES, FIELDS, FailureKind, FieldInfo
from farm.view.summary import Estimate

ROOT = Path(__file__).resolve().parents[1]
REGION = re.compile(
    r"(?P<head><!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(?P<tail><!-- end -->)",
    re.DOTALL,
)

Row = Sequence[str]


def derived() -> Mapping[str, str]:
    """Return the text of every file with something derived, by its path from the root."""
    found = {
        "manifests/job.schema.json": _as_json(job_schema()),
        "manifests/matrix.schema.json": _as_json(matrix_schema()),
    }
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if REGION.search(text):
            found[path.relative_to(ROOT).as_posix()] = REGION.sub(_filled, text)
    return found


def _filled(region: re.Match[str]) -> str:
    body = REGIONS[region["name"]]()
    return f"{region['head']}\n{body.strip()}\n\n{region['tail']}"


def _as_json(value: object) -> str:
    """Return JSON as `farm schema` writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# --- Markdown -----------------------------------------------------------------------------------


def table(head: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return text as a cell: one line, without what would end the cell or read as HTML."""
    line = " ".join(text.split()).replace("|", "\\|")
    pieces = line.split("`")  # every second piece is code, where an angle bracket is itself
    return "`".join(
        piece if i % 2 else piece.replace("<", "&lt;") for i, piece in enumerate(pieces)
    )


def code(value: object) -> str:
    """Return a value as inline code, nothing for None."""
    return "" if value is None else f"`{value}`"


def paragraphs(docstring: str | None) -> list[str]:
    """Return the paragraphs of a docstring, without its `Attributes:` and `Raises:` sections."""
    blocks = inspect.cleandoc(docstring or "").split("\n\n")
    return [block for block in blocks if not block.startswith(("Attributes:", "Raises:"))]


def attribute_docs(kind: type) -> Mapping[str, str]:
    """Return the text that a class has about each attribute and property, by its name."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {
        name: paragraphs(member.__doc__)[0]
        for name, member in vars(kind).items()
        if isinstance(member, property)
    }
    for statement, below in zip(body.body, body.body[1:], strict=False):
        match statement, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                found[name] = inspect.cleandoc(text)
    return found


# --- the command line ---------------------------------------------------------------------------


def command_list() -> str:
    """Return the table of commands, in the order of work."""
    return table(
        ("command", "does"),
        (
            (f"[`{name}`](#farm-{name})", paragraphs(command.help)[0])
            for name, command in _root().commands.items()
        ),
    )


def common_options() -> str:
    """Return the table of what may stand before a command, and of `--help`."""
    about = ("`--help`, `-h`", "Show the help of `farm` or of one command, and exit.")
    return table(("option", "meaning"), [*_parameter_rows(_root()), about])


def commands() -> str:
    """Return one section a command."""
    blocks = []
    for name, command in _root().commands.items():
        blocks += [f"## farm {name}", *paragraphs(command.help)]
        blocks.append(f"```text\n{_usage(name, command)}\n```")
        if rows := list(_parameter_rows(command)):
            blocks.append(table(("argument or option", "meaning"), rows))
    return "\n\n".join(blocks)


def _root() -> Any:  # noqa: ANN401 - typer's own classes are private
    return typer.main.get_command(cli.app)


def _usage(name: str, command: Any) -> str:  # noqa: ANN401 - as above
    words = [f"farm {name}"]
    if any(parameter.param_type_name == "option" for parameter in command.params):
        words.append("[OPTIONS]")
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = _metavar(parameter)
            words.append(shown if parameter.required else f"[{shown}]")
    return " ".join(words)


def _metavar(parameter: Any) -> str:  # noqa: ANN401 - as above
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    kind = parameter.type_descriptor.annotation
    return {str: "TEXT", int: "N", float: "X", Path: "FILE"}[kind]


def _parameter_rows(command: Any) -> Iterator[Row]:  # noqa: ANN401 - as above
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield code(_metavar(parameter)), parameter.help or ""
        elif parameter.name not in {"install_completion", "show_completion"}:
            value = "" if parameter.is_flag else f" {_metavar(parameter)}"
            names = ", ".join(f"`{option}{value}`" for option in parameter.opts)
            default = parameter.default
            tell = default not in (None, False) and not parameter.is_flag
            yield names, parameter.help + (f" Default: {code(default)}." if tell else "")


# --- the job file -------------------------------------------------------------------------------

AXIS_FORMS: Sequence[Row] = (
    ("guidance_scale: 4", "one value"),
    ("guidance_scale: [1, 4, 7.5]", "a list"),
    ("seed: 1..4", "whole numbers, both ends included"),
    ("seed: [1..3, 10, 20..21]", "a list may mix forms"),
    ("guidance_scale: 0.0..0.3 step 0.1", "exact decimals, never past the end"),
    ("num_inference_steps: 30..10 step -10", "downwards"),
    ("guidance_scale: {linspace: [1, 2, 5]}", "n evenly spaced values, both ends included"),
    ("seed: {random: 3, seed: 7}", "n seeds, the same on every machine; `seed` only"),
    ("prompt: {file: subjects.txt}", "one value a line, see below"),
)
FILES = {"subjects.txt": "# Subjects.\nfox\n\nowl\n"}


def job_keys() -> str:
    """Return the table of what may stand at the top of a job file."""
    schema = job_schema()
    return table(("key", "meaning"), _job_key_rows(schema["properties"], schema["$defs"]))


def _job_key_rows(properties: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Row]:
    for name, schema in properties.items():
        text = schema.get("description") or definitions[name]["description"]
        text += "" if text.endswith(".") else "."
        inner = schema.get("properties", {}) if name != "defaults" else {}
        if name == "sheets":
            inner = definitions["sheet"]["properties"]
        if inner:
            text += f" Keys: {', '.join(map(code, inner))}."
        if "default" in schema:
            text += f" Default: {code(schema['default'])}."
        yield code(name), text


def sheet_keys() -> str:
    """Return the table of what may describe a contact sheet."""
    return table(
        ("key", "meaning"),
        ((code(entry.name), entry.metadata["doc"]) for entry in dataclasses.fields(SheetSettings)),
    )


def task_fields() -> str:
    """Return the table of task fields."""
    return table(("field", "type", "default", "meaning"), map(_field_row, FIELDS.values()))


def _field_row(info: FieldInfo) -> Row:
    kind = {str: "text", int: "whole number", float: "number"}[info.type]
    limits = [
        f"at least {info.minimum:g}" if info.minimum is not None else "",
        f"at most {_number(info.maximum)}" if info.maximum is not None else "",
        f"a multiple of {info.multiple}" if info.multiple else "",
    ]
    doc = info.doc
    if facts := ", ".join(filter(None, limits)):
        doc += f" {facts[0].upper()}{facts[1:]}."
    if info.aliases:
        doc += f" Also written {' or '.join(map(code, info.aliases))}."
    default = "" if info.default in (None, "") else code(info.default)
    return code(info.name), kind, default, doc


def _number(value: float) -> str:
    return "2^63 - 1" if value == 2**63 - 1 else f"{value:g}"


def axis_forms() -> str:
    """Return the table of axis forms, each with the values it really gives."""
    return table(("written", "values", "meaning"), _axis_rows())


def _axis_rows() -> Iterator[Row]:
    for written, meaning in AXIS_FORMS:
        field = written.partition(":")[0]
        text = f"backend: pattern\nmatrix:\n  {written}\n"
        space = expand(load("job.yaml", read=(FILES | {"job.yaml": text}).__getitem__))
        values = ", ".join(str(getattr(task, field)) for task in space)
        yield code(written), values, meaning


# --- samplers -----------------------------------------------------------------------------------


def sampler_table() -> str:
    """Return the table of samplers that some backend offers."""
    head = ("sampler", "in A1111", "evaluations", "on diffusers", "on torch, onnx", "what it is")
    return table(head, map(_sampler_row, _samplers(offered=True)))


def _samplers(*, offered: bool) -> list[samplers.Sampler]:
    backends = samplers.SAMPLING_BACKENDS
    return [
        entry
        for entry in samplers.SAMPLERS.values()
        if any(map(entry.schedules_on, backends)) == offered
    ]


def schedule_table() -> str:
    """Return the table of sigma schedules."""
    entries = samplers.SIGMA_SCHEDULES.values()
    rows = ((_names(entry), entry.label, entry.doc) for entry in entries)
    return table(("sigma schedule", "in A1111", "what it does"), rows)


def refused_samplers() -> str:
    """Return the table of samplers that are known and not offered."""
    refused = _samplers(offered=False)
    rows = ((code(entry.name), entry.label, f"{entry.refusal}.") for entry in refused)
    return table(("sampler", "in A1111", "why not"), rows)


def _names(entry: samplers.Sampler | samplers.SigmaSchedule) -> str:
    return ", ".join(map(code, (entry.name, *entry.aliases)))


def _sampler_row(entry: samplers.Sampler) -> Row:
    diffusers, tables = (entry.schedules_on(name) for name in ("diffusers", "torch"))
    notes = [
        *_eta_note(entry),
        f"On diffusers it needs {entry.requires}." if entry.requires else "",
        "On diffusers one picture at a time." if entry.one_noise_per_batch else "",
        "For flow-matching models." if entry.family == "flow" else "",
    ]
    doc = " ".join(filter(None, (entry.doc, *notes)))
    offered = (
        samplers.in_few_words(diffusers, code),
        "the same" if tables == diffusers else samplers.in_few_words(tables, code),
    )
    return _names(entry), entry.a1111 or entry.label, code(entry.evaluations), *offered, doc


def _eta_note(entry: samplers.Sampler) -> Iterator[str]:
    takers = [name for name in samplers.SAMPLING_BACKENDS if entry.takes_eta_on(name)]
    if takers == list(samplers.SAMPLING_BACKENDS):
        yield "Takes `eta`."
    elif takers:
        yield f"Takes `eta` on {' and '.join(takers)}."


# --- the output folder --------------------------------------------------------------------------


def output_tree() -> str:
    """Return the paths of an output folder."""
    tree = inspect.cleandoc(layout.__doc__ or "").split("```")[1]
    return f"```text\n{tree.strip()}\n```"


def catalog_columns() -> str:
    """Return the table of the catalog's columns."""
    rows = (
        (code(column.name), str(field.type), column.doc)
        for column, field in zip(COLUMNS, SCHEMA, strict=True)
    )
    return table(("column", "type", "meaning"), rows)


def choice_columns() -> str:
    """Return the table of the columns that votes add."""
    rows = (
        (code(field.name), str(field.type), field.metadata[b"doc"].decode()) for field in CHOICES
    )
    return table(("column", "type", "meaning"), rows)


# --- for programs -------------------------------------------------------------------------------


def python_interface() -> str:
    """Return one section for each function of the Python interface."""
    blocks = []
    for name in farm.__all__:
        function = getattr(farm, name)
        if not callable(function):
            continue
        [head] = ast.parse(inspect.getsource(function)).body
        assert isinstance(head, ast.FunctionDef)
        head.body, head.name = [], f"farm.{name}"
        signature = ast.unparse(head).removeprefix("def ").rstrip(":")
        blocks += [f"## farm.{name}", f"```text\n{signature}\n```", *paragraphs(function.__doc__)]
    return "\n\n".join(blocks)


def json_plan() -> str:
    """Return the table of what `farm plan --json` prints."""
    job = load("job.yaml", read={"job.yaml": "backend: pattern\n"}.__getitem__)
    nothing = np.empty((0, DIGEST_BYTES), np.uint8)
    plan = planner.plan(expand(job), job=job, rendered=nothing, failed=nothing)
    estimate = [field.name for field in dataclasses.fields(Estimate)]
    return _keys_of([*plan.to_json(), *estimate], Plan, Estimate)


def json_report() -> str:
    """Return the table of what `farm submit --json` prints at its end."""
    return _keys_of([field.name for field in dataclasses.fields(RunReport)], RunReport)


def json_events() -> str:
    """Return the table of what `farm submit --json` says on the way."""
    kinds = [
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    ]
    rows = (
        (
            code(kind.__name__),
            ", ".join(code(field.name) for field in dataclasses.fields(kind)),
            paragraphs(kind.__doc__)[0],
        )
        for kind in kinds
    )
    return table(("event", "keys", "meaning"), rows)


def _keys_of(names: Iterable[str], *kinds: type) -> str:
    docs = {name: doc for kind in kinds for name, doc in attribute_docs(kind).items()}
    return table(("key", "meaning"), ((code(name), docs.get(name, "")) for name in names))


# --- errors -------------------------------------------------------------------------------------


def exit_codes() -> str:
    """Return the table of exit codes."""
    rows = ((str(int(each)), code(each.name), _doc_of(each)) for each in ExitCode)
    return table(("code", "name", "meaning"), rows)


def error_classes() -> str:
    """Return the table of errors that a user can do something about."""
    kinds: list[type[FarmError]] = [FarmError, *_subclasses(FarmError)]
    rows = (
        (
            code(kind.reference),
            code(kind.__name__),
            str(int(kind.exit_code)),
            " ".join(paragraphs(kind.__doc__)),
        )
        for kind in kinds
    )
    return table(("reference", "class", "exit code", "meaning"), rows)


def failure_kinds() -> str:
    """Return the table of what can befall a single task."""
    head = ("error_kind", "in the same run, tried again", "meaning")
    return table(head, ((code(kind.value), _retries(kind), _doc_of(kind)) for kind in FailureKind))


def _retries(kind: FailureKind) -> str:
    special = {
        FailureKind.WORKER_DIED: "on other workers, at last alone",
        FailureKind.LOAD_FAILED: "on another worker",
        FailureKind.OUT_OF_MEMORY: "in smaller batches, at last alone",
    }
    return "up to `retries` times" if kind in CURABLE else special.get(kind, "no")


def _doc_of(member: Enum) -> str:
    return attribute_docs(type(member))[member.name]


def _subclasses(kind: type[FarmError]) -> Iterator[type[FarmError]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from _subclasses(below)


REGIONS: Mapping[str, Callable[[], str]] = {
    "axis-forms": axis_forms,
    "catalog-columns": catalog_columns,
    "choice-columns": choice_columns,
    "command-list": command_list,
    "commands": commands,
    "common-options": common_options,
    "error-classes": error_classes,
    "exit-codes": exit_codes,
    "failure-kinds": failure_kinds,
    "job-keys": job_keys,
    "sheet-keys": sheet_keys,
    "json-events": json_events,
    "json-plan": json_plan,
    "json-report": json_report,
    "output-tree": output_tree,
    "python-interface": python_interface,
    "refused-samplers": refused_samplers,
    "sampler-table": sampler_table,
    "schedule-table": schedule_table,
    "task-fields": task_fields,
}
"""What each region holds."""


def main() -> None:
    """Write every derived file that is not up to date, and tell which."""
    for name, text in derived().items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stderr.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
