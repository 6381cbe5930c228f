"""Outputs of the published sources for given settings, weights and inputs: the numbers that the tests here compare to.

The sources are no packages that could be installed, so that their outputs are stored. Weights and inputs follow from
their names and shapes alone. Made by

    git clone https://github.com/openai/improved-diffusion     # 1bc7bbb
    git clone https://github.com/openai/guided-diffusion       # 22e0df8
    git clone https://github.com/NVlabs/edm                    # 008a4e5
    python tests/interop/published/make.py improved-diffusion guided-diffusion edm

and, for each of the versions 1.6.4 and 1.8.0 of denoising-diffusion-pytorch (other tests compare to its newest one),

    pip download --no-deps denoising-diffusion-pytorch==1.6.4 && unzip denoising_diffusion_pytorch-1.6.4*.whl -d 1.6.4
    python tests/interop/published/make.py 1.6.4
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

HERE = Path(__file__).parent

GUIDED = {
    "new_order": {
        "image_size": 16,
        "channel_mult": "1,2",
        "num_channels": 32,
        "num_res_blocks": 1,
        "num_head_channels": 16,
        "attention_resolutions": "8",
        "class_cond": True,
        "learn_sigma": True,
        "resblock_updown": True,
        "use_new_attention_order": True,
        "noise_schedule": "cosine",
        "timestep_respacing": "3,2,3",
        "use_ddim": False,
    },
    "legacy_order": {
        "image_size": 8,
        "channel_mult": "2,1,3",
        "num_channels": 64,
        "num_res_blocks": 2,
        "num_heads": 4,
        "attention_resolutions": "8,4",
        "use_scale_shift_norm": False,
        "diffusion_steps": 40,
        "rescale_timesteps": True,
        "timestep_respacing": "ddim8",
        "use_ddim": True,
    },
    "wide_start": {
        "image_size": 512,
        "num_channels": 64,
        "num_res_blocks": 1,
        "num_heads": 2,
        "attention_resolutions": "16",
        "predict_xstart": True,
        "diffusion_steps": 50,
        "rescale_timesteps": False,
        "timestep_respacing": "5",
    },
}
IMPROVED = {
    "small_variance": {
        "image_size": 32,
        "num_channels": 64,
        "num_res_blocks": 1,
        "num_heads": 4,
        "sigma_small": True,
        "diffusion_steps": 60,
        "noise_schedule": "linear",
        "use_scale_shift_norm": False,
        "timestep_respacing": "9",
    },
    "learned_variance": {
        "image_size": 32,
        "num_channels": 32,
        "num_res_blocks": 1,
        "num_heads": 2,
        "learn_sigma": True,
        "diffusion_steps": 400,
        "noise_schedule": "cosine",
        "timestep_respacing": "8",
        "class_cond": True,
        "dropout": 0.3,
    },
}
EDM = {
    "ddpmpp": {
        "img_resolution": 16,
        "img_channels": 3,
        "label_dim": 4,
        "augment_dim": 9,
        "model_type": "SongUNet",
        "model_channels": 32,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [8],
        "dropout": 0.13,
        "label_dropout": 0.1,
    },
    "ncsnpp": {
        "img_resolution": 16,
        "img_channels": 3,
        "label_dim": 4,
        "augment_dim": 9,
        "model_type": "SongUNet",
        "model_channels": 16,
        "channel_mult": [2, 2, 1],
        "num_blocks": 2,
        "attn_resolutions": [8, 16],
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1],
        "sigma_data": 0.7,
    },
    "skips": {
        "img_resolution": 16,
        "img_channels": 2,
        "model_type": "SongUNet",
        "model_channels": 16,
        "channel_mult": [1, 2, 2],
        "channel_mult_emb": 2,
        "num_blocks": 1,
        "attn_resolutions": [4],
        "encoder_type": "skip",
        "decoder_type": "skip",
        "resample_filter": [1, 3, 3, 1],
    },
    "adm": {
        "img_resolution": 16,
        "img_channels": 3,
        "label_dim": 5,
        "model_type": "DhariwalUNet",
        "model_channels": 64,
        "channel_mult": [2, 1],
        "num_blocks": 1,
        "attn_resolutions": [8],
    },
    "adm_augmented": {
        "img_resolution": 16,
        "img_channels": 3,
        "augment_dim": 9,
        "model_type": "DhariwalUNet",
        "model_channels": 64,
        "channel_mult": [1, 1, 2],
        "num_blocks": 1,
        "attn_resolutions": [16],
    },
}
LUCIDRAINS: dict[str, dict[str, Any]] = {"1.6.4": {}, "1.8.0": {"full_attn": (False, True)}}
BUFFERS = ("betas", "alphas_cumprod", "loss_weight")
SIDE = 16
"""Side of the images that a network is shown whatever its own size, to keep the files small."""


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers that follow from a name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy(generator.standard_normal(shape)).float()


def fill(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return weights of the sizes that keep a network's activations near 1."""
    weights = {}
    for name, shape in shapes.items():
        drawn = normal(name, tuple(shape))
        if len(shape) == 1:
            weights[name] = 0.1 * drawn + (1.0 if name.endswith("weight") else 0.0)
        else:
            weights[name] = drawn / max(1, drawn[0].numel()) ** 0.5
    return weights


