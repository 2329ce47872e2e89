"""Packets from what users write: UDP's, raw sockets' and ICMP's data gets an IP header.

Linux: net/ipv4/ip_output.c: ip_append_data and what is around it (5.3). Same: the limits and their errno, corking, who
holds the route meanwhile, checksums left to the device. Differs: one packet with fragments, which ip_do_fragment() cuts
if it must, where Linux cuts while it copies.
Owns: inet_sock.cork while the write queue is not empty.  Gaps: UDP_SEGMENT, zero copy, ip_append_page().
Locks: the socket's owner, except for ip_make_skb(), which has a queue and a cork of its own.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.checksum import csum_block_add, csum_fold, csum_partial
from glasskernel.lib.errno import EFAULT, EMSGSIZE, ENETUNREACH, ENOBUFS, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dst import dst_release
from glasskernel.net.core.sock_memory import sock_alloc_send_skb, sock_wmalloc
from glasskernel.net.ipv4.ip_errqueue import ip_local_error
from glasskernel.net.ipv4.ip_output import (
    IPHDR,
    ip_dont_fragment,
    ip_select_ident_segs,
    ip_select_ttl,
    ip_send_skb,
    ip_sk_ignore_df,
    ip_sk_use_pmtu,
)
from glasskernel.net.ipv4.route import ip_route_output_key, ipv4_mtu
from glasskernel.net.ipv4.types import (
    IP_DF,
    IP_PMTUDISC_DO,
    IPV4_MIN_MTU,
    RTN_MULTICAST,
    Flowi4,
    InetCork,
    InetSock,
    Rtable,
)
from glasskernel.net.netdevice import NETIF_F_HW_CSUM, NETIF_F_IP_CSUM
from glasskernel.net.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    SkBuff,
    kfree_skb,
    skb_add_data_frag,
    skb_dst_set,
    skb_put,
    skb_reserve,
)
from glasskernel.net.snmp import icmp_out_count
from glasskernel.net.types import IPPROTO_ICMP, MSG_DONTWAIT, MSG_MORE, MSG_PROBE

if TYPE_CHECKING:
    from collections import deque

    GetFrag = Callable[[Any, int, int, SkBuff], bytes]           # (from, offset, length, skb)

LINEAR_MAX = 2048                        # longer data hangs behind the headers, as the user's copy


@slotted
class IpcmCookie:
    """struct ipcm_cookie: what a sender says besides the data. ttl 0, tos -1: the socket's."""

    addr: int = 0
    oif: int = 0
    opt: bytes = b""
    ttl: int = 0
    tos: int = -1
    priority: int = 0
    mark: int = 0


@notrace
def ipcm_init_sk(ipc: IpcmCookie, inet: InetSock) -> None:
    ipc.mark = inet.sk_mark
    ipc.oif = inet.sk_bound_dev_if
    ipc.addr = inet.inet_saddr


@notrace
def get_rttos(ipc: IpcmCookie, inet: InetSock) -> int:
    return (ipc.tos if ipc.tos != -1 else inet.tos) & 0x1E


def ip_generic_getfrag(msg: Any, offset: int, length: int, skb: SkBuff) -> bytes:
    """The next bytes of what the user sends. Raises EFAULT."""
    data: bytes = msg.msg_iter.copy_from_iter(length)
    if len(data) != length:
        raise KernelError(EFAULT)
    if skb.ip_summed != CHECKSUM_PARTIAL:
        skb.csum = csum_block_add(skb.csum, csum_partial(data), offset)
    return data


def ip_setup_cork(sk: InetSock, cork: InetCork, ipc: IpcmCookie, rt: Rtable) -> None:
    """Starts a packet. The cork takes over the reference to the route."""
    cork.opt = ipc.opt
    cork.addr = ipc.addr
    cork.fragsize = ipv4_mtu(rt) if ip_sk_use_pmtu(sk) else rt.dev.mtu
    cork.dst = rt
    if cork.fragsize < IPV4_MIN_MTU:
        raise KernelError(ENETUNREACH)
    cork.length = 0
    cork.ttl, cork.tos, cork.priority = ipc.ttl, ipc.tos, ipc.priority
    cork.mark = ipc.mark


