"""IPv4's objects, which its rooms share: routes, flows, sockets of AF_INET, protocols.

Linux: include/net/inet_sock.h, flow.h, route.h, dst.h, protocol.h, linux/inetdevice.h, net/netns/ipv4.h (5.3). Only
data and defaults. Addresses and ports are host-order ints (0x7F000001, 80), whatever their names say in Linux.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.time.types import HZ
from glasskernel.lib.slotted import field, slotted
from glasskernel.net.types import Sock

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net, Proto, ProtoOps

INADDR_ANY, INADDR_LOOPBACK, INADDR_BROADCAST, INADDR_NONE = 0, 0x7F000001, 0xFFFFFFFF, 0xFFFFFFFF
RT_SCOPE_UNIVERSE, RT_SCOPE_SITE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE = 0, 200, 253, 254, 255
RTN_UNSPEC, RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST = range(6)
RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW = 6, 7, 8, 9
RT_TABLE_UNSPEC, RT_TABLE_DEFAULT, RT_TABLE_MAIN, RT_TABLE_LOCAL = 0, 253, 254, 255
RTPROT_UNSPEC, RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC = range(5)
RTCF_NOTIFY, RTCF_DOREDIRECT = 0x10000, 0x1000000
RTCF_BROADCAST, RTCF_MULTICAST, RTCF_LOCAL = 0x10000000, 0x20000000, 0x80000000
RTO_ONLINK = 1                           # in flowi4_tos: MSG_DONTROUTE
RTAX_LOCK, RTAX_MTU, RTAX_WINDOW, RTAX_RTT, RTAX_HOPLIMIT, RTAX_ADVMSS = 1, 2, 3, 4, 10, 8
FLOWI_FLAG_ANYSRC, FLOWI_FLAG_KNOWN_NH = 1, 2
LOOPBACK_IFINDEX = 1
IP_MAX_MTU, IPV4_MIN_MTU = 0xFFF0, 68
IP_DF, IP_MF, IP_OFFSET = 0x4000, 0x2000, 0x1FFF
IP_PMTUDISC_DONT, IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE = range(4)


@slotted(frozen=True)
class DstOps:
    """struct dst_ops: what a family does for its routes.

    check(dst, cookie): the route, if it may still be used. mtu(dst), default_advmss(dst) in bytes.
    negative_advice(dst): a sender gets no answer; None: look up again. update_pmtu(dst, sk, skb, mtu).
    link_failure(skb): the neighbour is dead. neigh_lookup(dst, skb, daddr) -> Neighbour.
    """

    family: int
    check: Callable[[Any, int], Any]
    default_advmss: Callable[[Any], int]
    mtu: Callable[[Any], int]
    negative_advice: Callable[[Any], Any]
    link_failure: Callable[[SkBuff], None]
    update_pmtu: Callable[[Any, Sock | None, SkBuff | None, int], None]
    redirect: Callable[[Any, Sock | None, SkBuff], None]
    neigh_lookup: Callable[[Any, SkBuff | None, int], Any]
    confirm_neigh: Callable[[Any, int], None]
    destroy: Callable[[Any], None]       # the last reference is gone


@slotted
class DstEntry:
    """struct dst_entry. input(skb), output(net, sk, skb): where packets of this route go on."""

    ops: DstOps
    dev: NetDevice
    input: Callable[[SkBuff], int]
    output: Callable[[Net, Sock | None, SkBuff], int]
    refcnt: int = 1
    error: int = 0
    obsolete: int = 0                    # nonzero: look the route up again before it is used
    expires: int = 0                     # jiffies, of a learned MTU
    header_len: int = 0
    metrics: dict[int, int] = field(default_factory=dict)                # RTAX_*

    def hold(self) -> None:
        self.refcnt += 1

    def release(self) -> None:
        """The last reference gives the device back."""
        self.refcnt -= 1
        if not self.refcnt:
            self.ops.destroy(self)
            self.dev.refcnt -= 1


@slotted
class Rtable(DstEntry):
    """struct rtable: the answer of a route lookup. rt_gateway: 0 if the destination is on the link."""

    rt_genid: int = 0
    rt_flags: int = 0                    # RTCF_*
    rt_type: int = RTN_UNICAST
    rt_is_input: bool = False
    rt_uses_gateway: bool = False
    rt_iif: int = 0
    rt_gateway: int = 0
    rt_pmtu: int = 0
    rt_mtu_locked: bool = False


@slotted
class Flowi4:
    """struct flowi4: what a route is looked up for; the lookup fills in saddr, daddr and oif."""

    flowi4_oif: int = 0
    flowi4_iif: int = 1
    flowi4_mark: int = 0
    flowi4_tos: int = 0
    flowi4_scope: int = RT_SCOPE_UNIVERSE
    flowi4_proto: int = 0
    flowi4_flags: int = 0
    saddr: int = 0
    daddr: int = 0
    fl4_sport: int = 0
    fl4_dport: int = 0
    flowi4_uid: int = 0


@slotted
class InetSkbParm:
    """struct inet_skb_parm (IPCB): skb.cb while IP has the packet. opt: the options of its header. spec_dst: see
    struct in_pktinfo; a socket that wants to know has it filled in."""

    iif: int = 0
    spec_dst: int = 0
    opt: bytes = b""
    flags: int = 0                       # IPSKB_*


@slotted
class NetProtocol:
    """struct net_protocol: who gets IP packets of a protocol number.

    handler(skb) -> 0; skb.data is at the transport header. err_handler(skb, info): ICMP tells of an error; skb.data is
    at the IP header that came back, transport_header at the ICMP header.
    """

    handler: Callable[[SkBuff], int]
    err_handler: Callable[[SkBuff, int], int | None] | None = None       # the answer: 0 or an errno
    early_demux: Callable[[SkBuff], None] | None = None


@slotted
class NetOffload:
    """struct net_offload: segmentation and its opposite."""

    gso_segment: Callable[[SkBuff, int], list[SkBuff]] | None = None
    gro_receive: Callable[[list[SkBuff], SkBuff], SkBuff | None] | None = None
    gro_complete: Callable[[SkBuff, int], None] | None = None


@slotted
class InetProtosw:
    """struct inet_protosw: socket(AF_INET, type, protocol) -> prot and ops."""

    type: int
    protocol: int                        # IPPROTO_IP: any
    prot: Proto
    ops: ProtoOps
    flags: int = 0


INET_PROTOSW_REUSE, INET_PROTOSW_PERMANENT, INET_PROTOSW_ICSK = 1, 2, 4


@slotted
class InetCork:
    """struct inet_cork: what UDP and raw sockets collect under MSG_MORE."""

    flags: int = 0
    addr: int = 0
    opt: bytes = b""
    fragsize: int = 0
    length: int = 0
    dst: Rtable | None = None
    tos: int = -1
    ttl: int = 0
    priority: int = 0
    mark: int = 0
    fl4: Flowi4 | None = None


@slotted
class InetSock(Sock):
    """struct inet_sock. inet_num: the local port; inet_rcv_saddr: the address bound to; inet_saddr: to send from."""

    inet_daddr: int = 0
    inet_rcv_saddr: int = 0
    inet_saddr: int = 0
    inet_dport: int = 0
    inet_num: int = 0
    inet_sport: int = 0
    inet_id: int = 0
    uc_ttl: int = -1
    mc_ttl: int = 1
    cmsg_flags: int = 0                  # IP_CMSG_*
    tos: int = 0
    min_ttl: int = 0
    pmtudisc: int = IP_PMTUDISC_WANT
    inet_opt: bytes = b""                # IP options of what is sent
    recverr: bool = False
    is_icsk: bool = False
    freebind: bool = False
    hdrincl: bool = False
    mc_loop: bool = True
    mc_all: bool = True
    transparent: bool = False
    nodefrag: bool = False
    bind_address_no_port: bool = False
    uc_index: int = 0
    mc_index: int = 0
    mc_addr: int = 0
    mc_list: list[Any] = field(default_factory=list)
    cork: InetCork | None = None
    pending: int = 0                     # AF_INET: the write queue is corked


@slotted
class InIfaddr:
    """struct in_ifaddr. ifa_local: the address; ifa_address: the peer's, or the same."""

    ifa_local: int
    ifa_address: int
    ifa_mask: int
    ifa_prefixlen: int
    ifa_broadcast: int = 0
    ifa_scope: int = RT_SCOPE_UNIVERSE
    ifa_flags: int = 0
    ifa_label: bytes = b""
    ifa_dev: InDevice = None  # type: ignore[assignment]
    ifa_valid_lft: int = 0xFFFFFFFF
    ifa_preferred_lft: int = 0xFFFFFFFF
    ifa_cstamp: int = 0                  # jiffies
    ifa_tstamp: int = 0


