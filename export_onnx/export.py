"""The export from beginning to end: load, trace, suit to the target, prove, and only then be there.

Whatever goes wrong on the way, no folder appears that claims to be a bundle: see `saving`.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch

from export_onnx.adapting import adapt, adapted_sha256, adapters_of
from export_onnx.components import (
    VAE_ENCODER,
    Component,
    Tensor,
    components_of,
    gives_normalised_layers,
)
from export_onnx.fusing import fuse_for_cuda
from export_onnx.lowering import lower
from export_onnx.options import ExportOptions
from export_onnx.quantizing import Feeds, Recorder, quantize
from export_onnx.report import FOLDER, write_report
from export_onnx.saving import GRAPH, drafting, save_graph, write_index
from export_onnx.tracing import Extent, trace
from export_onnx.verify import (
    LEAST_PSNR,
    LEAST_PSNR_REDUCED,
    Parity,
    compare_components,
    compare_images,
    require,
    small_matrix,
)
from farm.errors import ModelError
from farm.render.lane.families import join
from farm.render.lane.networks import ModelDescription
from farm.render.lane.onnx_runtime import (
    OnnxRuntime,
    Provider,
    choose_provider,
    describe_bundle,
    expanding,
    require_opset,
)
from farm.render.lane.renderer import LaneRenderer
from farm.render.lane.torch_runtime import TorchRuntime, describe, why_unknown
from farm.render.loading import LoadedPipeline, load_pipeline
from farm.render.onnx_bundle import UNET, open_bundle
from farm.task import PipelineKey, TaskSpec

Tell = Callable[[str], None]
"""Takes a line about progress."""

_LIBRARIES = ("farm", "torch", "diffusers", "transformers", "onnx-ir", "onnxscript")
_STEPS = 8
_CALIBRATING = 24
"""Inputs of the UNet that 8-bit ranges are measured on."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export made."""

    folder: Path
    bytes: int
    seconds: float
    parity: Parity | None
    """None for a bundle that this machine cannot run, and so cannot prove."""
    exporters: Mapping[str, str]
    """What traced each component, and why if it was not the first choice."""
    operators: Mapping[str, Mapping[str, int]]
    """Operators of ONNX Runtime's own that each graph was given."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "folder": str(self.folder),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 2),
            "exporters": dict(self.exporters),
            "operators": {name: dict(counts) for name, counts in self.operators.items()},
            "parity": self.parity.to_json() if self.parity else None,
        }


def export(
    model: str,
    folder: Path,
    *,
    options: ExportOptions,
    threads: int | None = None,
    tell: Tell = lambda _line: None,
) -> ExportReport:
    """Export a model to an ONNX bundle that proves itself.

    Args:
        model: a reference, as in job files.
        folder: does not exist yet, or is empty.
        options: what kind of bundle.
        threads: CPU threads to use; None leaves the libraries' defaults.
        tell: takes a line about progress.

    Raises:
        ModelError: the model cannot be loaded or is of no family that the lane knows; it cannot be
            exported; or the graphs miss a tolerance.
        OutputError: the folder is taken, or cannot be written.
    """
    started = time.perf_counter()
    require_opset(options.opset)
    if threads is not None:
        torch.set_num_threads(threads)
    with drafting(folder) as draft:
        tell(f"loading {model}")
        loaded = load_pipeline(PipelineKey("diffusers", model, "float32"), device="cpu")
        if reason := why_unknown(loaded.pipe):
            raise ModelError(
                f"model '{model}' cannot be exported: {reason}",
                hint="backend diffusers renders it; Stable Diffusion 1, 2 and XL can be exported",
            )
        if options.loras or options.embeddings:
            tell("adding LoRAs and embeddings")
        expansions = adapt(loaded.pipe, loras=options.loras, embeddings=options.embeddings)
        draft_export = _Export(loaded, model, draft, options, threads, tell, expansions=expansions)
        draft_export.write_graphs()
        parity = draft_export.prove()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportReport(
        folder=folder,
        bytes=size,
        seconds=time.perf_counter() - started,
        parity=parity,
        exporters={name: one.exporter for name, one in draft_export.written.items()},
        operators={name: one.operators for name, one in draft_export.written.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What a graph turned out to be."""

    exporter: str
    """What traced it, and why if it was not the first choice."""
    opset: int
    inputs: tuple[Tensor, ...]
    """Those that the network looks at."""
    operators: Mapping[str, int]
    """Of ONNX Runtime's own."""


