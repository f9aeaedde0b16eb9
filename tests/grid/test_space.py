"""A task space is the written-out matrix, without writing it out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InputError
from farm.grid import expand
from farm.manifest.job import Job
from farm.task import FIELDS, task_id
from tests.grid.matrices import axis, bundle, job, jobs, product, together, union, written_out

CELL_37 = job(
    product(
        axis("var_subject", "a", "b", "c"),
        union(axis("guidance_scale", 1.0, 7.0), axis("eta", 0.0, 0.5, 1.0)),
        axis("seed", 1, 2, 3, 4),
    )
)
"""The worked example of `farm.grid.tree`."""


@given(jobs())
def test_a_space_is_the_written_out_matrix(drawn: Job) -> None:
    space = expand(drawn)
    expected = written_out(drawn)
    assert len(space) == len(expected)
    assert list(space) == expected
    assert [space[index] for index in range(len(space))] == expected


@given(jobs(), st.slices(60))
def test_slices_and_negative_indices_are_those_of_a_list(drawn: Job, cut: slice) -> None:
    space = expand(drawn)
    tasks = list(space)
    part = space[cut]
    assert list(part) == tasks[cut]
    assert list(part[::-2]) == tasks[cut][::-2]
    assert [part[-1 - index] for index in range(len(part))] == tasks[cut][::-1]


@given(jobs(), st.slices(40), st.lists(st.integers(0, 10**9), max_size=9))
def test_selecting_places_takes_those_tasks_in_that_order(
    drawn: Job, cut: slice, numbers: list[int]
) -> None:
    part = expand(drawn)[cut]
    places = [number % len(part) for number in numbers] if len(part) else []
    chosen = part.select(np.array(places, dtype=np.uint32))
    assert list(chosen) == [part[place] for place in places]
    assert list(chosen[::-1]) == [part[place] for place in places][::-1]
    assert set(chosen.levels("seed")) == {task.seed for task in chosen}


def test_an_index_past_the_end_is_an_index_error() -> None:
    space = expand(CELL_37)
    with pytest.raises(IndexError):
        space[60]
    with pytest.raises(IndexError):
        space[-61]


def test_the_worked_example_of_the_tree_holds() -> None:
    space = expand(CELL_37)
    assert len(space) == 60
    task = space[37]
    assert (task.vars["subject"], task.guidance_scale, task.eta, task.seed) == ("b", 7.5, 1.0, 2)


def test_the_first_axis_varies_slowest_and_the_last_fastest() -> None:
    space = expand(job(product(axis("prompt", "x", "y"), axis("seed", 1, 2))))
    assert [(task.prompt, task.seed) for task in space] == [("x", 1), ("x", 2), ("y", 1), ("y", 2)]


def test_a_zip_walks_its_blocks_in_step() -> None:
    pairs = together(axis("prompt", "x", "y"), product(axis("eta", 0.5), axis("seed", 1, 2)))
    assert [(task.prompt, task.seed) for task in expand(job(pairs))] == [("x", 1), ("y", 2)]


def test_a_union_is_one_block_after_the_other_with_defaults_for_the_rest() -> None:
    space = expand(job(union(axis("seed", 5, 6), axis("prompt", "x"))))
    assert [(task.prompt, task.seed) for task in space] == [("", 5), ("", 6), ("x", 0)]


def test_a_job_without_axes_is_one_task() -> None:
    assert len(expand(job(product()))) == 1


def test_a_bundle_sets_several_fields_and_keeps_its_label() -> None:
    looks = bundle("var_look", soft={"guidance_scale": 3.0}, crisp={"sampler": "heun"})
    soft, crisp = expand(job(looks))
    assert (soft.guidance_scale, soft.sampler, soft.vars) == (3.0, "default", {"look": "soft"})
    assert (crisp.guidance_scale, crisp.sampler, crisp.vars) == (7.5, "heun", {"look": "crisp"})


def test_templates_read_variables_and_fields_and_other_templates() -> None:
    matrix = product(
        axis("prompt", "a ${thing}, number ${seed}"),
        axis("var_thing", "${colour} sword"),
        axis("var_colour", "red", "blue"),
        axis("seed", 7),
    )
    red, blue = expand(job(matrix))
    assert red.prompt == "a red sword, number 7"
    assert blue.prompt == "a blue sword, number 7"
    assert blue.vars == {"thing": "blue sword", "colour": "blue"}


def test_templates_may_call_a_field_by_its_short_name() -> None:
    [task] = expand(job(product(axis("prompt", "${cfg} in ${steps}"), axis("guidance_scale", 4.0))))
    assert task.prompt == "4 in 30"


def test_default_fields_may_be_templates() -> None:
    filled = job(axis("var_thing", "sword"))
    defaults = {**filled.defaults, "prompt": "one ${thing}"}
    [task] = expand(job(axis("var_thing", "sword"), defaults=defaults))
    assert task.prompt == "one sword"


def test_branches_of_a_union_may_have_different_variables() -> None:
    matrix = union(
        product(axis("var_a", "x"), axis("prompt", "${a}")),
        product(axis("var_b", "y"), axis("prompt", "${b}")),
    )
    space = expand(job(matrix))
    assert [task.vars for task in space] == [{"a": "x"}, {"b": "y"}]
    assert space.levels("var_a") == ("x", None)


def test_levels_of_a_name_that_no_task_has_are_a_key_error() -> None:
    with pytest.raises(KeyError, match="guidence_scale"):
        expand(CELL_37).levels("guidence_scale")
    with pytest.raises(KeyError, match="var_style"):
        expand(CELL_37).codes("var_style", 0, 1)


def test_axes_are_named_and_labelled_in_the_order_of_the_job() -> None:
    assert dict(expand(CELL_37).axes) == {
        "var_subject": ("a", "b", "c"),
        "guidance_scale": ("1.0", "7.0"),
        "eta": ("0.0", "0.5", "1.0"),
        "seed": ("1", "2", "3", "4"),
    }


def test_axes_of_one_name_in_several_branches_are_one_axis() -> None:
    matrix = union(axis("seed", 1, 2), axis("seed", 2, 3))
    assert dict(expand(job(matrix)).axes) == {"seed": ("1", "2", "3")}


@given(jobs(), st.slices(60))
def test_levels_and_codes_are_the_values_of_the_tasks(drawn: Job, cut: slice) -> None:
    whole = expand(drawn)
    for space in (whole, whole[cut]):
        tasks = list(space)
        for name in FIELDS:
            levels = space.levels(name)
            values = [getattr(task, name) for task in tasks]
            codes = space.codes(name, 0, len(space))
            assert [levels[code] for code in codes] == values
            assert len(set(levels)) == len(levels)
            assert set(levels) == set(values)
        for name in {name for task in whole for name in task.vars}:
            levels = space.levels(f"var_{name}")
            codes = space.codes(f"var_{name}", 0, len(space))
            assert [levels[code] for code in codes] == [task.vars.get(name) for task in tasks]


@given(jobs(), st.integers(0, 60), st.integers(0, 60))
def test_codes_of_a_piece_are_a_piece_of_the_codes(drawn: Job, start: int, stop: int) -> None:
    space = expand(drawn)
    whole = space.codes("prompt", 0, len(space))
    assert space.codes("prompt", start, stop).tolist() == whole[start:stop].tolist()


def test_a_column_calls_its_function_once_per_combination_of_what_it_reads() -> None:
    asked: list[str] = []

    def note(values: object) -> str:
        asked.append(repr(values))
        return asked[-1]

    matrix = product(
        axis("var_a", "x", "y"),
        axis("prompt", "${a}"),
        axis("eta", 0.0, 1.0),
        axis("seed", *range(9)),
    )
    column = expand(job(matrix)).column(("prompt", "eta"), note)
    assert len(asked) == len(column.levels) == 4
    assert column.codes(0, 36).tolist() == [0] * 9 + [1] * 9 + [2] * 9 + [3] * 9


@given(st.permutations([axis("prompt", "x", "y"), axis("seed", 1, 2, 3), axis("eta", 0.0, 1.0)]))
def test_reordering_axes_keeps_the_ids(blocks: list[object]) -> None:
    straight = product(axis("prompt", "x", "y"), axis("seed", 1, 2, 3), axis("eta", 0.0, 1.0))
    shuffled = product(*blocks)  # type: ignore[arg-type]  # permutations() loses the type
    assert {task_id(task) for task in expand(job(shuffled))} == {
        task_id(task) for task in expand(job(straight))
    }


@given(jobs())
def test_widening_an_axis_keeps_the_old_ids(drawn: Job) -> None:
    wider = job(union(drawn.matrix, product(axis("var_a", "x"), axis("var_b", "y"))))
    before = [task_id(task) for task in expand(drawn)]
    assert [task_id(task) for task in expand(wider)][: len(before)] == before


def test_a_matrix_too_large_to_number_is_refused_and_a_large_one_is_not() -> None:
    ten = [axis("seed", *range(10)) for _ in range(20)]
    space = expand(job(product(*ten[:18])))
    assert len(space) == 10**18
    assert space[123].seed == 3
    with pytest.raises(InputError, match="100,000,000,000,000,000,000 cells"):
        expand(job(product(*ten)))
