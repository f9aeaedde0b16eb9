from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farm import cli

JOB = """\
name: little
output: {output}
backend: pattern
defaults: {{num_inference_steps: 4, guidance_scale: 2.0, height: 64, width: 64}}
matrix:
  subject: [cat, dog]
  prompt: "a ${{subject}}"
  guidance_scale: [1.0, 4.0]
  seed: 1..3
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Farm = Callable[..., Outcome]


@pytest.fixture
def farm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Farm:
    """Run the command line in this process, as a shell would."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["farm", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job of twelve pattern pictures that writes below the test's own folder."""
    path = tmp_path / "little.yaml"
    path.write_text(JOB.format(output=tmp_path / "out"))
    return path
