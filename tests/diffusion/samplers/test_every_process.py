"""Every sampler on every process, prediction and spacing that fit together, on models whose answer is known.

One walk serves three models at once, an image each: constant noise, data of one point, Gaussian data. Samplers see the
predictions only through `denoise`, so it is enough that at every level all predictions give the same estimate, and
that each sampler walks with each of them.
"""

import functools
import math

import pytest
import torch

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.generate import generate, initial
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.oracles import constant_noise, gaussian, gaussian_ode_end, one_point
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.testing import kinds_of

PROCESSES = {
    "ddpm": {"kind": "ddpm"},
    "cosine": {"kind": "ddpm", "schedule": "cosine"},
    "zero snr": {"kind": "ddpm", "schedule": "scaled_linear", "zero_terminal_snr": True},
    "edm": {"kind": "edm"},
    "flow": {"kind": "flow"},
    "shifted flow": {"kind": "flow", "shift": 3.0, "time_max": 0.999},
}
COUNTS = (1, 2, 3, 5, 10, 50)
FEW = COUNTS[:-1]
T = 1000
M, S = 0.4, 0.5
SAMPLERS = [sampler.values[0] for sampler in kinds_of(Sampler)]
VARIANTS = [
    {"kind": "dpmpp_2m", "solver": "heun"},
    *({"kind": kind, "eta": 0.0} for kind in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde")),
    *({"kind": kind, "eta": 0.0} for kind in ("dpmpp_2m_sde", "dpmpp_3m_sde")),
    {"kind": "ddim", "eta": 1.0},
    *({"kind": kind, "s_churn": 20.0, "s_tmin": 0.1, "s_tmax": 30.0} for kind in ("euler", "heun")),
    *({"kind": "unipc", "order": order, "b": b} for order in (1, 2, 3) for b in ("bh1", "bh2")),
    *({"kind": kind, "order": order} for kind in ("deis", "lms", "ipndm") for order in (1, 2, 3, 4)),
    *({"kind": "pndm", "order": order, "start": start} for order in (1, 2, 4) for start in ("heun", "runge_kutta")),
    *(
        {"kind": "dpmpp_singlestep", "order": order, "solver": kind}
        for order in (2, 3)
        for kind in ("midpoint", "heun")
    ),
    *({"kind": kind, "middle": "exact"} for kind in ("dpm_2", "dpm_2_ancestral")),
    *({"kind": "tcd", "gamma": gamma} for gamma in (0.0, 1.0)),
]
NONE = X0Rule.choose("none")


@functools.cache
def process_of(name):
    return Process.choose(PROCESSES[name])


@functools.cache
def walks(name, counts):
    """Return the levels of each number of steps with every spacing that the process allows, but for a written list."""
    process, found = process_of(name), []
    for kind in sorted(Spacing.kinds.keys() - {"list"}):
        spacing = Spacing.choose(kind)
        found += [(kind, spacing.levels(process, n)) for n in counts if spacing.refuses(process, n) is None]
    assert len(found) >= 5 * len(counts)
    return found


def normal(seed, shape=(1, 1, 1, 2)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Stream:
    """Standard normal float64 noise for one image of two pixels for each of the three models, counting its draws."""

    def __init__(self, shape=(3, 1, 1, 2)):
        self.draws = 0
        self._shape = shape
        self._generator = torch.Generator().manual_seed(3)

    def __call__(self):
        self.draws += 1
        return torch.randn(self._shape, generator=self._generator, dtype=torch.float64)


X0, EPS, POINT = normal(1), normal(2), normal(4).clamp(-1, 1)


@functools.cache
def on_the_line(level):
    return level.alpha * X0 + level.sigma * EPS


class Oracles:
    """Constant noise, one point and Gaussian data, an image each; remembers where the first one was."""

    def __init__(self):
        self.levels, self.on_the_way = [], []

    def __call__(self, x, level):
        self.levels.append(level)
        self.on_the_way.append(x[:1])
        (x0, x0_slope), (eps, eps_slope) = affine(level)
        return Denoised(x0 + x0_slope * x, eps + eps_slope * x, _variance)

    def off_the_line(self):
        return (torch.cat(self.on_the_way) - torch.cat([on_the_line(level) for level in self.levels])).abs().max()


def _variance(t, s):
    return posterior(t, s).variance


@functools.cache
def affine(level):
    """Return x0 and eps of the three models at x = 0, and their slopes: once for each level."""
    assert level.sigma > 0
    zero = torch.zeros_like(X0)
    models = constant_noise(EPS), one_point(POINT), gaussian(M, S)
    if level.alpha == 0:  # x says nothing of x0, which this model knows
        models = (lambda x, level: Denoised(X0, EPS, _variance), *models[1:])
    at_0, at_1 = ([model(zero + x, level) for model in models] for x in (0, 1))
    x0s, epss = ([torch.cat([getattr(each, part) for each in at]) for at in (at_0, at_1)] for part in ("x0", "eps"))
    return tuple((at_zero, at_one - at_zero) for at_zero, at_one in (x0s, epss))


def check(sampler, levels, largest_error):
    """Walk with the three oracles.

    Args:
        sampler: The sampler.
        levels: The levels.
        largest_error: Allowed distance of the Gaussian's end from the ODE's, for a deterministic sampler.
    """
    oracles, noise = Oracles(), Stream()
    start = initial(levels[0], noise)
    start[:1] = on_the_line(levels[0])
    drawn = noise.draws
    line, point, end = sampler.sample(oracles, levels, start, noise).split(1)
    if getattr(sampler, "s_churn", 0) == 0:
        assert set(levels[:-1]) <= set(oracles.levels)
    assert (point - POINT).abs().max() < 1e-8
    if noise.draws > drawn:  # stochastic: its distribution is tested below
        assert end.isfinite().all()
        return
    x = start[2:]
    if len(levels) == 2:
        torch.testing.assert_close(end, gaussian(M, S)(x, levels[0]).x0, rtol=1e-9, atol=1e-9)
    assert (line - X0).abs().max() < 1e-8
    assert oracles.off_the_line() < 1e-8
    if largest_error is not None:
        assert (end - gaussian_ode_end(x, levels[0], M, S)).abs().max() < largest_error


def name_of(settings):
    return "-".join(str(value) for value in settings.values())


KINDS = [pytest.param(sampler, id=sampler.kind) for sampler in SAMPLERS]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", KINDS)
def test_three_oracles(sampler, name):
    for kind, levels in walks(name, COUNTS):
        # Heun's error is that of its first step, from a signal of 5e-5, until the steps are as small as that; pndm
        # begins with such a step
        far = (name, kind) == ("cosine", "quadratic") and sampler.kind in ("heun", "pndm")
        check(sampler, levels, (0.5 if far else 0.2) if len(levels) == 51 else None)


@pytest.mark.parametrize("name", ["cosine", "zero snr", "edm", "shifted flow"])
@pytest.mark.parametrize("settings", VARIANTS, ids=name_of)
def test_three_oracles_with_other_settings(settings, name):
    for _, levels in walks(name, FEW):
        check(Sampler.choose(settings), levels, None)


@pytest.mark.parametrize("name", ["ddpm", "zero snr"])
@pytest.mark.parametrize("sampler", KINDS)
def test_three_oracles_over_all_times(sampler, name):
    """With every spacing these are the same levels (`test_all_times`)."""
    check(sampler, all_times(name), 0.008)


@functools.cache
def all_times(name):
    return Spacing.choose("trailing").levels(process_of(name), T)


# --- predictions


def through(kind, process, oracle):
    """Return a network's `denoise` whose network outputs what this prediction wants of an oracle's estimate."""
    prediction, at = Prediction.choose(kind), []

    def network(shown, time, label):
        level = at[-1]
        assert time.dtype == torch.float32
        assert time.tolist() == [torch.tensor(level.time, dtype=torch.float32).item()] * len(shown)
        alpha, sigma = torch.tensor([[level.alpha], [level.sigma]], dtype=torch.float64)
        scale = process.input_scale(alpha, sigma)
        estimate = oracle(shown if scale is None else shown / scale, level)
        return prediction.target(estimate.x0, estimate.eps, level.alpha, level.sigma)

    denoise = make_denoise(network, Objective(prediction=prediction), process, NONE)

    def watched(x, level):
        at.append(level)
        return denoise(x, level)

    return watched


def predictions_of(process):
    found = [kind for kind in Prediction.kinds if Prediction.choose(kind).refuses(process) is None]
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", Prediction.kinds)
def test_every_prediction_gives_the_oracles_estimate_at_every_level(kind, name):
    process = process_of(name)
    if kind not in predictions_of(process):
        assert process.no_signal_setting
        return
    denoise, model, z = through(kind, process, gaussian(M, S)), gaussian(M, S), normal(5)
    for level in {level for _, levels in walks(name, COUNTS) for level in levels[:-1]}:
        x = math.hypot(level.alpha, level.sigma) * z
        exact, found = model(x, level), denoise(x, level)
        # x0 is a difference of numbers 1 / alpha as large, eps one of numbers alpha / sigma as large
        torch.testing.assert_close(found.x0, exact.x0, rtol=1e-9, atol=1e-13 / max(level.alpha, 1e-4))
        torch.testing.assert_close(found.eps, exact.eps, rtol=1e-9, atol=1e-13 * (1 + level.alpha / level.sigma))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", KINDS)
def test_every_sampler_walks_with_every_prediction(sampler, name):
    process = process_of(name)
    kinds = predictions_of(process)
    for i, (_, levels) in enumerate(walks(name, (2, 5))):
        kind = kinds[i % len(kinds)]
        exact = generate(gaussian(M, S), sampler, levels, Stream())
        end = generate(through(kind, process, gaussian(M, S)), sampler, levels, Stream())
        assert (end - exact).abs().max() < 1e-7 * exact.abs().max().clamp(min=1), (kind, levels[:-1])


# --- the exact marginals of the SDE

FIRST_ORDER = [
    "ddpm",
    {"kind": "ddim", "eta": 1.0},
    "euler_ancestral",
    {"kind": "euler", "s_churn": 20.0},
    "predictor_corrector",
]
STOCHASTIC = [
    *FIRST_ORDER,
    "dpm_2_ancestral",
    {"kind": "dpm_2_ancestral", "middle": "exact"},
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    {"kind": "heun", "s_churn": 20.0},
    "restart",
]


@pytest.mark.parametrize("name", ["ddpm", "zero snr", "edm"])
@pytest.mark.parametrize("settings", STOCHASTIC, ids=str)
def test_stochastic_samplers_end_with_the_datas_distribution(settings, name):
    """Over many steps, the SDE that starts with the exact marginal ends with the data's mean and variance."""
    process, pixels = process_of(name), 100 * 100
    levels = Spacing.choose("trailing" if process.no_signal_setting else "log_snr").levels(process, 200)
    noise = Stream((1, 1, 100, 100))
    start = levels[0].alpha * M + math.hypot(levels[0].alpha * S, levels[0].sigma) * noise()
    end = Sampler.choose(settings).sample(gaussian(M, S), levels, start, noise)
    error_of_steps = 0.05 if settings in FIRST_ORDER else 0.02
    # five standard errors, and the error of the steps
    assert end.mean().item() == pytest.approx(M, abs=5 * S / math.sqrt(pixels) + error_of_steps * S)
    assert end.std().item() == pytest.approx(S, rel=5 / math.sqrt(2 * pixels) + error_of_steps)
