"""What all tests share: no deadlines, and one small Ray cluster for the tests that need it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A loaded machine is slow, not wrong: properties are judged by what they find, not by the clock.
settings.register_profile("farm", deadline=None)
settings.load_profile("farm")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that need Ray in one process, where they share one cluster."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("ray"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run groups that would not stay together: nothing else says so, all is only slow."""
    if not hasattr(session.config, "workerinput") or not session.config.option.loadgroup:
        return
    for item in session.items:
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
            raise pytest.UsageError(f"pytest-xdist has not grouped {item.nodeid}")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Connect this process to a Ray of its own: two CPUs, no dashboard, nothing said."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
