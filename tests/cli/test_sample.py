"""``diffkit sample``: what it makes, and every mistake's message."""

import json

import pytest
from PIL import Image

from diffkit.cli.main import run
from diffkit.diffusion.samplers.base import Sampler


def test_the_newest_run_by_default(diffkit, here):
    done = diffkit("sample")
    folder = "runs/tiny-1/samples/sample-1"
    assert done.code == 0
    assert done.out.splitlines() == [*(f"{folder}/0000{i}.png" for i in range(4)), f"{folder}/grid.png"]
    assert diffkit("sample").out.startswith("runs/tiny-1/samples/sample-2/")


def test_all_options(diffkit, here):
    options = "--steps 20 --sampler ddpm --count 3 --batch-size 2 --seed 7 --label 4 --guidance 2 --weights raw"
    done = diffkit("sample", "runs/tiny-1", *options.split(), "--out", "mine", "--format", "npz", "spacing=leading")
    assert (done.code, done.out) == (0, "mine/images.npz\nmine/grid.png\n")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["png", "npz"])
def test_several_processes_make_the_same_images(diffkit, here, together, kind):
    options = ["sample", "--count", "5", "--batch-size", "2", "--format", kind]  # the last of four has nothing to do
    assert diffkit(*options, "--out", "one").code == 0
    assert together(4, lambda: run([*options, "--out", "many", "--device", "cpu"])) == [0, 0, 0, 0]
    made = {file.name: file.read_bytes() for file in (here / "many").iterdir()}
    assert made == {file.name: file.read_bytes() for file in (here / "one").iterdir()}
    assert len((here / "out-0").read_text().splitlines()) == len(made) - 1  # sample.json
    assert [(here / f"out-{rank}").read_text() for rank in (1, 2, 3)] == ["", "", ""]


def test_dry_run_shows_the_levels_and_the_calls(diffkit, here):
    done = diffkit("sample", "--steps", "3", "--sampler", "heun", "--dry-run")
    lines = done.out.splitlines()
    assert done.code == 0
    assert [line.split()[:2] for line in lines[:4]] == [["step", "time"], ["1", "19"], ["2", "12"], ["3", "6"]]
    assert lines[4] == "then the clean end: alpha = 1, sigma = 0"
    assert lines[5] == "heun with trailing spacing: 3 steps, 5 network calls for each of 4 images"
    assert not (here / "runs/tiny-1/samples").exists()


@pytest.mark.parametrize(("text", "sides"), [("16x12", (12, 16)), ("6", (6, 6))])
def test_another_size(diffkit, here, text, sides):
    done = diffkit("sample", "--size", text, "--count", "1")
    assert done.code == 0
    with Image.open(done.out.splitlines()[0]) as picture:
        assert picture.size == sides
    about = json.loads((here / "runs/tiny-1/samples/sample-1/sample.json").read_text())
    assert about["size"] == [*reversed(sides)]


def test_overrides_without_a_run(diffkit, here):
    assert diffkit("sample", "sampler=ddim", "sampler.eta=0.5", "count=1").code == 0


def test_one_checkpoint(diffkit, here):
    done = diffkit("sample", "runs/tiny-1/checkpoints/step-00000010", "--count", "1")
    assert done.out == "runs/tiny-1/samples/sample-1/00000.png\nruns/tiny-1/samples/sample-1/grid.png\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/tiny-2"], "Error: runs/tiny-2: no such run or checkpoint. Did you mean 'tiny-1'?\n"),
        (["--steps", "21"], "Error: steps = 21: the process has 20 times, so at most 20 steps can be taken\n"),
        (["--label", "ten"], "Error: no class is called 'ten'. Known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n"),
        (
            ["--sampler", "ddin"],
            "Error: settings of sampling: 1 problem\n"
            '  sampler = "ddin"\n'
            f"    no sampler is called 'ddin'. Did you mean 'ddim'? Known: {', '.join(sorted(Sampler.kinds))}\n",
        ),
        (
            ["--out", "runs"],
            "Error: runs: exists already and is not an empty folder: name another one with --out\n",
        ),
        (["--size", "9x8"], "Error: size = 9x8: the model's 2 levels need sides divisible by 2: 8x8 or 10x8\n"),
        (
            ["--size", "9", "--dry-run"],
            "Error: size = 9x9: the model's 2 levels need sides divisible by 2: 8x8 or 10x10\n",
        ),
        (["--size", "8x"], "Error: size '8x': give height and width, such as 32x48, each of 1 to 8192\n"),
        (["--size", "8x8x8"], "Error: size '8x8x8': give height and width, such as 32x48, each of 1 to 8192\n"),
        (["--size", "0"], "Error: size '0': give height and width, such as 32x48, each of 1 to 8192\n"),
        (["runs/tiny-1", "steps"], "Error: 'steps': an override is key=value, such as train.steps=100\n"),
    ],
)
def test_mistakes(diffkit, here, arguments, message):
    done = diffkit("sample", *arguments)
    assert (done.code, done.out, done.err) == (2, "", message)


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--seed", "-1"], ["--format", "gif"], ["--steps", "x"]])
def test_wrong_options_end_with_2(diffkit, here, arguments):
    assert diffkit("sample", *arguments).code == 2


def test_no_run(diffkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = diffkit("sample")
    assert done.code == 2
    assert done.err == f"Error: no run under {tmp_path}/runs: train one first, with: diffkit train quickstart\n"
