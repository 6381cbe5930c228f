"""Plugins and callbacks are told of a run in order, and one that raises stops it by name, after a checkpoint."""

import json
import re
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from diffkit.callbacks.base import Callback
from diffkit.errors import Interrupted, PluginError, UserError
from diffkit.plugins.hookspecs import hookimpl
from diffkit.plugins.manager import Plugins
from diffkit.spec import register, unregister
from diffkit.storage.checkpoint import list_checkpoints, read_checkpoint
from diffkit.train.hooks import Hooks
from diffkit.train.loop import train
from diffkit.train.stop import StopRequest

HEALTH = {"loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm", "update_ratio", "ema_distance"}
NUMBERS = HEALTH | {"lr", "images_per_second"}

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


class Sampler(Callback):
    """Samples two images at the second step."""

    kind: Literal["sampler_of_test"] = "sampler_of_test"

    @hookimpl
    def on_train_step(self, run, step):
        if step == 2:
            run.sample(2, seed=1)


@pytest.fixture(autouse=True)
def recorders():
    calls.clear()
    register([Recorder, Sampler], owner="test_hooks")
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
    assert logged == dict.fromkeys((3, 6), NUMBERS)
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


def test_plugins_come_before_callbacks_and_these_in_the_order_of_the_recipe(tiny, tmp_path):
    plugins = Plugins()
    plugins.manager.register(Recorder(name="plugin 1"), "one")
    plugins.manager.register(Recorder(name="plugin 2"), "two")
    callbacks = 'callbacks=[{kind = "recorder", name = "a"}, {kind = "recorder", name = "b"}]'
    train(tiny("train.steps=1", callbacks), tmp_path, plugins=plugins.manager)
    for hook in ("on_train_start", "on_train_step", "on_checkpoint", "on_train_end"):
        assert [who for who, called, _ in calls if called == hook] == ["plugin 1", "plugin 2", "a", "b"]


def test_images_that_are_sampled_in_training_are_shown_to_everybody(tiny, tmp_path):
    train(tiny("train.steps=3", 'callbacks=["sampler_of_test", "recorder"]'), tmp_path)
    (images,) = [arguments["images"] for _, hook, arguments in calls if hook == "on_sample"]
    assert images.shape == (2, 1, 8, 8) and images.dtype == torch.uint8 and images.device.type == "cpu"


@pytest.mark.parametrize(
    ("hook", "fails_at", "checkpoint"),
    [("on_train_step", 3, 3), ("on_train_step", 5, 5), ("on_checkpoint", 5, 5), ("on_train_end", 12, 12)],
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


def test_an_error_with_a_message_for_the_user_has_the_name_and_the_checkpoint_too(tiny, tmp_path):
    failing = 'callbacks=[{kind = "recorder", fails_in = "on_train_step", fails_at = 3, error = "user"}]'
    with pytest.raises(PluginError, match=r"callback 'recorder' \(callbacks\[0\]\) raised in on_train_step: no disk"):
        train(tiny(failing), tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000003"]


def test_a_callback_that_calls_exit_stops_the_run_in_the_same_way(tiny, tmp_path):
    failing = 'callbacks=[{kind = "recorder", fails_in = "on_train_step", fails_at = 3, error = "system"}]'
    with pytest.raises(
        PluginError, match=r"callback 'recorder' \(callbacks\[0\]\) raised in on_train_step: SystemExit"
    ):
        train(tiny(failing), tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000003"]


@pytest.mark.parametrize("number", [0, 1])
def test_of_two_callbacks_of_one_kind_the_right_one_is_named(tiny, tmp_path, number):
    callbacks = ['"recorder"', '"recorder"']
    callbacks[number] = '{kind = "recorder", fails_in = "on_train_step", fails_at = 2}'
    with pytest.raises(PluginError, match=rf"callback 'recorder' \(callbacks\[{number}\]\)"):
        train(tiny(f"callbacks=[{', '.join(callbacks)}]"), tmp_path)


def test_the_first_error_is_not_hidden_by_one_at_the_end(tiny, tmp_path):
    callbacks = (
        'callbacks=[{kind = "recorder", name = "a", fails_in = "on_train_step", fails_at = 2},'
        '{kind = "recorder", name = "b", fails_in = "on_train_end"}]'
    )
    with pytest.raises(PluginError, match=r"callbacks\[0\]\) raised in on_train_step") as caught:
        train(tiny(callbacks), tmp_path)
    assert hooks_of("a")[-1] == "on_train_end"
    assert caught.value.__notes__ == ["callback 'recorder' (callbacks[1]) raised in on_train_end: ValueError: no luck"]


def test_the_end_reaches_everybody(tiny, tmp_path):
    callbacks = (
        'callbacks=[{kind = "recorder", name = "a", fails_in = "on_train_end"}, {kind = "recorder", name = "b"}]'
    )
    with pytest.raises(PluginError, match=r"callbacks\[0\]\) raised in on_train_end"):
        train(tiny("train.steps=1", callbacks), tmp_path)
    assert hooks_of("b")[-1] == "on_train_end"


def test_the_checkpoint_of_a_run_that_stops_is_announced_too(tiny, tmp_path):
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Interrupted):
        train(tiny('callbacks=["recorder"]'), tmp_path, stop=stop)
    assert hooks_of("callback") == ["on_train_start", "on_train_step", "on_checkpoint", "on_train_end"]


class AsksForTooMuch:
    @hookimpl
    def on_train_step(self, run, step, loss):
        """There is no argument `loss`."""


class Misspelt:
    @hookimpl
    def on_train_stop(self, run):
        """There is no such hook."""


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (AsksForTooMuch, "loss"),
        (Misspelt, "on_train_stop"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_callback_that_cannot_be_used_is_named(build, reason, monkeypatch):
    monkeypatch.setattr(Recorder, "build", lambda self: build())
    with pytest.raises(PluginError) as caught:
        Hooks(None, (Recorder(),))
    assert "callback 'recorder' (callbacks[0])" in str(caught.value)
    assert reason in str(caught.value)


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
