"""Writes docs/reference: one page a family and one for the recipe's own tables, all read from the code.

Run it after any change to a kind or a table: ``python docs/make_reference.py``.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from diffkit.plugins import builtin
from diffkit.recipe.tables import Recipe
from diffkit.spec import Component, Setting, Spec, describe_kind, families, register
from diffkit.spec.describe import describe_settings, inner_tables

FOLDER = Path(__file__).parent / "reference"
PICTURES = Path(__file__).parent / "images"


def pages() -> dict[str, str]:
    """Return all pages by the name of their file. diffkit's own kinds must be registered."""
    shown = {name: family for name, family in families().items() if _kinds(family)}
    written = {f"{name}.md": _family_page(name, family) for name, family in shown.items()}
    return {"README.md": _index(shown), "recipe.md": _recipe_page(), **written}


def _kinds(family: type[Component]) -> list[type[Component]]:
    return [kind for name, kind in sorted(family.kinds.items()) if family.owners[name] == "diffkit"]


def _index(shown: dict[str, type[Component]]) -> str:
    lines = [
        "# Reference",
        "",
        "What a recipe can hold: [its own tables](recipe.md), and in them the kinds of these families. Plugins add",
        "more: `diffkit components` lists what is there.",
        "",
        "| family | is | kinds |",
        "|---|---|---|",
    ]
    for name, family in shown.items():
        kinds = ", ".join(f"`{kind.kind_name()}`" for kind in _kinds(family))
        lines.append(f"| [{name}]({name}.md) | {_first_sentence(family)} | {kinds} |")
    return "\n".join([*lines, ""])


def _family_page(name: str, family: type[Component]) -> str:
    head = [f"# {name}", "", *_doc(family), *_picture(name)]
    return "\n".join([*head, *(line for kind in _kinds(family) for line in _kind(kind))])


def _picture(family: str) -> list[str]:
    """Show the picture of docs/make_pictures.py, if there is one."""
    if not (PICTURES / f"{family}.png").is_file():
        return []
    about = f"How to read it: [pictures](../plotting.md). Your own recipe: `diffkit plot RECIPE --compare {family}`."
    return [f"![The kinds of {family}](../images/{family}.png)", "", about, ""]


def _kind(kind: type[Component]) -> list[str]:
    info = describe_kind(kind)
    return [f"## {info.kind}", "", info.doc, "", *_settings(info.settings), *_inner_tables(kind, "###")]


def _inner_tables(table: type[Spec], heading: str) -> list[str]:
    return [
        line
        for name, inner in inner_tables(table).items()
        for line in [f"{heading} {name}", "", *_doc(inner), *_settings(describe_settings(inner))]
    ]


def _recipe_page() -> str:
    lines = ["# Tables of a recipe", "", *_doc(Recipe), *_settings(describe_settings(Recipe))]
    return "\n".join([*lines, *_inner_tables(Recipe, "##")])


def _settings(settings: tuple[Setting, ...]) -> list[str]:
    if not settings:
        return ["No settings.", ""]
    rows = [
        f"| `{s.name}` | {_cell(_linked(s.type))} | {'required' if s.required else _cell(f'`{s.default_as_toml}`')} "
        f"| {_cell(s.bounds)} | {_cell(s.doc)} |"
        for s in settings
    ]
    return ["| setting | type | default | limits | meaning |", "|---|---|---|---|---|", *rows, ""]


def _linked(words: str) -> str:
    """Link the last word of a type, where it is a family."""
    before, _, last = words.rpartition(" ")
    linked = f"[{last}]({last}.md)" if last in families() and _kinds(families()[last]) else last
    return f"{before} {linked}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _doc(table: type[Spec]) -> list[str]:
    return [inspect.cleandoc(table.__doc__ or ""), ""]


def _first_sentence(family: type[Component]) -> str:
    paragraph = " ".join(_doc(family)[0].partition("\n\n")[0].split())
    return _cell(paragraph)


def main() -> None:
    """Write all pages, and delete those that nothing stands behind any more."""
    register(builtin.register_components(), owner="diffkit")
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(wanted)} pages in {FOLDER}\n")


if __name__ == "__main__":
    main()
