"""One loaded model at one picture size: rows in flight, and the tick that moves them on.

A tick asks the network every question that the chosen rows have, in one batch, and applies to each
row its own next step:

1. input of a row = its coefficients x its registers: one batched product for all rows,
2. the network, with a time and a conditioning *per question*; a question that several rows share is
   asked once, and a first question that was asked before is not asked again,
3. guidance with a weight per row; rows without it have no unconditional question,
4. registers = the row's step x (registers, output, fresh noise): one batched product.

Rows finish and begin at any tick, each at its own place in its own sampler, so the batch stays
full. Rows are chosen oldest first until the batch is full; more rows than that are held, so that
there are always enough.

The host decides everything from what it knows: a row's number of steps is in its table. Nothing is
read back from the device in a tick; whether values are numbers is asked with the finished picture.
Rows change when everything that may run out of memory is done, and keep the noise that they drew
until then, so a tick that failed left no trace and can be made again with less.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from farm.render.lane.clock import CallClock
from farm.render.lane.networks import Conditioning, Networks, Pictures
from farm.render.lane.rows import Key, Program, Question, Registers, Row, Spoken, chain_of
from farm.render.lane.sizes import BatchSize
from farm.task import TaskSpec

MEMO_BYTES = 128 * 1024 * 1024
"""Answers to first questions that are kept, and as much again for later ones."""
HELD_PER_SEAT = 4
"""Rows held at most, per row of a full batch: shared questions need more rows to fill it."""
SPARE = 2
"""Questions that are held beyond a full batch: a row with guidance may leave one seat to fill."""
LONGEST_WAIT = 32
"""Ticks that a finished row may wait for others to be decoded with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A task as a row begins with it."""

    task: TaskSpec
    program: Program
    positive: Spoken
    negative: Spoken | None


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a lane did, added up."""

    ticks: int = 0
    executed: int = 0
    """Evaluations made, of one row each."""
    shared: int = 0
    """Evaluations that rows did not need, because the question had been answered."""
    network_seconds: float = 0.0
    """Of the device, in the denoiser."""
    decode_seconds: float = 0.0
    """Of the device, in the decoder."""
    tick_seconds: float = 0.0
    """Of the host, in ticks; where the device is the host, the network's time is among it."""


