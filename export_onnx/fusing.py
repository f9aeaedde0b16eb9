"""ONNX Runtime's own fusions for CUDA, and float16, applied to a graph on disk.

The optimiser matches patterns of nodes. A pattern that no longer matches is no error to it, only a
slower graph; so every fusion is counted, and compared with what the torch module holds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import torch
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from export_onnx.components import VAE_ENCODER, Component
from farm.errors import ModelError
from farm.render.onnx_bundle import UNET, VAE_DECODER

_KINDS = {UNET: "unet", VAE_DECODER: "vae", VAE_ENCODER: "vae"}
"""ONNX Runtime's name of each component's architecture. Text encoders run once for a text."""


def fuse_for_cuda(component: Component, file: Path, *, half: bool) -> Mapping[str, int]:
    """Fuse a lowered graph in place; return how many of each fused operator it has.

    Args:
        component: whose graph it is.
        file: the graph.
        half: compute in float16. Inputs and outputs stay float32.

    Raises:
        ModelError: a group norm or an attention was not fused.
    """
    if component.name not in _KINDS:
        return {}
    kind = _KINDS[component.name]
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
        model.convert_float_to_float16(keep_io_types=True)
    counts = {name: int(count) for name, count in model.get_fused_operator_statistics().items()}
    counts["MultiHeadAttention"] = sum(
        node.op_type == "MultiHeadAttention" for node in model.model.graph.node
    )
    _require_all_fused(component, counts)
    ir.save(ir.from_proto(model.model), file)
    return counts


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
