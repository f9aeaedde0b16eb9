"""Thumbnails of an output's images, made once and kept beside them.

`images/ab/sword-s1.3f2a....png` has its thumbnail of 256 pixels at
`thumbnails/256/ab/sword-s1.3f2a....png.webp`. An image's name holds a digest of its bytes and is
never reused, so a thumbnail is never stale, any number of processes may make the same one at once
(they write the same picture, whole), and a page can tell a thumbnail's address from the image's.

They are a cache: a damaged one is made again, one that cannot be kept (an output that is only
read) is still returned, and `farm gc` sweeps those whose image is gone.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

from PIL import Image

from farm.errors import StoreError
from farm.store import layout
from farm.store.files import Files, check_name, open_files

SIZES: Final = (128, 256, 512)
"""The sizes one should ask for, so that every reader of an output shares the same thumbnails."""
THREADS: Final = min(8, os.cpu_count() or 1)
"""Pillow decodes, resizes and encodes outside the interpreter's lock, so threads do overlap."""

_QUALITY = 85
_METHOD = 0
"""Effort of the WebP encoder. More is half as fast and slower, for a fiftieth fewer bytes."""
_SHARPNESS = 1.0
"""How much larger than the thumbnail an image stays after the first, cheap reduction by a whole
factor. At 512 pixels that alone makes the thumbnail of 256, nine times faster than Lanczos."""
_AHEAD = 4
"""Thumbnails in work or waiting to be taken, for each thread."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture of the image at `image_path`: the bytes of a WebP file, or why there is none.

    Exactly one of `data` and `problem` is set.
    """

    image_path: str
    data: bytes | None = None
    problem: str | None = None


class Thumbnails:
    """The thumbnails of one output. Safe for any number of threads and processes at once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._is_kept = True

    @classmethod
    def open(cls, output: str | os.PathLike[str]) -> Thumbnails:
        """Return the thumbnails of an output folder or URL; nothing is read or written yet.

        Raises:
            OutputError: the URL's protocol is unknown, or its settings are refused.
            MissingLibraryError: the URL needs a library that is not installed.
        """
        return cls(open_files(output))

    def name(self, image_path: str, size: int) -> str:
        """Return where a thumbnail is or will be, relative to the output like `image_path`."""
        return layout.thumbnail_file(check_name(image_path), size)

    def get(self, image_path: str, size: int) -> bytes:
        """Return a thumbnail as a WebP file, from the cache if it is there.

        It fits into `size` x `size` pixels; a smaller image keeps its size. Transparency stays.

        Raises:
            InputError: `image_path` leads out of the output.
            FileNotFoundError: the image is gone.
            ValueError: the image cannot be read as one.
            StoreError: the output cannot be read.
        """
        name = self.name(image_path, size)
        try:
            kept = self._files.get(name)
        except FileNotFoundError:
            kept = b""
        if _is_whole(kept):
            if not self._files.exists(image_path):
                raise FileNotFoundError(image_path)
            return kept
        data = shrink(self._files.get(image_path), size)
        if self._is_kept:
            try:
                self._files.put_cached(name, data)
            except StoreError as error:
                # Most likely a read-only output. One try is enough to know, and to say so.
                self._is_kept = False
                _LOG.info("thumbnails are not kept: %s", error)
        return data

    def each(self, image_paths: Iterable[str], size: int) -> Iterator[Thumbnail]:
        """Yield the thumbnail of every path, in their order, made by several threads ahead."""

        def one(path: str) -> Thumbnail:
            try:
                return Thumbnail(image_path=path, data=self.get(path, size))
            except FileNotFoundError:
                return Thumbnail(image_path=path, problem="the image is missing")
            except (ValueError, StoreError) as error:
                return Thumbnail(image_path=path, problem=str(error))

        paths = iter(image_paths)
        with ThreadPoolExecutor(THREADS) as pool:
            waiting = [pool.submit(one, path) for path in islice(paths, THREADS * _AHEAD)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(one, path) for path in islice(paths, 1)]


def shrink(data: bytes, size: int) -> bytes:
    """Return an image file as a WebP file that fits into `size` x `size` pixels.

    Raises:
        ValueError: `data` is no image that can be read.
    """
    sink = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (size, size))  # JPEG: decode no more than is needed
            plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
        plain.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=_SHARPNESS)
        plain.save(sink, "WEBP", quality=_QUALITY, method=_METHOD)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"no readable image: {error}") from error
    return sink.getvalue()


_RIFF_HEAD = 12


def _is_whole(data: bytes) -> bool:
    """Return whether these are all bytes of a WebP file: its head says how many there are."""
    return (
        len(data) > _RIFF_HEAD
        and data.startswith(b"RIFF")
        and data[8:12] == b"WEBP"
        and int.from_bytes(data[4:8], "little") + 8 == len(data)
    )
