"""Whole networks, with the C library and without it."""

import pytest
import torch

from diffkit.data.base import DataInfo
from diffkit.kernels.library import kernels
from diffkit.nn.base import Model, Ports

DATA = DataInfo(channels=3, height=16, width=8, classes=("a", "b"))
WIDTH = 2 * kernels().lanes


def settings(**changes):
    return {
        "kind": "unet",
        "channels": WIDTH,
        "multipliers": [1, 2],
        "blocks_per_level": 1,
        "attention_at": [8],
        "class_conditional": True,
        "norm": {"kind": "group", "groups": 8},
        **changes,
    }


NETWORKS = {
    "unet": settings(),
    "scale_shift": settings(resnet="scale_shift", upsample="resnet", downsample="resnet"),
    "post_norm": settings(resnet="post_norm"),
    "avg_pool and nearest": settings(downsample="avg_pool", upsample="nearest", activation="gelu"),
    "fir": settings(downsample={"kind": "fir", "conv": True}, upsample={"kind": "fir", "conv": True}),
    "k_unet": {"kind": "k_unet", "channels": [WIDTH, WIDTH], "group_size": 8, "norm": {"kind": "group", "groups": 8}},
    "channels that fill no vector": settings(channels=24, norm={"kind": "group", "groups": 6}),
    "lucidrains": {"kind": "lucidrains_unet", "channels": WIDTH, "multipliers": [1, 2]},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_and_its_gradients_are_the_same_with_and_without_the_library(name, plain):
    torch.manual_seed(0)
    network = Model.choose(NETWORKS[name]).build(DATA, Ports(3, 3)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    x, time = torch.randn(4, 3, 16, 8, requires_grad=True), torch.rand(4)
    label = torch.tensor([0, 1, 2, 0]) if NETWORKS[name].get("class_conditional", False) else None

    def compute():
        y = network(x, time, label)
        return [y, *torch.autograd.grad(y.square().mean(), [x, *network.parameters()], allow_unused=True)]

    found = compute()
    plain()
    for one, other in zip(found, compute(), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one - other).abs().max() <= 1e-5 * max(other.abs().max(), 1e-3)
