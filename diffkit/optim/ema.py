"""How fast the average of the weights follows them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, field_validator

from diffkit.optim.base import SAMPLED, Ema
from diffkit.optim.profiles import LONGEST, SHORTEST, decay_after, exponent_of
from diffkit.spec import Many


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


class Power(Ema):
    """Averages whose length grows with the run, and of which any other length can be made afterwards.

    After step t, the weights of step s count in proportion to ``s^gamma``, by ``d(t) = (1 - 1 / t)^(gamma + 1)``
    (Karras et al. 2024, equations 1 and 2). So the initial weights count nothing, and a length means the same in runs
    of any number of steps. All lengths are kept at once; the first one is sampled from. Snapshots of them stay in the
    run folder, from which ``diffkit sample RUN --ema 0.08`` makes the average of another length (section 3.2). A
    snapshot takes 4 bytes for each parameter and length: 16 of two lengths are 128 bytes a parameter.
    """

    kind: Literal["power"] = "power"
    lengths: Many[Annotated[float, Field(ge=SHORTEST, le=LONGEST)]] = Field((0.05, 0.10), min_length=1)
    """Lengths of the averages that are kept: the standard deviation of the steps that count, as a part of all steps so
    far (sigma_rel)."""
    snapshots: int = Field(16, ge=0)
    """Number of snapshots over the whole run, evenly spaced, the last one at its end. With 0 there are none."""

    @field_validator("lengths")
    @classmethod
    def _differ(cls, lengths: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(lengths)) < len(lengths):
            raise ValueError("two of the lengths are the same: name each once")
        return lengths

    def decay_at(self, step: int) -> float:
        """Return the decay of the first length after a step."""
        return decay_after(exponent_of(self.lengths[0]), step)

    def averages(self) -> dict[str, Callable[[int], float]]:
        """Return the decays, by ``ema`` for the first length, and such as ``ema-0.1`` for the others."""
        return {name: partial(decay_after, exponent_of(length)) for name, length in self.power_functions().items()}

    def power_functions(self) -> dict[str, float]:
        """Return all lengths."""
        first, *others = self.lengths
        return {SAMPLED: first, **{f"{SAMPLED}-{length}": length for length in others}}

    def keeps_snapshot(self, step: int, total: int) -> bool:
        """Return whether one of the evenly spaced snapshots is due."""
        return step * self.snapshots // total > (step - 1) * self.snapshots // total


class NoEma(Ema):
    """No average: the weights themselves."""

    kind: Literal["none"] = "none"

    def decay_at(self, step: int) -> float:
        """Return 0."""
        return 0.0
