"""What must hold between the tasks of a kernel: counters, lists and references agree.

Linux: nothing (lockdep and KASAN find such bugs there). For tests: check_processes() answers a list of complaints.
Context: outside of any task, while the machine stands still.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.pid import PIDTYPE_MAX, PIDTYPE_PID, task_pid_ptr
from glasskernel.kernel.task import EXIT_ZOMBIE, PF_EXITING, SighandStruct, TaskStruct
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def _all_threads(kernel: Kernel) -> list[TaskStruct]:
    return [t for leader in kernel.pids.tasks for t in leader.signal.threads]


@notrace
def check_processes(kernel: Kernel) -> list[str]:
    """Everything wrong with the processes, threads, pids, users and futexes of a kernel at rest; [] is right."""
    threads = _all_threads(kernel)
    return [
        *_check_pids(kernel, threads),
        *_check_groups(kernel, threads),
        *_check_users(kernel, threads),
        *_check_futexes(kernel),
    ]


@notrace
def _check_pids(kernel: Kernel, threads: list[TaskStruct]) -> list[str]:
    wrong = []
    state = kernel.pids
    if state.nr_threads != len(threads):
        wrong.append(f"nr_threads is {state.nr_threads}, there are {len(threads)}")
    for nr, pid in state.pids.items():
        if pid.nr != nr:
            wrong.append(f"{pid} is filed as {nr}")
        if not any(pid.tasks):
            wrong.append(f"{pid} has no user, but is not free")
        for pid_type in range(PIDTYPE_MAX):
            wrong += [f"{pid}: {t} is in list {pid_type} but uses {task_pid_ptr(t, pid_type)}"
                      for t in pid.tasks[pid_type] if task_pid_ptr(t, pid_type) is not pid]
    for t in threads:
        if t not in t.thread_pid.tasks[PIDTYPE_PID] or state.pids.get(t.pid) is not t.thread_pid:
            wrong.append(f"{t} cannot be found by its pid")
    return wrong


@notrace
def _check_groups(kernel: Kernel, threads: list[TaskStruct]) -> list[str]:
    wrong = []
    sighands: dict[SighandStruct, int] = {}
    for leader in kernel.pids.tasks:
        sig = leader.signal
        if leader.group_leader is not leader or sig.threads[0] is not leader:
            wrong.append(f"{leader} is listed as a leader, but is none")
        if sig.nr_threads != len(sig.threads):
            wrong.append(f"{leader}: nr_threads is {sig.nr_threads}, there are {len(sig.threads)}")
        alive = sum(not t.flags & PF_EXITING for t in sig.threads)
        if sig.live != alive:
            wrong.append(f"{leader}: live is {sig.live}, {alive} have not begun to exit")
        if leader not in leader.real_parent.children:
            wrong.append(f"{leader} is no child of its parent {leader.real_parent}")
        if leader.exit_state == EXIT_ZOMBIE and not alive:
            wrong.append(f"{leader} is a zombie that nobody waited for")
    for t in threads:
        sighands[t.sighand] = sighands.get(t.sighand, 0) + 1
        wrong += [f"{t} is the parent of {c}, which has another" for c in t.children if c.real_parent is not t]
        wrong += [f"{t} traces {c}, which says otherwise" for c in t.ptraced if c.parent is not t or not c.ptrace]
        if (t.ptrace and t not in t.parent.ptraced) or (not t.ptrace and t.parent is not t.real_parent):
            wrong.append(f"{t} has a tracer that knows nothing of it")
    wrong += [f"a sighand_struct counts {s.count} users, there are {n}" for s, n in sighands.items() if s.count != n]
    return wrong


@notrace
def _check_users(kernel: Kernel, threads: list[TaskStruct]) -> list[str]:
    wrong = []
    processes: dict[int, int] = {}
    queued: dict[int, int] = {}
    for t in threads:
        processes[t.real_cred.uid] = processes.get(t.real_cred.uid, 0) + 1
        queues = [t.pending] if t is not t.group_leader else [t.pending, t.signal.shared_pending]
        for info in (info for queue in queues for info in queue.queue):
            if info.user is not None and not info.preallocated:
                queued[info.user.uid] = queued.get(info.user.uid, 0) + 1
    for uid, user in kernel.pids.users.items():
        if user.processes != processes.get(uid, 0):
            wrong.append(f"user {uid}: counts {user.processes} tasks, has {processes.get(uid, 0)}")
        if user.sigpending < queued.get(uid, 0):
            wrong.append(f"user {uid}: counts {user.sigpending} queued signals, has {queued[uid]}")
    return wrong


@notrace
def _check_futexes(kernel: Kernel) -> list[str]:
    wrong = []
    for key, waiters in kernel.futex.hash.items():
        if not waiters:
            wrong.append("an empty futex queue was left")
        for q in waiters:
            if not q.queued or q.key != key:
                wrong.append(f"futex waiter {q.task} is in the wrong queue")
            if q.task.exit_state:
                wrong.append(f"the dead task {q.task} waits on a futex")
    wrong += [f"{owner} is gone, but owns a PI futex" for owner in kernel.futex.pi_owned if owner.exit_state]
    return wrong
