"""AF_PACKET: programs that see and send packets as devices do.

Linux: net/packet/af_packet.c (5.3). Same: a socket is a tap in the devices' lists; its filter runs before anything is
copied; addresses are struct sockaddr_ll. Options are in sockopt.py, receive rings in ring.py.
Gaps: SOCK_PACKET, transmit rings, TPACKET_V1 and V3, PACKET_FANOUT, virtio headers, hardware stamps.
Owns: PacketSock; Net.packet (its sockets, in the order they came). Invariant: prot_hook.dev holds its device.
Locks: sk's owner for binding; receiving is in softirqs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.fs.proc.proc_net import proc_create_net, proc_remove_net
from glasskernel.kernel.capability import CAP_NET_RAW, ns_capable
from glasskernel.lib.errno import (
    EINVAL,
    EMSGSIZE,
    ENETDOWN,
    ENOBUFS,
    ENODEV,
    ENOIOCTLCMD,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESOCKTNOSUPPORT,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.lib.vsprintf import hash_pointer
from glasskernel.net.core.datagram import datagram_poll, skb_copy_datagram_msg, skb_free_datagram, skb_recv_datagram
from glasskernel.net.core.dev import (
    dev_add_pack,
    dev_get_by_index,
    dev_queue_xmit,
    dev_remove_pack,
    register_netdevice_notifier,
)
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.proto import proto_register, sock_prot_inuse_add
from glasskernel.net.core.sock import (
    lock_sock_nested,
    release_sock,
    sk_alloc,
    sock_hold,
    sock_i_ino,
    sock_i_uid,
    sock_init_data,
    sock_orphan,
    sock_put,
)
from glasskernel.net.core.sock_memory import skb_set_owner_r, sock_alloc_send_pskb
from glasskernel.net.ipv4.af_inet import inet_ioctl
from glasskernel.net.netdevice import (
    IFF_UP,
    NETDEV_DOWN,
    NETDEV_UNREGISTER,
    NETDEV_UP,
    NetDevice,
    PacketType,
    dev_hard_header,
    dev_hold,
    dev_put,
)
from glasskernel.net.packet.ring import packet_mmap, packet_poll_ring, packet_set_ring, tpacket_store
from glasskernel.net.packet.sockopt import (
    packet_dev_mclist_delete,
    packet_flush_mclist,
    packet_getsockopt,
    packet_setsockopt,
)
from glasskernel.net.packet.types import (
    PACKET_AUXDATA,
    SOCKADDR_LL,
    SOCKADDR_LL_ADDR,
    TP_STATUS_CSUM_VALID,
    TP_STATUS_CSUMNOTREADY,
    TP_STATUS_USER,
    TPACKET_AUXDATA,
    PacketSkbCb,
    PacketSock,
    sockaddr_ll,
)
from glasskernel.net.scm import put_cmsg, sock_gettstamp, sock_recv_ts_and_drops
from glasskernel.net.skbuff import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    PACKET_LOOPBACK,
    PACKET_OUTGOING,
    SkBuff,
    ___pskb_trim,
    consume_skb,
    kfree_skb,
    skb_clone,
    skb_dst_drop,
    skb_pull,
    skb_push,
    skb_put_data,
    skb_queue_purge,
    skb_reserve,
    skb_reset_network_header,
    skb_shared,
)
from glasskernel.net.socket import sock_register
from glasskernel.net.types import (
    AF_PACKET,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_PEEK,
    MSG_TRUNC,
    SOCK_DGRAM,
    SOCK_RAW,
    SOL_PACKET,
    SS_UNCONNECTED,
    NetProtoFamily,
    PernetOperations,
    Proto,
    ProtoOps,
    no_close,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.fs.types import File, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import MsgHdr, Net, Sock, Socket

VLAN_HLEN = 4
SIOCOUTQ, SIOCINQ = 0x5411, 0x541B
# routes, ARP, and addresses of interfaces
INET_IOCTLS = (0x890B, 0x890C, 0x8953, 0x8954, 0x8955, *range(0x8914, 0x891D))


@notrace
def pkt_sk(sk: Sock) -> PacketSock:
    assert isinstance(sk, PacketSock)
    return sk


@notrace
def ntohs(value: int) -> int:
    return value >> 8 & 0xFF | (value & 0xFF) << 8


# ---- in and out of the devices' lists ---------------------------------------------------------------------------
def __register_prot_hook(sk: PacketSock) -> None:
    if not sk.running:
        dev_add_pack(sk.sk_net.kernel, sk.prot_hook)
        sock_hold(sk)
        sk.running = True


def __unregister_prot_hook(sk: PacketSock) -> None:
    if sk.running:
        sk.running = False
        dev_remove_pack(sk.sk_net.kernel, sk.prot_hook)
        sock_put(sk)


# ---- receiving ----------------------------------------------------------------------------------------------------
def packet_rcv(skb: SkBuff, dev: NetDevice, pt: PacketType, orig_dev: NetDevice) -> int:
    """prot_hook.func: the packet for the socket's queue or ring, if its filter wants it. Context: softirqs off."""
    sk = pkt_sk(pt.af_packet_priv)
    if skb.pkt_type == PACKET_LOOPBACK or dev.net is not sk.sk_net:
        consume_skb(skb)
        return 0
    skb.dev = dev
    data, length = skb.data, skb.len
    if dev.header_ops is not None:
        if sk.sk_type != SOCK_DGRAM:
            skb_push(skb, skb.data - skb.mac_header)
        elif skb.pkt_type == PACKET_OUTGOING:
            skb_pull(skb, skb.network_header - skb.data)
    snaplen = skb.len
    if sk.sk_filter is not None:
        kept = sk.sk_filter.run(skb)
        if not kept:
            skb.data, skb.len = data, length
            consume_skb(skb)
            return 0
        snaplen = min(snaplen, kept)
    if skb_shared(skb):                          # others see it, too: what was pushed and pulled is not their affair
        nskb = skb_clone(skb)
        skb.data, skb.len = data, length
        consume_skb(skb)
        skb = nskb
    parse = dev.header_ops.parse if dev.header_ops is not None else None
    ifindex = (orig_dev if sk.origdev else dev).ifindex
    address = sockaddr_ll(skb.protocol, ifindex, dev.type, skb.pkt_type, parse(skb) if parse is not None else b"")
    if sk.rx_ring is not None:
        return tpacket_rcv(skb, sk, snaplen, address)
    if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
        sk.tp_drops += 1
        sk.sk_drops += 1
        kfree_skb(skb)
        return 0
    skb.cb = PacketSkbCb(address, skb.len)
    ___pskb_trim(skb, snaplen)
    skb_set_owner_r(skb, sk)
    skb.dev = None
    skb_dst_drop(skb)
    sk.tp_packets += 1
    sk.sk_receive_queue.q.append(skb)
    sk.sk_data_ready(sk)
    return 0


