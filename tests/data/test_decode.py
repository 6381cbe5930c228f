"""Pictures of every sort, decoded to pixels that are known."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from diffkit.data import decode as module
from diffkit.data.decode import UnreadablePictureError, check_picture, decode, decode_as_is, fit

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def pixels_of(file, channels=3, background="white", size=None):
    with Image.open(file) as picture:
        size = size or (picture.height, picture.width)
    return decode(file, size, channels, background)


def png(path, width, height, bits, color, rows, extra=b""):
    """Write a PNG by hand: Pillow cannot write all of them."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def transparent_chunk(content):
    return struct.pack(">I", len(content)) + b"tRNS" + content + struct.pack(">I", zlib.crc32(b"tRNS" + content))


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "jpg", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_formats(tmp_path, suffix, channels):
    file = tmp_path / f"picture.{suffix}"
    picture = Image.new("RGB", (16, 8), (200, 100, 50))
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    picture.save(file, **options)
    expected = [200, 100, 50] if channels == 3 else [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]
    pixels = pixels_of(file, channels)
    assert pixels.shape == (channels, 8, 16)
    assert pixels.dtype == np.uint8
    tolerance = 2 if suffix == "jpg" else 0
    assert np.abs(pixels.astype(int) - np.array(expected)[:, None, None]).max() <= tolerance


def test_the_axes_are_not_mixed_up(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), array.transpose(2, 0, 1))


def test_grey(tmp_path):
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png", 1)[0], array)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png", 3), np.stack([array] * 3))


def test_one_bit(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert pixels_of(tmp_path / "a.png", 1)[0].tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("background", "behind"), [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#336699", (0x33, 0x66, 0x99))]
)
def test_rgba_lies_on_the_background(tmp_path, background, behind):
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(10, 20, 30, 255), (10, 20, 30, 0), (100, 200, 0, 51)])
    picture.save(tmp_path / "a.png")
    pixels = pixels_of(tmp_path / "a.png", background=background)[:, 0].T.astype(int)
    assert pixels[0].tolist() == [10, 20, 30]
    assert tuple(pixels[1]) == behind
    blended = 0.2 * np.array([100, 200, 0]) + 0.8 * np.array(behind)
    assert np.abs(pixels[2] - blended).max() <= 1


def test_hidden_colors_do_not_bleed_when_scaled(tmp_path):
    """What lies under transparent pixels is not to be seen at their edges."""
    array = np.zeros((8, 8, 4), dtype=np.uint8)
    array[:, 4:] = (255, 255, 255, 255)
    array[:, :4] = (255, 0, 0, 0)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert (pixels_of(tmp_path / "a.png", size=(4, 4)) == 255).all()


def test_grey_with_alpha(tmp_path):
    picture = Image.new("LA", (2, 1))
    picture.putdata([(40, 255), (40, 0)])
    picture.save(tmp_path / "a.png")
    assert pixels_of(tmp_path / "a.png", 1, "black")[0].tolist() == [[40, 0]]
    assert pixels_of(tmp_path / "a.png", 3, "#0000ff")[:, 0, 1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette(tmp_path, suffix):
    picture = Image.new("P", (3, 1))
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / f"solid.{suffix}")
    picture.save(tmp_path / f"clear.{suffix}", transparency=1)
    assert pixels_of(tmp_path / f"solid.{suffix}")[:, 0].T.tolist() == [[*RED], [*GREEN], [*BLUE]]
    assert pixels_of(tmp_path / f"clear.{suffix}", background="black")[:, 0].T.tolist() == [[*RED], [0, 0, 0], [*BLUE]]


def test_palette_with_half_transparent_colors(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *GREEN])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.png", transparency=bytes([255, 51]))
    pixels = pixels_of(tmp_path / "a.png", background="black")[:, 0].T
    assert pixels.tolist() == [[255, 0, 0], [0, 51, 0]]


