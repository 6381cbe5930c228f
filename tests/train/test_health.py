"""What the log says of how a training is doing."""

import json
import math

import pytest
import torch

from diffkit.diffusion.process import Process
from diffkit.diffusion.time_sampling import UniformTimes
from diffkit.optim.average import EmaWeights
from diffkit.random import torch_generator
from diffkit.train.health import Health
from diffkit.train.loop import train
from diffkit.train.run import TrainingRun


@pytest.fixture
def make_run(tiny, tmp_path):
    def make(*overrides):
        recipe = tiny("model.resnet.dropout=0.0", *overrides)
        return TrainingRun(recipe, tmp_path, recipe.data.info(), recipe.data.open(), torch.device("cpu"))

    return make


@pytest.fixture
def read(make_run):
    run = make_run()
    return lambda health: health.read(run.ema)


def of_quarters(metrics):
    return {name: value for name, value in metrics.items() if name.startswith("loss_q")}


def test_the_loss_of_each_quarter_of_the_way(make_run, read):
    health = Health(make_run("process.steps=20").recipe.process, torch.device("cpu"))
    health.add(torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([0, 4, 5, 19]), None)
    health.add(torch.tensor([8.0, 9.0]), torch.tensor([2, 14]), None)
    metrics = read(health)
    assert of_quarters(metrics) == {"loss_q1": 4.0, "loss_q2": 5.0, "loss_q3": 9.0, "loss_q4": 7.0}
    assert metrics["loss"] == (4.0 + 8.5) / 2
    health.add(torch.tensor([2.0]), torch.tensor([10]), None)
    assert of_quarters(read(health)) == {"loss_q3": 2.0}  # the next interval, and no image elsewhere


def test_losses_count_by_the_chance_of_their_times(make_run, read):
    health = Health(make_run().recipe.process, torch.device("cpu"))
    health.add(torch.tensor([1.0, 4.0]), torch.tensor([0, 0]), torch.tensor([1.0, 0.5], dtype=torch.float64))
    metrics = read(health)
    assert metrics["loss"] == (1 + 2) / 2
    assert metrics["loss_q1"] == (1 + 2) / 1.5


@pytest.mark.parametrize("kind", sorted(Process.kinds))
def test_every_process_has_four_quarters_with_as_many_times(kind, make_run, read):
    process = Process.choose(kind)
    times = UniformTimes().draw(4000, process, torch_generator(torch.device("cpu"), 0))
    health = Health(process, torch.device("cpu"))
    health.add(torch.ones(4000), times, None)
    assert health.tensors()["trainer/quarter_weights"].tolist() == pytest.approx([1000] * 4, rel=0.1)
    for quarter, part in enumerate([0.1, 0.3, 0.6, 0.9]):  # from the least noise to the most
        read(health)
        health.add(torch.ones(1), process.at(torch.tensor([part], dtype=torch.float64)), None)
        assert of_quarters(read(health)) == {f"loss_q{quarter + 1}": 1.0}


@pytest.mark.parametrize("setting", ["train.grad_clip=1e-3", "train.device_batch_size=2", "train.precision=bfloat16"])
def test_the_update_and_the_average_are_compared_with_the_weights(make_run, setting):
    run = make_run("train.log_every=2", "train.lr_schedule.kind=warmup", setting)
    run.take_step()
    before = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach().clone()
    run.take_step()
    after = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()
    average = torch.cat([run.ema.state_dict()[name].flatten() for name, _ in run.model.named_parameters()])
    metrics = run.metrics()
    assert metrics["update_ratio"] == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-4)
    assert metrics["ema_distance"] == pytest.approx(((average - after).norm() / after.norm()).item(), rel=1e-4)
    assert 0 < metrics["ema_distance"] < metrics["update_ratio"] * 2


def test_the_update_is_measured_in_the_steps_that_are_logged_only(make_run, monkeypatch):
    measured = []
    real = Health.measuring_update
    monkeypatch.setattr(
        Health, "measuring_update", lambda self, model: measured.append(run.step + 1) or real(self, model)
    )
    run = make_run("train.log_every=3", "train.steps=7")
    for _ in range(7):
        run.take_step()
    assert measured == [3, 6, 7]


def test_parts_of_a_batch_have_the_same_health(make_run):
    runs = [make_run("train.log_every=1"), make_run("train.log_every=1", "train.device_batch_size=2")]
    for run in runs:
        run.take_step()
    ours, theirs = (run.metrics() for run in runs)
    for metrics in (ours, theirs):
        del metrics["images_per_second"]
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_without_an_average_there_is_no_distance(make_run):
    run = make_run("train.ema=none", "train.log_every=1")
    run.take_step()
    assert run.metrics()["ema_distance"] == 0


def test_the_average_sampled_from_is_compared(make_run):
    run = make_run("train.ema={kind='power', lengths=[0.2, 0.05]}", "train.log_every=2")
    run.take_step()
    run.take_step()
    other = EmaWeights(run.model, run.recipe.train.ema)
    other.load_state_dict(run.ema.state_dict())
    assert run.metrics()["ema_distance"] == other.distance().item() > 0


def test_a_distillation_has_no_quarters(tiny, tmp_path):
    train(tiny("objective.prediction=velocity", "train.steps=1"), tmp_path / "teacher")
    settings = f"{{kind='consistency', teacher={str(tmp_path / 'teacher')!r}}}"
    train(
        tiny(
            "objective.prediction=velocity",
            "train.steps=2",
            "sample={sampler='consistency', steps=2}",
            f"distillation={settings}",
        ),
        tmp_path / "student",
    )
    (line,) = (tmp_path / "student/metrics.jsonl").read_text().splitlines()
    assert of_quarters(json.loads(line)) == {}
    assert math.isfinite(json.loads(line)["update_ratio"])


def test_a_checkpoint_from_before_there_were_quarters_still_goes_on(make_run, tmp_path):
    run = make_run()
    run.take_step()
    tensors = dict(run.health.tensors())
    for name in ("trainer/quarter_sums", "trainer/quarter_weights"):
        del tensors[name]
    other = make_run()
    other.health.load(tensors)
    assert tensors == {}
    other.ema = run.ema
    assert other.health.read(run.ema)["loss"] == run.metrics()["loss"]
    with pytest.raises(KeyError, match="trainer/loss_sum"):
        other.health.load({})
