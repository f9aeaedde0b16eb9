"""Every path of an output folder, in one place.

```
job.yaml                    the resolved job of the last submit
images/...                  images; a name holds a digest of its bytes and is never reused
catalog/*.parquet           the parts, and nothing else: `pd.read_parquet("<output>/catalog")`
ratings/*.parquet           what people voted, in parts of their own
retired/*.parquet           parts that a compacted one replaced, kept for slow readers
control/runs/<number>       one file a run, created once
control/jobs/<job>-<digest>.yaml   every resolved job that was ever submitted here
control/leases/ requests/   what may be in flight; what people asked of a run
control/reports/...         what each run did: counts, efficiency, where its time went
sheets/                     contact sheets
logs/submit-<time>...log    what each submit said while it ran
thumbnails/<size>/...       small copies of images, made when looked at; safe to delete
tmp/                        half-written files; whatever is old in here is rubbish
```

Names are relative to the output and have forward slashes on every system, so a catalog written on
Windows reads on Linux. Pure: no file is touched here.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from datetime import UTC, datetime

JOB = "job.yaml"
IMAGES = "images"
CATALOG = "catalog"
RATINGS = "ratings"
RETIRED = "retired"
CONTROL = "control"
TMP = "tmp"
THUMBNAILS = "thumbnails"
SHEETS = "sheets"
LOGS = "logs"
RUNS = f"{CONTROL}/runs"
JOBS = f"{CONTROL}/jobs"
REPORTS = "reports"
"""Below `CONTROL`."""
PART_SUFFIX = ".parquet"
DEFAULT_GRACE_S = 7 * 86_400.0
"""How long what nothing names is left where it is: a slow reader or writer may still need it."""

_WORD = re.compile(r"[^0-9A-Za-z]+")
_THUMBNAIL = re.compile(rf"{THUMBNAILS}/[0-9]+/(?P<image>.+)\.webp")
_IMAGE = re.compile(r"\.(?P<digest>[0-9a-f]{12,64})\.(?:png|webp|jpg)$")


def slug(text: str) -> str:
    """Return `text` as ASCII letters, digits and single dashes, at most 40 of them, never empty."""
    return _WORD.sub("-", text).strip("-")[:40].rstrip("-") or "x"


def run_file(number: int) -> str:
    """Return the name whose creation claims run `number`."""
    return f"{RUNS}/{number:06d}"


def log_file(when: datetime, *, job: str = "") -> str:
    """Return the name of the log of a submit; names sort by time."""
    stamp = when.astimezone(UTC).strftime("%Y%m%dT%H%M%S")
    return f"{LOGS}/submit-{stamp}{'-' + slug(job) if job else ''}.log"


def job_file(job: str, text: str) -> str:
    """Return where one resolved job is kept, once however often it is submitted."""
    return f"{JOBS}/{slug(job)}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"


def part_file(*, job: str, run: int, chunk: str, attempt: int, token: str) -> str:
    """Return the name of one attempt's part; `token` makes it unique even to a zombie."""
    mark = part_mark(run=run, chunk=chunk)
    return f"{CATALOG}/{slug(job)}{mark}a{attempt}-{token}{PART_SUFFIX}"


def part_mark(*, run: int, chunk: str) -> str:
    """Return what the names of one chunk's parts have in common, and no others of its run."""
    return f"-r{run:06d}-{slug(chunk)}-"


def snapshot_file(*, token: str, index: int) -> str:
    """Return the name of the `index`-th part of one compaction."""
    return f"{CATALOG}/snapshot-{token}-{index:04d}{PART_SUFFIX}"


def is_snapshot(name: str) -> bool:
    """Return whether a part was written by a compaction."""
    return name.startswith(f"{CATALOG}/snapshot-")


def rebuilt_file(*, token: str, index: int) -> str:
    """Return the name of the `index`-th part of one rebuild."""
    return f"{CATALOG}/rebuilt-{token}-{index:04d}{PART_SUFFIX}"


def votes_file(*, rater: str, token: str) -> str:
    """Return the name of one part of votes."""
    return f"{RATINGS}/votes-{slug(rater)}-{token}{PART_SUFFIX}"


def schema_file(version: int) -> str:
    """Return the name of the part without rows, which shows readers the columns before any row."""
    return f"{CATALOG}/schema-v{version}{PART_SUFFIX}"


def retired_file(part: str) -> str:
    """Return where a part goes when it retires."""
    return f"{RETIRED}/{posixpath.basename(part)}"


def image_digest(name: str) -> str | None:
    """Return the digits of the digest in an image name of ours; None for any other file."""
    found = _IMAGE.search(name)
    return found["digest"] if found else None


def thumbnail_file(image: str, size: int) -> str:
    """Return where the thumbnail of an image goes."""
    return f"{THUMBNAILS}/{size}/{image.removeprefix(f'{IMAGES}/')}.webp"


def thumbnail_image(name: str) -> str | None:
    """Return which image a thumbnail is of; None for any other file."""
    found = _THUMBNAIL.fullmatch(name)
    return f"{IMAGES}/{found['image']}" if found else None


def folders_above(names: list[str]) -> list[str]:
    """Return every folder on the way to `names`, deepest first, the output itself (`""`) last."""
    found = {""}
    for name in names:
        folder = posixpath.dirname(name)
        while folder not in found:
            found.add(folder)
            folder = posixpath.dirname(folder)
    return sorted(found, key=lambda folder: (-folder.count("/") if folder else 1, folder))
