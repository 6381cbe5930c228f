import importlib
import inspect
import os
import resource
import subprocess
import sys

import pytest
import typer

from diffkit import __version__
from diffkit.cli import main
from diffkit.errors import Diverged, Interrupted, PluginError, UserError

PYTHON = [sys.executable, "-m", "diffkit"]


@pytest.fixture
def command_raises(monkeypatch):
    """Makes ``diffkit plugins`` raise."""

    def replace(error):
        def command() -> None:
            raise error

        monkeypatch.setattr("diffkit.cli.plugins.command", command)

    return replace


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["plugins", "--help"], ["train", "--help"], ["edit", "vary", "--help"]]
)
def test_help_imports_no_torch(arguments):
    code = (
        "import sys; from diffkit.cli.main import run\n"
        "try: run(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def least_seconds(command, tries):
    """Time of the processor, which on an idle machine is the time that passes."""
    took = []
    for _ in range(tries):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


def test_help_is_quick():
    assert least_seconds([*PYTHON, "--help"], 5) < 0.4


def test_components_are_quick():
    """Most of the time is torch's own import, which on a busy machine takes any time: so as a ratio to that."""
    torch_alone = least_seconds([sys.executable, "-c", "import torch"], 3)
    assert least_seconds([*PYTHON, "components"], 3) < 1.7 * torch_alone


def test_every_command_is_in_the_help(diffkit):
    done = diffkit("--help")
    assert done.code == 0
    for name in main.COMMANDS:
        assert f"\n  {name} " in done.out


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_every_command_has_help(diffkit, name):
    done = diffkit(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: diffkit {name} ")
    assert done.err == ""


def test_version(diffkit):
    assert diffkit("--version").out == f"diffkit {__version__}\n"


def test_no_command_shows_the_help(diffkit):
    done = diffkit()
    assert done.code == 2
    assert "Usage: diffkit" in done.out + done.err


def test_an_unknown_command(diffkit):
    done = diffkit("trian")
    assert done.code == 2
    assert done.err.endswith("Error: no command is called 'trian'. Did you mean 'train'?\n")


def test_an_unknown_option(diffkit):
    done = diffkit("components", "--jsn")
    assert done.code == 2
    assert "No such option: --jsn" in done.err


def test_a_missing_argument(diffkit):
    done = diffkit("validate")
    assert done.code == 2
    assert done.err.endswith("Error: Missing argument 'RECIPE'.\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("the [text] {stays} as it is"), 2),
        (PluginError("plugin 'x'"), 2),
        (Diverged("the loss is nan"), 3),
        (Interrupted("stopped"), 130),
    ],
)
def test_errors_become_exit_codes(diffkit, command_raises, error, code):
    command_raises(error)
    done = diffkit("plugins")
    assert (done.code, done.out, done.err) == (code, "", f"Error: {error}\n")


def test_a_file_that_cannot_be_written_is_the_users_to_mend(diffkit, command_raises):
    command_raises(OSError(28, "No space left on device", "/x/y.png"))
    done = diffkit("plugins")
    assert (done.code, done.err) == (2, "Error: /x/y.png: No space left on device\n")


def test_ctrl_c(diffkit, command_raises):
    command_raises(KeyboardInterrupt())
    assert diffkit("plugins").code == 130


def test_a_fault_of_diffkits_own(diffkit, command_raises):
    command_raises(ZeroDivisionError("[division] by zero"))
    done = diffkit("plugins")
    assert done.code == 1
    assert done.err == (
        "Error: a fault of diffkit's own, not yours: ZeroDivisionError: [division] by zero\n"
        "Please report it, with the traceback that this shows: diffkit --debug plugins\n"
    )


@pytest.mark.parametrize("arguments", [["--debug", "plugins"], ["plugins", "--debug"]])
def test_debug_shows_the_traceback(diffkit, command_raises, arguments):
    command_raises(UserError("a mistake"))
    done = diffkit(*arguments)
    assert done.code == 2
    assert done.err.startswith("Traceback (most recent call last)")
    assert done.err.endswith("Error: a mistake\n")


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PYTHON, "recipes"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert b"Error" not in done.stderr


TOOL = '''
import typer
import diffkit


@diffkit.hookimpl
def register_commands(app: typer.Typer) -> None:
    @app.command()
    def shout(word: str, times: int = 1) -> None:
        """Says a word loudly."""
        print(word.upper() * times)

    @app.command()
    def fail() -> None:
        """Fails."""
        raise KeyError("[a] {b}")

    sub = typer.Typer(help="Several things.")
    app.add_typer(sub, name="many")

    @sub.command()
    def one() -> None:
        """Does one thing."""
        print("one")

    @sub.command()
    def two() -> None:
        """Does another."""
        raise typer.Exit(5)
'''


def test_plugins_commands_are_listed_and_run(diffkit, install_plugin):
    install_plugin("tool", TOOL)
    assert "\n  shout " in diffkit("--help").out
    assert diffkit("shout", "hey", "--times", "2").out == "HEYHEY\n"
    assert diffkit("many", "one").out == "one\n"
    assert diffkit("many", "two").code == 5
    assert "Did you mean 'shout'?" in diffkit("shuot").err
    assert "Missing argument 'word'" in diffkit("shout").err


def test_a_plugins_command_that_fails_is_named(diffkit, install_plugin):
    install_plugin("tool", TOOL)
    done = diffkit("fail")
    assert done.code == 2
    assert done.err == "Error: plugin 'tool': its command 'fail' failed: KeyError: '[a] {b}'\n"
    assert "Traceback" in diffkit("fail", "--debug").err


def test_built_in_commands_do_not_load_plugins_for_their_commands(diffkit, install_plugin):
    install_plugin("tool", "raise SystemExit('loaded')")
    done = diffkit("train", "--help")
    assert (done.code, done.err) == (0, "")


def test_a_broken_plugin_is_warned_of_and_the_command_goes_on(diffkit, install_plugin):
    install_plugin("tool", "raise ValueError('[no] luck')")
    for arguments in (["--help"], ["recipes"], ["components"], ["schema"]):
        done = diffkit(*arguments)
        assert done.code == 0
        assert done.out
        assert done.err == ("Warning: plugin 'tool' (diffkit-tool 1.2) is left out: ValueError: [no] luck\n")


def test_exit_inside_of_a_command(diffkit, command_raises):
    command_raises(typer.Exit(7))
    assert diffkit("plugins").code == 7


@pytest.mark.parametrize("name", main.COMMANDS)
def test_torchrun_is_for_commands_that_several_processes_do_together(diffkit, monkeypatch, name):
    module = importlib.import_module(main.COMMANDS[name])
    if "Workers.joined()" in inspect.getsource(module):
        assert name in main.TOGETHER
        return
    for variable, value in {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(variable, value)
    done = diffkit(name, "--help")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: diffkit {name} works in one process: leave torchrun away, which is for train, ")
    monkeypatch.setenv("RANK", "1")
    done = diffkit(name, "--help")
    assert (done.code, done.out, done.err) == (2, "", "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert diffkit(name, "--help").code == 0
