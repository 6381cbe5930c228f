import fcntl
import json
import os

import pytest

from diffkit.storage.overview import TAIL, overview, overviews
from diffkit.storage.runs import locked

TRAIN = '[train]\nsteps = 100\nbatch_size = 8\noptimizer = { kind = "adam" }\n'


def make(folder, *events, recipe=TRAIN, checkpoints=(), end=""):
    for step in checkpoints:
        (folder / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(recipe)
    if events:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + end)
    return folder


EVENT = {"step": 60, "loss": 0.25, "images_per_second": 4.0}


def test_a_stopped_run(tmp_path):
    found = overview(make(tmp_path / "a-1", {"step": 10, "loss": 1.0}, EVENT, checkpoints=(50, 30)))
    assert (found.state, found.step, found.total_steps, found.loss) == ("stopped", 60, 100, 0.25)
    assert found.checkpoint == tmp_path / "a-1/checkpoints/step-00000050"
    assert found.seconds_left is None


def test_a_run_that_is_being_trained_has_an_end(tmp_path):
    folder = make(tmp_path / "a-1", EVENT)
    with locked(folder):
        found = overview(folder)
    assert (found.state, found.seconds_left) == ("training", 40 * 8 / 4.0)
    assert overview(folder).state == "stopped"


def test_looking_does_not_keep_a_training_away(tmp_path, monkeypatch):
    folder = make(tmp_path / "a-1", EVENT)
    (folder / ".lock").touch()
    overview(folder)
    with locked(folder):
        pass
    looking = (folder / ".lock").open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("diffkit.storage.runs.time.sleep", lambda _: looking.close())  # it was over in this moment
    with locked(folder):
        assert overview(folder).state == "training"


def test_a_run_is_done_with_the_checkpoint_of_its_last_step(tmp_path):
    assert overview(make(tmp_path / "a-1", {**EVENT, "step": 100})).state == "stopped"
    assert overview(make(tmp_path / "a-2", checkpoints=(100,))).state == "done"


def test_a_run_without_log_is_as_far_as_its_checkpoint(tmp_path):
    found = overview(make(tmp_path / "a-1", checkpoints=(30,)))
    assert (found.step, found.loss, found.images_per_second) == (30, None, None)


@pytest.mark.parametrize("end", ['{"step": 7', "null\n", '{"step": "x"}\n', "\xff\n", "[" * 5000])
def test_what_is_no_whole_log_event_is_passed_over(tmp_path, end):
    assert overview(make(tmp_path / "a-1", EVENT, end=end)).step == 60


@pytest.mark.parametrize("speed", ["NaN", "Infinity", "-4.0", "0.0", "1e-320", "true", "4", "9" * 400, '"4.0"', "null"])
def test_a_speed_that_no_training_has_gives_no_time_left(tmp_path, speed):
    folder = make(tmp_path / "a-1", EVENT, end=f'{{"step": 70, "loss": NaN, "images_per_second": {speed}}}\n')
    with locked(folder):
        found = overview(folder)
    assert (found.step, found.loss, found.images_per_second, found.seconds_left) == (70, None, None, None)


@pytest.mark.parametrize("step", ["-1", "true", "7.5", str(2**53 + 1)])
def test_a_step_that_no_training_takes_is_passed_over(tmp_path, step):
    assert overview(make(tmp_path / "a-1", EVENT, end=f'{{"step": {step}}}\n')).step == 60


def test_a_run_beyond_its_end_has_no_negative_time_left(tmp_path):
    folder = make(tmp_path / "a-1", {**EVENT, "step": 101})
    with locked(folder):
        assert overview(folder).seconds_left == 0


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["metrics.jsonl", "recipe.toml", ".lock"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    folder = make(tmp_path / "a-1")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert overview(folder).state in ("stopped", "damaged")


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    folder = make(tmp_path / "a-1", *({**EVENT, "step": n} for n in range(TAIL // 20)))
    assert (folder / "metrics.jsonl").stat().st_size > TAIL
    assert overview(folder).step == TAIL // 20 - 1


@pytest.mark.parametrize("recipe", ["", "train = 3", "[train", "[train]\nsteps = true", "[train]\nsteps = -1", "\0"])
def test_a_damaged_recipe(tmp_path, recipe):
    found = overview(make(tmp_path / "a-1", EVENT, recipe=recipe))
    assert (found.state, found.step, found.total_steps) == ("damaged", 60, None)


def test_runs_in_the_order_of_their_starts(tmp_path):
    for number, name in enumerate(["b-1", "a-1"]):
        os.utime(make(tmp_path / name) / "recipe.toml", ns=(0, number))
    (tmp_path / "no-run").mkdir()
    assert [one.folder.name for one in overviews(tmp_path)] == ["b-1", "a-1"]
    assert overviews(tmp_path / "missing") == []