def tpacket_rcv(skb: SkBuff, sk: PacketSock, snaplen: int, address: bytes) -> int:
    """Into the ring, or lost."""
    status = TP_STATUS_USER | _checksum_status(skb)
    if tpacket_store(sk, skb, snaplen, address, status):
        sk.tp_packets += 1
    else:
        sk.tp_drops += 1
    sk.sk_data_ready(sk)
    consume_skb(skb)
    return 0


@notrace
def _checksum_status(skb: SkBuff) -> int:
    if skb.ip_summed == CHECKSUM_PARTIAL:
        return TP_STATUS_CSUMNOTREADY
    if skb.pkt_type != PACKET_OUTGOING and skb.ip_summed == CHECKSUM_UNNECESSARY:
        return TP_STATUS_CSUM_VALID
    return 0


@may_sleep
def packet_recvmsg(sock: Socket, msg: MsgHdr, length: int, flags: int) -> int:
    """Raises EINVAL for flags that it has not, and what skb_recv_datagram() raises."""
    sk = pkt_sk(sock.sk)
    if flags & ~(MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_ERRQUEUE):
        raise KernelError(EINVAL)
    skb = skb_recv_datagram(sk, flags, flags & MSG_DONTWAIT)
    if skb is None:
        return 0
    try:
        copied = min(skb.len, length)
        if copied < skb.len:
            msg.msg_flags |= MSG_TRUNC
        skb_copy_datagram_msg(skb, 0, msg, copied)
        cb: PacketSkbCb = skb.cb
        sock_recv_ts_and_drops(msg, sk, skb)
        msg.msg_name = cb.ll
        if sk.auxdata:
            aux = TPACKET_AUXDATA.pack(TP_STATUS_USER | _checksum_status(skb), cb.origlen, skb.len, 0,
                                       skb.network_header - skb.data, 0, 0)
            put_cmsg(msg, SOL_PACKET, PACKET_AUXDATA, aux)
        return skb.len if flags & MSG_TRUNC else copied
    finally:
        skb_free_datagram(sk, skb)


