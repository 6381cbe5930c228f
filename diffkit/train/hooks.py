"""Calls the hooks of plugins and callbacks during a run."""

from __future__ import annotations

from typing import Any

import pluggy

from diffkit.callbacks.base import Callback
from diffkit.errors import DiffkitError, PluginError
from diffkit.plugins import hookspecs


class Hooks:
    """The hooks of one run: those of the loaded plugins and, after them, those of the recipe's callbacks.

    Args:
        plugins: The loaded plugins; None for none.
        callbacks: The callbacks; each gets an object of its own for this run.
    """

    def __init__(self, plugins: pluggy.PluginManager | None, callbacks: tuple[Callback, ...]) -> None:
        self._manager = _Manager("diffkit")
        self._manager.add_hookspecs(hookspecs)
        for name, plugin in plugins.list_name_plugin() if plugins is not None else ():
            if plugin is not None:
                self._manager.register(plugin, f"plugin '{name}'")
        for number, callback in enumerate(callbacks):
            self._manager.register(callback.build(), f"callback '{callback.kind}' (callbacks[{number}])")
        self._manager.check_pending()

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook of everybody.

        Raises:
            PluginError: If one raised; says which.
        """
        try:
            getattr(self._manager.hook, hook)(**arguments)
        except DiffkitError:
            raise
        except Exception as error:
            name = self._who(hook, error)
            raise PluginError(f"{name} raised in {hook}: {type(error).__name__}: {error}") from error

    def _who(self, hook: str, error: Exception) -> str:
        """Find whose function the traceback passes through."""
        owners: dict[object, str] = {
            _code(impl): impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls()
        }
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in owners:
                return owners[trace.tb_frame.f_code]
            trace = trace.tb_next
        return "a plugin"


class _Manager(pluggy.PluginManager):
    """Looks for hooks only among names of hooks: reading every attribute of a pydantic table would warn."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        return super().parse_hookimpl_opts(plugin, name) if hasattr(hookspecs, name) else None


def _code(impl: pluggy.HookImpl) -> object:
    return getattr(impl.function, "__code__", None)
