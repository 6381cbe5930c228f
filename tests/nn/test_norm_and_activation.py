import math

import pytest
import torch

from diffkit.nn.activation import Gelu, Mish, Relu, Silu
from diffkit.nn.norm import Group, Layer, Rms


def test_group_normalizes_groups_of_channels():
    x = 3 + 2 * torch.randn(2, 6, 4, 5, dtype=torch.float64)
    groups = x.view(2, 3, 2 * 4 * 5)
    expected = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(Group(groups=3, eps=0.1).build(6).double()(x), expected.view_as(x))


def test_layer_normalizes_the_channels_of_each_place():
    x = 3 + 2 * torch.randn(2, 6, 4, 5, dtype=torch.float64)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(Layer(eps=0.1).build(6).double()(x), expected)


def test_rms_scales_the_channels_of_each_place():
    x = 3 + 2 * torch.randn(2, 6, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(Rms(eps=0.1).build(6).double()(x), x / (x.square().mean(1, keepdim=True) + 0.1).sqrt())


def test_groups_that_do_not_fit():
    with pytest.raises(ValueError) as caught:
        Group().build(48)
    assert str(caught.value) == (
        "48 channels cannot be split into 32 equal groups. "
        "Allowed for 48 channels: groups = 1, 2, 3, 4, 6, 8, 12, 16, 24, 48"
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Silu(), 2 / (1 + math.exp(-2))),
        (Gelu(), 2 * (0.5 + 0.5 * math.erf(2 / math.sqrt(2)))),
        (Gelu(approximate="tanh"), 1 + math.tanh(math.sqrt(2 / math.pi) * (2 + 0.044715 * 8))),
        (Relu(), 2.0),
        (Mish(), 2 * math.tanh(math.log(1 + math.exp(2)))),
    ],
)
def test_activations_at_two(kind, value):
    assert kind.build()(torch.tensor(2.0, dtype=torch.float64)).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (64, 16), (12, 3), (3, 1)])
def test_groups_have_a_least_size(channels, groups):
    assert Group(groups=32, min_group=4).build(channels).num_groups == groups
