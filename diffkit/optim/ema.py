"""How fast the average of the weights follows them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffkit.optim.base import Ema


class Decay(Ema):
    """The same decay at every step (Ho et al. 2020, appendix B)."""

    kind: Literal["decay"] = "decay"
    decay: float = Field(0.9999, ge=0, lt=1)
    """Part of the average that stays."""

    def decay_at(self, step: int) -> float:
        """Return the decay."""
        return self.decay


class WarmupDecay(Ema):
    """A decay that grows, so that the average forgets the first weights soon.

    ``min(decay, (1 + step) / (10 + step))`` with steps counted from 1 (as in TensorFlow's ExponentialMovingAverage).
    For runs that are short next to 1 / (1 - decay) steps.
    """

    kind: Literal["warmup"] = "warmup"
    decay: float = Field(0.9999, ge=0, lt=1)
    """Part of the average that stays, in the long run."""

    def decay_at(self, step: int) -> float:
        """Return the decay after a step."""
        return min(self.decay, (1 + step) / (10 + step))


class NoEma(Ema):
    """No average: the weights themselves."""

    kind: Literal["none"] = "none"

    def decay_at(self, step: int) -> float:
        """Return 0."""
        return 0.0
