"""What people think of images: votes, kept beside the catalog in the same commit protocol.

A vote is one opinion of one rater about one image (stars, favorite, reject, tags, a note) or about
two (a comparison). Votes are only ever added: each commit is a Parquet part below `ratings/` under
a name of its own. Of a rater's votes of one kind on the same image, or the same two images, the
latest counts; a vote without a value takes the earlier ones back.

`choices` sums the votes that count up, one row an image: the columns that the catalog shows them
in. The catalog's own parts know nothing of votes, so what was rendered never changes by them.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from farm.errors import InputError
from farm.store import layout
from farm.store.catalog import (
    DamagedPartError,
    UnreadablePartError,
    list_parts,
    publish_part,
    read_folder,
)
from farm.store.files import Files
from farm.task import parse_task_id

Table: TypeAlias = Any
"""A `pyarrow.Table`; Arrow has no types of its own."""

VOTES_VERSION: Final = 1
MOST_STARS: Final = 5
MOST_NOTE: Final = 10_000
"""Characters of a note."""
MOST_TAGS: Final = 100
_MOST_WORD = 200
"""Characters of a tag, and of the name of a rater."""
_VERSION_KEY = b"farm_votes_version"
_COVERS_KEY = b"farm_covers"


class VoteKind(StrEnum):
    """What a vote says."""

    STARS = "stars"
    """1 to 5."""
    FAVORITE = "favorite"
    REJECT = "reject"
    TAGS = "tags"
    """All tags that the rater gives the image, not one more."""
    NOTE = "note"
    COMPARISON = "comparison"
    """Which of two images is better: `first`, `second` or `tie`."""


OUTCOMES: Final = ("first", "second", "tie")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One opinion. `value` is of the type that its kind asks for, or None to take it back."""

    kind: VoteKind
    task_id: str
    value: int | bool | str | tuple[str, ...] | None
    rater: str
    other_id: str | None = None
    """The second image of a comparison."""
    axis: str | None = None
    """The column in which the two images of a comparison differ, if it is one."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    vote_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        """Refuse what no vote can say."""
        for name in (self.task_id, self.other_id):
            if name is not None:
                _require(_is_task_id(name), f"{name!r} is no task id")
        _require(0 < len(self.rater.strip()) <= _MOST_WORD, "a vote needs the name of its rater")
        is_pair = self.kind is VoteKind.COMPARISON
        _require(is_pair == (self.other_id is not None), "two images make a comparison")
        _require(self.task_id != self.other_id, "an image is not compared with itself")
        if self.value is not None:
            _require(_CHECKS[self.kind](self.value), f"{self.value!r} is no value of {self.kind}")

    @property
    def subject(self) -> tuple[Any, ...]:
        """What the vote is about: later votes of the same subject replace it."""
        images = tuple(sorted(filter(None, (self.task_id, self.other_id))))
        return (self.rater, self.kind, images)


def _is_task_id(text: str) -> bool:
    try:
        parse_task_id(text)
    except ValueError:
        return False
    return True


def _require(holds: object, message: str) -> None:
    if not holds:
        raise InputError(message)


def _is_tags(value: Any) -> bool:  # noqa: ANN401 - checked here
    if not isinstance(value, tuple) or len(value) > MOST_TAGS:
        return False
    return all(isinstance(tag, str) and 0 < len(tag) <= _MOST_WORD for tag in value)


_CHECKS: Mapping[VoteKind, Any] = MappingProxyType(
    {
        VoteKind.STARS: lambda value: (
            type(value) is int and 1 <= value <= MOST_STARS  # a bool is no number of stars
        ),
        VoteKind.FAVORITE: lambda value: isinstance(value, bool),
        VoteKind.REJECT: lambda value: isinstance(value, bool),
        VoteKind.TAGS: _is_tags,
        VoteKind.NOTE: lambda value: isinstance(value, str) and len(value) <= MOST_NOTE,
        VoteKind.COMPARISON: lambda value: value in OUTCOMES,
    }
)


# --- parts --------------------------------------------------------------------------------------

_VALUE_COLUMN: Mapping[VoteKind, str] = MappingProxyType(
    {
        VoteKind.STARS: "stars",
        VoteKind.FAVORITE: "flag",
        VoteKind.REJECT: "flag",
        VoteKind.TAGS: "tags",
        VoteKind.NOTE: "note",
        VoteKind.COMPARISON: "outcome",
    }
)
SCHEMA: Final = pa.schema(
    [
        ("vote_id", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("rater", pa.string()),
        ("kind", pa.string()),
        ("task_id", pa.string()),
        ("other_id", pa.string()),
        ("axis", pa.string()),
        ("stars", pa.int8()),
        ("flag", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("note", pa.string()),
        ("outcome", pa.string()),
    ]
)
"""The columns of a part of votes: of the last five, the one that the kind asks for."""
_COMMON = ("vote_id", "at", "rater", "task_id", "other_id", "axis")


def _to_columns(vote: Vote) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(vote, name) for name in _COMMON}
    return row | {"kind": str(vote.kind), _VALUE_COLUMN[vote.kind]: vote.value}


def _from_columns(row: Mapping[str, Any]) -> Vote:
    kind = VoteKind(row["kind"])
    value = row[_VALUE_COLUMN[kind]]
    common = {name: row[name] for name in _COMMON}
    return Vote(kind=kind, value=tuple(value) if isinstance(value, list) else value, **common)


@dataclass(frozen=True, slots=True, kw_only=True)
class VotesPart:
    """One part as read."""

    name: str
    votes: tuple[Vote, ...]
    covers: tuple[str, ...]
    size: int


def encode_votes(votes: Sequence[Vote], *, covers: Iterable[str] = ()) -> bytes:
    """Return votes as the bytes of a part; `covers` names the parts that it makes superfluous."""
    metadata = {_VERSION_KEY: str(VOTES_VERSION).encode()}
    if names := "\n".join(covers):
        metadata[_COVERS_KEY] = names.encode()
    rows = [_to_columns(vote) for vote in votes]
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_votes_part(name: str, data: bytes) -> VotesPart:
    """Return a part from its bytes.

    Raises:
        UnreadablePartError: the bytes are no part that this version can read.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        metadata = file.schema_arrow.metadata or {}
        version = metadata.get(_VERSION_KEY, b"").decode(errors="replace")
        if version != str(VOTES_VERSION):
            raise UnreadablePartError(
                f"written with votes version {version}; this farm knows {VOTES_VERSION}"
                if version
                else "a Parquet file that holds no votes"
            )
        votes = tuple(map(_from_columns, file.read(use_threads=False).to_pylist()))
    except (pa.ArrowException, OSError, KeyError, ValueError, InputError) as error:
        if isinstance(error, UnreadablePartError):
            raise
        raise DamagedPartError(f"truncated or damaged: {error}") from error
    covers = metadata.get(_COVERS_KEY, b"").decode().split("\n")
    return VotesPart(name=name, votes=votes, covers=tuple(filter(None, covers)), size=len(data))


