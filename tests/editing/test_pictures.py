"""Which pictures can be edited."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffkit.editing.pictures import read_mask, read_pictures
from diffkit.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture
def save(tmp_path):
    def write(name, pixels, mode=None):
        file = tmp_path / name
        Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode).save(file)
        return file

    return write


def test_pictures_that_fit_come_as_they_are(save):
    grey, color = (RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((4, 6), (4, 6, 3)))
    read = read_pictures([save("a.png", grey), save("b.png", np.stack([grey] * 3, axis=-1))], (1, 4, 6))
    assert torch.equal(read, torch.from_numpy(grey).expand(2, 1, 4, 6))
    opaque = np.concatenate([color, np.full((4, 6, 1), 255)], axis=-1)
    read = read_pictures([save("c.png", color), save("d.png", opaque)], (3, 4, 6))
    assert torch.equal(read, torch.from_numpy(color).permute(2, 0, 1).expand(2, 3, 4, 6))
    read = read_pictures([save("e.png", grey)], (3, 4, 6))
    assert torch.equal(read, torch.from_numpy(grey).expand(1, 3, 4, 6))


def test_every_picture_that_does_not_fit_is_named_with_the_reason(save, tmp_path):
    color = RNG.integers(0, 256, (4, 6, 4), dtype=np.uint8)
    (tmp_path / "text.png").write_text("text")
    files = [
        save("fits.png", color[..., 0]),
        save("large.png", np.zeros((6, 4))),
        save("color.png", color[..., :3]),
        save("clear.png", color),
        tmp_path / "text.png",
        tmp_path / "missing.png",
    ]
    with pytest.raises(UserError) as caught:
        read_pictures(files, (1, 4, 6))
    lines = str(caught.value).splitlines()
    assert lines == [
        "pictures of 4x6 pixels (height x width), grey, are wanted, and these are not:",
        f"  {files[1]}: 6x4 pixels",
        f"  {files[2]}: in color",
        f"  {files[3]}: transparent in some places",
        f"  {files[4]}: not a picture of a known format (PNG, JPEG, WEBP, BMP, GIF, TIFF)",
        f"  {files[5]}: No such file or directory",
        "--resize scales, crops and converts pictures that are not so",
    ]


def test_with_resize_they_come_as_from_a_folder_of_images(save):
    read = read_pictures([save("a.png", np.full((8, 20, 3), (255, 0, 0)))], (1, 4, 6), resize=True)
    assert read.shape == (1, 1, 4, 6) and (read == 76).all()


def test_images_that_no_picture_can_hold(save):
    with pytest.raises(UserError, match="the model's images have 2 channels, and pictures have 1"):
        read_pictures([save("a.png", np.zeros((4, 6)))], (2, 4, 6))


def test_white_is_the_hole(save):
    assert read_mask(save("m.png", [[0, 255], [255, 0]]), (2, 2)).tolist() == [[False, True], [True, False]]


def test_greys_of_a_mask_are_refused_or_rounded(save):
    file = save("m.png", [[0, 255], [127, 128]])
    with pytest.raises(UserError, match=r"m\.png: 2 pixels are neither black"):
        read_mask(file, (2, 2))
    assert read_mask(file, (2, 2), resize=True).tolist() == [[False, True], [False, True]]


def test_a_mask_of_another_size(save):
    file = save("m.png", np.kron([[0, 255]], np.ones((8, 4))))
    with pytest.raises(UserError, match="8x8 pixels"):
        read_mask(file, (4, 4))
    assert read_mask(file, (4, 4), resize=True).tolist() == [[False, False, True, True]] * 4
