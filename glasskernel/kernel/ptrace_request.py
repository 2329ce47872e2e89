"""ptrace(2): one process controls another.

Linux: kernel/ptrace.c (5.3). Same: who may trace whom, attaching by signal or by PTRACE_SEIZE, the stops and what
    resumes them, group stops under PTRACE_LISTEN. The tie between both sides is kernel/ptrace.py, the tracee's side
    kernel/ptrace_stop.py, the registers arch/x86/regset.py, the requests of x86 arch/x86/entry/ptrace.py.
Owns: TaskStruct.ptrace, JOBCTL_TRAPPING. Gaps: PTRACE_O_SUSPEND_SECCOMP and the seccomp requests (EINVAL),
    PTRACE_SINGLEBLOCK (EIO: the CPU has no branch steps).
Context of every function: task.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.ptrace import AX, DI, DX, IP, R8, R9, R10, SI, SP
from glasskernel.arch.x86.regset import user_x86_64_view
from glasskernel.arch.x86.step import user_disable_single_step, user_enable_single_step
from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u64, put_user_u64
from glasskernel.kernel.capability import CAP_SYS_PTRACE, has_capability
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.ptrace import __ptrace_detach, ptrace_link
from glasskernel.kernel.ptrace_access import PTRACE_MODE_ATTACH_REALCREDS, SUID_DUMP_USER, __ptrace_may_access
from glasskernel.kernel.ptrace_stop import (
    PT_OPT_FLAG_SHIFT,
    PT_PTRACED,
    PTRACE_EVENT_STOP,
    PTRACE_EVENTMSG_SYSCALL_ENTRY,
    PTRACE_EVENTMSG_SYSCALL_EXIT,
)
from glasskernel.kernel.sched.core import schedule, set_current_state, wake_up_state
from glasskernel.kernel.signal import (
    JOBCTL_LISTENING,
    JOBCTL_TRAP_NOTIFY,
    JOBCTL_TRAP_STOP,
    JOBCTL_TRAPPING,
    PT_SEIZED,
    __fatal_signal_pending,
    ptrace_signal_wake_up,
    recalc_sigpending_and_wake,
    send_sig_info,
    signal_wake_up_state,
    task_set_jobctl_pending,
    valid_signal,
)
from glasskernel.kernel.signal_types import (
    SEND_SIG_PRIV,
    SIG_KERNEL_ONLY_MASK,
    SIGINFO_SIZE,
    SIGKILL,
    SIGSTOP,
    SIGTRAP,
    KernelSiginfo,
)
from glasskernel.kernel.task import (
    PF_EXITING,
    PF_KTHREAD,
    TASK_KILLABLE,
    TASK_RUNNING,
    TASK_STOPPED_BIT,
    TASK_TRACED,
    TASK_TRACED_BIT,
    TIF_SYSCALL_EMU,
    TIF_SYSCALL_TRACE,
    TaskStruct,
)
from glasskernel.lib.errno import EINVAL, EIO, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, ulong
from glasskernel.mm.memory import get_user_page

if TYPE_CHECKING:
    pass

(PTRACE_TRACEME, PTRACE_PEEKTEXT, PTRACE_PEEKDATA, PTRACE_PEEKUSR, PTRACE_POKETEXT, PTRACE_POKEDATA, PTRACE_POKEUSR,
 PTRACE_CONT, PTRACE_KILL, PTRACE_SINGLESTEP) = range(10)
PTRACE_ATTACH, PTRACE_DETACH, PTRACE_OLDSETOPTIONS, PTRACE_SYSCALL = 16, 17, 21, 24
PTRACE_SYSEMU, PTRACE_SYSEMU_SINGLESTEP, PTRACE_SINGLEBLOCK = 31, 32, 33
(PTRACE_SETOPTIONS, PTRACE_GETEVENTMSG, PTRACE_GETSIGINFO, PTRACE_SETSIGINFO, PTRACE_GETREGSET, PTRACE_SETREGSET,
 PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_LISTEN, PTRACE_PEEKSIGINFO, PTRACE_GETSIGMASK, PTRACE_SETSIGMASK,
 PTRACE_SECCOMP_GET_FILTER, PTRACE_SECCOMP_GET_METADATA, PTRACE_GET_SYSCALL_INFO) = range(0x4200, 0x420F)
PTRACE_O_SUSPEND_SECCOMP: Final = 0x200000
PTRACE_O_MASK: Final = 0x0000_00FF | 0x100000 | PTRACE_O_SUSPEND_SECCOMP
PTRACE_PEEKSIGINFO_SHARED: Final = 1
PTRACE_SYSCALL_INFO_NONE, PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT = 0, 1, 2
AUDIT_ARCH_X86_64, AUDIT_ARCH_I386 = 0xC000003E, 0x40000003

_PEEKSIGINFO = struct.Struct("<QIi")             # off, flags, nr
_IOVEC = struct.Struct("<QQ")
_SYSCALL_INFO = struct.Struct("<B3xIQQ")         # op, arch, instruction_pointer, stack_pointer
_SYSCALL_ENTRY = struct.Struct("<7Q")
_SYSCALL_EXIT = struct.Struct("<QB")


# ---- memory ------------------------------------------------------------------------------------------------
@may_sleep
def ptrace_access_vm(task: TaskStruct, address: int, data: bytes | None, size: int) -> bytes:
    """Reads `size` bytes of the tracee's memory, or writes `data` there, whatever the page's rights.

    Answers what was moved: shorter at the first page that cannot be had.
    """
    mm = task.mm
    if mm is None or not task.ptrace or task.parent is not current():
        return b""
    if mm.dumpable != SUID_DUMP_USER and not has_capability(current(), CAP_SYS_PTRACE):
        return b""
    return __access_remote_vm(task, address, data, size)


@may_sleep
def __access_remote_vm(task: TaskStruct, address: int, data: bytes | None, size: int) -> bytes:
    mm = task.mm
    assert mm is not None
    ram = mm.kernel.machine.ram
    parts: list[bytes] = []
    done = 0
    while done < size:
        offset = address & 0xFFF
        chunk = min(4096 - offset, size - done)
        try:
            start = (get_user_page(mm, address, data is not None, True) << 12) + offset
        except KernelError:
            break
        if data is not None:
            ram[start : start + chunk] = data[done : done + chunk]
        parts.append(bytes(ram[start : start + chunk]))
        address += chunk
        done += chunk
    return b"".join(parts)


@may_sleep
def generic_ptrace_peekdata(task: TaskStruct, address: int, data: int) -> int:
    """The word goes to where `data` points: the C library makes a return value of it."""
    word = ptrace_access_vm(task, address, None, 8)
    if len(word) != 8:
        raise KernelError(EIO)
    copy_to_user(data, word)
    return 0


@may_sleep
def generic_ptrace_pokedata(task: TaskStruct, address: int, data: int) -> int:
    if len(ptrace_access_vm(task, address, data.to_bytes(8, "little"), 8)) != 8:
        raise KernelError(EIO)
    return 0


# ---- attaching and letting go ------------------------------------------------------------------------------
@notrace
def ptrace_freeze_traced(task: TaskStruct) -> bool:
    """A stopped tracee: not even SIGKILL wakes it while a request is being served."""
    if not task.state & TASK_TRACED_BIT or task.jobctl & JOBCTL_LISTENING or __fatal_signal_pending(task):
        return False
    task.state = TASK_TRACED_BIT
    return True


@notrace
def ptrace_unfreeze_traced(task: TaskStruct) -> None:
    if task.state != TASK_TRACED_BIT:
        return
    if __fatal_signal_pending(task):
        wake_up_state(task, TASK_TRACED_BIT)
    else:
        task.state = TASK_TRACED


def ptrace_check_attach(child: TaskStruct, ignore_state: bool) -> None:
    """Is it a tracee of the caller, and stopped (or is that not needed)? Raises ESRCH."""
    if not child.ptrace or child.parent is not current():
        raise KernelError(ESRCH)
    if not ignore_state and not ptrace_freeze_traced(child):
        raise KernelError(ESRCH)


@may_sleep
def ptrace_attach(task: TaskStruct, request: int, addr: int, flags: int) -> int:
    """PTRACE_ATTACH, PTRACE_SEIZE. Raises EIO (arguments), EPERM."""
    seize = request == PTRACE_SEIZE
    if seize:
        if addr or flags & ~PTRACE_O_MASK:
            raise KernelError(EIO)
        check_ptrace_options(flags)
        flags = PT_PTRACED | PT_SEIZED | flags << PT_OPT_FLAG_SHIFT
    else:
        flags = PT_PTRACED
    tracer = current()
    if task.flags & PF_KTHREAD or task.signal is tracer.signal:
        raise KernelError(EPERM)
    if __ptrace_may_access(task, PTRACE_MODE_ATTACH_REALCREDS) or task.exit_state or task.ptrace:
        raise KernelError(EPERM)
    task.ptrace = flags
    ptrace_link(task, tracer)
    if not seize:
        send_sig_info(SIGSTOP, SEND_SIG_PRIV, task)
    # A task that stands in a group stop goes over to TRACED; nobody shall see it running in between.
    if task.state & TASK_STOPPED_BIT and task_set_jobctl_pending(task, JOBCTL_TRAP_STOP | JOBCTL_TRAPPING):
        signal_wake_up_state(task, TASK_STOPPED_BIT)
    while task.jobctl & JOBCTL_TRAPPING:
        set_current_state(TASK_KILLABLE)
        schedule()
        if __fatal_signal_pending(tracer):
            break
    set_current_state(TASK_RUNNING)
    return 0


def ptrace_traceme() -> int:
    """PTRACE_TRACEME: the parent becomes the tracer. Raises EPERM."""
    task = current()
    if task.ptrace:
        raise KernelError(EPERM)
    parent = task.real_parent
    # cap_ptrace_traceme(): the parent must not gain capabilities by it
    if task.cred.cap_permitted & ~parent.real_cred.cap_permitted and not has_capability(parent, CAP_SYS_PTRACE):
        raise KernelError(EPERM)
    if task.kernel.lsm is not None:
        task.kernel.lsm.security_ptrace_traceme(parent)
    if not parent.flags & PF_EXITING:
        task.ptrace = PT_PTRACED
        ptrace_link(task, parent)
    return 0


def ptrace_detach(child: TaskStruct, data: int) -> int:
    """Lets go; data: the signal to go on with. Raises EIO."""
    if not valid_signal(data):
        raise KernelError(EIO)
    child.kernel.ptrace_disable(child)
    child.exit_code = data
    __ptrace_detach(current(), child)
    return 0


# ---- requests ----------------------------------------------------------------------------------------------
@notrace
def check_ptrace_options(data: int) -> None:
    if data & ~PTRACE_O_MASK or data & PTRACE_O_SUSPEND_SECCOMP:
        raise KernelError(EINVAL)


def ptrace_setoptions(child: TaskStruct, data: int) -> int:
    check_ptrace_options(data)
    child.ptrace = child.ptrace & ~(PTRACE_O_MASK << PT_OPT_FLAG_SHIFT) | data << PT_OPT_FLAG_SHIFT
    return 0


def ptrace_getsiginfo(child: TaskStruct) -> KernelSiginfo:
    """Raises EINVAL in a stop that is no signal's (a group stop)."""
    info = child.last_siginfo
    if info is None:
        raise KernelError(EINVAL)
    assert isinstance(info, KernelSiginfo)
    return info


