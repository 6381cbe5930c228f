import pytest
import torch
from torch.nn import functional

from diffkit.nn import downsample, upsample
from diffkit.nn.activation import Silu
from diffkit.nn.base import Style
from diffkit.nn.norm import Group

STYLE = Style(Group(groups=1), Silu())
X = torch.arange(32.0).view(1, 2, 4, 4)
E = torch.zeros(1, 3)


def weights(module):
    (layer,) = [layer for layer in module.layers if list(layer.parameters())]
    return layer.weight, layer.bias


@pytest.mark.parametrize("kernel", [3, 4])
def test_conv_pads_every_side(kernel):
    module = downsample.ConvDown(kernel=kernel).build(2, 3, STYLE)
    torch.testing.assert_close(module(X, E), functional.conv2d(X, *weights(module), stride=2, padding=1))


def test_conv_asymmetric_pads_right_and_bottom():
    module = downsample.ConvAsymmetric().build(2, 3, STYLE)
    weight, bias = weights(module)
    torch.testing.assert_close(module(X, E)[:, :, 0, 0], (weight * X[:, :, :3, :3]).sum((1, 2, 3))[None] + bias)
    corner = torch.zeros(1, 2, 3, 3)
    corner[:, :, :2, :2] = X[:, :, 2:, 2:]
    torch.testing.assert_close(module(X, E)[:, :, 1, 1], (weight * corner).sum((1, 2, 3))[None] + bias)


def test_pools():
    squares = X.view(1, 2, 2, 2, 2, 2)
    assert torch.equal(downsample.AvgPool().build(2, 3, STYLE)(X, E), squares.mean((3, 5)))
    assert torch.equal(downsample.MaxPool().build(2, 3, STYLE)(X, E), squares.amax((3, 5)))


def test_pixel_unshuffle_sees_all_four_pixels():
    module = downsample.PixelUnshuffle().build(2, 3, STYLE)
    weight, bias = weights(module)
    pixels = torch.stack([X[0, c, i, j] for c in (0, 1) for i in (0, 1) for j in (0, 1)])
    torch.testing.assert_close(module(X, E)[0, :, 0, 0], weight.view(2, 8) @ pixels + bias)


def test_nearest_makes_squares():
    assert torch.equal(
        upsample.Nearest().build(2, 3, STYLE)(X, E), X.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    )


def test_interpolations_before_a_convolution():
    module = upsample.NearestConv().build(2, 3, STYLE)
    squares = X.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(module(X, E), functional.conv2d(squares, *weights(module), padding=1))
    module = upsample.BilinearConv().build(2, 3, STYLE)
    smooth = functional.interpolate(X, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(X, E), functional.conv2d(smooth, *weights(module), padding=1))


def test_transpose_is_the_gradient_of_the_4x4_convolution():
    up = upsample.Transpose().build(2, 3, STYLE)
    weight, _ = weights(up)
    image = torch.randn(1, 2, 8, 8, requires_grad=True)
    (functional.conv2d(image, weight, stride=2, padding=1) * X).sum().backward()
    torch.testing.assert_close(up(X, E), image.grad)


def test_pixel_shuffle_spreads_channels():
    module = upsample.PixelShuffle().build(2, 3, STYLE)
    spread = functional.conv2d(X, *weights(module), padding=1)
    torch.testing.assert_close(module(X, E)[0, 1, 2:4, 4:6].flatten(), spread[0, 4:8, 1, 2])
