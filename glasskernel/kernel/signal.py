"""Sending, queueing and dequeueing signals, masks, and the stop and continue state of a process.

Linux: the lower half of kernel/signal.c (5.3). get_signal() and do_signal_stop(), which end or stop the
    caller, are in kernel/signal_delivery.py; the system calls are in kernel/signal_syscalls.py.
Same: legacy signals coalesce, real-time ones queue up to RLIMIT_SIGPENDING; a fatal signal marks the whole
    group at once; SIGCONT and stop signals cancel each other when sent; who is woken (complete_signal).
Differs: a siginfo and its sigqueue are one object (signal_types.KernelSiginfo). dequeue_signal() returns the
    siginfo or None. Functions that fail raise KernelError.
Owns: SigPending, SighandStruct, TaskStruct.blocked and .jobctl, TIF_SIGPENDING.
Invariants: TIF_SIGPENDING is set whenever a signal that is not blocked is pending; a bit of SigPending.signal
    is set if an entry of that signal is queued (entries may be missing: SIGKILL, or no memory for them).
Posix timers: sigqueue_alloc(), fill the entry, set entry.rearm, send_sigqueue(); see KernelSiginfo.
Context: any, unless said otherwise.
"""
from __future__ import annotations

from contextlib import suppress
from copy import copy
from typing import Final

from glasskernel.kernel.capability import CAP_KILL, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_TGID,
    Pid,
    UserStruct,
    __task_pid_nr_ns,
    alloc_uid,
    find_vpid,
    is_global_init,
    pid_task,
    task_pid_vnr,
    thread_group_empty,
)
from glasskernel.kernel.sched.core import kick_process, wake_up_state
from glasskernel.kernel.sched.wait import __wake_up_sync_key, wake_up_all
from glasskernel.kernel.signal_types import (
    CLD_CONTINUED,
    CLD_DUMPED,
    CLD_EXITED,
    CLD_KILLED,
    CLD_STOPPED,
    SA_NOCLDSTOP,
    SA_NOCLDWAIT,
    SEND_SIG_NOINFO,
    SEND_SIG_PRIV,
    SI_KERNEL,
    SI_USER,
    SIG_DFL,
    SIG_IGN,
    SIG_KERNEL_COREDUMP_MASK,
    SIG_KERNEL_IGNORE_MASK,
    SIG_KERNEL_ONLY_MASK,
    SIG_KERNEL_STOP_MASK,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGRTMIN,
    SIGSEGV,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
    SYNCHRONOUS_MASK,
    KernelSiginfo,
    SigInfoArg,
    sigmask,
)
from glasskernel.kernel.task import (
    NSIG,
    PF_EXITING,
    PF_KTHREAD,
    RLIM_INFINITY,
    RLIMIT_SIGPENDING,
    TASK_INTERRUPTIBLE,
    TASK_KILLABLE,
    TASK_STOPPED_BIT,
    TASK_TRACED_BIT,
    TASK_WAKEKILL,
    TIF_SIGPENDING,
    KSigaction,
    SighandStruct,
    SignalStruct,
    SigPending,
    TaskStruct,
)
from glasskernel.kernel.time.timekeeping import nsec_to_clock_t
from glasskernel.lib.errno import EAGAIN, EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.types import notrace

# signal_struct.flags
SIGNAL_STOP_STOPPED: Final = 0x1
SIGNAL_STOP_CONTINUED: Final = 0x2
SIGNAL_GROUP_EXIT: Final = 0x4
SIGNAL_GROUP_COREDUMP: Final = 0x8
SIGNAL_CLD_STOPPED: Final = 0x10
SIGNAL_CLD_CONTINUED: Final = 0x20
SIGNAL_CLD_MASK: Final = SIGNAL_CLD_STOPPED | SIGNAL_CLD_CONTINUED
SIGNAL_UNKILLABLE: Final = 0x40
SIGNAL_STOP_MASK: Final = SIGNAL_CLD_MASK | SIGNAL_STOP_STOPPED | SIGNAL_STOP_CONTINUED

# task.jobctl
JOBCTL_STOP_SIGMASK: Final = 0xFFFF
JOBCTL_STOP_DEQUEUED: Final = 1 << 16
JOBCTL_STOP_PENDING: Final = 1 << 17
JOBCTL_STOP_CONSUME: Final = 1 << 18
JOBCTL_TRAP_STOP: Final = 1 << 19
JOBCTL_TRAP_NOTIFY: Final = 1 << 20
JOBCTL_TRAPPING: Final = 1 << 21
JOBCTL_LISTENING: Final = 1 << 22
JOBCTL_TRAP_MASK: Final = JOBCTL_TRAP_STOP | JOBCTL_TRAP_NOTIFY
JOBCTL_PENDING_MASK: Final = JOBCTL_STOP_PENDING | JOBCTL_TRAP_MASK

PT_SEIZED: Final = 0x10000                       # of task.ptrace

# What became of a signal, for signal_generate.
(TRACE_SIGNAL_DELIVERED, TRACE_SIGNAL_IGNORED, TRACE_SIGNAL_ALREADY_PENDING, TRACE_SIGNAL_OVERFLOW_FAIL,
 TRACE_SIGNAL_LOSE_INFO) = range(5)

