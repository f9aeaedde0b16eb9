from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InputError, OutputError
from farm.store import Store
from farm.task import TaskSpec
from farm.view.query import (
    VIEWS,
    ask,
    catalog,
    list_views,
    query,
    render_table,
    save_view,
    widen,
)
from farm.view.words import shorten

MakeTask = Callable[..., TaskSpec]
MakeOutput = Callable[..., str]

MAPS = pa.map_(pa.string(), pa.string())


@pytest.fixture
def output(task: MakeTask, make_output: MakeOutput) -> str:
    tasks = [
        task(
            prompt=f"a {subject}",
            guidance_scale=cfg,
            sampler=sampler,
            variables={"subject": subject},
        )
        for subject in ("sword", "shield")
        for cfg in (1.0, 7.5)
        for sampler in ("euler", "ddim")
    ]
    broken = task(prompt="an impossible thing", seed=9)
    return make_output(tasks, failed={broken: "the picture is black"})


# --- the catalog --------------------------------------------------------------------------------


def test_the_catalog_has_a_row_for_every_finished_task(output: str) -> None:
    frame = catalog(output).to_pandas()
    assert len(frame) == len(catalog(output)) == 9
    assert frame["status"].value_counts().to_dict() == {"rendered": 8, "failed": 1}


def test_template_variables_are_columns(output: str) -> None:
    frame = catalog(output).to_pandas()
    assert "vars" not in frame.columns
    rendered = frame[frame["status"] == "rendered"]
    assert (rendered["prompt"] == "a " + rendered["var_subject"]).all()
    assert frame.loc[frame["status"] == "failed", "var_subject"].isna().all()


def test_image_files_are_where_the_catalog_says(output: str) -> None:
    frame = catalog(output).to_pandas()
    rendered = frame[frame["status"] == "rendered"]
    for path, file in zip(rendered["image_path"], rendered["image_file"], strict=True):
        assert Path(file).is_file()
        assert Path(file).is_absolute()
        assert Path(file) == Path(output) / path
    assert frame.loc[frame["status"] == "failed", "image_file"].isna().all()


def test_column_order_is_that_of_the_store_with_variables_last(output: str) -> None:
    names = catalog(output).to_arrow().column_names
    stored = [name for name in Store.open(output).table().column_names if name != "vars"]
    assert [name for name in names if name in stored] == stored
    assert names[-1] == "var_subject"
    assert names[names.index("image_path") + 1] == "image_file"


def test_an_output_without_rows_has_an_empty_catalog(make_output: MakeOutput) -> None:
    read = catalog(make_output([]))
    assert len(read) == 0
    assert "prompt" in read.to_arrow().column_names


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        catalog(str(tmp_path / "nothing"))


def test_a_catalog_file_that_is_no_use_is_named_in_the_log(
    output: str, caplog: pytest.LogCaptureFixture
) -> None:
    (Path(output) / "catalog" / "torn.parquet").write_bytes(b"PAR1 torn")
    assert len(catalog(output)) == 9
    assert "torn.parquet" in caplog.text


variables = st.dictionaries(st.sampled_from("abc"), st.text(max_size=3), max_size=3)


@given(st.lists(st.none() | variables, max_size=12), st.integers(0, 5), st.integers(0, 5))
def test_widening_keeps_every_variable_of_every_row(
    rows: list[dict[str, str] | None], start: int, stop: int
) -> None:
    """Also in a slice, whose map has offsets into somebody else's keys."""
    maps = pa.array([None if row is None else list(row.items()) for row in rows], MAPS)
    table = pa.table({"n": pa.array(range(len(rows)), pa.int32()), "vars": maps})
    table = table.slice(start, stop)
    wide = widen(table).to_pylist()
    for row, number in zip(wide, table["n"].to_pylist(), strict=True):
        kept = {name[4:]: text for name, text in row.items() if name != "n" and text is not None}
        assert kept == (rows[number] or {})


def test_widening_works_across_chunks() -> None:
    parts = [
        pa.table({"vars": pa.array([[("a", "1")]], MAPS)}),
        pa.table({"vars": pa.array([[("b", "2")], None], MAPS)}),
    ]
    wide = widen(pa.concat_tables(parts))
    assert wide.to_pydict() == {"var_a": ["1", None, None], "var_b": [None, "2", None]}


