"""ICMP: errors about packets, and echoes.

Linux: net/ipv4/icmp.c (5.3). Same: about which packets no error may be sent (RFC 1122), the limits (all messages of the
machine, and those to one host), which socket hears of an error, echo and timestamp replies. Differs: hosts are
remembered in a dict, not in trees of peers; one control socket for a namespace.
Owns: NetnsIpv4.icmp_sk, InetState.icmp_global, icmp_peers.
Gaps: redirects are not followed, source quench does nothing, router discovery, icmp_errors_use_inbound_ifaddr.
Context: softirq, or bottom halves off. Packets are given, but for icmp_send()'s.
"""
from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.checksum import csum_block_add, csum_fold, csum_partial
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_release
from glasskernel.net.ipv4.fib_lookup import inet_addr_type
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.in_device import inet_select_addr
from glasskernel.net.ipv4.ip_append import IpcmCookie, ip_append_data, ip_flush_pending_frames, ip_push_pending_frames
from glasskernel.net.ipv4.ip_sockglue_rcv import fib_compute_spec_dst
from glasskernel.net.ipv4.ping import ping_err, ping_rcv
from glasskernel.net.ipv4.raw_deliver import raw_icmp_error
from glasskernel.net.ipv4.route import ip_route_output_key, ipv4_mtu
from glasskernel.net.ipv4.types import (
    RT_SCOPE_LINK,
    RTCF_BROADCAST,
    RTCF_LOCAL,
    RTCF_MULTICAST,
    RTN_BROADCAST,
    Flowi4,
    InetSock,
    Rtable,
)
from glasskernel.net.netdevice import IFF_LOOPBACK
from glasskernel.net.skbuff import (
    CHECKSUM_NONE,
    PACKET_HOST,
    SkBuff,
    __skb_checksum_complete,
    consume_skb,
    kfree_skb,
    pskb_may_pull,
    skb_copy_bits,
)
from glasskernel.net.snmp import icmp_in_count
from glasskernel.net.types import IPPROTO_ICMP, MSG_DONTWAIT

if TYPE_CHECKING:
    from glasskernel.net.types import Net

ICMP_ECHOREPLY, ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_ECHO, ICMP_TIME_EXCEEDED = 0, 3, 4, 5, 8, 11
ICMP_PARAMETERPROB, ICMP_TIMESTAMP, ICMP_TIMESTAMPREPLY, ICMP_ADDRESS, ICMP_ADDRESSREPLY = 12, 13, 14, 17, 18
NR_ICMP_TYPES, NR_ICMP_UNREACH, ICMP_FRAG_NEEDED = 18, 15, 4
ERRORS = (ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB)
IPTOS_PREC_INTERNETCONTROL = 0xC0
XRLIM_BURST_FACTOR = 6
IP_OFFSET = 0x1FFF
HEADER = 8


@slotted
class IcmpBxm:
    """struct icmp_bxm: a message that is being made: its header (the checksum is filled in later) and its data."""

    kind: int
    code: int
    rest: int                            # 32 bits behind the checksum
    data: bytes


@slotted
class TokenBucket:
    """icmp_global, and a peer's rate_tokens: `credit` messages or jiffies, at jiffy `stamp`."""

    credit: int = 0
    stamp: int = 0


# ---- limits --------------------------------------------------------------------------------------------------------
@notrace
def _jiffies() -> int:
    return register.task.kernel.time.jiffies


@notrace
def icmpv4_mask_allow(net: Net, kind: int, code: int) -> bool:
    """Messages that are not limited."""
    if kind > NR_ICMP_TYPES or (kind == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED):
        return True
    return not net.ipv4.sysctl["icmp_ratemask"] & 1 << kind


@notrace
def icmpv4_global_allow(net: Net, kind: int, code: int) -> bool:
    return icmpv4_mask_allow(net, kind, code) or icmp_global_allow(net)


