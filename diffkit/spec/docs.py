"""The docstrings under settings, read from the source when they are wanted.

pydantic could read them when a class is made, but parsing every class's source then takes as long as importing all
the rest of diffkit, at each start of the command line.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from itertools import zip_longest

from diffkit.spec.spec import Spec


def setting_docs(table: type[Spec]) -> dict[str, str]:
    """Return the description of each setting that has one, on one line.

    It is the text below the setting in the class's body, or else the field's own description.
    """
    found: dict[str, str] = {}
    for cls in reversed(table.__mro__):
        if issubclass(cls, Spec):
            found |= _docs_in(_file_of(cls)).get(cls.__qualname__, {})
    own = {name: field.description for name, field in table.model_fields.items() if field.description}
    docs = {**found, **own}
    return {name: " ".join(docs[name].split()) for name in table.model_fields if docs.get(name)}


def _file_of(cls: type) -> str:
    try:
        return inspect.getsourcefile(cls) or ""
    except (OSError, TypeError):  # made without a file
        return ""


@functools.lru_cache(maxsize=256)
def _docs_in(file: str) -> dict[str, dict[str, str]]:
    """Return the texts below annotated names in the classes of a file, by the class's qualified name."""
    found: dict[str, dict[str, str]] = {}

    def visit(node: ast.AST, place: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found[f"{place}{child.name}"] = _docs_of(child)
                visit(child, f"{place}{child.name}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(child, f"{place}{child.name}.<locals>.")
            else:
                visit(child, place)

    visit(ast.parse("".join(linecache.getlines(file))), "")
    return found


def _docs_of(body: ast.ClassDef) -> dict[str, str]:
    """A name that is annotated anew and has no text below has none: it doesn't inherit the text either."""
    return {
        setting.target.id: _text(below)
        for setting, below in zip_longest(body.body, body.body[1:])
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name)
    }


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value if isinstance(statement.value.value, str) else ""
    return ""
