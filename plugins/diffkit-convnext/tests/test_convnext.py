"""The block keeps the contract of its family, is what the paper says, and trains in a recipe."""

import json

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from diffkit.nn.base import Activation, Norm, ResnetBlock, Style
from diffkit.pipeline import Pipeline, build_network
from diffkit.train.loop import train

E = 12


@pytest.fixture
def build(plugins):
    """Builds the block with any settings, in evaluation mode."""

    def make(in_channels, out_channels, **settings):
        torch.manual_seed(0)
        style = Style(Norm.choose("group"), Activation.choose("silu"))
        spec = ResnetBlock.choose({"kind": "convnext", **settings})
        return spec.build(in_channels, out_channels, E, style).eval()

    return make


@pytest.mark.parametrize("channels", [(8, 8), (8, 16), (16, 8), (7, 5), (1, 3)])
@pytest.mark.parametrize("sides", [(8, 8), (5, 9), (1, 1)])
def test_any_channels_and_sides(build, channels, sides):
    block = build(*channels)
    assert block(torch.randn(2, channels[0], *sides), torch.randn(2, E)).shape == (2, channels[1], *sides)


def test_it_begins_as_the_identity(build):
    x, embedding = torch.randn(2, 8, 6, 6), torch.randn(2, E)
    assert torch.equal(build(8, 8, layer_scale=0.0)(x, embedding), x)
    assert torch.allclose(build(8, 8)(x, embedding), x, atol=1e-5)
    assert not torch.allclose(build(8, 8, layer_scale=1.0)(x, embedding), x, atol=1e-2)


@pytest.mark.parametrize("channels", [(8, 8), (8, 16)])
def test_the_gradient_reaches_every_parameter_and_both_inputs(build, channels):
    block = build(*channels)
    x, embedding = torch.randn(2, channels[0], 6, 6, requires_grad=True), torch.randn(2, E, requires_grad=True)
    block(x, embedding).square().sum().backward()
    for name, tensor in [*block.named_parameters(), ("x", x), ("embedding", embedding)]:
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, name


def test_it_is_the_block_of_the_paper(build):
    """Against the definition, written out with other operations: one channel and one place at a time."""
    block = build(4, 4, kernel_size=3, layer_scale=0.5).double()
    x, embedding = torch.randn(2, 4, 5, 6).double(), torch.randn(2, E).double()
    p = dict(block.named_parameters())
    scale, shift = functional.linear(embedding, p["scale_shift.weight"], p["scale_shift.bias"]).split(4, dim=1)
    h = torch.cat(
        [
            functional.conv2d(
                x[:, c : c + 1], p["depthwise.weight"][c : c + 1], p["depthwise.bias"][c : c + 1], padding=1
            )
            for c in range(4)
        ],
        dim=1,
    )
    h = (h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    h = h * p["norm.weight"].view(1, 4, 1, 1) + p["norm.bias"].view(1, 4, 1, 1)
    h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    h = functional.conv2d(h, p["expand.weight"][:, :, None, None], p["expand.bias"])
    h = 0.5 * h * (1 + torch.erf(h / 2**0.5))
    h = functional.conv2d(h, p["contract.weight"][:, :, None, None], p["contract.bias"])
    assert torch.allclose(block(x, embedding), x + p["layer_scale"].view(1, 4, 1, 1) * h, atol=1e-12)


def test_the_settings_say_how_many_parameters_it_has(build):
    kernel, channels, expansion = 5, 8, 2
    count = sum(p.numel() for p in build(channels, channels, kernel_size=kernel, expansion=expansion).parameters())
    depthwise, norm, scale_shift = channels * (kernel**2 + 1), 2 * channels, 2 * channels * (E + 1)
    pointwise = expansion * channels * (channels + 1) + channels * (expansion * channels + 1)
    assert count == depthwise + norm + scale_shift + pointwise + channels


def test_it_sees_time(build):
    block, x = build(8, 8, layer_scale=1.0), torch.randn(1, 8, 6, 6)
    assert not torch.allclose(block(x, torch.zeros(1, E)), block(x, torch.ones(1, E)), atol=1e-3)


def test_dropout_acts_in_training_alone(build):
    block, x, embedding = build(8, 8, layer_scale=1.0, dropout=0.5), torch.randn(1, 8, 6, 6), torch.randn(1, E)
    assert torch.equal(block(x, embedding), block(x, embedding))
    block.train()
    assert not torch.equal(block(x, embedding), block(x, embedding))


@pytest.mark.parametrize("channels", [(8, 8), (8, 16)])
def test_it_keeps_channels_last(build, channels):
    block = build(*channels, layer_scale=1.0)
    x, embedding = torch.randn(2, channels[0], 6, 6), torch.randn(2, E)
    last = block.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), embedding)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(last, build(*channels, layer_scale=1.0)(x, embedding), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 6}, "must be odd, so that the output is as large as the input: 5 or 7"),
        ({"kernel_size": 33}, "less than or equal to 31"),
        ({"expansion": 0}, "greater than or equal to 1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"kernal_size": 7}, "Did you mean 'kernel_size'?"),
    ],
)
def test_wrong_settings_say_what_is_allowed(plugins, settings, message):
    with pytest.raises(ValidationError) as caught:
        ResnetBlock.choose({"kind": "convnext", **settings})
    assert message in str(caught.value)


def test_the_plugin_brings_the_block_and_the_recipe(plugins):
    info = plugins.infos["convnext"]
    assert info.components == ("resnet_block.convnext",)
    assert "convnext_digits" in plugins.recipes()


def test_the_recipe_builds_on_the_meta_device(plugins):
    recipe = plugins.open_recipe("convnext_digits")
    with torch.device("meta"):
        network = recipe.model.build(recipe.data.info(), recipe.objective.ports(1))
    assert any(type(module).__name__ == "ConvNeXtBlock" for module in network.modules())
    assert not any("DdpmBlock" in type(module).__name__ for module in network.modules())


def test_twenty_steps_lower_the_loss_and_the_checkpoint_can_be_sampled(open_small, tmp_path):
    recipe = open_small(
        "convnext_digits", "train.steps=20", "train.log_every=5", "train.batch_size=32", "train.optimizer.lr=1e-2"
    )
    train(recipe, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    images = Pipeline.load(tmp_path).sample(3, label=7, guidance=2.0)
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.uint8


def test_the_weights_follow_from_the_seed(open_small):
    recipe = open_small("convnext_digits")
    one, other = (build_network(recipe, recipe.data.info()).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
