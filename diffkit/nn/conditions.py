"""How networks take the class and the vector that condition them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffkit.nn.init import init


class Conditioned(nn.Module):
    """A network with a learned vector for each class, one for none of them, and a linear map of the vector.

    Its ``forward(x, time, label=None, vector=None)`` maps images ``[N, in_channels, H, W]``, float32 times ``[N]``,
    labels ``[N]`` of a class-conditional network (the number of classes stands for none of them, and so does leaving
    them out) and vectors ``[N, vector]`` (zeros by default) to ``[N, out_channels, H, W]``. It raises a ValueError if
    there are labels or vectors that it has no input for.

    Attributes:
        no_class: The label that stands for no class.
        class_embedding: The learned vectors, or another map of the label; None without classes.
        vector_embedding: The linear map, without a bias, so that a vector of zeros gives zeros; None without a vector.
    """

    no_class: int
    class_embedding: nn.Module | None
    vector_embedding: nn.Linear | None

    def add_conditions(
        self, classes: int, vector: int, size: int, *, class_conditional: bool, of_class: nn.Module | None = None
    ) -> None:
        """Make the layers.

        Args:
            classes: Number of classes of the data.
            vector: Size of the vector; 0 for none.
            size: Size of what stands for either.
            class_conditional: Whether the network sees the class.
            of_class: What a kind of network maps labels with, in `embed_class`, in place of learned vectors.
        """
        self.no_class = classes
        self.class_embedding = None
        if class_conditional:
            self.class_embedding = nn.Embedding(classes + 1, size) if of_class is None else of_class
        self.vector_embedding = init(nn.Linear(vector, size, bias=False)) if vector else None

    def embed_class(self, label: Tensor) -> Tensor:
        """Return what stands for labels ``[N]`` of a class-conditional network: ``[N, size]``."""
        assert self.class_embedding is not None
        return self.class_embedding(label)  # type: ignore[no-any-return]

    def conditions(self, x: Tensor, label: Tensor | None, vector: Tensor | None) -> list[Tensor]:
        """Return what stands for the class and for the vector, as far as the network sees them: ``[N, size]`` each.

        Args:
            x: What the network computes with, of N images: for its device and type.
            label: Labels ``[N]``; those of no class by default.
            vector: Vectors ``[N, vector]``; zeros by default.

        Raises:
            ValueError: If there are labels or vectors that the network has no input for.
        """
        found = []
        if self.class_embedding is not None:
            if label is None:
                label = torch.full((len(x),), self.no_class, device=x.device)
            found.append(self.embed_class(label))
        elif label is not None:
            raise ValueError("labels were given, but the network is not class-conditional")
        if self.vector_embedding is not None:
            if vector is None:
                vector = x.new_zeros(len(x), self.vector_embedding.in_features)
            found.append(self.vector_embedding(vector.to(x.dtype)))
        elif vector is not None:
            raise ValueError("vectors were given, but the network is not conditioned by any")
        return found
