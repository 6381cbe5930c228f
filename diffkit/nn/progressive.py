"""How the image itself reaches every level, on the way down and on the way up."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from diffkit.nn.base import ProgressiveInput, ProgressiveOutput
from diffkit.nn.fir import Taps, fir_down, fir_up
from diffkit.nn.init import conv, init


class NoInput(ProgressiveInput):
    """Only the first level sees the image."""

    kind: Literal["none"] = "none"

    def build(self, image_channels: int, channels: int) -> None:
        """Return None."""

    def channels_after(self, image_channels: int, channels: int) -> int:
        """Return the image's."""
        return image_channels


class SkipInput(ProgressiveInput):
    """The image is filtered down to each level, and a 1x1 convolution of it added to the maps.

    ``image = down(image);  x = x + conv(image)``: "input skip" of Song et al. 2021, "Score-based generative modeling".
    """

    kind: Literal["skip"] = "skip"
    filter: Taps = (1.0, 3.0, 3.0, 1.0)
    """The filter, of even length; its sum is scaled to 1."""

    def build(self, image_channels: int, channels: int) -> nn.Module:
        """Return the module."""
        return _SkipInput(self, image_channels, channels)

    def channels_after(self, image_channels: int, channels: int) -> int:
        """Return the image's."""
        return image_channels


class ResidualInput(ProgressiveInput):
    """The image becomes maps of its own, which each level's are added to.

    ``image = x = (x + down(conv(image))) / sqrt(2)`` with a 3x3 convolution: "residual" of Song et al. 2021,
    "Score-based generative modeling". The published NCSN++ has it.
    """

    kind: Literal["residual"] = "residual"
    filter: Taps = (1.0, 3.0, 3.0, 1.0)
    """The filter, of even length; its sum is scaled to 1."""

    def build(self, image_channels: int, channels: int) -> nn.Module:
        """Return the module."""
        return _ResidualInput(self, image_channels, channels)

    def channels_after(self, image_channels: int, channels: int) -> int:
        """Return the maps'."""
        return channels


class _SkipInput(nn.Module):
    def __init__(self, spec: SkipInput, image_channels: int, channels: int) -> None:
        super().__init__()
        self.down = fir_down(spec.filter)
        self.conv = conv(image_channels, channels, 1)

    def forward(self, image: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        image = self.down(image)
        return image, x + self.conv(image)


class _ResidualInput(nn.Module):
    def __init__(self, spec: ResidualInput, image_channels: int, channels: int) -> None:
        super().__init__()
        # what the filter needs beyond the border is the convolution's there, and not zeros
        self.conv = init(nn.Conv2d(image_channels, channels, 3, padding=len(spec.filter) // 2))
        self.down = fir_down(spec.filter, pad=False)

    def forward(self, image: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        both = (x + self.down(self.conv(image))) * 0.5**0.5
        return both, both


class NoOutput(ProgressiveOutput):
    """The output is made of the last maps."""

    kind: Literal["none"] = "none"

    def build(self) -> None:
        """Return None."""


class SkipOutput(ProgressiveOutput):
    """Each level's normalization, activation and 3x3 convolution add to the output of the smaller ones.

    ``output = up(output) + conv(act(norm(x)))``: "output skip" of Song et al. 2021, "Score-based generative modeling".
    """

    kind: Literal["skip"] = "skip"
    filter: Taps = (1.0, 3.0, 3.0, 1.0)
    """The filter, of even length; its sum is scaled to 4."""

    def build(self) -> nn.Module:
        """Return a module that doubles the sides."""
        return fir_up(self.filter)
