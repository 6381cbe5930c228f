"""What docs/data.md says is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests

from diffkit.data.base import Dataset
from diffkit.data.mnist import Mnist
from diffkit.errors import DataError

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_every_kind_is_in_the_table():
    ours = {name for name, owner in Dataset.owners.items() if owner == "diffkit"}
    assert set(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]+ \|", PAGE, re.MULTILINE)) == ours


def test_the_message_without_a_network(monkeypatch, downloads):
    def refuse(*_, **__):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(DataError) as error:
        Mnist().open()
    assert str(error.value).replace(str(downloads), "/home/you/.cache/diffkit/data") in PAGE


def test_the_python_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["pixels"].shape == (128, 1, 8, 8)
