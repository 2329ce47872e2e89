"""Exceptions of user code, each with its signal; RDTSC under the kernel's clock; the calls of int $0x80.

Linux: arch/x86/kernel/traps.c. Same: signal, si_code and si_addr of
every exception. Differs: RDTSC always traps (CR4.TSD), and is answered from the virtual clock, one tick a ns.
Gaps: int $0x80 serves the calls whose arguments have the same layout in 32 and 64 bits.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.entry.ptrace import DR_STEP, hw_breakpoint_handler
from glasskernel.arch.x86.ptrace import AX, CX, DX, IP
from glasskernel.arch.x86.step import X86_EFLAGS_TF
from glasskernel.arch.x86.syscalls_32 import SYSCALL_NUMBERS_32
from glasskernel.arch.x86.uaccess import user_page
from glasskernel.kernel.signal import force_sig_fault, force_sig_info
from glasskernel.kernel.signal_types import (
    BUS_ADRALN,
    FPE_FLTDIV,
    FPE_FLTINV,
    FPE_FLTOVF,
    FPE_FLTRES,
    FPE_FLTUND,
    FPE_INTDIV,
    ILL_ILLOPN,
    SI_KERNEL,
    SIGBUS,
    SIGFPE,
    SIGILL,
    SIGSEGV,
    SIGTRAP,
    TRAP_HWBKPT,
    TRAP_TRACE,
    KernelSiginfo,
)
from glasskernel.kernel.task import TIF_SINGLESTEP
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Container

    from glasskernel.kernel.task import TaskStruct


_RDTSC, _RDTSCP = b"\x0f\x31", b"\x0f\x01\xf9"

# i386 calls that mean the same with 64-bit registers: no struct, or one with the same layout.
_INT80_CALLS = (
    "exit", "fork", "read", "write", "open", "close", "creat", "link", "unlink", "chdir", "mknod", "chmod", "getpid",
    "access", "sync", "kill", "rename", "mkdir", "rmdir", "dup", "pipe", "umask", "chroot", "dup2", "getppid",
    "getpgrp", "setsid", "symlink", "readlink", "fchmod", "getpriority", "setpriority", "getpgid", "fchdir",
    "personality", "getsid", "sched_yield", "getuid32", "getgid32", "geteuid32", "getegid32", "gettid", "exit_group",
    "tgkill", "openat", "mkdirat", "unlinkat", "alarm", "pause", "nice",
)


def do_trap(task: TaskStruct, vector: int) -> None:
    """An exception other than a page fault."""
    thread = task.thread
    ip = thread.regs[IP]
    uprobes = task.kernel.uprobes
    if uprobes is not None:                   # notify_die(): DIE_INT3, DIE_DEBUG
        if vector == 3 and uprobes.pre_sstep_notifier(task):
            return
        if vector == 1 and uprobes.post_sstep_notifier(task):
            return
    thread.trap_nr = vector
    thread.error_code = thread.context.error_code if vector in (8, 10, 11, 12, 13, 17) else 0
    if vector == 0:
        force_sig_fault(SIGFPE, FPE_INTDIV, ip, task)
    elif vector == 1:
        do_debug(task, ip)
    elif vector == 3:
        force_sig_info(KernelSiginfo(SIGTRAP, SI_KERNEL))
    elif vector == 6:
        force_sig_fault(SIGILL, ILL_ILLOPN, ip, task)
    elif vector in (16, 19):
        force_sig_fault(SIGFPE, math_error_code(task, vector), ip, task)
    elif vector == 17:
        force_sig_fault(SIGBUS, BUS_ADRALN, 0, task)
    elif vector == 0x102:
        raise RuntimeError(f"the CPU engine stopped with error {task.kernel.machine.engine.error()} at {ip:#x}")
    else:                                     # #GP, #SS, #NP, #BR, #OF and software interrupts without a gate
        force_sig_info(KernelSiginfo(SIGSEGV, SI_KERNEL))


def do_debug(task: TaskStruct, ip: int) -> None:
    """A single step, or a hardware breakpoint: entry/ptrace.py says how there are any."""
    thread = task.thread
    debug = thread.debug
    code = TRAP_TRACE
    if debug is not None:
        thread.set_eflags(thread.get_eflags() | X86_EFLAGS_TF)      # POPF may have cleared it
        debug.dr6 = hw_breakpoint_handler(task, debug)
        if task.ti_flags & TIF_SINGLESTEP:
            debug.dr6 |= DR_STEP
        elif debug.dr6:
            code = TRAP_HWBKPT
        else:
            return
    force_sig_fault(SIGTRAP, code, ip, task)


@notrace
def _peek_code(task: TaskStruct, address: int, size: int) -> bytes:
    """Bytes of user code, read without a function that a trace would show. Raises EFAULT."""
    ram = task.kernel.machine.ram
    code = b""
    for at in range(address, address + size):
        physical = user_page(at, 0) + (at & 0xFFF)
        code += ram[physical : physical + 1].tobytes()
    return code


@notrace
def emulate_tsc(task: TaskStruct, ip: int) -> bool:
    """#GP of RDTSC or RDTSCP: ns since power-on. On Linux the CPU answers itself, so no trace shows it."""
    try:
        code = _peek_code(task, ip, 2)
        if code == _RDTSCP[:2]:
            code += _peek_code(task, ip + 2, 1)
    except KernelError:
        return False
    if code not in (_RDTSC, _RDTSCP) or task.thread.tsc_sigsegv:
        return False
    regs = task.thread.regs
    tsc = task.kernel.machine.now()
    regs[AX] = tsc & 0xFFFF_FFFF
    regs[DX] = tsc >> 32 & 0xFFFF_FFFF
    if code == _RDTSCP:
        regs[CX] = task.cpu                  # IA32_TSC_AUX: node << 12 | cpu
        regs[IP] = ip + 3
    else:
        regs[IP] = ip + 2
    return True


def math_error_code(task: TaskStruct, vector: int) -> int:
    """fpu__exception_code(): which unmasked floating-point error it was."""
    area = task.thread.get_fxstate()
    if vector == 16:
        errors = int.from_bytes(area[2:4], "little") & ~int.from_bytes(area[0:2], "little")
    else:
        mxcsr = int.from_bytes(area[24:28], "little")
        errors = mxcsr & ~(mxcsr >> 7)
    if errors & 0x01:
        return FPE_FLTINV
    if errors & 0x04:
        return FPE_FLTDIV
    if errors & 0x08:
        return FPE_FLTOVF
    if errors & 0x12:
        return FPE_FLTUND
    if errors & 0x20:
        return FPE_FLTRES
    return 0


@notrace
def ia32_table(declared: Container[str]) -> dict[int, str]:
    """ia32_sys_call_table: i386 numbers of the calls above, with their names in our table."""
    calls = ((name, name.removesuffix("32")) for name in _INT80_CALLS)
    return {SYSCALL_NUMBERS_32[name]: call for name, call in calls if call in declared}


