"""Broken recipes end in a message: never in a traceback, never in a hang."""

import copy
import datetime
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from diffkit.cli.main import app
from diffkit.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))

NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.5, 1e-300, 1e300])
TEXTS = ["", "{x}", "[red]", "~nobody-of-this-name", "x" * 5000, "a\0b", "conv", "../..", "é" * 200]
TABLES = [[], [[]], [1, "2"], {}, {"kind": "x"}, {"kind": 3}, [{"kind": "self"}]]
DATES = [datetime.date(2020, 2, 2), datetime.time(1, 2), datetime.datetime(2020, 2, 2, tzinfo=datetime.UTC)]
OTHERS = st.sampled_from([*TEXTS, *TABLES, *DATES, True, False, float("nan"), float("inf")])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places of a document, from the root's items to the innermost."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *places(item, (*path, key))]]


def change(draw: Any, document: dict[str, Any]) -> None:
    """Drop, rename, retype or rescale one thing of a document."""
    place = draw(st.sampled_from(places(document)))
    holder: Any = document
    for part in place[:-1]:
        holder = holder[part]
    last, value = place[-1], holder[place[-1]]
    how = draw(st.sampled_from(["drop", "rename", "retype", "number", "scale", "add", "borrow"]))
    event(how)
    if how == "drop":
        del holder[last]
    elif how == "rename" and isinstance(holder, dict):
        cut = draw(st.integers(0, len(last)))
        holder[last[:cut] + draw(st.sampled_from(["x", "", "_", "-", " ", "é"])) + last[cut + 1 :]] = holder.pop(last)
    elif how == "add" and isinstance(value, dict):
        value[draw(st.sampled_from(["kind", "x", "steps", "levels", "root", "heads"]))] = draw(
            st.one_of(NUMBERS, OTHERS)
        )
    elif how == "borrow":  # the value of another setting
        other = document
        for part in draw(st.sampled_from(places(document))):
            other = other[part]
        holder[last] = copy.deepcopy(other)
    elif how == "scale" and type(value) in (int, float):
        holder[last] = value * draw(st.sampled_from([-1, 0, 2, 3, 1000, 10**12, 10**40]))
    else:
        holder[last] = copy.deepcopy(draw(NUMBERS if how == "number" else OTHERS))


def garble(draw: Any, text: str) -> bytes:
    """Write a text as it should not be."""
    how = draw(
        st.sampled_from(["as it is"] * 6 + ["cut", "insert", "line", "BOM", "CRLF", "UTF-16", "latin-1", "bytes"])
    )
    event(how)
    at = draw(st.integers(0, len(text)))
    lines = text.splitlines(keepends=True)
    line = draw(st.integers(0, max(0, len(lines) - 1)))
    return {
        "cut": lambda: text[:at].encode(),
        "insert": lambda: (text[:at] + draw(st.sampled_from(list("[]{}=\"'\\#,.\n\0€"))) + text[at:]).encode(),
        "line": lambda: "".join(lines[:line] + lines[line : line + 1] * 2 + lines[line + 1 :]).encode(),
        "BOM": lambda: text.encode("utf-8-sig"),
        "CRLF": lambda: text.replace("\n", "\r\n").encode(),
        "UTF-16": lambda: text.encode("utf-16"),
        "latin-1": lambda: (text + "# größer").encode("latin-1", "replace"),
        "bytes": lambda: text[:at].encode() + draw(st.binary(max_size=8)) + text[at:].encode(),
    }.get(how, text.encode)()


@st.composite
def mutants(draw: Any) -> bytes:
    document = tomllib.loads(draw(st.sampled_from(RECIPES)).read_text())
    for _ in range(draw(st.integers(0, 3))):
        if places(document):
            change(draw, document)
    return garble(draw, tomlkit.dumps(document))


def validate(path: Path) -> UserError | None:
    """Run ``diffkit validate`` and return its error, if any, which must be the user's to mend."""
    result = CliRunner().invoke(app, ["validate", str(path)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception or ": ok, " in result.stdout
    return result.exception


def test_there_are_recipes_to_break():
    assert {path.stem for path in RECIPES} >= {"quickstart", "fashion_mnist", "ddpm_cifar", "ddpm_scratch"}


@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(mutant=mutants())
def test_mutated_recipes_end_in_a_message(tmp_path, mutant):
    file = tmp_path / "mutant.toml"
    file.write_bytes(mutant)
    validate(file)


@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "device", "loop", "text", "picture"])
def test_what_is_no_recipe_ends_in_a_message(tmp_path, what):
    file = tmp_path / "mutant.toml"
    {
        "nothing": lambda: None,
        "folder": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "loop": lambda: file.symlink_to(file),
        "text": lambda: file.write_text("Dear recipe,\n"),
        "picture": lambda: file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    }[what]()
    assert validate(file) is not None
