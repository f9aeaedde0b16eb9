"""A browser for the tests of the page, and the outputs that they look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from farm.explorer.gallery import make_gallery
from tests.view.conftest import make_output, task

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["make_output", "task"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

JOB = """
name: shapes
output: out
defaults: {width: 32, height: 32, num_inference_steps: 20}
matrix:
  subject: [sword, apple]
  prompt: "a ${subject}"
  guidance_scale: [4.0, 1.0, 7.5]
  sampler: [euler_a, ddim]
  seed: 1..2
"""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that need the browser in one process: it is started once."""
    for item in items:
        is_here = item.path.parent == Path(__file__).parent
        if is_here and "page" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's own Chromium, without a window."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh tab. What a page must never do fails the test: errors, and requests elsewhere."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.set_default_timeout(15_000)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(f"a dialog opened: {dialog.message}"))
    tab.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "http://127.0.0.1:", "data:", "blob:"))
            else wrong.append(f"asked for {request.url}")
        ),
    )
    yield tab
    context.close()
    assert not wrong


def ready(page: Page) -> None:
    """Wait until the page answers."""
    page.wait_for_selector("html[data-ready]", state="attached")


Show = Callable[..., Any]


@pytest.fixture
def show(page: Page) -> Show:
    """Opens the gallery of an output, at an address if one is given."""

    def open_gallery(output: str, address: str = "") -> Page:
        index = make_gallery(output).index
        page.goto(f"file://{index}{address}")
        ready(page)
        return page

    return open_gallery
