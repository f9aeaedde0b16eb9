from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from farm.doctor import Finding, examine
from farm.doctor.apart import ProbeError, ask
from farm.doctor.cluster import examine_ray, judge_nodes
from farm.doctor.libraries import examine_libraries, examine_python, parse_requirement
from farm.doctor.machine import (
    examine_clock,
    examine_proxies,
    existing_parent,
    hub_cache,
    judge_devices,
    judge_disk,
    judge_onnx,
)
from farm.doctor.models import examine_hub, examine_models, flaw
from farm.doctor.output import examine_output
from farm.render.models import ModelInfo

GB = 10**9


def levels(findings: Iterator[Finding] | Sequence[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def test_every_complaint_says_what_to_do() -> None:
    with pytest.raises(AssertionError):
        Finding(level="warn", topic="disk", message="hardly any")


def test_an_examination_is_plain_values_for_a_script(tmp_path: Path) -> None:
    findings = examine(output=str(tmp_path / "new"))
    told = json.loads(json.dumps([finding.to_json() for finding in findings]))
    topics = {finding["topic"] for finding in told}
    assert {"python", "libraries", "memory", "disk", "models", "clock", "output", "ray"} <= topics
    assert {finding["level"] for finding in told} <= {"ok", "warn", "fail"}
    assert not (tmp_path / "new").exists()


# --- libraries ----------------------------------------------------------------------------------

NEEDS = [
    "pyarrow>=21",
    "duckdb<3,>=1.5",
    "torch>=2.10; extra == 'torch'",
    "s3fs>=2025.9; extra == 's3'",
    "onnxruntime>=1.25; (sys_platform == 'darwin') and extra == 'onnx'",
]
GOOD = {"pyarrow": "26.0.1", "duckdb": "2.0.0", "torch": "2.13.0+cpu", "s3fs": "2026.9.0"}


def judged(versions: Mapping[str, str]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in examine_libraries(NEEDS, version_of=versions.get)}


def test_what_the_package_needs_is_there() -> None:
    found = judged(GOOD)
    assert set(levels(list(found.values()))) == {"ok"}
    assert "torch 2.13.0+cpu" in found["libraries for torch"].message


def test_a_core_library_that_is_missing_is_a_failure() -> None:
    found = judged({name: version for name, version in GOOD.items() if name != "pyarrow"})
    assert found["libraries"].level == "fail"
    assert "pyarrow>=21" in found["libraries"].message


def test_without_torch_one_can_do_everything_but_render() -> None:
    found = judged({name: version for name, version in GOOD.items() if name != "torch"})
    assert found["libraries for torch"].level == "warn"
    assert ".[torch]" in str(found["libraries for torch"].next_step)


def test_groups_that_nobody_asked_for_are_no_complaint() -> None:
    found = judged({name: version for name, version in GOOD.items() if name != "s3fs"})
    assert set(levels(list(found.values()))) == {"ok"}


@pytest.mark.parametrize("version", ["1.4.9", "3.0", "3.0.1"])
def test_a_version_out_of_bounds_is_named(version: str) -> None:
    found = judged(GOOD | {"duckdb": version})
    assert found["libraries"].level == "warn"
    assert f"duckdb {version} (needs duckdb" in found["libraries"].message


@pytest.mark.parametrize(
    ("line", "version", "admitted"),
    [
        ("torch>=2.10", "2.9.1", False),
        ("torch>=2.10", "2.10", True),
        ("torch>=2.10", "2.10.0a1", True),
        ("pillow<14,>=12.1", "14.0", False),
        ("pillow<14,>=12.1", "13.9.9", True),
        ("x==1.2", "1.2.0", True),
        ("x!=1.2", "1.2", False),
        ("moto[server]>=5.1", "5.2", True),
        ("plain", "0", True),
    ],
)
def test_versions_compare_as_numbers(line: str, version: str, *, admitted: bool) -> None:
    requirement = parse_requirement(line)
    assert requirement is not None
    assert requirement.admits(version) == admitted


def test_requirements_of_other_platforms_are_none_here() -> None:
    line = "onnxruntime-gpu>=1.25; (sys_platform != 'darwin') and extra == 'onnx'"
    here = parse_requirement(line, platform="linux")
    assert here is not None
    assert here.extra == "onnx"
    assert parse_requirement(line, platform="darwin") is None


def test_an_old_python_is_a_failure() -> None:
    assert levels(examine_python((3, 9, 1))) == ["fail"]
    assert levels(examine_python((3, 12, 0))) == ["ok"]


# --- the machine --------------------------------------------------------------------------------


def seen(**facts: Any) -> dict[str, Any]:
    return {"torch": "2.13.0", "cuda": "13.0", "gpus": [], "mps": False} | facts


GPU = {"name": "NVIDIA L4", "free": 22 * GB, "total": 24 * GB, "capability": "8.9"}


@pytest.mark.parametrize(
    ("facts", "driver", "expected", "words"),
    [
        (seen(gpus=[GPU, GPU]), True, ["ok", "ok"], "cuda:0 NVIDIA L4, 22 GB of 24 GB free"),
        (seen(gpus=[GPU | {"free": GB}]), True, ["warn"], "1 GB of 24 GB free"),
        (seen(mps=True), False, ["ok"], "Apple"),
        (seen(cuda=None), True, ["warn"], "built for CPUs"),
        (seen(), True, ["warn"], "sees no GPU"),
        (seen(cuda=None), False, ["ok"], "no GPU"),
    ],
)
def test_devices_are_judged(
    facts: dict[str, Any], expected: list[str], words: str, *, driver: bool
) -> None:
    findings = list(judge_devices(facts, has_nvidia_driver=driver))
    assert levels(findings) == expected
    assert words in findings[0].message


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (
            {"usable": ["cuda", "cpu"], "chosen": "ONNX Runtime 1, CUDA", "instead_of": None},
            "ok",
            "runs on ONNX Runtime 1, CUDA (usable: cuda, cpu)",
        ),
        (
            {"usable": ["cpu"], "chosen": "CPU, for want of CUDA", "instead_of": "CUDA"},
            "warn",
            "CPU, for want of CUDA",
        ),
        (
            {"usable": ["cpu"], "refused": "no provider 'cdua'", "next": "unset X"},
            "fail",
            "no provider 'cdua'",
        ),
    ],
)
def test_what_onnx_runs_on_is_judged(facts: dict[str, Any], level: str, words: str) -> None:
    finding = judge_onnx(facts)
    assert finding.level == level
    assert words in finding.message


Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - the shape of shutil's own


