"""Other libraries, with the networks of recipes."""

import importlib.util

import pytest
import torch

from diffkit.benchmarking.peers import find_peer, peers
from diffkit.benchmarking.workload import random_images
from diffkit.errors import RecipeError, UserError
from diffkit.pipeline import build_network


def installed(name):
    module = {peer.name: peer.module for peer in peers()}[name]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    return find_peer(name)


@pytest.fixture
def diffusers():
    return installed("diffusers")


@pytest.fixture
def package():
    return installed("lucidrains")


def both(peer, recipe):
    data = recipe.data.info()
    theirs, ours = peer.build(recipe, data), build_network(recipe, data)
    return data, theirs, ours


def check_step(peer, recipe):
    """Take two steps, and see that weights and nothing else follow the gradients."""
    data, theirs, ours = both(peer, recipe)
    assert peer.difference(recipe, data, theirs, ours) < 1e-5
    count = [sum(p.numel() for p in network.parameters()) for network in (theirs, ours)]
    images = random_images(data)
    rows = torch.arange(len(images))
    step = peer.training_step(recipe, data, theirs, images.pixels(rows), images.labels(rows))
    before = [parameter.detach().clone() for parameter in theirs.parameters()]
    step()
    step()
    after = list(theirs.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > 0.9 * len(before)
    assert peer.network_call(recipe, data, theirs)().shape == (recipe.train.batch_size, *data.shape)
    return count


def test_diffusers_has_the_same_network(diffusers, tiny):
    theirs, ours = check_step(diffusers, tiny())
    assert ours == theirs


def test_lucidrains_has_the_same_network(package, lucidrains):
    theirs, ours = check_step(package, lucidrains())
    assert ours == theirs


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.norm='rms'", "model.norm"),
        ("model.upsample='transpose'", "model.levels[1].upsample"),
        ("objective.variance='learned_range'", "objective.variance"),
        ("objective.self_conditioning=true", "model"),
    ],
)
def test_diffusers_refuses(diffusers, tiny, override, key):
    recipe = tiny(override)
    with pytest.raises(RecipeError) as caught:
        diffusers.build(recipe, recipe.data.info())
    assert [problem.key for problem in caught.value.problems] == [key]


def test_lucidrains_refuses_other_models(package, tiny):
    recipe = tiny()
    with pytest.raises(RecipeError, match=r"tiny, against lucidrains: 1 problem\n  model.kind = \"unet\"\n    only a"):
        package.build(recipe, recipe.data.info())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"activation": "gelu"}, "model.activation"),
        ({"attention": {"kind": "linear_memory", "memory": 2}}, "model.attention"),
        ({"norm": {"kind": "rms", "eps": 1e-3}}, "model.norm"),
        ({"embedding": "fourier"}, "model.embedding"),
    ],
)
def test_lucidrains_refuses_what_its_unet_cannot_have(package, lucidrains, changes, key):
    recipe = lucidrains(**changes)
    with pytest.raises(RecipeError) as caught:
        package.difference(recipe, *both(package, recipe))
    assert key in [problem.key for problem in caught.value.problems]


def test_another_result_is_refused(diffusers, tiny, monkeypatch):
    recipe = tiny()
    call = type(diffusers).call
    monkeypatch.setattr(type(diffusers), "call", lambda self, *inputs: call(self, *inputs) + 0.1)
    with pytest.raises(UserError, match="computes something else from the same weights"):
        diffusers.difference(recipe, *both(diffusers, recipe))


def test_a_missing_library(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for peer in peers():
        with pytest.raises(UserError, match=f"--against {peer.name}: the package {peer.module} is not installed: pip"):
            find_peer(peer.name)


def test_an_unknown_library():
    with pytest.raises(UserError, match=r"--against difusers: no such library\. Did you mean 'diffusers'\?"):
        find_peer("difusers")
