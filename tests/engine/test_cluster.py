"""A Ray cluster of several nodes that was running before, joined by its address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.store import Store
from tests.engine.scenes import content, make_job

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, in processes of their own."""
    from ray.cluster_utils import Cluster

    nodes: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield nodes
    nodes.shutdown()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def _driver(
    cluster: Any,
    *arguments: str,
    cwd: Path,
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.engine.driver", f"ray@{cluster.address}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_node_that_goes_away_takes_nothing_committed_with_it(
    cluster: Any, tmp_path: Path, model: Path
) -> None:
    second = cluster.add_node(num_cpus=1)
    model.mkdir()
    job = make_job(tmp_path / "out", prompts=("slow",), models=[model], seeds=range(400))
    # Where the driver stands is not where the nodes do.
    with _driver(cluster, str(tmp_path / "out"), str(model), "400", "slow", cwd=tmp_path) as driver:
        assert driver.stdout is not None
        seen: list[dict[str, Any]] = []
        workers: set[str] = set()
        for line in driver.stdout:
            seen.append(json.loads(line))
            if seen[-1]["event"] == "progress" and seen[-1]["rendered"]:
                workers.add(seen[-1]["worker"])
            if second is not None and len(workers) == 2:
                cluster.remove_node(second, allow_graceful=False)
                second = None
    assert driver.returncode == 0
    assert seen[0]["workers"] is None
    assert "worker-lost" in {event["event"] for event in seen}
    assert seen[-1]["report"]["rendered"] == len(content(job)) == 400
    assert Store.open(job.output).control.names("leases/") == []


AVOIDING = """
import sys
from pathlib import Path
from farm.engine.chunks import WorkerSetup, WorkerUp
from farm.engine.decide import Policy
from farm.engine.ray_executor import RayExecutor
from farm.store import Store
from tests.engine.scenes import make_job

address, output, nodes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
job = make_job(output, prompts=("fine",), models=[])
url = Store.open(job.output, create=True).url
executor = RayExecutor(address=address, workers=nodes, num_gpus=0, num_cpus=1)
executor.start(WorkerSetup(store_url=url, job=job, run=1, policy=Policy()))

def arrivals():
    while True:
        yield from (message for message in executor.wait(1.0) if isinstance(message, WorkerUp))

coming = arrivals()
there = [next(coming) for _ in range(nodes)]
assert len({worker.node_id for worker in there}) == nodes, there
# Room for both, on the node that one of them leaves and on the one that is to be avoided.
executor.avoid(frozenset({there[0].node_id}))
executor.replace(there[0].worker)
executor.replace(there[1].worker)
assert next(coming).node_id == there[1].node_id
executor.close()
"""


def test_workers_start_on_other_nodes_than_those_to_be_avoided(
    cluster: Any, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AVOIDING, cluster.address, str(tmp_path / "out"), "2"]
    subprocess.run(command, env=environment, check=True, timeout=200)
