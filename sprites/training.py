"""What both trainings share: the optimiser, the schedule, the moving average and the loop.

A run is a pure function of its seed but for one thing: the learning rate follows the share of the
budget of processor time that is used up, so that a run on a slower machine still ends at zero, and
one that was stopped for an hour, or shared its cores, trains as much as one that was not. The data
of a step depend on the seed and the step's number alone; a resumed run sees what an uninterrupted
one would have seen.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sprites.files import read_checkpoint, write_checkpoint

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")

Part = Callable[[], dict[str, Tensor]]
"""Computes the named losses of a share of a step's batch; its entry ``loss`` is minimised."""

WARM_UP_STEPS = 50
CHECKPOINT_EVERY_S = 180.0
REPORT_EVERY_S = 30.0
AVERAGE_DECAY = 0.999


@dataclass(frozen=True)
class Budget:
    """Minutes of processor time, all cores and runs together, and where the checkpoint lies."""

    minutes: float
    seed: int
    checkpoint: Path


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step, the same in every run."""
    return np.random.default_rng([seed, step])


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values near one, by four Newton-Schulz steps.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), whose quintic's
    coefficients these are. ``float32 [rows, columns]``.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    # Every step is a polynomial of the Gram matrix times x, and those commute: iterating on the
    # Gram matrix alone leaves two products with the wide x instead of eight.
    gram = x @ x.T
    product = torch.eye(len(gram))
    for _ in range(4):
        factor = -4.7750 * gram + 2.0315 * gram @ gram
        factor.diagonal().add_(3.4445)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    result: Tensor = x.T if is_tall else x
    return result


class Workers:
    """Threads that compute on one core each."""

    def __init__(self) -> None:
        self._count = max(1, torch.get_num_threads())
        torch.set_num_threads(1)
        # OpenMP keeps the number of threads of an operation for each thread apart.
        self._pool = ThreadPoolExecutor(
            self._count, initializer=torch.set_num_threads, initargs=(1,)
        )

    def map(self, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """The results in the items' order."""
        return list(self._pool.map(work, items))

    def gradients(self, parts: Sequence[Part]) -> dict[str, float]:
        """Add the mean loss's gradients to the parameters; the parts' mean losses."""

        def run(part: Part) -> dict[str, float]:
            losses = part()
            (losses["loss"] / len(parts)).backward()  # type: ignore[no-untyped-call]
            return {name: value.item() for name, value in losses.items()}

        found = self.map(run, parts)
        names = dict.fromkeys(name for losses in found for name in losses)
        values = {name: [losses[name] for losses in found if name in losses] for name in names}
        return {name: sum(some) / len(some) for name, some in values.items()}


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix-shaped update is orthogonalised; a convolution is a matrix by output.

    The update is scaled to the root mean square that Adam's would have (Liu et al., "Muon is
    scalable for LLM training", 2025), so that both can share one learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        workers: Workers,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.95, "weight_decay": weight_decay})
        self._workers = workers

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update from the gradients."""
        assert closure is None
        for group in self.param_groups:
            self._workers.map(partial(self._update, group), group["params"])

    @torch.no_grad()
    def _update(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        ahead = parameter.grad.lerp(state["momentum"], group["momentum"])
        update = orthogonalise(ahead.flatten(1)).view_as(parameter)
        rows, columns = parameter.flatten(1).shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(rows, columns)))


def optimisers(
    modules: Iterable[nn.Module], *, lr: float, weight_decay: float, workers: Workers
) -> list[torch.optim.Optimizer]:
    """Muon for weight matrices inside the networks, AdamW for embeddings, biases and norms."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            is_inner = parameter.ndim > 1 and not any(
                part in name for part in ("embedding.weight", "conv_in", "conv_out")
            )
            (matrices if is_inner else others).append(parameter)
    return [
        Muon(matrices, lr=lr, weight_decay=weight_decay, workers=workers),
        torch.optim.AdamW(others, lr, betas=(0.9, 0.99), weight_decay=weight_decay),
    ]


