"""An export proves itself, refuses what it cannot do, and is written for what will run it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from export_onnx.components import Component, Tensor, components_of
from export_onnx.export import export
from export_onnx.fusing import fuse_for_cuda
from export_onnx.options import parse_options
from export_onnx.quantizing import Recorder, quantize
from export_onnx.saving import WEIGHTS, save_graph
from export_onnx.tracing import Extent, Traced, trace
from export_onnx.verify import ComponentParity, ImageParity, Parity, compare_components, require
from farm.errors import InputError, ModelError
from farm.render.exporting import export_bundle
from farm.render.lane.onnx_runtime import choose_provider, newest_opset, open_session
from farm.render.lane.torch_runtime import describe
from farm.render.loading import load_pipeline
from farm.render.models import ONNX_INDEX
from farm.render.onnx_bundle import OnnxBundle, OnnxComponent, open_bundle
from farm.task import PipelineKey

pytestmark = [pytest.mark.xdist_group("onnx"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def unet(tiny_sd: Path) -> Component:
    loaded = load_pipeline(PipelineKey("diffusers", str(tiny_sd), "float32"), device="cpu")
    components = components_of(loaded.pipe, describe(loaded.pipe))
    return next(one for one in components if one.name == "unet")


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def asked(component: Component) -> dict[str, np.ndarray]:
    return {
        one.name: feed.numpy()
        for one, feed in zip(component.inputs, _example(component), strict=True)
    }


def _example(component: Component) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return component.example(batch=3, height=16, width=16, generator=generator)


def answer(file: Path, component: Component) -> np.ndarray:
    session = open_session(file, provider=choose_provider("cpu"), threads=1)
    return np.asarray(session.run(None, asked(component))[0])


def expected(component: Component) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(component.module(*_example(component)))


# --- the bundle that first use makes ------------------------------------------------------------


def test_the_report_in_the_bundle_says_what_was_measured(tiny_bundle: OnnxBundle) -> None:
    report = json.loads((tiny_bundle.folder / "report/parity.json").read_text())
    assert report["accepted"]
    assert {(one["component"], one["batch"]) for one in report["components"]} == {
        (name, batch) for name in tiny_bundle.components for batch in (1, 2, 5)
    }
    assert all(one["max_abs"] <= one["tolerance"] for one in report["components"])
    assert len(report["images"]) >= 4
    assert all(one["psnr"] is None or one["psnr"] >= 40 for one in report["images"])
    page = (tiny_bundle.folder / "report/index.html").read_text()
    for image in report["images"]:
        for kind in ("torch", "onnx", "difference"):
            assert (tiny_bundle.folder / f"report/images/{image['name']}-{kind}.png").is_file()
            assert f"images/{image['name']}-{kind}.png" in page


def test_every_attention_and_norm_is_written_for_onnx_runtime(
    tiny_bundle: OnnxBundle, unet: Component
) -> None:
    found = operators(tiny_bundle.components["unet"].file)
    assert found["MultiHeadAttention"] == unet.attentions > 0
    assert found["InstanceNormalization"] == unet.group_norms > 0
    assert not found["Attention"]
    assert not found["GroupNormalization"]


def test_attention_takes_its_inputs_without_transposing_them(tiny_bundle: OnnxBundle) -> None:
    graph = onnx.load(tiny_bundle.components["unet"].file).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    heads = [node for node in graph.node if node.op_type == "MultiHeadAttention"]
    assert {makers[name] for node in heads for name in node.input} == {"MatMul"}


def test_weights_are_kept_once(tiny_bundle: OnnxBundle, tiny_sd: Path) -> None:
    graphs = [onnx.load(one.file).graph for one in tiny_bundle.components.values()]
    kept = sum(len(one.raw_data) for graph in graphs for one in graph.initializer)
    weights = sum(path.stat().st_size for path in tiny_sd.rglob("*.safetensors"))
    assert 0.5 * weights < kept < 1.1 * weights


# --- other targets ------------------------------------------------------------------------------


def test_for_cuda_every_group_norm_is_fused(
    tiny_bundle: OnnxBundle, unet: Component, tmp_path: Path
) -> None:
    file = Path(shutil.copy(tiny_bundle.components["unet"].file, tmp_path / "model.onnx"))
    counts = fuse_for_cuda(unet, file, half=True)
    found = operators(file)
    assert counts["GroupNorm"] + counts["SkipGroupNorm"] == unet.group_norms
    assert found["GroupNorm"] + found["SkipGroupNorm"] == unet.group_norms
    weights = {entry.data_type for entry in onnx.load(file).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in weights
    assert {one.type.tensor_type.elem_type for one in onnx.load(file).graph.input} == {
        onnx.TensorProto.FLOAT
    }


class Enlarging(torch.nn.Module):
    """Enlarges twice by the same scales, which are one constant of its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = torch.nn.Linear(16, 16)
        self.convolutions = torch.nn.ModuleList(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in "12")

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        sample = self.colours(sample.movedim(1, -1)).movedim(-1, 1)
        for convolution in self.convolutions:
            larger = torch.nn.functional.interpolate(sample, scale_factor=2.0, mode="nearest")
            sample = convolution(larger)
        return sample


