"""The diffusion transformer, DiT."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.nn.base import Activation, Ports, TimeEmbedding, nearest_sizes
from diffkit.nn.conditions import Conditioned
from diffkit.nn.embedding import Sinusoidal
from diffkit.nn.init import init
from diffkit.nn.recompute import call
from diffkit.nn.transformer import PatchModel, TokenAttention, join_patches, mlp, patches


class DiT(PatchModel):
    """The diffusion transformer, whose blocks the time and the class scale, shift and gate (adaLN-zero).

    Peebles & Xie 2023, section 3. Each patch becomes a token by a linear map, and a fixed embedding of its place is
    added. A block does, with a = attention and then a = MLP,

        x <- x + gate(c) * a((1 + scale(c)) * norm(x) + shift(c))

    where norm is layer normalization without weights, scale, shift and gate are linear in silu(c), and c is the sum of
    the time's features after an MLP, the class's learned vector, and a linear map of the vector that conditions the
    network, where there are these. At last come norm, scale and shift, and a linear map to the pixels. Gates and the
    last map start at zero: each block begins as the identity.

    The place of a patch has sines and cosines of its column and of its row, each half of the width: those of Vaswani
    et al. 2017, section 3.5. In images of another size than the data's, columns and rows are scaled so that they span
    the same range: the network sees no place that it was not trained on, but others between them.

    The paper's models are S (width 384, depth 12, heads 6), B (768, 12, 12), L (1024, 24, 16) and XL (1152, 28, 16),
    with patches of 2, 4 or 8.
    """

    kind: Literal["dit"] = "dit"
    embedding: TimeEmbedding = Field(
        {"kind": "sinusoidal", "order": "cos_sin", "endpoint": False}, validate_default=True
    )
    """Features of the time."""
    embedding_features: int = Field(256, ge=2, le=65_536)
    """Number of features of the time."""
    activation: Activation = Field({"kind": "gelu", "approximate": "tanh"}, validate_default=True)
    """Non-linearity of the blocks' MLPs."""

    @property
    def features(self) -> int:
        """Number of features of the time."""
        return self.embedding_features

    def build(self, data: DataInfo, ports: Ports) -> DiTNetwork:
        """Return the network, for images of any sides that the patches divide.

        Raises:
            ValueError: If `problems` would name any.
        """
        self.refuse_problems(data)
        return DiTNetwork(self, data, ports)

    def refuses_size(self, data: DataInfo, height: int, width: int) -> str | None:
        """Refuse sides that the patches do not divide; names the nearest ones that they do."""
        if self.divides(height, width):
            return None
        return f"the model's patches need sides divisible by {self.patch}: {nearest_sizes(height, width, self.patch)}"


class DiTNetwork(Conditioned):
    """Computes what `DiT` says.

    Args:
        spec: The settings.
        data: The images' sides and classes.
        ports: What goes in and comes out.
    """

    def __init__(self, spec: DiT, data: DataInfo, ports: Ports) -> None:
        super().__init__()
        width = spec.width
        self.patch, self.recomputes = spec.patch, spec.checkpoint
        self.grid = data.height // spec.patch, data.width // spec.patch
        self.patches_in = patches(spec, ports.in_channels)
        self.place_features = Sinusoidal(endpoint=False).build(width // 2)
        self.time_features = spec.embedding.build(spec.features)
        self.time_mlp = nn.Sequential(nn.Linear(spec.features, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([DiTBlock(spec) for _ in range(spec.depth)])
        self.modulation_out = nn.Linear(width, 2 * width)
        self.norm_out = _norm(width)
        self.out = nn.Linear(width, spec.patch**2 * ports.out_channels)
        self._initialize()
        self.add_conditions(len(data.classes), ports.vector, width, class_conditional=spec.class_conditional)
        if isinstance(self.class_embedding, nn.Embedding):
            nn.init.normal_(self.class_embedding.weight, std=0.02)

    def _initialize(self) -> None:
        """Draw the weights as in the code of the paper: all biases zero, and what adaLN-zero is called after."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                init(layer)
        for layer in self.time_mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            init(block.modulation, scale=0)
        for layer in (self.modulation_out, self.out):
            init(layer, scale=0)
        nn.init.xavier_uniform_(self.patches_in.weight.flatten(1))
        assert self.patches_in.bias is not None
        nn.init.zeros_(self.patches_in.bias)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Compute the output, as `Conditioned` says."""
        c = self.time_mlp(self.time_features(time.float()).to(self.out.weight.dtype))
        for condition in self.conditions(c, label, vector):
            c = c + condition
        c = nn.functional.silu(c)
        maps = self.patches_in(x)
        h = (maps + self.places(maps)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            h = call(block, h, c, recomputes=self.recomputes)
        shift, scale = self.modulation_out(c)[:, None].chunk(2, dim=-1)
        return join_patches(self.out(_modulate(self.norm_out(h), shift, scale)), x.shape[2], self.patch)

    def places(self, maps: Tensor) -> Tensor:
        """Return the embedding of places ``[width, h, w]``, in the type of maps ``[N, width, h, w]``."""
        h, w = maps.shape[2:]
        rows, columns = (
            self.place_features(torch.arange(count, device=maps.device) * (trained / count))
            for count, trained in zip((h, w), self.grid, strict=True)
        )
        both = torch.cat((columns[None].expand(h, -1, -1), rows[:, None].expand(-1, w, -1)), dim=-1)
        return both.permute(2, 0, 1).to(maps.dtype)


class DiTBlock(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by what conditions the network."""

    def __init__(self, spec: DiT) -> None:
        super().__init__()
        self.modulation = nn.Linear(spec.width, 6 * spec.width)
        self.norm1 = _norm(spec.width)
        self.attention = TokenAttention(spec.width, spec.heads, bias=True)
        self.norm2 = _norm(spec.width)
        self.mlp = mlp(spec)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map ``[N, L, width]`` and ``[N, width]``, after the activation, to ``[N, L, width]``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(_modulate(self.norm1(x), shift1, scale1))
        return x + gate2 * self.mlp(_modulate(self.norm2(x), shift2, scale2))  # type: ignore[no-any-return]


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift
