import tomllib

import pytest

from diffkit.recipe.load import validate
from diffkit.recipe.overrides import apply_override
from diffkit.recipe.write import to_toml

CHANGES = [
    [],
    ["model.levels=[{channels=16}, {attention='none', resnet={kind='scale_shift', dropout=0.5}}]"],
    ["model.attention_at=all", "train.grad_clip=0.5", "train.keep_every=7"],
    ["callbacks=['sample_grid', {kind='sample_grid', every=3, sampler={kind='ddim', eta=0.5}}]"],
    ["process.schedule={kind='linear', start=1e-07}", "seed=9223372036854775807"],
    ["data={kind='image_folder', root='a \"quoted\" [folder] é', size=8, background='#808080'}"],
]


def fitting(tiny, overrides):
    """The recipe, without the rules between tables: there are no pictures in that folder."""
    document = tiny().model_dump(exclude_none=True)
    for override in overrides:
        apply_override(document, override)
    return validate(document, "tiny", cross_check=False)


@pytest.mark.parametrize("overrides", CHANGES)
@pytest.mark.parametrize("comments", [False, True])
def test_reading_what_was_written_gives_the_same_recipe(tiny, tmp_path, overrides, comments):
    recipe = fitting(tiny, overrides)
    text = to_toml(recipe, comments=comments)
    assert validate(tomllib.loads(text), "again", tmp_path, cross_check=False) == recipe


def test_every_setting_is_written(tiny):
    written = tomllib.loads(to_toml(tiny()))
    assert written["train"]["keep_last"] == 2
    assert written["model"]["norm"] == tiny().model.norm.model_dump(exclude_none=True)
    assert "grad_clip" not in tomllib.loads(to_toml(fitting(tiny, ["train={steps=1}"])))["train"]


def test_comments_stand_behind_their_settings(tiny):
    text = to_toml(tiny(), comments=True)
    assert "batch_size = 8 # Number of images of one optimizer step.\n" in text
    assert "#" not in to_toml(tiny())


def test_levels_and_callbacks_are_arrays_of_tables(tiny):
    text = to_toml(fitting(tiny, [CHANGES[1][0], CHANGES[3][0]]))
    assert text.count("[[model.levels]]\n") == 2
    assert text.count("[[callbacks]]\n") == 2
