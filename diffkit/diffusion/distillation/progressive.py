"""Progressive distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.diffusion.distillation.base import Distillation, Phase, refuses_all_but_ddim, stratified
from diffkit.diffusion.distillation.estimator import Estimator, noised, step_to, x0_of_step
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Level, Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.errors import Problem


class Progressive(Distillation):
    """Each student learns to take two of its teacher's DDIM steps in one, and then becomes the teacher.

    ``x0 = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)`` is the target at t, where the
    teacher's two steps from x_t end at x_s (Salimans & Ho 2022, "Progressive distillation", algorithm 2). The number of
    steps is halved from `start_steps` to `end_steps`; at each halving the averaged weights become the teacher, and
    optimizer, average and learning-rate schedule begin anew. Sampled by `ddim` with `end_steps` steps. Every other
    level of the spacing `trailing` is that of half the steps; students of other spacings are sampled with `list`.
    """

    kind: Literal["progressive"] = "progressive"
    start_steps: int = Field(16, ge=2, le=2**20)
    """Number of steps of the first teacher."""
    end_steps: int = Field(2, ge=1)
    """Number of steps of the last student: `start_steps` halved once or more."""
    steps_per_halving: int = Field(ge=1)
    """Number of optimizer steps of each halving but the last, which takes all that are left of `train.steps`."""

    @classmethod
    def example_settings(cls) -> dict[str, Any]:
        """Return settings of a short training."""
        return {**super().example_settings(), "steps_per_halving": 2}

    @model_validator(mode="after")
    def _halves(self) -> Self:
        ratio, rest = divmod(self.start_steps, self.end_steps)
        if rest or ratio < 2 or ratio & (ratio - 1):
            raise ValueError(
                f"start_steps = {self.start_steps} halved again and again never comes to end_steps = {self.end_steps}: "
                f"use end_steps times a power of two, such as {4 * self.end_steps}"
            )
        return self

    @property
    def teacher_steps(self) -> int:
        """`start_steps`."""
        return self.start_steps

    @property
    def student_steps(self) -> int:
        """`end_steps`."""
        return self.end_steps

    @property
    def halvings(self) -> int:
        """How often the number of steps is halved."""
        return (self.start_steps // self.end_steps).bit_length() - 1

    def phase(self, step: int, total: int) -> Phase:
        """Return the halving of a step."""
        number = min(step // self.steps_per_halving, self.halvings - 1)
        start = number * self.steps_per_halving
        return Phase(number, start, total - start if number == self.halvings - 1 else self.steps_per_halving)

    def draw(self, count: int, step: int, generator: torch.Generator) -> Tensor:
        """Return which of the student's steps each image learns, all with the same chance: int64 ``[count]``."""
        return stratified(count, self.start_steps >> (self._halving(step) + 1), generator)

    def loss(
        self, student: Estimator, teacher: Estimator, x0: Tensor, noise: Tensor, index: Tensor, step: int
    ) -> Tensor:
        """Return the weighted loss of each image ``[N]``."""
        stride = 2 ** self._halving(step)
        table = self.places(student.process, x0.device)
        start = 2 * stride * index
        t, middle, s = (table.at(start + stride * steps) for steps in range(3))
        x = noised(x0, noise, t)
        with torch.no_grad():
            halfway = step_to(teacher(x, t), middle)
            target = x0_of_step(x, step_to(teacher(halfway, middle), s), t, s)
        return student.error(x, t, target)

    def refuses_sampler(self, sampler: Sampler, levels: Sequence[Level]) -> str | None:
        """Refuse samplers that draw noise or stop between the levels."""
        return refuses_all_but_ddim(sampler, levels)

    def problems(self, process: Process, objective: Objective, steps: int) -> list[Problem]:
        """Return what doesn't fit the rest of a recipe."""
        found = super().problems(process, objective, steps)
        least = (self.halvings - 1) * self.steps_per_halving + 1
        if steps < least:
            message = (
                f"{self.halvings} halvings, from {self.start_steps} to {self.end_steps} steps, need at least {least} "
                f"steps of training, and train.steps is {steps}: {self.halvings * self.steps_per_halving} would be as "
                "many for each"
            )
            found.append(Problem("distillation.steps_per_halving", message, self.steps_per_halving))
        return found

    def _halving(self, step: int) -> int:
        return min(step // self.steps_per_halving, self.halvings - 1)
