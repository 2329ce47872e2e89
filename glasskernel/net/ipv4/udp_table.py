"""UDP's ports: who has which, and for whom a packet is.

Linux: net/ipv4/udp.c: udp_lib_get_port ... __udp4_lib_lookup, net/core/sock_reuseport.c (5.3). Same: which sockets may
share a port, how a free one is chosen, the score that decides who gets a packet, a group that shares it by the packet's
flow. Differs: one hash by port (a dict) instead of two; a group is found when a packet comes, not kept.
Owns: NetnsIpv4.udp, NetnsIpv4.udplite.  Gaps: SO_ATTACH_REUSEPORT_*.
Context: any.
"""
from __future__ import annotations

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.core.proto import sock_prot_inuse_add
from glasskernel.net.core.sock import sock_i_uid
from glasskernel.net.ipv4.igmp import ip_mc_sf_allow
from glasskernel.net.ipv4.inet_hash_connect import inet_get_local_port_range
from glasskernel.net.ipv4.types import InetSock
from glasskernel.net.types import SOCK_RCU_FREE, TCP_ESTABLISHED

UDP_HTABLE_SIZE_MIN = 256


@slotted
class UdpSock(InetSock):
    """struct udp_sock. len: of the packet that is being collected.

    pcflag: 0 for UDP, else UDPLITE_*; pcslen, pcrlen: how much its checksums cover, and have to cover.
    """

    corkflag: bool = False
    len: int = 0
    pcflag: int = 0
    pcslen: int = 0
    pcrlen: int = 0
    udp_table: UdpTable = None           # type: ignore[assignment]      # of its protocol; set by sk_prot.init
    mib: dict[str, int] = None           # type: ignore[assignment]      # its counters


@slotted
class UdpTable:
    """struct udp_table of a namespace: port -> its sockets, the newest first."""

    hash: dict[int, list[UdpSock]] = field(default_factory=dict)


# ---- ports ---------------------------------------------------------------------------------------------------------
@notrace
def inet_rcv_saddr_equal(sk: InetSock, sk2: InetSock) -> bool:
    """Could a packet be for both? (ipv4_rcv_saddr_equal() with wildcards)"""
    return not sk.inet_rcv_saddr or not sk2.inet_rcv_saddr or sk.inet_rcv_saddr == sk2.inet_rcv_saddr


def udp_lib_lport_inuse(num: int, sk: UdpSock) -> bool:
    """True if somebody has the port in a way that excludes us."""
    uid = sock_i_uid(sk)
    for sk2 in sk.udp_table.hash.get(num, ()):
        if sk2 is sk or (sk2.sk_reuse and sk.sk_reuse):
            continue
        if sk2.sk_bound_dev_if and sk.sk_bound_dev_if and sk2.sk_bound_dev_if != sk.sk_bound_dev_if:
            continue
        if inet_rcv_saddr_equal(sk, sk2):
            if sk2.sk_reuseport and sk.sk_reuseport and uid == sock_i_uid(sk2):
                continue
            return True
    return False


def udp_lib_get_port(sk: UdpSock, snum: int) -> bool:
    """Takes a port; 0: any that is free. True: it could not."""
    net = sk.sk_net
    table = sk.udp_table.hash
    if not snum:
        low, high = inet_get_local_port_range(net)
        remaining = high - low + 1
        # all ports, from a random one on, in steps that are odd so that every port comes
        rand = int.from_bytes(net.kernel.machine.random_bytes(4), "little")
        first = (rand * remaining >> 32) + low
        step = (rand | 1) * UDP_HTABLE_SIZE_MIN % remaining or 1
        reserved = net.ipv4.sysctl["ip_local_reserved_ports"]
        for attempt in range(remaining):
            snum = (first - low + attempt * step) % remaining + low
            if snum not in reserved and not udp_lib_lport_inuse(snum, sk):
                break
        else:
            for snum in range(low, high + 1):
                if snum not in reserved and not udp_lib_lport_inuse(snum, sk):
                    break
            else:
                return True
    elif udp_lib_lport_inuse(snum, sk):
        return True
    sk.inet_num = snum
    if not _is_hashed(sk):
        table.setdefault(snum, []).insert(0, sk)
        sock_prot_inuse_add(net, sk.sk_prot, 1)
        sk.sk_flags |= SOCK_RCU_FREE
    return False


