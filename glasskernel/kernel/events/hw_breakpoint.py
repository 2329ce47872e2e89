"""Breakpoint events: somebody executes an address, or writes to it.

Linux: kernel/events/hw_breakpoint.c, arch_build_bp_info() of arch/x86/kernel/hw_breakpoint.c (5.3). Same: what can be
    asked for and its errors; four slots for each task and CPU, reserved when the event is made.
Differs: see arch/x86/hw_breakpoint.py.
Gaps: reads (EINVAL), addresses of the kernel (EINVAL), breakpoints of a whole CPU (EOPNOTSUPP).
Owns: HwPerfEvent.breakpoint. Context: any.
"""
from __future__ import annotations

from glasskernel.arch.x86.hw_breakpoint import (
    HBP_NUM,
    ArchHwBreakpoint,
    arch_install_hw_breakpoint,
    arch_uninstall_hw_breakpoint,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.events.callchain import copy_from_user_nmi
from glasskernel.kernel.events.core import perf_exclude_event, perf_state
from glasskernel.kernel.events.software import perf_swevent_event, perf_swevent_read, perf_swevent_set_period
from glasskernel.kernel.events.types import (
    PERF_EF_START,
    PERF_HES_STOPPED,
    PERF_SAMPLE_BRANCH_STACK,
    PERF_TYPE_BREAKPOINT,
    PerfEvent,
    PerfRegs,
    Pmu,
)
from glasskernel.lib.errno import EINVAL, ENOENT, ENOSPC, EOPNOTSUPP, KernelError
from glasskernel.lib.types import notrace

HW_BREAKPOINT_W, HW_BREAKPOINT_X = 2, 4
_LENGTHS = (1, 2, 4, 8)
_TASK_SIZE_MAX = 0x7FFF_FFFF_F000


def hw_breakpoint_parse(event: PerfEvent) -> None:
    """Raises EINVAL for what the machine cannot do."""
    attr = event.attr
    if attr.bp_type == HW_BREAKPOINT_X:
        if attr.bp_len != 8:                          # sizeof(long), says Linux
            raise KernelError(EINVAL)
    elif attr.bp_type != HW_BREAKPOINT_W or attr.bp_len not in _LENGTHS or attr.bp_addr & attr.bp_len - 1:
        raise KernelError(EINVAL)
    if attr.bp_addr + attr.bp_len > _TASK_SIZE_MAX:
        raise KernelError(EINVAL)


def reserve_bp_slot(event: PerfEvent) -> None:
    """Raises ENOSPC: the task has four already."""
    target = event.hw.target
    ctx = perf_state(event.kernel).task_contexts.get(target) if target is not None else None
    if ctx is None:
        return
    others = [other.cpu for other in ctx.event_list if other.attr.type == PERF_TYPE_BREAKPOINT]
    for cpu in range(len(event.kernel.machine.cpus)):
        if event.cpu in (-1, cpu) and sum(other in (-1, cpu) for other in others) >= HBP_NUM:
            raise KernelError(ENOSPC)


def hw_breakpoint_event_init(event: PerfEvent) -> None:
    """Raises ENOENT, EINVAL, ENOSPC, EOPNOTSUPP."""
    if event.attr.type != PERF_TYPE_BREAKPOINT:
        raise KernelError(ENOENT)
    if event.attr.sample_type & PERF_SAMPLE_BRANCH_STACK or event.hw.target is None:
        raise KernelError(EOPNOTSUPP)
    hw_breakpoint_parse(event)
    reserve_bp_slot(event)


def hw_breakpoint_add(event: PerfEvent, flags: int) -> None:
    event.hw.state = 0 if flags & PERF_EF_START else PERF_HES_STOPPED
    if event.attr.sample_period:
        event.hw.last_period = event.hw.sample_period
        perf_swevent_set_period(event)
    attr, task = event.attr, event.hw.target
    assert task is not None
    length = attr.bp_len if attr.bp_type == HW_BREAKPOINT_W else 0
    bp = ArchHwBreakpoint(attr.bp_addr, length, copy_from_user_nmi(task, attr.bp_addr, length),
                          lambda: perf_bp_event(event))
    event.hw.breakpoint = bp
    arch_install_hw_breakpoint(task, bp)


def hw_breakpoint_del(event: PerfEvent, flags: int) -> None:
    assert event.hw.target is not None
    arch_uninstall_hw_breakpoint(event.hw.target, event.hw.breakpoint)


def hw_breakpoint_start(event: PerfEvent, flags: int) -> None:
    event.hw.state = 0


def hw_breakpoint_stop(event: PerfEvent, flags: int) -> None:
    event.hw.state = PERF_HES_STOPPED


@notrace
def perf_bp_event(event: PerfEvent) -> None:
    """It was hit."""
    regs = PerfRegs(register.task, True)
    if not event.hw.state and not perf_exclude_event(event, regs):
        perf_swevent_event(event, 1, regs, event.attr.bp_addr, b"")


perf_breakpoint = Pmu(b"breakpoint", PERF_TYPE_BREAKPOINT, hw_breakpoint_event_init, hw_breakpoint_add,
                      hw_breakpoint_del, hw_breakpoint_start, hw_breakpoint_stop, perf_swevent_read)