@dataclass(slots=True, eq=False)
class _Finished:
    row: Row
    latents: torch.Tensor
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Rows whose pictures are being made."""

    rows: Sequence[Row]
    pictures: Pictures


class LaneError(Exception):
    """A network raised. Carries who was in the batch; no row has changed."""

    def __init__(self, error: Exception, rows: Sequence[Row], calls_of: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.rows = rows
        """Those whose step was being made, or whose pictures."""
        self.calls_of = calls_of
        """Rows of the call that raised."""


@dataclass(slots=True, kw_only=True, eq=False)
class Lane:
    """Rows of one latent shape."""

    networks: Networks
    shape: tuple[int, int, int]
    """Of the latents: channels, height, width."""
    batch: BatchSize
    decoding: BatchSize
    is_sharing: bool = True
    tally: Tally = field(default_factory=Tally)
    rows: list[Row] = field(default_factory=list)
    """In flight, oldest first."""

    _registers: Registers = field(init=False)
    _firsts: OrderedDict[Key, torch.Tensor] = field(init=False, default_factory=OrderedDict)
    """Answers to first questions, the latest used last."""
    _later: dict[Key, torch.Tensor] = field(init=False, default_factory=dict)
    """Answers that a row in flight is still going to need."""
    _to_come: Counter[Key] = field(init=False, default_factory=Counter)
    """How often rows in flight are still going to ask a question."""
    _finished: list[_Finished] = field(init=False, default_factory=list)
    _alone: list[Row] = field(init=False, default_factory=list)
    """Rows whose next step is to be made apart from the others: one of them is to blame."""
    _decoded_alone: list[Row] = field(init=False, default_factory=list)
    """Finished rows that are to be decoded apart from the others, for the same reason."""
    _clock: CallClock = field(init=False)
    _decode_clock: CallClock = field(init=False)
    _serial: int = field(init=False, default=0)
    _latest: tuple[Sequence[Conditioning], Conditioning] = field(
        init=False, default_factory=lambda: ((), {})
    )
    """The batch of conditionings that was put together last, and what it is made of."""

    def __post_init__(self) -> None:
        values = self.shape[0] * self.shape[1] * self.shape[2]
        self._registers = Registers(self.networks.device, values)
        self._clock = CallClock(self.networks.device)
        self._decode_clock = CallClock(self.networks.device)

    # --- who is in it ---------------------------------------------------------------------------

    @property
    def demand(self) -> int:
        """Different questions that its rows have for the network now."""
        keys = {question.key for row in self.rows for question in row.questions}
        return sum(self._known(key) is None for key in keys)

    @property
    def has_room(self) -> bool:
        """Another row would be of use: the next batch is not full, with a row to spare."""
        seats = self.batch.current
        return len(self.rows) < HELD_PER_SEAT * seats and self.demand < seats + SPARE

    @property
    def is_empty(self) -> bool:
        """Nothing is in flight and nothing waits to be decoded."""
        return not self.rows and not self._finished

    @torch.inference_mode()
    def admit(self, start: Start) -> Row:
        """Begin a row: draw its initial noise into a free slot."""
        task = start.task
        generator = torch.Generator("cpu").manual_seed(task.seed)
        noise = torch.randn(1, *self.shape, generator=generator).flatten()
        slot = self._registers.take_slot(start.program, self._sent(noise))
        self._serial += 1
        sides = [start.positive] if start.negative is None else [start.positive, start.negative]
        row = Row(
            task=task,
            program=start.program,
            positive=start.positive,
            negative=start.negative,
            guidance=task.guidance_scale,
            rescale=(task.guidance_rescale or 0.0) if start.negative is not None else 0.0,
            generator=generator,
            slot=slot,
            chain=chain_of(
                task,
                start.program,
                sides,
                salt=b"" if self.is_sharing else self._serial.to_bytes(8, "little"),
            ),
        )
        self.rows.append(row)
        self._to_come.update(key for keys in row.chain for key in keys)
        return row

    def remove(self, row: Row) -> None:
        """Give up a row."""
        self.rows.remove(row)
        for keys in row.chain[row.done :]:
            self._forget(keys)
        if row in self._alone:
            self._alone.remove(row)
        self._registers.give_back(row.slot)

    def set_apart(self, rows: Sequence[Row]) -> None:
        """Make the next step of each of `rows` by itself, to find the one that cannot be made."""
        self._alone = [row for row in rows if row in self.rows]

    # --- the tick -------------------------------------------------------------------------------

    @torch.inference_mode()
    def tick(self) -> None:
        """Move rows on by one evaluation each, as many as fill a batch.

        Raises:
            LaneError: a network raised, or there was no memory for what is around it; nothing has
                changed.
        """
        started = time.perf_counter()
        chosen, asked = self._choose()
        try:
            self._step(chosen, asked)
        except LaneError:
            raise
        except Exception as error:
            seats = max(1, min(len(asked), self.batch.current))
            raise LaneError(error, chosen, seats) from error
        self._account(chosen, asked, time.perf_counter() - started)

    def _step(self, chosen: Sequence[Row], asked: dict[Key, tuple[int, Conditioning]]) -> None:
        """Make one step of every chosen row, and retire those that are finished."""
        slots = self._slots(chosen)
        held = self._registers.held[slots]
        answers = self._ask(chosen, asked, held)
        after = self._advance(chosen, asked, answers, held)
        latents = {
            row: after[place, 0].clone().view(self.shape)
            for place, row in enumerate(chosen)
            if row.is_at_last
        }
        self._registers.held[slots, :-1] = after
        # From here on nothing asks the device for memory.
        for row in chosen:
            keys = row.chain[row.done]
            row.done += 1
            row.drawn = ()
            self._forget(keys)
            if row.is_finished:
                self._finished.append(_Finished(row, latents[row], self.tally.ticks))
                self._registers.give_back(row.slot)
        self.rows = [row for row in self.rows if not row.is_finished]
        self._alone = [row for row in self._alone if row not in chosen]

    def _choose(self) -> tuple[list[Row], dict[Key, tuple[int, Conditioning]]]:
        """Return the rows to move on, and their questions with the place of the row that asks.

        Oldest rows first. A row that asks nothing new takes no seat, so it is never left behind.
        """
        if self._alone:
            row = self._alone[0]
            return [row], {q.key: (0, q.conditioning) for q in self._open_questions(row)}
        seats = max(2, self.batch.current)
        chosen: list[Row] = []
        asked: dict[Key, tuple[int, Conditioning]] = {}
        for row in self.rows:
            new = [q for q in self._open_questions(row) if q.key not in asked]
            if len(asked) + len(new) <= seats:
                asked.update((q.key, (len(chosen), q.conditioning)) for q in new)
                chosen.append(row)
        return chosen, asked

    def _open_questions(self, row: Row) -> list[Question]:
        return [question for question in row.questions if self._known(question.key) is None]

    def _known(self, key: Key) -> torch.Tensor | None:
        return self._firsts.get(key, self._later.get(key))

    def _ask(
        self,
        chosen: Sequence[Row],
        asked: dict[Key, tuple[int, Conditioning]],
        held: torch.Tensor,
    ) -> torch.Tensor:
        """Return the network's answers, float32 `[questions, values]`, in the order asked."""
        if not asked:
            return torch.zeros(0, self._registers.values, device=self.networks.device)
        places = [place for place, _ in asked.values()]
        inputs = self._inputs(chosen, held)[self._indices(places)]
        sample = inputs.view(len(places), *self.shape)
        times = np.array(
            [chosen[place].program.timesteps[chosen[place].done] for place in places], np.float32
        )
        timestep = self._sent(torch.from_numpy(times))
        conditionings = [conditioning for _, conditioning in asked.values()]
        size = self.batch.current
        answers = []
        for start in range(0, len(places), size):
            part = slice(start, start + size)
            conditioning = self._stacked(conditionings[part])
            rows = len(conditionings[part])
            try:
                with self._clock.timing(rows):
                    answer = self.networks.denoise(sample[part], timestep[part], conditioning)
            except Exception as error:
                raise LaneError(error, chosen, rows) from error
            answers.append(answer.flatten(1))
        for rows, seconds in self._clock.collect():
            self.batch.record(rows, seconds)
            self.tally.network_seconds += seconds
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    def _inputs(self, chosen: Sequence[Row], held: torch.Tensor) -> torch.Tensor:
        """Return the network's input for each row, `[rows, values]`."""
        registers, noises = self._registers.count, self._noises(chosen)
        coefficients = np.stack(
            [row.program.widened(registers, noises).inputs[row.done] for row in chosen]
        )
        return torch.bmm(self._sent(torch.from_numpy(coefficients))[:, None], held)[:, 0]

    def _advance(
        self,
        chosen: Sequence[Row],
        asked: dict[Key, tuple[int, Conditioning]],
        answers: torch.Tensor,
        held: torch.Tensor,
    ) -> torch.Tensor:
        """Return every chosen row's next registers, `[rows, registers, values]`."""
        found, places = self._find(chosen, asked, answers)
        output = self._guide(chosen, found, places)
        noises = self._noises(chosen)
        registers = self._registers.count
        steps = np.stack([row.program.widened(registers, noises).steps[row.done] for row in chosen])
        operands = [held[:, :-1], output[:, None]]
        if any(row.program.draws[row.done] for row in chosen):
            operands.append(self._fresh_noise(chosen, noises))
        else:
            steps = steps[:, :, : registers + 1]
        return torch.bmm(
            self._sent(torch.from_numpy(np.ascontiguousarray(steps))), torch.cat(operands, dim=1)
        )

    def _find(
        self,
        chosen: Sequence[Row],
        asked: dict[Key, tuple[int, Conditioning]],
        answers: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[Key, int]]:
        """Return all answers that the chosen rows need, and the place of each.

        Keeps the answers that may be needed again.
        """
        places = {key: place for place, key in enumerate(asked)}
        known: list[torch.Tensor] = []
        for row in chosen:
            for key in row.chain[row.done]:
                if key in places:
                    continue
                answer = self._known(key)
                assert answer is not None, "what is not asked is known"
                places[key] = len(answers) + len(known)
                known.append(answer)
                if key in self._firsts:
                    self._firsts.move_to_end(key)
        if self.is_sharing:
            self._keep(chosen, asked, answers, places)
        return (torch.cat([answers, torch.stack(known)]) if known else answers), places

    def _keep(
        self,
        chosen: Sequence[Row],
        asked: dict[Key, tuple[int, Conditioning]],
        answers: torch.Tensor,
        places: dict[Key, int],
    ) -> None:
        """Keep the answers that a row in flight will need later, and those to first questions.

        First questions are what the rows to come have most in common: every guidance and many
        samplers ask them, of one prompt and seed.
        """
        limit = MEMO_BYTES // (4 * self._registers.values)
        uses = Counter(key for row in chosen for key in row.chain[row.done])
        for key, (place, _) in asked.items():
            if not chosen[place].done:
                self._firsts[key] = answers[places[key]].clone()
            elif self._to_come[key] > uses[key] and len(self._later) < limit:
                self._later[key] = answers[places[key]].clone()
        while len(self._firsts) > limit:
            self._firsts.popitem(last=False)

    def _forget(self, keys: Sequence[Key]) -> None:
        """Take note that a row is past the questions with these keys, or will not ask them."""
        for key in keys:
            self._to_come[key] -= 1
            if not self._to_come[key]:
                del self._to_come[key]
                self._later.pop(key, None)

    def _guide(
        self, chosen: Sequence[Row], found: torch.Tensor, places: dict[Key, int]
    ) -> torch.Tensor:
        """Return each row's prediction after guidance, `[rows, values]`."""
        positive = found[self._indices([places[row.questions[0].key] for row in chosen])]
        if all(row.negative is None for row in chosen):
            return positive
        negative = found[self._indices([places[row.questions[-1].key] for row in chosen])]
        weights = self._sent(torch.tensor([[row.guidance] for row in chosen]))
        # A row without guidance has one question, so both sides are the same and the weight idle.
        output = negative + weights * (positive - negative)
        rescaled = [place for place, row in enumerate(chosen) if row.rescale > 0]
        if rescaled:
            which = self._indices(rescaled)
            shares = self._sent(torch.tensor([[chosen[place].rescale] for place in rescaled]))
            guided, text = output[which], positive[which]
            # Section 3.4 of arXiv:2305.08891.
            matched = guided * (text.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True))
            output[which] = shares * matched + (1 - shares) * guided
        return output

    def _fresh_noise(self, chosen: Sequence[Row], most: int) -> torch.Tensor:
        """Return what each row draws at this step from its own generator: `[rows, most, values]`.

        A row draws once a step, however often the step is tried.
        """
        noise = torch.zeros(len(chosen), most, self._registers.values)
        for place, row in enumerate(chosen):
            row.drawn = row.drawn or tuple(
                torch.randn(1, *self.shape, generator=row.generator).flatten()
                for _ in range(row.program.draws[row.done])
            )
            for draw, one in enumerate(row.drawn[:most]):
                noise[place, draw] = one
        return self._sent(noise)

    def _account(
        self,
        chosen: Sequence[Row],
        asked: dict[Key, tuple[int, Conditioning]],
        seconds: float,
    ) -> None:
        sides = sum(1 if row.negative is None else 2 for row in chosen)
        self.tally.ticks += 1
        self.tally.tick_seconds += seconds
        self.tally.executed += len(asked)
        self.tally.shared += sides - len(asked)
        for place, _ in asked.values():
            chosen[place].executed += 1
            chosen[place].seconds += seconds / len(asked)
        for row in chosen:
            row.most_together = max(row.most_together, len(chosen))

    # --- pictures -------------------------------------------------------------------------------

    @property
    def has_pictures(self) -> bool:
        """Enough rows are finished to decode them, or there is no reason to wait for more."""
        if not self._finished:
            return False
        return (
            bool(self._decoded_alone)
            or len(self._finished) >= self.decoding.current
            or not self.rows
            or self.tally.ticks - self._finished[0].since >= LONGEST_WAIT
        )

    @torch.inference_mode()
    def decode(self) -> Decoded:
        """Decode finished rows, as many as the decoder takes at once.

        Raises:
            LaneError: the decoder raised; the rows are still waiting.
        """
        started = time.perf_counter()
        apart = [one for one in self._finished if one.row in self._decoded_alone]
        batch = apart[:1] or self._finished[: self.decoding.current]
        rows = [finished.row for finished in batch]
        try:
            with self._decode_clock.timing(len(batch)):
                pictures = self.networks.decode(torch.stack([one.latents for one in batch]))
        except Exception as error:
            raise LaneError(error, rows, len(batch)) from error
        self._finished = [one for one in self._finished if one not in batch]
        self._decoded_alone = [row for row in self._decoded_alone if row not in rows]
        for count, seconds in self._decode_clock.collect():
            self.decoding.record(count, seconds)
            self.tally.decode_seconds += seconds
        seconds = time.perf_counter() - started
        for row in rows:
            row.seconds += seconds / len(rows)
        return Decoded(rows=rows, pictures=pictures)

    def decode_apart(self, rows: Sequence[Row]) -> None:
        """Decode each of `rows` by itself, to find the one that cannot be."""
        self._decoded_alone = list(rows)

    def drop_finished(self, row: Row) -> None:
        """Give up a finished row that cannot be decoded."""
        self._finished = [one for one in self._finished if one.row is not row]
        self._decoded_alone = [one for one in self._decoded_alone if one is not row]

    # --- to the device --------------------------------------------------------------------------

    def _noises(self, chosen: Sequence[Row]) -> int:
        return max(row.program.noises for row in chosen)

    def _slots(self, chosen: Sequence[Row]) -> torch.Tensor:
        return self._indices([row.slot for row in chosen])

    def _indices(self, places: Sequence[int]) -> torch.Tensor:
        return self._sent(torch.tensor(places))

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a host tensor on the device, without waiting until it is there."""
        if self.networks.device.type != "cuda":
            return tensor.to(self.networks.device)
        return tensor.pin_memory().to(self.networks.device, non_blocking=True)

    def _stacked(self, conditionings: Sequence[Conditioning]) -> Conditioning:
        """Return conditionings as a batch; the latest one is kept, for rows rarely change."""
        before, stacked = self._latest
        if len(before) != len(conditionings) or any(
            one is not other for one, other in zip(before, conditionings, strict=True)
        ):
            stacked = {
                name: torch.stack([one[name] for one in conditionings]) for name in conditionings[0]
            }
            self._latest = (conditionings, stacked)
        return stacked
