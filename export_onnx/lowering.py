"""Rewrites of a standard graph into what ONNX Runtime computes best. Exact, and counted.

Two operators of the standard are slow there, and each has an equal that is fast:

- `Attention`, on the CPU, writes the whole matrix of scores: 1 GB for two rows of 4096 tokens and 8
  heads. ONNX Runtime's own `MultiHeadAttention` computes it in blocks (30 MB, half the time), and
  takes its inputs as the projections leave them, without the transpositions around `Attention`.
- `GroupNormalization` has no kernel: it is expanded into five passes over the data.
  `InstanceNormalization` over a reshaped input is one pass, and is also the form in which ONNX
  Runtime's optimiser for CUDA knows a group norm.

Attention with a mask (text encoders) stays as it is: it runs once for a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

ORT_DOMAIN = "com.microsoft"
_HEADS_OUTSIDE = (0, 2, 1, 3)
"""Permutation between `[batch, tokens, heads, width]` and `[batch, heads, tokens, width]`."""


def lower(model: ir.Model) -> Mapping[str, int]:
    """Rewrite a graph in place; return how many of each operator were written."""
    counts = {
        "MultiHeadAttention": _rewrite(model, "Attention", _lower_attention),
        "InstanceNormalization": _rewrite(model, "GroupNormalization", _lower_group_norm),
    }
    if counts["MultiHeadAttention"]:
        model.graph.opset_imports[ORT_DOMAIN] = 1
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return counts


_Rewrite = Callable[[ir.Model, ir.Node], bool]


def _rewrite(model: ir.Model, operator: str, rewrite: _Rewrite) -> int:
    nodes = [node for node in model.graph if node.op_type == operator and node.domain == ""]
    return sum(rewrite(model, node) for node in nodes)


class _Tape:
    """Nodes in the order in which they are written, put before another node at the end."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self._model = model
        self._node = node
        self._count = 0

    def constant(self, values: np.ndarray, name: str) -> ir.Value:
        """Return a constant of the graph, shared by all of its name."""
        if name not in self._model.graph.initializers:
            value = ir.Value(
                name=name,
                shape=ir.Shape(values.shape),
                type=ir.TensorType(ir.DataType.from_numpy(values.dtype)),
                const_value=ir.tensor(values, name=name),
            )
            self._model.graph.initializers[name] = value
        return self._model.graph.initializers[name]

    def add(
        self,
        operator: str,
        inputs: list[ir.Value],
        *,
        domain: str = "",
        like: ir.Value | None = None,
        **attributes: float | tuple[int, ...],
    ) -> ir.Value:
        """Write a node with one output; `like` is a value of the same type and shape."""
        self._count += 1
        output = ir.Value(
            name=f"{self._node.name}/{operator.lower()}_{self._count}",
            shape=like.shape if like else None,
            type=like.type if like else self._node.outputs[0].type,
        )
        node = ir.Node(
            domain,
            operator,
            inputs,
            ir.convenience.convert_attributes(attributes),
            outputs=[output],
            name=output.name,
        )
        self._model.graph.insert_before(self._node, node)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let everything that used one value use another, the graph's outputs too."""
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


# --- attention ----------------------------------------------------------------------------------


def _lower_attention(model: ir.Model, node: ir.Node) -> bool:
    values = [value for value in node.inputs if value is not None]
    query = values[0]
    flags = (node.attributes.get(name) for name in ("is_causal", "softcap", "q_num_heads"))
    if (
        len(values) != 3  # noqa: PLR2004 - query, key and value; a fourth is a mask
        or any(flag is not None and flag.value for flag in flags)
        or query.shape is None
        or not isinstance(query.shape[1], int)
    ):
        return False
    heads = query.shape[1]
    tape = _Tape(model, node)
    flat = [_merged(tape, value) for value in values]
    scale = node.attributes.get("scale")
    # 0 means what an absent scale means: 1 / sqrt(width of a head).
    factor = 0.0 if scale is None else scale.as_float()
    [output] = node.outputs
    merged = tape.add("MultiHeadAttention", flat, domain=ORT_DOMAIN, num_heads=heads, scale=factor)
    if (after := _merging_after(output)) is not None:
        tape.replace(after, merged)
    else:
        split = tape.constant(np.array([0, 0, heads, -1]), f"split_{heads}_heads")
        apart = tape.add("Reshape", [merged, split])
        tape.replace(output, tape.add("Transpose", [apart], like=output, perm=_HEADS_OUTSIDE))
    return True


