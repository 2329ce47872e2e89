"""What is written into the buffers: samples, and the records about tasks, mappings and switches.

Linux: the output half of kernel/events/core.c (5.3). Same: the records, bit for bit; which events get which of them.
Gaps: records of namespaces, kernel symbols and BPF programs (there are none that change), branch stacks.
Owns: nothing. Context: any.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import AX, BP, BX, CX, DI, DX, IP, R8, SI, SP
from glasskernel.kernel.current import register
from glasskernel.kernel.events.callchain import copy_from_user_nmi, perf_callchain, perf_instruction_pointer
from glasskernel.kernel.events.ring_buffer import perf_output_begin, perf_output_end
from glasskernel.kernel.events.types import (
    PERF_FORMAT_GROUP,
    PERF_FORMAT_ID,
    PERF_FORMAT_TOTAL_TIME_ENABLED,
    PERF_FORMAT_TOTAL_TIME_RUNNING,
    PERF_RECORD_MISC_KERNEL,
    PERF_RECORD_MISC_USER,
    PERF_RECORD_READ,
    PERF_RECORD_SAMPLE,
    PERF_RECORD_THROTTLE,
    PERF_RECORD_UNTHROTTLE,
    PERF_SAMPLE_ADDR,
    PERF_SAMPLE_CALLCHAIN,
    PERF_SAMPLE_CPU,
    PERF_SAMPLE_DATA_SRC,
    PERF_SAMPLE_ID,
    PERF_SAMPLE_IDENTIFIER,
    PERF_SAMPLE_IP,
    PERF_SAMPLE_PERIOD,
    PERF_SAMPLE_PHYS_ADDR,
    PERF_SAMPLE_RAW,
    PERF_SAMPLE_READ,
    PERF_SAMPLE_REGS_INTR,
    PERF_SAMPLE_REGS_USER,
    PERF_SAMPLE_STACK_USER,
    PERF_SAMPLE_STREAM_ID,
    PERF_SAMPLE_TID,
    PERF_SAMPLE_TIME,
    PERF_SAMPLE_TRANSACTION,
    PERF_SAMPLE_WEIGHT,
    SAMPLE_ID_ALL,
    PerfEvent,
    PerfRegs,
)
from glasskernel.kernel.trace.trace_clock import trace_clock_local
from glasskernel.lib.types import notrace
from glasskernel.mm.memory import follow_page

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

_HEADER = struct.Struct("<IHH")
_TWO_U32 = struct.Struct("<II")
_MASK = (1 << 64) - 1
_REGS_ABI_64 = 2
_PERF_MEM_NA = 0x5080021            # op, level, snoop, lock and tlb: not available
_FLAGS, _CS, _SS = 9, 10, 11        # enum perf_event_x86_regs
_REGS = (AX, BX, CX, DX, SI, DI, BP, SP, IP, -1, -1, -1, -1, -1, -1, -1, *range(R8, R8 + 8))
_USER_CS, _USER_DS = 0x33, 0x2B


@notrace
def _u64(value: int) -> bytes:
    return (value & _MASK).to_bytes(8, "little")


@notrace
def perf_event_clock(event: PerfEvent) -> int:
    """The time of a record, on the clock that the event asked for."""
    now = trace_clock_local(event.kernel, register.task.cpu)
    return now if event.clock_offset is None else now + event.clock_offset()


@notrace
def primary_event_id(event: PerfEvent) -> int:
    return event.parent.id if event.parent is not None else event.id


@notrace
def perf_event_pids(task: TaskStruct) -> bytes:
    return _TWO_U32.pack(task.tgid & 0xFFFF_FFFF, task.pid & 0xFFFF_FFFF)


@notrace
def sample_id(event: PerfEvent, task: TaskStruct | None = None) -> bytes:
    """perf_event__output_id_sample(): what ends the records that are no samples."""
    if not event.attr.flags & SAMPLE_ID_ALL:
        return b""
    kind = event.attr.sample_type
    current = register.task
    parts = []
    if kind & PERF_SAMPLE_TID:
        parts.append(perf_event_pids(task or current))
    if kind & PERF_SAMPLE_TIME:
        parts.append(_u64(perf_event_clock(event)))
    if kind & PERF_SAMPLE_ID:
        parts.append(_u64(primary_event_id(event)))
    if kind & PERF_SAMPLE_STREAM_ID:
        parts.append(_u64(event.id))
    if kind & PERF_SAMPLE_CPU:
        parts.append(_TWO_U32.pack(current.cpu, 0))
    if kind & PERF_SAMPLE_IDENTIFIER:
        parts.append(_u64(primary_event_id(event)))
    return b"".join(parts)


@notrace
def write_record(event: PerfEvent, kind: int, misc: int, body: bytes) -> None:
    """One record with its header, if there is room."""
    size = _HEADER.size + len(body)
    if size > 0xFFFF:
        return
    room = perf_output_begin(event, size, sample_id)
    if room is None:
        return
    rb, position, before = room
    target = event.parent or event
    perf_output_end(target, rb, position, before + _HEADER.pack(kind, misc, size) + body, kind == PERF_RECORD_SAMPLE)


def perf_output_read(event: PerfEvent) -> bytes:
    """PERF_SAMPLE_READ: what read(2) would answer."""
    state = event.kernel.perf_state
    assert state is not None
    fmt, ctx = event.attr.read_format, event.ctx
    state.update_context_time(ctx)
    times = b""
    leader = event.group_leader if fmt & PERF_FORMAT_GROUP else event
    state.update_event_time(leader)
    if fmt & PERF_FORMAT_TOTAL_TIME_ENABLED:
        times += _u64(leader.total_time_enabled + leader.child_total_time_enabled)
    if fmt & PERF_FORMAT_TOTAL_TIME_RUNNING:
        times += _u64(leader.total_time_running + leader.child_total_time_running)
    members = [leader, *leader.sibling_list] if fmt & PERF_FORMAT_GROUP else [event]
    values = b""
    for member in members:
        if member is not event and member.oncpu >= 0:
            member.pmu.read(member)
        values += _u64(member.count + member.child_count)
        if fmt & PERF_FORMAT_ID:
            values += _u64(primary_event_id(member))
    if fmt & PERF_FORMAT_GROUP:
        return _u64(len(members)) + times + values
    value, rest = values[:8], values[8:]
    return value + times + rest


@notrace
def _regs(task: TaskStruct, mask: int) -> bytes:
    """perf_output_sample_regs()"""
    thread = task.thread
    words = thread.regs
    found = []
    for bit in range(24):
        if mask >> bit & 1:
            special = {_FLAGS: thread.get_eflags(), _CS: _USER_CS, _SS: _USER_DS}
            found.append(_u64(special[bit] if bit in special else words[_REGS[bit]]))
    return b"".join(found)


@notrace
def _stack_user(task: TaskStruct, size: int) -> bytes:
    """perf_output_sample_ustack(): size, so many bytes, how many of them are real."""
    if task.mm is None:
        return _u64(0)
    data = copy_from_user_nmi(task, task.thread.regs[SP], size)
    return _u64(size) + data + bytes(size - len(data)) + _u64(len(data))


def perf_event_output(event: PerfEvent, regs: PerfRegs, addr: int, raw: bytes, period: int) -> None:
    """A sample. raw: the tracepoint's record."""
    attr = event.attr
    kind, task = attr.sample_type, register.task
    parts: list[bytes] = []
    add = parts.append
    if kind & PERF_SAMPLE_IDENTIFIER:
        add(_u64(primary_event_id(event)))
    if kind & PERF_SAMPLE_IP:
        add(_u64(perf_instruction_pointer(regs)))
    if kind & PERF_SAMPLE_TID:
        add(perf_event_pids(task))
    if kind & PERF_SAMPLE_TIME:
        add(_u64(perf_event_clock(event)))
    if kind & PERF_SAMPLE_ADDR:
        add(_u64(addr))
    if kind & PERF_SAMPLE_ID:
        add(_u64(primary_event_id(event)))
    if kind & PERF_SAMPLE_STREAM_ID:
        add(_u64(event.id))
    if kind & PERF_SAMPLE_CPU:
        add(_TWO_U32.pack(task.cpu, 0))
    if kind & PERF_SAMPLE_PERIOD:
        add(_u64(period))
    if kind & PERF_SAMPLE_READ:
        add(perf_output_read(event))
    if kind & PERF_SAMPLE_CALLCHAIN:
        chain = perf_callchain(event, regs)
        add(_u64(len(chain)) + b"".join(map(_u64, chain)))
    if kind & PERF_SAMPLE_RAW:
        size = -(-(len(raw) + 4) // 8) * 8 - 4
        add(size.to_bytes(4, "little") + raw.ljust(size, b"\0"))
    if kind & PERF_SAMPLE_REGS_USER:
        add(_u64(0) if task.mm is None else _u64(_REGS_ABI_64) + _regs(task, attr.sample_regs_user))
    if kind & PERF_SAMPLE_STACK_USER:
        room = 0xFFFF - _HEADER.size - sum(map(len, parts)) - 128       # perf_sample_ustack_size()
        add(_stack_user(task, min(attr.sample_stack_user, room & ~7)))
    if kind & PERF_SAMPLE_WEIGHT:
        add(_u64(0))
    if kind & PERF_SAMPLE_DATA_SRC:
        add(_u64(_PERF_MEM_NA))
    if kind & PERF_SAMPLE_TRANSACTION:
        add(_u64(0))
    if kind & PERF_SAMPLE_REGS_INTR:
        # of a place in the kernel there are no registers
        add(_u64(_REGS_ABI_64) + _regs(task, attr.sample_regs_intr) if regs.user_mode else _u64(0))
    if kind & PERF_SAMPLE_PHYS_ADDR:
        add(_u64(perf_virt_to_phys(task, addr)))
    misc = PERF_RECORD_MISC_USER if regs.user_mode else PERF_RECORD_MISC_KERNEL
    write_record(event, PERF_RECORD_SAMPLE, misc, b"".join(parts))


@notrace
def perf_virt_to_phys(task: TaskStruct, address: int) -> int:
    """0 if nothing is mapped there."""
    if not address or task.mm is None or address >> 47:
        return 0
    pfn = follow_page(task.mm, address)
    return 0 if pfn is None else (pfn << 12) + (address & 0xFFF)


def perf_log_throttle(event: PerfEvent, enable: bool) -> None:
    """Too many samples, or again as usual."""
    kind = PERF_RECORD_UNTHROTTLE if enable else PERF_RECORD_THROTTLE
    body = _u64(perf_event_clock(event)) + _u64(primary_event_id(event)) + _u64(event.id)
    write_record(event, kind, 0, body + sample_id(event))


def perf_event_read_event(event: PerfEvent, task: TaskStruct) -> None:
    """inherit_stat: what a task had counted when it ended."""
    write_record(event, PERF_RECORD_READ, 0, perf_event_pids(task) + perf_output_read(event) + sample_id(event, task))