@pytest.mark.parametrize(
    ("name", "usage", "level"),
    [
        ("the output", Usage(500 * GB, 100 * GB, 400 * GB), "ok"),
        ("the output", Usage(500 * GB, 495 * GB, 5 * GB), "warn"),
        ("the output", Usage(500 * GB, 499 * GB, GB // 2), "fail"),
        ("Ray's temporary folder", Usage(1000 * GB, 960 * GB, 40 * GB), "warn"),
        ("the output", Usage(1000 * GB, 960 * GB, 40 * GB), "ok"),
    ],
)
def test_disks_are_judged(name: str, usage: Usage, level: str) -> None:
    assert judge_disk(name, Path("/somewhere"), usage=usage).level == level


def test_the_disk_of_a_folder_to_be_is_that_of_the_folder_above(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "a" / "b") == tmp_path


def test_a_clock_that_lags_years_is_noticed() -> None:
    assert levels(examine_clock(now=0.0)) == ["warn"]
    assert levels(examine_clock(now=2e9)) == ["ok"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"HTTP_PROXY": ""}, []),
        ({"https_proxy": "http://name:secret@proxy:3128"}, ["warn"]),
        ({"https_proxy": "http://proxy:3128", "NO_PROXY": "localhost,10.0.0.0/8"}, ["ok"]),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "example.org"}, ["warn"]),
    ],
)
def test_proxies_are_noticed_and_not_shown(
    environment: dict[str, str], expected: list[str]
) -> None:
    findings = list(examine_proxies(environment))
    assert levels(findings) == expected
    assert "proxy:3128" not in str(findings)
    assert "secret" not in str(findings)


# --- models -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    for name in ("unet", "scheduler"):
        (model / name).mkdir(parents=True)
    (model / "model_index.json").write_text(json.dumps(index))
    (model / "unet" / "config.json").write_text("{}")
    (model / "unet" / "weights.safetensors").write_bytes(b"\0" * 200)
    (model / "scheduler" / "scheduler_config.json").write_text("{}")
    return model


def info(path: Path) -> ModelInfo:
    return ModelInfo(reference="builtin:test", kind="builtin", path=path, size=1, licence=None)


def test_a_whole_model_is_fine(folder: Path) -> None:
    assert flaw(folder) is None
    assert levels(examine_models([info(folder)])) == ["ok"]


def test_a_model_without_weights_is_a_failure(folder: Path) -> None:
    (folder / "unet" / "weights.safetensors").unlink()
    [finding] = examine_models([info(folder)])
    assert finding.level == "fail"
    assert "unet has no weights" in finding.message


def test_a_component_that_is_missing_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    assert "scheduler is missing" in (flaw(folder) or "")


