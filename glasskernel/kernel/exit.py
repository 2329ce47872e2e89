"""The end of tasks, and waiting for it.

Linux: kernel/exit.c (5.3); de_thread() is fs/exec.c's. Same: a task gives back what it holds, becomes a
    zombie, is reaped by wait or at once when nobody will wait; orphans go to a subreaper or init; a stopped
    group that becomes an orphan gets SIGHUP and SIGCONT; a leader stays a zombie until its last thread is
    gone.
Differs: PID 1's end is a broken invariant (an oops of PID 1 panics).
Owns: exit_state, exit_code, the family lists. Gaps: accounting files.
Invariants: a task is scheduled no more after do_task_dead(); a zombie that nobody may wait for does not
    exist.
Context of every function: task.
"""
from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, Final

from glasskernel.arch.x86.step import flush_ptrace_hw_breakpoint
from glasskernel.arch.x86.uaccess import copy_to_user, put_user_u32
from glasskernel.drivers.tty.tty_jobctrl import disassociate_ctty
from glasskernel.fs.file import exit_files
from glasskernel.fs.fs_struct import exit_fs
from glasskernel.ipc.sem import exit_sem
from glasskernel.ipc.shm import exit_shm
from glasskernel.kernel.acct import acct_collect, acct_process
from glasskernel.kernel.cgroup.task import cgroup_exit, cgroup_release
from glasskernel.kernel.cred import uncount_process
from glasskernel.kernel.current import current
from glasskernel.kernel.fork import mm_release
from glasskernel.kernel.locking.rwsem import down_read, up_read
from glasskernel.kernel.nsproxy import exit_task_namespaces
from glasskernel.kernel.pid import (
    PIDTYPE_MAX,
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_SID,
    PIDTYPE_TGID,
    Pid,
    __task_pid_nr_ns,
    detach_pid,
    find_get_pid,
    get_pid,
    get_task_pid,
    is_global_init,
    put_pid,
    task_pid_ptr,
    task_pid_vnr,
    thread_group_empty,
    thread_group_leader,
    transfer_pid,
    will_become_orphaned_pgrp,
)
from glasskernel.kernel.pidfd import pidfd_get_pid
from glasskernel.kernel.ptrace import exit_ptrace, ptrace_unlink
from glasskernel.kernel.ptrace_stop import PTRACE_EVENT_EXIT, ptrace_event, ptrace_reparented
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.sched.autogroup import sched_autogroup_exit_task
from glasskernel.kernel.sched.core import do_task_dead, schedule, set_current_state, wake_up_process
from glasskernel.kernel.sched.cputime import task_cputime, thread_group_cputime, thread_group_cputime_adjusted
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    add_wait_queue,
    default_wake_function,
    remove_wait_queue,
)
from glasskernel.kernel.signal import (
    JOBCTL_LISTENING,
    SIGNAL_GROUP_EXIT,
    SIGNAL_STOP_CONTINUED,
    SIGNAL_STOP_STOPPED,
    __cleanup_sighand,
    __fatal_signal_pending,
    __kill_pgrp_info,
    __wake_up_parent,
    do_notify_parent,
    exit_signals,
    flush_sigqueue,
    send_sig,
    signal_group_exit,
    zap_other_threads,
)
from glasskernel.kernel.signal_types import (
    CLD_CONTINUED,
    CLD_DUMPED,
    CLD_EXITED,
    CLD_KILLED,
    CLD_STOPPED,
    CLD_TRAPPED,
    SEND_SIG_PRIV,
    SIGCHLD,
    SIGCONT,
    SIGHUP,
)
from glasskernel.kernel.task import (
    EXIT_DEAD,
    EXIT_TRACE,
    EXIT_ZOMBIE,
    PF_EXITING,
    TASK_INTERRUPTIBLE,
    TASK_KILLABLE,
    TASK_RUNNING,
    TASK_TRACED_BIT,
    TASK_UNINTERRUPTIBLE,
    TIF_SIGPENDING,
    SighandStruct,
    SignalStruct,
    TaskStruct,
)
from glasskernel.kernel.task_work import exit_task_work
from glasskernel.kernel.time.itimer import exit_itimers
from glasskernel.lib.errno import EAGAIN, ECHILD, EINVAL, ESRCH, KernelError, Restart
from glasskernel.lib.slotted import slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace
from glasskernel.mm.mempolicy import mpol_put_task_policy
from glasskernel.mm.mmap import mmgrab, mmput
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.slub import kmem_cache_alloc

