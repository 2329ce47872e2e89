"""BPF programs that trace: kprobes, tracepoints, raw tracepoints, samples of perf; what they may see and call.

Linux: kernel/trace/bpf_trace.c (5.3). Same: helpers of each type, the formats bpf_trace_printk() takes, which perf
event a record may go to, when a probe's own record is suppressed.
Differs: what lies at kernel addresses is bpf_memory.py's business; %p shows the address itself, which Linux hashes.
Gaps: bpf_override_return() (CONFIG_BPF_KPROBE_OVERRIDE), bpf_current_task_under_cgroup(),
    bpf_get_current_cgroup_id(); the banner of trace_printk_init_buffers().
Owns: TraceEventCall.prog_array, PerfEvent.prog: one reference each. Context: any; attaching: task.
"""
from __future__ import annotations

import re
import sys
from typing import Any

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.fs.types import File
from glasskernel.kernel.bpf.helpers import (
    bpf_get_current_comm_proto,
    bpf_get_current_pid_tgid_proto,
    bpf_get_current_uid_gid_proto,
    bpf_get_numa_node_id_proto,
    bpf_get_prandom_u32_proto,
    bpf_get_smp_processor_id_proto,
    bpf_ktime_get_ns_proto,
    bpf_map_delete_elem_proto,
    bpf_map_lookup_elem_proto,
    bpf_map_peek_elem_proto,
    bpf_map_pop_elem_proto,
    bpf_map_push_elem_proto,
    bpf_map_update_elem_proto,
    bpf_tail_call_proto,
)
from glasskernel.kernel.bpf.insn import BPF_FUNC
from glasskernel.kernel.bpf.types import (
    ARG_ANYTHING,
    ARG_CONST_MAP_PTR,
    ARG_CONST_SIZE,
    ARG_CONST_SIZE_OR_ZERO,
    ARG_DONTCARE,
    ARG_PTR_TO_CTX,
    ARG_PTR_TO_MEM,
    ARG_PTR_TO_UNINIT_MEM,
    RET_INTEGER,
    BpfFuncProto,
    BpfMap,
    BpfProg,
    BpfRun,
    c_int,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.events.core import perf_event_read
from glasskernel.kernel.events.output import perf_event_output
from glasskernel.kernel.events.types import (
    INHERIT,
    PERF_COUNT_SW_BPF_OUTPUT,
    PERF_TYPE_SOFTWARE,
    PerfEvent,
    PerfRegs,
)
from glasskernel.kernel.pid import PIDTYPE_TGID
from glasskernel.kernel.sched.types import HARDIRQ_MASK
from glasskernel.kernel.signal import group_send_sig_info, valid_signal
from glasskernel.kernel.signal_types import SEND_SIG_PRIV
from glasskernel.kernel.task import PF_EXITING, PF_KTHREAD
from glasskernel.kernel.trace.bpf_memory import pointer_to, probe_kernel_read, strncpy_from_unsafe
from glasskernel.kernel.trace.events.ftrace import TRACE_PRINT
from glasskernel.kernel.trace.stackmap import bpf_get_stack_proto, bpf_get_stackid_proto
from glasskernel.kernel.trace.trace import trace_buffer_write, tracing_update_buffers
from glasskernel.lib.errno import E2BIG, EFAULT, EINVAL, ENOENT, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.mm.memory import follow_page_mask

BPF_F_INDEX_MASK = BPF_F_CURRENT_CPU = 0xFFFF_FFFF
_BORDER = re.compile(rb"[\s!-/:-@[-`{-~]")           # isspace() or ispunct()
_CONVERSION = re.compile(rb"%(?:(?P<kind>s|p)|(?P<long>l{0,2})(?P<number>[diux]))")


# ---- reading memory ----------------------------------------------------------------------------------------------
def bpf_probe_read(run: BpfRun, dst: int, size: int, unsafe_ptr: int) -> int:
    """Memory of the kernel, or of the running program. A fault is answered, and gives zeroes."""
    size = c_int(size)
    data = probe_kernel_read(run, unsafe_ptr, size) if size else b""
    run.write(dst, data if data is not None else bytes(size))
    return 0 if data is not None else -EFAULT


def bpf_probe_read_str(run: BpfRun, dst: int, size: int, unsafe_ptr: int) -> int:
    """The same of a string; answers its length with the 0."""
    size = c_int(size)
    data = strncpy_from_unsafe(run, unsafe_ptr, size)
    run.write(dst, data if data is not None else bytes(size))
    return len(data) if data is not None else -EFAULT


def bpf_probe_write_user(run: BpfRun, unsafe_ptr: int, src: bytes, size: int) -> int:
    """Changes the running program's memory."""
    task = register.task
    if task.flags & (PF_KTHREAD | PF_EXITING) or task.mm is None or task.preempt_count & HARDIRQ_MASK:
        return -EPERM
    for page in range(unsafe_ptr & ~0xFFF, unsafe_ptr + len(src), 4096):
        if page >> 47 or follow_page_mask(task.mm, page, True) is None:
            return -EFAULT               # no page is faulted in here
    copy_to_user(unsafe_ptr, src)
    return 0


# ---- printing ----------------------------------------------------------------------------------------------------
def bpf_trace_printk(run: BpfRun, fmt: bytes, fmt_size: int, *args: int) -> int:
    """A line in the trace, with up to three values; answers its length."""
    if fmt[-1:] != b"\0":
        return -EINVAL
    text, out, at, used, strings = fmt[:-1].partition(b"\0")[0], b"", 0, 0, 0
    if any(not (32 <= byte < 127 or byte in b"\t\n\v\f\r") for byte in text):
        return -EINVAL
    while at < len(text):
        percent = text.find(b"%", at)
        if percent < 0:
            out += text[at:]
            break
        out += text[at:percent]
        match = _CONVERSION.match(text, percent)
        if match is None or used >= 3:
            return -EINVAL
        value, kind = args[used], match["kind"]
        used += 1
        at = match.end()
        if kind is not None:
            if at < len(text) and not _BORDER.match(text, at):
                return -EINVAL
            if kind == b"s":
                if strings:              # only one
                    return -EINVAL
                strings += 1
                string = strncpy_from_unsafe(run, value, 64)
                out += string[:-1] if string is not None else b""
            else:
                out += b"%016x" % value
            continue
        out += _number(match["number"], value, len(match["long"]) > 0)
    tracing = run.kernel.tracing or run.kernel.trace_init()
    tr = tracing.global_trace
    if not tr.buffer.off:
        tracing_update_buffers(tracing, tr)
        trace_buffer_write(tr, TRACE_PRINT, bytes(8) + out + b"\0")
    return len(out)


@notrace
def _number(conversion: bytes, value: int, long: bool) -> bytes:
    bits = 64 if long else 32
    value &= (1 << bits) - 1
    if conversion == b"x":
        return b"%x" % value
    return b"%d" % (value - (value >> bits - 1 << bits) if conversion in b"di" else value)


# ---- perf events in maps -----------------------------------------------------------------------------------------
@notrace
def _event_of(map: BpfMap, flags: int) -> PerfEvent | int:
    """The event that a map has at the index in flags (or for this CPU); or a negative errno."""
    index = flags & BPF_F_INDEX_MASK
    if index == BPF_F_CURRENT_CPU:
        index = register.task.cpu
    if index >= map.max_entries:
        return -E2BIG
    file: File | None = map.ptrs[index]  # type: ignore[attr-defined]
    return file.private_data if file is not None else -ENOENT


def bpf_event_output(run: BpfRun, map: BpfMap, flags: int, data: bytes, regs: PerfRegs | None = None) -> int:
    """__bpf_perf_event_output(): a sample with the program's bytes."""
    event = _event_of(map, flags)
    if isinstance(event, int):
        return event
    if event.attr.type != PERF_TYPE_SOFTWARE or event.attr.config != PERF_COUNT_SW_BPF_OUTPUT:
        return -EINVAL
    task = register.task
    if event.oncpu != task.cpu:
        return -EOPNOTSUPP
    perf_event_output(event, regs or PerfRegs(task, False, sys._getframe(2)), 0, data, event.hw.last_period)
    return 0


def bpf_perf_event_output(run: BpfRun, ctx: Any, map: BpfMap, flags: int, data: bytes, size: int) -> int:
    if flags & ~BPF_F_INDEX_MASK:
        return -EINVAL
    return bpf_event_output(run, map, flags, data)


@notrace
def get_map_perf_counter(map: BpfMap, flags: int) -> tuple[int, int, int] | int:
    """(count, enabled, running) of an event that counts on this CPU; or a negative errno."""
    if flags & ~BPF_F_INDEX_MASK:
        return -EINVAL
    event = _event_of(map, flags)
    if isinstance(event, int):
        return event
    if event.attr.flags & INHERIT or event.oncpu not in (-1, register.task.cpu):
        return -EINVAL if event.attr.flags & INHERIT else -EOPNOTSUPP
    perf_event_read(event)
    return event.count, event.total_time_enabled, event.total_time_running


def bpf_perf_event_read(run: BpfRun, map: BpfMap, flags: int) -> int:
    found = get_map_perf_counter(map, flags)
    return found if isinstance(found, int) else found[0]


def bpf_perf_event_read_value(run: BpfRun, map: BpfMap, flags: int, buf: int, size: int) -> int:
    """struct bpf_perf_event_value"""
    found = get_map_perf_counter(map, flags) if size == 24 else -EINVAL
    if isinstance(found, int):
        run.write(buf, bytes(size))
        return found
    run.write(buf, b"".join((value & U64_MAX).to_bytes(8, "little") for value in found))
    return 0


def bpf_perf_prog_read_value(run: BpfRun, ctx: Any, buf: int, size: int) -> int:
    """Counts of the event that this sample is of."""
    if size != 24:
        run.write(buf, bytes(size))
        return -EINVAL
    event: PerfEvent = ctx.event
    perf_event_read(event)
    values = (event.count, event.total_time_enabled, event.total_time_running)
    run.write(buf, b"".join((value & U64_MAX).to_bytes(8, "little") for value in values))
    return 0


# ---- the running task --------------------------------------------------------------------------------------------
def bpf_get_current_task(run: BpfRun) -> int:
    return pointer_to(run, register.task)


def bpf_send_signal(run: BpfRun, sig: int) -> int:
    """A signal to the running process."""
    task = register.task
    if task.flags & (PF_KTHREAD | PF_EXITING) or not task.pid:
        return -EPERM
    sig = c_int(sig)
    if not valid_signal(sig):
        return -EINVAL
    try:
        group_send_sig_info(sig, SEND_SIG_PRIV, task, PIDTYPE_TGID)
    except KernelError as error:
        return -error.errno
    return 0


# ---- the tables --------------------------------------------------------------------------------------------------
_read = (ARG_PTR_TO_UNINIT_MEM, ARG_CONST_SIZE_OR_ZERO, ARG_ANYTHING)
bpf_probe_read_proto = BpfFuncProto(bpf_probe_read, RET_INTEGER, _read, gpl_only=True)
bpf_probe_read_str_proto = BpfFuncProto(bpf_probe_read_str, RET_INTEGER, _read, gpl_only=True)
bpf_probe_write_user_proto = BpfFuncProto(
    bpf_probe_write_user, RET_INTEGER, (ARG_ANYTHING, ARG_PTR_TO_MEM, ARG_CONST_SIZE), gpl_only=True)
bpf_trace_printk_proto = BpfFuncProto(
    bpf_trace_printk, RET_INTEGER, (ARG_PTR_TO_MEM, ARG_CONST_SIZE, ARG_DONTCARE, ARG_DONTCARE, ARG_DONTCARE),
    gpl_only=True)
bpf_perf_event_output_proto = BpfFuncProto(
    bpf_perf_event_output, RET_INTEGER,
    (ARG_PTR_TO_CTX, ARG_CONST_MAP_PTR, ARG_ANYTHING, ARG_PTR_TO_MEM, ARG_CONST_SIZE_OR_ZERO), gpl_only=True)
bpf_perf_event_read_proto = BpfFuncProto(
    bpf_perf_event_read, RET_INTEGER, (ARG_CONST_MAP_PTR, ARG_ANYTHING), gpl_only=True)
bpf_perf_event_read_value_proto = BpfFuncProto(
    bpf_perf_event_read_value, RET_INTEGER,
    (ARG_CONST_MAP_PTR, ARG_ANYTHING, ARG_PTR_TO_UNINIT_MEM, ARG_CONST_SIZE), gpl_only=True)
bpf_perf_prog_read_value_proto = BpfFuncProto(
    bpf_perf_prog_read_value, RET_INTEGER, (ARG_PTR_TO_CTX, ARG_PTR_TO_UNINIT_MEM, ARG_CONST_SIZE), gpl_only=True)
bpf_get_current_task_proto = BpfFuncProto(bpf_get_current_task, RET_INTEGER, gpl_only=True)
bpf_send_signal_proto = BpfFuncProto(bpf_send_signal, RET_INTEGER, (ARG_ANYTHING,))

_TRACING = {BPF_FUNC[name]: proto for name, proto in {
    "map_lookup_elem": bpf_map_lookup_elem_proto, "map_update_elem": bpf_map_update_elem_proto,
    "map_delete_elem": bpf_map_delete_elem_proto, "map_push_elem": bpf_map_push_elem_proto,
    "map_pop_elem": bpf_map_pop_elem_proto, "map_peek_elem": bpf_map_peek_elem_proto,
    "probe_read": bpf_probe_read_proto, "ktime_get_ns": bpf_ktime_get_ns_proto, "tail_call": bpf_tail_call_proto,
    "get_current_pid_tgid": bpf_get_current_pid_tgid_proto, "get_current_task": bpf_get_current_task_proto,
    "get_current_uid_gid": bpf_get_current_uid_gid_proto, "get_current_comm": bpf_get_current_comm_proto,
    "trace_printk": bpf_trace_printk_proto, "get_smp_processor_id": bpf_get_smp_processor_id_proto,
    "get_numa_node_id": bpf_get_numa_node_id_proto, "perf_event_read": bpf_perf_event_read_proto,
    "probe_write_user": bpf_probe_write_user_proto, "get_prandom_u32": bpf_get_prandom_u32_proto,
    "probe_read_str": bpf_probe_read_str_proto, "send_signal": bpf_send_signal_proto,
}.items()}
_EVENTS = {BPF_FUNC[name]: proto for name, proto in {
    "perf_event_output": bpf_perf_event_output_proto, "get_stackid": bpf_get_stackid_proto,
    "get_stack": bpf_get_stack_proto,
}.items()}


def tracing_func_proto(func_id: int, prog: BpfProg) -> BpfFuncProto | None:
    """Helpers of all programs that trace."""
    return _TRACING.get(func_id)


def kprobe_prog_func_proto(func_id: int, prog: BpfProg) -> BpfFuncProto | None:
    """->get_func_proto() of KPROBE"""
    if func_id == BPF_FUNC["perf_event_read_value"]:
        return bpf_perf_event_read_value_proto
    return _EVENTS.get(func_id) or tracing_func_proto(func_id, prog)


def tp_prog_func_proto(func_id: int, prog: BpfProg) -> BpfFuncProto | None:
    """->get_func_proto() of TRACEPOINT and RAW_TRACEPOINT"""
    return _EVENTS.get(func_id) or tracing_func_proto(func_id, prog)


def pe_prog_func_proto(func_id: int, prog: BpfProg) -> BpfFuncProto | None:
    """->get_func_proto() of PERF_EVENT"""
    if func_id == BPF_FUNC["perf_prog_read_value"]:
        return bpf_perf_prog_read_value_proto
    return _EVENTS.get(func_id) or tracing_func_proto(func_id, prog)
