"""Kinds of activation."""

from __future__ import annotations

from typing import Literal

from torch import nn

from diffkit.nn.base import Activation


class Silu(Activation):
    """x sigmoid(x), also known as swish: Elfwing et al. 2018; used by DDPM."""

    kind: Literal["silu"] = "silu"

    def build(self) -> nn.Module:
        """Return a module that keeps the shape of its input."""
        return nn.SiLU()


class Gelu(Activation):
    """x Φ(x), with the normal distribution function Φ: Hendrycks & Gimpel 2016."""

    kind: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"
    """Exact, or the paper's approximation of Φ by a tanh."""

    def build(self) -> nn.Module:
        """Return a module that keeps the shape of its input."""
        return nn.GELU(self.approximate)


class Relu(Activation):
    """max(x, 0)."""

    kind: Literal["relu"] = "relu"

    def build(self) -> nn.Module:
        """Return a module that keeps the shape of its input."""
        return nn.ReLU()


class Mish(Activation):
    """x tanh(softplus(x)): Misra 2019."""

    kind: Literal["mish"] = "mish"

    def build(self) -> nn.Module:
        """Return a module that keeps the shape of its input."""
        return nn.Mish()
