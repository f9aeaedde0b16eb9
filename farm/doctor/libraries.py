"""Python and the libraries, against what the package says it needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest

from farm.doctor.finding import Finding, fail, ok, warn

FindVersion = Callable[[str], str | None]
"""Returns the installed version of a distribution, None if it is not installed."""

_OPTIONAL = {
    "torch": "rendering with backends torch and diffusers",
    "onnx": "backend onnx",
    "sde": "sampler dpmpp_sde on backend diffusers",
    "plot": "farm plot",
    "s3": "outputs on s3://",
    "gcs": "outputs on gs://",
    "azure": "outputs on az://",
}
"""What each optional group of libraries is for."""
_NEEDED_TO_RENDER = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One line of what the package needs."""

    name: str
    bounds: tuple[tuple[str, str], ...]
    """Pairs such as `(">=", "2.10")`."""
    extra: str | None
    """The optional group it belongs to."""

    def admits(self, version: str) -> bool:
        """Whether `version` is within all bounds."""
        return all(_holds(version, relation, bound) for relation, bound in self.bounds)

    def __str__(self) -> str:
        return self.name + ",".join(relation + bound for relation, bound in self.bounds)


_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?P<bounds>[^;]*?)\s*(?:;(?P<marker>.*))?"
)
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([0-9][^,\s]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_PLATFORM = re.compile(r"sys_platform\s*(==|!=)\s*['\"]([^'\"]+)['\"]")


def parse_requirement(line: str, *, platform: str = sys.platform) -> Requirement | None:
    """Return a line of the package's metadata; None if it is for another platform."""
    found = _LINE.fullmatch(line.strip())
    assert found is not None, f"our own metadata: {line}"
    marker = found["marker"] or ""
    for relation, name in _PLATFORM.findall(marker):
        if (platform == name) != (relation == "=="):
            return None
    extra = _EXTRA.search(marker)
    return Requirement(
        name=found["name"],
        bounds=tuple(_BOUND.findall(found["bounds"])),
        extra=extra[1] if extra else None,
    )


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, without what marks it as early or local: `2.13.0+cpu`."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _holds(version: str, relation: str, bound: str) -> bool:
    pairs = zip_longest(_release(version), _release(bound), fillvalue=0)
    order = next((one - other for one, other in pairs if one != other), 0)
    return {
        ">=": order >= 0,
        "<=": order <= 0,
        "==": order == 0,
        "!=": order != 0,
        "<": order < 0,
        ">": order > 0,
    }[relation]


def installed_version(name: str) -> str | None:
    """Return the installed version of a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def examine_python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    """Compare this Python with what the package needs."""
    text = ".".join(map(str, version))
    try:
        needed = metadata.metadata("farm")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        yield warn(
            "python",
            f"Python {text}; the farm itself is not installed, so nothing can be compared",
            "pip install -e . in the farm's folder",
        )
        return
    if all(_holds(text, relation, bound) for relation, bound in _BOUND.findall(needed)):
        yield ok("python", f"Python {text}")
    else:
        yield fail(
            "python", f"Python {text}, but the farm needs {needed}", "install another Python"
        )


def examine_libraries(
    lines: Iterable[str] | None = None, *, version_of: FindVersion = installed_version
) -> Iterator[Finding]:
    """Compare the installed libraries with what the package needs, group by group.

    Args:
        lines: requirements as in a package's metadata; by default the farm's own.
        version_of: finds what is installed.
    """
    if lines is None:
        try:
            lines = metadata.requires("farm") or ()
        except metadata.PackageNotFoundError:
            return
    groups: dict[str | None, list[Requirement]] = {}
    for line in lines:
        if requirement := parse_requirement(line):
            groups.setdefault(requirement.extra, []).append(requirement)
    absent = []
    for extra, requirements in groups.items():
        is_wanted = extra is None or extra == _NEEDED_TO_RENDER
        if is_wanted or any(version_of(one.name) for one in requirements):
            yield _examine_group(extra, requirements, version_of)
        else:
            absent.append(f"farm[{extra}] for {_OPTIONAL.get(extra or '', extra)}")
    if absent:
        yield ok("libraries", f"not installed, and not needed by all: {', '.join(absent)}")


def _examine_group(
    extra: str | None, requirements: list[Requirement], version_of: FindVersion
) -> Finding:
    topic = "libraries" if extra is None else f"libraries for {extra}"
    versions = {requirement: version_of(requirement.name) for requirement in requirements}
    missing = [str(one) for one, version in versions.items() if version is None]
    wrong = [
        f"{one.name} {version} (needs {one})"
        for one, version in versions.items()
        if version is not None and not one.admits(version)
    ]
    purpose = _OPTIONAL.get(extra or "", extra or "")
    install = "pip install ." if extra is None else f"pip install '.[{extra}]'"
    if missing:
        complain = fail if extra is None else warn
        needed_for = f"{purpose} needs " if extra else ""
        return complain(topic, f"not installed: {needed_for}{', '.join(missing)}", install)
    if wrong:
        return warn(topic, f"untested versions: {', '.join(wrong)}", f"{install} --upgrade")
    listed = ", ".join(f"{one.name} {version}" for one, version in versions.items())
    return ok(topic, listed)
