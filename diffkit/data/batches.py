"""Batches of a data set: batch k is a pure function of a seed and k."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import torch
from torch import Tensor

from diffkit.data.base import Images
from diffkit.data.memory import InMemory
from diffkit.errors import DataError, UserError
from diffkit.out_of_memory import is_out_of_memory
from diffkit.random import numpy_generator

Batch: TypeAlias = tuple[Tensor, Tensor | None]
"""Pixels, uint8 ``[n, C, H, W]``, and labels, int64 ``[n]`` or None."""


class Batches:
    """Shuffled batches without a state: any batch can be asked for at any time, and is always the same.

    Each epoch is a new order of all the images. Batches run through the orders of the epochs one after the
    other, so that one may reach over an epoch's end, or over several, and no image is ever left out.

    Images that are not in memory are read ahead: while the caller works on a batch, a thread prepares the same
    rows of the next. What the batches hold does not change, and an error appears where the batch is asked for.

    Args:
        images: The images.
        batch_size: Number of images of a batch.
        seed: The seed of order and flips.
        flip: Mirror each image left to right with probability one half, anew each time it is drawn.

    Raises:
        DataError: If there are no images.
    """

    def __init__(self, images: Images, batch_size: int, seed: int, flip: bool) -> None:
        if len(images) == 0:
            raise DataError("the data set has no images")
        self._images, self._batch_size, self._seed, self._flip = images, batch_size, seed, flip
        self._orders: dict[int, Tensor] = {}
        self._reader = None if isinstance(images, InMemory) else ThreadPoolExecutor(1, "diffkit-batches")
        self._ahead: dict[tuple[int, int, int], Future[Batch]] = {}

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return rows ``start .. stop`` of a batch.

        Args:
            step: Number of the batch, from 0.
            start: The first row.
            stop: One past the last row; the batch's end by default.

        Returns:
            Pixels, uint8 ``[stop - start, C, H, W]``, and labels, int64 ``[stop - start]``, or None without labels.

        Raises:
            DataError: If an image cannot be read.
        """
        stop = self._batch_size if stop is None else stop
        if step < 0 or not 0 <= start < stop <= self._batch_size:
            raise ValueError(f"no rows {start}..{stop} in batch {step} of {self._batch_size} images")
        if self._reader is None:
            return self._read(step, start, stop)
        self._ahead = {rows: future for rows, future in self._ahead.items() if rows[0] in (step, step + 1)}
        ready = self._ahead.pop((step, start, stop), None)
        try:
            batch = self._read(step, start, stop) if ready is None else ready.result()
        except (Exception, SystemExit) as error:  # of a data set's own code, also in the thread that reads ahead
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise DataError(f"the images of step {step} cannot be read: {type(error).__name__}: {error}") from error
        finally:
            following = (step + 1, start, stop)
            if following not in self._ahead:
                self._ahead[following] = self._reader.submit(self._read, *following)
        return batch

    def vectors(self, step: int, start: int, stop: int) -> Tensor | None:
        """Return the vectors that come with the images of rows ``start .. stop`` of a batch, ``[stop - start, V]``."""
        return self._images.vectors(self._indices(step * self._batch_size + start, stop - start))

    def _read(self, step: int, start: int, stop: int) -> Batch:
        indices = self._indices(step * self._batch_size + start, stop - start)
        pixels, labels = self._images.pixels(indices), self._images.labels(indices)
        if self._flip:  # drawn for the whole batch, so that its rows don't depend on how it is cut
            drawn = numpy_generator(self._seed, "flip", step).random(self._batch_size) < 0.5
            rows = torch.arange(len(pixels)) + len(pixels) * torch.from_numpy(drawn[start:stop])
            both = torch.cat([pixels, pixels.flip(-1)])  # to choose from these is far quicker than torch.where
            pixels = both.index_select(0, rows.to(pixels.device))
        return pixels, labels

    def _indices(self, first: int, count: int) -> Tensor:
        """Return the images at ``count`` places of the epochs' orders laid end to end."""
        size, parts = len(self._images), []
        while count > 0:
            epoch, offset = divmod(first, size)
            part = self._order(epoch)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        order = self._orders.get(epoch)
        if order is None:
            generator = numpy_generator(self._seed, "order", epoch)
            order = torch.from_numpy(generator.permutation(len(self._images)))
            near = {e: o for e, o in self._orders.items() if abs(e - epoch) <= 1}
            self._orders = {**near, epoch: order}
        return order
