"""One thing an examination has found. Every finding that is not `ok` says what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warn", "fail"]
"""`fail`: something asked for will not work; `warn`: it may not, or not well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one topic."""

    level: Level
    topic: str
    message: str
    next_step: str | None = None

    def __post_init__(self) -> None:
        assert self.level == "ok" or self.next_step, "a complaint comes with something to do"

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)


def ok(topic: str, message: str) -> Finding:
    """Return a finding that needs nothing done."""
    return Finding(level="ok", topic=topic, message=message)


def warn(topic: str, message: str, next_step: str) -> Finding:
    """Return a finding that one should look at."""
    return Finding(level="warn", topic=topic, message=message, next_step=next_step)


def fail(topic: str, message: str, next_step: str) -> Finding:
    """Return a finding that must be mended first."""
    return Finding(level="fail", topic=topic, message=message, next_step=next_step)
