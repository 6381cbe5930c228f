"""Sampling from a model that makes images from others."""

import pytest
import torch

from diffkit.data.pixels import to_uint8, to_unit
from diffkit.errors import UserError
from diffkit.pipeline import Pipeline, build_network
from diffkit.train.loop import train

LOW = "objective.condition={kind='low_resolution', factor=2}"


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny-1"
    train(tiny(LOW), folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(run):
    return Pipeline.load(run)


def small(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_conditions_are_taken_in_turn_whatever_the_batch(pipeline):
    given = small(3)
    together = pipeline.sample(5, condition=given, batch_size=5)
    apart = pipeline.sample(5, condition=given, batch_size=2)
    assert together.shape == (5, 1, 8, 8)
    assert (together.int() - apart.int()).abs().max() <= 1
    for number in range(5):
        changed = given.clone()
        changed[number % 3] = 255 - changed[number % 3]
        differs = [not torch.equal(a, b) for a, b in zip(together, pipeline.sample(5, condition=changed), strict=True)]
        assert differs == [other % 3 == number % 3 for other in range(5)]


def test_the_network_sees_what_training_showed_it(pipeline, monkeypatch):
    images = pipeline.recipe.data.open()
    x0 = to_unit(images.pixels(torch.arange(2)))
    condition = pipeline.recipe.objective.condition
    seen = []
    monkeypatch.setattr(pipeline, "network", lambda x, *_: seen.append(x) or torch.zeros(len(x), 1, 8, 8))
    pipeline.sample(2, condition=to_uint8(condition.reduce(x0)), guidance=1.0)
    assert all(torch.equal(x[:, 1:], condition.make(x0)) for x in seen)
    assert seen


def test_another_size(pipeline):
    assert pipeline.sample(1, condition=torch.zeros(1, 1, 6, 4, dtype=torch.uint8), size=(12, 8)).shape == (1, 1, 12, 8)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            None,
            "condition: the model of 'tiny' makes images from others (low_resolution), of 1x4x4 (channels x height x "
            "width), and none were given",
        ),
        (
            torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
            "condition: 2x1x8x8 in uint8 was given, and the model takes Nx1x4x4 (number x channels x height x width) "
            "in uint8",
        ),
        (
            torch.zeros(2, 1, 4, 4),
            "condition: 2x1x4x4 in float32 was given, and the model takes Nx1x4x4 (number x channels x height x width) "
            "in uint8",
        ),
        (
            torch.zeros(0, 1, 4, 4, dtype=torch.uint8),
            "condition: 0x1x4x4 in uint8 was given, and the model takes Nx1x4x4 (number x channels x height x width) "
            "in uint8",
        ),
    ],
)
def test_what_the_model_does_not_take(pipeline, condition, message):
    with pytest.raises(UserError) as caught:
        pipeline.sample(1, condition=condition)
    assert str(caught.value) == message


def test_a_model_that_takes_none(trained):
    with pytest.raises(UserError) as caught:
        Pipeline.load(trained).sample(1, condition=small(1))
    assert str(caught.value) == "condition: the model of 'tiny' makes images from noise alone: leave it out"


def test_other_uses_of_the_model_say_that_it_needs_a_condition(pipeline):
    with pytest.raises(UserError, match="makes images from others"):
        pipeline.denoise(pipeline.recipe.sample)


def test_a_size_that_the_factor_does_not_divide(tiny):
    recipe = tiny("objective.condition={kind='low_resolution', factor=4}", "model.attention_at=[]")
    pipeline = Pipeline(recipe, recipe.data.info(), build_network(recipe, recipe.data.info()))
    with pytest.raises(UserError, match=r"size = 10x8: the factor 4 does not divide .* Allowed for these: 2"):
        pipeline.sample(1, size=(10, 8), condition=small(1))


def test_training_makes_its_grids_from_the_first_images(tiny, tmp_path, monkeypatch):
    given, batches = [], Pipeline.batches

    def watched(self, *arguments, condition=None, **settings):
        given.append(condition)
        return batches(self, *arguments, condition=condition, **settings)

    monkeypatch.setattr(Pipeline, "batches", watched)
    recipe = tiny(LOW, 'callbacks=[{kind="sample_grid", every=1, count=3}]', "train.steps=1")
    train(recipe, tmp_path / "run")
    first = to_unit(recipe.data.open().pixels(torch.arange(3)))
    assert torch.equal(given[0], to_uint8(recipe.objective.condition.reduce(first)))
