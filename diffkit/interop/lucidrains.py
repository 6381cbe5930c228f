"""The models of denoising-diffusion-pytorch: the files `model-N.pt` that its trainer saves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.diffusion.stride_spacings import Trailing
from diffkit.errors import CheckpointError, UserError, did_you_mean
from diffkit.interop.base import Imported, Importer, Source
from diffkit.interop.guided_diffusion import given_beside
from diffkit.interop.lucidrains_package import is_installed, unet_of
from diffkit.interop.tensors import Remaining, words
from diffkit.nn.base import Model
from diffkit.nn.lucidrains import LucidrainsUNet
from diffkit.schedules.base import BetaSchedule

SETTINGS = {
    "image_size": "side of the images, or [height, width]: must be given",
    "objective": "pred_noise, pred_x0 or pred_v: told by the weights from version 1.5 on",
    "sampling_timesteps": "number of steps; all of them by default",
    "ddim_sampling_eta": "with fewer steps than all; 0 by default",
    "sinusoidal_pos_emb_theta": "10000 by default",
    "attn_heads": "4 by default; told by the weights from version 1.9 on",
    "resnet_block_groups": "before version 2; 8 by default",
    "dropout": "of training; 0 by default",
    "version": "of the package; the files of its trainer say it",
}
"""What the weights do not say."""

OBJECTIVES = {"pred_noise": "noise", "pred_x0": "data", "pred_v": "velocity"}

SCHEDULES: tuple[dict[str, Any], ...] = (
    {"kind": "from_alpha_bar", "function": "sigmoid"},
    {"kind": "linear", "start": 1e-4, "end": 0.02, "scale_to_steps": True},
    {"kind": "cosine"},
)
"""The library's schedules with their default settings, here."""

OLDEST = (1, 0, 0)
LAYER_NORM_BEFORE = (1, 7, 1)
STANDARDIZED_BEFORE = (1, 7, 3)
AVERAGED_BEFORE = (1, 7, 4)
SAME_NETWORK_FROM = (2, 0, 0)


class Lucidrains(Importer):
    """Reads denoising-diffusion-pytorch's U-Nets (Phil Wang), versions 1 and 2."""

    name: ClassVar[str] = "lucidrains"
    takes: ClassVar[str] = "a file model-N.pt of denoising-diffusion-pytorch's trainer, with image_size=N"

    def recognizes(self, source: Source) -> bool:
        """Return whether a file's tensors are called as this library calls them."""
        return source.path.is_file() and {"model.init_conv.weight", "alphas_cumprod"} <= words(source.path)

    def read(self, source: Source) -> Imported:
        """Read a model.

        Raises:
            UserError: If a setting is unknown or missing, or means what diffkit cannot express.
            CheckpointError: If it is not such a file.
        """
        data = source.unpickled()
        if not isinstance(data, dict):
            raise CheckpointError(f"{source.path}: not a file of denoising-diffusion-pytorch's trainer")
        settings = given_beside(source)
        for name in settings:
            if name not in SETTINGS:
                known = "; ".join(f"{key} ({what})" for key, what in SETTINGS.items())
                raise UserError(
                    f"{source.path}: {name} is no setting that an import takes.{did_you_mean(name, SETTINGS)} The "
                    f"weights tell all but: {known}"
                )
        if not isinstance(data.get("model"), dict):  # a GaussianDiffusion's own state dict
            return _Model(source, settings, None).imported(data, None, 0)
        raw = data["model"]
        averaged = {
            name.removeprefix("ema_model."): tensor
            for name, tensor in (data.get("ema") or {}).items()
            if name.startswith("ema_model.")
        }
        return _Model(source, settings, data.get("version")).imported(averaged or raw, raw, int(data.get("step", 0)))

    def of_state(self, state: Mapping[str, Tensor], settings: Mapping[str, Any], version: str) -> Imported:
        """Read the state of a GaussianDiffusion that is in memory.

        Args:
            state: Its state dict.
            settings: What it does not say, by the names in `SETTINGS`.
            version: The library's version.

        Raises:
            UserError: If it means what diffkit cannot express.
        """
        return _Model(Source(Path(self.name), settings=settings), settings, version).imported(state, None, 0)


