"""Where images and their catalog live: one folder or object store, many writers, no lock.

The part file is the commit. A worker writes images under names that hold a digest of their bytes
and then, last, one Parquet part under a name of its own. Nothing committed is ever replaced, so
crashes, retries and second drivers can only add rows, and each task has one winning row.
"""

from __future__ import annotations

from farm.store.images import image_suffix
from farm.store.metadata import encode_image, parameters_text, read_metadata
from farm.store.row import Row, StoredImage, row_for, with_image
from farm.store.store import CommittedFailure, Control, Finished, Store

__all__ = [
    "CommittedFailure",
    "Control",
    "Finished",
    "Row",
    "Store",
    "StoredImage",
    "encode_image",
    "image_suffix",
    "parameters_text",
    "read_metadata",
    "row_for",
    "with_image",
]