def test_grey_and_rgb_with_one_transparent_color(tmp_path):
    png(tmp_path / "grey.png", 2, 1, 8, 0, [bytes([7, 9])], transparent_chunk(b"\0\7"))
    assert pixels_of(tmp_path / "grey.png", 1)[0].tolist() == [[255, 9]]
    png(tmp_path / "rgb.png", 2, 1, 8, 2, [bytes([1, 2, 3, 4, 5, 6])], transparent_chunk(b"\0\1\0\2\0\3"))
    assert pixels_of(tmp_path / "rgb.png")[:, 0].T.tolist() == [[255, 255, 255], [4, 5, 6]]


VALUES = np.array([[0, 128, 257, 30_000, 32_768, 65_535]], dtype=np.uint16)
SCALED = np.rint(VALUES / 257).astype(int)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix, channels):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(VALUES).save(file)
    assert (pixels_of(file, channels).astype(int) == SCALED).all()


def test_16_bit_grey_of_the_other_byte_order(tmp_path):
    Image.frombytes("I;16B", (6, 1), VALUES.astype(">u2").tobytes()).save(tmp_path / "a.tiff")
    assert (pixels_of(tmp_path / "a.tiff", 1)[0].astype(int) == SCALED).all()


def test_16_bit_grey_where_0_is_white(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.tiff", tiffinfo={262: 0})
    assert (pixels_of(tmp_path / "a.tiff", 1)[0].astype(int) == 255 - SCALED).all()


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    png(tmp_path / "a.png", 2, 1, 16, 0, [struct.pack(">2H", 30_000, 30_001)], transparent_chunk(b"\x75\x30"))
    assert pixels_of(tmp_path / "a.png", 1)[0].tolist() == [[255, 117]]


@pytest.mark.parametrize(("color", "values"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "grey and alpha"])
def test_16_bit_colors(tmp_path, color, values):
    row = np.array([60_000, 30_000, 10_000, 65_535][:values], dtype=">u2")
    row[-1] = 65_535 if color != 2 else row[-1]
    png(tmp_path / "a.png", 1, 1, 16, color, [row.tobytes()])
    expected = np.array([60_000, 30_000, 10_000] if color != 4 else [60_000] * 3) / 257
    assert np.abs(pixels_of(tmp_path / "a.png")[:, 0, 0] - expected).max() <= 1


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32)])
def test_pixels_without_a_range_are_refused(tmp_path, array):
    Image.fromarray(array).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadablePictureError, match="have no stated range"):
        pixels_of(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path, suffix):
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture.save(tmp_path / f"a.{suffix}")
    pixels = pixels_of(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(pixels - np.array(RED)[:, None, None]).max() <= 3


UPRIGHT = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
STORED = {  # how the upright picture lies in the file
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize(("suffix", "bits"), [("png", 8), ("png", 16), ("webp", 8), ("tiff", 8), ("tiff", 16)])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation(tmp_path, suffix, bits, orientation):
    stored = np.ascontiguousarray(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    picture = Image.fromarray(stored if bits == 8 else stored.astype(np.uint16) * 257)
    picture.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    pixels = decode(tmp_path / f"a.{suffix}", (2, 3), 1, "white")[0]
    np.testing.assert_array_equal(pixels, UPRIGHT)


def test_the_first_frame_of_an_animation(tmp_path):
    first, second = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLUE)
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        first.save(
            tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "webp" in name else {})
        )
        assert pixels_of(tmp_path / name)[:, 0, 0].tolist() == [*RED]


def test_scales_until_it_covers_and_crops_the_middle():
    array = np.zeros((10, 40), dtype=np.uint8)
    array[:, 15:25] = 200
    np.testing.assert_array_equal(np.array(fit(Image.fromarray(array), (10, 10))), np.full((10, 10), 200))
    np.testing.assert_array_equal(np.array(fit(Image.fromarray(array.T.copy()), (10, 10))), np.full((10, 10), 200))
    half = np.array(fit(Image.fromarray(array), (5, 10)))
    assert half.shape == (5, 10)
    assert (half[:, 4:6] == 200).all()
    assert half[:, [0, -1]].max() == 0


def test_a_picture_of_the_right_size_stays_as_it_is():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9), dtype=np.uint8))
    assert fit(picture, (8, 9)) is picture


