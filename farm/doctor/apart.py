"""Looking at something from a process of its own, because it may hang, crash or print.

The process runs a module of this package that prints one JSON value as its last line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


class ProbeError(Exception):
    """The process gave no answer; the message says why."""


def ask(module: str, *arguments: str, timeout_s: float) -> Any:  # noqa: ANN401 - any JSON value
    """Run `python -m module arguments` and return what it says.

    Raises:
        ProbeError: it crashed, took too long, or said nothing.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - our own module in our own Python
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"no answer within {timeout_s:g} s") from None
    lines = done.stdout.strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()
        last = said[-1] if said else f"exit status {done.returncode}"
        raise ProbeError(last) from None
