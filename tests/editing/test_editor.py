"""Editing pixels with a trained model."""

import pytest
import torch

from diffkit.editing.editor import Editor
from diffkit.errors import UserError
from diffkit.pipeline import Pipeline, build_network
from diffkit.recipe.tables import Sample


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


@pytest.fixture(scope="module")
def images(pipeline):
    return pipeline.recipe.data.open().pixels(torch.arange(3))


@pytest.fixture
def editor(pipeline):
    """Makes an editor with settings of the [sample] table."""

    def make(seed=0, label=None, **settings):
        chosen = Sample.model_validate({**pipeline.recipe.sample.model_dump(), **settings})
        return Editor(pipeline, chosen, seed, label)

    return make


HOLE = torch.zeros(8, 8, dtype=torch.bool)
HOLE[:, 4:] = True


def test_around_the_hole_pixels_are_as_they_were(editor, images):
    done = editor().inpaint(images, HOLE, count=2, repetitions=2)
    assert done.shape == (6, 1, 8, 8) and done.dtype == torch.uint8
    originals = images.repeat_interleave(2, dim=0)
    assert torch.equal(done[..., ~HOLE], originals[..., ~HOLE])
    assert len({image.numpy().tobytes() for image in done}) == 6


def test_all_hole_is_ancestral_sampling(editor, pipeline, images):
    hole = torch.ones_like(HOLE)
    done = editor(seed=3, label=4).inpaint(images, hole, repetitions=1)
    assert torch.equal(done, pipeline.sample(3, seed=3, label=4, sampler="ddpm"))


def test_strength_1_is_sampling(editor, pipeline, images):
    done = editor(seed=3, label=4, sampler="ddim").vary(images, 1.0)
    assert torch.equal(done, pipeline.sample(3, seed=3, label=4, sampler="ddim"))


def test_little_strength_changes_little(editor, images):
    few, many = (
        (editor(steps=20).vary(images, strength).int() - images.int()).abs().float().mean() for strength in (0.05, 0.9)
    )
    assert few < 30 < many


def test_results_do_not_depend_on_the_batch(editor, images):
    for edit in (
        lambda editor: editor.vary(images, 0.5, count=3),
        lambda editor: editor.inpaint(images, HOLE, count=2),
        lambda editor: editor.interpolate_seeds(1, 2, 5),
    ):
        one, other = (edit(editor(batch_size=size)) for size in (64, 2))
        # the network's sums may round differently in batches of another size: by a grey value at most
        assert (one.int() - other.int()).abs().max() <= 1


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_ends_between_two_seeds_are_their_first_images(editor, pipeline, sampler):
    done = editor(label=4, sampler=sampler).interpolate_seeds(5, 6, 4)
    for place, seed in ((0, 5), (3, 6)):
        alone = pipeline.sample(1, seed=seed, label=4, sampler=sampler)[0]
        assert (done[place].int() - alone.int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in done}) == 4


def test_between_two_seeds_in_another_size(editor):
    assert editor().interpolate_seeds(1, 2, 3, size=(6, 10)).shape == (3, 1, 6, 10)
    with pytest.raises(UserError, match="size = 7x8: the model's 2 levels need sides divisible by 2: 6x8 or 8x8"):
        editor().interpolate_seeds(1, 2, 3, size=(7, 8))


def test_inversion_leads_back_the_better_the_more_steps(editor, images):
    few, many = (editor(sampler="ddim", steps=steps).invert(images) for steps in (3, 20))
    assert many.noise.shape == (3, 1, 8, 8) and many.noise.dtype == torch.float32
    assert (many.errors < few.errors).all() and many.errors.max() < 25
    seen = (many.images.double() - images.double()).flatten(1).square().mean(dim=1).sqrt()
    assert ((seen - many.errors).abs() < 0.5).all(), "rounded to pixels, at most half a grey value apart"


def test_the_ends_between_two_images_are_their_reconstructions(editor, images):
    chosen = editor(sampler="ddim", steps=20)
    done, inverted = chosen.interpolate_images(images[:2], 3), chosen.invert(images[:2])
    assert (done[[0, 2]].int() - inverted.images.int()).abs().max() <= 1
    assert not torch.equal(done[1], done[0])


@pytest.mark.parametrize("sampler", ["ddpm", {"kind": "ddim", "eta": 0.3}, "euler_ancestral"])
def test_samplers_that_add_noise_do_not_lead_back(editor, images, sampler):
    for edit in (
        lambda: editor(sampler=sampler).invert(images),
        lambda: editor(sampler=sampler).interpolate_images(images, 3),
    ):
        with pytest.raises(
            UserError, match=r"adds noise on the way.* choose a deterministic one, such as --sampler ddim"
        ):
            edit()


def test_without_a_label_there_is_no_class_and_no_guidance(editor, images):
    plain = editor().vary(images, 0.5)
    assert torch.equal(plain, editor(guidance=4.0).vary(images, 0.5))
    assert not torch.equal(plain, editor(label=1).vary(images, 0.5))
    assert editor(guidance=4.0).settings.guidance.weight == 1, "and no call of the network for it"


def test_a_model_that_was_only_trained_with_classes_wants_one(tiny, images):
    recipe = tiny("objective.label_dropout=0.0")
    info = recipe.data.info()
    alone = Pipeline(recipe, info, build_network(recipe, info))
    with pytest.raises(UserError, match=r"say which one it is, with --label\. Known: 0, 1, 2"):
        Editor(alone, recipe.sample)
    Editor(alone, recipe.sample, label="7")


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.5])
def test_strengths_out_of_range(editor, images, strength):
    with pytest.raises(UserError, match="should be above 0 and at most 1"):
        editor().vary(images, strength)


def test_a_class_that_is_not_there(editor):
    with pytest.raises(UserError, match="no class is called 'x'"):
        editor(label="x")


def test_calls_are_told(editor, images, pipeline):
    seen = []
    telling = editor(sampler="ddim", steps=4).telling(seen.append)
    telling.vary(images, 0.5)
    assert seen == [3, 3]
    seen.clear()
    telling.inpaint(images, HOLE, jump=1, repetitions=2)
    assert seen == [3] * 7
    seen.clear()
    telling.invert(images)
    assert seen == [3] * 8