# --- the store's verbs --------------------------------------------------------------------------


def commit_votes(files: Files, votes: Sequence[Vote]) -> str:
    """Make votes last, all or none, and return the name of their part.

    Raises:
        StoreError: nothing was committed, as far as is known; to repeat is always safe.
    """
    assert votes, "a commit without votes"
    name = layout.votes_file(rater=votes[0].rater, token=secrets.token_hex(8))
    publish_part(files, name, encode_votes(votes))
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """The votes of an output at one moment."""

    votes: tuple[Vote, ...]
    """Those that count, oldest first."""
    cast: int
    """All that were ever cast, copies not counted twice."""
    parts: tuple[VotesPart, ...]
    broken: Mapping[str, str]
    """Files that could not be read: a sentence that names the file and says why."""


def read_votes(files: Files) -> Ballot:
    """Return the votes of an output.

    Raises:
        StoreError: the store cannot be read.
    """
    parts, broken = read_folder(files, layout.RATINGS, read_votes_part)
    cast = {vote.vote_id: vote for part in parts for vote in part.votes}
    return Ballot(
        votes=counting(cast.values()),
        cast=len(cast),
        parts=tuple(parts),
        broken=MappingProxyType({name: f"{name}: {why}" for name, why in broken.items()}),
    )


def counting(votes: Iterable[Vote]) -> tuple[Vote, ...]:
    """Return the votes that count, oldest first: the latest of each subject, if it has a value."""
    latest: dict[tuple[Any, ...], Vote] = {}
    for vote in sorted(votes, key=lambda vote: (vote.at, vote.vote_id)):
        latest.pop(vote.subject, None)
        latest[vote.subject] = vote
    return tuple(vote for vote in latest.values() if vote.value is not None)


