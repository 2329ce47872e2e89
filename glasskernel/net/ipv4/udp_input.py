"""UDP packets and ICMP errors that arrive.

Linux: net/ipv4/udp.c: udp_rcv ... __udp_enqueue_schedule_skb, udp_err (5.3). Same: checks and counters, who gets a
packet, copies for groups and broadcasts, the limits of a receive queue, which errors a socket hears of. Differs: a file
of its own; one receive queue, as nothing interrupts a reader. Gaps: early demux, encapsulation, GRO.
Context: softirq. The packet is given.
"""
from __future__ import annotations

from glasskernel.lib.checksum import csum_tcpudp_nofold
from glasskernel.lib.errno import (
    ECONNREFUSED,
    EHOSTUNREACH,
    EMSGSIZE,
    ENOMEM,
    EPROTO,
)
from glasskernel.lib.types import notrace
from glasskernel.net.core.filter import sk_filter
from glasskernel.net.core.sock_memory import (
    SK_MEM_RECV,
    __sk_mem_raise_allocated,
    __sk_mem_reduce_allocated,
    sk_mem_pages,
)
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.icmp_convert import ICMP_ERR_CONVERT
from glasskernel.net.ipv4.ip_errqueue import ip_icmp_error
from glasskernel.net.ipv4.ip_sockglue_rcv import ipv4_pktinfo_prepare
from glasskernel.net.ipv4.route import ipv4_sk_update_pmtu
from glasskernel.net.ipv4.types import IP_PMTUDISC_DONT, RTCF_BROADCAST, RTCF_MULTICAST, Rtable
from glasskernel.net.ipv4.udp_table import UdpSock, UdpTable, __udp4_lib_lookup, __udp_is_mcast_sock
from glasskernel.net.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SkBuff,
    __skb_checksum_complete,
    __skb_checksum_complete_head,
    consume_skb,
    kfree_skb,
    pskb_may_pull,
    pskb_trim_rcsum,
    skb_checksum_init_v4,
    skb_clone,
    skb_orphan,
    skb_queue_tail,
)
from glasskernel.net.types import IPPROTO_UDP, IPPROTO_UDPLITE, SOCK_DEAD, TCP_ESTABLISHED
from glasskernel.net.udplite import (
    UDPLITE_RECV_CC,
    is_udplite_skb,
    udplite_checksum_init,
    udplite_cscov,
    udplite_partial_cov,
)

ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB = 3, 4, 5, 11, 12
ICMP_PORT_UNREACH, ICMP_FRAG_NEEDED = 3, 4
UDP_HEADER = 8


def udp_rcv(skb: SkBuff) -> int:
    return __udp4_lib_rcv(skb, IPPROTO_UDP)


def __udp4_lib_rcv(skb: SkBuff, proto: int) -> int:
    """Finds the socket, or sockets, of a packet. Nobody: its sender is told that the port is unreachable."""
    dev = skb.dev
    assert dev is not None
    net = dev.net
    if proto == IPPROTO_UDP:
        mib, udptable = net.mib.udp, net.ipv4.udp
    else:
        mib, udptable = net.mib.udplite, net.ipv4.udplite
    if not pskb_may_pull(skb, UDP_HEADER):
        return _drop(mib, skb)
    head, at, ip = skb.head, skb.data, skb.network_header
    ulen = head[at + 4] << 8 | head[at + 5]
    saddr = int.from_bytes(head[ip + 12 : ip + 16], "big")
    daddr = int.from_bytes(head[ip + 16 : ip + 20], "big")
    if ulen > skb.len:
        return _drop(mib, skb)
    if proto == IPPROTO_UDP:
        if ulen < UDP_HEADER:
            return _drop(mib, skb)
        pskb_trim_rcsum(skb, ulen)
    if udp4_csum_init(skb, proto, saddr, daddr):
        return _csum_error(mib, skb)
    sport, dport = head[at] << 8 | head[at + 1], head[at + 2] << 8 | head[at + 3]
    rt: Rtable = skb.dst
    if rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        return __udp4_lib_mcast_deliver(mib, skb, sport, dport, saddr, daddr, udptable)
    sk = __udp4_lib_lookup(saddr, sport, daddr, dport, skb.skb_iif, udptable)
    if sk is not None:
        return udp_unicast_rcv_skb(sk, skb)
    if udp_lib_checksum_complete(skb):
        return _csum_error(mib, skb)
    mib["NoPorts"] += 1
    inet_of(net).paths.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0)
    kfree_skb(skb)
    return 0


