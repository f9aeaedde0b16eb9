"""The report as people read it: `report/index.html` in the bundle, and a table for a terminal."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export_onnx.verify import ComponentParity, Pair, Parity

FOLDER = "report"
_AMPLIFIED = 16
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #8885; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.missed { color: #c33; font-weight: 600; }
img { width: 11rem; image-rendering: pixelated; vertical-align: top; background: #8882; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; }
dd { margin: 0; }
"""


def write_report(
    folder: Path, parity: Parity, pairs: Sequence[Pair], facts: Mapping[str, str]
) -> None:
    """Write `parity.json`, `index.html` and the pictures into `folder`."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        apart = np.abs(pair.by_torch.astype(np.int16) - pair.by_onnx)
        amplified = np.minimum(apart * _AMPLIFIED, 255).astype(np.uint8)
        for kind, pixels in (
            ("torch", pair.by_torch), ("onnx", pair.by_onnx), ("difference", amplified),
        ):  # fmt: skip
            Image.fromarray(pixels).save(images / f"{pair.name}-{kind}.png")
    text = json.dumps(parity.to_json(), indent=1, ensure_ascii=False) + "\n"
    (folder / "parity.json").write_text(text, "utf-8")
    (folder / "index.html").write_text(_page(parity, pairs, facts), "utf-8")


def _page(parity: Parity, pairs: Sequence[Pair], facts: Mapping[str, str]) -> str:
    verdict = "Every tolerance is kept." if not parity.faults else "Tolerances are missed."
    about = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Parity of an ONNX bundle</title><style>{_STYLE}</style>"
        f"<h1>Parity of an ONNX bundle</h1><p>{verdict}</p><dl>{about}</dl>"
        "<h2>Networks</h2><p>Largest and mean difference from torch, each component by itself, "
        "with mixed times.</p>"
        f"{_components(parity)}"
        "<h2>Pictures</h2><p>Drawn by the same sampler from the same noise. "
        f"The difference is amplified {_AMPLIFIED} times.</p>{_pictures(pairs)}</html>\n"
    )


def _components(parity: Parity) -> str:
    rows = "".join(
        f"<tr><td>{_text(one.component)}</td><td>{_text(one.output)}</td>"
        f'<td class="n">{one.batch}</td><td class="n">{one.width} x {one.height}</td>'
        f'<td class="n{"" if one.is_accepted else " missed"}">{one.max_abs:.2g}</td>'
        f'<td class="n">{one.mean_abs:.2g}</td><td class="n">{tolerance_text(one)}</td></tr>'
        for one in parity.components
    )
    return (
        '<table><tr><th>component<th>output<th class="n">batch<th class="n">pixels'
        '<th class="n">max<th class="n">mean<th class="n">accepted</tr>'
        f"{rows}</table>"
    )


def _pictures(pairs: Sequence[Pair]) -> str:
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td><img loading="lazy" src="images/{pair.name}-{kind}.png" '
            f'alt="{_text(pair.parity.prompt)}, {kind}"></td>'
            for kind in ("torch", "onnx", "difference")
        )
        + f"<td>{_text(pair.parity.prompt)}<br>guidance {pair.parity.guidance_scale:g}, "
        f"{pair.parity.num_inference_steps} steps<br>PSNR {psnr_text(pair.parity.psnr)}"
        f"<br>SSIM {pair.parity.ssim:.4f}</td></tr>"
        for pair in pairs
    )
    return f"<table><tr><th>torch<th>ONNX Runtime<th>difference<th></tr>{rows}</table>"


def tolerance_text(one: ComponentParity) -> str:
    """Return a tolerance as people read it."""
    return "reported only" if one.tolerance is None else f"{one.tolerance:.2g}"


def psnr_text(value: float | None) -> str:
    """Return a PSNR as people read it."""
    return f"{value:.1f} dB" if value is not None and math.isfinite(value) else "equal"


def _text(value: Any) -> str:  # noqa: ANN401 - anything that has a text
    return html.escape(str(value))
