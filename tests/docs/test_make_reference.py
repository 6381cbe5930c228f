import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_code_says(make_reference):
    pages = make_reference.pages()
    assert {file.name for file in (DOCS / "reference").glob("*.md")} == set(pages)
    stale = [name for name, text in pages.items() if (DOCS / "reference" / name).read_text() != text]
    assert stale == [], "run: python docs/make_reference.py"


def test_every_setting_says_what_it_means(make_reference):
    from diffkit.spec import describe_kind, families

    silent = [
        f"{family.family}.{name}.{setting.name}"
        for family in families().values()
        for name, kind in family.kinds.items()
        for setting in describe_kind(kind).settings
        if not setting.doc
    ]
    assert silent == []
