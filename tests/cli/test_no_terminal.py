"""Where standard error is no terminal, what takes long says so in lines, and in nothing that only a terminal shows."""

import re

import pytest

FEW = ["--count", "4", "--batch-size", "2", "--reference", "20", "--features", "pixels", "--metric", "fid"]

COMMANDS = {
    "train": (["train", "runs/tiny-1", "--run", "new"], r"tiny: step 3/12  loss [\d.]+  \d+ images/s  \d+ s left"),
    "sample": (["sample", "--count", "4", "--batch-size", "2"], r"sampling: 50% done, \d+ s left"),
    "edit": (
        ["edit", "interpolate", "runs/tiny-1", "--seeds", "0", "1", "--count", "4", "--sampler", "ddim"],
        r"interpolating: \d+% done, \d+ s left",
    ),
    "evaluate": (["evaluate", *FEW], r"sampling: 50% done, \d+ s left"),
    "sweep": (["sweep", "--samplers", "ddim", "--steps", "2", *FEW], r"sweep: 50% done, \d+ s left"),
    "train-classifier": (
        ["train-classifier", "runs/tiny-1", "classifier.steps=4", "classifier.batch_size=4"],
        r"classifier: 50% done, \d+ s left  loss [\d.]+",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_lines(diffkit, here, monkeypatch, command):
    arguments, line = COMMANDS[command]
    monkeypatch.setattr("diffkit.data.progress.EVERY", 0.0)
    done = diffkit(*arguments)
    assert done.code == 0, done.err
    assert any(re.fullmatch(line, said) for said in done.err.splitlines()), done.err
    assert not set(done.err) & set("\x1b\r━╸")
