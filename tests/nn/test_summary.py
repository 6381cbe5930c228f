import torch
from torch import nn
from torch.nn import functional

from diffkit.data.base import DataInfo
from diffkit.nn.base import Ports
from diffkit.nn.summary import LayerSummary, summarize
from diffkit.nn.unet import UNet


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.mix = Mix()

    def forward(self, x, time, label=None):
        return self.mix(functional.avg_pool2d(self.conv(x), 2))


class Mix(nn.Module):
    """A layer with a layer inside and FLOPs of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        places = self.linear(x.flatten(2).mT)
        return places @ places.mT


def test_layers_by_hand():
    with torch.device("meta"):
        summary = summarize(Small(), DataInfo(3, 8, 6), Ports(3, 3))
    assert summary.layers == (
        LayerSummary("conv", "Conv2d", (4, 8, 6), 3 * 4 * 9 + 4, 2 * 3 * 4 * 9 * 48),
        LayerSummary("mix", "Mix", (12, 12), 6, 2 * 12 * 5 * 12),
        LayerSummary("mix.linear", "Linear", (12, 5), 25, 2 * 12 * 4 * 5),
    )
    assert summary.parameters == 143
    assert summary.flops == sum(layer.flops for layer in summary.layers)


def test_totals_of_the_paper():
    """DDPM's CIFAR-10 network: 35.7 million parameters and 6.1 billion multiplications of convolutions and others."""
    spec = UNet(attention_at=(16,), downsample="conv_asymmetric")
    data = DataInfo(3, 32, 32)
    with torch.device("meta"):
        network = spec.build(data, Ports(3, 3))
    summary = summarize(network, data, Ports(3, 3))
    assert summary.parameters == sum(layer.parameters for layer in summary.layers) == 35_746_307
    assert summary.flops == sum(layer.flops for layer in summary.layers)
    assert 12.1e9 < summary.flops < 12.6e9
    assert network.training


def test_a_network_on_the_cpu_keeps_no_hooks():
    network = Small().eval()
    summarize(network, DataInfo(3, 8, 6), Ports(3, 3))
    assert not network.training
    assert not any(module._forward_hooks for module in network.modules())
