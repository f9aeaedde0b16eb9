from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from farm.errors import InputError
from farm.explorer.jobs import Jobs, logs_of

JOB = "backend: pattern\noutput: out/little\nmatrix: {prompt: [a, b]}\n"


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    folder = tmp_path / "home"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs/little.yaml").write_text(JOB)
    (folder / "jobs/broken.yml").write_text("matrix: {guidence_scale: [1]}\n")
    (folder / "notes.txt").write_text("no job")
    (folder / ".hidden").mkdir()
    (folder / ".hidden/job.yaml").write_text(JOB)
    (folder / "out/done/catalog").mkdir(parents=True)
    (folder / "out/done/job.yaml").write_text(JOB)
    (tmp_path / "secret.yaml").write_text(JOB)
    return Jobs(folder, logs=tmp_path / "logs")


def test_job_files_are_those_below_and_no_records_of_outputs(jobs: Jobs) -> None:
    assert jobs.files() == ["jobs/broken.yml", "jobs/little.yaml"]


@pytest.mark.parametrize(
    "name",
    ["../secret.yaml", "/etc/hostname", "notes.txt", "jobs/none.yaml", "", "jobs", "link.yaml"],
)
def test_no_file_elsewhere_is_opened(jobs: Jobs, name: str) -> None:
    (jobs.folder / "link.yaml").symlink_to(jobs.folder.parent / "secret.yaml")
    with pytest.raises(InputError, match="no job file"):
        jobs.plan(name)
    with pytest.raises(InputError, match="no job file"):
        jobs.submit(name)


def test_a_plan_is_what_the_command_says(jobs: Jobs) -> None:
    planned = jobs.plan("jobs/little.yaml")
    assert planned.plan is not None
    assert (planned.plan["unique_tasks"], planned.plan["to_render"]) == (2, 2)
    broken = jobs.plan("jobs/broken.yml")
    assert broken.plan is None
    assert "did you mean 'guidance_scale'" in broken.problems


def test_logs_are_told_from_their_end(tmp_path: Path) -> None:
    (tmp_path / "submit-1.log").write_bytes(b"x" * 100_000 + b"the end")
    (tmp_path / "submit-2.log").write_bytes(b"\xff later")
    later, earlier = logs_of(tmp_path)
    assert later["tail"] == "\ufffd later"
    assert earlier["tail"].endswith("x" * 1000 + "the end")
    assert logs_of(tmp_path / "none") == []


@pytest.mark.slow
def test_a_submitted_job_renders_and_leaves_its_log(jobs: Jobs) -> None:
    before = psutil.Process().children()  # a browser for the tests beside this one, perhaps
    log = jobs.submit("jobs/little.yaml")
    [started] = [child for child in psutil.Process().children() if child not in before]
    started.wait()
    [run] = jobs.started()
    assert run["log"] == log
    assert "2 rendered" in run["tail"]
    assert len(list((jobs.folder / "out/little/images").rglob("*.png"))) == 2
    with pytest.raises(InputError, match="at work"):
        jobs.stop(log)
