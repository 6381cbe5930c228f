"""Likelihoods of a model's data set: which images, which labels, which variance, and whatever the model is."""

import math
from itertools import pairwise

import pytest
import torch

from diffkit.data.base import DataInfo
from diffkit.data.memory import InMemory
from diffkit.data.mnist import Mnist
from diffkit.diffusion.posterior import posterior
from diffkit.errors import UserError
from diffkit.likelihood import evaluate_likelihood, open_split
from diffkit.pipeline import Pipeline, build_network


@pytest.fixture(scope="module")
def digits(tiny):
    return tiny().data.open()


@pytest.fixture
def pipeline_of(tiny):
    """A model with weights that are no longer the zeros that networks end with at first."""

    def make(*overrides):
        recipe = tiny(*overrides)
        data = recipe.data.info()
        network = build_network(recipe, data)
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
        return Pipeline(recipe, data, network)

    return make


@pytest.mark.parametrize("method", ["vlb", "ode"])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["objective.variance=learned_range"],
        ["objective.variance=learned"],
        ["objective.variance=fixed_large", "objective.prediction=velocity", "process.zero_terminal_snr=true"],
        ["objective.self_conditioning=true"],
        ["model.class_conditional=false", "sample.guidance=1"],
        ["sample.guidance=3"],
    ],
)
def test_models_of_every_sort_have_both_whatever_the_batches(pipeline_of, digits, method, overrides):
    pipeline = pipeline_of(*overrides)
    options = {"method": method, "count": 3, "steps": 4, "seed": 1}
    whole = evaluate_likelihood(pipeline, digits, **options)
    parts = evaluate_likelihood(pipeline, digits, batch_size=2, **options)
    assert whole.numbers == parts.numbers
    assert whole.total.shape == (3,)
    assert whole.total.isfinite().all()
    torch.testing.assert_close(whole.total, parts.total, rtol=1e-4, atol=1e-4)
    other = evaluate_likelihood(pipeline, digits, **{**options, "seed": 2})
    assert set(other.numbers) != set(whole.numbers)


@pytest.mark.parametrize("process", ["edm", "flow"])
def test_continuous_processes_have_the_odes_only(pipeline_of, digits, process):
    prediction = "edm" if process == "edm" else "flow"
    pipeline = pipeline_of("process={}", f"process.kind={process}", f"objective.prediction={prediction}")
    found = evaluate_likelihood(pipeline, digits, method="ode", count=2, steps=4)
    assert found.total.isfinite().all()
    assert (found.steps, found.calls) == (4, 8)
    with pytest.raises(UserError, match=f"method = vlb: .* the process '{process}' has none: use the likelihood of"):
        evaluate_likelihood(pipeline, digits, count=2)


def test_the_network_sees_each_images_label(pipeline_of, digits):
    pipeline = pipeline_of("sample.guidance=3")
    seen = []
    pipeline.network.register_forward_hook(lambda _, given, __: seen.append(given[2]))
    found = evaluate_likelihood(pipeline, digits, count=5, steps=2)
    labels = digits.labels(torch.tensor(found.numbers))
    assert len(seen) == 2
    assert all(torch.equal(each, labels) for each in seen)


def test_calls_are_counted(pipeline_of, digits):
    for overrides, calls in (([], 3), (["objective.self_conditioning=true"], 6)):
        pipeline = pipeline_of(*overrides)
        seen = []
        pipeline.network.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        found = evaluate_likelihood(pipeline, digits, count=2, steps=3)
        assert found.calls == len(seen) == calls


def test_a_network_that_knows_whole_times_is_asked_at_those(pipeline_of, digits):
    pipeline = pipeline_of("model.embedding.kind=table", "model.embedding.times=20")
    seen = []
    pipeline.network.register_forward_hook(lambda _, given, __: seen.append(given[1]))
    evaluate_likelihood(pipeline, digits, method="ode", count=2, steps=7)
    times = torch.cat(seen)
    assert torch.equal(times, times.round())
    with pytest.raises(UserError, match=r"steps = 20: .*at most 19 steps"):
        evaluate_likelihood(pipeline, digits, method="ode", count=2, steps=20)


