"""Who is let in: every rule as a row."""

from __future__ import annotations

import pytest

from farm.explorer.gate import Gate, Refusal, Welcome

OPEN = Gate(token=None)
SHUT = Gate(token="s3cret")
JSON = {"content-type": "application/json"}


def judge(gate: Gate, method: str = "GET", query: str = "", **headers: str) -> int | str | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    verdict = gate.judge(method=method, path="/data/meta.js", query=query, headers=named)
    match verdict:
        case Refusal():
            return verdict.status
        case Welcome():
            return verdict.to
        case None:
            return None


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765", "127.0.0.1"]
)
def test_names_of_this_machine_need_no_token(host: str) -> None:
    assert judge(OPEN, host=host) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8765", "", "localhost.evil.example", "10.0.0.1"],
)
def test_a_foreign_name_that_points_here_is_refused(host: str) -> None:
    assert judge(OPEN, host=host) == 421


def test_other_sites_may_link_here_and_nothing_else() -> None:
    for site in ("cross-site", "same-site"):
        asked = {"host": "localhost", "sec_fetch_site": site}
        assert judge(OPEN, **asked, sec_fetch_mode="no-cors") == 403  # a script, an image
        assert judge(OPEN, **asked, sec_fetch_mode="cors") == 403
        assert judge(OPEN, **asked, sec_fetch_mode="navigate") is None
        assert judge(OPEN, "POST", **asked, sec_fetch_mode="navigate") == 403  # a form


def test_what_changes_something_comes_from_our_page_as_json() -> None:
    own = {"host": "localhost:1", "content_type": "application/json"}
    assert judge(OPEN, "POST", **own, origin="http://localhost:1") is None
    assert judge(OPEN, "POST", **own) is None  # a program, which sends no origin
    assert judge(OPEN, "POST", **own, origin="http://localhost:2") == 403
    assert judge(OPEN, "POST", **own, origin="null") == 403
    assert judge(OPEN, "POST", host="localhost:1", content_type="text/plain") == 403
    assert judge(OPEN, "POST", host="localhost:1") == 403


def test_a_token_is_asked_for_and_kept() -> None:
    assert judge(SHUT, host="farm.example") == 401
    assert judge(SHUT, host="farm.example", query="token=wrong") == 401
    assert judge(SHUT, host="farm.example", query="token=s3cret&a=1") == "/data/meta.js?a=1"
    assert judge(SHUT, host="farm.example", cookie="a=b; farm-token=s3cret") is None
    assert judge(SHUT, host="farm.example", cookie="farm-token=wrong") == 401
    assert judge(SHUT, host="farm.example", authorization="Bearer s3cret") is None
    assert (
        judge(SHUT, "POST", host="h", query="token=s3cret", content_type=JSON["content-type"])
        == 401
    )


def test_the_way_back_from_the_token_leads_nowhere_else() -> None:
    verdict = SHUT.judge(
        method="GET", path="//evil.example/x", query="token=s3cret", headers={"host": "h"}
    )
    assert verdict == Welcome(to="/evil.example/x")
