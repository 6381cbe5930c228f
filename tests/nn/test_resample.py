import itertools
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from diffkit.nn import downsample, upsample
from diffkit.nn.activation import Silu
from diffkit.nn.base import ResnetBlock, Style
from diffkit.nn.norm import Group
from diffkit.nn.resnet import Ddpm

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


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 3.0, 3.0, 2.0, 1.0)])
def test_filters_by_their_definition(taps):
    """Down: the filter at every second place. Up: zeros between the places first."""
    line = torch.tensor(taps) / sum(taps)
    pad = len(taps) // 2 - 1
    square = torch.outer(line, line)
    padded = functional.pad(X, (pad, pad, pad, pad))
    down = torch.zeros(1, 2, 2, 2)
    for i, j in itertools.product(range(2), repeat=2):
        window = padded[:, :, 2 * i : 2 * i + len(taps), 2 * j : 2 * j + len(taps)]
        down[:, :, i, j] = (window * square).sum((2, 3))
    torch.testing.assert_close(downsample.FirDown(filter=taps).build(2, 3, STYLE)(X, E), down)

    spread = torch.zeros(1, 2, 8, 8)
    spread[:, :, ::2, ::2] = X
    margin = len(taps) // 2
    padded = functional.pad(spread, (margin, margin, margin, margin))
    up = functional.conv2d(padded, 4 * square.expand(2, 1, -1, -1), groups=2)[:, :, :8, :8]
    torch.testing.assert_close(upsample.FirUp(filter=taps).build(2, 3, STYLE)(X, E), up)


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 3.0, 3.0, 2.0, 1.0)])
def test_filters_with_a_mirrored_border_see_the_mirrored_maps(taps):
    mirrored = functional.pad(X, (2, 2, 2, 2), "reflect")
    down, up = (kind(filter=taps).build(2, 3, STYLE) for kind in (downsample.FirDown, upsample.FirUp))
    reflect = {"filter": taps, "border": "reflect"}
    found = downsample.FirDown(**reflect).build(2, 3, STYLE)(X, E)
    torch.testing.assert_close(found, down(mirrored, E)[:, :, 1:-1, 1:-1])
    found = upsample.FirUp(**reflect).build(2, 3, STYLE)(X, E)
    torch.testing.assert_close(found, up(mirrored, E)[:, :, 4:-4, 4:-4])


@pytest.mark.parametrize("kind", [downsample.FirDown, downsample.ResnetDown, upsample.FirUp, upsample.ResnetUp])
@pytest.mark.parametrize("taps", [[1.0, 2.0, 1.0], [0.0, 0.0]])
def test_filters_that_cannot_resample(kind, taps):
    with pytest.raises(ValidationError, match="should be of even length and not all zeros"):
        kind(filter=taps)


@pytest.mark.parametrize("project", [False, True])
def test_a_block_that_resamples_filters_both_branches(project):
    style = Style(Group(groups=1), Silu(), Ddpm(skip_scale=0.5))
    block = downsample.ResnetDown(project=project).build(2, 3, style)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    h = functional.avg_pool2d(block.activation(block.norm1(X)), 2)
    h = block.norm2(block.conv1(h) + block.embed(E)[:, :, None, None])
    h = block.conv2(block.activation(h))
    x = functional.avg_pool2d(X, 2)
    torch.testing.assert_close(block(X, E), 0.5 * (h + (block.shortcut(x) if project else x)))


def test_a_block_that_cannot_resample_says_so():
    with pytest.raises(ValueError, match="the block 'plain' cannot resample: use another resnet"):
        downsample.ResnetDown().build(2, 3, Style(Group(groups=1), Silu(), Plain()))


class Plain(ResnetBlock):
    """A block without build_resampling."""

    kind: Literal["plain"] = "plain"

    def build(self, in_channels, out_channels, embedding_channels, style):
        return torch.nn.Identity()
