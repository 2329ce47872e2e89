"""ARP: asking who has an IPv4 address, and answering for ours.

Linux: net/ipv4/arp.c (5.3). Same: which state a neighbour of a device starts in, who is asked, what is learned from
whom (arp_accept, arp_ignore, arp_announce, arp_filter, proxy_arp, locktime), arp(8)'s ioctls, /proc/net/arp.
Owns: InetState.arp_tbl.  Gaps: hardware other than Ethernet, delayed proxy answers, the fibre channel header.
Context: softirq, but for the ioctls.
"""
from __future__ import annotations

from contextlib import suppress
from struct import Struct, unpack_from
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.capability import CAP_NET_ADMIN, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EINVAL, ENODEV, ENXIO, EPERM, EPFNOSUPPORT, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev import dev_queue_xmit
from glasskernel.net.core.dst import dst_link_failure
from glasskernel.net.core.neighbour import (
    NEIGH_UPDATE_F_ADMIN,
    NEIGH_UPDATE_F_OVERRIDE,
    NUD_FAILED,
    NUD_NOARP,
    NUD_PERMANENT,
    NUD_REACHABLE,
    NUD_STALE,
    NUD_VALID,
    Neighbour,
    NeighOps,
    NeighTable,
    neigh_carrier_down,
    neigh_changeaddr,
    neigh_connected_output,
    neigh_create,
    neigh_direct_output,
    neigh_event_ns,
    neigh_ifdown,
    neigh_lookup,
    neigh_release,
    neigh_remove_one,
    neigh_resolve_output,
    neigh_update,
    pneigh_delete,
    pneigh_lookup,
)
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ipv4.fib_lookup import inet_addr_type_dev_table, ipv4_is_loopback, ipv4_is_multicast
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.in_device import (
    in_dev_get,
    in_dev_maxconf,
    in_dev_orconf,
    inet_addr_onlink,
    inet_confirm_addr,
    inet_select_addr,
)
from glasskernel.net.ipv4.route import ip_route_output_ports, ip_rt_put
from glasskernel.net.ipv4.route_cache import rt_cache_flush
from glasskernel.net.ipv4.route_input import ip_route_input_noref
from glasskernel.net.ipv4.types import (
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_UNICAST,
    Flowi4,
    InDevice,
)
from glasskernel.net.netdevice import (
    ETH_P_ARP,
    ETH_P_IP,
    IFF_LOOPBACK,
    IFF_NOARP,
    NET_RX_DROP,
    NET_RX_SUCCESS,
    NETDEV_CHANGE,
    NETDEV_CHANGEADDR,
    dev_hard_header,
    netif_carrier_ok,
)
from glasskernel.net.skbuff import (
    PACKET_HOST,
    PACKET_LOOPBACK,
    PACKET_OTHERHOST,
    SkBuff,
    alloc_skb,
    consume_skb,
    kfree_skb,
    pskb_may_pull,
    skb_put_data,
    skb_reserve,
)
from glasskernel.net.types import AF_INET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice, PacketType
    from glasskernel.net.types import Net

ARPOP_REQUEST, ARPOP_REPLY = 1, 2
ATF_COM, ATF_PERM, ATF_PUBL, ATF_NETMASK, ATF_DONTPUB = 2, 4, 8, 0x20, 0x40
SIOCDARP, SIOCGARP, SIOCSARP = 0x8953, 0x8954, 0x8955
ARPREQ_SIZE = 68                         # struct arpreq: pa[16] ha[16] flags[4] netmask[16] dev[16]
# hardware, protocol, their lengths, operation; sender's and target's addresses
ARP_HEADER = Struct(">HHBBH6sI6sI")
ARP_DEFAULTS = {
    "mcast_solicit": 3, "ucast_solicit": 3, "app_solicit": 0, "mcast_resolicit": 0, "retrans_time": HZ,
    "base_reachable_time": 30 * HZ, "delay_first_probe_time": 5 * HZ, "gc_stale_time": 60 * HZ,
    "unres_qlen_bytes": 212992, "proxy_qlen": 64, "anycast_delay": HZ, "proxy_delay": 8 * HZ // 10, "locktime": HZ,
}


