"""Executors to play a scene on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from farm.engine import Executor
from farm.engine.inline import InlineExecutor
from farm.engine.ray_executor import RayExecutor


def _inline() -> Executor:
    return InlineExecutor()


def _ray() -> Executor:
    return RayExecutor(workers=2, num_gpus=0, num_cpus=1)


@pytest.fixture(
    params=[
        pytest.param("inline"),
        pytest.param("ray", marks=[pytest.mark.cluster, pytest.mark.timeout(600)]),
    ]
)
def make_executor(request: pytest.FixtureRequest) -> Callable[[], Executor]:
    """Every executor in turn; Ray's workers run on the session's cluster."""
    if request.param == "inline":
        return _inline
    request.getfixturevalue("ray_cluster")
    return _ray
