"""What torch sees of this machine. Run as a process: `python -m farm.doctor.devices`.

A driver that does not match, or a GPU that has fallen off its bus, may hang or crash whoever asks.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from farm.errors import InputError
from farm.render.providers import PROVIDER_VARIABLE, choose, named_provider, usable_providers


def look() -> dict[str, Any]:
    """Return torch's version, the CUDA it was built for, and every device it can use.

    Also what ONNX Runtime can use: None if it is not installed.
    """
    import torch

    gpus = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        capability = f"{facts.major}.{facts.minor}"
        gpus.append({"name": facts.name, "free": free, "total": total, "capability": capability})
    return {
        "onnx": _onnx(has_gpu=bool(gpus)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
    }


def _onnx(*, has_gpu: bool) -> dict[str, Any] | None:
    try:
        usable = usable_providers(has_gpu=has_gpu)
        choice = choose("auto", wanted=named_provider(), has_gpu=has_gpu)
    except ModuleNotFoundError:
        return None
    except InputError as error:
        return {"usable": usable, "refused": error.message, "next": f"unset {PROVIDER_VARIABLE}"}
    return {"usable": usable, "chosen": str(choice), "instead_of": choice.instead_of}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()) + "\n")