def icmp_global_allow(net: Net) -> bool:
    """At most icmp_msgs_per_sec messages, icmp_msgs_burst at once."""
    inet = inet_of(net)
    bucket = inet.icmp_global
    if bucket is None:
        bucket = inet.icmp_global = TokenBucket(inet.icmp_msgs_burst, _jiffies())
    now = _jiffies()
    delta = min(now - bucket.stamp, HZ)
    if delta >= HZ // 50:
        gained = inet.icmp_msgs_per_sec * delta // HZ
        if gained:
            bucket.stamp = now
            bucket.credit = min(bucket.credit + gained, inet.icmp_msgs_burst)
    if not bucket.credit:
        return False
    bucket.credit -= 1
    return True


@notrace
def icmpv4_xrlim_allow(net: Net, rt: Rtable, fl4: Flowi4, kind: int, code: int) -> bool:
    """One message every icmp_ratelimit to one host, after a burst of six. Nothing limits the loopback device."""
    if icmpv4_mask_allow(net, kind, code) or rt.dev.flags & IFF_LOOPBACK:
        return True
    timeout = net.ipv4.sysctl["icmp_ratelimit"] * HZ // 1000
    if not timeout:
        return True
    return inet_peer_xrlim_allow(net, fl4.daddr, timeout)


def inet_peer_xrlim_allow(net: Net, daddr: int, timeout: int) -> bool:
    peers, now = inet_of(net).icmp_peers, _jiffies()
    peer = peers.get((net, daddr))
    if peer is None:
        for key in [key for key, old in peers.items() if now - old.stamp > 600 * HZ]:
            del peers[key]
        peer = peers[net, daddr] = TokenBucket(XRLIM_BURST_FACTOR * timeout, now)
    peer.credit = min(peer.credit + now - peer.stamp, XRLIM_BURST_FACTOR * timeout)
    peer.stamp = now
    if peer.credit < timeout:
        return False
    peer.credit -= timeout
    return True


# ---- sending -------------------------------------------------------------------------------------------------------
def icmp_glue_bits(source: IcmpBxm, offset: int, length: int, skb: SkBuff) -> bytes:
    data = source.data[offset : offset + length]
    skb.csum = csum_block_add(skb.csum, csum_partial(data), offset)
    return data


def icmp_push_reply(sk: InetSock, param: IcmpBxm, fl4: Flowi4, ipc: IpcmCookie, rt: Rtable) -> None:
    """Sends the message; takes over the reference to the route."""
    net = sk.sk_net
    try:
        ip_append_data(sk, fl4, icmp_glue_bits, param, len(param.data) + HEADER, HEADER, ipc, rt, MSG_DONTWAIT)
    except KernelError:
        net.mib.icmp["OutErrors"] += 1
        ip_flush_pending_frames(sk)
        return
    skb = sk.sk_write_queue.q[0]
    header = pack(">BBHI", param.kind, param.code, 0, param.rest)
    csum = csum_fold(csum_partial(header, skb.csum))
    at = skb.transport_header
    skb.head[at : at + HEADER] = pack(">BBHI", param.kind, param.code, csum, param.rest)
    skb.ip_summed = CHECKSUM_NONE
    ip_push_pending_frames(sk, fl4)


def icmp_send(skb_in: SkBuff, kind: int, code: int, info: int) -> None:
    """Tells the sender of a packet what is wrong with it. The packet stays the caller's."""
    __icmp_send(skb_in, kind, code, info)