@may_sleep
def __ip_append_data(sk: InetSock, fl4: Flowi4, queue: deque[SkBuff], cork: InetCork, getfrag: GetFrag, source: Any,
                     length: int, transhdrlen: int, flags: int) -> None:
    """Adds data to the queue's packet, or starts it with room for the headers (`length` counts transhdrlen then).

    Raises EMSGSIZE, EFAULT, and what waiting for memory raises.
    """
    rt = cork.dst
    assert rt is not None
    mtu = cork.fragsize
    fragheaderlen = 20 + len(cork.opt)
    maxnonfragsize = 0xFFFF if ip_sk_ignore_df(sk) else mtu
    if cork.length + length > maxnonfragsize - fragheaderlen:
        ip_local_error(sk, EMSGSIZE, fl4.daddr, sk.inet_dport, mtu - len(cork.opt))
        raise KernelError(EMSGSIZE)
    fits = length + fragheaderlen <= mtu
    csummode = CHECKSUM_NONE
    if (transhdrlen and fits and rt.dev.features & (NETIF_F_HW_CSUM | NETIF_F_IP_CSUM) and not flags & MSG_MORE
            and not queue):
        csummode = CHECKSUM_PARTIAL
    cork.length += length
    try:
        if queue:
            skb = queue[-1]
            _append_frag(sk, skb, getfrag(source, cork.length - length, length, skb))
            return
        size = length - transhdrlen
        linear = size if fits and size <= LINEAR_MAX else 0
        hh_len = rt.dev.hard_header_len + 16 & ~15
        room = hh_len + fragheaderlen + transhdrlen + linear
        made: SkBuff | None
        if transhdrlen:
            made = sock_alloc_send_skb(sk, room + 15, flags & MSG_DONTWAIT)
        else:
            made = sock_wmalloc(sk, room + 15, False) if sk.sk_wmem_alloc <= 2 * sk.sk_sndbuf else None
        if made is None:
            raise KernelError(ENOBUFS)
        skb = made
        skb.ip_summed = csummode
        skb.csum = 0
        skb_reserve(skb, hh_len)
        skb.network_header = skb_put(skb, fragheaderlen + transhdrlen + linear)
        skb.transport_header = skb.network_header + fragheaderlen
        try:
            if linear:
                skb.head[skb.tail - linear : skb.tail] = getfrag(source, 0, linear, skb)
            elif size:
                _append_frag(sk, skb, getfrag(source, 0, size, skb))
        except KernelError:
            kfree_skb(skb)
            raise
        queue.append(skb)
    except KernelError:
        cork.length -= length
        sk.sk_net.mib.ip["OutDiscards"] += 1
        raise


@notrace
def _append_frag(sk: InetSock, skb: SkBuff, data: bytes) -> None:
    if data:
        skb_add_data_frag(skb, data)
        sk.sk_wmem_alloc += len(data)    # sock_wfree() gives truesize back


@may_sleep
def ip_append_data(sk: InetSock, fl4: Flowi4, getfrag: GetFrag, source: Any, length: int, transhdrlen: int,
                   ipc: IpcmCookie, rt: Rtable | None, flags: int) -> None:
    """Adds to the socket's own packet; the first call brings a route and gives up its reference."""
    if flags & MSG_PROBE:
        dst_release(rt)
        return
    queue = sk.sk_write_queue.q
    if not queue:
        assert rt is not None
        sk.cork = InetCork()
        try:
            ip_setup_cork(sk, sk.cork, ipc, rt)
        except KernelError:
            ip_cork_release(sk.cork)
            raise
    else:
        transhdrlen = 0
    assert sk.cork is not None
    __ip_append_data(sk, fl4, queue, sk.cork, getfrag, source, length, transhdrlen, flags)


@notrace
def ip_cork_release(cork: InetCork) -> None:
    cork.opt = b""
    dst, cork.dst = cork.dst, None
    dst_release(dst)


def __ip_make_skb(sk: InetSock, fl4: Flowi4, queue: deque[SkBuff], cork: InetCork) -> SkBuff | None:
    """The queue's packet with its IP header; None if there is none."""
    rt = cork.dst
    if not queue or rt is None:
        return None
    skb = queue.popleft()
    net = sk.sk_net
    offset = skb.network_header - skb.data
    skb.data += offset                   # __skb_pull()
    skb.len -= offset
    skb.ignore_df = ip_sk_ignore_df(sk)
    df = 0
    if sk.pmtudisc >= IP_PMTUDISC_DO or (skb.len <= ipv4_mtu(rt) and ip_dont_fragment(sk, rt)):
        df = IP_DF
    if cork.ttl:
        ttl = cork.ttl
    elif rt.rt_type == RTN_MULTICAST:
        ttl = sk.mc_ttl
    else:
        ttl = ip_select_ttl(sk, rt)
    tos = cork.tos if cork.tos != -1 else sk.tos
    protocol = sk.sk_protocol
    ident = ip_select_ident_segs(net, sk, fl4.saddr, fl4.daddr, protocol, df, skb.ignore_df, 1)
    at = skb.network_header
    first = 0x45 + (len(cork.opt) >> 2)
    IPHDR.pack_into(skb.head, at, first, tos, 0, ident, df, ttl, protocol, 0, fl4.saddr, fl4.daddr)
    if cork.opt:
        skb.head[at + 20 : at + 20 + len(cork.opt)] = cork.opt
    skb.priority = cork.priority if cork.tos != -1 else sk.sk_priority
    skb.mark = cork.mark
    cork.dst = None                      # the packet has the reference now
    skb_dst_set(skb, rt)
    if protocol == IPPROTO_ICMP:
        icmp_out_count(net, skb.head[skb.transport_header])
    ip_cork_release(cork)
    return skb


