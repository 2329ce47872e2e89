"""/proc/net: counters, routes, sockets of IPv4.

Linux: net/ipv4/proc.c, fib_trie.c: fib_route_seq_show, route.c: rt_cache_seq_show, udp.c: udp4_seq_show, raw.c (5.3).
Same: columns and widths. Differs: TCP's files are tcp's.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.proc_net import proc_create_net
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock import sock_i_ino, sock_i_uid
from glasskernel.net.ipv4.arp import arp_seq_show
from glasskernel.net.ipv4.fib_lookup import fib_get_table
from glasskernel.net.ipv4.fib_trie import fib_table_walk
from glasskernel.net.ipv4.fib_trie_show import fib_trie_seq_show, fib_triestat_seq_show
from glasskernel.net.ipv4.igmp import igmp_mc_seq_show
from glasskernel.net.ipv4.ping import PingTable
from glasskernel.net.ipv4.raw_deliver import RawTable
from glasskernel.net.ipv4.types import (
    RT_TABLE_MAIN,
    RTAX_ADVMSS,
    RTAX_RTT,
    RTAX_WINDOW,
    RTN_BROADCAST,
    RTN_MULTICAST,
    RTN_PROHIBIT,
    RTN_UNREACHABLE,
    InetSock,
)
from glasskernel.net.ipv4.udp_table import UdpTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.net.ipv4.fib_types import FibAlias
    from glasskernel.net.types import Net

RTF_UP, RTF_GATEWAY, RTF_HOST, RTF_REJECT = 1, 2, 4, 0x200


def ip_proc_init_net(net: Net) -> None:
    """The namespace's files."""
    proc_create_net(net, b"snmp", snmp_seq_show)
    proc_create_net(net, b"netstat", netstat_seq_show)
    proc_create_net(net, b"route", fib_route_seq_show)
    proc_create_net(net, b"fib_trie", fib_trie_seq_show)
    proc_create_net(net, b"fib_triestat", fib_triestat_seq_show)
    proc_create_net(net, b"rt_cache", rt_cache_seq_show)
    proc_create_net(net, b"arp", arp_seq_show)
    proc_create_net(net, b"igmp", igmp_mc_seq_show)
    proc_create_net(net, b"udp", udp4_seq_show)
    proc_create_net(net, b"udplite", udplite4_seq_show)
    proc_create_net(net, b"raw", raw_seq_show)
    proc_create_net(net, b"icmp", ping_v4_seq_show)


# ---- counters ------------------------------------------------------------------------------------------------------
@notrace
def _pair(title: str, counters: dict[str, int]) -> bytes:
    return f"{title}: {' '.join(counters)}\n{title}: {' '.join(map(str, counters.values()))}\n".encode()


def snmp_seq_show(net: Net) -> Iterator[bytes]:
    mib = net.mib
    head = {"Forwarding": 1 if net.ipv4.devconf_all["forwarding"] else 2,
            "DefaultTTL": net.ipv4.sysctl["ip_default_ttl"]}
    yield _pair("Ip", head | mib.ip)
    yield _pair("Icmp", mib.icmp)
    if mib.icmpmsg:
        yield _pair("IcmpMsg", {name: mib.icmpmsg[name] for name in sorted(mib.icmpmsg, key=_by_type)})
    yield _pair("Tcp", mib.tcp)
    yield _pair("Udp", mib.udp)
    yield _pair("UdpLite", mib.udplite)


@notrace
def _by_type(name: str) -> tuple[bool, int]:
    """InType8 before OutType0."""
    return name.startswith("Out"), int(name.partition("Type")[2])


def netstat_seq_show(net: Net) -> Iterator[bytes]:
    yield _pair("TcpExt", net.mib.net)
    yield _pair("IpExt", net.mib.ip_ext)


# ---- routes --------------------------------------------------------------------------------------------------------
@notrace
def _hex(addr: int) -> str:
    """%08X of what Linux has in memory."""
    return addr.to_bytes(4, "big")[::-1].hex().upper()


