from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from diffkit.data.batches import Batches
from diffkit.data.decode import decode
from diffkit.data.image_folder import DecodedImages, ImageFolder
from diffkit.data.memory import InMemory
from diffkit.errors import DataError
from diffkit.spec import problems_of


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (value, 0, 0)).save(path, "PNG")


def values(data):
    """The red value of every image, which tells which it is."""
    images = data.open()
    return images.pixels(torch.arange(len(images)))[:, 0, 0, 0].tolist()


def test_flat(tmp_path):
    for value, name in enumerate(("10.png", "2.png", "B.PNG", "a.pNg")):
        save(tmp_path / name, value)
    data = ImageFolder(root=tmp_path, size=4)
    assert data.info().classes == ()
    assert data.info().shape == (3, 4, 4)
    assert values(data) == [0, 1, 2, 3]
    assert data.open().labels(torch.tensor([0])) is None


def test_one_folder_a_class(tmp_path):
    save(tmp_path / "dog" / "b.png", 1)
    save(tmp_path / "dog" / "deeper" / "a.png", 2)
    save(tmp_path / "cat" / "z.png", 3)
    data = ImageFolder(root=tmp_path, size=4)
    assert data.info().classes == ("cat", "dog")
    assert values(data) == [3, 1, 2]
    assert data.open().labels(torch.arange(3)).tolist() == [0, 1, 1]


def test_without_labels_everything_is_one_set(tmp_path):
    save(tmp_path / "dog" / "b.png", 1)
    save(tmp_path / "a.png", 2)
    data = ImageFolder(root=tmp_path, size=4, labels=False)
    assert data.info().classes == ()
    assert values(data) == [2, 1]
    assert data.open().labels(torch.arange(2)) is None


def test_what_is_passed_over(tmp_path):
    save(tmp_path / "a.png", 1)
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".cache" / "a.png")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.png").mkdir()
    assert values(ImageFolder(root=tmp_path, size=4)) == [1]


def test_links(tmp_path):
    save(tmp_path / "elsewhere" / "one.png", 1)
    root = tmp_path / "root"
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "one.png")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "circle").symlink_to(root)
    data = ImageFolder(root=root, size=4)
    assert data.info().classes == ("cat", "dog")
    assert 1 in values(data)
    assert len(data.open()) == 3  # the circle leads to the other class once, and not to itself


def test_info_decodes_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_text("not a picture")
    assert ImageFolder(root=tmp_path, size=[4, 5], channels=1).info().shape == (1, 4, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_in_memory_and_on_demand_are_the_same(picture_root, channels):
    settings = {"root": picture_root, "size": [16, 12], "channels": channels}
    memory, demand = ImageFolder(**settings).open(), ImageFolder(**settings, memory_limit=0).open()
    assert isinstance(memory, InMemory)
    assert isinstance(demand, DecodedImages)
    indices = torch.tensor([5, 23, 0, 5])
    assert torch.equal(memory.pixels(indices), demand.pixels(indices))
    assert torch.equal(memory.labels(indices), demand.labels(indices))
    expected = decode(picture_root / "cat" / "05.png", (16, 12), channels, "white")
    np.testing.assert_array_equal(memory.pixels(indices)[0].numpy(), expected)
    one, another = (Batches(images, 7, 0, flip=True) for images in (memory, demand))
    for step in range(5):
        assert torch.equal(one.batch(step)[0], another.batch(step)[0])


def test_several_threads_decode(picture_root, monkeypatch):
    threads = set()
    waiting = threading.Barrier(2, timeout=20)

    def slow(*arguments):
        threads.add(threading.current_thread().name)
        if len(threads) <= 2 and not waiting.broken:
            waiting.wait()
        return decode(*arguments)

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    images = ImageFolder(root=picture_root, size=8, memory_limit=0).open()
    monkeypatch.setattr("diffkit.data.image_folder.decode", slow)
    images.pixels(torch.arange(2))
    assert len(threads) == 2


@pytest.mark.parametrize("memory_limit", [4, 0])
def test_unreadable_files_are_named_all_at_once(tmp_path, memory_limit):
    for i in range(15):
        save(tmp_path / "cat" / f"{i:02}.png")
    for i in (3, 5):
        (tmp_path / "cat" / f"{i:02}.png").write_text("not a picture")
    with pytest.raises(DataError) as error:
        ImageFolder(root=tmp_path, size=4, memory_limit=memory_limit).open()
    assert str(error.value) == (
        f"{tmp_path}: 2 of 15 pictures cannot be read: mend or remove them\n"
        "  cat/03.png: not a picture of a known format (PNG, JPEG, WEBP, BMP, GIF, TIFF)\n"
        "  cat/05.png: not a picture of a known format (PNG, JPEG, WEBP, BMP, GIF, TIFF)"
    )


def test_very_many_unreadable_files_are_counted(tmp_path):
    for i in range(300):
        (tmp_path / f"{i:03}.png").write_text("not a picture")
    with pytest.raises(DataError) as error:
        ImageFolder(root=tmp_path, size=4).open()
    lines = str(error.value).splitlines()
    assert lines[0].endswith("300 of 300 pictures cannot be read: mend or remove them")
    assert lines[10].startswith("  009.png")
    assert lines[11:] == ["  and 290 more"]


def test_a_file_that_breaks_later_is_named_where_its_batch_is_drawn(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    images = ImageFolder(root=tmp_path, size=4, memory_limit=0).open()
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) - 30])
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be read: mend or remove them\n  1\.png: "):
        Batches(images, 3, 0, flip=False).batch(0)


