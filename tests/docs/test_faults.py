"""The page on faults names tests that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/faults.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_test_is_there(file, name):
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_each_file_of_faults_is_named():
    files = {f"tests/faults/{file.name}" for file in (ROOT / "tests/faults").glob("test_*.py")}
    assert files == {file for file, _ in NAMED if file.startswith("tests/faults/")}
