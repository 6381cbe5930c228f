"""``diffkit components``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from diffkit.cli.options import AsJson, PluginFiles
from diffkit.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from diffkit.spec import KindInfo, Setting


def command(
    family: Annotated[str | None, typer.Argument(help="Only this family.")] = None,
    kind: Annotated[str | None, typer.Argument(help="Only this kind, with all that is known of it.")] = None,
    as_json: AsJson = False,
    plugin: PluginFiles = None,
) -> None:
    """List what recipes are made of. One kind is shown with all its settings."""
    from diffkit.cli.common import load_plugins

    load_plugins(plugin)
    infos = find_components(family, kind)
    if as_json:
        print(json.dumps([asdict(info) for info in infos], indent=2))
    elif kind is not None:
        print(in_full(infos[0]))
    else:
        print(listing(infos))


def find_components(family: str | None = None, kind: str | None = None) -> list[KindInfo]:
    """Describe the registered kinds of all families, of one, or one kind, in the order of the alphabet.

    Raises:
        UserError: If there is no such family or kind; names the nearest.
    """
    from diffkit.spec import describe_kind, families

    known = families()
    if family is not None and family not in known:
        raise UserError(f"no family is called '{family}'.{did_you_mean(family, known)} Known: {', '.join(known)}")
    chosen = known.values() if family is None else [known[family]]
    kinds = [cls for one in chosen for name, cls in sorted(one.kinds.items()) if kind in (None, name)]
    if kind is not None and not kinds:
        names = sorted(known[str(family)].kinds)
        raise UserError(f"no {family} is called '{kind}'.{did_you_mean(kind, names)} Known: {', '.join(names)}")
    return [describe_kind(cls) for cls in kinds]


def listing(infos: list[KindInfo]) -> str:
    """Write one line a kind, under its family; name the owner where it isn't diffkit."""
    lines: list[str] = []
    width = max((len(info.kind) for info in infos), default=0)
    family = ""
    for info in infos:
        if info.family != family:
            family = info.family
            lines += ["", family] if lines else [family]
        owner = "" if info.owner == "diffkit" else f" [{info.owner}]"
        lines.append(f"  {info.kind:<{width}}  {info.summary}{owner}")
    return "\n".join(lines)


def in_full(info: KindInfo) -> str:
    """Write all about one kind."""
    head = [f"{info.family} {info.kind}, of {info.owner}", f"{info.file}:{info.line}", "", info.doc]
    return "\n".join([*head, *(line for setting in info.settings for line in _setting(setting))])


def _setting(setting: Setting) -> list[str]:
    value = "is required" if setting.required else f"= {setting.default_as_toml}"
    facts = ", ".join(filter(None, (setting.type, setting.bounds)))
    return ["", f"{setting.name} {value}  ({facts})", f"    {setting.doc}"]
