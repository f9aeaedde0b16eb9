"""A renderer that does what its prompts say, for tests of the engine.

It paints as the pattern renderer does, after one verb of misbehaviour. `model` is a folder in which
it keeps what has to outlive a process: how often each task was begun, and every load.

| prompt begins with | what happens |
|---|---|
| `fine` | the picture |
| `refuse` | `Failed(bad_task)` |
| `black N` | `Failed(bad_output)` the first N times |
| `raise N` | the renderer raises the first N times |
| `die N` | the process kills itself (SIGKILL) the first N times |
| `kill-driver` | the driver is killed, and this process with it, by the first such task only |
| `slow` | the picture, after a short wait |

A model folder whose name begins with `unloadable` does not load; one with `deadly` kills
the process that loads it.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from farm.errors import ModelError
from farm.render import Renderer
from farm.render.pattern import paint
from farm.task import (
    Failed,
    FailureKind,
    PipelineKey,
    Rendered,
    RenderFacts,
    RenderResult,
    TaskSpec,
    task_id,
)

FACTORY = "tests.engine.fault_renderers:open_faulty"
BATCHING_FACTORY = "tests.engine.fault_renderers:open_batching"
AHEAD_FACTORY = "tests.engine.fault_renderers:open_ahead"
_FACTS = RenderFacts(dtype="uint8", device="cpu")


def begun(model: Path) -> list[str]:
    """Return the id of every task that was begun, in order, with repetitions."""
    log = model / "begun"
    return log.read_text().split() if log.exists() else []


def loads(model: Path) -> int:
    """Return how often the model was loaded."""
    log = model / "loads"
    return len(log.read_text().split()) if log.exists() else 0


class FaultyRenderer:
    """Takes `batch` tasks at a time and renders them together."""

    def __init__(self, model: Path, *, batch: int) -> None:
        self._model = model
        self._batch = batch

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        while batch := list(itertools.islice(tasks, self._batch)):
            for task in batch:
                _note(self._model / "begun", task_id(task))
                self._misbehave(task)
            for task in batch:
                yield self._result(task, len(batch))

    def close(self) -> None:
        """Nothing is held."""

    def _misbehave(self, task: TaskSpec) -> None:
        match task.prompt.split():
            case ["raise", times, *_] if self._again(task, int(times)):
                raise RuntimeError("the prompt said so")
            case ["die", times, *_] if self._again(task, int(times)):
                os.kill(os.getpid(), signal.SIGKILL)
            case ["kill-driver", *_] if self._count("driver") == 1:
                os.kill(int((self._model / "driver.pid").read_text()), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            case ["slow", *_]:
                time.sleep(0.02)
            case _:
                pass

    def _result(self, task: TaskSpec, batch_size: int) -> RenderResult:
        match task.prompt.split():
            case ["refuse", *_]:
                return Failed(task=task, kind=FailureKind.BAD_TASK, message="refused", facts=_FACTS)
            case ["black", times, *_] if self._again(task, int(times)):
                return Failed(task=task, kind=FailureKind.BAD_OUTPUT, message="black", facts=_FACTS)
            case _:
                return Rendered(
                    task=task,
                    pixels=paint(task),
                    render_ms=1.0,
                    batch_size=batch_size,
                    denoiser_evaluations=task.num_inference_steps,
                    facts=_FACTS,
                )

    def _again(self, task: TaskSpec, times: int) -> bool:
        """Count one more misbehaviour; return whether it is within its number."""
        return self._count(task_id(task).replace(":", "-")) <= times

    def _count(self, name: str) -> int:
        counter = self._model / f"faults-{name}"
        _note(counter, "x")
        return len(counter.read_text().split())


def _note(path: Path, text: str) -> None:
    """Append a line, whole, from any process."""
    with path.open("a") as file:
        file.write(f"{text}\n")


def open_faulty(key: PipelineKey, *, device: str, threads: int | None) -> Renderer:  # noqa: ARG001
    """Open a renderer that takes one task at a time."""
    return _open(key, batch=1)


class AheadRenderer:
    """Takes every task there is before it draws the first, and gives back what it has not begun."""

    def __init__(self) -> None:
        self._waiting: deque[TaskSpec] = deque()

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        self._waiting.extend(tasks)
        while self._waiting:
            task = self._waiting.popleft()
            yield Rendered(
                task=task, pixels=paint(task), render_ms=1.0, batch_size=1,
                denoiser_evaluations=task.num_inference_steps, facts=_FACTS,
            )  # fmt: skip

    def withdraw(self) -> Sequence[TaskSpec]:
        back = list(self._waiting)
        self._waiting.clear()
        return back

    def close(self) -> None: ...


def open_ahead(_key: PipelineKey, *, device: str, threads: int | None) -> Renderer:  # noqa: ARG001
    """Open a renderer that takes all tasks at once."""
    return AheadRenderer()


def open_batching(key: PipelineKey, *, device: str, threads: int | None) -> Renderer:  # noqa: ARG001
    """Open a renderer that takes four tasks at a time."""
    return _open(key, batch=4)


def _open(key: PipelineKey, *, batch: int) -> Renderer:
    model = Path(key.model)
    _note(model / "loads", str(os.getpid()))
    if model.name.startswith("unloadable"):
        raise ModelError(f"{model.name} is not a model")
    if model.name.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    return FaultyRenderer(model, batch=batch)
