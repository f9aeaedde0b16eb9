"""The executor of many processes: one Ray actor a worker, on this machine or on a cluster.

Ray starts processes, carries small messages and notices deaths. Everything else is ours, because
Ray's own answers hide what the loop has to know: actors are never restarted and calls are never
repeated by Ray (a call may have run although it is reported as failed), nothing is put into its
object store, and what a death means is decided in `farm.engine.decide`.

An actor has one thread that renders for as long as it lives, and a few for `control` calls. The
driver holds one open call to each, `report`, which answers as soon as a chunk is done and otherwise
twice a second with a heartbeat: no polling, no queue, at most one call in flight.

Of the engine's modules, only this one imports Ray.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from farm.engine.chunks import Chunk, Message, WorkerDown, WorkerReport, WorkerSetup, WorkerUp
from farm.engine.worker import Worker
from farm.errors import FarmError, MissingLibraryError, OutputError
from farm.store import Store

if TYPE_CHECKING:
    from types import ModuleType

BEAT_S = 0.5
"""How often a worker that has nothing else to say reports that it is alive."""
CONTROL_THREADS = 4
FAILED_STARTS = 3
"""Workers that may fail to start, before the first one that does, until the run is refused."""
_NODE_ID = "ray.io/node-id"
"""A label that Ray puts on every node."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a render farm does not phone home
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would rebuild the environment
}

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Actor:
    """A `Worker` in a process of its own. Its public methods are what the driver calls."""

    def __init__(
        self,
        setup: WorkerSetup,
        *,
        name: str,
        device: str,
        threads: int,
        python_path: Sequence[str],
    ) -> None:
        """Note what to do; nothing that may fail, because Ray would report it without its type.

        `python_path` is where the driver finds modules, for a renderer from outside the package.
        """
        self._setup = setup
        self._python_path = python_path
        self._name = name
        self._device = device
        self._threads = threads
        self._opened = threading.Event()

    def hello(self, token: str) -> tuple[str, str, str]:
        """Open the store and prove that it is the driver's; return node, device and node id.

        Raises:
            OutputError: the store cannot be opened or written from this node.
        """
        import ray

        # Here and not in a Ray `runtime_env`, which starts every process anew and takes seconds.
        # It is early enough: what counts threads (torch) or is found by path is imported later.
        os.environ |= {"OMP_NUM_THREADS": str(self._threads), "MKL_NUM_THREADS": str(self._threads)}
        sys.path += [folder for folder in self._python_path if folder not in sys.path]
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        node = platform.node()
        self._worker = Worker(
            self._setup, name=self._name, node=node, device=self._device, threads=self._threads
        )
        self._worker.prove_output(token)
        self._opened.set()
        return node, f"cuda:{','.join(gpus)}" if gpus else "cpu", context.get_node_id()

    def serve(self) -> NoReturn:
        """Render whatever is leased, for ever. Only an error of ours ends it."""
        self._opened.wait()
        while True:
            if self._worker.wait_for_lease(BEAT_S):
                for _ in self._worker.work():
                    pass

    def lease(self, chunk: Chunk) -> None:
        """See `Worker.lease`."""
        self._worker.lease(chunk)

    def report(self) -> WorkerReport:
        """See `Worker.report`."""
        return self._worker.report(BEAT_S)

    def ask_to_stop(self) -> None:
        """See `Worker.ask_to_stop`."""
        if self._opened.is_set():
            self._worker.ask_to_stop()


@dataclass(slots=True, kw_only=True)
class _Remote:
    """What the driver holds of one actor."""

    actor: Any
    serving: Any
    """The call that never returns: its end is a death or an error of ours."""
    talking: Any
    """The one open call: `hello`, then `report` again and again."""
    token: str
    is_up: bool = False


