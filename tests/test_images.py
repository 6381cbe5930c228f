"""Pictures and grids."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffkit.images import grid, save_png, to_picture


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_picture_holds_the_same_pixels(channels, mode, tmp_path):
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    save_png(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.mode, picture.size) == (mode, (7, 5))
        assert (np.asarray(picture).reshape(5, 7, channels) == image.permute(1, 2, 0).numpy()).all()


def test_other_numbers_of_channels_stand_side_by_side():
    assert to_picture(torch.zeros(5, 4, 6, dtype=torch.uint8)).size == (30, 4)


def test_a_grid_goes_row_by_row():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    expected = [[255] * 5, [255, 0, 255, 1, 255], [255] * 5, [255, 2, 255, 3, 255], [255] * 5, [255, 4, 255, 255, 255]]
    assert grid(images, columns=2)[0].tolist() == [*expected, [255] * 5]
    assert grid(images).shape == (1, 5, 7)


def test_small_pictures_are_enlarged_by_whole_factors(tmp_path):
    save_png(torch.zeros(1, 30, 40, dtype=torch.uint8), tmp_path / "a.png", smallest_side=100)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (160, 120)
