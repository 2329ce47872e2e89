"""Secure computing: a process forbids itself system calls.

Linux: kernel/seccomp.c (5.3). The programs are run by lib/bpf.py. Same: strict mode, filters in classic BPF over
struct seccomp_data, all filters of a task are run and the strictest answer wins, inheritance by fork and exec, TSYNC.
Differs: a filter is checked once and then interpreted. Owns: TaskStruct.seccomp_mode, .seccomp_filter.
Invariant: TIF_SECCOMP is set exactly while seccomp_mode is not 0, so that nobody else pays.
Gaps: SECCOMP_FILTER_FLAG_NEW_LISTENER (EINVAL), the audit log of SECCOMP_RET_LOG, ptrace's requests for filters.
Context: task, at the entry of a system call.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import AX, BP, BX, CX, DI, DX, IP, R8, R9, R10, SI
from glasskernel.arch.x86.uaccess import copy_from_user, get_user_u32
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_exit, do_group_exit
from glasskernel.kernel.pid import task_pid_vnr
from glasskernel.kernel.ptrace_stop import PTRACE_EVENT_SECCOMP, ptrace_event, ptrace_event_enabled
from glasskernel.kernel.sched.core import fatal_signal_pending
from glasskernel.kernel.signal import force_sig_info_to_task
from glasskernel.kernel.signal_types import SIGKILL, SIGSYS, SYS_SECCOMP, KernelSiginfo
from glasskernel.kernel.task import TIF_SECCOMP, TaskStruct
from glasskernel.lib.bpf import BPF_MAXINSNS, COMMON_CODES, LD_W_ABS, Instruction, program_is_safe, run_filter
from glasskernel.lib.errno import EACCES, EFAULT, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.syscalls import Registers, syscall
from glasskernel.lib.types import U64_MAX, UserPtr, notrace, u32

if TYPE_CHECKING:
    from collections.abc import Sequence

SECCOMP_MODE_DISABLED, SECCOMP_MODE_STRICT, SECCOMP_MODE_FILTER = 0, 1, 2
SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL = 0, 1, 2
FLAG_TSYNC, FLAG_LOG, FLAG_SPEC_ALLOW = 1, 2, 4
(RET_KILL_PROCESS, RET_KILL_THREAD, RET_TRAP, RET_ERRNO, RET_TRACE, RET_LOG, RET_ALLOW) = (
    0x8000_0000, 0, 0x0003_0000, 0x0005_0000, 0x7FF0_0000, 0x7FFC_0000, 0x7FFF_0000)
RET_ACTION_FULL, RET_DATA = 0xFFFF_0000, 0xFFFF
_ACTIONS = (RET_KILL_PROCESS, RET_KILL_THREAD, RET_TRAP, RET_ERRNO, RET_TRACE, RET_LOG, RET_ALLOW)
AUDIT_ARCH_X86_64, AUDIT_ARCH_I386 = 0xC000_003E, 0x4000_0003
MAX_TOTAL, MAX_ERRNO = 32768, 4095
_STRICT = {AUDIT_ARCH_X86_64: (0, 1, 60, 15), AUDIT_ARCH_I386: (3, 4, 1, 119)}      # read, write, exit, sigreturn
_DATA = struct.Struct("<IIQ6Q")


@slotted
class SeccompFilter:
    """struct seccomp_filter: one program, and those that were there before it."""

    program: tuple[Instruction, ...]
    prev: SeccompFilter | None
    total: int                                     # instructions of all of them


# ---- programs ----------------------------------------------------------------------------------------------
def seccomp_check_filter(program: Sequence[Instruction]) -> None:
    """Errors: EINVAL for a program that could do harm, or loads outside the data."""
    if not program_is_safe(program, COMMON_CODES) or any(
            code == LD_W_ABS and (k & 3 or k >= _DATA.size) for code, _jt, _jf, k in program):
        raise KernelError(EINVAL)


# ---- at each system call -----------------------------------------------------------------------------------
def __secure_computing(regs: Registers, task: TaskStruct) -> bool:
    """False: the call must not be made; rax says what it answers. Context: entry of a system call."""
    compat = task.thread.ts_compat
    arch = AUDIT_ARCH_I386 if compat else AUDIT_ARCH_X86_64
    nr = task.thread.orig_ax
    if task.seccomp_mode == SECCOMP_MODE_STRICT:
        if nr not in _STRICT[arch]:
            do_exit(SIGKILL)
        return True
    names = (BX, CX, DX, SI, DI, BP) if compat else (DI, SI, DX, R10, R8, R9)
    arguments = [regs[i] & 0xFFFF_FFFF if compat else regs[i] for i in names]
    words = struct.unpack("<16I", _DATA.pack(nr & 0xFFFF_FFFF, arch, regs[IP], *arguments))
    return __seccomp_filter(regs, task, arch, nr, seccomp_run_filters(task, words))


def seccomp_run_filters(task: TaskStruct, words: Sequence[int]) -> int:
    """Every filter is asked; the strictest action wins, of two equal ones the younger filter's."""
    answer = RET_ALLOW
    rank = _rank(answer)

    def load(_size: int, offset: int) -> int:
        return words[offset >> 2]

    filter_: SeccompFilter | None = task.seccomp_filter
    while filter_ is not None:
        value = run_filter(filter_.program, load, _DATA.size)
        if _rank(value) < rank:
            answer, rank = value, _rank(value)
        filter_ = filter_.prev
    return answer


