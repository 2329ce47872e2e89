"""Sending and taking signals: signal(7), kill(2), sigqueue(3)."""
import pytest

from glasskernel.kernel.pid import PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_TGID, change_pid
from glasskernel.kernel.signal import (
    JOBCTL_STOP_DEQUEUED,
    JOBCTL_STOP_PENDING,
    SIGNAL_GROUP_EXIT,
    SIGNAL_UNKILLABLE,
    dequeue_signal,
    dequeue_synchronous_signal,
    do_notify_parent,
    do_send_sig_info,
    exit_signals,
    force_sig_fault,
    kill_something_info,
    send_sig,
    send_sigqueue,
    set_current_blocked,
    sigqueue_alloc,
)
from glasskernel.kernel.signal_types import (
    CLD_EXITED,
    CLD_KILLED,
    SA_NOCLDWAIT,
    SEGV_MAPERR,
    SEND_SIG_NOINFO,
    SEND_SIG_PRIV,
    SI_KERNEL,
    SI_QUEUE,
    SI_TIMER,
    SI_USER,
    SIG_IGN,
    SIGCHLD,
    SIGCONT,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGRTMIN,
    SIGSEGV,
    SIGSTOP,
    SIGTERM,
    SIGTSTP,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    KernelSiginfo,
    sigmask,
)
from glasskernel.kernel.task import RLIMIT_SIGPENDING, TIF_SIGPENDING, KSigaction
from glasskernel.lib.errno import EAGAIN, EINVAL, EPERM, ESRCH, KernelError
from tests.process.fakes import FakeKernel, run_as

HANDLER = KSigaction(handler=0x400000)


@pytest.fixture
def k():
    kernel = FakeKernel()
    kernel.process()                             # PID 1
    return kernel


def caught(task, *signals):
    for sig in signals:
        task.sighand.action[sig - 1] = HANDLER
    return task


def errno_of(call, *arguments):
    with pytest.raises(KernelError) as failure:
        call(*arguments)
    return failure.value.errno


def taken(task):
    run_as(task)
    infos = []
    while (info := dequeue_signal(task, task.blocked)) is not None:
        infos.append(info)
    return infos


def test_a_standard_signal_is_queued_once(k):
    p = run_as(caught(k.process(), SIGUSR1))
    for _ in range(3):
        kill_something_info(SIGUSR1, SEND_SIG_NOINFO, p.pid)
    assert [i.si_signo for i in taken(p)] == [SIGUSR1]


def test_real_time_signals_queue_in_order_with_their_values(k):
    p = run_as(caught(k.process(), SIGRTMIN + 1))
    for value in (7, 8, 9):
        do_send_sig_info(SIGRTMIN + 1, KernelSiginfo(SIGRTMIN + 1, SI_QUEUE, si_value=value), p, PIDTYPE_TGID)
    assert [i.si_value for i in taken(p)] == [7, 8, 9]
    assert not p.ti_flags & TIF_SIGPENDING


def test_the_lowest_number_goes_first(k):
    p = run_as(caught(k.process(), SIGUSR2, SIGHUP, SIGRTMIN))
    for sig in (SIGRTMIN, SIGUSR2, SIGHUP):
        send_sig(sig, p, 0)
    assert [i.si_signo for i in taken(p)] == [SIGHUP, SIGUSR2, SIGRTMIN]


def test_a_full_queue_refuses_sigqueue_but_not_kill(k):
    p = run_as(caught(k.process(), SIGRTMIN, SIGUSR1))
    p.signal.rlim[RLIMIT_SIGPENDING] = (2, 2)
    info = lambda: KernelSiginfo(SIGRTMIN, SI_QUEUE)  # noqa: E731
    do_send_sig_info(SIGRTMIN, info(), p, PIDTYPE_TGID)
    do_send_sig_info(SIGRTMIN, info(), p, PIDTYPE_TGID)
    assert errno_of(do_send_sig_info, SIGRTMIN, info(), p, PIDTYPE_TGID) == EAGAIN
    kill_something_info(SIGUSR1, SEND_SIG_NOINFO, p.pid)
    assert [i.si_signo for i in taken(p)] == [SIGUSR1, SIGRTMIN, SIGRTMIN]
    assert k.pids.users[0].sigpending == 0


def test_who_sent_it(k):
    sender = run_as(k.process(uid=1000))
    p = caught(k.process(uid=1000), SIGUSR1, SIGUSR2)
    kill_something_info(SIGUSR1, SEND_SIG_NOINFO, p.pid)
    send_sig(SIGUSR2, p, 1)
    kernel, user = taken(p)                      # the thread's own queue goes first
    assert (user.si_code, user.si_pid, user.si_uid) == (SI_USER, sender.pid, 1000)
    assert (kernel.si_code, kernel.si_pid) == (SI_KERNEL, 0)


def test_ignored_signals_are_not_queued_unless_blocked(k):
    p = run_as(k.process())
    p.sighand.action[SIGUSR1 - 1] = KSigaction(SIG_IGN)
    send_sig(SIGUSR1, p, 0)
    send_sig(SIGWINCH, p, 0)                     # ignored by default
    assert not p.ti_flags & TIF_SIGPENDING
    set_current_blocked(sigmask(SIGUSR1))
    send_sig(SIGUSR1, p, 0)
    assert p.pending.signal == sigmask(SIGUSR1)