def ptrace_setsiginfo(child: TaskStruct, data: bytes) -> int:
    """The signal that the tracee goes on with carries this. Raises EINVAL."""
    info = ptrace_getsiginfo(child)
    new = KernelSiginfo.unpack(data, int.from_bytes(data[:4], "little", signed=True))
    for name in ("si_signo", "si_errno", "si_code", "si_pid", "si_uid", "si_value", "raw"):
        setattr(info, name, getattr(new, name))
    return 0


def ptrace_peek_siginfo(child: TaskStruct, addr: int, data: int) -> int:
    """PTRACE_PEEKSIGINFO: copies of queued signals; answers how many. Raises EFAULT, EINVAL."""
    off, flags, nr = _PEEKSIGINFO.unpack(copy_from_user(addr, 16))
    if flags & ~PTRACE_PEEKSIGINFO_SHARED or nr < 0:
        raise KernelError(EINVAL)
    pending = child.signal.shared_pending if flags & PTRACE_PEEKSIGINFO_SHARED else child.pending
    found = pending.queue[off : off + nr]
    for i, info in enumerate(found):
        copy_to_user(data + i * SIGINFO_SIZE, info.pack())
    return len(found)


def ptrace_regset(task: TaskStruct, request: int, kind: int, base: int, length: int) -> int:
    """PTRACE_GETREGSET, PTRACE_SETREGSET of one note type. Answers how many bytes there are. Raises EINVAL, ENODEV."""
    regset = user_x86_64_view.get(kind)
    if regset is None or length % regset.size:
        raise KernelError(EINVAL)
    length = min(length, regset.n * regset.size)
    if request == PTRACE_GETREGSET:
        copy_to_user(base, regset.get(task)[:length])
    else:
        regset.set(task, copy_from_user(base, length))
    return length