def test_scaling_down_does_not_alias():
    """A fine checkerboard becomes grey, which picking every eighth pixel would not give."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.array(fit(Image.fromarray(board), (8, 8))).astype(int)
    assert np.abs(small - 127.5).max() < 4


def test_scaling_up_and_extreme_proportions(tmp_path):
    Image.new("RGB", (1, 300), RED).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png", (16, 16), 3, "white") == np.array(RED)[:, None, None]).all()


@pytest.mark.parametrize("work", [check_picture, lambda file: decode(file, (4, 4), 3, "white")])
def test_what_is_no_picture(tmp_path, work):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    # A format that other programs interpret must not come in under another name.
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("text.png", "empty.png", "script.png"):
        with pytest.raises(UnreadablePictureError, match="not a picture of a known format"):
            work(tmp_path / name)
    with pytest.raises(UnreadablePictureError, match="No such file"):
        work(tmp_path / "missing.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_cut_off_files(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    content = file.read_bytes()
    for kept in (len(content) // 2, 40, 9):
        file.write_bytes(content[:kept])
        with pytest.raises(UnreadablePictureError):
            decode(file, (64, 64), 3, "white")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_damaged_files_never_give_another_error(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    content, generator = file.read_bytes(), np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, min(len(content), 200), 3):
            damaged[place] = generator.integers(256)
        file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert decode(file, (8, 8), 3, "white").shape == (3, 8, 8)
            except UnreadablePictureError as error:
                assert str(error)


@pytest.mark.parametrize("side", [20_000, 12_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs(tmp_path, side):
    """A file of few bytes that claims very many pixels is refused before they are made."""
    png(tmp_path / "bomb.png", side, side, 8, 2, [])
    for work in (check_picture, lambda file: decode(file, (4, 4), 3, "white")):
        with pytest.raises(UnreadablePictureError, match=r"more than 89,478,485"):
            work(tmp_path / "bomb.png")


def test_the_limit_itself(tmp_path, monkeypatch):
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(module, "LARGEST", 100)
    check_picture(tmp_path / "a.png")
    monkeypatch.setattr(module, "LARGEST", 99)
    with pytest.raises(UnreadablePictureError, match="10×10 pixels, more than 99"):
        check_picture(tmp_path / "a.png")


def test_as_is_no_pixel_is_changed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "color.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert (decode_as_is(tmp_path / "color.png", (4, 6), 3) == pixels.transpose(2, 0, 1)).all()
    assert (decode_as_is(tmp_path / "grey.png", (4, 6), 1) == pixels[..., 0]).all()
    assert (decode_as_is(tmp_path / "grey.png", (4, 6), 3) == pixels[..., 0]).all()


@pytest.mark.parametrize(
    ("mode", "size", "channels", "reason"),
    [
        ("L", (6, 4), 1, "4x6 pixels"),
        ("RGB", (4, 6), 1, "in color"),
        ("LA", (4, 6), 1, "transparent in some places"),
        ("RGBA", (4, 6), 3, "transparent in some places"),
    ],
)
def test_as_is_what_would_have_to_be_changed_is_refused(tmp_path, mode, size, channels, reason):
    color = {"L": 9, "RGB": (9, 8, 9), "LA": (9, 254), "RGBA": (9, 9, 9, 0)}[mode]
    Image.new(mode, (6, 4), color).save(tmp_path / "picture.png")
    with pytest.raises(UnreadablePictureError, match=reason):
        decode_as_is(tmp_path / "picture.png", size, channels)


def test_as_is_upright(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    picture = Image.fromarray(pixels)
    picture.getexif()[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "turned.png", exif=picture.getexif())
    assert (decode_as_is(tmp_path / "turned.png", (6, 4), 1)[0] == np.rot90(pixels, -1)).all()
