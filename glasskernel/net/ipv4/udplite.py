"""UDP-Lite (RFC 3828): UDP whose checksum covers as much of a datagram as its sender wants.

Linux: net/ipv4/udplite.c (5.3); include/net/udplite.h is net/udplite.py. Same: it is all UDP's code, with a table of
ports, counters and /proc/net/udplite of its own. Differs: its memory is counted apart, under the same limits.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.net.ipv4.udp import udp_init_sock
from glasskernel.net.ipv4.udp_input import __udp4_lib_err, __udp4_lib_rcv
from glasskernel.net.types import IPPROTO_UDPLITE
from glasskernel.net.udplite import UDPLITE_BIT

if TYPE_CHECKING:
    from glasskernel.net.ipv4.udp_table import UdpSock
    from glasskernel.net.skbuff import SkBuff


def udplite_sk_init(sk: UdpSock) -> None:
    udp_init_sock(sk)
    sk.pcflag = UDPLITE_BIT
    sk.udp_table = sk.sk_net.ipv4.udplite
    sk.mib = sk.sk_net.mib.udplite


def udplite_rcv(skb: SkBuff) -> int:
    return __udp4_lib_rcv(skb, IPPROTO_UDPLITE)


def udplite_err(skb: SkBuff, info: int) -> int:
    """An ICMP error about a packet that we sent."""
    dev = skb.dev
    assert dev is not None
    return __udp4_lib_err(skb, info, dev.net.ipv4.udplite)