@notrace
def _drop(mib: dict[str, int], skb: SkBuff) -> int:
    mib["InErrors"] += 1
    kfree_skb(skb)
    return 0


@notrace
def _csum_error(mib: dict[str, int], skb: SkBuff) -> int:
    mib["InCsumErrors"] += 1
    return _drop(mib, skb)


@notrace
def udp4_csum_init(skb: SkBuff, proto: int, saddr: int, daddr: int) -> bool:
    """True if the checksum of a packet is wrong, or must not be missing; a long packet's is only prepared."""
    if proto == IPPROTO_UDPLITE:
        if udplite_checksum_init(skb):
            return True
        if udplite_partial_cov(skb):
            skb.csum = csum_tcpudp_nofold(saddr, daddr, skb.len, proto, 0)
            return False
    at = skb.data
    return bool(skb.head[at + 6] | skb.head[at + 7] and skb_checksum_init_v4(skb, proto, saddr, daddr))


@notrace
def udp_lib_checksum_complete(skb: SkBuff) -> bool:
    """True if the checksum is wrong. No checksum is right."""
    return skb.ip_summed not in (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL) and __udp_lib_checksum_complete(skb)


@notrace
def __udp_lib_checksum_complete(skb: SkBuff) -> bool:
    at = skb.transport_header
    if is_udplite_skb(skb) and udplite_partial_cov(skb):
        return bool(__skb_checksum_complete_head(skb, udplite_cscov(skb) - (skb.data - at)))
    return bool(skb.head[at + 6] | skb.head[at + 7] and __skb_checksum_complete(skb))


def udp_unicast_rcv_skb(sk: UdpSock, skb: SkBuff) -> int:
    udp_queue_rcv_skb(sk, skb)
    return 0


def __udp4_lib_mcast_deliver(mib: dict[str, int], skb: SkBuff, sport: int, dport: int, saddr: int, daddr: int,
                             udptable: UdpTable) -> int:
    """A copy for each socket that takes part."""
    dif = skb.skb_iif
    takers = [sk for sk in udptable.hash.get(dport, ())
              if __udp_is_mcast_sock(sk, dport, daddr, sport, saddr, dif)]
    if not takers:
        mib["IgnoredMulti"] += 1
        consume_skb(skb)
        return 0
    for sk in takers[1:]:
        udp_queue_rcv_skb(sk, skb_clone(skb))
    udp_queue_rcv_skb(takers[0], skb)
    return 0


def udp_queue_rcv_skb(sk: UdpSock, skb: SkBuff) -> int:
    return udp_queue_rcv_one_skb(sk, skb)


def udp_queue_rcv_one_skb(sk: UdpSock, skb: SkBuff) -> int:
    """Into the socket's queue, unless its filter, the checksum or its size are against it."""
    if sk.pcflag & UDPLITE_RECV_CC and udplite_partial_cov(skb) and not 0 < sk.pcrlen <= udplite_cscov(skb):
        return _refuse(sk, skb)              # covers less than the user wants; a pcrlen of 0 wants all
    if sk.sk_filter is not None:
        if udp_lib_checksum_complete(skb):
            sk.mib["InCsumErrors"] += 1
            return _refuse(sk, skb)
        if sk_filter(sk, skb):
            return _refuse(sk, skb)
    at = skb.transport_header
    if not (skb.head[at + 6] | skb.head[at + 7]):
        skb.ip_summed = CHECKSUM_UNNECESSARY             # the sender computed none
    udp_csum_pull_header(skb)
    ipv4_pktinfo_prepare(sk, skb)
    return __udp_queue_rcv_skb(sk, skb)


@notrace
def _refuse(sk: UdpSock, skb: SkBuff) -> int:
    sk.mib["InErrors"] += 1
    sk.sk_drops += 1
    kfree_skb(skb)
    return -1


@notrace
def udp_csum_pull_header(skb: SkBuff) -> None:
    """The UDP header comes off; a sum that is still to be checked keeps it."""
    if skb.ip_summed == CHECKSUM_NONE:
        at = skb.data
        skb.csum += sum(int.from_bytes(skb.head[i : i + 2], "big") for i in range(at, at + UDP_HEADER, 2))
    skb.data += UDP_HEADER
    skb.len -= UDP_HEADER


