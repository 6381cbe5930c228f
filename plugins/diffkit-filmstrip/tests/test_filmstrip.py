"""The filmstrip: its frames, going on after a stop, and the command."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from diffkit.errors import Interrupted, PluginError, RecipeError, UserError
from diffkit.plugins.hookspecs import hookimpl
from diffkit.train.loop import train
from diffkit.train.stop import StopRequest

STRIP = 'callbacks=[{kind = "filmstrip", every = 2, count = 3}]'


def steps_in(folder):
    return [int(file.stem.removeprefix("step-")) for file in sorted(folder.iterdir())]


def pixels(file):
    with Image.open(file) as picture:
        return np.array(picture)


def stop_after(recipe, folder, step):
    """Train until a step and stop there, as Ctrl-C would."""
    from diffkit.plugins.manager import Plugins

    stop, loaded = StopRequest(), Plugins()

    class Stopper:
        @hookimpl
        def on_train_step(self, run):
            stop.requested = run.step == step

    loaded.manager.register(Stopper(), "stopper")
    with pytest.raises(Interrupted):
        train(recipe, folder, plugins=loaded.manager, stop=stop)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of one whole run, trained by the first test that wants it."""
    return tmp_path_factory.mktemp("runs") / "trained"


@pytest.fixture
def run(trained, open_small):
    if not trained.exists():
        train(open_small("quickstart", STRIP), trained)
    return trained


def test_time_runs_to_the_right(run):
    frames = [pixels(run / "samples" / "filmstrip" / f"step-{step:08d}.png") for step in (0, 2, 4, 6)]
    assert steps_in(run / "samples" / "filmstrip") == [0, 2, 4, 6]
    assert all(frame.shape == (3 * 9 + 1, 8 + 2) for frame in frames)
    strip = pixels(run / "samples" / "filmstrip.png")
    factor = 64 // 8
    assert strip.shape == ((3 * 9 + 1) * factor, (4 * 9 + 1) * factor)
    for i, frame in enumerate(frames):
        assert np.array_equal(strip[::factor, i * 9 * factor : (i * 9 + 10) * factor : factor], frame)


def test_the_images_change_as_training_goes_on(run):
    frames = [pixels(file) for file in sorted((run / "samples" / "filmstrip").iterdir())]
    assert not any(np.array_equal(one, other) for one, other in itertools.pairwise(frames))


@pytest.mark.parametrize("step", [1, 4, 5])
def test_going_on_gives_the_same_strip_as_never_stopping(run, open_small, tmp_path, step):
    stop_after(open_small("quickstart", STRIP), tmp_path, step)
    folder = tmp_path / "samples" / "filmstrip"
    (folder / ".tmp-0").write_bytes(b"half a frame")
    shutil.copy(folder / "step-00000000.png", folder / "step-00000006.png")  # of steps that are taken anew
    train(open_small("quickstart", STRIP), tmp_path, resume=True)
    assert steps_in(folder) == [0, 2, 4, 6]
    for file in [*folder.iterdir(), tmp_path / "samples" / "filmstrip.png"]:
        assert np.array_equal(pixels(file), pixels(run / file.relative_to(tmp_path))), file


def test_a_frame_that_was_interrupted_is_made_up_for(open_small, tmp_path):
    train(open_small("quickstart", STRIP, "train.steps=4"), tmp_path)
    (tmp_path / "samples" / "filmstrip" / "step-00000004.png").unlink()
    train(open_small("quickstart", STRIP), tmp_path, resume=True)
    assert steps_in(tmp_path / "samples" / "filmstrip") == [0, 2, 4, 6]


def test_the_last_step_has_a_frame_in_any_case(open_small, tmp_path):
    train(open_small("quickstart", STRIP, "train.steps=3"), tmp_path)
    assert steps_in(tmp_path / "samples" / "filmstrip") == [0, 2, 3]


