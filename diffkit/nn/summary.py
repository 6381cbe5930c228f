"""What a network is made of: shapes, parameters and FLOPs of its layers, with nothing allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffkit.data.base import DataInfo
from diffkit.nn.base import Ports


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a network.

    Attributes:
        name: Its place in the network, as in the names of its weights.
        kind: Its class.
        output: Shape of its output for one image, without the batch.
        parameters: Number of its own parameters, without those of layers inside it.
        flops: Floating-point operations of its own, without those of layers inside it, for one image: by torch's
            counter, which counts multiplications and additions of matrix products, convolutions and attention.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """All layers of a network in the order of the network, and the network's totals.

    Attributes:
        layers: The layers that have parameters or FLOPs of their own.
        parameters: Number of all parameters.
        flops: FLOPs of one forward pass of one image.
    """

    layers: tuple[LayerSummary, ...]
    parameters: int
    flops: int


def summarize(model: nn.Module, data: DataInfo, ports: Ports) -> Summary:
    """Summarize a network by a forward pass of one image.

    Args:
        model: The network, best built on the meta device: then nothing is computed or allocated.
        data: What its images are.
        ports: What goes into it.
    """
    device = next(model.parameters()).device
    outputs: dict[str, tuple[int, ...]] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(names[module], tuple(output.shape[1:]))

    hooks = [module.register_forward_hook(note) for module in names]
    was_training = model.training
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            x = torch.empty(1, ports.in_channels, data.height, data.width, device=device)
            vector = {"vector": torch.empty(1, ports.vector, device=device)} if ports.vector else {}
            model.eval()(x, torch.zeros(1, device=device), **vector)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    flops = _own_flops(model, counter)
    layers = [
        LayerSummary(
            name=name,
            kind=type(module).__name__,
            output=outputs[name],
            parameters=sum(parameter.numel() for parameter in module.parameters(recurse=False)),
            flops=flops.get(name, 0),
        )
        for module, name in names.items()
        if name in outputs
    ]
    return Summary(
        layers=tuple(layer for layer in layers if layer.parameters or layer.flops),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=counter.get_total_flops(),
    )


def _own_flops(model: nn.Module, counter: FlopCounterMode) -> dict[str, int]:
    """Return each called module's FLOPs without those of the modules inside it, by the module's name."""
    root = type(model).__name__
    counted = {
        place.removeprefix(root).removeprefix("."): sum(operations.values())
        for place, operations in counter.get_flop_counts().items()
        if place != "Global"
    }
    own = dict(counted)
    for name, flops in counted.items():
        around = name
        while around:
            around = around.rpartition(".")[0]
            if around in own:
                own[around] -= flops
                break
    return own