@slotted
class InDevice:
    """struct in_device: a device's IPv4. cnf: /proc/sys/net/ipv4/conf/DEV."""

    dev: NetDevice
    ifa_list: list[InIfaddr] = field(default_factory=list)
    cnf: dict[str, int] = field(default_factory=dict)
    arp_parms: Any = None
    sysctl_name: bytes = b""             # of its directories in /proc/sys: a device may get another name
    mc_list: list[Any] = field(default_factory=list)
    dead: bool = False


@slotted
class NetnsIpv4:
    """struct netns_ipv4: what IPv4 keeps for each namespace. sysctl: by the name below /proc/sys/net/ipv4."""

    sysctl: dict[str, Any] = field(default_factory=dict)
    devconf_all: dict[str, int] = field(default_factory=dict)
    devconf_dflt: dict[str, int] = field(default_factory=dict)
    fib_tables: dict[int, Any] = field(default_factory=dict)
    rt_genid: int = 0
    icmp_sk: Any = None
    tcp_sk: Any = None                   # sends resets
    udp: Any = None                      # UDP's UdpTable
    udplite: Any = None                  # UDP-Lite's
    raw: Any = None
    tcp: Any = None                      # net.ipv4.inet_hashtables
    frags: Any = None
    ping: Any = None                     # net.ipv4.ping's table
    dev_addr_genid: int = 0              # counts changes of addresses
    inet_addr_lst: dict[int, list[InIfaddr]] = field(default_factory=dict)


