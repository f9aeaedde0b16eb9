"""Backend `torch`, and whatever else runs a model's networks: lanes as a stream of results.

Tasks are taken from the stream when a lane has room for them, so the batch runs on across the
boundaries of cells, settings and chunks, and drains once, at the stream's end. Rows begin in the
order of the stream, until its end is seen: then the longest of those that wait begin first, so that
the last ones end together and not one after the other.

Pictures of different sizes cannot share a batch: each size has a lane of its own, and the lane
with the fullest batch runs. A lane that was passed over for long gets its turn, so nothing waits
forever.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

from farm.render.batches import Refusal, message_of
from farm.render.failures import fault_in, free_memory, kind_of
from farm.render.lane.families import join
from farm.render.lane.lane import Decoded, Lane, LaneError, Start, Tally
from farm.render.lane.measure import Paces, measure_paces
from farm.render.lane.networks import Networks, Text
from farm.render.lane.rows import Program, Row, Spoken
from farm.render.lane.sizes import Experience, Sizes, experience_with
from farm.render.lane.torch_runtime import TorchRuntime, build_of, describe, why_unknown
from farm.render.loading import load_pipeline
from farm.render.pipelines import PipelineRenderer
from farm.render.protocol import Effort, Renderer
from farm.render.tables import SamplerTable, table_for
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

WINDOW = 256
"""Tasks that may wait for a lane, taken ahead of their turn."""
BATCH_IN_SEARCH = 16
"""Rows of a batch that is to be expected while the search for its size goes on, at least."""
PATIENCE = 512
"""Ticks that a lane with rows may be passed over."""
KEPT_TEXTS = 1024
"""Encoded texts that are kept."""
KEPT_PROGRAMS = 1024

_BYTES_PER_PIXEL = 4096
"""Memory that a picture's pixel is reckoned to need at most while the networks run.

An estimate that bounds the search for a batch size; running out of memory corrects it."""
_LARGEST_BATCH = 256
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Shape:
    """What is known of the networks at one picture size; outlives the streams."""

    sizes: Sizes
    evaluations: int = 0
    """Made for the pictures that were delivered."""
    pictures: int = 0

    def deliver(self, row: Row) -> None:
        """Count a row whose picture is good."""
        self.evaluations += row.executed
        self.pictures += 1

    @property
    def best_network(self) -> float:
        """Seconds that its evaluations take at the best batch size."""
        return self.evaluations * (self.sizes.batch.seconds_per_row or 0.0)

    @property
    def best_decoder(self) -> float:
        """Seconds that its pictures take to decode at the best batch size."""
        return self.pictures * (self.sizes.decoding.seconds_per_row or 0.0)


@dataclass(slots=True, eq=False)
class _Berth:
    """A lane and the tasks that wait for it."""

    lane: Lane
    shape: _Shape
    waiting: deque[Start] = field(default_factory=deque)
    passed_over: int = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting) or not self.lane.is_empty

    @property
    def is_stocked(self) -> bool:
        """Its batch is full, and enough tasks wait that the end of the stream is seen in time."""
        return not self.lane.has_room and len(self.waiting) >= self.lane.batch.current // 2

    def put_longest_first(self) -> None:
        """Begin the rows that take longest first, from here on."""
        self.waiting = deque(
            sorted(self.waiting, key=lambda start: start.program.evaluations, reverse=True)
        )

    @property
    def fill(self) -> float:
        """How full its next batch can be, at most 1."""
        waiting = sum(1 if start.negative is None else 2 for start in self.waiting)
        return min(1.0, (self.lane.demand + waiting) / self.lane.batch.current)


class LaneRenderer:
    """A loaded model whose rows mix freely; see the module."""

    def __init__(
        self,
        networks: Networks,
        *,
        is_sharing: bool = True,
        remark: str | None = None,
        experience: Experience | None = None,
    ) -> None:
        """Take over `networks`; closing the renderer closes them.

        Args:
            networks: a loaded model.
            is_sharing: ask the network equal questions once. Changes no picture; off is for tests
                and measurements.
            remark: what the person who runs the job should be told.
            experience: with such networks, to use and to add to; None begins with none.
        """
        self.remark = remark
        self._experience = experience or Experience()
        self._networks: Networks | None = networks
        self._stream: _Stream | None = None
        self._is_sharing = is_sharing
        self._shapes: dict[tuple[int, int], _Shape] = {}
        self._texts: OrderedDict[Text, Spoken] = OrderedDict()
        self._programs: OrderedDict[SamplerTable, Program] = OrderedDict()
        self.tally = Tally()
        """What all streams of this renderer did."""
        self.text_seconds = 0.0
        """Spent on encoding texts."""

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        """Yield one result for every task, in the order in which they are finished."""
        assert self._networks is not None, "a closed renderer renders nothing"
        self._stream = _Stream(self, self._networks, tasks)
        return self._stream.run()

    def withdraw(self) -> Sequence[TaskSpec]:
        """Give back the tasks of the latest stream that wait for a lane; they get no result."""
        return self._stream.withdraw() if self._stream is not None else ()

    @property
    def facts(self) -> RenderFacts:
        """Device, dtype, versions and the model's hash."""
        assert self._networks is not None, "a closed renderer has no networks"
        return self._networks.facts

    def size_of(self, task: TaskSpec) -> tuple[int, int]:
        """Return height and width in pixels of the picture of `task`.

        Raises:
            Refusal: the model makes no pictures of that size.
        """
        assert self._networks is not None, "a closed renderer has no networks"
        return self._networks.size_of(task)

    def measure(self, task: TaskSpec, *, seconds: float) -> Paces:
        """Return what the networks take at best at the size of `task`; see `measure_paces`."""
        assert self._networks is not None, "a closed renderer measures nothing"
        height, width = self.size_of(task)
        return measure_paces(self._networks, height=height, width=width, seconds=seconds)

    @property
    def appetite(self) -> int:
        """Tasks that fill the largest batch three times, without guidance.

        A batch that is still being searched for may have doubled before more tasks can be here.
        """
        expected = [
            shape.sizes.batch.current
            if shape.sizes.batch.is_settled
            else max(2 * shape.sizes.batch.current, BATCH_IN_SEARCH)
            for shape in self._shapes.values()
        ]
        return 3 * max(expected, default=BATCH_IN_SEARCH)

    @property
    def effort(self) -> Effort:
        """What all streams so far took; see `Effort`."""
        shapes = self._shapes.values()
        is_host = self._networks is None or self._networks.device.type == "cpu"
        host = self.tally.tick_seconds - self.tally.network_seconds if is_host else 0.0
        return Effort(
            best_network=sum(
                s.evaluations * (s.sizes.batch.seconds_per_row or 0.0) for s in shapes
            ),
            best_decoder=sum(
                s.pictures * (s.sizes.decoding.seconds_per_row or 0.0) for s in shapes
            ),
            network=self.tally.network_seconds,
            decoder=self.tally.decode_seconds,
            text=self.text_seconds,
            host=host,
        )

    def close(self) -> None:
        """Give the model's memory back."""
        if self._networks is not None:
            self._networks.close()
        self._networks = None
        self._texts.clear()

    # --- what streams share ---------------------------------------------------------------------

    def prepare(self, task: TaskSpec) -> Start:
        """Return `task` as a row begins with it.

        Raises:
            Refusal: the model or the sampler cannot do it.
            Exception: whatever an encoder raises.
        """
        networks = self._networks
        assert networks is not None
        if task.num_inference_steps < 1:
            raise Refusal(f"num_inference_steps is {task.num_inference_steps}; it takes at least 1")
        networks.check(task)
        height, width = networks.size_of(task)
        table = table_for(
            networks.scheduler,
            sampler=task.sampler,
            sigma_schedule=task.sigma_schedule,
            steps=task.num_inference_steps,
            eta=task.eta,
            backend=task.backend,
        )
        positive = self._say(
            Text(
                prompt=task.prompt,
                is_negative=False,
                clip_skip=task.clip_skip,
                height=height,
                width=width,
            )
        )
        negative = None
        if task.guidance_scale > 1:  # diffusers' own condition
            negative = self._say(
                Text(
                    prompt=task.negative_prompt,
                    is_negative=True,
                    clip_skip=None,
                    height=height,
                    width=width,
                )
            )
        return Start(task=task, program=self._program(table), positive=positive, negative=negative)

    def shape(self, height: int, width: int) -> _Shape:
        """Return what is known of one picture size."""
        assert self._networks is not None
        if (height, width) not in self._shapes:
            device = self._networks.device
            known = self._experience.at(
                height, width, largest=lambda: _rows_that_fit(device, height * width)
            )
            self._shapes[height, width] = _Shape(sizes=known)
        return self._shapes[height, width]

    def berth(self, height: int, width: int) -> _Berth:
        """Return a new lane for one picture size."""
        assert self._networks is not None
        shape = self.shape(height, width)
        return _Berth(
            Lane(
                networks=self._networks,
                shape=self._networks.latent_shape(height, width),
                batch=shape.sizes.batch,
                decoding=shape.sizes.decoding,
                is_sharing=self._is_sharing,
                tally=self.tally,
            ),
            shape,
        )

    def _say(self, text: Text) -> Spoken:
        assert self._networks is not None
        if text in self._texts:
            self._texts.move_to_end(text)
            return self._texts[text]
        started = time.perf_counter()
        [conditioning] = self._networks.encode([text])
        self.text_seconds += time.perf_counter() - started
        digest = hashlib.blake2b(repr(text).encode(), digest_size=16).digest()
        self._texts[text] = Spoken(digest, conditioning)
        if len(self._texts) > KEPT_TEXTS:
            self._texts.popitem(last=False)
        return self._texts[text]

    def _program(self, table: SamplerTable) -> Program:
        if table not in self._programs:
            self._programs[table] = Program(table)
            if len(self._programs) > KEPT_PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(table)
        return self._programs[table]


