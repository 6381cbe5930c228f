"""The U-Net as a torch module, wired from built parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import Attention, Downsample, Norm, Ports, ResnetBlock, Style, Upsample
from diffkit.nn.embedded import EmbeddedNetwork
from diffkit.nn.init import conv
from diffkit.nn.norm import activated
from diffkit.nn.recompute import call

if TYPE_CHECKING:
    from diffkit.nn.unet import UNet


@dataclass(frozen=True)
class Level:
    """All the settings of one level, and where in the model's table each was written."""

    channels: int
    blocks: int
    resnet: ResnetBlock
    attention: Attention | None
    attention_down: bool
    attention_up: Literal["every", "last", "none"]
    downsample: Downsample
    upsample: Upsample
    style: Style
    recomputes: bool
    keys: dict[str, str]


class Parts:
    """Builds parts, and notes those that refuse: so all problems are found at once.

    Attributes:
        problems: What was refused, each thing once.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def build(self, key: str, build: Callable[[], nn.Module]) -> nn.Module:
        """Build one part, or note that it refuses its settings.

        Args:
            key: Where the part is set in the model's table.
            build: Makes the part, or raises a ValueError.
        """
        return self._build(build, lambda message: key)

    def of(self, level: Level, name: str, build: Callable[[], nn.Module], *channels: int) -> nn.Module:
        """Build a part of a level, or note that it, or the level's normalization, refuses.

        Args:
            level: The level.
            name: Which of its settings the part is.
            build: Makes the part, or raises a ValueError.
            *channels: What numbers of channels the part may normalize.
        """

        def blame(message: str) -> str:
            by_norm = message in (_refusal(level.style.norm, count) for count in channels)
            return level.keys["norm" if by_norm else name]

        return self._build(build, blame)

    def _build(self, build: Callable[[], nn.Module], blame: Callable[[str], str]) -> nn.Module:
        try:
            return build()
        except ValueError as error:
            problem = Problem(blame(str(error)), str(error))
            if problem not in self.problems:
                self.problems.append(problem)
            return nn.Identity()


def _refusal(norm: Norm, channels: int) -> str | None:
    try:
        norm.build(channels)
    except ValueError as error:
        return str(error)
    return None


class UNetNetwork(EmbeddedNetwork):
    """Computes what `UNet` says.

    Args:
        spec: The settings.
        data: The images' sides and classes.
        ports: What goes in and comes out.
        parts: Builds the parts. Where it noted problems, the network must not be used.
    """

    def __init__(self, spec: UNet, data: DataInfo, ports: Ports, parts: Parts) -> None:
        super().__init__()
        levels = spec.resolve(data)
        middle = replace(spec.resolve_middle(levels[-1].channels), recomputes=levels[-1].recomputes)
        size = spec.embedding_channels or 4 * spec.channels
        features = spec.embedding_features or spec.channels

        time_features = parts.build("embedding", lambda: spec.embedding.build(features))
        between = spec.embedding_activation or spec.activation
        joins = spec.conditions_join == "features"
        self.add_embedding(spec, time_features, (features, size), between, data, ports, joins_features=joins)
        self.activation = spec.activation.build()

        self.conv_in = conv(ports.in_channels, spec.channels)
        width, skips = spec.channels, [spec.channels]
        image_channels = ports.in_channels
        self.down = nn.ModuleList()
        for level in levels:
            blocks = []
            for _ in range(level.blocks):
                blocks.append(Block(level, width, size, parts, attends=level.attention_down))
                width = level.channels
                skips.append(width)
            down = image_in = None
            if level is not levels[-1]:
                down = parts.of(level, "downsample", _downsample(level, size), width)
                image_in = spec.progressive_input.build(image_channels, width)
                image_channels = spec.progressive_input.channels_after(image_channels, width)
                skips.append(width)
            self.down.append(Down(blocks, down, image_in))

        self.middle = nn.ModuleList(
            [Block(middle, width, size, parts, attends=first) for first in (True, False)] if spec.middle else []
        )
        self.output_up = spec.progressive_output.build()
        self.up = nn.ModuleList()
        for level in reversed(levels):
            blocks = []
            for number in range(level.blocks + 1):
                attends = level.attention_up == "every" or (level.attention_up == "last" and number == level.blocks)
                blocks.append(Block(level, width + skips.pop(), size, parts, attends=attends))
                width = level.channels
            up = output = None
            if level is not levels[0]:
                up = parts.of(level, "upsample", _upsample(level, size), width)
            if level is levels[0] or self.output_up is not None:
                output = Output(spec.resolve_output(level), width, ports.out_channels, parts)
            self.up.append(Up(blocks, output, up))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Compute the output, as `Conditioned` says."""
        x = self.enter(x)
        embedding = self.activation(self.embed(time, label, vector))
        h, image = self.conv_in(x), x
        skips = [h]
        for level in self.down:
            h, image = level(h, image, embedding, skips)
        for block in self.middle:
            h = block(h, embedding)
        output: Tensor | None = None
        for level in self.up:
            h, said = level(h, embedding, skips)
            if output is not None and self.output_up is not None:
                said = self.output_up(output) + said
            output = said
        assert output is not None  # the last level has one
        return self.leave(output, time)


