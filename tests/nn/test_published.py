"""Recipes of published models have the published numbers of parameters."""

import re

import pytest

from diffkit.cli.validate import build_on_meta
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.packaged import packaged_recipes

STATED = {
    name: int(stated[1].replace(",", ""))
    for name, file in packaged_recipes().items()
    if (stated := re.search(r"([\d,]+)\s+(?:# )?parameters", file.read_text(encoding="utf-8")))
}


def count(name: str) -> int:
    file = packaged_recipes()[name]
    network = build_on_meta(validate(read_document(file), name, file.parent))
    return sum(parameter.numel() for parameter in network.parameters())


def test_recipes_of_papers_state_their_number_of_parameters():
    assert set(STATED) >= {"ddpm_cifar", "dit_cifar", "uvit_cifar"}


@pytest.mark.parametrize("name", STATED)
def test_a_recipe_has_as_many_parameters_as_its_comment_says(name):
    assert count(name) == STATED[name]


def test_uvit_has_the_papers_44_million():
    assert round(count("uvit_cifar") / 1e6) == 44
