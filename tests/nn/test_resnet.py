import pytest
import torch
from torch import nn
from torch.nn import functional

from diffkit.nn.activation import Silu
from diffkit.nn.base import Style
from diffkit.nn.norm import Group
from diffkit.nn.resnet import Ddpm, ScaleShift

STYLE = Style(Group(groups=2), Silu())


def block(kind):
    torch.manual_seed(0)
    built = kind.build(4, 6, 5, STYLE).double()
    for parameter in built.parameters():
        nn.init.normal_(parameter)
    return built, torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)


def convolved(x, layer):
    return functional.conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)


def normalized(x, layer):
    return functional.group_norm(x, 2, layer.weight, layer.bias, 1e-6)


def test_ddpm_shifts_before_the_second_normalization():
    b, x, e = block(Ddpm())
    h = convolved(functional.silu(normalized(x, b.norm1)), b.conv1)
    h = h + (e @ b.embed.weight.T + b.embed.bias)[:, :, None, None]
    h = convolved(functional.silu(normalized(h, b.norm2)), b.conv2)
    torch.testing.assert_close(b(x, e), convolved(x, b.shortcut) + h)


def test_scale_shift_modulates_the_second_normalization():
    b, x, e = block(ScaleShift())
    h = convolved(functional.silu(normalized(x, b.norm1)), b.conv1)
    scale, shift = (e @ b.embed.weight.T + b.embed.bias)[:, :, None, None].split(6, dim=1)
    h = convolved(functional.silu((1 + scale) * normalized(h, b.norm2) + shift), b.conv2)
    torch.testing.assert_close(b(x, e), convolved(x, b.shortcut) + h)


@pytest.mark.parametrize("kind", [Ddpm, ScaleShift])
def test_dropout_is_for_training_only_and_follows_the_seed(kind):
    b, x, e = block(kind(dropout=0.5))
    plain, _, _ = block(kind())
    assert torch.equal(b.eval()(x, e), plain(x, e))
    b.train()
    torch.manual_seed(3)
    first = b(x, e)
    torch.manual_seed(3)
    assert torch.equal(b(x, e), first)
    assert not torch.allclose(first, plain(x, e))


@pytest.mark.parametrize("kind", [Ddpm(), ScaleShift()])
def test_shortcut_only_where_channels_change(kind):
    assert not list(kind.build(4, 4, 5, STYLE).shortcut.parameters())
    assert kind.build(4, 6, 5, STYLE).shortcut.weight.shape == (6, 4, 1, 1)


def test_ddpm_refuses_a_normalization_that_would_hide_the_embedding():
    with pytest.raises(ValueError) as caught:
        Ddpm().build(4, 2, 5, STYLE)
    assert str(caught.value) == (
        "2 groups of 2 channels are one channel each, so the normalization would take out again what the embedding "
        'adds, and the block would not see the time. Set fewer norm.groups, more channels, or resnet = "scale_shift"'
    )
    ScaleShift().build(4, 2, 5, STYLE)