@notrace
def fib_flag_trans(kind: int, mask: int, fa: FibAlias) -> int:
    """RTF_* of a route."""
    flags = RTF_REJECT if kind in (RTN_UNREACHABLE, RTN_PROHIBIT) else 0
    if fa.fa_info.fib_nh[0].nh_gw:
        flags |= RTF_GATEWAY
    if mask == 0xFFFFFFFF:
        flags |= RTF_HOST
    return flags | RTF_UP


def fib_route_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/route: the main table as route(8) shows it."""
    yield _line("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT")
    table = fib_get_table(net, RT_TABLE_MAIN)
    if table is None:
        return
    for prefix, fa in fib_table_walk(table):
        if fa.fa_type in (RTN_BROADCAST, RTN_MULTICAST):
            continue
        mask = 0xFFFFFFFF >> fa.fa_slen << fa.fa_slen
        fi = fa.fa_info
        nh, metrics = fi.fib_nh[0], fi.fib_metrics
        name = nh.nh_dev.name.decode() if nh.nh_dev is not None else "*"
        advmss = metrics.get(RTAX_ADVMSS, 0)
        yield _line(f"{name}\t{_hex(prefix)}\t{_hex(nh.nh_gw)}\t{fib_flag_trans(fa.fa_type, mask, fa):04X}\t0\t0\t"
                    f"{fi.fib_priority}\t{_hex(mask)}\t{advmss + 40 if advmss else 0}\t{metrics.get(RTAX_WINDOW, 0)}\t"
                    f"{metrics.get(RTAX_RTT, 0) >> 3}")


@notrace
def _line(text: str) -> bytes:
    """seq_setwidth(127), seq_pad('\\n')"""
    return text.ljust(127).encode() + b"\n"


def rt_cache_seq_show(net: Net) -> Iterator[bytes]:
    """The cache of routes is gone since 3.6; its file has the title."""
    yield _line("Iface\tDestination\tGateway \tFlags\t\tRefCnt\tUse\tMetric\tSource\t\tMTU\tWindow\tIRTT\tTOS\tHHRef\t"
                "HHUptod\tSpecDst")


# ---- sockets -------------------------------------------------------------------------------------------------------
@notrace
def _sock_line(bucket: int, sk: InetSock) -> str:
    return (f"{bucket:5d}: {_hex(sk.inet_rcv_saddr)}:{sk.inet_num:04X} {_hex(sk.inet_daddr)}:{sk.inet_dport:04X} "
            f"{sk.sk_state:02X} {sk.sk_wmem_alloc:08X}:{sk.sk_rmem_alloc:08X} 00:00000000 00000000 "
            f"{sock_i_uid(sk):5d} {0:8d} {sock_i_ino(sk)} {sk.sk_refcnt} {sk.slab_address:016x} {sk.sk_drops}")


def udp4_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/udp"""
    return _udp_table_show(net.ipv4.udp)


def udplite4_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/udplite"""
    return _udp_table_show(net.ipv4.udplite)


@notrace
def _udp_table_show(table: UdpTable) -> Iterator[bytes]:
    yield _line("   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref "
                "pointer drops")
    for port in sorted(table.hash):
        for sk in table.hash[port]:
            yield _line(_sock_line(port & 0xFFF, sk))


def raw_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/raw: the port is the protocol."""
    yield (b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref "
           b"pointer drops\n")
    table: RawTable = net.ipv4.raw
    for protocol in sorted(table.ht):
        for sk in table.ht[protocol]:
            yield _sock_line(protocol, sk)[1:].encode() + b"\n"


def ping_v4_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/icmp: the port is the identifier."""
    yield _line("   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref "
                "pointer drops"[1:])
    table: PingTable = net.ipv4.ping
    for ident in sorted(table.hash):
        for sk in table.hash[ident]:
            yield _line(_sock_line(ident & 63, sk))