@pytest.fixture(scope="module")
def enlarging() -> tuple[Component, ir.Model]:
    torch.manual_seed(0)
    component = Component(
        name="unet",
        module=Enlarging(),
        inputs=(Tensor(name="sample", axes=("batch", 16, "height", "width")),),
        outputs=(Tensor(name="prediction", axes=("batch", 16, "4*height", "4*width")),),
        tolerance=1e-4,
    )
    traced = trace(component, opset=23, extent=Extent(height=4, width=6, is_fixed=False))
    assert traced.exporter == "dynamo"
    return component, traced.model


def test_enlarging_twice_in_float16_keeps_its_scales(
    enlarging: tuple[Component, ir.Model], tmp_path: Path
) -> None:
    component, model = enlarging
    file = save_graph(model, tmp_path / "model.onnx")
    resizes = [node for node in onnx.load(file).graph.node if node.op_type == "Resize"]
    assert len({node.input[2] for node in resizes}) == 1 < len(resizes)
    fuse_for_cuda(component, file, half=True)
    graph = onnx.load(file).graph
    named = [name for node in graph.node for name in node.output]
    assert len(named) == len(set(named))
    types = {entry.name: entry.data_type for entry in graph.initializer}
    scales = [node.input[2] for node in graph.node if node.op_type == "Resize"]
    assert [types[name] for name in scales] == [onnx.TensorProto.FLOAT] * 2
    assert onnx.TensorProto.FLOAT16 in types.values()


def test_what_the_optimiser_gives_up_at_is_said_with_a_next_step(
    enlarging: tuple[Component, ir.Model], tmp_path: Path
) -> None:
    component, model = enlarging
    file = save_graph(model, tmp_path / "model.onnx")
    broken = onnx.load(file)
    broken.graph.node.append(next(n for n in broken.graph.node if n.op_type == "Resize"))
    onnx.save(broken, file)
    with pytest.raises(ModelError, match=r"cannot write unet for CUDA: \w+") as caught:
        fuse_for_cuda(component, file, half=False)
    assert "--optimize cpu" in str(caught.value.hint)


def test_a_fusion_that_is_missed_is_an_error(
    tiny_bundle: OnnxBundle, unet: Component, tmp_path: Path
) -> None:
    file = Path(shutil.copy(tiny_bundle.components["unet"].file, tmp_path / "model.onnx"))
    more = replace(unet, group_norms=unet.group_norms + 1)
    with pytest.raises(ModelError, match=r"ONNX Runtime fused \d+ of \d+ group norms"):
        fuse_for_cuda(more, file, half=False)


def test_dynamic_quantisation_keeps_the_prediction_close(
    tiny_bundle: OnnxBundle, unet: Component, tmp_path: Path
) -> None:
    source = tiny_bundle.components["unet"].file
    file = Path(shutil.copy(source, tmp_path / "model.onnx"))
    quantize(file, how="dynamic", feeds=())
    assert operators(file)["DynamicQuantizeLinear"]
    want = expected(unet)
    error = np.abs(answer(file, unet) - want).max() / np.abs(want).max()
    assert 0 < error < 0.2