def __icmp_send(skb_in: SkBuff, kind: int, code: int, info: int) -> None:
    rt: Rtable | None = skb_in.dst
    if rt is None:
        return
    net = rt.dev.net
    head, at = skb_in.head, skb_in.network_header
    if skb_in.pkt_type != PACKET_HOST or rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        return
    if (head[at + 6] << 8 | head[at + 7]) & IP_OFFSET:
        return
    is_error = kind in ERRORS
    if is_error and head[at + 9] == IPPROTO_ICMP:
        inner = _bytes_from(skb_in, at + (head[at] & 0xF) * 4, 1)
        if not inner or inner[0] > NR_ICMP_TYPES or inner[0] in ERRORS:
            return                       # never an error about an error
    if not icmpv4_global_allow(net, kind, code):
        return
    sk: InetSock = net.ipv4.icmp_sk
    if sk.sk_write_queue.q:              # icmp_xmit_lock(): this very message caused another one
        return
    source, saddr = int.from_bytes(head[at + 12 : at + 16], "big"), int.from_bytes(head[at + 16 : at + 20], "big")
    if not rt.rt_flags & RTCF_LOCAL:
        saddr = inet_select_addr(skb_in.dev, 0, RT_SCOPE_LINK) if skb_in.dev is not None else 0
    tos = head[at + 1]
    if is_error:
        tos = tos & 0x1E | IPTOS_PREC_INTERNETCONTROL
    sk.tos = tos
    ipc = IpcmCookie(addr=source)
    fl4 = Flowi4(flowi4_tos=tos & 0x1E, flowi4_proto=IPPROTO_ICMP, daddr=source, saddr=saddr)
    try:
        route = ip_route_output_key(net, fl4)
    except KernelError:
        return
    if not icmpv4_xrlim_allow(net, route, fl4, kind, code):
        dst_release(route)
        return
    room = min(ipv4_mtu(route), 576) - 20 - HEADER
    icmp_push_reply(sk, IcmpBxm(kind, code, info, _bytes_from(skb_in, at, room)), fl4, ipc, route)


@notrace
def _bytes_from(skb: SkBuff, at: int, size: int) -> bytes:
    """At most `size` bytes from an offset in head on, also if data is further behind already."""
    if at >= skb.data:
        offset = at - skb.data
        return skb_copy_bits(skb, offset, max(0, min(size, skb.len - offset)))
    before = bytes(skb.head[at : min(skb.data, at + size)])
    return before + skb_copy_bits(skb, 0, min(size - len(before), skb.len))


def icmp_reply(param: IcmpBxm, skb: SkBuff) -> None:
    """Answers a message."""
    rt: Rtable = skb.dst
    net = rt.dev.net
    if not icmpv4_global_allow(net, param.kind, param.code):
        return
    sk: InetSock = net.ipv4.icmp_sk
    if sk.sk_write_queue.q:
        return
    at = skb.network_header
    sk.tos = skb.head[at + 1]
    daddr = int.from_bytes(skb.head[at + 12 : at + 16], "big")
    saddr = fib_compute_spec_dst(skb, rt)
    ipc = IpcmCookie(addr=daddr)
    fl4 = Flowi4(flowi4_tos=sk.tos & 0x1E, flowi4_proto=IPPROTO_ICMP, daddr=daddr, saddr=saddr)
    try:
        route = ip_route_output_key(net, fl4)
    except KernelError:
        return
    if icmpv4_xrlim_allow(net, route, fl4, param.kind, param.code):
        icmp_push_reply(sk, param, fl4, ipc, route)
    else:
        dst_release(route)


# ---- receiving -----------------------------------------------------------------------------------------------------
def icmp_rcv(skb: SkBuff) -> int:
    rt: Rtable = skb.dst
    net = rt.dev.net
    mib = net.mib.icmp
    mib["InMsgs"] += 1
    skb.csum = 0
    if __skb_checksum_complete(skb):
        mib["InCsumErrors"] += 1
        return _error(net, skb)
    if not pskb_may_pull(skb, HEADER):
        return _error(net, skb)
    kind = skb.head[skb.data]
    skb.data += HEADER                   # __skb_pull()
    skb.len -= HEADER
    icmp_in_count(net, kind)
    if kind > NR_ICMP_TYPES:
        return _error(net, skb)
    if rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        # RFC 1122: an echo to everybody may be ignored; errors to everybody must be
        if kind in (ICMP_ECHO, ICMP_TIMESTAMP) and net.ipv4.sysctl["icmp_echo_ignore_broadcasts"]:
            return _error(net, skb)
        if kind not in (ICMP_ECHO, ICMP_TIMESTAMP, ICMP_ADDRESS, ICMP_ADDRESSREPLY):
            return _error(net, skb)
    handler = ICMP_HANDLERS.get(kind)
    if handler is None or handler(skb):  # None: icmp_discard()
        consume_skb(skb)
    else:
        kfree_skb(skb)
    return 0


