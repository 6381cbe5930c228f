"""Initial weights as in the code of Ho et al. 2020."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from diffkit.nn.convolution import Conv2d

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def init(layer: Layer, scale: float = 1.0) -> Layer:
    """Draw a layer's weights from U(-a, a) with a² = 3 scale / fan_avg, and set its biases to zero.

    fan_avg is the mean of the numbers of inputs and outputs of a unit, so that the variance is scale / fan_avg
    (Glorot & Bengio 2010, eq. 16, for scale 1).

    Args:
        layer: The layer, which is changed and returned.
        scale: Factor of the variance; 0 makes the layer's output zero, as DDPM does at the end of each residual
            branch and of the network.
    """
    if scale == 0:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight, gain=scale**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv(in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, scale: float = 1.0) -> nn.Conv2d:
    """Make a convolution with initial weights of `init`. It keeps the sides (odd kernels) or halves even ones (stride
    2, kernels 3 and 4).
    """
    return init(Conv2d(in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2), scale)


def linear(in_features: int, out_features: int, *, scale: float = 1.0) -> nn.Linear:
    """Make a linear layer with initial weights of `init`."""
    return init(nn.Linear(in_features, out_features), scale)


def silence(norm: nn.Module, layer: nn.Conv2d) -> None:
    """Make a normalization put out zeros at the start, or the layer before it if it has no weights of its own."""
    weights = [parameter for name, parameter in norm.named_parameters() if name.endswith("weight")]
    for weight in weights if weights else [layer.weight]:
        nn.init.zeros_(weight)