# --- asking -------------------------------------------------------------------------------------


def test_sql_sees_the_catalog(output: str) -> None:
    answer = query(
        output,
        "select sampler, count(*) as n from catalog where image_path is not null "
        "group by 1 order by 1",
    )
    assert answer.to_pydict() == {"sampler": ["ddim", "euler"], "n": [4, 4]}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("guidance_scale > 6 and sampler = 'ddim' and status = 'rendered'", 2),
        ("sampler == 'ddim' and status == 'rendered'", 4),
        ("var_subject in ('sword')", 4),
        ("seed = 9 -- with a comment", 1),
        ("  ", 9),
    ],
)
def test_where_leaves_out_rows(output: str, where: str, expected: int) -> None:
    assert query(output, where=where).num_rows == expected


def test_where_comes_before_the_sql(output: str) -> None:
    answer = query(output, "select count(*) as n from catalog", where="var_subject = 'sword'")
    assert answer.to_pydict() == {"n": [4]}


def test_limit_cuts_the_answer(output: str) -> None:
    assert query(output, limit=3).num_rows == 3
    assert query(output, "select count(*) as n from catalog", limit=3).to_pydict() == {"n": [9]}


def test_columns_may_be_named_by_alias_and_by_bare_variable(output: str) -> None:
    answer = query(output, columns=["cfg", "subject", "prompt"], limit=1)
    assert answer.column_names == ["guidance_scale", "var_subject", "prompt"]


@pytest.mark.parametrize(
    "sql",
    [
        "with q as (select * from catalog) select count(*) from q",
        "from catalog",
        "describe catalog",
        "summarize catalog",
        "pivot catalog on sampler using count(*)",
        "explain select * from catalog",
    ],
)
def test_every_form_of_question_is_answered(output: str, sql: str) -> None:
    assert query(output, sql).num_rows > 0


@pytest.mark.parametrize(
    "sql",
    [
        "drop view catalog",
        "insert into catalog values (1)",
        "copy catalog to 'stolen.csv'",
        "attach 'other.db'",
        "set threads = 1",
        "create table t as select * from catalog",
        "install httpfs",
        "select 1; select 2",
        "",
        "-- nothing but a comment",
    ],
)
def test_what_is_no_single_question_is_refused(output: str, sql: str) -> None:
    with pytest.raises(InputError):
        query(output, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{file}')",
        "select * from '{file}'",
        "select * from read_text('{file}')",
        "select * from glob('/*')",
    ],
)
def test_a_query_sees_no_files(output: str, tmp_path: Path, sql: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(InputError):
        query(output, sql.format(file=secret))


def test_a_query_sees_no_variables_of_the_program(output: str) -> None:
    secret = pa.table({"key": ["value"]})
    with pytest.raises(InputError, match="secret"):
        query(output, "select * from secret")
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("select guidence_scale from catalog", "did you mean 'guidance_scale'?"),
        ("select cfg from catalog", "the catalog calls it 'guidance_scale'"),
        ("select subject from catalog", "'var_subject'"),
        ('select * from catalog where sampler = "ddim"', "text stands in single quotes: 'ddim'"),
        ("select c.guidence_scale from catalog c", "did you mean 'guidance_scale'?"),
    ],
)
def test_an_unknown_column_gets_a_hint_or_the_list(output: str, sql: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        query(output, sql)
    assert hint in str(caught.value)
    is_known = "single quotes" not in hint
    assert ("columns: task_id, job, status" in str(caught.value)) is not is_known
    assert ("describe catalog" in str(caught.value)) is is_known


def test_where_is_an_expression_and_nothing_else(output: str) -> None:
    with pytest.raises(InputError):
        query(output, where="1 = 1); drop view every_row; --")


@pytest.mark.parametrize(
    ("sql", "where", "expected"),
    [
        (
            "select sampler, avg(render_ms) from catalog group by all",
            None,
            ["sampler", "render_ms"],
        ),
        ("select sampler from catalog", "var_subject = 'sword'", ["sampler", "vars"]),
        ('select "var_subject" from catalog', None, ["vars"]),
        ("select image_file from catalog", None, ["image_path"]),
        ("with q as (select * from catalog) select max(seed) from q", None, ["seed"]),
        ("select * from catalog", None, None),
        ("select * exclude (seed) from catalog", None, None),
        ("select columns('var_.*|prompt') from catalog", None, None),
        ("describe catalog", None, None),
        ("summarize catalog", None, None),
        ("select c from catalog c", None, None),
        ("select a.seed from catalog a natural join catalog b", None, None),
    ],
)
def test_a_question_reads_only_the_columns_it_needs(
    output: str,
    monkeypatch: pytest.MonkeyPatch,
    sql: str,
    where: str | None,
    expected: list[str] | None,
) -> None:
    """And the answer is that of the whole catalog."""
    read: list[list[str] | None] = []
    table = Store.table

    def spy(store: Store, columns: list[str] | None = None) -> Any:
        read.append(columns)
        return table(store, columns)

    whole = ask(catalog(output).table, sql, where=where)
    monkeypatch.setattr(Store, "table", spy)
    answer = query(output, sql, where=where)
    assert sorted(map(str, answer.to_pylist())) == sorted(map(str, whole.to_pylist()))
    names = Store.open(output).table().column_names
    if expected is None:
        assert read[0] is None or len(read[0]) >= len(names) - 1
    else:
        assert read[0] is not None
        assert set(read[0]) == set(expected)


def test_columns_and_sql_together_are_refused(output: str) -> None:
    with pytest.raises(InputError, match="not both"):
        query(output, "select * from catalog", columns=["seed"])


# --- showing ------------------------------------------------------------------------------------


@pytest.fixture
def table() -> Any:
    return pa.table(
        {
            "prompt": ["a sword " * 20, "un château\nsous la pluie", "剣" * 60],
            "guidance_scale": [1.0, 7.5, float("nan")],
            "when": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("us", "UTC")),
            "vars": pa.array([[("a", "1")], None, []], MAPS),
            "empty": pa.array([None, None, None], pa.string()),
        }
    )


