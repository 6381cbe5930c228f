"""Progressive distillation: its target is two of the teacher's steps in one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diffkit.diffusion.distillation.estimator import Estimator
from diffkit.diffusion.distillation.progressive import Progressive
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing


def progressive(**settings):
    return Progressive.model_validate({"teacher": "t", "steps_per_halving": 10, "x0_rule": "none", **settings})


def batch(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 1, 2, 2, generator=draw, dtype=torch.float64) for _ in range(2))


def in_one(gauss, t, middle, s):
    """The factor of x0 with which one DDIM step does what two steps of the exact denoiser do, solved by hand."""
    both = gauss.step(t, middle, gauss.factor(t)) * gauss.step(middle, s, gauss.factor(middle))
    return (both - s.sigma / t.sigma) / (s.alpha - s.sigma / t.sigma * t.alpha)


@pytest.mark.parametrize("step", [0, 10, 25])
def test_a_student_that_takes_two_steps_in_one_has_no_loss(gauss, pair, step):
    process, objective = pair
    kind = progressive(start_steps=8, end_steps=1)
    stride = 2 ** min(step // 10, 2)
    levels = kind.spacing.levels(process, 8)[::stride]
    perfect = {
        round(t.time, 9): in_one(gauss, t, middle, s)
        for t, middle, s in zip(levels[:-1:2], levels[1::2], levels[2::2], strict=True)
    }
    student = gauss.linear(process, objective, lambda level: nearest(perfect, level.time))
    teacher = gauss.linear(process, objective, gauss.factor)
    index = kind.draw(16, step, torch.Generator().manual_seed(0))
    assert set(index.tolist()) == set(range(4 // stride))
    assert kind.loss(student, teacher, *batch(16), index, step).max() < 1e-9
    assert kind.loss(teacher, teacher, *batch(16), index, step).min() > 1e-6


def nearest(table, time):
    """The network sees its time in float32."""
    return table[min(table, key=lambda known: abs(known - time))]


@settings(max_examples=20)
@given(
    std=st.floats(0.1, 2),
    steps=st.integers(2, 40).map(lambda half: 2 * half),
    kind=st.sampled_from(["trailing", "linspace", "quadratic"]),
)
def test_the_target_is_where_two_steps_of_ddim_lead(gauss, std, steps, kind):
    """For any spacing: what the sampler `ddim` does in two steps, a student with the target as x0 does in one."""
    process, objective = Process.choose("ddpm"), Objective.model_validate({"prediction": "velocity"})
    levels = Spacing.choose(kind).levels(process, steps)
    teacher = gauss.linear(process, objective, lambda level: gauss.factor(level, std))
    distillation = progressive(start_steps=steps, end_steps=steps // 2, spacing=kind)
    for number in {0, steps // 2 - 1}:
        t, middle, s = levels[2 * number : 2 * number + 3]
        x0, noise = batch(1)
        x = t.alpha * x0 + t.sigma * noise
        walked = Sampler.choose("ddim").sample(teacher.at_one_level, [t, middle, s], x, torch.empty)
        target = target_of(
            distillation, gauss.linear(process, objective, lambda level: 0.0), teacher, x0, noise, number
        )
        ended = s.alpha * target + s.sigma * (x - t.alpha * target) / t.sigma
        torch.testing.assert_close(ended, walked, rtol=1e-6, atol=1e-6)


def target_of(distillation, student, teacher, x0, noise, number):
    """What the student is asked to estimate as x0."""
    found = {}

    class Spy(type(student)):
        def error(self, x, at, target):
            found["target"] = target
            return target

    spy = Spy(student.network, student.objective, student.process)
    distillation.loss(spy, teacher, x0, noise, torch.tensor([number]), 0)
    return found["target"]


def test_only_the_student_gets_a_gradient(gauss):
    process, objective = Process.choose("ddpm"), Objective.model_validate({"prediction": "velocity"})
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)

    def by_weight(x, time, labels):
        return weight * x

    def fixed(x, time, labels):
        return x

    student = Estimator(by_weight, objective, process)
    gradients = [
        torch.autograd.grad(
            progressive().loss(student, Estimator(teacher, objective, process), *batch(4), torch.arange(4), 0).sum(),
            weight,
        )[0]
        for teacher in (by_weight, fixed)
    ]
    assert gradients[0] == gradients[1] != 0


def test_phases_are_halvings_and_the_last_takes_what_is_left():
    kind = progressive(start_steps=16, end_steps=2, steps_per_halving=10)
    assert kind.halvings == 3
    phases = [kind.phase(step, 50) for step in range(50)]
    assert [(p.number, p.start, p.steps) for p in dict.fromkeys(phases)] == [(0, 0, 10), (1, 10, 10), (2, 20, 30)]
    assert phases[19].number == 1
    assert phases[49].number == 2


@given(count=st.integers(1, 200), step=st.integers(0, 60), seed=st.integers(0, 2**31))
def test_each_of_the_students_steps_is_drawn_equally_often(count, step, seed):
    kind = progressive(start_steps=16, end_steps=2, steps_per_halving=10)
    students = 8 >> min(step // 10, 2)
    drawn = torch.bincount(kind.draw(count, step, torch.Generator().manual_seed(seed)), minlength=students)
    assert len(drawn) == students
    assert drawn.max() - drawn.min() <= 2
    assert drawn.min() >= math.floor(count / students) - 1


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_the_students_levels_are_those_of_trailing_with_fewer_steps(pair, sampler):
    process, _ = pair
    kind = progressive(start_steps=16, end_steps=2)
    assert kind.refuses_walk(process, Sampler.choose(sampler), Spacing.choose("trailing"), 2) is None


@pytest.mark.parametrize(
    ("sampler", "spacing", "steps", "reason"),
    [
        (
            "ddim",
            "trailing",
            4,
            "the student only knows 2 steps, from the times 63, 31 to the clean end: set steps = 2",
        ),
        ("ddim", "linspace", 2, 'spacing = { kind = "list", times = [63, 31] }, or a spacing that visits the same'),
        ("ddim", {"kind": "trailing", "end": "least"}, 2, "to the clean end"),
        ({"kind": "ddim", "eta": 1.0}, "trailing", 2, "the steps of 'ddim', not of 'ddim' with these settings: use"),
        ("heun", "trailing", 2, "has learned the steps of 'ddim', not of 'heun'"),
        ("consistency", "trailing", 2, "not of 'consistency'"),
    ],
)
def test_other_walks_are_refused(sampler, spacing, steps, reason):
    process = Process.choose({"kind": "ddpm", "steps": 64})
    kind = progressive(start_steps=16, end_steps=2)
    assert reason in kind.refuses_walk(process, Sampler.choose(sampler), Spacing.choose(spacing), steps)


def test_the_list_that_the_message_says_is_right():
    process, sampler = Process.choose("edm"), Sampler.choose("ddim")
    kind = progressive(start_steps=16, end_steps=2, spacing="karras")
    reason = kind.refuses_walk(process, sampler, Spacing.choose("karras"), 2)
    times = [float(time) for time in reason.partition("times = [")[2].partition("]")[0].split(",")]
    assert times[0] == 80
    assert kind.refuses_walk(process, sampler, Spacing.choose({"kind": "list", "times": times}), 2) is None


def test_a_spacing_that_does_not_fit_is_another_problem():
    kind, few = progressive(start_steps=16, end_steps=2), Process.choose({"kind": "ddpm", "steps": 8})
    assert kind.refuses_walk(few, Sampler.choose("ddim"), Spacing.choose("trailing"), 2) is None
    (problem,) = kind.problems(few, Objective.model_validate({"prediction": "velocity"}), 30)
    assert problem.key == "distillation.spacing"
    assert problem.message == "the process has 8 times, so at most 8 steps can be taken"


@pytest.mark.parametrize(("start", "end"), [(16, 3), (12, 4), (4, 4), (2, 4)])
def test_steps_that_no_halving_reaches(start, end):
    with pytest.raises(ValidationError, match=f"start_steps = {start} halved .* comes to end_steps = {end}: use"):
        progressive(start_steps=start, end_steps=end)


def test_problems_have_the_recipes_keys():
    objective = Objective.model_validate({"self_conditioning": True, "input_perturbation": 0.1})
    kind = progressive(spacing={"kind": "trailing", "end": "least"})
    problems = kind.problems(Process.choose("ddpm"), objective, 20)
    assert [problem.key for problem in problems] == [
        "objective.prediction",
        "objective.self_conditioning",
        "objective.input_perturbation",
        "distillation.spacing",
        "distillation.steps_per_halving",
    ]
    assert "need at least 21 steps of training, and train.steps is 20: 30 would be as many" in problems[-1].message
