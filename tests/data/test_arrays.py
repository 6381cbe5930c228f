from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from diffkit.data.arrays import Arrays, MappedImages
from diffkit.data.memory import InMemory
from diffkit.errors import DataError

NHWC = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
NCHW = NHWC.transpose(0, 3, 1, 2)
EVERYTHING = torch.arange(5)


def saved(tmp_path, array, name="images.npy"):
    np.save(tmp_path / name, array)
    return tmp_path / name


@pytest.mark.parametrize(
    ("layout", "array", "expected"),
    [
        ("NHWC", NHWC, NCHW),
        ("NCHW", NCHW, NCHW),
        ("NHW", NHWC[..., 0], NCHW[:, :1]),
        ("NHWC", NHWC[:, ::-1, ::2], None),
    ],
)
@pytest.mark.parametrize("memory_limit", [4.0, 0.0])
def test_layouts(tmp_path, layout, array, expected, memory_limit):
    expected = array.transpose(0, 3, 1, 2) if expected is None else expected
    data = Arrays(path=saved(tmp_path, array), layout=layout, memory_limit=memory_limit)
    images = data.open()
    assert data.info().shape == expected.shape[1:]
    assert data.info().classes == ()
    np.testing.assert_array_equal(images.pixels(EVERYTHING).numpy(), expected)
    assert images.labels(EVERYTHING) is None
    assert isinstance(images, MappedImages if memory_limit == 0 else InMemory)


def test_fortran_order(tmp_path):
    images = Arrays(path=saved(tmp_path, np.asfortranarray(NHWC))).open()
    np.testing.assert_array_equal(images.pixels(EVERYTHING).numpy(), NCHW)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    save(tmp_path / "a.npz", arr_0=NHWC, y=np.array([1, 0, 2, 2, 0], dtype=np.uint8))
    data = Arrays(path=tmp_path / "a.npz", images_key="arr_0", labels_key="y")
    assert data.info().classes == ("0", "1", "2")
    np.testing.assert_array_equal(data.open().pixels(EVERYTHING).numpy(), NCHW)
    assert data.open().labels(EVERYTHING).tolist() == [1, 0, 2, 2, 0]


@pytest.mark.parametrize("memory_limit", [4.0, 0.0])
def test_labels_in_a_file_of_their_own(tmp_path, memory_limit):
    labels = saved(tmp_path, np.array([0, 0, 1, 0, 1]), "labels.npy")
    data = Arrays(
        path=saved(tmp_path, NHWC), labels_path=labels, classes=["a", "b", "never"], memory_limit=memory_limit
    )
    assert data.info().classes == ("a", "b", "never")
    assert data.open().labels(torch.tensor([4, 0])).tolist() == [1, 0]


def test_info_reads_only_the_header(tmp_path):
    """A terabyte of images, of which nothing is on the disk."""
    file = saved(tmp_path, NHWC)
    header = np.lib.format.header_data_from_array_1_0(NHWC) | {"shape": (2**20, 1024, 1024, 1)}
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        os.truncate(stream.fileno(), stream.tell() + 2**40)
    assert Arrays(path=file).info().shape == (1, 1024, 1024)
    assert len(Arrays(path=file).open()) == 2**20


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.empty(1, dtype=object)
    objects[0] = Evil()
    np.save("objects.npy", objects, allow_pickle=True)
    np.savez("objects.npz", images=NHWC, labels=objects, allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Evil()))
    good = saved(tmp_path, NHWC)
    for data in (
        Arrays(path="objects.npy"),
        Arrays(path="plain.npy"),
        Arrays(path="objects.npz", images_key="labels"),
        Arrays(path="objects.npz", labels_key="labels"),
        Arrays(path=good, labels_path="objects.npy"),
    ):
        for work in (data.info, data.open):
            with pytest.raises(DataError):
                work()
    with pytest.raises(DataError, match="holds Python objects, which are never loaded"):
        Arrays(path="objects.npy").info()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("array", "settings", "message"),
    [
        (NHWC.astype(np.float32), {}, r"the images are float32, not uint8\. Convert them once: np\.save\("),
        (NHWC > 7, {}, "the images are bool, not uint8"),
        (NHWC[..., 0], {}, r'the shape \[5, 4, 6\], and data\.layout = NHWC has 4 axes: set data\.layout = "NHW"'),
        (NHWC, {"layout": "NHW"}, 'NHW has 3 axes: set data.layout to "NHWC" or "NCHW"'),
        (NHWC[0, 0], {}, r"the shape \[6, 3\], and data\.layout = NHWC has 4 axes$"),
        (NHWC[:0], {}, r"empty: the images have the shape \[0, 4, 6, 3\]"),
        (NHWC[:, :0], {}, "empty"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, settings, message):
    data = Arrays(path=saved(tmp_path, array), **settings)
    for work in (data.info, data.open):
        with pytest.raises(DataError, match=message):
            work()


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.arange(4), [], r"one for each of the 5 images, not int64 of the shape \[4\]"),
        (np.arange(5.0), [], "labels are integers, .* not float64"),
        (np.zeros((5, 1), int), [], r"not int64 of the shape \[5, 1\]"),
        (np.array([0, 1, -1, 0, 0]), [], "a label is -1; they count from 0"),
        (np.array([0, 2, 2, 0, 0]), [], "the labels go up to 2 and leave numbers out"),
        (np.array([1, 2, 1, 2, 1]), [], "leave numbers out"),
        (np.array([0, 1, 2, 0, 0]), ["a", "b"], "a label is 2, and data.classes names 2 classes from 0"),
    ],
)
def test_wrong_labels(tmp_path, labels, classes, message):
    file = saved(tmp_path, labels, "labels.npy")
    data = Arrays(path=saved(tmp_path, NHWC), labels_path=file, classes=classes)
    for work in (data.info, data.open):
        with pytest.raises(DataError, match=f"^{file}: .*{message}"):
            work()


