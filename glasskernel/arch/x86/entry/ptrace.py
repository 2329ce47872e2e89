"""The requests of ptrace(2) that are x86's: registers one by one and all together, debug registers.

Linux: arch/x86/kernel/ptrace.c (5.3, 64-bit). Same: struct user's layout, EIO for what lies outside
    it, EINVAL for a DR7 that asks for something impossible, DR6 of the last debug exception.
Differs: debug registers are emulated: see arch/x86/hw_breakpoint.py.
Gaps: breakpoints on reads (DR7 type 3) are EINVAL; TLS segments of the GDT.
Owns: ThreadStruct.debugreg.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.hw_breakpoint import DebugRegisters, update_trap_flag
from glasskernel.arch.x86.process import do_arch_prctl_64
from glasskernel.arch.x86.ptrace import IP
from glasskernel.arch.x86.regset import (
    NT_PRFPREG,
    NT_PRSTATUS,
    USER_REGS_SIZE,
    getreg,
    putreg,
)
from glasskernel.arch.x86.step import user_disable_single_step
from glasskernel.arch.x86.uaccess import copy_to_user, put_user_u64
from glasskernel.lib.errno import EINVAL, EIO, KernelError
from glasskernel.lib.types import notrace, to_s32
from glasskernel.mm.memory import access_process_vm

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

PTRACE_PEEKUSR, PTRACE_POKEUSR, PTRACE_GETREGS, PTRACE_SETREGS = 3, 6, 12, 13
PTRACE_GETFPREGS, PTRACE_SETFPREGS, PTRACE_GET_THREAD_AREA, PTRACE_SET_THREAD_AREA = 14, 15, 25, 26
PTRACE_ARCH_PRCTL: Final = 30
_SIZEOF_USER: Final = 928
_U_DEBUGREG: Final = 848
_TASK_SIZE_MAX: Final = 0x7FFF_FFFF_F000
_GDT_ENTRY_TLS_MIN, _GDT_ENTRY_TLS_MAX = 12, 14
_EMPTY_DESCRIPTOR_FLAGS = 0x28                   # read_exec_only, seg_not_present
DR_STEP: Final = 0x4000
DR_TRAP_BITS: Final = 0xF
_EXECUTE, _WRITE = 0, 1
_LENGTHS = (1, 2, 8, 4)                          # DR7's LEN field


def ptrace_get_debugreg(task: TaskStruct, n: int) -> int:
    debug = task.thread.debugreg
    if debug is None or n in (4, 5):
        return 0
    return int(debug.address[n] if n < 4 else debug.dr6 if n == 6 else debug.dr7)


def ptrace_set_debugreg(task: TaskStruct, n: int, value: int) -> None:
    """Raises EIO (DR4, DR5), EINVAL (an address in the kernel, a kind that does not exist here)."""
    thread = task.thread
    debug = thread.debugreg
    if n in (4, 5):
        raise KernelError(EIO)
    if debug is None:
        debug = thread.debugreg = DebugRegisters()
    if n < 4:
        if value >= _TASK_SIZE_MAX:
            raise KernelError(EINVAL)
        debug.address[n] = value
        ptrace_write_dr7(task, debug, debug.dr7)
    elif n == 6:
        debug.dr6 = value
    else:
        ptrace_write_dr7(task, debug, value)


def ptrace_write_dr7(task: TaskStruct, debug: DebugRegisters, value: int) -> None:
    """Switches breakpoints on and off. Raises EINVAL, and leaves all as it was."""
    execute: dict[int, int] = {}
    watched = []
    for i in range(4):
        if not value >> 2 * i & 3:
            continue
        kind, length = value >> 16 + 4 * i & 3, _LENGTHS[value >> 18 + 4 * i & 3]
        address = debug.address[i]
        if kind == _EXECUTE:
            if length != 1:
                raise KernelError(EINVAL)
            execute[address] = i
        elif kind == _WRITE:
            if address & length - 1:
                raise KernelError(EINVAL)
            watched.append((i, address, length, access_process_vm(task, address, length)))
        else:
            raise KernelError(EINVAL)
    debug.dr7, debug.execute, debug.watched = value, execute, watched
    update_trap_flag(task, debug)


def hw_breakpoint_handler(task: TaskStruct, debug: DebugRegisters) -> int:
    """After one instruction: the bits of DR6 for the breakpoints that it hit."""
    hit = 0
    i = debug.execute.get(task.thread.regs[IP])
    if i is not None:
        hit |= 1 << i
    for slot, (number, address, length, before) in enumerate(debug.watched):
        now = access_process_vm(task, address, length)
        if now != before and len(now) == length:
            debug.watched[slot] = (number, address, length, now)
            hit |= 1 << number
    for bp in tuple(debug.bp_per_reg):           # perf events'
        now = access_process_vm(task, bp.address, bp.length)
        if now != bp.before if bp.length else bp.address == task.thread.regs[IP]:
            bp.before = now
            bp.hit()
    return hit


def ptrace_disable(child: TaskStruct) -> None:
    """The tracer lets go: what it set in the CPU is undone."""
    user_disable_single_step(child)
    debug = child.thread.debugreg
    if debug is not None:
        ptrace_write_dr7(child, debug, 0)


@notrace
def _get_thread_area(index: int, data: int) -> None:
    """do_get_thread_area(): every entry is empty."""
    if index < 0:
        raise KernelError(EIO)
    if not _GDT_ENTRY_TLS_MIN <= index <= _GDT_ENTRY_TLS_MAX:
        raise KernelError(EINVAL)
    copy_to_user(data, index.to_bytes(4, "little") + bytes(8) + _EMPTY_DESCRIPTOR_FLAGS.to_bytes(4, "little"))


def arch_ptrace(child: TaskStruct, request: int, addr: int, data: int) -> int:
    """Raises EIO, EINVAL, EFAULT, EPERM, ENODEV."""
    from glasskernel.kernel.ptrace_request import (  # late: start-up time; sys_ptrace() is there
        PTRACE_GETREGSET,
        PTRACE_SETREGSET,
        ptrace_regset,
        ptrace_request,
    )

    if request in (PTRACE_PEEKUSR, PTRACE_POKEUSR):
        if addr & 7 or addr >= _SIZEOF_USER:
            raise KernelError(EIO)
        debugreg = addr - _U_DEBUGREG >> 3 if _U_DEBUGREG <= addr < _U_DEBUGREG + 64 else -1
        if request == PTRACE_PEEKUSR:
            value = 0
            if addr < USER_REGS_SIZE:
                value = getreg(child, addr >> 3)
            elif debugreg >= 0:
                value = ptrace_get_debugreg(child, debugreg)
            put_user_u64(data, value)
        elif addr < USER_REGS_SIZE:
            putreg(child, addr >> 3, data)
        elif debugreg >= 0:
            ptrace_set_debugreg(child, debugreg, data)
        else:
            raise KernelError(EIO)
        return 0
    if request in (PTRACE_GETREGS, PTRACE_SETREGS):
        what = PTRACE_GETREGSET if request == PTRACE_GETREGS else PTRACE_SETREGSET
        ptrace_regset(child, what, NT_PRSTATUS, data, USER_REGS_SIZE)
        return 0
    if request in (PTRACE_GETFPREGS, PTRACE_SETFPREGS):
        what = PTRACE_GETREGSET if request == PTRACE_GETFPREGS else PTRACE_SETREGSET
        ptrace_regset(child, what, NT_PRFPREG, data, 512)
        return 0
    if request == PTRACE_GET_THREAD_AREA:
        _get_thread_area(to_s32(addr), data)
        return 0
    if request == PTRACE_SET_THREAD_AREA:
        raise KernelError(EIO if to_s32(addr) < 0 else EINVAL)
    if request == PTRACE_ARCH_PRCTL:
        return do_arch_prctl_64(child, to_s32(data), addr)
    return ptrace_request(child, request, addr, data)
