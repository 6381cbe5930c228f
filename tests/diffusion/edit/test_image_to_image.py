"""SDEdit: from a level of the walk on."""

import pytest
import torch

from diffkit.diffusion.edit.image_to_image import image_to_image, last_part
from diffkit.diffusion.generate import generate
from diffkit.diffusion.oracles import constant_noise, gaussian
from diffkit.diffusion.samplers.base import Sampler
from diffkit.testing import kinds_of

SHAPE = (2, 1, 2, 2)
MODEL = gaussian(mean=0.2, std=0.6)


@pytest.mark.parametrize("sampler", kinds_of(Sampler))
def test_strength_1_is_plain_sampling(given, process, sampler):
    levels = given.levels(process, 10)
    images = torch.rand(SHAPE)
    done = image_to_image(MODEL, sampler, levels, images, given.stream(*SHAPE), 1.0)
    assert torch.equal(done, generate(MODEL, sampler, levels, given.stream(*SHAPE)))


@pytest.mark.parametrize("kind", ["ddim", "heun", "dpmpp_2m", "unipc", "dpm_2"])
@pytest.mark.parametrize("strength", [0.05, 0.3, 0.9])
def test_a_model_that_sees_the_noise_removes_it(given, process, kind, strength):
    levels = given.levels(process, 20)
    images = torch.rand(SHAPE, dtype=torch.float64)
    z = given.stream(*SHAPE)()
    done = image_to_image(constant_noise(z), Sampler.choose(kind), levels, images, given.stream(*SHAPE), strength)
    torch.testing.assert_close(done, images)


@pytest.mark.parametrize("strength", [0.02, 0.2, 0.4, 0.6, 0.98])
def test_what_is_left_of_an_image_is_what_bayes_rule_says(given, process, strength):
    """The mean of p(x0 | x_t) over the noise: 0.2 + (0.9 - 0.2) alpha² 0.6² / (alpha² 0.6² + sigma²)."""
    levels, shape = given.levels(process, 100), (1, 1, 100, 100)
    images = torch.full(shape, 0.9, dtype=torch.float64)
    done = image_to_image(MODEL, Sampler.choose("ddpm"), levels, images, given.stream(*shape), strength)
    start = last_part(levels, strength)[0]
    signal = (0.6 * start.alpha) ** 2
    assert done.mean().item() == pytest.approx(0.2 + 0.7 * signal / (signal + start.sigma**2), abs=0.03)


@pytest.mark.parametrize(("strength", "steps"), [(0.001, 1), (0.1, 1), (0.26, 3), (0.5, 5), (0.99, 10), (1, 10)])
def test_so_many_steps_are_taken(given, strength, steps):
    levels = given.levels("ddpm", 10)
    part = last_part(levels, strength)
    assert part == levels[10 - steps :]
    assert part.nearest(0.0) == levels.nearest(0.0), "solvers still find levels in between"


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.001, float("nan")])
def test_other_strengths_are_refused(given, strength):
    with pytest.raises(ValueError, match="should be above 0 and at most 1"):
        image_to_image(MODEL, Sampler.choose("ddim"), given.levels("ddpm", 10), torch.zeros(SHAPE), None, strength)
