"""A classifier of noisy images, from the parts of the U-Net's way down."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import Activation, Attention, Downsample, Norm, ResnetBlock, Style, TimeEmbedding
from diffkit.nn.downsample import Unconditioned
from diffkit.nn.init import conv, linear
from diffkit.nn.network import Parts
from diffkit.nn.norm import activated
from diffkit.spec import Many, Spec


class Classifier(Spec):
    """A network that tells the class of a noisy image, and knows how noisy it is.

    The way down of a U-Net (Dhariwal & Nichol 2021, section 4.3): a 3x3 convolution; on each level residual blocks that
    see the time, each with attention behind it where asked for, then downsampling; normalization, activation, the mean
    over all places, and a linear layer with one output for each class.
    """

    channels: int = Field(64, ge=1, le=8192)
    """Number of channels after the first convolution, and factor of all levels' channels."""
    multipliers: Many[Annotated[int, Field(ge=1, le=64)]] = Field((1, 2, 2), min_length=1, max_length=16)
    """Channels of each level as multiples of `channels`. Every level but the last is halved, so the sides of the images
    must be divisible by 2 to the power of the number of levels less one."""
    blocks_per_level: int = Field(1, ge=1, le=100)
    """Number of residual blocks of a level."""
    attention_at: Many[Annotated[int, Field(ge=1)]] = ()
    """Levels that have attention, by the longer side of their feature maps."""
    embedding: TimeEmbedding = Field("sinusoidal", validate_default=True)
    """Features of the time: as many as `channels`."""
    resnet: ResnetBlock = Field("ddpm", validate_default=True)
    """Kind of residual block."""
    attention: Attention = Field("self", validate_default=True)
    """Kind of attention."""
    downsample: Downsample = Field("conv", validate_default=True)
    """How the sides are halved."""
    norm: Norm = Field("group", validate_default=True)
    """Normalization of all parts."""
    activation: Activation = Field("silu", validate_default=True)
    """Non-linearity of all parts."""

    def build(self, data: DataInfo) -> ClassifierNetwork:
        """Return the network.

        Raises:
            ValueError: If `problems` would name any.
        """
        if problems := self.problems(data):
            raise ValueError("\n".join(map(str, problems)))
        return ClassifierNetwork(self, data, Parts())

    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the classifier's table."""
        problems = []
        factor = 2 ** (len(self.multipliers) - 1)
        if data.height % factor or data.width % factor:
            message = (
                f"{len(self.multipliers)} levels need sides that are divisible by {factor}, and the images are "
                f"{data.height}x{data.width} (height x width): use fewer levels"
            )
            problems.append(Problem("multipliers", message, list(self.multipliers)))
        sides = self.sides(data)
        if missed := [side for side in self.attention_at if side not in sides]:
            message = (
                f"no level has maps of side {', '.join(map(str, missed))}. Allowed for these images: "
                f"{', '.join(map(str, sides))}"
            )
            problems.append(Problem("attention_at", message, list(self.attention_at)))
        parts = Parts()
        with torch.device("meta"):
            for multiplier in self.multipliers:
                parts.build("norm", lambda: self.norm.build(multiplier * self.channels))  # noqa: B023
            by_norm = {problem.message for problem in parts.problems}
            ClassifierNetwork(self, data, parts)
        # parts that normalize refuse with the normalization's own words
        return [*problems, *(one for one in parts.problems if one.key == "norm" or one.message not in by_norm)]

    def sides(self, data: DataInfo) -> list[int]:
        """Return the longer side of each level's maps."""
        return [max(data.height, data.width) >> n for n in range(len(self.multipliers))]


class ClassifierNetwork(nn.Module):
    """Computes what `Classifier` says.

    Args:
        spec: The settings.
        data: The images' sides and classes.
        parts: Builds the parts. Where it noted problems, the network must not be used.
    """

    def __init__(self, spec: Classifier, data: DataInfo, parts: Parts) -> None:
        super().__init__()
        style = Style(spec.norm, spec.activation, spec.resnet)
        size = 4 * spec.channels
        self.time_features = parts.build("embedding", lambda: spec.embedding.build(spec.channels))
        self.time_mlp = nn.Sequential(linear(spec.channels, size), spec.activation.build(), linear(size, size))
        self.activation = spec.activation.build()

        width = spec.channels
        self.conv_in = conv(data.channels, width)
        self.layers = nn.ModuleList()
        sides = spec.sides(data)
        for multiplier, side in zip(spec.multipliers, sides, strict=True):
            channels = multiplier * spec.channels
            for _ in range(spec.blocks_per_level):
                self.layers.append(parts.build("resnet", lambda: spec.resnet.build(width, channels, size, style)))  # noqa: B023
                width = channels
                if side in spec.attention_at:
                    attention = parts.build("attention", lambda: spec.attention.build(width, style))  # noqa: B023
                    self.layers.append(Unconditioned(attention))
            if side != sides[-1]:
                self.layers.append(parts.build("downsample", lambda: spec.downsample.build(width, size, style)))  # noqa: B023
        self.norm_out = parts.build("norm", lambda: spec.norm.build(width))
        self.out = linear(width, len(data.classes))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Noisy images ``[N, C, H, W]``, scaled as the process says.
            time: Times ``[N]`` as networks see them, in float32.

        Returns:
            The logits of the classes ``[N, classes]``.
        """
        embedding = self.activation(self.time_mlp(self.time_features(time.float()).to(self.conv_in.weight.dtype)))
        h = self.conv_in(x)
        for layer in self.layers:
            h = layer(h, embedding)
        return self.out(activated(self.norm_out, self.activation, h).mean(dim=(2, 3)))  # type: ignore[no-any-return]
