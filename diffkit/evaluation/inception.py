"""Features of the Inception network."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffkit.data.base import Dataset
from diffkit.data.remote import RemoteFile, cache_folder
from diffkit.errors import UserError
from diffkit.evaluation.features import Extractor, Features
from diffkit.spec import FilePath

FILE = RemoteFile(
    "inception-2015-12-05.pt",
    ("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",),
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)


class Inception(Features):
    """The last pooling layer, 2,048 numbers, of the Inception-v3 that FID and KID are defined with.

    Heusel et al. 2017 took it from TensorFlow (`inception-2015-12-05.tgz`); this is its translation to TorchScript by
    Karras et al. 2020 (StyleGAN2-ADA). Images go in as bytes, and the file itself enlarges them to 299 × 299 as
    TensorFlow 1 did (bilinear, half a pixel off), so that results can be compared with the papers'. Grey images are
    shown as RGB.

    TorchScript is code, so a file whose SHA-256 is not the known one is never loaded.
    """

    kind: Literal["inception"] = "inception"
    file: FilePath | None = None
    """The file `inception-2015-12-05.pt` (91 MiB); by default it is downloaded once."""

    def prepare(self, dataset: Dataset, device: torch.device | str = "cpu") -> Extractor:
        """Load the network.

        Raises:
            UserError: If the file is missing and cannot be had, is another one, or the images are neither grey nor RGB.
        """
        channels = dataset.info().channels
        if channels not in (1, 3):
            raise UserError(f"features = inception: takes grey or RGB images, not {channels} channels: use pixels")
        return InceptionExtractor(_checked(self.file or _downloaded()), device)


class InceptionExtractor(Extractor):
    """The network, from the content of its file.

    Args:
        content: The file's content, which was checked.
        device: Where it computes.
    """

    def __init__(self, content: bytes, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.sha256 = FILE.sha256
        self._network = torch.jit.load(io.BytesIO(content), map_location=self.device).eval()  # type: ignore[no-untyped-call]

    def features(self, images: Tensor) -> Tensor:
        """Return the features ``[n, 2048]``."""
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        features: Tensor = self._network(rgb, return_features=True)
        return features


def _checked(file: Path) -> bytes:
    """Read the file once, so that what is loaded is what was checked."""
    if not file.is_file():
        raise UserError(f"features.file = {file}: there is no such file")
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != FILE.sha256:
        raise UserError(
            f"features.file = {file}: is not {FILE.name}: its SHA-256 is {found}, not {FILE.sha256}. As the file holds "
            "code, another one is not loaded"
        )
    return content


def _downloaded() -> Path:
    folder = cache_folder("inception")
    file = folder / FILE.name
    if file.is_file():
        return file
    from diffkit.data.download import Unavailable, download  # its libraries are slow to import, and seldom needed

    folder.mkdir(parents=True, exist_ok=True)
    try:
        download(FILE, folder)
    except Unavailable as error:
        raise UserError(
            f"features = inception: {FILE.name} is not on this computer and cannot be downloaded: {error}\n"
            f"Fetch {FILE.urls[0]}\n"
            f"and put it into {folder}, or name it in features.file. Features that need no network: pixels, classifier"
        ) from None
    return file
