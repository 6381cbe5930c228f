"""The data set of a model that doesn't say which images it was trained on."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NoReturn, Self

from pydantic import Field, model_validator

from diffkit.data.base import LARGEST_COUNT, DataInfo, Dataset
from diffkit.errors import DataError
from diffkit.spec import Many


class Unspecified(Dataset):
    """Images of which only the size and the classes are known, for models that come from other libraries.

    Such a model can be sampled from. To train it on, put another data set in the place of this one.
    """

    kind: Literal["unspecified"] = "unspecified"
    channels: int = Field(3, ge=1, le=65_536)
    """Number of channels."""
    height: int = Field(ge=1, le=65_536)
    """Height in pixels."""
    width: int = Field(ge=1, le=65_536)
    """Width in pixels."""
    classes: Many[str] = Field((), max_length=LARGEST_COUNT)
    """Names of the classes, in the order of their labels; empty without labels."""

    vector: int = Field(0, ge=0, le=LARGEST_COUNT)
    """Size of the vector that conditions the network; 0 for none."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        twice = sorted(name for name, count in Counter(self.classes).items() if count > 1)
        if twice:
            raise ValueError(f"classes has {', '.join(twice)} more than once: each class needs a name of its own")
        return self

    @classmethod
    def example_settings(cls) -> dict[str, int]:
        """Return sizes."""
        return {"height": 8, "width": 8}

    def info(self) -> DataInfo:
        """Return what is written out."""
        return DataInfo(self.channels, self.height, self.width, tuple(self.classes), self.vector)

    def open(self) -> NoReturn:
        """Refuse.

        Raises:
            DataError: Always: there are no images.
        """
        raise DataError(
            "data: it is not known which images this model was trained on, so it can be sampled from but not trained "
            f"on: name a data set of {self.channels}x{self.height}x{self.width} images in [data], such as "
            f'data.kind="image_folder"'
        )