def test_the_recipes_rule_for_x0_holds_for_the_bound(pipeline_of, digits):
    clipped, free = (
        evaluate_likelihood(pipeline_of(f"sample.x0_rule={rule}"), digits, count=4, steps=5)
        for rule in ("clip", "none")
    )
    assert (clipped.bound.x0_mse <= free.bound.x0_mse).all()
    assert (clipped.total < free.total).all()
    ode = [
        evaluate_likelihood(pipeline_of(f"sample.x0_rule={rule}"), digits, method="ode", count=2, steps=3).total
        for rule in ("clip", "none")
    ]
    assert torch.equal(*ode)


class NormalData(torch.nn.Module):
    """The network that knows images of independent pixels N(0.1, 0.3²)."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x, time, label=None):
        alpha, sigma = (
            level(time.double()).float().view(-1, 1, 1, 1) for level in (self.process.alpha, self.process.sigma)
        )
        return sigma * (x - 0.1 * alpha) / (0.09 * alpha**2 + sigma**2)


def test_a_model_that_knows_its_data_needs_as_many_bits_as_they_have(tiny):
    """From pixels to bits: the ODE finds the entropy of the 8-bit values, and the bound is its own closed form."""
    recipe = tiny("process.steps=200", "process.schedule=cosine", "sample.x0_rule=none")
    pipeline = Pipeline(recipe, recipe.data.info(), NormalData(recipe.process))
    drawn = 0.1 + 0.3 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = InMemory(((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), torch.zeros(64, dtype=torch.int64))
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.09) + math.log2(127.5)
    ode = evaluate_likelihood(pipeline, images, method="ode", steps=60)
    assert ode.means()["total"][0] == pytest.approx(entropy, abs=0.03)
    bound = evaluate_likelihood(pipeline, images)
    levels = [recipe.process.level(time) for time in range(199, -1, -1)]
    left = {t: 0.09 * t.sigma**2 / (0.09 * t.alpha**2 + t.sigma**2) for t in levels}  # the variance of x0 given x_t
    steps = [(t, posterior(t, s)) for t, s in pairwise(levels)]
    expected = sum(0.5 * step.x0**2 * left[t] / step.variance for t, step in steps)
    last, variance = levels[-1], steps[-1][1].variance
    decoder = 0.5 * (math.log(2 * math.pi * variance) + left[last] / variance) + math.log(127.5)
    for name, nats in (("KL", expected), ("decoder", decoder)):
        mean, error = bound.means()[name]
        assert error < 0.05
        assert mean == pytest.approx(nats / math.log(2), abs=4 * error)
    assert bound.means()["prior"][0] < 1e-3


def test_too_many_images(pipeline_of, digits):
    with pytest.raises(UserError, match="count = 2000: there are 1797 images"):
        evaluate_likelihood(pipeline_of(), digits, count=2000)


def test_all_images_by_default(pipeline_of, digits):
    few = InMemory(digits.pixels(torch.arange(5)), digits.labels(torch.arange(5)))
    assert sorted(evaluate_likelihood(pipeline_of(), few, steps=2).numbers) == [0, 1, 2, 3, 4]


def test_a_single_time_has_no_way_to_follow(pipeline_of, digits):
    pipeline = pipeline_of("process.steps=1", "sample.steps=1")
    assert evaluate_likelihood(pipeline, digits, count=2).total.isfinite().all()
    with pytest.raises(UserError, match="method = ode: the process has a single time"):
        evaluate_likelihood(pipeline, digits, method="ode", count=2)


class TestSplit:
    def test_that_for_testing_where_there_is_one(self, tiny, monkeypatch):
        monkeypatch.setattr(Mnist, "open", lambda self: self.split)
        recipe = tiny("data.kind=mnist", "model.attention_at=[]")
        pipeline = Pipeline(recipe, recipe.data.info(), torch.nn.Identity())
        assert open_split(pipeline)[1] == "test"
        assert open_split(pipeline, "train")[1] == "train"
        assert open_split(pipeline, "test")[0].split == "test"

    def test_all_images_where_there_is_none(self, pipeline_of):
        assert len(open_split(pipeline_of())[1]) == 1797
        with pytest.raises(UserError, match="'digits' has no images for testing"):
            open_split(pipeline_of(), "test")

    def test_images_of_another_size_are_refused(self, tiny):
        pipeline = Pipeline(tiny(), DataInfo(channels=3, height=8, width=8), torch.nn.Identity())
        with pytest.raises(UserError, match="no longer what the model was trained on"):
            open_split(pipeline)
