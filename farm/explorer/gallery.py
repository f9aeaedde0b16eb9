"""`farm gallery`: the explorer as one folder of static files.

Beside the images, in `<output>/gallery/`, the page refers to them where they are, so the whole
output can be put on a web host or stay on a disk as it is. Written elsewhere, the folder gets
copies of the images and stands alone.

The page's data is written last and `meta.js` last of all, so a page that is opened meanwhile shows
what the folder held before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from farm.errors import InputError
from farm.explorer.chunks import THUMBNAIL_SIZE, scripts
from farm.explorer.exhibit import Exhibit, read_exhibit
from farm.store import Store
from farm.store.files import Files, open_files
from farm.view.thumbnails import Thumbnails
from farm.view.words import count

FOLDER: Final = "gallery"
PAGE: Final = Path(__file__).parent / "page"
SERVED_ONLY: Final = frozenset({"run.html", "run.js"})
"""Files of the page that make no sense without a server."""

Progress = Callable[[int, int], None]
"""Called with how many images are done, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """What `make_gallery` wrote."""

    index: str
    """Path or URL of the page."""
    images: int
    failed: int
    missing: int
    unreadable: tuple[str, ...]
    """Images that are gone or damaged, a sentence each. The page hatches them."""

    def __str__(self) -> str:
        parts = [count(self.images, "image")]
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{self.missing:,} not rendered yet"] if self.missing else []
        return ", ".join(parts)


def make_gallery(
    output: str, *, out: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Gallery:
    """Write the explorer of an output and return where it is.

    Args:
        output: folder or URL.
        out: folder or URL to write to, with copies of the images; by default `gallery` in the
            output, without copies.
        progress: is told how far it is.

    Raises:
        OutputError: there is no readable output at `output`.
        InputError: there is nothing to show.
        StoreError: something cannot be written.
    """
    store = Store.open(output)
    exhibit = read_exhibit(store)
    if not len(exhibit):
        raise InputError("there is nothing to show", where=store.url, hint=f"farm status {output}")
    files = open_files(store.url)
    copies = None if out is None else open_files(out)
    target, folder, root = (files, f"{FOLDER}/", "../") if copies is None else (copies, "", "")
    unreadable = tuple(
        _bring_images(exhibit, Thumbnails.open(output), files, copies=copies, progress=progress)
    )
    for name in page_files():
        target.put_cached(folder + name, (PAGE / name).read_bytes())
    for name, data in scripts(exhibit, root=root):
        target.put_cached(f"{folder}data/{name}", data)
    if copies is not None:
        copies.tidy()
    return Gallery(
        index=f"{target.url}/{folder}index.html",
        images=exhibit.count("rendered"),
        failed=exhibit.count("failed"),
        missing=exhibit.count("missing") + exhibit.unseen,
        unreadable=unreadable,
    )


def page_files() -> list[str]:
    """Return the names of the files of the static page."""
    return sorted(path.name for path in PAGE.iterdir() if path.name not in SERVED_ONLY)


def _bring_images(
    exhibit: Exhibit,
    thumbnails: Thumbnails,
    files: Files,
    *,
    copies: Files | None,
    progress: Progress | None,
) -> Iterator[str]:
    """Make the thumbnails that the grid needs, and the copies; yield what cannot be read."""
    rows = exhibit.table.select(["image_path", "width", "height"]).to_pylist()
    paths = {row["image_path"]: needs_thumbnail(row) for row in rows if row["image_path"]}
    large = [path for path, is_large in paths.items() if is_large]
    unreadable = set()
    total, done = len(large) + (len(paths) if copies else 0), 0
    for thumbnail in thumbnails.each(large, THUMBNAIL_SIZE):
        done += 1
        if thumbnail.data is None:
            unreadable.add(thumbnail.image_path)
            yield f"{thumbnail.image_path}: {thumbnail.problem}"
        elif copies:
            copies.put_cached(thumbnails.name(thumbnail.image_path, THUMBNAIL_SIZE), thumbnail.data)
        if progress:
            progress(done, total)
    if copies is None:
        return
    for path in paths:
        done += 1
        try:
            copies.put_cached(path, files.get(path))
        except FileNotFoundError:
            if path not in unreadable:
                yield f"{path}: the image is missing"
        if progress:
            progress(done, total)


def needs_thumbnail(row: dict[str, Any]) -> bool:
    """Return whether an image is larger than the grid shows; the page decides by the same rule."""
    return max(row["width"] or 0, row["height"] or 0) > THUMBNAIL_SIZE
