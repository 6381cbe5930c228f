"""The models of improved-diffusion and guided-diffusion: a `.pt` file of weights, and the flags of its network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffkit.bounds import parse_json, parse_toml, read_bytes
from diffkit.data.base import LARGEST_COUNT, DataInfo
from diffkit.errors import UserError, did_you_mean
from diffkit.interop.base import Imported, Importer, Source
from diffkit.interop.tensors import Remaining, from_heads, tensors_of, words

Flag = bool | int | float | str

IMPROVED: dict[str, Flag] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "attention_resolutions": "16,8",
    "dropout": 0.0,
    "learn_sigma": False,
    "sigma_small": False,
    "class_cond": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "timestep_respacing": "",
    "use_kl": False,
    "predict_xstart": False,
    "rescale_timesteps": True,
    "rescale_learned_sigmas": True,
    "use_checkpoint": False,
    "use_scale_shift_norm": True,
    "clip_denoised": True,
    "use_ddim": False,
}
"""The flags of improved-diffusion that have to do with a network or with sampling, and their defaults."""

GUIDED: dict[str, Flag] = {
    **{name: value for name, value in IMPROVED.items() if name != "sigma_small"},
    "num_head_channels": -1,
    "channel_mult": "",
    "resblock_updown": False,
    "use_fp16": False,
    "use_new_attention_order": False,
    "rescale_timesteps": False,
    "rescale_learned_sigmas": False,
}
"""The same of guided-diffusion."""

TRAINING = (
    *("data_dir", "schedule_sampler", "lr", "weight_decay", "lr_anneal_steps", "batch_size", "microbatch", "ema_rate"),
    *("log_interval", "save_interval", "resume_checkpoint", "fp16_scale_growth", "num_samples", "model_path"),
)
"""Flags of the same scripts that say nothing of the network or of how it samples."""

MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
"""The channels of the levels for each size of image, as multiples of num_channels."""

FLAG_FILES = (".toml", ".json")
"""The endings of a file of flags beside the weights, in the order they are looked for."""

LARGEST_FLAG = 1_000_000
"""No number of steps, channels, blocks or pixels of a side is larger."""

EPS = 1e-5


class GuidedDiffusion(Importer):
    """Reads guided-diffusion's networks (Dhariwal & Nichol 2021)."""

    name: ClassVar[str] = "guided-diffusion"
    takes: ClassVar[str] = (
        "a .pt file with the flags of its network, as key=value or in a .toml or .json file beside it"
    )
    defaults: ClassVar[Mapping[str, Flag]] = GUIDED
    sizes: ClassVar[tuple[int, ...]] = (512, 256, 128, 64)

    def recognizes(self, source: Source) -> bool:
        """Return whether a file's tensors are called as this library calls them."""
        return source.path.is_file() and {"input_blocks.0.0.weight", "time_embed.0.weight"} <= words(source.path)

    def read(self, source: Source) -> Imported:
        """Read a model.

        Raises:
            UserError: If a flag is unknown, contradicts the weights, or means what diffkit cannot express.
        """
        state = tensors_of(source)
        if "output_blocks.0.0.in_layers.0.weight" not in state:
            raise UserError(f"{source.path}: no network that denoises: it has no way up, as a classifier has none")
        shown, said = state["input_blocks.0.0.weight"].shape[1], state["out.2.weight"].shape[0]
        # an upsampler of learned variance puts out as many channels as it is shown
        if said not in (shown, 2 * shown) or (said == shown and shown % 2 == 0):
            raise UserError(
                f"{source.path}: the network sees {shown} channels and puts out {said}: one that is shown a second "
                "image, such as the upsamplers, is not read"
            )
        return _Model(self, source, state).imported()


class ImprovedDiffusion(GuidedDiffusion):
    """Reads improved-diffusion's networks (Nichol & Dhariwal 2021)."""

    name: ClassVar[str] = "improved-diffusion"
    defaults: ClassVar[Mapping[str, Flag]] = IMPROVED
    sizes: ClassVar[tuple[int, ...]] = (256, 64, 32)

    def recognizes(self, source: Source) -> bool:
        """Return whether a file's tensors are called so, and a flag is given that guided-diffusion has not."""
        return "sigma_small" in given_beside(source) and super().recognizes(source)


