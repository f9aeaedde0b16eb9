"""Ray, and every node of a cluster. Run as a process: `python -m farm.doctor.cluster ADDRESS`.

The cluster is asked from a process of its own: joining one takes over signal handlers, talks, and
waits for ever on an address where nothing answers.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from farm.doctor.apart import ProbeError, ask
from farm.doctor.finding import Finding, fail, ok, warn
from farm.doctor.libraries import installed_version

_KNOCK_S = 10.0
_JOIN_S = 90.0
_NODE_S = 60.0
_COMPARED = ("farm", "ray", "torch", "diffusers", "transformers")
"""Libraries whose versions should be the same everywhere: pixels or protocols depend on them."""


def examine_ray(address: str | None, *, output: str | None) -> Iterator[Finding]:
    """Check Ray here and, with an address, on every node of that cluster."""
    version = installed_version("ray")
    if version is None:
        yield fail("ray", "not installed", "pip install ray, or use --executor inline")
        return
    if address is None:
        yield ok("ray", f"Ray {version}; a cluster is examined with --address")
        return
    arguments = (address,) if output is None else (address, output)
    try:
        _knock(address)
        nodes = ask("farm.doctor.cluster", *arguments, timeout_s=_JOIN_S + _NODE_S)
    except ProbeError as error:
        yield fail(
            "ray", f"the cluster at {address} does not answer: {error}", "check with `ray status`"
        )
        return
    yield from judge_nodes(nodes, here={name: installed_version(name) for name in _COMPARED})


def _knock(address: str) -> None:
    """Make sure that something listens at an address with a port; Ray would wait for minutes.

    Raises:
        ProbeError: nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` and the like: Ray finds out itself
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S):
            return
    except (OSError, OverflowError) as error:
        raise ProbeError(str(error)) from None


def judge_nodes(
    nodes: Sequence[Mapping[str, Any]], *, here: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Judge what `look` has seen of every node, compared with the versions `here`."""
    for node in nodes:
        topic = f"node {node['name']}"
        if problem := node.get("problem"):
            yield fail(topic, problem, "look at this node's Ray logs")
            continue
        if node["versions"]["farm"] is None:
            yield fail(topic, "the farm is not installed there", "use one image on every node")
            continue
        differing = [
            f"{name} {version or 'none'} (here {here[name] or 'none'})"
            for name, version in node["versions"].items()
            if version != here[name]
        ]
        if unwritable := node.get("output_problem"):
            yield fail(
                topic,
                f"its output is not this one: {unwritable}",
                "give an output that every node sees: a shared mount, or a URL such as s3://",
            )
        elif differing:
            step = "use one image on every node; pixels depend on versions"
            yield warn(topic, f"other versions: {', '.join(differing)}", step)
        else:
            resources = ", ".join(f"{value:g} {name}" for name, value in node["resources"].items())
            writes = ", writes to the output" if "output_problem" in node else ""
            yield ok(topic, f"{resources}{writes}")


# --- inside the process -------------------------------------------------------------------------


def look(address: str, output: str | None) -> list[dict[str, Any]]:
    """Join a cluster and return what every node says of itself."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    probe = ray.remote(num_cpus=0, max_retries=0)(describe_node)
    asked = []
    for node in ray.nodes():  # type: ignore[no-untyped-call]  # as Ray has it
        if node["Alive"]:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            token = secrets.token_hex(16)
            call = probe.options(scheduling_strategy=pinned).remote(_COMPARED, output, token)
            asked.append((node, token, call))
    ray.wait([call for *_, call in asked], num_returns=len(asked), timeout=_NODE_S)
    nodes = []
    for node, token, call in asked:
        seen: dict[str, Any] = {"name": node["NodeManagerHostname"]}
        wanted = ("CPU", "GPU")
        seen["resources"] = {k: v for k, v in node["Resources"].items() if k in wanted}
        try:
            answer: dict[str, Any] = ray.get(call, timeout=0)
            seen |= answer
        except (ray.exceptions.RayError, TimeoutError) as error:
            seen["problem"] = str(error).strip().splitlines()[-1]
        if output is not None and not seen.get("problem") and not seen["output_problem"]:
            seen["output_problem"] = _find_probe(output, token)
        nodes.append(seen)
    return nodes


def describe_node(
    libraries: Sequence[str], output: str | None, token: str
) -> dict[str, Any]:  # pragma: no cover - runs on the nodes of a cluster
    """Return the versions on this node, and leave a token in the output."""
    from importlib import metadata

    versions: dict[str, str | None] = {}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    seen: dict[str, Any] = {"versions": versions}
    if output is not None:
        try:
            from farm.store.files import open_files

            open_files(output).put_new(f"tmp/doctor-{token}", token.encode())
            seen["output_problem"] = None
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the finding
            seen["output_problem"] = str(error)
    return seen


def _find_probe(output: str, token: str) -> str | None:
    """Return why the token that a node left in the output is not to be seen from here."""
    from farm.store.files import open_files

    files, name = open_files(output), f"tmp/doctor-{token}"
    try:
        found = files.get(name) == token.encode()
    except FileNotFoundError:
        return "what it writes there does not arrive"
    files.delete(name)
    return None if found else "what it writes there arrives changed"


if __name__ == "__main__":
    _address, *_rest = sys.argv[1:]
    sys.stdout.write(json.dumps(look(_address, _rest[0] if _rest else None)) + "\n")
