"""Plugins and callbacks are told of a run in order, and one that raises stops it by name, after a checkpoint."""

import json
import re
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from diffkit.callbacks.base import Callback
from diffkit.errors import PluginError, UserError
from diffkit.plugins.hookspecs import hookimpl
from diffkit.plugins.manager import Plugins
from diffkit.spec import register, unregister
from diffkit.storage.checkpoint import list_checkpoints, read_checkpoint
from diffkit.train.loop import train

calls = []
"""What was called, in order: who, which hook, what with."""


class Recorder(Callback):
    """Writes down every call, and raises where it is told to."""

    kind: Literal["recorder"] = "recorder"
    name: str = "callback"
    """Who it is."""
    fails_in: str = ""
    """The hook that raises."""
    fails_at: int = 0
    """The step at which it raises."""
    error: Literal["value", "user", "system"] = "value"
    """What it raises."""

    def record(self, hook, run, **arguments):
        calls.append((self.name, hook, arguments))
        if self.fails_in == hook and run.step >= self.fails_at:
            errors = {"value": ValueError("no luck"), "user": UserError("no disk"), "system": SystemExit(5)}
            raise errors[self.error]

    @hookimpl
    def on_train_start(self, run):
        self.record("on_train_start", run, step=run.step)

    @hookimpl
    def on_train_step(self, run, step, metrics):
        assert step == run.step
        self.record("on_train_step", run, step=step, metrics=dict(metrics))

    @hookimpl
    def on_checkpoint(self, run, path):
        self.record("on_checkpoint", run, step=run.step, path=path)

    @hookimpl
    def on_sample(self, run, images):
        self.record("on_sample", run, images=images)

    @hookimpl
    def on_train_end(self, run, error):
        self.record("on_train_end", run, error=error)


@pytest.fixture(autouse=True)
def recorders():
    calls.clear()
    register([Recorder], owner="test_hooks")
    yield
    unregister("test_hooks")


def hooks_of(name):
    return [hook for who, hook, _ in calls if who == name]


def test_every_hook_is_called_in_order_with_what_it_needs(tiny, tmp_path):
    train(tiny("train.steps=6", 'callbacks=["recorder"]'), tmp_path)
    steps = ["on_train_step"]
    assert hooks_of("callback") == [
        "on_train_start",
        *(5 * steps),
        "on_checkpoint",  # train.checkpoint_every = 5
        *steps,
        "on_checkpoint",
        "on_train_end",
    ]
    arguments = [arguments for _, _, arguments in calls]
    assert arguments[0] == {"step": 0}
    assert [a["step"] for a in arguments if "metrics" in a] == [1, 2, 3, 4, 5, 6]
    logged = {a["step"]: set(a["metrics"]) for a in arguments if a.get("metrics")}
    assert logged == {step: {"loss", "grad_norm", "lr", "images_per_second"} for step in (3, 6)}
    paths = [a["path"] for a in arguments if "path" in a]
    assert paths == list_checkpoints(tmp_path / "checkpoints")
    assert [read_checkpoint(path).step for path in paths] == [5, 6]
    assert arguments[-1] == {"error": None}


def test_what_is_logged_is_what_callbacks_see(tiny, tmp_path):
    train(tiny("train.steps=6", 'callbacks=["recorder"]'), tmp_path)
    seen = [{"step": a["step"], **a["metrics"]} for _, _, a in calls if a.get("metrics")]
    assert seen == [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_starts_at_its_step(tiny, tmp_path):
    train(tiny("train.steps=5"), tmp_path)
    train(tiny("train.steps=6", 'callbacks=["recorder"]'), tmp_path, resume=True)
    assert [arguments.get("step") for _, _, arguments in calls] == [5, 6, 6, None]


@pytest.mark.parametrize(
    ("hook", "fails_at", "checkpoint"),
    [("on_train_step", 3, 3), ("on_train_step", 5, 5), ("on_checkpoint", 5, 5)],
)
def test_a_callback_that_raises_stops_the_run_by_name_after_a_checkpoint(tiny, tmp_path, hook, fails_at, checkpoint):
    failing = f'callbacks=[{{kind = "recorder", fails_in = "{hook}", fails_at = {fails_at}}}]'
    message = f"callback 'recorder' (callbacks[0]) raised in {hook}: ValueError: no luck"
    with pytest.raises(PluginError, match=f"^{re.escape(message)}$") as caught:
        train(tiny(failing), tmp_path / "stopped")
    assert isinstance(caught.value.__cause__, ValueError)
    assert list_checkpoints(tmp_path / "stopped" / "checkpoints")[-1].name == f"step-{checkpoint:08d}"
    ends = [arguments["error"] for _, hook, arguments in calls if hook == "on_train_end"]
    assert ends == [None if hook == "on_train_end" else caught.value]

    train(tiny(), tmp_path / "stopped", resume=True)
    train(tiny(), tmp_path / "whole")
    ours, theirs = (
        load_file(tmp_path / run / "checkpoints/step-00000012/ema.safetensors") for run in ("stopped", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_one_that_raises_at_the_start_leaves_nothing_to_save(tiny, tmp_path):
    with pytest.raises(PluginError, match="raised in on_train_start: ValueError: no luck"):
        train(tiny('callbacks=[{kind = "recorder", fails_in = "on_train_start"}]'), tmp_path)
    assert list_checkpoints(tmp_path / "checkpoints") == []


WATCHER = """
import diffkit

@diffkit.hookimpl
def on_train_step(run, step):
    (run.folder / "watched").write_text(str(step))
    if step == 3:
        raise OSError("the disk is full")
"""


def test_a_plugin_that_raises_stops_the_run_by_name_after_a_checkpoint(tiny, tmp_path, install_plugin):
    install_plugin("watcher", WATCHER)
    with pytest.raises(PluginError, match="plugin 'watcher' raised in on_train_step: OSError: the disk is full"):
        train(tiny(), tmp_path / "run", plugins=Plugins().manager)
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000003"]


def test_a_plugin_that_was_left_out_has_no_say_in_a_run(tiny, tmp_path, install_plugin):
    install_plugin(
        "watcher", f"{WATCHER}\n\n@diffkit.hookimpl\ndef register_components():\n    raise ImportError('x')\n"
    )
    plugins = Plugins()
    plugins.register_components()
    assert plugins.infos["watcher"].error == "ImportError: x"
    train(tiny("train.steps=3"), tmp_path / "run", plugins=plugins.manager)
    assert not (tmp_path / "run" / "watched").exists()
