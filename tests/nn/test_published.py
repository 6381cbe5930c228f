"""Recipes of published models have the published numbers of parameters."""

import re

import pytest

from diffkit.cli.validate import build_on_meta
from diffkit.recipe.packaged import packaged_recipes

STATED = {
    name: int(stated[1].replace(",", ""))
    for name, file in packaged_recipes().items()
    if (stated := re.search(r"([\d,]+)\s+(?:# )?parameters", file.read_text(encoding="utf-8")))
}


@pytest.fixture
def count(packaged):
    """Counts the parameters of a packaged recipe's network."""
    return lambda name: sum(parameter.numel() for parameter in build_on_meta(packaged(name)).parameters())


def test_recipes_of_papers_state_their_number_of_parameters():
    assert set(STATED) >= {"ddpm_cifar", "dit_cifar", "uvit_cifar"}


@pytest.mark.parametrize("name", STATED)
def test_a_recipe_has_as_many_parameters_as_its_comment_says(name, count):
    assert count(name) == STATED[name]


def test_uvit_has_the_papers_44_million(count):
    assert round(count("uvit_cifar") / 1e6) == 44


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("improved_ddpm_cifar", 52_546_438),
        ("adm_imagenet64", 295_904_454 + 768),  # the label "no class" is diffkit's own
        ("edm_ddpmpp_cifar", 55_733_891),
        ("edm_ncsnpp_cifar", 56_397_827),
        ("lucidrains_cifar", 35_711_491),
    ],
)
def test_as_many_parameters_as_the_published_code(name, parameters, count):
    """The numbers were counted in networks made by the authors' code."""
    assert count(name) == parameters
