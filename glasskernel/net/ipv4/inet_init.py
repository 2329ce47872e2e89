"""AF_INET starts: its tables of operations, its protocols, what it keeps for each namespace.

Linux: net/ipv4/af_inet.c: inet_init, inetsw_array, inet_stream_ops ..., and the *_init() that it calls (5.3). Differs:
a file of its own, above TCP.
Owns: kernel.inet, Net.ipv4.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.net.core.datagram import datagram_poll, sk_set_peek_off
from glasskernel.net.core.dev_chain import register_netdevice_notifier
from glasskernel.net.core.dev_receive import dev_add_pack
from glasskernel.net.core.neighbour import neigh_table_init
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.proto import proto_register
from glasskernel.net.ipv4.af_inet import (
    inet_accept,
    inet_add_protocol,
    inet_bind,
    inet_create,
    inet_ctl_sock_create,
    inet_ctl_sock_destroy,
    inet_dgram_connect,
    inet_getname,
    inet_ioctl,
    inet_listen,
    inet_recvmsg,
    inet_register_protosw,
    inet_release,
    inet_sendmsg,
    inet_shutdown,
    inet_stream_connect,
    sock_common_getsockopt,
    sock_common_setsockopt,
)
from glasskernel.net.ipv4.arp import ARP_DEFAULTS, arp_netdev_event, arp_rcv, arp_table
from glasskernel.net.ipv4.datagram import (
    __udp_disconnect,
    ip4_datagram_connect,
    ip4_datagram_release_cb,
    udp_disconnect,
)
from glasskernel.net.ipv4.devinet import devinet_init_net, inetdev_event
from glasskernel.net.ipv4.fib_frontend import fib_inetaddr_event, fib_netdev_event, ip_fib_net_exit
from glasskernel.net.ipv4.fib_trie import fib_new_table
from glasskernel.net.ipv4.icmp import icmp_err, icmp_rcv, icmp_send
from glasskernel.net.ipv4.igmp import igmp_rcv
from glasskernel.net.ipv4.ip_forward import ip_forward
from glasskernel.net.ipv4.ip_fragment import ipv4_frags_exit_net, ipv4_frags_init_net
from glasskernel.net.ipv4.ip_input import ip_list_rcv, ip_local_deliver, ip_rcv
from glasskernel.net.ipv4.ip_output import ip_mc_output, ip_output
from glasskernel.net.ipv4.ip_sockglue import ip_getsockopt, ip_setsockopt
from glasskernel.net.ipv4.ping import (
    PingTable,
    ping_bind,
    ping_close,
    ping_get_port,
    ping_hash,
    ping_init_sock,
    ping_queue_rcv_skb,
    ping_recvmsg,
    ping_unhash,
    ping_v4_sendmsg,
)
from glasskernel.net.ipv4.proc import ip_proc_init_net
from glasskernel.net.ipv4.raw import (
    RawSock,
    raw_bind,
    raw_close,
    raw_destroy,
    raw_getsockopt,
    raw_hash_sk,
    raw_ioctl,
    raw_rcv_skb,
    raw_recvmsg,
    raw_sendmsg,
    raw_setsockopt,
    raw_sk_init,
    raw_table_init,
    raw_unhash_sk,
)
from glasskernel.net.ipv4.sysctl_net_ipv4 import DEFAULTS, ipv4_sysctl_exit_net, ipv4_sysctl_init_net
from glasskernel.net.ipv4.tcp import tcp_poll
from glasskernel.net.ipv4.tcp_ipv4 import tcp_init, tcp_prot, tcp_protocol
from glasskernel.net.ipv4.tcp_window import tcp_set_rcvlowat
from glasskernel.net.ipv4.types import (
    INET_PROTOSW_ICSK,
    INET_PROTOSW_PERMANENT,
    INET_PROTOSW_REUSE,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    InetProtosw,
    InetSock,
    InetState,
    NetnsIpv4,
    NetProtocol,
    PacketPaths,
)
from glasskernel.net.ipv4.udp import (
    udp_destroy_sock,
    udp_getsockopt,
    udp_init_sock,
    udp_ioctl,
    udp_lib_close,
    udp_poll,
    udp_recvmsg,
    udp_sendmsg,
    udp_setsockopt,
)
from glasskernel.net.ipv4.udp_input import udp_err, udp_queue_rcv_skb, udp_rcv
from glasskernel.net.ipv4.udp_table import UdpSock, UdpTable, udp_lib_unhash, udp_v4_get_port
from glasskernel.net.ipv4.udplite import udplite_err, udplite_rcv, udplite_sk_init
from glasskernel.net.netdevice import ETH_P_ARP, ETH_P_IP, PacketType
from glasskernel.net.scm import sock_gettstamp
from glasskernel.net.snmp import ipv4_mib_init_net
from glasskernel.net.socket import sock_register
from glasskernel.net.types import (
    AF_INET,
    IPPROTO_ICMP,
    IPPROTO_IGMP,
    IPPROTO_IP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_STREAM,
    NetProtoFamily,
    PernetOperations,
    Proto,
    ProtoOps,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net

_Any: Any = dict                         # entries take the sock of their own protocol: the tables' types cannot say it

_UDP = _Any(
    make=UdpSock, obj_size=1152, close=udp_lib_close, connect=ip4_datagram_connect,
    disconnect=udp_disconnect, ioctl=udp_ioctl, destroy=udp_destroy_sock,
    setsockopt=udp_setsockopt, getsockopt=udp_getsockopt, sendmsg=udp_sendmsg, recvmsg=udp_recvmsg,
    release_cb=ip4_datagram_release_cb, backlog_rcv=udp_queue_rcv_skb, unhash=udp_lib_unhash,
    get_port=udp_v4_get_port, memory_allocated=True,
    sysctl_rmem=lambda net: net.ipv4.sysctl["udp_rmem_min"], sysctl_wmem=lambda net: net.ipv4.sysctl["udp_wmem_min"])
udp_prot = Proto(**_Any(_UDP, name="UDP", slab_name="UDP", init=udp_init_sock))
udplite_prot = Proto(**_Any(_UDP, name="UDP-Lite", slab_name="UDP-Lite", init=udplite_sk_init))
ping_prot = Proto(**_Any(
    name="PING", make=InetSock, slab_name="PING", obj_size=976, init=ping_init_sock, close=ping_close,
    connect=ip4_datagram_connect, disconnect=__udp_disconnect, setsockopt=ip_setsockopt, getsockopt=ip_getsockopt,
    sendmsg=ping_v4_sendmsg, recvmsg=ping_recvmsg, bind=ping_bind, backlog_rcv=ping_queue_rcv_skb,
    release_cb=ip4_datagram_release_cb, hash=ping_hash, unhash=ping_unhash, get_port=ping_get_port))
raw_prot = Proto(**_Any(
    name="RAW", make=RawSock, slab_name="RAW", obj_size=984, close=raw_close, destroy=raw_destroy,
    connect=ip4_datagram_connect, disconnect=__udp_disconnect, ioctl=raw_ioctl, init=raw_sk_init,
    setsockopt=raw_setsockopt, getsockopt=raw_getsockopt, sendmsg=raw_sendmsg, recvmsg=raw_recvmsg,
    bind=raw_bind, backlog_rcv=raw_rcv_skb, release_cb=ip4_datagram_release_cb, hash=raw_hash_sk, unhash=raw_unhash_sk))

_COMMON = _Any(family=AF_INET, release=inet_release, bind=inet_bind, getname=inet_getname, ioctl=inet_ioctl,
               shutdown=inet_shutdown, setsockopt=sock_common_setsockopt, getsockopt=sock_common_getsockopt,
               sendmsg=inet_sendmsg, recvmsg=inet_recvmsg, gettstamp=sock_gettstamp)
inet_stream_ops = ProtoOps(**_COMMON, connect=inet_stream_connect, accept=inet_accept, listen=inet_listen,
                           poll=tcp_poll, set_peek_off=sk_set_peek_off, set_rcvlowat=tcp_set_rcvlowat)
inet_dgram_ops = ProtoOps(**_COMMON, connect=inet_dgram_connect, poll=udp_poll, set_peek_off=sk_set_peek_off)
inet_sockraw_ops = ProtoOps(**_COMMON, connect=inet_dgram_connect, poll=datagram_poll)

inetsw_array = (
    InetProtosw(SOCK_STREAM, IPPROTO_TCP, tcp_prot, inet_stream_ops, INET_PROTOSW_PERMANENT | INET_PROTOSW_ICSK),
    InetProtosw(SOCK_DGRAM, IPPROTO_UDP, udp_prot, inet_dgram_ops, INET_PROTOSW_PERMANENT),
    InetProtosw(SOCK_DGRAM, IPPROTO_ICMP, ping_prot, inet_sockraw_ops, INET_PROTOSW_REUSE),
    InetProtosw(SOCK_RAW, IPPROTO_IP, raw_prot, inet_sockraw_ops, INET_PROTOSW_REUSE),
)
udplite4_protosw = InetProtosw(SOCK_DGRAM, IPPROTO_UDPLITE, udplite_prot, inet_dgram_ops, INET_PROTOSW_PERMANENT)


def inet_init(kernel: Kernel) -> None:
    """The start, once. Context: task."""
    if kernel.inet is not None:
        return
    inet = kernel.inet = InetState()
    inet.paths = PacketPaths(ip_local_deliver, ip_forward, ip_output, ip_mc_output, icmp_send)
    for prot in (tcp_prot, udp_prot, raw_prot, ping_prot):
        proto_register(kernel, prot, True)
    sock_register(kernel, NetProtoFamily(AF_INET, inet_create))
    inet_add_protocol(kernel, NetProtocol(icmp_rcv, icmp_err), IPPROTO_ICMP)
    inet_add_protocol(kernel, NetProtocol(udp_rcv, udp_err), IPPROTO_UDP)
    inet_add_protocol(kernel, tcp_protocol, IPPROTO_TCP)
    inet_add_protocol(kernel, NetProtocol(igmp_rcv), IPPROTO_IGMP)
    for q in inetsw_array:
        inet_register_protosw(kernel, q)
    inet.arp_tbl = arp_table(kernel)
    neigh_table_init(inet.arp_tbl, dict(ARP_DEFAULTS))
    udp_init(kernel)
    udplite4_register(kernel)
    register_pernet_subsys(kernel, PernetOperations(inet_init_net, inet_exit_net))
    register_netdevice_notifier(kernel, arp_netdev_event)
    inet.inetaddr_chain.append(fib_inetaddr_event)
    tcp_init(kernel)
    register_pernet_subsys(kernel, PernetOperations(icmp_sk_init, icmp_sk_exit))
    dev_add_pack(kernel, PacketType(ETH_P_ARP, arp_rcv))
    dev_add_pack(kernel, PacketType(ETH_P_IP, ip_rcv, ip_list_rcv))
    register_netdevice_notifier(kernel, inetdev_event)
    register_netdevice_notifier(kernel, fib_netdev_event)


def udp_init(kernel: Kernel) -> None:
    """How many pages datagrams may take: an eighth of memory, and half as much before anybody is refused."""
    assert kernel.net is not None
    limit = max(kernel.mem.totalram_pages // 8, 128)
    kernel.net.sysctl_mem["UDP"] = kernel.net.sysctl_mem["UDP-Lite"] = [limit // 4 * 3, limit, limit // 4 * 6]


def udplite4_register(kernel: Kernel) -> None:
    """UDP-Lite (RFC 3828), after the protocols that it must not precede where any will do."""
    proto_register(kernel, udplite_prot, True)
    inet_add_protocol(kernel, NetProtocol(udplite_rcv, udplite_err), IPPROTO_UDPLITE)
    inet_register_protosw(kernel, udplite4_protosw)


def inet_init_net(net: Net) -> None:
    """A namespace's IPv4: empty tables, values as they are at the start."""
    ipv4 = net.ipv4 = NetnsIpv4()
    ipv4_mib_init_net(net)
    ipv4.sysctl.update(DEFAULTS)
    ipv4.rt_genid = int.from_bytes(net.kernel.machine.random_bytes(3), "little")
    devinet_init_net(net)
    fib_new_table(net, RT_TABLE_MAIN)
    fib_new_table(net, RT_TABLE_LOCAL)
    ipv4.udp, ipv4.udplite = UdpTable(), UdpTable()
    ipv4.ping = PingTable()
    ipv4.raw = raw_table_init()
    ipv4_frags_init_net(net)
    ipv4_sysctl_init_net(net)
    ip_proc_init_net(net)


def inet_exit_net(net: Net) -> None:
    ipv4_sysctl_exit_net(net)
    ipv4_frags_exit_net(net)
    ip_fib_net_exit(net)


def icmp_sk_init(net: Net) -> None:
    """The socket that answers pings."""
    sk = inet_ctl_sock_create(net, AF_INET, SOCK_RAW, IPPROTO_ICMP)
    sk.sk_sndbuf = 2 * (65536 + 576)
    sk.pmtudisc = 0                      # IP_PMTUDISC_DONT
    net.ipv4.icmp_sk = sk


def icmp_sk_exit(net: Net) -> None:
    inet_ctl_sock_destroy(net.ipv4.icmp_sk)
