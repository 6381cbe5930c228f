"""``diffkit import``, ``export``, and ``sample`` of another library's folder."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffkit.pipeline import Pipeline


@pytest.fixture
def theirs(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=20)
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_import_check_and_sample(theirs, diffkit, tmp_path):
    result = diffkit("import", str(theirs), str(tmp_path / "ours"), "steps=5", "--check")
    assert result.code == 0, result.err
    assert "downsample_padding = 1 pads at every side" in result.out
    line = next(line for line in result.out.splitlines() if line.startswith("largest difference"))
    assert float(line.rpartition(" ")[2]) < 1e-5
    assert str(tmp_path / "ours" / "ema.safetensors") in result.out
    sampled = diffkit("sample", str(tmp_path / "ours"), "--count", "1", "--out", str(tmp_path / "images"))
    assert sampled.code == 0, sampled.err
    assert Pipeline.load(tmp_path / "ours").recipe.sample.steps == 5


def test_check_alone_writes_nothing(theirs, diffkit, tmp_path):
    before = set(tmp_path.rglob("*"))
    assert diffkit("import", str(theirs), "steps=5", "--check").code == 0
    assert set(tmp_path.rglob("*")) == before
    assert "name a new folder" in diffkit("import", str(theirs)).err


def test_sample_of_their_folder(theirs, diffkit, tmp_path):
    result = diffkit("sample", str(theirs), "--steps", "4", "--count", "2", "--out", str(tmp_path / "images"))
    assert result.code == 0, result.err
    files = [Path(line) for line in result.out.splitlines()]
    assert Image.open(files[0]).size == (8, 8)
    assert json.loads((tmp_path / "images" / "sample.json").read_text())["sample"]["steps"] == 4


def test_export_and_back(trained, diffkit, tmp_path):
    settings = ("spacing=leading", "guidance=1.0")
    result = diffkit("export", str(trained), str(tmp_path / "theirs"), *settings, "--format", "diffusers")
    assert result.code == 0, result.err
    assert (tmp_path / "theirs" / "model_index.json").is_file()
    assert diffkit("import", str(tmp_path / "theirs"), str(tmp_path / "back")).code == 0
    expected, found = (Pipeline.load(path).network.state_dict() for path in (trained, tmp_path / "back"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_cannot_be_exported_is_a_mistake_of_the_user(trained, diffkit, tmp_path):
    result = diffkit("export", str(trained), str(tmp_path / "theirs"), "sampler=restart")
    assert result.code == 2
    assert "sample.sampler" in result.err
    result = diffkit("export", str(trained), str(tmp_path / "theirs"), "--format", "onx")
    assert result.code == 2
    assert "Did you mean 'onnx'" in result.err


def test_pickled_weights_need_the_option(theirs, diffkit, tmp_path):
    weights = theirs / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    result = diffkit("sample", str(theirs), "--steps", "2", "--count", "1", "--out", str(tmp_path / "images"))
    assert result.code == 2
    assert "--allow-pickled-weights" in result.err
    allowed = diffkit("import", str(theirs), str(tmp_path / "ours"), "--allow-pickled-weights")
    assert allowed.code == 0, allowed.err