def test_json_is_an_array_of_objects_without_nan(table: Any) -> None:
    rows = json.loads(render_table(table, format_="json"))
    assert rows[0]["prompt"] == "a sword " * 20
    assert rows[0]["vars"] == {"a": "1"}
    assert rows[2]["guidance_scale"] is None
    assert datetime.fromisoformat(rows[0]["when"]) == datetime(2026, 1, 1, tzinfo=UTC)
    assert json.loads(render_table(table.slice(0, 0), format_="json")) == []


def test_csv_holds_everything(table: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(render_table(table, format_="csv").decode())))
    assert [row["prompt"] for row in rows] == table["prompt"].to_pylist()
    assert json.loads(rows[0]["vars"]) == {"a": "1"}


def test_parquet_reads_back_equal(table: Any) -> None:
    data = render_table(table, format_="parquet")
    read = pq.read_table(pa.BufferReader(data))
    assert repr(read.to_pydict()) == repr(table.to_pydict())  # NaN is not equal to itself
    assert len(pd.read_parquet(io.BytesIO(data))) == 3


def test_an_unknown_format_is_refused_with_a_suggestion(table: Any) -> None:
    with pytest.raises(InputError, match="did you mean 'parquet'"):
        render_table(table, format_="parqet")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_terminal_table_fits_the_terminal(table: Any, width: int) -> None:
    from rich.cells import cell_len

    for line in render_table(table, width=width).decode().splitlines():
        assert cell_len(line) <= width


def test_the_terminal_table_of_a_catalog_names_what_it_leaves_out(output: str) -> None:
    text = render_table(query(output), width=80).decode()
    shown = text.splitlines()[0].split()
    assert {"prompt", "seed", "guidance_scale"} <= set(shown)
    for name in catalog(output).to_arrow().column_names:
        assert re.search(rf"\b{name}\b", text), name
    assert "9 rows" in text


def test_the_terminal_table_says_how_many_rows_it_does_not_show() -> None:
    text = render_table(pa.table({"n": range(1000)})).decode()
    assert "1,000 rows, the first 40 shown" in text
    assert len(text.splitlines()) < 50