__TASK_STOPPED: Final = TASK_STOPPED_BIT
__TASK_TRACED: Final = TASK_TRACED_BIT


@notrace
def valid_signal(sig: int) -> bool:
    return 0 <= sig <= NSIG


@notrace
def __fatal_signal_pending(task: TaskStruct) -> bool:
    return bool(task.pending.signal & 1 << SIGKILL - 1)


@notrace
def signal_group_exit(sig: SignalStruct) -> bool:
    """True when the whole group is on its way out, or makes room for exec."""
    return bool(sig.flags & SIGNAL_GROUP_EXIT) or sig.group_exit_task is not None


@notrace
def task_is_stopped_or_traced(task: TaskStruct) -> bool:
    return bool(task.state & (TASK_STOPPED_BIT | TASK_TRACED_BIT))


@notrace
def si_fromuser(info: SigInfoArg) -> bool:
    if isinstance(info, int):
        return info == SEND_SIG_NOINFO
    return info.si_code <= SI_USER


@notrace
def __same_thread_group(a: TaskStruct, b: TaskStruct) -> bool:
    return a.signal is b.signal


# ---- what is pending ---------------------------------------------------------------------------------------
def recalc_sigpending_tsk(task: TaskStruct) -> bool:
    """Sets TIF_SIGPENDING if something waits. Never clears it: another task may be between two tests."""
    if task.jobctl & JOBCTL_PENDING_MASK or (
        (task.pending.signal | task.signal.shared_pending.signal) & ~task.blocked
    ):
        task.ti_flags |= TIF_SIGPENDING
        return True
    return False


def recalc_sigpending_and_wake(task: TaskStruct) -> None:
    """After another task's mask changed: wakes it when a signal got through."""
    if recalc_sigpending_tsk(task):
        signal_wake_up(task, False)


def calculate_sigpending() -> None:
    """A new task: its parent's signals may have come for all of their process."""
    current().ti_flags |= TIF_SIGPENDING
    recalc_sigpending()


def recalc_sigpending() -> None:
    """Makes TIF_SIGPENDING of the current task true to its queues and mask."""
    task = current()
    if task.jobctl & JOBCTL_PENDING_MASK or (
        (task.pending.signal | task.signal.shared_pending.signal) & ~task.blocked
    ):
        task.ti_flags |= TIF_SIGPENDING
    elif task.kernel.cgroup_freezing is None or not task.kernel.cgroup_freezing(task):
        task.ti_flags &= ~TIF_SIGPENDING


def next_signal(pending: SigPending, mask: int) -> int:
    """The lowest pending signal outside `mask`, those of the CPU first. 0: none."""
    ready = pending.signal & ~mask
    if not ready:
        return 0
    if ready & SYNCHRONOUS_MASK:
        ready &= SYNCHRONOUS_MASK
    return (ready & -ready).bit_length()


# ---- job control bits --------------------------------------------------------------------------------------
def task_set_jobctl_pending(task: TaskStruct, mask: int) -> bool:
    """Asks the task to stop or trap. False when it is dying."""
    if __fatal_signal_pending(task) or task.flags & PF_EXITING:
        return False
    if mask & JOBCTL_STOP_SIGMASK:
        task.jobctl &= ~JOBCTL_STOP_SIGMASK
    task.jobctl |= mask
    return True


def task_clear_jobctl_pending(task: TaskStruct, mask: int) -> None:
    if mask & JOBCTL_STOP_PENDING:
        mask |= JOBCTL_STOP_CONSUME | JOBCTL_STOP_DEQUEUED
    task.jobctl &= ~mask
    if task.jobctl & JOBCTL_TRAPPING and not task.jobctl & JOBCTL_PENDING_MASK:
        task_clear_jobctl_trapping(task)


def task_clear_jobctl_trapping(task: TaskStruct, tracer: TaskStruct | None = None) -> None:
    """The tracee stands in its trap: ptrace_attach() need not wait any longer."""
    if task.jobctl & JOBCTL_TRAPPING:
        task.jobctl &= ~JOBCTL_TRAPPING
        wake_up_state(task.parent if tracer is None else tracer, TASK_KILLABLE)


def task_participate_group_stop(task: TaskStruct) -> bool:
    """Counts the task as stopped. True for the last one: the parent is to be told."""
    sig = task.signal
    consume = task.jobctl & JOBCTL_STOP_CONSUME
    task_clear_jobctl_pending(task, JOBCTL_STOP_PENDING)
    if not consume:
        return False
    if sig.group_stop_count > 0:
        sig.group_stop_count -= 1
    if not sig.group_stop_count and not sig.flags & SIGNAL_STOP_STOPPED:
        sig.flags = sig.flags & ~SIGNAL_STOP_MASK | SIGNAL_STOP_STOPPED
        return True
    return False


def task_join_group_stop(task: TaskStruct) -> None:
    """A new thread of a group that is stopping, or has stopped, stops too."""
    parent = current()
    mask = parent.jobctl & JOBCTL_STOP_SIGMASK
    sig = parent.signal
    if sig.group_stop_count:
        sig.group_stop_count += 1
        mask |= JOBCTL_STOP_CONSUME
    elif not sig.flags & SIGNAL_STOP_STOPPED:
        return
    task_set_jobctl_pending(task, mask | JOBCTL_STOP_PENDING)


