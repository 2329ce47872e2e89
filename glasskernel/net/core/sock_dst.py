"""The route that a socket keeps.

Linux: net/core/sock.c, include/net/sock.h (5.3). Same: a route that is obsolete is checked before it is used, and
dropped if it is wrong. Differs: a file of its own.
Owns: sk_dst_cache (a reference).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_release
from glasskernel.net.core.sock import sk_dst_reset
from glasskernel.net.netdevice import NETIF_F_GSO, NETIF_F_TSO
from glasskernel.net.types import AF_INET

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import DstEntry
    from glasskernel.net.types import Sock


@notrace
def sk_dst_set(sk: Sock, dst: DstEntry | None) -> None:
    """The socket takes over the caller's reference."""
    old, sk.sk_dst_cache = sk.sk_dst_cache, dst
    dst_release(old)


@notrace
def sk_dst_get(sk: Sock) -> DstEntry | None:
    """The route with a reference for the caller."""
    dst: DstEntry | None = sk.sk_dst_cache
    if dst is not None:
        dst.hold()
    return dst


def sk_setup_caps(sk: Sock, dst: DstEntry) -> None:
    """The socket keeps the route (it takes over the reference) and learns what its device can do."""
    sk_dst_set(sk, dst)
    dev = dst.dev
    sk.sk_route_caps = dev.features | NETIF_F_GSO
    if dev.features & NETIF_F_GSO and not dst.header_len:
        sk.sk_gso_max_size = dev.gso_max_size
        sk.sk_gso_max_segs = max(dev.gso_max_segs, 1)
    else:
        sk.sk_route_caps &= ~(NETIF_F_GSO | NETIF_F_TSO)
        sk.sk_gso_max_segs = 1


def __sk_dst_check(sk: Sock, cookie: int) -> DstEntry | None:
    """The socket's route, without a new reference, if it may still be used. Locks: the socket's owner."""
    dst: DstEntry | None = sk.sk_dst_cache
    if dst is not None and dst.obsolete and dst.ops.check(dst, cookie) is None:
        sk.sk_dst_cache = None
        dst_release(dst)
        return None
    return dst


def sk_dst_check(sk: Sock, cookie: int) -> DstEntry | None:
    """The same, with a reference for the caller and without the lock."""
    dst = sk_dst_get(sk)
    if dst is not None and dst.obsolete and dst.ops.check(dst, cookie) is None:
        sk_dst_reset(sk)
        dst_release(dst)
        return None
    return dst


@notrace
def dst_negative_advice(sk: Sock) -> None:
    """No answer came over this route: it gives up what it learned."""
    dst: DstEntry | None = sk.sk_dst_cache
    if dst is not None:
        ndst = dst.ops.negative_advice(dst)
        if ndst is not dst:
            sk.sk_dst_cache = ndst


def sk_mc_loop(sk: Sock | None) -> bool:
    """Do we hear the groups that we send to?"""
    if sk is None:
        return True
    if sk.sk_family == AF_INET:
        loop: bool = sk.mc_loop          # type: ignore[attr-defined]
        return loop
    return True
