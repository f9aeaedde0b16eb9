"""The yardstick: both networks by themselves, within what memory holds."""

from __future__ import annotations

from farm.render.lane.measure import measure_paces
from farm.render.lane.renderer import LaneRenderer
from farm.task import TaskSpec
from tests.render.lane.fakes import SineNetworks


def test_both_networks_are_measured_by_batch_size() -> None:
    paces = LaneRenderer(SineNetworks()).measure(TaskSpec(), seconds=0.05)
    assert set(paces.network.times) >= {1}
    assert paces.network.best == min(paces.network.times.values()) > 0
    assert paces.decoder.best > 0


def test_sizes_that_do_not_fit_are_left_out() -> None:
    networks = SineNetworks(rows_that_fit=4, pictures_that_fit=2)
    paces = measure_paces(networks, height=8, width=8, seconds=5.0)
    assert max(paces.network.times) <= 4
    assert max(paces.decoder.times) <= 2
    assert paces.network.best_batch in paces.network.times
