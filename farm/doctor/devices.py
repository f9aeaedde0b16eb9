"""What torch sees of this machine. Run as a process: `python -m farm.doctor.devices`.

A driver that does not match, or a GPU that has fallen off its bus, may hang or crash whoever asks.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def look() -> dict[str, Any]:
    """Return torch's version, the CUDA it was built for, and every device it can use."""
    import torch

    gpus = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        capability = f"{facts.major}.{facts.minor}"
        gpus.append({"name": facts.name, "free": free, "total": total, "capability": capability})
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()) + "\n")