def _merged(tape: _Tape, value: ir.Value) -> ir.Value:
    """Return `[batch, tokens, heads * width]` of a value `[batch, heads, tokens, width]`."""
    if (before := _split_before(value)) is not None:
        return before
    tokens_first = tape.add("Transpose", [value], perm=_HEADS_OUTSIDE)
    return tape.add("Reshape", [tokens_first, tape.constant(np.array([0, 0, -1]), "merge_heads")])


def _split_before(value: ir.Value) -> ir.Value | None:
    """Return what was split into heads, if `value` is just that."""
    turned = _made_by(value, "Transpose")
    if turned is None or tuple(turned.attributes["perm"].as_ints()) != _HEADS_OUTSIDE:
        return None
    split = _made_by(turned.inputs[0], "Reshape")
    if split is None or value.shape is None:
        return None
    whole = split.inputs[0]
    if whole is None or whole.shape is None or len(whole.shape) != 3:  # noqa: PLR2004 - no heads yet
        return None
    return whole if whole.shape[2] == value.shape[1] * value.shape[3] else None


def _merging_after(value: ir.Value) -> ir.Value | None:
    """Return the value in which heads are merged again, if that is all that happens to `value`."""
    turned = _used_by(value, "Transpose")
    if turned is None or tuple(turned.attributes["perm"].as_ints()) != _HEADS_OUTSIDE:
        return None
    merging = _used_by(turned.outputs[0], "Reshape")
    if merging is None or value.shape is None:
        return None
    [merged] = merging.outputs
    if merged.shape is None or len(merged.shape) != 3:  # noqa: PLR2004 - no heads any more
        return None
    return merged if merged.shape[2] == value.shape[1] * value.shape[3] else None


def _made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _used_by(value: ir.Value, operator: str) -> ir.Node | None:
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and users[0].op_type == operator else None


# --- group norms --------------------------------------------------------------------------------


def _lower_group_norm(model: ir.Model, node: ir.Node) -> bool:
    data, scale, bias = node.inputs
    assert data is not None, "a norm has an input"
    if scale is None or bias is None or scale.const_value is None or bias.const_value is None:
        return False
    groups = node.attributes["num_groups"].as_int()
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    rank = len(data.shape) if data.shape is not None else 4
    tape = _Tape(model, node)
    # The pattern that torch's own exporter writes below opset 21, which ONNX Runtime looks for.
    grouped = tape.add(
        "Reshape", [data, tape.constant(np.array([0, groups, -1]), f"into_{groups}_groups")]
    )
    ones = tape.constant(np.ones(groups, np.float32), f"ones_{groups}")
    zeros = tape.constant(np.zeros(groups, np.float32), f"zeros_{groups}")
    normal = tape.add("InstanceNormalization", [grouped, ones, zeros], epsilon=epsilon)
    shape = tape.add("Shape", [data])
    shape.type = ir.TensorType(ir.DataType.INT64)
    back = tape.add("Reshape", [normal, shape], like=data)
    weights = [_per_channel(tape, value, rank) for value in (scale, bias)]
    scaled = tape.add("Mul", [back, weights[0]], like=data)
    tape.replace(node.outputs[0], tape.add("Add", [scaled, weights[1]], like=data))
    return True


def _per_channel(tape: _Tape, value: ir.Value, rank: int) -> ir.Value:
    # Equal weights are one constant of the graph, also where norms work on different ranks.
    assert value.const_value is not None, "looked at before"
    array = value.const_value.numpy()
    return tape.constant(array.reshape(-1, *([1] * (rank - 2))), f"{value.name}/per_channel_{rank}")
