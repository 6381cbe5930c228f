"""The variational bound and the ODE's likelihood, where the exact value is known."""

import math
from itertools import pairwise

import pytest
import torch

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.likelihood import (
    bits_of_pixels,
    dequantized,
    draw_probe,
    ode_levels,
    ode_log_likelihood,
    variational_bound,
)
from diffkit.diffusion.oracles import gaussian, one_point
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.variance import Variance

DDPM = {"kind": "ddpm", "steps": 1000}
PROCESSES = [
    pytest.param(DDPM, id="ddpm"),
    pytest.param({"kind": "ddpm", "schedule": "cosine"}, id="cosine"),
    pytest.param({"kind": "ddpm", "zero_terminal_snr": True}, id="zero_terminal_snr"),
    pytest.param("edm", id="edm"),
    pytest.param("flow", id="flow"),
    pytest.param({"kind": "flow", "shift": 3.0, "time_max": 0.99}, id="flow_shifted"),
]
VALUES = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noises(shape, seed=0):
    return lambda time: normal(*shape, seed=10_000 + 1000 * seed + time)  # not the seed of any images


def walk(steps):
    return list(range(steps - 1, -1, -1))


def mixture(means, std, weights):
    """The model of images that are one of a few, with Gaussian noise of its own added: E[x0 | x_t]."""
    means = torch.stack(means)

    def denoise(x, level):
        total = level.alpha**2 * std**2 + level.sigma**2
        distance = (x[:, None] - level.alpha * means).flatten(2).square().sum(2)
        share = torch.softmax(weights.log() - distance / (2 * total), dim=1)
        mean = torch.einsum("nk,kchw->nchw", share, means)
        residual = (x - level.alpha * mean) / total
        return Denoised(mean + level.alpha * std**2 * residual, level.sigma * residual, lambda t, s: 0.0)

    return denoise


def mixture_log_density(x, means, std, weights):
    distance = (x[:, None] - torch.stack(means)).flatten(2).square().sum(2)
    size = x[0].numel()
    return torch.logsumexp(weights.log() - distance / (2 * std**2), 1) - size / 2 * math.log(2 * math.pi * std**2)