class Block(nn.Module):
    """A residual block and the attention behind it."""

    def __init__(self, level: Level, in_channels: int, embedding_channels: int, parts: Parts, *, attends: bool) -> None:
        super().__init__()
        channels, style = level.channels, level.style
        attention = level.attention if attends else None
        self.recomputes = level.recomputes
        self.resnet = parts.of(
            level,
            "resnet",
            lambda: level.resnet.build(in_channels, channels, embedding_channels, style),
            in_channels,
            channels,
        )
        self.attention = None
        if attention is not None:
            self.attention = parts.of(level, "attention", lambda: attention.build(channels, style), channels)

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map ``[N, in, H, W]``, in two parts where there is a skip, and ``[N, embedding]`` to ``[N, out, H, W]``."""
        return call(self._forward, x, embedding, skip, recomputes=self.recomputes)

    def _forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None) -> Tensor:
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        x = self.resnet(x, embedding)
        return x if self.attention is None else self.attention(x)


class Down(nn.Module):
    """A level on the way down."""

    def __init__(self, blocks: list[Block], downsample: nn.Module | None, image_in: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.image_in = image_in

    def forward(self, x: Tensor, image: Tensor, embedding: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the input and the image of the next level, and append what every part put out to `skips`."""
        for block in self.blocks:
            x = block(x, embedding)
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x, embedding)
            if self.image_in is not None:
                image, x = self.image_in(image, x)
            skips.append(x)
        return x, image


class Up(nn.Module):
    """A level on the way up."""

    def __init__(self, blocks: list[Block], output: nn.Module | None, upsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.output = output
        self.upsample = upsample

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the input of the next level, and this one's output if it has any.

        Each block takes the last of `skips` away and sees it.
        """
        for block in self.blocks:
            x = block(x, embedding, skips.pop())
        output = None if self.output is None else self.output(x)
        return x if self.upsample is None else self.upsample(x, embedding), output


class Output(nn.Module):
    """Makes an output of a level's maps. It starts at zero."""

    def __init__(self, level: Level, channels: int, out_channels: int, parts: Parts) -> None:
        super().__init__()
        self.norm = parts.of(level, "norm", lambda: level.style.norm.build(channels))
        self.activation = level.style.activation.build()
        self.conv = conv(channels, out_channels, scale=0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, out_channels, H, W]``."""
        return self.conv(activated(self.norm, self.activation, x))  # type: ignore[no-any-return]


def _downsample(level: Level, embedding_channels: int) -> Callable[[], nn.Module]:
    return lambda: level.downsample.build(level.channels, embedding_channels, level.style)


def _upsample(level: Level, embedding_channels: int) -> Callable[[], nn.Module]:
    return lambda: level.upsample.build(level.channels, embedding_channels, level.style)
