"""``diffkit edit``: what each subcommand makes, and every mistake's message."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    """A working directory with one run, two pictures and a mask in it."""
    shutil.copytree(trained, tmp_path / "runs/tiny-1")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(name)
    Image.fromarray(np.kron(np.array([[0, 255]], dtype=np.uint8), np.ones((8, 4), dtype=np.uint8))).save("mask.png")
    Image.fromarray(np.zeros((9, 12, 3), dtype=np.uint8)).save("wide.png")
    return tmp_path


RUN = "runs/tiny-1"
FOLDER = f"{RUN}/samples/edit-1"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["inpaint", RUN, "a.png", "b.png", "--mask", "mask.png", "--repetitions", "2"], ["00000.png", "00001.png"]),
        (["vary", RUN, "a.png", "--strength", "0.5", "--count", "2"], ["00000.png", "00001.png"]),
        (["interpolate", RUN, "--seeds", "1", "2", "--count", "2"], ["00000.png", "00001.png"]),
        (
            ["interpolate", RUN, "--images", "a.png", "b.png", "--count", "2", "--sampler", "ddim"],
            ["00000.png", "00001.png"],
        ),
        (["invert", RUN, "a.png", "sampler=ddim", "steps=4"], ["noise.safetensors", "00000.png"]),
    ],
)
def test_each_task(diffkit, here, arguments, written):
    done = diffkit("edit", *arguments)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [f"{FOLDER}/{name}" for name in [*written, "grid.png"]]
    assert {path.name for path in (here / FOLDER).iterdir()} == {*written, "grid.png", "edit.json"}
    assert diffkit("edit", *arguments).out.startswith(f"{RUN}/samples/edit-2/"), "nothing is overwritten"


def test_inversion_says_how_far_it_leads_back(diffkit, here):
    done = diffkit("edit", "invert", RUN, "a.png", "b.png", "--sampler", "ddim")
    told = [line for line in done.err.splitlines() if "grey values away" in line]
    assert [line.partition(":")[0] for line in told] == ["a.png", "b.png"]


def test_all_options_of_sampling(diffkit, here):
    options = "--steps 4 --sampler heun --batch-size 2 --seed 7 --label 4 --guidance 2 --weights raw --size 8x8"
    done = diffkit("edit", "vary", RUN, "wide.png", *options.split(), "--resize", "--out", "mine", "spacing=leading")
    assert (done.code, done.out) == (0, "mine/00000.png\nmine/grid.png\n")


def test_a_picture_with_an_equals_sign_is_a_picture(diffkit, here):
    shutil.copy("a.png", "x=1.png")
    assert diffkit("edit", "vary", RUN, "x=1.png").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vary", "runs/tiny-2", "a.png"], "Error: runs/tiny-2: no such run or checkpoint. Did you mean 'tiny-1'?\n"),
        (
            ["vary", RUN, "a.png", "wide.png"],
            "Error: pictures of 8x8 pixels (height x width), grey, are wanted, and these are not:\n"
            "  wide.png: 9x12 pixels\n"
            "--resize scales, crops and converts pictures that are not so\n",
        ),
        (["vary", RUN, "steps=4"], "Error: no picture is named, only settings\n"),
        (["vary", RUN, "a.png", "--strength", "0"], "Error: strength = 0 should be above 0 and at most 1\n"),
        (
            ["vary", RUN, "a.png", "--size", "9x8"],
            "Error: size = 9x8: the model's 2 levels need sides divisible by 2: 8x8 or 10x8\n",
        ),
        (
            ["invert", RUN, "a.png"],
            "Error: sampler = ddpm: adds noise on the way, so it doesn't lead back to the images: choose a "
            "deterministic one, such as --sampler ddim\n",
        ),
        (
            ["inpaint", RUN, "a.png", "--mask", "a.png", "sampler=ddim"],
            "Error: inpainting takes ancestral steps, so there is no sampler to choose: leave it out\n",
        ),
        (
            ["interpolate", RUN],
            "Error: say what to interpolate between: --images A B for two pictures, or --seeds A B\n",
        ),
        (
            ["interpolate", RUN, "--seeds", "1", "2", "--images", "a.png", "b.png"],
            "Error: say what to interpolate between: --images A B for two pictures, or --seeds A B\n",
        ),
        (
            ["vary", RUN, "a.png", "--label", "ten"],
            "Error: no class is called 'ten'. Known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n",
        ),
        (
            ["vary", RUN, "a.png", "--out", "runs"],
            "Error: runs: exists already and is not an empty folder: name another one with --out\n",
        ),
    ],
)
def test_mistakes(diffkit, here, arguments, message):
    done = diffkit("edit", *arguments)
    assert (done.code, done.out, done.err) == (2, "", message)
    assert not (here / RUN / "samples").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["vary", RUN],
        ["inpaint", RUN, "a.png"],
        ["vary", RUN, "a.png", "--strength", "1.5"],
        ["interpolate", RUN, "--seeds", "1"],
        ["interpolate", RUN, "--seeds", "1", "-2"],
        ["interpolate", RUN, "--seeds", "1", "2", "--count", "1"],
    ],
)
def test_wrong_arguments_end_with_2(diffkit, here, arguments):
    assert diffkit("edit", *arguments).code == 2


def test_an_unknown_task_names_the_nearest(diffkit, here):
    done = diffkit("edit", "inpiant", RUN, "a.png")
    assert done.code == 2 and "Did you mean 'inpaint'?" in done.err


def test_help_lists_the_tasks(diffkit):
    shown = diffkit("edit", "--help").out
    for task in ("inpaint", "vary", "interpolate", "invert"):
        assert f"  {task} " in shown
