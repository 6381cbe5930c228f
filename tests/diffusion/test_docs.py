"""The sampler in docs/diffusion.md works as the page says."""

import importlib.util
import math
import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from diffkit.diffusion.oracles import constant_noise, gaussian, gaussian_ode_end, one_point
from diffkit.diffusion.process import CLEAN, Level, Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.recipe.load import validate
from diffkit.spec import register, unregister

PAGE = Path(__file__).parents[2] / "docs" / "diffusion.md"


@pytest.fixture
def heun(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "heun.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("heun_of_the_docs", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "heun_of_the_docs", module)
    spec.loader.exec_module(module)
    register(module.register_components(), owner="docs")
    yield Sampler.choose("heun_ode")
    unregister("docs")


def no_noise():
    raise AssertionError("a deterministic sampler draws no noise")


def test_the_documented_sampler_passes_the_oracles(heun):
    x, eps = torch.randn(2, 2, 1, 2, 2, dtype=torch.float64)
    levels = Spacing.choose("trailing").levels(Process.choose("ddpm"), 10)
    torch.testing.assert_close(heun.sample(one_point(x), levels, eps, no_noise), x)
    start = levels[0].alpha * x + levels[0].sigma * eps
    torch.testing.assert_close(heun.sample(constant_noise(eps), levels, start, no_noise), x)


def test_the_documented_sampler_is_of_second_order(heun):
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = []
    for count in (40, 80, 160, 320):
        angles = [1.4 * (1 - i / count) for i in range(count)]
        levels = [*(Level(angle, math.cos(angle), math.sin(angle)) for angle in angles), CLEAN]
        end = heun.sample(gaussian(0.4, 0.5), levels, x, no_noise)
        errors.append((end - gaussian_ode_end(x, levels[0], 0.4, 0.5)).abs().max().item())
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([2.0] * 3, abs=0.2)


@pytest.mark.parametrize(
    "row", re.findall(r"^\| `(\w+)` \| ([\d ]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
)
def test_the_documented_times(row):
    kind, times = row
    assert Spacing.choose(kind).times(5, 10) == [int(time) for time in times.split()]


def test_the_page_tells_of_every_sampler():
    page = PAGE.read_text(encoding="utf-8")
    assert [kind for kind, owner in Sampler.owners.items() if owner == "diffkit" and f"`{kind}`" not in page] == []


@pytest.mark.parametrize(
    "row",
    re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (n|(?:up to )?2n - 1) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE),
)
def test_the_documented_numbers_of_calls(row):
    kinds, calls = row
    levels = Spacing.choose("trailing").levels(Process.choose("ddpm"), 10)
    for kind in re.findall(r"\w+", kinds):
        assert Sampler.choose(kind).calls(levels) == (10 if calls == "n" else 19)


@pytest.mark.parametrize("recipe", re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
def test_the_documented_recipes_fit_together(tiny, recipe):
    document = tiny().model_dump()
    document["process"] = {}
    for table, settings in tomllib.loads(recipe).items():
        document[table] = {**document[table], **settings}
    found = validate(document, "docs")
    assert found.process.kind in ("edm", "flow")
