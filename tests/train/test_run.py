"""One training: what it leaves, and that going on equals never stopping."""

import json
import threading

import pytest
import torch
from safetensors.torch import load_file

from diffkit.errors import Diverged, Interrupted, RecipeError, UserError
from diffkit.recipe.load import read_document, validate
from diffkit.storage.checkpoint import list_checkpoints, read_checkpoint
from diffkit.train.hooks import Hooks
from diffkit.train.loop import train
from diffkit.train.run import TrainingRun
from diffkit.train.stop import StopRequest

WEIGHTS = ["model.safetensors", "ema.safetensors", "optimizer.safetensors"]


def make_run(recipe, folder):
    return TrainingRun(recipe, folder, recipe.data.info(), recipe.data.open(), torch.device("cpu"))


def stop_after(recipe, folder, step):
    """Train until a step and stop there, as Ctrl-C would."""
    from diffkit.plugins.hookspecs import hookimpl
    from diffkit.plugins.manager import Plugins

    stop = StopRequest()

    class Stopper:
        @hookimpl
        def on_train_step(self, run, step):
            stop.requested = run.step == target

    target = step
    plugins = Plugins()
    plugins.manager.register(Stopper(), "stopper")
    with pytest.raises(Interrupted, match=f"interrupted at step {step}; go on with --run .* --resume"):
        train(recipe, folder, plugins=plugins.manager, stop=stop)


def same_weights(one, other):
    for name in WEIGHTS:
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), (name, key)


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def test_a_run_leaves_recipe_log_and_checkpoints(tiny, tmp_path):
    recipe = tiny()
    train(recipe, tmp_path)
    assert validate(read_document(tmp_path / "recipe.toml"), "") == recipe
    assert [line["step"] for line in log_of(tmp_path)] == [3, 6, 9, 12]
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000010", "step-00000012"]


def test_training_lowers_the_loss(tiny, tmp_path):
    train(tiny("train.steps=300", "train.log_every=50", "train.batch_size=16", "train.optimizer.lr=3e-3"), tmp_path)
    log = log_of(tmp_path)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]


@pytest.mark.parametrize("step", [1, 4, 5, 11])
def test_going_on_equals_never_stopping_to_the_bit(tiny, tmp_path, step):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny(), whole)
    stop_after(tiny(), parts, step)
    train(tiny(), parts, resume=True)
    same_weights(whole / "checkpoints" / "step-00000012", parts / "checkpoints" / "step-00000012")
    assert log_of(whole) == log_of(parts)


def test_the_log_forgets_what_came_after_the_checkpoint(tiny, tmp_path):
    train(tiny("train.steps=6"), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 12, "lo')
    train(tiny(), tmp_path, resume=True)
    assert [line["step"] for line in log_of(tmp_path)] == [3, 6, 9, 12]


def test_parts_of_a_batch_add_up_to_the_same_gradient(tiny, tmp_path):
    whole = make_run(tiny("model.resnet.dropout=0.0"), tmp_path)
    parts = make_run(tiny("model.resnet.dropout=0.0", "train.device_batch_size=2"), tmp_path)
    for run in (whole, parts):
        run.take_step()
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    assert whole.metrics()["loss"] == pytest.approx(parts.metrics()["loss"], rel=1e-5)


def test_the_gradients_are_clipped(tiny, tmp_path):
    run = make_run(tiny("train.grad_clip=1e-3"), tmp_path)
    run.take_step()
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert run.metrics()["grad_norm"] > 1e-3  # the log shows the norm before


def test_the_learning_rate_follows_the_schedule(tiny, tmp_path):
    run = make_run(tiny('train.lr_schedule={kind="warmup", steps=4}'), tmp_path)
    seen = []
    for _ in range(6):
        run.take_step()
        seen.append(run.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_bfloat16_trains_and_keeps_its_weights_in_float32(tiny, tmp_path):
    train(tiny("train.precision=bfloat16", "train.steps=3"), tmp_path)
    checkpoint = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    average = checkpoint.averages["ema"]
    assert {tensor.dtype for tensor in (*checkpoint.model.values(), *average.values())} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_good_checkpoint(tiny, tmp_path):
    train(tiny("train.steps=5"), tmp_path)
    good = tmp_path / "checkpoints" / "step-00000005"
    run = make_run(tiny(), tmp_path)
    run.load(read_checkpoint(good))
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    from diffkit.train.loop import fit

    with pytest.raises(Diverged, match=f"The last good checkpoint is {good}") as caught:
        fit(run, Hooks(None, ()), StopRequest())
    assert caught.value.exit_code == 3
    assert list_checkpoints(tmp_path / "checkpoints") == [good]
    read_checkpoint(good)


def test_a_folder_with_a_run_is_not_overwritten(tiny, tmp_path):
    train(tiny("train.steps=1"), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds a run already: go on with --resume, or name another folder"):
        train(tiny(), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_there_must_be_a_run_to_resume(tiny, tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        train(tiny(), tmp_path, resume=True)


def test_a_run_goes_on_only_with_its_own_recipe(tiny, tmp_path):
    train(tiny("train.steps=1"), tmp_path)
    with pytest.raises(RecipeError) as caught:
        train(tiny("seed=3", "model.resnet.dropout=0.3", "sample.steps=2"), tmp_path, resume=True)
    assert [problem.key for problem in caught.value.problems] == ["seed", "model.resnet.dropout"]
    assert "this run was started with 0: keep that, or start a new run" in str(caught.value)


def test_a_stopped_run_may_go_on_for_longer(tiny, tmp_path):
    train(tiny("train.steps=5"), tmp_path / "longer")
    train(tiny("train.steps=12"), tmp_path / "longer", resume=True)
    train(tiny("train.steps=12"), tmp_path / "whole")
    same_weights(tmp_path / "longer/checkpoints/step-00000012", tmp_path / "whole/checkpoints/step-00000012")


def test_a_damaged_newest_checkpoint_is_passed_over(tiny, tmp_path, caplog):
    train(tiny(), tmp_path / "whole")
    train(tiny(), tmp_path / "damaged")
    file = tmp_path / "damaged/checkpoints/step-00000012/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    train(tiny(), tmp_path / "damaged", resume=True)
    assert "step-00000012/model.safetensors: damaged" in caplog.text
    same_weights(tmp_path / "damaged/checkpoints/step-00000012", tmp_path / "whole/checkpoints/step-00000012")


def test_a_checkpoint_of_another_model_is_refused(tiny, tmp_path):
    train(tiny("train.steps=1"), tmp_path)
    run = make_run(tiny("model.channels=16"), tmp_path)
    with pytest.raises(UserError, match="does not fit the recipe"):
        run.load(read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[0]))


def test_training_in_a_thread_needs_no_signals(tiny, tmp_path):
    thread = threading.Thread(target=train, args=(tiny("train.steps=2"), tmp_path))
    thread.start()
    thread.join()
    assert list_checkpoints(tmp_path / "checkpoints")


def test_the_caller_keeps_its_own_random_numbers(tiny, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny("train.steps=2"), tmp_path)
    assert torch.equal(torch.rand(3), expected)
