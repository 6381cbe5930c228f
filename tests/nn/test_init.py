import pytest
import torch
from torch import nn

from diffkit.nn.init import conv, init, linear


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(300, 100), 300, 100),
        (nn.Conv2d(40, 60, 3), 40 * 9, 60 * 9),
        (nn.ConvTranspose2d(40, 60, 4), 40 * 16, 60 * 16),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_variance_is_scale_over_the_mean_fan(layer, fan_in, fan_out, scale):
    init(layer, scale)
    fan = (fan_in + fan_out) / 2
    assert layer.weight.var().item() == pytest.approx(scale / fan, rel=0.05)
    assert layer.weight.abs().max().item() == pytest.approx((3 * scale / fan) ** 0.5, rel=0.01)
    assert not layer.bias.any()


def test_scale_zero_is_zero():
    assert not linear(5, 5, scale=0).weight.any()
    assert not conv(5, 5, scale=0).weight.any()


@pytest.mark.parametrize(("kernel", "stride", "side"), [(1, 1, 8), (3, 1, 8), (3, 2, 4), (4, 2, 4)])
def test_convolutions_keep_or_halve_the_sides(kernel, stride, side):
    assert conv(2, 3, kernel, stride=stride)(torch.zeros(1, 2, 8, 8)).shape == (1, 3, side, side)