# ---- sending ------------------------------------------------------------------------------------------------------
@may_sleep
def packet_sendmsg(sock: Socket, msg: MsgHdr, length: int) -> int:
    return packet_snd(sock, msg, length)


@may_sleep
def packet_snd(sock: Socket, msg: MsgHdr, length: int) -> int:
    """Raises EINVAL, ENXIO (no such device), ENETDOWN, EMSGSIZE, ENOBUFS, and what waiting for memory raises."""
    sk = pkt_sk(sock.sk)
    addr: bytes | None = None
    if msg.msg_name is None:
        dev, proto = sk.cached_dev, sk.num
        if dev is not None:
            dev_hold(dev)
    else:
        name = msg.msg_name
        if len(name) < SOCKADDR_LL.size or len(name) < name[11] + SOCKADDR_LL_ADDR:
            raise KernelError(EINVAL)
        _, protocol, ifindex, _, _, _, _ = SOCKADDR_LL.unpack_from(name)
        proto = ntohs(protocol)
        dev = dev_get_by_index(sk.sk_net, ifindex)
        if sock.type == SOCK_DGRAM and dev is not None:
            addr = name[SOCKADDR_LL_ADDR : SOCKADDR_LL_ADDR + dev.addr_len]
    if dev is None:
        raise KernelError(ENXIO)
    try:
        return _transmit(sock, sk, msg, length, dev, proto, addr)
    finally:
        dev_put(dev)


@notrace
def _transmit(sock: Socket, sk: PacketSock, msg: MsgHdr, length: int, dev: NetDevice, proto: int,
              addr: bytes | None) -> int:
    if not dev.flags & IFF_UP:
        raise KernelError(ENETDOWN)
    raw = sock.type == SOCK_RAW
    reserve = dev.hard_header_len if raw else 0
    if length > dev.mtu + reserve + VLAN_HLEN:
        raise KernelError(EMSGSIZE)
    room = dev.hard_header_len + dev.needed_headroom
    skb = sock_alloc_send_pskb(sk, room + length, 0, msg.msg_flags & MSG_DONTWAIT)
    try:
        skb_reserve(skb, room)
        skb_reset_network_header(skb)
        data = msg.msg_iter.copy_from_iter(length)
        skb_put_data(skb, data)
        if raw:
            if length < dev.hard_header_len or length > dev.mtu + reserve:
                raise KernelError(EINVAL if length < dev.hard_header_len else EMSGSIZE)
            if not proto:
                proto = int.from_bytes(data[12:14], "big")
            skb.network_header = skb.data + dev.hard_header_len
        elif dev_hard_header(skb, dev, proto, addr, None, length) < 0:
            raise KernelError(EINVAL)
    except KernelError:
        kfree_skb(skb)
        raise
    skb.protocol = proto
    skb.dev = dev
    skb.priority = sk.sk_priority
    skb.mark = sk.sk_mark
    rc = dev_queue_xmit(skb)
    if rc < 0:
        raise KernelError(-rc)
    if rc == 1:                                  # NET_XMIT_DROP
        raise KernelError(ENOBUFS)
    return length