@pytest.mark.filterwarnings("error")
def test_a_decompression_bomb_is_refused_without_a_warning(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "a.png")
    for limit in (4, 0):
        with pytest.raises(DataError, match=r"a\.png: 10000×10000 pixels, more than 89,478,485"):
            ImageFolder(root=tmp_path, size=4, memory_limit=limit).open()


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=f"^{tmp_path}/x: no such folder: data.root names a folder of pictures$"):
        ImageFolder(root=tmp_path / "x", size=4).info()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: not a folder"):
        ImageFolder(root=tmp_path / "file", size=4).open()


@pytest.mark.parametrize("labels", [True, False])
def test_an_empty_folder(tmp_path, labels):
    (tmp_path / "notes.txt").touch()
    data = ImageFolder(root=tmp_path, size=4, labels=labels)
    for work in (data.info, data.open):
        with pytest.raises(DataError, match=rf"^{tmp_path}: no pictures in it \(\.bmp, \.gif, "):
            work()


def test_an_empty_class(tmp_path):
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=f"^{tmp_path}/dog: a class without a picture: remove the folder, or"):
        ImageFolder(root=tmp_path, size=4).info()


def test_a_mixture(tmp_path):
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "loose.png")
    with pytest.raises(DataError) as error:
        ImageFolder(root=tmp_path, size=4).info()
    assert str(error.value) == (
        f"{tmp_path}: holds both pictures, such as loose.png, and folders with pictures, such as cat: "
        "put all pictures into one folder a class, or set data.labels = false to take all without a class"
    )


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    save(tmp_path / "cat" / "a.png")
    list_folder = Path.iterdir

    def refuse(path):  # for real it would be no test where root runs it
        if path.name == "cat":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=f"^{tmp_path}/cat: cannot be read: Permission denied$"):
        ImageFolder(root=tmp_path, size=4).info()


@pytest.mark.parametrize(("size", "sides"), [(64, (64, 64)), ([48, 64], (48, 64)), ((8, 8), (8, 8)), (1, (1, 1))])
def test_size(size, sides):
    data = ImageFolder(root="x", size=size)
    assert data.size == sides
    assert ImageFolder(**data.model_dump()) == data


@pytest.mark.parametrize("size", [0, -1, 8193, True, 6.0, "64", [64], [1, 2, 3], [0, 4], [4, "4"], [True, 4], {}, None])
def test_a_wrong_size_gives_one_message(size):
    with pytest.raises(ValidationError) as error:
        ImageFolder(root="x", size=size)
    (problem,) = problems_of(error.value)
    assert problem.key == "size"
    assert problem.message == "a side such as 64, or [height, width] such as [48, 64], each of 1..8192"


@pytest.mark.parametrize("background", ["red", "#12345", "#1234567", "White", 7, "", "#12345g\n", "#123456\n"])
def test_a_wrong_background_gives_one_message(background):
    with pytest.raises(ValidationError) as error:
        ImageFolder(root="x", size=4, background=background)
    (problem,) = problems_of(error.value)
    assert (problem.key, problem.message) == ("background", 'should be "white", "black", or a color such as "#808080"')


@pytest.mark.parametrize("channels", [2, 4, 0, True, "3"])
def test_wrong_channels(channels):
    with pytest.raises(ValidationError, match="1 for grey, or 3 for RGB"):
        ImageFolder(root="x", size=4, channels=channels)


def test_settings_reach_the_pixels(tmp_path):
    Image.new("RGBA", (10, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    images = ImageFolder(root=tmp_path, size=[4, 8], background="#0a141e").open()
    assert images.pixels(torch.tensor([1]))[0, :, 3, 7].tolist() == [10, 20, 30]
