"""RePaint: the known pixels stay, the others come to fit them."""

from itertools import pairwise

import pytest
import torch

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.edit.inpaint import inpaint, walk
from diffkit.diffusion.generate import generate
from diffkit.diffusion.oracles import gaussian
from diffkit.diffusion.posterior import posterior, transition
from diffkit.diffusion.samplers.base import Sampler

MODEL = gaussian(mean=0.2, std=0.6)


def mask(*pixels):
    return torch.tensor(pixels).view(1, 1, 1, -1)


def test_without_a_hole_the_image_comes_back_exactly(given, process):
    images = torch.rand(2, 3, 1, 2)
    known = mask(False, False)
    done = inpaint(MODEL, given.levels(process, 7), images, known, given.stream(2, 3, 1, 2), jump=2, repetitions=3)
    assert torch.equal(done, images.double())


def test_around_the_hole_the_image_comes_back_exactly_and_what_was_in_it_has_no_influence(given, process):
    images = torch.rand(2, 3, 1, 2, dtype=torch.float64)
    levels, hole = given.levels(process, 7), mask(False, True)
    one, other = (
        inpaint(MODEL, levels, torch.where(hole, filling, images), hole, given.stream(2, 3, 1, 2), jump=2)
        for filling in (0.0, 9.0)
    )
    assert torch.equal(one[..., 0], images[..., 0])
    assert torch.equal(one, other)


def test_an_image_that_is_all_hole_is_sampled_by_the_ancestral_sampler(given, process):
    levels, shape = given.levels(process, 7), (4, 1, 1, 2)
    hole = mask(True, True)
    done = inpaint(MODEL, levels, torch.zeros(shape), hole, given.stream(*shape), repetitions=1)
    assert torch.equal(done, generate(MODEL, Sampler.choose("ddpm"), levels, given.stream(*shape)))


def exact_variance(t, s):
    """The variance of p(x_s | x_t) for pixels that are N(., 0.6²): Bayes' rule."""
    alpha, variance = transition(t, s)
    return 1 / (1 / ((0.6 * s.alpha) ** 2 + s.sigma**2) + alpha**2 / variance)


@pytest.mark.parametrize("repetitions", [1, 4])
def test_what_is_all_hole_keeps_the_distribution_however_often_steps_are_taken(given, process, repetitions):
    """With the exact step back, and noise up by q(x_t | x_s), the marginals stay what they are.

    The last step gives the mean of p(x0 | x_t), whose deviation is a little less than the data's.
    """
    model = gaussian(mean=0.2, std=0.6, variance=exact_variance)
    levels, shape = given.levels(process, 20), (20_000, 1, 1, 1)
    done = inpaint(model, levels, torch.zeros(shape), mask(True), given.stream(*shape), jump=4, repetitions=repetitions)
    assert done.mean().item() == pytest.approx(0.2, abs=0.02)
    signal = (0.6 * levels[-2].alpha) ** 2
    assert done.std().item() == pytest.approx(0.6 * (signal / (signal + levels[-2].sigma ** 2)) ** 0.5, abs=0.015)


def correlated(covariance):
    """The model of two pixels that are N(0, covariance), its answer in closed form."""
    unit = torch.eye(2, dtype=torch.float64)

    def denoise(x, level):
        gain = level.alpha * covariance @ torch.linalg.inv(level.alpha**2 * covariance + level.sigma**2 * unit)
        x0 = (x.flatten(1) @ gain.T).view_as(x)
        return Denoised(x0, (x - level.alpha * x0) / level.sigma, lambda t, s: posterior(t, s).variance)

    return denoise


def test_the_hole_comes_to_fit_what_is_known_the_oftener_steps_are_taken(given, process):
    """Of two pixels with correlation 0.8, the one given 1.5 has the mean 1.2.

    Every move is linear, so the mean over the noise is what comes out without any.
    """
    model = correlated(torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64))
    levels, images = given.levels(process, 100), torch.full((1, 1, 1, 2), 1.5, dtype=torch.float64)
    too_low = [
        1.2
        - inpaint(model, levels, images, mask(False, True), lambda: torch.zeros_like(images), repetitions=r)[0, 0, 0, 1]
        for r in (1, 4, 20)
    ]
    assert too_low[0] > 0.4, "merely filled along the way, the hole knows little of the image"
    assert too_low == sorted(too_low, reverse=True)
    assert 0 < too_low[-1] < 0.04


@pytest.mark.parametrize("steps", [1, 2, 6, 11, 50])
@pytest.mark.parametrize("jump", [1, 2, 5, 100])
@pytest.mark.parametrize("repetitions", [1, 3])
def test_each_step_but_the_last_is_taken_so_often(steps, jump, repetitions):
    moves = list(walk(steps, jump, repetitions))
    assert moves[0][0] == 0 and moves[-1] == (steps - 1, steps)
    assert all(before[1] == after[0] for before, after in pairwise(moves))
    down = [move for move in moves if move[0] < move[1]]
    for start in range(steps - 1):
        assert down.count((start, start + 1)) == repetitions
    assert down.count((steps - 1, steps)) == 1 and all(end - start == 1 for start, end in down)
    assert all(start - end <= jump for start, end in moves if start > end)


def test_the_moves_written_out():
    assert list(walk(6, 2, 2)) == [
        *[(0, 1), (1, 0), (0, 1)],
        *[(1, 2), (2, 3), (3, 1), (1, 2), (2, 3)],
        *[(3, 4), (4, 5), (5, 3), (3, 4), (4, 5)],
        (5, 6),
    ]


def test_the_papers_jump_by_default():
    assert list(walk(250, None, 10)) == list(walk(250, 10, 10))
    assert list(walk(5, None, 2)) == list(walk(5, 1, 2))
