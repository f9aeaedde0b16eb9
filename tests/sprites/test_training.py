from pathlib import Path

import numpy as np
import torch

from sprites.denoiser import rows_of_step
from sprites.training import Budget, Muon, Part, Workers, orthogonalise, train


def test_an_epoch_takes_every_row_once_and_epochs_differ() -> None:
    epochs = [[rows_of_step(20, 5, step, 5) for step in range(4 * e, 4 * e + 4)] for e in (0, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(20))
    assert np.concatenate(epochs[0]).tolist() != np.concatenate(epochs[1]).tolist()


def test_orthogonalising_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((8, 30), (30, 8), (16, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_muon_lowers_a_loss() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    target = torch.randn(4, 4)
    muon = Muon([weight], lr=0.1, weight_decay=0.0, workers=Workers())
    losses = []
    for _ in range(60):
        loss = (weight - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        muon.step()
        muon.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def _steps(seen: list[int], module: torch.nn.Module, budget: Budget) -> dict[str, float]:
    def part() -> dict[str, torch.Tensor]:
        return {"loss": module(torch.ones(1, 3)).square().mean()}

    def parts(step: int) -> list[Part]:
        seen.append(step)
        return [part, part]

    return train({"module": module}, parts, budget, lr=1e-2)


def test_a_resumed_run_goes_on_at_the_next_step(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    first: list[int] = []
    again: list[int] = []
    report = _steps(first, torch.nn.Linear(3, 3), Budget(0.002, 0, checkpoint))
    assert report["steps"] == len(first)
    assert first == list(range(len(first)))
    _steps(again, torch.nn.Linear(3, 3), Budget(0.004, 0, checkpoint))
    assert again[0] == len(first)
