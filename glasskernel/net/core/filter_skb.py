"""BPF programs that see an sk_buff: filters of sockets (SO_ATTACH_BPF).

Linux: the __sk_buff part of net/core/filter.c, bpf_prog_test_run_skb() of net/bpf/test_run.c (5.3). Same: which fields
may be read and written, how wide; what a filter may call.
Differs: the context is a SkbContext: a packet and the 20 bytes of cb[] that are the program's own.
Gaps: programs of the traffic control and of cgroups; sock pointers; flow_keys; bpf_get_cgroup_classid().
Context: softirq, task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf.helpers import bpf_base_func_proto
from glasskernel.kernel.bpf.insn import BPF_FUNC
from glasskernel.kernel.bpf.objects import bpf_prog_get_type, bpf_prog_put
from glasskernel.kernel.bpf.trace_hooks import bpf_event_output
from glasskernel.kernel.bpf.types import (
    ARG_ANYTHING,
    ARG_CONST_MAP_PTR,
    ARG_CONST_SIZE,
    ARG_CONST_SIZE_OR_ZERO,
    ARG_PTR_TO_CTX,
    ARG_PTR_TO_MEM,
    ARG_PTR_TO_UNINIT_MEM,
    BPF_PROG_TYPE_SOCKET_FILTER,
    BPF_WRITE,
    RET_INTEGER,
    BpfFuncProto,
    BpfInsnAccessAux,
    BpfMap,
    BpfProg,
    BpfProgOps,
    BpfProgType,
    BpfRun,
    BpfVerifierOps,
)
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import EFAULT, EINVAL, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.core.filter import SkFilter, __sk_attach_prog, load_packet
from glasskernel.net.core.filter_xdp import BPF_F_CTXLEN_MASK, BPF_F_INDEX_MASK
from glasskernel.net.core.sock import sock_gen_cookie
from glasskernel.net.ethernet.eth import eth_type_trans
from glasskernel.net.init import start_network
from glasskernel.net.netdevice import ETH_HLEN
from glasskernel.net.skbuff import SKB_CAPACITY, SkBuff, skb_copy_bits, skb_push, skb_put_data, skb_reserve
from glasskernel.net.types import SOCK_FILTER_LOCKED, Sock

if TYPE_CHECKING:
    from collections.abc import Callable

# struct __sk_buff
(_LEN, _PKT_TYPE, _MARK, _QUEUE_MAPPING, _PROTOCOL, _VLAN_PRESENT, _VLAN_TCI, _VLAN_PROTO, _PRIORITY, _INGRESS_IFINDEX,
 _IFINDEX, _TC_INDEX) = range(0, 48, 4)
_CB, _CB_END, _HASH, _TC_CLASSID, _DATA, _DATA_END, _NAPI_ID = 48, 68, 68, 72, 76, 80, 84
_FAMILY, _LOCAL_PORT, _DATA_META, _FLOW_KEYS, _TSTAMP, _WIRE_LEN, _GSO_SEGS, _SK, _SIZE = (
    88, 136, 140, 144, 152, 160, 164, 168, 176)
BPF_HDR_START_MAC, BPF_HDR_START_NET = 0, 1
_TEST_HEADROOM = 64                      # NET_SKB_PAD + NET_IP_ALIGN


@slotted
class SkbContext:
    """What a program gets: a packet, and bpf_skb_cb()."""

    skb: SkBuff
    cb: bytearray = field(default_factory=lambda: bytearray(_CB_END - _CB))


# ---- the context -----------------------------------------------------------------------------------------------------
def bpf_skb_is_valid_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    """What is common to all types that see an sk_buff."""
    if not 0 <= off < _SIZE or off % size:
        return False
    if _CB <= off < _CB_END:
        return off + size <= _CB_END
    if _FLOW_KEYS <= off < _TSTAMP or off >= _SK:
        return False
    if _TSTAMP <= off < _WIRE_LEN:
        return size == 8
    if type == BPF_WRITE or off in (_DATA, _DATA_END, _DATA_META):
        return size == 4
    info.ctx_field_size = 4
    return size in (1, 2, 4)


def sk_filter_is_valid_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    """->is_valid_access() of SOCKET_FILTER"""
    word = off & ~3
    if word in (_TC_CLASSID, _DATA, _DATA_END, _TSTAMP, _TSTAMP + 4, _WIRE_LEN) or _FAMILY <= off < _FLOW_KEYS:
        return False
    if type == BPF_WRITE and not _CB <= off < _CB_END:
        return False
    return bpf_skb_is_valid_access(off, size, type, prog, info)


_FIELDS: dict[int, Callable[[SkBuff], int]] = {
    _LEN: lambda skb: skb.len,
    _PKT_TYPE: lambda skb: skb.pkt_type,
    _MARK: lambda skb: skb.mark,
    _QUEUE_MAPPING: lambda skb: skb.queue_mapping,
    _PROTOCOL: lambda skb: int.from_bytes(skb.protocol.to_bytes(2, "big"), "little"),
    _VLAN_PRESENT: lambda skb: 0,
    _VLAN_TCI: lambda skb: skb.vlan_tci,
    _VLAN_PROTO: lambda skb: 0,
    _PRIORITY: lambda skb: skb.priority,
    _INGRESS_IFINDEX: lambda skb: skb.skb_iif,
    _IFINDEX: lambda skb: skb.dev.ifindex if skb.dev is not None else 0,
    _TC_INDEX: lambda skb: 0,
    _HASH: lambda skb: skb.hash,
    _NAPI_ID: lambda skb: 0,
    _GSO_SEGS: lambda skb: skb.shinfo.gso_segs,
}


def bpf_convert_ctx_access(type: int, off: int, size: int, prog: BpfProg) -> Callable[..., int | None]:
    """->convert_ctx_access()"""
    if _CB <= off < _CB_END:
        at = off - _CB
        if type == BPF_WRITE:
            return _store_cb(at, size)
        return lambda run: int.from_bytes(run.ctx.cb[at : at + size], "little")
    read = _FIELDS[off]
    return lambda run: read(run.ctx.skb) & 0xFFFF_FFFF


@notrace
def _store_cb(at: int, size: int) -> Callable[[BpfRun, int], None]:
    def store(run: BpfRun, value: int) -> None:
        run.ctx.cb[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    return store


@notrace
def bpf_gen_ld_abs(run: BpfRun, offset: int, size: int) -> int | None:
    """->gen_ld_abs()"""
    return load_packet(run.ctx.skb, offset, size)


# ---- helpers ---------------------------------------------------------------------------------------------------------
@notrace
def _load(run: BpfRun, skb: SkBuff, offset: int, to: int, size: int) -> int:
    size &= 0xFFFF_FFFF
    try:
        data = skb_copy_bits(skb, offset, size)
    except KernelError:
        run.write(to, bytes(size))
        return -EFAULT
    run.write(to, data)
    return 0


def bpf_skb_load_bytes(run: BpfRun, ctx: SkbContext, offset: int, to: int, size: int) -> int:
    """Bytes of the packet."""
    offset &= 0xFFFF_FFFF
    if offset > 0xFFFF:
        run.write(to, bytes(size & 0xFFFF_FFFF))
        return -EFAULT
    return _load(run, ctx.skb, offset, to, size)


def bpf_skb_load_bytes_relative(run: BpfRun, ctx: SkbContext, offset: int, to: int, size: int, start: int) -> int:
    """Bytes behind one of its headers."""
    offset &= 0xFFFF_FFFF
    skb = ctx.skb
    header = {BPF_HDR_START_MAC: skb.mac_header, BPF_HDR_START_NET: skb.network_header}.get(start & 0xFFFF_FFFF)
    if offset > 0xFFFF or header is None or header == SKB_CAPACITY:
        run.write(to, bytes(size & 0xFFFF_FFFF))
        return -EFAULT
    at = header - skb.data + offset
    if at < 0:                           # headers that were taken off are still there
        size &= 0xFFFF_FFFF
        data = bytes(skb.head[skb.data + at : skb.data + at + size])
        run.write(to, data)
        return 0
    return _load(run, skb, at, to, size)


def bpf_get_socket_cookie(run: BpfRun, ctx: SkbContext) -> int:
    sk = ctx.skb.sk
    return sock_gen_cookie(sk) if sk is not None else 0


def bpf_get_socket_uid(run: BpfRun, ctx: SkbContext) -> int:
    sk = ctx.skb.sk
    return 65534 if sk is None else sk.sk_uid


def bpf_skb_event_output(run: BpfRun, ctx: SkbContext, map: BpfMap, flags: int, meta: bytes, meta_size: int) -> int:
    """A record with the program's data, and as much of the packet as flags say."""
    size = (flags & BPF_F_CTXLEN_MASK) >> 32
    if flags & ~(BPF_F_CTXLEN_MASK | BPF_F_INDEX_MASK):
        return -EINVAL
    if size > ctx.skb.len:
        return -EFAULT
    return bpf_event_output(run, map, flags & BPF_F_INDEX_MASK, meta + skb_copy_bits(ctx.skb, 0, size))


