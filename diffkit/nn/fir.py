"""Resampling by a fixed separable filter, such as [1, 3, 3, 1], which blurs away what half the sides cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from diffkit.spec import Many


def _can_resample(taps: tuple[float, ...]) -> tuple[float, ...]:
    if len(taps) % 2 or sum(taps) == 0:
        raise ValueError("should be of even length and not all zeros, such as [1, 3, 3, 1]")
    return taps


Taps = Annotated[Many[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=16), AfterValidator(_can_resample)]
"""The numbers of a filter, of even count. Their sum is scaled to 1."""

Border = Literal["zeros", "reflect"]
"""What a filter sees beyond the border: zeros, or the maps mirrored at the outermost places."""


def fir_down(taps: Sequence[float], *, pad: bool = True, border: Border = "zeros") -> nn.Module:
    """Return a module that halves both sides: the filter at every second place. [1, 1] is the mean of 2x2 squares.

    Args:
        taps: The filter.
        pad: Pad the maps. Without it, they must bring what the filter needs beyond the border.
        border: What they are padded with.
    """
    return nn.AvgPool2d(2) if tuple(taps) == (1, 1) else Fir(taps, up=False, pad=pad, border=border)


def fir_up(taps: Sequence[float], *, border: Border = "zeros") -> nn.Module:
    """Return a module that doubles both sides: zeros between the places, then the filter, whose sum is then 4.

    [1, 1] repeats every pixel.

    Args:
        taps: The filter.
        border: What the maps are padded with before that.
    """
    return nn.Upsample(scale_factor=2.0, mode="nearest") if tuple(taps) == (1, 1) else Fir(taps, up=True, border=border)


class Fir(nn.Module):
    """Halves or doubles the sides by a filter: Karras et al. 2020, "StyleGAN2", as in NCSN++."""

    filter: Tensor

    def __init__(self, taps: Sequence[float], *, up: bool, pad: bool = True, border: Border = "zeros") -> None:
        super().__init__()
        self.up = up
        self.padding = len(taps) // 2 - 1 if pad else 0
        # places beyond the border that the filter reaches; of the doubled maps, every second one is a place
        self.mirrored = 0 if border == "zeros" else (self.padding + 1) // 2 if up else self.padding
        self.taps = tuple(taps)
        self.register_buffer("filter", self._square().float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move, also out of the meta device, where the filter has no numbers."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self.filter.is_meta:
            self.filter = self._square().to(self.filter.device, self.filter.dtype)
        return self

    def _square(self) -> Tensor:
        """Return the filter, float64 ``[1, 1, L, L]``."""
        line = torch.tensor(self.taps, dtype=torch.float64)
        return (torch.outer(line, line) / line.sum() ** 2 * (4 if self.up else 1))[None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps with the other sides, of as many channels."""
        channels = x.shape[1]
        weight = self.filter.to(x.dtype).expand(channels, 1, -1, -1)
        if self.mirrored:
            x = nn.functional.pad(x, (self.mirrored,) * 4, "reflect")
        if self.up:
            padding = self.padding + 2 * self.mirrored
            return nn.functional.conv_transpose2d(x, weight, stride=2, padding=padding, groups=channels)
        return nn.functional.conv2d(x, weight, stride=2, padding=self.padding - self.mirrored, groups=channels)