# ---- the queue ---------------------------------------------------------------------------------------------
@notrace
def task_user(task: TaskStruct) -> UserStruct:
    """task->cred->user: the accounts of the task's real user."""
    return alloc_uid(task.kernel, task.real_cred.uid)


def __sigqueue_alloc(task: TaskStruct, override_rlimit: bool) -> UserStruct | None:
    """Charges one queue entry to the receiver's user. None: RLIMIT_SIGPENDING is used up."""
    user = task_user(task)
    if not override_rlimit:
        limit = task.signal.rlim[RLIMIT_SIGPENDING][0]
        if limit != RLIM_INFINITY and user.sigpending >= limit:
            return None
    user.sigpending += 1
    return user


def __sigqueue_free(info: KernelSiginfo) -> None:
    """The entry left its queue. A timer's own entry stays charged to its timer."""
    if info.preallocated:
        info.queued = False
    elif info.user is not None:
        info.user.sigpending -= 1
        info.user = None


def flush_sigqueue(pending: SigPending) -> None:
    """Drops everything that is pending."""
    pending.signal = 0
    for info in pending.queue:
        __sigqueue_free(info)
    pending.queue.clear()


def flush_sigqueue_mask(mask: int, pending: SigPending) -> None:
    """Drops the pending signals of a mask."""
    if not pending.signal & mask:
        return
    pending.signal &= ~mask
    keep = []
    for info in pending.queue:
        if mask >> info.si_signo - 1 & 1:
            __sigqueue_free(info)
        else:
            keep.append(info)
    pending.queue[:] = keep


def flush_signals(task: TaskStruct) -> None:
    """Drops all signals of a kernel thread."""
    task.ti_flags &= ~TIF_SIGPENDING
    flush_sigqueue(task.pending)
    flush_sigqueue(task.signal.shared_pending)


def ignore_signals(task: TaskStruct) -> None:
    """A kernel thread ignores all signals."""
    task.sighand.action[:] = [KSigaction(SIG_IGN)] * NSIG
    flush_signals(task)


def flush_signal_handlers(task: TaskStruct, force_default: bool) -> None:
    """exec: handlers are gone with the old image; ignored signals stay ignored unless force_default."""
    default, ignore = KSigaction(SIG_DFL), KSigaction(SIG_IGN)
    actions = task.sighand.action
    actions[:] = [ignore if a.handler == SIG_IGN and not force_default else default for a in actions]


def collect_signal(sig: int, pending: SigPending) -> KernelSiginfo:
    """Takes the oldest entry of `sig`; without one, a siginfo that says so little as Linux's."""
    first: KernelSiginfo | None = None
    queue: list[KernelSiginfo] = pending.queue
    for index, info in enumerate(queue):
        if info.si_signo == sig:
            first = info
            del queue[index]
            break
    for info in queue:
        if info.si_signo == sig:
            break
    else:
        pending.signal &= ~(1 << sig - 1)
    if first is None:
        return KernelSiginfo(sig, SI_USER)
    if first.preallocated:
        first.queued = False
        return copy(first)                       # the timer may use its entry again at once
    __sigqueue_free(first)
    return first


def dequeue_signal(task: TaskStruct, mask: int) -> KernelSiginfo | None:
    """Takes the next signal outside `mask`, the thread's own first. `task` is the current one.

    A stop signal notes that it was taken: SIGCONT may come before do_signal_stop() does its work.
    """
    pending = task.pending
    sig = next_signal(pending, mask)
    if not sig:
        pending = task.signal.shared_pending
        sig = next_signal(pending, mask)
    if not sig:
        recalc_sigpending()
        return None
    info = collect_signal(sig, pending)
    recalc_sigpending()
    if SIG_KERNEL_STOP_MASK >> sig - 1 & 1:
        task.jobctl |= JOBCTL_STOP_DEQUEUED
    if info.rearm is not None:
        info.rearm(info)
    return info


@notrace
def dequeue_synchronous_signal(task: TaskStruct) -> KernelSiginfo | None:
    """A fault of the instruction under the instruction pointer: goes before every other signal."""
    pending = task.pending
    if not pending.signal & ~task.blocked & SYNCHRONOUS_MASK:
        return None
    for index, info in enumerate(pending.queue):
        if SYNCHRONOUS_MASK >> info.si_signo - 1 & 1 and info.si_code > SI_USER:
            if task.blocked >> info.si_signo - 1 & 1:
                continue
            del pending.queue[index]
            if not any(other.si_signo == info.si_signo for other in pending.queue):
                pending.signal &= ~(1 << info.si_signo - 1)
            recalc_sigpending()
            __sigqueue_free(info)
            return info  # type: ignore[no-any-return]
    return None


# ---- waking ------------------------------------------------------------------------------------------------
@notrace
def ptrace_signal_wake_up(task: TaskStruct, resume: bool) -> None:
    """A tracee shall look at its jobctl; resume: even out of a trap."""
    signal_wake_up_state(task, TASK_TRACED_BIT if resume else 0)


def ptrace_trap_notify(task: TaskStruct) -> None:
    """A seized task's group stops or continues: it traps (again), so that the tracer hears of it."""
    task_set_jobctl_pending(task, JOBCTL_TRAP_NOTIFY)
    ptrace_signal_wake_up(task, bool(task.jobctl & JOBCTL_LISTENING))


