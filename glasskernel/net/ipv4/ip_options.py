"""Options of IP headers.

Linux: net/ipv4/ip_options.c (5.3). Same: what is wrong with an option is answered with a parameter problem; NOP and END
are skipped. Differs: options are bytes. Gaps: record route and timestamps are not filled in; packets with a source
route are dropped, as accept_source_route=0 has it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.types import InetSkbParm
from glasskernel.net.skbuff import SkBuff, kfree_skb

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice

IPOPT_END, IPOPT_NOOP, IPOPT_RR, IPOPT_TIMESTAMP, IPOPT_RA = 0, 1, 7, 68, 148
IPOPT_LSRR, IPOPT_SSRR = 131, 137
ICMP_PARAMETERPROB = 12


def ip_rcv_options(skb: SkBuff, dev: NetDevice) -> bool:
    """Looks at the options of a packet that arrived. True: it is freed."""
    at = skb.network_header
    options = bytes(skb.head[at + 20 : at + (skb.head[at] & 0xF) * 4])
    wrong = __ip_options_compile(options)
    if wrong is not None:
        dev.net.mib.ip["InHdrErrors"] += 1
        inet_of(dev.net).paths.icmp_send(skb, ICMP_PARAMETERPROB, 0, (20 + wrong) << 24)
        kfree_skb(skb)
        return True
    if _has_source_route(options):
        kfree_skb(skb)
        return True
    parm: InetSkbParm = skb.cb
    parm.opt = options
    return False


def __ip_options_compile(options: bytes) -> int | None:
    """The offset of what is wrong with the options; None if nothing is."""
    at, seen = 0, set()
    while at < len(options):
        kind = options[at]
        if kind == IPOPT_END:
            return None
        if kind == IPOPT_NOOP:
            at += 1
            continue
        if at + 2 > len(options):
            return at
        length = options[at + 1]
        if length < 2 or at + length > len(options):
            return at
        if kind in (IPOPT_LSRR, IPOPT_SSRR, IPOPT_RR, IPOPT_TIMESTAMP):
            if length < 3 + (kind == IPOPT_TIMESTAMP):
                return at + 1
            if options[at + 2] < 4 + (kind == IPOPT_TIMESTAMP):
                return at + 2
            group = IPOPT_LSRR if kind == IPOPT_SSRR else kind
            if group in seen:
                return at
            seen.add(group)
        elif kind == IPOPT_RA and length < 4:
            return at + 1
        at += length
    return None


def ip_options_get(data: bytes) -> bytes:
    """Options that a socket sends, padded to words. Raises EINVAL for wrong ones."""
    if len(data) > 40:
        raise KernelError(EINVAL)
    options = data + bytes(-len(data) % 4)
    if __ip_options_compile(options) is not None or _has_source_route(options):
        raise KernelError(EINVAL)
    return options


@notrace
def _has_source_route(options: bytes) -> bool:
    at = 0
    while at < len(options) and options[at] != IPOPT_END:
        if options[at] in (IPOPT_LSRR, IPOPT_SSRR):
            return True
        at += 1 if options[at] == IPOPT_NOOP else options[at + 1]
    return False
