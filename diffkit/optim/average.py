"""The averages of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffkit.optim.base import SAMPLED, Ema
from diffkit.shards import own_part, part_like, whole


class EmaWeights:
    """Exponential moving averages of a model's parameters, in float32 whatever the model's type.

    ``average = d average + (1 - d) weights`` after each step, for each of the kind's averages. Buffers are no weights:
    the newest are kept. Starts as copies of the model, and stays on the device where the model was then, in parts where
    the model is.

    Args:
        model: The model.
        ema: Which averages there are, and how fast they follow.
    """

    def __init__(self, model: nn.Module, ema: Ema) -> None:
        self._model = model
        self._decays = ema.averages()
        saved = model.state_dict()
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._names = [name for name in saved if name in parameters]
        self._parameters = [parameters[name] for name in self._names]
        self._averages = {
            average: [p.detach().to(torch.float32, copy=True) for p in self._parameters] for average in self._decays
        }
        self._buffer_names = [name for name in saved if name not in parameters]
        self._buffers = [saved[name].detach().clone() for name in self._buffer_names]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model after optimizer step `step`, counted from 1. Doesn't wait for the device."""
        weights = [own_part(p.detach()).to(torch.float32) for p in self._parameters]
        for average, decay_at in self._decays.items():
            own = [own_part(tensor) for tensor in self._averages[average]]
            torch._foreach_lerp_(own, weights, 1 - decay_at(step))
        if self._buffers:
            buffers = dict(self._model.named_buffers(remove_duplicate=False))
            torch._foreach_copy_(self._buffers, [buffers[name] for name in self._buffer_names])

    def state_dict(self, average: str = SAMPLED) -> dict[str, Tensor]:
        """Return one of the averages, with buffers, by the names of the model's own `state_dict`; not copied."""
        names, tensors = [*self._names, *self._buffer_names], [*self._averages[average], *self._buffers]
        return dict(zip(names, tensors, strict=True))

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """Return all averages by name, each as `state_dict` does."""
        return {average: self.state_dict(average) for average in self._averages}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], average: str = SAMPLED) -> None:
        """Go on from a saved average.

        Raises:
            KeyError: If a name is missing or unknown.
            ValueError: If a shape differs.
        """
        own = self.state_dict(average)
        if different := sorted(own.keys() ^ state.keys()):
            raise KeyError(f"the saved average and the model differ in: {', '.join(different)}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, but was saved as {list(state[name].shape)}")
        for name, tensor in own.items():
            tensor.copy_(part_like(tensor, state[name]))

    def load_state_dicts(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from all saved averages.

        Raises:
            KeyError: If an average or a name is missing or unknown.
            ValueError: If a shape differs.
        """
        if different := sorted(states.keys() ^ self._averages.keys()):
            raise KeyError(f"what was saved and the recipe differ in the averages: {', '.join(different)}")
        for average, state in states.items():
            self.load_state_dict(state, average)

    @torch.no_grad()
    def distance(self) -> Tensor:
        """Return how far the average that is sampled from is from the weights: the norm of the difference over that of
        the weights, on their device.
        """
        pairs = list(zip(self._averages[SAMPLED], self._parameters, strict=True))
        # one by one: all differences at once would take as much memory as the weights
        difference = torch.stack([torch.linalg.vector_norm(average - weight) for average, weight in pairs])
        return whole(torch.linalg.vector_norm(difference)) / whole(nn.utils.get_total_norm(self._parameters))

    def copy_to(self, model: nn.Module) -> None:
        """Put the average that is sampled from into another model of the same make, in that model's types."""
        model.load_state_dict(self.state_dict())
