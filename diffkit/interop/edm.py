"""The models of EDM: plain tensors, and the settings that their network was made with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from diffkit.data.base import LARGEST_COUNT, DataInfo
from diffkit.errors import CheckpointError, UserError
from diffkit.interop.base import Imported, Importer, Source
from diffkit.interop.guided_diffusion import given_beside
from diffkit.interop.tensors import Remaining, from_heads_interleaved, tensors_of, words
from diffkit.spec import problems_of

SKIP_SCALE = 0.5**0.5


class Edm(Importer):
    """Reads EDM's networks (Karras et al. 2022): DDPM++, NCSN++ and ADM, with EDM's preconditioning."""

    name: ClassVar[str] = "edm"
    takes: ClassVar[str] = (
        "a .safetensors or .pt file of the network's state dict with the settings of the network, as key=value or in a "
        ".toml or .json file beside it"
    )

    def recognizes(self, source: Source) -> bool:
        """Return whether a file's tensors are called as EDM's, or it is a .pkl file."""
        if not source.path.is_file():
            return False
        return source.path.suffix == ".pkl" or any(
            re.fullmatch(r"(model\.)?map_layer0\.weight", word) for word in words(source.path)
        )

    def read(self, source: Source) -> Imported:
        """Read a model.

        Raises:
            UserError: If a setting is unknown or means what diffkit cannot express, or the file is an EDM pickle.
        """
        path = source.path
        if path.suffix == ".pkl":
            raise UserError(
                f"{path}: EDM's .pkl files hold the code of the network, and reading one runs it. Read it with EDM's "
                "own code, where you trust it, and save the tensors and the settings: "
                "safetensors.torch.save_file(ema.state_dict(), 'NAME.safetensors') and "
                "json.dump({**ema.init_kwargs, 'class_name': type(ema).__name__}, open('NAME.json', 'w'))"
            )
        settings = _settings(source)
        state = {name.removeprefix("model."): tensor.float() for name, tensor in tensors_of(source).items()}
        return _Model(settings, source, state).imported()


class _Settings(BaseModel):
    """The arguments of EDM's networks and of their preconditioning, and their defaults there."""

    model_config = ConfigDict(extra="forbid")

    class_name: str
    img_resolution: int = Field(ge=1, le=65_536)
    img_channels: int = Field(ge=1, le=65_536)
    label_dim: int = Field(0, ge=0, le=LARGEST_COUNT)
    use_fp16: bool = False
    sigma_min: float = 0.0
    sigma_max: float = float("inf")
    sigma_data: float = 0.5
    model_type: Literal["SongUNet", "DhariwalUNet"] = "DhariwalUNet"
    augment_dim: int = 0
    model_channels: int | None = None
    channel_mult: list[int] | None = Field(None, min_length=1, max_length=16)
    channel_mult_emb: int = 4
    num_blocks: int | None = Field(None, ge=1, le=100)
    attn_resolutions: list[int] | None = None
    dropout: float = 0.1
    label_dropout: float = 0.0
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: list[float] = [1, 1]