class TestVariationalBound:
    process = Process.choose({"kind": "ddpm", "steps": 50, "schedule": {"kind": "linear", "start": 1e-3, "end": 0.3}})

    def bound(self, denoise, x0, variance="fixed_small", times=None, process=None, seed=0):
        process = process or self.process
        return variational_bound(
            denoise, Variance.choose(variance), process, times or walk(process.steps), x0, noises(x0.shape, seed)
        )

    def test_of_one_known_image_only_the_ends_cost_anything(self):
        x0 = VALUES[torch.tensor([0, 100, 128, 255])].view(1, 1, 2, 2)
        found = self.bound(one_point(x0), x0)
        assert found.kl.abs().max() < 1e-12
        assert found.x0_mse.max() == 0
        assert found.eps_mse.max() < 1e-20
        last = self.process.level(49)
        q = torch.distributions.Normal(last.alpha * x0, last.sigma)
        prior = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros_like(x0), 1.0))
        assert found.prior.item() == pytest.approx(prior.mean().item() / math.log(2), rel=1e-9)
        std = posterior(self.process.level(1), self.process.level(0)).variance ** 0.5
        inner = math.erf(1 / 255 / std / math.sqrt(2))
        bits = -(2 * math.log2(inner) + 2 * math.log2((1 + inner) / 2)) / 4  # two values at the ends of the range
        assert found.decoder.item() == pytest.approx(bits, rel=1e-9)
        assert found.total.item() == pytest.approx(prior.mean().item() / math.log(2) + bits)

    def test_of_normal_data_each_term_is_the_closed_form(self):
        """E over x_0 and x_t of the divergences, with the best denoiser and each step's variance."""
        std = 0.4
        x0 = std * normal(4000, 1, 2, 2, seed=9)  # the decoder's bins don't matter here
        found = self.bound(gaussian(0.0, std), x0, "fixed_large")
        levels = [self.process.level(time) for time in found.times]
        for i, (t, s) in enumerate(pairwise(levels)):
            true = posterior(t, s)
            left = std**2 * t.sigma**2 / (t.alpha**2 * std**2 + t.sigma**2)  # the variance of x0 given x_t
            beta = 1 - (t.alpha / s.alpha) ** 2
            ratio = true.variance / beta
            expected = 0.5 * (ratio - 1 - math.log(ratio) + true.x0**2 * left / beta) / math.log(2)
            assert found.kl[:, i].mean().item() == pytest.approx(expected, rel=0.05)
            assert found.x0_mse[:, i].mean().item() == pytest.approx(left, rel=0.05)
        last = levels[0].alpha ** 2
        expected = 0.5 * (last * std**2 - last - math.log(1 - last)) / math.log(2)
        assert found.prior.mean().item() == pytest.approx(expected, rel=0.05, abs=1e-9)

    def test_of_normal_data_the_exact_reverse_steps_make_the_bound_tight(self):
        """With the true variance of x_s given x_t nothing is lost but the decoder's and the prior's share.

        Both are compared on the same images, so that chance has little part in it.
        """
        process, std = self.process, 0.25
        levels = [process.level(time) for time in walk(50)]

        class Exact:
            """The variance of x_s given x_t, for normal data."""

            def of(self, t, s, process, output):
                true = posterior(t, s)
                return true.variance + true.x0**2 * std**2 * t.sigma**2 / (t.alpha**2 * std**2 + t.sigma**2)

            def log_of(self, step, output):
                return torch.full((1, 1, 1, 1), math.log(self.of(levels[-1], CLEAN, process, None)))

        x0 = (std * normal(10_000, 1, 2, 2, seed=3) * 127.5 + 127.5).round() / 127.5 - 1
        found = variational_bound(gaussian(0.0, std), Exact(), process, walk(50), x0, noises(x0.shape))
        chance = torch.special.ndtr((x0 + 1 / 255) / std) - torch.special.ndtr((x0 - 1 / 255) / std)
        bits = -chance.log2().flatten(1).mean(1)
        lost = found.total - bits
        assert lost.mean().item() == pytest.approx(0, abs=4 * lost.std().item() / 100)
        assert lost.std().item() / 100 < 0.01

    @pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
    @pytest.mark.parametrize("count", [2, 5, 50])
    def test_is_never_below_the_entropy(self, variance, count):
        """Of 8-bit data with four equally likely images there are 2 bits to tell, whatever the walk."""
        points = [
            VALUES[torch.randint(0, 256, (1, 2, 2), generator=torch.Generator().manual_seed(i))] for i in range(4)
        ]
        denoise = mixture(points, 1e-6, torch.full((4,), 0.25, dtype=torch.float64))
        x0 = torch.stack(points).repeat(50, 1, 1, 1)
        times = sorted({round(49 * i / (count - 1)) for i in range(count)}, reverse=True)
        found = self.bound(denoise, x0, variance, times)
        assert found.total.mean().item() > 2 / 4
        assert found.times == tuple(times)
        assert found.kl.shape == (200, count - 1)

    def test_fewer_times_are_a_looser_bound(self):
        x0 = 0.4 * normal(500, 1, 2, 2)
        totals = [
            self.bound(gaussian(0.0, 0.4), x0, times=times).total.mean().item()
            for times in (walk(50), list(range(49, -1, -7)), [49, 0])
        ]
        assert totals == sorted(totals)

    def test_learned_variances_are_read_from_the_output(self):
        x0 = VALUES[torch.randint(0, 256, (3, 1, 2, 2), generator=torch.Generator().manual_seed(0))]
        exact = gaussian(0.0, 0.4)

        def saying(value):
            def denoise(x, level):
                found = exact(x, level)
                return Denoised(found.x0, found.eps, found.variance, torch.full_like(x, value))

            return denoise

        for value, kind in ((-1.0, "fixed_small"), (1.0, "fixed_large")):
            learned, fixed = self.bound(saying(value), x0, "learned_range"), self.bound(exact, x0, kind)
            torch.testing.assert_close(learned.kl, fixed.kl)
        small = self.bound(exact, x0, "fixed_small")
        torch.testing.assert_close(self.bound(saying(-1.0), x0, "learned_range").decoder, small.decoder)

    def test_each_image_has_the_same_terms_in_every_batch(self):
        x0 = VALUES[torch.randint(0, 256, (4, 1, 2, 2), generator=torch.Generator().manual_seed(0))]
        whole = self.bound(gaussian(0.0, 0.4), x0)
        part = variational_bound(
            gaussian(0.0, 0.4),
            Variance.choose("fixed_small"),
            self.process,
            walk(50),
            x0[2:],
            lambda time: noises(x0.shape)(time)[2:],
        )
        assert torch.equal(whole.total[2:], part.total)

    def test_no_signal_at_the_end_costs_no_prior(self):
        process = Process.choose({"kind": "ddpm", "steps": 50, "zero_terminal_snr": True})
        x0 = VALUES[torch.randint(0, 256, (3, 1, 2, 2), generator=torch.Generator().manual_seed(0))]
        found = self.bound(gaussian(0.0, 0.4), x0, process=process)
        assert found.prior.abs().max() == 0
        assert found.total.isfinite().all()

    def test_a_single_time(self):
        process = Process.choose({"kind": "ddpm", "steps": 1, "schedule": {"kind": "constant", "value": 0.9}})
        found = self.bound(gaussian(0.0, 0.4), VALUES[:4].view(1, 1, 2, 2), process=process)
        assert found.kl.shape == (1, 0)
        assert found.total.isfinite().all()

    @pytest.mark.parametrize("process", ["edm", "flow"])
    def test_needs_numbered_times(self, process):
        with pytest.raises(ValueError, match=f"the process '{process}' has none: use the likelihood of its ODE"):
            self.bound(gaussian(0, 1), torch.zeros(1, 1, 1, 1), times=[1, 0], process=Process.choose(process))

    @pytest.mark.parametrize("times", [[5, 1], [0, 1], [3, 3, 0]])
    def test_needs_times_down_to_0(self, times):
        with pytest.raises(ValueError, match="must fall strictly and end at 0"):
            self.bound(gaussian(0, 1), torch.zeros(1, 1, 1, 1), times=times)


