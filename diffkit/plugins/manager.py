"""Finds plugins, keeps broken ones from harm, and opens recipes with the plugins that they name."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from diffkit.errors import PluginError, Problem, RecipeError, UserError
from diffkit.plugins import builtin, hookspecs

if TYPE_CHECKING:
    import typer

    from diffkit.recipe.tables import Recipe

ENTRY_POINTS = "diffkit"
"""Group of the entry points that plugins declare."""


@dataclass
class PluginInfo:
    """A plugin and what became of it.

    Attributes:
        name: Name of the entry point, or the stem of the file.
        origin: The distribution with its version, or the file.
        error: Why it is left out; None if it works.
        components: The kinds it provides, as ``family.kind``; known once components were registered.
    """

    name: str
    origin: str
    error: str | None = None
    components: tuple[str, ...] = ()


class Plugins:
    """All plugins of a process.

    Making one imports the modules of installed plugins and no torch; components are registered at the first
    need (`register_components`).
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("diffkit")
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, PluginInfo] = {}
        self._registered: set[str] = set()
        self._add("diffkit", f"diffkit {importlib.metadata.version('diffkit')}", lambda: builtin)
        for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
            origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
            self._add(entry.name, origin, entry.load)

    def add_file(self, file: Path) -> None:
        """Load a plugin from one Python file.

        Raises:
            PluginError: If there is no such file or it cannot be imported: who names a file, needs it.
        """
        path = file.absolute()
        if any(info.origin == str(path) for info in self.infos.values()):
            return
        if not path.is_file():
            raise PluginError(f"{file}: no such plugin file")
        if path.stem in self.infos:
            raise PluginError(f"{file}: a plugin named '{path.stem}' is loaded already: rename the file")
        info = self._add(path.stem, str(path), lambda: _import_file(path))
        if info.error is None and self._registered:
            self._register(info)
        if info.error is not None:
            del self.infos[path.stem]
            raise PluginError(f"{file}: this plugin cannot be used: {info.error}")

    def register_components(self) -> None:
        """Register the kinds of all plugins. One that fails is left out, whole, and its `error` says why."""
        for info in list(self.infos.values()):
            if info.error is None and info.name not in self._registered:
                self._register(info)

    def register_commands(self, app: typer.Typer) -> None:
        """Let all plugins add commands; one that fails is left out."""
        for info in self._working():
            self._contain(info, "register_commands", app=app)

    def recipes(self) -> dict[str, Path]:
        """Return the recipes that come with diffkit and with plugins, by name."""
        from diffkit.recipe.packaged import by_name, packaged_recipes

        found = packaged_recipes()
        for info in self._working():
            files = [Path(file) for file in self._contain(info, "register_recipes") or ()]
            found = {**by_name(files), **found}
        return dict(sorted(found.items()))

    def broken(self) -> list[PluginInfo]:
        """Return the plugins that are left out."""
        return [info for info in self.infos.values() if info.error is not None]

    def open_recipe(self, name: str, overrides: Sequence[str] = (), files: Iterable[Path] = ()) -> Recipe:
        """Read, check and return a recipe, after loading the plugins that it and the caller name.

        Args:
            name: A path, a run folder, or the name of a packaged recipe.
            overrides: ``key=value`` texts.
            files: Further plugin files.

        Raises:
            UserError: With every mistake that can be found at once.
        """
        from diffkit.recipe.load import read_document, validate
        from diffkit.recipe.packaged import find_recipe

        for file in files:
            self.add_file(file)
        self.register_components()
        path = find_recipe(name, self.recipes())
        document = read_document(path, overrides)
        for file in _named_plugins(document, path.parent):
            self.add_file(file)
        try:
            return validate(document, str(path), path.parent)
        except RecipeError as error:
            raise self.explain(error) from None

    def explain(self, error: RecipeError) -> RecipeError:
        """Add to a recipe's problems which plugins could not be loaded: one may have had the missing kind."""
        missing_kind = any(" is called " in problem.message for problem in error.problems)
        if not missing_kind or not self.broken():
            return error
        notes = [Problem("", f"plugin '{p.name}' ({p.origin}) is left out: {p.error}") for p in self.broken()]
        return RecipeError(error.source, [*error.problems, *notes])

    def _working(self) -> list[PluginInfo]:
        return [info for info in self.infos.values() if info.error is None]

    def _add(self, name: str, origin: str, load: Callable[[], Any]) -> PluginInfo:
        info = self.infos[name] = PluginInfo(name, origin)
        try:
            self.manager.register(load(), name)
            self.manager.check_pending()
        except (Exception, SystemExit) as error:
            self._leave_out(info, error)
        return info

    def _register(self, info: PluginInfo) -> None:
        from diffkit.spec import register

        self._registered.add(info.name)
        kinds = self._contain(info, "register_components")
        if kinds is None:
            return
        try:
            kinds = list(kinds)
            register(kinds, owner=info.name)
            info.components = tuple(f"{kind.family}.{kind.kind_name()}" for kind in kinds)
        except Exception as error:
            self._leave_out(info, error)

    def _contain(self, info: PluginInfo, hook: str, **arguments: Any) -> Any:
        """Call one plugin's implementation of a hook; an error takes the plugin out."""
        plugin = self.manager.get_plugin(info.name)
        calls = [impl for impl in getattr(self.manager.hook, hook).get_hookimpls() if impl.plugin is plugin]
        try:
            return calls[0].function(*(arguments[name] for name in calls[0].argnames)) if calls else None
        except (Exception, SystemExit) as error:
            self._leave_out(info, error)
            return None

    def _leave_out(self, info: PluginInfo, error: BaseException) -> None:
        if info.name == "diffkit":  # a fault of diffkit's own is no plugin's
            raise error
        info.error = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if self.manager.has_plugin(info.name):
            self.manager.unregister(name=info.name)


def _import_file(path: Path) -> ModuleType:
    name = f"diffkit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves annotations there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named_plugins(document: dict[str, Any], folder: Path) -> list[Path]:
    """Return the plugin files that a recipe names; what isn't a list of texts is left to validation."""
    from diffkit.spec import CommandLineText

    names = document.get("plugins", [])
    if not isinstance(names, list):
        return []
    return [
        Path(name) if isinstance(name, CommandLineText) else folder / Path(name).expanduser()
        for name in names
        if isinstance(name, str) and name
    ]
