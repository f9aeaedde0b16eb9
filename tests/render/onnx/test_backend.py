"""Backend `onnx` draws what backend `torch` draws, and says what it draws with."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from farm.errors import InputError, ModelError, OutputError
from farm.render import Renderer, exporting, open_renderer
from farm.render.difference import psnr
from farm.render.lane.networks import EncodedText
from farm.render.lane.onnx_runtime import (
    OnnxRuntime,
    Provider,
    choose_provider,
    open_session,
    size_of_axis,
    sizes_of_axes,
)
from farm.render.onnx_bundle import OnnxBundle
from farm.render.providers import PROVIDER_VARIABLE, PROVIDERS, Choice, choose, outlook
from farm.task import Failed, FailureKind, PipelineKey, Rendered, TaskSpec, task_id

pytestmark = [pytest.mark.xdist_group("onnx"), pytest.mark.timeout(900)]

OpenRenderer = Callable[[Path | str, str], Renderer]


def drawn(renderer: Renderer, tasks: list[TaskSpec]) -> dict[str, Rendered]:
    results = list(renderer.render(iter(tasks)))
    assert all(isinstance(result, Rendered) for result in results), results
    return {task_id(one.task): one for one in results if isinstance(one, Rendered)}


def test_pictures_are_those_of_torch(
    renderer_of: OpenRenderer, tiny_sd: Path, tiny_bundle: OnnxBundle
) -> None:
    assert tiny_bundle.folder.is_dir()  # the renderer finds it in the cache
    tasks = [
        TaskSpec(
            prompt=prompt, negative_prompt="dull", seed=seed, sampler=sampler, clip_skip=skip,
            guidance_scale=guidance, num_inference_steps=steps, height=height, width=32,
        )
        for seed, (prompt, sampler, skip, guidance, steps, height) in enumerate(
            itertools.product(
                ("a red sword",), ("default", "euler_a"), (None, 1), (1.0, 4.0), (2, 3), (32, 48)
            )
        )
    ]  # fmt: skip
    by_torch = drawn(renderer_of(tiny_sd, "torch"), tasks)
    by_onnx = drawn(renderer_of(tiny_sd, "onnx"), tasks)
    assert min(psnr(by_torch[key].pixels, by_onnx[key].pixels) for key in by_torch) >= 40


def test_facts_name_runtime_and_provider(
    renderer_of: OpenRenderer, tiny_sd: Path, tiny_bundle: OnnxBundle
) -> None:
    task = TaskSpec(num_inference_steps=1)
    [by_torch] = drawn(renderer_of(tiny_sd, "torch"), [task]).values()
    [by_onnx] = drawn(renderer_of(tiny_sd, "onnx"), [task]).values()
    assert "CPUExecutionProvider" in by_onnx.facts.device
    assert by_onnx.facts.model_sha256 == by_torch.facts.model_sha256 == tiny_bundle.model_sha256
    assert by_onnx.facts.dtype == "float32"


def test_a_bundle_is_a_model(tiny_bundle: OnnxBundle) -> None:
    key = PipelineKey("onnx", str(tiny_bundle.folder), "float32")
    renderer = open_renderer(key, device="cpu", threads=1)
    assert drawn(renderer, [TaskSpec(num_inference_steps=1)])
    renderer.close()
    renderer.close()


def test_a_size_it_was_not_made_for_fails_that_task_alone(
    tiny_bundle: OnnxBundle,
) -> None:
    from farm.render.lane.families import join
    from farm.render.lane.onnx_runtime import describe_bundle
    from farm.render.lane.renderer import LaneRenderer

    bundle = replace(tiny_bundle, sizes=((32, 32),))
    runtime = OnnxRuntime(bundle, provider=choose_provider("cpu"), threads=1)
    renderer = LaneRenderer(join(describe_bundle(bundle), runtime))
    good = TaskSpec(num_inference_steps=1, height=32, width=32)
    results = {one.task: one for one in renderer.render(iter([good, replace(good, width=48)]))}
    assert isinstance(results[good], Rendered)
    refused = results[replace(good, width=48)]
    assert isinstance(refused, Failed)
    assert refused.kind is FailureKind.BAD_TASK
    assert "exported for pictures of 32 x 32, not 48 x 32" in refused.message


def test_an_opset_from_the_future_is_refused(tiny_bundle: OnnxBundle) -> None:
    with pytest.raises(ModelError, match="opset 99 is too new"):
        OnnxRuntime(replace(tiny_bundle, opset=99), provider=choose_provider("cpu"), threads=1)


def test_graphs_for_cuda_are_refused_elsewhere(tiny_bundle: OnnxBundle) -> None:
    with pytest.raises(ModelError, match="written for CUDA"):
        OnnxRuntime(replace(tiny_bundle, target="cuda"), provider=choose_provider("cpu"), threads=1)


# --- first use ----------------------------------------------------------------------------------


def test_workers_that_start_together_export_once(
    tiny_sd: Path, tiny_bundle: OnnxBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def export(model: str, folder: Path, **_: object) -> object:
        calls.append(model)
        shutil.copytree(tiny_bundle.folder, folder)
        return type("Report", (), {"seconds": 0.0})()

    monkeypatch.setattr(exporting, "export_bundle", export)
    found: list[OnnxBundle] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                exporting.bundle_of(str(tiny_sd), dtype="float32", threads=1)
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert calls == [str(tiny_sd)]


def test_whether_an_export_comes_first(
    tiny_sd: Path, tiny_bundle: OnnxBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_sd)
    assert not exporting.awaits_export(model, "auto")
    assert not exporting.awaits_export(str(tiny_bundle.folder), "auto")
    assert not exporting.awaits_export("someone/something-not-here", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert exporting.awaits_export(model, "auto")


@pytest.mark.parametrize(("has_gpu", "dtype"), [(True, "float16"), (False, "float32")])
def test_the_forewarning_looks_for_what_will_be_rendered_with(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, *, has_gpu: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built_in = [PROVIDERS["cuda"], PROVIDERS["cpu"]]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: built_in)
    monkeypatch.setattr("farm.render.providers.seems_to_have_gpu", lambda: has_gpu)

    def export(_model: str, folder: Path, **_: object) -> object:
        folder.mkdir()
        raise ModelError("made, for all that is looked at")

    monkeypatch.setattr(exporting, "export_bundle", export)
    assert exporting.awaits_export(str(tiny_sd), "auto")
    with pytest.raises(ModelError, match="made"):
        exporting.bundle_of(str(tiny_sd), dtype=dtype, threads=1)
    assert not exporting.awaits_export(str(tiny_sd), "auto")


def test_a_cache_that_cannot_be_written_is_said_with_its_place(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="cannot keep bundles here: Not a directory") as caught:
        exporting.bundle_of(str(tiny_sd), dtype="float32", threads=1)
    assert str(tmp_path / "file") in str(caught.value.where)
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_a_damaged_bundle_in_the_cache_is_made_anew(
    tiny_sd: Path, tiny_bundle: OnnxBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []

    def export(model: str, folder: Path, **_: object) -> object:
        made.append(folder)
        assert model == str(tiny_sd)
        shutil.copytree(tiny_bundle.folder, folder)
        return type("Report", (), {"seconds": 0.0})()

    monkeypatch.setattr(exporting, "export_bundle", export)
    exporting.bundle_of(str(tiny_sd), dtype="float32", threads=1)
    (made[0] / "unet/model.onnx").unlink()
    exporting.bundle_of(str(tiny_sd), dtype="float32", threads=1)
    assert len(made) == 2


# --- providers ----------------------------------------------------------------------------------


def test_the_cpu_is_always_there() -> None:
    assert choose_provider("cpu").name == "cpu"
    assert choose_provider("auto").name in {"cpu", "cuda", "directml", "openvino"}


def test_a_provider_that_is_not_there_is_said_so() -> None:
    with pytest.raises(InputError, match="'directml' cannot be used here") as caught:
        choose_provider("auto", wanted="directml")
    assert "usable here: cpu" in str(caught.value)


def test_a_provider_that_does_not_exist_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="no ONNX Runtime provider 'cdua'") as caught:
        choose_provider("auto", wanted="cdua")
    assert "did you mean 'cuda'" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="device 'cuda:1' cannot be used"):
        choose_provider("cuda:1")


def test_the_environment_names_the_provider(
    tiny_bundle: OnnxBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROVIDER_VARIABLE, "openvino")
    with pytest.raises(InputError, match="'openvino' cannot be used here"):
        open_renderer(PipelineKey("onnx", str(tiny_bundle.folder), "float32"), device="auto")


def test_a_fallback_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [PROVIDERS["cpu"]])
    choice = choose("auto", wanted=None, has_gpu=True)
    assert str(choice).endswith("CPUExecutionProvider, for want of CUDAExecutionProvider")
    provider = Provider(choice=choice, device=torch.device("cpu"))
    assert str(provider) == f"cpu ({choice})"


@pytest.mark.parametrize(
    ("device", "built_in", "has_gpu", "expected"),
    [
        ("auto", ["cuda", "tensorrt", "cpu"], True, "cuda"),
        ("auto", ["cuda", "tensorrt", "cpu"], False, "cpu"),
        ("auto", ["directml", "cpu"], False, "directml"),
        ("auto", ["openvino", "cpu"], False, "openvino"),
        ("cpu", ["cuda", "openvino", "cpu"], True, "cpu"),
        ("cuda:1", ["cuda", "cpu"], True, "cuda"),
    ],
)
def test_a_device_has_the_provider_that_suits_it(
    device: str,
    built_in: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_gpu: bool,
) -> None:
    names = [PROVIDERS[name] for name in built_in]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    assert choose(device, wanted=None, has_gpu=has_gpu).name == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_outlook_is_what_is_chosen() -> None:
    assert outlook() == choose_provider("auto").choice


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_provider_that_cannot_be_loaded_is_no_silent_fallback(tiny_bundle: OnnxBundle) -> None:
    cuda = Provider(choice=Choice(name="cuda"), device=torch.device("cuda"))
    with pytest.raises(ModelError, match="cannot load its provider cuda here"):
        open_session(tiny_bundle.components["unet"].file, provider=cuda, threads=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype_that_no_cpu_graph_has_is_refused(dtype: str) -> None:
    with pytest.raises(ModelError, match=f"does not compute in {dtype} on cpu"):
        open_renderer(PipelineKey("onnx", "builtin:sprites", dtype), device="cpu")


# --- axes and layers ----------------------------------------------------------------------------


def test_axes_are_numbers_names_and_products() -> None:
    sizes = sizes_of_axes({"x": ("batch", 4, "height", "8*width")}, {"x": (2, 4, 16, 64)})
    assert sizes == {"batch": 2, "height": 16}
    assert size_of_axis(7, sizes) == 7
    assert size_of_axis("batch", sizes) == 2
    assert size_of_axis("8*height", sizes) == 128


def test_a_cuda_graphs_buffers_are_filled_anew(tiny_bundle: OnnxBundle) -> None:
    """The same bookkeeping that a CUDA graph needs, where a CPU can run it."""
    plain = OnnxRuntime(tiny_bundle, provider=choose_provider("cpu"), threads=1)
    kept = OnnxRuntime(tiny_bundle, provider=choose_provider("cpu"), threads=1)
    kept._unet.keeps_buffers = True
    generator = torch.Generator().manual_seed(1)
    for batch in (2, 3, 2):
        sample = torch.randn(batch, 4, 16, 16, generator=generator)
        time = torch.rand(batch, generator=generator) * 999
        text = {"encoder_hidden_states": torch.randn(batch, 24, 16, generator=generator)}
        want = plain.denoise(sample, time, text)
        assert torch.allclose(kept.denoise(sample, time, text), want, atol=1e-5)
    assert len(kept._unet._buffers) == 2  # of two rows and of four


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_gpu_answers_what_the_cpu_answers(tiny_bundle: OnnxBundle, *, cuda_graph: bool) -> None:
    """Bound to the device's memory, and replayed as one graph."""
    by_cpu = OnnxRuntime(tiny_bundle, provider=choose_provider("cpu"), threads=1)
    by_gpu = OnnxRuntime(
        tiny_bundle, provider=choose_provider("cuda"), threads=1, cuda_graph=cuda_graph
    )
    generator = torch.Generator().manual_seed(1)
    for batch in (2, 3, 2):
        sample = torch.randn(batch, 4, 16, 16, generator=generator)
        time = torch.rand(batch, generator=generator) * 999
        text = {"encoder_hidden_states": torch.randn(batch, 24, 16, generator=generator)}
        there = {name: value.cuda() for name, value in text.items()}
        found = by_gpu.denoise(sample.cuda(), time.cuda(), there)
        assert torch.allclose(found.cpu(), by_cpu.denoise(sample, time, text), atol=1e-3)


def test_layers_come_as_the_family_needs_them(tiny_bundle: OnnxBundle) -> None:
    from farm.render.batches import Refusal

    runtime = OnnxRuntime(tiny_bundle, provider=choose_provider("cpu"), threads=1)
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    said = runtime.encode_text(0, tokens, skipped=0, normalised=True)
    assert isinstance(said, EncodedText)
    assert said.hidden.shape == (1, 24, 16)
    with pytest.raises(Refusal):
        runtime.encode_text(0, tokens, skipped=0, normalised=False)
