"""The U-Net of denoising-diffusion-pytorch, in which resampling changes the number of channels."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import (
    Activation,
    Attention,
    Model,
    Norm,
    Ports,
    ResnetBlock,
    Style,
    TimeEmbedding,
    nearest_sizes,
)
from diffkit.nn.conditions import Conditioned
from diffkit.nn.init import conv, linear
from diffkit.nn.network import Parts
from diffkit.nn.recompute import call
from diffkit.nn.sides import SideLengths, has_side, problems_of_sides
from diffkit.spec import Many, Spec


class LucidrainsLevel(Spec):
    """What one level does in its own way."""

    attention: Attention | None = None
    """Kind of attention behind the level's two blocks, on the way down and up."""


class LucidrainsUNet(Model):
    """The U-Net of denoising-diffusion-pytorch (Phil Wang).

    A 7x7 convolution; on each level two residual blocks, attention, and a resampler that brings the next level's
    number of channels: the pixels of 2x2 squares as channels and a 1x1 convolution, or a 3x3 convolution on the last
    level; two blocks with attention between them in the middle; on the way up the same with a nearest-neighbour
    doubling and a 3x3 convolution; a block that also sees the output of the first convolution; a 1x1 convolution, which
    starts at zero. Every block on the way up sees what the block opposite put out (the second one behind its
    attention); resamplers leave no skip.

    The features of the time go through Linear, GELU, Linear. The class has a learned vector, which is added, and so is
    a linear map of the vector; every block sees the sum after the activation.

    Its parts by default are those of version 2: the block `post_norm`, RMS norm, linear attention with a memory on all
    levels but the last, full attention with a memory there and in the middle.
    """

    kind: Literal["lucidrains_unet"] = "lucidrains_unet"
    channels: int = Field(64, ge=1, le=8192)
    """Factor of the levels' channels, and number of features of the time."""
    first_channels: int | None = Field(None, ge=1, le=8192)
    """Number of channels after the first convolution. As many as `channels` by default."""
    multipliers: Many[Annotated[int, Field(ge=1, le=64)]] = Field((1, 2, 4, 8), min_length=1, max_length=16)
    """Channels behind each level's resampler as multiples of `channels`. All levels but the last are halved, so the
    sides of the images must be divisible by 2 to the power of the number of levels less one."""
    embedding: TimeEmbedding = Field("sinusoidal", validate_default=True)
    """Features of the time."""
    resnet: ResnetBlock = Field("post_norm", validate_default=True)
    """Kind of residual block."""
    attention: Attention = Field("linear_memory", validate_default=True)
    """Kind of attention on all levels but the last."""
    middle_attention: Attention = Field("memory", validate_default=True)
    """Kind of attention on the last level and in the middle."""
    norm: Norm = Field({"kind": "rms", "eps": 1e-24}, validate_default=True)
    """Normalization of all parts."""
    activation: Activation = Field("silu", validate_default=True)
    """Non-linearity of the blocks."""
    checkpoint_at: SideLengths = ()
    """Levels with gradient checkpointing, by the side of their feature maps (the longer one if they are not square), or
    "all": training keeps what each block takes, and computes what is within once more for the gradient. It takes more
    time and less memory; the result is the same to the bit. The middle belongs to the last level."""
    levels: Many[LucidrainsLevel] = ()
    """One table for each level, from the largest maps on, with what it does in its own way. May be shorter than the
    number of levels."""

    def times_known(self) -> int | None:
        """Return the number T if the embedding only knows the times 0..T-1, or None if it takes any."""
        return self.embedding.times_known()

    def build(self, data: DataInfo, ports: Ports) -> LucidrainsNetwork:
        """Return the network, for images of any sides that can be halved as often.

        Raises:
            ValueError: If `problems` would name any.
        """
        self.refuse_problems(data)
        return LucidrainsNetwork(self, data, ports, Parts())

    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the model's table."""
        problems = []
        if reason := self.refuses_size(data, data.height, data.width):
            problems.append(Problem("multipliers", reason, list(self.multipliers)))
        if len(self.levels) > len(self.multipliers):
            message = f"{len(self.levels)} tables for {len(self.multipliers)} levels. Allowed: at most one for each"
            problems.append(Problem("levels", message))
        problems += problems_of_sides("checkpoint_at", self.checkpoint_at, data, len(self.multipliers))
        problems += self.problems_of_labels(data)
        parts = Parts()
        with torch.device("meta"):
            LucidrainsNetwork(self, data, Ports(data.channels, data.channels), parts)
        return [*problems, *parts.problems]

    def refuses_size(self, data: DataInfo, height: int, width: int) -> str | None:
        """Refuse sides that cannot be halved as often as the levels do."""
        factor = 2 ** (len(self.multipliers) - 1)
        if height % factor == 0 and width % factor == 0:
            return None
        nearest = nearest_sizes(height, width, factor)
        return f"the model's {len(self.multipliers)} levels need sides divisible by {factor}: {nearest}"

    def attention_of(self, level: int) -> tuple[str, Attention]:
        """Return a level's attention, and where in the model's table it is set."""
        if level < len(self.levels):
            own = self.levels[level].attention
            if own is not None:
                return f"levels[{level}].attention", own
        is_last = level == len(self.multipliers) - 1
        return ("middle_attention", self.middle_attention) if is_last else ("attention", self.attention)


