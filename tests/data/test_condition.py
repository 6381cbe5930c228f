import numpy as np
import pytest
import torch
from PIL import Image

from diffkit.data.condition import Condition, Grey, LowResolution, NoCondition
from diffkit.data.pixels import to_uint8, to_unit
from diffkit.testing import kinds_of

each_kind = pytest.mark.parametrize("condition", kinds_of(Condition))


def pixels(*shape) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_network_sees_has_the_images_sides(condition, dtype):
    x0 = to_unit(pixels(5, 3, 8, 12)).to(dtype)
    before = x0.clone()
    seen = condition.make(x0)
    assert seen.shape == (5, condition.channels(3), 8, 12)
    assert seen.dtype == dtype
    assert torch.equal(x0, before)
    assert condition.reduce(x0).shape == (5, *condition.shape(3, 8, 12))
    assert condition.refuses(3, 8, 12) is None


@each_kind
def test_a_file_of_what_is_left_shows_the_network_the_same(condition):
    x0 = to_unit(pixels(2, 3, 8, 12))
    file = to_uint8(condition.reduce(x0))
    assert torch.equal(condition.spread(to_unit(file), 8, 12), condition.make(x0))


@each_kind
def test_each_image_for_itself(condition):
    x0 = to_unit(pixels(3, 3, 8, 8))
    torch.testing.assert_close(condition.make(x0)[1:2], condition.make(x0[1:2]), rtol=0, atol=1e-6)


def test_nothing_has_no_channels():
    assert NoCondition().channels(3) == 0


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_is_pillows_bicubic(factor):
    image = pixels(3, 24, 16)
    height, width = 24 // factor, 16 // factor
    small = to_uint8(LowResolution(factor=factor).reduce(to_unit(image[None])))[0]
    theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(theirs)).permute(2, 0, 1)
    assert (small.int() - expected.int()).abs().max() <= 1


def test_low_resolution_keeps_flat_images_and_loses_what_is_fine():
    condition = LowResolution(factor=4)
    flat = to_unit(torch.full((1, 1, 8, 8), 77, dtype=torch.uint8))
    torch.testing.assert_close(condition.make(flat), flat)
    chessboard = (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8))
    assert condition.make(chessboard[None, None]).abs().max() < 0.1


def test_grey_is_pillows():
    image = pixels(3, 32, 32)
    grey = to_uint8(Grey().reduce(to_unit(image[None])))[0, 0]
    expected = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
    assert (grey.int() - torch.from_numpy(expected).int()).abs().max() <= 1


def test_refusals():
    assert LowResolution(factor=4).refuses(1, 28, 28) is None
    assert LowResolution(factor=3).refuses(1, 28, 12) == (
        "the factor 3 does not divide the sides of images of 28x12 (height x width). Allowed for these: 2, 4"
    )
    assert "none, they have no common divisor" in LowResolution(factor=2).refuses(1, 7, 9)
    assert Grey().refuses(1, 8, 8) == ("images of 1 channel have no colors to take away: choose a data set with colors")
