from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch

from diffkit.data.digits import Digits
from diffkit.errors import DataError


def test_they_are_the_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    original, images = load_digits(), Digits().open()
    everything = torch.arange(1797)
    assert len(images) == 1797
    expected = np.floor(original.images * 255 / 16 + 0.5)
    np.testing.assert_array_equal(images.pixels(everything)[:, 0].numpy(), expected)
    np.testing.assert_array_equal(images.labels(everything).numpy(), original.target)
    assert images.pixels(everything).max() == 255


def test_the_licence_is_beside_the_file():
    note = (resources.files("diffkit.data") / "files" / "digits.LICENSE.md").read_text()
    assert "CC BY 4.0" in note
    assert "Alpaydin" in note


def test_a_damaged_installation(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="install diffkit anew"):
        Digits().open()
