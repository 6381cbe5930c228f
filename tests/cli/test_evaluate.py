"""``diffkit evaluate``: what it prints and writes, and every mistake's message."""

import json
import re
import shutil

import pytest

CLASSIFIER = '{kind="classifier", channels=4, size=8, steps=5}'


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    """A working directory with one run in it."""
    shutil.copytree(trained, tmp_path / "runs/tiny-1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_all_metrics_of_the_newest_run(diffkit, here):
    done = diffkit("evaluate", "--count", "8", "--features", CLASSIFIER, "-o", "found.json")
    head, against, *table, file = done.out.splitlines()
    assert (done.code, done.err, file) == (0, "", "found.json")
    assert head == "runs/tiny-1: 8 images, ema weights, seed 0, ddpm in 5 network calls"
    assert re.fullmatch(
        r"against 1797 images of digits, 8 features of classifier, SHA-256 \w{12}, right for [\d.]+% of these", against
    )
    names = ["fid", "kid", "precision", "recall", "density", "coverage", "accuracy"]
    assert [line.split()[0] for line in table] == names
    found = json.loads((here / "found.json").read_text())
    assert list(found["scores"]) == names
    assert [float(line.split()[1]) for line in table] == pytest.approx(
        [score["value"] for score in found["scores"].values()], rel=1e-3
    )
    assert found["sampling"]["sample"]["count"] == found["images"]["count"] == 8
    assert found["sampling"]["network_calls"] == 5
    assert found["features"]["sha256"].startswith(re.search(r"SHA-256 (\w+)", against)[1])
    assert len(found["sha256"]) == 64
    assert (found["source"], found["weights"]) == ("runs/tiny-1", "ema")


def test_settings_and_single_metrics(diffkit, here):
    options = ["--count", "6", "--features", "pixels", "--seed", "3", "--weights", "raw", "--reference", "30"]
    metrics = ["--metric", "fid", "--metric", '{kind="precision_recall", neighbours=2}']
    done = diffkit("evaluate", "sampler=ddim", "steps=3", *options, *metrics, "-o", "a.json")
    assert done.out.splitlines()[:2] == [
        "runs/tiny-1: 6 images, raw weights, seed 3, ddim in 3 network calls",
        "against 30 images of digits, 64 features of pixels",
    ]
    found = json.loads((here / "a.json").read_text())
    assert list(found["scores"]) == ["fid", "precision", "recall"]
    assert found["metrics"][1]["neighbours"] == 2
    diffkit(
        "evaluate", "runs/tiny-1", "sampler=ddim", "steps=3", *options, *metrics, "--batch-size", "4", "-o", "b.json"
    )
    assert json.loads((here / "b.json").read_text())["images"] == found["images"]


@pytest.mark.parametrize("format", ["png", "npz"])
def test_images_that_are_there(diffkit, here, format):
    diffkit("sample", "--count", "6", "--out", "made", "--format", format)
    given = diffkit("evaluate", "--images", "made", "--data", "digits", "--features", "pixels", "-o", "a.json")
    assert given.out.startswith("made: 6 images\nagainst 1797 images of digits, 64 features of pixels\n")
    sampled = diffkit("evaluate", "--count", "6", "--features", "pixels", "-o", "b.json")
    first, second = (json.loads((here / name).read_text()) for name in ("a.json", "b.json"))
    assert (first["scores"], first["images"]) == (second["scores"], second["images"])
    assert first["source"] == "made"
    of_run = diffkit("evaluate", "runs/tiny-1", "--images", "made", "--features", "pixels")
    assert of_run.out.splitlines() == given.out.splitlines()[:-1]
    assert sampled.code == of_run.code == 0


def test_a_file_is_not_overwritten(diffkit, here):
    (here / "mine.json").write_text("mine")
    done = diffkit("evaluate", "-o", "mine.json")
    assert (done.code, done.out) == (2, "")
    assert done.err == "Error: mine.json: exists already; --force overwrites it\n"
    assert (here / "mine.json").read_text() == "mine"
    few = ["--count", "4", "--metric", "fid", "--features", "pixels"]
    assert diffkit("evaluate", *few, "-o", "mine.json", "--force").code == 0
    assert json.loads((here / "mine.json").read_text())["images"]["count"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/tiny-2"], "runs/tiny-2: no such run or checkpoint. Did you mean 'tiny-1'?"),
        (["-o", "no/found.json"], "no/found.json: there is no folder no"),
        (["--split", "test"], "split = test: the data set 'digits' has no images for testing: use train"),
        (["--features", "pixels", "--reference", "1798"], "reference = 1798: there are 1797 images"),
        (
            ["--metric", "fdi"],
            "settings of the evaluation: 1 problem\n  metrics[0] = \"fdi\"\n    no metric is called 'fdi'. "
            "Did you mean 'fid'? Known: density_coverage, fid, kid, nll, precision_recall",
        ),
        (
            ["--features", "pixel"],
            "settings of the evaluation: 1 problem\n  features = \"pixel\"\n    no features is called 'pixel'. Did you "
            "mean 'pixels'? Known: classifier, inception, pixels",
        ),
        (
            ["--data", "digits"],
            "--data is for --images: what a model samples is compared with its own data set",
        ),
        (
            ["--images", "none", "--data", "digits", "--features", "pixels"],
            "images = none: there are no pictures, and no images.npz",
        ),
        (["--features", '{kind="inception", file="a.pt"}'], "features.file = HERE/a.pt: there is no such file"),
    ],
)
def test_mistakes(diffkit, here, arguments, message):
    done = diffkit("evaluate", *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"Error: {message.replace('HERE', str(here))}\n")


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--seed", "-1"], ["--weights", "best"], ["--reference", "0"]])
def test_wrong_options_end_with_2(diffkit, here, arguments):
    assert diffkit("evaluate", *arguments).code == 2
