"""Maps of stack traces, and the helpers that take one.

Linux: kernel/bpf/stackmap.c (5.3). Here, because walking stacks is above BPF. Same: a trace's key is its bucket, which
its hash says; flags; what is refused.
Differs: the hash is CRC-32, not jhash2(). Gaps: build IDs (BPF_F_STACK_BUILD_ID: EINVAL).
Owns: BpfStackMap.buckets. Context: any; bpf(2): task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from glasskernel.kernel.bpf.memory import bpf_map_area_alloc, bpf_map_area_free, bpf_map_charge_init
from glasskernel.kernel.bpf.types import (
    ARG_ANYTHING,
    ARG_CONST_MAP_PTR,
    ARG_CONST_SIZE_OR_ZERO,
    ARG_PTR_TO_CTX,
    ARG_PTR_TO_UNINIT_MEM,
    BPF_F_NUMA_NODE,
    BPF_MAP_TYPE_STACK_TRACE,
    RET_INTEGER,
    BpfFuncProto,
    BpfMap,
    BpfMapOps,
    BpfRun,
    c_int,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.events.callchain import perf_callchain_user
from glasskernel.kernel.events.types import PerfRegs
from glasskernel.kernel.trace.stacktrace import walk_frames
from glasskernel.lib.errno import EEXIST, EFAULT, EINVAL, ENOENT, EPERM, KernelError
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.syscall_map import MapAttr

BPF_F_SKIP_FIELD_MASK, BPF_F_USER_STACK, BPF_F_FAST_STACK_CMP, BPF_F_REUSE_STACKID = 0xFF, 1 << 8, 1 << 9, 1 << 10
BPF_F_USER_BUILD_ID = 1 << 11
_BUCKET = 24                             # sizeof(struct stack_map_bucket)


class BpfStackMap(BpfMap):
    """struct bpf_stack_map. buckets: (hash, addresses) by key."""

    __slots__ = ("buckets", "n_buckets")

    def __init__(self, kernel: Kernel, attr: MapAttr) -> None:
        super().__init__(kernel, BPF_MAP_TYPE_STACK_TRACE, attr.key_size, attr.value_size, attr.max_entries,
                         attr.flags_to_keep)
        self.n_buckets = 1 << (attr.max_entries - 1).bit_length()
        self.buckets: dict[int, tuple[int, tuple[int, ...]]] = {}


# ---- the map -----------------------------------------------------------------------------------------------------
def stack_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfMap:
    """->map_alloc(). Raises EPERM, EINVAL, E2BIG."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if (attr.map_flags & ~BPF_F_NUMA_NODE or not attr.max_entries or attr.key_size != 4 or attr.value_size < 8
            or attr.value_size % 8 or attr.value_size // 8 > kernel.sysctl.perf_event_max_stack):
        raise KernelError(EINVAL)
    smap = BpfStackMap(kernel, attr)
    size = smap.n_buckets * (8 + _BUCKET + attr.value_size)
    smap.memory_pages, smap.user = bpf_map_charge_init(kernel, size)
    smap.kaddr = bpf_map_area_alloc(kernel, size)
    return smap


def stack_map_free(map: BpfMap) -> None:
    """->map_free()"""
    assert isinstance(map, BpfStackMap)
    map.buckets.clear()
    bpf_map_area_free(map.kernel, map.kaddr)


def bpf_stackmap_copy(map: BpfMap, key: bytes) -> bytes | None:
    """->map_copy_value()"""
    assert isinstance(map, BpfStackMap)
    bucket = map.buckets.get(int.from_bytes(key, "little"))
    if bucket is None:
        return None
    return b"".join(ip.to_bytes(8, "little") for ip in bucket[1]).ljust(map.value_size, b"\0")


def stack_map_get_next_key(map: BpfMap, key: bytes | None) -> bytes:
    """->map_get_next_key(). Raises ENOENT."""
    assert isinstance(map, BpfStackMap)
    number = -1 if key is None else int.from_bytes(key, "little")
    first = number + 1 if number in map.buckets else 0
    found = min((used for used in map.buckets if used >= first), default=None)
    if found is None:
        raise KernelError(ENOENT)
    return found.to_bytes(4, "little")


