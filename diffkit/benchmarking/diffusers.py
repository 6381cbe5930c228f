"""diffusers' UNet2DModel, trained as its own scripts train it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffkit.benchmarking.peer import Loss, Peer, randomize
from diffkit.data.base import DataInfo
from diffkit.diffusion.process import DiscreteProcess
from diffkit.interop.diffusers.export_config import unet_of
from diffkit.interop.diffusers.names import to_theirs
from diffkit.recipe.tables import Recipe


class Diffusers(Peer):
    """diffusers: the network that `diffkit export` writes, noise of a DDPMScheduler, EMAModel."""

    name: ClassVar[str] = "diffusers"
    module: ClassVar[str] = "diffusers"
    install: ClassVar[str] = "pip install 'diffkit[dev]', or diffusers alone"

    @property
    def _library(self) -> Any:
        return importlib.import_module("diffusers")

    def version(self) -> str:
        """Return the version that is installed."""
        return str(self._library.__version__)

    def build(self, recipe: Recipe, data: DataInfo) -> nn.Module:
        """Build the UNet2DModel of a recipe.

        Raises:
            RecipeError: With what a UNet2DModel cannot express, or its training doesn't do.
        """
        config = unet_of(recipe, data)
        self.check_training(recipe, data)
        network: nn.Module = self._library.UNet2DModel(**config.model_dump())
        return network

    def equalize(self, recipe: Recipe, data: DataInfo, theirs: nn.Module, ours: nn.Module) -> None:
        """Give diffusers' network the weights of diffkit's, by the names that `diffkit export` has for them."""
        randomize(ours)
        theirs.load_state_dict(to_theirs(ours.state_dict(), unet_of(recipe, data)))

    def call(self, network: nn.Module, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """Call the network."""
        output: Tensor = network(x, time, class_labels=labels, return_dict=False)[0]
        return output

    def loss(self, recipe: Recipe, data: DataInfo, network: nn.Module) -> Loss:
        """Return the mean squared error of the noise, as in diffusers' training script of unconditional images.

        With another process or prediction too: the work is the same.
        """
        steps = recipe.process.steps if isinstance(recipe.process, DiscreteProcess) else 1000
        scheduler = self._library.DDPMScheduler(num_train_timesteps=steps)

        def loss(images: Tensor, labels: Tensor | None) -> Tensor:
            images = 2 * images - 1
            noise = torch.randn_like(images)
            times = torch.randint(steps, (len(images),), device=images.device)
            shown = labels if recipe.model.class_conditional else None
            output = self.call(network, scheduler.add_noise(images, noise, times), times, shown)
            return nn.functional.mse_loss(output.float(), noise)

        return loss

    def average(self, network: nn.Module, decay: float) -> Callable[[], object]:
        """Return the step of an EMAModel."""
        training_utils = importlib.import_module("diffusers.training_utils")
        parameters = list(network.parameters())
        ema = training_utils.EMAModel(parameters, decay=decay)
        return lambda: ema.step(parameters)
