import subprocess
import sys
import textwrap

import pytest

from diffkit.errors import PluginError, RecipeError, UserError
from diffkit.plugins.manager import Plugins
from diffkit.spec import families

BLOCK = '''
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import diffkit
from diffkit.callbacks.base import Callback


class {title}(Callback):
    """A callback that a plugin brings."""

    kind: Literal["{name}"] = "{name}"


@diffkit.hookimpl
def register_components():
    return [{title}]
'''


def block(name):
    return BLOCK.format(name=name, title=name.title())


@pytest.fixture(autouse=True)
def install(install_plugin):
    return install_plugin


@pytest.fixture
def plugin_file(tmp_path):
    def write(name, source):
        file = tmp_path / f"{name}.py"
        file.write_text(textwrap.dedent(source))
        return file

    return write


def callbacks():
    return families()["callback"].kinds


def registered():
    plugins = Plugins()
    plugins.register_components()
    return plugins


def test_diffkit_is_its_own_first_plugin():
    plugins = registered()
    assert next(iter(plugins.infos)) == "diffkit"
    assert "callback.sample_grid" in plugins.infos["diffkit"].components
    assert plugins.infos["diffkit"].error is None


def test_an_installed_plugins_kinds_are_registered(install):
    install("waves", block("waves"))
    info = registered().infos["waves"]
    assert (info.origin, info.error, info.components) == ("diffkit-waves 1.2", None, ("callback.waves",))
    assert families()["callback"].owners["waves"] == "waves"


BROKEN = {
    "import": ("raise ValueError('no [luck] {today}')", "ValueError: no [luck] {today}"),
    "syntax": ("def", "SyntaxError: invalid syntax (plugin_of_test_broken.py, line 1)"),
    "missing": ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "exit": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "register": (
        "import diffkit\n@diffkit.hookimpl\ndef register_components(): 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "exit in register": (
        "import diffkit\n@diffkit.hookimpl\ndef register_components(): raise SystemExit(3)",
        "SystemExit: 3",
    ),
    "not a list": (
        "import diffkit\n@diffkit.hookimpl\ndef register_components(): return 3",
        "TypeError: 'int' object is not iterable",
    ),
    "not a kind": (
        "import diffkit\n@diffkit.hookimpl\ndef register_components(): return [3]",
        "broken registers 3, which is not a subclass of a component family",
    ),
    "late in a generator": (
        block("fine") + "\n@diffkit.hookimpl\ndef register_components():\n    yield Fine\n    raise KeyError('x')",
        "KeyError: 'x'",
    ),
    "unknown hook": (
        "import diffkit\n@diffkit.hookimpl\ndef on_tea_time(): pass",
        "PluginValidationError: unknown hook 'on_tea_time' in plugin",
    ),
    "unknown argument": (
        "import diffkit\n@diffkit.hookimpl\ndef register_commands(application): pass",
        "PluginValidationError: Plugin 'broken' for hook 'register_commands'",
    ),
    "taken name": (block("jsonl"), "callback 'jsonl' of broken is already provided by diffkit"),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_left_out_by_name(install, source, reason):
    before = dict(callbacks())
    install("broken", source)
    install("waves", block("waves"))
    plugins = registered()
    (broken,) = plugins.broken()
    assert (broken.name, broken.origin, broken.components) == ("broken", "diffkit-broken 1.2", ())
    assert broken.error.startswith(reason)
    assert broken.left_out.startswith(f"plugin 'broken' (diffkit-broken 1.2) is left out: {reason}")
    assert set(callbacks()) == {*before, "waves"}
    assert not plugins.manager.has_plugin("broken")


@pytest.mark.parametrize("taken", ["diffkit", "waves"])
def test_two_plugins_of_one_name(install, taken):
    install("waves", block("waves"))
    install("zother", block("other"), entry=taken)
    plugins = registered()
    (broken,) = plugins.broken()
    assert broken.origin in ("diffkit-zother 1.2", "diffkit-waves 1.2")
    assert broken.error == f"the name '{taken}' is taken by {plugins.infos[taken].origin}"
    assert "sample_grid" in callbacks()
    assert plugins.manager.has_plugin(taken)


def test_a_plugin_file(plugin_file):
    plugins = registered()
    file = plugin_file("ripples", block("ripples"))
    plugins.add_file(file)
    plugins.add_file(file)
    assert plugins.infos["ripples"].origin == str(file)
    assert "ripples" in callbacks()


def test_the_same_file_in_a_second_session_of_one_process(plugin_file):
    file = plugin_file("again", block("again"))
    registered().add_file(file)
    file.write_text(block("again").replace("A callback", "A changed callback"))
    registered().add_file(file)
    assert "changed" in callbacks()["again"].__doc__


def test_a_plugin_file_before_registering(plugin_file):
    plugins = Plugins()
    plugins.add_file(plugin_file("early", block("early")))
    assert "early" not in callbacks()
    plugins.register_components()
    assert "early" in callbacks()


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_file_is_an_error(plugin_file, source, reason):
    before = dict(callbacks())
    file = plugin_file("broken", source)
    with pytest.raises(PluginError) as caught:
        registered().add_file(file)
    reason = reason.replace("plugin_of_test_broken", "broken")
    assert str(caught.value).startswith(f"{file}: this plugin cannot be used: {reason}")
    assert callbacks() == before


def test_a_plugin_file_that_is_not_there(tmp_path):
    with pytest.raises(PluginError) as caught:
        registered().add_file(tmp_path / "no.py")
    assert str(caught.value) == f"{tmp_path / 'no.py'}: no such plugin file"
    with pytest.raises(PluginError, match="no such plugin file"):
        registered().add_file(tmp_path)


def test_a_plugin_file_whose_name_is_taken(plugin_file):
    file = plugin_file("diffkit", "")
    with pytest.raises(PluginError) as caught:
        registered().add_file(file)
    assert str(caught.value) == f"{file}: a plugin named 'diffkit' is loaded already: rename the file"


def test_a_plugin_file_that_is_not_python(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"\0\xff")
    with pytest.raises(PluginError) as caught:
        registered().add_file(file)
    assert str(caught.value) == f"{file}: this plugin cannot be used: not a Python file"


COMMAND = '''
import diffkit

@diffkit.hookimpl
def register_commands(app):
    @app.command("{name}")
    def run():
        """Does a thing."""
'''


def test_commands_come_with_their_plugins_name(install):
    install("tools", COMMAND.format(name="tool"))
    install("waves", block("waves"))
    commands = Plugins().commands(reserved=["train"])
    assert {name: plugin for name, (plugin, _) in commands.items()} == {"tool": "tools"}


@pytest.mark.parametrize("taken", ["train", "tool"])
def test_a_command_whose_name_is_taken(install, taken):
    install("a_tools", COMMAND.format(name="tool"))
    install("b_tools", COMMAND.format(name=taken))
    plugins = Plugins()
    assert list(plugins.commands(reserved=["train"])) == ["tool"]
    (broken,) = plugins.broken()
    by = "diffkit" if taken == "train" else "a_tools"
    assert broken.left_out == (
        f"plugin 'b_tools' (diffkit-b_tools 1.2) is left out: its command '{taken}' is already provided by {by}"
    )


def test_a_command_that_typer_cannot_read(install):
    install("tools", COMMAND.format(name="tool").replace("run()", "run(x: Nothing)"))
    plugins = Plugins()
    assert plugins.commands(reserved=[]) == {}
    assert plugins.broken()[0].name == "tools"


def test_a_later_failure_takes_the_kinds_out_again(install):
    install("waves", block("waves") + COMMAND.format(name="train"))
    plugins = registered()
    assert "waves" in callbacks()
    plugins.commands(reserved=["train"])
    assert "waves" not in callbacks()
    assert plugins.infos["waves"].components == ()


RECIPES = """
from pathlib import Path
import diffkit

@diffkit.hookimpl
def register_recipes():
    return {files}
"""


def test_recipes_of_plugins(install, tmp_path):
    file = tmp_path / "swell.toml"
    file.write_text("")
    install("waves", RECIPES.format(files=f"[Path({str(file)!r})]"))
    plugins = registered()
    assert plugins.recipes()["swell"] == file
    assert plugins.infos["waves"].recipes == ("swell",)
    assert plugins.recipes()["swell"] == file  # also the second time


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ("[None]", "TypeError: "),
        ("3", "TypeError: 'int' object is not iterable"),
        ("['/x/quickstart.toml']", "its recipe 'quickstart' is already provided by diffkit"),
    ],
)
def test_recipes_that_are_none(install, files, reason):
    install("waves", RECIPES.format(files=files))
    plugins = registered()
    assert "quickstart" in plugins.recipes()
    assert plugins.broken()[0].error.startswith(reason)


