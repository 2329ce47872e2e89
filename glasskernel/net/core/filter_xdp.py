"""BPF programs of type XDP: what they may see and call.

Linux: the XDP part of net/core/filter.c, bpf_prog_test_run_xdp() of net/bpf/test_run.c (5.3). Same: fields of struct
xdp_md, the limits of each helper, the errors of test runs.
Gaps: bpf_fib_lookup(), the sock lookups, bpf_tcp_check_syncookie().
Context: softirq (test runs: task).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf.helpers import bpf_base_func_proto, bpf_get_smp_processor_id_proto
from glasskernel.kernel.bpf.insn import BPF_FUNC
from glasskernel.kernel.bpf.trace_hooks import bpf_event_output
from glasskernel.kernel.bpf.types import (
    ARG_ANYTHING,
    ARG_CONST_MAP_PTR,
    ARG_CONST_SIZE_OR_ZERO,
    ARG_PTR_TO_CTX,
    ARG_PTR_TO_MEM,
    ARG_PTR_TO_MEM_OR_NULL,
    BPF_WRITE,
    MAX_BPF_STACK,
    PTR_TO_PACKET,
    PTR_TO_PACKET_END,
    PTR_TO_PACKET_META,
    RET_INTEGER,
    BpfFuncProto,
    BpfInsnAccessAux,
    BpfMap,
    BpfProg,
    BpfProgOps,
    BpfProgType,
    BpfRun,
    BpfVerifierOps,
    c_int,
)
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import EACCES, EFAULT, EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.devmap import BpfDtab, __dev_map_lookup_elem
from glasskernel.net.core.xdp import (
    XDP_ABORTED,
    XDP_MEMORY,
    XDP_PACKET_HEADROOM,
    XDP_REDIRECT,
    XDP_TX,
    XdpBuff,
    XdpRxqInfo,
)
from glasskernel.net.init import start_network
from glasskernel.net.netdevice import ETH_HLEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel

# struct xdp_md
_DATA, _DATA_END, _DATA_META, _INGRESS_IFINDEX, _RX_QUEUE_INDEX, _SIZE = 0, 4, 8, 12, 16, 20
_XDP_FRAME = 32                          # sizeof(struct xdp_frame): what a program must leave of the headroom
_NET_IP_ALIGN = 0                        # x86
_POINTERS = {_DATA: PTR_TO_PACKET, _DATA_META: PTR_TO_PACKET_META, _DATA_END: PTR_TO_PACKET_END}
BPF_F_INDEX_MASK, BPF_F_CTXLEN_MASK = 0xFFFF_FFFF, 0xFFFFF << 32


# ---- the context -----------------------------------------------------------------------------------------------------
def xdp_is_valid_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    """->is_valid_access()"""
    if type == BPF_WRITE:
        return False
    if off in _POINTERS:
        info.reg_type = _POINTERS[off]
    return 0 <= off < _SIZE and not off % size and size == 4


def xdp_convert_ctx_access(type: int, off: int, size: int, prog: BpfProg) -> Callable[[BpfRun], int]:
    """->convert_ctx_access()"""
    return {
        _DATA: lambda run: XDP_MEMORY + run.ctx.data,
        _DATA_END: lambda run: XDP_MEMORY + run.ctx.data_end,
        _DATA_META: lambda run: XDP_MEMORY + run.ctx.data_meta,
        _INGRESS_IFINDEX: lambda run: run.ctx.rxq.dev.ifindex,
        _RX_QUEUE_INDEX: lambda run: run.ctx.rxq.queue_index,
    }[off]


@notrace
def xdp_packet(xdp: XdpBuff) -> tuple[bytearray, int]:
    return xdp.memory, XDP_MEMORY


def bpf_warn_invalid_xdp_action(kernel: Kernel, act: int) -> None:
    kernel.printk(f"Illegal XDP return value {act}, expect packet loss!", 4)


# ---- helpers ---------------------------------------------------------------------------------------------------------
def bpf_xdp_adjust_head(run: BpfRun, xdp: XdpBuff, offset: int) -> int:
    """The packet begins earlier or later."""
    offset = c_int(offset)
    metalen = xdp.data - xdp.data_meta
    data = xdp.data + offset
    if data < xdp.data_hard_start + _XDP_FRAME + metalen or data > xdp.data_end - ETH_HLEN:
        return -EINVAL
    if metalen:
        meta = xdp.data_meta
        xdp.memory[meta + offset : meta + offset + metalen] = xdp.memory[meta : meta + metalen]
    xdp.data_meta += offset
    xdp.data = data
    return 0


def bpf_xdp_adjust_tail(run: BpfRun, xdp: XdpBuff, offset: int) -> int:
    """It ends earlier."""
    offset = c_int(offset)
    if offset >= 0 or xdp.data_end + offset < xdp.data + ETH_HLEN:
        return -EINVAL
    xdp.data_end += offset
    return 0


def bpf_xdp_adjust_meta(run: BpfRun, xdp: XdpBuff, offset: int) -> int:
    """Room for notes in front of it."""
    meta = xdp.data_meta + c_int(offset)
    metalen = xdp.data - meta
    if meta < xdp.data_hard_start + _XDP_FRAME or metalen < 0:
        return -EINVAL
    if metalen & 3 or metalen > 32:
        return -EACCES
    xdp.data_meta = meta
    return 0


def bpf_xdp_redirect(run: BpfRun, ifindex: int, flags: int) -> int:
    if flags:
        return XDP_ABORTED
    run.ctx.redirect = (ifindex & 0xFFFF_FFFF, None, None)
    return XDP_REDIRECT


def bpf_xdp_redirect_map(run: BpfRun, map: BpfMap, ifindex: int, flags: int) -> int:
    """flags: what is answered if there is nothing in the map."""
    if flags > XDP_TX:
        return XDP_ABORTED
    index = ifindex & 0xFFFF_FFFF
    target = __dev_map_lookup_elem(map, index) if isinstance(map, BpfDtab) else None
    if target is None:
        run.ctx.redirect = None
        return flags
    run.ctx.redirect = (index, map, target)
    return XDP_REDIRECT


def bpf_csum_diff(run: BpfRun, old: bytes | None, from_size: int, new: bytes | None, to_size: int, seed: int) -> int:
    """What a checksum changes by when `old` becomes `new`."""
    old, new = old or b"", new or b""
    if (len(old) | len(new)) & 3 or len(old) + len(new) > MAX_BPF_STACK:
        return -EINVAL
    diff = bytes(~byte & 0xFF for byte in old) + new
    total = int.from_bytes(diff, "little") + (seed & 0xFFFF_FFFF)        # 2**32 is 1 modulo 2**32 - 1
    return total % 0xFFFF_FFFF or (0xFFFF_FFFF if total else 0)


def bpf_xdp_event_output(run: BpfRun, xdp: XdpBuff, map: BpfMap, flags: int, meta: bytes, meta_size: int) -> int:
    """A record with the program's data, and as much of the packet as flags say."""
    size = (flags & BPF_F_CTXLEN_MASK) >> 32
    if flags & ~(BPF_F_CTXLEN_MASK | BPF_F_INDEX_MASK):
        return -EINVAL
    if size > xdp.data_end - xdp.data:
        return -EFAULT
    return bpf_event_output(run, map, flags & BPF_F_INDEX_MASK,
                            meta + bytes(xdp.memory[xdp.data : xdp.data + size]))