def signal_wake_up_state(task: TaskStruct, state: int) -> None:
    """Tells the task that signals wait: wakes it from `state` sleeps, or makes its CPU look."""
    task.ti_flags |= TIF_SIGPENDING
    if not wake_up_state(task, state | TASK_INTERRUPTIBLE):
        kick_process(task)


@notrace
def signal_wake_up(task: TaskStruct, fatal: bool) -> None:
    signal_wake_up_state(task, TASK_WAKEKILL if fatal else 0)


@notrace
def wants_signal(sig: int, task: TaskStruct) -> bool:
    """True if this thread can take the signal soon."""
    if task.blocked >> sig - 1 & 1 or task.flags & PF_EXITING:
        return False
    if sig == SIGKILL:
        return True
    if task.state & (TASK_STOPPED_BIT | TASK_TRACED_BIT):
        return False
    return task.on_cpu or not task.ti_flags & TIF_SIGPENDING


@notrace
def sig_fatal(task: TaskStruct, sig: int) -> bool:
    return (
        not (SIG_KERNEL_IGNORE_MASK | SIG_KERNEL_STOP_MASK) >> sig - 1 & 1
        and task.sighand.action[sig - 1].handler == SIG_DFL
    )


def complete_signal(sig: int, p: TaskStruct, pid_type: int) -> None:
    """Chooses the thread that shall take a queued signal and wakes it; a fatal one takes the whole group
    down.
    """
    signal = p.signal
    if wants_signal(sig, p):
        t = p
    elif pid_type == PIDTYPE_PID or thread_group_empty(p):
        return
    else:
        threads = signal.threads
        target = signal.curr_target
        start = threads.index(target) if target in threads else 0
        for i in range(len(threads)):
            t = threads[(start + i) % len(threads)]
            if wants_signal(sig, t):
                break
        else:
            return                               # any eligible thread will see it when it unblocks
        signal.curr_target = t
    if (
        sig_fatal(p, sig)
        and not signal.flags & SIGNAL_GROUP_EXIT
        and not t.real_blocked >> sig - 1 & 1
        and (sig == SIGKILL or not p.ptrace)
        and not SIG_KERNEL_COREDUMP_MASK >> sig - 1 & 1
    ):
        # The exit code is settled here: whatever comes later, the process dies of this signal.
        signal.flags = SIGNAL_GROUP_EXIT
        signal.group_exit_code = sig
        signal.group_stop_count = 0
        for t in list(signal.threads):
            task_clear_jobctl_pending(t, JOBCTL_PENDING_MASK)
            t.pending.signal |= 1 << SIGKILL - 1
            signal_wake_up(t, True)
        return
    signal_wake_up(t, sig == SIGKILL)


# ---- sending -----------------------------------------------------------------------------------------------
@notrace
def sig_handler_ignored(handler: int, sig: int) -> bool:
    return handler == SIG_IGN or (handler == SIG_DFL and bool(SIG_KERNEL_IGNORE_MASK >> sig - 1 & 1))


@notrace
def sig_task_ignored(task: TaskStruct, sig: int, force: bool) -> bool:
    handler = task.sighand.action[sig - 1].handler
    only = SIG_KERNEL_ONLY_MASK >> sig - 1 & 1
    if only and is_global_init(task):
        return True
    if task.signal.flags & SIGNAL_UNKILLABLE and handler == SIG_DFL and not (force and only):
        return True
    return sig_handler_ignored(handler, sig)


@notrace
def sig_ignored(task: TaskStruct, sig: int, force: bool) -> bool:
    """True if the signal need not be queued. Blocked ones are kept: the handler may change meanwhile."""
    if (task.blocked | task.real_blocked) >> sig - 1 & 1:
        return False
    if task.ptrace and sig != SIGKILL:
        return False
    return sig_task_ignored(task, sig, force)


def prepare_signal(sig: int, p: TaskStruct, force: bool) -> bool:
    """What sending alone does, even if nobody takes the signal: SIGCONT continues, stops cancel SIGCONT.

    True: the signal is to be queued.
    """
    signal = p.signal
    if signal.flags & (SIGNAL_GROUP_EXIT | SIGNAL_GROUP_COREDUMP):
        if not signal.flags & SIGNAL_GROUP_EXIT:
            return sig == SIGKILL
    elif SIG_KERNEL_STOP_MASK >> sig - 1 & 1:
        cont = sigmask(SIGCONT)
        flush_sigqueue_mask(cont, signal.shared_pending)
        for t in signal.threads:
            flush_sigqueue_mask(cont, t.pending)
    elif sig == SIGCONT:
        flush_sigqueue_mask(SIG_KERNEL_STOP_MASK, signal.shared_pending)
        for t in list(signal.threads):
            flush_sigqueue_mask(SIG_KERNEL_STOP_MASK, t.pending)
            task_clear_jobctl_pending(t, JOBCTL_STOP_PENDING)
            if t.ptrace & PT_SEIZED:
                ptrace_trap_notify(t)
            else:
                wake_up_state(t, __TASK_STOPPED)
        # The parent is told by the first thread that runs again: get_signal() looks at SIGNAL_CLD_MASK.
        why = 0
        if signal.flags & SIGNAL_STOP_STOPPED:
            why = SIGNAL_CLD_CONTINUED
        elif signal.group_stop_count:
            why = SIGNAL_CLD_STOPPED
        if why:
            signal.flags = signal.flags & ~SIGNAL_STOP_MASK | why | SIGNAL_STOP_CONTINUED
            signal.group_stop_count = 0
            signal.group_exit_code = 0
    return not sig_ignored(p, sig, force)