def test_static_quantisation_measures_what_was_asked(
    tiny_bundle: OnnxBundle, unet: Component, tmp_path: Path
) -> None:
    def denoise(
        sample: torch.Tensor, timestep: torch.Tensor, text: dict[str, torch.Tensor]
    ) -> object:
        return unet.module(sample, timestep, text["encoder_hidden_states"])

    recorder = Recorder(denoise, most=2)
    generator = torch.Generator().manual_seed(9)
    with torch.inference_mode():
        for _ in range(3):
            sample, time, text = unet.example(batch=2, height=16, width=16, generator=generator)
            recorder(sample, time, {"encoder_hidden_states": text})
    assert len(recorder.feeds) == 2
    file = Path(shutil.copy(tiny_bundle.components["unet"].file, tmp_path / "model.onnx"))
    quantize(file, how="static", feeds=recorder.feeds)
    weights = {entry.data_type for entry in onnx.load(file).graph.initializer}
    assert onnx.TensorProto.INT8 in weights
    want = expected(unet)
    error = np.abs(answer(file, unet) - want).max() / np.abs(want).max()
    assert 0 < error < 0.3


@pytest.mark.parametrize(
    ("way", "fits"), [("dynamic", False), ("static", True), ("fuse", False), ("halve", True)]
)
def test_weights_beside_a_graph_are_replaced_or_leave(
    enlarging: tuple[Component, ir.Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    *,
    fits: bool,
) -> None:
    """As those of Stable Diffusion 1.5, which are more than a graph may hold."""
    monkeypatch.setattr("export_onnx.saving.LARGEST_GRAPH", 12_000)
    component, model = enlarging
    file = save_graph(model, tmp_path / "model.onnx")
    weights = tmp_path / WEIGHTS
    before = weights.read_bytes()
    if way == "dynamic":
        quantize(file, how="dynamic", feeds=())
    elif way == "static":
        quantize(file, how="static", feeds=[asked(component)])
    else:
        fuse_for_cuda(component, file, half=way == "halve")
    assert set(tmp_path.iterdir()) == ({file} if fits else {file, weights})
    if not fits:
        assert weights.read_bytes() != before
    if way in {"dynamic", "static"}:
        want = expected(component)
        error = np.abs(answer(file, component) - want).max() / np.abs(want).max()
        assert 0 < error < 0.2
    found = [onnx.numpy_helper.to_array(entry) for entry in onnx.load(file).graph.initializer]
    assert all(np.isfinite(weight).all() for weight in found)


# --- torch's older exporter ---------------------------------------------------------------------


class Forgetful(torch.nn.Module):
    """Looks at a value, which a capture has not; and never at its text."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> object:
        return sample + timestep[:, None, None, None] if float(timestep[0]) >= 0 else text


def test_an_input_that_is_never_looked_at_is_not_asked_for(
    tiny_bundle: OnnxBundle, unet: Component, tmp_path: Path
) -> None:
    forgetful = replace(unet, module=Forgetful())
    traced = trace(forgetful, opset=23, extent=Extent(height=4, width=6, is_fixed=False))
    assert traced.exporter == "torchscript"
    assert traced.reason
    assert [value.name for value in traced.model.graph.inputs] == ["sample", "timestep"]
    file = save_graph(traced.model, tmp_path / "model.onnx")
    bundle = replace(tiny_bundle, components={"unet": OnnxComponent(name="unet", file=file)})
    measured = compare_components(
        [forgetful], bundle, provider=choose_provider("cpu"), sizes=[(32, 32)], threads=1
    )
    assert all(one.max_abs == 0 for one in measured)


def no_capture(*_: object) -> object:
    raise RuntimeError("a network that torch cannot capture")


@pytest.mark.slow
def test_what_the_older_exporter_wrote_is_told_as_it_is(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export_onnx.tracing._dynamo", no_capture)
    report = export(str(tiny_sd), tmp_path / "b", options=parse_options(), threads=1)
    assert report.parity is not None
    bundle = open_bundle(report.folder)
    index = json.loads((bundle.folder / ONNX_INDEX).read_text())
    for name, component in bundle.components.items():
        [standard] = [one for one in onnx.load(component.file).opset_import if not one.domain]
        entry = index["components"][name]
        assert entry["opset"] == standard.version == index["opset"] == 20
        assert entry["exporter"].startswith("torchscript: RuntimeError: a network that torch")
        assert entry["operators"] == {}


@pytest.mark.slow
def test_the_older_exporter_writes_no_float16(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export_onnx.tracing._dynamo", no_capture)
    options = parse_options(dtype="float16", has_encoder=False)
    with pytest.raises(ModelError, match="unet cannot be written in float16") as caught:
        export(str(tiny_sd), tmp_path / "b", options=options, threads=1)
    assert "float32" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_one_size_is_built_in(tiny_sd: Path, tmp_path: Path) -> None:
    report = export(str(tiny_sd), tmp_path / "b", options=parse_options(sizes="32x48"), threads=1)
    graph = onnx.load(report.folder / "unet/model.onnx").graph
    [sample] = [one for one in graph.input if one.name == "sample"]
    axes = [axis.dim_param or axis.dim_value for axis in sample.type.tensor_type.shape.dim]
    assert axes == ["batch", 4, 24, 16]


# --- refusals -----------------------------------------------------------------------------------


def test_a_tolerance_that_is_missed_is_loud() -> None:
    component = ComponentParity(
        component="unet", output="prediction", batch=2, height=64, width=64,
        max_abs=0.5, mean_abs=0.1, largest=2.0, tolerance=1e-4,
    )  # fmt: skip
    image = ImageParity(
        name="01", prompt="x", guidance_scale=1.0, num_inference_steps=8, height=64, width=64,
        psnr=12.0, ssim=0.3,
    )  # fmt: skip
    parity = Parity(
        components=(component,), images=(image,), least_psnr=40.0, least_is_mean=False, provider="x"
    )
    with pytest.raises(ModelError, match="do not compute what the model computes") as caught:
        require(parity, where="here")
    assert "differs by 0.5" in str(caught.value)
    assert "PSNR 12.0 dB" in str(caught.value)


def test_a_wrong_graph_leaves_no_bundle(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip is found by the comparison, before anything appears."""
    monkeypatch.setattr("export_onnx.export.trace", _trace_wrongly)
    monkeypatch.setattr("export_onnx.tracing._dynamo", no_capture)  # it takes a tenth of the time
    with pytest.raises(ModelError, match="text_encoder at batch 1"):
        export(str(tiny_sd), tmp_path / "b", options=parse_options(), threads=1)
    assert not list(tmp_path.iterdir())


def _trace_wrongly(component: Component, *, opset: int, extent: Extent) -> Traced:
    traced = trace(component, opset=opset, extent=extent)
    for value in traced.model.graph.initializers.values():
        if str(value.name).endswith("token_embedding.weight") and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy()[::-1].copy())
    return traced


