"""How far a piece of work is: a bar in a terminal, else a line now and then."""

import os
import pty
import re
import sys

import pytest

from diffkit.data import progress
from diffkit.data.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes as the test says."""
    now = [100.0]
    monkeypatch.setattr("diffkit.data.progress.time.monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_each_half_minute(clock, capsys):
    with progress_bar("sampling", 200, of="calls") as advance:
        for _ in range(10):
            clock[0] += 12
            advance(20)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 30% done, 84 s left",
        "sampling: 60% done, 48 s left",
        "sampling: 90% done, 12 s left",
    ]


def test_what_was_there_before_says_nothing_of_the_speed(clock, capsys):
    with progress_bar("file.gz", 1000, 500, of="bytes") as advance:
        clock[0] += progress.EVERY
        advance(100)
    assert capsys.readouterr().err == "file.gz: 60% done, 120 s left\n"


def test_notes_and_an_unknown_end(clock, capsys):
    with progress_bar("[classifier]", None) as advance:
        advance(1, "loss 0.5000")
        clock[0] += progress.EVERY
        advance(2)
    assert capsys.readouterr().err == "[classifier]: 3 done  loss 0.5000\n"


def test_what_is_soon_done_says_nothing(clock, capsys):
    with progress_bar("sampling", 2) as advance:
        clock[0] += progress.EVERY - 1
        advance(2)
    assert capsys.readouterr().err == ""


def test_in_a_terminal_a_bar(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress_bar("sampling", 4) as advance:
            advance(3, "a note")
        terminal.flush()
        shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert re.search("sampling.*━.*3/4.*a note", shown)
