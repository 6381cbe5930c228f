"""Features of a classifier that is trained on the data set itself."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from pathlib import Path
from typing import Literal

import platformdirs
import safetensors.torch
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diffkit.data.base import DataInfo, Dataset, Images, of_split
from diffkit.data.batches import Batches
from diffkit.data.pixels import to_unit
from diffkit.data.progress import progress_bar
from diffkit.errors import Diverged, UserError
from diffkit.evaluation.features import Extractor, Features
from diffkit.random import derive_seed

FORMAT = 1
"""Version of network and training: part of a cached file's name."""

ROWS = 4096
"""So many images are read at once for the hash."""


class ClassifierFeatures(Features):
    """The layer before the logits of a small classifier of the data set's own classes, which diffkit trains.

    What Inception is to photographs, a network that tells the classes apart is to other images. It is a plain
    convolutional network: a 3x3 convolution, and two for each level below, the first of stride 2, all with batch
    normalization and ReLU; as many levels as leave the shorter side at least 4, with twice the channels each time up to
    8 times; the mean over all places, and a linear layer of `size` ReLUs, which are the features. It learns from the
    part of the data set for training, with AdamW and a learning rate that rises for a tenth of the steps and falls to
    zero over the rest.

    Trained once, in a few minutes, and kept in the user's cache under a name made of the hash of the images, the labels
    and these settings. The distances of different classifiers cannot be compared with each other: reports state the
    weights' SHA-256.
    """

    kind: Literal["classifier"] = "classifier"
    channels: int = Field(16, ge=1, le=1024)
    """Number of channels of the first level."""
    size: int = Field(128, ge=1, le=8192)
    """Number of features."""
    steps: int = Field(3000, ge=1)
    """Number of training steps."""
    batch_size: int = Field(128, ge=1)
    """Number of images of one step."""
    lr: float = Field(3e-3, gt=0, le=10)
    """Highest learning rate."""
    seed: int = Field(0, ge=0, lt=2**63)
    """All randomness of the training follows from it."""

    def prepare(self, dataset: Dataset, device: torch.device | str = "cpu") -> Extractor:
        """Return the classifier, from the cache or newly trained.

        Raises:
            UserError: If the data set has no labels.
            Diverged: If the training did not work.
        """
        data, images = _labelled(of_split(dataset, "train"))
        file = self.file(data, images)
        network = ClassifierNetwork(self, data)
        if not _read(network, file):
            _train(network, self, images, dataset.flip, torch.device(device))
            _write(network, file)
        return ClassifierExtractor(network, hashlib.sha256(file.read_bytes()).hexdigest(), device)

    def file(self, data: DataInfo, images: Images) -> Path:
        """Return where the classifier of these images is kept."""
        settings = json.dumps([FORMAT, self.model_dump(mode="json"), vars(data)])
        digest = hashlib.sha256(settings.encode())
        for rows in torch.split(torch.arange(len(images)), ROWS):
            for tensor in (images.pixels(rows), images.labels(rows)):
                assert tensor is not None  # `_labelled` looked
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return platformdirs.user_cache_path("diffkit") / "classifiers" / f"{digest.hexdigest()[:32]}.safetensors"


class ClassifierNetwork(nn.Module):
    """Computes what `ClassifierFeatures` says.

    Args:
        spec: The settings.
        data: Sides and classes of the images.
    """

    def __init__(self, spec: ClassifierFeatures, data: DataInfo) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(spec.seed, "weights"))
            halvings = max(0, int(math.log2(min(data.height, data.width) / 4)))
            layers, width = [*_block(data.channels, spec.channels)], spec.channels
            for level in range(1, halvings + 1):
                channels = spec.channels * min(8, 2**level)
                layers += [*_block(width, channels, stride=2), *_block(channels, channels)]
                width = channels
            self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.features = nn.Sequential(nn.Linear(width, spec.size), nn.ReLU())
            self.logits = nn.Linear(spec.size, len(data.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features ``[N, size]`` of images ``[N, C, H, W]`` in [-1, 1]."""
        return self.features(self.layers(x))  # type: ignore[no-any-return]


def _block(width: int, channels: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()


class ClassifierExtractor(Extractor):
    """A trained classifier.

    Args:
        network: The network.
        sha256: The hash of its file.
        device: Where it computes.
    """

    def __init__(self, network: ClassifierNetwork, sha256: str, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.sha256 = sha256
        self._network = network.to(self.device).eval()

    def features(self, images: Tensor) -> Tensor:
        """Return the features ``[n, size]``."""
        return self._network(to_unit(images))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def classes(self, features: Tensor) -> Tensor:
        """Return the likeliest class for each of some features: int64 ``[N]``."""
        logits: Tensor = self._network.logits(features.to(self.device))
        return logits.argmax(dim=1).cpu()


def _labelled(dataset: Dataset) -> tuple[DataInfo, Images]:
    data = dataset.info()
    images = dataset.open()
    if len(data.classes) < 2 or images.labels(torch.arange(1)) is None:
        raise UserError(
            f"features = classifier: the data set '{dataset.kind_name()}' has no labels to learn from: "
            "use inception or pixels"
        )
    return data, images


def _train(
    network: ClassifierNetwork, spec: ClassifierFeatures, images: Images, flip: bool, device: torch.device
) -> None:
    """Train on a device. Every batch is a pure function of the seed and the step."""
    network.to(device).train()
    batches = Batches(images, spec.batch_size, spec.seed, flip)
    optimizer = torch.optim.AdamW(network.parameters(), lr=spec.lr)
    warmup = max(1, spec.steps // 10)
    with progress_bar("training a classifier for features", total=spec.steps) as advance:
        for step in range(spec.steps):
            factor = min((step + 1) / warmup, (spec.steps - step) / max(1, spec.steps - warmup))
            for group in optimizer.param_groups:
                group["lr"] = spec.lr * factor
            pixels, labels = batches.batch(step)
            assert labels is not None  # `_labelled` looked
            logits = network.logits(network(to_unit(pixels.to(device))))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(cross_entropy(logits, labels.to(device)))
            optimizer.step()
            advance(1)
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise Diverged("features = classifier: its training diverged: lower features.lr")


def _read(network: ClassifierNetwork, file: Path) -> bool:
    """Load the weights; return whether there was a file with whole ones."""
    try:
        network.load_state_dict(safetensors.torch.load(file.read_bytes()))
    except (FileNotFoundError, SafetensorError, RuntimeError):
        return False
    return True


def _write(network: ClassifierNetwork, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{uuid.uuid4().hex}")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    temporary.write_bytes(safetensors.torch.save(tensors))
    temporary.replace(file)  # another process sees none or all of it
