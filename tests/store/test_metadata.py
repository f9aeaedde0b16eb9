"""What an image says about itself is read back by us, by others, and whatever the prompt."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from sd_parsers import ParserManager

from farm.manifest.job import ImageSettings
from farm.store import (
    Row,
    StoredImage,
    encode_image,
    image_suffix,
    parameters_text,
    read_metadata,
    row_for,
    with_image,
)
from farm.store.row import from_record
from farm.task import FIELDS, Rendered, RenderFacts, TaskSpec

FORMATS: list[Literal["png", "webp", "jpeg"]] = ["png", "webp", "jpeg"]
PIXELS = np.random.default_rng(5).integers(0, 256, (16, 24, 3), dtype=np.uint8)
NASTY = [
    "a sword\nNegative prompt: a shield\nSteps: 3, Sampler: x, Seed: 4",
    'quotes " and \\ and \' and {"json": [1]}, <farm:record>&amp;</farm:record>',
    "emoji 🗡️ 剣 \u202e right to left \ufffe\uffff \x01\x0b\x7f\x85",
    "  blanks around\r\nand carriage returns\r ",
    "ten thousand " * 800,
    "",
]


def row_of(task: TaskSpec) -> Row:
    result = Rendered(
        task=task, pixels=PIXELS, render_ms=1 / 3, batch_size=4, denoiser_evaluations=60,
        facts=RenderFacts(dtype="float16", device="cuda:0", model_sha256="ab" * 32),
    )  # fmt: skip
    moment = datetime(2026, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)
    return row_for(
        result, job="assets", image=None, run=2, attempt=3, worker="w1", node="n1",
        started_at=moment, finished_at=moment,
    )  # fmt: skip


def image_of(data: bytes, suffix: str) -> StoredImage:
    return StoredImage(path=f"images/x.{suffix}", sha256="cd" * 32, size=len(data))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("quality", [None, 80])
@pytest.mark.parametrize("prompt", NASTY)
def test_a_image_gives_its_row_back(
    kind: Literal["png", "webp", "jpeg"], quality: int | None, prompt: str
) -> None:
    chosen = ImageSettings(format=kind, quality=quality)
    row = row_of(TaskSpec(prompt=prompt, negative_prompt=prompt[:500], vars={"subject": prompt}))
    data = encode_image(PIXELS, chosen, row)
    image = image_of(data, image_suffix(chosen))
    found = read_metadata(data)
    assert from_record(found["farm"], image=image) == with_image(row, image)
    assert found["digital_source_type"] == "trainedAlgorithmicMedia"
    assert found["parameters"] == parameters_text(row)


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)


@given(prompt=words, negative=words, kind=st.sampled_from(FORMATS))
@settings(max_examples=60, deadline=None)
@example(prompt="\ufffe", negative="]]>", kind="webp")
def test_no_prompt_is_lost(
    prompt: str, negative: str, kind: Literal["png", "webp", "jpeg"]
) -> None:
    row = row_of(TaskSpec(prompt=prompt, negative_prompt=negative))
    data = encode_image(PIXELS, ImageSettings(format=kind), row)
    record = read_metadata(data)["farm"]
    assert (record["task"]["prompt"], record["task"]["negative_prompt"]) == (prompt, negative)


def test_every_task_field_travels_in_the_record() -> None:
    unusual: dict[type, Any] = {str: "x", int: 64, float: 0.5}
    values: dict[str, Any] = {
        name: (info.choices or (unusual[info.type],))[-1] for name, info in FIELDS.items()
    }
    task = TaskSpec(**values)
    data = encode_image(PIXELS, ImageSettings(), row_of(task))
    row = from_record(read_metadata(data)["farm"], image=image_of(data, "png"))
    assert row.task == task


def test_lossless_formats_keep_every_pixel() -> None:
    for kind in ("png", "webp"):
        data = encode_image(PIXELS, ImageSettings(format=kind), row_of(TaskSpec()))
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == "RGB"
            assert (np.asarray(image) == PIXELS).all()


def test_jpeg_keeps_its_colours_at_full_size() -> None:
    data = encode_image(PIXELS, ImageSettings(format="jpeg"), row_of(TaskSpec()))
    with Image.open(io.BytesIO(data)) as image:
        sampling = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]  # type: ignore[attr-defined]  # of JPEG only
    assert set(sampling) == {(1, 1)}


def test_quality_makes_webp_and_jpeg_smaller() -> None:
    sizes = [
        len(encode_image(PIXELS, ImageSettings(format=kind, quality=quality), row_of(TaskSpec())))
        for kind in ("webp", "jpeg")
        for quality in (None, 20)
    ]
    assert sizes[1] < sizes[0]
    assert sizes[3] < sizes[2]


def test_a_jpeg_leaves_out_what_its_segments_cannot_hold() -> None:
    row = row_of(TaskSpec(prompt="x" * 40_000))
    found = read_metadata(encode_image(PIXELS, ImageSettings(format="jpeg"), row))
    assert "parameters" not in found  # 80 kB of UTF-16
    assert found["farm"]["task"]["prompt"] == row.task.prompt
    row = row_of(TaskSpec(prompt="x" * 80_000))
    found = read_metadata(encode_image(PIXELS, ImageSettings(format="jpeg"), row))
    assert found == {"digital_source_type": "trainedAlgorithmicMedia"}


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n1234"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no readable image"):
        read_metadata(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"version": 99},
        lambda record: record | {"task": {"prompt": "other"}},
        lambda record: record | {"task": {"no_such_field": 1}},
        lambda record: record | {"result": {}},
        lambda record: {"version": record["version"]},
    ],
)
def test_a_damaged_record_is_refused(change: Any) -> None:
    data = encode_image(PIXELS, ImageSettings(), row_of(TaskSpec()))
    record = change(read_metadata(data)["farm"])
    with pytest.raises(ValueError, match="its record"):
        from_record(record, image=image_of(data, "png"))


# --- the A1111 text -----------------------------------------------------------------------------


def test_the_text_has_the_order_and_the_quotes_of_a1111() -> None:
    task = TaskSpec(
        prompt="a sword, (sharp:1.2)\nsecond line", negative_prompt="blurry", sampler="dpmpp_2m",
        sigma_schedule="karras", num_inference_steps=20, guidance_scale=7.0, seed=42, clip_skip=1,
        eta=0.5, model="models/dream shaper, v8.safetensors",
    )  # fmt: skip
    text = parameters_text(row_of(task))
    *prompt, last = text.split("\n")
    assert prompt == ["a sword, (sharp:1.2)", "second line", "Negative prompt: blurry"]
    head, _, version = last.rpartition(", Version: ")
    assert version.startswith("farm ")
    assert head == (
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 42, "
        'Size: 24x16, Model hash: ababababab, Model: "dream shaper, v8", Clip skip: 2, RNG: CPU, '
        "Eta: 0.5"
    )


@pytest.mark.parametrize(
    ("sampler", "told"),
    [("dpm2_a_discard", "DPM2 a"), ("dpm2_discard", "DPM2"), ("dpmpp_2s_a", "DPM++ 2S a")],
)
def test_a_sampler_is_called_what_a1111_calls_that_algorithm(sampler: str, told: str) -> None:
    assert f"Sampler: {told}," in parameters_text(row_of(TaskSpec(sampler=sampler)))


def test_what_is_not_applied_is_not_written() -> None:
    text = parameters_text(row_of(TaskSpec(prompt="a sword", model="builtin:sprites")))
    for absent in ("Negative prompt", "Schedule type", "Model hash", "Clip skip", "Eta"):
        assert absent not in text
    assert 'Model: "builtin:sprites"' in text


def test_an_empty_prompt_leaves_the_settings_line() -> None:
    assert parameters_text(row_of(TaskSpec())).startswith("Steps: ")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", ["a sword, white background", "größer 剣 🗡\nsecond line"])
def test_an_independent_reader_finds_the_settings(
    kind: Literal["png", "webp", "jpeg"], prompt: str, tmp_path: Any
) -> None:
    task = TaskSpec(
        prompt=prompt, negative_prompt="blurry, dark", sampler="euler_a", sigma_schedule="normal",
        num_inference_steps=25, guidance_scale=6.5, seed=2**40,
    )  # fmt: skip
    path = tmp_path / f"image.{kind}"
    path.write_bytes(encode_image(PIXELS, ImageSettings(format=kind), row_of(task)))
    read = ParserManager().parse(path)
    assert read is not None
    assert [entry.value for entry in read.prompts] == [prompt]
    assert [entry.value for entry in read.negative_prompts] == ["blurry, dark"]
    [sampler] = read.samplers
    assert sampler.name == "Euler a"
    assert sampler.parameters == {
        "cfg_scale": "6.5", "seed": str(2**40), "steps": "25", "scheduler": "Uniform",
    }  # fmt: skip
    assert read.metadata["Size"] == "24x16"


def test_the_record_does_not_depend_on_the_format() -> None:
    row = row_of(TaskSpec(prompt="a sword"))
    records = [
        read_metadata(encode_image(PIXELS, ImageSettings(format=kind), row))["farm"]
        for kind in FORMATS
    ]
    assert records[0] == records[1] == records[2]
    changed = replace(row, worker="w2")
    other = read_metadata(encode_image(PIXELS, ImageSettings(), changed))["farm"]
    assert other != records[0]
