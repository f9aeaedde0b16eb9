"""The JSON Schema of job files and of matrices, for editors: generated, never written by hand.

It completes field names, samplers and schedules with their descriptions and marks what can be seen
without reading other files. What it cannot say (lengths that agree, variables that are defined) is
for `farm check`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from farm import samplers
from farm.manifest.job import LEAST_TILE, Job, SheetSettings
from farm.manifest.reader import IMAGE_FORMATS, THEMES
from farm.manifest.values import BUILTIN_MODELS
from farm.task import ALIASES, FIELDS, FieldInfo

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft that yaml-language-server understands best."""
_RANGE = {
    "type": "string",
    "pattern": r"^\s*[-+.0-9eE]+\s*\.\.\s*[-+.0-9eE]+(\s+step\s+[-+.0-9eE]+)?\s*$",
    "description": "a..b or a..b step s, both ends included",
}
_TEXT: Schema = {"type": ["string", "number", "boolean"]}


def job_schema() -> Schema:
    """Return the schema of a job file."""
    job_defaults = {f.name: f.default for f in Job.__dataclass_fields__.values()}
    return {
        "$schema": DRAFT,
        "title": "farm job",
        "description": "A matrix of images and where they go. `farm check` tells the rest.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "description": "Name of the job; default: the file's stem."},
            "output": {
                "type": "string",
                "description": "A folder or fsspec URL; default: out/<name>.",
            },
            "model": _one("model"),
            "backend": _one("backend"),
            "defaults": {
                "description": "Values of task fields that no axis assigns.",
                "type": "object",
                "additionalProperties": False,
                "properties": _names(_one),
            },
            "matrix": {"$ref": "#/$defs/matrix"},
            "exclude": {
                "$ref": "#/$defs/conditions",
                "description": "Cells for which any of these holds are left out.",
            },
            "where": {
                "$ref": "#/$defs/conditions",
                "description": "Cells for which any of these does not hold are left out.",
            },
            "sample": {
                "description": "A deterministic random subset of the cells.",
                "type": "object",
                "additionalProperties": False,
                "required": ["n"],
                "properties": {
                    "n": {"type": "integer", "minimum": 1},
                    "seed": {"type": "integer", "minimum": 0},
                },
            },
            "file_name": {
                "type": "string",
                "description": "Template of image names below images/, such as "
                "'${sampler}/${subject}-${seed}'.",
            },
            "image": {
                "description": "How images are written.",
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "format": {"enum": [*IMAGE_FORMATS, "jpg"]},
                    "quality": {"type": "integer", "minimum": 1, "maximum": 100},
                },
            },
            "resources": {
                "description": "What one worker asks of the cluster.",
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "num_gpus": {"type": "number", "minimum": 0},
                    "num_cpus": {"type": "number", "minimum": 0},
                    "accelerator_type": {"type": "string"},
                    "stuck_after_s": {
                        "type": "number",
                        "minimum": 0,
                        "description": "Seconds without progress, loading included, after which a "
                        "worker is killed and its tasks go to another. 0: never. Absent: 20 times "
                        "what images have taken, at least five minutes; an hour before the first.",
                    },
                },
            },
            "retries": {
                "type": "integer",
                "minimum": 0,
                "default": job_defaults["retries"],
                "description": "Tries after a failure that another try may cure.",
            },
            "max_tasks": {
                "type": "integer",
                "minimum": 0,
                "default": job_defaults["max_tasks"],
                "description": "A larger matrix asks for --yes before it is submitted.",
            },
            "sheets": {
                "description": "Contact sheets to make when a run ends; see `farm sheet`.",
                "anyOf": [
                    {"$ref": "#/$defs/sheet"},
                    {"type": "array", "items": {"$ref": "#/$defs/sheet"}},
                ],
            },
        },
        "$defs": {**_definitions(), "sheet": _sheet()},
    }


def _sheet() -> Schema:
    text = {"type": ["string", "number", "boolean"]}
    properties: Schema = {
        entry.name: {**text, "description": entry.metadata["doc"]}
        for entry in fields(SheetSettings)
    }
    properties["theme"] |= {"type": "string", "enum": list(THEMES)}
    properties["tile"] |= {"type": "integer", "minimum": LEAST_TILE}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def matrix_schema() -> Schema:
    """Return the schema of a file in `manifests/`: what may stand behind `matrix:`."""
    return {
        "$schema": DRAFT,
        "title": "farm matrix",
        "$ref": "#/$defs/matrix",
        "$defs": _definitions(),
    }


