"""Which libraries there are to measure against. The only importer of the concrete ones."""

from __future__ import annotations

from diffkit.benchmarking.diffusers import Diffusers
from diffkit.benchmarking.lucidrains import LucidrainsPeer
from diffkit.benchmarking.peer import Peer
from diffkit.errors import UserError, did_you_mean


def peers() -> list[Peer]:
    """Return the libraries."""
    return [Diffusers(), LucidrainsPeer()]


def find_peer(name: str) -> Peer:
    """Return the library of a name.

    Raises:
        UserError: If there is none of this name, or it is not installed.
    """
    known = {peer.name: peer for peer in peers()}
    if name not in known:
        raise UserError(f"--against {name}: no such library.{did_you_mean(name, known)} Known: {', '.join(known)}")
    known[name].require()
    return known[name]
