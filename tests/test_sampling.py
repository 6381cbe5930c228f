"""Sampling to files."""

import json

import numpy as np
import pytest
from PIL import Image

from diffkit.errors import RecipeError, UserError
from diffkit.pipeline import Pipeline
from diffkit.sampling import sample_settings, sample_to_folder


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


def sample(pipeline, out, count=5, **options):
    settings = sample_settings(pipeline.recipe, {"count": count, "batch_size": 2})
    return sample_to_folder(pipeline, settings, out, out=out, **options)


def test_exactly_so_many_images_and_one_grid(pipeline, tmp_path):
    files = sample(pipeline, tmp_path / "out", seed=2)
    assert [file.name for file in files] == [*(f"0000{i}.png" for i in range(5)), "grid.png"]
    assert {f.name for f in (tmp_path / "out").iterdir()} == {*(f.name for f in files), "sample.json"}
    with Image.open(files[3]) as picture:
        assert (np.asarray(picture) == pipeline.sample(5, seed=2, batch_size=2)[3, 0].numpy()).all()
    about = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert about["seed"] == 2 and about["sample"]["sampler"] == {"kind": "ddpm"}


def test_one_file_of_arrays(pipeline, tmp_path):
    files = sample(pipeline, tmp_path / "out", format="npz")
    assert [file.name for file in files] == ["images.npz", "grid.png"]
    with np.load(files[0], allow_pickle=False) as arrays:
        assert arrays["images"].shape == (5, 8, 8, 1) and arrays["images"].dtype == np.uint8
        assert arrays["labels"].tolist() == [0, 1, 2, 3, 4]


def test_nothing_is_overwritten(pipeline, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already and is not an empty folder"):
        sample(pipeline, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_wrong_label_leaves_no_folder(pipeline, tmp_path):
    with pytest.raises(UserError, match="no class is called"):
        sample(pipeline, tmp_path / "out", label="x")
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_settings_are_named_at_once(pipeline):
    with pytest.raises(RecipeError) as caught:
        sample_settings(pipeline.recipe, {"sampler": "ddmi"}, ["spacing=trailling", "guidnace=2"])
    message = str(caught.value)
    assert "settings of sampling: 3 problems" in message
    for near in ("ddim", "trailing", "guidance"):
        assert f"Did you mean '{near}'?" in message


def test_overrides_change_settings_of_the_sampler(pipeline):
    settings = sample_settings(pipeline.recipe, {"sampler": "ddim", "steps": None}, ["sampler.eta=0.5"])
    assert settings.sampler.eta == 0.5
    assert settings.steps == pipeline.recipe.sample.steps