_PROTOS = {BPF_FUNC[name]: proto for name, proto in {
    "skb_load_bytes": BpfFuncProto(bpf_skb_load_bytes, RET_INTEGER, (
        ARG_PTR_TO_CTX, ARG_ANYTHING, ARG_PTR_TO_UNINIT_MEM, ARG_CONST_SIZE)),
    "skb_load_bytes_relative": BpfFuncProto(bpf_skb_load_bytes_relative, RET_INTEGER, (
        ARG_PTR_TO_CTX, ARG_ANYTHING, ARG_PTR_TO_UNINIT_MEM, ARG_CONST_SIZE, ARG_ANYTHING)),
    "get_socket_cookie": BpfFuncProto(bpf_get_socket_cookie, RET_INTEGER, (ARG_PTR_TO_CTX,)),
    "get_socket_uid": BpfFuncProto(bpf_get_socket_uid, RET_INTEGER, (ARG_PTR_TO_CTX,)),
    "perf_event_output": BpfFuncProto(bpf_skb_event_output, RET_INTEGER, (
        ARG_PTR_TO_CTX, ARG_CONST_MAP_PTR, ARG_ANYTHING, ARG_PTR_TO_MEM, ARG_CONST_SIZE_OR_ZERO), gpl_only=True),
}.items()}