@notrace
def _rank(value: int) -> int:
    """The action as a signed number: KILL_PROCESS is below all others."""
    action = value & RET_ACTION_FULL
    return action - (1 << 32) if action >> 31 else action


def __seccomp_filter(regs: Registers, task: TaskStruct, arch: int, nr: int, answer: int) -> bool:
    """Does what the filters answered."""
    action, data = answer & RET_ACTION_FULL, answer & RET_DATA
    if action in (RET_ALLOW, RET_LOG):
        return True
    if action == RET_ERRNO:
        regs[AX] = -min(data, MAX_ERRNO) & U64_MAX
        return False
    if action == RET_TRAP:
        regs[AX] = nr & U64_MAX                    # syscall_rollback()
        force_sig_info_to_task(_sigsys(regs, arch, nr, data), task)
        return False
    if action == RET_TRACE:
        if not ptrace_event_enabled(task, PTRACE_EVENT_SECCOMP):
            regs[AX] = -ENOSYS & U64_MAX
            return False
        ptrace_event(PTRACE_EVENT_SECCOMP, data)
        return not fatal_signal_pending(task) and task.thread.orig_ax >= 0
    if action == RET_KILL_PROCESS or len(task.signal.threads) == 1:
        do_group_exit(SIGSYS)
    do_exit(SIGSYS)
    return False


@notrace
def _sigsys(regs: Registers, arch: int, nr: int, reason: int) -> KernelSiginfo:
    return KernelSiginfo(SIGSYS, SYS_SECCOMP, reason, si_call_addr=regs[IP], si_syscall=nr, si_arch=arch)


# ---- setting it --------------------------------------------------------------------------------------------
@notrace
def seccomp_assign_mode(task: TaskStruct, mode: int) -> None:
    task.seccomp_mode = mode
    task.ti_flags |= TIF_SECCOMP


def seccomp_set_mode_strict() -> None:
    """Errors: EINVAL if filters are on."""
    task = current()
    if task.seccomp_mode not in (SECCOMP_MODE_DISABLED, SECCOMP_MODE_STRICT):
        raise KernelError(EINVAL)
    seccomp_assign_mode(task, SECCOMP_MODE_STRICT)