WNOHANG, WUNTRACED, WSTOPPED, WEXITED, WCONTINUED = 1, 2, 2, 4, 8
WNOWAIT: Final = 0x0100_0000
__WNOTHREAD: Final = 0x2000_0000
__WALL: Final = 0x4000_0000
__WCLONE: Final = 0x8000_0000
P_ALL, P_PID, P_PGID, P_PIDFD = 0, 1, 2, 3
_RUSAGE = struct.Struct("<18q")
# siginfo as waitid fills it: signo, errno, code, padding, pid, uid, status
_WAIT_INFO = struct.Struct("<iiiiiIi")


# ---- the end -----------------------------------------------------------------------------------------------
def exit_mm() -> None:
    """Lets go of the address space. The task goes on as a kernel thread would."""
    task = current()
    mm = task.mm
    if mm is None:
        return
    mm_release(task, mm)
    # active_mm stays: its page tables are the ones that are loaded
    down_read(mm.mmap_sem)
    mmgrab(mm)
    task.mm = None
    up_read(mm.mmap_sem)
    mmput(mm)


@notrace
def has_stopped_jobs(pgrp: Pid) -> bool:
    return any(p.signal.flags & SIGNAL_STOP_STOPPED for p in pgrp.tasks[PIDTYPE_PGID])


def kill_orphaned_pgrp(task: TaskStruct, parent: TaskStruct | None) -> None:
    """`task` exits, or loses its parent: if its group becomes an orphan and has stopped jobs, SIGHUP,
    SIGCONT.
    """
    pgrp = task.signal.pgrp
    ignored: TaskStruct | None = task
    if parent is None:
        parent = task.real_parent                # exit: our father's group relation ends
    else:
        ignored = None                           # reparent: it loses `parent`
    if (
        pgrp is not None
        and parent.signal.pgrp is not pgrp
        and parent.signal.session is task.signal.session
        and will_become_orphaned_pgrp(pgrp, ignored)
        and has_stopped_jobs(pgrp)
    ):
        for sig in (SIGHUP, SIGCONT):
            with suppress(KernelError):
                __kill_pgrp_info(sig, SEND_SIG_PRIV, pgrp)


def find_alive_thread(p: TaskStruct) -> TaskStruct | None:
    for t in p.signal.threads:
        if not t.flags & PF_EXITING:
            return t
    return None


@notrace
@may_sleep
def find_child_reaper(father: TaskStruct) -> TaskStruct:
    """The init of father's PID namespace. If its last thread is what ends, all in it end first."""
    ns = father.thread_pid.ns
    owner = father.kernel.pids if ns is None else ns
    if owner.child_reaper is not father:
        assert owner.child_reaper is not None
        return owner.child_reaper
    thread = find_alive_thread(father)
    if thread is not None:
        owner.child_reaper = thread
        return thread
    if ns is not None:
        ns.zap(ns, lambda: kernel_wait4(-1, __WALL))         # zap_pid_ns_processes()
    return father


@notrace
def find_new_reaper(father: TaskStruct, child_reaper: TaskStruct) -> TaskStruct:
    """Who takes father's children: another thread, the nearest subreaper above, or init."""
    thread = find_alive_thread(father)
    if thread is not None:
        return thread
    if father.signal.has_child_subreaper:
        reaper = father.real_parent
        while not is_global_init(reaper) and reaper.pid and reaper.thread_pid.ns is father.thread_pid.ns:
            if reaper.signal.is_child_subreaper:
                thread = find_alive_thread(reaper)
                if thread is not None:
                    return thread
            reaper = reaper.real_parent
    return child_reaper


@notrace
def reparent_leader(father: TaskStruct, p: TaskStruct, dead: list[TaskStruct]) -> None:
    """A child process got a new parent."""
    if p.exit_state == EXIT_DEAD:
        return
    p.exit_signal = SIGCHLD
    if not p.ptrace and p.exit_state == EXIT_ZOMBIE and thread_group_empty(p):
        if do_notify_parent(p, p.exit_signal):
            p.exit_state = EXIT_DEAD
            dead.append(p)
    kill_orphaned_pgrp(p, father)