def sk_filter_func_proto(func_id: int, prog: BpfProg) -> BpfFuncProto | None:
    """->get_func_proto() of SOCKET_FILTER"""
    return _PROTOS.get(func_id) or bpf_base_func_proto(func_id, prog)


# ---- attaching -------------------------------------------------------------------------------------------------------
def sk_attach_bpf(ufd: int, sk: Sock) -> None:
    """SO_ATTACH_BPF. Raises EPERM (locked), EBADF, EINVAL, ENOMEM. Locks: sk's owner."""
    if sk.sk_flags & SOCK_FILTER_LOCKED:
        raise KernelError(EPERM)
    prog = bpf_prog_get_type(ufd, BPF_PROG_TYPE_SOCKET_FILTER)
    try:
        __sk_attach_prog(SkFilter((), lambda skb: prog.run(SkbContext(skb)), prog), sk)
    except KernelError:
        bpf_prog_put(prog)
        raise


# ---- test runs -------------------------------------------------------------------------------------------------------
def bpf_prog_test_run_skb(prog: BpfProg, data: bytes, repeat: int,
                          ctx_in: bytes | None) -> tuple[int, bytes, bytes | None, int]:
    """->test_run(): a packet that came in at lo. Raises EINVAL."""
    if not ETH_HLEN <= len(data) <= 4096 - _TEST_HEADROOM - 320:
        raise KernelError(EINVAL)
    dev = start_network(prog.kernel).init_net.loopback_dev
    skb = SkBuff(_TEST_HEADROOM + len(data))
    skb_reserve(skb, _TEST_HEADROOM)
    skb_put_data(skb, data)
    skb.protocol = eth_type_trans(skb, dev)
    skb.network_header = skb.data
    start = ktime_get()
    for _ in range(repeat):
        retval = prog.run(SkbContext(skb))
    duration = (ktime_get() - start) // repeat
    skb_push(skb, ETH_HLEN)
    return retval, skb_copy_bits(skb, 0, skb.len), None, duration


sk_filter_verifier_ops = BpfVerifierOps(sk_filter_func_proto, sk_filter_is_valid_access, bpf_convert_ctx_access,
                                        gen_ld_abs=bpf_gen_ld_abs)
sk_filter_prog_type = BpfProgType(b"socket_filter", sk_filter_verifier_ops, BpfProgOps(bpf_prog_test_run_skb))