def seccomp_set_mode_filter(flags: int, uargs: int) -> int:
    """Adds a filter. Errors: EINVAL, EFAULT, EACCES (neither no_new_privs nor CAP_SYS_ADMIN), ENOMEM."""
    if flags & ~(FLAG_TSYNC | FLAG_LOG | FLAG_SPEC_ALLOW):
        raise KernelError(EINVAL)
    filter_ = seccomp_prepare_user_filter(uargs)
    task = current()
    if task.seccomp_mode not in (SECCOMP_MODE_DISABLED, SECCOMP_MODE_FILTER):
        raise KernelError(EINVAL)
    threads = [t for t in task.signal.threads if t is not task]
    if flags & FLAG_TSYNC:
        for t in threads:                          # seccomp_can_sync_threads()
            if t.seccomp_mode and not (t.seccomp_mode == SECCOMP_MODE_FILTER and is_ancestor(t.seccomp_filter, task)):
                return task_pid_vnr(t)
    attach_filter(task, filter_)
    if flags & FLAG_TSYNC:
        for t in threads:                          # seccomp_sync_threads()
            t.seccomp_filter = task.seccomp_filter
            seccomp_assign_mode(t, SECCOMP_MODE_FILTER)
    return 0


@notrace
def is_ancestor(parent: SeccompFilter | None, task: TaskStruct) -> bool:
    """True if the task's filters include these."""
    child: SeccompFilter | None = task.seccomp_filter
    while child is not None and child is not parent:
        child = child.prev
    return parent is None or child is parent


def attach_filter(task: TaskStruct, program: tuple[Instruction, ...]) -> None:
    """Errors: ENOMEM when all filters together are too long."""
    prev: SeccompFilter | None = task.seccomp_filter
    total = len(program) + (0 if prev is None else prev.total + 4)
    if total > MAX_TOTAL:
        raise KernelError(ENOMEM)
    task.seccomp_filter = SeccompFilter(program, prev, total)
    seccomp_assign_mode(task, SECCOMP_MODE_FILTER)


def seccomp_prepare_user_filter(user_filter: int) -> tuple[Instruction, ...]:
    """struct sock_fprog: its program, checked."""
    length, pointer = struct.unpack("<H6xQ", copy_from_user(user_filter, 16))
    if not 0 < length <= BPF_MAXINSNS:
        raise KernelError(EINVAL)
    if not current().cred.no_new_privs and not capable(CAP_SYS_ADMIN):
        raise KernelError(EACCES)
    program = tuple(struct.iter_unpack("<HBBI", copy_from_user(pointer, 8 * length)))
    seccomp_check_filter(program)
    return program


def do_seccomp(op: int, flags: int, uargs: int) -> int:
    """seccomp(2) and prctl(2)'s half of it."""
    if op == SECCOMP_SET_MODE_STRICT:
        if flags or uargs:
            raise KernelError(EINVAL)
        seccomp_set_mode_strict()
        return 0
    if op == SECCOMP_SET_MODE_FILTER:
        return seccomp_set_mode_filter(flags, uargs)
    if op == SECCOMP_GET_ACTION_AVAIL:
        if flags:
            raise KernelError(EINVAL)
        if get_user_u32(uargs) not in _ACTIONS:
            raise KernelError(EOPNOTSUPP)
        return 0
    raise KernelError(EINVAL)


@syscall(gaps="SECCOMP_FILTER_FLAG_NEW_LISTENER")
def sys_seccomp(op: u32, flags: u32, uargs: UserPtr) -> int:
    """seccomp(2). Errors: EINVAL, EFAULT, EACCES, ENOMEM, EOPNOTSUPP."""
    return do_seccomp(op, flags, uargs)


def prctl_set_seccomp(seccomp_mode: int, filter_pointer: int) -> int:
    """PR_SET_SECCOMP. Errors: EINVAL, and those of seccomp(2)."""
    if seccomp_mode == SECCOMP_MODE_STRICT:
        return do_seccomp(SECCOMP_SET_MODE_STRICT, 0, 0)
    if seccomp_mode == SECCOMP_MODE_FILTER:
        if not filter_pointer:
            raise KernelError(EFAULT)
        return do_seccomp(SECCOMP_SET_MODE_FILTER, 0, filter_pointer)
    raise KernelError(EINVAL)
