"""Data that vanishes or changes while it is trained on, and a reader that dies.

No process reads the data for a training: a thread reads ahead, which ends as the training does.
"""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from diffkit.data.image_folder import ImageFolder
from diffkit.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

FOLDER = "data={kind='image_folder', root='pictures', size=8, channels=1, memory_limit=0}"
ARRAY = "data={kind='arrays', path='images.npy', memory_limit=0}"
PLAIN = "model.class_conditional=false"
GO_ON = ["train", "tiny.toml", "--run", "run", "--resume"]


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path, pixels):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    return folder


def at_step_4(at, act):
    """Do something as a training writes the log of its fourth step."""

    def logs(event, arguments):
        return event == "open" and str(arguments[0]).endswith("metrics.jsonl") and arguments[1] == "a"

    return lambda: at(4, logs, act)


def test_pictures_that_vanish(pictures, recipe, diffkit, at, steps_of, same_run, tmp_path):
    recipe(FOLDER, PLAIN)
    assert diffkit("train", "tiny.toml", "--run", "whole").code == 0
    away = tmp_path / "away"
    done = diffkit("train", "tiny.toml", "--run", "run", first=at_step_4(at, lambda: pictures.rename(away)))
    assert done.code == 2
    said = [line for line in done.err.splitlines() if not line.startswith("tiny: step ")]
    assert said[0].startswith(f"Error: {pictures}: ") and said[0].endswith(
        " pictures cannot be read: mend or remove them"
    )
    assert said[1].endswith(".png: No such file or directory")
    assert steps_of(tmp_path / "run")[-1] in (4, 5)  # the last step that had its data
    away.rename(pictures)
    assert diffkit(*GO_ON).code == 0
    same_run(tmp_path / "run", tmp_path / "whole")


def test_pictures_that_change(pictures, recipe, diffkit, at, steps_of, tmp_path):
    def change():
        for file in pictures.iterdir():
            os.utime(file, ns=(0, 0))

    recipe(FOLDER, PLAIN)
    done = diffkit("train", "tiny.toml", "--run", "run", first=at_step_4(at, change))
    assert done.code == 2
    assert ".png: was changed while it was in use: put back what it was, or go on with what it is now" in done.err
    assert steps_of(tmp_path / "run")[-1] in (4, 5)
    assert diffkit(*GO_ON).code == 0


@pytest.mark.parametrize("change", ["cut", "written", "replaced", "deleted"])
def test_an_array_that_changes(pixels, recipe, diffkit, at, steps_of, same_run, tmp_path, change):
    """To read a mapped file beyond an end that it has lost would be the end of the process too."""

    def act():
        file = tmp_path / "images.npy"
        match change:
            case "cut":
                os.truncate(file, 200)
            case "written":
                os.utime(file, ns=(0, 0))
            case "replaced":
                np.save(tmp_path / "other.npy", 255 - pixels)
                (tmp_path / "other.npy").replace(file)
            case "deleted":
                file.unlink()

    np.save(tmp_path / "images.npy", pixels)
    recipe(ARRAY, PLAIN)
    assert diffkit("train", "tiny.toml", "--run", "whole").code == 0
    done = diffkit("train", "tiny.toml", "--run", "run", first=at_step_4(at, act))
    if change in ("replaced", "deleted"):  # what is open is the old file still
        assert done.code == 0
    else:
        assert done.code == 2
        assert done.err.splitlines()[-1].startswith(f"Error: {tmp_path}/images.npy: was changed while it was in use")
        assert steps_of(tmp_path / "run")[-1] in (4, 5)
        np.save(tmp_path / "images.npy", pixels)
        assert diffkit(*GO_ON).code == 0
    same_run(tmp_path / "run", tmp_path / "whole")


def test_data_that_is_gone_when_a_run_goes_on(pictures, recipe, diffkit, steps_of, tmp_path):
    assert diffkit("train", recipe(FOLDER, PLAIN), "--run", "run", "train.steps=2").code == 0
    pictures.rename(tmp_path / "away")
    done = diffkit(*GO_ON)
    assert done.code == 2
    assert done.err.endswith(f"\n    {pictures}: no such folder: data.root names a folder of pictures\n")
    assert steps_of(tmp_path / "run") == [2]


def test_more_pictures_when_a_run_goes_on(pictures, recipe, diffkit):
    """The order of the images is another one from there on, so that it isn't the run it would have been."""
    assert diffkit("train", recipe(FOLDER, PLAIN), "--run", "run", "train.steps=2").code == 0
    (pictures / "0.png").rename(pictures / "another.png")
    assert "data set had" not in diffkit(*GO_ON, "train.steps=3").err
    Image.new("L", (8, 8)).save(pictures / "one-more.png")
    done = diffkit(*GO_ON)
    assert (done.code, done.err.splitlines()[0]) == (0, "run: the data set had 6 images, and has 7 now")


PLUGIN = '''
import sys
from typing import Literal

import torch

import diffkit
from diffkit.data.base import DataInfo, Dataset, Images


class Fragile(Images):
    def __len__(self):
        return 6

    def pixels(self, indices):
        with open("reads", "a") as file:
            file.write("x")
        if len(open("reads").read()) == 5:
            FAIL
        return torch.zeros(len(indices), 1, 8, 8, dtype=torch.uint8)

    def labels(self, indices):
        return None


class FragileData(Dataset):
    """Fails once."""

    kind: Literal["fragile"] = "fragile"

    def info(self):
        return DataInfo(1, 8, 8)

    def open(self):
        return Fragile()


@diffkit.hookimpl
def register_components():
    return [FragileData]
'''


@pytest.mark.parametrize(
    ("fail", "said"), [("sys.exit(0)", "SystemExit: 0"), ("raise ValueError('no luck')", "ValueError: no luck")]
)
def test_a_reader_that_dies(tiny, recipe, diffkit, steps_of, tmp_path, fail, said):
    (tmp_path / "fragile.py").write_text(PLUGIN.replace("FAIL", fail))
    recipe(PLAIN)
    text = (tmp_path / "tiny.toml").read_text()
    start = text.index("[data]")
    end = text.index("\n[", start + 1)
    (tmp_path / "tiny.toml").write_text(text[:start] + '[data]\nkind = "fragile"\n' + text[end:])
    arguments = ["train", "tiny.toml", "--plugin", "fragile.py", "--run", "run"]
    done = diffkit(*arguments)
    assert done.code == 2
    assert done.err.splitlines()[-1] == f"Error: the images of step 4 cannot be read: {said}"
    assert steps_of(tmp_path / "run") == [2, 4]
    assert diffkit(*arguments, "--resume").code == 0
    assert steps_of(tmp_path / "run") == [4, 6]


def test_a_change_is_noticed_only_where_files_are_read_later(pictures, tmp_path):
    in_memory = ImageFolder(root=pictures, size=8, channels=1).open()
    later = ImageFolder(root=pictures, size=8, channels=1, memory_limit=0).open()
    every = torch.arange(6)
    before = in_memory.pixels(every)
    assert torch.equal(later.pixels(every), before)
    Image.new("L", (8, 8)).save(pictures / "3.png")
    assert torch.equal(in_memory.pixels(every), before)
    with pytest.raises(DataError, match=r"1 of 6 pictures cannot be read: .*\n  3.png: was changed while"):
        later.pixels(every)
