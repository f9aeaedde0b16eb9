"""Fetch the drawings and make masters of them.

The sources are four npm packages, pinned by version; ``npm pack`` fetches and verifies them. The
result in the work folder is ``masters.npy``, ``uint8 [masters, 128, 128, 4]``, and
``masters.json``, which names each master's subject and source and holds the list of subjects:
those of the catalogue. ``strangers.npy`` and ``strangers.json`` hold, in the same form, all other
emoji that show things; nothing is taught from them, but a picture that the model drew must be told
apart from them too.
"""

from __future__ import annotations

import json
import logging
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from resvg_py import svg_to_bytes

from sprites.catalogue import (
    PIXEL_ART,
    SOURCES,
    STYLES,
    Shot,
    Source,
    Subject,
    read_strangers,
    read_subjects,
)
from sprites.files import write_array, write_json
from sprites.pictures import Bytes, draw, read_master

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """An npm package that the recipe uses, with what the model card must say of it."""

    name: str
    version: str
    licence: str
    credit: str


PACKAGES = {
    "3d render": Package(
        "@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "Fluent Emoji, (c) Microsoft Corporation"
    ),
    "flat icon": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, (c) Microsoft Corporation"
    ),
    "cartoon": Package("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, (c) Google Inc."),
    "names": Package("emojibase-data", "17.0.0", "MIT", "Emojibase, (c) Miles Johnson"),
}


@dataclass(frozen=True)
class Masters:
    """All drawings: ``pixels uint8 [masters, 128, 128, 4]`` and who each one is."""

    subjects: dict[str, Subject]
    keys: list[tuple[str, str]]
    pixels: Bytes

    def __post_init__(self) -> None:
        assert len(self.keys) == len(self.pixels)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every (subject, style) that can be drawn, in a fixed order."""
        return [(name, style) for name in self.subjects for style in STYLES]

    def draw(self, shot: Shot) -> Bytes:
        """The picture of a shot, ``uint8 [128, 128, 3]``; pixel art is made of the cartoon."""
        source = "cartoon" if shot.style == PIXEL_ART else shot.style
        return draw(self.pixels[self._rows[shot.subject, source]], shot)

    @cached_property
    def _rows(self) -> dict[tuple[str, str], int]:
        return {key: row for row, key in enumerate(self.keys)}


def prepare(work: Path) -> Masters:
    """Fetch the packages into ``work`` and write its masters."""
    roots = {role: fetch(package, work / "npm") for role, package in PACKAGES.items()}
    emoji = json.loads((roots["names"] / "en/data.json").read_text("utf-8"))
    subjects = read_subjects(emoji)
    readers: dict[Source, Callable[[str], bytes | None]] = {
        "3d render": _folder_reader(roots["3d render"] / "assets"),
        "flat icon": _iconify_reader(roots["flat icon"]),
        "cartoon": _iconify_reader(roots["cartoon"]),
    }
    masters = _rasterise(subjects, readers)
    _write(masters, work, "masters")
    _write(_rasterise(read_strangers(emoji, subjects), readers), work, "strangers")
    return masters


def _rasterise(
    subjects: Iterable[Subject], readers: Mapping[Source, Callable[[str], bytes | None]]
) -> Masters:
    """The subjects that every source has, each name once."""
    kept: dict[str, Subject] = {}
    keys: list[tuple[str, str]] = []
    pixels: list[Bytes] = []
    for subject in subjects:
        encoded = {source: readers[source](_bare(subject.code)) for source in SOURCES}
        missing = [source for source, data in encoded.items() if data is None]
        if missing or subject.name in kept:
            log.warning("skip %s (%s): no %s", subject.name, subject.code, ", ".join(missing))
            continue
        kept[subject.name] = subject
        for source, data in encoded.items():
            assert data is not None
            keys.append((subject.name, source))
            pixels.append(read_master(data))
    return Masters(kept, keys, np.stack(pixels))


def _write(masters: Masters, work: Path, name: str) -> None:
    write_array(work / f"{name}.npy", masters.pixels)
    write_json(
        work / f"{name}.json",
        {
            "subjects": [asdict(subject) for subject in masters.subjects.values()],
            "keys": masters.keys,
        },
    )
    log.info("%s: %d subjects, %d drawings", name, len(masters.subjects), len(masters.keys))


def load(work: Path, name: str = "masters") -> Masters:
    """Read what :func:`prepare` wrote: ``masters`` or ``strangers``.

    Raises:
        FileNotFoundError: when the data were not prepared.
    """
    if not (work / f"{name}.json").exists():
        message = f"no {name} in {work}; run `python -m sprites data --work {work}` first"
        raise FileNotFoundError(message)
    index: dict[str, Any] = json.loads((work / f"{name}.json").read_text("utf-8"))
    subjects = {
        entry["name"]: Subject(entry["name"], entry["code"], tuple(entry["aliases"]))
        for entry in index["subjects"]
    }
    keys = [(name, source) for name, source in index["keys"]]
    return Masters(subjects, keys, np.load(work / f"{name}.npy"))


def fetch(package: Package, folder: Path) -> Path:
    """The package's unpacked root below ``folder``; packed by npm unless already there."""
    root = folder / f"{package.name.strip('@').replace('/', '-')}-{package.version}"
    if not (root / "package").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603 - constant command
        with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(root, filter="data")
    return root / "package"


def _bare(code: str) -> str:
    """Code points without variation selectors, which the packages use inconsistently."""
    return code.replace("-fe0f", "")


def _folder_reader(folder: Path) -> Callable[[str], bytes | None]:
    files = {_bare(path.stem): path for path in sorted(folder.glob("*.webp"))}
    return lambda code: files[code].read_bytes() if code in files else None


def _iconify_reader(root: Path) -> Callable[[str], bytes | None]:
    """Rasterises an Iconify set's SVG bodies at 256 px."""
    icons = json.loads((root / "icons.json").read_text("utf-8"))
    names = {_bare(code): name for code, name in _read_json(root / "chars.json").items()}
    width, height = icons.get("width", 16), icons.get("height", 16)

    def read(code: str) -> bytes | None:
        icon = icons["icons"].get(names.get(code, ""))
        if icon is None:
            return None
        box = f"0 0 {icon.get('width', width)} {icon.get('height', height)}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
        return bytes(svg_to_bytes(svg_string=svg, width=256, height=256))

    return read


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value
