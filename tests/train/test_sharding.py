"""Processes that each hold a part of the weights compute what one with all of them does."""

import re

import pytest
import torch
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.distributed import Workers
from diffkit.errors import RecipeError, UserError
from diffkit.nn.base import Model, Ports
from diffkit.shards import gathered, load_whole, own_part, shard
from diffkit.storage.checkpoint import checkpoint_name, read_checkpoint
from diffkit.train.loop import train
from diffkit.train.rows import parts_of_batch
from diffkit.train.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

DATA = DataInfo(1, 8, 8, ("a", "b", "c"))
GROUPS = {"kind": "group", "groups": 4}
UNET = {
    "kind": "unet",
    "channels": 8,
    "multipliers": [1, 2],
    "blocks_per_level": 1,
    "attention_at": [4],
    "norm": GROUPS,
}
NETWORKS = {
    "unet": UNET,
    "unet, resampled by blocks": {
        **UNET,
        "resnet": "scale_shift",
        "downsample": "resnet",
        "upsample": "resnet",
        "progressive_input": "residual",
        "progressive_output": "skip",
        "conditions_join": "features",
    },
    "k_unet": {"kind": "k_unet", "channels": [8, 16], "group_size": 4, "blocks_per_level": 1, "norm": GROUPS},
    "lucidrains_unet": {"kind": "lucidrains_unet", "channels": 8, "multipliers": [1, 2]},
    "dit": {"kind": "dit", "width": 16, "depth": 2, "heads": 2, "embedding_features": 8},
    "uvit": {"kind": "uvit", "width": 16, "depth": 3, "heads": 2},
}


def test_all_kinds_of_network_are_here():
    assert {settings["kind"] for settings in NETWORKS.values()} == set(Model.kinds)


def batch(rows):
    """Return some rows of a batch of eight: images, times, labels, vectors."""
    torch.manual_seed(1)
    inputs = torch.randn(8, 1, 8, 8), torch.rand(8), torch.arange(8) % 4, torch.randn(8, 3)
    return [tensor[rows.start : rows.stop] for tensor in inputs]


def gradients(network, workers):
    output = network(*batch(workers.rows(8)))
    output.square().sum().div(8 / workers.size).backward()
    return {name: p.grad for name, p in network.named_parameters()}


def check_network(settings, workers):
    torch.manual_seed(0)
    spec = Model.choose({**settings, "class_conditional": True})
    plain, divided = (spec.build(DATA, Ports(1, 1, vector=3)) for _ in range(2))
    with torch.no_grad():
        for parameter in plain.parameters():  # some layers start at zero
            parameter += 0.1 * torch.randn_like(parameter)
    shard(divided, torch.device("cpu"), workers.size)
    load_whole(divided, plain.state_dict())
    names = list(dict(plain.named_parameters()))
    assert list(dict(divided.named_parameters())) == names

    for _ in range(2):  # gradients of several passes add up
        expected, found = gradients(plain, Workers()), gathered(gradients(divided, workers), workers)
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() < 1e-4 * expected[name].norm(), name
    assert len(found) == (len(expected) if workers.is_first else 0)
    held = sum(own_part(parameter).numel() for parameter in divided.parameters())
    assert held < 1.3 * sum(parameter.numel() for parameter in plain.parameters()) / workers.size
    together = gathered(divided.state_dict(), workers)
    if workers.is_first:
        assert together.keys() == plain.state_dict().keys()
        assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in together.items())


def test_every_network_has_the_same_gradients(together):
    def job():
        with Workers.joined() as workers:
            for settings in NETWORKS.values():
                check_network(settings, workers)

    assert together(2, job) == [0, 0]


def test_a_run_goes_on_to_the_bit(tiny, together, tmp_path):
    def job():
        with Workers.joined() as workers:
            full = "train.shard=full", "train.device_batch_size=2", "train.optimizer={kind='adamw', lr=1e-3}"
            train(tiny(*full, "train.steps=4"), tmp_path / "whole", workers=workers)
            train(tiny(*full, "train.steps=2"), tmp_path / "parts", workers=workers)
            train(tiny(*full, "train.steps=4"), tmp_path / "parts", workers=workers, resume=True)

    assert together(2, job) == [0, 0], (tmp_path / "err-0").read_text()
    one, other = (read_checkpoint(tmp_path / name / "checkpoints" / checkpoint_name(4)) for name in ("whole", "parts"))
    assert one.optimizer["conv_in.weight/exp_avg"].shape == (8, 1, 3, 3)
    for ours, theirs in (
        (one.model, other.model),
        (one.optimizer, other.optimizer),
        (one.averages["ema"], other.averages["ema"]),
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def new_run(recipe, workers):
    return TrainingRun(recipe, None, recipe.data.info(), recipe.data.open(), torch.device("cpu"), workers)


def test_weights_that_are_single_numbers_are_refused(tiny, monkeypatch):
    def with_gain(*arguments):
        network = nn.Linear(2, 2)
        network.gain = nn.Parameter(torch.ones(()))
        return network

    monkeypatch.setattr("diffkit.train.run.build_network", with_gain)
    message = 'train.shard = "full"\n    weights that are single numbers cannot be divided: gain'
    with pytest.raises(RecipeError, match=re.escape(message)):
        new_run(tiny("train.shard=full"), Workers(0, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("largest", [None, 1, 2, 3])
def test_parts_of_a_batch(tiny, size, largest):
    recipe = tiny("train.batch_size=12", *([f"train.device_batch_size={largest}"] if largest else ()))
    every = [parts_of_batch(recipe, Workers(rank, size)) for rank in range(size)]
    assert [row for parts in every for part in parts for row in part] == list(range(12))
    sizes = [[len(part) for part in parts] for parts in every]
    assert max(map(max, sizes)) <= (largest or 12)
    assert all(max(own) - min(own) <= 1 for own in sizes)
    counts = set(map(len, sizes))
    if counts != {max(counts)}:  # only where a process has no more images
        assert largest == 1
        message = "with train.shard = 'full', all processes must take as many parts of at most 1 images of a batch"
        with pytest.raises(RecipeError, match=f"train.batch_size = 12\n    {message}"):
            new_run(tiny("train.batch_size=12", "train.device_batch_size=1", "train.shard=full"), Workers(0, size))


def test_what_needs_the_others_or_other_states_is_refused(tiny, together, tmp_path):
    def job():
        with Workers.joined() as workers:
            run = new_run(tiny("train.shard=full"), workers)
            with run.helped():
                if workers.is_first:
                    assert run.sample(2).shape == (2, 1, 8, 8)
                    with pytest.raises(UserError, match="the first process alone cannot use the network"):
                        run.model.state_dict()
            with pytest.raises(UserError, match="the other processes have stopped"):
                run.sample(2)
            with pytest.raises(ValueError, match=r"row of conv_in\.weight is not of the parameter's shape"):
                run.optimizer.load({"conv_in.weight/row": torch.zeros(8)})

    assert together(2, job) == [0, 0], (tmp_path / "err-0").read_text()
