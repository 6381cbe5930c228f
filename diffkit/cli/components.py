"""``diffkit components``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from diffkit.cli.options import AsJson, PluginFiles
from diffkit.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from diffkit.spec import Component, KindInfo, Setting


def command(
    family: Annotated[str | None, typer.Argument(help="Only this family.")] = None,
    kind: Annotated[str | None, typer.Argument(help="Only this kind, with all that is known of it.")] = None,
    as_json: AsJson = False,
    plugin: PluginFiles = None,
) -> None:
    """List what recipes are made of. One kind is shown with all its settings."""
    from diffkit.cli.common import load_plugins
    from diffkit.spec import describe_kind

    load_plugins(plugin)
    kinds = find_components(family, kind)
    if as_json:
        print(json.dumps([asdict(describe_kind(one)) for one in kinds], indent=2))
    elif kind is not None:
        print(in_full(describe_kind(kinds[0])))
    else:
        print(listing(kinds))


def find_components(family: str | None = None, kind: str | None = None) -> list[type[Component]]:
    """Return the registered kinds of all families, of one, or one kind, in the order of the alphabet.

    Raises:
        UserError: If there is no such family or kind; names the nearest.
    """
    from diffkit.spec import families

    known = families()
    if family is not None and family not in known:
        raise UserError(f"no family is called '{family}'.{did_you_mean(family, known)} Known: {', '.join(known)}")
    chosen = known.values() if family is None else [known[family]]
    kinds = [cls for one in chosen for name, cls in sorted(one.kinds.items()) if kind in (None, name)]
    if kind is not None and not kinds:
        names = sorted(known[str(family)].kinds)
        raise UserError(f"no {family} is called '{kind}'.{did_you_mean(kind, names)} Known: {', '.join(names)}")
    return kinds


def listing(kinds: list[type[Component]]) -> str:
    """Write one line a kind, under its family; name the owner where it isn't diffkit."""
    from diffkit.spec import summary_of

    lines: list[str] = []
    width = max((len(kind.kind_name()) for kind in kinds), default=0)
    family = ""
    for kind in kinds:
        if kind.family != family:
            family = kind.family
            lines += ["", family] if lines else [family]
        name = kind.kind_name()
        owner = "" if kind.owners[name] == "diffkit" else f" [{kind.owners[name]}]"
        lines.append(f"  {name:<{width}}  {summary_of(kind)}{owner}")
    return "\n".join(lines)


def in_full(info: KindInfo) -> str:
    """Write all about one kind."""
    head = [f"{info.family} {info.kind}, of {info.owner}", f"{info.file}:{info.line}", "", info.doc]
    return "\n".join([*head, *(line for setting in info.settings for line in _setting(setting))])


def _setting(setting: Setting) -> list[str]:
    value = "is required" if setting.required else f"= {setting.default_as_toml}"
    facts = ", ".join(filter(None, (setting.type, setting.bounds)))
    return ["", f"{setting.name} {value}  ({facts})", f"    {setting.doc}"]
