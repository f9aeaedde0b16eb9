"""Digests in bulk are the digests of the tasks, and ids never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from farm.grid import expand, identity
from farm.manifest.job import Job
from farm.task import task_digest, task_id
from tests.grid.matrices import axis, job, jobs, product, union


@given(jobs())
@settings(max_examples=200)
def test_digests_in_bulk_are_the_digests_of_the_tasks(drawn: Job) -> None:
    space = expand(drawn)
    rows = space.digests(0, len(space))
    assert rows.shape == (len(space), 16)
    assert rows.dtype == np.uint8
    assert [row.tobytes() for row in rows] == [task_digest(task) for task in space]
    assert space[3:17].digests(2, 9).tolist() == rows[5:12].tolist()


@given(jobs())
def test_keys_are_equal_exactly_where_digests_are(drawn: Job) -> None:
    space = expand(drawn)
    keys = space.keys(0, len(space)).tolist()
    digests = [row.tobytes() for row in space.digests(0, len(space))]
    assert len(set(zip(keys, digests, strict=True))) == len(set(keys)) == len(set(digests))


def test_memory_for_shared_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_MAX_STATES", 3)
    monkeypatch.setattr(identity, "_MAX_TAILS", 2)
    monkeypatch.setattr(identity, "_BLOCK", 7)
    prompts = (f"picture {number}" for number in range(10))
    space = expand(job(product(axis("seed", *range(10)), axis("prompt", *prompts))))
    rows = space.digests(0, len(space))
    assert [row.tobytes() for row in rows] == [task_digest(task) for task in space]


def test_ids_of_a_known_job_never_change() -> None:
    """A red test here means that every image ever rendered has lost its name.

    Change `IDENTITY_TAG` and these ids together, and say so in the changelog.
    """
    matrix = product(
        axis("backend", "diffusers"),
        axis("var_subject", "sword", "Schild \u00fc"),
        axis("prompt", "a ${subject}, white background"),
        union(axis("guidance_scale", 1.0, 7.5), axis("eta", 0.5)),
        axis("seed", 1, 2**63 - 1),
    )
    assert [task_id(task) for task in expand(job(matrix))] == [
        "t1:33e17511c987260f225b11468e90f2e3",
        "t1:a1c4f72cee2c3878efda8e22d9f08333",
        "t1:77b02c32c43378044a1992dd445597b0",
        "t1:20c76c135a91206a72c20ffaaf9d4525",
        "t1:dc8fb5d96c1cb7ccbe30a95f3a37c4f0",
        "t1:6df7f00fb679036b6b4d99e25e57ac36",
        "t1:753d1eb79bfa547775fcf673e1b0bad3",
        "t1:6f06207a8875a082227a68ad5f6bd441",
        "t1:c043f13a62e3de3996a9a97af1c4f4bb",
        "t1:d82dab0d4d193aaf668221f9e3d52eb7",
        "t1:40b72c146f4d11ca498861f58479b653",
        "t1:f2b48e1fc9f8514c335c676e7544dc0f",
    ]
