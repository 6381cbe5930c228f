"""The U-Net's settings, and the checks of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import (
    Activation,
    Attention,
    Downsample,
    Norm,
    Ports,
    ProgressiveInput,
    ProgressiveOutput,
    ResnetBlock,
    Style,
    TimeEmbedding,
    Upsample,
    nearest_sizes,
)
from diffkit.nn.embedded import EmbeddedModel
from diffkit.nn.network import Level, Parts, UNetNetwork
from diffkit.nn.sides import SideLengths, has_side, problems_of_sides, sides_of
from diffkit.spec import Many, Spec

AttentionUp = Literal["every", "last", "none"]
"""Which blocks of a level have attention on the way up."""


class LevelOverrides(Spec):
    """What one level does in its own way. What it leaves out is as in the model's table."""

    channels: int | None = Field(None, ge=1, le=65_536)
    """Number of channels, in place of the model's channels times the multiplier."""
    blocks: int | None = Field(None, ge=1, le=100)
    """Number of residual blocks on the way down, in place of `blocks_per_level`; one more on the way up."""
    resnet: ResnetBlock | None = None
    """Kind of residual block."""
    attention: Attention | None = None
    """Kind of attention after each residual block, whether or not `attention_at` has the level's side."""
    attention_down: bool | None = None
    """Whether the level's attention is on the way down too."""
    attention_up: AttentionUp | None = None
    """Which blocks have the level's attention on the way up."""
    downsample: Downsample | None = None
    """How this level's maps are halved for the next level. The last level has none."""
    upsample: Upsample | None = None
    """How this level's maps are doubled for the level before. The first level has none."""
    norm: Norm | None = None
    """Normalization of the level's parts."""
    activation: Activation | None = None
    """Non-linearity of the level's parts."""


class MiddleOverrides(Spec):
    """What the middle does in its own way. What it leaves out is as in the model's table."""

    resnet: ResnetBlock | None = None
    """Kind of residual block."""
    attention: Attention | None = None
    """Kind of attention between the two blocks, where `middle_attention` asks for it."""
    norm: Norm | None = None
    """Normalization of the middle's parts."""


