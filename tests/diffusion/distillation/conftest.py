"""Networks whose answers are known exactly: of data whose pixels are independent and N(0, std²)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from diffkit.diffusion.distillation.estimator import Estimator, Places
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Level, Process

STD = 0.5

PAIRS = {
    "ddpm": ({"kind": "ddpm", "steps": 64, "schedule": "cosine"}, "velocity"),
    "edm": ({"kind": "edm"}, "edm"),
    "flow": ({"kind": "flow"}, "flow"),
    "data": ({"kind": "ddpm", "steps": 64}, "data"),
}


def factor(level: Level, std: float = STD) -> float:
    """E[x0 | x] = factor x."""
    return level.alpha * std**2 / (level.alpha**2 * std**2 + level.sigma**2)


def step(level: Level, end: Level, factor_of_x0: float) -> float:
    """Where one DDIM step with x0 = factor x takes x = 1."""
    return end.alpha * factor_of_x0 + end.sigma * (1 - level.alpha * factor_of_x0) / level.sigma


def linear(process: Process, objective: Objective, factors: Callable[[Level], float], **settings: object) -> Estimator:
    """An estimator whose network says x0 = factors(level) x, at the level that it finds by the time it sees."""

    def network(shown, time, labels, vector=None):
        levels = [_level(process, t.item()) for t in time]
        at = Places.of(levels, shown.device)
        scale = process.input_scale(at.alpha, at.sigma)
        alpha, sigma, c = (
            value.view(-1, 1, 1, 1) for value in (at.alpha, at.sigma, torch.ones(1) if scale is None else scale)
        )
        x = shown / c
        x0 = torch.tensor([factors(level) for level in levels], dtype=torch.float64).view(-1, 1, 1, 1) * x
        return objective.prediction.target(x0, (x - alpha * x0) / sigma, alpha, sigma)

    return Estimator(network, objective, process, **settings)


def _level(process: Process, seen: float) -> Level:
    if process.kind == "edm":
        return process.level(math.exp(4 * seen))
    return process.level(seen / process.time_scale if process.kind == "flow" else seen)


@pytest.fixture(params=PAIRS)
def pair(request) -> tuple[Process, Objective]:
    """A process, and an objective that fits it."""
    process, prediction = PAIRS[request.param]
    return Process.choose(process), Objective.model_validate({"prediction": prediction})


@pytest.fixture(scope="session")
def gauss() -> SimpleNamespace:
    """The functions above."""
    return SimpleNamespace(std=STD, factor=factor, step=step, linear=linear)