SONG_ONLY = ("embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter")
"""Settings that DhariwalUNet has not."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        "model_channels": 128,
        "channel_mult": [1, 2, 2, 2],
        "num_blocks": 4,
        "attn_resolutions": [16],
    },
    "DhariwalUNet": {
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
    },
}
"""Where the defaults of the two networks differ."""


def _settings(source: Source) -> _Settings:
    given = given_beside(source)
    try:
        settings = _Settings.model_validate(given)
    except ValidationError as error:
        problems = "\n".join(f"  {problem}" for problem in problems_of(error))
        raise UserError(f"{source.path}: its settings, the arguments of EDM's networks:\n{problems}") from None
    kind = settings.class_name.rpartition(".")[2]
    if kind != "EDMPrecond":
        raise UserError(
            f"{source.path}: class_name = {settings.class_name}: only EDMPrecond can be expressed exactly. The others "
            "show their networks other times and other scales of x than diffkit's processes"
        )
    if settings.model_type == "DhariwalUNet":
        if extra := [name for name in SONG_ONLY if name in given]:
            raise UserError(f"{source.path}: {extra[0]} = {given[extra[0]]}: DhariwalUNet has no such argument")
        if settings.augment_dim and settings.label_dim:
            raise UserError(
                f"{source.path}: augment_dim = {settings.augment_dim} with label_dim = {settings.label_dim}: "
                "DhariwalUNet brings the two in at different places, and diffkit's U-Net at one"
            )
    own = {name: value for name, value in DEFAULTS[settings.model_type].items() if getattr(settings, name) is None}
    return settings.model_copy(update=own)


class _Model:
    """One model while it is read."""

    def __init__(self, settings: _Settings, source: Source, state: Mapping[str, Tensor]) -> None:
        self.settings, self.source = settings, source
        self.tensors = Remaining(state, source.path)
        self.is_song = settings.model_type == "SongUNet"
        assert settings.channel_mult is not None and settings.model_channels is not None
        assert settings.attn_resolutions is not None and settings.num_blocks is not None
        self.channels, self.blocks = settings.model_channels, settings.num_blocks
        self.multipliers = settings.channel_mult
        self.sides = [settings.img_resolution >> level for level in range(len(settings.channel_mult))]
        self.attends = [side in settings.attn_resolutions for side in self.sides]
        self.differences: list[str] = []

    def imported(self) -> Imported:
        """Return the model in diffkit's terms."""
        settings = self.settings
        classes = tuple(map(str, range(settings.label_dim)))
        size = settings.img_resolution
        if settings.use_fp16:
            self.differences.append("use_fp16: the weights are float32, and so is the network here")
        recipe = {
            "name": re.sub(r"[^A-Za-z0-9._-]", "_", self.source.path.stem).lstrip("._-")[:100] or "imported",
            "data": {
                "kind": "unspecified",
                "channels": settings.img_channels,
                "height": size,
                "width": size,
                "classes": list(classes),
            },
            "process": {
                "kind": "edm",
                "sigma_min": max(0.002, settings.sigma_min),
                "sigma_max": min(80.0, settings.sigma_max),
                "sigma_data": settings.sigma_data,
            },
            "objective": {
                "prediction": {"kind": "edm", "sigma_data": settings.sigma_data},
                "weighting": {"kind": "edm", "sigma_data": settings.sigma_data},
                "time_sampling": "lognormal",
                "label_dropout": settings.label_dropout,
            },
            "model": self._table(),
            "train": {
                "steps": 1,
                **({"augmentation": "edm"} if settings.augment_dim else {}),
            },
            "sample": {"sampler": "heun", "steps": 18, "spacing": {"kind": "karras", "rho": 7.0}, "x0_rule": "none"},
        }
        if settings.augment_dim not in (0, AUGMENT_DIM):
            raise UserError(
                f"{self.source.path}: augment_dim = {settings.augment_dim}: EDM's own augmentation has {AUGMENT_DIM}"
            )
        data = DataInfo(settings.img_channels, size, size, classes)
        return Imported(recipe, data, self._converted(), tuple(self.differences))

    def _table(self) -> dict[str, Any]:
        """Return the model's table."""
        settings = self.settings
        table = {
            "kind": "unet",
            "class_conditional": bool(settings.label_dim),
            "channels": self.channels,
            "multipliers": self.multipliers,
            "blocks_per_level": self.blocks,
            "attention_at": [side for side, attends in zip(self.sides, self.attends, strict=True) if attends],
            "embedding_channels": self.channels * settings.channel_mult_emb,
        }
        if self.is_song:
            return {**table, **self._song()}
        if self.multipliers[0] != 1:
            # DhariwalUNet's first convolution has the first level's channels
            table["channels"] = self.channels * self.multipliers[0]
            table["multipliers"] = [1] * len(self.multipliers)
            table["levels"] = [{"channels": self.channels * multiplier} for multiplier in self.multipliers]
        return {
            **table,
            "embedding_features": self.channels,
            "embedding": {"kind": "sinusoidal", "order": "cos_sin", "endpoint": False},
            "conditions_join": "features" if settings.augment_dim else "embedding",
            "resnet": {"kind": "scale_shift", "dropout": settings.dropout},
            "attention": {"kind": "self", "head_channels": HEAD_CHANNELS},
            "downsample": "resnet",
            "upsample": "resnet",
            "norm": {"kind": "group", "groups": 32, "min_group": 4, "eps": 1e-5},
        }

    def _song(self) -> dict[str, Any]:
        settings = self.settings
        taps = {"filter": settings.resample_filter}
        embeddings = {
            "positional": {"kind": "sinusoidal", "order": "sin_cos", "endpoint": True},
            "fourier": {"kind": "fourier", "time_range": 1.0},
        }
        return {
            "embedding": embeddings[settings.embedding_type],
            "embedding_features": self.channels * settings.channel_mult_noise,
            "conditions_join": "features",
            "attention_up": "last",
            "resnet": {"kind": "ddpm", "dropout": settings.dropout, "skip_scale": SKIP_SCALE},
            "attention": {"kind": "self", "heads": 1, "skip_scale": SKIP_SCALE},
            "downsample": {"kind": "resnet", "project": True, **taps},
            "upsample": {"kind": "resnet", "project": True, **taps},
            "progressive_input": (
                "none" if settings.encoder_type == "standard" else {"kind": settings.encoder_type, **taps}
            ),
            "progressive_output": (
                "none" if settings.decoder_type == "standard" else {"kind": settings.decoder_type, **taps}
            ),
            "norm": {"kind": "group", "groups": 32, "min_group": 4, "eps": 1e-6},
        }

    def _converted(self) -> dict[str, Tensor]:
        """Return the weights by diffkit's names."""
        take = self.tensors
        sides = [f"{side}x{side}" for side in self.sides]
        out = {**self._mapping(), **take.layer(f"enc.{sides[0]}_conv", "conv_in")}
        for level, side in enumerate(sides):
            if level:
                out |= self._block(f"enc.{side}_down", f"down.{level - 1}.downsample")
                out |= self._aux_input(side, f"down.{level - 1}.image_in")
            for block in range(self.blocks):
                out |= self._block(f"enc.{side}_block{block}", f"down.{level}.blocks.{block}")
        for number in (0, 1):
            out |= self._block(f"dec.{sides[-1]}_in{number}", f"middle.{number}")
        for up, side in enumerate(reversed(sides)):
            if up:
                out |= self._block(f"dec.{side}_up", f"up.{up - 1}.upsample")
            for block in range(self.blocks + 1):
                out |= self._block(f"dec.{side}_block{block}", f"up.{up}.blocks.{block}")
            if self.is_song and (up == len(sides) - 1 or self.settings.decoder_type == "skip"):
                if up and self.settings.decoder_type == "skip":
                    self._check_filter(f"dec.{side}_aux_up")
                out |= take.layer(f"dec.{side}_aux_norm", f"up.{up}.output.norm")
                out |= take.layer(f"dec.{side}_aux_conv", f"up.{up}.output.conv")
        if not self.is_song:
            out |= take.layer("out_norm", f"up.{len(sides) - 1}.output.norm")
            out |= take.layer("out_conv", f"up.{len(sides) - 1}.output.conv")
        take.done()
        return out

    def _mapping(self) -> dict[str, Tensor]:
        """Return the weights of the embedding of time, class and augmentation."""
        take, settings = self.tensors, self.settings
        out = {**take.layer("map_layer0", "time_mlp.0"), **take.layer("map_layer1", "time_mlp.2")}
        if settings.label_dim:
            weight = take.take("map_label.weight")
            # theirs is a linear layer of a one-hot vector, scaled in SongUNet; zeros stand for no class
            rows = weight.T * (settings.label_dim**0.5 if self.is_song else 1.0)
            rows = torch.cat((rows, torch.zeros_like(rows[:1])))
            out["class_embedding.weight"] = rows + take.take("map_label.bias") if self.is_song else rows
            if not settings.label_dropout:
                self.differences.append("the network was never trained without a class: label_dropout is 0")
        if settings.augment_dim:
            out["vector_embedding.weight"] = take.take("map_augment.weight")
        if self.is_song and settings.embedding_type == "fourier":
            out["time_features.frequencies"] = take.take("map_noise.freqs")
            self.differences.append(
                "the features of the time are the sines, then the cosines; diffkit has the cosines first, so the "
                "weights that read and write features are reordered"
            )
            half = settings.channel_mult_noise * self.channels // 2
            out["time_mlp.0.weight"] = out["time_mlp.0.weight"].roll(half, 1)
            for name, axis in (("class_embedding.weight", 1), ("vector_embedding.weight", 0)):
                if name in out:
                    out[name] = out[name].roll(half, axis)
        return out

    def _block(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """Return the weights of a residual block and of the attention in it."""
        take = self.tensors
        inner = "" if ours.endswith(("downsample", "upsample")) else ".resnet"
        out: dict[str, Tensor] = {}
        for their_part, part in BLOCK.items():
            out |= take.layer(f"{theirs}.{their_part}", f"{ours}{inner}.{part}")
        for filtered in ("conv0", "skip"):
            self._check_filter(f"{theirs}.{filtered}")
        if f"{theirs}.skip.weight" in take:
            out |= take.layer(f"{theirs}.skip", f"{ours}{inner}.shortcut")
        if f"{theirs}.qkv.weight" in take:
            out |= take.layer(f"{theirs}.norm2", f"{ours}.attention.norm")
            qkv, proj = take.layer(f"{theirs}.qkv", "qkv"), take.layer(f"{theirs}.proj", "out")
            channels = qkv["qkv.weight"].shape[1]
            heads = 1 if self.is_song else channels // HEAD_CHANNELS
            for name, tensor in {
                **{key: from_heads_interleaved(value, heads) for key, value in qkv.items()},
                **proj,
            }.items():
                out[f"{ours}.attention.{name}"] = tensor.flatten(1) if tensor.dim() == 4 else tensor
        return out

    def _aux_input(self, side: str, ours: str) -> dict[str, Tensor]:
        """Return the weights of what brings the image to a level."""
        match self.settings.encoder_type:
            case "skip":
                self._check_filter(f"enc.{side}_aux_down")
                return self.tensors.layer(f"enc.{side}_aux_skip", f"{ours}.conv")
            case "residual":
                self._check_filter(f"enc.{side}_aux_residual")
                return self.tensors.layer(f"enc.{side}_aux_residual", f"{ours}.conv")
        return {}

    def _check_filter(self, place: str) -> None:
        """Take a stored filter, and check that the settings say the same."""
        if f"{place}.resample_filter" not in self.tensors:
            return
        stored = self.tensors.take(f"{place}.resample_filter")
        line = torch.tensor(self.settings.resample_filter, dtype=torch.float32)
        expected = torch.outer(line, line)[None, None] / line.sum() ** 2
        if stored.shape != expected.shape or not torch.allclose(stored, expected):
            raise CheckpointError(
                f"{self.source.path}: {place} filters by another filter than resample_filter = "
                f"{self.settings.resample_filter}"
            )


BLOCK = {"norm0": "norm1", "conv0": "conv1", "affine": "embed", "norm1": "norm2", "conv1": "conv2"}
"""What the parts of a block are called there and here."""

AUGMENT_DIM = 9
"""Size of the vector that tells a network of EDM's augmentation."""

HEAD_CHANNELS = 64
"""Channels of a head of DhariwalUNet's attention."""
