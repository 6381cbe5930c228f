"""What TensorBoard is shown of a run, also of one that goes on."""

import io
import json
import multiprocessing
import os
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffkit.callbacks.tensorboard import TensorBoard
from diffkit.errors import PluginError
from diffkit.images import grid
from diffkit.plugins.hookspecs import hookimpl
from diffkit.plugins.manager import Plugins
from diffkit.train.loop import train

SHOWN = 'callbacks=["tensorboard"]'


def shown(folder):
    """What TensorBoard shows of a run: steps and values by tag, and its images."""
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    scalars = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    return scalars, {tag: found.Images(tag) for tag in found.Tags()["images"]}


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: [(line["step"], line[name]) for line in lines if name in line] for name in lines[0] if name != "step"}


def same(scalars, log):
    assert scalars.keys() == log.keys()
    for name, pairs in log.items():
        assert [step for step, _ in scalars[name]] == [step for step, _ in pairs]
        assert [value for _, value in scalars[name]] == pytest.approx([value for _, value in pairs], rel=1e-6)


def test_tensorboard_shows_what_is_logged(tiny, tmp_path):
    train(tiny(SHOWN), tmp_path)
    scalars, images = shown(tmp_path)
    same(scalars, logged(tmp_path))
    assert "update_ratio" in scalars
    assert images == {}


class Killer:
    """Kills the process in the midst of a run."""

    @hookimpl
    def on_train_step(self, run, step, metrics):
        if step == 8:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("saved", [5, 0])
def test_a_run_that_was_killed_and_goes_on_shows_each_step_once(tiny, tmp_path, saved):
    recipe = tiny('callbacks=["tensorboard"]', "train.log_every=1", f"train.checkpoint_every={saved or 100}")
    plugins = Plugins()
    plugins.manager.register(Killer(), "killer")
    killed = multiprocessing.get_context("fork").Process(
        target=train, args=(recipe, tmp_path), kwargs={"plugins": plugins.manager}
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert [step for step, _ in shown(tmp_path)[0]["loss"]] == list(range(1, 8))  # all that was logged
    time.sleep(1)  # the names of TensorBoard's files have seconds
    train(recipe, tmp_path, resume=True)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    scalars, _ = shown(tmp_path)
    assert [step for step, _ in scalars["loss"]] == list(range(1, 13))
    same(scalars, logged(tmp_path))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_that_are_sampled_are_shown(tiny, tmp_path, channels):
    board = TensorBoard().build()
    run = SimpleNamespace(folder=tmp_path, step=4)
    board.on_train_start(run)
    images = torch.randint(256, (3, channels, 5, 6), dtype=torch.uint8)
    board.on_sample(run, images)
    board.on_train_end(run, None)
    (picture,) = shown(tmp_path)[1]["samples"]
    assert picture.step == 4
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    expected = grid(images).numpy()
    expected = np.concatenate(expected, axis=1)[None] if channels == 2 else expected
    assert np.array_equal(pixels.reshape(*expected.shape[1:], -1)[..., : len(expected)], expected.transpose(1, 2, 0))


def test_a_sample_grid_is_shown(tiny, tmp_path):
    train(tiny('callbacks=[{kind = "sample_grid", every = 6, count = 2}, "tensorboard"]'), tmp_path)
    assert [image.step for image in shown(tmp_path)[1]["samples"]] == [6, 12]


def test_a_run_without_the_package_ends_in_one_line_before_any_step(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PluginError) as caught:
        train(tiny(SHOWN), tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("callback 'tensorboard' (callbacks[0]) cannot be used: TensorBoard is missing (")
    assert line.endswith("): pip install 'diffkit[tensorboard]'")
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_end_is_quiet_if_another_callback_stopped_the_run_before(tmp_path):
    TensorBoard().build().on_train_end(SimpleNamespace(folder=tmp_path, step=0), None)
    assert list(tmp_path.iterdir()) == []
