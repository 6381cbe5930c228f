"""The U-ViT: a transformer with a U-Net's long skips."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import Activation, Ports, TimeEmbedding
from diffkit.nn.conditions import Conditioned
from diffkit.nn.recompute import call
from diffkit.nn.transformer import PatchModel, TokenAttention, join_patches, mlp, patches


class UViT(PatchModel):
    """A transformer that takes time, class and patches as tokens alike, with long skips between its halves.

    Bao et al. 2023, section 3. The tokens are a linear map of each patch, the time's features as they are, the learned
    vector of the class and a linear map of the vector that conditions the network, where there are these. A learned
    embedding of the place is added to each. A block does

        x <- x + attention(norm(x)),  x <- x + MLP(norm(x))

    with layer normalization. The blocks of the second half first join the tokens with those that the block opposite in
    the first half put out: linear(concat(x, skip)). At last come norm, a linear map of each patch's token to its
    pixels, and a 3x3 convolution. Weights start as in the code of the paper; the output does not start at zero.

    There is one learned place for each patch, so the network takes images of the data's size only.

    The paper's models are S (width 512, depth 13, heads 8), S deep (512, 17, 8), M (768, 17, 12), L (1024, 21, 16) and
    H (1152, 29, 16).
    """

    kind: Literal["uvit"] = "uvit"
    width: int = Field(512, ge=4, le=65_536, multiple_of=4)
    """Number of channels of each token."""
    depth: int = Field(13, ge=1, le=1001)
    """Number of blocks: an odd number, for the one in the middle and as many before as after it."""
    heads: int = Field(8, ge=1)
    """Number of heads of each attention. It must divide the width."""
    embedding: TimeEmbedding = Field(
        {"kind": "sinusoidal", "order": "cos_sin", "endpoint": False}, validate_default=True
    )
    """Features of the time: as many as the width."""
    activation: Activation = Field("gelu", validate_default=True)
    """Non-linearity of the blocks' MLPs."""

    def build(self, data: DataInfo, ports: Ports) -> UViTNetwork:
        """Return the network, for images of the data's size.

        Raises:
            ValueError: If `problems` would name any.
        """
        self.refuse_problems(data)
        return UViTNetwork(self, data, ports)

    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the model's table."""
        problems = super().problems(data)
        if self.depth % 2 == 0:
            message = (
                "is the number of all blocks, with one in the middle, so it must be odd: "
                f"{self.depth - 1} or {self.depth + 1}"
            )
            problems.append(Problem("depth", message, self.depth))
        return problems


class UViTNetwork(Conditioned):
    """Computes what `UViT` says.

    Args:
        spec: The settings.
        data: The images' sides and classes.
        ports: What goes in and comes out.
    """

    def __init__(self, spec: UViT, data: DataInfo, ports: Ports) -> None:
        super().__init__()
        width, half = spec.width, spec.depth // 2
        self.patch, self.recomputes = spec.patch, spec.checkpoint
        self.size = data.height, data.width
        self.time_features = spec.embedding.build(spec.features)
        self.patches_in = patches(spec, ports.in_channels)
        self.first = nn.ModuleList([UViTBlock(spec, skip=False) for _ in range(half)])
        self.middle = UViTBlock(spec, skip=False)
        self.second = nn.ModuleList([UViTBlock(spec, skip=True) for _ in range(half)])
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, spec.patch**2 * ports.out_channels)
        self.conv_out = nn.Conv2d(ports.out_channels, ports.out_channels, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.add_conditions(len(data.classes), ports.vector, width, class_conditional=spec.class_conditional)
        count = (data.height // spec.patch) * (data.width // spec.patch)
        self.extra = 1 + (self.class_embedding is not None) + (self.vector_embedding is not None)
        self.places = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.extra + count, width), std=0.02))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Compute the output.

        Args:
            x: Images ``[N, in_channels, H, W]``, of the data's size.
            time: Times ``[N]``, in float32.
            label: Labels ``[N]`` of a class-conditional network; the number of classes stands for none of them, and
                so does leaving this out.
            vector: Vectors ``[N, vector]`` that condition the network; zeros by default.

        Returns:
            The output ``[N, out_channels, H, W]``.

        Raises:
            ValueError: If the images have another size than the data's, or there are labels or vectors that the
                network has no input for.
        """
        if x.shape[2:] != self.size:
            raise ValueError(f"the images must be of {self.size[0]}x{self.size[1]}, not {x.shape[2]}x{x.shape[3]}")
        h = self.patches_in(x).flatten(2).transpose(1, 2)
        clock = self.time_features(time.float()).to(h.dtype)
        extra = torch.stack([*reversed(self.conditions(clock, label, vector)), clock], dim=1)
        h = torch.cat((extra.to(h.dtype), h), dim=1) + self.places
        skips = []
        for block in self.first:
            h = call(block, h, recomputes=self.recomputes)
            skips.append(h)
        h = call(self.middle, h, recomputes=self.recomputes)
        for block in self.second:
            h = call(block, h, skips.pop(), recomputes=self.recomputes)
        pixels = self.out(self.norm_out(h)[:, self.extra :])
        return self.conv_out(join_patches(pixels, x.shape[2], self.patch))  # type: ignore[no-any-return]


class UViTBlock(nn.Module):
    """Attention and MLP, before which a block of the second half joins in a skip."""

    def __init__(self, spec: UViT, *, skip: bool) -> None:
        super().__init__()
        self.join = nn.Linear(2 * spec.width, spec.width) if skip else None
        self.norm1 = nn.LayerNorm(spec.width)
        self.attention = TokenAttention(spec.width, spec.heads, bias=False)
        self.norm2 = nn.LayerNorm(spec.width)
        self.mlp = mlp(spec)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map tokens ``[N, L, width]``, and those of the skip, to ``[N, L, width]``."""
        if self.join is not None and skip is not None:
            x = self.join(torch.cat((x, skip), dim=-1))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]