def observed_orders(denoise, process, x, exact, counts):
    errors = []
    for count in counts:
        levels = ode_levels(process, count)
        errors.append((ode_log_likelihood(denoise, levels, x) - exact(levels)).abs().max().item() / x[0].numel())
    return errors, [math.log2(a / b) for a, b in pairwise(errors)]


class TestOde:
    @pytest.mark.parametrize("process", PROCESSES)
    def test_normal_data_have_their_density_and_the_error_falls_with_the_square_of_the_steps(self, process):
        """The model's density is that of x / alpha at the last level; its start is N(0, I), not quite the data's."""
        process, mean, std = Process.choose(process), 0.1, 0.5
        x = mean + std * normal(4, 1, 2, 2)

        def exact(levels):
            first, last = levels[0], levels[-1]
            # the exact solution: the standardised value stays; the start has the variance alpha² + sigma²
            z = (last.alpha * (x - mean)) / math.hypot(last.alpha * std, last.sigma)
            end_std = math.hypot(first.alpha * std, first.sigma) / math.hypot(first.alpha, first.sigma)
            u = first.alpha * mean / math.hypot(first.alpha, first.sigma) + end_std * z
            scale = last.alpha / math.hypot(last.alpha * std, last.sigma) * end_std
            return (-0.5 * u**2 - 0.5 * math.log(2 * math.pi) + math.log(scale)).flatten(1).sum(1)

        errors, orders = observed_orders(gaussian(mean, std), process, x, exact, (20, 40, 80, 160))
        assert errors[-1] < 5e-4
        assert orders[-1] == pytest.approx(2, abs=0.35)

    @pytest.mark.parametrize("process", [*PROCESSES[:2], *PROCESSES[3:5]])
    def test_normal_data_in_many_steps_have_the_density_of_the_data(self, process):
        process = Process.choose(process)
        x = 0.1 + 0.5 * normal(6, 1, 2, 2)
        found = ode_log_likelihood(gaussian(0.1, 0.5), ode_levels(process, 300), x)
        expected = torch.distributions.Normal(0.1, 0.5).log_prob(x).flatten(1).sum(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=4 * 2e-3)

    @pytest.mark.parametrize("process", PROCESSES)
    def test_a_mixture_has_its_density(self, process):
        process, std = Process.choose(process), 0.2
        means = [0.6 * normal(1, 2, 2, seed=i) for i in range(3)]
        weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
        x = torch.stack(means).repeat(4, 1, 1, 1) + std * normal(12, 1, 2, 2, seed=7)
        found = ode_log_likelihood(mixture(means, std, weights), ode_levels(process, 300), x)
        expected = mixture_log_density(x, means, std, weights)
        torch.testing.assert_close(found, expected, rtol=0, atol=4 * 0.01)

    def test_is_a_density(self):
        """Of one pixel: its integral is one, also for a mixture and few steps' worth of error."""
        means = [torch.full((1, 1, 1), value, dtype=torch.float64) for value in (-0.5, 0.7)]
        denoise = mixture(means, 0.2, torch.tensor([0.4, 0.6], dtype=torch.float64))
        x = torch.linspace(-3, 3, 2001, dtype=torch.float64).view(-1, 1, 1, 1)
        found = ode_log_likelihood(denoise, ode_levels(Process.choose("flow"), 100), x).exp()
        assert torch.trapezoid(found, dx=0.003).item() == pytest.approx(1, abs=2e-3)

    @pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
    def test_hutchinsons_estimate_has_the_exact_mean(self, kind):
        means = [0.6 * normal(1, 2, 2, seed=i) for i in range(2)]
        denoise = mixture(means, 0.3, torch.tensor([0.5, 0.5], dtype=torch.float64))
        levels = ode_levels(Process.choose("flow"), 20)
        x = (0.5 * normal(1, 1, 2, 2)).expand(4000, 1, 2, 2)
        exact = ode_log_likelihood(denoise, levels, x[:1]).item()
        found = ode_log_likelihood(denoise, levels, x, draw_probe(normal(*x.shape, seed=5), kind))
        assert found.std() > 0
        assert found.mean().item() == pytest.approx(exact, abs=4 * found.std().item() / 4000**0.5)

    def test_signs_vary_less_than_normal_numbers(self):
        """Where pixels are independent, signs make no error at all."""
        levels, x = ode_levels(Process.choose("edm"), 20), 0.5 * normal(8, 1, 2, 2)
        exact = ode_log_likelihood(gaussian(0, 0.5), levels, x)
        signs, numbers = (
            ode_log_likelihood(gaussian(0, 0.5), levels, x, draw_probe(normal(8, 1, 2, 2, seed=1), kind)) - exact
            for kind in ("rademacher", "gaussian")
        )
        assert signs.abs().max() < 1e-10
        assert numbers.abs().max() > 0.1

    def test_probes_are_what_they_are_called(self):
        drawn = normal(10_000).float()
        signs = draw_probe(drawn)
        assert signs.dtype == drawn.dtype
        assert set(signs.tolist()) == {-1.0, 1.0}
        assert signs.mean().abs() < 0.05
        assert torch.equal(draw_probe(drawn, "gaussian"), drawn)

    def test_asks_the_model_twice_a_step_and_only_at_the_levels(self):
        asked = []

        def noting(x, level):
            asked.append(level)
            return gaussian(0, 0.5)(x, level)

        levels = ode_levels(Process.choose(DDPM), 7)
        ode_log_likelihood(noting, levels, normal(1, 1, 1, 1))
        assert len(asked) == 14
        assert set(asked) == set(levels)

    @pytest.mark.parametrize("levels", [[], [CLEAN], [*ode_levels(Process.choose("flow"), 3), CLEAN]])
    def test_needs_falling_levels_above_the_clean_end(self, levels):
        with pytest.raises(ValueError, match="at least two levels"):
            ode_log_likelihood(gaussian(0, 1), levels, normal(1, 1, 1, 1))

    def test_levels_must_fall(self):
        with pytest.raises(ValueError, match="strictly falling"):
            ode_log_likelihood(gaussian(0, 1), ode_levels(Process.choose("flow"), 3)[::-1], normal(1, 1, 1, 1))