class _Model:
    """One model while it is read."""

    def __init__(self, source: Source, settings: Mapping[str, Any], version: str | None) -> None:
        self.source, self.settings = source, settings
        self.differences: list[str] = []
        self.version = self._version(settings.get("version", version))

    def _fail(self, message: str) -> UserError:
        return UserError(f"{self.source.path}: {message}")

    def _version(self, version: Any) -> tuple[int, ...]:
        found = re.match(r"(\d+)\.(\d+)\.(\d+)", str(version))
        if found is None:
            raise self._fail("it is not known which version of denoising-diffusion-pytorch made it: say version=...")
        numbers = tuple(map(int, found.groups()))
        if numbers < OLDEST:
            raise self._fail(f"version = {version}: only versions from 1.0.0 on are read")
        return numbers

    def imported(self, state: Mapping[str, Tensor], raw: Mapping[str, Tensor] | None, step: int) -> Imported:
        """Return the model in diffkit's terms.

        Args:
            state: The state of the GaussianDiffusion to sample with.
            raw: That of the last step, if there is another.
            step: Number of steps taken.
        """
        unet = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        if "time_mlp.0.weights" in unet:
            raise self._fail("learned_sinusoidal_cond, random_fourier_features: its embedding of the time is unknown")
        channels = unet["final_conv.weight"].shape[0]
        shown = unet["init_conv.weight"].shape[1]
        if shown not in (channels, 2 * channels):
            raise self._fail(
                f"its network sees {shown} channels and puts out {channels}: learned_variance and out_dim are not read"
            )
        height, width = self._size()
        schedule, steps = self._schedule(state["betas"])
        prediction, weighting = self._objective(state)
        taken = self.settings.get("sampling_timesteps", steps)
        model = self._table(unet)
        recipe = {
            "name": re.sub(r"[^A-Za-z0-9._-]", "_", self.source.path.stem).lstrip("._-")[:100] or "imported",
            "data": {"kind": "unspecified", "channels": channels, "height": height, "width": width},
            "process": {"kind": "ddpm", "steps": steps, "schedule": schedule},
            "objective": {
                "prediction": prediction,
                "variance": "fixed_small",
                "weighting": weighting,
                "self_conditioning": shown == 2 * channels,
            },
            "model": model,
            "train": {"steps": max(1, step)},
            "sample": {"steps": taken, "x0_rule": "clip", **self._sampler(taken, steps)},
        }
        data = DataInfo(channels, height, width)
        return Imported(
            recipe,
            data,
            self._tensors(unet),
            tuple(self.differences),
            raw=None if raw is None or raw is state else self._raw(raw),
            step=step,
            measure=self._measure(model, unet, data) if self._can_be_compared() else None,
        )

    def _can_be_compared(self) -> bool:
        """Return whether the network of the version that is installed may be the one that made the weights."""
        return self.version >= SAME_NETWORK_FROM and is_installed()

    def _measure(
        self, table: dict[str, Any], unet: Mapping[str, Tensor], data: DataInfo
    ) -> Callable[[nn.Module], float]:
        """Return what compares a network of diffkit's to the package's own with the same weights."""

        def measure(network: nn.Module) -> float:
            spec = Model.choose(table)
            assert isinstance(spec, LucidrainsUNet)
            shown = unet["init_conv.weight"].shape[1]
            theirs = unet_of(spec, data.channels, self_condition=shown > data.channels).eval()
            try:
                theirs.load_state_dict(dict(unet))
            except RuntimeError:
                raise self._fail("the version that is installed has another network: it cannot be compared") from None
            generator = torch.Generator().manual_seed(0)
            time = torch.tensor([0, 10, 999])
            x = torch.randn(len(time), shown, data.height, data.width, generator=generator)
            with torch.no_grad():
                image, estimate = x[:, : data.channels], x[:, data.channels :]  # which is an input of its own there
                expected = theirs(image, time, estimate) if len(estimate[0]) else theirs(image, time)
                return float((network.eval()(x, time.float()) - expected).abs().max())

        return measure

    def _raw(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        return self._tensors(named)

    def _size(self) -> tuple[int, int]:
        size = self.settings.get("image_size")
        sides = [size, size] if isinstance(size, int) else size
        if not isinstance(sides, list) or len(sides) != 2 or not all(map(_is_side, sides)):
            raise self._fail("its images' size is not in the weights: say image_size=N, or image_size=[height, width]")
        return sides[0], sides[1]

    def _schedule(self, betas: Tensor) -> tuple[dict[str, Any], int]:
        """Return the schedule whose betas these are, and their number."""
        for table in SCHEDULES:
            if torch.allclose(BetaSchedule.choose(table).betas(len(betas)), betas.double(), rtol=1e-4, atol=1e-7):
                return table, len(betas)
        raise self._fail(
            "its betas are none of linear, cosine and sigmoid with the library's defaults: schedule_fn_kwargs"
        )

    def _objective(self, state: Mapping[str, Tensor]) -> tuple[str, Any]:
        """Return the prediction, and the weighting of the loss, as the weights of the times tell them."""
        alpha_bar = state["alphas_cumprod"].double()
        snr = alpha_bar / (1 - alpha_bar)
        given = self.settings.get("objective")
        if given is not None and given not in OBJECTIVES:
            raise self._fail(f"objective = {given}: known are {', '.join(OBJECTIVES)}")
        if "loss_weight" not in state:
            if given is None:
                raise self._fail("what it predicts is not in the weights: say objective=pred_noise, pred_x0 or pred_v")
            self.differences.append("loss weights of versions before 1.5 are not read: they matter in training only")
            return OBJECTIVES[given], "uniform"
        weight = state["loss_weight"].double()
        for name, unit in (("pred_noise", snr), ("pred_v", snr + 1), ("pred_x0", torch.ones_like(snr))):
            clipped = weight * unit
            gamma = clipped.max()
            if not torch.allclose(clipped, snr.clamp(max=gamma), rtol=1e-3):
                continue
            if given not in (None, name):
                raise self._fail(f"objective = {given}, but the weights say {name}")
            is_clipped = bool(gamma < 0.999 * snr.max())
            return OBJECTIVES[name], {"kind": "min_snr", "gamma": round(gamma.item(), 4)} if is_clipped else "snr"
        raise self._fail("its loss weights are those of no objective that is known")

    def _sampler(self, taken: int, steps: int) -> dict[str, Any]:
        if taken == steps:
            return {"sampler": "ddpm"}
        times = torch.linspace(-1, steps - 1, steps=taken + 1).int().tolist()[:0:-1]
        spacing = "trailing" if times == Trailing().times(taken, steps) else {"kind": "list", "times": times}
        return {
            "sampler": {"kind": "ddim", "eta": float(self.settings.get("ddim_sampling_eta", 0))},
            "spacing": spacing,
        }

    def _table(self, unet: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the model's table."""
        base = unet["time_mlp.1.weight"].shape[1]
        last = max(int(name.split(".")[1]) for name in unet if name.startswith("downs."))
        widths = [_down_conv(unet, level, last).shape[0] for level in range(last + 1)]
        if uneven := [width for width in widths if width % base]:
            raise self._fail(f"dim = {base}, and a level has {uneven[0]} channels: no whole multiple")
        norms = self._norms(unet)
        return {
            "kind": "lucidrains_unet",
            "channels": base,
            "first_channels": unet["init_conv.weight"].shape[0],
            "multipliers": [width // base for width in widths],
            "embedding": {
                "kind": "sinusoidal",
                "order": "sin_cos",
                "endpoint": True,
                "max_period": float(self.settings.get("sinusoidal_pos_emb_theta", 10_000)),
            },
            "resnet": {
                "kind": "post_norm",
                "dropout": float(self.settings.get("dropout", 0)),
                "standardize": self.version < STANDARDIZED_BEFORE,
            },
            "norm": norms[0],
            "middle_attention": self._attention(unet, "mid_attn", norms[1]),
            "levels": [{"attention": self._attention(unet, f"downs.{n}.2", norms[1])} for n in range(last + 1)],
        }

    def _norms(self, unet: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the normalizations of blocks and of attention."""
        # F.normalize bounds the norm below, far from any maps
        rms = {"kind": "rms", "eps": 1e-24}
        grouped = {"kind": "group", "groups": self.settings.get("resnet_block_groups", 8), "eps": 1e-5}
        blocks = rms if "mid_block1.block1.norm.g" in unet else grouped
        attention = {"kind": "layer", "eps": 1e-5} if self.version < LAYER_NORM_BEFORE else rms
        return blocks, attention

    def _attention(self, unet: Mapping[str, Tensor], place: str, norm: dict[str, Any]) -> dict[str, Any]:
        """Return an attention's table."""
        inner = _inside(unet, place)
        full = f"{inner}.to_out.weight" in unet
        hidden = unet[f"{inner}.to_qkv.weight"].shape[0] // 3
        memory = unet.get(f"{inner}.mem_kv")
        heads = self.settings.get("attn_heads", 4) if memory is None else memory.shape[1]
        if not isinstance(heads, int) or hidden % heads:
            raise self._fail(f"attn_heads = {heads}: {hidden} channels cannot be split into so many heads")
        table = {
            "kind": "memory" if full else "linear_memory",
            "heads": heads,
            "head_channels": hidden // heads,
            "memory": 0 if memory is None else memory.shape[2 if full else 3],
            "norm": norm,
        }
        return table if full else {**table, "average": self.version < AVERAGED_BEFORE}

    def _tensors(self, unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights by diffkit's names."""
        last = max(int(name.split(".")[1]) for name in unet if name.startswith("downs."))
        take = Remaining({name: tensor.float() for name, tensor in unet.items()}, self.source.path)
        out = {**take.layer("init_conv", "conv_in"), **take.layer("final_conv", "conv_out")}
        channels, shown = out["conv_out.weight"].shape[0], out["conv_in.weight"].shape[1]
        if shown == 2 * channels:
            # the estimate of x0 comes first there, and last here
            out["conv_in.weight"] = out["conv_in.weight"].roll(channels, 1)
        for number in (1, 3):
            out |= take.layer(f"time_mlp.{number}", f"time_mlp.{number - 1}")
        for way, ours in (("downs", "down"), ("ups", "up")):
            for level in range(last + 1):
                place = f"{way}.{level}"
                for block in (0, 1):
                    out |= _block(take, f"{place}.{block}", f"{ours}.{level}.blocks.{block}")
                out |= self._attention_tensors(take, _inside(unet, f"{place}.2"), f"{ours}.{level}.attention")
                resampler = (f"{place}.3", 0) if level == last else (f"{place}.3.1", 1)
                out |= take.layer(resampler[0], f"{ours}.{level}.resample.{resampler[1]}")
        out |= _block(take, "mid_block1", "middle.0")
        out |= self._attention_tensors(take, _inside(unet, "mid_attn"), "middle_attention")
        out |= _block(take, "mid_block2", "middle.1")
        out |= _block(take, "final_res_block", "block_out")
        take.done()
        return out

    def _attention_tensors(self, take: Remaining, theirs: str, ours: str) -> dict[str, Tensor]:
        outer = theirs.removesuffix(".fn")
        has_bias = self.version < LAYER_NORM_BEFORE
        out = _norm(take, f"{outer}.norm", f"{ours}.norm", bias=has_bias)
        out |= take.layer(f"{theirs}.to_qkv", f"{ours}.qkv")
        if f"{theirs}.to_out.weight" in take:
            out |= take.layer(f"{theirs}.to_out", f"{ours}.out")
            if f"{theirs}.mem_kv" in take:
                out[f"{ours}.memory"] = take.take(f"{theirs}.mem_kv")
            return out
        out |= take.layer(f"{theirs}.to_out.0", f"{ours}.out")
        if f"{theirs}.mem_kv" in take:
            out[f"{ours}.memory"] = take.take(f"{theirs}.mem_kv").transpose(2, 3)
        return {**out, **_norm(take, f"{theirs}.to_out.1", f"{ours}.norm_out", bias=has_bias)}


def _is_side(side: Any) -> bool:
    return type(side) is int and 1 <= side <= 65_536


def _inside(unet: Mapping[str, Tensor], place: str) -> str:
    """Return where an attention itself is: before version 1.8 inside of a normalization, inside of a residual."""
    return place if f"{place}.to_qkv.weight" in unet else f"{place}.fn.fn"


def _down_conv(unet: Mapping[str, Tensor], level: int, last: int) -> Tensor:
    """Return the weight of a level's resampler on the way down."""
    return unet[f"downs.{level}.3.weight" if level == last else f"downs.{level}.3.1.weight"]


def _norm(take: Remaining, theirs: str, ours: str, *, bias: bool = False) -> dict[str, Tensor]:
    """Take a normalization's weights: a GroupNorm's, or one gain for each channel."""
    if f"{theirs}.g" not in take:
        return take.layer(theirs, ours)
    gain = take.take(f"{theirs}.g").flatten()
    return {f"{ours}.norm.weight": gain, **({f"{ours}.norm.bias": torch.zeros_like(gain)} if bias else {})}


def _block(take: Remaining, theirs: str, ours: str) -> dict[str, Tensor]:
    out = take.layer(f"{theirs}.mlp.1", f"{ours}.embed")
    for number in (1, 2):
        out |= take.layer(f"{theirs}.block{number}.proj", f"{ours}.conv{number}")
        out |= _norm(take, f"{theirs}.block{number}.norm", f"{ours}.norm{number}")
    if f"{theirs}.res_conv.weight" in take:
        out |= take.layer(f"{theirs}.res_conv", f"{ours}.shortcut")
    return out
