"""Other libraries, with the network of a recipe and its training step as their own scripts take it."""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem, RecipeError, UserError
from diffkit.recipe.tables import Recipe

Loss = Callable[[Tensor, Tensor | None], Tensor]
"""Makes the mean loss of pixels in [0, 1], ``[N, C, H, W]``, and labels ``[N]`` or None; all randomness is its own."""

TOLERANCE = 1e-3
"""Largest difference of the outputs of what counts as the same network, next to the largest output."""


class Peer(ABC):
    """A library to measure diffkit against.

    The network, the batch, the precision, the optimizer and the decay of the average are the recipe's. All else is as
    in the library: its network's code, how it adds noise and takes the loss, and how it averages weights.
    """

    name: ClassVar[str]
    """What `--against` calls it."""
    module: ClassVar[str]
    """The Python package."""
    install: ClassVar[str]
    """What installs it."""

    def require(self) -> None:
        """Check that the library is installed.

        Raises:
            UserError: If it is not.
        """
        if importlib.util.find_spec(self.module) is None:
            raise UserError(f"--against {self.name}: the package {self.module} is not installed: {self.install}")

    @abstractmethod
    def version(self) -> str:
        """Return the version that is installed."""

    @abstractmethod
    def build(self, recipe: Recipe, data: DataInfo) -> nn.Module:
        """Build the library's network of a recipe, with the library's initial weights.

        Raises:
            RecipeError: If the library has no such network, or no such training.
        """

    @abstractmethod
    def equalize(self, recipe: Recipe, data: DataInfo, theirs: nn.Module, ours: nn.Module) -> None:
        """Give both networks the same random weights.

        Raises:
            RecipeError: If it turns out that they are not the same network.
        """

    @abstractmethod
    def call(self, network: nn.Module, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """Call the library's network with noisy images ``[N, C, H, W]``, int64 times ``[N]`` and labels."""

    @abstractmethod
    def loss(self, recipe: Recipe, data: DataInfo, network: nn.Module) -> Loss:
        """Return the loss as the library takes it."""

    @abstractmethod
    def average(self, network: nn.Module, decay: float) -> Callable[[], object]:
        """Return what follows the network's weights with an average after each step."""

    def difference(self, recipe: Recipe, data: DataInfo, theirs: nn.Module, ours: nn.Module) -> float:
        """Give both networks the same random weights, and return how far their outputs are from each other.

        Returns:
            The largest difference, as part of the largest output.

        Raises:
            RecipeError: If they are not the same network.
            UserError: If the outputs differ by more than rounding.
        """
        self.equalize(recipe, data, theirs, ours)
        device = next(ours.parameters()).device
        x, time = torch.randn(2, *data.shape, device=device), torch.tensor([1, 7], device=device)
        labels = torch.zeros(2, dtype=torch.int64, device=device) if recipe.model.class_conditional else None
        with torch.no_grad():
            mine = ours.eval()(x, time.float(), labels)
            its = self.call(theirs.eval(), x, time, labels)
        found = float((mine - its).abs().max() / its.abs().max())
        if not found <= TOLERANCE:
            raise UserError(
                f"--against {self.name}: version {self.version()} computes something else from the same weights (the "
                f"largest difference is {found:.2g} of the largest output), so its speed would mean nothing"
            )
        return found

    def training_step(
        self, recipe: Recipe, data: DataInfo, network: nn.Module, pixels: Tensor, labels: Tensor | None
    ) -> Callable[[], None]:
        """Return a training step, which changes the network's weights.

        Args:
            recipe: The recipe.
            data: The images' sizes.
            network: The library's network.
            pixels: Images to draw from, uint8 ``[M, C, H, W]``.
            labels: Their labels ``[M]``, or None.
        """
        settings = recipe.train
        parameters = list(network.parameters())
        optimizer = settings.optimizer.build(parameters)
        averages = []
        if settings.ema.kind_name() != "none":
            averages = [self.average(network, decay(10**6)) for decay in settings.ema.averages().values()]
        loss = self.loss(recipe, data, torch.compile(network) if settings.compile else network)  # type: ignore[arg-type]
        device = parameters[0].device
        parts = range(0, settings.batch_size, settings.device_batch_size or settings.batch_size)

        def step() -> None:
            network.train()
            rows = torch.randint(len(pixels), (settings.batch_size,))
            for start in parts:
                chosen = rows[start : start + parts.step]
                images = pixels[chosen].to(device).float() / 255
                shown = None if labels is None else labels[chosen].to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                    value = loss(images, shown)
                (value * (len(chosen) / settings.batch_size)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, settings.grad_clip or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            for average in averages:
                average()

        return step

    def network_call(self, recipe: Recipe, data: DataInfo, network: nn.Module) -> Callable[[], object]:
        """Return a call of the network with a batch as large as a training step's, as the library samples."""
        device = next(network.parameters()).device
        count = recipe.train.batch_size
        x, time = torch.randn(count, *data.shape, device=device), torch.full((count,), 7, device=device)
        labels = None
        if recipe.model.class_conditional:
            labels = torch.arange(count, device=device) % len(data.classes)

        @torch.inference_mode()
        def call() -> object:
            return self.call(network.eval(), x, time, labels)

        return call

    def refused(self, recipe: Recipe, key: str, reason: str, value: object = Problem.MISSING) -> RecipeError:
        """Return the error of a recipe that cannot be measured against this library."""
        return RecipeError(f"{recipe.name}, against {self.name}", [Problem(key, reason, value)])

    def check_training(self, recipe: Recipe, data: DataInfo) -> None:
        """Check that a recipe trains its network as all libraries do, on noisy images alone and for one output.

        Raises:
            RecipeError: With what is different.
        """
        objective = recipe.objective
        problems = []
        if recipe.distillation is not None:
            problems.append(Problem("distillation", "the library has none"))
        if objective.variance.learned:
            problems.append(Problem("objective.variance", "its training learns none", objective.variance.kind_name()))
        if objective.self_conditioning:
            problems.append(Problem("objective.self_conditioning", "would double some of the steps only", True))
        if objective.condition.channels(data.channels):
            problems.append(Problem("objective.condition", "its training knows none", objective.condition.kind_name()))
        if recipe.train.augmentation.vector_size or data.vector:
            problems.append(Problem("data", "its training shows the network no vectors"))
        if problems:
            raise RecipeError(f"{recipe.name}, against {self.name}", problems)


def randomize(network: nn.Module) -> None:
    """Move all weights a little, so that none of what starts at zero stays there."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
