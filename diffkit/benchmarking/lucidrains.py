"""denoising-diffusion-pytorch's Unet, trained as its Trainer trains it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffkit.benchmarking.peer import Loss, Peer, randomize
from diffkit.data.base import DataInfo
from diffkit.diffusion.process import DiscreteProcess
from diffkit.errors import Problem, RecipeError
from diffkit.interop.lucidrains import OBJECTIVES, Lucidrains
from diffkit.interop.lucidrains_package import PACKAGE, package, unet_of, untold
from diffkit.nn.base import Attention, Model
from diffkit.nn.lucidrains import LucidrainsUNet
from diffkit.recipe.tables import Recipe


class LucidrainsPeer(Peer):
    """denoising-diffusion-pytorch (Phil Wang): the loss of its GaussianDiffusion, and torch's own average of weights,
    for that of its Trainer is of another package.
    """

    name: ClassVar[str] = "lucidrains"
    module: ClassVar[str] = PACKAGE
    install: ClassVar[str] = "pip install --no-deps denoising-diffusion-pytorch einops, and scipy, pillow, tqdm"

    def version(self) -> str:
        """Return the version that is installed."""
        return str(importlib.import_module(f"{package().__name__}.version").__version__)

    def build(self, recipe: Recipe, data: DataInfo) -> nn.Module:
        """Build the Unet that comes nearest to a recipe's; `equalize` finds out whether it is the same.

        Raises:
            RecipeError: If the recipe's model is of another kind, or its training is none of GaussianDiffusion's.
        """
        spec = _spec(self, recipe)
        self.check_training(recipe, data)
        return unet_of(spec, data.channels)

    def equalize(self, recipe: Recipe, data: DataInfo, theirs: nn.Module, ours: nn.Module) -> None:
        """Give diffkit's network the weights of the library's, by `diffkit import`, which also says what it is.

        Raises:
            RecipeError: If it is another network than the recipe's.
        """
        randomize(theirs)
        spec = _spec(self, recipe)
        state = self._diffusion(recipe, data, theirs).state_dict()
        settings = {"image_size": [data.height, data.width], **untold(spec)}
        imported = Lucidrains().of_state(state, settings, self.version())
        read = Model.choose(imported.recipe["model"])
        assert isinstance(read, LucidrainsUNet)
        found, wanted = _meaning(read), _meaning(spec)
        problems = [
            Problem(f"model.{key}", f"the library's Unet can only have {found.get(key)}", str(value))
            for key, value in wanted.items()
            if value != found.get(key)
        ]
        if problems:
            raise RecipeError(f"{recipe.name}, against {self.name}", problems)
        ours.load_state_dict(imported.tensors)

    def call(self, network: nn.Module, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """Call the network."""
        output: Tensor = network(x, time)
        return output

    def loss(self, recipe: Recipe, data: DataInfo, network: nn.Module) -> Loss:
        """Return the loss of a GaussianDiffusion."""
        diffusion = self._diffusion(recipe, data, network).to(next(network.parameters()).device)
        return lambda images, labels: diffusion(images)

    def average(self, network: nn.Module, decay: float) -> Callable[[], object]:
        """Return the update of torch's averaged model."""
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        return lambda: averaged.update_parameters(network)

    def _diffusion(self, recipe: Recipe, data: DataInfo, network: nn.Module) -> nn.Module:
        names = {ours: theirs for theirs, ours in OBJECTIVES.items()}
        diffusion: nn.Module = package().GaussianDiffusion(
            network,
            image_size=(data.height, data.width),
            timesteps=recipe.process.steps if isinstance(recipe.process, DiscreteProcess) else 1000,
            objective=names.get(recipe.objective.prediction.kind_name(), "pred_v"),
        )
        return diffusion


def _spec(peer: Peer, recipe: Recipe) -> LucidrainsUNet:
    spec = recipe.model
    if not isinstance(spec, LucidrainsUNet):
        reason = "only a 'lucidrains_unet' is a Unet of denoising-diffusion-pytorch, as in the recipe lucidrains_cifar"
        raise peer.refused(recipe, "model.kind", reason, spec.kind_name())
    if spec.class_conditional:
        raise peer.refused(recipe, "model.class_conditional", "the library's Unet sees no classes", True)
    return spec


def _meaning(spec: LucidrainsUNet) -> Mapping[str, Any]:
    """Return all the settings, however they were written."""

    def told(attention: Attention) -> Mapping[str, Any]:
        settings = attention.model_dump()
        return {**settings, "norm": settings.get("norm") or spec.norm.model_dump()}

    left = {"levels", "attention", "middle_attention", "first_channels", "init_from"}
    attentions = [told(spec.attention_of(level)[1]) for level in range(len(spec.multipliers))]
    return {
        **spec.model_dump(exclude=left),
        "first_channels": spec.first_channels or spec.channels,
        "attention": attentions,
        "middle_attention": told(spec.middle_attention),
    }
