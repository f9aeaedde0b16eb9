"""Names of images are legal everywhere, stay below images/, and are the same every time."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farm.store import layout
from farm.store.images import MAX_COMPONENT_BYTES, image_stem, safe_component, slug
from farm.task import TaskSpec, task_digest

ILLEGAL = set('<>:"/\\|?*') | {chr(code) for code in range(32)} | {"\x7f"}
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}
ANY_TEXT = st.text(st.characters(), max_size=400)
"""Text of any characters at all, lone surrogates included."""


def assert_legal(component: str) -> None:
    """Assert what Windows, macOS and Linux together ask of one file or folder name."""
    assert component not in {"", ".", ".."}
    assert not ILLEGAL & set(component)
    assert not component.startswith((".", " "))
    assert not component.endswith((".", " "))
    assert component.partition(".")[0].rstrip().lower() not in DEVICES
    assert len(component.encode()) <= MAX_COMPONENT_BYTES
    assert unicodedata.is_normalized("NFC", component)


@given(ANY_TEXT)
@example("../../etc/passwd")
@example("CON")
@example("con .txt")
@example("com¹.png")
@example("a" * 500)
@example("é" * 200)
@example("con." + "x" * 154 + " .")
@example("e\u200d\u0301")
@example("\u202egnp.exe")
@example("...")
@example("\ud800")
@example("a\u2028b\nc")
def test_any_text_becomes_a_legal_name_that_stays_itself(text: str) -> None:
    name = safe_component(text)
    assert_legal(name)
    assert safe_component(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("größer als 3D", "größer als 3D"),
        ("剣と盾", "剣と盾"),
        ("हिन्दी", "हिन्दी"),
        ("a/b\\c:d", "a_b_c_d"),
        ("  two\t words \n", "two words"),
        (".hidden.", "hidden"),
        ("nul", "_nul"),
        ("Null", "Null"),
        ("", "_"),
    ],
)
def test_readable_text_stays_readable(text: str, name: str) -> None:
    assert safe_component(text) == name


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red Sword, 3D render!", "a-red-sword-3d-render"),
        ("", "image"),
        ("!!!", "image"),
        ("Größe", "größe"),
        ("हिन्दी", "हिन्दी"),
        ("word " * 30, "word-" * 11 + "word"),
        ("x" * 100, "x" * 60),
    ],
)
def test_a_prompt_becomes_a_few_words(prompt: str, expected: str) -> None:
    assert slug(prompt) == expected


@given(prompt=ANY_TEXT, seed=st.integers(0, 2**63 - 1))
def test_the_default_name_has_one_folder_by_digest(prompt: str, seed: int) -> None:
    try:
        task = TaskSpec(prompt=prompt.encode().decode(), seed=seed)
    except UnicodeEncodeError:  # a task cannot hold lone surrogates
        return
    folder, stem = image_stem(task, None).split("/")
    assert folder == task_digest(task).hex()[:2]
    assert_legal(stem)


@given(prompt=st.text(), style=st.text())
@example(prompt="../..", style="/etc/passwd")
def test_a_value_never_adds_or_leaves_a_folder(prompt: str, style: str) -> None:
    task = TaskSpec(prompt=prompt, vars={"style": style})
    pieces = image_stem(task, "sets/${style}/${prompt}-${seed}").split("/")
    assert len(pieces) == 3
    for piece in pieces:
        assert_legal(piece)


@pytest.mark.parametrize(
    "template", ["/abs/${seed}", "../../${seed}", "a/../../${seed}", "./${seed}", "a//${seed}"]
)
def test_a_template_cannot_climb_out(template: str) -> None:
    stem = image_stem(TaskSpec(seed=3), template)
    for piece in stem.split("/"):
        assert_legal(piece)
    assert stem.endswith("3")


def test_fields_that_are_absent_have_a_word() -> None:
    task = TaskSpec(seed=3, guidance_scale=4.0)
    assert image_stem(task, "${eta}-${guidance_scale}-${style}") == "none-4-none"


@given(ANY_TEXT)
def test_slugs_of_jobs_are_plain_ascii(text: str) -> None:
    assert re.fullmatch(r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,38}[0-9A-Za-z])?", layout.slug(text))


def test_only_names_of_ours_carry_a_digest() -> None:
    assert layout.image_digest("images/ab/a-sword-s1.0123456789ab.png") == "0123456789ab"
    assert layout.image_digest("images/holiday.png") is None
    assert layout.image_digest("images/a.0123456789ab.png.tmp") is None
