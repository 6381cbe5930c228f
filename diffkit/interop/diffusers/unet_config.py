"""The settings of diffusers' UNet2DModel, with the defaults that it has of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from diffkit.data.base import LARGEST_COUNT
from diffkit.errors import RecipeError
from diffkit.spec import Many, Spec, problems_of

Down = Literal[
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "SkipDownBlock2D",
    "AttnSkipDownBlock2D",
    "KDownBlock2D",
]
"""Blocks of the way down that a recipe can express."""
Up = Literal[
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "SkipUpBlock2D",
    "AttnSkipUpBlock2D",
    "KUpBlock2D",
]
"""Blocks of the way up that a recipe can express."""


def is_skip(block: str) -> bool:
    """Return whether a block is one of NCSN++'s, with the image beside the maps."""
    return "Skip" in block


def is_k(block: str) -> bool:
    """Return whether a block is one of k-diffusion's."""
    return block.startswith("K")


def attends(block: str) -> bool:
    """Return whether a block has attention."""
    return block.startswith("Attn")


def is_padded(block: str) -> bool:
    """Return whether a block on the way down may have a strided convolution, which `downsample_padding` is for."""
    return block in ("DownBlock2D", "AttnDownBlock2D")


def _without_prefix(value: Any) -> Any:
    """Take off what old configs write before the names of blocks."""
    return value.removeprefix("UNetRes") if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _size(value: Any) -> Any:
    """Return height and width."""
    if value is None:
        return None
    sides = (value, value) if isinstance(value, int) else value
    is_pair = isinstance(sides, list | tuple) and len(sides) == 2
    if not is_pair or not all(type(side) is int and 0 < side <= 65_536 for side in sides):
        raise ValueError("should be one side, or height and width")
    return tuple(sides)


class UNetConfig(Spec):
    """``unet/config.json``. What is not in it is as in diffusers."""

    sample_size: Annotated[tuple[int, int] | None, BeforeValidator(_size)] = None
    in_channels: int = Field(3, ge=1, le=65_536)
    out_channels: int = Field(3, ge=1, le=65_536)
    center_input_sample: bool = False
    time_embedding_type: Literal["positional", "fourier", "learned"] = "positional"
    time_embedding_dim: int | None = Field(None, ge=1, le=65_536)
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: Many[Annotated[Down, BeforeValidator(_without_prefix)]] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Many[Annotated[Up, BeforeValidator(_without_prefix)]] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    block_out_channels: Many[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        (224, 448, 672, 896), min_length=1, max_length=16
    )
    layers_per_block: int = Field(2, ge=1, le=100)
    mid_block_scale_factor: float = Field(1, gt=0)
    downsample_padding: int = 1
    downsample_type: str | None = "conv"
    upsample_type: str | None = "conv"
    dropout: float = Field(0.0, ge=0, lt=1)
    act_fn: Annotated[Literal["silu", "swish", "mish", "gelu", "relu"], BeforeValidator(_lower)] = "silu"
    attention_head_dim: int | None = Field(8, ge=1)
    norm_num_groups: int | None = Field(32, ge=1)
    attn_norm_num_groups: int | None = Field(None, ge=1)
    norm_eps: float = Field(1e-5, gt=0)
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: Literal["timestep", "identity"] | None = None
    num_class_embeds: int | None = Field(None, ge=1, le=LARGEST_COUNT)
    num_train_timesteps: int | None = Field(None, ge=1)

    @property
    def levels(self) -> int:
        """The number of levels."""
        return len(self.block_out_channels)

    def down(self, level: int) -> str:
        """Return a level's block on the way down, from the largest maps on."""
        return self.down_block_types[level]

    def up(self, level: int) -> str:
        """Return a level's block on the way up."""
        return self.up_block_types[self.levels - 1 - level]

    @property
    def classes(self) -> int:
        """The number of classes, as far as it is said; 0 without any."""
        return 0 if self.class_embed_type == "identity" else self.num_class_embeds or 0

    @property
    def embedding_size(self) -> int:
        """The size of the embedding of time and class."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    def groups(self, channels: int) -> int:
        """Return the number of groups in the middle and before the output."""
        return min(channels // 4, 32) if self.norm_num_groups is None else self.norm_num_groups

    @classmethod
    def read(cls, config: dict[str, Any], source: Path) -> UNetConfig:
        """Read a config.

        Raises:
            RecipeError: If a setting is unknown or has a value that cannot be expressed: names each.
        """
        known = {name: value for name, value in config.items() if not name.startswith("_")}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            raise RecipeError(source, problems_of(error)) from None