class TestLevels:
    @pytest.mark.parametrize("process", PROCESSES)
    @pytest.mark.parametrize("steps", [1, 2, 10, 200])
    def test_reach_from_end_to_end(self, process, steps):
        process = Process.choose(process)
        levels = ode_levels(process, steps)
        places = [math.asinh(level.alpha / level.sigma) for level in levels]
        assert all(a < b for a, b in pairwise(places))
        first = process.level(float(process.at(torch.ones(1, dtype=torch.float64))))
        assert levels[0] == first
        if not (process.kind == "ddpm" and process.zero_terminal_snr):
            assert len(levels) == steps + 1
            gaps = torch.tensor(places).diff()
            torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-3, atol=0)

    def test_whole_times(self):
        process = Process.choose({"kind": "ddpm", "steps": 20})
        for steps in (1, 5, 19, 100):
            levels = ode_levels(process, steps, whole=True)
            assert len(levels) == min(steps, 19) + 1
            assert all(level.time.is_integer() for level in levels)
            assert (levels[0].time, levels[-1].time) == (19, 0)
        assert not all(level.time.is_integer() for level in ode_levels(process, 5))

    def test_whole_times_of_a_continuous_process_are_all(self):
        assert len(ode_levels(Process.choose("flow"), 5, whole=True)) == 6