# ---- neighbours ----------------------------------------------------------------------------------------------------
def arp_constructor(neigh: Neighbour) -> None:
    """Which state a new neighbour starts in. Raises EINVAL if the device has no IPv4."""
    dev = neigh.dev
    in_dev = in_dev_get(dev)
    if in_dev is None:
        raise KernelError(EINVAL)
    net, addr = dev.net, neigh.primary_key
    neigh.type = inet_addr_type_dev_table(net, dev, addr)
    if dev.header_ops is None:
        neigh.nud_state = NUD_NOARP
        neigh.ops = arp_direct_ops
        neigh.output = neigh_direct_output
        return
    neigh.ops = arp_hh_ops
    if neigh.type == RTN_MULTICAST:
        neigh.nud_state = NUD_NOARP
        neigh.ha = arp_mc_map(addr, dev)
    elif dev.flags & (IFF_NOARP | IFF_LOOPBACK):
        neigh.nud_state = NUD_NOARP
        neigh.ha = dev.dev_addr
    elif neigh.type == RTN_BROADCAST:
        neigh.nud_state = NUD_NOARP
        neigh.ha = dev.broadcast
    neigh.output = neigh_connected_output if neigh.nud_state & NUD_VALID else neigh_resolve_output


@notrace
def arp_mc_map(addr: int, dev: NetDevice) -> bytes:
    """ip_eth_mc_map(): the group's Ethernet address."""
    return b"\x01\x00\x5e" + (addr & 0x7FFFFF).to_bytes(3, "big")


def arp_error_report(neigh: Neighbour, skb: SkBuff) -> None:
    """Nobody answered: whoever sent the packet is told."""
    dst_link_failure(skb)
    kfree_skb(skb)


def arp_solicit(neigh: Neighbour, skb: SkBuff | None) -> None:
    """Asks for the neighbour's address: him alone first, if we had one, then everybody."""
    dev, target = neigh.dev, neigh.primary_key
    in_dev = in_dev_get(dev)
    if in_dev is None:
        return
    saddr = 0
    announce = in_dev_maxconf(in_dev, "arp_announce")
    if skb is not None and announce < 2:
        theirs = int.from_bytes(skb.head[skb.network_header + 12 : skb.network_header + 16], "big")
        if inet_addr_type_dev_table(dev.net, dev, theirs) == RTN_LOCAL and (
                not announce or inet_addr_onlink(in_dev, target, theirs)):
            saddr = theirs
    if not saddr:
        saddr = inet_select_addr(dev, target, RT_SCOPE_LINK)
    probes = neigh.probes - neigh.parms.data["ucast_solicit"]
    if probes < 0:
        dst_ha = neigh.ha if neigh.nud_state & NUD_VALID else None
    else:
        probes -= neigh.parms.data["app_solicit"]
        if probes < 0:
            return
        dst_ha = None
    arp_send_dst(ARPOP_REQUEST, target, dev, saddr, dst_ha, dev.dev_addr, None)


arp_hh_ops = NeighOps(arp_solicit, arp_error_report, neigh_resolve_output, neigh_resolve_output)
arp_direct_ops = NeighOps(arp_solicit, arp_error_report, neigh_direct_output, neigh_direct_output)


# ---- sending -------------------------------------------------------------------------------------------------------
def arp_create(op: int, dest_ip: int, dev: NetDevice, src_ip: int, dest_hw: bytes | None, src_hw: bytes | None,
               target_hw: bytes | None) -> SkBuff:
    """An ARP packet with its Ethernet header. None: our address, everybody, nobody's."""
    skb = alloc_skb(dev.hard_header_len + 16 + ARP_HEADER.size)
    skb_reserve(skb, dev.hard_header_len + 16)
    skb.network_header = skb.data
    sender = src_hw if src_hw is not None else dev.dev_addr
    skb_put_data(skb, ARP_HEADER.pack(dev.type, ETH_P_IP, dev.addr_len, 4, op, sender, src_ip,
                                      target_hw if target_hw is not None else bytes(6), dest_ip))
    skb.dev = dev
    skb.protocol = ETH_P_ARP
    dev_hard_header(skb, dev, ETH_P_ARP, dest_hw if dest_hw is not None else dev.broadcast, sender, skb.len)
    return skb


def arp_xmit(skb: SkBuff) -> None:
    dev_queue_xmit(skb)


def arp_send(op: int, dest_ip: int, dev: NetDevice, src_ip: int, dest_hw: bytes | None, src_hw: bytes | None,
             target_hw: bytes | None) -> None:
    arp_send_dst(op, dest_ip, dev, src_ip, dest_hw, src_hw, target_hw)