# ---- making, binding, closing -----------------------------------------------------------------------------------
packet_proto = Proto("PACKET", no_close, PacketSock, obj_size=1472)


def packet_create(net: Net, sock: Socket, protocol: int, kern: bool) -> None:
    """->create(). protocol: an EtherType in network order; 0: none until bind(). Raises EPERM, ESOCKTNOSUPPORT."""
    if not ns_capable(None, CAP_NET_RAW):
        raise KernelError(EPERM)
    if sock.type not in (SOCK_DGRAM, SOCK_RAW):
        raise KernelError(ESOCKTNOSUPPORT)
    sock.state = SS_UNCONNECTED
    sk = pkt_sk(sk_alloc(net, AF_PACKET, packet_proto, kern))
    sock.ops = packet_ops
    sock_init_data(sock, sk)
    sk.num = ntohs(protocol)
    sk.prot_hook = PacketType(sk.num, packet_rcv, af_packet_priv=sk)
    if sk.num:
        __register_prot_hook(sk)
    sock_hold(sk)
    net.packet.append(sk)
    sock_prot_inuse_add(net, packet_proto, 1)


@may_sleep
def packet_bind(sock: Socket, addr: bytes) -> None:
    """Raises EINVAL, ENODEV."""
    if len(addr) < SOCKADDR_LL.size:
        raise KernelError(EINVAL)
    family, protocol, ifindex, _, _, _, _ = SOCKADDR_LL.unpack_from(addr)
    if family != AF_PACKET:
        raise KernelError(EINVAL)
    sk = pkt_sk(sock.sk)
    packet_do_bind(sk, ifindex, ntohs(protocol) or sk.num)


@may_sleep
def packet_do_bind(sk: PacketSock, ifindex: int, proto: int) -> None:
    lock_sock_nested(sk)
    try:
        dev = dev_get_by_index(sk.sk_net, ifindex) if ifindex else None
        if ifindex and dev is None:
            raise KernelError(ENODEV)
        if sk.prot_hook.type != proto or sk.prot_hook.dev is not dev or not sk.running:
            __unregister_prot_hook(sk)
            if sk.prot_hook.dev is not None:
                dev_put(sk.prot_hook.dev)
            sk.num = sk.prot_hook.type = proto
            sk.prot_hook.dev = sk.cached_dev = dev
            sk.ifindex = ifindex
            if proto:
                if dev is None or dev.flags & IFF_UP:
                    __register_prot_hook(sk)
                else:
                    sk.sk_err = ENETDOWN
                    sk.sk_error_report(sk)
        elif dev is not None:
            dev_put(dev)
    finally:
        release_sock(sk)


def packet_getname(sock: Socket, peer: int) -> bytes:
    """Raises EOPNOTSUPP."""
    if peer:
        raise KernelError(EOPNOTSUPP)
    sk = pkt_sk(sock.sk)
    dev = sk.sk_net.dev_by_index.get(sk.ifindex)
    addr = dev.dev_addr if dev is not None else b""
    name = sockaddr_ll(sk.num, sk.ifindex, dev.type if dev is not None else 0, 0, addr)
    return name[: SOCKADDR_LL_ADDR + len(addr)]