def ptrace_get_syscall_info(child: TaskStruct, user_size: int, data: int) -> int:
    """PTRACE_GET_SYSCALL_INFO: the call that the tracee stands in. Answers the whole size."""
    thread = child.thread
    regs = thread.regs
    info = child.last_siginfo
    op, tail = PTRACE_SYSCALL_INFO_NONE, b""
    if info is not None and info.si_code == SIGTRAP | 0x80:
        if child.ptrace_message == PTRACE_EVENTMSG_SYSCALL_ENTRY:
            op = PTRACE_SYSCALL_INFO_ENTRY
            tail = _SYSCALL_ENTRY.pack(thread.orig_ax & (1 << 64) - 1, *[regs[i] for i in (DI, SI, DX, R10, R8, R9)])
        elif child.ptrace_message == PTRACE_EVENTMSG_SYSCALL_EXIT:
            op = PTRACE_SYSCALL_INFO_EXIT
            tail = _SYSCALL_EXIT.pack(regs[AX], regs[AX] >= (1 << 64) - 4095)
    arch = AUDIT_ARCH_I386 if thread.ts_compat else AUDIT_ARCH_X86_64
    whole = _SYSCALL_INFO.pack(op, arch, regs[IP], regs[SP]) + tail
    copy_to_user(data, whole[:user_size])
    return len(whole)