def test_an_unknown_family_is_refused(tiny_flow: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be exported: StableDiffusion3Pipeline"):
        export_bundle(str(tiny_flow), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_an_opset_that_the_runtime_does_not_know_is_refused(tmp_path: Path) -> None:
    too_new = newest_opset() + 1
    with pytest.raises(ModelError, match=f"opset {too_new} is too new"):
        export_bundle("builtin:sprites", tmp_path / "b", opset=too_new)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dtype": "float61"}, "--dtype float61: it takes float32, float16"),
        ({"quantize": "int4"}, "--quantize int4"),
        ({"optimize": "gpu"}, "--optimize gpu: it takes any, cpu, cuda"),
        ({"sizes": "512"}, "'512' is no size"),
        ({"opset": 17}, "opset 17 is too old"),
        ({"opset": 20, "optimize": "cpu"}, "needs opset 23"),
        ({"dtype": "float16", "optimize": "cpu"}, "float16 is for CUDA"),
        ({"dtype": "float16", "quantize": "static"}, "8-bit graphs are for the CPU"),
    ],
)
def test_options_that_make_no_sense(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_options(**words)  # type: ignore[arg-type]


def test_options_choose_what_suits() -> None:
    assert parse_options().target == "cpu"
    assert parse_options(dtype="float16").target == "cuda"
    assert parse_options(opset=20).target == "any"
    assert parse_options(sizes="512x768, 64x64").sizes == ((768, 512), (64, 64))


def test_a_size_that_the_networks_cannot_draw(tiny_sd: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="multiples of 4 pixels"):
        export(str(tiny_sd), tmp_path / "b", options=parse_options(sizes="30x32"), threads=1)
