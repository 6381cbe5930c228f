"""Every hook is explained in docs/plugins.md, under a heading of its own."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest
import typer

import diffkit.plugins.hookspecs as hookspecs
from diffkit.spec import register, unregister

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS = {name: function for name, function in inspect.getmembers(hookspecs, inspect.isfunction) if name != "hookspec"}


def test_there_are_hooks():
    assert {"register_components", "on_train_step"} <= set(HOOKS)


def test_every_hook_has_a_heading_with_its_arguments():
    headings = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)
    signatures = [f"{name}({', '.join(inspect.signature(function).parameters)})" for name, function in HOOKS.items()]
    assert sorted(headings) == sorted(signatures)


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_the_python_of_the_page_is_a_plugin(block):
    """Each block of Python is a whole module of a plugin: it runs, and what it registers can be used."""
    module = {"__name__": "plugin_of_docs"}
    exec(compile(block, "docs/plugins.md", "exec"), module)
    for name in set(HOOKS) & set(module):
        assert hasattr(module[name], "diffkit_impl"), f"{name} is not marked with @diffkit.hookimpl"
    if "register_components" in module:
        kinds = module["register_components"]()
        register(kinds, owner="plugin_of_docs")
        examples = [kind() for kind in kinds]
        unregister("plugin_of_docs")
        assert examples
    if "register_commands" in module:
        app = typer.Typer()
        module["register_commands"](app)
        assert app.registered_commands


@pytest.mark.parametrize("block", re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_the_toml_of_the_page_is_toml(block):
    assert tomllib.loads(block)
