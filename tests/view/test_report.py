from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from farm.errors import InputError, OutputError
from farm.manifest import SheetSettings
from farm.store import Store
from farm.task import TaskSpec
from farm.view.report import make_report, write_report
from farm.view.sheet import make_sheet

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]

EVIL = "<img src=x onerror=alert(1)> \"quoted\" & 'so'"


class Page(HTMLParser):
    """What a browser sees of a page: its elements, what they load, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def output(task: MakeTask, make_output: MakeOutput) -> str:
    tasks = [
        task(prompt=f"a {subject}", sampler=sampler, seed=seed, variables={"subject": subject})
        for subject in ("sword", EVIL)
        for sampler in ("euler", "ddim")
        for seed in (1, 2)
    ]
    failed = {task(prompt="a dragon", seed=9): f"too large {EVIL}"}
    return make_output(tasks, failed=failed, facts=lambda one: {"sharpness": float(one.seed)})


def test_the_page_is_one_file_that_loads_and_runs_nothing(output: str) -> None:
    page = Page(write_report(output, score="sharpness"))
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not page.handlers
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_what_comes_from_the_output_is_text(output: str) -> None:
    page = Page(write_report(output, score="sharpness"))
    assert EVIL in page.text
    assert "alert(1)" not in re.sub(r"data:[^\"]*", "", " ".join(page.sources))


def test_it_says_what_ran_what_failed_and_what_is_best(output: str) -> None:
    text = " ".join(Page(write_report(output, score="sharpness")).text.split())
    for said in ("What ran", "euler", "bad_output", "too large", "Best by sharpness", "worker-0"):
        assert said in text
    assert "1.5 of 2 images" in text  # the mean of a cell over its seeds
    assert "Nobody has rated" not in text


def test_how_well_the_last_run_used_its_devices_is_told(output: str) -> None:
    assert "efficiency" not in Page(write_report(output)).text
    store = Store.open(output)
    store.keep_report({"efficiency": 0.5, "time_shares": {}})
    store.keep_report(
        {"efficiency": 0.93, "time_shares": {"network": 0.9, "waiting_for_work": 0.1}}
    )
    store.keep_report({"efficiency": None})
    store.control.write("reports/99999999-damaged.json", "{half")
    text = Page(write_report(output)).text
    assert "93%" in text
    assert "waiting for work" in text
    assert "10.0%" in text


def test_without_a_score_it_says_how_to_have_one(output: str) -> None:
    assert "Nobody has rated these images yet" in Page(write_report(output)).text


def test_images_that_are_gone_are_named(output: str) -> None:
    for path in Path(output, "images").rglob("*.png"):
        path.unlink()
    assert "the image is missing" in Page(write_report(output, score="sharpness")).text


def test_sheets_that_lie_there_are_shown(output: str) -> None:
    make_sheet(output, SheetSettings(x="sampler"))
    assert "sheets/sampler.png" in Page(write_report(output)).text


def test_it_is_written_into_the_output_or_where_one_says(output: str, tmp_path: Path) -> None:
    assert make_report(output) == str(Path(output) / "report.html")
    assert make_report(output, out=tmp_path / "r.html") == str(tmp_path / "r.html")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        make_report(output, out=tmp_path / "file" / "r.html")


def test_what_cannot_be_reported_is_refused(output: str, make_output: MakeOutput) -> None:
    for options in ({"score": "sharpnes"}, {"score": "prompt"}, {"score": "eta"}):
        with pytest.raises(InputError):
            write_report(output, **options)
    with pytest.raises(InputError, match="nothing has been rendered"):
        write_report(make_output([], name="empty"))


def test_names_are_broken_between_their_words_and_only_long_values_anywhere(
    task: MakeTask, make_output: MakeOutput
) -> None:
    tasks = [task(prompt=prompt, sampler="dpmpp_2m") for prompt in ("a sword", "ab " * 20)]
    page = write_report(make_output(tasks))
    assert "<th>render_<wbr>ms</th>" in page
    assert "<td>dpmpp_2m</td>" in page
    [long] = re.findall(r'<td class="long">(.*?)</td>', page)
    assert "a sword, ab ab" in long
