"""What exists here: samplers, models, and what an examination of the machine has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from farm.render.models import ModelInfo, list_models
from farm.samplers import (
    SAMPLERS,
    SAMPLING_BACKENDS,
    SIGMA_SCHEDULES,
    TABLE_BACKENDS,
    in_few_words,
)
from farm.view.summary import list_table, place, present
from farm.view.words import data_size

# --- samplers -----------------------------------------------------------------------------------


def samplers_json() -> dict[str, Any]:
    """Return the samplers and sigma schedules as JSON values."""
    return {
        "samplers": [
            {
                "name": entry.name,
                "label": entry.label,
                "aliases": list(entry.aliases),
                "doc": entry.doc,
                "scheduler": entry.scheduler,
                "evaluations": entry.evaluations,
                "family": entry.family,
                "requires": entry.requires,
                "refusal": entry.refusal,
                "backends": {
                    backend: {
                        "sigma_schedules": list(entry.schedules_on(backend)),
                        "takes_eta": entry.takes_eta_on(backend),
                    }
                    for backend in SAMPLING_BACKENDS
                },
            }
            for entry in SAMPLERS.values()
        ],
        "sigma_schedules": [
            {
                "name": schedule.name,
                "label": schedule.label,
                "aliases": list(schedule.aliases),
                "doc": schedule.doc,
            }
            for schedule in SIGMA_SCHEDULES.values()
        ],
    }


def print_samplers() -> None:
    """Print the samplers and sigma schedules."""
    present(samplers_view())


def samplers_view() -> RenderableType:
    """Return the samplers and sigma schedules, for a terminal."""
    samplers = list_table(
        "sampler",
        "as in A1111",
        "evaluations",
        "on diffusers",
        f"on {' and '.join(TABLE_BACKENDS)}",
    )
    refused = list_table("not offered", "as in A1111", "why")
    for entry in SAMPLERS.values():
        on_diffusers, on_tables = (
            in_few_words(entry.schedules_on(backend))
            for backend in ("diffusers", TABLE_BACKENDS[0])
        )
        if entry.schedules_on(TABLE_BACKENDS[0]):
            samplers.add_row(
                entry.name, entry.a1111 or entry.label, entry.evaluations, on_diffusers,
                "the same" if on_tables == on_diffusers else on_tables,
            )  # fmt: skip
        else:
            refused.add_row(entry.name, entry.label, Text(entry.refusal or ""))
    schedules = list_table("sigma schedule", "as in A1111", "what it does")
    for schedule in SIGMA_SCHEDULES.values():
        schedules.add_row(schedule.name, schedule.label, Text(schedule.doc))
    note = (
        "evaluations: of the network, for n steps without guidance; guidance doubles them\n"
        "on: sigma schedules that a backend can do with it"
    )
    return Group(samplers, Text(note, style="dim"), "", schedules, "", refused)


# --- models -------------------------------------------------------------------------------------


def models_json() -> list[dict[str, Any]]:
    """Return the models on this machine as JSON values."""
    return [
        {
            "reference": model.reference,
            "kind": model.kind,
            "path": str(model.path),
            "size": model.size,
            "licence": model.licence,
            "made_from": model.made_from,
        }
        for model in list_models()
    ]


def print_models() -> None:
    """Print the models on this machine."""
    present(models_view(list_models()))


def models_view(models: Sequence[ModelInfo]) -> RenderableType:
    """Return models, for a terminal."""
    table = list_table("model", "kind", "size", "licence", "path", right=("size",))
    for model in models:
        kind = f"{model.kind}, from {model.made_from}" if model.made_from else model.kind
        facts = (kind, data_size(model.size), model.licence or "not stated")
        table.add_row(Text(model.reference, style="bold"), *facts, place(str(model.path)))
    note = (
        "also: any hub id (owner/name@revision#variant), diffusers folder or .safetensors file; "
        "put your own below models/ or $FARM_MODELS"
    )
    return Group(table, "", Text(note, style="dim"))


# --- ONNX bundles -------------------------------------------------------------------------------


def print_export(report: Mapping[str, Any]) -> None:
    """Print what an export made: its parity with torch, and what it weighs."""
    present(export_view(report))


def export_view(report: Mapping[str, Any]) -> RenderableType:
    """Return the report of an export, for a terminal: the worst of each component's outputs."""
    size = f"{report['folder']}: {data_size(report['bytes'])} in {report['seconds']:.0f} s"
    parity = report["parity"]
    if parity is None:
        return Group("not proven: this machine cannot run these graphs", size)
    table = list_table(
        "component", "output", "largest difference", "mean", "accepted",
        right=("largest difference", "mean", "accepted"),
    )  # fmt: skip
    worst: dict[tuple[str, str], Mapping[str, Any]] = {}
    for one in parity["components"]:
        key = (one["component"], one["output"])
        if key not in worst or one["max_abs"] > worst[key]["max_abs"]:
            worst[key] = one
    for one in worst.values():
        accepted = f"{one['tolerance']:.1e}" if one["tolerance"] else "reported only"
        numbers = (f"{one['max_abs']:.1e}", f"{one['mean_abs']:.1e}", accepted)
        table.add_row(one["component"], one["output"], *numbers)
    images = parity["images"]
    pictures = (
        f"{len(images)} pictures against torch: PSNR {_decibels(parity['worst_psnr'])} at worst, "
        f"{_decibels(parity['mean_psnr'])} over all; SSIM "
        f"{min(image['ssim'] for image in images):.4f} at worst"
    )
    page = f"side by side: {place(report['folder'] + '/report/index.html')}"
    return Group(table, "", pictures, size, page)


def _decibels(value: float | None) -> str:
    return "without end (equal)" if value is None else f"{value:.1f} dB"


# --- findings -----------------------------------------------------------------------------------


class Finding(Protocol):
    """What an examination says about one topic."""

    @property
    def level(self) -> Literal["ok", "warn", "fail"]:
        """How good it is."""

    @property
    def topic(self) -> str:
        """What was examined."""

    @property
    def message(self) -> str:
        """What was found."""

    @property
    def next_step(self) -> str | None:
        """What to do about it."""


_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "bold yellow"), "fail": ("FAIL", "bold red")}


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what an examination of the machine has found."""
    present(findings_view(findings))


def findings_view(findings: Sequence[Finding]) -> RenderableType:
    """Return findings, for a terminal: a line each, and below it what to do."""
    table = list_table("", "", "")
    table.show_header = False
    for finding in findings:
        text = Text(finding.message)
        if finding.next_step:
            text.append(f"\nnext: {finding.next_step}", style="dim")
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style=style), Text(finding.topic, style="bold"), text)
    levels = [finding.level for finding in findings]
    told = ", ".join(
        f"{levels.count(level)} {word}"
        for level, word in (("fail", "failing"), ("warn", "to look at"), ("ok", "ok"))
        if level in levels
    )
    return Group(table, "", Padding(Text(told), 0))
