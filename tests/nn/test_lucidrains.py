"""The U-Net whose resamplers change the number of channels. What it computes is compared in tests/interop."""

import pytest
import torch
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.nn.base import Model, Ports
from diffkit.nn.memory_attention import FullMemoryAttention, LinearAttentionWithMemory
from diffkit.nn.post_norm import StandardizedConv

DATA = DataInfo(3, 8, 12, ("a", "b"))


def network(**changes):
    spec = Model.choose({"kind": "lucidrains_unet", "channels": 8, "multipliers": [1, 2], **changes})
    return spec.build(DATA, Ports(5, 4, vector=3))


def test_starts_at_zero_and_trains_every_weight():
    torch.manual_seed(0)
    net = network(class_conditional=True, first_channels=6)
    x, time, label, vector = torch.randn(4, 5, 8, 12), torch.arange(4.0), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)
    out = net(x, time, label, vector)
    assert out.shape == (4, 4, 8, 12)
    assert not out.any()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    net(x, time, label, vector).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_last_level_and_the_middle_attend_fully_unless_a_table_says_otherwise():
    net = network()
    assert [type(stage.attention) for stage in net.down] == [LinearAttentionWithMemory, FullMemoryAttention]
    assert [type(stage.attention) for stage in net.up] == [FullMemoryAttention, LinearAttentionWithMemory]
    net = network(levels=[{"attention": "memory"}, {"attention": "none"}])
    assert [type(stage.attention) for stage in net.down] == [FullMemoryAttention, nn.Identity]
    assert isinstance(net.middle_attention, FullMemoryAttention)


def test_parts_of_other_networks_fit():
    net = network(resnet="ddpm", attention="linear", middle_attention="self", norm={"kind": "group", "groups": 4})
    assert net(torch.randn(1, 5, 4, 4), torch.zeros(1)).shape == (1, 4, 4, 4)


def test_problems_are_found_at_once():
    spec = Model.choose(
        {
            "kind": "lucidrains_unet",
            "channels": 6,
            "multipliers": [1, 2, 2],
            "class_conditional": True,
            "middle_attention": {"kind": "self", "heads": 5},
            "levels": [{}, {}, {}, {}],
        }
    )
    problems = {problem.key: problem.message for problem in spec.problems(DataInfo(1, 8, 6))}
    assert set(problems) == {"multipliers", "levels", "class_conditional", "middle_attention"}
    assert problems["multipliers"] == "the model's 3 levels need sides divisible by 4: 8x4 or 8x8"
    assert "12 channels cannot be split into 5 heads" in problems["middle_attention"]
    with pytest.raises(ValueError, match="sides divisible by 4"):
        spec.build(DataInfo(1, 8, 6), Ports(1, 1))


def test_standardized_weights():
    torch.manual_seed(0)
    conv = StandardizedConv(3, 2, 3, padding=1)
    nn.init.normal_(conv.weight, 5, 7)
    x = torch.randn(1, 3, 4, 4)
    rows = conv.weight.flatten(1)
    expected = ((rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)).view_as(conv.weight)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, expected, conv.bias, padding=1), rtol=1e-4, atol=1e-4)


def test_memory_is_looked_up_beside_the_places():
    """Where all keys are alike, each place gets the mean of six zeros, three zeros and a four."""
    for kind in (FullMemoryAttention, LinearAttentionWithMemory):
        module = network().down[1 if kind is FullMemoryAttention else 0].attention
        assert isinstance(module, kind)
        with torch.no_grad():
            module.qkv.weight.zero_()
            module.memory.zero_()
            module.memory[1, :, 0] = 4.0
            q = k = v = torch.zeros(1, 4, 6, 32)
            memory = [part.expand(1, -1, -1, -1) for part in module.memory]
            mixed = module.mix(q, torch.cat((memory[0], k), dim=2), torch.cat((memory[1], v), dim=2))
        scale = 1 if kind is FullMemoryAttention else 32**-0.5
        torch.testing.assert_close(mixed, torch.full_like(mixed, scale * 4 / 10))
