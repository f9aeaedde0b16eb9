"""The static folder: what is in it, and that it stands where it is put."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.errors import InputError, OutputError
from farm.explorer.gallery import PAGE, make_gallery
from farm.store import Store
from farm.task import TaskSpec
from tests.explorer.conftest import ready

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]


def test_the_gallery_lies_in_the_output_and_copies_nothing(
    task: MakeTask, make_output: MakeOutput
) -> None:
    output = make_output([task(prompt="a"), task(prompt="b", width=512, height=256)])
    made = make_gallery(output)
    folder = Path(output, "gallery")
    assert made.index == str(folder / "index.html")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["data", *(path.name for path in PAGE.iterdir() if path.name not in {"run.html", "run.js"})]
    )
    assert [path.name for path in Path(output, "thumbnails").iterdir()] == ["256"]
    assert len(list(Path(output, "thumbnails").rglob("*.webp"))) == 1  # of the large one only
    assert str(made) == "2 images"


def test_elsewhere_it_stands_alone(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path, page: Any
) -> None:
    sizes = (32, 400)
    output = make_output([task(prompt="a", width=size, height=size) for size in sizes])
    made = make_gallery(output, out=tmp_path / "site")
    assert not (tmp_path / "site" / "tmp").exists()
    shutil.rmtree(output)
    page.goto(f"file://{made.index}")
    ready(page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.tile img')].filter(i => i.naturalWidth).length === 2"
    )
    page.locator(".tile").nth(1).click()
    page.wait_for_function("() => document.querySelector('#picture').naturalWidth === 400")


def test_it_is_written_into_object_stores_too(task: MakeTask, make_output: MakeOutput) -> None:
    output = make_output([task(prompt="a")])
    made = make_gallery(output, out="memory://site")
    assert made.index == "memory://site/index.html"


def test_images_that_are_gone_or_damaged_are_told(task: MakeTask, make_output: MakeOutput) -> None:
    tasks = [task(prompt="a", seed=seed, width=512, height=512) for seed in range(3)]
    output = make_output(tasks)
    gone, damaged, _ = sorted(Path(output, "images").rglob("*.png"))
    gone.unlink()
    damaged.write_bytes(b"no picture")
    made = make_gallery(output)
    assert len(made.unreadable) == 2
    assert any("the image is missing" in sentence for sentence in made.unreadable)


def test_an_image_that_is_gone_is_told_once(
    task: MakeTask, make_output: MakeOutput, tmp_path: Path
) -> None:
    tasks = [task(prompt="a", width=size, height=size) for size in (32, 512)]
    output = make_output(tasks)
    for file in Path(output, "images").rglob("*.png"):
        file.unlink()
    made = make_gallery(output, out=tmp_path / "site")
    assert len(made.unreadable) == len(set(made.unreadable)) == 2
    assert all("the image is missing" in sentence for sentence in made.unreadable)


def test_there_must_be_something_to_show(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no farm output"):
        make_gallery(str(tmp_path / "nowhere"))
    Store.open(tmp_path / "empty", create=True)
    with pytest.raises(InputError, match="nothing to show"):
        make_gallery(str(tmp_path / "empty"))


def test_it_can_be_written_again_over_itself(task: MakeTask, make_output: MakeOutput) -> None:
    output = make_output([task(prompt="a")])
    first = make_gallery(output)
    make_output([task(prompt="b")])
    assert make_gallery(output).images == first.images + 1
