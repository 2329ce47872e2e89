"""Receive rings of packet sockets: packets in memory that the program has mapped.

Linux: net/packet/af_packet.c (5.3): packet_set_ring(), tpacket_rcv(), packet_mmap(). Same: TPACKET_V2, its layout,
and which requests are refused; a frame belongs to the program from TP_STATUS_USER on, until it sets TP_STATUS_KERNEL.
Differs: the pages of a block lie anywhere; they are mapped when they are touched.
Gaps: V1, V3 (programs fall back to V2), transmit rings.
Owns: PacketRing and its pages. Invariant: a mapped ring stays (EBUSY).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.fs.inode import empty_aops
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EBUSY, EINVAL, ENOMEM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_KERNEL, alloc_page, get_page, put_page
from glasskernel.mm.types import VM_FAULT_SIGBUS, AddressSpace, VmOperations
from glasskernel.net.core.sock import lock_sock_nested, release_sock
from glasskernel.net.packet.types import (
    SOCKADDR_LL,
    TP_STATUS_COPY,
    TP_STATUS_KERNEL,
    TP_STATUS_LOSING,
    TP_STATUS_TS_SOFTWARE,
    TPACKET_V2,
    PacketRing,
    PacketSock,
)
from glasskernel.net.skbuff import SkBuff, skb_copy_bits, skb_queue_purge
from glasskernel.net.types import SOCK_DGRAM

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.mm.types import VmAreaStruct, VmFault
    from glasskernel.net.types import Socket

PAGE = 4096
POLLIN_RDNORM = 0x41
TPACKET_ALIGNMENT = 16
TPACKET2_HDR = struct.Struct("<IIIHHIIHH4x")
TPACKET2_HDRLEN = TPACKET2_HDR.size + SOCKADDR_LL.size
TPACKET_REQ = struct.Struct("<IIII")


@notrace
def _align(value: int) -> int:
    return (value + TPACKET_ALIGNMENT - 1) & -TPACKET_ALIGNMENT


# ---- making and mapping one ---------------------------------------------------------------------------------------
@may_sleep
def packet_set_ring(sk: PacketSock, request: bytes | None) -> None:
    """PACKET_RX_RING: struct tpacket_req; None or zeros: no ring any more. Raises EBUSY, EINVAL, ENOMEM."""
    lock_sock_nested(sk)
    try:
        block_size, block_nr, frame_size, frame_nr = TPACKET_REQ.unpack(request) if request else (0, 0, 0, 0)
        if request and (sk.mapped or (block_nr and sk.rx_ring is not None)):
            raise KernelError(EBUSY)
        ring = None
        if block_nr:
            if (sk.tp_version != TPACKET_V2 or block_size <= 0 or block_size % PAGE or not frame_size
                    or frame_size < _align(TPACKET2_HDRLEN) + sk.tp_reserve or frame_size % TPACKET_ALIGNMENT
                    or block_size < frame_size or block_nr * (block_size // frame_size) != frame_nr):
                raise KernelError(EINVAL)
            ring = PacketRing(alloc_pg_vec(sk, block_nr * block_size // PAGE), block_size, frame_size,
                              block_size // frame_size, frame_nr - 1)
        elif frame_nr:
            raise KernelError(EINVAL)
        old, sk.rx_ring = sk.rx_ring, ring
        skb_queue_purge(sk.sk_receive_queue)
        if old is not None:
            free_pg_vec(sk, old)
    finally:
        release_sock(sk)


def alloc_pg_vec(sk: PacketSock, nr_pages: int) -> list[int]:
    """Raises ENOMEM."""
    kernel = sk.sk_net.kernel
    pages: list[int] = []
    try:
        if nr_pages > kernel.mem.totalram_pages // 2:
            raise KernelError(ENOMEM)
        for _ in range(nr_pages):
            pages.append(alloc_page(kernel, GFP_KERNEL | __GFP_ZERO))
    except KernelError:
        for pfn in pages:
            put_page(kernel, pfn)
        raise
    return pages


def free_pg_vec(sk: PacketSock, ring: PacketRing) -> None:
    for pfn in ring.pages:
        put_page(sk.sk_net.kernel, pfn)


def packet_mm_open(vma: VmAreaStruct) -> None:
    _sock_of(vma).mapped += 1


def packet_mm_close(vma: VmAreaStruct) -> None:
    _sock_of(vma).mapped -= 1


@notrace
def packet_mm_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->fault(): Linux inserts all pages at mmap()."""
    sk = _sock_of(vma)
    ring = sk.rx_ring
    if ring is None or vmf.pgoff >= len(ring.pages):
        return VM_FAULT_SIGBUS
    vmf.pfn = ring.pages[vmf.pgoff]
    get_page(sk.sk_net.kernel, vmf.pfn)
    return 0


