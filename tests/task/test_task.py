from __future__ import annotations

import json
import pickle
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.task import (
    ALIASES,
    FIELDS,
    FailureKind,
    TaskSpec,
    canonical_json,
    format_task_id,
    parse_task_id,
    pipeline_key,
    task_digest,
    task_id,
)

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
specs = st.builds(
    TaskSpec,
    prompt=text,
    negative_prompt=text,
    seed=st.integers(0, 2**63 - 1),
    guidance_scale=st.floats(0, 1000),
    num_inference_steps=st.integers(1, 1000),
    height=st.none() | st.integers(1, 64).map(lambda n: 8 * n),
    eta=st.none() | st.floats(0, 1),
)


def test_the_identity_of_a_known_task_never_changes() -> None:
    """A change here makes every catalog in the world a stranger: it needs a new identity tag."""
    task = TaskSpec(
        backend="diffusers", prompt="3d render of a sword", seed=3, guidance_scale=4.0,
        sampler="euler_a",
    )  # fmt: skip
    assert canonical_json(task).decode() == (
        '{"identity":"t1","model":"builtin:sprites","backend":"diffusers","dtype":"auto",'
        '"prompt":"3d render of a sword","negative_prompt":"","num_inference_steps":30,'
        '"guidance_scale":4.0,"sampler":"euler_a","sigma_schedule":"default","seed":3}'
    )
    assert task_id(task) == "t1:4f34307689297e633716c98f94373d40"


@given(specs)
def test_canonical_json_is_json_and_holds_every_field_that_is_set(task: TaskSpec) -> None:
    read = json.loads(canonical_json(task))
    assert read.pop("identity") == "t1"
    assert read == {name: v for name in FIELDS if (v := getattr(task, name)) is not None}


@given(specs, specs)
def test_two_tasks_share_an_id_only_if_every_identity_field_is_equal(
    one: TaskSpec, other: TaskSpec
) -> None:
    same = all(getattr(one, name) == getattr(other, name) for name in FIELDS)
    assert (task_id(one) == task_id(other)) == same


@given(specs)
def test_variables_do_not_change_the_id(task: TaskSpec) -> None:
    assert task_id(replace(task, vars=MappingProxyType({"style": "oil"}))) == task_id(task)


@given(specs)
def test_a_task_survives_pickling_and_its_id_reads_back(task: TaskSpec) -> None:
    named = replace(task, vars=MappingProxyType({"a": "b"}))
    assert pickle.loads(pickle.dumps(named)) == named
    assert parse_task_id(format_task_id(task_digest(task))) == task_digest(task)


@pytest.mark.parametrize("wrong", ["", "t1:", "t0:" + "0" * 32, "t1:" + "g" * 32, "0" * 32])
def test_a_text_that_is_no_id_of_this_version_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"task id|hexadecimal"):
        parse_task_id(wrong)


@pytest.mark.parametrize(
    ("field", "value", "typed"),
    [
        ("guidance_scale", 7, 7.0),
        ("guidance_scale", -0.0, 0.0),
        ("num_inference_steps", 20.0, 20),
        ("prompt", 1984, "1984"),
        ("height", None, None),
        ("seed", 2**63 - 1, 2**63 - 1),
    ],
)
def test_values_are_typed_before_they_are_hashed(field: str, value: object, typed: object) -> None:
    got = FIELDS[field].coerce(value)
    assert (got, type(got), str(got)) == (typed, type(typed), str(typed))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("guidance_scale", "high", "must be a number, not 'high'"),
        ("guidance_scale", True, "must be a number, not True"),
        ("guidance_scale", -1, "must be at least 0, not -1"),
        ("guidance_scale", float("nan"), "must be a finite number, not nan"),
        ("guidance_scale", float("inf"), "must be a finite number, not inf"),
        ("num_inference_steps", 0, "must be at least 1, not 0"),
        ("num_inference_steps", 2.5, "must be a whole number, not 2.5"),
        ("seed", 2**63, "must be at most"),
        ("height", 100, "must be a multiple of 8, not 100"),
        ("backend", "tensorflow", "must be one of"),
        ("prompt", None, "must be text, not None"),
        ("prompt", "a\x00b", "NUL"),
        ("prompt", "\ud800", "UTF-8"),
        ("seed", None, "must be a whole number"),
    ],
)
def test_values_out_of_range_are_refused_with_a_sentence(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FIELDS[field].coerce(value)


def test_every_field_is_documented_and_its_default_passes_its_own_check() -> None:
    for info in FIELDS.values():
        assert info.doc.endswith("."), info.name
        assert info.coerce(info.default) == info.default
    assert set(ALIASES.values()) <= set(FIELDS)
    assert not set(ALIASES) & set(FIELDS)


def test_a_field_that_is_not_applied_leaves_no_trace_in_the_identity() -> None:
    """So a field added later with default None keeps all old ids."""
    assert b"eta" not in canonical_json(TaskSpec())
    assert task_id(TaskSpec(eta=0.0)) != task_id(TaskSpec())


def test_the_pipeline_key_is_what_a_worker_must_have_loaded() -> None:
    task = TaskSpec(model="a/b", backend="pattern", dtype="float16", seed=5)
    assert pipeline_key(task) == ("pattern", "a/b", "float16")


def test_failure_kinds_are_the_words_of_the_catalog() -> None:
    kinds: list[Any] = [kind.value for kind in FailureKind]
    assert kinds == [
        "bad_task", "bad_output", "out_of_memory", "load_failed", "worker_died", "internal",
    ]  # fmt: skip
