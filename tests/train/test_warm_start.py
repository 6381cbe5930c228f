"""Training from another model's weights."""

import pytest
import torch

from diffkit.errors import CheckpointError, UserError
from diffkit.pipeline import build_network
from diffkit.storage.checkpoint import read_weights
from diffkit.storage.runs import find_weights
from diffkit.train.loop import train
from diffkit.train.warm_start import warm_start


def tensors_of(run):
    return read_weights(find_weights(run, "ema"))[1]


def network_of(recipe):
    return build_network(recipe, recipe.data.info())


def test_all_of_the_same_network_is_taken(tiny, trained):
    network = network_of(tiny())
    report = warm_start(network, trained)
    assert (
        str(report)
        == f"init_from {find_weights(trained, 'ema')}: {len(report.taken)} of {len(report.taken)} tensors taken"
    )
    saved = tensors_of(trained)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())


def test_what_fits_is_taken_and_the_rest_is_named(tiny, trained):
    recipe = tiny("model.class_conditional=false", "model.blocks_per_level=2", "model.embedding_channels=16")
    network, before = network_of(recipe), network_of(recipe).state_dict()
    report = warm_start(network, trained)
    saved, after = tensors_of(trained), network.state_dict()
    assert set(report.taken) | {name for name, *_ in report.other_shape} | set(report.new) == set(after)
    assert report.unused
    for name, tensor in after.items():
        expected = saved[name] if name in report.taken else before[name]
        assert torch.equal(tensor, expected), name
    for name, own, other in report.other_shape:
        assert own == after[name].shape
        assert other == saved[name].shape
    text = str(report)
    assert "time_mlp.0.bias is [16] here, [32] there" in text
    assert "not taken, as the file has none of this name" in text
    assert "class_embedding.weight" in text


def test_nothing_that_fits_is_an_error(tiny, trained):
    network = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"model\.init_from = .*: none of its \d+ tensors has the name and the shape"):
        warm_start(network, trained)


def test_training_starts_there(tiny, trained, tmp_path, capsys):
    recipe = tiny(f"model.init_from={str(trained)!r}", "train.steps=1", "train.optimizer.lr=1e-12")
    train(recipe, tmp_path / "run")
    assert "tensors taken" in capsys.readouterr().err
    saved = tensors_of(trained)
    for name, tensor in tensors_of(tmp_path / "run").items():
        torch.testing.assert_close(tensor, saved[name], rtol=1e-5, atol=1e-6)


def test_a_resumed_run_does_not_start_again(tiny, trained, tmp_path, capsys):
    start = tmp_path / "start.safetensors"
    start.write_bytes(find_weights(trained, "ema").read_bytes())
    recipe = tiny(f"model.init_from={str(start)!r}", "train.steps=2", "train.checkpoint_every=1")
    train(recipe, tmp_path / "run")
    start.unlink()
    capsys.readouterr()
    train(recipe, tmp_path / "run", resume=True)
    assert "taken" not in capsys.readouterr().err


def test_weights_that_are_not_there(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="no such run or checkpoint"):
        train(tiny("model.init_from='nowhere'"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