def damaged(good_npy, good_npz):
    return {
        "empty.npy": (b"", "damaged, or not a file of NumPy's"),
        "text.npy": (b"hello", "damaged, or not a file of NumPy's|Python objects"),
        "cut.npy": (good_npy[:-1], "damaged"),
        "header.npy": (good_npy[:20], "damaged"),
        "text.npz": (b"hello", "damaged, or not a file of NumPy's"),
        "cut.npz": (good_npz[:-30], "damaged"),
        "flipped.npz": (good_npz[:150] + bytes([good_npz[150] ^ 255]) + good_npz[151:], "damaged"),
        "picture.png": (b"hello", "data.path names a .npy or .npz file"),
    }


@pytest.mark.parametrize("name", damaged(b"", bytes(200)))
def test_damaged_files(tmp_path, name):
    np.savez(tmp_path / "good.npz", images=NHWC)
    good_npy, good_npz = saved(tmp_path, NHWC).read_bytes(), (tmp_path / "good.npz").read_bytes()
    content, message = damaged(good_npy, good_npz)[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"^{tmp_path}/{name}: .*({message})"):
        Arrays(path=tmp_path / name).open()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".labels.npy"])
def test_damaged_files_never_give_another_error(tmp_path, suffix):
    labels = saved(tmp_path, np.arange(5), "a.labels.npy")
    images = saved(tmp_path, NHWC, "a.npy")
    np.savez_compressed(tmp_path / "a.npz", images=NHWC, labels=np.arange(5))
    data = {
        ".npy": Arrays(path=images),
        ".npz": Arrays(path=tmp_path / "a.npz", labels_key="labels"),
        ".labels.npy": Arrays(path=images, labels_path=labels),
    }[suffix]
    content, generator = (tmp_path / f"a{suffix}").read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3) % generator.integers(1, len(content) + 1):
            damaged[place] = generator.integers(256)
        (tmp_path / f"a{suffix}").write_bytes(damaged)
        try:
            data.info()
            data.open()
        except DataError as error:
            assert str(tmp_path) in str(error)


def test_a_npz_file_with_another_name(tmp_path):
    np.savez(tmp_path / "a.npz", images=NHWC)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a\.npy: this is a \.npz file"):
        Arrays(path=tmp_path / "a.npy").info()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=f"^{tmp_path}/x.npy: no such file$"):
        Arrays(path=tmp_path / "x.npy").info()
    with pytest.raises(DataError, match=r"x.npz: no such file"):
        Arrays(path=tmp_path / "x.npz").info()
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        Arrays(path=tmp_path / "folder.npy").info()
    with pytest.raises(DataError, match=r"y.npy: no such file"):
        Arrays(path=saved(tmp_path, NHWC), labels_path=tmp_path / "y.npy").info()


def test_a_wrong_name_in_npz(tmp_path):
    np.savez(tmp_path / "a.npz", imags=NHWC, other=NHWC)
    with pytest.raises(DataError) as error:
        Arrays(path=tmp_path / "a.npz").info()
    assert str(error.value) == (
        f"{tmp_path}/a.npz: no array 'images' in it. Did you mean 'imags'? There are: imags, other. Set data.images_key"
    )
    with pytest.raises(DataError, match=r"no array 'y' in it.*Set data.labels_key"):
        Arrays(path=tmp_path / "a.npz", images_key="imags", labels_key="y").open()


def test_a_claim_of_more_than_all_memory(tmp_path):
    """A small compressed file whose header claims 2^60 bytes."""
    header = np.lib.format.header_data_from_array_1_0(NHWC) | {"shape": (2**40, 1024, 1024, 1)}
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("images.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(DataError, match=r"does not fit into memory|damaged"):
        Arrays(path=tmp_path / "a.npz").open()


def test_keys_that_do_not_fit_together(tmp_path):
    with pytest.raises(ValidationError, match="labels_key and labels_path both name labels"):
        Arrays(path="a.npz", labels_key="y", labels_path="y.npy")
    with pytest.raises(ValidationError, match="classes are named, but no labels"):
        Arrays(path="a.npz", classes=["a"])
    with pytest.raises(DataError, match=r"data.labels_key is for .npz files"):
        Arrays(path=saved(tmp_path, NHWC), labels_key="y").info()
    np.savez(tmp_path / "y.npz", y=np.arange(5))
    with pytest.raises(DataError, match=r"data.labels_path names a .npy file"):
        Arrays(path=saved(tmp_path, NHWC), labels_path=tmp_path / "y.npz").info()
