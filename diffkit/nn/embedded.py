"""What U-Nets do with the time, the class and the vector, and what they may do at their input and output."""

from __future__ import annotations

from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import Activation, Model, Ports, TimeEmbedding
from diffkit.nn.conditions import Conditioned
from diffkit.nn.init import linear


class EmbeddedModel(Model):
    """Settings of U-Nets with an embedding of the time."""

    class_features: bool = False
    """Show the network the number of the class, as features like the time's and through two linear layers of its own,
    in place of a learned vector for each class. For classes with an order, such as levels of quality."""
    center_input: bool = False
    """Map the input x to 2x - 1 first, for networks that were made for images in [0, 1]."""
    divide_by_time: bool = False
    """Divide the output by the time, as NCSN++ does where the time is the noise level (Song et al. 2021)."""

    def problems_of_least(self, time: float) -> list[Problem]:
        """Return that the output cannot be divided by the time 0."""
        if not self.divide_by_time or time != 0:
            return []
        return [Problem("divide_by_time", "the process's least time is 0, which nothing can be divided by", True)]

    def problems_of_classes(self, data: DataInfo, embedding: TimeEmbedding) -> list[Problem]:
        """Return that the network is to see classes which the data don't have, or whose numbers have no features.

        Args:
            data: The images' classes.
            embedding: What makes the features.
        """
        problems = self.problems_of_labels(data)
        if not self.class_features:
            return problems
        known, labels = embedding.times_known(), len(data.classes) + 1
        reason = None
        if not self.class_conditional:
            reason = "needs class_conditional = true"
        elif embedding.refuses_least(0) is not None:
            reason = f"the first class has the number 0, which the embedding '{embedding.kind}' has no features of"
        elif known is not None and known < labels:
            reason = f"the embedding knows {known} numbers, and with that of no class there are {labels}"
        return problems if reason is None else [*problems, Problem("class_features", reason, True)]


class EmbeddedNetwork(Conditioned):
    """A network whose blocks see an embedding of time, class and vector.

    Attributes:
        time_features: Features of the time.
        time_mlp: Two linear layers behind them.
        activation: The non-linearity that the embedding goes through where a block wants that.
    """

    time_features: nn.Module
    time_mlp: nn.Sequential
    activation: nn.Module

    def add_embedding(
        self,
        spec: EmbeddedModel,
        time_features: nn.Module,
        sizes: tuple[int, int],
        between: Activation,
        data: DataInfo,
        ports: Ports,
        *,
        joins_features: bool = False,
    ) -> None:
        """Make the layers.

        Args:
            spec: The settings.
            time_features: Maps times ``[N]`` to features.
            sizes: Their number, and the size of the embedding.
            between: The non-linearity between linear layers.
            data: The images' classes.
            ports: What goes in.
            joins_features: Whether class and vector are added to the features, in place of the embedding.
        """
        features, size = sizes
        self.center_input, self.divide_by_time = spec.center_input, spec.divide_by_time
        self.joins_features, self.class_features = joins_features, spec.class_features
        self.time_features = time_features
        self.time_mlp = nn.Sequential(linear(features, size), between.build(), linear(size, size))
        joined = features if joins_features else size
        of_class = None
        if spec.class_features:
            of_class = nn.Sequential(linear(features, joined), between.build(), linear(joined, joined))
        self.add_conditions(
            len(data.classes), ports.vector, joined, class_conditional=spec.class_conditional, of_class=of_class
        )

    def embed(self, time: Tensor, label: Tensor | None, vector: Tensor | None) -> Tensor:
        """Return the embedding of time, class and vector ``[N, embedding]``, before any activation."""
        features = self.features(time)
        embedding = features if self.joins_features else self.time_mlp(features)
        embedding = sum(self.conditions(embedding, label, vector), start=embedding)
        return self.time_mlp(embedding) if self.joins_features else embedding

    def features(self, time: Tensor) -> Tensor:
        """Return the features of times ``[N]``, computed in float32, in the type of the weights."""
        return self.time_features(time.float()).to(self.time_mlp[0].weight.dtype)  # type: ignore[no-any-return]

    def embed_class(self, label: Tensor) -> Tensor:
        """Return a learned vector of each class, or what comes of its number."""
        if not self.class_features or self.class_embedding is None:
            return super().embed_class(label)
        return self.class_embedding(self.features(label))  # type: ignore[no-any-return]

    def enter(self, x: Tensor) -> Tensor:
        """Return what the first layer sees of the input ``[N, C, H, W]``."""
        return 2 * x - 1 if self.center_input else x

    def leave(self, output: Tensor, time: Tensor) -> Tensor:
        """Return the network's output of what the last layer put out."""
        return (output / time.float()[:, None, None, None]).to(output.dtype) if self.divide_by_time else output
