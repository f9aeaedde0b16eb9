from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from farm.engine import events
from farm.engine.events import Event
from farm.task import FailureKind, TaskId
from farm.view.progress import (
    JsonProgress,
    LiveProgress,
    LoggedProgress,
    PlainProgress,
    RunView,
    Speed,
    draw,
    open_progress,
)
from farm.view.words import clock_time, rate, rough_time


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def started(to_render: int = 100, *, skipped: int = 0, output: str = "/out") -> events.RunStarted:
    return events.RunStarted(
        tasks=to_render + skipped,
        done=skipped,
        failed_before=0,
        to_render=to_render,
        executor="ray",
        workers=2,
        reason="ray: 2 workers, one for each GPU",
        output=output,
    )


def progress(worker: str = "w0", *, rendered: int = 0, failed: int = 0) -> events.Progress:
    return events.Progress(
        worker=worker,
        phase="rendering",
        rendered=rendered,
        failed=failed,
        in_flight=4,
        last_image=f"images/{rendered}.png",
        settings="64x64, euler, 20 steps",
    )


def done(worker: str = "w0", *, rendered: int = 0, failed: int = 0) -> events.ChunkDone:
    return events.ChunkDone(
        chunk="c1",
        worker=worker,
        rendered=rendered,
        failed=failed,
        unfinished=0,
        seconds=1.0,
        last_image=None,
    )


def failure(message: str = "the picture is black") -> events.TaskFailed:
    return events.TaskFailed(
        task_id=TaskId("t1:" + "0" * 32), kind=FailureKind.BAD_OUTPUT, message=message
    )


def finished(rendered: int, failed: int = 0) -> events.RunFinished:
    return events.RunFinished(
        report=events.RunReport(
            rendered=rendered,
            failed=failed,
            failed_before=0,
            skipped=0,
            unfinished=0,
            seconds=10.0,
            images_per_second=rendered / 10,
            denoiser_evaluations=0,
            efficiency=None,
            output="/out",
        )
    )


def a_run(clock: Clock, *, chunks: int = 10, size: int = 10) -> Iterator[Event]:
    """A steady run of two workers: an image a second each."""
    yield started(chunks * size)
    for worker in ("w0", "w1"):
        yield events.WorkerReady(worker=worker, node="node", device="cuda:0")
    for chunk in range(chunks):
        worker = f"w{chunk % 2}"
        for image in range(size):
            clock.now += 0.5
            yield progress(worker, rendered=image + 1)
        yield done(worker, rendered=size)
    yield finished(chunks * size)


def view_after(stream: Iterable[Event], clock: Clock | None = None) -> RunView:
    view = RunView(clock=clock or Clock())
    for event in stream:
        view.apply(event)
    return view


# --- counting -----------------------------------------------------------------------------------


def test_what_workers_have_in_hand_counts_until_it_is_committed() -> None:
    view = view_after([started(), progress(rendered=3), progress("w1", rendered=2)])
    assert (view.rendered, view.failed, view.finished) == (5, 0, 5)
    view.apply(done(rendered=4))
    assert view.rendered == 6
    view.apply(progress(rendered=1))
    assert view.rendered == 7


def test_a_failure_counts_once() -> None:
    view = view_after([started(), progress(rendered=3, failed=1)])
    assert view.failed == 1
    view.apply(done(rendered=3, failed=1))
    view.apply(failure())
    assert (view.rendered, view.failed) == (3, 1)


def test_what_a_lost_worker_had_in_hand_no_longer_counts() -> None:
    view = view_after([started(), progress(rendered=3), done(rendered=3), progress(rendered=2)])
    view.apply(events.WorkerLost(worker="w0", reason="killed"))
    assert view.rendered == 3
    assert view.workers == {}


def test_the_report_has_the_last_word() -> None:
    view = view_after([started(10), progress(rendered=3), finished(9, 1)])
    assert (view.rendered, view.failed, view.share) == (9, 1, 1.0)


