"""Several processes train together as one would alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from diffkit.cli.main import run
from diffkit.diffusion.distillation.base import Distillation
from diffkit.distributed import Workers
from diffkit.errors import DataError, RecipeError
from diffkit.pipeline import build_network
from diffkit.recipe.write import to_toml
from diffkit.storage.checkpoint import list_checkpoints
from diffkit.train.loop import train
from diffkit.train.named_optimizer import divided
from diffkit.train.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

EVERYTHING = [
    "model.resnet.dropout=0.0",
    "train.batch_size=9",
    "train.device_batch_size=3",  # parts of 2 and 2, or of 2 and 3
    "train.augmentation='edm'",
    "train.ema={kind='power', snapshots=2}",
    "train.log_every=2",
    "objective.self_conditioning=true",
    "objective.time_sampling={kind='importance', losses=1}",
    "process.steps=10",
]


@pytest.fixture
def recipe(tiny, tmp_path):
    def write(*overrides):
        recipe = tiny(*EVERYTHING, *overrides)
        (tmp_path / "tiny.toml").write_text(to_toml(recipe))
        return recipe

    return write


def command(folder, *options):
    return lambda: run(["train", "tiny.toml", "--run", folder, "--device", "cpu", *options])


def same_run(one, other, weights=4):
    """Check that two runs ended at the same weights, and logged the same, but for the order of sums."""
    ours, theirs = (list_checkpoints(folder / "checkpoints")[-1] for folder in (one, other))
    files = sorted(file.name for file in ours.glob("*.safetensors"))
    assert len(files) == weights
    for name in files:
        our, their = load_file(ours / name), load_file(theirs / name)
        assert our.keys() == their.keys()
        for key, tensor in our.items():
            assert torch.allclose(tensor, their[key], rtol=1e-3, atol=2e-5), (name, key)
    assert [at.name for at in list_checkpoints(one / "ema")] == [at.name for at in list_checkpoints(other / "ema")]
    logs = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in (one, other)]
    for our, their in zip(*logs, strict=True):
        assert our.keys() == their.keys()
        assert {"step", "loss", "grad_norm", "update_ratio", "ema_distance"} < our.keys()
        del our["images_per_second"], their["images_per_second"]
        assert our == pytest.approx(their, rel=1e-3)


@pytest.mark.parametrize(("size", "shard"), [(2, "none"), (4, "optimizer"), (2, "full")])
def test_several_train_as_one(recipe, together, tmp_path, size, shard):
    grids = "callbacks=[{kind='sample_grid', every=3, count=2, steps=2, sampler='ddim'}]"
    train(recipe("train.steps=6", f"train.shard={shard}", grids), tmp_path / "one")
    assert together(size, command("many")) == [0] * size
    assert (tmp_path / "out-0").read_text() == "many\n"
    assert "tiny: step 6/6" in (tmp_path / "err-0").read_text()
    assert {(tmp_path / f"{kind}-{rank}").read_text() for kind in ("out", "err") for rank in range(1, size)} == {""}
    same_run(tmp_path / "one", tmp_path / "many")
    for step in (3, 6):
        ours, theirs = (
            np.asarray(Image.open(tmp_path / name / f"samples/step-{step:08}.png"), dtype=int)
            for name in ("one", "many")
        )
        assert np.abs(ours - theirs).max() <= 1
        assert ours.std() > 10


def test_gradients_are_sent_once_a_step(recipe, together):
    def job():
        sent = []

        def counted(_, bucket):
            sent.append(bucket.buffer().numel())
            return allreduce_hook(None, bucket)

        with Workers.joined() as workers:
            tiny = recipe("train.device_batch_size=1")
            run = TrainingRun(tiny, None, tiny.data.info(), tiny.data.open(), torch.device("cpu"), workers)
            run._network.register_comm_hook(None, counted)
            for _ in range(3):
                sent.clear()
                run.take_step()
                assert sent == [sum(parameter.numel() for parameter in run.model.parameters())]

    assert together(2, job) == [0, 0]


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "tiny-1"
    train(tiny("objective.prediction=velocity", "train.steps=1"), folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "shard"), [*((kind, "none") for kind in sorted(Distillation.kinds)), ("progressive", "full")]
)
def test_several_distil_as_one(tiny, together, teacher, tmp_path, kind, shard):
    settings = {**Distillation.kinds[kind].example_settings(), "kind": kind, "teacher": str(teacher)}
    written = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    student = tiny(
        "model.resnet.dropout=0.0",
        "objective.prediction=velocity",
        "train.steps=6",
        "train.log_every=2",
        f"sample={{sampler='{'consistency' if kind == 'consistency' else 'ddim'}', steps=2}}",
        f"distillation={{{written}}}",
        f"train.shard={shard}",
    )
    (tmp_path / "tiny.toml").write_text(to_toml(student))
    train(student, tmp_path / "one")
    assert together(2, command("many")) == [0, 0], (tmp_path / "err-0").read_text()
    same_run(tmp_path / "one", tmp_path / "many", weights=3)


def at_step(monkeypatch, rank, step, what):
    """Let something happen in one process before it takes a step."""
    take_step = TrainingRun.take_step

    def watched(self):
        if self.workers.rank == rank and self.step == step:
            what()
        take_step(self)

    monkeypatch.setattr(TrainingRun, "take_step", watched)


@pytest.mark.parametrize(("first", "shard", "second", "then"), [(2, "optimizer", 3, "none"), (4, "full", 2, "full")])
def test_a_run_that_was_stopped_goes_on_on_one_and_on_others(
    recipe, together, tmp_path, monkeypatch, first, shard, second, then
):
    whole = recipe("train.steps=6", f"train.shard={shard}", "model.multipliers=[1]", "model.attention_at=[]")
    train(whole, tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 1, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert together(first, command("one")) == [130] * first
    assert "interrupted at step 4; go on with --run one --resume" in (tmp_path / "err-0").read_text()
    assert {(tmp_path / f"err-{rank}").read_text() for rank in range(1, first)} == {""}
    assert [path.name for path in list_checkpoints(tmp_path / "one/checkpoints")] == ["step-00000004"]
    shutil.copytree(tmp_path / "one", tmp_path / "others")
    train(whole, tmp_path / "one", resume=True)
    assert together(second, command("others", "--resume", f"train.shard={then}")) == [0] * second
    same_run(tmp_path / "whole", tmp_path / "one")
    same_run(tmp_path / "whole", tmp_path / "others")


def test_an_error_in_one_stops_all(recipe, together, tmp_path, monkeypatch):
    def fail():
        raise DataError("picture.png: cannot be read")

    recipe("train.steps=9")
    at_step(monkeypatch, 1, 6, fail)
    began = time.monotonic()
    assert together(3, command("run")) == [2, 2, 2]
    assert time.monotonic() - began < 60
    assert (tmp_path / "err-1").read_text() == "Error: picture.png: cannot be read\n"
    assert "Error" not in (tmp_path / "err-0").read_text() + (tmp_path / "err-2").read_text()
    assert [path.name for path in list_checkpoints(tmp_path / "run/checkpoints")] == ["step-00000005"]


def test_one_that_hangs_ends_with_the_others(recipe, together, tmp_path, monkeypatch):
    def fail():
        raise DataError("picture.png: cannot be read")

    recipe("train.steps=9")
    monkeypatch.setattr("diffkit.distributed.GRACE", timedelta(seconds=1))
    at_step(monkeypatch, 0, 2, lambda: time.sleep(1000))
    at_step(monkeypatch, 1, 2, fail)
    assert together(2, command("run")) == [2, 2]
    assert (tmp_path / "err-1").read_text() == "Error: picture.png: cannot be read\n"


@pytest.mark.parametrize("shard", ["none", "full"])
def test_one_that_is_killed_stops_the_others(recipe, together, tmp_path, monkeypatch, shard):
    recipe("train.steps=9", f"train.shard={shard}")
    at_step(monkeypatch, 1, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert together(2, command("run")) == [1, -signal.SIGKILL]
    said = (tmp_path / "err-0").read_text()
    assert "Error: lost contact with another process, which was killed or whose machine is gone: " in said
    assert "fault of diffkit" not in said


def test_a_callback_that_raises_stops_all_after_a_checkpoint(recipe, together, tmp_path):
    (tmp_path / "broken.py").write_text(
        "import diffkit\n"
        "@diffkit.hookimpl\n"
        "def on_train_step(step):\n"
        "    if step == 3:\n"
        "        raise ValueError('no more')\n"
    )
    recipe("train.steps=9", "train.shard=optimizer")
    assert together(2, command("run", "--plugin", "broken.py")) == [2, 2]
    assert "raised in on_train_step: ValueError: no more" in (tmp_path / "err-0").read_text()
    assert (tmp_path / "err-1").read_text() == ""
    assert [path.name for path in list_checkpoints(tmp_path / "run/checkpoints")] == ["step-00000003"]


def test_a_mistake_is_said_once(recipe, together, tmp_path):
    recipe("train.steps=1")
    assert together(3, command("run", "train.batch_size=none")) == [2, 2, 2]
    said = [(tmp_path / f"err-{rank}").read_text() for rank in range(3)]
    assert sorted(map(bool, said)) == [False, False, True]
    assert "train.batch_size" in "".join(said)


def test_a_network_that_leaves_parameters_alone_is_refused(recipe, together, tmp_path, monkeypatch):
    def with_idle(*arguments):
        network = build_network(*arguments)
        network.register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))
        return network

    recipe("train.steps=1")
    monkeypatch.setattr("diffkit.train.run.build_network", with_idle)
    assert together(2, command("run")) == [2, 2]
    assert "the network doesn't use idle, and only one process can train such a network" in "".join(
        (tmp_path / f"err-{rank}").read_text() for rank in range(2)
    )


def test_a_batch_must_be_enough_for_all(tiny, tmp_path):
    message = r"train.batch_size = 8\n    must be at least the number of processes, 9: it is shared among them"
    with pytest.raises(RecipeError, match=message):
        train(tiny(), tmp_path / "run", workers=Workers(0, 9))
    assert not (tmp_path / "run").exists()


def test_parts_of_the_parameters_are_of_about_one_size(tiny):
    recipe = tiny()
    run = TrainingRun(recipe, None, recipe.data.info(), recipe.data.open(), torch.device("cpu"))
    parameters = dict(run.model.named_parameters())
    parts = divided(parameters, 3)
    assert sorted(name for part in parts for name in part) == sorted(parameters)
    sizes = [sum(p.numel() for p in part.values()) for part in parts]
    assert max(sizes) - min(sizes) <= 0.01 * sum(sizes)  # of a network whose largest is more than that
    assert max(p.numel() for p in parameters.values()) > 0.01 * sum(sizes)


def test_torchrun(recipe, tmp_path):
    recipe("train.steps=2")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    done = subprocess.run(
        [*start, "diffkit", "train", "tiny.toml", "--run", "mine"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr
    assert done.stderr.count("step 2/2") == 1
    assert "Warning" not in done.stderr
