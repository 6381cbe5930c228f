"""The recipes and commands on the page on guidance are valid."""

import re
import tomllib
from pathlib import Path

import pytest

from diffkit.diffusion.guidance import Guidance
from diffkit.recipe.load import validate
from diffkit.recipe.overrides import apply_override
from diffkit.sampling import sample_settings

PAGE = (Path(__file__).parents[2] / "docs/guidance.md").read_text(encoding="utf-8")
TABLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", TABLES)
def test_tables(tiny, text):
    document = {**tiny().model_dump(exclude={"sample", "classifier"}), **tomllib.loads(text)}
    document["sample"]["steps"] = 20
    recipe = validate(document, "the page")
    assert recipe.sample.guidance.weight > 1


def test_every_kind_is_on_the_page():
    assert len(TABLES) >= 6
    assert [name for name, owner in Guidance.owners.items() if owner == "diffkit" and f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize("override", re.findall(r"guidance='\{.*?\}'|guidance\.\w+=\S+(?: \S+\]')?", PAGE))
def test_overrides_of_sampling(tiny, override):
    document = {"guidance": "cfg"}
    apply_override(document, override.replace("'", ""))
    sample_settings(tiny(), {}, [override.replace("'", "")])