class _Export:
    """One export, whose parts share the loaded model."""

    def __init__(
        self,
        loaded: LoadedPipeline,
        model: str,
        draft: Path,
        options: ExportOptions,
        threads: int | None,
        tell: Tell,
        *,
        expansions: Mapping[str, str],
    ) -> None:
        self._loaded = loaded
        self._model = model
        self._draft = draft
        self._options = options
        self._threads = threads
        self._tell = tell
        self._expansions = expansions
        self._adapters = adapters_of(options.loras, options.embeddings)
        description = describe(loaded.pipe)
        self._description = replace(
            description, tokenizers=expanding(description.tokenizers, expansions)
        )
        self._components = tuple(
            component
            for component in components_of(loaded.pipe, self._description)
            if options.has_encoder or component.name != VAE_ENCODER
        )
        self._sizes = self._sizes_to_prove()
        self.written: dict[str, _Written] = {}

    @property
    def _unit(self) -> int:
        """Pixels that the sides of pictures must be multiples of."""
        return self._description.pixels_per_latent * max(
            component.side_unit for component in self._components
        )

    def _sizes_to_prove(self) -> tuple[tuple[int, int], ...]:
        """Return the sizes asked for; of a bundle for any size, the model's own and a narrower."""
        own = (self._description.own_height, self._description.own_width)
        for height, width in self._options.sizes:
            if height % self._unit or width % self._unit:
                raise ModelError(
                    f"--sizes {width}x{height}: this model's graphs draw sides that are multiples "
                    f"of {self._unit} pixels",
                    hint=f"use {_rounded(width, self._unit)}x{_rounded(height, self._unit)}",
                )
        if self._options.sizes:
            return self._options.sizes
        narrower = (own[0], max(self._unit, _rounded(own[1] * 3 // 4, self._unit)))
        return tuple(dict.fromkeys((own, narrower)))

    # --- graphs ---------------------------------------------------------------------------------

    def write_graphs(self) -> None:
        """Write every component, and what stands beside them."""
        for component in self._components:
            with self._telling(f"exporting {component.name}"):
                self._write_graph(component)
        if self._options.quantize != "none":
            with self._telling(f"quantising {UNET} ({self._options.quantize})"):
                feeds = self._record() if self._options.quantize == "static" else ()
                quantize(self._draft / UNET / GRAPH, how=self._options.quantize, feeds=feeds)
        pipe = self._loaded.pipe
        for name in self._tokenizers():
            getattr(pipe, name).save_pretrained(self._draft / name)
        pipe.scheduler.save_pretrained(self._draft / "scheduler")
        write_index(self._draft, self._index())

    def _write_graph(self, component: Component) -> None:
        traced = trace(component, opset=self._options.opset, extent=self._extent(component))
        if traced.reason:
            self._tell(f"{component.name}: torch's older exporter, because {traced.reason}")
        half = self._options.dtype == "float16" and component.name == UNET
        if half and traced.reason:
            raise ModelError(
                f"{component.name} cannot be written in float16: torch's older exporter had to "
                f"trace it, because {traced.reason}",
                hint="use dtype float32, or backend torch for this model",
            )
        counts: Mapping[str, int] = {}
        if self._options.target != "any" and not traced.reason:
            counts = lower(traced.model)
            _require_lowered(component, counts)
        graph = traced.model.graph
        names = {value.name for value in graph.inputs}
        opset = graph.opset_imports[""]
        file = save_graph(_named(traced.model, component), self._draft / component.name / GRAPH)
        if self._options.target == "cuda" and not traced.reason:
            counts = fuse_for_cuda(component, file, half=half) or counts
        self.written[component.name] = _Written(
            exporter=f"{traced.exporter}: {traced.reason}" if traced.reason else traced.exporter,
            opset=opset,
            inputs=tuple(one for one in component.inputs if one.name in names),
            operators=dict(counts),
        )

    def _extent(self, component: Component) -> Extent:
        latent = self._description.pixels_per_latent
        if len(self._options.sizes) == 1:
            [(height, width)] = self._options.sizes
            return Extent(height=height // latent, width=width // latent, is_fixed=True)
        # Small, for speed; different, so that height and width are not taken for one; and not of
        # size 1 at the bottom of the UNet, which would be taken for a constant.
        unit = component.side_unit
        return Extent(height=max(4, 2 * unit), width=max(6, 3 * unit), is_fixed=False)

    def _tokenizers(self) -> list[str]:
        names = ("tokenizer", "tokenizer_2")
        return [name for name in names if getattr(self._loaded.pipe, name, None) is not None]

    def _record(self) -> Sequence[Feeds]:
        """Return what the UNet is asked while pictures are drawn."""
        runtime = TorchRuntime(self._loaded)
        recorder = Recorder(runtime.denoise, most=_CALIBRATING)
        runtime.denoise = recorder  # type: ignore[method-assign] # one instance is listened to
        renderer = LaneRenderer(join(self._description, runtime))
        for _result in renderer.render(iter(self._matrix(self._sizes[:1]))):
            pass
        return recorder.feeds

    def _index(self, parity: Parity | None = None) -> dict[str, Any]:
        description = self._description
        options = self._options
        return {
            "made_at": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
            "made_by": {
                **{name: version(name) for name in _LIBRARIES},
                "onnxruntime": onnxruntime.__version__,
            },
            "opset": max(one.opset for one in self.written.values()),
            "target": options.target,
            "dtype": options.dtype if options.quantize == "none" else "int8",
            "quantize": options.quantize,
            "sizes": [list(size) for size in options.sizes],
            "side_unit": self._unit,
            "model": {
                "reference": self._model,
                "sha256": adapted_sha256(self._loaded.facts.model_sha256, self._adapters),
                "adapters": self._adapters,
                "pipeline": type(self._loaded.pipe).__name__,
                "description": self._facts(description),
            },
            "components": {
                component.name: {
                    "file": f"{component.name}/{GRAPH}",
                    "exporter": written.exporter,
                    "opset": written.opset,
                    "operators": written.operators,
                    "tolerance": component.tolerance,
                    "inputs": [_facts_of(one) for one in written.inputs],
                    "outputs": [_facts_of(one) for one in component.outputs],
                }
                for component in self._components
                for written in [self.written[component.name]]
            },
            "parity": _summary(parity),
        }

    def _facts(self, description: ModelDescription) -> dict[str, Any]:
        return {
            "family": description.family,
            "tokenizers": self._tokenizers(),
            "expansions": dict(self._expansions),
            "text_layers": list(description.text_layers),
            "normalised": [gives_normalised_layers(description)] * len(description.text_layers),
            "own_height": description.own_height,
            "own_width": description.own_width,
            "pixels_per_latent": description.pixels_per_latent,
            "latent_channels": description.latent_channels,
            "scaling_factor": description.scaling_factor,
            "latents_mean": description.latents_mean,
            "latents_std": description.latents_std,
            "zero_empty_negative": description.zero_empty_negative,
        }

    # --- proof ----------------------------------------------------------------------------------

    def prove(self) -> Parity | None:
        """Compare with torch; write the report and, last, the index over everything.

        Returns None if this machine cannot run the graphs.

        Raises:
            ModelError: a tolerance was missed.
        """
        provider = self._provider()
        if provider is None:
            self._tell("not proven: graphs for CUDA run on a machine with a GPU only")
            write_index(self._draft, self._index())
            return None
        bundle = open_bundle(self._draft)
        with self._telling("comparing every component with torch"):
            measured = tuple(
                compare_components(
                    self._components,
                    bundle,
                    provider=provider,
                    sizes=self._sizes,
                    threads=self._threads,
                )
            )
        is_exact = bundle.dtype == "float32"
        networks = Parity(
            components=measured,
            images=(),
            least_psnr=LEAST_PSNR if is_exact else LEAST_PSNR_REDUCED,
            least_is_mean=not is_exact,
            provider=str(provider),
        )
        require(networks, where=self._model)
        with self._telling("drawing pictures with both"):
            runtime = OnnxRuntime(bundle, provider=provider, threads=self._threads)
            by_onnx = LaneRenderer(join(describe_bundle(bundle), runtime))
            by_torch = LaneRenderer(join(self._description, TorchRuntime(self._loaded)))
            pairs = compare_images(self._matrix(self._sizes), by_torch=by_torch, by_onnx=by_onnx)
            by_onnx.close()
        parity = replace(networks, images=tuple(pair.parity for pair in pairs))
        require(parity, where=self._model)
        index = self._index(parity)
        write_report(self._draft / FOLDER, parity, pairs, _about(index))
        write_index(self._draft, index)
        return parity

    def _matrix(self, sizes: Sequence[tuple[int, int]]) -> tuple[TaskSpec, ...]:
        return small_matrix(sizes, steps=_STEPS, words=tuple(self._expansions))

    def _provider(self) -> Provider | None:
        if self._options.target != "cuda":
            return choose_provider("cpu")
        return choose_provider("cuda") if torch.cuda.is_available() else None

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._tell(f"{what}: {time.perf_counter() - started:.1f} s")


def _require_lowered(component: Component, counts: Mapping[str, int]) -> None:
    expected = {
        "MultiHeadAttention": component.attentions,
        "InstanceNormalization": component.group_norms,
    }
    if counts != expected:
        raise ModelError(
            f"the graph of {component.name} has operators that this exporter does not expect: "
            f"rewrote {dict(counts)} of {expected}",
            hint="use --optimize any, which keeps the standard's operators",
        )


def _named(model: ir.Model, component: Component) -> ir.Model:
    model.graph.name = component.name
    model.producer_name = "farm export-onnx"
    return model


def _rounded(pixels: int, unit: int) -> int:
    return max(unit, pixels // unit * unit)


def _facts_of(tensor: Tensor) -> dict[str, Any]:
    facts = asdict(tensor)
    return {"name": facts["name"], "axes": list(facts["axes"]), "dtype": facts["dtype"]}


def _summary(parity: Parity | None) -> dict[str, Any] | None:
    if parity is None:
        return None
    said = parity.to_json()
    return {name: said[name] for name in ("accepted", "provider", "worst_psnr", "mean_psnr")}


def _about(index: Mapping[str, Any]) -> dict[str, str]:
    """Return what the report says of the bundle before anything else."""
    made_by = ", ".join(f"{name} {number}" for name, number in index["made_by"].items())
    return {
        "model": f"{index['model']['reference']} ({index['model']['pipeline']})",
        "content": str(index["model"]["sha256"] or "unknown"),
        "computes in": str(index["dtype"]),
        "written for": str(index["target"]),
        "opset": str(index["opset"]),
        "made": f"{index['made_at']} by {made_by}",
    }