_size = (ARG_PTR_TO_MEM, ARG_CONST_SIZE_OR_ZERO)
bpf_csum_diff_proto = BpfFuncProto(
    bpf_csum_diff, RET_INTEGER, (ARG_PTR_TO_MEM_OR_NULL, ARG_CONST_SIZE_OR_ZERO, ARG_PTR_TO_MEM_OR_NULL,
                                 ARG_CONST_SIZE_OR_ZERO, ARG_ANYTHING), pkt_access=True)
_PROTOS = {
    BPF_FUNC["perf_event_output"]: BpfFuncProto(
        bpf_xdp_event_output, RET_INTEGER, (ARG_PTR_TO_CTX, ARG_CONST_MAP_PTR, ARG_ANYTHING, *_size), gpl_only=True),
    BPF_FUNC["get_smp_processor_id"]: bpf_get_smp_processor_id_proto,
    BPF_FUNC["csum_diff"]: bpf_csum_diff_proto,
    BPF_FUNC["xdp_adjust_head"]: BpfFuncProto(
        bpf_xdp_adjust_head, RET_INTEGER, (ARG_PTR_TO_CTX, ARG_ANYTHING), changes_pkt_data=True),
    BPF_FUNC["xdp_adjust_meta"]: BpfFuncProto(
        bpf_xdp_adjust_meta, RET_INTEGER, (ARG_PTR_TO_CTX, ARG_ANYTHING), changes_pkt_data=True),
    BPF_FUNC["xdp_adjust_tail"]: BpfFuncProto(
        bpf_xdp_adjust_tail, RET_INTEGER, (ARG_PTR_TO_CTX, ARG_ANYTHING), changes_pkt_data=True),
    BPF_FUNC["redirect"]: BpfFuncProto(bpf_xdp_redirect, RET_INTEGER, (ARG_ANYTHING, ARG_ANYTHING)),
    BPF_FUNC["redirect_map"]: BpfFuncProto(
        bpf_xdp_redirect_map, RET_INTEGER, (ARG_CONST_MAP_PTR, ARG_ANYTHING, ARG_ANYTHING)),
}


def xdp_func_proto(func_id: int, prog: BpfProg) -> BpfFuncProto | None:
    """->get_func_proto()"""
    return _PROTOS.get(func_id) or bpf_base_func_proto(func_id, prog)


# ---- test runs -------------------------------------------------------------------------------------------------------
def bpf_prog_test_run_xdp(prog: BpfProg, data: bytes, repeat: int,
                          ctx_in: bytes | None) -> tuple[int, bytes, bytes | None, int]:
    """->test_run(): a packet that came in at lo. Raises EINVAL."""
    headroom = XDP_PACKET_HEADROOM + _NET_IP_ALIGN
    if ctx_in is not None or not ETH_HLEN <= len(data) <= 4096 - headroom - 320:
        raise KernelError(EINVAL)
    rxq = XdpRxqInfo(start_network(prog.kernel).init_net.loopback_dev)
    xdp = XdpBuff(bytearray(headroom) + data, headroom, headroom + len(data), headroom, 0, rxq)
    start = ktime_get()
    for _ in range(repeat):
        retval = prog.run(xdp)
    duration = (ktime_get() - start) // repeat
    return retval, bytes(xdp.memory[xdp.data : xdp.data_end]), None, duration


xdp_verifier_ops = BpfVerifierOps(xdp_func_proto, xdp_is_valid_access, xdp_convert_ctx_access, xdp_packet)
xdp_prog_type = BpfProgType(b"xdp", xdp_verifier_ops, BpfProgOps(bpf_prog_test_run_xdp))