def test_a_run_of_a_whole_matrix_counts_every_image() -> None:
    clock = Clock()
    counts = []
    view = RunView(clock=clock)
    for event in a_run(clock):
        view.apply(event)
        counts.append(view.rendered)
    assert counts == sorted(counts)
    assert counts[-1] == 100


def test_nothing_to_render_is_finished() -> None:
    assert view_after([started(0, skipped=5)]).share == 1.0


# --- speed --------------------------------------------------------------------------------------


def test_the_time_left_is_what_it_turns_out_to_be() -> None:
    clock = Clock()
    end = clock.now + 50
    view = RunView(clock=clock)
    for event in a_run(clock):
        view.apply(event)
        eta = view.eta_s
        if eta is not None and view.finished > 5 and view.report is None:
            assert clock.now + eta == pytest.approx(end, abs=2.5)


def test_loading_a_model_does_not_count_as_slowness() -> None:
    clock = Clock()
    view = view_after([started()], clock)
    clock.now += 300
    for image in range(1, 11):
        clock.now += 1
        view.apply(progress(rendered=image))
    assert view.images_per_second == pytest.approx(1.0)


def test_the_time_left_follows_a_change_of_work() -> None:
    speed = Speed()
    for second in range(100):
        speed.note(second, 10 * second + 1)
    for second in range(100, 400):
        speed.note(second, 1000 + (second - 100))
    assert speed.per_second() == pytest.approx(1.0, rel=0.05)


def test_one_slow_chunk_does_not_throw_the_time_left() -> None:
    speed = Speed()
    for second in range(600):
        speed.note(second, second + 1)
    before = speed.per_second()
    speed.note(630, 601)  # half a minute without an image
    assert before == pytest.approx(1.0)
    assert speed.per_second() == pytest.approx(0.9, abs=0.02)


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 30)), max_size=200))
def test_speed_is_never_negative_and_needs_little_memory(steps: list[tuple[float, int]]) -> None:
    speed, now, count = Speed(), 0.0, 0
    for seconds, images in steps:
        now, count = now + seconds, count + images
        speed.note(now, count)
        assert (speed.per_second() or 0.0) >= 0


def test_before_the_first_image_nothing_is_promised() -> None:
    clock = Clock()
    view = view_after([started()], clock)
    clock.now += 100
    assert view.images_per_second is None
    assert view.eta_s is None


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "5 s"),
        (42, "45 s"),
        (59.5, "60 s"),
        (61, "1½ min"),
        (600, "10 min"),
        (3601, "1 h 10 min"),
        (7200, "2 h"),
        (86_400, "24 h"),
        (200_000, "3 days"),
    ],
)
def test_spans_are_said_in_coarse_steps(seconds: float, words: str) -> None:
    assert rough_time(seconds) == words


@given(st.floats(0, 10**7))
def test_a_span_is_never_said_shorter_than_it_is(seconds: float) -> None:
    units = {"s": 1, "min": 60, "h": 3600, "days": 86_400}
    words = rough_time(seconds).split()
    said = sum(
        float(number.replace("½", ".5")) * units[unit]
        for number, unit in zip(words[::2], words[1::2], strict=True)
    )
    assert said >= seconds - 1e-6


