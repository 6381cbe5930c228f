"""A plugin in one file is loaded by the recipe that names it."""

import shutil
from pathlib import Path

import pytest
import torch

from diffkit.errors import CheckpointError, PluginError
from diffkit.nn.base import Activation, Norm, ResnetBlock, Style
from diffkit.pipeline import Pipeline
from diffkit.spec import unregister
from diffkit.train.loop import train

HERE = Path(__file__).parent.parent
RECIPE = HERE / "my_recipe.toml"


def test_the_recipe_finds_the_file_beside_it(plugins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = plugins.open_recipe(str(RECIPE))
    assert type(recipe.model.resnet).__name__ == "Gated"
    assert plugins.infos["my_block"].components == ("resnet_block.gated",)
    assert plugins.infos["my_block"].origin == str(HERE / "my_block.py")


def test_it_trains_and_its_checkpoint_names_the_plugin_it_needs(plugins, open_small, tmp_path):
    train(open_small(RECIPE), tmp_path)
    assert Pipeline.load(tmp_path).sample(2).shape == (2, 1, 8, 8)
    unregister("my_block")
    with pytest.raises(CheckpointError, match=r"needs resnet_block.gated of plugin 'my_block': .*--plugin"):
        Pipeline.load(tmp_path)


def test_a_run_can_go_on_with_the_file_elsewhere(plugins, open_small, tmp_path):
    folder = tmp_path / "run"
    train(open_small(RECIPE, "train.steps=3"), folder)
    assert plugins.open_recipe(str(folder)).plugins == (HERE / "my_block.py",)
    train(open_small(RECIPE), folder, resume=True)


def test_a_file_that_is_missing_or_broken_is_named(plugins, tmp_path):
    recipe = shutil.copy(RECIPE, tmp_path)
    with pytest.raises(PluginError, match=r"my_block\.py: no such plugin file"):
        plugins.open_recipe(recipe)
    (tmp_path / "my_block.py").write_text("import no_such_module\n")
    with pytest.raises(
        PluginError, match=r"my_block\.py: this plugin cannot be used: .*No module named 'no_such_module"
    ):
        plugins.open_recipe(recipe)


def test_a_closed_gate_leaves_the_skip_alone(plugins):
    plugins.add_file(HERE / "my_block.py")
    style = Style(Norm.choose({"kind": "group", "groups": 2}), Activation.choose("silu"))
    block = ResnetBlock.choose("gated").build(4, 6, 3, style)
    x = torch.randn(2, 4, 5, 5)
    torch.nn.init.ones_(block.gate[0].weight)
    assert torch.equal(block(x, torch.full((2, 3), -1e4)), block.skip(x))
    assert torch.allclose(block(x, torch.full((2, 3), 1e4)), block.skip(x) + block.branch(x))
    assert block(x, torch.randn(2, 3)).shape == (2, 6, 5, 5)