class Prefetch(Generic[T]):
    """Makes the next step's data in a thread while the present step computes."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """The data of ``step``."""
        if self._next is not None and self._next[0] == step:
            made = self._next[1].result()
        else:
            made = self._make(step)
        self._next = step + 1, self._thread.submit(self._make, step + 1)
        return made


class MovingAverage:
    """An exponential moving average of parameters, which is what gets exported."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._updates = 0
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move toward the present parameters; faster in the first steps."""
        self._updates += 1
        decay = min(AVERAGE_DECAY, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self.values, self._parameters, 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Overwrite the parameters with their average."""
        torch._foreach_copy_(self._parameters, self.values)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs."""
        return {"values": self.values, "updates": self._updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.values = state["values"]
        self._updates = state["updates"]


class Run:
    """One training: modules, optimisers, moving average, and how far it has come."""

    def __init__(
        self, modules: dict[str, nn.Module], budget: Budget, *, lr: float, weight_decay: float
    ) -> None:
        self._modules = modules
        self._budget = budget
        self._lr = lr
        self._parameters = [p for module in modules.values() for p in module.parameters()]
        self._workers = Workers()
        self._optimisers = optimisers(
            modules.values(), lr=lr, weight_decay=weight_decay, workers=self._workers
        )
        self._average = MovingAverage(self._parameters)
        self.step = 0
        self.spent_s = 0.0
        self.losses: dict[str, float] = {}
        if budget.checkpoint.exists():
            self._restore(read_checkpoint(budget.checkpoint))
            log.info("resumed at step %d, %.1f min", self.step, self.spent_s / 60)

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.spent_s >= 60 * self._budget.minutes

    def advance(self, parts_of_step: Callable[[int], Sequence[Part]]) -> None:
        """Make one step."""
        started = time.process_time()
        lr = self._lr * min(1.0, (self.step + 1) / WARM_UP_STEPS) * self._decay()
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
        losses = self._workers.gradients(parts_of_step(self.step))
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self._average.update()
        self.step += 1
        for name, value in losses.items():
            self.losses[name] = 0.98 * self.losses.get(name, value) + 0.02 * value
        self.spent_s += time.process_time() - started

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "modules": {name: module.state_dict() for name, module in self._modules.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "average": self._average.state(),
            "step": self.step,
            "spent_s": self.spent_s,
            "means": self.losses,
        }
        write_checkpoint(self._budget.checkpoint, state)

    def finish(self) -> dict[str, float]:
        """Leave the moving average in the modules; steps, minutes and the losses' last means."""
        self._average.copy_to_parameters()
        return {"steps": self.step, "minutes": self.spent_s / 60, **self.losses}

    def _decay(self) -> float:
        """A cosine from one to a hundredth over the budget."""
        share = min(1.0, self.spent_s / (60 * self._budget.minutes))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))

    def _restore(self, state: dict[str, Any]) -> None:
        for name, module in self._modules.items():
            module.load_state_dict(state["modules"][name])
        for optimiser, optimiser_state in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(optimiser_state)
        self._average.restore(state["average"])
        self.step, self.spent_s = state["step"], state["spent_s"]
        self.losses = state["means"]


def train(
    modules: dict[str, nn.Module],
    parts_of_step: Callable[[int], Sequence[Part]],
    budget: Budget,
    *,
    lr: float,
    weight_decay: float = 0.0,
) -> dict[str, float]:
    """Train until the budget is used up; resume where the checkpoint left off.

    ``parts_of_step`` maps a step's number to equal parts of its batch. As many threads as torch
    may use take one part after another, each computing alone: where a core is busy with something
    else, the other takes more parts instead of waiting in every operation. On return the modules
    hold the moving average. The result says how much was trained: ``steps``, ``minutes`` and the
    last means of the losses.
    """
    run = Run(modules, budget, lr=lr, weight_decay=weight_decay)
    saved_s = shown_s = run.spent_s
    while not run.is_over:
        run.advance(parts_of_step)
        if run.spent_s - shown_s > REPORT_EVERY_S or run.is_over:
            shown_s = run.spent_s
            shown = ", ".join(f"{name} {value:.5f}" for name, value in run.losses.items())
            log.info("step %d, %.1f min: %s", run.step, run.spent_s / 60, shown)
        if run.spent_s - saved_s > CHECKPOINT_EVERY_S or run.is_over:
            saved_s = run.spent_s
            run.save()
    return run.finish()


@torch.no_grad()
def fill(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Overwrite parameters with a checkpoint's moving averages, in the order they were trained."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
