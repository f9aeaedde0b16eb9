"""What an image says about itself, in words that other programs know.

- The A1111 text, so that A1111, Civitai and image browsers show the settings: PNG text chunk
  `parameters`; EXIF `UserComment` in WebP and JPEG, as A1111 writes it. Layout and quoting follow
  `create_infotext` and `quote` of AUTOMATIC1111/stable-diffusion-webui. A prompt with a line that
  begins with `Negative prompt:` cannot be told apart there; nothing can be done about that format.
- Our own record, from which `farm rebuild` makes the catalog row again: PNG text chunk `farm`; the
  XMP property `farm:record` in WebP and JPEG. It is JSON in ASCII and loses nothing.
- XMP `Iptc4xmpExt:DigitalSourceType` = `trainedAlgorithmicMedia`, the IPTC's word for images made
  by a model.

JPEG keeps each block in one segment of 64 KiB. What does not fit (prompts of tens of thousands of
characters) is left out there; PNG and WebP have no such limit.
"""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from farm.samplers import DEFAULT, SAMPLERS, SIGMA_SCHEDULES
from farm.store.row import Row, to_record
from farm.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from farm.manifest.job import ImageSettings

PARAMETERS: Final = "parameters"
"""PNG chunk of the A1111 text."""
RECORD: Final = "farm"
"""PNG chunk of our record. Never `prompt` or `workflow`: those make readers think of ComfyUI."""
_PNG_XMP = "XML:com.adobe.xmp"
_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_UNICODE = b"UNICODE\0"
"""EXIF 2.3, section 4.6.5, character code of `UserComment`."""
_JPEG_LIMIT = 65_000
"""Bytes of one JPEG segment (65,533), less its name and some room for EXIF tables."""

_PNG_LEVEL = 1
"""zlib level. Pillow's default, 6, takes several times as long for a seventh fewer bytes; beside a
model of few steps, encoding would be the slower part."""
_JPEG_QUALITY = 92
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\
<x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:farm="urn:x-farm:1.0:" \
Iptc4xmpExt:DigitalSourceType=\
"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia">{record}\
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""
_XMP_RECORD = re.compile(r"<farm:record>(.*?)</farm:record>", re.DOTALL)
_XMP_SOURCE = re.compile(r"DigitalSourceType\s*=\s*[\"']([^\"']+)[\"']")


# --- the A1111 text -----------------------------------------------------------------------------


def parameters_text(row: Row) -> str:
    """Return the settings of `row` as A1111 writes them: prompt, negative prompt, one line."""
    task = row.task
    lines = [task.prompt]
    if task.negative_prompt:
        lines.append(f"Negative prompt: {task.negative_prompt}")
    pairs = ", ".join(f"{key}: {_quote(value)}" for key, value in _settings(row).items())
    return "\n".join((*lines, pairs)).strip()


def _settings(row: Row) -> dict[str, str]:
    """Return the last line's pairs in A1111's order; it takes three to be known as settings."""
    task = row.task
    is_file = task.model.endswith(".safetensors")
    pairs: dict[str, str | None] = {
        "Steps": str(task.num_inference_steps),
        "Sampler": _sampler_label(task.sampler),
        "Schedule type": _schedule_label(task.sigma_schedule),
        "CFG scale": repr(task.guidance_scale),
        "Seed": str(task.seed),
        "Size": f"{row.width}x{row.height}" if row.width and row.height else None,
        # A hash stands for one file; a folder has none, and a wrong one loads a wrong model.
        "Model hash": row.model_sha256[:10] if row.model_sha256 and is_file else None,
        "Model": PurePosixPath(task.model).stem if is_file else task.model,
        # A1111 counts from the last layer, diffusers counts the layers left out.
        "Clip skip": str(task.clip_skip + 1) if task.clip_skip else None,
        # A1111's default noise is the GPU's; ours is drawn on the CPU.
        "RNG": "CPU",
        _eta_key(task.sampler): None if task.eta is None else repr(task.eta),
        # A version that A1111 cannot read switches on none of its compatibility rules.
        "Version": f"farm {__version__}",
    }
    return {key: value for key, value in pairs.items() if value is not None}


def _sampler_label(name: str) -> str:
    sampler = SAMPLERS.get(name)
    return name if sampler is None else sampler.a1111 or sampler.label


