"""Opening a renderer: by backend, by entry point, and the refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from farm.errors import InputError, MissingLibraryError
from farm.render import BACKENDS, Renderer, open_renderer
from farm.task import Failed, FailureKind, PipelineKey, RenderResult, TaskSpec


class EverythingFails:
    """A renderer as an engine's test would bring its own."""

    def __init__(self, key: PipelineKey, *, device: str, threads: int | None) -> None:
        self.opened_with = (key, device, threads)

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        for task in tasks:
            yield Failed(task=task, kind=FailureKind.INTERNAL, message="on purpose")

    def close(self) -> None:
        pass


def key_of(backend: str) -> PipelineKey:
    return PipelineKey(backend, "builtin:sprites", "auto")


def test_a_renderer_is_what_opening_gives() -> None:
    renderer = open_renderer(key_of("pattern"))
    assert isinstance(renderer, Renderer)
    renderer.close()
    renderer.close()


def test_patterns_and_model_names_need_no_torch() -> None:
    program = (
        "import sys\n"
        "from farm.render import open_renderer\n"
        "from farm.render.models import list_models, resolve_model\n"
        "from farm.task import PipelineKey\n"
        "open_renderer(PipelineKey('pattern', 'any', 'auto'))\n"
        "list_models(), resolve_model('owner/name')\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_entry_point_takes_the_place_of_the_backend() -> None:
    sys.modules["a_test_of_the_engine"] = sys.modules[__name__]
    try:
        renderer = open_renderer(
            key_of("diffusers"), device="cuda:1", threads=3,
            factory="a_test_of_the_engine:EverythingFails",
        )  # fmt: skip
    finally:
        del sys.modules["a_test_of_the_engine"]
    assert isinstance(renderer, EverythingFails)
    assert renderer.opened_with == (key_of("diffusers"), "cuda:1", 3)


def test_an_unknown_backend_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="unknown backend 'difusers'") as caught:
        open_renderer(key_of("difusers"))
    assert caught.value.hint == "did you mean 'diffusers'?"


@pytest.mark.parametrize(
    "entry_point", ["no.such.module:open", "farm.render:no_such_name", "farm.render", ""]
)
def test_a_bad_entry_point_is_named(entry_point: str) -> None:
    factory = entry_point or ":"
    with pytest.raises(InputError) as caught:
        open_renderer(key_of("pattern"), factory=factory)
    assert factory in str(caught.value)


def test_a_missing_library_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, _ = BACKENDS["diffusers"].partition(":")
    for name in [name for name in sys.modules if name.startswith("farm.render.")]:
        if name not in {"farm.render.protocol", "farm.render.pattern"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingLibraryError, match="'torch' is not installed") as caught:
        open_renderer(key_of("diffusers"))
    assert caught.value.hint == "pip install '.[torch]' in the farm's folder"
