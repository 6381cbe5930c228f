"""Consistency distillation: the function that is the same along a way has no loss."""

import math

import pytest
import torch
from pydantic import ValidationError

from diffkit.diffusion.distillation.consistency import Consistency
from diffkit.diffusion.distillation.estimator import Estimator
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.oracles import gaussian_ode_end
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing


def consistency(**settings):
    return Consistency.model_validate({"teacher": "t", "x0_rule": "none", **settings})


def batch(count):
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(count, 1, 2, 2, generator=draw, dtype=torch.float64) for _ in range(2))


def teachers_step(gauss, t, s, solver):
    """Where a step of the ODE of the exact denoiser takes x = 1, with the mean of x0 for Heun's."""
    euler = gauss.step(t, s, gauss.factor(t))
    if solver == "euler" or s.sigma == 0:
        return euler
    return gauss.step(t, s, (gauss.factor(t) + gauss.factor(s) * euler) / 2)


def ends(gauss, levels, segments, solver):
    """For each level, the factor of x0 with which one DDIM step leads to where the teacher's steps end the segment."""
    length = (len(levels) - 1) // segments
    factors = {}
    for number, t in enumerate(levels[:-1]):
        last = (number // length + 1) * length
        x = 1.0
        for a, b in zip(levels[number:last], levels[number + 1 : last + 1], strict=True):
            x *= teachers_step(gauss, a, b, solver)
        end = levels[last]
        factors[t.time] = (x - end.sigma / t.sigma) / (end.alpha - end.sigma / t.sigma * t.alpha)
    return factors


@pytest.mark.parametrize("segments", [1, 2, 4])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_student_that_is_the_same_along_the_way_has_no_loss(gauss, pair, solver, segments):
    process, objective = pair
    kind = consistency(levels=8, segments=segments, solver=solver)
    known = ends(gauss, kind.spacing.levels(process, 8), segments, solver)
    student = gauss.linear(process, objective, lambda level: known[min(known, key=lambda t: abs(t - level.time))])
    teacher = gauss.linear(process, objective, gauss.factor)
    index = kind.draw(8, 0, torch.Generator().manual_seed(0))
    assert sorted(index.tolist()) == list(range(8))
    loss = kind.loss(student, teacher, *batch(8), index, 0)
    assert loss.max() < 1e-9
    elsewhere = kind.loss(teacher, teacher, *batch(8), index, 0)
    ends_here = (index + 1) % (8 // segments) == 0
    if solver == "euler":  # the teacher itself is right where one of its steps is all that is left
        assert elsewhere[ends_here].max() < 1e-9
    assert elsewhere[~ends_here].min() > 1e-7


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_end_of_the_ode_is_approached_with_the_levels(gauss, solver, order):
    """The loss of the exact consistency function is the square of the teacher's error of one step, of its order + 1."""
    process, objective = Process.choose("edm"), Objective.model_validate({"prediction": "edm"})
    student = gauss.linear(
        process, objective, lambda level: gaussian_ode_end(torch.tensor(1.0), level, 0.0, gauss.std).item()
    )
    teacher = gauss.linear(process, objective, gauss.factor)
    losses = []
    for levels in (65, 129):
        kind = consistency(levels=levels, solver=solver, spacing="log_snr")
        # at sigma = 0.4, in the middle of the way from 80 to 0.002
        losses.append(kind.loss(student, teacher, *batch(1), torch.tensor([levels // 2]), 0).item())
    assert math.log2(losses[0] / losses[1]) / 2 == pytest.approx(order + 1, abs=0.2)


def test_the_target_sees_the_same_dropout():
    process, objective = Process.choose("edm"), Objective.model_validate({"prediction": "edm"})
    masks = []

    def network(x, time, labels):
        masks.append(torch.rand(3))
        return 0 * x

    student, teacher = (Estimator(one, objective, process) for one in (network, lambda x, time, labels: x))
    torch.manual_seed(0)
    consistency(levels=4, solver="euler").loss(student, teacher, *batch(2), torch.tensor([0, 1]), 0)
    assert len(masks) == 2
    assert torch.equal(*masks)


def test_it_is_sampled_by_the_consistency_sampler_with_any_steps():
    process, kind = Process.choose("ddpm"), consistency()
    for steps in (1, 2, 7):
        assert kind.refuses_walk(process, Sampler.choose("consistency"), Spacing.choose("trailing"), steps) is None
    assert kind.refuses_walk(process, Sampler.choose("ddim"), Spacing.choose("trailing"), 1) is None
    for sampler in ("ddim", "heun", "ddpm"):
        reason = kind.refuses_walk(process, Sampler.choose(sampler), Spacing.choose("trailing"), 2)
        assert f"the student estimates the ends of whole ways, and '{sampler}' takes steps: use 'consistency'" == reason


def test_segments_are_sampled_by_ddim_with_a_step_each():
    process, kind = Process.choose("ddpm"), consistency(levels=18, segments=2)
    assert kind.refuses_walk(process, Sampler.choose("ddim"), Spacing.choose("trailing"), 2) is None
    assert "from the times 999, 499" in kind.refuses_walk(
        process, Sampler.choose("ddim"), Spacing.choose("trailing"), 3
    )
    assert "not of 'consistency'" in kind.refuses_walk(
        process, Sampler.choose("consistency"), Spacing.choose("trailing"), 2
    )


def test_segments_must_divide_the_levels():
    with pytest.raises(ValidationError, match="segments = 4 must divide levels = 18"):
        consistency(segments=4)
