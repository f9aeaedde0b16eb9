"""The files for `ray up`, judged by the installed Ray's own rules."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import ray.autoscaler
from ray.autoscaler._private.local.config import LOCAL_CLUSTER_NODE_TYPE
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ruamel.yaml import YAML

import farm

ROOT = Path(__file__).resolve().parents[2]
ON_PREMISE = ROOT / "cluster.yaml"
AWS = ROOT / "docs/how-to/cluster-aws.yaml"
FILES = (ON_PREMISE, AWS)
Config = dict[str, Any]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def read(path: Path) -> Config:
    return cast("Config", YAML(typ="safe", pure=True).load(path.read_text()))


def prepared(path: Path) -> Config:
    """Return the file as `ray up` sees it after filling in defaults, and checked once more."""
    config: Config = prepare_config(read(path))
    validate_config(config)
    return config


def rays_schema() -> Config:
    package = Path(ray.autoscaler.__file__).parent
    return cast("Config", json.loads((package / "ray-schema.json").read_text()))


@every_file
def test_the_file_satisfies_rays_schema_as_written(path: Path) -> None:
    jsonschema.validate(read(path), rays_schema())


@every_file
def test_the_file_survives_what_ray_up_makes_of_it(path: Path) -> None:
    config = prepared(path)
    assert config["cluster_name"] == "farm"
    assert config["head_node_type"] in config["available_node_types"]


@every_file
def test_the_schema_would_notice_a_key_of_our_own(path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError, match="farm_workers"):
        jsonschema.validate(read(path) | {"farm_workers": 2}, rays_schema())


def test_on_premise_all_machines_join_and_stay() -> None:
    config = prepared(ON_PREMISE)
    machines = len(config["provider"]["worker_ips"])
    node = config["available_node_types"][LOCAL_CLUSTER_NODE_TYPE]
    assert node["min_workers"] == node["max_workers"] == config["max_workers"] == machines


def requests_of_jobs() -> dict[str, dict[str, float]]:
    """Return what a worker of each job in `jobs/` asks of its cluster, as the executor does."""
    found = {}
    for path in sorted((ROOT / "jobs").glob("*.yaml")):
        wanted = farm.load_job(path).resources
        found[path.stem] = {
            "GPU": 1.0 if wanted.num_gpus is None else wanted.num_gpus,
            "CPU": 1.0 if wanted.num_cpus is None else wanted.num_cpus,
        }
    return found


@pytest.mark.parametrize("job", requests_of_jobs())
def test_what_a_job_asks_for_fits_on_a_node_type_in_the_cloud(job: str) -> None:
    wanted = requests_of_jobs()[job]
    kinds = [
        kind["resources"]
        for name, kind in prepared(AWS)["available_node_types"].items()
        if name != "head"
    ]
    assert any(
        all(kind.get(what, 0) >= amount for what, amount in wanted.items()) for kind in kinds
    )


def test_the_overnight_job_asks_for_more_than_the_defaults() -> None:
    assert requests_of_jobs()["sdxl_overnight"] == {"GPU": 1.0, "CPU": 4.0}


@every_file
def test_no_renderer_lands_on_the_head(path: Path) -> None:
    options = start_options(read(path)["head_start_ray_commands"])
    assert options["num_cpus"] == options["num_gpus"] == 0
    assert options["head"] is True


@every_file
def test_workers_offer_all_they_have(path: Path) -> None:
    options = start_options(read(path)["worker_start_ray_commands"])
    assert options["num_cpus"] is None
    assert options["num_gpus"] is None


@every_file
def test_nobody_reaches_the_dashboard_and_nobody_joins_without_the_token(path: Path) -> None:
    config = read(path)
    assert start_options(config["head_start_ray_commands"])["dashboard_host"] == "127.0.0.1"
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in config[commands][-1]


@every_file
def test_every_node_gets_this_version_from_the_same_pins(path: Path) -> None:
    config = read(path)
    wheel = f"farm-{farm.__version__}-py3-none-any.whl"
    assert config["file_mounts"][f"~/{wheel}"] == f"dist/{wheel}"
    install, again = (line for line in config["setup_commands"] if wheel in line)
    assert "--constraint ~/constraints.txt" in install
    assert "--no-deps --force-reinstall" in again
    for local in config["file_mounts"].values():
        made_by_the_user = local.startswith(("~", "dist/"))
        assert made_by_the_user or (ROOT / local).exists(), local


@every_file
def test_the_commands_are_shell(path: Path) -> None:
    lists = [value for key, value in read(path).items() if key.endswith("_commands")]
    assert lists
    for command in (line for commands in lists for line in commands):
        subprocess.run(["bash", "-n", "-c", command], check=True)


UNITS = re.findall(r"^ExecStart=(.*)$", (ROOT / "docs/how-to/cluster.md").read_text(), re.MULTILINE)


def test_the_systemd_units_start_ray_as_the_launcher_does() -> None:
    head, worker = (start_options([unit]) for unit in UNITS)
    launched = start_options(read(ON_PREMISE)["head_start_ray_commands"])
    differing = {name for name in head if head[name] != launched[name]}
    assert differing == {"block", "autoscaling_config"}
    assert head["block"] is worker["block"] is True
    address = read(ON_PREMISE)["provider"]["head_ip"]
    assert worker["address"] == f"{address}:{head['port']}"


def start_options(commands: list[str]) -> dict[str, Any]:
    """Return what `ray start` would be told, read by Ray's own parser."""
    words = shlex.split(commands[-1])
    place = words.index("start")
    assert words[place - 1].endswith("/ray")
    context = start.make_context("start", words[place + 1 :])
    return context.params