def recipe(tmp_path, text):
    file = tmp_path / "recipe_of_test.toml"
    file.write_text(text)
    return str(file)


def test_a_recipe_that_needs_a_broken_plugins_kind_is_told_why(install, tmp_path):
    install("waves", "raise ValueError('no water')\n" + block("waves"))
    with pytest.raises(RecipeError) as caught:
        registered().open_recipe(recipe(tmp_path, '[[callbacks]]\nkind = "waves"'))
    text = str(caught.value)
    assert "  callbacks[0]\n    no callback is called 'waves'. Known: jsonl, progress, sample_grid" in text
    assert "  plugin 'waves' (diffkit-waves 1.2) is left out: ValueError: no water" in text


def test_a_broken_plugin_is_not_blamed_for_other_mistakes(install, tmp_path):
    install("waves", "raise ValueError('no water')")
    with pytest.raises(RecipeError) as caught:
        registered().open_recipe(recipe(tmp_path, "seed = -1"))
    assert "no water" not in str(caught.value)


def test_plugin_files_that_a_recipe_names(plugin_file, tmp_path):
    plugin_file("surf", block("surf"))
    with pytest.raises(RecipeError) as caught:
        registered().open_recipe(recipe(tmp_path, 'plugins = ["./surf.py"]\n[[callbacks]]\nkind = "surf"\nx = 1'))
    assert "callbacks[0].x = 1\n    unknown setting. Allowed here: kind" in str(caught.value)


def test_plugin_files_given_beside_a_recipe(plugin_file, tmp_path):
    file = plugin_file("foam", block("foam"))
    with pytest.raises(RecipeError) as caught:
        registered().open_recipe(recipe(tmp_path, '[[callbacks]]\nkind = "foam"\nx = 1'), files=[file])
    assert "callbacks[0].x = 1\n    unknown setting. Allowed here: kind" in str(caught.value)


def test_a_recipe_names_a_plugin_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError) as caught:
        registered().open_recipe(recipe(tmp_path, 'plugins = ["gone.py"]'))
    assert str(caught.value) == f"{tmp_path / 'gone.py'}: no such plugin file"


NO_PATHS = ["3", "[3]", '[""]', '["~nobody-of-this-name/x.py"]', '"x.py"', "{}", '["a\\u0000"]']


@pytest.mark.parametrize("plugins", NO_PATHS)
def test_plugins_that_are_no_paths_are_left_to_validation(tmp_path, plugins):
    with pytest.raises(RecipeError, match="plugins"):
        registered().open_recipe(recipe(tmp_path, f"plugins = {plugins}"))


def test_making_plugins_loads_no_torch():
    code = "import sys; from diffkit.plugins.manager import Plugins; Plugins(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