def test_blocked_signals_wait(k):
    p = run_as(caught(k.process(), SIGUSR1))
    set_current_blocked(sigmask(SIGUSR1))
    send_sig(SIGUSR1, p, 0)
    assert not p.ti_flags & TIF_SIGPENDING
    set_current_blocked(0)
    assert p.ti_flags & TIF_SIGPENDING


def test_kill_and_stop_cannot_be_blocked(k):
    p = run_as(k.process())
    set_current_blocked(~0)
    assert not p.blocked & (sigmask(SIGKILL) | sigmask(SIGSTOP))


def test_a_fatal_signal_takes_every_thread(k):
    p = run_as(k.process())
    threads = [k.thread(p) for _ in range(3)]
    kill_something_info(SIGTERM, SEND_SIG_NOINFO, p.pid)
    assert p.signal.flags & SIGNAL_GROUP_EXIT
    assert p.signal.group_exit_code == SIGTERM
    for t in [p, *threads]:
        assert t.pending.signal & sigmask(SIGKILL)


def test_a_thread_that_does_not_block_gets_the_process_signal(k):
    p = run_as(caught(k.process(), SIGUSR1))
    p.blocked = sigmask(SIGUSR1)
    t = k.thread(p)
    kill_something_info(SIGUSR1, SEND_SIG_NOINFO, p.pid)
    assert t.ti_flags & TIF_SIGPENDING
    assert not p.ti_flags & TIF_SIGPENDING
    assert [i.si_signo for i in taken(t)] == [SIGUSR1]


def test_a_dying_thread_hands_its_signals_on(k):
    p = run_as(caught(k.process(), SIGUSR1))
    t = k.thread(p)
    kill_something_info(SIGUSR1, SEND_SIG_NOINFO, p.pid)
    assert not t.ti_flags & TIF_SIGPENDING
    exit_signals(p)
    assert t.ti_flags & TIF_SIGPENDING


def test_cont_and_stop_cancel_each_other(k):
    p = run_as(k.process())
    p.blocked = sigmask(SIGTSTP) | sigmask(SIGCONT)
    send_sig(SIGTSTP, p, 0)
    send_sig(SIGCONT, p, 0)
    assert p.pending.signal == sigmask(SIGCONT)
    send_sig(SIGTSTP, p, 0)
    assert p.pending.signal == sigmask(SIGTSTP)
    p.jobctl |= JOBCTL_STOP_PENDING | JOBCTL_STOP_DEQUEUED
    send_sig(SIGCONT, p, 0)
    assert not p.jobctl & (JOBCTL_STOP_PENDING | JOBCTL_STOP_DEQUEUED)


def test_init_gets_no_signal_it_does_not_want(k):
    init = run_as(next(iter(k.pids.tasks)))
    init.signal.flags |= SIGNAL_UNKILLABLE
    sender = run_as(k.process())
    for sig in (SIGKILL, SIGTERM, SIGSTOP):
        kill_something_info(sig, SEND_SIG_NOINFO, 1)
    assert not init.signal.shared_pending.signal
    run_as(caught(init, SIGTERM))
    run_as(sender)
    kill_something_info(SIGTERM, SEND_SIG_NOINFO, 1)
    assert init.signal.shared_pending.signal == sigmask(SIGTERM)


def test_a_fault_cannot_be_blocked_or_ignored(k):
    p = run_as(k.process())
    p.sighand.action[SIGSEGV - 1] = KSigaction(SIG_IGN)
    p.blocked = sigmask(SIGSEGV)
    force_sig_fault(SIGSEGV, SEGV_MAPERR, 0xDEAD000)
    assert not p.blocked
    info = dequeue_synchronous_signal(p)
    assert (info.si_signo, info.si_code, info.si_addr) == (SIGSEGV, SEGV_MAPERR, 0xDEAD000)
    assert p.sighand.action[SIGSEGV - 1].handler == 0


def test_a_fault_goes_before_signals_with_lower_numbers(k):
    p = run_as(caught(k.process(), SIGHUP, SIGSEGV))
    send_sig(SIGHUP, p, 0)
    force_sig_fault(SIGSEGV, SEGV_MAPERR, 1)
    assert dequeue_synchronous_signal(p).si_signo == SIGSEGV
    assert dequeue_synchronous_signal(p) is None
    assert [i.si_signo for i in taken(p)] == [SIGHUP]


# ---- kill(2)'s targets and permission ----------------------------------------------------------------------------
def test_kill_zero_reaches_the_own_group_and_minus_n_another(k):
    shell = run_as(caught(k.process(), SIGUSR1))
    a, b = caught(k.process(shell), SIGUSR1), caught(k.process(shell), SIGUSR1)
    change_pid(b, PIDTYPE_PGID, b.thread_pid)
    kill_something_info(SIGUSR1, SEND_SIG_NOINFO, 0)
    assert [len(taken(p)) for p in (shell, a, b)] == [1, 1, 0]
    run_as(shell)
    kill_something_info(SIGUSR1, SEND_SIG_NOINFO, -b.pid)
    assert [len(taken(p)) for p in (shell, a, b)] == [0, 0, 1]


