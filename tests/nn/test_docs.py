"""docs/networks.md says what is so, and its block works as the page says."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from diffkit.data.base import DataInfo
from diffkit.diffusion.objective import Objective
from diffkit.nn.base import Model, Ports
from diffkit.nn.unet import LevelOverrides
from diffkit.spec import families, register, unregister

PAGE = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
BLOCKS = [tomllib.loads(code) for code in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]
TABLES = [block["model"] for block in BLOCKS if "model" in block]


@pytest.fixture
def documented_block(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "my_block.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("block_of_the_docs", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "block_of_the_docs", module)
    spec.loader.exec_module(module)
    register(module.register_components(), owner="docs")
    yield
    unregister("docs")


@pytest.mark.parametrize("table", [*TABLES[:2], *TABLES[3:]])
def test_the_documented_tables_fit(table):
    data = DataInfo(3, 32, 32, ("cat", "dog"))
    assert Model.choose(table).problems(data) == []


def test_the_documented_block(documented_block):
    spec = Model.choose({"kind": "unet", "channels": 32, "multipliers": [1, 2], **TABLES[2]})
    data = DataInfo(1, 8, 12)
    x = torch.randn(2, 1, 8, 12)
    network = spec.build(data, Ports(1, 1))
    torch.nn.init.normal_(network.up[-1].output.conv.weight)
    out = network(x, torch.tensor([0.0, 9.0]))
    assert out.shape == x.shape
    assert not torch.allclose(out[0], network(x, torch.tensor([5.0, 9.0]))[0])


def test_the_page_names_every_kind():
    rows = dict(re.findall(r"^\| `\w+` \| (\w+) \| (.*) \|$", PAGE, re.MULTILINE))
    listed = {family: set(re.findall(r"`(\w+)`", kinds)) for family, kinds in rows.items()}
    assert listed == {
        name: {kind for kind, owner in families()[name].owners.items() if owner == "diffkit"} for name in listed
    }
    assert len(listed) == 9


def test_the_page_names_every_setting_of_a_level():
    (said,) = re.findall(r"Each may set (.*?);", PAGE, re.DOTALL)
    assert re.findall(r"`(\w+)`", said) == list(LevelOverrides.model_fields)


def test_the_documented_conditions():
    tables = [block["objective"] for block in BLOCKS if "objective" in block]
    kinds = [Objective.model_validate(table).condition.kind for table in tables]
    assert kinds == ["low_resolution"]
    assert all(f"`{kind}`" in PAGE or f'"{kind}"' in PAGE for kind in families()["condition"].kinds if kind != "none")
