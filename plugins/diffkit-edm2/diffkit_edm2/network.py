"""The U-Net as a torch module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.nn.base import Ports
from diffkit_edm2.magnitude import MpConv, MpFourier, mp_cat, mp_silu, mp_sum, normalized

if TYPE_CHECKING:
    from diffkit_edm2.model import Edm2UNet


class Edm2Network(nn.Module):
    """Computes what `Edm2UNet` says. It puts out zeros until its gain is trained."""

    def __init__(self, spec: Edm2UNet, data: DataInfo, ports: Ports) -> None:
        super().__init__()
        self.spec = spec
        widths = [spec.channels * multiplier for multiplier in spec.multipliers]
        embedding = max(widths)
        self.no_class = len(data.classes)
        self.time_features = MpFourier(widths[0])
        self.time_linear = MpConv(widths[0], embedding, 0)
        self.class_linear = MpConv(self.no_class, embedding, 0) if spec.class_conditional else None
        self.vector_linear = MpConv(ports.vector, embedding, 0) if ports.vector else None

        # one channel of ones stands in for the biases that no layer has
        self.conv_in = MpConv(ports.in_channels + 1, widths[0], 3)
        width, skips = widths[0], [widths[0]]
        self.down = nn.ModuleList()
        for level, channels in enumerate(widths):
            if level > 0:
                self.down.append(Encode(spec, width, width, embedding, sides="half"))
                skips.append(width)
            for _ in range(spec.blocks_per_level):
                self.down.append(Encode(spec, width, channels, embedding, attends=spec.attends(data, level)))
                width = channels
                skips.append(width)

        self.middle = nn.ModuleList(Decode(spec, width, width, embedding, attends=first) for first in (True, False))
        self.up = nn.ModuleList()
        for level, channels in reversed(list(enumerate(widths))):
            blocks = nn.ModuleList()
            if level < len(widths) - 1:
                blocks.append(Decode(spec, width, width, embedding, sides="double"))
            for _ in range(spec.blocks_per_level + 1):
                attends = spec.attends(data, level)
                blocks.append(Decode(spec, width + skips.pop(), channels, embedding, attends=attends))
                width = channels
            self.up.append(blocks)
        self.conv_out = MpConv(width, ports.out_channels, 3)
        self.gain_out = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Compute the output.

        Args:
            x: Images ``[N, in_channels, H, W]`` of magnitude 1.
            time: Times ``[N]``, in float32: log(sigma) / 4.
            label: Labels ``[N]`` of a class-conditional network; the number of classes stands for none of them, and
                so does leaving this out.
            vector: Vectors ``[N, vector]`` that condition the network; zeros by default.

        Returns:
            The output ``[N, out_channels, H, W]``.

        Raises:
            ValueError: If there are labels or vectors that the network has no input for.
        """
        embedding = self.embed(time, label, vector)
        x = self.conv_in(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [x]
        for block in self.down:
            x = block(x, embedding)
            skips.append(x)
        for block in self.middle:
            x = block(x, embedding)
        for level in self.up:
            for block in level:
                if block.sides == "same":
                    x = mp_cat(x, skips.pop(), self.spec.skip_balance)
                x = block(x, embedding)
        return self.conv_out(x, self.gain_out)  # type: ignore[no-any-return]

    def embed(self, time: Tensor, label: Tensor | None, vector: Tensor | None) -> Tensor:
        """Return the embedding of time, class and vector ``[N, embedding]``, after the activation."""
        dtype = self.conv_in.weight.dtype
        embedding = self.time_linear(self.time_features(time).to(dtype))
        if label is not None and self.class_linear is None:
            raise ValueError("labels were given, but the network is not class-conditional")
        if vector is not None and self.vector_linear is None:
            raise ValueError("vectors were given, but the network is not conditioned by any")
        if self.class_linear is not None:
            if label is None:
                label = torch.full((len(time),), self.no_class, device=time.device)
            # no class is a row of zeros
            one_hot = nn.functional.one_hot(label, self.no_class + 1)[:, :-1].to(dtype)
            said = self.class_linear(one_hot * math.sqrt(self.no_class))
            embedding = mp_sum(embedding, said, self.spec.label_balance)
        if self.vector_linear is not None and vector is not None:
            embedding = embedding + self.vector_linear(vector.to(dtype))
        return mp_silu(embedding)


class _Block(nn.Module):
    """What blocks on both ways share: two convolutions, the embedding's scale between them, and attention."""

    projects_first: ClassVar[bool]
    """Whether the 1x1 convolution to another number of channels is before both branches, or on the shortcut only."""

    def __init__(
        self,
        spec: Edm2UNet,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        sides: Literal["same", "half", "double"] = "same",
        attends: bool = False,
    ) -> None:
        super().__init__()
        self.spec, self.sides = spec, sides
        self.conv1 = MpConv(outputs if self.projects_first else inputs, outputs, 3)
        self.embed = MpConv(embedding, outputs, 0)
        self.embed_gain = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(spec.dropout)
        self.conv2 = MpConv(outputs, outputs, 3)
        self.shortcut = MpConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.qkv = MpConv(outputs, 3 * outputs, 1) if attends else None
        self.out = MpConv(outputs, outputs, 1) if attends else None

    def resampled(self, x: Tensor) -> Tensor:
        """Halve the sides by the mean of 2x2 squares, double them by repeating pixels, or keep them."""
        if self.sides == "half":
            return nn.functional.avg_pool2d(x, 2)
        return nn.functional.interpolate(x, scale_factor=2.0) if self.sides == "double" else x

    def residual(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the residual branch."""
        scale = 1 + self.embed(embedding, self.embed_gain)[:, :, None, None]
        h = mp_silu(self.conv1(mp_silu(x)) * scale)
        return self.conv2(self.dropout(h))  # type: ignore[no-any-return]

    def attended(self, x: Tensor) -> Tensor:
        """Mix places by attention whose queries, keys and values have magnitude 1: cosine attention."""
        if self.qkv is not None and self.out is not None:
            n, c, h, w = x.shape
            heads = self.qkv(x).view(n, 3, -1, self.spec.head_channels, h * w)
            q, k, v = normalized(heads, (3,)).transpose(3, 4).unbind(1)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, h, w)
            x = mp_sum(x, self.out(mixed), self.spec.attention_balance)
        return x.clamp(-self.spec.clip, self.spec.clip)


class Encode(_Block):
    """A block of the way down: it normalizes the channels of each pixel first, and projects before the two branches."""

    projects_first: ClassVar[bool] = True

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` and ``[N, embedding]`` to ``[N, outputs, ...]``."""
        x = normalized(self.shortcut(self.resampled(x)), (1,))
        return self.attended(mp_sum(x, self.residual(x, embedding), self.spec.residual_balance))


class Decode(_Block):
    """A block of the way up, and of the middle: it projects on the shortcut only."""

    projects_first: ClassVar[bool] = False

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` and ``[N, embedding]`` to ``[N, outputs, ...]``."""
        x = self.resampled(x)
        return self.attended(mp_sum(self.shortcut(x), self.residual(x, embedding), self.spec.residual_balance))
