"""Which executor, how many workers, and the sentence that says why."""

from __future__ import annotations

import pytest

from farm.engine import choose, choose_executor
from farm.engine.ray_executor import RayExecutor
from farm.errors import InputError, MissingLibraryError
from farm.manifest.job import Resources

GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend to be a machine of two cores and no GPU."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    _pretend(monkeypatch, cores=2, gpus=0)
    return monkeypatch


def _pretend(
    monkeypatch: pytest.MonkeyPatch, *, cores: int, gpus: int, memory: int = 64 * GIB
) -> None:
    class Memory:
        available = memory

    monkeypatch.setattr(choose, "count_cores", lambda: cores)
    monkeypatch.setattr(choose, "count_gpus", lambda: gpus)
    monkeypatch.setattr("psutil.virtual_memory", Memory)


@pytest.mark.parametrize(
    ("cores", "gpus", "memory", "expected"),
    [
        (2, 0, 64 * GIB, "ray: 2 CPU workers with 1 thread each, as there is no GPU"),
        (16, 0, 64 * GIB, "ray: 4 CPU workers with 4 threads each, as there is no GPU"),
        (16, 0, 7 * GIB, "ray: 2 CPU workers with 8 threads each, as there is no GPU"),
        (1, 0, 1 * GIB, "ray: 1 CPU worker with 1 thread each, as there is no GPU"),
        (16, 1, 64 * GIB, "ray: 1 GPU worker, as this machine has 1 GPU"),
        (16, 8, 64 * GIB, "ray: 8 GPU workers, as this machine has 8 GPUs"),
    ],
)
def test_auto_takes_what_the_machine_has(
    machine: pytest.MonkeyPatch, cores: int, gpus: int, memory: int, expected: str
) -> None:
    _pretend(machine, cores=cores, gpus=gpus, memory=memory)
    executor, reason = choose_executor("auto")
    assert reason == expected
    assert executor.name == "ray"
    assert f"{executor.size} " in reason


@pytest.mark.usefixtures("machine")
def test_a_cluster_decides_how_many_workers_it_has_room_for() -> None:
    executor, reason = choose_executor("auto", address="10.0.0.1:6379")
    assert executor.size is None
    assert "10.0.0.1:6379" in reason
    assert choose_executor("ray", address="auto", workers=7)[0].size == 7


@pytest.mark.usefixtures("machine")
def test_the_environment_may_name_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert "10.0.0.2:6379" in choose_executor("auto")[1]
    assert "10.0.0.1:6379" in choose_executor("auto", address="10.0.0.1:6379")[1]
    assert choose_executor("inline")[0].name == "inline"


def test_gpus_may_be_shared_or_declined(machine: pytest.MonkeyPatch) -> None:
    _pretend(machine, cores=8, gpus=2)
    assert choose_executor("auto", resources=Resources(num_gpus=0.5))[0].size == 4
    assert "CPU" in choose_executor("auto", resources=Resources(num_gpus=0))[1]


def test_inline_is_one_worker() -> None:
    assert choose_executor("inline")[0].size == 1
    with pytest.raises(InputError, match="one worker"):
        choose_executor("inline", workers=2)
    with pytest.raises(InputError, match="one worker"):
        choose_executor("inline", address="auto")


@pytest.mark.usefixtures("machine")
def test_without_ray_auto_renders_here_and_ray_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    executor, reason = choose_executor("auto")
    assert executor.name == "inline"
    assert "not installed" in reason
    with pytest.raises(MissingLibraryError) as missing:
        choose_executor("ray")
    assert "pip install" in str(missing.value)


@pytest.mark.parametrize(("choice", "workers"), [("slurm", None), ("ray", 0)])
def test_nonsense_is_refused(choice: str, workers: int | None) -> None:
    with pytest.raises(InputError):
        choose_executor(choice, workers=workers)


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("GPU-1,GPU-2,GPU-3", 3)]
)
def test_gpus_are_counted_by_what_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose.count_gpus() == count


def test_an_executor_that_is_not_started_holds_nothing() -> None:
    RayExecutor(workers=2).close()
