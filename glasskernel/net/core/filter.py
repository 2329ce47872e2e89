"""Packet filters of sockets: SO_ATTACH_FILTER, SO_ATTACH_BPF.

Linux: net/core/filter.c, include/linux/filter.h (5.3). Same: which programs are refused, loads relative to the link and
network headers, the ancillary data (SKF_AD_*), a filter's answer is how much of the packet is kept.
What eBPF programs see of a packet is filter_skb.py's. Gaps: SO_ATTACH_REUSEPORT_CBPF, VLAN tags in the ancillary data.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.current import register
from glasskernel.lib.bpf import BPF_MAXINSNS, PACKET_CODES, Instruction, program_is_safe, run_filter
from glasskernel.lib.errno import EACCES, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.net.skbuff import SKB_CAPACITY, ___pskb_trim, skb_copy_bits
from glasskernel.net.types import SOCK_FILTER_LOCKED, Sock

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfProg
    from glasskernel.net.skbuff import SkBuff

SKF_AD_OFF, SKF_NET_OFF, SKF_LL_OFF = -0x1000, -0x100000, -0x200000
(SKF_AD_PROTOCOL, SKF_AD_PKTTYPE, SKF_AD_IFINDEX, SKF_AD_NLATTR, SKF_AD_NLATTR_NEST, SKF_AD_MARK, SKF_AD_QUEUE,
 SKF_AD_HATYPE, SKF_AD_RXHASH, SKF_AD_CPU, SKF_AD_ALU_XOR_X) = range(0, 44, 4)
SKF_AD_MAX = 64
SIZEOF_BPF_PROG = 40


@slotted
class SkFilter:
    """struct sk_filter: a classic program, or prog (a reference). run(skb): how many bytes of a packet to keep. Socks
    that were accepted share their listener's."""

    program: tuple[Instruction, ...]
    run: Callable[[SkBuff], int]
    prog: BpfProg | None = None
    refcnt: int = 1


@notrace
def bpf_prog_size(fp: SkFilter) -> int:
    return SIZEOF_BPF_PROG + 8 * len(fp.program if fp.prog is None else fp.prog.insns)


def sk_filter_charge(sk: Sock, fp: SkFilter) -> None:
    """The filter counts for the sock's options. Raises ENOMEM when they take too much memory."""
    state = sk.sk_net.kernel.net
    assert state is not None
    size = bpf_prog_size(fp)
    if sk.sk_omem_alloc + size >= state.optmem_max:
        raise KernelError(ENOMEM)
    sk.sk_omem_alloc += size


def sk_filter_uncharge(sk: Sock, fp: SkFilter) -> None:
    """The sock does without it; the last one frees it."""
    sk.sk_omem_alloc -= bpf_prog_size(fp)
    sk_filter_release(fp)


@notrace
def sk_filter_release(fp: SkFilter) -> None:
    fp.refcnt -= 1
    if not fp.refcnt:
        __sk_filter_release(fp)


def __sk_filter_release(fp: SkFilter) -> None:
    if fp.prog is not None:
        from glasskernel.kernel.bpf.objects import bpf_prog_put  # who attached it imported it

        bpf_prog_put(fp.prog)


@notrace
def read_program(address: int) -> tuple[Instruction, ...]:
    """struct sock_fprog: a program in user memory. Raises EFAULT, EINVAL."""
    length, pointer = struct.unpack("<H6xQ", copy_from_user(address, 16))
    if not 0 < length <= BPF_MAXINSNS:
        raise KernelError(EINVAL)
    return tuple(struct.iter_unpack("<HBBI", copy_from_user(pointer, 8 * length)))


def bpf_check_classic(program: tuple[Instruction, ...]) -> None:
    """Raises EINVAL for a program that could do harm, or loads ancillary data that does not exist."""
    if not program_is_safe(program, PACKET_CODES):
        raise KernelError(EINVAL)
    for code, _jt, _jf, k in program:
        if code in (0x20, 0x28, 0x30) and k >= SKF_AD_OFF & 0xFFFFFFFF and k - (SKF_AD_OFF & 0xFFFFFFFF) >= SKF_AD_MAX:
            raise KernelError(EINVAL)


