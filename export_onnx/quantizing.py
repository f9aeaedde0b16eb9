"""Weights as 8-bit integers, for the CPU: smaller, and faster where the processor has the means.

- `dynamic`: weights of matrix products, one scale a column; activations are measured at run time.
- `static`: convolutions too; the ranges of activations come from pictures that torch draws.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime.quantization as ort_quantization
import torch

from export_onnx.options import Quantize
from export_onnx.saving import load_graph, save_graph
from farm.render.lane.networks import Conditioning

_FLOAT = int(ir.DataType.FLOAT)

Feeds = Mapping[str, np.ndarray[Any, Any]]


class Recorder:
    """A runtime's denoiser that keeps some of what it is asked, to measure activations on."""

    def __init__(self, denoise: Any, *, most: int) -> None:  # noqa: ANN401 - a bound method
        self._denoise = denoise
        self._most = most
        self.feeds: list[Feeds] = []

    def __call__(
        self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Run the denoiser, and remember the question."""
        if len(self.feeds) < self._most:
            named = {"sample": sample, "timestep": timestep, **conditioning}
            self.feeds.append({name: value.clone().numpy() for name, value in named.items()})
        return self._denoise(sample, timestep, conditioning)  # type: ignore[no-any-return] # as it was


class _Reader(ort_quantization.CalibrationDataReader):  # type: ignore[misc] # untyped
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._rest: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        """Return the next inputs, None at the end."""
        return next(self._rest, None)


def quantize(file: Path, *, how: Quantize, feeds: Sequence[Feeds]) -> None:
    """Quantise a graph in place.

    Args:
        file: a float32 graph.
        how: see the module.
        feeds: inputs of the network to measure activations on; `dynamic` needs none.
    """
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the quantiser speaks to its developers, at the root
    try:
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
            if how == "dynamic":
                _quantize_dynamically(save_graph(_without_types(load_graph(file)), ready), done)
            else:
                model = load_graph(file)
                asked = {value.name for value in model.graph.inputs}
                known = [{name: feed[name] for name in feed.keys() & asked} for feed in feeds]
                _quantize_statically(save_graph(model, ready), done, known)
            save_graph(load_graph(done), file)
    finally:
        logging.root.setLevel(before)


def _without_types(model: ir.Model) -> ir.Model:
    """Forget what torch's exporter tells of values, shapes of weights too.

    A weight that quantising transposes would contradict what was told.
    """
    made = (value for node in model.graph for value in node.outputs if not value.is_graph_output())
    for value in (*model.graph.initializers.values(), *made):
        value.type = value.shape = None
    return model


def _quantize_dynamically(ready: Path, done: Path) -> None:
    ort_quantization.quantize_dynamic(
        str(ready),
        str(done),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=ort_quantization.QuantType.QInt8,
        use_external_data_format=True,
        # Of what lies behind an operator that is not the standard's: it infers no type there.
        extra_options={"DefaultTensorType": _FLOAT},
    )


def _quantize_statically(ready: Path, done: Path, feeds: Sequence[Feeds]) -> None:
    ort_quantization.quantize_static(
        str(ready),
        str(done),
        _Reader(feeds),
        op_types_to_quantize=["MatMul", "Conv"],
        per_channel=True,
        reduce_range=True,
        weight_type=ort_quantization.QuantType.QInt8,
        activation_type=ort_quantization.QuantType.QUInt8,
        use_external_data_format=True,
    )