@notrace
def _is_hashed(sk: UdpSock) -> bool:
    return sk in sk.udp_table.hash.get(sk.inet_num, ())


def udp_v4_get_port(sk: UdpSock, snum: int) -> bool:
    return udp_lib_get_port(sk, snum)


def udp_lib_unhash(sk: UdpSock) -> None:
    """Gives the port up."""
    if not _is_hashed(sk):
        return
    net = sk.sk_net
    table = sk.udp_table.hash
    slot = table[sk.inet_num]
    slot.remove(sk)
    if not slot:
        del table[sk.inet_num]
    sk.inet_num = 0
    sock_prot_inuse_add(net, sk.sk_prot, -1)


# ---- lookup --------------------------------------------------------------------------------------------------------
@notrace
def compute_score(sk: UdpSock, saddr: int, sport: int, daddr: int, dif: int) -> int:
    """How well a socket fits a packet; -1: not at all. The port fits."""
    score = 2
    if sk.inet_rcv_saddr:
        if sk.inet_rcv_saddr != daddr:
            return -1
        score += 4
    if sk.inet_daddr:
        if sk.inet_daddr != saddr:
            return -1
        score += 4
    if sk.inet_dport:
        if sk.inet_dport != sport:
            return -1
        score += 4
    if sk.sk_bound_dev_if:
        if sk.sk_bound_dev_if != dif:
            return -1
        score += 4
    return score


def __udp4_lib_lookup(saddr: int, sport: int, daddr: int, dport: int, dif: int, udptable: UdpTable) -> UdpSock | None:
    """The socket that a packet is for, without a reference."""
    slot = udptable.hash.get(dport)
    if not slot:
        return None
    return udp4_lib_lookup2(slot, saddr, sport, daddr, dport, dif)


def udp4_lib_lookup2(slot: list[UdpSock], saddr: int, sport: int, daddr: int, dport: int, dif: int) -> UdpSock | None:
    result, badness = None, 0
    for sk in slot:
        score = compute_score(sk, saddr, sport, daddr, dif)
        if score > badness:
            if sk.sk_reuseport and sk.sk_state != TCP_ESTABLISHED:
                chosen = reuseport_select_sock(sk, slot, saddr, sport, daddr, dport)
                if chosen is not None:
                    return chosen
            badness, result = score, sk
    return result


@notrace
def reuseport_select_sock(sk: UdpSock, slot: list[UdpSock], saddr: int, sport: int, daddr: int,
                          dport: int) -> UdpSock | None:
    """The member of sk's group that packets of this flow go to."""
    uid = sock_i_uid(sk)
    group = [other for other in reversed(slot) if other.sk_reuseport and other.inet_rcv_saddr == sk.inet_rcv_saddr
             and other.sk_bound_dev_if == sk.sk_bound_dev_if and sock_i_uid(other) == uid and not other.inet_daddr]
    if len(group) < 2:
        return None
    value = (saddr * 0x9E3779B1 ^ daddr * 0x85EBCA6B ^ (sport << 16 | dport) * 0xC2B2AE35) & 0xFFFFFFFF
    value ^= value >> 16
    return group[value * len(group) >> 32]


@notrace
def __udp_is_mcast_sock(sk: UdpSock, loc_port: int, loc_addr: int, rmt_port: int, rmt_addr: int, dif: int) -> bool:
    """Does the socket take part in what many get?"""
    if (sk.inet_num != loc_port or (sk.inet_daddr and sk.inet_daddr != rmt_addr)
            or (sk.inet_dport not in (rmt_port, 0)) or (sk.inet_rcv_saddr and sk.inet_rcv_saddr != loc_addr)
            or (sk.sk_bound_dev_if and sk.sk_bound_dev_if != dif)):
        return False
    return ip_mc_sf_allow(sk, loc_addr, rmt_addr, dif)