@may_sleep
def packet_release(sock: Socket) -> None:
    """->release()"""
    sk = pkt_sk(sock.sk)
    if sk is None:
        return
    net = sk.sk_net
    net.packet.remove(sk)
    sock_put(sk)
    sock_prot_inuse_add(net, packet_proto, -1)
    __unregister_prot_hook(sk)
    if sk.prot_hook.dev is not None:
        dev_put(sk.prot_hook.dev)
        sk.prot_hook.dev = sk.cached_dev = None
    packet_flush_mclist(sk)
    packet_set_ring(sk, None)
    sock_orphan(sk)
    sock.sk = None  # type: ignore[assignment]
    skb_queue_purge(sk.sk_receive_queue)
    sock_put(sk)


def packet_poll(file: File, sock: Socket, wait: PollTable) -> int:
    """->poll()"""
    mask = datagram_poll(file, sock, wait)
    return mask | packet_poll_ring(pkt_sk(sock.sk))


@may_sleep
def packet_ioctl(sock: Socket, cmd: int, arg: int) -> int:
    """->ioctl(): what waits in the queues; addresses and routes are IPv4's. Raises ENOIOCTLCMD: others may know it."""
    sk = sock.sk
    if cmd == SIOCOUTQ:
        put_user_u32(arg, sk.sk_wmem_alloc)
        return 0
    if cmd == SIOCINQ:
        put_user_u32(arg, sk.sk_receive_queue.q[0].len if sk.sk_receive_queue.q else 0)
        return 0
    if cmd in INET_IOCTLS:
        return inet_ioctl(sock, cmd, arg)
    raise KernelError(ENOIOCTLCMD)


# ---- devices come and go ------------------------------------------------------------------------------------------
def packet_notifier(event: int, dev: NetDevice) -> None:
    """Sockets that are bound to a device go to sleep and wake up with it."""
    for sk in list(dev.net.packet or ()):
        if event == NETDEV_UNREGISTER:
            packet_dev_mclist_delete(sk, dev)
        if sk.ifindex != dev.ifindex:
            continue
        if event in (NETDEV_DOWN, NETDEV_UNREGISTER):
            if sk.running:
                __unregister_prot_hook(sk)
                sk.sk_err = ENETDOWN
                sk.sk_error_report(sk)
            if event == NETDEV_UNREGISTER and sk.prot_hook.dev is not None:
                sk.ifindex = -1
                dev_put(sk.prot_hook.dev)
                sk.prot_hook.dev = sk.cached_dev = None
        elif event == NETDEV_UP and sk.num:
            __register_prot_hook(sk)


# ---- /proc/net/packet -----------------------------------------------------------------------------------------------
def packet_seq_show(net: Net) -> Iterator[bytes]:
    yield b"sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n"
    for sk in net.packet:
        yield b"%016x %-6d %-4d %04x   %-5d %d %-6d %-6d %-6d\n" % (
            hash_pointer(sk.slab_address), sk.sk_refcnt, sk.sk_type, sk.num, sk.ifindex, sk.running, sk.sk_rmem_alloc,
            sock_i_uid(sk), sock_i_ino(sk))


def packet_net_init(net: Net) -> None:
    net.packet = []
    proc_create_net(net, b"packet", packet_seq_show)


def packet_net_exit(net: Net) -> None:
    proc_remove_net(net, b"packet")
    assert not net.packet


packet_ops = ProtoOps(
    family=AF_PACKET, release=packet_release, poll=packet_poll, bind=packet_bind, getname=packet_getname,
    ioctl=packet_ioctl,
    setsockopt=packet_setsockopt, getsockopt=packet_getsockopt, sendmsg=packet_sendmsg, recvmsg=packet_recvmsg,
    mmap=packet_mmap, gettstamp=sock_gettstamp,
)
packet_family_ops = NetProtoFamily(AF_PACKET, packet_create)


def packet_init(kernel: Kernel) -> None:
    proto_register(kernel, packet_proto, True)
    sock_register(kernel, packet_family_ops)
    register_pernet_subsys(kernel, PernetOperations(packet_net_init, packet_net_exit))
    register_netdevice_notifier(kernel, packet_notifier)
