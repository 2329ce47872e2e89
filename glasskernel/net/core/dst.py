"""Destination cache entries: where a packet goes next.

Linux: net/core/dst.c, include/net/dst.h (5.3). Same: a reference for each holder; an entry that is obsolete is checked
by its protocol before it is used again. Differs: entries are freed when nobody refers to them, without a garbage
collector.
Owns: nothing; struct dst_entry is net/ipv4/types.py: DstEntry.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from glasskernel.lib.types import notrace
from glasskernel.net.netdevice import dev_hold, dev_put
from glasskernel.net.skbuff import kfree_skb

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import DstEntry, DstOps
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net, Sock

D = TypeVar("D", bound="DstEntry")

# dst_entry.obsolete
DST_OBSOLETE_NONE, DST_OBSOLETE_DEAD, DST_OBSOLETE_FORCE_CHK, DST_OBSOLETE_KILL = 0, 2, -1, -2


def dst_alloc(make: Callable[..., D], ops: DstOps, dev: NetDevice) -> D:
    """An entry of class `make` with the caller's reference; packets of it are dropped until its protocol says more."""
    dev_hold(dev)
    return make(ops, dev, dst_discard, dst_discard_out)


def dst_release(dst: DstEntry | None) -> None:
    """One reference less; the last one lets the device go."""
    if dst is not None:
        dst.release()


def dst_dev_put(dst: DstEntry) -> None:
    """The device goes away: the entry answers "dead" from now on, and holds the loopback device instead."""
    dev = dst.dev
    dst.obsolete = DST_OBSOLETE_DEAD
    dst.input = dst_discard
    dst.output = dst_discard_out
    dst.dev = dev.net.loopback_dev
    dev_hold(dst.dev)
    dev_put(dev)


def dst_discard(skb: SkBuff) -> int:
    kfree_skb(skb)
    return 0


def dst_discard_out(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    kfree_skb(skb)
    return 0


@notrace
def dst_input(skb: SkBuff) -> int:
    """On to whoever gets packets of this route."""
    result: int = skb.dst.input(skb)
    return result


@notrace
def dst_output(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    result: int = skb.dst.output(net, sk, skb)
    return result


@notrace
def dst_mtu(dst: DstEntry) -> int:
    """The biggest packet that may take this route."""
    return dst.ops.mtu(dst)


@notrace
def dst_link_failure(skb: SkBuff) -> None:
    """The next hop does not answer."""
    dst = skb.dst
    if dst is not None:
        dst.ops.link_failure(skb)
