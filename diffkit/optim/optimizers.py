"""Optimizers: torch's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from diffkit.optim.base import Optimizer
from diffkit.spec import Many

Beta = Annotated[float, Field(ge=0, lt=1)]


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1)."""

    kind: Literal["adam"] = "adam"
    betas: Many[Beta] = Field((0.9, 0.999), min_length=2, max_length=2)
    """Decays of the averages of the gradient and of its square, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's Adam."""
        parameters = list(parameters)
        return torch.optim.Adam(
            parameters, lr=self.lr, betas=_pair(self.betas), eps=self.eps, fused=_can_be_fused(parameters)
        )


class AdamW(Optimizer):
    """Adam with weight decay that is not part of the gradient (Loshchilov & Hutter 2019, algorithm 2)."""

    kind: Literal["adamw"] = "adamw"
    betas: Many[Beta] = Field((0.9, 0.999), min_length=2, max_length=2)
    """Decays of the averages of the gradient and of its square, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(0.01, ge=0)
    """Part of the weights, times the learning rate, that each step takes away."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's AdamW."""
        parameters = list(parameters)
        return torch.optim.AdamW(
            parameters,
            lr=self.lr,
            betas=_pair(self.betas),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=_can_be_fused(parameters),
        )


class Sgd(Optimizer):
    """Stochastic gradient descent, with momentum if wanted (Sutskever et al. 2013)."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.0, ge=0, lt=1)
    """Part of the last step that is taken again."""
    nesterov: bool = False
    """Take the gradient where the momentum leads to. Needs momentum."""
    weight_decay: float = Field(0.0, ge=0)
    """Part of the weights that is added to the gradient."""

    @model_validator(mode="after")
    def _has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum: set momentum = 0.9, or nesterov = false")
        return self

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's SGD."""
        parameters = list(parameters)
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=_can_be_fused(parameters),
        )


def _can_be_fused(parameters: Iterable[nn.Parameter]) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


def _pair(betas: tuple[float, ...]) -> tuple[float, float]:
    first, second = betas
    return first, second