@notrace
def forget_original_parent(father: TaskStruct, dead: list[TaskStruct]) -> None:
    """Gives the children away, with the signal they asked for at their parent's death."""
    if father.ptraced:
        exit_ptrace(father, dead)
    child_reaper = find_child_reaper(father)
    if not father.children:
        return
    reaper = find_new_reaper(father, child_reaper)
    if reaper is father:                         # init's last thread: there is nobody else
        return
    for p in father.children:
        for t in p.signal.threads:
            t.real_parent = reaper
            if not t.ptrace:
                t.parent = reaper
            if t.pdeath_signal:
                send_sig(t.pdeath_signal, t, 0)
        if reaper.signal is not father.signal:
            reparent_leader(father, p, dead)
    reaper.children.extend(father.children)
    father.children.clear()


def exit_notify(task: TaskStruct, group_dead: bool) -> None:
    """Tells everybody who has to know, and becomes a zombie, or nothing at all."""
    dead: list[TaskStruct] = []
    forget_original_parent(task, dead)
    if group_dead:
        kill_orphaned_pgrp(task.group_leader, None)
    task.exit_state = EXIT_ZOMBIE
    if task.ptrace:
        own = thread_group_leader(task) and thread_group_empty(task) and not ptrace_reparented(task)
        autoreap = do_notify_parent(task, task.exit_signal if own else SIGCHLD)
    elif thread_group_leader(task):
        autoreap = thread_group_empty(task) and do_notify_parent(task, task.exit_signal)
    else:
        autoreap = True
    if autoreap:
        task.exit_state = EXIT_DEAD
        dead.append(task)
    if task.signal.notify_count < 0:             # de_thread() waits for the leader
        wake_up_process(task.signal.group_exit_task)  # type: ignore[arg-type]
    for p in dead:
        release_task(p)


def do_exit(code: int) -> None:
    """Ends the current task. code: the wait status (exit code << 8, or the signal). Never returns."""
    task = current()
    assert task.pid, "Attempted to kill the idle task!"
    if task.ptrace:
        ptrace_event(PTRACE_EVENT_EXIT, code)
    if task.flags & PF_EXITING:                  # a fault while exiting: hold still for ever
        task.clear_child_tid = 0
        set_current_state(TASK_UNINTERRUPTIBLE)
        schedule()
    exit_signals(task)
    signal = task.signal
    signal.live -= 1
    group_dead = signal.live == 0
    if group_dead:
        # PID 1 never ends (init/main.py): Linux panics here.
        exitcode = signal.group_exit_code or code
        assert not is_global_init(task), f"Attempted to kill init! exitcode={exitcode:#010x}"
        exit_itimers(signal)
        mm = task.mm
        if mm is not None:
            rss = max(mm.hiwater_rss, sum(mm.rss_stat[i] for i in (0, 1, 3)))
            if rss > signal.maxrss:
                signal.maxrss = rss
    pacct = None
    if task.kernel.acct is not None and group_dead:
        pacct = acct_collect(signal.group_exit_code or code, group_dead)
    task.exit_code = code
    exit_mm()
    if pacct is not None:
        acct_process(pacct)
    probe = task.kernel.tp.sched_process_exit
    if probe is not None:
        probe(task)
    exit_sem(task)
    exit_shm(task)
    exit_files(task)
    exit_fs(task)
    if group_dead:
        disassociate_ctty(True)
    exit_task_namespaces(task)
    exit_task_work(task)
    if task.kernel.perf is not None:
        task.kernel.perf.event_exit_task(task)
    if task.sched_task_group.autogroup is not None:
        sched_autogroup_exit_task(task)
    cgroup_exit(task)
    flush_ptrace_hw_breakpoint(task)
    exit_notify(task, group_dead)
    mpol_put_task_policy(task)
    do_task_dead()


@may_sleep
def do_group_exit(exit_code: int) -> None:
    """Ends every thread of the process. The first code wins. Never returns."""
    task = current()
    sig = task.signal
    if signal_group_exit(sig):
        exit_code = sig.group_exit_code
    elif not thread_group_empty(task):
        sig.group_exit_code = exit_code
        sig.flags = SIGNAL_GROUP_EXIT
        zap_other_threads(task)
    do_exit(exit_code)


@syscall
def sys_exit(error_code: int) -> int:
    """exit(2) of one thread."""
    do_exit((error_code & 0xFF) << 8)
    return 0


