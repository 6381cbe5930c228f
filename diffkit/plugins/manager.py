"""Finds plugins, keeps broken ones from harm, and opens recipes with the plugins that they name."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from diffkit import __version__
from diffkit.errors import PluginError, Problem, RecipeError, UserError
from diffkit.plugins import builtin, hookspecs

if TYPE_CHECKING:
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
        recipes: The names of the recipes it provides; known once recipes were asked for.
    """

    name: str
    origin: str
    error: str | None = None
    components: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()

    @property
    def left_out(self) -> str:
        """Say by name that the plugin is left out, and why."""
        return f"plugin '{self.name}' ({self.origin}) is left out: {self.error}"


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
        self._add("diffkit", f"diffkit {__version__}", lambda: builtin)
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

    def commands(self, reserved: Collection[str]) -> dict[str, tuple[str, Any]]:
        """Return the commands of all plugins: by the command's name, the plugin's name and the command.

        A plugin that fails, or whose command has a name that is taken, is left out.

        Args:
            reserved: The names of diffkit's own commands.
        """
        import typer

        found: dict[str, tuple[str, Any]] = dict.fromkeys(reserved, ("diffkit", None))
        for info in self._working():
            with self._contained(info):
                app = typer.Typer(add_completion=False, rich_markup_mode=None)
                self._call(info, "register_commands", app=app)
                added = typer.main.get_group(app).commands
                for name in added:
                    if name in found:
                        raise PluginError(f"its command '{name}' is already provided by {found[name][0]}")
                found |= {name: (info.name, command) for name, command in added.items()}
        return {name: command for name, command in found.items() if name not in reserved}

    def recipes(self) -> dict[str, Path]:
        """Return the recipes that come with diffkit and with plugins, by name."""
        from diffkit.recipe.packaged import by_name, packaged_recipes

        found = packaged_recipes()
        self.infos["diffkit"].recipes = tuple(found)
        for info in self._working()[1:]:
            with self._contained(info):
                added = by_name(Path(file) for file in self._call(info, "register_recipes") or ())
                for name in added:
                    if name in found:
                        by = next(other.name for other in self.infos.values() if name in other.recipes)
                        raise PluginError(f"its recipe '{name}' is already provided by {by}")
                info.recipes = tuple(added)
                found |= added
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
        notes = [Problem("", plugin.left_out) for plugin in self.broken()]
        return RecipeError(error.source, [*error.problems, *notes])

    def _working(self) -> list[PluginInfo]:
        return [info for info in self.infos.values() if info.error is None]

    def _add(self, name: str, origin: str, load: Callable[[], Any]) -> PluginInfo:
        info = PluginInfo(name, origin)
        if name in self.infos:
            info.error = f"the name '{name}' is taken by {self.infos[name].origin}"
            self.infos[f"{name} ({origin})"] = info
            return info
        self.infos[name] = info
        with self._contained(info):
            self.manager.register(load(), name)
            self.manager.check_pending()
        return info

    def _register(self, info: PluginInfo) -> None:
        from diffkit.spec import register

        self._registered.add(info.name)
        with self._contained(info):
            kinds = list(self._call(info, "register_components") or ())
            register(kinds, owner=info.name)
            info.components = tuple(f"{kind.family}.{kind.kind_name()}" for kind in kinds)

    def _call(self, info: PluginInfo, hook: str, **arguments: Any) -> Any:
        """Call one plugin's implementation of a hook, if it has one."""
        plugin = self.manager.get_plugin(info.name)
        calls = [impl for impl in getattr(self.manager.hook, hook).get_hookimpls() if impl.plugin is plugin]
        return calls[0].function(*(arguments[name] for name in calls[0].argnames)) if calls else None

    @contextlib.contextmanager
    def _contained(self, info: PluginInfo) -> Iterator[None]:
        """Leave a plugin out, whole, if it raises."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if info.name == "diffkit":  # a fault of diffkit's own is no plugin's
                raise
            info.error = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._take_out(info)

    def _take_out(self, info: PluginInfo) -> None:
        if self.manager.has_plugin(info.name):
            self.manager.unregister(name=info.name)
        if info.components:
            from diffkit.spec import unregister

            unregister(info.name)
        info.components = info.recipes = ()


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
    """Return the plugin files that a recipe names; what isn't a list of paths is left to validation."""
    from diffkit.spec import resolve_path

    names = document.get("plugins", [])
    if not isinstance(names, list):
        return []
    files = []
    for name in names:
        with contextlib.suppress(ValueError):
            files += [resolve_path(name, folder)] if isinstance(name, str) and name else []
    return files