def test_columns_of_the_same_name_are_all_shown(output: str) -> None:
    text = render_table(query(output, "select 1 as a, 2 as a")).decode()
    assert text.split()[-4:-2] == ["1", "2"]


@given(st.text(alphabet="ab 剣\n", max_size=40), st.integers(1, 20))
def test_a_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    from rich.cells import cell_len

    short = shorten(text, width)
    assert cell_len(short) <= width
    assert "\n" not in short
    if "…" not in short:
        assert short.split() == text.split()


# --- views --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_can_be_asked(name: str, output: str) -> None:
    answer = query(output, name)
    assert answer.num_columns > 1
    assert query(output, f"select count(*) as n from {name}")["n"].to_pylist() == [len(answer)]


def test_a_view_is_asked_for_some_of_its_columns(output: str) -> None:
    table = query(output, "duplicates", columns=["duplicates", "image_path"])
    assert table.column_names == ["duplicates", "image_path"]
    with pytest.raises(InputError, match="sampler"):
        query(output, "workers", columns=["sampler"])


def test_a_word_that_names_no_view_gets_a_suggestion(output: str) -> None:
    with pytest.raises(InputError, match="no view 'duplicate'") as raised:
        query(output, "duplicate")
    assert raised.value.hint == "did you mean 'duplicates'?"


def test_views_of_an_output_without_rows_are_empty(make_output: MakeOutput) -> None:
    empty = make_output([])
    assert [query(empty, name).num_rows for name in VIEWS] == [0] * len(VIEWS)


def test_failures_are_counted_by_kind_and_message(task: MakeTask, make_output: MakeOutput) -> None:
    failed = {task(seed=seed): "too black" if seed < 3 else "too white" for seed in range(4)}
    [first, second] = query(make_output([], failed=failed), "failures").to_pylist()
    assert (first["error_message"], first["tasks"]) == ("too black", 3)
    assert (second["error_message"], second["tasks"]) == ("too white", 1)


def test_near_duplicates_are_grouped(task: MakeTask, make_output: MakeOutput) -> None:
    hashes = ["ffffffffffffffff", "ffffffffffffff0f", "0123456789abcdef", "fffffffffffffffe"]
    tasks = [task(seed=seed) for seed in range(4)]
    output = make_output(tasks, facts=lambda one: {"phash": hashes[one.seed]})
    answer = query(output, "select duplicate_group, duplicates, seed from duplicates order by seed")
    assert answer.to_pylist() == [
        {"duplicate_group": 1, "duplicates": 3, "seed": seed} for seed in (0, 1, 3)
    ]
    assert query(output, "duplicates", where="seed > 0").num_rows == 0
    assert query(output, "duplicates", columns=None, limit=2).num_rows == 2


def test_a_view_is_kept_and_may_use_another(output: str) -> None:
    save_view(output, "many", "select * from catalog where seed > 0")
    save_view(output, "fewer", "select sampler, count(*) as n from many group by 1")
    direct = query(output, "select sampler, count(*) as n from catalog where seed > 0 group by 1")
    assert query(output, "fewer").sort_by("sampler") == direct.sort_by("sampler")
    save_view(output, "chosen", None, where="sampler = 'ddim'")
    chosen = query(output, "chosen")
    assert 0 < chosen.num_rows == query(output, where="sampler = 'ddim'").num_rows
    listed = list_views(output)
    assert {*VIEWS, "many", "fewer", "chosen"} == set(listed["view"].to_pylist())


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("catalog", "select 1"),
        ("failures", "select 1"),
        ("two words", "select 1"),
        ("../up", "select 1"),
        ("fine", "select nonsense from catalog"),
        ("fine", "drop table catalog"),
        ("fine", "select * from fine"),
    ],
)
def test_what_is_no_view_is_not_kept(name: str, sql: str, output: str) -> None:
    with pytest.raises(InputError):
        save_view(output, name, sql)
    assert list_views(output).num_rows == len(VIEWS)


def test_a_view_of_a_column_that_is_gone_stands_in_no_other_questions_way(output: str) -> None:
    Store.open(output).control.write("views/broken.sql", "select gone from catalog")
    assert query(output, "select count(*) as n from catalog").num_rows == 1
    with pytest.raises(InputError, match="gone"):
        query(output, "broken")