@syscall
def sys_exit_group(error_code: int) -> int:
    """exit_group(2): all threads."""
    do_group_exit((error_code & 0xFF) << 8)
    return 0


# ---- the remains -------------------------------------------------------------------------------------------
@notrace
def __unhash_process(p: TaskStruct, group_dead: bool) -> None:
    pids = p.kernel.pids
    pids.nr_threads -= 1
    detach_pid(p, PIDTYPE_PID)
    if group_dead:
        detach_pid(p, PIDTYPE_TGID)
        detach_pid(p, PIDTYPE_PGID)
        detach_pid(p, PIDTYPE_SID)
        pids.tasks.pop(p, None)
        siblings = p.real_parent.children
        if p in siblings:
            siblings.remove(p)
    p.signal.threads.remove(p)


@notrace
def __exit_signal(p: TaskStruct) -> None:
    """Adds what the thread used to its process, and takes it out of all lists."""
    sig = p.signal
    group_dead = thread_group_leader(p)
    if not group_dead:
        if sig.notify_count > 0:                 # de_thread() counts threads down
            sig.notify_count -= 1
            if not sig.notify_count:
                wake_up_process(sig.group_exit_task)  # type: ignore[arg-type]
        if p is sig.curr_target:
            threads = sig.threads
            sig.curr_target = threads[(threads.index(p) + 1) % len(threads)]
    utime, stime = task_cputime(p)
    sig.utime += utime
    sig.stime += stime
    sig.min_flt += p.min_flt
    sig.maj_flt += p.maj_flt
    sig.nvcsw += p.nvcsw
    sig.nivcsw += p.nivcsw
    sig.inblock += p.read_bytes >> 9
    sig.oublock += p.write_bytes >> 9
    sig.nr_threads -= 1
    __unhash_process(p, group_dead)
    flush_sigqueue(p.pending)
    __cleanup_sighand(p.sighand)
    p.sighand = None  # type: ignore[assignment]
    if group_dead:
        flush_sigqueue(sig.shared_pending)
        sig.tty = None


def release_task(p: TaskStruct) -> None:
    """Nobody will ask for the task any more: it disappears from all lists, with its leader if that waited for
    it.
    """
    while True:
        ptrace_unlink(p)                         # ptrace_release_task()
        uncount_process(p)
        proc_flush = p.kernel.pids.proc_flush_task
        if proc_flush is not None:
            proc_flush(p)
        cgroup_release(p)
        leader = p.group_leader
        __exit_signal(p)
        zap_leader = False
        if leader is not p and thread_group_empty(leader) and leader.exit_state == EXIT_ZOMBIE:
            # The last thread is gone: only now the process as a whole is dead.
            zap_leader = do_notify_parent(leader, leader.exit_signal)
            if zap_leader:
                leader.exit_state = EXIT_DEAD
        call_rcu(p, delayed_put_task_struct)
        if not zap_leader:
            return
        p = leader


def delayed_put_task_struct(p: TaskStruct) -> None:
    """A grace period after it was reaped: nobody finds it in a list any more. Context: softirq."""
    probe = p.kernel.tp.sched_process_free
    if probe is not None:
        probe(p)
    put = p.kernel.sched.put_task_struct
    assert put is not None
    put(p)


# ---- waiting -----------------------------------------------------------------------------------------------
@slotted
class Rusage:
    """struct rusage; times in ns, maxrss in KB."""

    utime: int = 0
    stime: int = 0
    maxrss: int = 0
    minflt: int = 0
    majflt: int = 0
    inblock: int = 0
    oublock: int = 0
    nvcsw: int = 0
    nivcsw: int = 0

    @notrace
    def pack(self) -> bytes:
        """The 144 bytes of struct rusage."""
        us, ss = self.utime // 1000, self.stime // 1000
        return _RUSAGE.pack(
            us // 1_000_000, us % 1_000_000, ss // 1_000_000, ss % 1_000_000, self.maxrss, 0, 0, 0,
            self.minflt, self.majflt, 0, self.inblock, self.oublock, 0, 0, 0, self.nvcsw, self.nivcsw,
        )


RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_BOTH, RUSAGE_THREAD = 0, -1, -2, 1


@notrace
def _add_thread(r: Rusage, t: TaskStruct) -> None:
    r.minflt += t.min_flt
    r.majflt += t.maj_flt
    r.nvcsw += t.nvcsw
    r.nivcsw += t.nivcsw
    r.inblock += t.read_bytes >> 9
    r.oublock += t.write_bytes >> 9


