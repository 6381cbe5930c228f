"""Kinds of residual block."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from diffkit.nn.base import ResnetBlock, Style
from diffkit.nn.init import conv, linear
from diffkit.nn.norm import activated


class Channels(NamedTuple):
    """Numbers of channels of a block's input, its output and the embedding."""

    input: int
    output: int
    embedding: int


class TwoConvolutions(ResnetBlock):
    """What the kinds with two convolutions share."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that an element is dropped before the second convolution, in training."""
    skip_scale: float = Field(1.0, gt=0)
    """Factor of the block's output, the sum of its two branches. sqrt(1/2) keeps the variance of the sum (Song et al.
    2021, "Score-based generative modeling")."""

    @abstractmethod
    def block(self, channels: Channels, style: Style, resample: nn.Module | None, *, project: bool) -> nn.Module:
        """Return the module of this kind."""

    def build(self, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return the block.

        Raises:
            ValueError: If the normalization doesn't fit the channels or, in `ddpm`, would hide the embedding: one that
                subtracts the mean of each single channel takes any shift out again.
        """
        channels = Channels(in_channels, out_channels, embedding_channels)
        return self.block(channels, style, None, project=in_channels != out_channels)

    def build_resampling(
        self, channels: int, embedding_channels: int, style: Style, resample: nn.Module, *, project: bool
    ) -> nn.Module:
        """Return a block that resamples before its first convolution, and so does its shortcut.

        Dhariwal & Nichol 2021, section 3, after Brock et al. 2019, "BigGAN".
        """
        return self.block(Channels(channels, channels, embedding_channels), style, resample, project=project)


class Ddpm(TwoConvolutions):
    """The block of DDPM: the embedding shifts every channel between two convolutions.

    h = conv1(act(norm1(x))) + linear(e);  y = shortcut(x) + conv2(dropout(act(norm2(h)))): Ho et al. 2020,
    appendix B. The shortcut is a 1x1 convolution where the number of channels changes. conv2 starts at zero.
    """

    kind: Literal["ddpm"] = "ddpm"

    def block(self, channels: Channels, style: Style, resample: nn.Module | None, *, project: bool) -> nn.Module:
        """Return the module."""
        return DdpmBlock(self, channels, style, resample, project=project)


class ScaleShift(TwoConvolutions):
    """The block of improved DDPM: the embedding scales and shifts the second normalization.

    h = conv1(act(norm1(x)));  (s, b) = linear(e);  y = shortcut(x) + conv2(dropout(act((1 + s) norm2(h) + b))):
    Nichol & Dhariwal 2021 (AdaGN of Dhariwal & Nichol 2021, section 3). The shortcut is a 1x1 convolution
    where the number of channels changes. conv2 starts at zero.
    """

    kind: Literal["scale_shift"] = "scale_shift"

    def block(self, channels: Channels, style: Style, resample: nn.Module | None, *, project: bool) -> nn.Module:
        """Return the module."""
        return ScaleShiftBlock(self, channels, style, resample, project=project)


class _Block(nn.Module):
    """What both blocks are made of; they differ in how the embedding comes in.

    Sums go into the output of a convolution, which nothing else needs, so that no new tensor is made.
    """

    embedding_parts: ClassVar[int]
    """How many numbers of the embedding each channel takes."""

    def __init__(
        self, spec: TwoConvolutions, channels: Channels, style: Style, resample: nn.Module | None, *, project: bool
    ) -> None:
        super().__init__()
        self.skip_scale = spec.skip_scale
        self.norm1 = style.norm.build(channels.input)
        self.conv1 = conv(channels.input, channels.output)
        self.embed = linear(channels.embedding, self.embedding_parts * channels.output)
        self.norm2 = style.norm.build(channels.output)
        self.conv2 = conv(channels.output, channels.output, scale=0)
        self.shortcut = conv(channels.input, channels.output, 1) if project else nn.Identity()
        self.activation = style.activation.build()
        self.dropout = nn.Dropout(spec.dropout)
        self.resample = nn.Identity() if resample is None else resample

    def modulate(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the second normalization of `h` with the embedding ``[N, parts * out]`` brought in, and activated."""
        raise NotImplementedError

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, in, H, W]`` and ``[N, embedding]`` to ``[N, out, H, W]``, or other sides where it resamples."""
        h = self.conv1(self.resample(activated(self.norm1, self.activation, x)))
        h = self.conv2(self.dropout(self.modulate(h, self.embed(embedding))))
        h += self.shortcut(self.resample(x))
        return h if self.skip_scale == 1 else h * self.skip_scale  # type: ignore[no-any-return]


class DdpmBlock(_Block):
    """Computes what `Ddpm` says."""

    embedding_parts: ClassVar[int] = 1

    def __init__(
        self, spec: TwoConvolutions, channels: Channels, style: Style, resample: nn.Module | None, *, project: bool
    ) -> None:
        super().__init__(spec, channels, style, resample, project=project)
        if isinstance(self.norm2, nn.GroupNorm) and self.norm2.num_groups == channels.output:
            raise ValueError(
                f"{channels.output} groups of {channels.output} channels are one channel each, so the normalization "
                "would take out again what the embedding adds, and the block would not see the time. Set fewer "
                'norm.groups, more channels, or resnet = "scale_shift"'
            )

    def modulate(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Shift, then normalize."""
        h += embedding[:, :, None, None]
        return activated(self.norm2, self.activation, h)


class ScaleShiftBlock(_Block):
    """Computes what `ScaleShift` says."""

    embedding_parts: ClassVar[int] = 2

    def modulate(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Normalize, then scale and shift."""
        scale, shift = embedding.chunk(2, dim=1)
        return activated(self.norm2, self.activation, h, scale, shift)