def stack_map_update_elem(map: BpfMap, key: bytes, value: bytes, flags: int) -> None:
    """->map_update_elem(): only programs make traces."""
    raise KernelError(EINVAL)


def stack_map_delete_elem(map: BpfMap, key: bytes) -> None:
    """->map_delete_elem(). Raises ENOENT, E2BIG."""
    assert isinstance(map, BpfStackMap)
    if map.buckets.pop(int.from_bytes(key, "little"), None) is None:
        raise KernelError(ENOENT)


# ---- helpers -----------------------------------------------------------------------------------------------------
@notrace
def _addresses(run: BpfRun, ctx: Any, user: bool, limit: int) -> list[int]:
    """get_perf_callchain(), innermost first. ctx.frame: where in the kernel the program's event was; None: nowhere."""
    if not user:
        return walk_frames(ctx.frame)[:limit]
    task = register.task
    found: list[int] = []
    if task.mm is not None:
        perf_callchain_user(found, PerfRegs(task, True), limit)
    return found


def bpf_get_stackid(run: BpfRun, ctx: Any, map: BpfMap, flags: int) -> int:
    """The key of the stack trace of here, kept in the map. -EFAULT: there is none; -EEXIST: its bucket is taken."""
    assert isinstance(map, BpfStackMap)
    known = BPF_F_SKIP_FIELD_MASK | BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP | BPF_F_REUSE_STACKID
    if flags & U64_MAX & ~known:
        return -EINVAL
    skip = flags & BPF_F_SKIP_FIELD_MASK
    ips = tuple(_addresses(run, ctx, bool(flags & BPF_F_USER_STACK), map.value_size // 8)[skip:])
    if not ips:
        return -EFAULT
    value: int = crc32(b"".join(ip.to_bytes(8, "little") for ip in ips))
    number: int = value & map.n_buckets - 1
    bucket = map.buckets.get(number)
    if bucket is not None:
        if bucket[0] == value and (flags & BPF_F_FAST_STACK_CMP or bucket[1] == ips):
            return number
        if not flags & BPF_F_REUSE_STACKID:
            return -EEXIST
    map.buckets[number] = value, ips
    return number


def bpf_get_stack(run: BpfRun, ctx: Any, buf: int, size: int, flags: int) -> int:
    """The stack trace of here, as addresses; how many bytes they are."""
    size = c_int(size)
    err = -EINVAL
    if not flags & U64_MAX & ~(BPF_F_SKIP_FIELD_MASK | BPF_F_USER_STACK) and not size % 8:
        skip = flags & BPF_F_SKIP_FIELD_MASK
        ips = _addresses(run, ctx, bool(flags & BPF_F_USER_STACK), skip + size // 8)[skip:]
        if ips:
            data = b"".join(ip.to_bytes(8, "little") for ip in ips)
            run.write(buf, data.ljust(size, b"\0"))
            return len(data)
        err = -EFAULT
    run.write(buf, bytes(size))
    return err


bpf_get_stackid_proto = BpfFuncProto(
    bpf_get_stackid, RET_INTEGER, (ARG_PTR_TO_CTX, ARG_CONST_MAP_PTR, ARG_ANYTHING), gpl_only=True)
bpf_get_stack_proto = BpfFuncProto(
    bpf_get_stack, RET_INTEGER, (ARG_PTR_TO_CTX, ARG_PTR_TO_UNINIT_MEM, ARG_CONST_SIZE_OR_ZERO, ARG_ANYTHING),
    gpl_only=True)
stack_trace_map_ops = BpfMapOps(
    stack_map_alloc, stack_map_free, map_copy_value=bpf_stackmap_copy, map_update_elem=stack_map_update_elem,
    map_delete_elem=stack_map_delete_elem, map_get_next_key=stack_map_get_next_key)
