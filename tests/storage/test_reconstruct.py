"""Averages of any length, made afterwards: near those that a training keeps directly; refused where they cannot be."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffkit.errors import CheckpointError, UserError
from diffkit.optim.profiles import Profile, combine
from diffkit.pipeline import Pipeline
from diffkit.storage.checkpoint import list_checkpoints, read_weights
from diffkit.storage.files import sha256
from diffkit.storage.reconstruct import reconstruct
from diffkit.train.loop import train

STEPS = 24
DIRECT = (0.04, 0.08, 0.12)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run that keeps two lengths, with a snapshot of each step, and checkpoints at 10, 20 and 24."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-1"
    train(tiny(f"train.ema={{kind='power', snapshots={STEPS}}}", *common()), folder)
    return folder


@pytest.fixture(scope="module")
def direct(tiny, tmp_path_factory):
    """The averages of other lengths, kept during the very same training."""
    folder = tmp_path_factory.mktemp("direct")
    train(tiny(f"train.ema={{kind='power', lengths={list(DIRECT)}, snapshots=0}}", *common()), folder)
    last = folder / f"checkpoints/step-{STEPS:08}"
    first, *others = DIRECT
    names = {first: "ema", **{length: f"ema-{length}" for length in others}}
    return {length: read_weights(last / f"{name}.safetensors")[1] for length, name in names.items()}


def common():
    return f"train.steps={STEPS}", "train.checkpoint_every=10", "train.keep_last=9", "train.optimizer.lr=3e-3"


def thinned(run, folder, steps):
    """Copy a run, with the snapshots of some steps only."""
    shutil.copytree(run, folder)
    for snapshot in list_checkpoints(folder / "ema"):
        if int(snapshot.name[5:]) not in steps:
            shutil.rmtree(snapshot)
    return folder


def distance(one, other):
    return torch.cat([(one[key].double() - other[key].double()).flatten() for key in other]).norm().item()


@pytest.mark.parametrize("length", DIRECT)
def test_the_error_falls_with_the_number_of_snapshots(run, direct, tmp_path, length):
    last = load_file(run / f"checkpoints/step-{STEPS:08}/model.safetensors")
    parts = [thinned(run, tmp_path / str(gap), range(gap, STEPS + 1, gap)) for gap in (6, 3, 1)]
    errors = [distance(reconstruct(part, length)[1], direct[length]) for part in parts]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * distance(last, direct[length])


@pytest.mark.parametrize("place", ["ema/step-00000007", "ema/step-00000024", "checkpoints/step-00000020", ""])
@pytest.mark.parametrize(("length", "name"), [(0.05, "ema"), (0.1, "ema-0.1")])
def test_what_was_kept_comes_back_to_the_bit(run, place, length, name):
    header, made = reconstruct(run / place, length)
    folder = run / place if place else run / "checkpoints/step-00000024"
    expected = load_file(folder / f"{name}.safetensors")
    assert header.step == int(folder.name[5:])
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[key], expected[key]) and made[key].dtype == expected[key].dtype for key in made)


def test_the_sum_is_written_out(run, tmp_path):
    """At an earlier step, of the snapshots until then and the checkpoint's own averages."""
    part = thinned(run, tmp_path / "run", (4, 8, 16, 24))
    _, made = reconstruct(part / "checkpoints/step-00000020", 0.07)
    kept = [
        (place, length)
        for place in ("ema/step-00000004", "ema/step-00000008", "ema/step-00000016")
        for length in (0, 1)
    ]
    kept += [("checkpoints/step-00000020", 0), ("checkpoints/step-00000020", 1)]
    profiles = [Profile.of((0.05, 0.1)[length], int(place[-8:])) for place, length in kept]
    (combination,) = combine(profiles, [Profile.of(0.07, 20)])
    expected = 0.0
    for (place, length), coefficient in zip(kept, combination.coefficients, strict=True):
        file = part / place / ("ema.safetensors", "ema-0.1.safetensors")[length]
        expected = expected + coefficient * load_file(file)["conv_in.weight"].double()
    assert torch.equal(made["conv_in.weight"], expected.float())


def test_a_pipeline_has_the_average(run):
    pipeline = Pipeline.load(run, 0.08)
    made = reconstruct(run, 0.08)[1]
    assert pipeline.weights == 0.08
    assert all(torch.equal(tensor, made[key]) for key, tensor in pipeline.network.state_dict().items())
    assert not torch.equal(pipeline.sample(2), Pipeline.load(run, 0.2).sample(2))


