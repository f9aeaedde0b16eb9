"""The page in a browser: what people do with it, one thing a test."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import farm
from farm import grid, manifest
from farm.store import Store, StoredImage
from farm.task import TaskSpec, task_digest, task_id
from farm.view.table import Table
from tests.explorer.conftest import JOB, ready

if TYPE_CHECKING:
    from playwright.sync_api import Page

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]
Show = Callable[..., Any]


def tasks_of(job: str) -> list[TaskSpec]:
    return list(grid.expand(manifest.load("job.yaml", read=lambda _: job)))


@pytest.fixture
def shapes(make_output: MakeOutput) -> str:
    """All images of `JOB` but the last two cells: one failed, one is still to do."""
    tasks = tasks_of(JOB)
    failed = {tasks[-2]: "black & <b>blank</b>"}
    return make_output(tasks[:-2], failed=failed, job=JOB, job_name="shapes")


def heads(page: Page) -> list[str]:
    return page.locator(".label.head").all_inner_texts()


def sides(page: Page) -> list[str]:
    return page.locator(".label.side").all_inner_texts()


def cells(page: Page) -> int:
    return page.locator(".cell").count()


def hash_of(page: Page) -> str:
    return page.url.partition("#")[2]


def test_it_opens_with_axes_in_the_order_of_the_job(shapes: str, show: Show) -> None:
    page = show(shapes)
    assert page.title() == "shapes · farm"
    assert heads(page) == ["4", "1", "7.5"]
    assert sides(page) == ["sword", "apple"]
    assert page.locator("#rest .name").all_inner_texts() == ["sampler", "seed"]
    assert page.inner_text("#counts") == "12 of 24 cells"
    page.wait_for_function("() => document.querySelector('.tile img').naturalWidth === 32")


def test_any_column_becomes_any_axis_and_the_address_says_so(shapes: str, show: Show) -> None:
    page = show(shapes)
    page.select_option("#axis-x", "sampler")
    page.select_option("#axis-sx", "seed")
    page.select_option("#axis-sy", "guidance_scale")
    assert heads(page) == ["euler_a", "ddim"] * 2
    assert page.locator(".label.over").all_inner_texts() == ["seed 1", "seed 2"]
    assert page.locator(".label.above").all_inner_texts() == [
        f"guidance_scale {value}" for value in ("4", "1", "7.5")
    ]
    assert page.inner_text("#counts") == "24 cells · 1 failed · 1 to do"
    page.reload()
    ready(page)
    assert heads(page) == ["euler_a", "ddim"] * 2
    page.select_option("#axis-x", "seed")  # the axis that had it takes what was here
    assert page.input_value("#axis-sx") == "sampler"


def test_what_was_measured_is_an_axis_of_the_ranges_that_sheets_have(
    task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    tasks = [
        task(prompt="an apple", seed=seed, sampler=sampler)
        for sampler in ("euler", "ddim")
        for seed in range(20)
    ]
    output = make_output(
        tasks, facts=lambda one: {"brightness": 0.3 + one.seed / 50, "contrast": one.seed % 3 / 10}
    )
    table = Table.read(Store.open(output), where=None)
    divided = table.axis("brightness")
    assert divided is not None
    page = show(output, "#x=brightness&y=sampler")
    assert heads(page) == table.levels(divided)
    assert heads(page)[0] == "0.3 to 0.35"
    assert page.inner_text("#corner").split() == ["brightness", "→", "sampler", "↓"]
    assert page.locator(".tile").count() == len(tasks)  # all seeds: none is chosen of them
    page.select_option("#axis-x", "contrast")
    assert heads(page) == ["0", "0.1", "0.2"]
    page.reload()
    ready(page)
    assert heads(page) == ["0", "0.1", "0.2"]


def test_images_of_all_settings_stand_in_the_ranges_of_what_was_measured(
    make_output: MakeOutput, show: Show
) -> None:
    output = make_output(tasks_of(JOB), job=JOB, facts=lambda one: {"brightness": one.seed / 10})
    page = show(output, "#x=brightness&y=var_subject")
    assert page.inner_text("#counts") == "24 cells"
    page.get_by_role("group", name="sampler").get_by_role("button", name="ddim").click()
    assert page.inner_text("#counts") == "12 of 24 cells"


def test_images_with_a_value_stand_apart_from_those_without(shapes: str, show: Show) -> None:
    page = show(shapes)
    page.select_option("#axis-x", "error_kind")
    page.select_option("#axis-y", "")
    assert heads(page) == ["bad_output", "none"]


def test_a_column_that_is_no_axis_is_none_in_an_address_either(shapes: str, show: Show) -> None:
    page = show(shapes, "#x=finished_at&y=nothing")
    assert page.input_value("#axis-x") == ""
    assert cells(page) == 24


@pytest.mark.parametrize(
    ("address", "arrow"), [("#x=guidance_scale&y=", "→"), ("#x=&y=guidance_scale", "↓")]
)
def test_a_single_axis_is_named_whole(address: str, arrow: str, shapes: str, show: Show) -> None:
    page = show(shapes, address)
    name = page.locator("#corner span span")
    assert page.inner_text("#corner").split() == ["guidance_scale", arrow]
    assert name.evaluate("one => one.scrollWidth <= one.clientWidth")
    box, grid_box = name.bounding_box(), page.locator("#grid").bounding_box()
    first = page.locator(".label.head, .cell").first.bounding_box()
    assert box is not None
    assert grid_box is not None
    assert first is not None
    assert box["x"] >= grid_box["x"]
    assert box["y"] >= grid_box["y"]
    assert box["y"] + box["height"] <= first["y"] + 1


def test_what_is_no_axis_stands_at_one_value_or_at_all(shapes: str, show: Show) -> None:
    page = show(shapes)
    assert page.locator(".cell").first.locator(".tile").count() == 2  # the seeds, side by side
    page.get_by_role("group", name="seed").get_by_role("button", name="2").click()
    assert page.locator(".cell").first.locator(".tile").count() == 1
    assert "at.seed=2" in hash_of(page)
    page.get_by_role("group", name="sampler").get_by_role("button", name="all").click()
    assert page.locator(".cell").first.locator(".tile").count() == 2


def rest_names(page: Page) -> list[str]:
    return page.locator("#rest .name").all_inner_texts()


def test_what_follows_from_a_chosen_axis_hides_nothing(make_output: MakeOutput, show: Show) -> None:
    job = """
