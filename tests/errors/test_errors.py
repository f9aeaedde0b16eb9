from __future__ import annotations

import pickle

import pytest

from farm.errors import (
    ExitCode,
    FarmError,
    InputError,
    ManifestError,
    MissingLibraryError,
    OutputError,
    Problem,
    StoreError,
    suggest,
)


def test_an_error_says_where_what_and_what_next() -> None:
    error = OutputError("is a file", where="out/x", note="farm writes a folder", hint="choose one")
    assert str(error) == "out/x: is a file\n  note: farm writes a folder\n  next: choose one"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InputError, ExitCode.BAD_INPUT),
        (OutputError, ExitCode.BAD_INPUT),
        (StoreError, ExitCode.CANNOT_RUN),
        (MissingLibraryError, ExitCode.CANNOT_RUN),
    ],
)
def test_each_class_has_its_exit_code(kind: type[FarmError], code: ExitCode) -> None:
    assert kind("x").exit_code is code


def test_errors_travel_between_processes() -> None:
    error = StoreError("disk full", where="out/x", hint="free some space")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (StoreError, str(error))
    problems = ManifestError([Problem(message="m", path="a.yaml", line=1, column=2, hint="h")])
    assert pickle.loads(pickle.dumps(problems)).problems == problems.problems
    assert str(problems) == "a.yaml:1:2: m (h)"


def test_a_suggestion_is_made_only_for_what_is_close() -> None:
    assert suggest("guidence_scale", ["guidance_scale", "seed"]) == "did you mean 'guidance_scale'?"
    assert suggest("zebra", ["guidance_scale", "seed"]) is None
