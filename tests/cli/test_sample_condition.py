"""``diffkit sample --condition``: pictures that a model makes images from."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffkit.train.loop import train


@pytest.fixture(scope="module")
def conditioned(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny-1"
    train(tiny("objective.condition={kind='low_resolution', factor=2}", "train.steps=1"), folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, conditioned):
    """A working directory with one run in it, and three pictures."""
    shutil.copytree(conditioned, tmp_path / "runs/tiny-1")
    monkeypatch.chdir(tmp_path)
    for name, size in (("black", (4, 4)), ("wide", (5, 4))):
        Image.new("L", size).save(f"{name}.png")
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save("white.png")
    Image.new("RGB", (4, 4), "red").save("red.png")
    return tmp_path


def test_pictures_in_turn(diffkit, here):
    def images(*arguments):
        done = diffkit("sample", "--count", "2", *arguments)
        assert done.code == 0
        return [np.array(Image.open(file)) for file in done.out.split()[:2]]

    both = images("--condition", "black.png", "--condition", "white.png")
    assert json.loads((here / "runs/tiny-1/samples/sample-1/sample.json").read_text())["condition"] == [
        "black.png",
        "white.png",
    ]
    black = images("--condition", "black.png")
    assert np.array_equal(both[0], black[0])
    assert not np.array_equal(both[1], black[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "the model of 'tiny' makes images from others (low_resolution), of 1x4x4 (channels x height x width), and "
            "none were given",
        ),
        (
            ["--condition", "wide.png"],
            "wide.png: 4x5 pixels, and the model takes pictures of 4x4 (height x width), grey",
        ),
        (
            ["--condition", "black.png", "--condition", "red.png"],
            "red.png: in color, and the model takes pictures of 4x4 (height x width), grey",
        ),
        (
            ["--condition", "none.png"],
            "none.png: No such file or directory, and the model takes pictures of 4x4 (height x width), grey",
        ),
    ],
)
def test_mistakes(diffkit, here, arguments, message):
    done = diffkit("sample", *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"Error: condition: {message}\n")
    assert not (here / "runs/tiny-1/samples").exists()