output: out
defaults: {width: 32, height: 32}
matrix:
  subject: [sword, apple]
  mood: [calm, wild]
  prompt: "a ${mood} ${subject}"
  zip: {guidance_scale: [1, 4, 7], num_inference_steps: [10, 20, 30]}
  seed: 1..2
"""
    page = show(make_output(tasks_of(job), job=job))
    assert page.evaluate("farm.meta.axes") == ["var_subject", "var_mood", "guidance_scale", "seed"]
    page.select_option("#axis-x", "num_inference_steps")
    page.select_option("#axis-y", "prompt")
    assert page.inner_text("#counts") == "24 cells"
    assert rest_names(page) == ["seed"]
    assert cells(page) == 12
    page.select_option("#axis-x", "var_mood")  # of four prompts and two moods, half go together
    assert rest_names(page) == ["guidance_scale", "seed"]
    page.select_option("#axis-y", "seed")
    assert rest_names(page) == ["subject", "guidance_scale"]


def test_a_wide_window_shows_the_names_of_axes_whole(
    task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    tasks = [task(num_inference_steps=steps, seed=seed) for steps in (10, 20) for seed in range(2)]
    page = show(make_output(tasks), "#x=num_inference_steps")
    wide = page.locator("#axis-x").evaluate(
        """select => {
            const free = select.cloneNode(true);
            free.style.maxWidth = "none";
            select.after(free);
            free.value = select.value;
            const [given, wanted] = [select, free].map((one) => one.getBoundingClientRect().width);
            free.remove();
            return given >= wanted;
        }"""
    )
    assert wide


def test_without_axes_images_flow_in_order(shapes: str, show: Show) -> None:
    page = show(shapes, "#x=&y=&sort=-seed")
    assert cells(page) == 24
    captions = page.locator(".caption").all_inner_texts()
    assert captions[0] == "sword · 4 · euler_a · 2"
    assert captions[-1] == "apple · 7.5 · ddim · 1"


def test_pictures_are_loaded_a_few_at_a_time_and_all_in_the_end(shapes: str, show: Show) -> None:
    page = show(shapes, "#x=&y=&sort=-seed")
    asked_for = page.evaluate(
        """async () => {
            const counts = [];
            for (const sort of ["seed", "-seed", "seed"]) {
                farm.set({ sort }); // those that were loading are not wanted any more
                await new Promise((done) => requestAnimationFrame(done));
                counts.push(document.querySelectorAll(".tile img[src]").length);
            }
            return counts;
        }"""
    )
    assert asked_for == [12, 12, 12]  # of 22
    page.wait_for_function(
        "() => [...document.querySelectorAll('.tile img')].every((one) => one.naturalWidth)"
    )


def test_a_long_prompt_hides_no_other_value_of_a_caption(
    task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    tasks = [task(prompt=f"{LONG} {n}", seed=seed) for n in range(2) for seed in range(2)]
    page = show(make_output(tasks), "#x=&y=")
    captions = page.locator(".caption")
    assert [text.rpartition(" · ")[2] for text in captions.all_inner_texts()] == ["0", "1"] * 2
    for caption in captions.all():
        assert caption.evaluate("one => one.scrollHeight <= one.clientHeight")


def test_filters_keep_what_they_name(shapes: str, show: Show) -> None:
    page = show(shapes, "#x=&y=")
    page.click("#open-filters")
    page.click("details[data-column=sampler] summary")
    page.locator("#filters").get_by_label("ddim").check()
    assert cells(page) == 12
    page.click("details[data-column=guidance_scale] summary")
    page.fill("#min-guidance_scale", "4")
    page.press("#min-guidance_scale", "Enter")
    assert cells(page) == 8
    page.reload()
    ready(page)
    assert cells(page) == 8
    assert page.locator("#chips .chip").count() == 2
    page.locator("#chips .chip").first.click()
    assert cells(page) == 16


def test_pictures_make_room_for_the_filters(
    task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    tasks = [
        task(prompt="a", seed=seed, guidance_scale=float(cfg), width=256, height=256)
        for seed in range(2)
        for cfg in range(4)
    ]
    page = show(make_output(tasks), "#x=guidance_scale&y=seed")
    fits = "() => ((grid) => grid.scrollWidth <= grid.clientWidth)(document.getElementById('grid'))"
    wide = page.locator(".cell").first.bounding_box()
    page.wait_for_function(fits)
    page.click("#open-filters")
    page.wait_for_function(fits)
    narrow = page.locator(".cell").first.bounding_box()
    assert wide is not None
    assert narrow is not None
    assert narrow["width"] < wide["width"]


def test_every_word_of_a_search_must_occur(shapes: str, show: Show) -> None:
    page = show(shapes, "#x=&y=")
    page.fill("#search", "APPLE -sword")
    page.wait_for_function("() => document.querySelectorAll('.cell').length === 12")
    page.fill("#search", '"a apple" nowhere')
    page.wait_for_selector("#nothing:not([hidden])")
    page.click("#clear")
    assert cells(page) == 24


def test_colour_tells_a_number(shapes: str, show: Show) -> None:
    page = show(
        shapes,
        "#x=guidance_scale&y=&at.sampler=ddim&at.seed=1&at.var_subject=*&color=guidance_scale",
    )
    colours = page.locator(".score").evaluate_all("all => all.map(one => one.style.background)")
    assert len(colours) == 6
    assert len(set(colours)) == 3
    assert page.inner_text(".legend").split() == ["1", "7.5"]


def test_an_image_opens_with_all_that_is_known(shapes: str, show: Show) -> None:
    page = show(shapes)
    page.locator(".tile").first.click()
    page.wait_for_selector("#zoom[open]")
    page.wait_for_function("() => document.getElementById('picture').naturalWidth === 32")
    text = page.inner_text("#facts")
    assert re.search(r"subject\s+sword", text)
    assert re.search(r"render_ms\s+10", text)
    page.wait_for_function(
        "() => /t1:[0-9a-f]{32}/.test(document.getElementById('facts').innerText)"
    )
    assert "open=" in hash_of(page)
    page.reload()
    ready(page)
    assert page.locator("#zoom[open]").count() == 1
    page.go_back()
    assert page.locator("#zoom[open]").count() == 0


def test_what_is_copied_reproduces_the_image(shapes: str, show: Show) -> None:
    page = show(shapes)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".tile").first.click()

    def copied(button: str) -> str:
        page.click(button)
        page.wait_for_selector("#said.shown")
        return str(page.evaluate("navigator.clipboard.readText()"))

    assert copied("#copy-prompt") == "a sword"
    path = copied("#copy-path")
    task = tasks_of(JOB)[0]
    [again] = tasks_of(copied("#copy-job"))
    assert task_id(again) == task_id(task)
    assert Path(shapes, path).is_file()
    assert copied("#copy-parameters").splitlines() == [
        "a sword",
        (
            "Steps: 20, Sampler: Euler a, CFG scale: 4.0, Seed: 1, Size: 32x32, Model: "
            f'"builtin:sprites", RNG: CPU, Version: farm {farm.__version__}'
        ),
    ]


def test_a_snippet_is_the_same_task_whatever_was_used(
    task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    odd = 'a "${b}" $${c} \\ #1: {x}\n  - two \x7f\u2028\N{GRINNING FACE}'
    tasks = [
        task(prompt=odd, seed=2**63 - 1, eta=1e-7),
        task(prompt="left to the model", width=None, height=None, dtype="auto"),
        task(prompt="half of it", width=None, height=64, backend="pattern"),
        task(prompt="named", dtype="bfloat16", guidance_scale=0.1 + 0.2, clip_skip=0),
    ]
    used = {"width": 32, "dtype": "uint8"}
    page = show(make_output(tasks, facts=lambda one: used | {"height": one.height or 32}))
    for one in tasks:
        snippet = page.evaluate(f"farm.jobSnippet(farm.rowOf.get('{farm_id(one)}'))")
        [again] = tasks_of(snippet)
        assert task_id(again) == task_id(one)
        assert "used" not in snippet


def farm_id(one: TaskSpec) -> str:
    return task_digest(one).hex()[:12]


def test_keys_go_where_the_mouse_goes(shapes: str, show: Show) -> None:
    page = show(shapes)
    page.locator("#grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    where = page.locator(".where")
    assert "apple · guidance_scale: 1" in where.inner_text()
    page.keyboard.press("ArrowLeft")
    assert "apple · guidance_scale: 4" in where.inner_text()
    page.keyboard.press("]")
    assert "sampler: ddim" in where.inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#zoom[open]").count() == 0
    page.keyboard.press("t")
    assert sides(page) == ["4", "1", "7.5"]
    page.keyboard.press("/")
    page.keyboard.type("sword")
    page.wait_for_function("() => document.querySelectorAll('.label.head').length === 1")


def test_two_images_are_compared_in_four_ways(shapes: str, show: Show) -> None:
    page = show(shapes)
    page.locator(".tile").nth(0).click(modifiers=["Control"])
    page.locator(".tile").nth(2).click(modifiers=["Control"])
    page.wait_for_selector("#compare[open] .pair.slider .frame.loaded")
    rows = page.locator(".differences tr").all_inner_texts()
    assert any(re.fullmatch(r"guidance_scale\s+4\s+1", row) for row in rows)
    assert not any("sampler" in row for row in rows)
    for key, mode in enumerate(("slider", "flicker", "difference", "beside"), start=1):
        page.keyboard.press(str(key))
        page.wait_for_selector(f"#compare[open] .pair.{mode} .frame.loaded")
    page.reload()
    page.wait_for_selector("#compare[open] .pair.beside .frame.loaded")
    page.keyboard.press("Escape")
    assert page.locator("#compare[open]").count() == 0


def test_the_difference_of_an_image_with_itself_is_black(shapes: str, show: Show) -> None:
    page = show(shapes)
    ids = page.evaluate("[farm.ids[0], farm.ids[4]]")
    for second, is_black in ((ids[0], True), (ids[1], False)):
        page.evaluate(
            "(pair) => farm.set({ compare: pair, against: 'difference' })", [ids[0], second]
        )
        page.wait_for_selector(".pair.difference .frame.loaded")
        shot = page.locator(".frame").screenshot()
        assert (brightest(shot) == (0, 0, 0)) is is_black


def brightest(png: bytes) -> tuple[int, ...]:
    """The greatest red, green and blue of a screenshot, without its frayed edge."""
    shot = Image.open(io.BytesIO(png)).convert("RGB")
    inside = shot.crop((4, 4, shot.width - 4, shot.height - 4))
    return tuple(int(np.asarray(band).max()) for band in inside.split())


def test_cells_without_an_image_say_why(shapes: str, show: Show) -> None:
    next(Path(shapes, "images").rglob("*s1.*.png")).unlink()
    page = show(shapes, "#x=&y=")
    failed = page.locator(".tile.failed")
    assert failed.count() == 1
    assert failed.inner_text().split("\n") == ["bad output", "black & <b>blank</b>"]
    page.wait_for_selector(".tile.missing >> text=the image is gone")
    assert page.locator(".tile.missing", has_text="to do").count() == 1


def test_a_tile_says_why_it_is_empty_in_as_many_words_as_it_has_room_for(
    shapes: str, show: Show
) -> None:
    address = "#x=guidance_scale&y=var_subject&at.sampler=ddim&size="
    for size, says in (
        (240, ["bad output\nblack & <b>blank</b>", "to do"]),
        (96, ["failed", "to do"]),
        (24, ["!\n+1"]),  # of those that have no room beside each other, the first
    ):
        page = show(shapes, f"{address}{size}")
        page.reload()
        ready(page)
        found = page.locator(".tile.failed, .tile.missing")
        assert found.all_inner_texts() == says, size
        assert found.first.locator(".reason").is_visible()
        assert "bad output: black & <b>blank</b>" in str(found.first.get_attribute("title"))


WICKED = "<img src=x onerror=\"alert('prompt')\"><script>alert(1)</script>"


def test_nothing_that_people_wrote_becomes_markup(
    task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    name = "a\"b'><svg onload=alert(2)>"
    tasks = [
        task(prompt=WICKED, variables={name: value}, seed=seed)
        for seed, value in enumerate((WICKED, "javascript:alert(3)", "${x}", "'\"", WICKED))
    ]
    failed = {task(prompt=WICKED, variables={name: WICKED}, seed=9): WICKED}
    output = make_output(tasks, failed=failed)
    page = show(output)
    assert WICKED in sides(page) or WICKED in heads(page)
    page.select_option("#axis-sx", f"var_{name}")
    page.click("#open-filters")
    for summary in page.locator("#filters summary").all():
        summary.click()
    page.locator(".tile.failed").first.click()
    assert WICKED in page.inner_text("#zoom .stage")
    page.keyboard.press(".")
    page.wait_for_selector("#picture")
    page.keyboard.press("Escape")
    page.reload()
    ready(page)
    assert (
        page.evaluate("document.querySelectorAll('svg, img[src=x], script:not([src])').length") == 0
    )


def test_files_of_any_name_are_found(
    task: MakeTask, make_output: MakeOutput, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    stems = iter(["a#b", "50% off?x=1&y", "plus + space", "quote\"'", "ünï/日本"])
    put = Store.put_image

    def named(self: Store, one: TaskSpec, data: bytes, *, suffix: str) -> Any:
        stored = put(self, one, data, suffix=suffix)
        path = f"images/{next(stems)}.{stored.sha256[:12]}.png"
        target = Path(self.url, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(self.url, stored.path).rename(target)
        return StoredImage(path=path, sha256=stored.sha256, size=stored.size)

    monkeypatch.setattr(Store, "put_image", named)
    sizes = [(32, seed) for seed in range(4)] + [(320, 4)]
    output = make_output([task(prompt="a", seed=seed, width=w, height=w) for w, seed in sizes])
    page = show(output, "#x=&y=")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.tile img')].filter(i => i.naturalWidth).length === 5"
    )
    shown = page.locator(".tile img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert sorted(shown) == [32, 32, 32, 32, 256]  # the large one by its thumbnail


def test_a_phone_has_room_for_it(shapes: str, show: Show) -> None:
    page = show(shapes)
    page.set_viewport_size({"width": 360, "height": 640})
    page.reload()
    ready(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert heads(page)[:2] == ["4", "1"]
    page.click("#open-layout")
    boxes = page.locator("#axes .chooser").evaluate_all(
        """all => all.map(one => {
            const [name, field] = one.children;
            return [name.getBoundingClientRect().bottom <= field.getBoundingClientRect().top,
                    name.scrollWidth <= name.clientWidth, one.getBoundingClientRect().left];
        })"""
    )
    assert [(above, whole) for above, whole, _ in boxes] == [(True, True)] * 7
    assert len({left for _, _, left in boxes}) == 2  # two columns, and all stand in them
    page.select_option("#axis-x", "seed")
    page.locator(".tile").first.click()
    box = page.locator("#zoom").bounding_box()
    assert box is not None
    assert box["width"] == 360


def test_cells_have_the_shape_of_most_pictures(
    task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    sizes = [(128, 64), (128, 128), (128, 128), (128, 128)]
    tasks = [task(prompt="a", width=w, height=h, seed=seed) for seed, (w, h) in enumerate(sizes)]
    page = show(make_output(tasks), "#x=seed&size=128")
    box = page.locator(".cell").first.bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (128, 128)


LONG = "an enchanted, very ornate and half-forgotten sword in a stone, rusty, wide, centred"


@pytest.mark.parametrize(("width", "size", "line"), [(1200, 24, 15), (390, 88, 13)])
def test_a_label_is_cut_between_lines_and_told_in_full(
    width: int, size: int, line: int, task: MakeTask, make_output: MakeOutput, show: Show
) -> None:
    tasks = [
        task(prompt=prompt, guidance_rescale=rescale, seed=seed)
        for prompt in (LONG, "a sword")
        for rescale in (0.5, 0.7)
        for seed in range(4)
    ]
    page = show(make_output(tasks), f"#x=guidance_rescale&y=prompt&size={size}")
    page.set_viewport_size({"width": width, "height": 700})
    page.reload()
    ready(page)
    label = page.locator(".label.side", has_text="an enchanted")
    room, text = label.bounding_box(), label.locator("span").bounding_box()
    assert room is not None
    assert text is not None
    assert line <= text["height"] <= room["height"]
    assert text["height"] % line == 0
    label.locator("span").click()
    page.wait_for_selector("#said.shown")
    assert page.inner_text("#said") == f"prompt: {LONG}"
    whole = page.locator("#corner").bounding_box()
    assert whole is not None
    for corner, arrow in ((".axis-x", "→"), (".axis-y", "↓")):
        named = page.locator(f"#corner {corner} b")
        assert named.inner_text() == arrow
        end = named.bounding_box()
        assert end is not None
        assert end["x"] + end["width"] <= whole["x"] + whole["width"]
        assert end["y"] + end["height"] <= whole["y"] + whole["height"]
    first = page.locator(".cell").first
    assert first.locator("img").count() == (1 if size == 24 else 4)
    assert first.inner_text() == ("+3" if size == 24 else "")


def test_labels_stay_in_view(make_output: MakeOutput, task: MakeTask, show: Show) -> None:
    tasks = [
        task(prompt="a", seed=seed, guidance_scale=float(cfg))
        for seed in range(14)
        for cfg in range(1, 15)
    ]
    page = show(make_output(tasks), "#x=seed&y=guidance_scale&size=150")
    shown = cells(page)
    assert shown < 150  # of 196: only what is near the view is in the document
    page.evaluate("document.getElementById('grid').scrollTo(1000, 1200)")
    page.wait_for_function("() => document.querySelector('.label.side span').textContent !== '1'")
    grid_box = page.locator("#grid").bounding_box()
    assert grid_box is not None
    tops = page.locator(".label.head").evaluate_all(
        "all => all.map(l => l.getBoundingClientRect())"
    )
    lefts = page.locator(".label.side").evaluate_all(
        "all => all.map(l => l.getBoundingClientRect())"
    )
    assert {grid_box["y"] <= box["top"] < grid_box["y"] + 60 for box in tops} == {True}
    assert {box["left"] >= grid_box["x"] for box in lefts} == {True}
    assert "10" in heads(page)


def test_an_axis_of_ten_thousand_values_is_in_the_document_where_it_is_looked_at(
    make_output: MakeOutput, show: Show
) -> None:
    job = "{output: out, defaults: {width: 32, height: 32}, matrix: {prompt: [a], seed: 1..10000}}"
    page = show(make_output(tasks_of(job)[:1], job=job), "#x=seed&y=prompt")
    assert heads(page)[:3] == ["1", "2", "3"]
    page.evaluate("document.getElementById('grid').scrollLeft = 1e9")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.label.head')].at(-1)?.innerText === '10000'"
    )
    assert cells(page) < 100
