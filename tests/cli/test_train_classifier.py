"""``diffkit train-classifier``, and ``diffkit sample`` guided by what it made."""

import shutil

import pytest

from diffkit.recipe.write import to_toml

SMALL = [
    'classifier.network={channels=8, multipliers=[1, 2], norm={kind="group", groups=4}}',
    "classifier.batch_size=16",
    "classifier.steps=2",
]


@pytest.fixture
def here(tmp_path, monkeypatch, trained, tiny):
    """A working directory with a recipe and a run of it."""
    shutil.copytree(trained, tmp_path / "runs/tiny-1")
    (tmp_path / "tiny.toml").write_text(to_toml(tiny(*SMALL)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["tiny.toml"], "runs/tiny-1"),
        (["runs/tiny-1", *SMALL], "runs/tiny-1"),
        (["tiny.toml", "--run", "elsewhere"], "elsewhere"),
    ],
)
def test_it_lies_in_the_run(diffkit, here, arguments, folder):
    done = diffkit("train-classifier", *arguments)
    assert (done.code, done.out) == (0, f"{folder}/classifier.safetensors\n")
    assert (here / folder / "classifier.safetensors").is_file()
    lines = done.err.splitlines()
    assert "accuracy on images that were held out, from the least noise to the most, by quarters of the way:" in lines
    assert [part[-1] for part in lines[-1].split()] == ["%"] * 4


def test_the_accuracy_of_all_images(diffkit, here):
    assert (
        "accuracy on the images of the training, "
        in diffkit("train-classifier", "tiny.toml", "classifier.held_out=0").err
    )


def test_it_is_not_overwritten(diffkit, here):
    assert diffkit("train-classifier", "tiny.toml").code == 0
    done = diffkit("train-classifier", "tiny.toml")
    message = "Error: runs/tiny-1/classifier.safetensors: exists already; --force overwrites it\n"
    assert (done.code, done.err) == (2, message)
    assert diffkit("train-classifier", "tiny.toml", "--force").code == 0


def test_without_a_run(diffkit, here):
    shutil.rmtree(here / "runs")
    done = diffkit("train-classifier", "tiny.toml")
    assert done.code == 2
    assert done.err.startswith("Error: no run of 'tiny' under ")


def test_a_run_is_guided_by_its_classifier(diffkit, here):
    diffkit("train-classifier", "tiny.toml")
    it = 'guidance={kind="classifier", classifier="runs/tiny-1", weight=2}'
    done = diffkit("sample", "runs/tiny-1", it, "--label", "3", "--out", "it")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "it/grid.png"
    plain = diffkit("sample", "runs/tiny-1", "--label", "3", "--out", "plain")
    assert plain.code == 0
    assert (here / "it/grid.png").read_bytes() != (here / "plain/grid.png").read_bytes()
    assert f'"classifier": "{here}/runs/tiny-1"' in (here / "it/sample.json").read_text()
    dry = diffkit("sample", "runs/tiny-1", it, "--dry-run").out.splitlines()[-1]
    assert dry == "ddpm with trailing spacing: 5 steps, 5 network calls for each of 4 images"


def test_a_run_without_a_classifier(diffkit, here):
    done = diffkit("sample", "runs/tiny-1", 'guidance={kind="classifier", classifier="runs/tiny-1"}')
    message = (
        f"Error: {here}/runs/tiny-1: holds no classifier: train one with: diffkit train-classifier {here}/runs/tiny-1\n"
    )
    assert (done.code, done.err) == (2, message)
