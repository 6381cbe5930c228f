"""Times by importance: what is remembered, how times follow from it, and that the gradient stays what it is."""

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.diffusion.importance import ImportanceTimes
from diffkit.diffusion.process import Process
from diffkit.diffusion.time_sampling import TimeSampling
from diffkit.errors import CheckpointError, RecipeError
from diffkit.random import torch_generator
from diffkit.storage.checkpoint import list_checkpoints, read_checkpoint
from diffkit.testing import kinds_of
from diffkit.train.loop import train
from diffkit.train.run import TrainingRun

STEPS = 5
PROCESS = Process.choose({"kind": "ddpm", "steps": STEPS})
LOSSES = torch.tensor([[0.1, 0.3], [1.0, 3.0], [0.5, 0.5], [0.0, 0.0], [0.02, 0.01]])
"""Two losses of each time."""


def full_history(losses=LOSSES):
    return {"losses": losses.clone(), "counts": torch.full((len(losses),), losses.shape[1])}


def make_run(recipe, folder):
    return TrainingRun(recipe, folder, recipe.data.info(), recipe.data.open(), torch.device("cpu"))


@given(
    batches=st.lists(st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=20), max_size=6), size=st.integers(1, 4)
)
def test_the_last_losses_of_each_time_are_kept(batches, size):
    """Also where one batch draws a time more often than there are places."""
    sampling = ImportanceTimes(losses=size)
    history = sampling.empty_history(PROCESS, "cpu")
    expected = [deque(maxlen=size) for _ in range(STEPS)]
    drawn, next_loss = [0] * STEPS, 1.0
    for times in batches:
        losses = [next_loss + i for i in range(len(times))]
        next_loss += len(times)
        sampling.remember(history, torch.tensor(times), torch.tensor(losses))
        for time, loss in zip(times, losses, strict=True):
            expected[time].append(loss)
            drawn[time] += 1
    assert history["counts"].tolist() == drawn
    for row, last in zip(history["losses"].tolist(), expected, strict=True):
        assert sorted(row) == sorted([*last, *[0.0] * (size - len(last))])


def test_every_time_has_the_same_chance_until_all_are_known():
    sampling, history = ImportanceTimes(losses=2), full_history()
    history["counts"][3] = 1
    assert sampling.probabilities(PROCESS, history).tolist() == pytest.approx([0.2] * 5, rel=1e-12)
    assert sampling.loss_weight(torch.arange(5), PROCESS, history).tolist() == pytest.approx([1.0] * 5, rel=1e-12)
    history["counts"][3] = 2
    assert sampling.probabilities(PROCESS, history).max() > 0.7


@pytest.mark.parametrize("uniform", [0.001, 0.3, 1.0])
def test_the_chances_are_the_papers(uniform):
    """Nichol & Dhariwal 2021, eq. 18, and the uniform part."""
    found = ImportanceTimes(losses=2, uniform=uniform).probabilities(PROCESS, full_history())
    root = [((a * a + b * b) / 2) ** 0.5 for a, b in LOSSES.tolist()]
    expected = [(1 - uniform) * r / sum(root) + uniform / STEPS for r in root]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.floats(0, 1e4, width=32), min_size=2 * STEPS, max_size=2 * STEPS), st.floats(1e-3, 1))
def test_the_expected_loss_is_the_mean_over_all_times(losses, uniform):
    sampling, history = ImportanceTimes(losses=2, uniform=uniform), full_history(torch.tensor(losses).view(STEPS, 2))
    chances = sampling.probabilities(PROCESS, history)
    weights = sampling.loss_weight(torch.arange(STEPS), PROCESS, history)
    assert chances.sum().item() == pytest.approx(1, rel=1e-12)
    assert weights.max().item() <= 1 / uniform * (1 + 1e-9)
    loss = torch.linspace(0.3, 7, STEPS, dtype=torch.float64)
    assert (chances * weights * loss).sum().item() == pytest.approx(loss.mean().item(), rel=1e-12)


def test_a_gradient_has_less_noise_than_with_uniform_times():
    """The least second moment that any distribution of times can have is (mean of sqrt(E[L²]))²."""
    squares = LOSSES.double().square().mean(dim=1)

    def second_moment(uniform):
        sampling, history = ImportanceTimes(losses=2, uniform=uniform), full_history()
        weights = sampling.loss_weight(torch.arange(STEPS), PROCESS, history)
        return (sampling.probabilities(PROCESS, history) * weights.square() * squares).sum().item()

    assert second_moment(1e-9) == pytest.approx(squares.sqrt().mean().item() ** 2, rel=1e-6)
    assert second_moment(0.001) < 0.5 * second_moment(1.0)
    assert second_moment(1.0) == pytest.approx(squares.mean().item())


