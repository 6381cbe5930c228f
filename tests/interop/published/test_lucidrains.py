"""Networks of older versions of denoising-diffusion-pytorch, against the outputs of their own code."""

import pytest
import torch

from diffkit.interop.base import Source
from diffkit.interop.lucidrains import Lucidrains


@pytest.mark.parametrize("version", ["1.6.4", "1.8.0"])
def test_network_is_the_published_one(version, published, tmp_path):
    case = published.read(f"lucidrains_{version}.safetensors")[version]
    state = {f"model.{name}": tensor for name, tensor in published.fill(case["shapes"]).items()}
    buffers = {name: case[name] for name in published.BUFFERS}
    file = tmp_path / "model-1.pt"
    torch.save({"step": 10, "model": {**state, **buffers}, "ema": None, "version": version}, file)
    settings = {"image_size": published.SIDE, "resnet_block_groups": 4}
    imported = Lucidrains().read(Source(file, True, settings))
    recipe = imported.validated()
    assert recipe.model.resnet.standardize == (version == "1.6.4")
    assert (recipe.objective.prediction.kind, recipe.process.schedule.kind) == ("velocity", "from_alpha_bar")
    x = published.normal("x", (2, 2, published.SIDE, published.SIDE))
    with torch.no_grad():
        output = imported.network().eval()(x, torch.tensor([1.0, 20.0]))
    torch.testing.assert_close(published.thinned(output), case["output"], rtol=1e-5, atol=1e-5)