class TestBitsOfPixels:
    def test_evenly_likely_values_cost_eight_bits(self):
        """The density 1 / 2 over [-1, 1] and half a bin more on both sides."""
        width = 2 + 2 / 255
        assert bits_of_pixels(torch.tensor(-12 * math.log(width)), 12).item() == pytest.approx(8)

    def test_dequantized_values_stay_in_their_bins(self):
        pixels = torch.arange(256, dtype=torch.uint8)
        for uniform in (0.0, 0.5, 0.999):
            x = dequantized(pixels, torch.full((256,), uniform))
            assert (x - VALUES).abs().max() <= 1 / 255 + 1e-6
        torch.testing.assert_close(dequantized(pixels, torch.full((256,), 0.5)), VALUES.float())

    def test_of_normal_data_are_the_entropy_of_the_values(self):
        """The bits of the exact density, dequantized, are those of the discrete values' own distribution."""
        std, shape = 0.3, (2000, 1, 2, 2)
        pixels = ((std * normal(*shape) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        x = dequantized(pixels, torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        found = ode_log_likelihood(gaussian(0, std), ode_levels(Process.choose("edm"), 200), x)
        ends = (torch.arange(257, dtype=torch.float64) - 0.5) / 127.5 - 1
        share = torch.special.ndtr(ends / std).diff()
        entropy = -(share * share.log2()).sum().item()
        bits = bits_of_pixels(found, 4)
        assert bits.mean().item() == pytest.approx(entropy, abs=4 * bits.std().item() / 2000**0.5)
