"""The data that samplers walk to, and the walks."""

import math

import pytest
import torch

from diffkit.diffusion.oracles import gaussian, gaussian_ode_end
from diffkit.diffusion.process import CLEAN, Level
from diffkit.plotting.walks import PIXELS, Mixture, walk

LEVELS = [Level(500, 0.6, 0.8), Level(0, 1.0, 40.0), Level(0, 0.0, 1.0), Level(0, 0.999, 0.01)]
X = torch.linspace(-3, 3, 13, dtype=torch.float64)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_a_single_gaussian_is_the_known_one(level):
    one = Mixture(means=(0.3,), weights=(1.0,), std=0.5)
    found, known = one.denoise(X, level), gaussian(0.3, 0.5)(X, level)
    torch.testing.assert_close(found.x0, known.x0)
    torch.testing.assert_close(found.eps, known.eps)
    inside = X * math.hypot(0.5 * level.alpha, level.sigma)  # the walk's own range: far tails round to 0 or 1
    torch.testing.assert_close(one.ode_end(inside, level), gaussian_ode_end(inside, level, 0.3, 0.5))


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_the_estimate_is_the_mean_over_all_images(level):
    """E[x0 | x] by summing over a fine grid of x0, weighed by how likely x is from each."""
    data = Mixture()
    x0 = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    x = X / 3 * math.hypot(level.alpha, level.sigma)
    log_likely = -((x[:, None] - level.alpha * x0) ** 2) / (2 * level.sigma**2) + data.density(x0, CLEAN).log()
    mean = torch.softmax(log_likely, dim=1) @ x0
    torch.testing.assert_close(data.denoise(x, level).x0, mean, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("level", [*LEVELS, CLEAN], ids=str)
def test_what_is_below_is_the_sum_of_the_density(level):
    data, width = Mixture(), 10 * math.hypot(level.alpha, level.sigma)
    x = torch.linspace(-width, width, 200_001, dtype=torch.float64)
    density = data.density(x, level)
    summed = torch.cumulative_trapezoid(density, x)
    torch.testing.assert_close(summed, data.below(x[1:], level), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", ["heun", "unipc"])
def test_fine_walks_end_where_the_exact_ode_does(tiny, sampler):
    recipe = tiny("process.steps=1000", f"sample.sampler={sampler}", "sample.steps=200", "sample.spacing=log_snr")
    done = walk(recipe, Mixture())
    assert done.exact is not None
    assert (done.x[-1] - done.exact).abs().max() < 2e-3


@pytest.mark.parametrize("process", ["ddpm", "edm", "flow"])
@pytest.mark.parametrize("sampler", ["ddpm", "restart", "dpmpp_2m"])
def test_every_call_is_recorded(tiny, process, sampler):
    recipe = tiny(f"process={process}", "objective.prediction=velocity", f"sample.sampler={sampler}")
    done = walk(recipe, Mixture())
    levels = recipe.sample.spacing.levels(recipe.process, recipe.sample.steps)
    calls = recipe.sample.sampler.calls(levels)
    assert len(done.levels) == calls + 1 and done.levels[0] == levels[0] and done.levels[-1] == CLEAN
    assert done.x.shape == (calls + 1, PIXELS)
    assert done.x[-1].abs().max() < 3
    assert (done.exact is None) == (sampler != "dpmpp_2m")