@notrace
def __udp_queue_rcv_skb(sk: UdpSock, skb: SkBuff) -> int:
    err = __udp_enqueue_schedule_skb(sk, skb)
    if err:
        mib = sk.mib
        if err == ENOMEM:
            mib["RcvbufErrors"] += 1
        mib["InErrors"] += 1
        kfree_skb(skb)
        return -1
    return 0


def __udp_enqueue_schedule_skb(sk: UdpSock, skb: SkBuff) -> int:
    """Charges the socket and wakes its reader. 0 or ENOMEM."""
    if sk.sk_rmem_alloc > sk.sk_rcvbuf:
        sk.sk_drops += 1
        return ENOMEM
    size = skb.truesize
    sk.sk_rmem_alloc += size
    if sk.sk_rmem_alloc > size + sk.sk_rcvbuf:
        sk.sk_rmem_alloc -= size
        sk.sk_drops += 1
        return ENOMEM
    if size >= sk.sk_forward_alloc:
        amt = sk_mem_pages(size)
        if not __sk_mem_raise_allocated(sk, size, amt, SK_MEM_RECV):
            sk.sk_rmem_alloc -= size
            sk.sk_drops += 1
            return ENOMEM
        sk.sk_forward_alloc += amt << 12
    sk.sk_forward_alloc -= size
    skb_orphan(skb)
    skb.dev = None
    skb_queue_tail(sk.sk_receive_queue, skb)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_data_ready(sk)
    return 0


def udp_rmem_release(sk: UdpSock, size: int, partial: int) -> None:
    """A packet left the queue; whole pages go back, all but one if `partial`."""
    sk.sk_rmem_alloc -= size
    sk.sk_forward_alloc += size
    amt = sk.sk_forward_alloc - partial & ~0xFFF
    if amt > 0:
        sk.sk_forward_alloc -= amt
        __sk_mem_reduce_allocated(sk, amt >> 12)


# ---- errors --------------------------------------------------------------------------------------------------------
def udp_err(skb: SkBuff, info: int) -> int:
    dev = skb.dev
    assert dev is not None
    return __udp4_lib_err(skb, info, dev.net.ipv4.udp)


def __udp4_lib_err(skb: SkBuff, info: int, udptable: UdpTable) -> int:
    """An ICMP error about a packet that we sent; skb.data is at its IP header. 0, or an errno if it is nobody's."""
    dev = skb.dev
    assert dev is not None
    net = dev.net
    head, at = skb.head, skb.data
    uh = at + (head[at] & 0xF) * 4
    saddr, daddr = int.from_bytes(head[at + 12 : at + 16], "big"), int.from_bytes(head[at + 16 : at + 20], "big")
    sport, dport = head[uh] << 8 | head[uh + 1], head[uh + 2] << 8 | head[uh + 3]
    sk = __udp4_lib_lookup(daddr, dport, saddr, sport, skb.skb_iif, udptable)
    if sk is None:
        net.mib.icmp["InErrors"] += 1
        return ECONNREFUSED
    kind, code = head[skb.transport_header], head[skb.transport_header + 1]
    err, harderr = 0, False
    if kind == ICMP_TIME_EXCEEDED:
        err = EHOSTUNREACH
    elif kind in (ICMP_SOURCE_QUENCH, ICMP_REDIRECT):
        return 0
    elif kind == ICMP_PARAMETERPROB:
        err, harderr = EPROTO, True
    elif kind == ICMP_DEST_UNREACH:
        if code == ICMP_FRAG_NEEDED:
            ipv4_sk_update_pmtu(skb, sk, info)
            if sk.pmtudisc == IP_PMTUDISC_DONT:
                return 0
            err, harderr = EMSGSIZE, True
        else:
            err = EHOSTUNREACH
            if code < len(ICMP_ERR_CONVERT):
                err, harderr = ICMP_ERR_CONVERT[code]
    else:
        err = EHOSTUNREACH
    if not sk.recverr:
        if not harderr or sk.sk_state != TCP_ESTABLISHED:
            return 0
    else:
        ip_icmp_error(sk, skb, err, dport, info, uh + UDP_HEADER)
    sk.sk_err = err
    sk.sk_error_report(sk)
    return 0