@notrace
def ip_finish_skb(sk: InetSock, fl4: Flowi4) -> SkBuff | None:
    assert sk.cork is not None
    return __ip_make_skb(sk, fl4, sk.sk_write_queue.q, sk.cork)


def ip_push_pending_frames(sk: InetSock, fl4: Flowi4) -> int:
    """Sends what is collected. 0 or a negative errno."""
    skb = ip_finish_skb(sk, fl4)
    return ip_send_skb(sk.sk_net, skb) if skb is not None else 0


@notrace
def __ip_flush_pending_frames(queue: deque[SkBuff], cork: InetCork) -> None:
    while queue:
        kfree_skb(queue.pop())
    ip_cork_release(cork)


def ip_flush_pending_frames(sk: InetSock) -> None:
    """Forgets what is collected."""
    if sk.cork is not None:
        __ip_flush_pending_frames(sk.sk_write_queue.q, sk.cork)


@may_sleep
def ip_make_skb(sk: InetSock, fl4: Flowi4, getfrag: GetFrag, source: Any, length: int, transhdrlen: int,
                ipc: IpcmCookie, rt: Rtable, cork: InetCork, queue: deque[SkBuff], flags: int) -> SkBuff | None:
    """One packet, without the socket's lock. Takes over the reference to the route. None: MSG_PROBE sends nothing."""
    if flags & MSG_PROBE:
        dst_release(rt)
        return None
    try:
        ip_setup_cork(sk, cork, ipc, rt)
        __ip_append_data(sk, fl4, queue, cork, getfrag, source, length, transhdrlen, flags)
    except KernelError:
        __ip_flush_pending_frames(queue, cork)
        raise
    return __ip_make_skb(sk, fl4, queue, cork)


# ---- answers without a socket ------------------------------------------------------------------------------------
@slotted
class IpReplyArg:
    """struct ip_reply_arg. csumoffset: in bytes, of the checksum in data; -1: none. csum: of the pseudo header."""

    data: bytes
    csum: int = 0
    csumoffset: int = -1
    bound_dev_if: int = 0
    tos: int = 0
    uid: int = 0


def ip_reply_glue_bits(source: Any, offset: int, length: int, skb: SkBuff) -> bytes:
    data: bytes = source[offset : offset + length]
    skb.csum = csum_block_add(skb.csum, csum_partial(data), offset)
    return data


def ip_send_unicast_reply(sk: InetSock, skb: SkBuff, daddr: int, saddr: int, arg: IpReplyArg) -> None:
    """Sends arg.data back to where skb came from, through the namespace's control socket."""
    net = sk.sk_net
    ipc = IpcmCookie(addr=daddr, tos=arg.tos)
    at = skb.transport_header
    fl4 = Flowi4(arg.bound_dev_if, flowi4_mark=skb.mark, flowi4_tos=arg.tos & 0x1E,
                 flowi4_proto=skb.head[skb.network_header + 9], saddr=saddr, daddr=daddr,
                 fl4_sport=skb.head[at + 2] << 8 | skb.head[at + 3], fl4_dport=skb.head[at] << 8 | skb.head[at + 1])
    try:
        rt = ip_route_output_key(net, fl4)
    except KernelError:
        return
    sk.sk_protocol = skb.head[skb.network_header + 9]
    sk.sk_priority = skb.priority
    sk.tos = arg.tos & 0xFF
    try:
        ip_append_data(sk, fl4, ip_reply_glue_bits, arg.data, len(arg.data), 0, ipc, rt, MSG_DONTWAIT)
    except KernelError:
        ip_flush_pending_frames(sk)
        return
    reply = sk.sk_write_queue.q[0]
    if arg.csumoffset >= 0:
        place = reply.transport_header + arg.csumoffset
        reply.head[place : place + 2] = csum_fold(reply.csum + arg.csum).to_bytes(2, "big")
    reply.ip_summed = CHECKSUM_NONE
    reply.mark = fl4.flowi4_mark
    ip_push_pending_frames(sk, fl4)