def _definitions() -> Schema:
    block = {"$ref": "#/$defs/block"}
    blocks = {"type": "array", "items": block, "minItems": 1}
    paths = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    return {
        "matrix": {
            "description": "Axes to multiply, a list of blocks to unite, or a file's path.",
            "anyOf": [block, blocks, {"type": "string"}],
        },
        "block": {
            "type": "object",
            "properties": {
                **_names(_axis),
                "product": {"anyOf": [block, blocks], "description": "Every combination."},
                "zip": {"anyOf": [block, blocks], "description": "Equal lengths, in step."},
                "union": {**blocks, "description": "One block after the other."},
                "include": {**paths, "description": "Files of manifests/."},
            },
            "additionalProperties": {
                "description": "A template variable: ${name} in texts, var_name in the catalog.",
                "anyOf": [
                    {"$ref": "#/$defs/text_values"},
                    {"$ref": "#/$defs/bundle"},
                ],
            },
        },
        "bundle": {
            "description": "Options by name, each setting several fields or variables.",
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "properties": _names(_one),
                "additionalProperties": _TEXT,
            },
        },
        "text_values": _spread(_TEXT),
        "file": {
            "description": "One value a line; blank lines and # comments are skipped.",
            "type": "object",
            "required": ["file"],
            "additionalProperties": False,
            "properties": {"file": {"type": "string"}},
        },
        "linspace": {
            "description": "n evenly spaced numbers, both ends included.",
            "type": "object",
            "required": ["linspace"],
            "additionalProperties": False,
            "properties": {
                "linspace": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 3,
                    "maxItems": 3,
                }
            },
        },
        "random": {
            "description": "n seeds that are the same on every machine.",
            "type": "object",
            "required": ["random", "seed"],
            "additionalProperties": False,
            "properties": {
                "random": {"type": "integer", "minimum": 1},
                "seed": {"type": "integer", "minimum": 0},
            },
        },
        "conditions": {
            "anyOf": [
                {"$ref": "#/$defs/condition"},
                {"type": "array", "items": {"$ref": "#/$defs/condition"}},
            ]
        },
        "condition": {
            "anyOf": [
                {"type": "string", "description": "guidance_scale > 6 and sampler == 'ddim'"},
                {
                    "type": "object",
                    "minProperties": 1,
                    "properties": _names(_axis),
                    "additionalProperties": {"$ref": "#/$defs/text_values"},
                },
            ]
        },
    }


def _names(describe: Any) -> Schema:  # noqa: ANN401 - one of the two functions below
    """Return a property for every field and every alias."""
    return {name: describe(name) for name in FIELDS} | {
        alias: describe(name) for alias, name in ALIASES.items()
    }


def _one(name: str) -> Schema:
    """Return the schema of one value of a field."""
    info = FIELDS[name]
    return {**_type(info), "description": info.doc}


def _axis(name: str) -> Schema:
    """Return the schema of what may stand behind a field as an axis."""
    info = FIELDS[name]
    forms: list[Schema] = []
    if info.type is not str:
        forms += [_RANGE, {"$ref": "#/$defs/linspace"}]
    if name == "seed":
        forms.append({"$ref": "#/$defs/random"})
    return {**_spread(_type(info), *forms), "description": info.doc}


def _spread(one: Schema, *forms: Schema) -> Schema:
    values = [one, *forms, {"$ref": "#/$defs/file"}]
    if not forms:
        values.append({"$ref": "#/$defs/linspace"})
    return {"anyOf": [*values, {"type": "array", "minItems": 1, "items": {"anyOf": values}}]}


def _type(info: FieldInfo) -> Schema:
    if known := _KNOWN.get(info.name):
        # A name is completed, and another spelling (A1111's, a hub id) is no error.
        return {"anyOf": [{"enum": known}, {"type": "string"}]}
    if info.choices:
        return {"enum": list(info.choices)}
    if info.type is str:
        return {"type": ["string", "number"]}
    kinds = ["integer" if info.type is int else "number", *(["null"] if info.optional else [])]
    bounds = {"minimum": info.minimum, "maximum": info.maximum, "multipleOf": info.multiple}
    return {"type": kinds} | {key: value for key, value in bounds.items() if value is not None}


_KNOWN = {
    "sampler": [
        entry.name for entry in samplers.SAMPLERS.values() if not entry.refusal or entry.handwritten
    ],
    "sigma_schedule": list(samplers.SIGMA_SCHEDULES),
    "model": [f"builtin:{name}" for name in BUILTIN_MODELS],
}