@notrace
def arp_send_dst(op: int, dest_ip: int, dev: NetDevice, src_ip: int, dest_hw: bytes | None, src_hw: bytes | None,
                 target_hw: bytes | None) -> None:
    if not dev.flags & IFF_NOARP:
        arp_xmit(arp_create(op, dest_ip, dev, src_ip, dest_hw, src_hw, target_hw))


# ---- receiving -----------------------------------------------------------------------------------------------------
def arp_rcv(skb: SkBuff, dev: NetDevice, pt: PacketType, orig_dev: NetDevice) -> int:
    """Is it a whole ARP packet of this device's kind, for us?"""
    if dev.flags & IFF_NOARP or skb.pkt_type in (PACKET_OTHERHOST, PACKET_LOOPBACK):
        consume_skb(skb)
        return NET_RX_SUCCESS
    if not pskb_may_pull(skb, 8 + 2 * dev.addr_len + 8):
        kfree_skb(skb)
        return NET_RX_DROP
    at = skb.data
    if skb.head[at + 4] != dev.addr_len or skb.head[at + 5] != 4:
        kfree_skb(skb)
        return NET_RX_DROP
    return arp_process(dev.net, skb)


def arp_process(net: Net, skb: SkBuff) -> int:
    """Answers a question for an address of ours; learns from what others say."""
    dev = skb.dev
    assert dev is not None
    in_dev = in_dev_get(dev)
    if in_dev is None or dev.addr_len != 6:
        return _drop(skb)
    hardware, protocol, _, _, op, sha, sip, _, tip = ARP_HEADER.unpack_from(skb.head, skb.data)
    if protocol != ETH_P_IP or hardware != dev.type or op not in (ARPOP_REPLY, ARPOP_REQUEST):
        return _drop(skb)
    if ipv4_is_multicast(tip) or (not in_dev_orconf(in_dev, "route_localnet") and ipv4_is_loopback(tip)):
        return _drop(skb)
    if sip == tip and in_dev_orconf(in_dev, "drop_gratuitous_arp"):
        return _drop(skb)
    tbl: NeighTable = inet_of(net).arp_tbl
    if not sip:                          # somebody wants to know whether an address is free (RFC 2131)
        if (op == ARPOP_REQUEST and inet_addr_type_dev_table(net, dev, tip) == RTN_LOCAL
                and not arp_ignore(in_dev, sip, tip)):
            arp_send_dst(ARPOP_REPLY, sip, dev, tip, sha, dev.dev_addr, sha)
        consume_skb(skb)
        return NET_RX_SUCCESS
    if op == ARPOP_REQUEST and _answered(net, skb, dev, in_dev, tbl, sha, sip, tip):
        consume_skb(skb)
        return NET_RX_SUCCESS
    _learn(net, skb, dev, in_dev, tbl, op, sha, sip, tip)
    consume_skb(skb)
    return NET_RX_SUCCESS


@notrace
def _drop(skb: SkBuff) -> int:
    kfree_skb(skb)
    return NET_RX_DROP


@notrace
def _answered(net: Net, skb: SkBuff, dev: NetDevice, in_dev: InDevice, tbl: NeighTable, sha: bytes, sip: int,
              tip: int) -> bool:
    """A request: True if it was for us, or for somebody for whom we stand in."""
    if ip_route_input_noref(skb, tip, sip, 0, dev):
        return False
    rt = skb.dst
    if rt.rt_type == RTN_LOCAL:
        if not arp_ignore(in_dev, sip, tip) and not (in_dev_orconf(in_dev, "arp_filter") and arp_filter(sip, tip, dev)):
            n = neigh_event_ns(tbl, sha, sip, dev)
            if n is not None:
                arp_send_dst(ARPOP_REPLY, sip, dev, tip, sha, dev.dev_addr, sha)
                neigh_release(n)
        return True
    if in_dev.cnf["forwarding"] and rt.rt_type == RTN_UNICAST and rt.dev is not dev:
        if in_dev_orconf(in_dev, "proxy_arp") or pneigh_lookup(tbl, net, tip, dev, False):
            n = neigh_event_ns(tbl, sha, sip, dev)
            if n is not None:
                neigh_release(n)
            if skb.pkt_type == PACKET_HOST or not in_dev.arp_parms.data["proxy_delay"]:
                arp_send_dst(ARPOP_REPLY, sip, dev, tip, sha, dev.dev_addr, sha)
            return True
    return False