def test_times_are_drawn_with_their_chances():
    sampling, history = ImportanceTimes(losses=2, uniform=0.2), full_history()
    times = sampling.draw(20_000, PROCESS, torch_generator("cpu", 1), history)
    expected = 20_000 * sampling.probabilities(PROCESS, history)
    chi_square = ((torch.bincount(times, minlength=STEPS) - expected).square() / expected).sum().item()
    assert chi_square < 25  # 4 degrees of freedom: a chance of 5e-5


@pytest.mark.parametrize(("loss", "is_uniform"), [(0.0, True), (float("nan"), False), (float("inf"), False)])
def test_times_stay_in_range_whatever_the_losses_are(loss, is_uniform):
    """So that the run ends with the message on losses that are not finite."""
    sampling, history = ImportanceTimes(losses=2), full_history(torch.full((STEPS, 2), loss))
    times = sampling.draw(1000, PROCESS, torch_generator("cpu", 1), history)
    assert times.min() >= 0
    assert times.max() < STEPS
    assert (set(times.tolist()) == set(range(STEPS))) == is_uniform


def test_nothing_waits_for_the_device():
    """On the meta device there are no numbers to wait for: reading one is an error."""
    sampling = ImportanceTimes()
    history = sampling.empty_history(PROCESS, "meta")
    time, loss = torch.zeros(8, dtype=torch.int64, device="meta"), torch.zeros(8, device="meta")
    assert sampling.loss_weight(time, PROCESS, history).shape == (8,)
    sampling.remember(history, time, loss)
    with pytest.raises(RuntimeError):
        time.max().item()


@pytest.mark.parametrize("kind", ["edm", "flow"])
def test_real_times_are_refused(tiny, kind):
    with pytest.raises(RecipeError, match=f"each numbered time, and the process '{kind}' has real times: use 'unif"):
        tiny(f"process={kind}", "objective={prediction='velocity', time_sampling='importance'}")
    with pytest.raises(ValueError, match="has no numbered times"):
        ImportanceTimes().draw(3, Process.choose(kind), torch_generator("cpu", 0))


@pytest.mark.parametrize("sampling", [p for p in kinds_of(TimeSampling) if p.id != "importance"])
def test_the_others_have_no_history(sampling):
    assert sampling.empty_history(PROCESS, "cpu") == {}
    assert sampling.loss_weight(torch.arange(5), PROCESS, {}) is None
    assert sampling.remember({}, torch.arange(5), torch.ones(5)) is None


class TestARun:
    short = ("objective.time_sampling={kind='importance', losses=2}", "process.steps=5", "model.resnet.dropout=0.0")

    def test_each_loss_counts_by_its_weight_and_is_remembered_without(self, tiny, tmp_path):
        recipe = tiny("objective.time_sampling={kind='importance', losses=8}", "process.steps=5", "sample.steps=5")
        run = make_run(recipe, tmp_path)
        before = full_history(LOSSES.repeat(1, 4))  # as many places as the batch has images: none is lost
        run.history.update({name: tensor.clone() for name, tensor in before.items()})
        run.take_step()
        weights = recipe.objective.time_sampling.loss_weight(torch.arange(STEPS), recipe.process, before)
        assert weights.max() > 2 * weights.min()
        new = run.history["losses"] != before["losses"]
        assert new.sum() == 8
        expected = (weights[:, None] * run.history["losses"])[new].sum() / 8
        assert run.metrics()["loss"] == pytest.approx(expected.item(), rel=1e-5)

    def test_does_not_depend_on_how_a_batch_is_cut(self, tiny, tmp_path):
        whole = make_run(tiny(*self.short, "sample.steps=5"), tmp_path)
        parts = make_run(tiny(*self.short, "sample.steps=5", "train.device_batch_size=2"), tmp_path)
        for run in (whole, parts):
            for _ in range(4):
                run.take_step()
        assert torch.equal(whole.history["counts"], parts.history["counts"])
        torch.testing.assert_close(whole.history["losses"], parts.history["losses"])
        assert whole.history["counts"].min() >= 2  # so that times are no longer uniform
        for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)

    def test_the_history_is_part_of_the_checkpoint(self, tiny, tmp_path):
        recipe = tiny(*self.short, "sample.steps=5", "train.steps=5")
        train(recipe, tmp_path)
        checkpoint = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
        assert checkpoint.optimizer["time_sampling/counts"].sum() == 40
        run = make_run(recipe, tmp_path)
        run.load(checkpoint)
        for name, tensor in run.history.items():
            assert torch.equal(tensor, checkpoint.optimizer[f"time_sampling/{name}"])

    @pytest.mark.parametrize("other", ["{kind='importance', losses=1}", "uniform"])
    def test_a_history_of_another_kind_is_refused(self, tiny, tmp_path, other):
        train(tiny(*self.short, "sample.steps=5", "train.steps=1"), tmp_path)
        checkpoint = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
        run = make_run(tiny(*self.short, "sample.steps=5", f"objective.time_sampling={other}"), tmp_path)
        with pytest.raises(CheckpointError, match=r"does not fit the recipe: .*time_sampling"):
            run.load(checkpoint)