def _schedule_label(name: str) -> str | None:
    if name == DEFAULT:
        return None
    return SIGMA_SCHEDULES[name].label if name in SIGMA_SCHEDULES else name


def _eta_key(sampler: str) -> str:
    return "Eta DDIM" if sampler == "ddim" else "Eta"


def _quote(value: str) -> str:
    if any(character in value for character in ",\n:"):
        return json.dumps(value, ensure_ascii=False)
    return value


# --- writing ------------------------------------------------------------------------------------


def encode_image(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], settings: ImageSettings, row: Row
) -> bytes:
    """Return the file of an image, with all that is known about it inside.

    `pixels` is uint8 `[height, width, 3]`, sRGB. WebP is lossless unless a quality is set.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    record = json.dumps(to_record(row), separators=(",", ":"))
    out = io.BytesIO()
    match settings.format:
        case "png":
            _save_png(image, out, text=parameters_text(row), record=record)
        case "webp":
            image.save(
                out,
                "WEBP",
                lossless=settings.quality is None,
                quality=settings.quality or 70,  # when lossless: effort, not quality
                method=4,
                exif=_exif(parameters_text(row)),
                xmp=_xmp(record),
            )
        case "jpeg":
            exif, xmp = _exif(parameters_text(row)), _xmp(record)
            image.save(
                out,
                "JPEG",
                quality=settings.quality or _JPEG_QUALITY,
                subsampling="4:4:4",  # halved colour smears the thin lines of icons and text
                exif=exif if len(exif) <= _JPEG_LIMIT else b"",
                xmp=xmp if len(xmp) <= _JPEG_LIMIT else _xmp(None),
            )
    return out.getvalue()


def _save_png(image: Image.Image, out: io.BytesIO, *, text: str, record: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text(PARAMETERS, text)  # becomes iTXt by itself where Latin-1 does not do
    chunks.add_text(RECORD, record)
    chunks.add_itxt(_PNG_XMP, _xmp(None).decode())
    image.save(out, "PNG", compress_level=_PNG_LEVEL, pnginfo=chunks)


def _exif(text: str) -> bytes:
    """Return EXIF with the text as `UserComment` in UTF-16 big-endian, as piexif and A1111 do."""
    from PIL import Image

    exif = Image.Exif()
    exif.endian = ">"
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + text.encode("utf-16-be")
    return exif.tobytes()


def _xmp(record: str | None) -> bytes:
    inside = "" if record is None else f"<farm:record>{html.escape(record)}</farm:record>"
    return _XMP.format(record=inside).encode()


# --- reading ------------------------------------------------------------------------------------


def read_metadata(data: bytes) -> dict[str, Any]:
    """Return what a PNG, WebP or JPEG file says about itself.

    Keys, where present: `parameters` (the A1111 text), `farm` (our record, parsed),
    `digital_source_type`.

    Raises:
        ValueError: `data` is no readable image, or its record is no JSON.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            image.load()  # a PNG may carry text behind its pixels
            chunks, comment = dict(image.info), image.getexif().get_ifd(_EXIF_IFD)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"no readable image: {error}") from error
    xmp = chunks.get("xmp", b"")
    xmp = xmp.decode(errors="replace") if isinstance(xmp, bytes) else str(xmp)
    found: dict[str, Any] = {}
    text = chunks.get(PARAMETERS) or _comment_text(comment.get(_USER_COMMENT))
    if text:
        found[PARAMETERS] = str(text)
    if source := _XMP_SOURCE.search(xmp):
        found["digital_source_type"] = source[1].rpartition("/")[2]
    record = chunks.get(RECORD)
    if record is None and (inside := _XMP_RECORD.search(xmp)):
        record = html.unescape(inside[1])
    if record is not None:
        found[RECORD] = json.loads(record)
    return found


def read_pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the picture of an image file: uint8 `[height, width, 3]`, or 4 where it has alpha.

    Raises:
        ValueError: `data` is no readable image.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"no readable image: {error}") from error


def _comment_text(value: object) -> str | None:
    if not isinstance(value, bytes) or not value.startswith(_UNICODE):
        return None
    return value.removeprefix(_UNICODE).decode("utf-16-be", errors="replace")