def ptrace_resume(child: TaskStruct, request: int, data: int) -> int:
    """The tracee goes on, with a signal or without. Raises EIO."""
    if not valid_signal(data) or request == PTRACE_SINGLEBLOCK:
        raise KernelError(EIO)
    flags = child.ti_flags & ~(TIF_SYSCALL_TRACE | TIF_SYSCALL_EMU)
    if request == PTRACE_SYSCALL:
        flags |= TIF_SYSCALL_TRACE
    elif request in (PTRACE_SYSEMU, PTRACE_SYSEMU_SINGLESTEP):
        flags |= TIF_SYSCALL_EMU
    child.ti_flags = flags
    if request in (PTRACE_SINGLESTEP, PTRACE_SYSEMU_SINGLESTEP):
        user_enable_single_step(child)
    else:
        user_disable_single_step(child)
    child.exit_code = data
    wake_up_state(child, TASK_TRACED_BIT)
    return 0


@notrace
def ptrace_interrupt(child: TaskStruct) -> int:
    """PTRACE_INTERRUPT: a seized task traps as soon as it can. Raises EIO if it is not seized."""
    if not child.ptrace & PT_SEIZED or child.sighand is None:
        raise KernelError(EIO)
    if task_set_jobctl_pending(child, JOBCTL_TRAP_STOP):
        ptrace_signal_wake_up(child, bool(child.jobctl & JOBCTL_LISTENING))
    return 0


