"""The doctor: does this machine, and the cluster behind it, have what a render farm needs?

Every check is a small function that looks at one thing and yields findings. None of them changes
anything but a probe file that it removes again, and none asks the network for anything, save the
cluster and the output that the caller names. What may hang or crash (GPU drivers, a cluster that
does not answer) is looked at from a process of its own with a time limit.
"""

from __future__ import annotations

from collections.abc import Iterator

from farm.doctor.cluster import examine_ray
from farm.doctor.finding import Finding, Level
from farm.doctor.libraries import examine_libraries, examine_python
from farm.doctor.machine import (
    examine_clock,
    examine_devices,
    examine_disk,
    examine_memory,
    examine_proxies,
)
from farm.doctor.models import examine_hub, examine_models
from farm.doctor.output import examine_output

__all__ = ["Finding", "Level", "examine"]


def examine(output: str | None = None, address: str | None = None) -> list[Finding]:
    """Examine this machine and, if named, an output and a Ray cluster.

    Args:
        output: folder or URL that a run would write to; nothing is created there.
        address: a running cluster, as `farm submit --address` takes it. With `output`, every node
            of it must be able to write there.
    """
    return list(_examine(output, address))


def _examine(output: str | None, address: str | None) -> Iterator[Finding]:
    yield from examine_python()
    yield from examine_libraries()
    yield from examine_devices()
    yield from examine_memory()
    yield from examine_disk(output)
    yield from examine_models()
    yield from examine_hub()
    yield from examine_clock()
    yield from examine_proxies()
    if output is not None:
        yield from examine_output(output)
    yield from examine_ray(address, output=output)
