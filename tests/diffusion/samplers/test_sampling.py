"""Every sampler with a trained network, from a recipe's settings to images."""

import contextlib

import pytest
import torch

from diffkit.diffusion.samplers.base import Sampler
from diffkit.pipeline import Pipeline
from diffkit.sampling import sample_settings, sample_to_folder
from diffkit.testing import kinds_of


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("sampler", kinds_of(Sampler))
def test_images_of_a_network_and_its_number_of_calls(pipeline, sampler, steps):
    settings = sample_settings(pipeline.recipe, {"count": 3, "batch_size": 2, "sampler": sampler.kind, "steps": steps})
    called = []
    batches = list(pipeline.batches(3, settings, seed=1, on_call=called.append))
    images = torch.cat([batch.images for batch in batches])
    assert images.shape == (3, 1, 8, 8)
    levels = settings.spacing.levels(pipeline.recipe.process, steps)
    assert sum(called) == 3 * settings.sampler.calls(levels)
    assert not torch.equal(images[0], images[1])
    alone = pipeline.sample(3, seed=1, sampler=sampler.kind, steps=steps, batch_size=1)
    assert (alone.int() - images.int()).abs().max() <= 1  # convolutions round differently in another batch


def test_the_progress_bar_ends_with_the_last_call_of_the_network(pipeline, tmp_path, monkeypatch):
    totals, advanced = [], []

    @contextlib.contextmanager
    def noting(name, total, of):
        totals.append(total)
        yield advanced.append

    monkeypatch.setattr("diffkit.sampling.progress_bar", noting)
    settings = sample_settings(pipeline.recipe, {"count": 3, "batch_size": 2, "sampler": "heun", "steps": 4})
    sample_to_folder(pipeline, settings, tmp_path, out=tmp_path / "out")
    assert totals == [3 * 7]
    assert sum(advanced) == 3 * 7
