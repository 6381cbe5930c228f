"""The bound's terms against direct formulas, and the loss that trains a learned variance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.diffusion.objective import Objective
from diffkit.diffusion.posterior import posterior, transition
from diffkit.diffusion.process import Process
from diffkit.diffusion.true_step import true_step
from diffkit.diffusion.variance import Variance
from diffkit.diffusion.variational import bits_of_step, kl_of_gaussians, log_likelihood_of_bins
from diffkit.testing import kinds_of

PROCESS = Process.choose({"kind": "ddpm", "steps": 100})
VALUES = torch.arange(256, dtype=torch.float64) / 127.5 - 1
TIMES = torch.tensor([0, 1, 50, 99])


def images(*shape, seed=0):
    """8-bit images in [-1, 1], in float64."""
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    return pixels.double() / 127.5 - 1


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(mean=st.floats(-3, 3), log_variance=st.floats(-16, 6))
def test_the_bins_of_all_values_have_probability_one(mean, log_variance):
    found = log_likelihood_of_bins(VALUES, _double(mean), _double(log_variance))
    assert found.exp().sum().item() == pytest.approx(1, rel=1e-9)
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [-50.0, -1.0, 0.003, 1.0, 50.0])
@pytest.mark.parametrize("log_variance", [-18.0, -9.0, 0.0, 10.0])
def test_bins_and_their_gradients_are_finite_at_the_extremes(dtype, mean, log_variance):
    inputs = [torch.full((256,), value, dtype=dtype, requires_grad=True) for value in (mean, log_variance)]
    found = log_likelihood_of_bins(VALUES.to(dtype), *inputs)
    found.sum().backward()
    assert (found <= 0).all()
    assert all(each.isfinite().all() for each in (found, *(given.grad for given in inputs)))


@given(mean=st.floats(-1.2, 1.2), log_variance=st.floats(-9, 1), value=st.integers(0, 255))
def test_a_bin_is_the_difference_of_the_distribution_function_at_its_ends(mean, log_variance, value):
    x, std = value / 127.5 - 1, math.exp(log_variance / 2)
    low = 0.0 if value == 0 else _cdf((x - 1 / 255 - mean) / std)
    high = 1.0 if value == 255 else _cdf((x + 1 / 255 - mean) / std)
    found = log_likelihood_of_bins(VALUES[value], _double(mean), _double(log_variance))
    assert found.exp().item() == pytest.approx(high - low, rel=1e-6, abs=1e-12)


def _double(value):
    return torch.tensor(value, dtype=torch.float64)


def _cdf(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


@given(
    difference=st.floats(-2, 2),
    log_true=st.floats(-10, 2),
    log_variance=st.floats(-10, 2),
)
def test_kl_is_torchs(difference, log_true, log_variance):
    values = [torch.tensor(v, dtype=torch.float64) for v in (difference, log_true, log_variance)]
    q = torch.distributions.Normal(values[0], (values[1] / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(values[0]), (values[2] / 2).exp())
    expected = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(kl_of_gaussians(*values), expected, rtol=1e-9, atol=1e-12)


def test_kl_of_nearly_equal_variances_keeps_its_digits():
    """It is ratio² / 4, which 1 - 1 would drown at each of a thousand steps."""
    ratio = torch.tensor(1e-3)
    found = kl_of_gaussians(torch.zeros(()), torch.zeros(()) + ratio, torch.zeros(()))
    assert found.item() == pytest.approx(1e-6 / 4 * (1 + 1e-3 / 3), rel=1e-3)


def test_a_step_is_its_kl_by_monte_carlo():
    """E_q[log q(x_s | x_t, x_0) - log p(x_s | x_t)], drawn from q."""
    x0, x, estimate = images(1, 1, 1, 1), normal(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    time = torch.tensor([50])
    step = true_step(PROCESS, time, x0)
    log_variance = step.log_small + 0.2
    found = bits_of_step(x0, estimate, log_variance, step)
    q = torch.distributions.Normal(step.x0 * x0 + step.xt * x, (step.log_small / 2).exp())
    p = torch.distributions.Normal(step.x0 * estimate + step.xt * x, (log_variance / 2).exp())
    drawn = q.mean + q.stddev * normal(400_000, 1, 1, 1)
    samples = (q.log_prob(drawn) - p.log_prob(drawn)) / math.log(2)
    assert found.item() == pytest.approx(samples.mean().item(), abs=5 * samples.std().item() / 400_000**0.5)


def test_time_0_is_the_decoder_and_the_others_are_divergences():
    x0 = images(4, 3, 2, 2)
    estimate = x0 + 0.01 * normal(4, 3, 2, 2)
    step = true_step(PROCESS, TIMES, x0)
    found = bits_of_step(x0, estimate, step.log_small, step)
    decoder = -log_likelihood_of_bins(x0[:1], estimate[:1], step.log_small[:1]).mean() / math.log(2)
    assert found[0].item() == pytest.approx(decoder.item())
    for i, time in enumerate(TIMES[1:].tolist(), start=1):
        mean = posterior(PROCESS.level(time), PROCESS.level(time - 1))
        squared = (mean.x0 * (x0[i] - estimate[i])).square().mean().item()
        assert found[i].item() == pytest.approx(squared / (2 * mean.variance) / math.log(2))


class TestVariances:
    step = true_step(PROCESS, TIMES, torch.zeros(4, 1, 1, 1, dtype=torch.float64))
    betas = PROCESS.betas[TIMES]

    def small(self):
        """beta-tilde, that of time 1 in place of the 0 of time 0."""
        bar = PROCESS.alphas_cumprod
        tilde = PROCESS.betas[1:] * (1 - bar[:-1]) / (1 - bar[1:])
        return tilde[(TIMES - 1).clamp(min=0)]

    def test_the_fixed_ones_are_the_papers(self):
        small = Variance.choose("fixed_small").log_of(self.step, None).flatten()
        torch.testing.assert_close(small, self.small().log())
        # Ho et al.'s code: beta, but at time 0 the posterior's variance at time 1
        large = Variance.choose("fixed_large").log_of(self.step, None).flatten()
        torch.testing.assert_close(large, torch.cat([self.small()[:1], self.betas[1:]]).log())

    def test_the_learned_ones_are_the_papers(self):
        v = normal(4, 2, 3, 3)
        assert torch.equal(Variance.choose("learned").log_of(self.step, v), v)
        # Nichol & Dhariwal 2021, eq. 15, with their code's v in [-1, 1]
        part = (v + 1) / 2
        log_beta, log_tilde = (each.log().view(4, 1, 1, 1) for each in (self.betas, self.small()))
        found = Variance.choose("learned_range").log_of(self.step, v)
        torch.testing.assert_close(found, part * log_beta + (1 - part) * log_tilde)

    @pytest.mark.parametrize(("output", "other"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
    @pytest.mark.parametrize(("t", "s"), [(99, 98), (99, 40), (50, 0), (2, 1)])
    def test_learned_range_is_between_the_fixed_ones_at_any_stride(self, output, other, t, s):
        t, s = PROCESS.level(t), PROCESS.level(s)
        said = torch.full((1, 1, 1, 1), output, dtype=torch.float64)
        found = Variance.choose("learned_range").of(t, s, PROCESS, said)
        assert found.item() == pytest.approx(Variance.choose(other).of(t, s, PROCESS, None))
        between = Variance.choose("learned_range").of(t, s, PROCESS, torch.zeros_like(said)).item()
        assert between == pytest.approx(math.sqrt(transition(t, s).variance * posterior(t, s).variance))

    @pytest.mark.parametrize("kind", ["learned", "learned_range", "fixed_small", "fixed_large"])
    def test_neighbouring_times_have_the_same_variance_in_sampling_and_in_the_bound(self, kind):
        variance = Variance.choose(kind)
        v = normal(4, 1, 2, 2)
        said = v if variance.learned else None
        logs = variance.log_of(self.step, said).expand(4, 1, 2, 2)
        for i, time in enumerate(TIMES[1:].tolist(), start=1):
            found = variance.of(PROCESS.level(time), PROCESS.level(time - 1), PROCESS, None if said is None else v[i])
            torch.testing.assert_close(torch.as_tensor(found).expand(1, 2, 2).double().log(), logs[i])

    def test_learned_keeps_its_ratio_to_the_effective_beta(self):
        said = torch.log(torch.full((1, 1, 1, 1), 0.5 * PROCESS.betas[50].item()))
        t, s = PROCESS.level(50), PROCESS.level(20)
        found = Variance.choose("learned").of(t, s, PROCESS, said)
        assert found.item() == pytest.approx(0.5 * (1 - PROCESS.alphas_cumprod[50] / PROCESS.alphas_cumprod[20]).item())


class TestHybridLoss:
    """Nichol & Dhariwal 2021, eq. 16."""

    def loss(self, kind, value, said):
        x0, noise = images(4, 1, 2, 2), normal(4, 1, 2, 2)
        objective = Objective(variance=kind)
        return objective.training_loss(
            lambda x, *_: torch.cat([value, said], dim=1), PROCESS, x0, None, TIMES, noise
        ), Objective().training_loss(lambda x, *_: value, PROCESS, x0, None, TIMES, noise)

    @pytest.mark.parametrize("kind", kinds_of(Variance))
    def test_the_bound_trains_nothing_but_the_variance(self, kind):
        if not kind.learned:
            pytest.skip("has no loss of its own")
        value, said = (normal(4, 1, 2, 2, seed=seed).requires_grad_() for seed in (1, 2))
        hybrid, simple = self.loss(kind, value, said - 5 if kind.kind == "learned" else said)
        (wanted,) = torch.autograd.grad(simple.sum(), value)
        found, of_variance = torch.autograd.grad(hybrid.sum(), (value, said))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        assert (of_variance.flatten(1).abs().sum(1) > 0).all()
        assert of_variance.isfinite().all()

    @pytest.mark.parametrize("weight", [0.001, 2.0])
    def test_is_the_sum_of_the_bounds_terms_estimated_from_one(self, weight):
        value, said = normal(4, 1, 2, 2, seed=1), normal(4, 1, 2, 2, seed=2)
        hybrid, simple = self.loss({"kind": "learned_range", "vlb_weight": weight}, value, said)
        x0, noise = images(4, 1, 2, 2), normal(4, 1, 2, 2)
        alpha, sigma = (level(TIMES).view(4, 1, 1, 1) for level in (PROCESS.alpha, PROCESS.sigma))
        estimate = (alpha * x0 + sigma * noise - sigma * value) / alpha
        step = true_step(PROCESS, TIMES, x0)
        bits = bits_of_step(x0, estimate, Variance.choose("learned_range").log_of(step, said), step)
        torch.testing.assert_close(hybrid - simple, weight * 100 * bits)

    def test_the_bound_prefers_the_variance_of_the_error(self):
        """Of all variances, the one of least loss is the true one and the squared error of the mean together."""
        x0 = images(1, 1, 8, 8)
        estimate = x0 + 0.3 * normal(1, 1, 8, 8)
        step = true_step(PROCESS, torch.tensor([30]), x0)
        best = (step.log_small.exp() + (step.x0 * (x0 - estimate)) ** 2).log()
        least = bits_of_step(x0, estimate, best, step)
        for shift in (-0.1, 0.1):
            assert (bits_of_step(x0, estimate, best + shift, step) > least).all()