@notrace
def _sock_of(vma: VmAreaStruct) -> PacketSock:
    assert vma.vm_file is not None
    sk = vma.vm_file.private_data.sk
    assert isinstance(sk, PacketSock)
    return sk


packet_mmap_ops = VmOperations(fault=packet_mm_fault, open=packet_mm_open, close=packet_mm_close)


def packet_mmap(file: File, sock: Socket, vma: VmAreaStruct) -> None:
    """->mmap(): the whole ring, from its beginning. Raises EINVAL."""
    sk = sock.sk
    assert isinstance(sk, PacketSock)
    ring = sk.rx_ring
    if vma.vm_pgoff or ring is None or vma.vm_end - vma.vm_start != len(ring.pages) * PAGE:
        raise KernelError(EINVAL)
    if file.f_mapping is None:                   # sockets have none (new_inode_pseudo()), but mappings are listed there
        inode = file.f_inode
        inode.i_mapping = inode.i_data = file.f_mapping = AddressSpace(inode, empty_aops)
    sk.mapped += 1
    vma.vm_ops = packet_mmap_ops


# ---- its frames -----------------------------------------------------------------------------------------------------
@notrace
def _offset(ring: PacketRing, frame: int) -> int:
    """Where a frame begins: frames do not cross blocks."""
    block, position = divmod(frame, ring.frames_per_block)
    return block * ring.block_size + position * ring.frame_size


@notrace
def _write(sk: PacketSock, ring: PacketRing, offset: int, data: bytes) -> None:
    ram = sk.sk_net.kernel.machine.ram
    while data:
        page, start = divmod(offset, PAGE)
        part = data[: PAGE - start]
        at = (ring.pages[page] << 12) + start
        ram[at : at + len(part)] = part
        offset += len(part)
        data = data[len(part) :]


@notrace
def packet_status(sk: PacketSock, ring: PacketRing, frame: int) -> int:
    """__packet_get_status(): whose it is."""
    page, start = divmod(_offset(ring, frame), PAGE)
    at = (ring.pages[page] << 12) + start
    return int.from_bytes(sk.sk_net.kernel.machine.ram[at : at + 4], "little")


@notrace
def tpacket_store(sk: PacketSock, skb: SkBuff, snaplen: int, address: bytes, status: int) -> bool:
    """A packet into the next frame. False: that is still the program's. Context: softirqs off."""
    ring = sk.rx_ring
    assert ring is not None
    if packet_status(sk, ring, ring.head) != TP_STATUS_KERNEL:
        return False
    if sk.sk_type == SOCK_DGRAM:
        netoff = macoff = _align(TPACKET2_HDRLEN) + 16 + sk.tp_reserve
    else:
        maclen = max(skb.network_header - skb.data, 0)
        netoff = _align(TPACKET2_HDRLEN + max(maclen, 16)) + sk.tp_reserve
        macoff = netoff - maclen
    if macoff + snaplen > ring.frame_size:
        snaplen = max(ring.frame_size - macoff, 0)
        status |= TP_STATUS_COPY if sk.copy_thresh else 0
    if sk.tp_drops:
        status |= TP_STATUS_LOSING
    begin = _offset(ring, ring.head)
    ring.head = 0 if ring.head == ring.frame_max else ring.head + 1
    seconds, ns = divmod(skb.tstamp or ktime_get_real(), 1_000_000_000)
    if skb.tstamp:
        status |= TP_STATUS_TS_SOFTWARE
    _write(sk, ring, begin + macoff, skb_copy_bits(skb, 0, snaplen))
    header = TPACKET2_HDR.pack(status, skb.len, snaplen, macoff, netoff, seconds, ns, 0, 0)
    _write(sk, ring, begin, header + address)
    return True


@notrace
def packet_poll_ring(sk: PacketSock) -> int:
    """POLLIN if the frame that was filled last is still the program's."""
    ring = sk.rx_ring
    if ring is None:
        return 0
    previous = ring.head - 1 if ring.head else ring.frame_max
    return POLLIN_RDNORM if packet_status(sk, ring, previous) != TP_STATUS_KERNEL else 0
