"""Restartable sequences: user space knows its CPU, and short code that a switch interrupts starts over.

Linux: kernel/rseq.c (5.3). Same: registration, the CPU number in memory, abort of a critical section at the
    return to user mode after a preemption, a migration or a signal. Differs: the scheduler sets
    TIF_NOTIFY_RESUME for registered tasks at every switch; the RSEQ_CS_FLAG_NO_RESTART_* bits therefore
    cannot tell the three reasons apart.
Gaps: those flags are read but only all of them together prevent the abort.
Owns: TaskStruct.rseq. Context: the current task on its way to user mode.
"""
from __future__ import annotations

import struct

from glasskernel.arch.x86.ptrace import IP
from glasskernel.arch.x86.uaccess import (
    access_ok,
    copy_from_user,
    copy_to_user,
    get_user_u32,
    get_user_u64,
    put_user_u64,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.signal import force_sigsegv
from glasskernel.kernel.task import PF_EXITING, TIF_NOTIFY_RESUME, TaskStruct
from glasskernel.lib.errno import EBUSY, EFAULT, EINVAL, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, u32

RSEQ_FLAG_UNREGISTER = 1
RSEQ_CPU_ID_UNINITIALIZED = 0xFFFF_FFFF
RSEQ_SIZE = 32
RSEQ_NO_RESTART_MASK = 7
_CPU_IDS = struct.Struct("<II")                  # cpu_id_start, cpu_id
_RSEQ_CS = struct.Struct("<IIQQQ")               # version, flags, start_ip, post_commit_offset, abort_ip


@notrace
def rseq_update_cpu_id(task: TaskStruct) -> None:
    """Stores the CPU number. Raises EFAULT."""
    copy_to_user(task.rseq, _CPU_IDS.pack(task.cpu, task.cpu))


@notrace
def rseq_reset_rseq_cpu_id(task: TaskStruct) -> None:
    copy_to_user(task.rseq, _CPU_IDS.pack(0, RSEQ_CPU_ID_UNINITIALIZED))


@notrace
def rseq_ip_fixup(task: TaskStruct) -> None:
    """Inside a critical section: goes on at its abort handler. Raises EFAULT, EINVAL (bad descriptor)."""
    address = get_user_u64(task.rseq + 8)
    if not address:
        return
    version, flags, start, length, abort = _RSEQ_CS.unpack(copy_from_user(address, 32))
    if version or start + length >= 1 << 64 or abort >= 0x7FFF_FFFF_F000:
        raise KernelError(EINVAL)
    if abort - start & (1 << 64) - 1 < length:   # the handler lies inside the section
        raise KernelError(EINVAL)
    if get_user_u32(abort - 4) != task.rseq_sig:
        raise KernelError(EINVAL)
    regs = task.thread.regs
    inside = regs[IP] - start & (1 << 64) - 1 < length
    if inside:
        flags |= get_user_u32(task.rseq + 16)
        if flags & RSEQ_NO_RESTART_MASK == RSEQ_NO_RESTART_MASK:
            return
    put_user_u64(task.rseq + 8, 0)
    if inside:
        regs[IP] = abort


def __rseq_handle_notify_resume(task: TaskStruct) -> None:
    """The task ran elsewhere or was interrupted: brings its struct rseq up to date. Bad memory: SIGSEGV."""
    if not task.rseq or task.flags & PF_EXITING:
        return
    try:
        rseq_ip_fixup(task)
        rseq_update_cpu_id(task)
    except KernelError:
        force_sigsegv(11)


@notrace
def rseq_handle_notify_resume(task: TaskStruct) -> None:
    """What exit_to_usermode_loop() calls for TIF_NOTIFY_RESUME."""
    if task.rseq:
        __rseq_handle_notify_resume(task)


@notrace
def rseq_signal_deliver(task: TaskStruct) -> None:
    """Before a handler's frame is written: the frame must hold the address after an abort."""
    if task.rseq:
        __rseq_handle_notify_resume(task)


@syscall(gaps="RSEQ_CS_FLAG_NO_RESTART_* only all together")
def sys_rseq(rseq: UserPtr, rseq_len: u32, flags: int, sig: u32) -> int:
    """rseq(2). Errors: EINVAL, EFAULT, EPERM (signature), EBUSY (registered twice)."""
    task = current()
    if flags & RSEQ_FLAG_UNREGISTER:
        if flags & ~RSEQ_FLAG_UNREGISTER or task.rseq != rseq or not task.rseq or rseq_len != RSEQ_SIZE:
            raise KernelError(EINVAL)
        if task.rseq_sig != sig:
            raise KernelError(EPERM)
        rseq_reset_rseq_cpu_id(task)
        task.rseq = 0
        task.rseq_sig = 0
        return 0
    if flags:
        raise KernelError(EINVAL)
    if task.rseq:
        if task.rseq != rseq or rseq_len != RSEQ_SIZE:
            raise KernelError(EINVAL)
        if task.rseq_sig != sig:
            raise KernelError(EPERM)
        raise KernelError(EBUSY)
    if rseq & 31 or rseq_len != RSEQ_SIZE:
        raise KernelError(EINVAL)
    if not access_ok(rseq, rseq_len):
        raise KernelError(EFAULT)
    task.rseq = rseq
    task.rseq_sig = sig
    task.ti_flags |= TIF_NOTIFY_RESUME
    return 0
