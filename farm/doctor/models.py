"""Models: are the embedded ones whole, and may others be fetched?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from farm.doctor.finding import Finding, fail, ok, warn
from farm.doctor.machine import hub_cache
from farm.errors import ModelError
from farm.render.models import INDEX, ModelInfo, list_models, pipeline_class_name
from farm.view.words import count, data_size

_LFS = b"version https://git-lfs"


def examine_models(models: Sequence[ModelInfo] | None = None) -> Iterator[Finding]:
    """Check that the embedded models are there and whole; nothing is loaded."""
    found = list_models() if models is None else models
    embedded = [model for model in found if model.kind == "builtin"]
    if not embedded:
        yield warn(
            "models", "this installation has no embedded model", "install the farm from its wheel"
        )
    for model in embedded:
        if problem := flaw(model.path):
            yield fail("models", f"{model.reference}: {problem}", "reinstall the farm")
        else:
            yield ok("models", f"{model.reference}, {data_size(model.size)}")
    if others := len(found) - len(embedded):
        yield ok("models", f"{count(others, 'other model')} on this machine (farm models)")


def flaw(folder: Path) -> str | None:
    """Return what a diffusers folder lacks, None if it is whole."""
    try:
        pipeline_class_name(folder)
        index = json.loads((folder / INDEX).read_text("utf-8"))
    except (ModelError, OSError, ValueError) as error:
        return str(error)
    for name, kind in index.items():
        if not isinstance(kind, list) or None in kind:
            continue
        component = folder / name
        if not component.is_dir():
            return f"component {name} is missing"
        for weights in component.glob("*.safetensors"):
            with weights.open("rb") as file:
                if file.read(len(_LFS)) == _LFS:
                    return f"{name}/{weights.name} is a Git LFS pointer, not the weights"
        # What computes has weights; tokenizers and schedulers have only files of settings.
        computes = (component / "config.json").is_file()
        if computes and not any(component.glob("*.safetensors")):
            return f"component {name} has no weights"
    return None


def examine_hub(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Look at the cache of hub models, and whether new ones may be fetched."""
    cache = hub_cache()
    cached = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    text = f"{count(cached, 'repository' if cached == 1 else 'repositorie')} cached in {cache}"
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    offline = [name for name in switches if environment.get(name, "").upper() in _YES]
    if offline:
        yield ok("hub", f"{text}; offline, as {' and '.join(offline)} says: only these can be used")
    else:
        yield ok("hub", f"{text}; others are fetched when first used")


_YES = frozenset({"1", "ON", "YES", "TRUE"})
