"""Training a student: it starts from its teacher, becomes it, and goes on to the bit."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffkit.cli.main import run as run_command
from diffkit.diffusion.distillation.base import Distillation
from diffkit.errors import CheckpointError, Interrupted, RecipeError, UserError
from diffkit.pipeline import Pipeline
from diffkit.plugins.hookspecs import hookimpl
from diffkit.plugins.manager import Plugins
from diffkit.recipe.write import to_toml
from diffkit.storage.checkpoint import list_checkpoints
from diffkit.storage.files import sha256
from diffkit.storage.runs import find_weights
from diffkit.train.loop import train
from diffkit.train.run import TrainingRun
from diffkit.train.stop import StopRequest

VELOCITY = "objective.prediction=velocity"

TWO_STEPS = ["sample.sampler=ddim", "sample.steps=2", "train.log_every=1"]


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory):
    """A run that students learn from. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("teacher") / "tiny-1"
    train(tiny(VELOCITY), folder)
    return folder


def student_of(tiny, teacher, *overrides, steps=4):
    settings = f'start_steps=8, end_steps=2, steps_per_halving={steps}, teacher="{teacher}"'
    return tiny(VELOCITY, *TWO_STEPS, f'distillation={{kind="progressive", {settings}}}', *overrides)


@pytest.fixture
def student(tiny, teacher):
    """Makes the recipe of a student, with overrides."""

    def make(*overrides, path=teacher, steps=4):
        return student_of(tiny, path, *overrides, steps=steps)

    return make


def newest(run):
    return list_checkpoints(run / "checkpoints")[-1]


def run_of(recipe, folder):
    run = TrainingRun(recipe, folder, recipe.data.info(), recipe.data.open(), torch.device("cpu"))
    run.start_from_teacher(run.teacher)
    return run


def stop_after(recipe, folder, step):
    stop = StopRequest()

    class Stopper:
        @hookimpl
        def on_train_step(self, run):
            stop.requested = run.step == step

    plugins = Plugins()
    plugins.manager.register(Stopper(), "stopper")
    with pytest.raises(Interrupted):
        train(recipe, folder, plugins=plugins.manager, stop=stop)


def test_a_student_is_trained_and_sampled_without_its_teacher(student, teacher, tmp_path):
    there = shutil.copytree(teacher, tmp_path / "teacher")
    train(student(path=there), tmp_path / "run")
    shutil.rmtree(there)
    pipeline = Pipeline.load(tmp_path / "run")
    assert pipeline.sample(3).shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match="the student only knows 2 steps, from the times 19, 9 to the clean end"):
        pipeline.sample(3, steps=4)


SAMPLED_BY = {
    "progressive": "sampler='ddim', steps=2",
    "trajectory": "sampler='ddim', steps=2",
    "consistency": "sampler='consistency', steps=2",
}


