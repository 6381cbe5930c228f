"""DDIM inversion: up the ODE, and back."""

from itertools import pairwise

import pytest
import torch

from diffkit.diffusion.edit.invert import invert, reconstruction_error
from diffkit.diffusion.oracles import constant_noise, gaussian, gaussian_ode_end, one_point
from diffkit.diffusion.process import CLEAN
from diffkit.diffusion.samplers.base import Sampler
from diffkit.testing import kinds_of

IMAGES = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 1, 2, 2)
MEAN, STD = 0.1, 0.5
MODEL = gaussian(MEAN, STD)
DDIM = Sampler.choose("ddim")


def test_a_model_that_sees_one_noise_is_inverted_exactly(given, process):
    z, levels = given.stream(2, 1, 2, 2)(), given.levels(process, 10)[1:]  # its eps cannot be read off pure noise
    found = invert(constant_noise(z), levels, IMAGES)
    torch.testing.assert_close(found, levels[0].alpha * IMAGES + levels[0].sigma * z)
    torch.testing.assert_close(DDIM.sample(constant_noise(z), levels, found, None), IMAGES)


def test_the_one_image_that_a_model_knows_comes_back(given, process):
    levels = given.levels(process, 10)
    torch.testing.assert_close(
        DDIM.sample(one_point(IMAGES), levels, invert(one_point(IMAGES), levels, IMAGES), None), IMAGES
    )


def test_the_error_of_the_way_there_and_back_falls_with_the_first_power_of_the_steps(given, process):
    errors = []
    for count in (50, 100, 200):
        levels = given.levels(process, count)
        back = DDIM.sample(MODEL, levels, invert(MODEL, levels, IMAGES), None)
        errors.append(reconstruction_error(IMAGES, back).max().item())
    for error, half in pairwise(errors):
        assert error / half == pytest.approx(2, abs=0.3)


def test_the_noise_converges_to_the_one_of_the_ode(given, process):
    """The exact ODE takes the exact noise to the image."""
    errors = []
    for count in (100, 400):
        levels = given.levels(process, count)
        exact = gaussian_ode_end(invert(MODEL, levels, IMAGES), levels[0], MEAN, STD)
        errors.append(reconstruction_error(IMAGES, exact).max().item())
    assert errors[1] < 0.01 and errors[0] / errors[1] > 3


@pytest.mark.parametrize("kind", ["heun", "dpmpp_2m", "unipc"])
def test_any_deterministic_sampler_leads_back(given, process, kind):
    levels = given.levels(process, 400)
    back = Sampler.choose(kind).sample(MODEL, levels, invert(MODEL, levels, IMAGES), None)
    assert reconstruction_error(IMAGES, back).max() < 0.01


def test_one_step_works_unless_it_leads_to_pure_noise(given):
    assert invert(MODEL, given.levels("ddpm", 1), IMAGES).isfinite().all()
    with pytest.raises(ValueError, match="at least 2 steps must be taken"):
        invert(MODEL, given.levels("flow", 1), IMAGES)
    assert invert(MODEL, given.levels("flow", 2), IMAGES).isfinite().all()


def test_the_network_is_never_asked_at_the_clean_end(given, process):
    asked = []

    def watched(x, level):
        asked.append(level)
        return MODEL(x, level)

    levels = given.levels(process, 5)
    invert(watched, levels, IMAGES)
    assert CLEAN not in asked and len(asked) == 5
    assert asked == [levels[4], *reversed(levels[1:5])]


def test_the_error_is_a_root_mean_square():
    one, other = torch.zeros(2, 1, 1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert reconstruction_error(one, other).tolist() == pytest.approx([12.5**0.5, 0])


@pytest.mark.parametrize("sampler", kinds_of(Sampler))
def test_which_samplers_add_noise(given, sampler):
    levels, deterministic = given.levels("ddpm", 10), sampler.is_deterministic(given.levels("ddpm", 10))
    one, other = (sampler.sample(MODEL, levels, IMAGES, given.stream(2, 1, 2, 2, seed=seed)) for seed in (1, 2))
    assert deterministic == torch.equal(one, other)
