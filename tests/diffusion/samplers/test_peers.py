"""Agreement with diffusers' schedulers, call by call, and the exact differences where it leaves the mathematics."""

import math
from itertools import pairwise

import pytest
import torch

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import CLEAN, Level, half_log_snr
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.samplers.polynomial import exponential_moments

diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 3, 4, 4)
COUNT = 12  # below 15 steps diffusers' multistep schedulers lower the order over the last steps, as diffkit always does
FLAT = {"final_sigmas_type": "zero", "solver_type": "midpoint", "timestep_spacing": "trailing"}


def network(x, time):
    """Any smooth function of x and time will do."""
    return torch.sin(1.3 * x + float(time) / 300) + 0.2 * x


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def vp(sigma, time):
    alpha = 1 / math.sqrt(1 + sigma**2)
    return Level(float(time), alpha, alpha * sigma)


def set_steps(scheduler, count):
    """Choose a scheduler's times, and make its float32 tables float64, so that it calculates exactly."""
    scheduler.set_timesteps(count)
    for table in ("sigmas", "sigmas_interpol", "sigmas_down", "sigmas_up"):
        if hasattr(scheduler, table):
            setattr(scheduler, table, getattr(scheduler, table).double())


def theirs(scheduler, *, scaled, count=COUNT):
    """Sample with a diffusers scheduler: return the x of each network call and the end, in VP scale.

    Args:
        scheduler: The scheduler.
        scaled: Whether its x is x / alpha.
        count: The number of steps.
    """
    set_steps(scheduler, count)
    x = start() * (scheduler.init_noise_sigma if scaled else 1)
    seen, generator = [], torch.Generator().manual_seed(1)
    takes = scheduler.step.__code__.co_varnames
    for time in scheduler.timesteps:
        seen.append(scheduler.scale_model_input(x, time))
        output = network(seen[-1], time)
        options = {"generator": generator} if "generator" in takes else {}
        x = scheduler.step(output, time, x, **options).prev_sample
    return [*seen, x]


def ours(kind, levels, first, dtype=torch.float64):
    """Sample with diffkit along levels: return the x of each network call and the end."""
    seen, generator = [], torch.Generator().manual_seed(1)

    def denoise(x, level):
        seen.append(x)
        eps = network(x, level.time)
        return Denoised((x - level.sigma * eps) / level.alpha, eps, lambda t, s: posterior(t, s).variance)

    def noise():
        return torch.randn(SHAPE, generator=generator, dtype=dtype).double()

    end = Sampler.choose(kind).sample(denoise, levels, first, noise)
    return [*seen, end]


def levels_of(scheduler):
    """Return the levels that a scheduler visits: its sigmas are sigma / alpha, in float32."""
    sigmas, times = scheduler.sigmas.double().tolist(), scheduler.timesteps.tolist()
    end = CLEAN if sigmas[-1] == 0 else vp(sigmas[-1], 0)
    return [*(vp(sigma, time) for sigma, time in zip(sigmas[:-1], times, strict=True)), end]


def assert_same(found, expected, calls=None, tolerance=1e-5):
    if calls is None:
        assert len(found) == len(expected)
    for x, y in list(zip(found, expected, strict=False))[:calls]:
        torch.testing.assert_close(x, y.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("euler", "EulerDiscreteScheduler", {}),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler", {}),
    ],
)
def test_euler(kind, name, settings):
    scheduler = getattr(diffusers, name)(timestep_spacing="linspace", **settings)
    expected = theirs(scheduler, scaled=True)
    assert_same(ours(kind, levels_of(scheduler), expected[0]), expected)


def test_heun():
    scheduler = diffusers.HeunDiscreteScheduler()
    expected = theirs(scheduler, scaled=True)
    sigmas, times = scheduler.sigmas.tolist(), scheduler.timesteps.tolist()
    levels = [*(vp(sigma, time) for sigma, time in zip(sigmas[:1] + sigmas[1:-1:2], times[::2], strict=True)), CLEAN]
    assert_same(ours("heun", levels, expected[0]), expected)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(order):
    """diffusers keeps the full order to the end: the calls up to there are the same."""
    scheduler = diffusers.LMSDiscreteScheduler()
    set_steps(scheduler, COUNT)
    x = start() * scheduler.init_noise_sigma
    expected = []
    for time in scheduler.timesteps:
        expected.append(scheduler.scale_model_input(x, time))
        x = scheduler.step(network(expected[-1], time), time, x, order=order).prev_sample
    same = COUNT + 1 - (order - 1)
    assert_same(ours({"kind": "lms", "order": order}, levels_of(scheduler), expected[0]), [*expected, x], same)


