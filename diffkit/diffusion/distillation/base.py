"""The family of distillations."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.distillation.estimator import Estimator, Places
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Level, Process, for_everyone
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.errors import Problem
from diffkit.spec import Component, FilePath


@dataclass(frozen=True)
class Phase:
    """A part of a training with one teacher.

    Attributes:
        number: Which it is, from 0.
        start: The step that it begins with.
        steps: How many steps it has.
    """

    number: int
    start: int
    steps: int


class Distillation(Component):
    """How a student learns from a teacher to make images in few steps.

    The student has the teacher's network, process and prediction, and starts from its averaged weights. Its error is
    measured as in all training: by `objective.loss` in what the network outputs, weighted by `objective.weighting`.
    A kind draws its own times: `objective.time_sampling` has no say.
    """

    family = "distillation"

    teacher: FilePath
    """Run folder, checkpoint folder or weights file of the teacher, whose averaged weights count."""
    guidance: float = 1.0
    """The weight w of classifier-free guidance that the teacher is sampled with. The student learns the guided images,
    and is sampled without guidance itself. 1 for none."""
    x0_rule: X0Rule = Field("clip", validate_default=True)
    """What happens to the x0 that the teacher estimates."""
    spacing: Spacing = Field("trailing", validate_default=True)
    """Which times the teacher's steps start at."""

    @classmethod
    def example_settings(cls) -> dict[str, Any]:
        """Return a teacher that isn't there: nothing reads it before training starts."""
        return {"teacher": "runs/example"}

    @abstractmethod
    def draw(self, count: int, step: int, generator: torch.Generator) -> Tensor:
        """Return which of the levels each image of a step learns at: int64 ``[count]``, on the generator's device."""

    @abstractmethod
    def loss(
        self, student: Estimator, teacher: Estimator, x0: Tensor, noise: Tensor, index: Tensor, step: int
    ) -> Tensor:
        """Return the weighted loss of each image ``[N]``; their mean is what training lowers.

        Args:
            student: The network that is trained.
            teacher: The teacher of the step's phase. It has no gradient.
            x0: Images ``[N, C, H, W]`` in [-1, 1].
            noise: Standard normal noise of the same shape.
            index: What `draw` drew for these images.
            step: Number of steps taken before this one.
        """

    @property
    @abstractmethod
    def teacher_steps(self) -> int:
        """Number of steps that the first teacher takes from noise to image: those of the spacing."""

    @property
    @abstractmethod
    def student_steps(self) -> int:
        """Number of steps that the finished student takes: a divisor of the teacher's."""

    @abstractmethod
    def refuses_sampler(self, sampler: Sampler, levels: Sequence[Level]) -> str | None:
        """Return why the finished student cannot be sampled so along its own levels, and what to do; None if it can."""

    def refuses_levels(self, process: Process, levels: Sequence[Level]) -> str | None:
        """Return why the finished student cannot be sampled along these levels, and what to do; None if it can.

        By default it knows the levels at which its own steps start only.
        """
        times = list(self.spacing.visited(process, self.teacher_steps)[:: self.teacher_steps // self.student_steps])
        known = [process.level(time) for time in times]
        if len(levels) - 1 == len(known) and levels[-1].sigma == 0 and all(map(_same, levels[:-1], known)):
            return None
        written = ", ".join(map(repr, times))
        return (
            f"the student only knows {len(times)} steps, from the times {written} to the clean end: set steps = "
            f'{len(times)} and spacing = {{ kind = "list", times = [{written}] }}, or a spacing that visits the same'
        )

    def refuses_walk(self, process: Process, sampler: Sampler, spacing: Spacing, steps: int) -> str | None:
        """Return why the finished student cannot be sampled so, and what to do.

        None if it can, and also if the spacings themselves don't fit the process: that is another problem.
        """
        if spacing.refuses(process, steps) or self._refuses_spacing(process):
            return None
        levels = spacing.levels(process, steps)
        return self.refuses_levels(process, levels) or self.refuses_sampler(sampler, levels)

    def places(self, process: Process, device: torch.device) -> Places:
        """Return the levels at which the first teacher's steps start, and the clean end: ``teacher_steps + 1`` in all.

        Made once: copying them to a device at each step would make it wait.
        """
        return _places(self.spacing, process, self.teacher_steps, device)

    def phase(self, step: int, total: int) -> Phase:
        """Return the phase of a step.

        At the start of each but the first one, the student's averaged weights become the teacher, and the student goes
        on from them with a new optimizer, a new average and the learning-rate schedule from its start.

        Args:
            step: Number of steps taken before.
            total: Number of steps of the whole run.
        """
        return Phase(0, 0, total)

    def problems(self, process: Process, objective: Objective, steps: int) -> list[Problem]:
        """Return what doesn't fit the rest of a recipe, with keys of the recipe.

        Args:
            process: The recipe's process.
            objective: Its objective.
            steps: Number of steps of the training.
        """
        found = []
        prediction = objective.prediction
        if prediction.needs_signal:
            message = (
                f"a student's few steps start where hardly anything is left of the image, and '{prediction.kind}' says "
                "nothing of it there: train a teacher with 'velocity', 'edm', 'flow' or 'data'"
            )
            found.append(Problem("objective.prediction", message, prediction.kind))
        if objective.self_conditioning:
            message = "a student takes too few steps to gain from its last estimate: use a teacher without it"
            found.append(Problem("objective.self_conditioning", message, True))
        if objective.input_perturbation:
            message = "a student learns its teacher's answers, not the noise: leave this out"
            found.append(Problem("objective.input_perturbation", message, objective.input_perturbation))
        if reason := self._refuses_spacing(process):
            found.append(Problem("distillation.spacing", reason, self.spacing.kind))
        return found

    def _refuses_spacing(self, process: Process) -> str | None:
        if reason := self.spacing.refuses(process, self.teacher_steps):
            return reason
        return None if self.spacing.end == "clean" else 'the last step ends at the image itself: set end = "clean"'


@functools.lru_cache(maxsize=16)
def _places(spacing: Spacing, process: Process, count: int, device: torch.device) -> Places:
    with for_everyone():
        return Places.of(spacing.levels(process, count), device)


def _same(one: Level, other: Level) -> bool:
    return all(math.isclose(*pair, rel_tol=1e-9) for pair in ((one.alpha, other.alpha), (one.sigma, other.sigma)))


def stratified(count: int, kinds: int, generator: torch.Generator) -> Tensor:
    """Draw one of so many kinds for each image, evenly spread over a batch: int64 ``[count]``.

    Each has the same chance; ``floor(kinds ((u + i / count) mod 1))`` with one uniform u for the batch, as the time
    sampling `stratified` does.
    """
    device = generator.device
    start = torch.rand((), generator=generator, device=device, dtype=torch.float64)
    parts = (start + torch.arange(count, device=device, dtype=torch.float64) / count) % 1
    return (parts * kinds).long().clamp(max=kinds - 1)


def refuses_all_but_ddim(sampler: Sampler, levels: Sequence[Level]) -> str | None:
    """Return that a sampler draws noise, or asks at other levels than those where its steps start; None if neither."""
    if sampler.levels_called(levels) == list(levels[:-1]) and sampler.is_deterministic(levels):
        return None
    return f"the student has learned the steps of 'ddim', not of '{sampler.kind}' with these settings: use 'ddim'"
