"""Taking signals on the way to user mode: stop, continue, die, or say which handler to run.

Linux: get_signal() and do_signal_stop() of kernel/signal.c (5.3). Same: job control of whole thread groups,
    the orphaned-group rule, the notice to the parent that a process continued, faults before other signals.
Differs: get_signal() returns the ksignal or None. Owns: nothing.
Context: the current task, just before it returns to user mode.
"""
from __future__ import annotations

from glasskernel.fs.coredump import do_coredump
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_group_exit
from glasskernel.kernel.pid import is_current_pgrp_orphaned
from glasskernel.kernel.ptrace_stop import do_jobctl_trap, ptrace_reparented, ptrace_signal
from glasskernel.kernel.sched.core import schedule
from glasskernel.kernel.signal import (
    JOBCTL_STOP_CONSUME,
    JOBCTL_STOP_DEQUEUED,
    JOBCTL_STOP_PENDING,
    JOBCTL_TRAP_MASK,
    JOBCTL_TRAP_STOP,
    PT_SEIZED,
    SIGNAL_CLD_CONTINUED,
    SIGNAL_CLD_MASK,
    SIGNAL_STOP_STOPPED,
    SIGNAL_UNKILLABLE,
    dequeue_signal,
    dequeue_synchronous_signal,
    do_notify_parent_cldstop,
    ptrace_trap_notify,
    recalc_sigpending,
    signal_group_exit,
    signal_wake_up,
    task_participate_group_stop,
    task_set_jobctl_pending,
)
from glasskernel.kernel.signal_types import (
    CLD_CONTINUED,
    CLD_STOPPED,
    SA_RESETHAND,
    SEND_SIG_NOINFO,
    SIG_DFL,
    SIG_IGN,
    SIG_KERNEL_COREDUMP_MASK,
    SIG_KERNEL_IGNORE_MASK,
    SIG_KERNEL_ONLY_MASK,
    SIG_KERNEL_STOP_MASK,
    SIGKILL,
    SIGSTOP,
    KernelSiginfo,
)
from glasskernel.kernel.task import PF_FREEZER_SKIP, PF_SIGNALED, TASK_STOPPED, TASK_STOPPED_BIT, KSigaction
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep


@slotted
class KSignal:
    """struct ksignal: a signal whose handler is to run."""

    ka: KSigaction
    info: KernelSiginfo
    sig: int


@may_sleep
def do_signal_stop(signr: int) -> bool:
    """Takes part in a group stop, or (signr) begins one. True: the task was stopped and goes on now."""
    task = current()
    sig = task.signal
    if not task.jobctl & JOBCTL_STOP_PENDING:
        gstop = JOBCTL_STOP_PENDING | JOBCTL_STOP_CONSUME
        # SIGCONT between dequeue and here took the right to stop away
        if not task.jobctl & JOBCTL_STOP_DEQUEUED or signal_group_exit(sig):
            return False
        if not sig.flags & SIGNAL_STOP_STOPPED:
            sig.group_exit_code = signr
        sig.group_stop_count = 0
        if task_set_jobctl_pending(task, signr | gstop):
            sig.group_stop_count += 1
        for t in sig.threads:
            if t is not task and not t.state & TASK_STOPPED_BIT and task_set_jobctl_pending(t, signr | gstop):
                sig.group_stop_count += 1
                if t.ptrace & PT_SEIZED:
                    ptrace_trap_notify(t)
                else:
                    signal_wake_up(t, False)
    if task.ptrace:                              # a tracee stops in a trap: get_signal() looks at jobctl again
        task_set_jobctl_pending(task, JOBCTL_TRAP_STOP)
        return False
    notify = task_participate_group_stop(task)
    task.state = TASK_STOPPED
    if notify:
        do_notify_parent_cldstop(task, False, CLD_STOPPED)
    task.flags |= PF_FREEZER_SKIP                # freezable_schedule(): who is stopped need not freeze
    schedule()
    task.flags &= ~PF_FREEZER_SKIP
    return True


@may_sleep
def get_signal() -> KSignal | None:
    """The next signal with a handler, everything else done on the way. None: nothing more to deliver.

    A fatal signal never comes back: it ends the process.
    """
    task = current()
    if task.utask is not None and task.kernel.uprobes is not None and task.kernel.uprobes.deny_signal(task):
        return None
    if task.kernel.cgroup_freezing is not None:
        from glasskernel.kernel.freezer import try_to_freeze

        try_to_freeze()
    signal = task.signal
    sighand = task.sighand
    while True:                                  # relock: after every stop
        if signal.flags & SIGNAL_CLD_MASK:
            why = CLD_CONTINUED if signal.flags & SIGNAL_CLD_CONTINUED else CLD_STOPPED
            signal.flags &= ~SIGNAL_CLD_MASK
            do_notify_parent_cldstop(task, False, why)
            if ptrace_reparented(task.group_leader):
                do_notify_parent_cldstop(task.group_leader, True, why)
            continue
        if signal_group_exit(signal):
            info = KernelSiginfo(SIGKILL)
            task.pending.signal &= ~(1 << SIGKILL - 1)
            probe = task.kernel.tp.signal_deliver
            if probe is not None:
                probe(SIGKILL, SEND_SIG_NOINFO, sighand.action[SIGKILL - 1])
            recalc_sigpending()
            signr = SIGKILL                      # do_group_exit() uses the code that is already settled
        else:
            if task.jobctl & JOBCTL_STOP_PENDING and do_signal_stop(0):
                continue
            if task.jobctl & JOBCTL_TRAP_MASK:
                do_jobctl_trap()
                continue
            found = dequeue_synchronous_signal(task)
            if found is None:
                found = dequeue_signal(task, task.blocked)
                if found is None:
                    return None
            info = found
            signr = info.si_signo
            if task.ptrace and signr != SIGKILL:
                signr, info = ptrace_signal(signr, info)
                if not signr:
                    continue
            bit = 1 << signr - 1
            ka = sighand.action[signr - 1]
            probe = task.kernel.tp.signal_deliver
            if probe is not None:
                probe(signr, info, ka)
            if ka.handler == SIG_IGN:
                continue
            if ka.handler != SIG_DFL:
                if ka.flags & SA_RESETHAND:
                    sighand.action[signr - 1] = KSigaction(SIG_DFL, ka.flags, ka.restorer, ka.mask)
                return KSignal(ka, info, signr)
            if SIG_KERNEL_IGNORE_MASK & bit:
                continue
            if signal.flags & SIGNAL_UNKILLABLE and not SIG_KERNEL_ONLY_MASK & bit:
                continue                         # init gets no signal that it does not want
            if SIG_KERNEL_STOP_MASK & bit:
                if signr != SIGSTOP and is_current_pgrp_orphaned():
                    continue                     # nobody could ever continue it
                do_signal_stop(signr)
                continue
        task.flags |= PF_SIGNALED
        if SIG_KERNEL_COREDUMP_MASK >> signr - 1 & 1:
            do_coredump(info)
        do_group_exit(signr)
