from __future__ import annotations

import io
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from farm.errors import InputError, StoreError
from farm.store import Store
from farm.store.files import LocalFiles
from farm.task import TaskSpec
from farm.view.thumbnails import Thumbnails


def picture(width: int, height: int, mode: str = "RGB", suffix: str = "PNG") -> bytes:
    """A smooth gradient, as a file."""
    across = np.linspace(0, 255, width, dtype=np.uint8)
    down = np.linspace(0, 255, height, dtype=np.uint8)
    planes = np.stack(np.broadcast_arrays(across, down[:, None], across[::-1], down[:, None]), -1)
    sink = io.BytesIO()
    Image.fromarray(planes, "RGBA").convert(mode).save(sink, suffix)
    return sink.getvalue()


Put = Callable[..., str]


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = tmp_path / "out" if request.param == "folder" else f"memory://{secrets.token_hex(6)}"
    return Store.open(place, create=True)


def put(store: Store, data: bytes, *, seed: int = 0, suffix: str = "png") -> str:
    return store.put_image(TaskSpec(prompt="a #1 sword", seed=seed), data, suffix=suffix).path


class ReadOnly(LocalFiles):
    def put_cached(self, name: str, data: bytes) -> None:
        raise StoreError(f"cannot write {len(data)} bytes", where=name)


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP"
        image.load()
        return image


def test_a_thumbnail_fits_its_size_and_looks_like_the_image(store: Store) -> None:
    data = picture(600, 300)
    thumbnail = opened(Thumbnails.open(store.url).get(put(store, data), 128))
    assert thumbnail.size == (128, 64)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.resize((128, 64)), np.int16)
    assert np.abs(np.asarray(thumbnail.convert("RGB"), np.int16) - wanted).mean() < 4


def test_a_small_image_keeps_its_size_and_transparency_stays(store: Store) -> None:
    thumbnails = Thumbnails.open(store.url)
    small = opened(thumbnails.get(put(store, picture(40, 30)), 128))
    assert (small.size, small.mode) == ((40, 30), "RGB")
    clear = opened(thumbnails.get(put(store, picture(400, 400, "RGBA")), 128))
    assert clear.mode == "RGBA"
    assert np.asarray(clear)[..., 3].min() < 20
    grey = opened(thumbnails.get(put(store, picture(400, 400, "L", "JPEG"), suffix="jpg"), 128))
    assert grey.size == (128, 128)


def test_it_is_made_once_and_lies_where_its_name_says(store: Store) -> None:
    thumbnails = Thumbnails.open(store.url)
    path = put(store, picture(300, 300))
    first = thumbnails.get(path, 128)
    store._files.put(path, b"not read again")
    assert thumbnails.get(path, 128) == first
    name = thumbnails.name(path, 128)
    assert name == f"thumbnails/128/{path.removeprefix('images/')}.webp"
    assert store._files.get(name) == first


@pytest.mark.parametrize("damage", [b"", bytes(500), b"RIFF\x10\0\0\0WEBP"])
def test_a_damaged_thumbnail_is_made_again(store: Store, damage: bytes) -> None:
    thumbnails = Thumbnails.open(store.url)
    path = put(store, picture(300, 300))
    whole = thumbnails.get(path, 128)
    for bad in (damage, whole[:-1]):
        store._files.put(thumbnails.name(path, 128), bad)
        assert thumbnails.get(path, 128) == whole
        assert store._files.get(thumbnails.name(path, 128)) == whole


def test_a_thumbnail_does_not_outlive_its_image(store: Store) -> None:
    thumbnails = Thumbnails.open(store.url)
    path = put(store, picture(300, 300))
    thumbnails.get(path, 128)
    store._files.delete(path)
    with pytest.raises(FileNotFoundError):
        thumbnails.get(path, 128)
    assert next(thumbnails.each([path], 128)).problem == "the image is missing"


def test_what_cannot_be_kept_is_still_returned(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", create=True)
    path = put(store, picture(300, 300))
    thumbnails = Thumbnails(ReadOnly(Path(store.url)))
    assert opened(thumbnails.get(path, 128)).size == (128, 128)


def test_no_path_leads_out_of_the_output(store: Store) -> None:
    with pytest.raises(InputError):
        Thumbnails.open(store.url).get("images/../../secret.png", 128)


def test_each_comes_in_order_with_what_went_wrong(store: Store) -> None:
    paths = [put(store, picture(200 + seed, 100), seed=seed) for seed in range(40)]
    broken = put(store, b"no image", seed=99)
    found = list(Thumbnails.open(store.url).each([*paths, broken, "images/gone.png"], 128))
    assert [one.image_path for one in found] == [*paths, broken, "images/gone.png"]
    assert all(one.data and one.problem is None for one in found[:40])
    assert found[40].data is None
    assert "no readable image" in str(found[40].problem)
    assert found[41].problem == "the image is missing"


def test_many_at_once_make_the_same_thumbnail(store: Store) -> None:
    path = put(store, picture(500, 500))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: Thumbnails.open(store.url).get(path, 256), range(24)))
    assert len(found) == 1


def test_gc_sweeps_thumbnails_whose_image_is_gone(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "out", create=True)
    thumbnails = Thumbnails.open(store.url)
    path = put(store, picture(300, 300))
    thumbnails.get(path, 128)
    assert store.gc().thumbnails == ()  # the image is young
    assert store.gc(grace_s=0).thumbnails == (thumbnails.name(path, 128),)  # no row names it
    assert not store._files.exists(thumbnails.name(path, 128))
    thumbnails = Thumbnails.open(store.url)
    shutil.rmtree(Path(store.url, "thumbnails"))  # whoever wants the room back
    thumbnails.get(put(store, picture(300, 300)), 128)