def getrusage(p: TaskStruct, who: int, r: Rusage) -> None:
    """Fills in what a process, its waited-for children, or one thread used."""
    sig = p.signal
    maxrss = 0
    if who == RUSAGE_THREAD:
        r.utime, r.stime = task_cputime(p)
        _add_thread(r, p)
        maxrss = sig.maxrss
    if who in (RUSAGE_CHILDREN, RUSAGE_BOTH):
        r.utime, r.stime = sig.cutime, sig.cstime
        r.minflt, r.majflt = sig.cmin_flt, sig.cmaj_flt
        r.nvcsw, r.nivcsw = sig.cnvcsw, sig.cnivcsw
        r.inblock, r.oublock = sig.cinblock, sig.coublock
        maxrss = sig.cmaxrss
    if who in (RUSAGE_SELF, RUSAGE_BOTH):
        utime, stime, _ = thread_group_cputime(p)
        r.utime += utime
        r.stime += stime
        r.minflt += sig.min_flt
        r.majflt += sig.maj_flt
        r.nvcsw += sig.nvcsw
        r.nivcsw += sig.nivcsw
        r.inblock += sig.inblock
        r.oublock += sig.oublock
        if sig.maxrss > maxrss:
            maxrss = sig.maxrss
        for t in sig.threads:
            _add_thread(r, t)
    if who != RUSAGE_CHILDREN and p.mm is not None:
        stat = p.mm.rss_stat
        maxrss = max(maxrss, p.mm.hiwater_rss, stat[0] + stat[1] + stat[3])
    r.maxrss = maxrss * 4


class WaitOpts:
    """struct wait_opts: what do_wait() looks for, and what it found."""

    __slots__ = ("notask_error", "wo_flags", "wo_info", "wo_pid", "wo_rusage", "wo_stat", "wo_type")

    def __init__(self, wo_type: int, wo_pid: Pid | None, wo_flags: int, wo_rusage: Rusage | None) -> None:
        self.wo_type = wo_type
        self.wo_pid = wo_pid
        self.wo_flags = wo_flags
        self.wo_stat = 0
        self.wo_info: tuple[int, int, int, int] | None = None      # cause, pid, uid, status
        self.wo_rusage = wo_rusage
        self.notask_error = 0


@notrace
def eligible_pid(wo: WaitOpts, p: TaskStruct) -> bool:
    return wo.wo_type == PIDTYPE_MAX or task_pid_ptr(p, wo.wo_type) is wo.wo_pid


@notrace
def eligible_child(wo: WaitOpts, ptrace: bool, p: TaskStruct) -> bool:
    if wo.wo_type != PIDTYPE_MAX and task_pid_ptr(p, wo.wo_type) is not wo.wo_pid:
        return False
    if ptrace or wo.wo_flags & __WALL:
        return True
    # __WCLONE asks for children that do not report with SIGCHLD, otherwise for the others
    return (p.exit_signal != SIGCHLD) == bool(wo.wo_flags & __WCLONE)


@notrace
def wait_task_zombie(wo: WaitOpts, p: TaskStruct) -> int:
    """Takes a zombie: its status, its times, and (without WNOWAIT) the rest of it.

    Answers its pid, 0: another took it.
    """
    if not wo.wo_flags & WEXITED:
        return 0
    pid = __task_pid_nr_ns(p, PIDTYPE_PID, current().thread_pid.ns)
    uid = p.real_cred.uid
    sig = p.signal
    status = sig.group_exit_code if sig.flags & SIGNAL_GROUP_EXIT else p.exit_code
    if wo.wo_rusage is not None:
        getrusage(p, RUSAGE_BOTH, wo.wo_rusage)
    if not wo.wo_flags & WNOWAIT:
        # A tracer that is not the parent takes the tie only: the parent still gets its zombie.
        p.exit_state = EXIT_TRACE if ptrace_reparented(p) and thread_group_leader(p) else EXIT_DEAD
    if p.exit_state == EXIT_DEAD and thread_group_leader(p):
        psig = current().signal
        utime, stime = thread_group_cputime_adjusted(p)
        psig.cutime += utime + sig.cutime
        psig.cstime += stime + sig.cstime
        psig.cmin_flt += p.min_flt + sig.min_flt + sig.cmin_flt
        psig.cmaj_flt += p.maj_flt + sig.maj_flt + sig.cmaj_flt
        psig.cnvcsw += p.nvcsw + sig.nvcsw + sig.cnvcsw
        psig.cnivcsw += p.nivcsw + sig.nivcsw + sig.cnivcsw
        psig.cinblock += (p.read_bytes >> 9) + sig.inblock + sig.cinblock
        psig.coublock += (p.write_bytes >> 9) + sig.oublock + sig.coublock
        psig.cmaxrss = max(psig.cmaxrss, sig.maxrss, sig.cmaxrss)
    if p.exit_state == EXIT_TRACE:
        ptrace_unlink(p)
        p.exit_state = EXIT_DEAD if do_notify_parent(p, p.exit_signal) else EXIT_ZOMBIE
    if p.exit_state == EXIT_DEAD:
        release_task(p)
    wo.wo_stat = status
    if not status & 0x7F:
        wo.wo_info = (CLD_EXITED, pid, uid, status >> 8)
    else:
        wo.wo_info = (CLD_DUMPED if status & 0x80 else CLD_KILLED, pid, uid, status & 0x7F)
    return pid