@notrace
def _learn(net: Net, skb: SkBuff, dev: NetDevice, in_dev: InDevice, tbl: NeighTable, op: int, sha: bytes, sip: int,
           tip: int) -> None:
    """Brings a neighbour that we know up to date; strangers only with arp_accept."""
    n = neigh_lookup(tbl, sip, dev)
    is_garp = tip == sip
    if n is None and in_dev_orconf(in_dev, "arp_accept") and (is_garp or op == ARPOP_REPLY):
        if inet_addr_type_dev_table(net, dev, sip) == RTN_UNICAST:
            n = neigh_create(tbl, sip, dev)
    if n is None:
        return
    # the first answer counts: others may come from several hosts that answer for the same address
    override = register.task.kernel.time.jiffies > n.updated + n.parms.data["locktime"] or is_garp
    state = NUD_REACHABLE if op == ARPOP_REPLY and skb.pkt_type == PACKET_HOST else NUD_STALE
    with suppress(KernelError):          # permanent
        neigh_update(n, sha, state, NEIGH_UPDATE_F_OVERRIDE if override else 0)
    neigh_release(n)


def arp_ignore(in_dev: InDevice, sip: int, tip: int) -> bool:
    """Are we not to answer? (conf/*/arp_ignore)"""
    net, dev = in_dev.dev.net, in_dev
    mode = in_dev_maxconf(in_dev, "arp_ignore")
    if mode == 0:
        return False
    if mode == 1:
        return not inet_confirm_addr(net, dev, 0, tip, RT_SCOPE_HOST)
    if mode == 2:
        return not inet_confirm_addr(net, dev, sip, tip, RT_SCOPE_HOST)
    if mode == 3:
        return not inet_confirm_addr(net, None, 0, tip, RT_SCOPE_LINK)
    return mode == 8


def arp_filter(sip: int, tip: int, dev: NetDevice) -> bool:
    """True if packets to the sender would leave by another device."""
    try:
        rt = ip_route_output_ports(dev.net, Flowi4(), None, sip, tip, 0, 0, 0, 0, 0)
    except KernelError:
        return True
    other = rt.dev is not dev
    if other:
        dev.net.mib.net["ArpFilter"] += 1
    ip_rt_put(rt)
    return other


# ---- devices -------------------------------------------------------------------------------------------------------
def arp_netdev_event(event: int, dev: NetDevice) -> None:
    if event == NETDEV_CHANGEADDR:
        neigh_changeaddr(inet_of(dev.net).arp_tbl, dev)
        rt_cache_flush(dev.net)
    elif event == NETDEV_CHANGE:
        if dev.flags & IFF_NOARP:
            neigh_changeaddr(inet_of(dev.net).arp_tbl, dev)
        if not netif_carrier_ok(dev):
            neigh_carrier_down(inet_of(dev.net).arp_tbl, dev)


def arp_ifdown(dev: NetDevice) -> None:
    """The device has no IPv4 any more."""
    neigh_ifdown(inet_of(dev.net).arp_tbl, dev)


# ---- arp(8) --------------------------------------------------------------------------------------------------------
def arp_ioctl(net: Net, cmd: int, arg: int) -> int:
    """SIOCDARP, SIOCGARP, SIOCSARP. Raises EPERM, EFAULT, EPFNOSUPPORT, EINVAL, ENODEV, ENXIO."""
    if cmd != SIOCGARP and not capable(CAP_NET_ADMIN):
        raise KernelError(EPERM)
    raw = copy_from_user(arg, ARPREQ_SIZE)
    family, ip = unpack_from("<H2x4s", raw)
    ip = int.from_bytes(ip, "big")
    flags, = unpack_from("<i", raw, 32)
    if family != AF_INET:
        raise KernelError(EPFNOSUPPORT)
    if not flags & ATF_PUBL and flags & (ATF_NETMASK | ATF_DONTPUB):
        raise KernelError(EINVAL)
    rtnl_lock(net.kernel)
    try:
        name = raw[52:68].rstrip(b"\0")
        dev = None
        if name:
            dev = net.dev_by_name.get(name)
            if dev is None:
                raise KernelError(ENODEV)
        elif cmd == SIOCGARP:
            raise KernelError(ENODEV)
        if cmd == SIOCDARP:
            arp_req_delete(net, ip, flags, dev)
        elif cmd == SIOCSARP:
            arp_req_set(net, ip, flags, raw[18:24], dev)
        else:
            assert dev is not None
            copy_to_user(arg, arp_req_get(raw, ip, dev))
    finally:
        rtnl_unlock(net.kernel)
    return 0


