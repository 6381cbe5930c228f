"""The packaged recipes train and sample, on their real data."""

import numpy as np
import pytest
import torch

from diffkit.pipeline import Pipeline
from diffkit.plugins.manager import Plugins
from diffkit.train.loop import train

SHORT = ["train.steps=2", "train.batch_size=4", "train.log_every=1", "sample.steps=2", "callbacks=[]"]


@pytest.mark.parametrize("name", ["quickstart", "fashion_mnist", "fashion_mnist_conditional", "ddpm_scratch"])
def test_recipe(name, fashion_mnist, tmp_path):
    plugins = Plugins()
    recipe = plugins.open_recipe(name, SHORT)
    train(recipe, tmp_path, plugins=plugins.manager)
    images = Pipeline.load(tmp_path).sample(2)
    assert images.shape == (2, *recipe.data.info().shape)


def test_superres_fashion(fashion_mnist, tmp_path):
    train(Plugins().open_recipe("superres_fashion", SHORT), tmp_path)
    small = torch.zeros(1, 1, 7, 7, dtype=torch.uint8)
    assert Pipeline.load(tmp_path).sample(2, condition=small).shape == (2, 1, 28, 28)


SMALL = ["model.width=32", "model.heads=2", "model.depth=3"]


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("dit_cifar", SMALL),
        ("uvit_cifar", SMALL),
        ("colorize_cifar", ["model.channels=64", "model.multipliers=[1]", "model.attention_at=[]"]),
    ],
)
def test_other_cifar_recipes_with_smaller_networks(name, smaller, tmp_path):
    """On noisy pictures in the place of CIFAR-10, which is a download."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8), np.arange(4)
    np.savez(tmp_path / "x.npz", images=pixels, labels=labels)
    data = f'data={{kind="arrays", path="{tmp_path}/x.npz", labels_key="labels", flip=true}}'
    recipe = Plugins().open_recipe(name, [*SHORT, data, *smaller])
    train(recipe, tmp_path / "run")
    grey = {"condition": torch.zeros(1, 1, 32, 32, dtype=torch.uint8)} if name == "colorize_cifar" else {}
    assert Pipeline.load(tmp_path / "run").sample(2, **grey).shape == (2, 3, 32, 32)


def test_vectors(tmp_path):
    """With a file as the recipe wants one."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, vectors=np.eye(4))
    smaller = ["model.channels=32", "model.blocks_per_level=1"]
    train(Plugins().open_recipe("vectors", [*SHORT, f"data.path='{tmp_path}/x.npz'", *smaller]), tmp_path / "run")
    images = Pipeline.load(tmp_path / "run").sample(2, vectors=torch.eye(4))
    assert images.shape == (2, 3, 16, 16)


def test_ddpm_cifar_trains_on_pictures_of_its_size(tmp_path):
    """CIFAR-10 itself is a download; two noisy pictures in its place show that the recipe's parts work together."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    data = f'data={{kind="arrays", path="{tmp_path}/x.npy", flip=true}}'
    recipe = Plugins().open_recipe("ddpm_cifar", [*SHORT, data, "train.batch_size=1", "train.steps=1"])
    train(recipe, tmp_path / "run")
    assert Pipeline.load(tmp_path / "run").sample(1).shape == (1, 3, 32, 32)
