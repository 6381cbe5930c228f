"""What the tests of the C library share."""

import pytest
import torch

from diffkit.kernels import tensors
from diffkit.kernels.library import Kernels, kernels


@pytest.fixture(autouse=True)
def compiled():
    """Skip where there is no library, which the tests of the library itself explain."""
    if kernels().library is None:
        pytest.skip(kernels().reason)


@pytest.fixture
def plain(monkeypatch):
    """Return a function that turns the library off, for the rest of the test."""
    return lambda: monkeypatch.setattr(tensors, "kernels", lambda: Kernels(None))


@pytest.fixture
def threads():
    """Return the function that sets the number of threads, which is set back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
