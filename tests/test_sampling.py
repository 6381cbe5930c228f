"""Sampling to files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffkit import sampling
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
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2)
    assert torch.equal(images, pipeline.sample(5, seed=0, batch_size=2))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"images.npz", "grid.png", "sample.json"}


@pytest.mark.parametrize("format", ["png", "npz"])
def test_no_more_images_are_held_than_the_grid_shows(pipeline, tmp_path, format, monkeypatch):
    monkeypatch.setattr(sampling, "IN_GRID", 2)
    joined = []
    join = sampling._joined
    monkeypatch.setattr(sampling, "_joined", lambda batches: joined.append(join(batches)) or joined[0])
    sample(pipeline, tmp_path / "out", format=format)
    assert len(joined[0]["images"]) == 2


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
