"""Training and sampling on every process, with the parts of its paper."""

import pytest
import torch

from diffkit.pipeline import Pipeline
from diffkit.train.loop import train

RECIPES = {
    "edm": (
        "process={kind='edm'}",
        "objective={prediction='edm', weighting='edm', time_sampling='lognormal'}",
        "sample={sampler='ddim', spacing='karras', steps=5, count=4}",
    ),
    "flow": (
        "process={kind='flow', shift=2.0}",
        "objective={prediction='flow', time_sampling='logit_normal'}",
        "sample={sampler='ddim', spacing='trailing', steps=5, count=4}",
    ),
    "zero_terminal_snr": (
        "process.zero_terminal_snr=true",
        "objective={prediction='velocity', weighting='min_snr'}",
        "sample={sampler='ddpm', steps=5, count=4}",
    ),
}


@pytest.mark.parametrize("overrides", RECIPES.values(), ids=RECIPES)
def test_trains_resumes_to_the_bit_and_samples(tiny, tmp_path, overrides):
    train(tiny(*overrides, "train.steps=6", "train.device_batch_size=4"), tmp_path / "whole")
    train(tiny(*overrides, "train.steps=3", "train.device_batch_size=4"), tmp_path / "parts")
    train(tiny(*overrides, "train.steps=6", "train.device_batch_size=4"), tmp_path / "parts", resume=True)
    whole, parts = Pipeline.load(tmp_path / "whole"), Pipeline.load(tmp_path / "parts")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, parts.network.state_dict()[name])
    images = whole.sample(4)
    assert torch.equal(images, parts.sample(4))
    assert len(images.unique()) > 20