class Fills:
    """Noise that follows from how often it was asked for."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, like: Tensor) -> Tensor:
        self.count += 1
        return normal(f"noise {self.count}", tuple(like.shape))


def shapes_of(network: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def guided(
    library: str, cases: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]:
    package = __import__(f"{library}.script_util", fromlist=["script_util"])
    diffusion_module = __import__(f"{library}.gaussian_diffusion", fromlist=["gaussian_diffusion"])
    for name, flags in cases.items():
        arguments = {**package.model_and_diffusion_defaults(), **flags}
        use_ddim = arguments.pop("use_ddim", False)
        network, diffusion = package.create_model_and_diffusion(**arguments)
        network.load_state_dict(fill(shapes_of(network)))
        network.eval()
        x = normal("x", (2, 3, SIDE if flags["image_size"] < 512 else 64, SIDE if flags["image_size"] < 512 else 64))
        condition = {"y": torch.tensor([3, 999])} if flags.get("class_cond") else {}
        time = torch.tensor([1, diffusion.original_num_steps // 2])
        scaled = time.float() * (1000 / diffusion.original_num_steps) if arguments["rescale_timesteps"] else time
        diffusion_module.th.randn_like = Fills()
        loop = diffusion.ddim_sample_loop if use_ddim else diffusion.p_sample_loop
        with torch.no_grad():
            output = network(x, scaled, **condition)
            images = loop(network, x.shape, noise=x, model_kwargs=condition, device="cpu")
        yield name, {"output": output, "images": images}, {"flags": dict(flags), "shapes": shapes_of(network)}


def edm(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]:
    from generate import edm_sampler
    from training.networks import EDMPrecond

    for name, settings in cases.items():
        network = EDMPrecond(**settings)
        weights = fill({key: shape for key, shape in shapes_of(network).items() if not key.endswith("resample_filter")})
        network.load_state_dict(weights, strict=False)
        network.eval()
        x = normal("x", (2, settings["img_channels"], SIDE, SIDE))
        labels = torch.eye(settings["label_dim"])[:2] if settings.get("label_dim") else None
        vector = normal("vector", (2, 9)) if settings.get("augment_dim") else None
        sigma = torch.tensor([0.3, 20.0])
        with torch.no_grad():
            scaled = x / (sigma**2 + settings.get("sigma_data", 0.5) ** 2).sqrt().view(-1, 1, 1, 1)
            known = {} if vector is None else {"augment_labels": vector}
            output = network.model(scaled, sigma.log() / 4, class_labels=labels, **known)
            images = edm_sampler(network, x, labels, num_steps=6)
            unlabelled = network.model(scaled, sigma.log() / 4, class_labels=None if labels is None else 0 * labels)
        outputs = {"output": output, "images": images.float(), "unlabelled": unlabelled}
        yield name, outputs, {"flags": dict(settings), "shapes": shapes_of(network)}


def lucidrains(version: str) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]:
    """Make one case of an old version. What it imports of torchvision and pytorch_fid is for its trainer."""
    from unittest.mock import MagicMock

    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        sys.modules[name] = MagicMock(__spec__=None)
    for name in ("pytorch_fid", "pytorch_fid.inception", "pytorch_fid.fid_score", "accelerate", "ema_pytorch"):
        sys.modules[name] = MagicMock(__spec__=None)
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as module

    unet = module.Unet(8, dim_mults=(1, 2), channels=2, resnet_block_groups=4, **LUCIDRAINS[version])
    diffusion = module.GaussianDiffusion(
        unet, image_size=SIDE, timesteps=30, objective="pred_v", beta_schedule="sigmoid"
    )
    unet.load_state_dict(fill(shapes_of(unet)))
    unet.eval()
    x = normal("x", (2, 2, SIDE, SIDE))
    with torch.no_grad():
        outputs = {"output": unet(x, torch.tensor([1, 20]))}
    outputs |= {name: getattr(diffusion, name) for name in BUFFERS}
    yield version, outputs, {"flags": {}, "shapes": shapes_of(unet)}


def write(file: str, cases: Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]) -> None:
    """Store some of the numbers of each tensor, in float32."""
    tensors, metadata = {}, {}
    for name, outputs, rest in cases:
        for key, value in outputs.items():
            tensors[f"{name}/{key}"] = value if key in BUFFERS else thinned(value)
        metadata[name] = json.dumps(rest, separators=(",", ":"))
    safetensors.torch.save_file(tensors, HERE / file, metadata)
    (HERE / file).chmod(0o644)


def thinned(values: Tensor) -> Tensor:
    """Return some of the numbers."""
    return values.flatten()[:: max(8, values.numel() // 256 | 1)].clone()


def read(file: str) -> dict[str, dict[str, Any]]:
    """Return the cases of a file: settings, shapes, and numbers."""
    with safetensors.safe_open(HERE / file, "pt") as opened:
        cases = {name: json.loads(text) for name, text in opened.metadata().items()}
        for key in opened.keys():  # noqa: SIM118
            name, _, what = key.partition("/")
            cases[name][what] = opened.get_tensor(key)
    return cases


if __name__ == "__main__":
    sys.path[:0] = sys.argv[1:]
    if sys.argv[1:2] in (["1.6.4"], ["1.8.0"]):
        write(f"lucidrains_{sys.argv[1]}.safetensors", lucidrains(sys.argv[1]))
        sys.exit()
    write("improved_diffusion.safetensors", guided("improved_diffusion", IMPROVED))
    write("guided_diffusion.safetensors", guided("guided_diffusion", GUIDED))
    write("edm_song.safetensors", edm({name: case for name, case in EDM.items() if case["model_type"] == "SongUNet"}))
    write("edm_adm.safetensors", edm({name: case for name, case in EDM.items() if case["model_type"] != "SongUNet"}))