class RayExecutor:
    """Workers as Ray actors."""

    name = "ray"

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        num_gpus: float | None = None,
        num_cpus: float | None = None,
        accelerator_type: str | None = None,
        total_gpus: int = 0,
        threads: int | None = None,
    ) -> None:
        """Describe the workers; start nothing.

        Args:
            address: a running cluster to join; None starts one here, for this run only.
            workers: how many; None as many as the cluster has room for.
            num_gpus: GPUs of each worker; None takes one if the cluster has any.
            num_cpus: CPUs of each worker, as Ray counts them.
            accelerator_type: Ray's name of the GPU model to run on.
            total_gpus: GPUs of this machine, when Ray is started here.
            threads: CPU threads of each worker; None takes its share of `num_cpus`.
        """
        self._address = address
        self._workers = workers
        self._num_gpus = num_gpus
        self._num_cpus = 1.0 if num_cpus is None else num_cpus
        self._accelerator_type = accelerator_type
        self._total_gpus = total_gpus
        self._threads = max(1, int(self._num_cpus)) if threads is None else threads
        self._remotes: dict[str, _Remote] = {}
        self._born = 0
        self._failed_starts = 0
        self._has_started = False
        self._owns_ray = False
        self._stopping = False
        self._avoided: frozenset[str] = frozenset()

    @property
    def size(self) -> int | None:
        """See `Executor.size`."""
        return self._workers

    def start(self, setup: WorkerSetup) -> None:
        """See `Executor.start`."""
        self._setup = setup
        self._control = Store.open(setup.store_url).control
        self._ray = _import_ray()
        self._connect()
        resources = self._ray.cluster_resources()
        if self._num_gpus is None:
            self._num_gpus = 1.0 if resources.get("GPU", 0) else 0.0
        if self._workers is None:
            self._workers = self._room(resources)
        for _ in range(self._workers):
            self._spawn()

    def lease(self, worker: str, chunk: Chunk) -> None:
        """See `Executor.lease`."""
        self._control_call(self._remotes[worker].actor.lease, chunk)

    def wait(self, timeout_s: float) -> Sequence[Message]:
        """See `Executor.wait`."""
        owners = {remote.talking: name for name, remote in self._remotes.items()}
        owners |= {remote.serving: name for name, remote in self._remotes.items()}
        if not owners:
            time.sleep(timeout_s)
            return []
        calls = list(owners)
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready:
            ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)
        return list(self._hear_all((owners[call], call) for call in ready))

    def replace(self, worker: str) -> None:
        """See `Executor.replace`."""
        remote = self._remotes.pop(worker)
        self._ray.kill(remote.actor, no_restart=True)
        if not self._stopping:
            self._spawn()

    def avoid(self, node_ids: frozenset[str]) -> None:
        """See `Executor.avoid`. Workers that are still starting start again, elsewhere."""
        self._avoided = node_ids
        for name in [name for name, remote in self._remotes.items() if not remote.is_up]:
            self.replace(name)

    def ask_to_stop(self) -> None:
        """See `Executor.ask_to_stop`."""
        self._stopping = True
        for remote in self._remotes.values():
            self._control_call(remote.actor.ask_to_stop)

    def close(self) -> None:
        """See `Executor.close`. A cluster that was running before goes on running."""
        for remote in self._remotes.values():
            self._ray.kill(remote.actor, no_restart=True)
        self._remotes.clear()
        if self._owns_ray:
            self._owns_ray = False
            with _own_signal_handlers():
                self._ray.shutdown()
            self._let_ray_print(allowed=True)

    # --- Ray ------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Join or start a cluster; leave one alone that this process is connected to already."""
        if self._ray.is_initialized():
            return
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            with _own_signal_handlers():
                if self._address is not None:
                    self._ray.init(address=self._address, **quiet)
                else:
                    self._ray.init(
                        address="local",  # not whichever cluster happens to run here
                        num_cpus=max(1, round((self._workers or 1) * self._num_cpus)),
                        num_gpus=self._total_gpus,
                        include_dashboard=False,
                        **quiet,
                    )
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            place = f"join the Ray cluster at {self._address}" if self._address else "start Ray"
            raise FarmError(
                f"cannot {place}: {error}",
                hint="check the address with `ray status`"
                if self._address
                else "`--executor inline` renders without Ray",
            ) from error
        self._owns_ray = True
        self._let_ray_print(allowed=False)

    def _let_ray_print(self, *, allowed: bool) -> None:
        """Keep Ray from printing what happens to its nodes: standard output is for results.

        `log_to_driver` does not cover such messages (`listen_error_messages` in Ray 2.60), and we
        say the same in events.
        """
        self._ray._private.worker._worker_logs_enabled = allowed  # noqa: SLF001 - no public switch

    def _room(self, resources: dict[str, float]) -> int:
        """Return how many workers the cluster has room for now, at least one."""
        rooms = [resources.get("CPU", 0.0) / self._num_cpus if self._num_cpus else 1.0]
        if self._num_gpus:
            rooms.append(resources.get("GPU", 0.0) / self._num_gpus)
        return max(1, int(min(rooms)))

    def _spawn(self) -> None:
        """Start one more worker. It may have to wait for room; others do not wait for it."""
        self._born += 1
        name = f"ray-{self._born}"
        options: dict[str, Any] = {
            "num_cpus": self._num_cpus,
            "num_gpus": self._num_gpus,
        }
        if self._accelerator_type is not None:
            options["accelerator_type"] = self._accelerator_type
        if self._avoided:
            options["label_selector"] = {_NODE_ID: f"!in({','.join(sorted(self._avoided))})"}
        actor_class = self._ray.remote(
            max_restarts=0, max_task_retries=0, concurrency_groups={"control": CONTROL_THREADS}
        )(Actor)
        actor = actor_class.options(**options).remote(
            self._setup,
            name=name,
            device="auto" if self._num_gpus else "cpu",
            threads=self._threads,
            python_path=sys.path if self._setup.factory else (),
        )
        token = secrets.token_hex(16)
        self._remotes[name] = _Remote(
            actor=actor,
            talking=self._control_call(actor.hello, token),
            serving=actor.serve.remote(),
            token=token,
        )

    @staticmethod
    def _control_call(method: Any, *arguments: object) -> Any:  # noqa: ANN401 - Ray has no types
        return method.options(concurrency_group="control").remote(*arguments)

    def _hear_all(self, calls: Iterable[tuple[str, Any]]) -> Iterator[Message]:
        for name, call in calls:
            # An earlier call of this round may have shown that the worker is gone.
            if (remote := self._remotes.get(name)) is not None:
                yield self._hear(name, remote, call)

    def _hear(self, name: str, remote: _Remote, call: Any) -> Message:  # noqa: ANN401 - as above
        """Return what a finished call says."""
        exceptions = self._ray.exceptions
        try:
            answer = self._ray.get(call)
        except exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, FarmError) else error from None
        except exceptions.RayError as error:
            return self._lose(name, remote, error)
        if isinstance(answer, WorkerReport):
            remote.talking = self._control_call(remote.actor.report)
            return answer
        node, device, node_id = answer
        self._check_output(name, node, remote.token)
        remote.is_up = self._has_started = True
        remote.talking = self._control_call(remote.actor.report)
        return WorkerUp(worker=name, node=node, device=device, node_id=node_id)

    def _lose(self, name: str, remote: _Remote, error: Exception) -> Message:
        """Forget a worker that died, and start another in its place."""
        reason = _cause_of_death(error)
        del self._remotes[name]
        # It may only be out of reach. What it still commits is harmless, but it holds a GPU.
        self._ray.kill(remote.actor, no_restart=True)
        if not (remote.is_up or self._has_started):
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise FarmError(
                    f"workers cannot start: {reason}",
                    hint="run `farm doctor`, or try `--executor inline` to see the error itself",
                )
        if not self._stopping:
            self._spawn()
        return WorkerDown(worker=name, reason=reason)

    def _check_output(self, name: str, node: str, token: str) -> None:
        """Refuse a worker whose output is another folder of the same name."""
        probe = f"probes/{name}"
        if self._control.read(probe) != token:
            raise OutputError(
                f"node {node} writes to another folder of this name: the output is not shared",
                where=self._setup.store_url,
                hint="give an output that every node sees: a shared mount, or a URL such as s3://",
            )
        self._control.delete(probe)


def _cause_of_death(error: Exception) -> str:
    """Return the line of Ray's account that says why: a process's end, or an error's last line."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    for line in lines:
        _, found, detail = line.partition("Worker exit detail: ")
        if found:
            return detail
    return lines[-1] if lines else type(error).__name__


def _import_ray() -> ModuleType:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingLibraryError(
            "executor ray needs Ray, which cannot be imported", hint="pip install 'ray>=2.53,<3'"
        ) from error
    module: ModuleType = ray
    return module


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep the handlers of SIGINT and SIGTERM, which `ray.init` replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