class _Stream:
    """One call of `render`."""

    def __init__(
        self, renderer: LaneRenderer, networks: Networks, tasks: Iterator[TaskSpec]
    ) -> None:
        self._renderer = renderer
        self._networks = networks
        self._tasks = tasks
        self._berths: dict[tuple[int, int], _Berth] = {}
        self._current: _Berth | None = None
        self._overdue: _Berth | None = None
        """Was passed over for too long, and runs until it is empty or another one is overdue."""
        self._is_exhausted = False
        self._developing: deque[_Developing] = deque()

    def run(self) -> Iterator[RenderResult]:
        """Yield results until the stream has ended and every lane is empty."""
        while True:
            yield from self._take_ahead()
            berth = self._choose()
            if berth is None:
                if not self._is_exhausted:
                    continue
                yield from self._deliver(everything=True)
                return
            yield from self._move_on(berth)
            yield from self._deliver(everything=False)

    def withdraw(self) -> Sequence[TaskSpec]:
        """Give back the tasks that wait for a lane."""
        waiting = [start.task for berth in self._berths.values() for start in berth.waiting]
        for berth in self._berths.values():
            berth.waiting.clear()
        return waiting

    # --- tasks in -------------------------------------------------------------------------------

    def _take_ahead(self) -> Iterator[RenderResult]:
        """Take tasks until the current lane is full with some to spare, or the window is full."""
        while not self._is_exhausted and not self._is_satisfied():
            task = next(self._tasks, None)
            if task is None:
                self._is_exhausted = True
                for berth in self._berths.values():
                    berth.put_longest_first()
                return
            try:
                start = self._renderer.prepare(task)
            except Refusal as refusal:
                yield self._failed(task, FailureKind.BAD_TASK, str(refusal))
                continue
            except Exception as error:  # noqa: BLE001 - one task's failure, not the run's
                yield self._failed_by(task, error)
                continue
            size = self._networks.size_of(task)
            if size not in self._berths:
                self._berths[size] = self._renderer.berth(*size)
            berth = self._berths[size]
            self._current = self._current or berth
            berth.waiting.append(start)
            yield from self._admit(berth)

    def _is_satisfied(self) -> bool:
        """No task needs to be taken for now."""
        waiting = sum(len(berth.waiting) for berth in self._berths.values())
        return waiting >= WINDOW or (self._current is not None and self._current.is_stocked)

    def _admit(self, berth: _Berth) -> Iterator[RenderResult]:
        """Begin rows while they are of use."""
        while berth.waiting and berth is self._current and berth.lane.has_room:
            start = berth.waiting.popleft()
            try:
                berth.lane.admit(start)
            except Exception as error:  # noqa: BLE001 - one task's failure, not the run's
                if berth.lane.rows and kind_of(error) is FailureKind.OUT_OF_MEMORY:
                    free_memory()
                    berth.lane.batch.shrink(berth.lane.batch.current)
                    berth.waiting.appendleft(start)  # there is room when others are finished
                    return
                yield self._failed_by(start.task, error)

    def _choose(self) -> _Berth | None:
        """Return the lane to move on, or None if none has anything to do."""
        busy = [berth for berth in self._berths.values() if berth.has_work]
        if not busy:
            self._current = None
            return None
        overdue = max(busy, key=lambda berth: berth.passed_over)
        if overdue.passed_over > PATIENCE:
            self._overdue = overdue
        if self._overdue is not None and self._overdue in busy:
            best = self._overdue
        else:
            best = max(busy, key=lambda berth: (berth.fill, berth is self._current))
        for berth in busy:
            berth.passed_over = 0 if berth is best else berth.passed_over + 1
        self._current = best
        return best

    # --- rows on --------------------------------------------------------------------------------

    def _move_on(self, berth: _Berth) -> Iterator[RenderResult]:
        """Make one tick of a lane, and pictures of what is finished."""
        yield from self._admit(berth)
        lane = berth.lane
        if lane.rows:
            try:
                lane.tick()
            except LaneError as trouble:
                yield from self._survive(lane, trouble)
        while lane.has_pictures:
            try:
                decoded = lane.decode()
            except LaneError as trouble:
                yield from self._survive_decoding(lane, trouble)
            else:
                self._developing.append(_Developing(decoded, berth.shape))

    def _survive(self, lane: Lane, trouble: LaneError) -> Iterator[RenderResult]:
        """Make the batch smaller, or find the row that cannot be drawn, or give that row up."""
        if kind_of(trouble.error) is FailureKind.OUT_OF_MEMORY:
            free_memory()
            if lane.batch.shrink(trouble.calls_of):
                return
        if len(trouble.rows) > 1:
            lane.set_apart(trouble.rows)
            return
        [row] = trouble.rows
        lane.remove(row)
        yield self._failed_by(row.task, trouble.error)

    def _survive_decoding(self, lane: Lane, trouble: LaneError) -> Iterator[RenderResult]:
        """Decode fewer at once, then with less memory each; at last give a row up."""
        if kind_of(trouble.error) is FailureKind.OUT_OF_MEMORY:
            free_memory()
            if lane.decoding.shrink(trouble.calls_of) or self._networks.save_memory():
                return
        elif len(trouble.rows) > 1:
            lane.decode_apart(trouble.rows)
            return
        for row in trouble.rows:
            lane.drop_finished(row)
            yield self._failed_by(row.task, trouble.error)

    # --- results out ----------------------------------------------------------------------------

    def _deliver(self, *, everything: bool) -> Iterator[RenderResult]:
        """Yield the pictures that have arrived; all of them, if there is nothing else to do."""
        while self._developing and (everything or self._developing[0].has_arrived):
            yield from self._developing.popleft().results(self._networks)

    def _failed_by(self, task: TaskSpec, error: Exception) -> Failed:
        kind = kind_of(error)
        if kind is FailureKind.INTERNAL:
            _log.error("a task failed", exc_info=error, extra={"task_id": task_id(task)})
        return self._failed(task, kind, message_of(error))

    def _failed(self, task: TaskSpec, kind: FailureKind, message: str) -> Failed:
        return Failed(task=task, kind=kind, message=message, facts=self._networks.facts)