@notrace
def wait_task_stopped(wo: WaitOpts, ptrace: bool, p: TaskStruct) -> int:
    """Reports once that a child stopped, or that a tracee stands in a trap."""
    if ptrace:
        code = p.exit_code if p.state & TASK_TRACED_BIT and not p.jobctl & JOBCTL_LISTENING else 0
        if not code:
            return 0
        if not wo.wo_flags & WNOWAIT:
            p.exit_code = 0
    else:
        sig = p.signal
        code = sig.group_exit_code
        if not wo.wo_flags & WUNTRACED or not sig.flags & SIGNAL_STOP_STOPPED or not code:
            return 0
        if not wo.wo_flags & WNOWAIT:
            sig.group_exit_code = 0
    if wo.wo_rusage is not None:
        getrusage(p, RUSAGE_BOTH, wo.wo_rusage)
    wo.wo_stat = code << 8 | 0x7F
    wo.wo_info = (CLD_TRAPPED if ptrace else CLD_STOPPED, task_pid_vnr(p), p.real_cred.uid, code)
    return task_pid_vnr(p)


@notrace
def wait_task_continued(wo: WaitOpts, p: TaskStruct) -> int:
    """Reports once that a stopped child goes on."""
    if not wo.wo_flags & WCONTINUED:
        return 0
    sig = p.signal
    if not sig.flags & SIGNAL_STOP_CONTINUED:
        return 0
    if not wo.wo_flags & WNOWAIT:
        sig.flags &= ~SIGNAL_STOP_CONTINUED
    if wo.wo_rusage is not None:
        getrusage(p, RUSAGE_BOTH, wo.wo_rusage)
    wo.wo_stat = 0xFFFF
    wo.wo_info = (CLD_CONTINUED, task_pid_vnr(p), p.real_cred.uid, SIGCONT)
    return task_pid_vnr(p)


@notrace
def delay_group_leader(p: TaskStruct) -> bool:
    return thread_group_leader(p) and not thread_group_empty(p)


def wait_consider_task(wo: WaitOpts, ptrace: bool, p: TaskStruct) -> int:
    """Is there something to report of this child, or (ptrace) tracee? Answers its pid or 0."""
    exit_state = p.exit_state
    if exit_state == EXIT_DEAD or not eligible_child(wo, ptrace, p):
        return 0
    if exit_state == EXIT_TRACE:
        if not ptrace:
            wo.notask_error = 0
        return 0
    if not ptrace and p.ptrace and not ptrace_reparented(p):
        ptrace = True                            # a child that this process traces itself
    if exit_state == EXIT_ZOMBIE:
        if not delay_group_leader(p) and (ptrace or not p.ptrace):
            return wait_task_zombie(wo, p)
        # Its threads, or its tracer, hold it: it may still stop or continue, and will be a zombie to wait for.
        if not ptrace or wo.wo_flags & (WCONTINUED | WEXITED):
            wo.notask_error = 0
    else:
        wo.notask_error = 0
    return wait_task_stopped(wo, ptrace, p) or wait_task_continued(wo, p)


