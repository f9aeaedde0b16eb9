"""From a torch module to an ONNX graph, with batch and, if wanted, height and width left open.

The graph is the one that the standard has: attention is one `Attention` operator, a group norm one
`GroupNormalization` (both of opset 23), so whatever reads it can do what it does best. What suits
ONNX Runtime better is written by `export_onnx.lowering`.

torch's exporter follows the graph that `torch.export` captures. A network that it cannot capture is
traced by the older exporter, which is slower and has no such operators; that is recorded, with the
reason.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from export_onnx.components import BATCH, HEIGHT, WIDTH, Axis, Component
from farm.errors import ModelError

_log = logging.getLogger(__name__)

NEWEST_TORCHSCRIPT_OPSET = 20
"""The newest opset that torch's older exporter writes."""
_LARGEST = {BATCH: 63, HEIGHT: 4096, WIDTH: 4096}
"""Bounds that torch needs to be told; the graph does not keep them.

diffusers' `Upsample2D` copies its input from a batch of 64 on. The copy changes nothing, but with a
bound above it `torch.export` finds that out late and begins again, which doubles the time.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A graph, and how it came about."""

    model: ir.Model
    exporter: str
    """`dynamo` or `torchscript`."""
    reason: str | None = None
    """Why it was not the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Height and width of the latents to trace with, and whether the graph is for these alone."""

    height: int
    width: int
    is_fixed: bool


def trace(component: Component, *, opset: int, extent: Extent) -> Traced:
    """Return the graph of a component.

    Raises:
        ModelError: neither exporter can write it.
    """
    with _quiet(), _without_collector():
        try:
            return Traced(model=_dynamo(component, opset, extent), exporter="dynamo")
        except Exception as error:  # noqa: BLE001 - the exporter raises whatever its passes raise
            reason = first_line(error)
        _log.warning("falling back to the older exporter", extra={"component": component.name})
        try:
            model = _torchscript(component, min(opset, NEWEST_TORCHSCRIPT_OPSET), extent)
        except Exception as error:
            raise ModelError(
                f"torch {torch.__version__} cannot export this model's {component.name}: {reason}",
                note=f"nor can its older exporter: {first_line(error)}",
                hint="use backend torch for this model, or export with another version of torch",
            ) from error
    return Traced(model=model, exporter="torchscript", reason=reason)


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' advice to their developers out of the output."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python's garbage collector still: capturing makes millions of objects that all stay.

    It takes a tenth of the time; a network's objects are some hundred megabytes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            gc.collect()


def _example(component: Component, extent: Extent) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return component.example(batch=2, height=extent.height, width=extent.width, generator=generator)


# --- the current exporter -----------------------------------------------------------------------


def _dynamo(component: Component, opset: int, extent: Extent) -> ir.Model:
    program = torch.onnx.export(
        component.module.eval(),
        _example(component, extent),
        dynamo=True,
        opset_version=opset,
        input_names=[one.name for one in component.inputs],
        output_names=[one.name for one in component.outputs],
        dynamic_shapes=_dynamic_shapes(component, extent),
        verbose=False,
    )
    assert program is not None, "the exporter returns a program"
    model: ir.Model = program.model
    _name_axes(model, component, extent)
    return model


def _dynamic_shapes(component: Component, extent: Extent) -> tuple[Any, ...]:
    dims = _dims(component, extent)
    shapes: list[Any] = [
        {place: dims(axis) for place, axis in enumerate(one.axes) if dims(axis) is not None}
        for one in component.inputs
    ]
    named = _fixed_arguments(component)
    # What a module takes as `*added` is one argument to the exporter: a tuple.
    return (*shapes[:named], tuple(shapes[named:])) if len(shapes) > named else tuple(shapes)


def _fixed_arguments(component: Component) -> int:
    code = component.module.forward.__code__
    return code.co_argcount - 1


def _dims(component: Component, extent: Extent) -> Callable[[Axis], Any]:
    """Return what turns an axis into torch's dimension, or None where it is fixed."""
    unit = component.side_unit
    made: dict[str, Any] = {BATCH: torch.export.Dim(BATCH, min=1, max=_LARGEST[BATCH])}
    if not extent.is_fixed:
        for name in (HEIGHT, WIDTH):
            steps = torch.export.Dim(f"{name}_steps", min=1, max=_LARGEST[name] // unit)
            made[name] = unit * steps if unit > 1 else steps

    def dim(axis: Axis) -> Any:  # noqa: ANN401 - torch's dimensions have no public type
        if isinstance(axis, int):
            return None
        factor, _, name = axis.rpartition("*")
        if name not in made:
            return None
        return int(factor) * made[name] if factor else made[name]

    return dim


def _name_axes(model: ir.Model, component: Component, extent: Extent) -> None:
    """Give the graph's inputs and outputs the axes of the component, by name."""
    known = {HEIGHT: extent.height, WIDTH: extent.width} if extent.is_fixed else {}
    tensors = (*component.inputs, *component.outputs)
    for value, tensor in zip((*model.graph.inputs, *model.graph.outputs), tensors, strict=True):
        value.name = tensor.name
        value.shape = ir.Shape([_named(axis, known) for axis in tensor.axes])


def _named(axis: Axis, known: Mapping[str, int]) -> Axis:
    if isinstance(axis, int):
        return axis
    factor, _, name = axis.rpartition("*")
    return int(factor or 1) * known[name] if name in known else axis


# --- the older exporter -------------------------------------------------------------------------


def _torchscript(component: Component, opset: int, extent: Extent) -> ir.Model:
    varying = {BATCH} if extent.is_fixed else {BATCH, HEIGHT, WIDTH}
    tensors = (*component.inputs, *component.outputs)
    axes = {
        one.name: {
            place: axis.replace("*", "_")
            for place, axis in enumerate(one.axes)
            if isinstance(axis, str) and axis.rpartition("*")[2] in varying
        }
        for one in tensors
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            component.module.eval(),
            _example(component, extent),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[one.name for one in component.inputs],
            output_names=[one.name for one in component.outputs],
            dynamic_axes=axes,
        )
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    # An input that the network never looks at is left out.
    kept = {value.name for value in model.graph.inputs}
    inputs = tuple(one for one in component.inputs if one.name in kept)
    _name_axes(model, replace(component, inputs=inputs), extent)
    return model
