"""The average of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffkit.optim.base import Ema


class EmaWeights:
    """An exponential moving average of a model's parameters, in float32 whatever the model's type.

    ``average = d average + (1 - d) weights`` after each step. Buffers are no weights: the newest are kept. Starts as
    a copy of the model, and stays on the device where the model was then.

    Args:
        model: The model.
        ema: How fast the average follows.
    """

    def __init__(self, model: nn.Module, ema: Ema) -> None:
        self._model = model
        self._ema = ema
        saved = model.state_dict()
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._names = [name for name in saved if name in parameters]
        self._parameters = [parameters[name] for name in self._names]
        self._averages = [p.detach().to(torch.float32, copy=True) for p in self._parameters]
        self._buffer_names = [name for name in saved if name not in parameters]
        self._buffers = [saved[name].detach().clone() for name in self._buffer_names]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model after optimizer step `step`, counted from 1. Doesn't wait for the device."""
        weights = [p.detach().to(torch.float32) for p in self._parameters]
        torch._foreach_lerp_(self._averages, weights, 1 - self._ema.decay_at(step))
        if self._buffers:
            buffers = dict(self._model.named_buffers(remove_duplicate=False))
            torch._foreach_copy_(self._buffers, [buffers[name] for name in self._buffer_names])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages and buffers, by the names of the model's own `state_dict`; not copied."""
        return dict(zip(self._all_names(), self._all_tensors(), strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved averages.

        Raises:
            KeyError: If a name is missing or unknown.
            ValueError: If a shape differs.
        """
        own = self.state_dict()
        if different := sorted(own.keys() ^ state.keys()):
            raise KeyError(f"the saved average and the model differ in: {', '.join(different)}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, but was saved as {list(state[name].shape)}")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def copy_to(self, model: nn.Module) -> None:
        """Put the averages into another model of the same make, in that model's types."""
        model.load_state_dict(self.state_dict())

    def _all_names(self) -> list[str]:
        return [*self._names, *self._buffer_names]

    def _all_tensors(self) -> list[Tensor]:
        return [*self._averages, *self._buffers]
