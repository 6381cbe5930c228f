"""Distillation of trajectories: the target is where the teacher's walk leads."""

import pytest
import torch

from diffkit.diffusion.distillation.estimator import Places, walk
from diffkit.diffusion.distillation.trajectory import Trajectory
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing


def trajectory(**settings):
    return Trajectory.model_validate({"teacher": "t", "x0_rule": "none", **settings})


def batch(count):
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(count, 1, 2, 2, generator=draw, dtype=torch.float64) for _ in range(2))


def everywhere(levels, count):
    return [Places.of([level] * count, torch.device("cpu")) for level in levels]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_walk_is_that_of_the_sampler(gauss, pair, count):
    process, objective = pair
    teacher = gauss.linear(process, objective, gauss.factor)
    levels = Spacing.choose("trailing").levels(process, count)
    x, _ = batch(2)
    expected = Sampler.choose("dpmpp_2m").sample(teacher.at_one_level, levels, x, torch.empty)
    torch.testing.assert_close(walk(teacher, x, everywhere(levels, 2)), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_student_that_ends_where_the_walk_does_has_no_loss(gauss, pair, steps):
    process, objective = pair
    kind = trajectory(steps=steps, calls=4)
    teacher = gauss.linear(process, objective, gauss.factor)
    levels = kind.spacing.levels(process, 4 * steps)
    known = {}
    for number in range(0, 4 * steps, 4):
        t, end = levels[number], levels[number + 4]
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        x = walk(teacher, one, everywhere(levels[number : number + 5], 1)).item()
        known[t.time] = (x - end.sigma / t.sigma) / (end.alpha - end.sigma / t.sigma * t.alpha)
    student = gauss.linear(process, objective, lambda level: known[min(known, key=lambda t: abs(t - level.time))])
    index = kind.draw(8, 0, torch.Generator().manual_seed(0))
    assert set(index.tolist()) == set(range(steps))
    assert kind.loss(student, teacher, *batch(8), index, 0).max() < 1e-9
    assert kind.loss(teacher, teacher, *batch(8), index, 0).min() > 1e-7


def test_it_is_sampled_by_ddim_along_its_own_levels():
    process, kind = Process.choose("ddpm"), trajectory()
    assert kind.refuses_walk(process, Sampler.choose("ddim"), Spacing.choose("trailing"), 2) is None
    assert "from the times 999, 499" in kind.refuses_walk(
        process, Sampler.choose("ddim"), Spacing.choose("linspace"), 2
    )
    assert "not of 'heun'" in kind.refuses_walk(process, Sampler.choose("heun"), Spacing.choose("trailing"), 2)