def child_wait_callback(wait: WaitQueueEntry, mode: int, sync: int, key: Any) -> int:
    """A child of the process changed: does it concern this waiter?"""
    wo: WaitOpts = wait.data
    p: TaskStruct = key
    if not eligible_pid(wo, p):
        return 0
    if wo.wo_flags & __WNOTHREAD and wait.private is not p.parent:
        return 0
    return default_wake_function(wait, mode, sync, key)


@may_sleep
def do_wait(wo: WaitOpts) -> int:
    """Waits until a child has something to report. Answers its pid; 0: WNOHANG and nothing yet.

    Raises ECHILD (no such child), Restart.
    """
    task = current()
    wqh = task.signal.wait_chldexit
    assert wqh is not None
    probe = task.kernel.tp.sched_process_wait
    if probe is not None:
        probe(wo.wo_pid)
    entry = WaitQueueEntry(child_wait_callback, task, wo)
    add_wait_queue(wqh, entry)
    try:
        while True:
            wo.notask_error = ECHILD
            pid = wo.wo_pid
            if wo.wo_type == PIDTYPE_MAX or (pid is not None and pid.tasks[wo.wo_type]):
                set_current_state(TASK_INTERRUPTIBLE)
                threads = (task,) if wo.wo_flags & __WNOTHREAD else task.signal.threads
                for t in threads:
                    for p in t.children:
                        found = wait_consider_task(wo, False, p)
                        if found:
                            return found
                    for p in t.ptraced:
                        found = wait_consider_task(wo, True, p)
                        if found:
                            return found
            if wo.notask_error:
                raise KernelError(wo.notask_error)
            if wo.wo_flags & WNOHANG:
                return 0
            if task.ti_flags & TIF_SIGPENDING:
                raise Restart()
            schedule()
    finally:
        set_current_state(TASK_RUNNING)
        remove_wait_queue(wqh, entry)


@may_sleep
def kernel_wait4(upid: int, options: int, usage: Rusage | None = None) -> tuple[int, int]:
    """wait4(2) for kernel callers: (pid, status); fills `usage`. Raises EINVAL, ECHILD, ESRCH, Restart."""
    if options & ~(WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL):
        raise KernelError(EINVAL)
    pid: Pid | None = None
    if upid == -0x8000_0000:
        raise KernelError(ESRCH)
    if upid == -1:
        pid_type = PIDTYPE_MAX
    elif upid < 0:
        pid_type = PIDTYPE_PGID
        pid = find_get_pid(-upid)
    elif upid == 0:
        pid_type = PIDTYPE_PGID
        pid = get_task_pid(current(), PIDTYPE_PGID)
    else:
        pid_type = PIDTYPE_PID
        pid = find_get_pid(upid)
    wo = WaitOpts(pid_type, pid, options | WEXITED, usage)
    try:
        found = do_wait(wo)
    finally:
        put_pid(pid)
    return found, wo.wo_stat


@syscall
def sys_wait4(upid: int, stat_addr: UserPtr, options: int, ru: UserPtr) -> int:
    """wait4(2). Errors: EINVAL, ECHILD, ESRCH, EFAULT, EINTR."""
    usage = Rusage() if ru else None
    pid, status = kernel_wait4(upid, options & 0xFFFF_FFFF, usage)
    if pid:
        if stat_addr:
            put_user_u32(stat_addr, status)
        if usage is not None:
            copy_to_user(ru, usage.pack())
    return pid


@syscall
def sys_waitid(which: int, upid: int, infop: UserPtr, options: int, ru: UserPtr) -> int:
    """waitid(2), P_PIDFD included. Errors: EINVAL, ECHILD, EBADF, EAGAIN, EFAULT, EINTR."""
    options &= 0xFFFF_FFFF
    if options & ~(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL):
        raise KernelError(EINVAL)
    if not options & (WEXITED | WSTOPPED | WCONTINUED):
        raise KernelError(EINVAL)
    pid: Pid | None = None
    pid_type = PIDTYPE_PID
    nonblock = False
    if which == P_ALL:
        pid_type = PIDTYPE_MAX
    elif which == P_PID:
        if upid <= 0:
            raise KernelError(EINVAL)
        pid = find_get_pid(upid)
    elif which == P_PGID:
        pid_type = PIDTYPE_PGID
        if upid < 0:
            raise KernelError(EINVAL)
        pid = find_get_pid(upid) if upid else get_task_pid(current(), PIDTYPE_PGID)
    elif which == P_PIDFD:
        if upid < 0:
            raise KernelError(EINVAL)
        found_pid, nonblock = pidfd_get_pid(upid)
        pid = get_pid(found_pid)
    else:
        raise KernelError(EINVAL)
    wo = WaitOpts(pid_type, pid, options | (WNOHANG if nonblock else 0), Rusage() if ru else None)
    try:
        found = do_wait(wo)
    finally:
        put_pid(pid)
    if not found and nonblock and not options & WNOHANG:
        raise KernelError(EAGAIN)
    if found and wo.wo_rusage is not None:
        copy_to_user(ru, wo.wo_rusage.pack())
    if infop:
        if found and wo.wo_info is not None:
            cause, child, uid, status = wo.wo_info
            copy_to_user(infop, _WAIT_INFO.pack(SIGCHLD, 0, cause, 0, child, uid, status))
        else:
            copy_to_user(infop, _WAIT_INFO.pack(0, 0, 0, 0, 0, 0, 0))
    return 0


