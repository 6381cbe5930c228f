"""Stopping a run from outside, at the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class StopRequest:
    """Whether somebody asked the run to stop: by Ctrl-C, SIGTERM, or by setting `requested`."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as requests. A second Ctrl-C stops at once, without a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> Any:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
