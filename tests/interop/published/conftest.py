"""The stored outputs of published sources."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("published_make", Path(__file__).with_name("make.py"))
_make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_make)


@pytest.fixture(scope="session")
def published():
    """The module that made the outputs, which knows how to read them and how to fill weights."""
    return _make
