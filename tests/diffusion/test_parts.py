"""Predictions, variances, losses, weightings, time distributions and rules for x0."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diffkit.diffusion.loss import Loss
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.time_sampling import TimeSampling
from diffkit.diffusion.variance import Variance
from diffkit.diffusion.weighting import LossWeighting, X0Weighting
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.random import torch_generator
from diffkit.testing import kinds_of

angles = st.floats(0.001, math.pi / 2 - 0.001)
PREDICTIONS = kinds_of(Prediction)


def scalar(value):
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@settings(deadline=None)
@given(x0=st.floats(-3, 3), eps=st.floats(-3, 3), angle=angles, scale=st.sampled_from([1.0, 40.0]))
def test_conversions_invert(prediction, x0, eps, angle, scale):
    """Also where alpha² + sigma² is not 1."""
    alpha, sigma, x0, eps = scalar(scale * math.cos(angle)), scalar(scale * math.sin(angle)), scalar(x0), scalar(eps)
    x = alpha * x0 + sigma * eps
    output = prediction.target(x0, eps, alpha, sigma)
    torch.testing.assert_close(prediction.x0(output, x, alpha, sigma), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.eps(output, x, alpha, sigma), eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@settings(deadline=None)
@given(output=st.floats(-3, 3), x=st.floats(-3, 3), angle=angles)
def test_any_output_splits_x_and_is_its_own_target(prediction, output, x, angle):
    alpha, sigma, output, x = scalar(math.cos(angle)), scalar(math.sin(angle)), scalar(output), scalar(x)
    x0, eps = prediction.x0(output, x, alpha, sigma), prediction.eps(output, x, alpha, sigma)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.target(x0, eps, alpha, sigma), output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_plain_levels_give_what_tensors_give_and_keep_the_type(prediction, dtype):
    x, output = torch.randn(2, 5, 1, 4, 4, dtype=dtype)
    level = (0.6, 0.8)
    as_tensors = (torch.full((5, 1, 1, 1), value, dtype=dtype) for value in level)
    alpha, sigma = as_tensors
    for convert in (prediction.x0, prediction.eps):
        assert convert(output, x, *level).dtype == dtype
        torch.testing.assert_close(convert(output, x, *level), convert(output, x, alpha, sigma))


def test_velocity_is_finite_at_both_ends():
    velocity = Prediction.choose("velocity")
    x, v = scalar(0.3), scalar(-0.4)
    assert (velocity.x0(v, x, 0.0, 1.0), velocity.eps(v, x, 0.0, 1.0)) == (-v, x)
    assert (velocity.x0(v, x, 1.0, 0.0), velocity.eps(v, x, 1.0, 0.0)) == (x, v)


@pytest.mark.parametrize("kind", ["velocity", "flow", "edm", "data"])
def test_what_needs_no_signal_is_finite_without_any(kind):
    prediction = Prediction.choose(kind)
    x0, eps, zero, one = scalar(0.3), scalar(-0.8), scalar(0.0), scalar(1.0)
    output = prediction.target(x0, eps, zero, one)
    torch.testing.assert_close(prediction.x0(output, eps, 0.0, 1.0), x0)
    torch.testing.assert_close(prediction.eps(output, eps, 0.0, 1.0), eps)


@pytest.mark.parametrize("kind", ["velocity", "flow", "edm", "noise"])
def test_conversions_are_exact_without_noise(kind):
    prediction = Prediction.choose(kind)
    x0, eps, zero, one = scalar(0.3), scalar(-0.8), scalar(0.0), scalar(1.0)
    output = prediction.target(x0, eps, one, zero)
    torch.testing.assert_close(prediction.x0(output, x0, 1.0, 0.0), x0)
    torch.testing.assert_close(prediction.eps(output, x0, 1.0, 0.0), eps)


@settings(deadline=None)
@given(log_sigma=st.floats(-6, 5), std=st.floats(0.2, 2), x=st.floats(-3, 3), output=st.floats(-3, 3))
def test_edm_is_the_papers_table(log_sigma, std, x, output):
    sigma = math.exp(log_sigma)
    skip, out = std**2 / (sigma**2 + std**2), sigma * std / math.sqrt(sigma**2 + std**2)
    prediction = Prediction.choose({"kind": "edm", "sigma_data": std})
    found = prediction.x0(scalar(output), scalar(x), 1.0, sigma).item()
    assert found == pytest.approx(skip * x + out * output, rel=1e-12, abs=1e-15)


def test_edm_targets_have_variance_1_at_every_level():
    draw = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(100_000, generator=draw, dtype=torch.float64)
    eps = torch.randn(100_000, generator=draw, dtype=torch.float64)
    for alpha, sigma in [(1.0, 0.002), (1.0, 0.5), (1.0, 80.0), (0.6, 0.8), (0.0, 1.0)]:
        target = Prediction.choose("edm").target(x0, eps, scalar(alpha), scalar(sigma))
        assert target.var().item() == pytest.approx(1, rel=0.02)


def test_edm_with_unit_data_is_the_negated_velocity():
    x, output = scalar(0.3), scalar(-0.4)
    edm, velocity = Prediction.choose({"kind": "edm", "sigma_data": 1.0}), Prediction.choose("velocity")
    torch.testing.assert_close(edm.x0(output, x, 0.6, 0.8), velocity.x0(-output, x, 0.6, 0.8))
    torch.testing.assert_close(edm.eps(output, x, 0.6, 0.8), velocity.eps(-output, x, 0.6, 0.8))


LEVELS = [(999, 998), (999, 0), (500, 250), (1, 0)]


@pytest.mark.parametrize(("t", "s"), LEVELS)
def test_variances_are_those_of_the_paper_between_any_levels(t, s):
    process = Process.choose("ddpm")
    alpha_bar = process.alphas_cumprod
    effective = (1 - alpha_bar[t] / alpha_bar[s]).item()
    large = Variance.choose("fixed_large").of(process.level(t), process.level(s), process, None)
    small = Variance.choose("fixed_small").of(process.level(t), process.level(s), process, None)
    assert large == pytest.approx(effective, rel=1e-10)
    assert small == pytest.approx(effective * ((1 - alpha_bar[s]) / (1 - alpha_bar[t])).item(), rel=1e-10)
    assert small < large


@pytest.mark.parametrize("variance", kinds_of(Variance))
def test_every_variance_is_finite_and_not_negative(variance):
    process = Process.choose({"kind": "ddpm", "schedule": "cosine"})
    for t, s in [*((process.level(t), process.level(s)) for t, s in LEVELS), (process.level(0), CLEAN)]:
        output = torch.tensor([-5.0, 0.0, 1.0]) if variance.learned else None
        found = torch.as_tensor(variance.of(t, s, process, output))
        assert ((found >= 0) & (found < math.inf)).all()


@pytest.mark.parametrize("loss", kinds_of(Loss))
class TestEveryLoss:
    def test_is_a_mean_for_each_image(self, loss):
        output, target = torch.randn(2, 3, 2, 4, 5)
        errors = loss.per_image(output, target)
        assert errors.shape == (3,)
        torch.testing.assert_close(errors[1:2], loss.per_image(output[1:2], target[1:2]))
        doubled = loss.per_image(output.repeat(1, 1, 2, 1), target.repeat(1, 1, 2, 1))
        torch.testing.assert_close(doubled, errors)

    def test_is_zero_and_flat_for_equal_images_and_the_same_for_both_signs(self, loss):
        target = torch.randn(3, 1, 2, 2)
        output = target.clone().requires_grad_()
        error = loss.per_image(output, target)
        error.sum().backward()
        assert error.tolist() == [0.0] * 3
        assert output.grad.abs().max() == 0
        torch.testing.assert_close(loss.per_image(target + 0.5, target), loss.per_image(target - 0.5, target))
        assert (loss.per_image(target + 0.5, target) > 0).all()


@pytest.mark.parametrize(
    ("table", "small", "large"),
    [
        ("mse", 0.01, 100.0),
        ("l1", 0.1, 10.0),
        ({"kind": "huber", "delta": 2.0}, 0.005, 2 * (10 - 1)),
        ({"kind": "pseudo_huber", "delta": 2.0}, 4 * (math.sqrt(1.0025) - 1), 4 * (math.sqrt(26) - 1)),
    ],
)
def test_losses_of_one_small_and_one_large_error(table, small, large):
    errors = torch.tensor([0.1, 10.0], dtype=torch.float64).view(2, 1, 1, 1)
    found = Loss.choose(table).per_image(errors, torch.zeros_like(errors))
    assert found.tolist() == pytest.approx([small, large], rel=1e-12)


def test_pseudo_huber_keeps_tiny_errors_in_float32():
    error = Loss.choose("pseudo_huber").per_image(torch.full((1, 1, 1, 1), 1e-5), torch.zeros(1, 1, 1, 1))
    assert error.item() == pytest.approx(0.5e-10, rel=1e-6)


def by_x0_at_no_signal(weighting):
    return weighting.weight(scalar(0.0), scalar(1.0), Prediction.choose("data")).item() if is_by_x0(weighting) else 0.0


def is_by_x0(weighting):
    return isinstance(weighting, X0Weighting)


@pytest.mark.parametrize("weighting", kinds_of(LossWeighting))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_are_finite_for_every_prediction_and_level(weighting, prediction):
    time = torch.arange(1000)
    process = Process.choose("ddpm")
    alpha, sigma = process.alpha(time), process.sigma(time)
    at_no_signal = torch.tensor([0.0]), torch.tensor([1.0])
    for levels in [(alpha, sigma), (alpha.float(), sigma.float()), at_no_signal]:
        weight = weighting.weight(*levels, prediction)
        assert weight.shape == levels[0].shape
        assert weight.dtype == levels[0].dtype
        assert (weight >= 0).all()
        # without signal, an error in eps is an infinite one in x0
        says_nothing = prediction.needs_signal & (levels[0] == 0) & (by_x0_at_no_signal(weighting) > 0)
        assert (weight.isfinite() | says_nothing).all()


def test_min_snr_is_the_papers_formula_for_each_prediction():
    time = torch.arange(1000)
    process = Process.choose("ddpm")
    snr = torch.exp(process.log_snr(time))
    cut = snr.clamp(max=3.0)
    for kind, expected in [("data", cut), ("noise", cut / snr), ("velocity", cut / (snr + 1))]:
        weighting = LossWeighting.choose({"kind": "min_snr", "gamma": 3.0})
        found = weighting.weight(process.alpha(time), process.sigma(time), Prediction.choose(kind))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_min_snr_at_no_signal():
    alpha, sigma = scalar(0.0), scalar(1.0)
    weights = {
        p: LossWeighting.choose("min_snr").weight(alpha, sigma, Prediction.choose(p)).item()
        for p in ("noise", "data", "velocity")
    }
    assert weights == {"noise": 1.0, "data": 0.0, "velocity": 0.0}


@pytest.mark.parametrize("weighting", [w for w in kinds_of(LossWeighting) if is_by_x0(*w.values)])
@pytest.mark.parametrize("process", kinds_of(Process))
def test_a_weighting_gives_the_same_gradient_in_x0_for_every_prediction(weighting, process):
    mse = Loss.choose("mse")
    time = process.at(torch.tensor([0.001, 0.004, 0.2, 0.6, 0.99], dtype=torch.float64))
    alpha, sigma = process.alpha(time), process.sigma(time)
    shape = (5, 1, 1, 1)
    draw = torch.Generator().manual_seed(0)
    x0, eps, guess = (torch.randn(5, 1, 2, 2, generator=draw, dtype=torch.float64) for _ in range(3))
    a, s = alpha.view(shape), sigma.view(shape)
    x = a * x0 + s * eps
    gradients = []
    for prediction in (prediction.values[0] for prediction in PREDICTIONS):
        estimate = guess.clone().requires_grad_()
        output = prediction.target(estimate, (x - a * estimate) / s, a, s)
        target = prediction.target(x0, eps, a, s)
        (weighting.weight(alpha, sigma, prediction) * mse.per_image(output, target)).sum().backward()
        gradients.append(estimate.grad)
    assert gradients[0].abs().min() > 0
    weight = weighting.weight(alpha, sigma, Prediction.choose("data")).view(shape)
    for gradient in gradients:
        torch.testing.assert_close(gradient, weight * 2 * (guess - x0) / 4, rtol=1e-7, atol=1e-10)


SNRS = torch.logspace(-6, 6, 50, dtype=torch.float64)


@pytest.mark.parametrize(
    ("weighting", "prediction", "formula"),
    [
        ("snr", "data", lambda snr: snr),
        ("snr", "noise", torch.ones_like),
        ({"kind": "truncated_snr", "floor": 2.0}, "data", lambda snr: snr.clamp(min=2)),
        ({"kind": "soft_min_snr", "gamma": 5.0}, "data", lambda snr: snr * 5 / (snr + 5)),
        ({"kind": "soft_min_snr", "gamma": 5.0}, "velocity", lambda snr: snr * 5 / (snr + 5) / (snr + 1)),
        ({"kind": "sigmoid", "bias": 1.5}, "noise", lambda snr: torch.sigmoid(1.5 - snr.log())),
        ({"kind": "p2", "gamma": 0.5, "k": 2.0}, "noise", lambda snr: (2 + snr) ** -0.5),
        ("edm", "data", lambda snr: snr + 4),
        ("edm", {"kind": "edm"}, torch.ones_like),
    ],
)
def test_weights_are_the_papers_formulas(weighting, prediction, formula):
    alpha, sigma = torch.sqrt(SNRS / (1 + SNRS)), torch.sqrt(1 / (1 + SNRS))
    found = LossWeighting.choose(weighting).weight(alpha, sigma, Prediction.choose(prediction))
    torch.testing.assert_close(found, formula(SNRS), rtol=1e-9, atol=0)


def test_sigmoid_is_soft_min_snr_in_other_words():
    one = LossWeighting.choose({"kind": "sigmoid", "bias": math.log(4)})
    other = LossWeighting.choose({"kind": "soft_min_snr", "gamma": 4.0})
    alpha, sigma = torch.sqrt(SNRS / (1 + SNRS)), torch.sqrt(1 / (1 + SNRS))
    for prediction in (prediction.values[0] for prediction in PREDICTIONS):
        torch.testing.assert_close(one.weight(alpha, sigma, prediction), other.weight(alpha, sigma, prediction))


@pytest.mark.parametrize("sampling", kinds_of(TimeSampling))
class TestEveryTimeSampling:
    def test_times_are_integers_in_range_and_follow_the_generator(self, sampling):
        process = Process.choose({"kind": "ddpm", "steps": 7})
        times = sampling.draw(1000, process, torch_generator("cpu", 0, "t"))
        assert times.dtype == torch.int64
        assert times.shape == (1000,)
        assert set(times.tolist()) == set(range(7))
        assert torch.equal(times, sampling.draw(1000, process, torch_generator("cpu", 0, "t")))
        assert not torch.equal(times, sampling.draw(1000, process, torch_generator("cpu", 1, "t")))

    @pytest.mark.parametrize("process", ["edm", "flow", {"kind": "flow", "shift": 3.0, "time_max": 0.9}])
    def test_real_times_reach_both_ends_and_follow_the_generator(self, sampling, process):
        process = Process.choose(process)
        if sampling.refuses(process):
            assert sampling.kind == "importance"
            return
        times = sampling.draw(10_000, process, torch_generator("cpu", 0, "t"))
        assert times.dtype == torch.float64
        assert times.shape == (10_000,)
        assert ((times > 0) & (times <= process.last)).all()
        ratio = torch.sort(process.sigma(times) / process.alpha(times)).values
        assert ratio[0] < 0.1
        assert ratio[-1] > 3
        assert torch.equal(times, sampling.draw(10_000, process, torch_generator("cpu", 0, "t")))


def quantile_error(values, cdf):
    """Return the Kolmogorov-Smirnov distance between values and a distribution."""
    values = values.sort().values
    exact = cdf(values)
    return (exact - torch.arange(1, len(values) + 1) / len(values)).abs().max().item()


def normal_cdf(z):
    return (1 + torch.erf(z / math.sqrt(2))) / 2


@pytest.mark.parametrize(
    ("sampling", "process", "cdf"),
    [
        ("uniform", "flow", lambda t: t),
        ("stratified", "flow", lambda t: t),
        ("uniform", "edm", lambda s: torch.log(s / 0.002) / math.log(80 / 0.002)),
        ("lognormal", "edm", lambda s: normal_cdf((s.log() + 1.2) / 1.2)),
        ({"kind": "logit_normal", "mean": 0.5, "std": 0.7}, "flow", lambda t: normal_cdf((torch.logit(t) - 0.5) / 0.7)),
        ({"kind": "lognormal", "mean": 0.5, "std": 0.7}, "flow", lambda t: normal_cdf((torch.logit(t) - 0.5) / 0.7)),
    ],
)
def test_real_times_have_the_distribution_of_the_paper(sampling, process, cdf):
    times = TimeSampling.choose(sampling).draw(10_000, Process.choose(process), torch_generator("cpu", 5))
    assert quantile_error(times, cdf) < 0.02  # exceeded with a chance of 7e-4


def test_lognormal_takes_the_nearest_of_numbered_times():
    process = Process.choose("ddpm")
    times = TimeSampling.choose("lognormal").draw(10_000, process, torch_generator("cpu", 5))
    ratio = (process.sigma(times) / process.alpha(times)).log()
    assert ratio.mean().item() == pytest.approx(-1.2, abs=0.06)
    assert times.float().median().item() == pytest.approx(
        process.time_of(torch.tensor([2.4], dtype=torch.float64)).item(), abs=5
    )


@pytest.mark.parametrize("kind", ["uniform", "stratified"])
def test_each_image_draws_every_time_with_the_same_chance(kind):
    process = Process.choose({"kind": "ddpm", "steps": 5})
    draw = torch_generator("cpu", 3)
    firsts = torch.stack([TimeSampling.choose(kind).draw(4, process, draw) for _ in range(5000)])
    for image in range(4):
        counts = torch.bincount(firsts[:, image], minlength=5).double()
        chi_square = ((counts - 1000) ** 2 / 1000).sum().item()
        assert chi_square < 25  # 4 degrees of freedom: a chance of 5e-5


@settings(deadline=None)
@given(count=st.integers(1, 64), steps=st.integers(1, 200), seed=st.integers(0, 1000))
def test_stratified_times_leave_no_part_out(count, steps, seed):
    process = Process.choose({"kind": "ddpm", "steps": steps})
    times = TimeSampling.choose("stratified").draw(count, process, torch_generator("cpu", seed)).sort().values
    around = torch.cat([times, times[:1] + steps])
    assert around.diff().max() <= math.ceil(steps / count)


@pytest.mark.parametrize("rule", kinds_of(X0Rule))
def test_every_rule_keeps_shape_type_and_images_in_range(rule):
    inside = torch.rand(3, 2, 4, 4) * 2 - 1
    assert torch.equal(rule.apply(inside), inside)
    outside = rule.apply(torch.randn(3, 2, 4, 4, dtype=torch.float64) * 9)
    assert outside.dtype == torch.float64
    assert outside.shape == (3, 2, 4, 4)


def test_clip():
    x0 = torch.tensor([-3.0, -1.0, 0.2, 7.0])
    assert X0Rule.choose("clip").apply(x0).tolist() == pytest.approx([-1.0, -1.0, 0.2, 1.0])
    assert X0Rule.choose({"kind": "clip", "low": 0.0, "high": 2}).apply(x0).tolist() == pytest.approx([0, 0, 0.2, 2])


def test_clip_refuses_an_empty_range():
    with pytest.raises(ValidationError, match=r"low = 1 must be smaller than high = 1"):
        X0Rule.choose({"kind": "clip", "low": 1.0})


@settings(deadline=None)
@given(quantile=st.floats(0.01, 1.0), size=st.integers(1, 9))
def test_dynamic_threshold_is_the_quantile_of_each_image(quantile, size):
    x0 = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64) * 3
    x0[0] /= 100
    s = torch.quantile(x0.abs().flatten(1), quantile, dim=1).clamp(min=1).view(3, 1, 1, 1)
    found = X0Rule.choose({"kind": "dynamic_threshold", "quantile": quantile}).apply(x0)
    torch.testing.assert_close(found, torch.minimum(torch.maximum(x0, -s), s) / s)
    assert torch.equal(found[0], x0[0])
