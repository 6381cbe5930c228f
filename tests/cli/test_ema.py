"""``--ema``: averages of other lengths, in every command that loads a run."""

import json
import re

import pytest
from safetensors.torch import load_file

from diffkit.evaluating import about_model
from diffkit.pipeline import Pipeline
from diffkit.train.loop import train


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny-1"
    train(tiny("train.ema={kind='power', snapshots=12}"), folder)
    return folder


def images(files):
    return [file.read_bytes() for file in sorted(files)]


def test_sample(diffkit, run, tmp_path):
    result = diffkit("sample", str(run), "--ema", "0.08", "--count", "2", "--out", str(tmp_path / "made"))
    assert result.code == 0, result.err
    about = json.loads((tmp_path / "made/sample.json").read_text())
    assert about["weights"] == 0.08
    kept = diffkit("sample", str(run), "--ema", "0.05", "--count", "2", "--out", str(tmp_path / "kept"))
    plain = diffkit("sample", str(run), "--count", "2", "--out", str(tmp_path / "plain"))
    assert kept.code == plain.code == 0
    made, kept, plain = (images((tmp_path / name).glob("0*.png")) for name in ("made", "kept", "plain"))
    assert kept == plain != made


def test_a_snapshots_folder_is_an_earlier_step(diffkit, run, tmp_path):
    early = run / "ema/step-00000008"
    for name, place in {"early": early, "late": run}.items():
        done = diffkit("sample", str(place), "--ema", "0.08", "--count", "1", "--out", str(tmp_path / name))
        assert done.code == 0, done.err
    assert images((tmp_path / "early").glob("0*.png")) != images((tmp_path / "late").glob("0*.png"))


def test_evaluate(diffkit, run, tmp_path):
    few = ["--count", "4", "--reference", "20", "--features", "pixels", "--metric", "kid"]
    result = diffkit("evaluate", str(run), "--ema", "0.08", *few, "-o", str(tmp_path / "found.json"))
    assert result.code == 0, result.err
    assert "4 images, ema 0.08 weights, seed 0" in result.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["weights"] == 0.08
    assert found["sha256"] == about_model(Pipeline.load(run, 0.08))["sha256"]


def test_sweep_compares_lengths(diffkit, run, tmp_path):
    few = ["--samplers", "ddim", "--steps", "2", "--count", "6", "--reference", "30", "--features", "pixels"]
    result = diffkit("sweep", str(run), "--ema", "0.05,0.08", *few, "-o", str(tmp_path))
    assert result.code == 0, result.err
    assert "ema 0.05 and ema 0.08 weights" in result.out
    assert re.search(r"^ddim +ema 0\.08 +2 ", result.out, re.MULTILINE)
    found = json.loads((tmp_path / "sweep-1.json").read_text())
    assert found["weights"] == "ema 0.05,ema 0.08"
    digests = [cell["model"]["sha256"] for cell in found["cells"]]
    assert digests == [about_model(Pipeline.load(run, length))["sha256"] for length in (0.05, 0.08)]
    both = diffkit("sweep", str(run), "--ema", "0.08", "--weights", "raw", *few, "-o", str(tmp_path))
    assert both.code == 0, both.err
    assert "raw and ema 0.08 weights" in both.out


def test_likelihood(diffkit, run):
    made, kept = (
        diffkit("likelihood", str(run), "--ema", length, "--count", "1", "--steps", "2") for length in ("0.08", "0.1")
    )
    assert made.code == kept.code == 0, made.err
    assert made.out != kept.out


def test_edit(diffkit, run, tmp_path):
    assert diffkit("sample", str(run), "--count", "1", "--out", str(tmp_path / "images")).code == 0
    picture, edits = str(tmp_path / "images/00000.png"), ["--steps", "2", "--strength", "0.9"]
    done = diffkit("edit", "vary", str(run), picture, *edits, "--ema", "0.08", "--out", str(tmp_path / "edited"))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "edited/edit.json").read_text())["weights"] == 0.08


def test_export(diffkit, run, tmp_path):
    pytest.importorskip("diffusers")
    settings = ("spacing=leading", "guidance=1.0")
    for name, length in {"made": "0.08", "kept": "0.05"}.items():
        done = diffkit("export", str(run), str(tmp_path / name), *settings, "--ema", length)
        assert done.code == 0, done.err
    made, kept = (load_file(tmp_path / name / "unet/diffusion_pytorch_model.safetensors") for name in ("made", "kept"))
    assert any((made[key] != kept[key]).any() for key in kept)


@pytest.mark.parametrize("command", ["sample", "evaluate", "likelihood", "sweep"])
def test_a_run_without_snapshots(diffkit, trained, command):
    result = diffkit(command, str(trained), "--ema", "0.08")
    assert result.code == 2
    assert re.search(r"ema = 0\.08: .* was trained with train\.ema = 'decay', .* of those of 'power' only", result.err)
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ema", "0.5"], "ema = 0.5: a length is from 0.0001 to 0.2887"),
        (["--ema", "0.001"], "averages of 12 steps, of the lengths 0.05 and 0.1, to make it of, enough for lengths fr"),
        (["--ema", "0.08", "--weights", "raw"], "--ema 0.08: is an average, and --weights raw is none"),
        (["--ema", "long"], "Invalid value for '--ema': Input should be a valid number"),
    ],
)
def test_mistakes(diffkit, run, options, message):
    result = diffkit("sample", str(run), *options)
    assert result.code == 2
    assert message in result.err


def test_mistakes_of_a_sweep(diffkit, run):
    result = diffkit("sweep", str(run), "--ema", "0.05,long", "--steps", "two")
    assert result.code == 2
    assert "2 problems" in result.err and "--ema" in result.err and "lengths of averages" in result.err


def test_models_of_other_libraries_have_none(diffkit, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    result = diffkit("sample", str(tmp_path), "--ema", "0.08")
    assert result.code == 2
    assert "is a model of another library, and holds no snapshots of averages" in result.err
