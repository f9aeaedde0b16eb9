"""The networks of an ONNX bundle, run by ONNX Runtime.

Inputs and outputs are bound to torch's own memory, so nothing is copied on the way in or out, and
on a GPU nothing leaves the device.

ONNX Runtime has its own threads. They are told not to spin while they wait: torch's threads and
theirs take turns within a tick, and a thread that spins takes the core from the one that works.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from transformers import CLIPTokenizer

from farm.errors import ModelError
from farm.render.batches import Refusal
from farm.render.lane.networks import (
    Conditioning,
    EncodedText,
    ModelDescription,
    Tokenizer,
    padded,
)
from farm.render.onnx_bundle import TEXT_ENCODERS, UNET, VAE_DECODER, OnnxBundle
from farm.render.providers import ON_GPU, PROVIDER_VARIABLE, PROVIDERS, Choice, choose
from farm.task import RenderFacts

_log = logging.getLogger(__name__)

CUDA_GRAPH_VARIABLE = "FARM_ONNX_CUDA_GRAPH"
"""Environment variable that, set to 1, replays the UNet as one CUDA graph."""
_OLDEST_OPSET = 7
_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "bad allocation")
_NUMPY = {torch.float32: np.float32, torch.int64: np.int64}
_Tensors: TypeAlias = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What runs the graphs on this machine, and where."""

    choice: Choice
    device: torch.device
    """Where its tensors are expected and come."""

    @property
    def name(self) -> str:
        """A key of `farm.render.providers.PROVIDERS`."""
        return self.choice.name

    def __str__(self) -> str:
        return f"{self.device} ({self.choice})"


def choose_provider(device: str, *, wanted: str | None = None) -> Provider:
    """Return the provider for a device; see `farm.render.providers.choose`.

    Raises:
        InputError: there is no such provider, or it is not usable here.
    """
    choice = choose(device, wanted=wanted, has_gpu=torch.cuda.is_available())
    if choice.name not in ON_GPU:
        return Provider(choice=choice, device=torch.device("cpu"))
    place = device if device.startswith("cuda") else "cuda"
    return Provider(choice=choice, device=torch.device(place))


def require_opset(opset: int) -> None:
    """Accept an opset that the installed ONNX Runtime runs.

    It says so itself: a graph of one node either opens or does not.

    Raises:
        ModelError: it is too new.
    """
    newest = newest_opset()
    if opset > newest:
        raise ModelError(
            f"opset {opset} is too new: the installed ONNX Runtime {onnxruntime.__version__} runs "
            f"up to opset {newest}",
            hint="export with a lower --opset, or update ONNX Runtime",
        )


@cache
def newest_opset() -> int:
    """Return the newest opset of the standard that the installed ONNX Runtime runs."""
    newest = _OLDEST_OPSET
    while _opens(newest + 1):
        newest += 1
    return newest


