"""What a socket wants to know about a packet is noted while its route is known.

Linux: net/ipv4/ip_sockglue.c: ipv4_pktinfo_prepare (5.3). Differs: a file of its own, below the protocols.
Context: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.net.core.dst import dst_release
from glasskernel.net.ipv4.in_device import inet_select_addr
from glasskernel.net.ipv4.ip_errqueue import IP_CMSG_PKTINFO
from glasskernel.net.ipv4.types import RT_SCOPE_UNIVERSE, RTCF_LOCAL, InetSkbParm, InetSock, Rtable
from glasskernel.net.skbuff import SkBuff

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice


def ipv4_pktinfo_prepare(sk: InetSock, skb: SkBuff) -> None:
    """Fills in what IP_PKTINFO tells; the route is given up."""
    rt: Rtable | None = skb.dst
    parm: InetSkbParm = skb.cb
    if sk.cmsg_flags & IP_CMSG_PKTINFO and rt is not None:
        if parm.iif == 0:
            parm.iif = skb.skb_iif
        parm.spec_dst = fib_compute_spec_dst(skb, rt)
    if rt is not None:
        skb.dst = None
        dst_release(rt)


def fib_compute_spec_dst(skb: SkBuff, rt: Rtable) -> int:
    """The address of ours that an answer should come from."""
    at = skb.network_header
    daddr = int.from_bytes(skb.head[at + 16 : at + 20], "big")
    if rt.rt_flags & RTCF_LOCAL and not rt.rt_flags & 0x30000000:
        return daddr
    dev: NetDevice | None = skb.dev
    saddr = int.from_bytes(skb.head[at + 12 : at + 16], "big")
    return inet_select_addr(dev, saddr, RT_SCOPE_UNIVERSE)
