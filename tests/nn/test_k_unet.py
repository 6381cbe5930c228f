"""The U-Net of adaptive group normalizations. What it computes is compared in tests/interop."""

import re

import pytest
import torch
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.nn.activation import Silu
from diffkit.nn.base import Model, Ports
from diffkit.nn.k_unet import AdaptiveNorm, KBlock
from diffkit.pipeline import Pipeline
from diffkit.train.loop import train

DATA = DataInfo(3, 8, 12, ("a", "b"))
SMALL = {
    "kind": "k_unet",
    "channels": [8, 16],
    "group_size": 4,
    "blocks_per_level": 2,
    "norm": {"kind": "group", "groups": 4},
}


def spec(**changes):
    return Model.choose({**SMALL, **changes})


def network(**changes):
    torch.manual_seed(0)
    return spec(**changes).build(DATA, Ports(5, 4, vector=3))


def shown():
    return torch.randn(4, 5, 8, 12), torch.arange(4.0), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_features": True, "divide_by_time": True, "center_input": True},
        {"downsample": "resnet", "upsample": "resnet", "resnet": "scale_shift", "attention": "linear"},
    ],
)
def test_starts_at_zero_and_trains_every_weight(changes):
    net = network(class_conditional=True, **changes)
    x, time, label, vector = shown()
    out = net(x, time + 1, label, vector)
    assert out.shape == (4, 4, 8, 12)
    assert not out.any()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    net(x, time + 1, label, vector).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_recipe_of_it_trains_and_samples(tiny, tmp_path):
    table = "{kind='k_unet', channels=[8, 8], group_size=4, blocks_per_level=1, norm={kind='group', groups=4}}"
    train(tiny(f"model={table}", "model.class_conditional=true", "train.steps=2"), tmp_path)
    assert Pipeline.load(tmp_path).sample(2).shape == (2, 1, 8, 8)


def test_no_label_is_the_label_after_the_last():
    net = network(class_conditional=True)
    nn.init.normal_(net.conv_out.weight)
    x, time, _, vector = shown()
    assert torch.equal(net(x, time), net(x, time, torch.full((4,), 2), torch.zeros_like(vector)))
    with pytest.raises(ValueError, match="not class-conditional"):
        network()(x, time, torch.zeros(4))


def test_each_level_has_one_skip_and_the_way_up_as_many_blocks():
    net = network(channels=[8, 16, 12], blocks_per_level=3, group_size=12)
    sizes = [[(block.conv1.in_channels, block.conv1.out_channels) for block in stage.blocks] for stage in net.up]
    assert sizes == [[(24, 12), (12, 12), (12, 16)], [(32, 16), (16, 16), (16, 8)], [(16, 8), (8, 8), (8, 8)]]


def test_the_middle_may_be_left_out():
    assert not any("middle" in name for name, _ in network(middle=False).named_parameters())
    assert sum(p.numel() for p in network(attention="none").parameters()) < sum(
        p.numel() for p in network().parameters()
    )


def test_adaptive_normalization_by_its_definition():
    torch.manual_seed(0)
    norm = AdaptiveNorm(2, 6, 5, 1e-3, Silu())
    x, e = torch.randn(3, 6, 4, 2), torch.randn(3, 5)
    grouped = x.view(3, 2, -1)
    normal = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.var(-1, correction=0, keepdim=True) + 1e-3).sqrt()
    scale, shift = (e @ norm.embed.weight.T + norm.embed.bias)[:, :, None, None].chunk(2, dim=1)
    torch.testing.assert_close(norm(x, e), nn.functional.silu((1 + scale) * normal.view_as(x) + shift))
    assert [name for name, _ in norm.named_parameters()] == ["embed.weight", "embed.bias"]


def test_a_block_counts_the_groups_behind_its_first_convolution_by_its_level():
    block = KBlock(spec(), 32, 8, 16, 5)
    assert (block.norm1.norm.num_groups, block.norm2.norm.num_groups) == (8, 4)
    assert block.shortcut.bias is None


def test_problems_are_found_at_once():
    wrong = spec(
        channels=[6, 9, 14], class_conditional=True, attention={"kind": "self", "heads": 3}, class_features=True
    )
    problems = [(problem.key, problem.message) for problem in wrong.problems(DataInfo(1, 8, 4))]
    assert {key for key, _ in problems} == {"channels", "class_conditional", "resnet", "attention", "norm"}
    said = "\n".join(message for key, message in problems if key == "channels")
    assert "sides divisible by 4 and of at least 8" in said
    assert "9 channels cannot be split into 2 equal groups" in said
    with pytest.raises(ValueError, match="sides divisible by 4"):
        spec(channels=[8, 8, 8]).build(DataInfo(1, 8, 6), Ports(1, 1))


def test_numbers_of_classes_need_features():
    wrong = spec(class_conditional=True, class_features=True, embedding="log_fourier")
    (problem,) = wrong.problems(DATA)
    assert problem.key == "class_features"
    assert "the first class has the number 0" in problem.message


@pytest.mark.parametrize(
    ("size", "refused"),
    [
        ((4, 6), None),
        ((4, 2), "2 levels need sides divisible by 2 and of at least 4.*: 4x4$"),
        ((7, 8), ": 6x8 or 8x8$"),
    ],
)
def test_sizes_that_can_be_halved_and_mirrored(size, refused):
    reason = spec().refuses_size(DATA, *size)
    if refused is None:
        assert reason is None
        assert network()(torch.randn(1, 5, *size), torch.zeros(1)).shape == (1, 4, *size)
    else:
        assert re.search(refused, str(reason))


def test_maps_of_one_place_where_nothing_is_mirrored():
    assert spec(downsample="avg_pool", upsample="nearest").refuses_size(DATA, 2, 2) is None
    assert spec(channels=[8]).refuses_size(DATA, 1, 3) is None