@notrace
def signalfd_notify(task: TaskStruct) -> None:
    wqh = task.sighand.signalfd_wqh
    if wqh is not None:
        wake_up_all(wqh)


def __send_signal(sig: int, info: SigInfoArg, t: TaskStruct, pid_type: int, force: bool) -> None:
    """Queues the signal for the thread (PIDTYPE_PID) or its process, and wakes who shall take it.

    Raises EAGAIN when a real-time signal with a siginfo finds RLIMIT_SIGPENDING used up.
    """
    result = TRACE_SIGNAL_DELIVERED
    pending = t.pending if pid_type == PIDTYPE_PID else t.signal.shared_pending
    bit = 1 << sig - 1
    if not prepare_signal(sig, t, force):
        result = TRACE_SIGNAL_IGNORED
    elif sig < SIGRTMIN and pending.signal & bit:
        result = TRACE_SIGNAL_ALREADY_PENDING    # legacy_queue(): one is enough
    if result:
        probe = t.kernel.tp.signal_generate
        if probe is not None:
            probe(sig, info, t, pid_type != PIDTYPE_PID, result)
        return
    if sig != SIGKILL and not t.flags & PF_KTHREAD:
        override = sig < SIGRTMIN and (isinstance(info, int) or info.si_code >= 0)
        user = __sigqueue_alloc(t, override)
        if user is not None:
            if not isinstance(info, int):
                entry = info
                if entry.user is not None:       # it waits on another queue already
                    entry = copy(entry)
            elif info == SEND_SIG_PRIV:
                entry = KernelSiginfo(sig, SI_KERNEL)
            else:
                sender = current()
                number = __task_pid_nr_ns(sender, PIDTYPE_TGID, t.thread_pid.ns)
                entry = KernelSiginfo(sig, SI_USER, 0, number, sender.cred.uid)
            entry.user = user
            pending.queue.append(entry)
        elif not isinstance(info, int) and sig >= SIGRTMIN and info.si_code != SI_USER:
            result = TRACE_SIGNAL_OVERFLOW_FAIL
            probe = t.kernel.tp.signal_generate
            if probe is not None:
                probe(sig, info, t, pid_type != PIDTYPE_PID, result)
            raise KernelError(EAGAIN)
        else:
            result = TRACE_SIGNAL_LOSE_INFO      # the bit alone must do
    if t.sighand.signalfd_wqh is not None:
        signalfd_notify(t)
    pending.signal |= bit
    complete_signal(sig, t, pid_type)
    probe = t.kernel.tp.signal_generate
    if probe is not None:
        probe(sig, info, t, pid_type != PIDTYPE_PID, result)


def send_signal(sig: int, info: SigInfoArg, t: TaskStruct, pid_type: int) -> None:
    """__send_signal(), with force for signals that the kernel itself sends, or a PID namespace that has t's in it."""
    force = info == SEND_SIG_PRIV
    ns = t.thread_pid.ns
    if ns is not None and not force and (isinstance(info, int) or info.si_code <= 0) and not __task_pid_nr_ns(
            current(), PIDTYPE_PID, ns):
        force = True                             # from_ancestor_ns
        if not isinstance(info, int):
            info = copy(info)
            info.si_pid = 0
    __send_signal(sig, info, t, pid_type, force)


def __group_send_sig_info(sig: int, info: SigInfoArg, p: TaskStruct) -> None:
    send_signal(sig, info, p, PIDTYPE_TGID)


def do_send_sig_info(sig: int, info: SigInfoArg, p: TaskStruct, pid_type: int) -> None:
    """Sends without a permission check. Raises ESRCH when the task has been released."""
    if p.sighand is None:
        raise KernelError(ESRCH)
    send_signal(sig, info, p, pid_type)


def force_sig_info_to_task(info: KernelSiginfo, t: TaskStruct) -> None:
    """A signal that cannot be held back: blocked or ignored, it takes its default action."""
    sig = info.si_signo
    action = t.sighand.action[sig - 1]
    blocked = t.blocked >> sig - 1 & 1
    if blocked or action.handler == SIG_IGN:
        t.sighand.action[sig - 1] = action = KSigaction(SIG_DFL, action.flags, action.restorer, action.mask)
        if blocked:
            t.blocked &= ~(1 << sig - 1)
            recalc_sigpending_and_wake(t)
    if action.handler == SIG_DFL and not t.ptrace:
        t.signal.flags &= ~SIGNAL_UNKILLABLE     # init dies of its own faults
    send_signal(sig, info, t, PIDTYPE_PID)


def force_sig_info(info: KernelSiginfo) -> None:
    """The same for the current task."""
    force_sig_info_to_task(info, current())