def sk_attach_filter(fprog: int, sk: Sock) -> None:
    """SO_ATTACH_FILTER. Raises EPERM (locked), EINVAL, EFAULT. Locks: sk's owner."""
    if sk.sk_flags & SOCK_FILTER_LOCKED:
        raise KernelError(EPERM)
    program = read_program(fprog)
    bpf_check_classic(program)
    __sk_attach_prog(SkFilter(program, partial(run_packet_filter, program)), sk)


def __sk_attach_prog(new: SkFilter, sk: Sock) -> None:
    """Raises ENOMEM."""
    sk_filter_charge(sk, new)
    if sk.sk_filter is not None:
        sk_filter_uncharge(sk, sk.sk_filter)
    sk.sk_filter = new


def sk_detach_filter(sk: Sock) -> None:
    """SO_DETACH_FILTER. Raises EPERM (locked), ENOENT."""
    if sk.sk_flags & SOCK_FILTER_LOCKED:
        raise KernelError(EPERM)
    if sk.sk_filter is None:
        raise KernelError(ENOENT)
    sk_filter_uncharge(sk, sk.sk_filter)
    sk.sk_filter = None


def sk_get_filter(sk: Sock, ubuf: int, length: int) -> int:
    """SO_GET_FILTER: the program; answers its length in instructions (length 0: only that). Raises EINVAL,
    EACCES (it is not a classic one)."""
    if sk.sk_filter is None:
        return 0
    if sk.sk_filter.prog is not None:
        raise KernelError(EACCES)
    program: tuple[Instruction, ...] = sk.sk_filter.program
    if length:
        if length < len(program):
            raise KernelError(EINVAL)
        copy_to_user(ubuf, b"".join(struct.pack("<HBBI", *instruction) for instruction in program))
    return len(program)


@notrace
def sk_filter(sk: Sock, skb: SkBuff) -> int:
    """0 if the sock wants the packet, which may have become shorter; an errno if not."""
    return sk_filter_trim_cap(sk, skb, 1) if sk.sk_filter is not None else 0


def sk_filter_trim_cap(sk: Sock, skb: SkBuff, cap: int) -> int:
    """sk_filter() that leaves at least `cap` bytes. Context: any."""
    kept = sk.sk_filter.run(skb)
    if not kept:
        return EPERM
    if max(cap, kept) < skb.len:
        ___pskb_trim(skb, max(cap, kept))
    return 0


@notrace
def run_packet_filter(program: tuple[Instruction, ...], skb: SkBuff) -> int:
    """The program's answer for a packet: how many bytes of it to keep."""

    def load(size: int, k: int) -> int | None:
        if k >= SKF_AD_OFF & 0xFFFF_FFFF:
            return _ancillary(skb, k - (SKF_AD_OFF & 0xFFFF_FFFF))
        return load_packet(skb, k - (1 << 32) if k >> 31 else k, size)

    return run_filter(program, load, skb.len)


@notrace
def load_packet(skb: SkBuff, k: int, size: int) -> int | None:
    """Bytes at k in network order; a negative k is relative to a header (SKF_NET_OFF, SKF_LL_OFF). None: outside."""
    offset = k
    if k < 0:
        header, base = (skb.network_header, SKF_NET_OFF) if k >= SKF_NET_OFF else (skb.mac_header, SKF_LL_OFF)
        if k < SKF_LL_OFF or header == SKB_CAPACITY:
            return None
        start = header + k - base                  # an offset into the linear part: headers are there
        if start < skb.data:
            return int.from_bytes(skb.head[start : start + size], "big") if start + size <= skb.tail else None
        offset = start - skb.data
    try:
        return int.from_bytes(skb_copy_bits(skb, offset, size), "big")
    except KernelError as error:
        assert error.errno == EFAULT
        return None


@notrace
def _ancillary(skb: SkBuff, which: int) -> int | None:
    if which == SKF_AD_PROTOCOL:
        return skb.protocol
    if which == SKF_AD_PKTTYPE:
        return skb.pkt_type
    if which == SKF_AD_IFINDEX:
        return None if skb.dev is None else skb.dev.ifindex
    if which == SKF_AD_HATYPE:
        return None if skb.dev is None else skb.dev.type
    if which == SKF_AD_CPU:
        return register.task.cpu
    return {SKF_AD_MARK: skb.mark, SKF_AD_QUEUE: skb.queue_mapping, SKF_AD_RXHASH: skb.hash}.get(which)
