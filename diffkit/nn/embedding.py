"""Kinds of time embedding.

All compute in float32, whatever the type of the model's weights and under autocast too: bfloat16 has 8 bits of
precision, so that it could not tell time 998 from 999.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.nn.base import TimeEmbedding


class Sinusoidal(TimeEmbedding):
    """Sines and cosines of fixed, geometrically spaced frequencies.

    sin(w_i t) and cos(w_i t) with w_i = max_period^(-i / d), i = 0..h-1 and h = channels // 2: Vaswani et al. 2017,
    section 3.5. d is h - 1 with `endpoint` (the code of DDPM), else h (the formula of that paper). If the number of
    channels is odd, the last feature is 0.
    """

    kind: Literal["sinusoidal"] = "sinusoidal"
    order: Literal["sin_cos", "cos_sin", "interleaved", "interleaved_cos_sin"] = "sin_cos"
    """All sines first, all cosines first, or by turns: sine at even places and cosine at odd ones, or the reverse."""
    max_period: float = Field(10_000.0, gt=1)
    """Slowest frequency w is 1 / max_period, in radians for each step of time (just above it without endpoint)."""
    endpoint: bool = True
    """Whether the frequencies reach 1 / max_period (as in DDPM's code), or stop one short of it."""
    time_scale: float = Field(1.0, gt=0)
    """Times are multiplied by this. 1000 / T shows the same features for any number T of times (improved DDPM)."""

    def build(self, channels: int) -> nn.Module:
        """Return a module from times ``[N]`` to float32 features ``[N, channels]``.

        Raises:
            ValueError: If there is no room for one sine and one cosine.
        """
        if channels < 2:
            raise ValueError(f"a sine and a cosine need at least 2 channels, not {channels}")
        return SinusoidalFeatures(self, channels)

    def frequencies(self, channels: int) -> Tensor:
        """Return the frequencies, falling from 1: float64 ``[channels // 2]``."""
        half = channels // 2
        last = max(half - 1, 1) if self.endpoint else half
        return torch.tensor([self.max_period ** (-i / last) for i in range(half)], dtype=torch.float64)


class SinusoidalFeatures(nn.Module):
    """Computes what `Sinusoidal` says."""

    frequencies: Tensor

    def __init__(self, spec: Sinusoidal, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.channels = channels
        self.register_buffer("frequencies", spec.frequencies(channels).float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, but never to another type: rounded frequencies would be other ones."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = self.spec.frequencies(self.channels).float().to(self.frequencies.device)
        return self

    def forward(self, time: Tensor) -> Tensor:
        """Return the features ``[N, channels]`` of times ``[N]``, in float32."""
        phase = (time.float() * self.spec.time_scale)[:, None] * self.frequencies
        waves = (phase.sin(), phase.cos())
        if self.spec.order in ("cos_sin", "interleaved_cos_sin"):
            waves = waves[::-1]
        if self.spec.order.startswith("interleaved"):
            features = torch.stack(waves, dim=-1).flatten(1)
        else:
            features = torch.cat(waves, dim=-1)
        return nn.functional.pad(features, (0, self.channels % 2))


class Fourier(TimeEmbedding):
    """Sines and cosines of fixed, random frequencies.

    cos(2π w_i t / time_range) and sin(2π w_i t / time_range) with w_i ~ N(0, scale²): Tancik et al. 2020, as
    in NCSN++ (Song et al. 2021) and EDM (Karras et al. 2022). The frequencies are saved with the weights.
    """

    kind: Literal["fourier"] = "fourier"
    scale: float = Field(16.0, gt=0)
    """Standard deviation of the frequencies."""
    time_range: float = Field(1000.0, gt=0)
    """Times are divided by this: the number of the process's times, or 1 for times that are small already."""

    def build(self, channels: int) -> nn.Module:
        """Return a module from times ``[N]`` to float32 features ``[N, channels]``.

        Raises:
            ValueError: If the number of channels is odd.
        """
        return FourierFeatures(_half(channels), self.scale, self.time_range, learned=False)

    def refuses_span(self, span: float) -> str | None:
        """Refuse a time_range in which the typical wave doesn't turn by a radian."""
        return _refuse_slow_waves(self.scale, self.time_range, span)


class LearnedFourier(TimeEmbedding):
    """Sines and cosines of learned frequencies.

    cos(2π w_i t / time_range) and sin(2π w_i t / time_range), with w_i trained from N(0, scale²) on.
    """

    kind: Literal["learned_fourier"] = "learned_fourier"
    scale: float = Field(1.0, gt=0)
    """Standard deviation of the initial frequencies."""
    time_range: float = Field(1000.0, gt=0)
    """Times are divided by this: the number of the process's times, or 1 for times that are small already."""

    def build(self, channels: int) -> nn.Module:
        """Return a module from times ``[N]`` to float32 features ``[N, channels]``.

        Raises:
            ValueError: If the number of channels is odd.
        """
        return FourierFeatures(_half(channels), self.scale, self.time_range, learned=True)

    def refuses_span(self, span: float) -> str | None:
        """Refuse a time_range in which the typical wave doesn't turn by a radian."""
        return _refuse_slow_waves(self.scale, self.time_range, span)


class FourierFeatures(nn.Module):
    """Computes what `Fourier` and `LearnedFourier` say."""

    frequencies: Tensor

    def __init__(self, count: int, scale: float, time_range: float, *, learned: bool) -> None:
        super().__init__()
        self.time_range = time_range
        frequencies = torch.randn(count) * scale
        if learned:
            self.frequencies = nn.Parameter(frequencies)
        else:
            self.register_buffer("frequencies", frequencies)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, but keep fixed frequencies in float32: rounded ones would be other ones."""
        fixed = self._buffers.get("frequencies")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if fixed is not None and self.frequencies.dtype != fixed.dtype:
            self.frequencies = fixed.to(self.frequencies.device)
        return self

    def forward(self, time: Tensor) -> Tensor:
        """Return the features ``[N, channels]`` of times ``[N]``, in float32."""
        phase = (time.float() / self.time_range)[:, None] * (2 * math.pi * self.frequencies.float())
        return torch.cat((phase.cos(), phase.sin()), dim=-1)


class LogFourier(TimeEmbedding):
    """Sines and cosines of fixed, random frequencies of the log of the time.

    sin(2π w_i ln t) and cos(2π w_i ln t) with w_i ~ N(0, scale²): NCSN++ for variance-exploding processes (Song et al.
    2021, "Score-based generative modeling"), whose time is the noise level. The frequencies are saved with the weights.
    """

    kind: Literal["log_fourier"] = "log_fourier"
    scale: float = Field(16.0, gt=0)
    """Standard deviation of the frequencies."""

    def build(self, channels: int) -> nn.Module:
        """Return a module from times ``[N]``, above 0, to float32 features ``[N, channels]``.

        Raises:
            ValueError: If the number of channels is odd.
        """
        return LogFourierFeatures(_half(channels), self.scale, 1.0, learned=False)

    def refuses_least(self, time: float) -> str | None:
        """Refuse a time that has no log."""
        if time > 0:
            return None
        return f"the network sees the log of the time, and the process's least one is {time:g}: use another embedding"


class LogFourierFeatures(FourierFeatures):
    """Computes what `LogFourier` says."""

    def forward(self, time: Tensor) -> Tensor:
        """Return the features ``[N, channels]`` of times ``[N]``, in float32."""
        # hundreds of turns: the order of the factors, which is that of Song et al., decides about their last digits
        phase = time.float().log()[:, None] * self.frequencies * 2 * math.pi
        return torch.cat((phase.sin(), phase.cos()), dim=-1)


class Table(TimeEmbedding):
    """One learned vector for each time.

    Times are rounded to the nearest whole number; there is no vector for times outside of 0..times-1.
    """

    kind: Literal["table"] = "table"
    times: int = Field(1000, ge=1, le=1_000_000)
    """Number of times, at least the process's steps."""

    def build(self, channels: int) -> nn.Module:
        """Return a module from times ``[N]`` to features ``[N, channels]``."""
        return TimeTable(self.times, channels)

    def times_known(self) -> int:
        """Return the number of vectors."""
        return self.times


class TimeTable(nn.Embedding):
    """Computes what `Table` says."""

    def forward(self, time: Tensor) -> Tensor:
        """Return the features ``[N, channels]`` of times ``[N]``, in float32."""
        return super().forward(time.round().long()).float()


def _half(channels: int) -> int:
    if channels < 2 or channels % 2:
        raise ValueError(f"as many sines as cosines need an even number of channels, not {channels}")
    return channels // 2


def _refuse_slow_waves(scale: float, time_range: float, span: float) -> str | None:
    if 2 * math.pi * scale * span >= time_range:
        return None
    return (
        f"the network's times span {span:.3g} only, and divided by time_range = {time_range:g} they would all look the "
        f"same to it: set time_range = {1 if span < 10 else round(span):g}"
    )
