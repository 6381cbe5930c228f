import json

import pytest

from diffkit.cli.runs import _duration


def test_a_trained_run(diffkit, tmp_path):
    folder = tmp_path / "runs" / "mine"
    short = ["train.steps=2", "train.batch_size=2", "callbacks=[]", "model.channels=8", "model.multipliers=[1]"]
    small = [*short, "model.attention_at=[]", "train.log_every=1", "model.norm.groups=4"]
    assert diffkit("train", "quickstart", "--run", folder, *small).code == 0
    done = diffkit("runs", tmp_path / "runs")
    heading, row = done.out.splitlines()
    assert heading.split() == ["run", "state", "step", "loss", "images/s", "left", "last", "checkpoint"]
    assert row.startswith("mine  done   2 of 2  ")
    assert row.endswith("  step-00000002")
    (found,) = json.loads(diffkit("runs", tmp_path / "runs", "--json").out)
    assert (found["state"], found["step"], found["seconds_left"]) == ("done", 2, None)
    assert found["checkpoint"] == str(folder / "checkpoints/step-00000002")


def test_no_runs(diffkit, tmp_path):
    done = diffkit("runs", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"Error: no runs in {tmp_path}: train one with: diffkit train quickstart\n"
    assert diffkit("runs", tmp_path, "--json").out == "[]\n"


def test_a_folders_name_writes_nothing_over_the_terminal(diffkit, tmp_path):
    (tmp_path / "a\x1b[2J-1").mkdir()
    (tmp_path / "a\x1b[2J-1" / "recipe.toml").touch()
    assert diffkit("runs", tmp_path).out.splitlines()[1].startswith(r"a\x1b[2J-1  damaged")


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (61, "1 min"), (3600, "1 h 0 min"), (90061, "25 h 1 min")])
def test_durations(seconds, text):
    assert _duration(seconds) == text
