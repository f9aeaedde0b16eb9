"""ONNX Runtime's own fusions for CUDA, and float16, applied to a graph on disk.

The optimiser matches patterns of nodes. A pattern that no longer matches is no error to it, only a
slower graph; so every fusion is counted, and compared with what the torch module holds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from onnxruntime.transformers.optimizer import optimize_model

from export_onnx.components import VAE_ENCODER, Component
from export_onnx.saving import save_graph
from export_onnx.tracing import first_line
from farm.errors import ModelError
from farm.render.onnx_bundle import UNET, VAE_DECODER

_KINDS = {UNET: "unet", VAE_DECODER: "vae", VAE_ENCODER: "vae"}
"""ONNX Runtime's name of each component's architecture. Text encoders run once for a text."""
_SCALES = 2
"""Which input of `Resize` its scales are."""


def fuse_for_cuda(component: Component, file: Path, *, half: bool) -> Mapping[str, int]:
    """Fuse a lowered graph in place; return how many of each fused operator it has.

    Args:
        component: whose graph it is.
        file: the graph.
        half: compute in float16. Inputs and outputs stay float32.

    Raises:
        ModelError: a group norm or an attention was not fused, or ONNX Runtime's optimiser gave up.
    """
    if component.name not in _KINDS:
        return {}
    try:
        model = _optimised(file, kind=_KINDS[component.name], half=half)
        graph = ir.from_proto(model.model)
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot write {component.name} for CUDA"
            f"{' in float16' if half else ''}: {first_line(error)}",
            hint="use --dtype float32 --optimize cpu, or another version of ONNX Runtime",
        ) from error
    counts = {name: int(count) for name, count in model.get_fused_operator_statistics().items()}
    counts["MultiHeadAttention"] = sum(node.op_type == "MultiHeadAttention" for node in graph.graph)
    _require_all_fused(component, counts)
    save_graph(graph, file)
    return counts


def _optimised(file: Path, *, kind: str, half: bool) -> OnnxModel:
    options = FusionOptions(kind)
    # Attention is one operator already (`export_onnx.lowering`), with its projections outside.
    options.enable_packed_kv = options.enable_packed_qkv = False
    for name in ("onnxruntime.transformers", "fusion_base", "onnx_model"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model = optimize_model(
        str(file),
        model_type=kind,
        num_heads=0,
        hidden_size=0,
        opt_level=0,
        optimization_options=options,
        use_gpu=True,
    )
    if half:
        _part_scales(model.model.graph)
        model.convert_float_to_float16(keep_io_types=True)
    return model


def _part_scales(graph: onnx.GraphProto) -> None:
    """Give every `Resize` scales of its own.

    Scales stay float32. ONNX Runtime's converter writes a cast to it before each `Resize` and names
    it after the scales, so two nodes that share them would both define one name. What it was told
    no type of, as of a copy, it leaves as it is.
    """
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) <= _SCALES:
            continue
        if (scales := constants.get(node.input[_SCALES])) is not None:
            own = graph.initializer.add()
            own.CopyFrom(scales)
            own.name = node.input[_SCALES] = f"{node.output[0]}/scales"


def _require_all_fused(component: Component, counts: Mapping[str, int]) -> None:
    norms = counts.get("GroupNorm", 0) + counts.get("SkipGroupNorm", 0)
    expected = component.group_norms - _norms_inside_attention(component.module)
    if norms != expected or counts["MultiHeadAttention"] != component.attentions:
        raise ModelError(
            f"ONNX Runtime fused {norms} of {expected} group norms and "
            f"{counts['MultiHeadAttention']} of {component.attentions} attentions of "
            f"{component.name}",
            note="its optimiser looks for patterns, and this model's graph has others",
            hint="use --optimize cpu, or --optimize any",
        )


def _norms_inside_attention(module: torch.nn.Module) -> int:
    """Return how many group norms work on tokens instead of pictures, which nothing fuses."""
    return sum(getattr(part, "group_norm", None) is not None for part in module.modules())
