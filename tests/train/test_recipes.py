"""The packaged recipes train and sample, on their real data."""

import pytest

from diffkit.pipeline import Pipeline
from diffkit.plugins.manager import Plugins
from diffkit.train.loop import train

SHORT = ["train.steps=2", "train.batch_size=4", "train.log_every=1", "sample.steps=2", "callbacks=[]"]


@pytest.mark.parametrize("name", ["quickstart", "fashion_mnist", "ddpm_scratch"])
def test_recipe(name, fashion_mnist, tmp_path):
    plugins = Plugins()
    recipe = plugins.open_recipe(name, SHORT)
    train(recipe, tmp_path, plugins=plugins.manager)
    images = Pipeline.load(tmp_path).sample(2)
    assert images.shape == (2, *recipe.data.info().shape)


def test_ddpm_cifar_trains_on_pictures_of_its_size(tmp_path):
    """CIFAR-10 itself is a download; two noisy pictures in its place show that the recipe's parts work together."""
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    data = f'data={{kind="arrays", path="{tmp_path}/x.npy", flip=true}}'
    recipe = Plugins().open_recipe("ddpm_cifar", [*SHORT, data, "train.batch_size=1", "train.steps=1"])
    train(recipe, tmp_path / "run")
    assert Pipeline.load(tmp_path / "run").sample(1).shape == (1, 3, 32, 32)
