"""Process identifiers, and the lists that find tasks by them.

Linux: kernel/pid.c, include/linux/pid.h, kernel/user.c. Same: numbers grow one by one up to pid_max and wrap
    to RESERVED_PIDS; a pid is free again when no process, group and session uses it; groups and sessions are
    lists of the leaders that belong to them.
Differs: one PID namespace; a sorted dict instead of an IDR; user_struct lives here.
Owns: kernel.pids (PidState). Gaps: PID namespaces.
Invariants: pids[nr].nr == nr; a Pid is in `pids` exactly while one of its four lists is not empty (or its
    task is being built); tasks lists every thread group leader until release_task(), in the order of their
    birth.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from glasskernel.kernel.current import current, register
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.errno import EAGAIN, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_MAX = 0, 1, 2, 3, 4
PID_MAX_DEFAULT = 0x8000
RESERVED_PIDS = 300
GFP_KERNEL = 0xCC0                                # mm/page_alloc.py is above


@slotted
class Pid:
    """struct pid: a number and who uses it. tasks[PIDTYPE_*]: dicts used as ordered sets.

    TGID, PGID and SID list thread group leaders only. count: holders outside the lists (pidfds, tty, wait).
    """

    nr: int
    tasks: tuple[
        dict[TaskStruct, None], dict[TaskStruct, None], dict[TaskStruct, None], dict[TaskStruct, None]
    ] = field(default_factory=lambda: ({}, {}, {}, {}))
    count: int = 1
    wait_pidfd: WaitQueueHead = field(default_factory=WaitQueueHead)
    proc_inode: object = None                    # fs/proc's cache for this pid, dropped by proc_flush_task()
    slab_address: int = 0                        # 0: the idle tasks' pid

    def __repr__(self) -> str:
        return f"<pid {self.nr}>"


@slotted
class UserStruct:
    """struct user_struct: what one user (real uid) uses."""

    uid: int
    processes: int = 0                           # tasks, against RLIMIT_NPROC
    sigpending: int = 0                          # queued signals, against RLIMIT_SIGPENDING
    locked_shm: int = 0                          # pages
    mq_bytes: int = 0
    epoll_watches: int = 0
    inotify_instances: int = 0
    pipe_bufs: int = 0


@slotted
class PidState:
    """What kernel/pid.c, kernel/user.c and kernel/fork.c keep in globals."""

    pids: SortedDict = field(default_factory=SortedDict)     # nr -> Pid
    tasks: dict[TaskStruct, None] = field(default_factory=dict)      # leaders, oldest first
    users: dict[int, UserStruct] = field(default_factory=dict)
    last_pid: int = 0
    pid_max: int = PID_MAX_DEFAULT
    nr_threads: int = 0
    max_threads: int = 0
    total_forks: int = 0
    child_reaper: TaskStruct | None = None       # PID 1
    idle_tasks: list[TaskStruct] = field(default_factory=list)       # pid 0, one per CPU
    proc_flush_task: Callable[[TaskStruct], None] | None = None      # fs/proc: forget what /proc/PID cached
    cached_stacks: list[list[int]] = field(default_factory=list)     # free kernel stacks, by CPU (kernel/fork.c)


@notrace
def pid_init(kernel: Kernel) -> None:
    """Makes kernel.pids. Called by start_kernel() before the first task (pid_idr_init)."""
    kernel.pids = PidState()
    uid_cache_init(kernel)


@notrace
def uid_cache_init(kernel: Kernel) -> None:
    kernel.pids.users[0] = UserStruct(0)


# ---- making and unmaking -----------------------------------------------------------------------------------
def alloc_pid(kernel: Kernel) -> Pid:
    """The next free number. Raises EAGAIN when all are used.

    Linux: idr_alloc_cyclic from the last number; after a wrap it starts at RESERVED_PIDS.
    """
    state = kernel.pids
    pids = state.pids
    nr = state.last_pid + 1
    if nr >= state.pid_max:
        nr = RESERVED_PIDS
    if nr in pids:                               # rare: walk to the next hole, at most once around
        start = nr
        while nr in pids:
            nr += 1
            if nr >= state.pid_max:
                nr = RESERVED_PIDS
            if nr == start:
                raise KernelError(EAGAIN)
    address = kernel.kmem_cache_alloc(kernel.slab.pid_cachep, GFP_KERNEL)
    state.last_pid = nr
    pid = Pid(nr)
    pid.slab_address = address
    pids[nr] = pid
    return pid


def free_pid(kernel: Kernel, pid: Pid) -> None:
    """The number may be used again. Holders of the Pid keep an object that finds nobody."""
    kernel.pids.pids.pop(pid.nr, None)
    call_rcu(pid, delayed_put_pid)


def delayed_put_pid(pid: Pid) -> None:
    """The reference of the table goes after a grace period: find_vpid() takes none. Context: softirq."""
    put_pid(pid)


@notrace
def get_pid(pid: Pid) -> Pid:
    pid.count += 1
    return pid


def put_pid(pid: Pid | None) -> None:
    if pid is not None:
        pid.count -= 1
        if not pid.count and pid.slab_address:
            kernel = register.task.kernel
            kernel.kmem_cache_free(kernel.slab.pid_cachep, pid.slab_address)


@notrace
def task_pid_ptr(task: TaskStruct, pid_type: int) -> Pid | None:
    """The Pid that `task` uses as its PID, TGID, PGID or SID."""
    if pid_type == PIDTYPE_PID:
        return task.thread_pid
    if pid_type == PIDTYPE_TGID:
        return task.group_leader.thread_pid
    return task.signal.pgrp if pid_type == PIDTYPE_PGID else task.signal.session


@notrace
def init_task_pid(task: TaskStruct, pid_type: int, pid: Pid | None) -> None:
    if pid_type == PIDTYPE_PID:
        task.thread_pid = pid  # type: ignore[assignment]
    elif pid_type == PIDTYPE_PGID:
        task.signal.pgrp = pid
    elif pid_type == PIDTYPE_SID:
        task.signal.session = pid


def attach_pid(task: TaskStruct, pid_type: int) -> None:
    """Puts the task into the list of its Pid of that type."""
    pid = task_pid_ptr(task, pid_type)
    if pid is not None:                          # kernel threads of the boot CPU: session and group 0
        pid.tasks[pid_type][task] = None


def __change_pid(task: TaskStruct, pid_type: int, new: Pid | None) -> None:
    pid = task_pid_ptr(task, pid_type)
    if pid is not None:
        lists = pid.tasks
        lists[pid_type].pop(task, None)
        if not (lists[0] or lists[1] or lists[2] or lists[3] or pid is new):
            free_pid(task.kernel, pid)
    if pid_type > PIDTYPE_TGID:
        init_task_pid(task, pid_type, new)


def detach_pid(task: TaskStruct, pid_type: int) -> None:
    """Takes the task out of a list; the last one frees the number."""
    __change_pid(task, pid_type, None)


def change_pid(task: TaskStruct, pid_type: int, pid: Pid) -> None:
    """Moves the task to another Pid (setpgid, setsid)."""
    __change_pid(task, pid_type, pid)
    init_task_pid(task, pid_type, pid)
    attach_pid(task, pid_type)


def transfer_pid(old: TaskStruct, new: TaskStruct, pid_type: int) -> None:
    """`new` takes `old`'s place in the list (de_thread: the leader's identity moves)."""
    pid = task_pid_ptr(old, pid_type)
    if pid is not None:
        members = pid.tasks[pid_type]
        if old in members:
            order = [new if t is old else t for t in members]
            members.clear()
            members.update(dict.fromkeys(order))


# ---- finding -----------------------------------------------------------------------------------------------
def find_vpid(nr: int) -> Pid | None:
    """The Pid with this number in the caller's namespace."""
    pid: Pid | None = current().kernel.pids.pids.get(nr)
    return pid


