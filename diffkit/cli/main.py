"""The command ``diffkit``: finds its subcommands, and is the one place where errors become exit codes.

Nothing here imports torch. A subcommand's module is imported when the subcommand is called or listed, and
imports what is heavy only when it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from diffkit import __version__
from diffkit.bounds import printable
from diffkit.errors import DiffkitError, OutOfMemory, PluginError, UserError, did_you_mean, exit_code_of, reason_of
from diffkit.out_of_memory import NO_LESS, is_out_of_memory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Torch's idle threads sleep. Spinning, they make training several times slower wherever something else runs too."""

COMMANDS = {
    "train": "diffkit.cli.train",
    "train-classifier": "diffkit.cli.train_classifier",
    "sample": "diffkit.cli.sample",
    "edit": "diffkit.cli.edit",
    "evaluate": "diffkit.cli.evaluate",
    "sweep": "diffkit.cli.sweep",
    "likelihood": "diffkit.cli.likelihood",
    "import": "diffkit.cli.import_",
    "export": "diffkit.cli.export",
    "runs": "diffkit.cli.runs",
    "report": "diffkit.cli.report",
    "diff": "diffkit.cli.diff",
    "recipes": "diffkit.cli.recipes",
    "cp": "diffkit.cli.cp",
    "validate": "diffkit.cli.validate",
    "fill": "diffkit.cli.fill",
    "summary": "diffkit.cli.summary",
    "bench": "diffkit.cli.bench",
    "plot": "diffkit.cli.plot",
    "components": "diffkit.cli.components",
    "schema": "diffkit.cli.schema",
    "plugins": "diffkit.cli.plugins",
}
"""The built-in subcommands: the module's function `command` is the subcommand, or its `group` holds several."""

TOGETHER = ("train", "sample", "evaluate", "sweep")
"""Those of them that several processes do together, where torchrun started these."""


class Commands(TyperGroup):
    """The built-in subcommands and those of plugins. Plugins are loaded only for a name that isn't built in."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all subcommands, plugins' last."""
        return [*COMMANDS, *sorted(self._of_plugins)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one subcommand, or None if there is none of this name."""
        if cmd_name in COMMANDS:
            module = importlib.import_module(COMMANDS[cmd_name])
            if hasattr(module, "group"):
                return typer.main.get_command(module.group)
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(cmd_name)(module.command)
            return typer.main.get_command(app)
        _, command = self._of_plugins.get(cmd_name, (None, None))
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the subcommand that the arguments begin with; name the nearest one where there is none."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"no command is called '{name}'.{did_you_mean(name, self.list_commands(ctx))}")
        if name in COMMANDS and name not in TOGETHER:
            _refuse_torchrun(name)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> None:
        """Run the subcommand; what goes wrong inside of a plugin's carries the plugin's name."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()  # here, where a closed pipe can still be handled
        except BrokenPipeError:  # who read our output has seen enough
            _leave_pipe_quietly()
        except Exception as error:
            name = ctx.invoked_subcommand
            ours = isinstance(error, DiffkitError | typer.Exit | typer.Abort | typer.TyperException)
            if ours or name is None or name in COMMANDS:
                raise
            plugin, _ = self._of_plugins[name]
            reason = f"{type(error).__name__}: {error}"
            raise PluginError(f"plugin '{plugin}': its command '{name}' failed: {reason}") from error

    @cached_property
    def _of_plugins(self) -> dict[str, tuple[str, Any]]:
        """The plugins' subcommands by name, each with its plugin's name."""
        from diffkit.cli.common import warn_of_broken
        from diffkit.plugins.manager import Plugins

        plugins = Plugins()
        found = plugins.commands(reserved=COMMANDS)
        warn_of_broken(plugins)
        return found


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # brackets in help texts, such as [sample], are meant as they stand
    pretty_exceptions_enable=False,
    help="Build, train, take apart and extend pixel-space diffusion models.",
    epilog="Exit codes: 0 done, 1 a fault of diffkit's own, 2 a mistake in what it was given, "
    "3 training diverged, 130 interrupted.",
)


def _refuse_torchrun(command: str) -> None:
    """Refuse to do something once for each of several processes; the first of them says so."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return
    if os.environ["RANK"] != "0":
        raise typer.Exit(2)
    raise UserError(f"diffkit {command} works in one process: leave torchrun away, which is for {', '.join(TOGETHER)}")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"diffkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: The arguments; those of the process by default. ``--debug`` may stand anywhere.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        with _terminated_as_interrupted():
            app(args=[text for text in given if text != "--debug"], prog_name="diffkit")
    except Exception as raised:
        error = OutOfMemory(f"out of memory: {NO_LESS} ({raised})") if is_out_of_memory(raised) else raised
        if debug:
            traceback.print_exc()
        print(printable(_message(error, given)), file=sys.stderr)
        sys.exit(exit_code_of(error))
    sys.exit(0)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: what can go on says how, and files that are half written go away."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _message(error: Exception, arguments: Sequence[str]) -> str:
    if isinstance(error, DiffkitError):
        return f"Error: {error}"
    if isinstance(error, OSError):
        return f"Error: {reason_of(error)}"
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    return (
        f"Error: a fault of diffkit's own, not yours: {what}\n"
        f"Please report it, with the traceback that this shows: diffkit --debug {' '.join(arguments)}"
    )


def _leave_pipe_quietly() -> NoReturn:
    """Exit as a process that SIGPIPE ended, and keep Python from flushing into the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(141)
