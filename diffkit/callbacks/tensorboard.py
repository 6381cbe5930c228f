"""The log of a run for TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from diffkit.callbacks.base import Callback, Run
from diffkit.errors import UserError
from diffkit.images import grid, to_picture
from diffkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Callback):
    """Shows the numbers of each log event in TensorBoard, and a grid of the images that are sampled during training.

    Writes to the run's ``tensorboard`` folder; ``tensorboard --logdir runs`` shows all runs. When a run goes on from a
    checkpoint, TensorBoard forgets what came after it. Needs the package tensorboard: ``pip install
    'diffkit[tensorboard]'``.
    """

    kind: Literal["tensorboard"] = "tensorboard"

    def build(self) -> object:
        """Return a writer of its own for each run.

        Raises:
            UserError: If TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(f"TensorBoard is missing ({error}): pip install 'diffkit[tensorboard]'") from None
        return _Board(SummaryWriter)


class _Board:
    _writer: SummaryWriter

    def __init__(self, writer: type[SummaryWriter]) -> None:
        self._new_writer = writer
        self._open = contextlib.ExitStack()

    @hookimpl
    def on_train_start(self, run: Run) -> None:
        self._writer = self._new_writer(run.folder / "tensorboard", purge_step=run.step + 1)
        self._open.callback(self._writer.close)

    @hookimpl
    def on_train_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # so that a run which is killed has shown all up to its checkpoint

    @hookimpl
    def on_sample(self, run: Run, images: Tensor) -> None:
        pixels = np.asarray(to_picture(grid(images)))
        self._writer.add_image("samples", pixels, run.step, dataformats="HWC" if pixels.ndim == 3 else "HW")
        self._writer.flush()

    @hookimpl
    def on_train_end(self, run: Run, error: BaseException | None) -> None:
        self._open.close()