@slotted(frozen=True)
class PacketPaths:
    """Where routes lead packets, and how errors are told: functions of files above net/ipv4/route.py, by name."""

    ip_local_deliver: Callable[[SkBuff], int]
    ip_forward: Callable[[SkBuff], int]
    ip_output: Callable[[Net, Sock | None, SkBuff], int]
    ip_mc_output: Callable[[Net, Sock | None, SkBuff], int]
    icmp_send: Callable[[SkBuff, int, int, int], None]       # (skb, type, code, info)


@slotted
class InetState:
    """kernel.inet: what is one for all namespaces. protos, offloads: by protocol number; inetsw: by socket type."""

    protos: dict[int, NetProtocol] = field(default_factory=dict)
    offloads: dict[int, NetOffload] = field(default_factory=dict)
    inetsw: dict[int, list[InetProtosw]] = field(default_factory=dict)
    paths: PacketPaths = None  # type: ignore[assignment]
    fib_info: dict[Any, Any] = field(default_factory=dict)
    rt_uncached: dict[Rtable, None] = field(default_factory=dict)        # routes that only their users know
    inetaddr_chain: list[Callable[[int, InIfaddr], None]] = field(default_factory=list)
    # rtnetlink listens: rtmsg_ifa(RTM_*, ifa), rtmsg_fib(RTM_*, net, key, fa), neigh_notify(neigh, RTM_*)
    rtmsg_ifa: Callable[[int, InIfaddr], None] | None = None
    rtmsg_fib: Callable[[int, Net, int, Any], None] | None = None
    neigh_notify: Callable[[Any, int], None] | None = None
    icmp_global: Any = None              # net.ipv4.icmp.TokenBucket
    icmp_peers: dict[tuple[Net, int], Any] = field(default_factory=dict)
    icmp_msgs_per_sec: int = 1000
    icmp_msgs_burst: int = 50
    ip_id_key: int = 0                   # drawn at the first use
    ip_idents: dict[int, int] = field(default_factory=dict)
    # /proc/sys/net/ipv4/route
    ip_rt_min_pmtu: int = 552
    ip_rt_mtu_expires: int = 600 * HZ    # jiffies
    ip_rt_min_advmss: int = 256
    arp_tbl: Any = None                  # net.core.neighbour.NeighTable
    tcp: Any = None                      # net.ipv4.tcp: memory, congestion controls
    net_secret: bytes = b""              # net.core.secure_seq
