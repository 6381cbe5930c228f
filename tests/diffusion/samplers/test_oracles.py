"""Samplers on a DDPM process and models whose answer is known: what each equation promises, to the digit."""

import math
from itertools import pairwise

import pytest
import torch

from diffkit.diffusion.oracles import gaussian, gaussian_ode_end, one_point
from diffkit.diffusion.posterior import posterior, transition
from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.true_step import true_step
from diffkit.diffusion.variance import Variance
from diffkit.schedules.base import BetaSchedule
from diffkit.testing import kinds_of

T = 1000
PROCESS = Process.choose("ddpm")
COUNTS = [1, 2, 3, 5, 10, 50, T]
SAMPLERS = kinds_of(Sampler)
SPACINGS = [spacing for spacing in kinds_of(Spacing) if spacing.id != "list"]  # which has one number of times only
SHAPE = (2, 1, 2, 2)
DETERMINISTIC = [
    "ddim",
    "euler",
    "heun",
    "dpm_2",
    {"kind": "dpm_2_ancestral", "eta": 0.0},
    {"kind": "dpmpp_2s_ancestral", "eta": 0.0},
    {"kind": "dpmpp_sde", "eta": 0.0},
    "dpmpp_2m",
    {"kind": "dpmpp_2m", "solver": "heun"},
    "dpmpp_3m",
    {"kind": "dpmpp_3m_sde", "eta": 0.0},
    *({"kind": "unipc", "order": order, "b": b} for order in (1, 2, 3) for b in ("bh1", "bh2")),
    *({"kind": kind, "order": order} for kind in ("deis", "lms", "ipndm") for order in (1, 2, 3, 4)),
    *({"kind": "pndm", "order": order, "start": start} for order in (2, 4) for start in ("heun", "runge_kutta")),
    *(
        {"kind": "dpmpp_singlestep", "order": order, "solver": kind}
        for order in (2, 3)
        for kind in ("midpoint", "heun")
    ),
    {"kind": "dpm_2", "middle": "exact"},
]


def named(settings):
    return settings if isinstance(settings, str) else "-".join(str(value) for value in settings.values())


class Stream:
    """Standard normal float64 noise of a shape, counting its draws."""

    def __init__(self, shape, seed=0):
        self.shape, self.draws = shape, 0
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self):
        self.draws += 1
        return torch.randn(self.shape, generator=self._generator, dtype=torch.float64)