def test_a_pointer_in_place_of_weights_is_recognised(folder: Path) -> None:
    (folder / "unet" / "weights.safetensors").write_text("version https://git-lfs.github.com\n")
    assert "Git LFS pointer" in (flaw(folder) or "")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unet": ["diffusers", "X"]}'])
def test_a_broken_index_is_a_flaw(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    assert flaw(folder)


def test_an_installation_without_models_is_worth_a_look() -> None:
    assert levels(examine_models([])) == ["warn"]


def test_the_switches_of_the_hub_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--owner--name").mkdir()
    [online] = examine_hub({})
    [offline] = examine_hub({"HF_HUB_OFFLINE": "1"})
    assert "1 repository cached" in online.message
    assert "fetched when first used" in online.message
    assert "offline, as HF_HUB_OFFLINE says" in offline.message


def test_the_cache_is_where_the_hub_library_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path.home() / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert hub_cache() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert hub_cache() == Path("/c")


# --- the output ---------------------------------------------------------------------------------


def test_an_output_that_can_be_written_is_fine_and_left_as_it_was(tmp_path: Path) -> None:
    assert levels(examine_output(str(tmp_path))) == ["ok"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_output_to_be_is_fine_and_not_made(tmp_path: Path) -> None:
    assert levels(examine_output(str(tmp_path / "a" / "b"))) == ["ok"]
    assert not (tmp_path / "a").exists()


def test_a_file_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert levels(examine_output(str(tmp_path / "file"))) == ["fail"]
    assert levels(examine_output(str(tmp_path / "file" / "below"))) == ["fail"]


def test_an_object_store_is_examined_through_its_url() -> None:
    assert levels(examine_output("memory://doctor")) == ["ok"]
    [finding] = examine_output("nosuchprotocol://bucket/folder")
    assert finding.level == "fail"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert levels(examine_output(str(tmp_path))) == ["fail"]
    assert levels(examine_output(str(tmp_path / "new"))) == ["fail"]


# --- Ray ----------------------------------------------------------------------------------------

HERE = {"farm": "0.1.0", "ray": "2.60.0", "torch": "2.13.0", "diffusers": None}


def node(**facts: Any) -> dict[str, Any]:
    return {"name": "gpu-1", "resources": {"CPU": 8.0, "GPU": 1.0}, "versions": HERE} | facts


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({}, "ok", "8 CPU, 1 GPU"),
        ({"output_problem": None}, "ok", "writes to the output"),
        ({"output_problem": "does not arrive"}, "fail", "does not arrive"),
        ({"problem": "the worker died"}, "fail", "the worker died"),
        ({"versions": HERE | {"farm": None}}, "fail", "not installed"),
        ({"versions": HERE | {"torch": "2.9"}}, "warn", "torch 2.9 (here 2.13.0)"),
        ({"versions": HERE | {"diffusers": "0.42"}}, "warn", "diffusers 0.42 (here none)"),
    ],
)
def test_nodes_are_judged(facts: dict[str, Any], level: str, words: str) -> None:
    [finding] = judge_nodes([node(**facts)], here=HERE)
    assert finding.level == level
    assert words in finding.message


def test_an_address_where_nothing_listens_is_a_failure_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        [finding] = examine_ray(f"127.0.0.1:{taken.getsockname()[1]}", output=None)
    assert finding.level == "fail"
    assert "does not answer" in finding.message


@pytest.mark.cluster
def test_every_node_of_a_cluster_is_asked_to_write_to_the_output(tmp_path: Path) -> None:
    script = (
        "from ray.cluster_utils import Cluster\n"
        "import json, sys\n"
        "from farm.doctor import examine\n"
        "head = {'num_cpus': 1, 'include_dashboard': False}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=head)\n"
        "try:\n"
        "    cluster.add_node(num_cpus=2)\n"
        "    found = examine(output=sys.argv[1], address=cluster.address)\n"
        "    print(json.dumps([finding.to_json() for finding in found]))\n"
        "finally:\n"
        "    cluster.shutdown()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        timeout=200,
    )
    nodes = [
        finding
        for finding in json.loads(done.stdout.splitlines()[-1])
        if finding["topic"].startswith("node ")
    ]
    assert sorted(finding["message"] for finding in nodes) == [
        "1 CPU, writes to the output",
        "2 CPU, writes to the output",
    ]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- from a process of its own ------------------------------------------------------------------


def test_a_probe_that_crashes_says_so_in_its_last_line() -> None:
    with pytest.raises(ProbeError, match="No module named"):
        ask("farm.doctor.no_such_module", timeout_s=60)


def test_a_probe_that_hangs_is_given_up() -> None:
    with pytest.raises(ProbeError, match="no answer within"):
        ask("http.server", "0", "--bind", "127.0.0.1", timeout_s=0.5)