def test_kill_minus_one_spares_init_and_the_caller(k):
    me = run_as(caught(k.process(), SIGUSR1))
    other = caught(k.process(), SIGUSR1)
    init = caught(next(iter(k.pids.tasks)), SIGUSR1)
    kill_something_info(SIGUSR1, SEND_SIG_NOINFO, -1)
    assert [len(taken(p)) for p in (init, me, other)] == [0, 0, 1]


def test_kill_errors(k):
    run_as(k.process(uid=1000))
    root = k.process()
    assert errno_of(kill_something_info, SIGINT, SEND_SIG_NOINFO, 9999) == ESRCH
    assert errno_of(kill_something_info, SIGINT, SEND_SIG_NOINFO, -9999) == ESRCH
    assert errno_of(kill_something_info, SIGINT, SEND_SIG_NOINFO, -(1 << 31)) == ESRCH
    assert errno_of(kill_something_info, SIGINT, SEND_SIG_NOINFO, root.pid) == EPERM
    assert errno_of(kill_something_info, 65, SEND_SIG_NOINFO, root.pid) == EINVAL
    assert errno_of(kill_something_info, -1, SEND_SIG_NOINFO, root.pid) == EINVAL


def test_signal_zero_only_asks(k):
    p = run_as(k.process())
    kill_something_info(0, SEND_SIG_NOINFO, p.pid)
    assert not p.signal.shared_pending.signal


def test_cont_may_be_sent_within_the_session(k):
    shell = run_as(k.process(uid=1000))
    root = k.process(shell)                      # a set-uid program that the shell started
    kill_something_info(SIGCONT, SEND_SIG_NOINFO, root.pid)
    change_pid(root, PIDTYPE_SID, root.thread_pid)
    assert errno_of(kill_something_info, SIGCONT, SEND_SIG_NOINFO, root.pid) == EPERM


# ---- timers' entries ---------------------------------------------------------------------------------------------
def test_a_timer_that_fires_while_queued_counts_overruns(k):
    p = run_as(caught(k.process(), SIGRTMIN))
    rearmed = []
    entry = sigqueue_alloc(SIGRTMIN, SI_TIMER)
    entry.rearm = rearmed.append
    for _ in range(3):
        assert send_sigqueue(entry, p.thread_pid, PIDTYPE_TGID) == 0
    (info,) = taken(p)
    assert info.si_overrun == 2
    assert rearmed == [info] and info is not entry
    assert send_sigqueue(entry, p.thread_pid, PIDTYPE_TGID) == 0
    assert taken(p)[0].si_overrun == 0


def test_an_ignored_timer_signal_is_reported(k):
    p = run_as(k.process())
    p.sighand.action[SIGRTMIN - 1] = KSigaction(SIG_IGN)
    assert send_sigqueue(sigqueue_alloc(SIGRTMIN, SI_TIMER), p.thread_pid, PIDTYPE_TGID) == 1


# ---- telling the parent ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("exit_code", "code", "status"), [(3 << 8, CLD_EXITED, 3), (SIGTERM, CLD_KILLED, SIGTERM)]
)
def test_the_parent_learns_how_the_child_ended(k, exit_code, code, status):
    parent = run_as(caught(k.process(), SIGCHLD))
    child = k.process(parent, uid=1000)
    child.exit_code = exit_code
    assert do_notify_parent(child, SIGCHLD) is False
    (info,) = taken(parent)
    assert (info.si_signo, info.si_code, info.si_pid, info.si_uid, info.si_status) == (
        SIGCHLD, code, child.pid, 1000, status)


@pytest.mark.parametrize(("action", "signals"), [(KSigaction(SIG_IGN), 0), (KSigaction(0x400000, SA_NOCLDWAIT), 1)])
def test_nobody_waits_where_sigchld_is_ignored(k, action, signals):
    """wait(2): SIGCHLD ignored or SA_NOCLDWAIT: children do not become zombies."""
    parent = run_as(k.process())
    parent.sighand.action[SIGCHLD - 1] = action
    assert do_notify_parent(k.process(parent), SIGCHLD) is True
    assert len(taken(parent)) == signals


def test_a_parent_that_called_exec_gets_sigchld_whatever_clone_asked_for(k):
    parent = run_as(caught(k.process(), SIGCHLD, SIGUSR1))
    child = k.process(parent)
    child.exit_signal = SIGUSR1
    parent.self_exec_id += 1
    do_notify_parent(child, child.exit_signal)
    assert [i.si_signo for i in taken(parent)] == [SIGCHLD]


def test_priv_signals_need_no_permission(k):
    run_as(k.process(uid=1000))
    root = caught(k.process(), SIGHUP)
    do_send_sig_info(SIGHUP, SEND_SIG_PRIV, root, PIDTYPE_TGID)
    assert len(taken(root)) == 1
