import json

import pytest

from diffkit.benchmarking import measure

SMALL = ("model.channels=16", "model.norm.groups=8", "--batch-size", "2", "--rounds", "1")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Memory is measured in processes of its own, which takes seconds: tests/benchmarking/test_memory.py."""
    monkeypatch.setattr(measure, "can_measure", lambda device: False)


def test_tables(diffkit):
    done = diffkit("bench", "quickstart", *SMALL)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("quickstart: ")
    assert "batch 2, float32" in lines[0]
    assert lines[1].startswith("matrix product of 1024x1024: ")
    starts = [line.split()[0] for line in lines if line.strip()]
    for part in ("training,", "sampling,", "conv_in", "down.0", "up.1", "optimizer", "convolution"):
        assert part in starts


def test_json_against_diffusers(diffkit):
    pytest.importorskip("diffusers")
    done = diffkit("bench", "quickstart", *SMALL, "--json", "--against", "diffusers", "--depth", "1")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["recipe"] == "quickstart"
    assert report["batch_size"] == 2
    assert set(report["flops"]) == set(report["speed"]) == {"training", "sampling"}
    assert set(report["speed"]["training"]["wall"]) == {"median", "low", "high"}
    against = report["against"]
    assert against["name"] == "diffusers"
    assert against["difference"] < 1e-5
    for job, ratio in against["ratio"].items():  # of one round
        seconds = [found[job]["wall"]["median"] for found in (against["speed"], report["speed"])]
        assert ratio["wall"]["median"] == pytest.approx(seconds[0] / seconds[1])
    assert "down" in report["breakdown"]["parts"] or "conv_in" in report["breakdown"]["parts"]
    assert not any("." in name for name in report["breakdown"]["parts"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "lucidrain"], "Error: --against lucidrain: no such library. Did you mean 'lucidrains'?"),
        (["--batch-size", "2", "train.steps=0"], "train.steps = 0"),
        (["--rounds", "0"], "Invalid value for '--rounds'"),
    ],
)
def test_mistakes(diffkit, arguments, message):
    done = diffkit("bench", "quickstart", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_network_that_the_library_has_not(diffkit):
    pytest.importorskip("diffusers")
    done = diffkit("bench", "quickstart", "model.norm=rms", "--against", "diffusers")
    assert (done.code, done.out) == (2, "")
    assert "model.norm" in done.err
    assert "a UNet2DModel has the normalization 'group' only" in done.err
