"""Bits per dimension as a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor

from diffkit.data.base import Images
from diffkit.diffusion.likelihood import bound_refused
from diffkit.evaluation.base import ModelMetric

# the kind is registered whenever there are any: what measures is imported when it measures
if TYPE_CHECKING:
    from diffkit.pipeline import Pipeline


class NegativeLogLikelihood(ModelMetric):
    """The negative log-likelihood of the data set's images, in bits per dimension: what ``diffkit likelihood`` finds.

    Smaller is better. The variational bound (Ho et al. 2020, eq. 5) or the likelihood of the probability-flow ODE (Song
    et al. 2021, eq. 39). It takes a network call for every time of the bound, or two and a pass back for every step of
    the ODE, so that it costs far more than metrics of samples.
    """

    kind: Literal["nll"] = "nll"
    method: Literal["vlb", "ode"] | None = None
    """The bound or the ODE; by default the bound, or the ODE where the process has no numbered times."""
    count: int = Field(64, ge=1)
    """Number of the data set's images, which the seed chooses."""
    steps: int | None = Field(None, ge=1)
    """Times of the bound, all by default; or steps of the ODE, 100 by default."""

    def settled(self, pipeline: Pipeline) -> NegativeLogLikelihood:
        """Fill in method and steps."""
        from diffkit.likelihood import Method, walk_of

        method: Method = self.method or ("ode" if bound_refused(pipeline.recipe.process) else "vlb")
        steps, _ = walk_of(pipeline, method, self.steps)
        return self.model_copy(update={"method": method, "steps": steps})

    def images(self, images: Images, seed: int) -> list[int]:
        """Return the numbers of images that the seed chooses."""
        from diffkit.likelihood import chosen_images

        return chosen_images(images, self.count, seed)

    def calls(self, pipeline: Pipeline) -> int:
        """Return how often the network sees each image."""
        from diffkit.likelihood import walk_of

        return walk_of(pipeline, self.method or "vlb", self.steps)[1]

    def of_images(
        self, pipeline: Pipeline, images: Images, numbers: list[int], seed: int, on_call: Callable[[int], None]
    ) -> Tensor:
        """Return the bits per dimension of images: float64 ``[n]``."""
        from diffkit.likelihood import evaluate_likelihood

        found = evaluate_likelihood(
            pipeline,
            images,
            method=self.method or "vlb",
            numbers=numbers,
            steps=self.steps,
            batch_size=len(numbers),
            seed=seed,
            on_call=on_call,
        )
        return found.total.cpu()
