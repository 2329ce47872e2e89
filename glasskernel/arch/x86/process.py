"""A task's registers, its kernel stack, and the switch from one to the other.

Linux: arch/x86/kernel/process_64.c, process.c. Differs: a kernel stack is a greenlet; the registers are a
CpuContext, of which pt_regs is the view `regs`.
Owns: ThreadStruct. Invariant: `tables` is what the context's CR3 holds.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.ptrace import AX, IP, SP
from glasskernel.arch.x86.step import X86_EFLAGS_TF, flush_ptrace_hw_breakpoint
from glasskernel.arch.x86.uaccess import put_user_u32, put_user_u64
from glasskernel.kernel.current import current, register
from glasskernel.kernel.task import PF_KTHREAD, TIF_FORCED_TF
from glasskernel.lib.errno import EINVAL, ENODEV, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace
from glasskernel.machine.costs import SWITCH

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.machine.cpu import CpuContext
    from glasskernel.machine.machine import Machine

CLONE_SETTLS = 0x00080000
_USER_LIMIT = 0x7FFF_FFFF_F000


class ThreadStruct:
    """struct thread_struct and pt_regs. orig_ax: the system call's number, -1 outside one.

    regs: 64-bit words indexed by arch.x86.ptrace's AX ... IP.
    """

    __slots__ = ("context", "cr2", "debug", "debugreg", "error_code", "orig_ax", "regs", "tables", "trap_nr",
                 "ts_compat", "tsc_sigsegv")

    def __init__(self, context: CpuContext) -> None:
        self.context = context
        self.regs = context.regs
        self.orig_ax = -1
        self.debugreg: Any = None        # DebugRegisters, once a tracer has written one
        self.debug: Any = None           # the same while a breakpoint is enabled
        self.ts_compat = False           # TS_COMPAT: in a call by int $0x80
        self.tables = 0
        self.trap_nr = 0                 # of the last fault, for the signal frame
        self.error_code = 0
        self.cr2 = 0
        self.tsc_sigsegv = False         # prctl(PR_SET_TSC, PR_TSC_SIGSEGV)

    @notrace
    def get_eflags(self) -> int:
        return self.context.eflags

    @notrace
    def set_eflags(self, value: int) -> None:
        self.context.eflags = value

    @notrace
    def get_fxstate(self) -> bytes:
        """512 bytes in FXSAVE's layout."""
        return self.context.fxsave()

    @notrace
    def set_fxstate(self, area: bytes) -> None:
        self.context.fxrstor(area)

    @property
    def fs_base(self) -> int:
        return self.context.fs_base

    @fs_base.setter
    def fs_base(self, value: int) -> None:
        self.context.fs_base = value

    @property
    def gs_base(self) -> int:
        return self.context.gs_base

    @gs_base.setter
    def gs_base(self, value: int) -> None:
        self.context.gs_base = value

    @notrace
    def copy(self, machine: Machine) -> ThreadStruct:
        """The same registers in a context of its own."""
        context = machine.engine.new_context()
        context.load(self.context.image())
        thread = ThreadStruct(context)
        thread.tables = self.tables
        thread.orig_ax = self.orig_ax
        thread.tsc_sigsegv = self.tsc_sigsegv
        return thread


def copy_thread(clone_flags: int, sp: Any, arg: Any, p: TaskStruct, tls: int) -> None:
    """Gives a new task its registers and its kernel stack.

    sp, arg: for a kernel thread its function and argument; else the user stack (0: the parent's) and unused.
    """
    task = current()
    machine = p.kernel.machine
    if p.flags & PF_KTHREAD:
        p.thread = ThreadStruct(machine.engine.new_context())
        function, argument = sp, arg
    else:
        p.thread = task.thread.copy(machine)
        p.thread.regs[AX] = 0
        if task.ti_flags & TIF_FORCED_TF or task.thread.debug is not None:
            p.thread.set_eflags(p.thread.get_eflags() & ~X86_EFLAGS_TF)    # user_disable_single_step(p)
        if sp:
            p.thread.regs[SP] = sp
        if clone_flags & CLONE_SETTLS:
            p.thread.fs_base = tls
        function = argument = None
    p.stack = machine.new_stack(lambda: p.kernel.ret_from_fork(function, argument))


def start_thread(task: TaskStruct, new_ip: int, new_sp: int) -> None:
    """Registers of a program that begins: all zero but IP and SP; FPU and SSE in their initial state."""
    start_thread_common(task, new_ip, new_sp)


def start_thread_common(task: TaskStruct, new_ip: int, new_sp: int) -> None:
    thread = task.thread
    thread.context.load(task.kernel.machine.engine.new_context().image())
    thread.tables = 0
    thread.regs[IP] = new_ip
    thread.regs[SP] = new_sp


def flush_thread(task: TaskStruct) -> None:
    """What a new program does not inherit: breakpoints, traps on RDTSC. The FPU is start_thread()'s."""
    flush_ptrace_hw_breakpoint(task)
    task.thread.tsc_sigsegv = False


@notrace
def switch_to(prev: TaskStruct, next: TaskStruct) -> None:
    """Switches kernel stacks; returns when `prev` runs again, on whatever CPU."""
    register.task = next
    machine = next.kernel.machine
    cpu = machine.this_cpu
    cpu.task = next
    cpu.clock_ns += SWITCH
    stack = next.stack
    assert stack is not None, f"{next} has no stack"
    stack.switch()


ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS = 0x1001, 0x1002, 0x1003, 0x1004
ARCH_GET_CPUID, ARCH_SET_CPUID = 0x1011, 0x1012


@syscall
def sys_arch_prctl(option: int, arg2: UserPtr) -> int:
    """arch_prctl(2): FS and GS bases."""
    return do_arch_prctl_64(current(), option, arg2)


def do_arch_prctl_64(task: TaskStruct, option: int, arg2: int) -> int:
    """Of any stopped task. Raises EPERM, EINVAL, ENODEV, EFAULT."""
    thread = task.thread
    if option in (ARCH_SET_FS, ARCH_SET_GS):
        if arg2 >= _USER_LIMIT:
            raise KernelError(EPERM)
        if option == ARCH_SET_FS:
            thread.fs_base = arg2
        else:
            thread.gs_base = arg2
    elif option == ARCH_GET_FS:
        put_user_u64(arg2, thread.fs_base)
    elif option == ARCH_GET_GS:
        put_user_u64(arg2, thread.gs_base)
    elif option == ARCH_GET_CPUID:
        return 1
    elif option == ARCH_SET_CPUID:
        raise KernelError(ENODEV)                      # CPUID faulting: not on this CPU
    else:
        raise KernelError(EINVAL)
    return 0


PR_TSC_ENABLE, PR_TSC_SIGSEGV = 1, 2


def get_tsc_mode(address: int) -> int:
    """prctl(PR_GET_TSC). Raises EFAULT."""
    put_user_u32(address, PR_TSC_SIGSEGV if current().thread.tsc_sigsegv else PR_TSC_ENABLE)
    return 0


def set_tsc_mode(value: int) -> int:
    """prctl(PR_SET_TSC). Raises EINVAL."""
    if value not in (PR_TSC_ENABLE, PR_TSC_SIGSEGV):
        raise KernelError(EINVAL)
    current().thread.tsc_sigsegv = value == PR_TSC_SIGSEGV
    return 0


