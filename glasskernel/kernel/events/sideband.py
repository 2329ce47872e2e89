"""Records about what tasks do, so that samples can be understood: names, mappings, births, deaths, switches.

Linux: the side-band half of kernel/events/core.c (5.3). Same: who gets which record, their layouts and flags.
Owns: nothing. Context: task, or the scheduler.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.fs.d_path import d_path
from glasskernel.kernel.current import register
from glasskernel.kernel.events.core import (
    ctx_sched_in,
    ctx_sched_out,
    event_filter_match,
    perf_event_enable_on_exec,
    perf_event_exit_task_context,
    perf_state,
)
from glasskernel.kernel.events.output import perf_event_clock, perf_event_pids, sample_id, write_record
from glasskernel.kernel.events.software import count_migration, perf_sw_event
from glasskernel.kernel.events.types import (
    COMM,
    CONTEXT_SWITCH,
    MMAP,
    MMAP2,
    MMAP_DATA,
    PERF_COUNT_SW_CONTEXT_SWITCHES,
    PERF_EVENT_STATE_INACTIVE,
    PERF_RECORD_COMM,
    PERF_RECORD_EXIT,
    PERF_RECORD_FORK,
    PERF_RECORD_MISC_COMM_EXEC,
    PERF_RECORD_MISC_MMAP_DATA,
    PERF_RECORD_MISC_SWITCH_OUT,
    PERF_RECORD_MISC_SWITCH_OUT_PREEMPT,
    PERF_RECORD_MISC_USER,
    PERF_RECORD_MMAP,
    PERF_RECORD_MMAP2,
    PERF_RECORD_SWITCH,
    PERF_RECORD_SWITCH_CPU_WIDE,
    TASK,
    PerfEvent,
)
from glasskernel.kernel.task import TASK_RUNNING
from glasskernel.lib.types import notrace
from glasskernel.mm.types import (
    VM_DENYWRITE,
    VM_EXEC,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_READ,
    VM_WRITE,
    VmAreaStruct,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.kernel.task import TaskStruct

_PROT = ((VM_READ, 1), (VM_WRITE, 2), (VM_EXEC, 4))
_MAP_SHARED, _MAP_PRIVATE, _MAP_DENYWRITE, _MAP_LOCKED = 1, 2, 0x800, 0x2000


@notrace
def perf_iterate_sb(task: TaskStruct, wanted: int) -> Iterator[PerfEvent]:
    """Events of this CPU and of the task that asked for one of these records."""
    state = perf_state(task.kernel)
    cpu = register.task.cpu
    for ctx in (state.cpu_contexts[cpu], state.task_contexts.get(task)):
        if ctx is not None:
            for event in tuple(ctx.event_list):
                if (event.attr.flags & wanted and event.state >= PERF_EVENT_STATE_INACTIVE
                        and event_filter_match(event, cpu)):
                    yield event


@notrace
def _padded(name: bytes) -> bytes:
    return name + b"\0" * (8 - len(name) % 8)


# ---- names, births, deaths ---------------------------------------------------------------------------------------
def perf_event_comm(task: TaskStruct, exec_: bool) -> None:
    """The task has a new name."""
    for event in perf_iterate_sb(task, COMM):
        perf_event_comm_output(event, task, exec_)


def perf_event_comm_output(event: PerfEvent, task: TaskStruct, exec_: bool) -> None:
    misc = PERF_RECORD_MISC_COMM_EXEC if exec_ else 0
    write_record(event, PERF_RECORD_COMM, misc,
                 perf_event_pids(task) + _padded(task.comm) + sample_id(event, task))


def perf_event_exec(task: TaskStruct) -> None:
    """A new program: events that wait for it begin to count."""
    perf_event_enable_on_exec(task)


def perf_event_fork(child: TaskStruct) -> None:
    perf_event_task(child, True)


def perf_event_exit_task(task: TaskStruct) -> None:
    """The task will never run user code again."""
    perf_event_task(task, False)
    perf_event_exit_task_context(task)
    perf_state(task.kernel).migrated.pop(task, None)


def perf_event_task(task: TaskStruct, new: bool) -> None:
    """Fork: for those who watch the parent; exit: for those who watch the task."""
    for event in perf_iterate_sb(register.task if new else task, COMM | MMAP | MMAP2 | MMAP_DATA | TASK):
        perf_event_task_output(event, task, new)


def perf_event_task_output(event: PerfEvent, task: TaskStruct, new: bool) -> None:
    parent = register.task
    body = struct.pack("<4IQ", task.tgid, parent.tgid, task.pid, parent.pid, perf_event_clock(event))
    write_record(event, PERF_RECORD_FORK if new else PERF_RECORD_EXIT, 0, body + sample_id(event, task))


# ---- mappings ----------------------------------------------------------------------------------------------------
@notrace
def _name_of(vma: VmAreaStruct) -> bytes:
    if vma.vm_file is not None:
        return d_path(vma.vm_file.f_path)
    ops, mm = vma.vm_ops, vma.vm_mm
    if ops is not None and ops.name is not None:
        return ops.name(vma)
    if vma.vm_start <= mm.start_brk and vma.vm_end >= mm.brk:
        return b"[heap]"
    if vma.vm_start <= mm.start_stack <= vma.vm_end:
        return b"[stack]"
    return b"//anon"


def perf_event_mmap(vma: VmAreaStruct) -> None:
    """The running program has a new mapping."""
    wanted = MMAP | MMAP2 if vma.vm_flags & VM_EXEC else MMAP_DATA
    for event in perf_iterate_sb(register.task, wanted):
        perf_event_mmap_output(event, vma)


def perf_event_mmap_output(event: PerfEvent, vma: VmAreaStruct) -> None:
    flags = vma.vm_flags
    misc = PERF_RECORD_MISC_USER | (0 if flags & VM_EXEC else PERF_RECORD_MISC_MMAP_DATA)
    body = perf_event_pids(register.task) + struct.pack("<3Q", vma.vm_start, vma.vm_end - vma.vm_start,
                                                         vma.vm_pgoff << 12)
    kind = PERF_RECORD_MMAP
    if event.attr.flags & MMAP2:
        kind = PERF_RECORD_MMAP2
        device = number = generation = 0
        if vma.vm_file is not None:
            inode = vma.vm_file.f_path.dentry.d_inode or vma.vm_file.f_inode
            device, number, generation = inode.i_sb.s_dev, inode.i_ino, inode.i_generation
        prot = sum(bit for area, bit in _PROT if flags & area)
        kinds = _MAP_SHARED if flags & VM_MAYSHARE else _MAP_PRIVATE
        kinds |= (_MAP_DENYWRITE if flags & VM_DENYWRITE else 0) | (_MAP_LOCKED if flags & VM_LOCKED else 0)
        body += struct.pack("<2I2Q2I", device >> 20, device & 0xFFFFF, number, generation, prot, kinds)
    write_record(event, kind, misc, body + _padded(_name_of(vma)) + sample_id(event))


# ---- switches ----------------------------------------------------------------------------------------------------
def __perf_event_task_sched_out(prev: TaskStruct, next_: TaskStruct) -> None:
    """prev leaves its CPU."""
    perf_sw_event(PERF_COUNT_SW_CONTEXT_SWITCHES, False, 0)
    perf_event_switch(prev, next_, False)
    ctx = perf_state(prev.kernel).task_contexts.get(prev)
    if ctx is not None:
        ctx_sched_out(ctx)


def __perf_event_task_sched_in(prev: TaskStruct, task: TaskStruct) -> None:
    """The running task has come to a CPU."""
    state = perf_state(task.kernel)
    ctx = state.task_contexts.get(task)
    if ctx is not None and not ctx.is_active:
        ctx_sched_in(ctx, task.cpu)
    perf_event_switch(task, prev, True)
    count_migration(state, task)


def perf_event_switch(task: TaskStruct, other: TaskStruct, sched_in: bool) -> None:
    misc = 0
    if not sched_in:
        misc = PERF_RECORD_MISC_SWITCH_OUT
        if task.state == TASK_RUNNING:
            misc |= PERF_RECORD_MISC_SWITCH_OUT_PREEMPT
    for event in perf_iterate_sb(task, CONTEXT_SWITCH):
        if event.ctx.task is not None:
            write_record(event, PERF_RECORD_SWITCH, misc, sample_id(event))
        else:
            write_record(event, PERF_RECORD_SWITCH_CPU_WIDE, misc, perf_event_pids(other) + sample_id(event))