def find_pid_ns(nr: int, kernel: Kernel) -> Pid | None:
    """The same when there is no caller to ask."""
    pid: Pid | None = kernel.pids.pids.get(nr)
    return pid


def find_get_pid(nr: int) -> Pid | None:
    """find_vpid() with a reference for the caller."""
    pid = find_vpid(nr)
    if pid is not None:
        pid.count += 1
    return pid


def pid_task(pid: Pid | None, pid_type: int) -> TaskStruct | None:
    """The first task that uses this Pid so."""
    if pid is None:
        return None
    for task in pid.tasks[pid_type]:
        return task
    return None


def find_task_by_vpid(nr: int) -> TaskStruct | None:
    """The thread with this number."""
    pid: Pid | None = current().kernel.pids.pids.get(nr)
    if pid is None:
        return None
    for task in pid.tasks[PIDTYPE_PID]:
        return task
    return None


def find_ge_pid(nr: int, kernel: Kernel) -> Pid | None:
    """The Pid with the smallest number >= nr (readdir of /proc)."""
    for found in kernel.pids.pids.irange(nr):
        return kernel.pids.pids[found]  # type: ignore[no-any-return]
    return None


def get_task_pid(task: TaskStruct, pid_type: int) -> Pid | None:
    pid = task_pid_ptr(task, pid_type)
    if pid is not None:
        pid.count += 1
    return pid