def test_colour_images_with_a_sampler_and_steps_of_their_own(plugins, open_small, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((8, 8, 8, 3), dtype=np.uint8))
    recipe = open_small(
        "quickstart",
        "model.class_conditional=false",
        "sample.guidance=1.0",
        f"data={{kind = 'arrays', path = '{tmp_path}/images.npy'}}",
        "train.steps=1",
        'callbacks=[{kind = "filmstrip", sampler = "ddim", steps = 2, count = 2, name = "fast"}]',
    )
    train(recipe, tmp_path / "run")
    assert pixels(tmp_path / "run" / "samples" / "fast.png").shape == (19 * 8, (2 * 9 + 1) * 8, 3)


def test_other_settings_do_not_go_into_the_same_strip(open_small, tmp_path):
    train(open_small("quickstart", STRIP, "train.steps=2"), tmp_path)
    before = steps_in(tmp_path / "samples" / "filmstrip")
    recipe = open_small("quickstart", 'callbacks=[{kind = "filmstrip", every = 2, count = 3, seed = 1}]')
    with pytest.raises(UserError, match="Keep them, or give the callback another name"):
        train(recipe, tmp_path, resume=True)
    assert steps_in(tmp_path / "samples" / "filmstrip") == before


def test_recipes_that_do_not_fit_are_refused(open_small):
    strips = '[{kind = "filmstrip"}, {kind = "filmstrip", seed = 1}, {kind = "filmstrip", name = "b", steps = 99}]'
    with pytest.raises(RecipeError) as caught:
        open_small("quickstart", f"callbacks={strips}")
    assert [problem.key for problem in caught.value.problems] == [
        "callbacks[0].name",
        "callbacks[1].name",
        "callbacks[2].steps",
    ]
    with pytest.raises(RecipeError, match="should match pattern"):
        open_small("quickstart", 'callbacks=[{kind = "filmstrip", name = "../up"}]')


@pytest.fixture
def diffkit(capsys):
    """Runs the command line and returns exit code, output and errors."""
    from diffkit.cli.main import run as command_line

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            command_line([str(argument) for argument in arguments])
        return (caught.value.code, *capsys.readouterr())

    return call


def test_the_command_redraws_with_fewer_frames(run, diffkit, tmp_path):
    file = tmp_path / "strip.png"
    assert diffkit("filmstrip", run, "--frames", 2, "--out", file) == (0, f"{file}\n", "")
    first, last = (pixels(run / "samples" / "filmstrip" / f"step-{step:08d}.png") for step in (0, 6))
    assert np.array_equal(pixels(file)[::8, ::8], np.concatenate([first, last[:, 1:]], axis=1))


def test_the_command_takes_the_newest_run(run, diffkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "runs" / "quickstart-1")
    drawn = tmp_path / "runs" / "quickstart-1" / "samples" / "filmstrip.png"
    before = pixels(drawn)
    drawn.unlink()
    code, output, _ = diffkit("filmstrip")
    assert (code, output) == (0, f"{drawn.relative_to(tmp_path)}\n")
    assert np.array_equal(pixels(drawn), before)


def test_the_command_says_what_is_missing(diffkit, tmp_path):
    frames = tmp_path / "samples" / "filmstrip"
    message = f"Error: {tmp_path}: no frames in {frames}: train with the callback 'filmstrip' (name = \"filmstrip\")\n"
    assert diffkit("filmstrip", tmp_path) == (2, "", message)


def test_a_frame_that_is_no_picture_is_named(run, diffkit, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "samples" / "filmstrip" / "step-00000002.png").write_bytes(b"no picture")
    code, _, errors = diffkit("filmstrip", tmp_path / "run")
    assert code == 2
    assert "step-00000002.png" in errors and "plugin 'filmstrip'" in errors


def test_a_run_with_such_a_frame_stops_with_the_name_of_the_callback(open_small, tmp_path):
    train(open_small("quickstart", STRIP, "train.steps=2"), tmp_path)
    (tmp_path / "samples" / "filmstrip" / "step-00000002.png").write_bytes(b"no picture")
    with pytest.raises(PluginError, match=r"callback 'filmstrip' \(callbacks\[0\]\) raised in on_train_start"):
        train(open_small("quickstart", STRIP), tmp_path, resume=True)


def test_the_plugin_brings_the_callback_and_the_command(plugins):
    assert plugins.infos["filmstrip"].components == ("callback.filmstrip",)
    assert plugins.commands(reserved=())["filmstrip"][0] == "filmstrip"
