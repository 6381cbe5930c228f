"""Along the arc between two noises."""

import math

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st

from diffkit.diffusion.edit.interpolate import between, spherical
from diffkit.diffusion.generate import generate
from diffkit.diffusion.oracles import gaussian
from diffkit.diffusion.samplers.base import Sampler
from diffkit.testing import kinds_of


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@drawn(seed=st.integers(0, 10**6), part=st.floats(0, 1), length=st.floats(0.1, 100))
def test_on_a_sphere_it_stays_there_and_the_angle_is_divided(seed, part, length):
    a, b = (length * v / v.norm() for v in (normal(1, 2, 3, seed=seed), normal(1, 2, 3, seed=seed + 1)))
    x = spherical(a, b, torch.tensor([part], dtype=torch.float64))[0]
    assert x.norm().item() == pytest.approx(length, rel=1e-9)

    def angle(u, v):
        return math.acos(max(-1.0, min(1.0, ((u * v).sum() / length**2).item())))

    assert angle(a, x) == pytest.approx(part * angle(a, b), abs=1e-6)


def test_the_ends_are_the_two(given):
    a, b = normal(3, 4, 4, seed=1), normal(3, 4, 4, seed=2)
    both = spherical(a, b, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(both, torch.stack([a, b]), rtol=0, atol=1e-15)


def test_the_middle_of_a_right_angle():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(spherical(a, b, torch.tensor([0.5])), torch.tensor([[2.0, 2.0]]) / 2**0.5)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_without_an_arc_it_is_the_line(factor):
    a = normal(1, 2, 2, seed=3)
    x = spherical(a, factor * a, torch.tensor([0.25], dtype=torch.float64))[0]
    torch.testing.assert_close(x, (0.75 + 0.25 * factor) * a)


def test_between_two_noises_there_are_noises(given):
    noise = between(given.stream(1, 1, 100, 100, seed=1), given.stream(1, 1, 100, 100, seed=2), torch.linspace(0, 1, 5))
    for _ in range(2):
        z = noise()
        assert z.shape == (5, 1, 100, 100)
        assert z.mean(dim=(1, 2, 3)).abs().max() < 0.05 and (z.std(dim=(1, 2, 3)) - 1).abs().max() < 0.05


@pytest.mark.parametrize("sampler", kinds_of(Sampler))
def test_the_ends_are_the_images_of_the_two_streams_with_every_sampler(given, sampler):
    model, levels, shape = gaussian(mean=0.2, std=0.6), given.levels("ddpm", 10), (1, 1, 4, 4)
    parts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    done = generate(model, sampler, levels, between(given.stream(*shape, seed=1), given.stream(*shape, seed=2), parts))
    for place, seed in ((0, 1), (2, 2)):
        alone = generate(model, sampler, levels, given.stream(*shape, seed=seed))[0]
        torch.testing.assert_close(done[place], alone)
    assert not torch.allclose(done[1], done[0])