def force_sig(sig: int) -> None:
    """Forces a signal without information on the current task."""
    force_sig_info(KernelSiginfo(sig, SI_KERNEL))


def force_sigsegv(sig: int) -> None:
    """The frame of signal `sig` cannot be written: SIGSEGV; if `sig` is SIGSEGV itself, without its handler.
    """
    task = current()
    if sig == SIGSEGV:
        task.sighand.action[sig - 1] = KSigaction(SIG_DFL)
    force_sig(SIGSEGV)


def force_sig_fault_to_task(sig: int, code: int, addr: int, task: TaskStruct) -> None:
    force_sig_info_to_task(KernelSiginfo(sig, code, si_addr=addr), task)


def force_sig_fault(sig: int, code: int, addr: int, task: TaskStruct | None = None) -> None:
    """A fault of the task's own instruction. code: SEGV_*, BUS_*, ILL_*, FPE_*, TRAP_*; addr: si_addr."""
    info = KernelSiginfo(sig, code)
    info.si_addr = addr
    force_sig_info_to_task(info, current() if task is None else task)


def zap_other_threads(p: TaskStruct) -> int:
    """Kills every other thread of p's group. Answers how many must still exit (for exec)."""
    count = 0
    p.signal.group_stop_count = 0
    for t in list(p.signal.threads):
        if t is p:
            continue
        task_clear_jobctl_pending(t, JOBCTL_PENDING_MASK)
        count += 1
        if t.exit_state:
            continue                             # a leader that is a zombie already
        t.pending.signal |= 1 << SIGKILL - 1
        signal_wake_up(t, True)
    return count


@notrace
def kill_ok_by_cred(t: TaskStruct) -> bool:
    cred, tcred = current().cred, t.real_cred
    return (
        cred.euid == tcred.suid
        or cred.euid == tcred.uid
        or cred.uid == tcred.suid
        or cred.uid == tcred.uid
        or capable(CAP_KILL)
    )


def check_kill_permission(sig: int, info: SigInfoArg, t: TaskStruct) -> None:
    """May the current task send this? Raises EINVAL, EPERM, EACCES (a security module). SIGCONT may go anywhere in the
    session.
    """
    if not valid_signal(sig):
        raise KernelError(EINVAL)
    if not si_fromuser(info):
        return
    sender = current()
    if not __same_thread_group(sender, t) and not kill_ok_by_cred(t):
        if sig == SIGCONT and (t.signal.session is None or t.signal.session is sender.signal.session):
            return
        raise KernelError(EPERM)
    lsm = t.kernel.lsm
    if lsm is not None:
        lsm.security_task_kill(t, sig)


@notrace
def group_send_sig_info(sig: int, info: SigInfoArg, p: TaskStruct, pid_type: int) -> None:
    """kill(2) for one process: permission, then send. sig 0 only asks. Raises EINVAL, EPERM, ESRCH."""
    check_kill_permission(sig, info, p)
    if sig:
        do_send_sig_info(sig, info, p, pid_type)


def __kill_pgrp_info(sig: int, info: SigInfoArg, pgrp: Pid | None) -> None:
    """Sends to every process of a group. One success is success; raises ESRCH, or the last error."""
    success = False
    errno = ESRCH
    if pgrp is not None:
        for p in list(pgrp.tasks[PIDTYPE_PGID]):
            try:
                group_send_sig_info(sig, info, p, PIDTYPE_PGID)
                success = True
            except KernelError as e:
                errno = e.errno
    if not success:
        raise KernelError(errno)


def kill_pid_info(sig: int, info: SigInfoArg, pid: Pid | None) -> None:
    """Sends to one process. Raises ESRCH, EPERM, EINVAL."""
    p = pid_task(pid, PIDTYPE_PID)
    if p is None:
        raise KernelError(ESRCH)
    group_send_sig_info(sig, info, p, PIDTYPE_TGID)


def kill_something_info(sig: int, info: SigInfoArg, nr: int) -> None:
    """kill(2)'s four ways: a process, the own group (0), every process (-1), a group (< -1)."""
    task = current()
    kernel = task.kernel
    if nr > 0:
        kill_pid_info(sig, info, find_vpid(nr))
        return
    if nr == -0x8000_0000:
        raise KernelError(ESRCH)
    if nr != -1:
        __kill_pgrp_info(sig, info, find_vpid(-nr) if nr else task.signal.pgrp)
        return
    count = 0
    errno = 0
    for p in list(kernel.pids.tasks):
        if task_pid_vnr(p) > 1 and not __same_thread_group(p, task):
            count += 1
            try:
                group_send_sig_info(sig, info, p, PIDTYPE_TGID)
            except KernelError as e:
                if e.errno != EPERM:
                    errno = e.errno
    if not count:
        raise KernelError(ESRCH)
    if errno:
        raise KernelError(errno)


@notrace
def __si_special(priv: int) -> int:
    return SEND_SIG_PRIV if priv else SEND_SIG_NOINFO


def send_sig_info(sig: int, info: SigInfoArg, p: TaskStruct) -> None:
    """Sends to one thread, without a permission check. Raises EINVAL, ESRCH."""
    if not valid_signal(sig):
        raise KernelError(EINVAL)
    do_send_sig_info(sig, info, p, PIDTYPE_PID)


