"""Calls the hooks of plugins and callbacks during a run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pluggy

from diffkit.callbacks.base import Callback, Run
from diffkit.errors import Diverged, Interrupted, PluginError, UserError, WriteError, reason_of
from diffkit.plugins import hookspecs


class Hooks:
    """The hooks of one run: those of the loaded plugins and, after them, those of the recipe's callbacks, in order.

    Args:
        plugins: The loaded plugins; None for none.
        callbacks: The callbacks; each gets an object of its own for this run.

    Raises:
        PluginError: If a callback cannot be used; says which.
    """

    def __init__(self, plugins: pluggy.PluginManager | None, callbacks: tuple[Callback, ...]) -> None:
        self._manager = _Manager("diffkit")
        self._manager.add_hookspecs(hookspecs)
        for name, plugin in plugins.list_name_plugin() if plugins is not None else ():
            if plugin is not None:
                self._manager.register(plugin, f"plugin '{name}'")
        for number, callback in enumerate(callbacks):
            name = f"callback '{callback.kind}' (callbacks[{number}])"
            with _named(f"{name} cannot be used"):
                self._manager.register(callback.build(), name)
                self._manager.check_pending()

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook of everybody, up to the first that raises.

        Raises:
            PluginError: If one raised; says which.
        """
        for implementation in self._all(hook):
            _call(hook, implementation, arguments)

    def end(self, run: Run, error: BaseException | None) -> None:
        """Call `on_train_end` of everybody, also after one raised: there may be displays and files to close.

        Raises:
            PluginError: The first that was raised, with the others as notes.
        """
        raised = []
        for implementation in self._all("on_train_end"):
            try:
                _call("on_train_end", implementation, {"run": run, "error": error})
            except PluginError as one:
                raised.append(one)
        for another in raised[1:]:
            raised[0].add_note(str(another))
        if raised:
            raise raised[0]

    def _all(self, hook: str) -> list[pluggy.HookImpl]:
        """Return the implementations in the order of registration, but for those marked tryfirst or trylast."""
        found: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        last = [one for one in found if one.trylast]
        first = [one for one in found if one.tryfirst]
        return [*first, *(one for one in found if one not in first and one not in last), *last]


class _Manager(pluggy.PluginManager):
    """Reads only attributes that are marked as hooks: reading every attribute of a pydantic table would warn."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        marked = hasattr(inspect.getattr_static(plugin, name, None), f"{self.project_name}_impl")
        return super().parse_hookimpl_opts(plugin, name) if marked else None


def _call(hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> None:
    with _named(f"{implementation.plugin_name} raised in {hook}"):
        implementation.function(*(arguments[name] for name in implementation.argnames))


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Say who raised. What isn't theirs stays as it is: a stop from outside, a divergence, a log that isn't written."""
    try:
        yield
    except (Interrupted, Diverged, PluginError, WriteError):
        raise
    except (Exception, SystemExit) as error:
        match error:
            case UserError():
                reason = str(error)
            case OSError(filename=str()):
                reason = reason_of(error)
            case _:
                reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"{what}: {reason}") from error
