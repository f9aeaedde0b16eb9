"""How long a call took on a device, without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class CallClock:
    """Times calls. On a CPU a time is known when the call is over; on a GPU some calls later."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._is_mps = device.type == "mps"
        self._finished: list[tuple[int, float]] = []
        self._running: deque[tuple[int, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def timing(self, rows: int) -> Iterator[None]:
        """Time what the block asks of the device; an exception in it is no time at all."""
        if self._is_cuda:
            began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            began.record()
            yield
            ended.record()
            self._running.append((rows, began, ended))
            return
        started = time.perf_counter()
        yield
        if self._is_mps:
            torch.mps.synchronize()  # its events cannot be asked, only awaited
        self._finished.append((rows, time.perf_counter() - started))

    def collect(self) -> list[tuple[int, float]]:
        """Return rows and seconds of the calls that have ended since the last time."""
        while self._running and self._running[0][2].query():  # type: ignore[no-untyped-call]
            rows, began, ended = self._running.popleft()
            self._finished.append((rows, began.elapsed_time(ended) / 1e3))
        finished, self._finished = self._finished, []
        return finished
