"""Distillation of pieces of the teacher's trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.distillation.base import Distillation, refuses_all_but_ddim, stratified
from diffkit.diffusion.distillation.estimator import Estimator, noised, walk, x0_of_step
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Sampler


class Trajectory(Distillation):
    """Each of the student's steps learns where many of the teacher's lead: the pieces of a way at once.

    For a single step it is the distillation of pairs of noise and image (Luhman & Luhman 2021, "Knowledge distillation
    in iterative generative models"); later steps start from images with noise. Against `progressive`, all training goes
    into the student that is wanted, and no error is handed on; but each step of training costs `calls` calls of the
    teacher, which pays for few steps only. The teacher walks by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2). Sampled
    by `ddim` with `steps` steps.
    """

    kind: Literal["trajectory"] = "trajectory"
    steps: int = Field(2, ge=1, le=2**20)
    """Number of the student's steps."""
    calls: int = Field(5, ge=1, le=1000)
    """Number of the teacher's steps for one of the student's: the spacing has `steps` times as many."""

    @property
    def teacher_steps(self) -> int:
        """``steps calls``."""
        return self.steps * self.calls

    @property
    def student_steps(self) -> int:
        """`steps`."""
        return self.steps

    def draw(self, count: int, step: int, generator: torch.Generator) -> Tensor:
        """Return which of the student's steps each image learns, all with the same chance: int64 ``[count]``."""
        return stratified(count, self.steps, generator)

    def loss(
        self, student: Estimator, teacher: Estimator, x0: Tensor, noise: Tensor, index: Tensor, step: int
    ) -> Tensor:
        """Return the weighted loss of each image ``[N]``."""
        places = self.places(student.process, x0.device)
        first, last = self.calls * index, self.calls * (index + 1)
        x = noised(x0, noise, places.at(first))
        with torch.no_grad():
            end = walk(teacher, x, [places.at(first + number) for number in range(self.calls + 1)])
            target = x0_of_step(x, end, places.at(first), places.at(last))
        return student.error(x, places.at(first), target)

    def refuses_sampler(self, sampler: Sampler, levels: Sequence[Level]) -> str | None:
        """Refuse samplers that draw noise or stop between the levels."""
        return refuses_all_but_ddim(sampler, levels)