class UNet(EmbeddedModel):
    """The U-Net of DDPM, from parts that can be exchanged for all levels or for one.

    Ho et al. 2020, appendix B, after Ronneberger et al. 2015. A 3x3 convolution; on each level residual blocks, each
    with attention behind it where asked for, then downsampling; in the middle block, attention, block; the same
    levels back up, with one block more each, which see the outputs of the way down beside their input; at last
    normalization, activation and a 3x3 convolution that starts at zero. All parts but the resamplers keep the sides.

    The features of the time go through Linear, activation, Linear. The class has a learned vector, which is added, and
    so is a linear map of the vector that conditions the network, where there is one.
    """

    kind: Literal["unet"] = "unet"
    channels: int = Field(128, ge=1, le=8192)
    """Number of channels after the first convolution, and factor of all levels' channels."""
    multipliers: Many[Annotated[int, Field(ge=1, le=64)]] = Field((1, 2, 2, 2), min_length=1, max_length=16)
    """Channels of each level as multiples of `channels`. One level for each; every level but the last is halved, so
    the sides of the images must be divisible by 2 to the power of the number of levels less one."""
    blocks_per_level: int = Field(2, ge=1, le=100)
    """Number of residual blocks of a level on the way down; one more on the way up."""
    attention_at: SideLengths = ()
    """Levels that have attention, by the side of their feature maps (the longer one if they are not square), or
    "all"."""
    attention_down: bool = True
    """Whether the levels that have attention have it on the way down too."""
    attention_up: AttentionUp = "every"
    """Which blocks have attention on the way up, of the levels that have any: every one, the last one (as in EDM), or
    none."""
    middle: bool = True
    """Two residual blocks in the middle, between the way down and the way up."""
    middle_attention: bool = True
    """Attention between the two residual blocks in the middle."""
    middle_level: MiddleOverrides | None = None
    """What the middle does in its own way."""
    embedding: TimeEmbedding = Field("sinusoidal", validate_default=True)
    """Features of the time."""
    embedding_features: int | None = Field(None, ge=2, le=65_536)
    """Number of features of the time. As many as `channels` by default."""
    conditions_join: Literal["embedding", "features"] = "embedding"
    """Where what stands for the class and for the vector is added: to the embedding, or to the features before it (as
    in EDM)."""
    embedding_channels: int | None = Field(None, ge=1, le=65_536)
    """Size of the embedding of time and class that the blocks see. Four times `channels` by default."""
    resnet: ResnetBlock = Field("ddpm", validate_default=True)
    """Kind of residual block."""
    attention: Attention = Field("self", validate_default=True)
    """Kind of attention."""
    downsample: Downsample = Field("conv", validate_default=True)
    """How the sides are halved."""
    upsample: Upsample = Field("nearest_conv", validate_default=True)
    """How the sides are doubled."""
    progressive_input: ProgressiveInput = Field("none", validate_default=True)
    """How the noisy image itself reaches the smaller levels on the way down."""
    progressive_output: ProgressiveOutput = Field("none", validate_default=True)
    """How the output is made on the way up."""
    norm: Norm = Field("group", validate_default=True)
    """Normalization of all parts."""
    activation: Activation = Field("silu", validate_default=True)
    """Non-linearity of all parts."""
    embedding_activation: Activation | None = None
    """Non-linearity between the two layers that the time's features go through, in place of `activation`."""
    output_activation: Activation | None = None
    """Non-linearity before the convolution that makes the output, in place of `activation`."""
    checkpoint_at: SideLengths = ()
    """Levels with gradient checkpointing, by the side of their feature maps (the longer one if they are not square), or
    X and less memory; the result is the same to the bit. The middle belongs to the last level."""
    levels: Many[LevelOverrides] = ()
    """One table for each level, from the largest maps on, with what it does in its own way. May be shorter than the
    number of levels."""

    def times_known(self) -> int | None:
        """Return the number T if the embedding only knows the times 0..T-1, or None if it takes any."""
        return self.embedding.times_known()

    def build(self, data: DataInfo, ports: Ports) -> UNetNetwork:
        """Return the network, for images of any sides that can be halved as often.

        Raises:
            ValueError: If `problems` would name any.
        """
        self.refuse_problems(data)
        return UNetNetwork(self, data, ports, Parts())

    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the model's table.

        What the parts refuse is found out by building all of them on the meta device, where nothing is allocated.
        """
        parts = Parts()
        with torch.device("meta"):
            UNetNetwork(self, data, Ports(data.channels, data.channels), parts)
        return [
            *self._problems_of_sizes(data),
            *self._problems_of_levels(data),
            *sorted(parts.problems, key=lambda p: p.key),
        ]

    def refuses_size(self, data: DataInfo, height: int, width: int) -> str | None:
        """Refuse sides that cannot be halved as often as the levels do; names the nearest ones that can."""
        factor = 2 ** (len(self.multipliers) - 1)
        if height % factor == 0 and width % factor == 0:
            return None
        levels = _count(len(self.multipliers), "level")
        return f"the model's {levels} need sides divisible by {factor}: {nearest_sizes(height, width, factor)}"

    def _problems_of_sizes(self, data: DataInfo) -> list[Problem]:
        problems = []
        halvings = len(self.multipliers) - 1
        factor = 2**halvings
        if data.height % factor or data.width % factor:
            fitting = len(sides_of(data, len(self.multipliers)))
            message = (
                f"{halvings + 1} levels halve the sides {halvings} times, so both must be divisible by {factor}, and "
                f"the images are {data.height}x{data.width} (height x width). Allowed: {_count(fitting, 'level')} or "
                f"fewer, or images of a size such as {nearest_sizes(data.height, data.width, factor)}"
            )
            problems.append(Problem("multipliers", message, list(self.multipliers)))
        count = len(self.multipliers)
        return [
            *problems,
            *problems_of_sides("attention_at", self.attention_at, data, count),
            *problems_of_sides("checkpoint_at", self.checkpoint_at, data, count),
        ]

    def _problems_of_levels(self, data: DataInfo) -> list[Problem]:
        problems = []
        count = len(self.multipliers)
        if len(self.levels) > count:
            message = f"{len(self.levels)} tables for {_count(count, 'level')}. Allowed: at most one for each level"
            problems.append(Problem("levels", message))
        if self.levels and self.levels[0].upsample is not None:
            message = "the first level is not upsampled, as there is no level before it: leave this out"
            problems.append(Problem("levels[0].upsample", message))
        if len(self.levels) >= count and self.levels[count - 1].downsample is not None:
            message = "the last level is not downsampled, as there is no level after it: leave this out"
            problems.append(Problem(f"levels[{count - 1}].downsample", message))
        return [*problems, *self.problems_of_classes(data, self.embedding)]

    def resolve(self, data: DataInfo) -> list[Level]:
        """Return the levels from the largest maps on, each with all its settings."""
        return [
            self._level(
                self.levels[n] if n < len(self.levels) else LevelOverrides(),
                f"levels[{n}].",
                self.channels * multiplier,
                attends=has_side(self.attention_at, data, n),
                recomputes=has_side(self.checkpoint_at, data, n),
            )
            for n, multiplier in enumerate(self.multipliers)
        ]

    def resolve_middle(self, channels: int) -> Level:
        """Return the settings of the middle."""
        own = self.middle_level or MiddleOverrides()
        attention = own.attention if self.middle_attention else None
        overrides = LevelOverrides(resnet=own.resnet, attention=attention, norm=own.norm)
        return self._level(overrides, "middle_level.", channels, attends=self.middle_attention)

    def resolve_output(self, level: Level) -> Level:
        """Return the settings of what makes the output behind a level: the model's own, or the level's where all have
        an output.
        """
        own = self._level(LevelOverrides(), "", level.channels, attends=False)
        chosen = own if self.progressive_output.build() is None else level
        activation = self.output_activation or chosen.style.activation
        return replace(chosen, style=replace(chosen.style, activation=activation))

    def _level(
        self, own: LevelOverrides, prefix: str, channels: int, *, attends: bool, recomputes: bool = False
    ) -> Level:
        names = ("resnet", "attention", "downsample", "upsample", "norm", "activation")
        return Level(
            channels=own.channels or channels,
            blocks=own.blocks or self.blocks_per_level,
            resnet=own.resnet or self.resnet,
            attention=own.attention or (self.attention if attends else None),
            attention_down=self.attention_down if own.attention_down is None else own.attention_down,
            attention_up=own.attention_up or self.attention_up,
            downsample=own.downsample or self.downsample,
            upsample=own.upsample or self.upsample,
            style=Style(own.norm or self.norm, own.activation or self.activation, own.resnet or self.resnet),
            recomputes=recomputes,
            keys={name: name if getattr(own, name) is None else prefix + name for name in names},
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