@notrace
def for_each_process(kernel: Kernel) -> Iterator[TaskStruct]:
    """Thread group leaders, oldest first. A copy: the list may change meanwhile."""
    return iter(list(kernel.pids.tasks))


@notrace
def for_each_thread(kernel: Kernel) -> Iterator[TaskStruct]:
    """Every thread of every process (for_each_process_thread)."""
    for leader in list(kernel.pids.tasks):
        yield from list(leader.signal.threads)


@notrace
def do_each_pid_task(pid: Pid | None, pid_type: int) -> list[TaskStruct]:
    """The tasks in one list of a Pid, as a copy: the caller may kill them."""
    return list(pid.tasks[pid_type]) if pid is not None else []


# ---- numbers -----------------------------------------------------------------------------------------------
@notrace
def pid_nr(pid: Pid | None) -> int:
    return pid.nr if pid is not None else 0


def pid_nr_ns(pid: Pid | None) -> int:
    return pid.nr if pid is not None else 0


def pid_vnr(pid: Pid | None) -> int:
    """The number as the caller's namespace sees it; 0: none."""
    return pid.nr if pid is not None else 0


def __task_pid_nr_ns(task: TaskStruct, pid_type: int) -> int:
    """The number of the task's Pid of that type, 0 when it has none."""
    pid = task_pid_ptr(task, pid_type)
    return pid.nr if pid is not None else 0


@notrace
def task_pid_vnr(task: TaskStruct) -> int:
    return task.pid


@notrace
def task_tgid_vnr(task: TaskStruct) -> int:
    return task.tgid


@notrace
def task_ppid_nr(task: TaskStruct) -> int:
    """The parent process's number as /proc and getppid(2) show it."""
    parent = task.group_leader.real_parent
    return parent.tgid if parent is not None else 0


@notrace
def task_pgrp(task: TaskStruct) -> Pid | None:
    return task.signal.pgrp


@notrace
def task_session(task: TaskStruct) -> Pid | None:
    return task.signal.session


@notrace
def task_pgrp_vnr(task: TaskStruct) -> int:
    return __task_pid_nr_ns(task, PIDTYPE_PGID)


@notrace
def task_session_vnr(task: TaskStruct) -> int:
    return __task_pid_nr_ns(task, PIDTYPE_SID)


@notrace
def thread_group_leader(task: TaskStruct) -> bool:
    """True for the task that carries the process's number."""
    return task.exit_signal >= 0


@notrace
def thread_group_empty(task: TaskStruct) -> bool:
    """True when the task is its process's only thread."""
    return len(task.signal.threads) <= 1


@notrace
def is_global_init(task: TaskStruct) -> bool:
    return task.tgid == 1


# ---- users -------------------------------------------------------------------------------------------------
@notrace
def alloc_uid(kernel: Kernel, uid: int) -> UserStruct:
    """The accounts of a user, made at the first use."""
    users = kernel.pids.users
    user = users.get(uid)
    if user is None:
        user = users[uid] = UserStruct(uid)
    return user