class _Model:
    """One model while it is read."""

    def __init__(self, importer: GuidedDiffusion, source: Source, state: Mapping[str, Tensor]) -> None:
        self.importer, self.source, self.state = importer, source, state
        self.differences: list[str] = []
        self.flags = self._flags(given_beside(source))
        self.channels = state["input_blocks.0.0.weight"].shape[1]
        self.widths = self._widths()
        self.attends = self._attends()

    def _refuse(self, name: str, why: str) -> UserError:
        return UserError(f"{self.source.path}: {name} = {self.flags[name]}: {why}")

    def _flags(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all flags: those given, those that the weights tell, and the library's defaults for the rest."""
        defaults = self.importer.defaults
        for name in given:
            if name not in defaults and name not in TRAINING:
                hint = did_you_mean(name, defaults)
                raise UserError(
                    f"{self.source.path}: {name} is no flag of {self.importer.name} that an import knows.{hint}"
                )
        flags = {name: _as(given[name], default, name) for name, default in defaults.items() if name in given}
        for name, told in self._told().items():
            if flags.setdefault(name, told) != told:
                raise UserError(f"{self.source.path}: {name} = {flags[name]}, but the weights say {told}")
        # the two libraries' files look alike: who forgot to say which one must not get other times for it
        may_be_improved = defaults is GUIDED and "rescale_timesteps" not in flags
        if may_be_improved and flags.get("diffusion_steps", 1000) != 1000:
            raise UserError(
                f"{self.source.path}: diffusion_steps = {flags['diffusion_steps']}: say whether the network was shown "
                "times scaled to 1000 steps: rescale_timesteps=true is improved-diffusion's default, "
                "rescale_timesteps=false is guided-diffusion's"
            )
        if ignored := [name for name in given if name in TRAINING]:
            self.differences.append(f"flags of training and paths are left out: {', '.join(ignored)}")
        return {**defaults, **flags}

    def _told(self) -> dict[str, Flag]:
        """Return the flags that the weights tell."""
        names = self.state
        embed, width = names["input_blocks.1.0.emb_layers.1.weight"], names["input_blocks.1.0.in_layers.2.weight"]
        told: dict[str, Flag] = {
            "num_channels": names["time_embed.0.weight"].shape[1],
            "class_cond": "label_emb.weight" in names,
            "learn_sigma": names["out.2.weight"].shape[0] == 2 * names["input_blocks.0.0.weight"].shape[1],
            "use_scale_shift_norm": embed.shape[0] == 2 * width.shape[0],
        }
        if "resblock_updown" in self.importer.defaults:
            told["resblock_updown"] = not any(name.endswith(".op.weight") for name in names)
        return told

    def _widths(self) -> list[int]:
        """Return the channels of each level."""
        flags = self.flags
        if flags.get("channel_mult"):
            multipliers: tuple[float, ...] = tuple(int(part) for part in flags["channel_mult"].split(","))
        elif flags["image_size"] in self.importer.sizes:
            multipliers = MULTIPLIERS[flags["image_size"]]
        else:
            sizes = ", ".join(map(str, self.importer.sizes))
            also = "; others need channel_mult" if "channel_mult" in flags else ""
            raise self._refuse("image_size", f"{self.importer.name} has networks for {sizes}{also}")
        return [int(multiplier * flags["num_channels"]) for multiplier in multipliers]

    def _attends(self) -> list[bool]:
        """Return which levels have attention."""
        size = self.flags["image_size"]
        try:
            factors = {size // int(side) for side in self.flags["attention_resolutions"].split(",")}
        except (ValueError, ZeroDivisionError):
            raise self._refuse("attention_resolutions", 'should be side lengths such as "16,8"') from None
        return [2**level in factors for level in range(len(self.widths))]

    def imported(self) -> Imported:
        """Return the model in diffkit's terms."""
        flags = self.flags
        classes = self.state["label_emb.weight"].shape[0] if flags["class_cond"] else 0
        if classes > LARGEST_COUNT:
            raise UserError(f"{self.source.path}: {classes} classes, and {LARGEST_COUNT} are allowed")
        for name in ("diffusion_steps", "image_size", "num_res_blocks", "num_channels"):
            if not 1 <= flags[name] <= LARGEST_FLAG:
                raise self._refuse(name, f"should be 1 to {LARGEST_FLAG}")
        size = flags["image_size"]
        data = DataInfo(self.channels, size, size, tuple(map(str, range(classes))))
        spacing, steps = self._spacing()
        step = re.search(r"(\d{3,})\.pt$", self.source.path.name)
        recipe = {
            "name": re.sub(r"[^A-Za-z0-9._-]", "_", self.source.path.stem).lstrip("._-")[:100] or "imported",
            "data": {
                "kind": "unspecified",
                "channels": self.channels,
                "height": size,
                "width": size,
                "classes": list(data.classes),
            },
            "process": {"kind": "ddpm", "steps": flags["diffusion_steps"], "schedule": self._schedule()},
            "objective": {
                "prediction": "data" if flags["predict_xstart"] else "noise",
                "variance": self._variance(),
                "label_dropout": 0.0,
            },
            "model": self._model(),
            "train": {"steps": max(1, int(step[1]) if step else 1)},
            "sample": {
                "sampler": "ddim" if flags["use_ddim"] else "ddpm",
                "steps": steps,
                "spacing": spacing,
                "x0_rule": "clip" if flags["clip_denoised"] else "none",
            },
        }
        if flags.get("use_fp16"):
            self.differences.append("use_fp16: the weights are float32, and so is the network here")
        if flags["use_kl"]:
            self.differences.append(
                "use_kl: it was trained by the variational bound alone; the recipe says the hybrid loss, which changes "
                "nothing in sampling"
            )
        tensors = self._tensors(classes)
        return Imported(recipe, data, tensors, tuple(self.differences), step=int(step[1]) if step else 0)

    def _schedule(self) -> dict[str, Any]:
        match self.flags["noise_schedule"]:
            case "linear":
                return {"kind": "linear", "start": 1e-4, "end": 0.02, "scale_to_steps": True}
            case "cosine":
                return {"kind": "cosine"}
        raise self._refuse("noise_schedule", 'known are "linear" and "cosine"')

    def _variance(self) -> str:
        if self.flags["learn_sigma"]:
            return "learned_range"
        return "fixed_small" if self.flags.get("sigma_small") else "fixed_large"

    def _spacing(self) -> tuple[dict[str, Any], int]:
        """Return the spacing, and the number of steps."""
        total, respacing = self.flags["diffusion_steps"], self.flags["timestep_respacing"]
        if not respacing:
            return {"kind": "leading"}, total
        try:
            times = respaced(total, respacing)
        except ValueError as error:
            raise self._refuse("timestep_respacing", str(error)) from None
        return spacing_of(times, total), len(times)

    def _model(self) -> dict[str, Any]:
        """Return the model's table."""
        flags, base = self.flags, self.flags["num_channels"]
        first = self.widths[0]
        levels: list[dict[str, Any]] = [{} for _ in self.widths]
        multipliers = [max(1, width // first) for width in self.widths]
        for table, width, multiplier in zip(levels, self.widths, multipliers, strict=True):
            if width != multiplier * first:
                table["channels"] = width
        size, by_block = flags["image_size"], flags.get("resblock_updown")
        return {
            "kind": "unet",
            "class_conditional": flags["class_cond"],
            "channels": first,
            "multipliers": multipliers,
            "blocks_per_level": flags["num_res_blocks"],
            "attention_at": [size >> n for n, attends in enumerate(self.attends) if attends],
            "embedding": {
                "kind": "sinusoidal",
                "order": "cos_sin",
                "endpoint": False,
                "time_scale": 1000 / flags["diffusion_steps"] if flags["rescale_timesteps"] else 1.0,
            },
            "embedding_features": base,
            "embedding_channels": 4 * base,
            "resnet": {"kind": "scale_shift" if flags["use_scale_shift_norm"] else "ddpm", "dropout": flags["dropout"]},
            "attention": {"kind": "self", **self._heads()},
            "downsample": "resnet" if by_block else "conv",
            "upsample": "resnet" if by_block else "nearest_conv",
            "norm": {"kind": "group", "groups": 32, "eps": EPS},
            "levels": levels,
        }

    def _heads(self) -> dict[str, int]:
        flags = self.flags
        up = flags["num_heads_upsample"]
        if flags.get("num_head_channels", -1) != -1:
            return {"head_channels": flags["num_head_channels"]}
        if up not in (-1, flags["num_heads"]) and any(self.attends):
            raise self._refuse(
                "num_heads_upsample", f"diffkit has as many heads on the way up as down: {flags['num_heads']}"
            )
        return {"heads": flags["num_heads"]}

    def _tensors(self, classes: int) -> dict[str, Tensor]:
        """Return the weights by diffkit's names."""
        tensors = Remaining({name: tensor.float() for name, tensor in self.state.items()}, self.source.path)
        out: dict[str, Tensor] = {}
        for n in (0, 2):
            out |= tensors.layer(f"time_embed.{n}", f"time_mlp.{n}")
        if classes:
            table = tensors.take("label_emb.weight")
            out["class_embedding.weight"] = torch.cat((table, torch.zeros_like(table[:1])))
            self.differences.append(
                "the network has no label for 'no class': it was never trained without one; diffkit's is zeros"
            )
        out |= tensors.layer("input_blocks.0.0", "conv_in")
        for theirs, ours in self._places():
            if theirs.endswith("resblock"):
                out |= _block(tensors, theirs.removesuffix(".resblock"), ours)
            elif theirs.endswith("attention"):
                out |= self._attention(tensors, theirs.removesuffix(".attention"), ours)
            else:
                out |= tensors.layer(theirs, ours)
        out |= tensors.layer("out.0", f"up.{len(self.widths) - 1}.output.norm")
        out |= tensors.layer("out.2", f"up.{len(self.widths) - 1}.output.conv")
        tensors.done()
        return out

    def _places(self) -> Iterator[tuple[str, str]]:
        """Yield the names of all parts between the first convolution and the last, there and here.

        Theirs end in what the part is, if it is of several layers.
        """
        blocks, last = self.flags["num_res_blocks"], len(self.widths) - 1
        by_block = self.flags.get("resblock_updown")
        number = 0
        for level, attends in enumerate(self.attends):
            for block in range(blocks):
                number += 1
                yield f"input_blocks.{number}.0.resblock", f"down.{level}.blocks.{block}.resnet"
                if attends:
                    yield f"input_blocks.{number}.1.attention", f"down.{level}.blocks.{block}.attention"
            if level < last:
                number += 1
                if by_block:
                    yield f"input_blocks.{number}.0.resblock", f"down.{level}.downsample"
                else:
                    yield f"input_blocks.{number}.0.op", f"down.{level}.downsample.layers.0"
        yield "middle_block.0.resblock", "middle.0.resnet"
        yield "middle_block.1.attention", "middle.0.attention"
        yield "middle_block.2.resblock", "middle.1.resnet"
        number = 0
        for up, attends in enumerate(reversed(self.attends)):
            for block in range(blocks + 1):
                yield f"output_blocks.{number}.0.resblock", f"up.{up}.blocks.{block}.resnet"
                if attends:
                    yield f"output_blocks.{number}.1.attention", f"up.{up}.blocks.{block}.attention"
                if up < last and block == blocks:
                    place = f"output_blocks.{number}.{2 if attends else 1}"
                    if by_block:
                        yield f"{place}.resblock", f"up.{up}.upsample"
                    else:
                        yield f"{place}.conv", f"up.{up}.upsample.layers.1"
                number += 1

    def _attention(self, tensors: Remaining, theirs: str, ours: str) -> dict[str, Tensor]:
        qkv = tensors.layer(f"{theirs}.qkv", f"{ours}.qkv")
        if not self.flags.get("use_new_attention_order"):
            channels, heads = qkv[f"{ours}.qkv.weight"].shape[1], self._heads()
            count = heads["heads"] if "heads" in heads else channels // heads["head_channels"]
            qkv = {name: from_heads(tensor, count) for name, tensor in qkv.items()}
        out = {**qkv, **tensors.layer(f"{theirs}.proj_out", f"{ours}.out")}
        # convolutions of one place there
        flat = {name: tensor.squeeze(2) if tensor.dim() == 3 else tensor for name, tensor in out.items()}
        return {**flat, **tensors.layer(f"{theirs}.norm", f"{ours}.norm")}


def _block(tensors: Remaining, theirs: str, ours: str) -> dict[str, Tensor]:
    parts = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "embed",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
    }
    out: dict[str, Tensor] = {}
    for their_part, part in parts.items():
        out |= tensors.layer(f"{theirs}.{their_part}", f"{ours}.{part}")
    if f"{theirs}.skip_connection.weight" in tensors:
        out |= tensors.layer(f"{theirs}.skip_connection", f"{ours}.shortcut")
    return out


def respaced(total: int, respacing: str) -> list[int]:
    """Return the times that a flag `timestep_respacing` leaves, falling.

    Args:
        total: The number of times of the process.
        respacing: ``ddimN`` for N times with a whole stride from 0 on, or the numbers of times of sections of equal
            length, such as ``10,15,20``, each evenly from the section's first time to its last.

    Raises:
        ValueError: If there is no such spacing.
    """
    if respacing.startswith("ddim"):
        count = int(respacing.removeprefix("ddim"))
        stride = next((n for n in range(1, total) if len(range(0, total, n)) == count), None)
        if stride is None:
            raise ValueError(f"no whole stride takes {count} of {total} times")
        return list(range(0, total, stride))[::-1]
    counts = [int(part) for part in respacing.split(",")]
    size, extra = divmod(total, len(counts))
    times: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        if count > length:
            raise ValueError(f"a section of {length} times has not {count}")
        stride_between = (length - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0
        for _ in range(count):
            times.append(start + round(place))
            place += stride_between  # summed up as there, whose rounding decides at a half
        start += length
    return sorted(set(times), reverse=True)


def spacing_of(times: list[int], total: int) -> dict[str, Any]:
    """Return the shortest way to say times ``falling``: a spacing's table."""
    from diffkit.diffusion.stride_spacings import Leading, Linspace, Trailing

    for kind in (Linspace(), Leading(), Trailing()):
        if kind.times(len(times), total) == times:
            return {"kind": kind.kind}
    return {"kind": "list", "times": [float(time) for time in times]}


def given_beside(source: Source) -> dict[str, Any]:
    """Return the settings in a file beside the weights, and those given, which go before.

    Raises:
        UserError: If the file cannot be read.
    """
    beside: dict[str, Any] = {}
    for ending in FLAG_FILES:
        file = source.path.with_suffix(ending)
        if file.is_file():
            beside = _read_flags(file)
            break
    return {**beside, **source.settings}


def _read_flags(file: Path) -> dict[str, Any]:
    try:
        text = read_bytes(file).decode()
        flags = parse_toml(text) if file.suffix == ".toml" else parse_json(text)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if not isinstance(flags, dict):
        raise UserError(f"{file}: flags are a table of names and values, not a {type(flags).__name__}")
    return flags


def _as(value: Any, default: Flag, name: str) -> Flag:
    """Return a flag's value as its default's type; texts are read as on a command line.

    Raises:
        UserError: If it is no such value.
    """
    if isinstance(default, str):
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        return type(default)(value)
    except (KeyError, ValueError, TypeError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise UserError(f"{name} = {value!r}: should be {kind}") from None
