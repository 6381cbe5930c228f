"""The families of network parts.

A kind is a frozen table of settings with a `build` method. Channel counts never come from a recipe: the
model computes them and passes them to `build`. The normalisation and the activation are settings of the
model, which passes them to every part as one `Style`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.spec import Component, FilePath


class Norm(Component):
    """A normalisation of feature maps."""

    family = "norm"

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape.

        Raises:
            ValueError: If the settings don't fit so many channels; the message says what would.
        """


class Activation(Component):
    """A pointwise non-linearity."""

    family = "activation"

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a module that keeps the shape of its input."""


@dataclass(frozen=True)
class Style:
    """What all the parts of one network share.

    Attributes:
        norm: The normalization.
        activation: The non-linearity.
        resnet: The residual block, for resamplers that are one.
    """

    norm: Norm
    activation: Activation
    resnet: ResnetBlock | None = None

    def block(self) -> ResnetBlock:
        """Return the residual block.

        Raises:
            ValueError: If there is none.
        """
        if self.resnet is None:
            raise ValueError("this needs a network with residual blocks")
        return self.resnet


class TimeEmbedding(Component):
    """Features of a time, before the model's MLP."""

    family = "time_embedding"

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Return a module from float32 times ``[N]`` to float32 features ``[N, channels]``.

        Raises:
            ValueError: If the settings don't fit so many channels.
        """

    def times_known(self) -> int | None:
        """Return the number T if only the times 0..T-1 have features, or None if all times have."""
        return None

    def refuses_span(self, span: float) -> str | None:
        """Return why times that span so much all have nearly the same features, and what to do; None if they don't."""
        return None

    def refuses_least(self, time: float) -> str | None:
        """Return why a process's least time has no features, and what to do; None if it has."""
        return None