def _opens(opset: int) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(_one_node(opset), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - it raises several kinds, and each means no
        return False
    return True


def _one_node(opset: int) -> bytes:
    """Return the smallest graph of an opset, as protobuf: `y = Identity(x)` of one float."""
    # Written by hand (onnx.proto3) so that rendering needs no library to write graphs.
    kind = b"\x12\x06\x0a\x04\x08\x01\x12\x00"  # a tensor of floats without dimensions
    node = b"\x0a\x01x\x12\x01y\x22\x08Identity"
    graph = (
        _field(1, node) + _field(2, b"g") + _field(11, b"\x0a\x01x" + kind)
        + _field(12, b"\x0a\x01y" + kind)
    )  # fmt: skip
    return b"\x08\x0a" + _field(7, graph) + _field(8, b"\x10" + bytes([opset]))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


# --- what a family must know --------------------------------------------------------------------


def describe_bundle(bundle: OnnxBundle) -> ModelDescription:
    """Return what a family must know of a bundle's model.

    Raises:
        ModelError: its tokenizer or scheduler cannot be read by the installed libraries.
    """
    facts = bundle.model
    try:
        tokenizers = tuple(
            CLIPTokenizer.from_pretrained(bundle.folder / name, local_files_only=True)
            for name in facts["tokenizers"]
        )
        scheduler = _scheduler(bundle.folder / "scheduler" / "scheduler_config.json")
        return ModelDescription(
            family=facts["family"],
            scheduler=scheduler,
            tokenizers=expanding(tokenizers, facts.get("expansions", {})),
            text_layers=tuple(facts["text_layers"]),
            own_height=facts["own_height"],
            own_width=facts["own_width"],
            pixels_per_latent=facts["pixels_per_latent"],
            latent_channels=facts["latent_channels"],
            scaling_factor=facts["scaling_factor"],
            latents_mean=_tuple(facts["latents_mean"]),
            latents_std=_tuple(facts["latents_std"]),
            zero_empty_negative=facts["zero_empty_negative"],
            side_unit=bundle.side_unit,
            sizes=bundle.sizes,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"this ONNX bundle cannot be used: {error}",
            where=str(bundle.folder),
            note=f"made with {', '.join(f'{k} {v}' for k, v in bundle.made_by.items())}",
            hint="export the model again with the libraries that are installed here",
        ) from error


def build_of(bundle: OnnxBundle) -> Hashable:
    """Return what is equal for bundles whose graphs differ in their weights alone.

    Names, operators and shapes take the same room in a file, whatever the numbers are.
    """
    sizes = [
        (name, file.name, file.stat().st_size)
        for name, component in sorted(bundle.components.items())
        for file in sorted(component.file.parent.iterdir())
    ]
    return bundle.dtype, bundle.target, bundle.opset, tuple(sizes)


def expanding(
    tokenizers: Sequence[Tokenizer], expansions: Mapping[str, str]
) -> tuple[Tokenizer, ...]:
    """Return tokenizers that read one word of a prompt as several, as embeddings need it."""
    if not expansions:
        return tuple(tokenizers)
    return tuple(_Expanding(one, expansions) for one in tokenizers)


class _Expanding:
    """A tokenizer that reads the token of an embedding of several vectors as all of its words."""

    def __init__(self, tokenizer: Tokenizer, expansions: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self._words = {
            re.compile(rf"(?<!\w){re.escape(token)}(?!\w)"): words
            for token, words in expansions.items()
        }
        self.model_max_length = tokenizer.model_max_length

    def __call__(self, text: Sequence[str], **options: object) -> Any:  # noqa: ANN401 - transformers' own
        """Return token ids as `input_ids`."""
        return self._tokenizer([self._expanded(prompt) for prompt in text], **options)

    def _expanded(self, prompt: str) -> str:
        for token, words in self._words.items():
            prompt = words.join(token.split(prompt))
        return prompt


def _scheduler(path: Path) -> Any:  # noqa: ANN401 - diffusers' schedulers share no useful type
    config = json.loads(path.read_text("utf-8"))
    return getattr(diffusers, config["_class_name"]).from_config(config)


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


# --- sessions -----------------------------------------------------------------------------------


def open_session(
    file: Path, *, provider: Provider, threads: int | None, cuda_graph: bool = False
) -> onnxruntime.InferenceSession:
    """Open one graph.

    Raises:
        ModelError: ONNX Runtime cannot run it, and why.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings speak to its developers
    if threads is not None:
        options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A plan of memory is kept for every number of rows, and a lane's varies: a third more memory
    # for no time gained. DirectML takes none at all.
    options.enable_mem_pattern = cuda_graph
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chain: list[tuple[str, dict[str, str]]] = []
    if provider.name in ON_GPU:
        number = {"device_id": str(provider.device.index or 0)}
        if provider.name == "tensorrt":
            chain.append((PROVIDERS["tensorrt"], {**number, "trt_engine_cache_enable": "1"}))
        graph = {"enable_cuda_graph": "1"} if cuda_graph else {}
        chain.append((PROVIDERS["cuda"], {**number, **graph}))
    elif provider.name != "cpu":
        chain.append((PROVIDERS[provider.name], {}))
    chain.append((PROVIDERS["cpu"], {}))
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=chain)
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {file.name}: {_sentence(error)}",
            where=str(file.parent),
            hint="export the model again here, with a lower --opset if that is the reason",
        ) from error
    # What it cannot load it leaves out, and says so to its developers alone.
    if PROVIDERS[provider.name] not in session.get_providers():
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load its provider {provider.name} here",
            note="its libraries (CUDA, cuDNN or the like) are missing, or of another version",
            hint=f"install them, or set {PROVIDER_VARIABLE}=cpu",
        )
    return session


def _sentence(error: Exception) -> str:
    """Return what ONNX Runtime says, without its prefix and its file names."""
    lines = str(error).split(" : ", 3)
    return lines[-1].strip().splitlines()[0] if lines[-1].strip() else type(error).__name__


class OnnxRuntime:
    """A bundle's text encoders, UNet and decoder."""

    def __init__(
        self,
        bundle: OnnxBundle,
        *,
        provider: Provider,
        threads: int | None,
        cuda_graph: bool = False,
    ) -> None:
        if bundle.target == "cuda" and provider.name not in ON_GPU:
            raise ModelError(
                f"this ONNX bundle is written for CUDA ({bundle.dtype}), and this is {provider}",
                where=str(bundle.folder),
                hint="export the model for the CPU: farm export-onnx MODEL DIR --optimize cpu",
            )

        require_opset(bundle.opset)

        def opened(name: str, *, graph: bool = False) -> _Network:
            session = open_session(
                bundle.components[name].file,
                provider=provider,
                threads=threads,
                cuda_graph=graph,
            )
            return _Network(session, device=provider.device, keeps_buffers=graph)

        self._provider = provider
        self._normalised = tuple(bundle.model["normalised"])
        self._encoders = [opened(name) for name in TEXT_ENCODERS if name in bundle.components]
        self._unet = opened(UNET, graph=cuda_graph and provider.name in ON_GPU)
        self._decoder = opened(VAE_DECODER)
        self._facts = RenderFacts(
            dtype=bundle.dtype,
            device=str(provider),
            model_sha256=bundle.model_sha256,
            torch_version=str(torch.__version__),
            diffusers_version=diffusers.__version__,
        )
        _log.info("bundle loaded", extra={"bundle": str(bundle.folder), "device": str(provider)})

    @property
    def facts(self) -> RenderFacts:
        """Device with provider, dtype, versions and the hash of the model that was exported."""
        return self._facts

    @property
    def device(self) -> torch.device:
        """Where tensors are expected and come."""
        return self._provider.device

    def encode_text(
        self, encoder: int, tokens: torch.Tensor, *, skipped: int, normalised: bool
    ) -> EncodedText:
        """Run a text encoder, and take one of its layers.

        Raises:
            Refusal: the graph gives its layers with the final norm, or without it, and the other
                was asked for.
        """
        if normalised is not self._normalised[encoder]:
            raise Refusal("this ONNX bundle's text encoder gives its layers in another form")
        said = self._encoders[encoder]({"input_ids": tokens})
        return EncodedText(
            hidden=said["hidden_states"][:, -(skipped + 1)], pooled=said.get("text_embeds")
        )

    def denoise(
        self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Run the UNet, every row at its own time.

        A recorded UNet sees powers of two rows only: every other number would be recorded anew,
        with all the memory that it needs.
        """
        rows = len(sample)
        if self._unet.keeps_buffers:
            sample, timestep, conditioning = padded(sample, timestep, conditioning)
        said = self._unet({"sample": sample, "timestep": timestep, **conditioning})
        return said["prediction"][:rows]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Run the decoder."""
        return self._decoder({"latents": latents})["images"]

    def save_memory(self) -> bool:
        """Return False: a graph decodes in one way only."""
        return False

    def close(self) -> None:
        """Drop the sessions."""
        self._encoders = []
        self._unet = self._decoder = _CLOSED
        gc.collect()


class _Network:
    """A session that takes and gives torch tensors on its provider's device.

    Inputs and outputs are bound to torch's own memory, on a CPU as on a GPU.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession | None,
        *,
        device: torch.device,
        keeps_buffers: bool = False,
    ) -> None:
        self._session = session
        self._device = device
        self.keeps_buffers = keeps_buffers
        """Inputs and outputs stay where they are, as a recorded CUDA graph needs it."""
        self._buffers: dict[tuple[int, ...], tuple[int, _Tensors, _Tensors]] = {}
        """By the sizes of the axes: a number, inputs and outputs that stay where they are."""
        self._inputs = _axes_of(session.get_inputs()) if session else {}
        self._outputs = _axes_of(session.get_outputs()) if session else {}
        self._types = {
            entry.name: torch.int64 if entry.type == "tensor(int64)" else torch.float32
            for entry in (session.get_inputs() if session else ())
        }

    def __call__(self, feeds: Mapping[str, torch.Tensor]) -> _Tensors:
        """Run the graph.

        Raises:
            MemoryError: it does not fit the device.
        """
        assert self._session is not None, "a closed runtime runs nothing"
        ready = {
            name: feeds[name].detach().to(self._device, kind).contiguous()
            for name, kind in self._types.items()
        }
        try:
            return self._run(self._session, ready)
        except (ort_errors.RuntimeException, ort_errors.Fail) as error:
            if any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise MemoryError(_sentence(error)) from error
            raise

    def _run(self, session: onnxruntime.InferenceSession, inputs: _Tensors) -> _Tensors:
        options = onnxruntime.RunOptions()
        sizes = sizes_of_axes(self._inputs, {name: one.shape for name, one in inputs.items()})
        if self.keeps_buffers:
            number, inputs, outputs = self._recorded(inputs, sizes)
            options.add_run_config_entry("gpu_graph_id", str(number))
        else:
            outputs = self._room_for_outputs(sizes)
        binding = session.io_binding()
        place = (self._device.type, self._device.index or 0)
        for name, tensor in inputs.items():
            binding.bind_input(name, *place, _NUMPY[tensor.dtype], tensor.shape, tensor.data_ptr())
        for name, tensor in outputs.items():
            binding.bind_output(name, *place, _NUMPY[tensor.dtype], tensor.shape, tensor.data_ptr())
        if self._device.type == "cuda":  # what torch has queued for the inputs must be done
            torch.cuda.current_stream(self._device).synchronize()
        session.run_with_iobinding(binding, options)
        if self.keeps_buffers:
            return {name: tensor.clone() for name, tensor in outputs.items()}
        return outputs

    def _room_for_outputs(self, sizes: Mapping[str, int]) -> _Tensors:
        return {
            name: torch.empty(
                [size_of_axis(axis, sizes) for axis in axes], dtype=torch.float32,
                device=self._device,
            )
            for name, axes in self._outputs.items()
        }  # fmt: skip

    def _recorded(
        self, inputs: _Tensors, sizes: Mapping[str, int]
    ) -> tuple[int, _Tensors, _Tensors]:
        """Return the buffers of a recorded CUDA graph, filled.

        A graph replays what it recorded, addresses and all.
        """
        shape = tuple(sizes[axis] for axis in sorted(sizes))
        if shape not in self._buffers:
            number = len(self._buffers) + 1
            self._buffers[shape] = (number, inputs, self._room_for_outputs(sizes))
        number, kept, outputs = self._buffers[shape]
        for name, tensor in inputs.items():
            if kept[name] is not tensor:
                kept[name].copy_(tensor)
        return number, kept, outputs


def _axes_of(entries: Sequence[Any]) -> dict[str, tuple[int | str, ...]]:
    return {entry.name: tuple(entry.shape) for entry in entries}


def sizes_of_axes(
    axes: Mapping[str, Sequence[int | str]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Return the size of every axis that inputs name, given the shapes of those inputs."""
    return {
        axis: size
        for name, shape in shapes.items()
        for axis, size in zip(axes[name], shape, strict=True)
        if isinstance(axis, str) and axis.isidentifier()
    }


def size_of_axis(axis: int | str, sizes: Mapping[str, int]) -> int:
    """Return the size of an axis: a number, a name, or a product of both such as `8*height`."""
    if isinstance(axis, int):
        return axis
    return math.prod(int(part) if part.isdigit() else sizes[part] for part in axis.split("*"))


_CLOSED = _Network(None, device=torch.device("cpu"))