@notrace
def _error(net: Net, skb: SkBuff) -> int:
    net.mib.icmp["InErrors"] += 1
    kfree_skb(skb)
    return 0


def icmp_echo(skb: SkBuff) -> bool:
    """A ping: the same back."""
    net = skb.dst.dev.net
    if not net.ipv4.sysctl["icmp_echo_ignore_all"]:
        at = skb.transport_header
        rest = int.from_bytes(skb.head[at + 4 : at + 8], "big")
        icmp_reply(IcmpBxm(ICMP_ECHOREPLY, 0, rest, skb_copy_bits(skb, 0, skb.len)), skb)
    return True


def icmp_timestamp(skb: SkBuff) -> bool:
    """What time is it? Milliseconds since midnight."""
    net = skb.dst.dev.net
    if skb.len < 4:
        net.mib.icmp["InErrors"] += 1
        return False
    now = ktime_get_real() // 1_000_000 % 86_400_000
    at = skb.transport_header
    rest = int.from_bytes(skb.head[at + 4 : at + 8], "big")
    icmp_reply(IcmpBxm(ICMP_TIMESTAMPREPLY, 0, rest, skb_copy_bits(skb, 0, 4) + pack(">II", now, now)), skb)
    return True


def icmp_unreach(skb: SkBuff) -> bool:
    """An error about a packet of ours: whoever sent it hears of it."""
    net = skb.dst.dev.net
    if not pskb_may_pull(skb, 20):
        net.mib.icmp["InErrors"] += 1
        return False
    head, at = skb.head, skb.data
    if head[at] & 0xF < 5:
        net.mib.icmp["InErrors"] += 1
        return False
    icmp = skb.transport_header
    kind, code = head[icmp], head[icmp + 1]
    info = 0
    if kind == ICMP_DEST_UNREACH:
        if code & 15 == ICMP_FRAG_NEEDED:
            info = head[icmp + 6] << 8 | head[icmp + 7]
        if code > NR_ICMP_UNREACH:
            return True
    elif kind == ICMP_PARAMETERPROB:
        info = head[icmp + 4]
    destination = int.from_bytes(head[at + 16 : at + 20], "big")
    if inet_addr_type(net, destination) == RTN_BROADCAST:
        return True                      # we never send errors about broadcasts, and believe in none
    icmp_socket_deliver(skb, info)
    return True


@notrace
def icmp_socket_deliver(skb: SkBuff, info: int) -> None:
    net = skb.dst.dev.net
    if not pskb_may_pull(skb, (skb.head[skb.data] & 0xF) * 4 + 8):
        net.mib.icmp["InErrors"] += 1
        return
    protocol = skb.head[skb.data + 9]
    raw_icmp_error(skb, protocol, info)
    ipprot = inet_of(net).protos.get(protocol)
    if ipprot is not None and ipprot.err_handler is not None:
        ipprot.err_handler(skb, info)


def icmp_err(skb: SkBuff, info: int) -> int:
    """Somebody complains about a ping of ours; skb.data is at its IP header."""
    at = skb.data + (skb.head[skb.data] & 0xF) * 4
    if skb.head[at] != ICMP_ECHOREPLY:
        ping_err(skb, at, info)
    return 0


ICMP_HANDLERS = {ICMP_ECHOREPLY: ping_rcv, ICMP_DEST_UNREACH: icmp_unreach, ICMP_SOURCE_QUENCH: icmp_unreach,
                 ICMP_ECHO: icmp_echo, ICMP_TIME_EXCEEDED: icmp_unreach, ICMP_PARAMETERPROB: icmp_unreach,
                 ICMP_TIMESTAMP: icmp_timestamp}