def test_a_folder_is_found_from_within(run, monkeypatch):
    expected = reconstruct(run / "checkpoints/step-00000020", 0.08)[1]
    monkeypatch.chdir(run / "checkpoints")
    made = reconstruct(Path("step-00000020"), 0.08)[1]
    assert all(torch.equal(tensor, expected[key]) for key, tensor in made.items())


@pytest.mark.parametrize("length", [0.0, -1.0, 1e-300, 0.3, float("nan"), float("inf")])
def test_lengths_that_no_average_has(run, length):
    with pytest.raises(UserError, match=r"^ema = .*: a length is from 0\.0001 to 0\.2887, which is the plain mean"):
        reconstruct(run, length)


def test_a_length_out_of_reach_names_the_range(run, tmp_path):
    part = thinned(run, tmp_path / "run", (6, 12, 18, 24))
    with pytest.raises(UserError, match=r"averages of 4 steps, of the lengths 0\.05 and 0\.1, to make it") as caught:
        reconstruct(part, 0.01)
    words = str(caught.value).split()
    low, high = (float(words[words.index("from") + shift].rstrip(":")) for shift in (1, 3))
    assert 0.03 < low < 0.05 and 0.1 < high < 0.2
    reconstruct(part, low * 1.03)
    reconstruct(part, high / 1.03)


def test_a_run_without_snapshots_has_its_own_lengths_only(run, tmp_path):
    part = thinned(run, tmp_path / "run", ())
    with pytest.raises(
        UserError, match=r"has no snapshots of steps before, so that it can only be what was kept: 0\.05 and"
    ):
        reconstruct(part, 0.08)
    reconstruct(part, 0.1)


def test_a_run_with_another_kind_of_average(trained):
    with pytest.raises(UserError, match=r"was trained with train\.ema = 'decay', .* of those of 'power' only"):
        reconstruct(trained, 0.08)


def test_a_file_alone_is_no_run(run, tmp_path):
    file = run / "checkpoints/step-00000020/ema.safetensors"
    with pytest.raises(UserError, match="is no run with snapshots: name its folder, or that of a checkpoint in it"):
        reconstruct(file, 0.08)
    shutil.copy(file, tmp_path)
    with pytest.raises(UserError, match="is no run with snapshots"):
        reconstruct(tmp_path, 0.08)
    with pytest.raises(CheckpointError, match="no such run or checkpoint"):
        reconstruct(tmp_path / "none", 0.08)


@pytest.mark.parametrize("damage", ["flipped", "missing", "state"])
def test_a_damaged_snapshot_is_passed_over(run, tmp_path, caplog, damage):
    part = thinned(run, tmp_path / "run", range(3, 25, 3))
    without = reconstruct(thinned(run, tmp_path / "without", (3, 6, 9, 12, 18, 21, 24)), 0.08)[1]
    file = part / "ema/step-00000015" / ("state.json" if damage == "state" else "ema-0.1.safetensors")
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-5 if damage == "flipped" else 1] ^= 1
        file.write_bytes(content)
    made = reconstruct(part, 0.08)[1]
    assert "passed over: " in caplog.text and file.name in caplog.text
    assert all(torch.equal(tensor, without[key]) for key, tensor in made.items())


def test_a_damaged_average_of_the_checkpoint_itself(run, tmp_path):
    part = thinned(run, tmp_path / "run", range(3, 25, 3))
    file = part / "checkpoints/step-00000020/ema-0.1.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"ema-0\.1\.safetensors: damaged"):
        reconstruct(file.parent, 0.08)


def test_whole_numbers_are_those_of_the_step(tmp_path, run):
    """Such as a counter in a network of a plugin."""
    part = thinned(run, tmp_path / "run", range(3, 25, 3))
    for file in part.glob("*/step-*/ema*.safetensors"):
        with safe_open(file, "pt") as opened:
            header = opened.metadata()
        step = int(file.parent.name[5:])
        save_file({**load_file(file), "count": torch.tensor(step), "wide": torch.ones(2).double()}, file, header)
        state = json.loads((file.parent / "state.json").read_text())
        state["sha256"][file.name] = sha256(file)
        (file.parent / "state.json").write_text(json.dumps(state))
    made = reconstruct(part, 0.08)[1]
    assert made["count"].item() == STEPS and made["count"].dtype == torch.int64
    assert made["wide"].dtype == torch.float64 and torch.allclose(made["wide"], torch.ones(2).double())
