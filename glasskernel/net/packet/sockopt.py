"""Options of packet sockets, and their memberships.

Linux: net/packet/af_packet.c (5.3): packet_setsockopt(), packet_getsockopt(), packet_mc_add(). Same: a membership
counts for the device (promiscuity, multicast addresses) and ends with the socket.
Gaps: those of af_packet.py. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.lib.errno import EADDRNOTAVAIL, EBUSY, EINVAL, ENODEV, ENOPROTOOPT, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_open import dev_mc_add, dev_mc_del, dev_set_allmulti, dev_set_promiscuity
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.packet.ring import TPACKET2_HDR, TPACKET_REQ, packet_set_ring
from glasskernel.net.packet.types import (
    PACKET_ADD_MEMBERSHIP,
    PACKET_AUXDATA,
    PACKET_COPY_THRESH,
    PACKET_DROP_MEMBERSHIP,
    PACKET_HDRLEN,
    PACKET_IGNORE_OUTGOING,
    PACKET_LOSS,
    PACKET_MR_ALLMULTI,
    PACKET_MR_MULTICAST,
    PACKET_MR_PROMISC,
    PACKET_MREQ,
    PACKET_ORIGDEV,
    PACKET_RESERVE,
    PACKET_RX_RING,
    PACKET_STATISTICS,
    PACKET_TIMESTAMP,
    PACKET_VERSION,
    TPACKET_V1,
    TPACKET_V2,
    PacketMclist,
    PacketSock,
)
from glasskernel.net.types import SOL_PACKET

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Socket

_INTS = {PACKET_AUXDATA: "auxdata", PACKET_ORIGDEV: "origdev", PACKET_VERSION: "tp_version",
         PACKET_RESERVE: "tp_reserve", PACKET_LOSS: "tp_loss", PACKET_TIMESTAMP: "tp_tstamp"}
_NOT_WITH_A_RING = (PACKET_VERSION, PACKET_RESERVE, PACKET_LOSS)
_HEADER_LENGTHS = {TPACKET_V1: 32, TPACKET_V2: TPACKET2_HDR.size}
INT_MAX = 0x7FFFFFFF


# ---- memberships ------------------------------------------------------------------------------------------------
@notrace
def packet_dev_mc(dev: NetDevice, entry: PacketMclist, what: int) -> None:
    """One user more (1) or less (-1) of what a membership wants."""
    if entry.type == PACKET_MR_PROMISC:
        dev_set_promiscuity(dev, what)
    elif entry.type == PACKET_MR_ALLMULTI:
        dev_set_allmulti(dev, what)
    elif entry.type == PACKET_MR_MULTICAST:
        if what > 0:
            dev_mc_add(dev, entry.addr)
        else:
            dev_mc_del(dev, entry.addr)


@may_sleep
def packet_mc_add(sk: PacketSock, ifindex: int, kind: int, addr: bytes) -> None:
    """Raises ENODEV, EINVAL (the address does not fit), EOVERFLOW."""
    kernel = sk.sk_net.kernel
    rtnl_lock(kernel)
    try:
        dev = sk.sk_net.dev_by_index.get(ifindex)
        if dev is None:
            raise KernelError(ENODEV)
        if len(addr) > dev.addr_len:
            raise KernelError(EINVAL)
        for entry in sk.mclist:
            if (entry.ifindex, entry.type, entry.addr) == (ifindex, kind, addr):
                entry.count += 1
                return
        entry = PacketMclist(ifindex, kind, addr)
        packet_dev_mc(dev, entry, 1)
        sk.mclist.append(entry)
    finally:
        rtnl_unlock(kernel)


@may_sleep
def packet_mc_drop(sk: PacketSock, ifindex: int, kind: int, addr: bytes) -> None:
    """Raises EADDRNOTAVAIL."""
    kernel = sk.sk_net.kernel
    rtnl_lock(kernel)
    try:
        for entry in sk.mclist:
            if (entry.ifindex, entry.type, entry.addr) == (ifindex, kind, addr):
                entry.count -= 1
                if not entry.count:
                    sk.mclist.remove(entry)
                    dev = sk.sk_net.dev_by_index.get(ifindex)
                    if dev is not None:
                        packet_dev_mc(dev, entry, -1)
                return
        raise KernelError(EADDRNOTAVAIL)
    finally:
        rtnl_unlock(kernel)


@may_sleep
def packet_flush_mclist(sk: PacketSock) -> None:
    """The socket is closed."""
    if not sk.mclist:
        return
    kernel = sk.sk_net.kernel
    rtnl_lock(kernel)
    for entry in sk.mclist:
        dev = sk.sk_net.dev_by_index.get(entry.ifindex)
        if dev is not None:
            packet_dev_mc(dev, entry, -1)
    sk.mclist.clear()
    rtnl_unlock(kernel)


def packet_dev_mclist_delete(sk: PacketSock, dev: NetDevice) -> None:
    """The device goes: memberships end. Locks: rtnl."""
    for entry in [e for e in sk.mclist if e.ifindex == dev.ifindex]:
        sk.mclist.remove(entry)
        packet_dev_mc(dev, entry, -1)


# ---- setsockopt(2), getsockopt(2) --------------------------------------------------------------------------------
@may_sleep
def packet_setsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    """Raises ENOPROTOOPT, EINVAL, EFAULT, EBUSY, and what a membership or a ring raises."""
    sk = sock.sk
    assert isinstance(sk, PacketSock)
    if level != SOL_PACKET:
        raise KernelError(ENOPROTOOPT)
    if optname in (PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP):
        if optlen < PACKET_MREQ.size:
            raise KernelError(EINVAL)
        ifindex, kind, alen, addr = PACKET_MREQ.unpack(copy_from_user(optval, PACKET_MREQ.size))
        if alen > len(addr):
            raise KernelError(EINVAL)
        change = packet_mc_add if optname == PACKET_ADD_MEMBERSHIP else packet_mc_drop
        change(sk, ifindex, kind, addr[:alen])
        return
    if optname == PACKET_RX_RING:
        if optlen < TPACKET_REQ.size:
            raise KernelError(EINVAL)
        packet_set_ring(sk, copy_from_user(optval, TPACKET_REQ.size))
        return
    if optname not in (*_INTS, PACKET_COPY_THRESH, PACKET_IGNORE_OUTGOING):
        raise KernelError(ENOPROTOOPT)
    if optlen < 4:
        raise KernelError(EINVAL)
    value = get_user_u32(optval)
    if optname in _NOT_WITH_A_RING and sk.rx_ring is not None:
        raise KernelError(EBUSY)
    if (optname == PACKET_VERSION and value not in _HEADER_LENGTHS) or (optname == PACKET_RESERVE and value > INT_MAX):
        raise KernelError(EINVAL)
    if optname == PACKET_COPY_THRESH:
        sk.copy_thresh = value
    elif optname == PACKET_IGNORE_OUTGOING:
        if value > 1:
            raise KernelError(EINVAL)
        sk.prot_hook.ignore_outgoing = bool(value)
    else:
        name = _INTS[optname]
        setattr(sk, name, bool(value) if isinstance(getattr(sk, name), bool) else value)


@may_sleep
def packet_getsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    """Raises ENOPROTOOPT, EINVAL, EFAULT."""
    sk = sock.sk
    assert isinstance(sk, PacketSock)
    if level != SOL_PACKET:
        raise KernelError(ENOPROTOOPT)
    length = get_user_u32(optlen)
    if length > INT_MAX:
        raise KernelError(EINVAL)
    if optname == PACKET_STATISTICS:
        packets, drops = sk.tp_packets, sk.tp_drops
        sk.tp_packets = sk.tp_drops = 0
        data = (packets + drops).to_bytes(4, "little") + drops.to_bytes(4, "little")
    elif optname == PACKET_HDRLEN:
        if length < 4:
            raise KernelError(EINVAL)
        version = get_user_u32(optval)
        if version not in _HEADER_LENGTHS:
            raise KernelError(EINVAL)
        data = _HEADER_LENGTHS[version].to_bytes(4, "little")
    elif optname == PACKET_IGNORE_OUTGOING:
        data = int(sk.prot_hook.ignore_outgoing).to_bytes(4, "little")
    elif optname in _INTS:
        data = int(getattr(sk, _INTS[optname])).to_bytes(4, "little")
    else:
        raise KernelError(ENOPROTOOPT)
    data = data[:length]
    put_user_u32(optlen, len(data))
    copy_to_user(optval, data)
