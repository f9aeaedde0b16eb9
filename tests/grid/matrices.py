"""Jobs for the tests of grid and planner, written and drawn, and the obvious way to expand them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from farm.manifest.job import Axis, Block, Job, Point, Product, Sample, Union, Zip
from farm.manifest.template import parse
from farm.task import FIELDS, Scalar, TaskSpec

DEFAULTS: Point = {name: info.default for name, info in FIELDS.items()}


def axis(name: str, *values: Scalar) -> Axis:
    return Axis(
        name=name,
        points=tuple({name: value} for value in values),
        labels=tuple(str(value) for value in values),
    )


def bundle(name: str, **options: dict[str, Scalar]) -> Axis:
    points = tuple({name: label, **option} for label, option in options.items())
    return Axis(name=name, points=points, labels=tuple(options))


def product(*blocks: Block) -> Product:
    return Product(blocks=blocks)


def union(*blocks: Block) -> Union:
    return Union(blocks=blocks)


def together(*blocks: Block) -> Zip:
    return Zip(blocks=blocks)


def job(matrix: Block, **settings: Any) -> Job:
    return Job(
        **{"name": "test", "output": "out", "defaults": DEFAULTS, "matrix": matrix} | settings
    )


# --- the oracle: everything written out, nothing shared -----------------------------------------


def written_out(job: Job) -> list[TaskSpec]:
    """Return every task of an unfiltered job, by the definitions of its blocks."""
    return [_task(point, job.defaults) for point in _cells(job.matrix)]


def _cells(block: Block) -> Iterator[Point]:
    match block:
        case Axis(points=points):
            yield from points
        case Product(blocks=blocks):
            for combination in itertools.product(*map(_cells, blocks)):
                yield _merged(combination)
        case Zip(blocks=blocks):
            for combination in zip(*map(_cells, blocks), strict=True):
                yield _merged(combination)
        case Union(blocks=blocks):
            for child in blocks:
                yield from _cells(child)


def _merged(points: tuple[Point, ...]) -> Point:
    return {name: value for point in points for name, value in point.items()}


def _task(point: Point, defaults: Point) -> TaskSpec:
    raw = {**defaults, **point}

    def settled(name: str) -> Scalar:
        value = raw[name]
        if not isinstance(value, str):
            return value
        text = parse(value)
        words = {word: settled(word if word in FIELDS else f"var_{word}") for word in text.names}
        return text.fill(words)

    values: dict[str, Any] = {name: settled(name) for name in FIELDS}
    variables = {
        name.removeprefix("var_"): str(settled(name)) for name in raw if name.startswith("var_")
    }
    return TaskSpec(**values, vars=MappingProxyType(variables))


# --- drawn --------------------------------------------------------------------------------------

_VALUES: dict[str, st.SearchStrategy[Scalar]] = {
    "model": st.sampled_from(["builtin:sprites", "org/other", "org/${a}"]),
    "backend": st.sampled_from(["diffusers", "pattern"]),
    "height": st.sampled_from([None, 64, 128]),
    "width": st.sampled_from([None, 64]),
    "prompt": st.sampled_from(["", "plain", "${a}", "${b} of ${a}", "${a}${seed}", "\u00fcber"]),
    "negative_prompt": st.sampled_from(["", "not ${b}", "steps ${num_inference_steps}"]),
    "num_inference_steps": st.sampled_from([4, 20]),
    "guidance_scale": st.sampled_from([0.0, 1.0, 7.5]),
    "eta": st.sampled_from([None, 0.0, 0.5]),
    "sampler": st.sampled_from(["default", "euler", "heun"]),
    "seed": st.integers(0, 4),
    "var_a": st.sampled_from(["sword", "shield", "7"]),
    "var_b": st.sampled_from(["icon", "${a} icon"]),
    "var_c": st.sampled_from(["x", "y", "${b}!"]),
}  # fmt: skip


@st.composite
def _axes(draw: st.DrawFn, size: int | None = None) -> Axis:
    """Draw an axis of one to three points, or of `size`; some are bundles, values may repeat."""
    name = draw(st.sampled_from(sorted(_VALUES)))
    others = draw(st.lists(st.sampled_from(sorted(_VALUES)), max_size=2))
    size = size or draw(st.integers(1, 3))
    points = []
    for _ in range(size):
        named = (name, *(other for other in others if draw(st.booleans())))
        points.append({each: draw(_VALUES[each]) for each in named})
    return Axis(name=name, points=tuple(points), labels=tuple(str(p[name]) for p in points))


def _size(block: Block) -> int:
    return sum(1 for _ in _cells(block))


@st.composite
def _zips(draw: st.DrawFn, blocks: st.SearchStrategy[Block]) -> Block:
    first = draw(blocks.filter(lambda block: _size(block) <= 30))
    return together(first, draw(_axes(size=_size(first))))


def _grown(blocks: st.SearchStrategy[Block]) -> st.SearchStrategy[Block]:
    several = st.lists(blocks, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        several.map(lambda children: Product(blocks=children)),
        several.map(lambda children: Union(blocks=children)),
        _zips(blocks),
    )


_trees: st.SearchStrategy[Block] = st.recursive(_axes(), _grown, max_leaves=5).filter(
    lambda block: _size(block) <= 200
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Draw an unfiltered job of nested blocks, bundles and templates, and up to 800 cells.

    `a` and `b` are defined everywhere, because templates read them.
    """
    base = (
        axis("var_a", *draw(st.lists(_VALUES["var_a"], min_size=1, max_size=2))),
        axis("var_b", *draw(st.lists(_VALUES["var_b"], min_size=1, max_size=2))),
    )
    return job(product(*base, draw(_trees)))


samples = st.builds(Sample, n=st.integers(0, 30), seed=st.integers(0, 3))
