from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from farm.errors import InputError
from farm.store import Store
from farm.store.votes import Vote, VoteKind
from farm.task import TaskSpec, task_id
from farm.view.ranking import bradley_terry, rank, rank_votes

TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
# Results of the 1987 season of the American League's eastern division: A. Agresti, Categorical
# Data Analysis (2002), table 10.10. A row's team beat a column's so many times.
BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ],
    dtype=np.float64,
)
# Log strengths against Baltimore and their standard errors, as H. Turner and D. Firth
# print them in "Bradley-Terry Models in R", Journal of Statistical Software 48 (2012), number 9.
PUBLISHED = {
    "Boston": (1.1077, 0.3339),
    "Cleveland": (0.6839, 0.3319),
    "Detroit": (1.4364, 0.3396),
    "Milwaukee": (1.5814, 0.3433),
    "New York": (1.2476, 0.3359),
    "Toronto": (1.2945, 0.3367),
}


def test_the_baseball_league_comes_out_as_published() -> None:
    fit = bradley_terry(BASEBALL, prior=0.0)
    for team, (strength, error) in PUBLISHED.items():
        found = fit.difference(TEAMS.index(team), TEAMS.index("Baltimore"))
        assert found == pytest.approx((strength, error), abs=1e-4)


@given(
    arrays(np.float64, st.integers(2, 6).map(lambda n: (n, n)), elements=st.integers(0, 9)),
)
def test_any_results_at_all_give_finite_strengths(wins: np.ndarray) -> None:
    np.fill_diagonal(wins, 0)
    fit = bradley_terry(wins)
    assert np.isfinite(fit.strengths).all()
    assert fit.strengths.mean() == pytest.approx(0, abs=1e-9)
    assert (np.diag(fit.covariance) >= 0).all()
    mirrored = bradley_terry(wins.T.copy())
    assert mirrored.strengths == pytest.approx(-fit.strengths, abs=1e-6)


def test_more_comparisons_make_it_surer() -> None:
    few, many = (bradley_terry(np.array([[0.0, 2.0], [1.0, 0.0]]) * n) for n in (1, 50))
    assert few.strengths[0] > 0
    assert many.strengths[0] > few.strengths[0]  # the prior matters less
    assert many.covariance[0, 0] < few.covariance[0, 0] / 10


def compared(one: TaskSpec, other: TaskSpec, result: str, *, axis: str | None) -> Vote:
    return Vote(
        kind=VoteKind.COMPARISON,
        task_id=task_id(one),
        other_id=task_id(other),
        value=result,
        rater="me",
        axis=axis,
    )


@pytest.fixture
def samplers(task: Callable[..., TaskSpec]) -> dict[tuple[str, int], TaskSpec]:
    return {
        (name, seed): task(prompt="a", sampler=name, seed=seed)
        for name in ("ddim", "euler", "heun")
        for seed in range(4)
    }


def test_settings_are_ranked_by_their_images(
    samplers: dict[tuple[str, int], TaskSpec], make_output: Callable[..., str]
) -> None:
    output = make_output(samplers.values())
    store = Store.open(output)
    for seed in range(4):
        euler, ddim, heun = (samplers[name, seed] for name in ("euler", "ddim", "heun"))
        store.vote(
            [
                compared(ddim, euler, "second", axis="sampler"),
                compared(heun, ddim, "second" if seed else "tie", axis="sampler"),
                compared(ddim, samplers["ddim", (seed + 1) % 4], "first", axis="seed"),
            ]
        )
    found = rank(output, by="sampler")
    assert [one.value for one in found.standings] == ["euler", "ddim", "heun"]
    assert found.comparisons == 8
    assert [(one.wins, one.comparisons) for one in found.standings] == [(4, 4), (3.5, 8), (0.5, 4)]
    for one in found.standings:
        assert one.low < one.strength < one.high


def test_without_a_comparison_there_is_no_ranking(
    samplers: dict[tuple[str, int], TaskSpec], make_output: Callable[..., str]
) -> None:
    output = make_output(samplers.values())
    with pytest.raises(InputError, match="nobody has compared"):
        rank(output, by="sampler")
    with pytest.raises(InputError, match="no column 'sampeler'"):
        rank(output, by="sampeler")


def test_images_that_are_not_in_the_catalog_do_not_count(
    samplers: dict[tuple[str, int], TaskSpec],
) -> None:
    vote = compared(samplers["ddim", 0], samplers["euler", 0], "first", axis=None)
    assert rank_votes([vote], {task_id(samplers["ddim", 0]): "ddim"}, by="sampler").standings == ()
