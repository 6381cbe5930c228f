"""Sampling from a trained model: image i depends on the seed and on i only."""

import pytest
import torch
from safetensors.torch import load_file

from diffkit.errors import CheckpointError, UserError
from diffkit.pipeline import Pipeline, build_network
from diffkit.storage.checkpoint import EMA, list_checkpoints, make_header
from diffkit.storage.checkpoint import write_checkpoint as write


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", {"kind": "ddim", "eta": 1.0}])
def test_an_image_is_the_same_in_any_batch(pipeline, sampler):
    settings = {"sampler": sampler, "guidance": 2.0}
    together = pipeline.sample(7, seed=3, batch_size=7, **settings)
    apart = pipeline.sample(7, seed=3, batch_size=2, **settings)
    fewer = pipeline.sample(3, seed=3, batch_size=3, **settings)
    assert together.shape == (7, 1, 8, 8) and together.dtype == torch.uint8
    # the network's sums may round differently in batches of another size: by a grey value at most
    assert (together.int() - apart.int()).abs().max() <= 1
    assert (together[:3].int() - fewer.int()).abs().max() <= 1
    assert len({image.numpy().tobytes() for image in together}) == 7


def test_another_seed_gives_other_images(pipeline):
    assert not torch.equal(pipeline.sample(2, seed=0), pipeline.sample(2, seed=1))


def test_labels_are_the_classes_in_turn_or_one_for_all(pipeline):
    assert pipeline.labels_of(None, range(8, 13)).tolist() == [8, 9, 0, 1, 2]
    assert pipeline.labels_of("7", range(3)).tolist() == [7, 7, 7]
    assert pipeline.labels_of(7, range(2)).tolist() == [7, 7]
    with pytest.raises(UserError, match=r"no class is called '77'.* Known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        pipeline.labels_of("77", range(1))


def test_the_label_and_the_guidance_matter(pipeline):
    plain = pipeline.sample(2, label=1, guidance=1.0)
    assert not torch.equal(plain, pipeline.sample(2, label=2, guidance=1.0))
    assert not torch.equal(plain, pipeline.sample(2, label=1, guidance=4.0))
    unconditional = pipeline.sample(2, label=1, guidance=0.0)
    assert torch.equal(unconditional, pipeline.sample(2, label=2, guidance=0.0))


def test_more_steps_than_times_are_refused(pipeline):
    with pytest.raises(UserError, match="steps = 21: the process has 20 times, so at most 20 steps can be taken"):
        pipeline.sample(1, steps=21)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (6, 10), (2, 2)])
def test_any_size_that_the_network_allows(pipeline, size):
    done = pipeline.sample(3, size=size, batch_size=2)
    assert done.shape == (3, 1, *size) and len({image.numpy().tobytes() for image in done}) == 3
    assert torch.equal(done, pipeline.sample(3)) == (size == (8, 8))


def test_a_size_that_the_network_refuses(pipeline):
    with pytest.raises(UserError, match="size = 9x12: the model's 2 levels need sides divisible by 2: 8x12 or 10x12"):
        pipeline.sample(1, size=(9, 12))


def test_a_checkpoint_folder_and_a_file_are_as_good_as_a_run(pipeline, trained):
    newest = list_checkpoints(trained / "checkpoints")[-1]
    expected = pipeline.sample(2)
    assert torch.equal(Pipeline.load(newest).sample(2), expected)
    assert torch.equal(Pipeline.load(newest / EMA).sample(2), expected)
    assert not torch.equal(Pipeline.load(newest, weights="raw").sample(2), expected)


def test_the_initial_weights_follow_from_the_seed(tiny):
    info = tiny().data.info()
    one, same, other = (build_network(tiny(seed), info) for seed in ("seed=1", "seed=1", "seed=2"))
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_guidance_needs_a_model_that_knows_no_class_too(tiny):
    recipe = tiny("objective.label_dropout=0.0")
    pipeline = Pipeline(recipe, recipe.data.info(), build_network(recipe, recipe.data.info()))
    with pytest.raises(UserError, match=r"guidance = 2\.0: .* set objective\.label_dropout = 0\.1"):
        pipeline.sample(1, guidance=2.0)
    recipe = tiny("model.class_conditional=false")
    pipeline = Pipeline(recipe, recipe.data.info(), build_network(recipe, recipe.data.info()))
    with pytest.raises(UserError, match="guidance needs a class-conditional model"):
        pipeline.sample(1, guidance=2.0)
    with pytest.raises(UserError, match=r"label '3': the model of 'tiny' is not class-conditional"):
        pipeline.sample(1, label=3)


def test_a_checkpoint_that_needs_a_plugin_names_it(trained, tiny, tmp_path):
    weights = load_file(list_checkpoints(trained / "checkpoints")[-1] / EMA)
    header = make_header(tiny(), tiny().data.info(), {"resnet_block.wave": "wavelets"}, 1)
    header["recipe"] = header["recipe"].replace('resnet = {kind = "ddpm"', 'resnet = {kind = "wave"')
    assert "wave" in header["recipe"]
    folder = write(tmp_path, 1, header, weights, {"ema": weights}, {})
    with pytest.raises(CheckpointError, match=r"needs resnet_block\.wave of plugin 'wavelets'"):
        Pipeline.load(folder)


def test_weights_of_another_model_are_refused(tiny, tmp_path):
    header = make_header(tiny(), tiny().data.info(), {}, 1)
    folder = write(tmp_path, 1, header, {"w": torch.zeros(1)}, {"ema": {"w": torch.zeros(1)}}, {})
    with pytest.raises(CheckpointError, match="the weights don't fit the recipe"):
        Pipeline.load(folder)


def test_code_that_a_checkpoint_names_or_that_lies_beside_it_is_never_run(trained, tiny, tmp_path):
    weights = load_file(list_checkpoints(trained / "checkpoints")[-1] / EMA)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')")
    header = make_header(tiny(f'plugins=["{tmp_path}/evil.py"]'), tiny().data.info(), {}, 1)
    assert "evil.py" in header["recipe"]
    folder = write(tmp_path / "run", 1, header, weights, {"ema": weights}, {})
    (folder / "evil.py").write_text((tmp_path / "evil.py").read_text())
    Pipeline.load(folder).sample(1)
    assert not (tmp_path / "was_run").exists()