@notrace
def ptrace_listen(child: TaskStruct) -> int:
    """PTRACE_LISTEN: it stays stopped, but tells what happens to its group. Raises EIO outside a PTRACE_EVENT_STOP."""
    info = child.last_siginfo
    if not child.ptrace & PT_SEIZED or info is None or info.si_code >> 8 != PTRACE_EVENT_STOP:
        raise KernelError(EIO)
    child.jobctl |= JOBCTL_LISTENING
    if child.jobctl & JOBCTL_TRAP_NOTIFY:        # something has happened already
        ptrace_signal_wake_up(child, True)
    return 0


@may_sleep
def ptrace_request(child: TaskStruct, request: int, addr: int, data: int) -> int:
    """What is the same on every architecture. Raises EIO for an unknown request."""
    if request in (PTRACE_PEEKTEXT, PTRACE_PEEKDATA):
        return generic_ptrace_peekdata(child, addr, data)
    if request in (PTRACE_POKETEXT, PTRACE_POKEDATA):
        return generic_ptrace_pokedata(child, addr, data)
    if request in (PTRACE_SYSCALL, PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_SYSEMU, PTRACE_SYSEMU_SINGLESTEP,
                   PTRACE_SINGLEBLOCK):
        return ptrace_resume(child, request, data)
    if request == PTRACE_KILL:
        return 0 if child.exit_state else ptrace_resume(child, request, SIGKILL)
    if request == PTRACE_DETACH:
        return ptrace_detach(child, data)
    if request == PTRACE_INTERRUPT:
        return ptrace_interrupt(child)
    if request == PTRACE_LISTEN:
        return ptrace_listen(child)
    if request in (PTRACE_SETOPTIONS, PTRACE_OLDSETOPTIONS):
        return ptrace_setoptions(child, data)
    if request == PTRACE_GETEVENTMSG:
        put_user_u64(data, child.ptrace_message)
    elif request == PTRACE_GETSIGINFO:
        copy_to_user(data, ptrace_getsiginfo(child).pack())
    elif request == PTRACE_SETSIGINFO:
        return ptrace_setsiginfo(child, copy_from_user(data, SIGINFO_SIZE))
    elif request == PTRACE_PEEKSIGINFO:
        return ptrace_peek_siginfo(child, addr, data)
    elif request in (PTRACE_GETSIGMASK, PTRACE_SETSIGMASK):
        if addr != 8:
            raise KernelError(EINVAL)
        if request == PTRACE_GETSIGMASK:
            put_user_u64(data, child.saved_sigmask if child.restore_sigmask else child.blocked)
        else:
            child.blocked = get_user_u64(data) & ~SIG_KERNEL_ONLY_MASK
            child.restore_sigmask = False
            recalc_sigpending_and_wake(child)
    elif request in (PTRACE_GETREGSET, PTRACE_SETREGSET):
        base, length = _IOVEC.unpack(copy_from_user(data, 16))
        put_user_u64(data + 8, ptrace_regset(child, request, addr & 0xFFFF_FFFF, base, length))
    elif request == PTRACE_GET_SYSCALL_INFO:
        return ptrace_get_syscall_info(child, addr, data)
    elif request in (PTRACE_SECCOMP_GET_FILTER, PTRACE_SECCOMP_GET_METADATA):
        raise KernelError(EINVAL)
    else:
        raise KernelError(EIO)
    return 0


@syscall(gaps="seccomp requests; PTRACE_SINGLEBLOCK")
def sys_ptrace(request: ulong, pid: ulong, addr: ulong, data: ulong) -> int:
    """ptrace(2). Errors: EPERM, ESRCH, EIO, EINVAL, EFAULT, ENODEV."""
    if request == PTRACE_TRACEME:
        return ptrace_traceme()
    child = find_task_by_vpid(pid)
    if child is None:
        raise KernelError(ESRCH)
    if request in (PTRACE_ATTACH, PTRACE_SEIZE):
        return ptrace_attach(child, request, addr, data)
    ptrace_check_attach(child, request in (PTRACE_KILL, PTRACE_INTERRUPT))
    try:
        return child.kernel.arch_ptrace(child, request, addr, data)
    finally:
        ptrace_unfreeze_traced(child)