class LucidrainsNetwork(Conditioned):
    """Computes what `LucidrainsUNet` says.

    Args:
        spec: The settings.
        data: The images' classes.
        ports: What goes in and comes out.
        parts: Builds the parts. Where it noted problems, the network must not be used.
    """

    def __init__(self, spec: LucidrainsUNet, data: DataInfo, ports: Ports, parts: Parts) -> None:
        super().__init__()
        size = 4 * spec.channels
        style = Style(spec.norm, spec.activation, spec.resnet)

        def block(inside: int, outside: int) -> nn.Module:
            return parts.build("resnet", lambda: spec.resnet.build(inside, outside, size, style))

        def attention(key: str, kind: Attention, channels: int) -> nn.Module:
            return parts.build(key, lambda: kind.build(channels, style))

        self.time_features = parts.build("embedding", lambda: spec.embedding.build(spec.channels))
        self.time_mlp = nn.Sequential(linear(spec.channels, size), nn.GELU(), linear(size, size))
        self.add_conditions(len(data.classes), ports.vector, size, class_conditional=spec.class_conditional)
        self.activation = spec.activation.build()

        first = spec.first_channels or spec.channels
        widths = [first, *(spec.channels * multiplier for multiplier in spec.multipliers)]
        last = len(spec.multipliers) - 1
        recomputes = [has_side(spec.checkpoint_at, data, level) for level in range(last + 1)]
        self.first_recomputes, self.middle_recomputes = recomputes[0], recomputes[last]
        self.conv_in = conv(ports.in_channels, first, 7)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level in range(last + 1):
            here, next_ = widths[level], widths[level + 1]
            resample: list[nn.Module] = [nn.PixelUnshuffle(2), conv(4 * here, next_, 1)]
            if level == last:
                resample = [conv(here, next_)]
            attends = attention(*spec.attention_of(level), here)
            self.down.append(Stage([block(here, here), block(here, here)], attends, resample, recomputes[level]))
        for level in reversed(range(last + 1)):
            here, next_ = widths[level + 1], widths[level]
            doubled = [nn.Upsample(scale_factor=2.0, mode="nearest")] if level else []
            attends = attention(*spec.attention_of(level), here)
            blocks = [block(here + next_, here), block(here + next_, here)]
            self.up.append(Stage(blocks, attends, [*doubled, conv(here, next_)], recomputes[level]))
        middle = widths[-1]
        self.middle = nn.ModuleList([block(middle, middle), block(middle, middle)])
        self.middle_attention = attention("middle_attention", spec.middle_attention, middle)
        self.block_out = block(2 * first, first)
        self.conv_out = conv(first, ports.out_channels, 1, scale=0)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Compute the output, as `Conditioned` says."""
        embedding = self.time_mlp(self.time_features(time.float()).to(self.conv_in.weight.dtype))
        for condition in self.conditions(embedding, label, vector):
            embedding = embedding + condition
        embedding = self.activation(embedding)
        h = first = self.conv_in(x)
        skips: list[Tensor] = []
        for stage in self.down:
            h, left = stage(h, embedding)
            skips += left
        h = call(self.middle[0], h, embedding, recomputes=self.middle_recomputes)
        h = call(self.middle_attention, h, recomputes=self.middle_recomputes)
        h = call(self.middle[1], h, embedding, recomputes=self.middle_recomputes)
        for stage in self.up:
            h, _ = stage(h, embedding, [skips.pop(), skips.pop()])
        h = call(self.block_out, torch.cat((h, first), dim=1), embedding, recomputes=self.first_recomputes)
        return self.conv_out(h)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A level on one of the ways: two blocks, attention and a resampler."""

    def __init__(
        self, blocks: list[nn.Module], attention: nn.Module, resample: list[nn.Module], recomputes: bool
    ) -> None:
        super().__init__()
        self.recomputes = recomputes
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention
        self.resample = nn.Sequential(*resample)

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the input of the next stage, and what the two blocks put out, the second one behind its attention.

        Args:
            x: The maps.
            embedding: The embedding.
            skips: On the way up, what each of the blocks sees beside the maps.
        """
        left = []
        for number, block in enumerate(self.blocks):
            x = x if skips is None else torch.cat((x, skips[number]), dim=1)
            x = call(block, x, embedding, recomputes=self.recomputes)
            if number == len(self.blocks) - 1:
                x = call(self.attention, x, recomputes=self.recomputes)
            left.append(x)
        return self.resample(x), left
