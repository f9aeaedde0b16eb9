"""The server: what it answers, and the page when it is live."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import pytest

from farm import grid, manifest
from farm.errors import InputError, OutputError
from farm.explorer.server import serve
from farm.store import Store
from farm.task import TaskSpec
from tests.explorer.conftest import JOB, ready

if TYPE_CHECKING:
    from playwright.sync_api import Page

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]


def shapes() -> list[TaskSpec]:
    return list(grid.expand(manifest.load("job.yaml", read=lambda _: JOB)))


@contextmanager
def served(output: str, **options: Any) -> Iterator[str]:
    """Serve an output in a thread; gives the address."""
    address: Queue[str] = Queue()
    until = threading.Event()
    thread = threading.Thread(
        target=serve,
        args=(output,),
        kwargs={"port": 0, "rater": "ada", "on_start": address.put, "until": until, **options},
    )
    thread.start()
    try:
        yield address.get(timeout=60)
    finally:
        until.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


def ask(address: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """One request: JSON if there is a body; the status and what was answered."""
    data = None if body is None else json.dumps(body).encode()
    named = {"Content-Type": "application/json"} if data else {}
    request = urllib.request.Request(address, data=data, headers=named | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


@pytest.fixture
def output(make_output: MakeOutput) -> str:
    """The first twenty of twenty-four cells."""
    return make_output(shapes()[:20], job=JOB)


def test_it_answers_with_the_page_its_data_and_the_images(output: str) -> None:
    with served(output) as address:
        assert b"<main" in ask(address)[1]
        assert b"run.js" in ask(address + "run")[1]
        status, meta = ask(address + "data/meta.js")
        assert status == 200
        assert b'"root": "files/"' in meta
        assert ask(address + "data/rows-0.js")[0] == 200
        assert ask(address + "data/details-0.js?1")[0] == 200
        path = next(Path(output, "images").rglob("*.png")).relative_to(output).as_posix()
        assert ask(f"{address}files/{path}")[1] == Path(output, path).read_bytes()
        small = path.replace("images/", "thumbnails/256/") + ".webp"
        assert ask(f"{address}files/{small}")[1].startswith(b"RIFF")


def test_nothing_else_is_given_away(output: str) -> None:
    paths = (
        "files/job.yaml", "files/images/../job.yaml", "files/images/%2e%2e/job.yaml",
        "files/catalog/x.parquet", "files/thumbnails/256/../../../job.yaml.webp", "server.py",
        "..%2fserver.py", "data/other-1.js", "data/rows-x.js", "files/images/none.png",
    )  # fmt: skip
    with served(output) as address:
        assert {path: ask(address + path)[0] for path in paths} == dict.fromkeys(paths, 404)


def test_a_stranger_is_refused(output: str) -> None:
    with served(output) as address:
        assert ask(address, Host="evil.example")[0] == 421
        vote = {"votes": [{"kind": "stars", "id": "x", "value": 1}]}
        assert ask(address + "api/votes", vote, Origin="http://evil.example")[0] == 403
    with served(output, token="s3cret") as address:
        assert address.endswith("?token=s3cret")
        bare = address.partition("?")[0]
        assert ask(bare)[0] == 401
        assert ask(bare + "data/meta.js", Authorization="Bearer s3cret")[0] == 200


def test_votes_are_in_the_output_before_they_are_answered(output: str) -> None:
    with served(output) as address:
        meta = ask(address + "data/rows-0.js")[1].decode()
        ids = json.loads(json.loads("[" + meta[len("farmData.rows(") : -3] + "]")[2])["id"]
        votes = [
            {"kind": "stars", "id": ids[0], "value": 4},
            {"kind": "tags", "id": ids[1], "value": ["hero", "blue"]},
            {"kind": "comparison", "id": ids[0], "other": ids[1], "value": "second",
             "axis": "seed"},
        ]  # fmt: skip
        assert ask(address + "api/votes", {"rater": "bob", "votes": votes})[0] == 200
        assert len(Store.open(output).ballot().votes) == 3
        assert len(list(Path(output, "ratings").iterdir())) == 1
        mine = ask(address + "api/mine?rater=bob")[1]
        assert mine["votes"] == {ids[0]: {"stars": 4}, ids[1]: {"tags": ["blue", "hero"][::-1]}}
        assert mine["pairs"] == [[ids[0], ids[1]]]
        assert ask(address + "api/mine")[1] == {"votes": {}, "pairs": []}
        ranking = ask(address + "api/ranking?by=seed")[1]
        assert [one["value"] for one in ranking["standings"]] == [2, 1]


def test_what_is_no_vote_is_refused_and_nothing_is_kept(output: str) -> None:
    bodies: list[object] = [
        [], {"votes": []}, {"votes": "x"}, {"votes": [3]}, {"votes": [{"kind": "praise"}]},
        {"votes": [{"kind": "stars", "id": "nobody", "value": 3}]},
        {"votes": [{"kind": "stars", "id": 7, "value": 3}]},
    ]  # fmt: skip
    with served(output) as address:
        for body in bodies:
            status, told = ask(address + "api/votes", body)
            assert (status, bool(told["error"])) == (400, True), body
    assert not Path(output, "ratings").exists()


def test_an_address_that_cannot_be_had_is_told(output: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no farm output"):
        serve(str(tmp_path / "nowhere"), on_start=print)
    with (
        served(output) as address,
        pytest.raises(InputError, match="cannot listen"),
    ):
        serve(output, port=int(address.rstrip("/").rpartition(":")[2]), on_start=print)


def test_an_output_without_any_row_can_be_watched_from_its_start(
    make_output: MakeOutput, page: Page
) -> None:
    # So many cells are to do that none is listed: the page has no row at all.
    job = JOB.replace("seed: 1..2", "seed: 1..2000")
    output = make_output([], job=job)
    with served(output) as address:
        page.goto(address)
        ready(page)
        assert "24,000 more to do" in page.inner_text("#counts")
        page.wait_for_selector(".dot.live")
        make_output(shapes()[:3], job=job)
        page.wait_for_selector(".tile.rendered")
        page.goto("about:blank")


# --- in the browser -----------------------------------------------------------------------------


def marks(page: Page) -> list[str]:
    return page.locator(".marks").all_inner_texts()


def test_what_is_committed_appears_by_itself(
    output: str, make_output: MakeOutput, page: Page
) -> None:
    with served(output) as address:
        page.goto(f"{address}#x=&y=")
        ready(page)
        assert page.locator(".tile.missing").count() == 4
        page.wait_for_selector(".dot.live")
        make_output(shapes()[20:23], job=JOB)
        page.wait_for_function("() => document.querySelectorAll('.tile.missing').length === 1")
        assert page.inner_text("#counts") == "24 cells · 1 to do"
        page.goto("about:blank")


def test_what_comes_out_moves_to_where_it_belongs(
    output: str, make_output: MakeOutput, page: Page
) -> None:
    with served(output) as address:
        page.goto(f"{address}#x=status&y=var_subject")
        ready(page)
        heads = page.locator(".label.head")
        assert heads.all_inner_texts() == ["missing", "rendered"]
        page.wait_for_selector(".dot.live")
        make_output(shapes()[20:], job=JOB)
        page.wait_for_function("() => document.querySelectorAll('.label.head').length === 1")
        assert heads.all_inner_texts() == ["rendered"]
        page.goto("about:blank")


def test_ranges_follow_what_is_measured(
    task: MakeTask, make_output: MakeOutput, page: Page
) -> None:
    tasks = [task(prompt="a", seed=seed) for seed in range(40)]

    def facts(one: TaskSpec) -> dict[str, float]:
        return {"brightness": one.seed / 40}

    output = make_output(tasks[:2], facts=facts)
    with served(output) as address:
        page.goto(f"{address}#x=brightness")
        ready(page)
        heads = page.locator(".label.head")
        assert heads.all_inner_texts() == ["0", "0.025"]
        make_output(tasks[2:], facts=facts)
        page.wait_for_function("() => farm.rows === 40")
        assert heads.all_inner_texts() == [
            "0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1"
        ]  # fmt: skip
        assert page.inner_text("#counts") == "40 cells"
        page.goto("about:blank")


def test_votes_are_shown_kept_and_there_again(output: str, page: Page) -> None:
    with served(output) as address:
        page.goto(f"{address}#x=&y=")
        ready(page)
        page.locator(".tile").nth(0).click()
        page.keyboard.press("4")
        page.keyboard.press("h")
        page.fill("#vote-tags", "hero, <b>blue</b>")
        page.press("#vote-tags", "Enter")
        page.fill("#vote-note", "keep <i>this</i>")
        page.press("#vote-note", "Enter")
        page.keyboard.press(".")
        page.click("#vote-reject")
        page.keyboard.press("Escape")
        assert [text.replace("\n", "") for text in marks(page)] == ["★4♥", "✕"]
        page.wait_for_function(  # a vote that is still on its way does not outlive the page
            """() => {
                const of = (row, name) => farm.column(name).value(row);
                return of(0, "rating") === 4 && of(0, "favorite") && of(0, "tags").length
                    && of(0, "notes")?.length && of(1, "rejected");
            }"""
        )
        page.reload()
        ready(page)
        page.wait_for_selector(".marks")
        assert [text.replace("\n", "") for text in marks(page)] == ["★4♥", "✕"]
        page.goto(f"{address}#x=&y=&min.rating=3")
        page.reload()
        ready(page)
        assert page.locator(".cell").count() == 1
        page.goto(f"{address}#x=tags&y=rejected")
        page.reload()
        ready(page)
        assert page.locator(".label.head").all_inner_texts() == ["<b>blue</b>, hero", "none"]
        assert page.locator(".label.side").all_inner_texts() == ["yes", "none"]
        page.goto(f"{address}#x=&y=&min.rating=3")
        page.reload()
        ready(page)
        page.locator(".tile").first.click()
        assert page.input_value("#vote-tags") == "hero, <b>blue</b>"
        assert page.input_value("#vote-note") == "keep <i>this</i>"
        page.keyboard.press("4")  # the same again takes it back
        page.wait_for_function("() => !farm.column('rating').levels.includes(4)")
        page.goto("about:blank")
    rated = {vote.kind: vote.value for vote in Store.open(output).ballot().votes}
    assert rated == {"favorite": True, "tags": ("hero", "<b>blue</b>"), "note": "keep <i>this</i>",
                     "reject": True}  # fmt: skip


def test_a_comparison_is_blind_until_it_is_judged(output: str, page: Page) -> None:
    with served(output) as address:
        page.goto(address)
        ready(page)
        page.click("#open-duel")
        page.select_option("#duel-axis", "sampler")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#duel img')].filter(i => i.naturalWidth).length"
            " === 2"
        )
        hidden = page.inner_text("#duel") + page.locator(".sides-by").evaluate("e => e.outerHTML")
        for secret in ("ddim", "euler_a", "images/", "files/"):
            assert secret not in hidden.replace("they differ in", "")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#duel-next")
        told = page.locator(".revealed").all_inner_texts()
        assert sorted(told) == ["sampler: ddim", "sampler: euler_a"]
        won = told[0].removeprefix("sampler: ")
        assert page.locator(".standings th").first.inner_text() == won
        page.keyboard.press("Enter")
        page.wait_for_selector("#duel-left-button")
        assert page.locator(".standings").count() == 0
        page.goto("about:blank")
    [vote] = Store.open(output).ballot().votes
    tasks = {row["task_id"]: row for row in Store.open(output).table().to_pylist()}
    one, other = tasks[vote.task_id], tasks[str(vote.other_id)]
    assert (vote.axis, vote.value, one["sampler"]) == ("sampler", "first", won)
    same = ("prompt", "seed", "guidance_scale", "num_inference_steps")
    assert [one[name] for name in same] == [other[name] for name in same]


def test_a_run_has_a_page_of_its_own(
    make_output: MakeOutput, page: Page, tmp_path: Path, monkeypatch: Any
) -> None:
    tasks = shapes()
    wicked = "black <img src=x onerror=alert(1)>"
    output = make_output(tasks[:20], failed={tasks[20]: wicked}, job=JOB)
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("matrix: {guidence_scale: [1]}\n")
    with served(output) as address:
        page.goto(address + "run")
        ready(page)
        assert "20 of 24" in page.inner_text("#progress-part")
        assert "worker-0" in page.inner_text("#workers-part")
        assert wicked in page.inner_text("#failures-part")
        page.click("#plan")
        page.wait_for_selector("pre.problem")
        assert "did you mean 'guidance_scale'" in page.inner_text("#planned")
        page.click("#failures-part .chip")
        ready(page)
        assert page.locator(".cell").count() == 1
        page.goto("about:blank")


@pytest.mark.slow
@pytest.mark.timeout(600)  # it waits for Ray to start
def test_a_job_is_planned_submitted_and_watched(
    make_output: MakeOutput, page: Page, tmp_path: Path, monkeypatch: Any
) -> None:
    output = make_output(shapes()[:2], job=JOB)
    monkeypatch.chdir(tmp_path)
    Path("more.yaml").write_text(JOB.replace("name: shapes", "name: shapes\nbackend: pattern"))
    with served(output) as address:
        page.set_default_timeout(300_000)
        page.goto(address + "run")
        ready(page)
        page.select_option("#job", "more.yaml")
        page.click("#plan")
        page.click("#submit")
        page.wait_for_selector("#logs-part >> text=finished")
        assert "24 rendered" in page.inner_text("#logs-part pre")
        page.goto(address)
        ready(page)
        page.wait_for_function("() => farm.column('backend').levels.includes('pattern')")
        page.goto("about:blank")


@pytest.mark.parametrize("token", [None, ""])
def test_elsewhere_than_on_loopback_there_is_always_a_token(output: str, token: str | None) -> None:
    with served(output, host="0.0.0.0", token=token) as address:
        bare, _, given = address.partition("?token=")
        assert len(given) > 16
        local = bare.replace("0.0.0.0", "127.0.0.1")
        assert ask(local)[0] == 401
