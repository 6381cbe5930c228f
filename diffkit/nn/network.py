"""The U-Net as a torch module, wired from built parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import Attention, Downsample, Norm, Ports, ResnetBlock, Style, Upsample
from diffkit.nn.init import conv, init, linear

if TYPE_CHECKING:
    from diffkit.nn.unet import UNet


@dataclass(frozen=True)
class Level:
    """All the settings of one level, and where in the model's table each was written."""

    channels: int
    blocks: int
    resnet: ResnetBlock
    attention: Attention | None
    downsample: Downsample
    upsample: Upsample
    style: Style
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


class UNetNetwork(nn.Module):
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
        middle = spec.resolve_middle(levels[-1].channels)
        size = spec.embedding_channels or 4 * spec.channels

        self.time_features = parts.build("embedding", lambda: spec.embedding.build(spec.channels))
        self.time_mlp = nn.Sequential(linear(spec.channels, size), middle.style.activation.build(), linear(size, size))
        self.no_class = len(data.classes)
        self.class_embedding = nn.Embedding(self.no_class + 1, size) if spec.class_conditional else None
        # without a bias, a vector of zeros adds nothing
        self.vector_embedding = init(nn.Linear(ports.vector, size, bias=False)) if ports.vector else None
        self.activation = middle.style.activation.build()

        self.conv_in = conv(ports.in_channels, spec.channels)
        width, skips = spec.channels, [spec.channels]
        self.down = nn.ModuleList()
        for level in levels:
            blocks = []
            for _ in range(level.blocks):
                blocks.append(Block(level, width, size, parts))
                width = level.channels
                skips.append(width)
            down = None
            if level is not levels[-1]:
                down = parts.of(level, "downsample", _downsample(level, size), width)
                skips.append(width)
            self.down.append(Down(blocks, down))

        self.middle = nn.ModuleList(
            [Block(middle, width, size, parts), Block(replace(middle, attention=None), width, size, parts)]
        )
        self.up = nn.ModuleList()
        for level in reversed(levels):
            blocks = []
            for _ in range(level.blocks + 1):
                blocks.append(Block(level, width + skips.pop(), size, parts))
                width = level.channels
            up = None
            if level is not levels[0]:
                up = parts.of(level, "upsample", _upsample(level, size), width)
            self.up.append(Up(blocks, up))

        self.norm_out = parts.of(middle, "norm", lambda: middle.style.norm.build(width))
        self.conv_out = conv(width, ports.out_channels, scale=0)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Compute the output.

        Args:
            x: Images ``[N, in_channels, H, W]``.
            time: Times ``[N]``, in float32.
            label: Labels ``[N]`` of a class-conditional network; the number of classes stands for none of them, and
                so does leaving this out.
            vector: Vectors ``[N, vector]`` that condition the network; zeros by default.

        Returns:
            The output ``[N, out_channels, H, W]``.

        Raises:
            ValueError: If there are labels or vectors that the network has no input for.
        """
        embedding = self.embed(time, label, vector)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            h = level(h, embedding, skips)
        for block in self.middle:
            h = block(h, embedding)
        for level in self.up:
            h = level(h, embedding, skips)
        return self.conv_out(self.activation(self.norm_out(h)))  # type: ignore[no-any-return]

    def embed(self, time: Tensor, label: Tensor | None, vector: Tensor | None = None) -> Tensor:
        """Return the embedding of time, class and vector ``[N, embedding]``, after the activation."""
        features = self.time_features(time.float())
        embedding = self.time_mlp(features.to(self.conv_in.weight.dtype))
        if self.class_embedding is not None:
            if label is None:
                label = torch.full_like(time, self.no_class, dtype=torch.int64)
            embedding = embedding + self.class_embedding(label)
        elif label is not None:
            raise ValueError("labels were given, but the network is not class-conditional")
        if self.vector_embedding is not None:
            if vector is not None:
                embedding = embedding + self.vector_embedding(vector.to(embedding.dtype))
        elif vector is not None:
            raise ValueError("vectors were given, but the network is not conditioned by any")
        return self.activation(embedding)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual block and the attention behind it."""

    def __init__(self, level: Level, in_channels: int, embedding_channels: int, parts: Parts) -> None:
        super().__init__()
        channels, style, attention = level.channels, level.style, level.attention
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

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, in, H, W]`` and ``[N, embedding]`` to ``[N, out, H, W]``."""
        x = self.resnet(x, embedding)
        return x if self.attention is None else self.attention(x)


class Down(nn.Module):
    """A level on the way down."""

    def __init__(self, blocks: list[Block], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """Return the input of the next level, and append what every part put out to `skips`."""
        for block in self.blocks:
            x = block(x, embedding)
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x, embedding)
            skips.append(x)
        return x


class Up(nn.Module):
    """A level on the way up."""

    def __init__(self, blocks: list[Block], upsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.upsample = upsample

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """Return the input of the next level; each block takes the last of `skips` away and sees it."""
        for block in self.blocks:
            x = block(torch.cat((x, skips.pop()), dim=1), embedding)
        return x if self.upsample is None else self.upsample(x, embedding)


def _downsample(level: Level, embedding_channels: int) -> Callable[[], nn.Module]:
    return lambda: level.downsample.build(level.channels, embedding_channels, level.style)


def _upsample(level: Level, embedding_channels: int) -> Callable[[], nn.Module]:
    return lambda: level.upsample.build(level.channels, embedding_channels, level.style)
