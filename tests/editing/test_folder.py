"""Edits to files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffkit.editing.editor import Editor
from diffkit.editing.folder import Request
from diffkit.errors import UserError
from diffkit.images import save_png
from diffkit.pipeline import Pipeline
from diffkit.sampling import sample_settings


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


@pytest.fixture(scope="module")
def files(pipeline, tmp_path_factory):
    """Three pictures of digits, and last a mask whose right half is white."""
    folder = tmp_path_factory.mktemp("pictures")
    files = [folder / name for name in ("0.png", "1.png", "2.png", "mask.png")]
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    mask[..., 4:] = 255
    images = torch.cat([pipeline.recipe.data.open().pixels(torch.arange(3)), mask])
    for file, image in zip(files, images, strict=True):
        save_png(image, file)
    return files


@pytest.fixture
def request_of(pipeline, tmp_path):
    def make(out="out", size=None, resize=False, label=None, **options):
        settings = sample_settings(pipeline.recipe, {"steps": 4, "sampler": "ddim", **options})
        return Request(Editor(pipeline, settings, 2, label), tmp_path / "run", tmp_path / out, size, resize)

    return make


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_inpainting(request_of, files, tmp_path):
    written = request_of().inpaint(files[:3], files[3], count=2, repetitions=2)
    assert [file.name for file in written] == [*(f"0000{i}.png" for i in range(6)), "grid.png"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*(file.name for file in written), "edit.json"}
    for number, file in enumerate(written[:6]):
        assert (pixels(file)[:, :4] == pixels(files[number // 2])[:, :4]).all()
    about = json.loads((tmp_path / "out/edit.json").read_text())
    assert about["task"] == "inpaint" and about["seed"] == 2 and about["mask"] == str(files[3])
    assert about["sample"]["count"] == 6 and about["sample"]["steps"] == 4


def test_the_grid_shows_each_picture_beside_its_results(request_of, files):
    request = request_of()
    *results, picture = request.vary(files[:2], 0.5, count=3)
    shown = pixels(picture)
    factor = shown.shape[1] // (4 * 9 + 1)
    small = shown[::factor, ::factor]
    assert small.shape == (2 * 9 + 1, 4 * 9 + 1)
    for row in range(2):
        cells = [files[row], *results[3 * row : 3 * row + 3]]
        for column, file in enumerate(cells):
            cell = small[row * 9 + 1 : row * 9 + 9, column * 9 + 1 : column * 9 + 9]
            assert (cell == pixels(file)).all()


def test_interpolation(request_of, files, pipeline):
    *images, picture = request_of("a").interpolate_seeds(1, 2, count=5)
    assert len(images) == 5 and pixels(picture).shape[1] / pixels(picture).shape[0] == pytest.approx(46 / 10)
    *images, picture = request_of("b").interpolate_images(*files[:2], count=5)
    assert len(images) == 5 and pixels(picture).shape[1] / pixels(picture).shape[0] == pytest.approx(64 / 10)
    assert (pixels(request_of("c", size=(6, 10)).interpolate_seeds(1, 2, count=2)[0]).shape) == (6, 10)


def test_inversion(request_of, files, pipeline):
    request = request_of(steps=20)
    written, errors = request.invert(files[:2])
    assert [file.name for file in written] == ["noise.safetensors", "00000.png", "00001.png", "grid.png"]
    noise = load_file(written[0])["noise"]
    assert noise.shape == (2, 1, 8, 8)
    done = request.editor.invert(torch.stack([torch.from_numpy(pixels(file).copy())[None] for file in files[:2]]))
    assert torch.equal(noise, done.noise) and errors == pytest.approx(done.errors.tolist(), abs=1e-3)


def test_nothing_is_overwritten_and_no_folder_is_left_after_a_mistake(request_of, files, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already and is not an empty folder"):
        request_of("full").vary(files[:1], 0.5)
    for edit in (
        lambda: request_of().vary([tmp_path / "none.png"], 0.5),
        lambda: request_of().vary(files[:1], 2.0),
        lambda: request_of().inpaint(files[:1], tmp_path / "none.png"),
        lambda: request_of(sampler="ddpm").invert(files[:1]),
        lambda: request_of(sampler="ddpm").interpolate_images(*files[:2], count=3),
        lambda: request_of(size=(7, 7)).interpolate_seeds(1, 2, count=3),
    ):
        with pytest.raises(UserError):
            edit()
    assert {path.name for path in tmp_path.iterdir()} == {"full"}
