from __future__ import annotations

import pytest

from farm.samplers import (
    SAMPLERS,
    SIGMA_SCHEDULES,
    TABLE_BACKENDS,
    parse_sampler,
    parse_schedule,
    refuse,
)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("euler_a", ("euler_a", None)),
        ("Euler a", ("euler_a", None)),
        ("euler_ancestral", ("euler_a", None)),
        ("DPM++ 2M", ("dpmpp_2m", None)),
        ("dpm++_2m", ("dpmpp_2m", None)),
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("DPM++ 2M SDE Exponential", ("dpmpp_2m_sde", "exponential")),
        ("DPM2 a Karras", ("dpm2_a", "karras")),
        ("PLMS", ("pndm", None)),
        ("default", ("default", None)),
    ],
)
def test_samplers_answer_to_the_names_people_know(
    text: str, meaning: tuple[str, str | None]
) -> None:
    assert parse_sampler(text) == meaning


def test_every_name_label_and_alias_means_its_own_sampler() -> None:
    for entry in SAMPLERS.values():
        for spelling in (entry.name, entry.label, *entry.aliases, entry.label.upper()):
            assert parse_sampler(spelling) == (entry.name, None)
    for schedule in SIGMA_SCHEDULES.values():
        for spelling in (schedule.name, schedule.label, *schedule.aliases):
            assert parse_schedule(spelling) == schedule.name


@pytest.mark.parametrize("text", ["dpm++2mm", "eulr", ""])
def test_an_unknown_sampler_says_where_to_look(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown sampler .*(did you mean|farm samplers)"):
        parse_sampler(text)


def test_a_misspelt_schedule_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'karras'"):
        parse_schedule("karas")


@pytest.mark.parametrize(
    ("sampler", "schedule", "reason"),
    [
        ("dpmpp_2s_a", "default", "no ancestral DPM"),
        ("dpm_adaptive", "default", "depends on the picture"),
        ("euler_a", "karras", "no such option"),
    ],
)
def test_what_diffusers_lacks_is_refused_instead_of_substituted(
    sampler: str, schedule: str, reason: str
) -> None:
    import re

    said = refuse(backend="diffusers", sampler=sampler, sigma_schedule=schedule)
    assert said is not None
    assert re.search(reason, said)


@pytest.mark.parametrize("backend", TABLE_BACKENDS)
def test_tables_can_do_what_diffusers_can_and_more(backend: str) -> None:
    for entry in SAMPLERS.values():
        assert set(entry.schedules_on("diffusers")) <= set(entry.schedules_on(backend))
        assert entry.takes_eta_on(backend) >= entry.takes_eta
    assert "karras" not in SAMPLERS["euler_a"].schedules_on("diffusers")
    assert refuse(backend=backend, sampler="euler_a", sigma_schedule="karras") is None
    assert refuse(backend=backend, sampler="dpmpp_2s_a", sigma_schedule="karras") is None
    said = refuse(backend=backend, sampler="dpm_fast", sigma_schedule="default")
    assert said is not None
    assert said.startswith(f"backend {backend} cannot do sampler 'dpm_fast'")


def test_every_sampler_either_names_its_scheduler_or_says_why_not() -> None:
    for entry in SAMPLERS.values():
        assert entry.doc.endswith(".")
        if entry.name != "default":
            assert entry.scheduler or entry.refusal, entry.name
        assert set(entry.schedules) | set(entry.handwritten) <= set(SIGMA_SCHEDULES)
        assert entry.automatic in SIGMA_SCHEDULES


def test_second_order_samplers_evaluate_the_network_twice_but_for_the_last_step() -> None:
    assert SAMPLERS["heun"].count_evaluations(20) == 39
    assert SAMPLERS["dpmpp_2m"].count_evaluations(20) == 20