def compact_votes(files: Files) -> tuple[int, int]:
    """Write all votes, those that no longer count too, into one part, and retire the others.

    Returns how many parts there were and are. A crash between the two leaves votes twice, which
    their ids make harmless.

    Raises:
        FileNotFoundError: another compaction is at the same work.
        StoreError: the store cannot be read or written; nothing is lost.
    """
    before = read_votes(files)
    listed = set(list_parts(files, layout.RATINGS))
    for part in before.parts:  # finish what a crash interrupted
        for name in listed.intersection(part.covers):
            files.move(name, layout.retired_file(name))
            listed.discard(name)
    left = [part for part in before.parts if part.name in listed]
    if len(left) <= 1:
        return len(before.parts), len(left)
    votes = {vote.vote_id: vote for part in left for vote in part.votes}
    name = layout.votes_file(rater="all", token=secrets.token_hex(8))
    data = encode_votes(list(votes.values()), covers=[part.name for part in left])
    publish_part(files, name, data)
    for part in left:
        files.move(part.name, layout.retired_file(part.name))
    return len(before.parts), 1


# --- what they amount to ------------------------------------------------------------------------

CHOICES: Final = pa.schema(
    [
        pa.field(name, kind, metadata={"doc": doc})
        for name, kind, doc in (
            ("rating", pa.float64(), "Mean of its raters' stars, 1 to 5."),
            ("favorite", pa.bool_(), "Whether anybody calls it a favorite."),
            ("rejected", pa.bool_(), "Whether anybody rejects it."),
            ("tags", pa.list_(pa.string()), "The tags that people gave it, sorted."),
            ("notes", pa.string(), "What people noted, a line a rater."),
            ("wins", pa.float64(), "Comparisons that it won; a tie is half a win."),
            ("comparisons", pa.int64(), "Comparisons that it was in."),
        )
    ]
)
"""The columns that votes add to the catalog; null for an image that nobody voted on in that way."""


def choices(votes: Iterable[Vote]) -> Table:
    """Return one row for each image in `votes` (those that count): `task_id` and `CHOICES`."""
    by_task: dict[str, list[Vote]] = {}
    for vote in votes:
        for task in filter(None, (vote.task_id, vote.other_id)):
            by_task.setdefault(task, []).append(vote)
    rows = [{"task_id": task, **_summary(task, mine)} for task, mine in by_task.items()]
    return pa.Table.from_pylist(rows, schema=CHOICES.insert(0, pa.field("task_id", pa.string())))


def _summary(task: str, votes: Sequence[Vote]) -> dict[str, Any]:
    held: dict[VoteKind, list[Vote]] = {kind: [] for kind in VoteKind}
    for vote in votes:
        held[vote.kind].append(vote)

    def values(kind: VoteKind) -> list[Any]:
        return [vote.value for vote in held[kind]]

    stars, comparisons = values(VoteKind.STARS), held[VoteKind.COMPARISON]
    notes = [note for note in values(VoteKind.NOTE) if note]
    return {
        "rating": sum(stars) / len(stars) if stars else None,
        "favorite": any(values(VoteKind.FAVORITE)) if held[VoteKind.FAVORITE] else None,
        "rejected": any(values(VoteKind.REJECT)) if held[VoteKind.REJECT] else None,
        "tags": sorted({tag for tags in values(VoteKind.TAGS) for tag in tags}) or None,
        "notes": "\n".join(notes) or None,
        "wins": sum(_won(task, vote) for vote in comparisons) if comparisons else None,
        "comparisons": len(comparisons) or None,
    }


def _won(task: str, vote: Vote) -> float:
    if vote.value == "tie":
        return 0.5
    winner = vote.task_id if vote.value == "first" else vote.other_id
    return float(winner == task)
