"""The U-Net's settings, and the checks of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import Model, Ports
from diffkit.spec import Many
from diffkit_edm2.network import Edm2Network

Balance = Annotated[float, Field(ge=0, le=1)]


class Edm2UNet(Model):
    """The magnitude-preserving U-Net of EDM2.

    Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", figure 2, configuration G.
    No layer has a bias or a normalization with weights; every weight and every activation keeps a magnitude of 1, and
    sums are balanced by fixed numbers. Made for `process = "edm"` and `prediction = "edm"`.
    """

    kind: Literal["edm2"] = "edm2"
    channels: int = Field(192, ge=1, le=8192)
    """Factor of all levels' channels."""
    multipliers: Many[Annotated[int, Field(ge=1, le=64)]] = Field((1, 2, 3, 4), min_length=1, max_length=16)
    """Channels of each level as multiples of `channels`. Every level but the last is halved."""
    blocks_per_level: int = Field(3, ge=1, le=100)
    """Number of residual blocks of a level on the way down; one more on the way up."""
    attention_at: Many[Annotated[int, Field(ge=1)]] = (16, 8)
    """Levels that have attention, by the longer side of their feature maps. Sides of no level don't count."""
    head_channels: int = Field(64, ge=1)
    """Channels of one head of attention. It must divide the channels of the levels that have any."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that an element is dropped before a block's second convolution, in training."""
    residual_balance: Balance = 0.3
    """Part t of a block's residual branch in its output."""
    attention_balance: Balance = 0.3
    """Part t of attention in its output."""
    label_balance: Balance = 0.5
    """Part t of the class in the embedding."""
    skip_balance: Balance = 0.5
    """Part t of the skip in what a block on the way up sees."""
    clip: float = Field(256.0, gt=0)
    """Activations are clipped to plus or minus this after each block, which keeps half-precision types finite."""

    def build(self, data: DataInfo, ports: Ports) -> Edm2Network:
        """Return the network, for images of any sides that can be halved as often.

        Raises:
            ValueError: If `problems` would name any.
        """
        self.refuse_problems(data)
        return Edm2Network(self, data, ports)

    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the model's table."""
        problems = []
        factor = 2 ** (len(self.multipliers) - 1)
        if data.height % factor or data.width % factor:
            message = (
                f"{len(self.multipliers)} levels need sides divisible by {factor}, and the images are "
                f"{data.height}x{data.width} (height x width). Allowed: fewer levels"
            )
            problems.append(Problem("multipliers", message, list(self.multipliers)))
        wrong = sorted({channels for channels in self.attending(data) if channels % self.head_channels})
        if wrong:
            message = f"must divide the channels of levels with attention: {', '.join(map(str, wrong))}"
            problems.append(Problem("head_channels", message, self.head_channels))
        if self.class_conditional and not data.classes:
            message = "the data set has no labels: leave this out, or choose a data set with labels"
            problems.append(Problem("class_conditional", message, True))
        return problems

    def attends(self, data: DataInfo, level: int) -> bool:
        """Return whether a level has attention."""
        return max(data.height, data.width) >> level in self.attention_at

    def attending(self, data: DataInfo) -> list[int]:
        """Return the numbers of channels that attention sees: the middle always has one."""
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        return [width for level, width in enumerate(widths) if self.attends(data, level)] + widths[-1:]