def normal(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", sorted(BetaSchedule.kinds))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_point_is_reached_with_every_schedule(sampler, kind):
    point, noise = normal(1, 1, 2, 2), Stream(SHAPE)
    levels = Spacing.choose("trailing").levels(Process.choose({"kind": "ddpm", "schedule": kind}), 50)
    torch.testing.assert_close(sampler.sample(one_point(point), levels, noise(), noise), point.expand(SHAPE))


@pytest.mark.parametrize("kind", ["ddpm", {"kind": "ddim", "eta": 1.0}, {"kind": "ddim", "eta": 0.5}, "ddim"])
@pytest.mark.parametrize("count", [3, 50])
def test_one_point_data_keep_their_exact_distribution_at_every_level(kind, count):
    """x_t ~ N(alpha_t point, sigma_t²) for every eta: what the mean of Song et al. 2021, eq. 7, is made for."""
    point, shape = 0.7, (1, 1, 200, 200)
    noise, seen = Stream(shape), []

    def watched(x, level):
        seen.append((level, x.mean().item(), x.var().item()))
        return one_point(torch.tensor(point, dtype=torch.float64))(x, level)

    levels = Spacing.choose("trailing").levels(PROCESS, count)
    start = levels[0].alpha * point + levels[0].sigma * noise()
    Sampler.choose(kind).sample(watched, levels, start, noise)
    for level, mean, variance in seen:
        assert mean == pytest.approx(level.alpha * point, abs=5 * level.sigma / 200)
        assert variance == pytest.approx(level.sigma**2, rel=5 * math.sqrt(2) / 200)


@pytest.mark.parametrize("count", [3, 50, T])
def test_fixed_large_is_exact_for_standard_normal_data(count):
    """Then q(x_s | x_t) has that variance for any two levels, so every x_t stays N(0, 1)."""
    shape = (1, 1, 200, 200)
    noise, seen = Stream(shape), []
    large = Variance.choose("fixed_large")
    exact = gaussian(0.0, 1.0, lambda t, s: large.of(t, s, PROCESS, None))

    def watched(x, level):
        seen.append(x.var().item())
        return exact(x, level)

    levels = Spacing.choose("trailing").levels(PROCESS, count)
    end = Sampler.choose("ddpm").sample(watched, levels, noise(), noise)
    assert seen == pytest.approx([1.0] * count, rel=5 * math.sqrt(2) / 200)
    assert end.var().item() == pytest.approx(levels[-2].alpha ** 2, rel=5 * math.sqrt(2) / 200)


@pytest.mark.parametrize("variance", kinds_of(Variance))
@pytest.mark.parametrize(
    ("spacing", "count"),
    [
        *((spacing.values[0], count) for spacing in SPACINGS for count in (1, 2, 5, 50)),
        (Spacing.choose("trailing"), T),  # all times, with every spacing
    ],
    ids=lambda value: value.kind if isinstance(value, Spacing) else str(value),
)
def test_gaussian_data_under_ancestral_steps(variance, count, spacing):
    """Each step is affine in x plus noise, so mean and variance of the result are known."""
    m, s, shape = 0.4, 0.3, (1, 1, 100, 100)
    levels = spacing.levels(PROCESS, count)

    def of(t, s):
        step = true_step(PROCESS, torch.tensor([int(t.time)]), torch.ones(1, 1, 1, 1, dtype=torch.float64))
        outputs = {"learned": step.log_large - 0.01, "learned_range": torch.tensor(0.4, dtype=torch.float64)}
        return variance.of(t, s, PROCESS, outputs.get(variance.kind))

    mean, var = 0.0, 1.0
    for at_t, at_s in pairwise(levels):
        step = posterior(at_t, at_s)
        gain = at_t.alpha * s**2 / (at_t.alpha**2 * s**2 + at_t.sigma**2)
        slope = step.x0 * gain + step.xt
        mean = step.x0 * (m - gain * at_t.alpha * m) + slope * mean
        var = slope**2 * var + (float(of(at_t, at_s)) if at_s is not CLEAN else 0.0)
    noise = Stream(shape)
    end = Sampler.choose("ddpm").sample(gaussian(m, s, of), levels, noise(), noise)
    assert end.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var) / 100 + 1e-12)
    assert end.var().item() == pytest.approx(var, rel=5 * math.sqrt(2) / 100)
    assert noise.draws == count
    if count == T:  # the continuous limit: the data
        assert mean == pytest.approx(m, abs=2e-3)
        assert math.sqrt(var) == pytest.approx(s, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "spacing"),
    [
        *((kind, "trailing") for kind in DETERMINISTIC),
        ("ddim", "linspace"),
        ("ddim", "quadratic"),
    ],
    ids=named,
)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 50, 100])
def test_gaussian_data_come_near_the_exact_ode(kind, spacing, count):
    m, s = 0.4, 0.5
    x = normal(*SHAPE)
    levels = Spacing.choose(spacing).levels(PROCESS, count)
    end = Sampler.choose(kind).sample(gaussian(m, s), levels, x, Stream(SHAPE))
    error = (end - gaussian_ode_end(x, levels[0], m, s)).abs().max().item()
    assert error < 3 / count + 0.005


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", COUNTS)
def test_ddim_with_eta_1_is_ddpm_with_fixed_small(spacing, count):
    levels = spacing.levels(PROCESS, count)
    x = normal(*SHAPE)
    model = gaussian(0.2, 0.6)
    ends = [
        Sampler.choose(kind).sample(model, levels, x, Stream(SHAPE)) for kind in ("ddpm", {"kind": "ddim", "eta": 1.0})
    ]
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_ddim_between_is_between():
    at_t, at_s = PROCESS.level(600), PROCESS.level(300)
    point = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)

    def end(eta, z):
        sampler = Sampler.choose({"kind": "ddim", "eta": eta})
        stops = [at_t, at_s]
        return sampler.sample(one_point(point), stops, x, lambda: torch.full_like(x, z)).item()

    drawn = end(0.5, 1.0) - end(0.5, 0.0)
    c2 = 0.25 * at_s.sigma**2 / at_t.sigma**2 * transition(at_t, at_s).variance
    assert drawn == pytest.approx(math.sqrt(c2), rel=1e-12)
    assert end(0.5, 0.0) == pytest.approx(math.sqrt(at_s.sigma**2 - c2) / at_t.sigma, rel=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_noise_enters_the_clean_end_and_no_state_stays(sampler):
    levels = Spacing.choose("trailing").levels(PROCESS, 5)
    model, x = gaussian(0.2, 0.6), normal(*SHAPE)
    noise, drawn_at_call = Stream(SHAPE), []

    def watched(x, level):
        drawn_at_call.append(noise.draws)
        return model(x, level)

    first = sampler.sample(watched, levels, x, noise)
    assert noise.draws == drawn_at_call[-1]
    assert torch.equal(first, sampler.sample(model, levels, x, Stream(SHAPE)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_start_is_left_alone(sampler):
    x = normal(*SHAPE)
    kept = x.clone()
    sampler.sample(gaussian(0.0, 1.0), Spacing.choose("trailing").levels(PROCESS, 3), x, Stream(SHAPE))
    assert torch.equal(x, kept)