class _Developing:
    """Pictures on their way from the device."""

    def __init__(self, decoded: Decoded, shape: _Shape) -> None:
        self._rows = decoded.rows
        self._shape = shape
        self._arrival: torch.cuda.Event | None = None
        pictures = decoded.pictures
        if pictures.pixels.is_cuda:
            self._pixels = _on_its_way(pictures.pixels)
            self._is_finite = _on_its_way(pictures.is_finite)
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()
        else:
            self._pixels, self._is_finite = pictures.pixels.cpu(), pictures.is_finite.cpu()

    @property
    def has_arrived(self) -> bool:
        """The pictures can be looked at without waiting."""
        return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]

    def results(self, networks: Networks) -> Iterator[RenderResult]:
        """Wait until the pictures are here, and yield what became of each row."""
        if self._arrival is not None:
            self._arrival.synchronize()
        finite: Sequence[bool] = self._is_finite.tolist()
        for row, pixels, is_finite in zip(self._rows, self._pixels, finite, strict=True):
            yield self._result(row, pixels.numpy(), is_finite=is_finite, networks=networks)

    def _result(
        self,
        row: Row,
        pixels: np.ndarray[Any, np.dtype[np.uint8]],
        *,
        is_finite: bool,
        networks: Networks,
    ) -> RenderResult:
        facts = networks.facts
        if fault := fault_in(pixels, is_finite=is_finite, dtype=facts.dtype):
            return Failed(task=row.task, kind=FailureKind.BAD_OUTPUT, message=fault, facts=facts)
        self._shape.deliver(row)
        return Rendered(
            task=row.task,
            pixels=pixels,
            render_ms=row.seconds * 1e3,
            batch_size=row.most_together,
            denoiser_evaluations=row.required,
            shared_evaluations=row.required - row.executed,
            facts=facts,
        )


def _on_its_way(tensor: torch.Tensor) -> torch.Tensor:
    """Return a host copy that will be there once the device's stream has come so far."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    return host


def _rows_that_fit(device: torch.device, pixels: int) -> int:
    """Return a power of two: the most rows that the search for a batch size may try."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available // 4  # other workers are here too
    rows = max(1, min(int(free) // (_BYTES_PER_PIXEL * pixels), _LARGEST_BATCH))
    return 1 << (rows.bit_length() - 1)


def open_torch_renderer(key: PipelineKey, *, device: str, threads: int | None) -> Renderer:
    """Load a model; entry point of backend `torch`. See `open_renderer`.

    A model of a family that the lane does not know is rendered by its own pipeline instead, as
    backend `diffusers` would.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_pipeline(key, device=device)
    if reason := why_unknown(loaded.pipe):
        remark = f"{key.model}: {reason}; diffusers' own pipeline renders it"
        _log.warning(remark)
        return PipelineRenderer(loaded, remark=remark)
    runtime = TorchRuntime(loaded)
    build = (build_of(loaded), runtime.is_compiled, torch.get_num_threads())
    return LaneRenderer(join(describe(loaded.pipe), runtime), experience=experience_with(build))
