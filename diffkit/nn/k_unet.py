"""A U-Net whose blocks have no weights in their normalizations but those that the time gives them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import (
    Activation,
    Attention,
    Downsample,
    Norm,
    Ports,
    ResnetBlock,
    Style,
    TimeEmbedding,
    Upsample,
    nearest_sizes,
)
from diffkit.nn.convolution import Conv2d
from diffkit.nn.embedded import EmbeddedModel, EmbeddedNetwork
from diffkit.nn.init import conv, init, linear
from diffkit.nn.network import Parts
from diffkit.nn.norm import GroupNorm, activated
from diffkit.nn.recompute import call
from diffkit.nn.sides import SideLengths, has_side, problems_of_sides
from diffkit.spec import Many


class KUNet(EmbeddedModel):
    """The U-Net of k-diffusion's image models (Katherine Crowson), in the form that diffusers has it in.

    A 3x3 convolution; on each level residual blocks and a filter that halves the sides; two blocks with attention
    between them in the middle; on the way up as many blocks as on the way down and a filter that doubles the sides;
    normalization, activation and a 3x3 convolution, which starts at zero. A block does

        h = conv1(act(ada1(x)));  y = shortcut(x) + conv2(dropout(act(ada2(h))))
        ada(x) = (1 + s) norm(x) + b,  (s, b) = linear(e)

    with group normalization without weights (adaptive group normalization: Dhariwal & Nichol 2021, section 3, here
    twice a block), and conv2 starts at zero. The shortcut is a 1x1 convolution without a bias where the number of
    channels changes.

    Each level has one skip, the output of its last block, which the first block on the way up sees; the last block
    there brings the number of channels of the next larger maps. These blocks see the embedding as it is, the middle's
    and resamplers after the activation.

    The features of the time go through two linear layers. The class has a learned vector, which is added, and so is a
    linear map of the vector.
    """

    kind: Literal["k_unet"] = "k_unet"
    channels: Many[Annotated[int, Field(ge=1, le=65_536)]] = Field((128, 256, 512), min_length=1, max_length=16)
    """Number of channels of each level, from the largest maps on. Every level but the last is halved, so the sides of
    the images must be divisible by 2 to the power of the number of levels less one."""
    blocks_per_level: int = Field(2, ge=1, le=100)
    """Number of residual blocks of a level, on the way down and on the way up."""
    group_size: int = Field(32, ge=1)
    """Number of channels of a group: the levels' blocks have `channels` // `group_size` groups, and at least one."""
    eps: float = Field(1e-6, gt=0)
    """Added to the variance in the levels' blocks."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that an element is dropped before the second convolution of the levels' blocks, in training."""
    embedding: TimeEmbedding = Field("sinusoidal", validate_default=True)
    """Features of the time."""
    embedding_features: int | None = Field(None, ge=2, le=65_536)
    """Number of features of the time. As many as the first level's `channels` by default."""
    embedding_channels: int | None = Field(None, ge=1, le=65_536)
    """Size of the embedding of time and class. Four times the first level's `channels` by default."""
    downsample: Downsample = Field({"kind": "fir", "border": "reflect"}, validate_default=True)
    """How the sides are halved."""
    upsample: Upsample = Field({"kind": "fir", "border": "reflect"}, validate_default=True)
    """How the sides are doubled."""
    middle: bool = True
    """Two residual blocks in the middle, and attention between them."""
    resnet: ResnetBlock = Field("ddpm", validate_default=True)
    """Kind of residual block in the middle."""
    attention: Attention = Field("self", validate_default=True)
    """Kind of attention in the middle."""
    norm: Norm = Field("group", validate_default=True)
    """Normalization in the middle and before the output."""
    activation: Activation = Field("silu", validate_default=True)
    """Non-linearity of all parts."""
    embedding_activation: Activation | None = None
    """Non-linearity between the two layers that the time's features go through, in place of `activation`."""
    output_activation: Activation | None = None
    """Non-linearity before the convolution that makes the output, in place of `activation`."""
    checkpoint_at: SideLengths = ()
    """Levels with gradient checkpointing, by the side of their feature maps (the longer one if they are not square), or
    "all": training keeps what each block takes, and computes what is within once more for the gradient. It takes more
    time and less memory; the result is the same to the bit. The middle belongs to the last level."""

    def times_known(self) -> int | None:
        """Return the number T if the embedding only knows the times 0..T-1, or None if it takes any."""
        return self.embedding.times_known()

    def build(self, data: DataInfo, ports: Ports) -> KUNetNetwork:
        """Return the network, for images of any sides that can be halved as often.

        Raises:
            ValueError: If `problems` would name any.
        """
        self.refuse_problems(data)
        return KUNetNetwork(self, data, ports, Parts())

    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the model's table."""
        problems = []
        if reason := self.refuses_size(data, data.height, data.width):
            problems.append(Problem("channels", reason, list(self.channels)))
        problems += problems_of_sides("checkpoint_at", self.checkpoint_at, data, len(self.channels))
        problems += self.problems_of_classes(data, self.embedding)
        parts = Parts()
        with torch.device("meta"):
            KUNetNetwork(self, data, Ports(data.channels, data.channels), parts)
        return [*problems, *parts.problems]

    def refuses_size(self, data: DataInfo, height: int, width: int) -> str | None:
        """Refuse sides that cannot be halved as often as the levels do, or to 1, where a mirror has no next place."""
        levels = len(self.channels)
        mirrors = any(getattr(part, "border", None) == "reflect" for part in (self.downsample, self.upsample))
        factor, least = 2 ** (levels - 1), 2 if mirrors and levels > 1 else 1
        if all(side % factor == 0 and side >= factor * least for side in (height, width)):
            return None
        nearest = nearest_sizes(max(height, factor * least), max(width, factor * least), factor)
        several = f"{levels} level{'' if levels == 1 else 's'}"
        at_least = f" and of at least {factor * least}, as mirrored borders need maps of 2x2" if least > 1 else ""
        return f"the model's {several} need sides divisible by {factor}{at_least}: {nearest}"

    def groups(self, channels: int) -> int:
        """Return the number of groups of the blocks of a level of so many channels."""
        return max(1, channels // self.group_size)


class KUNetNetwork(EmbeddedNetwork):
    """Computes what `KUNet` says.

    Args:
        spec: The settings.
        data: The images' classes.
        ports: What goes in and comes out.
        parts: Builds the parts. Where it noted problems, the network must not be used.
    """

    def __init__(self, spec: KUNet, data: DataInfo, ports: Ports, parts: Parts) -> None:
        super().__init__()
        channels, last = spec.channels, len(spec.channels) - 1
        size = spec.embedding_channels or 4 * channels[0]
        features = spec.embedding_features or channels[0]
        style = Style(spec.norm, spec.activation, spec.resnet)

        def blocks(level: int, widths: list[int]) -> list[nn.Module]:
            return [
                parts.build("channels", partial(KBlock, spec, inside, outside, channels[level], size))
                for inside, outside in pairwise(widths)
            ]

        def resampler(name: Literal["downsample", "upsample"], width: int) -> nn.Module:
            kind: Downsample | Upsample = getattr(spec, name)
            return parts.build(name, lambda: kind.build(width, size, style))

        time_features = parts.build("embedding", lambda: spec.embedding.build(features))
        between = spec.embedding_activation or spec.activation
        self.add_embedding(spec, time_features, (features, size), between, data, ports)
        self.activation = spec.activation.build()

        recomputes = [has_side(spec.checkpoint_at, data, level) for level in range(last + 1)]
        self.middle_recomputes = recomputes[last]
        self.conv_in = conv(ports.in_channels, channels[0])
        self.down = nn.ModuleList()
        for level, here in enumerate(channels):
            widths = [channels[max(level - 1, 0)], *[here] * spec.blocks_per_level]
            down = resampler("downsample", here) if level < last else None
            self.down.append(KStage(blocks(level, widths), down, recomputes=recomputes[level]))
        deepest = channels[last]
        self.middle, self.middle_attention = nn.ModuleList(), None
        if spec.middle:
            for _ in range(2):
                self.middle.append(parts.build("resnet", lambda: spec.resnet.build(deepest, deepest, size, style)))
            self.middle_attention = parts.build("attention", lambda: spec.attention.build(deepest, style))
        self.up = nn.ModuleList()
        for level in reversed(range(last + 1)):
            here, larger = channels[level], channels[max(level - 1, 0)]
            widths = [2 * here, *[here] * (spec.blocks_per_level - 1), larger]
            up = resampler("upsample", larger) if level > 0 else None
            self.up.append(KStage(blocks(level, widths), up, recomputes=recomputes[level]))
        self.norm_out = parts.build("norm", lambda: spec.norm.build(channels[0]))
        self.activation_out = (spec.output_activation or spec.activation).build()
        self.conv_out = conv(channels[0], ports.out_channels, scale=0)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Compute the output, as `Conditioned` says."""
        raw = self.embed(time, label, vector)
        embedding = self.activation(raw)
        h, skips = self.conv_in(self.enter(x)), []
        for stage in self.down:
            h, skip = stage(h, raw, embedding)
            skips.append(skip)
        for number, block in enumerate(self.middle):
            h = call(block, h, embedding, recomputes=self.middle_recomputes)
            if number == 0 and self.middle_attention is not None:
                h = call(self.middle_attention, h, recomputes=self.middle_recomputes)
        for stage in self.up:
            h, _ = stage(torch.cat((h, skips.pop()), dim=1), raw, embedding)
        return self.leave(self.conv_out(activated(self.norm_out, self.activation_out, h)), time)


class KStage(nn.Module):
    """A level on one of the ways: blocks and a resampler."""

    def __init__(self, blocks: list[nn.Module], resample: nn.Module | None, *, recomputes: bool) -> None:
        super().__init__()
        self.recomputes = recomputes
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, x: Tensor, raw: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the next stage, and what the last block put out.

        Args:
            x: The maps.
            raw: The embedding before the activation, for the blocks.
            embedding: The embedding after it, for the resampler.
        """
        for block in self.blocks:
            x = call(block, x, raw, recomputes=self.recomputes)
        return x if self.resample is None else self.resample(x, embedding), x


class KBlock(nn.Module):
    """A residual block of two adaptive group normalizations.

    Args:
        spec: The settings.
        in_channels: Number of channels of the input.
        out_channels: Number of channels of the output.
        level_channels: Number of channels of the level, which the groups behind the first convolution are counted by.
        size: Size of the embedding.
    """

    def __init__(self, spec: KUNet, in_channels: int, out_channels: int, level_channels: int, size: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(spec.groups(in_channels), in_channels, size, spec.eps, spec.activation)
        self.conv1 = conv(in_channels, out_channels)
        self.norm2 = AdaptiveNorm(spec.groups(level_channels), out_channels, size, spec.eps, spec.activation)
        self.conv2 = conv(out_channels, out_channels, scale=0)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = init(Conv2d(in_channels, out_channels, 1, bias=False))
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, in, H, W]`` and ``[N, embedding]`` to ``[N, out, H, W]``."""
        h = self.conv1(self.norm1(x, embedding))
        h = self.conv2(self.dropout(self.norm2(h, embedding)))
        h += self.shortcut(x)
        return h  # type: ignore[no-any-return]


class AdaptiveNorm(nn.Module):
    """Group normalization that the embedding scales and shifts, and the activation behind it.

    Raises:
        ValueError: If the channels cannot be split into so many equal groups.
    """

    def __init__(self, groups: int, channels: int, size: int, eps: float, activation: Activation) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(
                f"{channels} channels cannot be split into {groups} equal groups: set channels that group_size "
                "divides, so that each level's number of groups divides the channels of the level before too"
            )
        self.norm = GroupNorm(groups, channels, eps, affine=False)
        self.embed = linear(size, 2 * channels)
        self.activation = activation.build()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` and ``[N, embedding]`` to the shape of `x`."""
        return activated(self.norm, self.activation, x, *self.embed(embedding).chunk(2, dim=1))
