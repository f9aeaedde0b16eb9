from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sprites.catalogue import (
    BACKGROUNDS,
    COLOURS,
    STYLES,
    SUBJECTS,
    Shot,
    Subject,
    caption,
    draw_shot,
    is_held_out,
    plain_caption,
    read_strangers,
    read_subjects,
    with_article,
)
from sprites.training import step_rng

DRAGON = Subject("dragon", "1f409", ("wyrm",))


def test_the_plain_caption_names_style_colour_subject_and_background() -> None:
    shot = Shot("dragon", "pixel art", "red", "black")
    assert plain_caption(shot) == "pixel art of a red dragon, black background"
    assert plain_caption(replace(shot, colour=None, style="3d render")) == (
        "3d render of a dragon, black background"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("axe", "an axe"),
        ("orange sword", "an orange sword"),
        ("crossed swords", "crossed swords"),
        ("cactus", "a cactus"),
        ("compass", "a compass"),
        ("ufo", "a ufo"),
    ],
)
def test_articles(words: str, expected: str) -> None:
    assert with_article(words) == expected


def test_every_caption_says_the_colour_and_any_background_but_white() -> None:
    rng = np.random.default_rng(3)
    for _ in range(500):
        shot = draw_shot("dragon", STYLES[int(rng.integers(4))], rng)
        text = caption(shot, DRAGON, rng)
        assert "dragon" in text or "wyrm" in text
        assert shot.colour is None or f"{shot.colour} " in text
        assert shot.background == "white" or f"{shot.background} background" in text
        assert shot.style == "3d render" or shot.style in text


def test_held_out_combinations_are_a_tenth_and_never_drawn() -> None:
    combinations = [
        (f"subject {index}", colour, background)
        for index in range(40)
        for colour in COLOURS
        for background in BACKGROUNDS
    ]
    share = np.mean([is_held_out(*combination) for combination in combinations])
    assert 0.08 < share < 0.12
    assert not is_held_out("dragon", None, "white")
    shots = [draw_shot("dragon", "cartoon", step_rng(1, step)) for step in range(300)]
    assert not any(is_held_out(s.subject, s.colour, s.background) for s in shots)


def test_the_same_step_draws_the_same_shot() -> None:
    def shots() -> list[Shot]:
        return [draw_shot("cat", "cartoon", step_rng(7, step)) for step in range(20)]

    assert shots() == shots()


def test_subjects_are_named_for_games_and_unique() -> None:
    labels = [line.partition(" = ")[0] for line in SUBJECTS.strip().splitlines()]
    subjects = read_subjects({"label": label, "hexcode": "1F409"} for label in labels)
    names = [subject.name for subject in subjects]
    assert len(set(names)) == len(names) == len(labels)
    assert {"sword", "shield", "potion", "gem", "dragon", "castle", "treasure"} <= (
        set(names) | {alias for subject in subjects for alias in subject.aliases}
    )


def test_strangers_are_the_other_things_under_names_of_their_own() -> None:
    emoji: list[dict[str, Any]] = [
        {"label": "dragon", "hexcode": "1F409", "group": 3},
        {"label": "Ship", "hexcode": "1F6A2", "group": 5},
        {"label": "flag: Peru", "hexcode": "1F1F5-1F1EA", "group": 9},
        {"label": "regional indicator A", "hexcode": "1F1E6"},
    ]
    assert read_strangers(emoji, [DRAGON]) == [Subject("ship 1f6a2", "1f6a2")]
