"""Backend `onnx`: the lane of backend `torch`, with ONNX Runtime running the networks.

Same tables, same noise, same guidance, same sharing: what differs is who multiplies the matrices.
"""

from __future__ import annotations

import os

import torch

from farm.render.exporting import bundle_of
from farm.render.lane.families import join
from farm.render.lane.onnx_runtime import (
    CUDA_GRAPH_VARIABLE,
    OnnxRuntime,
    build_of,
    choose_provider,
    describe_bundle,
)
from farm.render.lane.renderer import LaneRenderer
from farm.render.lane.sizes import experience_with
from farm.render.loading import quieten
from farm.render.protocol import Renderer
from farm.render.providers import choose_dtype, named_provider
from farm.task import PipelineKey


def open_onnx_renderer(key: PipelineKey, *, device: str, threads: int | None) -> Renderer:
    """Open a model's ONNX bundle; entry point of backend `onnx`. See `open_renderer`.

    A model that is no bundle is exported on first use; see `farm.render.exporting`.
    """
    quieten()
    provider = choose_provider(device, wanted=named_provider())
    if threads is not None:
        torch.set_num_threads(threads)
    dtype = choose_dtype(key.dtype, provider.choice)
    bundle = bundle_of(key.model, dtype=dtype, threads=threads)
    runtime = OnnxRuntime(
        bundle,
        provider=provider,
        threads=threads,
        cuda_graph=os.environ.get(CUDA_GRAPH_VARIABLE) == "1",
    )
    remark = f"backend onnx renders on {provider}" if provider.choice.instead_of else None
    build = (build_of(bundle), str(provider), threads)
    return LaneRenderer(
        join(describe_bundle(bundle), runtime), remark=remark, experience=experience_with(build)
    )
