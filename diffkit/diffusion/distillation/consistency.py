"""Consistency distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.diffusion.distillation.base import Distillation, refuses_all_but_ddim, stratified
from diffkit.diffusion.distillation.estimator import (
    Estimator,
    Places,
    noised,
    same_dropout,
    step_to,
    step_with,
    x0_of_step,
)
from diffkit.diffusion.process import Level, Process, per_image
from diffkit.diffusion.samplers.base import Sampler


class Consistency(Distillation):
    """The student learns to say the same wherever it is on a way of its teacher: the image at the way's end.

    The target at the level t is what the student itself, without a gradient, says of the next level s, to which the
    teacher takes one step of its ODE; at the end it is the image that the teacher's last step gives (Song et al. 2023,
    "Consistency models", algorithm 2; the target's weights are the student's own, as Song & Dhariwal 2024, section 3.2,
    found best). The prediction's fixed part of x keeps the boundary: at the clean end x0 is x. Sampled by
    `consistency`, with any number of steps.

    With `segments` above 1 the way is cut into as many, and the student says where each one ends (Heek et al. 2024,
    "Multistep consistency models"; Wang et al. 2024, "Phased consistency models"). Then sampled by `ddim` with a step a
    segment.
    """

    kind: Literal["consistency"] = "consistency"
    levels: int = Field(18, ge=1, le=2**20)
    """Number N of levels along the way: the steps that the teacher takes for an image."""
    segments: int = Field(1, ge=1)
    """In how many equal parts the levels are cut; a divisor of `levels`."""
    solver: Literal["euler", "heun"] = "heun"
    """The teacher's step: of the first order, or of the second with a second call. To the clean end it is of the first
    in any case."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.levels % self.segments:
            raise ValueError(f"segments = {self.segments} must divide levels = {self.levels}")
        return self

    @property
    def teacher_steps(self) -> int:
        """`levels`."""
        return self.levels

    @property
    def student_steps(self) -> int:
        """`segments`."""
        return self.segments

    def draw(self, count: int, step: int, generator: torch.Generator) -> Tensor:
        """Return which level each image learns at, all with the same chance: int64 ``[count]``."""
        return stratified(count, self.levels, generator)

    def loss(
        self, student: Estimator, teacher: Estimator, x0: Tensor, noise: Tensor, index: Tensor, step: int
    ) -> Tensor:
        """Return the weighted loss of each image ``[N]``."""
        places = self.places(student.process, x0.device)
        length = self.levels // self.segments
        last = (index // length + 1) * length
        t, s, end = places.at(index), places.at(index + 1), places.at(last)
        x = noised(x0, noise, t)
        with torch.no_grad():
            x_s = self._teachers_step(teacher, x, t, s)
            # where s ends the segment there is nothing to ask, and at the clean end it would have no answer
            there = index + 1 == last
            with same_dropout(x.device):
                says = step_to(student(x_s, places.at(torch.where(there, index, index + 1))), end)
            target = x0_of_step(x, torch.where(per_image(there, x).bool(), x_s, says), t, end)
        return student.error(x, t, target)

    def refuses_levels(self, process: Process, levels: Sequence[Level]) -> str | None:
        """Refuse other levels than the segments' first, if there are several segments."""
        return super().refuses_levels(process, levels) if self.segments > 1 else None

    def refuses_sampler(self, sampler: Sampler, levels: Sequence[Level]) -> str | None:
        """Refuse samplers that go on from an estimate of x0 otherwise than the student has learned."""
        if self.segments > 1:
            return refuses_all_but_ddim(sampler, levels)
        if sampler.kind == "consistency" or (len(levels) == 2 and not refuses_all_but_ddim(sampler, levels)):
            return None
        return f"the student estimates the ends of whole ways, and '{sampler.kind}' takes steps: use 'consistency'"

    def _teachers_step(self, teacher: Estimator, x: Tensor, t: Places, s: Places) -> Tensor:
        """Return where one step of the teacher's ODE leads, by Euler's or Heun's method.

        Both in terms of x0, which also works from nearly pure noise: DPM-Solver++(2S) with its middle point at the end
        (Lu et al. 2022, algorithm 1 with r = 1), which takes the mean of the estimates at both ends of the step.
        """
        first = teacher(x, t)
        euler = step_to(first, s)
        if self.solver == "euler":
            return euler
        can = s.sigma > 0
        there = Places(*(torch.where(can, *pair) for pair in zip(s, t, strict=True)))
        mean = (first.x0 + teacher(euler, there).x0) / 2
        return torch.where(per_image(can, x).bool(), step_with(mean, x, t, s), euler)