@pytest.mark.parametrize(("seconds", "text"), [(7.2, "0:07"), (754, "12:34"), (12_345, "3:25:45")])
def test_a_clock_shows_spans(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


@pytest.mark.parametrize(
    ("speed", "text"),
    [(31.42, "31.4 images/s"), (0.07, "4.2 images/min"), (0.002, "7.2 images/h")],
)
def test_a_speed_has_a_unit_that_suits_it(speed: float, text: str) -> None:
    assert rate(speed) == text


# --- readers ------------------------------------------------------------------------------------


def test_plain_lines_are_few_and_hold_no_control_characters() -> None:
    clock, stream = Clock(), io.StringIO()
    reader = PlainProgress(stream, clock=clock)
    for event in a_run(clock, chunks=100):
        reader(event)
    reader(failure("\x1b[31mred\x1b[0m\r\nand long"))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "ray: 2 workers, one for each GPU"
    assert 10 < len(lines) < 100
    assert "about" in lines[len(lines) // 2]
    assert lines[-1].endswith("[31mred [0m; and long")
    assert stream.getvalue().replace("\n", "").isprintable()


def test_a_run_leaves_its_log_in_its_output(tmp_path: Path) -> None:
    shown: list[Event] = []
    told = (started(output=str(tmp_path)), progress(rendered=2), failure("bad\x1b"), finished(2, 1))
    with contextlib.closing(LoggedProgress(shown.append)) as reader:
        for event in told:
            reader(event)
    assert shown == list(told)
    [log] = (tmp_path / "logs").iterdir()
    lines = log.read_text().splitlines()
    assert {(line[10], line[19]) for line in lines} == {("T", "Z")}
    assert "ray: 2 workers" in lines[0]
    assert "error: failed t1:00000000, bad_output: bad" in log.read_text()
    assert lines[-1].endswith("finished after 0:10: 2 rendered, 1 failed")


@pytest.mark.parametrize(
    ("output", "to_render"), [("memory://out", 9), ("/proc/nowhere", 9), ("here", 0)]
)
def test_a_run_without_a_log_is_told_all_the_same(
    output: str, to_render: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown: list[Event] = []
    with contextlib.closing(LoggedProgress(shown.append)) as reader:
        for event in (started(to_render, output=output), progress(), finished(2)):
            reader(event)
    assert len(shown) == 3
    assert list(tmp_path.iterdir()) == []


def test_plain_lines_tell_a_kind_of_failure_only_so_often() -> None:
    stream = io.StringIO()
    reader = PlainProgress(stream, clock=Clock())
    reader(started())
    for _ in range(1000):
        reader(failure())
    lines = [line for line in stream.getvalue().splitlines() if "fail" in line]
    assert len(lines) == 4
    assert "only counted" in lines[-1]


def test_json_lines_are_the_events_and_totals() -> None:
    clock, stream = Clock(), io.StringIO()
    reader = JsonProgress(stream, clock=clock)
    for event in a_run(clock):
        reader(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "run-started"
    assert kinds[-1] == "run-finished"
    assert kinds.count("chunk-done") == 10
    totals = [line for line in lines if line["event"] == "totals"]
    assert 20 < len(totals) <= 51
    assert totals[-1]["rendered"] >= 98
    assert totals[-1]["workers"] == {"w0": "rendering", "w1": "rendering"}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10)])
@pytest.mark.parametrize("workers", [1, 8, 300])
def test_the_live_view_fits_its_terminal(width: int, height: int, workers: int) -> None:
    view = view_after(
        [started(1000), *(progress(f"worker-{n}", rendered=3) for n in range(workers))]
    )
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as capture:
        console.print(draw(view, width=width, height=height))
    lines = capture.get().splitlines()
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)
    assert f"{3 * workers:,}/1,000" in lines[0]
    assert "rendering" in capture.get()


def test_the_live_view_leaves_what_it_was_told_above_itself() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24, force_terminal=True, no_color=True)
    with LiveProgress(console, clock=Clock()) as live:
        live(started(10))
        live(progress(rendered=1))
        live(events.Notice(message="stopping: finished images are being committed"))
        live(finished(10))
    text = stream.getvalue()
    assert "stopping: finished images are being committed" in text
    assert text.rstrip().rfind("10 rendered") > text.rfind("stopping")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True)
    with LiveProgress(console, clock=Clock()) as live:
        live(started(10))
        live(failure())
    assert "\x1b[31m" not in stream.getvalue()


def test_off_a_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress() as reader:
        reader(started())
    captured = capsys.readouterr()
    assert captured.err == "ray: 2 workers, one for each GPU\n"
    assert captured.out == ""


def test_for_a_script_progress_is_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress(as_json=True) as reader:
        reader(started())
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "run-started"
    assert captured.out == ""
