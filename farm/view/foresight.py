"""What is wrong with the sheets of a job, told before the run that ends with them.

A sheet that cannot be made is told of in the morning. Almost everything that can be wrong is known
in the evening: the columns of the catalog are those of its schema and the job's variables, values
are those of its cells. So sheets are asked here what `sheet` will ask them, about a catalog that
holds a few cells of the job, none of them rendered yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

import pyarrow as pa

from farm import grid
from farm.errors import FarmError, InputError, suggest
from farm.grid import TaskSpace
from farm.manifest import Job, SheetProblem, SheetSettings
from farm.manifest.job import VAR_PREFIX
from farm.store import Store
from farm.store.row import ASKED
from farm.task import Scalar, task_digest
from farm.view import paint
from farm.view.missing import cell_rows
from farm.view.query import ask, empty_table, read_catalog
from farm.view.sheet import AXES, MOST_FILES, MOST_VALUES, Sorting, as_shown, file_of
from farm.view.table import Table, display, show

_SAMPLED = 100
"""Cells that a condition is tried on: some texts are numbers, and only some can be compared."""


def check_sheets(
    sheets: Sequence[SheetSettings], *, variables: frozenset[str], job: Job | None
) -> Iterator[SheetProblem]:
    """Yield everything that is wrong with the sheets of a job; see `farm.manifest.reader`."""
    space = None
    if job is not None:
        with suppress(InputError):  # more cells than can be numbered: told when it is expanded
            space = grid.expand(job)
    table = _sample(variables, space)
    for number, settings in enumerate(sheets):
        check = _Check(number=number, settings=settings, table=table, job=job, space=space)
        yield from check.problems()
    if space is not None:
        yield from _same_files(sheets)


def _sample(variables: Collection[str], space: TaskSpace | None) -> Table:
    """Return the table of a catalog that lacks all cells of a job, with some of them."""
    empty = empty_table(sorted(variables))
    if space is None or not len(space):
        return Table.of_catalog(empty, where=None)
    numbers = range(0, len(space), max(1, len(space) // _SAMPLED))
    cells = cell_rows(space, {task_digest(space[number]): number for number in numbers}, job="")
    known = pa.concat_tables([empty, cells], promote_options="permissive")
    return Table.of_catalog(known.select(empty.column_names), where=None)


def _same_files(sheets: Sequence[SheetSettings]) -> Iterator[SheetProblem]:
    for (first, one), (second, other) in combinations(enumerate(sheets), 2):
        if (name := file_of(one)) == file_of(other):
            yield SheetProblem(
                sheet=second,
                key="file",
                message=f"sheet {first + 1} of this job is written to '{name}' too",
                hint="give one of them another name with file:",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """The check of one sheet."""

    number: int
    settings: SheetSettings
    table: Table
    """Some cells of the job, and every column of its catalog."""
    job: Job | None
    space: TaskSpace | None
    """None if the job's cells are not known."""

    def problems(self) -> Iterator[SheetProblem]:
        """Yield what is wrong, key by key."""
        yield from self._axes()
        yield from self._condition()
        yield from self._tried("sort", lambda text: Sorting.of(self.table, text))
        yield from self._difference()
        yield from self._tried("score", self._score)
        yield from self._tried(
            "file", lambda _: paint.image_format(paint.suffix_of(file_of(self.settings)))
        )

    def _problem(self, key: str, message: str, hint: str | None) -> SheetProblem:
        return SheetProblem(sheet=self.number, key=key, message=message, hint=hint)

    def _tried(self, key: str, attempt: Callable[[str], object]) -> Iterator[SheetProblem]:
        """Yield why what a key holds cannot be used, if it holds anything and cannot."""
        if (text := getattr(self.settings, key)) is None:
            return
        try:
            attempt(text)
        except InputError as error:
            yield self._problem(key, error.message, error.hint or self._columns())

    def _columns(self) -> str:
        """Return, as a hint, which columns there are."""
        bare = [display(name) for name in self.table.columns if name.startswith(VAR_PREFIX)]
        mine = f"this job's variables ({', '.join(bare)})" if bare else "this job's variables"
        return f"columns are task fields, {mine}, and what docs/reference/catalog.md lists"

    def _condition(self) -> Iterator[SheetProblem]:
        if self.settings.where is None:
            return
        try:
            ask(self.table.arrow, where=self.settings.where)
        except InputError as error:
            said = error.message.partition("\n")[0]  # what follows shows SQL that nobody wrote
            hint = error.hint or "it is a SQL expression, such as seed < 3 and sampler = 'ddim'"
            yield self._problem("where", f"in this condition: {said}", hint)

    def _score(self, text: str) -> None:
        if (column := self.table.resolve(text)) is not None:
            self.table.require_numbers(column)

    def _axes(self) -> Iterator[SheetProblem]:
        seen: dict[str, str] = {}
        for key in AXES:
            found = list(self._tried(key, self.table.resolve))
            yield from found
            column = None if found else self.table.resolve(getattr(self.settings, key))
            if column is None:
                continue
            if column in seen:
                yield self._problem(
                    key,
                    f"'{display(column)}' is {seen[column]} of this sheet already",
                    "every axis is another column",
                )
            seen.setdefault(column, key)
            if self.settings.where is None:
                yield from self._too_many(key, column)

    def _too_many(self, key: str, column: str) -> Iterator[SheetProblem]:
        count, name = len(self._levels(column)), display(column)
        if key != "page" and count > MOST_VALUES:
            yield self._problem(
                key,
                f"'{name}' has {count:,} values, and an axis has room for {MOST_VALUES:,}",
                f"page: {name} makes a sheet of each; where: chooses some",
            )
        file = file_of(self.settings)
        suffix = paint.suffix_of(file)
        with suppress(InputError):  # of an unknown suffix, which is told apart
            if key == "page" and count > MOST_FILES and not paint.holds_pages(suffix):
                yield self._problem(
                    key,
                    f"'{name}' has {count:,} values, which would be as many files",
                    f"file: {file.removesuffix(suffix)}.pdf holds all pages; where: chooses some",
                )

    def _levels(self, column: str) -> Sequence[Scalar]:
        """Return the values that the job gives a column; none if only the catalog knows them."""
        if self.space is None or not (column in ASKED or column.startswith(VAR_PREFIX)):
            return ()
        with suppress(KeyError):
            return self.space.levels(column)
        return ()

    def _difference(self) -> Iterator[SheetProblem]:
        name, equals, text = (self.settings.diff_against or "").partition("=")
        if not equals:
            return  # its form is told by the reader
        try:
            column = self.table.resolve(name.strip())
        except InputError as error:
            yield self._problem("diff_against", error.message, error.hint or self._columns())
            return
        assert column is not None
        wanted, levels = text.strip(), self._levels(column)
        if levels and as_shown(wanted, map(show, levels)) is None:
            known = self._known_elsewhere(column)
            if as_shown(wanted, map(show, known)) is None:
                labels = list(map(show, levels))
                yield self._problem(
                    "diff_against",
                    f"'{display(column)}' has no value '{wanted}' in this job or its output",
                    suggest(wanted, labels) or f"there are {', '.join(labels[:_LISTED])}",
                )
        elif len(levels) == 1 and not set(self._known_elsewhere(column)).difference(levels):
            yield self._problem(
                "diff_against",
                f"'{display(column)}' has one value in this job: there is nothing to compare",
                "name an axis that varies",
            )

    def _known_elsewhere(self, column: str) -> list[Scalar]:
        """Return the values of a column in the job's output, which may hold images of other jobs.

        An output that does not exist yet, or cannot be read, holds none.
        """
        assert self.job is not None, "values without a job"
        with suppress(FarmError):
            stored = read_catalog(Store.open(self.job.output), columns=[column]).table
            if column in stored.column_names:
                return list(stored[column].unique().to_pylist())
        return []


_LISTED = 12