@pytest.mark.parametrize("kind", [*sorted(Distillation.kinds)])
def test_every_kind_trains_resumes_and_is_sampled(tiny, teacher, tmp_path, kind):
    settings = {**Distillation.kinds[kind].example_settings(), "kind": kind, "teacher": str(teacher)}
    written = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    recipe = tiny(
        VELOCITY,
        f"distillation={{{written}}}",
        f"sample={{{SAMPLED_BY[kind]}}}",
        "train.steps=7",
        "train.device_batch_size=4",
    )
    train(recipe, tmp_path / "whole")
    stop_after(recipe, tmp_path / "parts", 2)
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = (load_file(newest(tmp_path / run) / "ema.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())
    assert Pipeline.load(tmp_path / "whole").sample(2).shape == (2, 1, 8, 8)


def test_it_starts_from_the_averaged_weights(student, teacher, tmp_path):
    run = run_of(student(), tmp_path)
    saved = load_file(find_weights(teacher, "ema"))
    for state in (run.model.state_dict(), run.ema.state_dict(), run.teacher.network.state_dict()):
        assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())


@pytest.fixture(scope="module")
def whole(tiny, teacher, tmp_path_factory):
    """A run of a student that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(student_of(tiny, teacher, "train.steps=6"), folder)
    return folder


@pytest.mark.parametrize("step", [3, 4, 5])
def test_going_on_equals_never_stopping_to_the_bit(student, teacher, whole, tmp_path, step):
    """Before, at and after the halving at 4; the teacher's file is gone meanwhile, and not needed."""
    there = shutil.copytree(teacher, tmp_path / "teacher")
    recipe = student("train.steps=6", path=there)
    stop_after(recipe, tmp_path / "parts", step)
    shutil.rmtree(there)
    train(recipe, tmp_path / "parts", resume=True)
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(newest(run) / name) for run in (whole, tmp_path / "parts"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name


def test_at_a_halving_the_student_becomes_the_teacher_and_begins_anew(student, tmp_path):
    schedule = 'train.lr_schedule={kind="linear"}'
    run = run_of(student(schedule, "train.steps=8"), tmp_path)
    first, rates = {name: tensor.clone() for name, tensor in run.teacher.network.state_dict().items()}, []
    for _ in range(4):
        run.take_step()
        rates.append(run.optimizer.param_groups[0]["lr"])
    average = {name: tensor.clone() for name, tensor in run.ema.state_dict().items()}
    assert all(torch.equal(tensor, first[name]) for name, tensor in run.teacher.network.state_dict().items())
    run.take_step()
    assert all(torch.equal(tensor, average[name]) for name, tensor in run.teacher.network.state_dict().items())
    assert not run.teacher.network.training
    assert {int(tensor) for name, tensor in run.optimizer.tensors().items() if name.endswith("/step")} == {1}
    for _ in range(3):
        run.take_step()
    rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates[0] > rates[3] == rates[4]


def test_training_lowers_the_loss_of_each_halving(student, tmp_path):
    recipe = student(
        "train.steps=50", "train.batch_size=16", "train.optimizer.lr=3e-3", "model.resnet.dropout=0.0", steps=25
    )
    train(recipe, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for start in (0, 25):
        assert sum(losses[start + 20 : start + 25]) < 0.8 * sum(losses[start : start + 5])


def test_the_weights_say_who_the_teacher_was(student, teacher, tmp_path):
    train(student("train.steps=5"), tmp_path / "run")
    with safe_open(newest(tmp_path / "run") / "ema.safetensors", "pt") as file:
        about = json.loads(file.metadata()["teacher"])
    weights = find_weights(teacher, "ema")
    assert about == {"path": str(teacher), "file": str(weights), "sha256": sha256(weights)}


def test_another_teacher_is_refused_and_the_same_elsewhere_is_not(student, teacher, tiny, tmp_path):
    train(student("train.steps=5"), tmp_path / "run")
    train(tiny(VELOCITY, "train.steps=1"), tmp_path / "other")
    with pytest.raises(CheckpointError) as caught:
        train(student("train.steps=6", path=tmp_path / "other"), tmp_path / "run", resume=True)
    message = str(caught.value)
    assert message.startswith(f"distillation.teacher = {tmp_path / 'other'}: ")
    assert f"{find_weights(teacher, 'ema')} of the SHA-256 {sha256(find_weights(teacher, 'ema'))}" in message
    moved = shutil.copytree(teacher, tmp_path / "moved")
    train(student("train.steps=6", path=moved), tmp_path / "run", resume=True)


def test_a_teacher_that_is_not_there(student, tmp_path, capsys, monkeypatch):
    recipe = student(path=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere: no such run or checkpoint"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "student.toml").write_text(to_toml(recipe))
    with pytest.raises(SystemExit) as stopped:
        run_command(["train", str(tmp_path / "student.toml"), "--dry-run"])
    assert stopped.value.code == 2
    assert "nowhere: no such run or checkpoint" in capsys.readouterr().err


def test_all_that_differs_from_the_teacher_is_said_at_once(student, teacher, tmp_path):
    recipe = student(
        "process.steps=40",
        "model.blocks_per_level=2",
        "model.embedding='fourier'",
        "model.resnet.dropout=0.5",
        "objective.prediction='data'",
        "sample.spacing={kind='list', times=[39.0, 19.0]}",
    )
    with pytest.raises(RecipeError) as caught:
        train(recipe, tmp_path / "run")
    assert [problem.key for problem in caught.value.problems] == [
        "process.steps",
        "model.blocks_per_level",
        "model.embedding.kind",
        "objective.prediction.kind",
    ]
    weights = find_weights(teacher, "ema")
    assert f"  process.steps = 40\n    the teacher {weights} has 20 here, and its student must have the same" in str(
        caught.value
    )
    assert not (tmp_path / "run").exists()


def test_other_images_and_other_ports(student, tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((10, 8, 8, 1), dtype=np.uint8), labels=np.arange(10) % 3)
    others = f'data={{kind="arrays", path="{tmp_path}/x.npz", labels_key="labels"}}'
    with pytest.raises(RecipeError, match=r"  data\n    the teacher .* was trained on other images"):
        train(student(others), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"  objective\n    the student's network would have .*out_channels=2"):
        train(student("objective.variance='learned_range'"), tmp_path / "run")


def test_guidance_is_distilled_into_the_student(student, tmp_path):
    """With guidance the targets are others; without label dropout a teacher has none."""
    plain, guided = (run_of(student(f"distillation.guidance={w}"), tmp_path) for w in (1, 3))
    for run in (plain, guided):
        run.take_step()
    one, other = (run.metrics()["loss"] for run in (plain, guided))
    assert one != other
    with pytest.raises(RecipeError, match="the student has learned images of the guidance 3: set guidance = 1"):
        student("distillation.guidance=3", "sample.guidance=2")


def test_a_teacher_that_always_saw_the_label_cannot_be_guided(student, tiny, tmp_path):
    train(tiny(VELOCITY, "train.steps=1", "objective.label_dropout=0"), tmp_path / "teacher")
    recipe = student("distillation.guidance=3", path=tmp_path / "teacher")
    with pytest.raises(RecipeError, match="always saw the label, so that it cannot be guided"):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["sample.steps=5"], "  sample\n    the student only knows 2 steps, from the times 19, 9"),
        (["sample.sampler=heun"], "  sample\n    the student has learned the steps of 'ddim', not of 'heun'"),
        (["distillation.guidance=2", "model.class_conditional=false"], "  distillation.guidance = 2.0\n    guidance"),
        (["model.init_from='runs/other'"], "  model.init_from"),
        (["objective.prediction=noise"], '  objective.prediction = "noise"\n    a student\'s few steps start where'),
        (['callbacks=[{kind="sample_grid", steps=4}]'], "  callbacks[0].steps\n    the student only knows 2 steps"),
        (['callbacks=[{kind="sample_grid", sampler="heun"}]'], "  callbacks[0].sampler\n    the student has learned"),
        (["train.ema='power'"], "  train.ema.snapshots\n    averages begin anew when the student becomes"),
        (["distillation.steps_per_halving=6"], "  distillation.steps_per_halving = 6\n    2 halvings, from 8 to 2"),
    ],
)
def test_recipes_that_do_not_fit(student, overrides, problem):
    with pytest.raises(RecipeError) as caught:
        student("train.steps=6", *overrides)
    assert str(caught.value).startswith(f"tiny: 1 problem\n{problem}")


def test_averages_of_power_functions_go_with_halvings_without_snapshots_and_with_one_phase_in_any_case(
    student, teacher
):
    student("train.ema={kind='power', snapshots=0}")
    student("train.ema='power'", f"distillation={{kind='trajectory', teacher='{teacher}'}}")


def test_a_recipe_without_distillation_has_no_such_table(tiny):
    assert "distillation" not in to_toml(tiny())


@pytest.mark.parametrize("note", ["[]", "3", '{"path": 1}', "{"])
def test_a_checkpoint_whose_note_of_the_teacher_is_damaged(student, tmp_path, note):
    train(student("train.steps=5"), tmp_path / "run")
    folder = list_checkpoints(tmp_path / "run/checkpoints")[-1]
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(tensors, file, {**metadata, "teacher": note})
    state = json.loads((folder / "state.json").read_text())
    state["sha256"][file.name] = sha256(file)
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="does not fit the recipe"):
        train(student("train.steps=6"), tmp_path / "run", resume=True)