def send_sig(sig: int, p: TaskStruct, priv: int) -> None:
    """Sends to one thread from the current task (priv 0) or the kernel (1). Nothing happens if it is gone."""
    if p.sighand is not None:
        send_sig_info(sig, __si_special(priv), p)


def kill_pgrp(pgrp: Pid | None, sig: int, priv: int) -> bool:
    """Sends to a process group. False when nobody could be reached."""
    try:
        __kill_pgrp_info(sig, __si_special(priv), pgrp)
    except KernelError:
        return False
    return True


def kill_pid(pid: Pid | None, sig: int, priv: int) -> bool:
    """Sends to one process. False when it is gone or may not be signalled."""
    try:
        kill_pid_info(sig, __si_special(priv), pid)
    except KernelError:
        return False
    return True


# ---- POSIX timers' own queue entries -----------------------------------------------------------------------
def sigqueue_alloc(sig: int, code: int) -> KernelSiginfo | None:
    """A queue entry that its timer owns. None: RLIMIT_SIGPENDING (timer_create answers EAGAIN)."""
    user = __sigqueue_alloc(current(), False)
    if user is None:
        return None
    return KernelSiginfo(sig, code, user=user, preallocated=True)


def sigqueue_free(info: KernelSiginfo) -> None:
    """The timer is deleted. An entry still queued is freed when it is taken."""
    info.preallocated = False
    info.rearm = None
    if not info.queued:
        __sigqueue_free(info)


def send_sigqueue(info: KernelSiginfo, pid: Pid | None, pid_type: int) -> int:
    """Sends a timer's entry to a thread (PIDTYPE_PID) or process.

    0: queued; 1: ignored or overrun; -1: no task.
    """
    t = pid_task(pid, pid_type)
    if t is None or t.sighand is None:
        return -1
    sig = info.si_signo
    if not prepare_signal(sig, t, False):
        probe = t.kernel.tp.signal_generate
        if probe is not None:
            probe(sig, info, t, pid_type != PIDTYPE_PID, TRACE_SIGNAL_IGNORED)
        return 1
    if info.queued:
        info.si_overrun += 1
        probe = t.kernel.tp.signal_generate
        if probe is not None:
            probe(sig, info, t, pid_type != PIDTYPE_PID, TRACE_SIGNAL_ALREADY_PENDING)
        return 0
    info.si_overrun = 0
    if t.sighand.signalfd_wqh is not None:
        signalfd_notify(t)
    pending = t.pending if pid_type == PIDTYPE_PID else t.signal.shared_pending
    pending.queue.append(info)
    info.queued = True
    pending.signal |= 1 << sig - 1
    complete_signal(sig, t, pid_type)
    probe = t.kernel.tp.signal_generate
    if probe is not None:
        probe(sig, info, t, pid_type != PIDTYPE_PID, TRACE_SIGNAL_DELIVERED)
    return 0


# ---- telling the parent ------------------------------------------------------------------------------------
def __wake_up_parent(p: TaskStruct, parent: TaskStruct) -> None:
    """Wakes the parent's threads that wait for p."""
    wqh = parent.signal.wait_chldexit
    if wqh is not None:
        __wake_up_sync_key(wqh, TASK_INTERRUPTIBLE, 1, p)


@notrace
def do_notify_pidfd(task: TaskStruct) -> None:
    wake_up_all(task.thread_pid.wait_pidfd)


def do_notify_parent(task: TaskStruct, sig: int) -> bool:
    """Tells the parent that `task` became a zombie.

    True: nobody will wait for it (it is to be reaped now).
    """
    parent = task.parent
    if sig != SIGCHLD and task.parent_exec_id != parent.self_exec_id:
        # the parent is another program now: it asked for nothing else
        sig = SIGCHLD
    if thread_group_empty(task):
        do_notify_pidfd(task)
    signal = task.signal
    code = task.exit_code
    info = KernelSiginfo(sig)
    info.si_pid = __task_pid_nr_ns(task, PIDTYPE_PID, parent.thread_pid.ns)
    info.si_uid = task.real_cred.uid
    info.si_utime = nsec_to_clock_t(task.utime + signal.utime)
    info.si_stime = nsec_to_clock_t(task.stime + signal.stime)
    info.si_status = code & 0x7F
    if code & 0x80:
        info.si_code = CLD_DUMPED
    elif code & 0x7F:
        info.si_code = CLD_KILLED
    else:
        info.si_code = CLD_EXITED
        info.si_status = code >> 8
    autoreap = False
    action = parent.sighand.action[SIGCHLD - 1]
    if not task.ptrace and sig == SIGCHLD and (action.handler == SIG_IGN or action.flags & SA_NOCLDWAIT):
        autoreap = True
        if action.handler == SIG_IGN:
            sig = 0
    if sig > 0 and sig <= NSIG:
        with suppress(KernelError):              # an exit signal that is a real-time one, and the queue is full
            __group_send_sig_info(sig, info, parent)
    __wake_up_parent(task, parent)
    return autoreap


