"""Call chains of samples: where in the kernel, then where in the program.

Linux: kernel/events/callchain.c, arch/x86/events/core.c (5.3). Same: PERF_CONTEXT_KERNEL and _USER before each half;
    user frames by frame pointers, as far as their pages are there: a sample never faults anything in.
Differs: the kernel's half is Python's frames; perf's own functions are left out.
Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import BP, IP
from glasskernel.kernel.events.types import (
    EXCLUDE_CALLCHAIN_KERNEL,
    EXCLUDE_CALLCHAIN_USER,
    PERF_CONTEXT_KERNEL,
    PERF_CONTEXT_USER,
    PerfEvent,
    PerfRegs,
)
from glasskernel.kernel.trace.stacktrace import walk_frames
from glasskernel.lib.types import notrace
from glasskernel.mm.memory import follow_page, read_pages

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

_TASK_SIZE = 0x7FFF_FFFF_F000


@notrace
def copy_from_user_nmi(task: TaskStruct, address: int, size: int) -> bytes:
    """Bytes of the program's memory that are there now; shorter at the first page that is not."""
    mm = task.mm
    if mm is None:
        return b""
    return read_pages(mm, address, size, lambda mm, at: follow_page(mm, at) if 0 <= at < _TASK_SIZE else None)


@notrace
def perf_instruction_pointer(regs: PerfRegs) -> int:
    if regs.user_mode:
        return int(regs.task.thread.regs[IP])
    chain = walk_frames(regs.frame)
    return chain[0] if chain else 0


def perf_callchain(event: PerfEvent, regs: PerfRegs) -> list[int]:
    """The words of a sample's call chain."""
    flags, limit = event.attr.flags, event.attr.sample_max_stack
    found: list[int] = []
    if not regs.user_mode and not flags & EXCLUDE_CALLCHAIN_KERNEL:
        found.append(PERF_CONTEXT_KERNEL)
        perf_callchain_kernel(found, regs, limit)
    if not flags & EXCLUDE_CALLCHAIN_USER and regs.task.mm is not None:
        found.append(PERF_CONTEXT_USER)
        perf_callchain_user(found, regs, limit)
    return found


def perf_callchain_kernel(found: list[int], regs: PerfRegs, limit: int) -> None:
    found += walk_frames(regs.frame)[:limit]


def perf_callchain_user(found: list[int], regs: PerfRegs, limit: int) -> None:
    words = regs.task.thread.regs
    found.append(words[IP])
    frame = words[BP]
    for _ in range(limit - 1):
        pair = copy_from_user_nmi(regs.task, frame, 16)
        if len(pair) < 16 or not frame or frame & 7:
            break
        following, address = int.from_bytes(pair[:8], "little"), int.from_bytes(pair[8:], "little")
        if not address:
            break
        found.append(address)
        if following <= frame:
            break
        frame = following
