"""Write the model folder that diffusers loads: ``StableDiffusionPipeline.from_pretrained(folder)``.

Weights are float16 safetensors. Files are written beside and swapped in one by one, so that a
reader never sees half a file.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from sprites.files import write_json
from sprites.networks import Autoencoder, Denoiser, TextEncoder, Tokenizer, new_pipeline

LIMIT_BYTES = 40_000_000


def export(
    folder: Path,
    *,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    deviation: float,
) -> int:
    """Write the pipeline into ``folder`` and return its size in bytes; the parts become float16.

    ``deviation`` is that of the autoencoder's latents: the pipeline multiplies by its inverse.

    Raises:
        ValueError: when the folder would be over 40 MB.
    """
    autoencoder.register_to_config(scaling_factor=1 / deviation)
    pipeline = new_pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.half(),
        denoiser=denoiser.half(),
        autoencoder=autoencoder.half(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        pipeline.save_pretrained(beside)
        # Older tokenizers read these two files instead of tokenizer.json.
        tokenizer.backend_tokenizer.model.save(str(Path(beside) / "tokenizer"))
        for config in Path(beside).rglob("*config.json"):
            _tidy(config)
        _tidy(Path(beside) / "model_index.json")
        written = sorted(path for path in Path(beside).rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in written)
        if size > LIMIT_BYTES:
            message = f"the model folder is {size / 1e6:.1f} MB; at most 40 MB may be committed"
            raise ValueError(message)
        for path in written:
            target = folder / path.relative_to(beside)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)
            path.replace(target)
    return size


def _tidy(config: Path) -> None:
    """Remove what says nothing to a reader, and let the text encoder load as the rest does.

    transformers loads weights in the type that a configuration notes, diffusers in float32: a
    plain load of a float16 folder would mix the two.
    """
    value = json.loads(config.read_text("utf-8"))
    value.pop("_name_or_path", None)
    if "dtype" in value:
        value["dtype"] = "float32"
    write_json(config, value)