class ResnetBlock(Component):
    """A residual block that sees the embedding of time and class.

    The embedding that the model passes to blocks and resamplers has gone through the activation already: papers
    put one before every linear layer that reads it, and once is enough.
    """

    family = "resnet_block"

    @abstractmethod
    def build(self, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module whose ``forward(x, embedding)`` maps ``[N, in, H, W]`` and ``[N, embedding]``
        to ``[N, out, H, W]``.

        Raises:
            ValueError: If the settings don't fit so many channels.
        """

    def build_resampling(
        self, channels: int, embedding_channels: int, style: Style, resample: nn.Module, *, project: bool
    ) -> nn.Module:
        """Return a block that halves or doubles the sides on its way, for the resampler `resnet`.

        Args:
            channels: Number of channels, in and out.
            embedding_channels: Size of the embedding.
            style: What the network's parts share.
            resample: Halves or doubles both sides. It has no weights, so that block and shortcut can share it.
            project: Whether the shortcut has a 1x1 convolution behind its resampling.

        Raises:
            ValueError: If the settings don't fit so many channels, or this kind of block cannot resample.
        """
        raise ValueError(f"the block '{self.kind_name()}' cannot resample: use another resnet, or another resampler")


class Attention(Component):
    """A block that mixes places, with its own normalisation and residual."""

    family = "attention"

    @abstractmethod
    def build(self, channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape.

        Raises:
            ValueError: If the settings don't fit so many channels.
        """


class Downsample(Component):
    """Halves both sides."""

    family = "downsample"

    @abstractmethod
    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module whose ``forward(x, embedding)`` maps ``[N, channels, H, W]`` (H and W even) to
        ``[N, channels, H/2, W/2]``.

        Raises:
            ValueError: If the settings don't fit so many channels.
        """


class Upsample(Component):
    """Doubles both sides."""

    family = "upsample"

    @abstractmethod
    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module whose ``forward(x, embedding)`` maps ``[N, channels, H, W]`` to
        ``[N, channels, 2H, 2W]``.

        Raises:
            ValueError: If the settings don't fit so many channels.
        """


@dataclass(frozen=True)
class Ports:
    """What goes into a network and what comes out, besides the time and the label.

    Attributes:
        in_channels: Number of channels of the input: the noisy image's, and those of images that condition it.
        out_channels: Number of channels of the output.
        vector: Size of the vector that conditions the network; 0 for none.
    """

    in_channels: int
    out_channels: int
    vector: int = 0


class ProgressiveInput(Component):
    """How the noisy image itself reaches the smaller levels of the way down, beside the feature maps."""

    family = "progressive_input"

    @abstractmethod
    def build(self, image_channels: int, channels: int) -> nn.Module | None:
        """Return a module whose ``forward(image, x)`` returns the halved image ``[N, .., H/2, W/2]``, for the next
        level, and the feature maps ``[N, channels, H/2, W/2]`` with it brought in; None to do nothing.
        """

    @abstractmethod
    def channels_after(self, image_channels: int, channels: int) -> int:
        """Return the number of channels of the halved image."""


class ProgressiveOutput(Component):
    """How the output is made: at the end, or as a sum of what every level of the way up says."""

    family = "progressive_output"

    @abstractmethod
    def build(self) -> nn.Module | None:
        """Return a module that doubles the sides of the output so far; None to make the output at the end only."""


class Model(Component):
    """The network: ``forward(x, time, label, vector) -> output``."""

    family = "model"

    class_conditional: bool = False
    """Feed the class label to the network. The data set must have labels."""
    init_from: FilePath | None = None
    """Run folder, checkpoint folder or weights file whose averaged weights training starts from, as far as names and
    shapes are the same; it says what was taken and what was not."""

    def times_known(self) -> int | None:
        """Return the number T if the network only knows the times 0..T-1, or None if it takes any."""
        return None

    def problems_of_least(self, time: float) -> list[Problem]:
        """Return why the network cannot take a process's least time, with keys relative to the model's table."""
        return []

    @abstractmethod
    def build(self, data: DataInfo, ports: Ports) -> nn.Module:
        """Return a module whose ``forward(x, time, label=None, vector=None)`` maps ``[N, in_channels, H, W]``, float32
        times ``[N]``, int64 labels ``[N]`` and vectors ``[N, vector]`` to ``[N, out_channels, H, W]``.

        A class-conditional network also knows the label ``len(data.classes)``: no class, for
        classifier-free guidance. Without a label it takes that one; without a vector, one of zeros.

        Raises:
            ValueError: If `problems` would name any.
        """

    @abstractmethod
    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the model's table."""

    def refuse_problems(self, data: DataInfo) -> None:
        """Raise a ValueError if there are problems."""
        if problems := self.problems(data):
            raise ValueError("\n".join(map(str, problems)))

    def problems_of_labels(self, data: DataInfo) -> list[Problem]:
        """Return that the network is to see classes which the data don't have."""
        if not self.class_conditional or data.classes:
            return []
        message = "the data set has no labels: leave this out, or choose a data set with labels"
        return [Problem("class_conditional", message, True)]

    def refuses_size(self, data: DataInfo, height: int, width: int) -> str | None:
        """Return why a network for these data cannot take images of another size, and which it can; None if it can.

        By default it takes the data's own size only.
        """
        if (height, width) == (data.height, data.width):
            return None
        return f"the model takes images of {data.height}x{data.width} (height x width) only"


def divisors(number: int) -> str:
    """List all the divisors of a number, for messages."""
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return ", ".join(map(str, sorted({*low, *(number // n for n in low)})))


def nearest_sizes(height: int, width: int, factor: int) -> str:
    """Name the nearest sizes whose sides are divisible: the next smaller one and the next larger one."""
    smaller = (max(factor, side // factor * factor) for side in (height, width))
    larger = (-(-side // factor) * factor for side in (height, width))
    sizes = ("x".join(map(str, sides)) for sides in (smaller, larger))
    return " or ".join(dict.fromkeys(sizes))
