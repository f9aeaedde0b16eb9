"""Files that are either whole or absent: written beside, then renamed into place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def write_json(path: Path, value: object) -> None:
    """Write indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    _write(path, lambda beside: beside.write_text(text, "utf-8"))


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a ``.npy`` file."""

    def save(beside: Path) -> None:
        with beside.open("wb") as file:
            np.save(file, array)

    _write(path, save)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a torch checkpoint of tensors and plain values."""
    _write(path, lambda beside: torch.save(state, beside))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote; no code in the file is run."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _write(path: Path, save: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save(beside)
    beside.replace(path)
