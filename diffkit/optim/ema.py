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


class HalfLife(Ema):
    """A decay after which a weight counts half as much after a number of steps.

    ``0.5^(1 / h)`` with the half-life h; with a ramp-up, h is at most ``rampup`` times the steps taken before (Karras
    et al. 2022, table 7, and their code, which counts images: 500,000 at 512 a step are 976.5625 steps).
    """

    kind: Literal["half_life"] = "half_life"
    steps: float = Field(1_000.0, gt=0)
    """The half-life, in optimizer steps."""
    rampup: float | None = Field(0.05, gt=0, le=1)
    """The half-life is at most this part of the steps taken so far. EDM has 0.05."""

    def decay_at(self, step: int) -> float:
        """Return the decay after a step."""
        half_life = self.steps if self.rampup is None else min(self.steps, self.rampup * (step - 1))
        return 0.5 ** (1 / half_life) if half_life > 0 else 0.0


class NoEma(Ema):
    """No average: the weights themselves."""

    kind: Literal["none"] = "none"

    def decay_at(self, step: int) -> float:
        """Return 0."""
        return 0.0
