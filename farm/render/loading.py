"""Loading a text-to-image pipeline through diffusers, from any source, without running its code.

Every source becomes a diffusers folder first: an embedded model and a local folder are one, a hub
repository is downloaded into one (or found in the cache), and a single file borrows one for all but
its weights. Only safetensors are read, and no code that comes with a model is run.

Whatever goes wrong is a `ModelError` that says what to do.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import torch
import transformers
from huggingface_hub import errors as hub_errors

from farm.errors import FarmError, InputError, ModelError
from farm.render.models import (
    CONFIG_VARIABLE,
    ModelSource,
    model_sha256,
    parts_left_out,
    pipeline_class_name,
    resolve_model,
    single_file_config,
)
from farm.task import PipelineKey, RenderFacts

_log = logging.getLogger(__name__)

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Optional parts that draw nothing; the second needs torchvision."""
_NEEDS_MORE = ("mask_image", "strength", "controlnet_conditioning_scale", "num_frames")
"""Arguments of pipelines that make a picture from more than text, or more than a picture."""
_CONFIG_FILES = ["*.json", "*.txt", "*.model"]
"""What a single file borrows from a repository: everything but weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPipeline:
    """A pipeline on its device, ready to be called."""

    pipe: Any
    """A diffusers pipeline; diffusers gives pipelines no type that helps a caller."""
    device: torch.device
    dtype: torch.dtype
    facts: RenderFacts


def load_pipeline(key: PipelineKey, *, device: str) -> LoadedPipeline:
    """Load the model of `key` onto a device.

    Raises:
        InputError: there is no such device here.
        ModelError: the model cannot be found, read or loaded, or does not make pictures from text.
    """
    quieten()
    place = _choose_device(device)
    dtype = _choose_dtype(key.dtype, place)
    source = resolve_model(key.model)
    if source.kind == "onnx":
        raise ModelError(
            f"model '{key.model}' is an ONNX bundle, which backend onnx renders",
            hint="use backend: onnx, or name the model that it was made from",
        )
    try:
        pipe = _load(source, dtype)
        pipe.to(place)
    except FarmError:
        raise
    except Exception as error:
        raise ModelError(
            f"model '{key.model}' cannot be loaded: {_first_line(error)}",
            note=f"{type(error).__name__}, while loading {source.path or source.repository}",
            hint="`farm --debug` shows diffusers' own report",
        ) from error
    pipe.set_progress_bar_config(disable=True)
    _mend_text_encoder(pipe)
    if place.type == "cuda":
        for network in (getattr(pipe, "unet", None), getattr(pipe, "vae", None)):
            if network is not None:
                network.to(memory_format=torch.channels_last)
    facts = RenderFacts(
        dtype=str(dtype).removeprefix("torch."),
        device=_describe_device(place),
        model_sha256=model_sha256(source),
        torch_version=str(torch.__version__),
        diffusers_version=diffusers.__version__,
    )
    _log.info("model loaded", extra={"model": key.model, "device": str(place), "dtype": str(dtype)})
    return LoadedPipeline(pipe=pipe, device=place, dtype=dtype, facts=facts)


def quieten() -> None:
    """Keep the libraries' progress bars and advice to developers out of a run's output."""
    for library in (diffusers, transformers):
        logging.getLogger(library.__name__).setLevel(logging.ERROR)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
    warnings.filterwarnings("ignore", category=UserWarning, module="torchsde")


# --- device and dtype ---------------------------------------------------------------------------


def _choose_device(choice: str) -> torch.device:
    if choice == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(choice)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device '{choice}' cannot be used here: {_first_line(error)}",
            hint="use device auto, cpu, cuda, cuda:1 or mps",
        ) from error
    return place


def _choose_dtype(choice: str, device: torch.device) -> torch.dtype:
    if choice == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return _DTYPES[choice]


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


# --- sources ------------------------------------------------------------------------------------


def _load(source: ModelSource, dtype: torch.dtype) -> Any:  # noqa: ANN401 - see LoadedPipeline
    if source.kind == "file":
        return _load_file(source, dtype)
    folder = _download(source) if source.path is None else source.path
    kind = _pipeline_class(folder)
    return kind.from_pretrained(
        folder,
        dtype=dtype,
        variant=source.variant,
        use_safetensors=True,
        local_files_only=True,
        **_absent_parts(kind, folder),
    )


def _load_file(source: ModelSource, dtype: torch.dtype) -> Any:  # noqa: ANN401 - see LoadedPipeline
    folder = single_file_config(source) or _download_config(source)
    kind = _pipeline_class(folder)
    if not hasattr(kind, "from_single_file"):
        raise ModelError(
            f"diffusers loads no {kind.__name__} from a single file",
            where=str(source.path),
            hint="use the model's diffusers folder",
        )
    return kind.from_single_file(
        str(source.path),
        config=str(folder),
        dtype=dtype,
        local_files_only=True,
        **_absent_parts(kind, folder),
    )


def _pipeline_class(folder: Path) -> Any:  # noqa: ANN401 - see LoadedPipeline
    """Return the pipeline class of a folder, which makes one picture from text alone."""
    name = pipeline_class_name(folder)
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ModelError(
            f"the installed diffusers {diffusers.__version__} has no pipeline '{name}'",
            where=str(folder),
            hint="pip install --upgrade diffusers, or use another model",
        )
    parameters = inspect.signature(kind.__call__).parameters
    surplus = [argument for argument in _NEEDS_MORE if argument in parameters]
    if surplus or "prompt" not in parameters:
        why = f"it takes {surplus[0]}" if surplus else "it takes no prompt"
        raise ModelError(
            f"{name} does not make an image from text alone: {why}",
            where=str(folder),
            hint="use a text-to-image model",
        )
    return kind


def _absent_parts(kind: Any, folder: Path) -> dict[str, object]:  # noqa: ANN401 - see LoadedPipeline
    """Return arguments that leave out what draws nothing, and what the folder says is not there."""
    accepted = inspect.signature(kind.__init__).parameters
    absent = {*_UNUSED, *parts_left_out(folder)}
    parts: dict[str, object] = {name: None for name in absent if name in accepted}
    if "requires_safety_checker" in accepted:
        parts["requires_safety_checker"] = False
    return parts


def _mend_text_encoder(pipe: Any) -> None:  # noqa: ANN401 - see LoadedPipeline
    """Let diffusers find the final norm of a CLIP text encoder, which `clip_skip` needs.

    transformers 5.6 dropped the wrapper `CLIPTextModel.text_model`, and diffusers 0.42 still looks
    for `text_encoder.text_model.final_layer_norm`. The alias goes past torch's registry of
    submodules, where a module inside itself would never end.
    """
    encoder = getattr(pipe, "text_encoder", None)
    if hasattr(encoder, "final_layer_norm") and not hasattr(encoder, "text_model"):
        vars(encoder)["text_model"] = encoder


# --- the hub ------------------------------------------------------------------------------------


def _download(source: ModelSource) -> Path:
    """Return the folder of a hub repository's snapshot; the cached one if the hub is out of reach.

    Raises:
        ModelError: the hub refuses, or it is out of reach and nothing is cached.
    """
    at = f" --revision {source.revision}" if source.revision else ""
    try:
        folder = diffusers.DiffusionPipeline.download(
            source.repository,
            revision=source.revision,
            variant=source.variant,
            use_safetensors=True,
        )
    except Exception as error:
        # diffusers looks in the cache when the hub fails, and reports the hub's error as the cause.
        raise _hub_error(
            source.reference,
            error.__cause__ or error,
            command=f"hf download {source.repository}{at}",
        ) from error
    return Path(folder)


def _download_config(source: ModelSource) -> Path:
    """Return a folder that describes a single file: the repository diffusers knows its kind by."""
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    checkpoint = load_single_file_checkpoint(str(source.path))
    name: str = fetch_diffusers_config(checkpoint)["pretrained_model_name_or_path"]
    patterns = " ".join(f"'{pattern}'" for pattern in _CONFIG_FILES)
    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=_CONFIG_FILES)
    except Exception as error:
        raise ModelError(
            f"a single file holds weights only, and the description of its kind of model, "
            f"{name}, is not on this machine: {_first_line(error)}",
            where=str(source.path),
            note=f"a diffusers folder named {source.path.with_suffix('') if source.path else ''}, "
            f"or named by ${CONFIG_VARIABLE}, serves as well; it needs no weights",
            hint=f"hf download {name} --include {patterns}",
        ) from error
    return Path(folder)


def _hub_error(reference: str, error: BaseException, *, command: str) -> ModelError:
    """Return what went wrong with a repository, and the step that mends it."""
    if isinstance(error, hub_errors.GatedRepoError):
        return ModelError(
            f"model '{reference}' is gated: its owner grants access",
            hint="accept its terms on its model page, then `hf auth login`",
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return ModelError(
            f"model '{reference}' has no such revision", hint="leave out @revision for the newest"
        )
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return ModelError(
            f"the hub has no model '{reference}', or it is private",
            hint="check the spelling; `hf auth login` for a private model",
        )
    if isinstance(error, ValueError):  # a variant that is not there, an id that cannot be one
        return ModelError(
            f"model '{reference}' cannot be fetched: {_first_line(error)}",
            hint="check the spelling; leave out #variant for the plain weights",
        )
    if "safetensors" in str(error):
        return ModelError(
            f"model '{reference}' is published as pickles only, and loading a pickle runs the "
            "code inside it",
            hint="look for a revision with .safetensors files, such as refs/pr/1",
        )
    return ModelError(
        f"model '{reference}' is not in the cache, and the hub cannot be asked: "
        f"{_first_line(error)}",
        note="HF_HUB_OFFLINE=1 forbids downloads"
        if huggingface_hub.constants.HF_HUB_OFFLINE
        else None,
        hint=f"on a machine with network, `{command}`, then copy the cache ($HF_HOME) here",
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