def do_notify_parent_cldstop(task: TaskStruct, for_ptracer: bool, why: int) -> None:
    """Tells the parent that the process stopped (CLD_STOPPED) or goes on (CLD_CONTINUED)."""
    if for_ptracer:
        parent = task.parent
    else:
        task = task.group_leader
        parent = task.real_parent
    info = KernelSiginfo(SIGCHLD, why)
    info.si_pid = __task_pid_nr_ns(task, PIDTYPE_PID, parent.thread_pid.ns)
    info.si_uid = task.real_cred.uid
    info.si_utime = nsec_to_clock_t(task.utime)
    info.si_stime = nsec_to_clock_t(task.stime)
    if why == CLD_CONTINUED:
        info.si_status = SIGCONT
    elif why == CLD_STOPPED:
        info.si_status = task.signal.group_exit_code & 0x7F
    else:
        info.si_status = task.exit_code & 0x7F
    action = parent.sighand.action[SIGCHLD - 1]
    if action.handler != SIG_IGN and not action.flags & SA_NOCLDSTOP:
        __group_send_sig_info(SIGCHLD, info, parent)
    __wake_up_parent(task, parent)


# ---- leaving and masks -------------------------------------------------------------------------------------
def retarget_shared_pending(task: TaskStruct, which: int) -> None:
    """This thread will not take shared signals of `which` any more: another one shall."""
    retarget = task.signal.shared_pending.signal & which
    if not retarget:
        return
    for t in list(task.signal.threads):
        if t is task or t.flags & PF_EXITING or not retarget & ~t.blocked:
            continue
        retarget &= t.blocked
        if not t.ti_flags & TIF_SIGPENDING:
            signal_wake_up(t, False)
        if not retarget:
            break


def exit_signals(task: TaskStruct) -> None:
    """The task starts to exit (PF_EXITING): it takes no more signals and leaves what it was to take to
    others.
    """
    if thread_group_empty(task) or signal_group_exit(task.signal):
        task.flags |= PF_EXITING
        return
    task.flags |= PF_EXITING
    if not task.ti_flags & TIF_SIGPENDING:
        return
    retarget_shared_pending(task, ~task.blocked)
    if task.jobctl & JOBCTL_STOP_PENDING and task_participate_group_stop(task):
        do_notify_parent_cldstop(task, False, CLD_STOPPED)


def __set_task_blocked(task: TaskStruct, new: int) -> None:
    if task.ti_flags & TIF_SIGPENDING and not thread_group_empty(task):
        retarget_shared_pending(task, new & ~task.blocked)
    task.blocked = new
    recalc_sigpending()


def __set_current_blocked(new: int) -> None:
    task = current()
    if task.blocked != new:
        __set_task_blocked(task, new)


def set_current_blocked(new: int) -> None:
    """Installs a mask; SIGKILL and SIGSTOP cannot be blocked."""
    __set_current_blocked(new & ~SIG_KERNEL_ONLY_MASK)


def sigprocmask(how: int, mask: int) -> int:
    """The kernel's own sigprocmask: changes the current mask, answers the old one. Raises EINVAL."""
    task = current()
    old = task.blocked
    if how == 0:
        new = old | mask
    elif how == 1:
        new = old & ~mask
    elif how == 2:
        new = mask
    else:
        raise KernelError(EINVAL)
    __set_current_blocked(new)
    return old


def set_user_sigmask(mask: int) -> None:
    """For ppoll, pselect, epoll_pwait: `mask` holds until the return to user mode (or the frame of a
    handler).
    """
    task = current()
    task.restore_sigmask = True
    task.saved_sigmask = task.blocked
    set_current_blocked(mask)


@notrace
def restore_saved_sigmask_unless(interrupted: bool) -> None:
    """After such a call: the old mask comes back now, or after the handler when a signal ended the call."""
    if not interrupted:
        restore_saved_sigmask()


@notrace
def restore_saved_sigmask() -> None:
    task = current()
    if task.restore_sigmask:
        task.restore_sigmask = False
        __set_current_blocked(task.saved_sigmask)


@notrace
def sigmask_to_save() -> int:
    """The mask that a handler's frame remembers."""
    task = current()
    return task.saved_sigmask if task.restore_sigmask else task.blocked


# ---- the alternate signal stack ----------------------------------------------------------------------------
@notrace
def sas_ss_reset(task: TaskStruct) -> None:
    task.sas_ss_sp = 0
    task.sas_ss_size = 0
    task.sas_ss_flags = SS_DISABLE


@notrace
def __on_sig_stack(sp: int) -> bool:
    task = current()
    return task.sas_ss_sp < sp <= task.sas_ss_sp + task.sas_ss_size


@notrace
def on_sig_stack(sp: int) -> bool:
    """Does the user stack pointer lie on the alternate stack? With SS_AUTODISARM it never counts as being
    there.
    """
    return not current().sas_ss_flags & SS_AUTODISARM and __on_sig_stack(sp)


@notrace
def sas_ss_flags(sp: int) -> int:
    """SS_DISABLE: no alternate stack; SS_ONSTACK: on it already; 0: it may be entered."""
    if not current().sas_ss_size:
        return SS_DISABLE
    return SS_ONSTACK if on_sig_stack(sp) else 0


def __cleanup_sighand(sighand: SighandStruct) -> None:
    sighand.count -= 1
    if not sighand.count:
        kernel = current().kernel
        kernel.kmem_cache_free(kernel.slab.sighand_cachep, sighand.slab_address)