@notrace
def _device_for(net: Net, ip: int, dev: NetDevice | None) -> NetDevice:
    if dev is not None:
        return dev
    rt = ip_route_output_ports(net, Flowi4(), None, ip, 0, 0, 0, 0, 1, 0)
    dev = rt.dev
    ip_rt_put(rt)
    return dev


def arp_req_set(net: Net, ip: int, flags: int, ha: bytes, dev: NetDevice | None) -> None:
    tbl = inet_of(net).arp_tbl
    if flags & ATF_PUBL:
        pneigh_lookup(tbl, net, ip, dev, True)
        return
    if flags & ATF_PERM:
        flags |= ATF_COM
    dev = _device_for(net, ip, dev)
    neigh = neigh_lookup(tbl, ip, dev) or neigh_create(tbl, ip, dev)
    state = NUD_PERMANENT if flags & ATF_PERM else NUD_STALE
    neigh_update(neigh, ha if flags & ATF_COM else None, state, NEIGH_UPDATE_F_OVERRIDE | NEIGH_UPDATE_F_ADMIN)
    neigh_release(neigh)


def arp_req_get(raw: bytes, ip: int, dev: NetDevice) -> bytes:
    """The request, with the neighbour's address and flags filled in. Raises ENXIO."""
    neigh = neigh_lookup(inet_of(dev.net).arp_tbl, ip, dev)
    if neigh is None:
        raise KernelError(ENXIO)
    try:
        if neigh.nud_state & NUD_NOARP:
            raise KernelError(ENXIO)
        ha = dev.type.to_bytes(2, "little") + neigh.ha[: dev.addr_len].ljust(14, b"\0")
        return raw[:16] + ha + arp_state_to_flags(neigh).to_bytes(4, "little") + raw[36:52] + dev.name.ljust(16, b"\0")
    finally:
        neigh_release(neigh)


def arp_req_delete(net: Net, ip: int, flags: int, dev: NetDevice | None) -> None:
    """Raises ENXIO if there is none."""
    tbl = inet_of(net).arp_tbl
    if flags & ATF_PUBL:
        if not pneigh_delete(tbl, net, ip, dev):
            raise KernelError(ENXIO)
        return
    neigh = neigh_lookup(tbl, ip, _device_for(net, ip, dev))
    if neigh is None:
        raise KernelError(ENXIO)
    try:
        if not neigh.nud_state & ~NUD_NOARP:
            raise KernelError(ENXIO)
        neigh_update(neigh, None, NUD_FAILED, NEIGH_UPDATE_F_OVERRIDE | NEIGH_UPDATE_F_ADMIN)
    finally:
        neigh_release(neigh)
    neigh_remove_one(neigh)


@notrace
def arp_state_to_flags(neigh: Neighbour) -> int:
    if neigh.nud_state & NUD_PERMANENT:
        return ATF_PERM | ATF_COM
    return ATF_COM if neigh.nud_state & NUD_VALID else 0


def arp_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/arp"""
    yield b"IP address       HW type     Flags       HW address            Mask     Device\n"
    tbl: NeighTable = inet_of(net).arp_tbl
    for n in tbl.nht.values():
        if n.dev.net is not net or n.nud_state & NUD_NOARP:
            continue
        ip = ".".join(map(str, n.primary_key.to_bytes(4, "big")))
        ha = ":".join(f"{b:02x}" for b in n.ha[: n.dev.addr_len])
        name = n.dev.name.decode()
        yield f"{ip:<16} 0x{n.dev.type:<10x}0x{arp_state_to_flags(n):<10x}{ha:<17}     *        {name}\n".encode()


@notrace
def arp_table(kernel: Kernel) -> NeighTable:
    """arp_tbl, before its parameters are set."""
    return NeighTable(AF_INET, 4, ETH_P_IP, b"arp_cache", arp_constructor)
