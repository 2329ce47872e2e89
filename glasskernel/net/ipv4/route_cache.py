"""Are routes that somebody keeps still right?

Linux: net/ipv4/route.c: rt_genid, rt_cache_flush (5.3). Same: a number per namespace that every change of tables or
addresses counts up; a route remembers the number it was made under. Differs: a file of its own, below the tables.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import Rtable
    from glasskernel.net.types import Net


def rt_cache_flush(net: Net) -> None:
    """All routes that were looked up so far have expired."""
    net.ipv4.rt_genid += 1


@notrace
def rt_is_expired(rth: Rtable) -> bool:
    genid: int = rth.dev.net.ipv4.rt_genid
    return rth.rt_genid != genid