# ---- exec's part: one thread stays -------------------------------------------------------------------------
@may_sleep
def de_thread(task: TaskStruct) -> None:
    """exec in a threaded process: kills the other threads and takes over the leader's identity.

    Raises EAGAIN when the process is being killed meanwhile. Linux: fs/exec.c.
    """
    sig = task.signal
    if not thread_group_empty(task):
        if signal_group_exit(sig):
            raise KernelError(EAGAIN)
        sig.group_exit_task = task
        sig.notify_count = zap_other_threads(task)
        if not thread_group_leader(task):
            sig.notify_count -= 1
        while sig.notify_count:
            set_current_state(TASK_KILLABLE)
            schedule()
            if __fatal_signal_pending(task):
                sig.group_exit_task = None
                sig.notify_count = 0
                raise KernelError(EAGAIN)
        if not thread_group_leader(task):
            _take_leadership(task, sig)
        sig.group_exit_task = None
        sig.notify_count = 0
    task.exit_signal = SIGCHLD
    old = task.sighand
    if old.count > 1:                            # CLONE_SIGHAND without CLONE_THREAD: handlers of its own
        task.sighand = SighandStruct(list(old.action))
        task.sighand.slab_address = kmem_cache_alloc(task.kernel.slab.sighand_cachep, GFP_KERNEL)
        __cleanup_sighand(old)


@notrace
def _take_leadership(task: TaskStruct, sig: SignalStruct) -> None:
    leader = task.group_leader
    sig.notify_count = -1                        # exit_notify() of the leader wakes us
    while not leader.exit_state:
        set_current_state(TASK_KILLABLE)
        schedule()
        if __fatal_signal_pending(task):
            sig.group_exit_task = None
            sig.notify_count = 0
            raise KernelError(EAGAIN)
    task.real_start_time = leader.real_start_time
    # The process began when its leader began; its number and its place in all lists become ours.
    task.start_time = leader.start_time
    task_pid, leader_pid = task.thread_pid, leader.thread_pid
    task.pid = leader.pid
    change_exec_pids(task, leader, task_pid, leader_pid)
    pids = task.kernel.pids
    pids.tasks = {task if t is leader else t: None for t in pids.tasks}
    siblings = leader.real_parent.children
    siblings[siblings.index(leader)] = task
    if leader.ptrace:
        __wake_up_parent(leader, leader.parent)  # its tracer may wait for this one: it is about to vanish
    task.group_leader = task
    leader.group_leader = task
    task.exit_signal = SIGCHLD
    leader.exit_signal = -1
    sig.group_leader = task
    leader.exit_state = EXIT_DEAD
    release_task(leader)


@notrace
def change_exec_pids(task: TaskStruct, leader: TaskStruct, task_pid: Pid, leader_pid: Pid) -> None:
    """The two tasks swap their numbers."""
    transfer_pid(leader, task, PIDTYPE_TGID)
    transfer_pid(leader, task, PIDTYPE_PGID)
    transfer_pid(leader, task, PIDTYPE_SID)
    task_pid.tasks[PIDTYPE_PID].clear()
    leader_pid.tasks[PIDTYPE_PID].clear()
    task.thread_pid, leader.thread_pid = leader_pid, task_pid
    leader.pid = task_pid.nr
    leader_pid.tasks[PIDTYPE_PID][task] = None
    task_pid.tasks[PIDTYPE_PID][leader] = None
