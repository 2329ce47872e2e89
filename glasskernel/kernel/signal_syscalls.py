"""The system calls about signals.

Linux: the upper half of kernel/signal.c (5.3). Same: errors and their order, sigaction drops what it makes
    ignored, sigaltstack's rules, sigtimedwait takes blocked signals without a handler, who may send what with
    sigqueue.
Owns: nothing. Gaps: signal(2), sgetmask(2), ssetmask(2) and sigsuspend(2) do not exist on x86-64.
Context: task.
"""
from __future__ import annotations

import struct
from contextlib import suppress

from glasskernel.arch.x86.ptrace import SP
from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.fs.file import fdget
from glasskernel.fs.types import File
from glasskernel.kernel.current import current, register
from glasskernel.kernel.pid import PIDTYPE_PID, Pid, find_task_by_vpid, find_vpid, task_pid_vnr, task_tgid_vnr
from glasskernel.kernel.pidfd import pidfd_fops
from glasskernel.kernel.sched.core import schedule, set_current_state
from glasskernel.kernel.signal import (
    check_kill_permission,
    dequeue_signal,
    do_send_sig_info,
    flush_sigqueue_mask,
    kill_pid_info,
    kill_something_info,
    on_sig_stack,
    recalc_sigpending,
    sas_ss_flags,
    set_current_blocked,
    sig_handler_ignored,
    sigprocmask,
)
from glasskernel.kernel.signal_types import (
    MINSIGSTKSZ,
    SEND_SIG_NOINFO,
    SI_TKILL,
    SIG_KERNEL_ONLY_MASK,
    SIGINFO_SIZE,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
    KernelSiginfo,
    SigInfoArg,
)
from glasskernel.kernel.task import NSIG, TASK_INTERRUPTIBLE, TIF_SIGPENDING, KSigaction
from glasskernel.kernel.time.hrtimer import schedule_hrtimeout_range
from glasskernel.lib.errno import (
    EAGAIN,
    EINTR,
    EINVAL,
    ENOMEM,
    EPERM,
    ERESTARTNOHAND,
    ESRCH,
    KernelError,
    Restart,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t, u32

_SIGACTION = struct.Struct("<QQQQ")              # struct kernel_sigaction: handler, flags, restorer, mask
_STACK = struct.Struct("<QiiQ")                  # stack_t: ss_sp, ss_flags, padding, ss_size
_TIMESPEC = struct.Struct("<qq")
_U64 = struct.Struct("<Q")


@notrace
def _get_sigset(address: int, sigsetsize: int) -> int:
    """A sigset_t of 8 bytes. Raises EINVAL (size), EFAULT."""
    if sigsetsize != 8:
        raise KernelError(EINVAL)
    return int(_U64.unpack(copy_from_user(address, 8))[0])


# ---- actions -----------------------------------------------------------------------------------------------
def do_sigaction(sig: int, act: KSigaction | None) -> KSigaction:
    """Installs an action; answers the old one. Raises EINVAL (no such signal, or SIGKILL and SIGSTOP)."""
    if not 1 <= sig <= NSIG or (act is not None and SIG_KERNEL_ONLY_MASK >> sig - 1 & 1):
        raise KernelError(EINVAL)
    task = current()
    actions = task.sighand.action
    old = actions[sig - 1]
    if act is not None:
        act.mask &= ~SIG_KERNEL_ONLY_MASK
        actions[sig - 1] = act
        if sig_handler_ignored(act.handler, sig):
            # POSIX: what is pending and now ignored is discarded, blocked or not
            bit = 1 << sig - 1
            flush_sigqueue_mask(bit, task.signal.shared_pending)
            for t in task.signal.threads:
                flush_sigqueue_mask(bit, t.pending)
    return old


@syscall
def sys_rt_sigaction(sig: int, act: UserPtr, oact: UserPtr, sigsetsize: size_t) -> int:
    """sigaction(2). Errors: EINVAL, EFAULT."""
    if sigsetsize != 8:
        raise KernelError(EINVAL)
    new = None
    if act:
        handler, flags, restorer, mask = _SIGACTION.unpack(copy_from_user(act, 32))
        new = KSigaction(handler, flags, restorer, mask)
    old = do_sigaction(sig, new)
    if oact:
        copy_to_user(oact, _SIGACTION.pack(old.handler, old.flags, old.restorer, old.mask))
    return 0


# ---- masks -------------------------------------------------------------------------------------------------
@syscall
def sys_rt_sigprocmask(how: int, nset: UserPtr, oset: UserPtr, sigsetsize: size_t) -> int:
    """sigprocmask(2). Errors: EINVAL, EFAULT."""
    if sigsetsize != 8:
        raise KernelError(EINVAL)
    old = current().blocked
    if nset:
        sigprocmask(how, int(_U64.unpack(copy_from_user(nset, 8))[0]) & ~SIG_KERNEL_ONLY_MASK)
    if oset:
        copy_to_user(oset, _U64.pack(old))
    return 0


@syscall
def sys_rt_sigpending(uset: UserPtr, sigsetsize: size_t) -> int:
    """sigpending(2): what is blocked and waits. Errors: EINVAL, EFAULT."""
    if sigsetsize > 8:
        raise KernelError(EINVAL)
    task = current()
    pending = (task.pending.signal | task.signal.shared_pending.signal) & task.blocked
    copy_to_user(uset, _U64.pack(pending)[:sigsetsize])
    return 0


@may_sleep
def sigsuspend(mask: int) -> int:
    """Sleeps with another mask until a signal is delivered. Raises Restart(ERESTARTNOHAND), always."""
    task = current()
    task.saved_sigmask = task.blocked
    set_current_blocked(mask)
    while not task.ti_flags & TIF_SIGPENDING:
        set_current_state(TASK_INTERRUPTIBLE)
        schedule()
    task.restore_sigmask = True
    raise Restart(ERESTARTNOHAND)


@syscall
def sys_rt_sigsuspend(unewset: UserPtr, sigsetsize: size_t) -> int:
    """sigsuspend(2). Errors: EINTR, EINVAL, EFAULT."""
    return sigsuspend(_get_sigset(unewset, sigsetsize))


@syscall
def sys_pause() -> int:
    """pause(2): sleeps until a handler ran. Errors: EINTR."""
    task = current()
    while not task.ti_flags & TIF_SIGPENDING:
        set_current_state(TASK_INTERRUPTIBLE)
        schedule()
    raise Restart(ERESTARTNOHAND)


@syscall
def sys_restart_syscall() -> int:
    """restart_syscall(2): goes on with a call that a signal without a handler interrupted. Errors: EINTR."""
    task = current()
    restart = task.restart_block
    if restart is None:
        raise KernelError(EINTR)
    task.restart_block = None
    return restart()


@may_sleep
def do_sigtimedwait(mask: int, timeout_ns: int | None) -> KernelSiginfo:
    """Takes a signal of `mask`, waiting up to timeout_ns (None: for ever). Raises EAGAIN, EINTR."""
    task = current()
    skip = ~(mask & ~SIG_KERNEL_ONLY_MASK)
    info = dequeue_signal(task, skip)
    if info is None and timeout_ns != 0:
        # While we wait these signals count as unblocked, so that senders wake us; real_blocked says that they
        # are to be kept all the same.
        task.real_blocked = task.blocked
        task.blocked &= skip
        recalc_sigpending()
        set_current_state(TASK_INTERRUPTIBLE)
        if task.ti_flags & TIF_SIGPENDING:
            set_current_state(0)
        elif timeout_ns is None:
            schedule()
        else:
            schedule_hrtimeout_range(timeout_ns, task.timer_slack_ns, 1)
        task.blocked = task.real_blocked
        task.real_blocked = 0
        recalc_sigpending()
        info = dequeue_signal(task, skip)
        if info is None and task.ti_flags & TIF_SIGPENDING:
            raise KernelError(EINTR)
    if info is None:
        raise KernelError(EAGAIN)
    return info


@syscall
def sys_rt_sigtimedwait(uthese: UserPtr, uinfo: UserPtr, uts: UserPtr, sigsetsize: size_t) -> int:
    """sigtimedwait(2), sigwaitinfo(2). Errors: EAGAIN, EINTR, EINVAL, EFAULT."""
    mask = _get_sigset(uthese, sigsetsize)
    timeout = None
    if uts:
        sec, nsec = _TIMESPEC.unpack(copy_from_user(uts, 16))
        if sec < 0 or not 0 <= nsec < 1_000_000_000:
            raise KernelError(EINVAL)
        timeout = min(sec * 1_000_000_000 + nsec, (1 << 63) - 1)
    info = do_sigtimedwait(mask, timeout)
    if uinfo:
        copy_to_user(uinfo, info.pack())
    return info.si_signo


# ---- sending -----------------------------------------------------------------------------------------------
@notrace
def _meet_others() -> None:
    """A signal finds others where they are now: their CPU may be 1 ms behind, and they without a handler yet."""
    register.task.kernel.machine.catch_up()


@syscall
def sys_kill(pid: int, sig: int) -> int:
    """kill(2). Errors: EINVAL, ESRCH, EPERM."""
    _meet_others()
    kill_something_info(sig, SEND_SIG_NOINFO, pid)
    return 0


def do_send_specific(tgid: int, pid: int, sig: int, info: SigInfoArg) -> int:
    """Sends to one thread; tgid <= 0: whatever process it is in. Raises ESRCH, EPERM, EINVAL."""
    p = find_task_by_vpid(pid)
    if p is None or (tgid > 0 and task_tgid_vnr(p) != tgid):
        raise KernelError(ESRCH)
    check_kill_permission(sig, info, p)
    if sig:
        do_send_sig_info(sig, info, p, PIDTYPE_PID)
    return 0


def do_tkill(tgid: int, pid: int, sig: int) -> int:
    task = current()
    if pid != task_pid_vnr(task):
        _meet_others()
    info = KernelSiginfo(sig, SI_TKILL, 0, task_tgid_vnr(task), task.cred.uid)
    return do_send_specific(tgid, pid, sig, info)


@syscall
def sys_tgkill(tgid: int, pid: int, sig: int) -> int:
    """tgkill(2). Errors: EINVAL, ESRCH, EPERM, EAGAIN."""
    if pid <= 0 or tgid <= 0:
        raise KernelError(EINVAL)
    return do_tkill(tgid, pid, sig)


@syscall
def sys_tkill(pid: int, sig: int) -> int:
    """tkill(2). Errors: EINVAL, ESRCH, EPERM, EAGAIN."""
    if pid <= 0:
        raise KernelError(EINVAL)
    return do_tkill(0, pid, sig)


def __copy_siginfo_from_user(sig: int, uinfo: int) -> KernelSiginfo:
    """Reads a siginfo. Raises EFAULT, and E2BIG-like EINVAL never: all 128 bytes are kept."""
    return KernelSiginfo.unpack(copy_from_user(uinfo, SIGINFO_SIZE), sig)


@notrace
def _may_impersonate(info: KernelSiginfo, tgid: int) -> None:
    """Only oneself may be told that a signal came from the kernel or kill(2). Raises EPERM."""
    if (info.si_code >= 0 or info.si_code == SI_TKILL) and task_tgid_vnr(current()) != tgid:
        raise KernelError(EPERM)


@syscall
def sys_rt_sigqueueinfo(pid: int, sig: int, uinfo: UserPtr) -> int:
    """rt_sigqueueinfo(2), sigqueue(3). Errors: EAGAIN, EINVAL, EPERM, ESRCH, EFAULT."""
    _meet_others()
    info = __copy_siginfo_from_user(sig, uinfo)
    _may_impersonate(info, pid)
    kill_pid_info(sig, info, find_vpid(pid))
    return 0


@syscall
def sys_rt_tgsigqueueinfo(tgid: int, pid: int, sig: int, uinfo: UserPtr) -> int:
    """rt_tgsigqueueinfo(2). Errors: EAGAIN, EINVAL, EPERM, ESRCH, EFAULT."""
    _meet_others()
    info = __copy_siginfo_from_user(sig, uinfo)
    if pid <= 0 or tgid <= 0:
        raise KernelError(EINVAL)
    _may_impersonate(info, tgid)
    return do_send_specific(tgid, pid, sig, info)


def pidfd_to_pid(file: File) -> Pid:
    """The process behind a pidfd or an open directory /proc/PID. Raises EBADF."""
    if file.f_op is pidfd_fops:
        pid: Pid = file.private_data
        return pid
    from glasskernel.fs.proc.base import tgid_pidfd_to_pid  # late: start-up time

    return tgid_pidfd_to_pid(file)


@syscall
def sys_pidfd_send_signal(pidfd: int, sig: int, info: UserPtr, flags: u32) -> int:
    """pidfd_send_signal(2). Errors: EBADF, EINVAL, EPERM, ESRCH, EFAULT."""
    _meet_others()
    if flags:
        raise KernelError(EINVAL)
    pid = pidfd_to_pid(fdget(pidfd))
    kinfo: SigInfoArg
    if info:
        data = copy_from_user(info, SIGINFO_SIZE)
        signo = int.from_bytes(data[:4], "little", signed=True)
        kinfo = KernelSiginfo.unpack(data, signo)
        if signo != sig:
            raise KernelError(EINVAL)
        if pid is not current().group_leader.thread_pid and (kinfo.si_code >= 0 or kinfo.si_code == SI_TKILL):
            raise KernelError(EPERM)
    else:
        kinfo = SEND_SIG_NOINFO
    kill_pid_info(sig, kinfo, pid)
    return 0


# ---- the alternate stack -----------------------------------------------------------------------------------
def do_sigaltstack(new: tuple[int, int, int] | None, sp: int, min_size: int) -> tuple[int, int, int]:
    """Sets (sp, flags, size) of the alternate stack; answers the old.

    Raises EPERM (in use), EINVAL, ENOMEM.
    """
    task = current()
    old = (task.sas_ss_sp, sas_ss_flags(sp) | task.sas_ss_flags & SS_AUTODISARM, task.sas_ss_size)
    if new is not None:
        ss_sp, ss_flags, ss_size = new
        if on_sig_stack(sp):
            raise KernelError(EPERM)
        mode = ss_flags & ~SS_AUTODISARM
        if mode not in (SS_DISABLE, SS_ONSTACK, 0):
            raise KernelError(EINVAL)
        if mode == SS_DISABLE:
            ss_size = ss_sp = 0
        elif ss_size < min_size:
            raise KernelError(ENOMEM)
        task.sas_ss_sp = ss_sp
        task.sas_ss_size = ss_size
        task.sas_ss_flags = ss_flags
    return old


@notrace
def read_stack_t(address: int) -> tuple[int, int, int]:
    """stack_t as (ss_sp, ss_flags, ss_size). Raises EFAULT."""
    ss_sp, ss_flags, _, ss_size = _STACK.unpack(copy_from_user(address, 24))
    return ss_sp, ss_flags & 0xFFFF_FFFF, ss_size


@notrace
def pack_stack_t(ss_sp: int, ss_flags: int, ss_size: int) -> bytes:
    return _STACK.pack(ss_sp, (ss_flags ^ 0x8000_0000) - 0x8000_0000, 0, ss_size)


def restore_altstack(address: int) -> None:
    """sigreturn: the alternate stack that the frame remembers. Nobody looks at errors but EFAULT."""
    new = read_stack_t(address)
    with suppress(KernelError):
        do_sigaltstack(new, current().thread.regs[SP], MINSIGSTKSZ)


@syscall
def sys_sigaltstack(uss: UserPtr, uoss: UserPtr) -> int:
    """sigaltstack(2). Errors: EFAULT, EINVAL, ENOMEM, EPERM."""
    new = read_stack_t(uss) if uss else None
    old = do_sigaltstack(new, current().thread.regs[SP], MINSIGSTKSZ)
    if uoss:
        copy_to_user(uoss, pack_stack_t(*old))
    return 0