@pytest.mark.parametrize("ancestral", [False, True])
def test_dpm_2(ancestral):
    """Theirs puts the second call in the middle in log sigma, on a time between the process's own."""
    name = "KDPM2AncestralDiscreteScheduler" if ancestral else "KDPM2DiscreteScheduler"
    scheduler = getattr(diffusers, name)()
    expected = theirs(scheduler, scaled=True)
    times, sigmas = scheduler.timesteps.tolist(), sorted(set(scheduler.sigmas.tolist()), reverse=True)
    visited = [vp(sigma, time) for sigma, time in zip(sigmas[:-1], times[::2], strict=True)]
    ends = [s**2 / t if ancestral else s for t, s in pairwise(sigmas[:-1])]
    middles = [vp(math.sqrt(t * end), at) for t, end, at in zip(sigmas, ends, times[1::2], strict=False)]

    def nearest(wanted):
        return min(middles, key=lambda level: abs(half_log_snr(level) - wanted))

    kind = "dpm_2_ancestral" if ancestral else "dpm_2"
    found = ours(kind, Levels([*visited, CLEAN], nearest), expected[0])
    assert_same(found, expected, tolerance=1e-4)  # their sigma_up cancels in float32


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("dpmpp_2m", {"solver_order": 2}),
        ({"kind": "dpmpp_2m", "solver": "heun"}, {"solver_order": 2, "solver_type": "heun"}),
        ("dpmpp_2m_sde", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
        (
            {"kind": "dpmpp_2m_sde", "solver": "heun"},
            {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        ),
    ],
)
def test_dpmpp_2m(kind, settings):
    scheduler = diffusers.DPMSolverMultistepScheduler(**{**FLAT, **settings})
    expected = theirs(scheduler, scaled=False)
    dtype = torch.float32 if "algorithm_type" in settings else torch.float64
    assert_same(ours(kind, levels_of(scheduler), expected[0], dtype), expected)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("b", ["bh1", "bh2"])
def test_unipc(order, b):
    """With bh1 theirs ends in NaN: its last step multiplies an infinite B(h) by 0."""
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order, solver_type=b, final_sigmas_type="zero", timestep_spacing="trailing"
    )
    expected = theirs(scheduler, scaled=False)
    assert expected[-1].isnan().all() == (b == "bh1")
    found = ours({"kind": "unipc", "order": order, "b": b}, levels_of(scheduler), expected[0])
    assert found[-1].isfinite().all()
    assert_same(found, expected, COUNT if b == "bh1" else None)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    """Theirs ends at the noise level of time 0, not at the clean end."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, timestep_spacing="trailing")
    expected = theirs(scheduler, scaled=False)
    assert_same(ours({"kind": "deis", "order": order}, levels_of(scheduler), expected[0]), expected)


def test_ipndm():
    """Theirs takes the network's v, and keeps the fourth order to the end: the calls up to there are the same."""
    angles = [1.5 * (1 - i / COUNT) for i in range(COUNT + 1)]
    levels = [*(Level(angle, math.cos(angle), math.sin(angle)) for angle in angles[:-1]), CLEAN]
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(COUNT)
    scheduler.timesteps = torch.tensor(angles[:-1], dtype=torch.float64)
    scheduler.alphas = torch.tensor(angles, dtype=torch.float64).cos()
    scheduler.betas = torch.tensor(angles, dtype=torch.float64).sin()
    expected, x = [], start()
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        expected.append(x)
        v = (network(x, time) - level.sigma * x) / level.alpha
        x = scheduler.step(v, time, x).prev_sample
    assert_same(ours("ipndm", levels, start()), expected, COUNT - 2)


class TestWhereDiffusersDiffers:
    def test_third_order_multistep_takes_half_of_the_quadratic_term(self):
        """So their third order is second order: ours minus theirs is half of alpha_s G_2 D_2 exactly.

        D_2 is the second divided difference of x0 over tau, G_2 the integral of tau² (`exponential_moments`).
        """
        lams = [-1.0, -0.4, 0.1, 0.8]
        levels = [vp(math.exp(-lam), 0) for lam in lams]
        x, x0s = start(), [start().roll(i, 0) * (1 + i) for i in range(3)]
        scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3)
        scheduler.set_timesteps(20)
        scheduler.sigmas = torch.tensor([level.sigma / level.alpha for level in levels], dtype=torch.float64)
        scheduler._step_index = 2
        wrong = scheduler.multistep_dpm_solver_third_order_update(list(x0s), sample=x)

        given = iter(x0s)
        # the walk arrives at the third level with x, whatever came before
        seen = []

        def denoise(y, level):
            seen.append(y)
            return Denoised(next(given), y, lambda t, s: 0.0)

        far = [vp(math.exp(-lam), 0) for lam in (1.5, 2.5)]

        class Done(Exception):
            pass

        def until(y, level):
            if len(seen) == 3:
                seen.append(y)
                raise Done
            return denoise(y, level)

        with pytest.raises(Done):
            Sampler.choose("dpmpp_3m").sample(until, [*levels, *far, CLEAN], start(), None)
        t, s = levels[2], levels[3]
        right = seen[3] + s.sigma / t.sigma * (x - seen[2])
        h = lams[3] - lams[2]
        taus = [(lam - lams[2]) / h for lam in lams[:3]]
        first = (x0s[2] - x0s[1]) / (taus[2] - taus[1])
        second = (x0s[1] - x0s[0]) / (taus[1] - taus[0])
        divided = (first - second) / (taus[2] - taus[0])
        missing = s.alpha * exponential_moments(h, 3)[2] / 2 * divided
        torch.testing.assert_close(right - wrong, missing, rtol=1e-6, atol=1e-9)
        assert missing.abs().max() > 1e-3
