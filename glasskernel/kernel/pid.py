"""Process identifiers, and the lists that find tasks by them.

Linux: kernel/pid.c, include/linux/pid.h, kernel/user.c. Same: numbers grow one by one up to pid_max and wrap
    to RESERVED_PIDS; a pid is free again when no process, group and session uses it; groups and sessions are
    lists of the leaders that belong to them.
Differs: a sorted dict instead of an IDR; user_struct lives here; the initial PID namespace is no object (None), its
    state is in kernel.pids; kernel/pid_namespace.py makes the others.
Owns: kernel.pids (PidState), PidNamespace.pids.
Invariants: pids[nr].nr == nr; a Pid is in `pids` exactly while one of its four lists is not empty (or its
    task is being built); tasks lists every thread group leader until release_task(), in the order of their
    birth.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sortedcontainers import SortedDict

from glasskernel.kernel.current import current, register
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.sched.wait import WaitQueueHead, wake_up
from glasskernel.lib.errno import EAGAIN, ENOMEM, KernelError
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

    nr: int                                      # in the initial namespace
    tasks: tuple[
        dict[TaskStruct, None], dict[TaskStruct, None], dict[TaskStruct, None], dict[TaskStruct, None]
    ] = field(default_factory=lambda: ({}, {}, {}, {}))
    count: int = 1
    wait_pidfd: WaitQueueHead = field(default_factory=WaitQueueHead)
    proc_inode: object = None                    # fs/proc's cache for this pid, dropped by proc_flush_task()
    slab_address: int = 0                        # 0: the idle tasks' pid
    ns: Any = None                               # PidNamespace in which it was made; None: the initial one
    numbers: tuple[tuple[Any, int], ...] = ()    # (namespace, number there) of each but the initial one, from outside

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
    unix_inflight: int = 0                       # files in messages of AF_UNIX


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
@notrace
def next_number(pids: SortedDict, last: int, pid_max: int) -> int:
    """The free number behind the last one. Raises EAGAIN when all are used.

    Linux: idr_alloc_cyclic from the last number; after a wrap it starts at RESERVED_PIDS.
    """
    nr = last + 1
    if nr >= pid_max:
        nr = RESERVED_PIDS
    if nr in pids:                               # rare: walk to the next hole, at most once around
        start = nr
        while nr in pids:
            nr += 1
            if nr >= pid_max:
                nr = RESERVED_PIDS
            if nr == start:
                raise KernelError(EAGAIN)
    return nr


def alloc_pid(kernel: Kernel, ns: Any = None) -> Pid:
    """A number in a namespace and in each that it is in. Raises EAGAIN, ENOMEM (its init has died)."""
    state = kernel.pids
    nr = next_number(state.pids, state.last_pid, state.pid_max)
    numbers: list[tuple[Any, int]] = []
    level = ns
    while level is not None:
        if not level.adding:
            raise KernelError(ENOMEM)
        numbers.insert(0, (level, next_number(level.pids, level.last_pid, state.pid_max)))
        level = level.parent
    address = kernel.kmem_cache_alloc(kernel.slab.pid_cachep, GFP_KERNEL)
    state.last_pid = nr
    pid = Pid(nr)
    pid.slab_address = address
    state.pids[nr] = pid
    if numbers:
        pid.ns, pid.numbers = ns, tuple(numbers)
        ns.count += 1
        for level, number in numbers:
            level.pids[number] = pid
            level.last_pid = number
    return pid


def free_pid(kernel: Kernel, pid: Pid) -> None:
    """The number may be used again. Holders of the Pid keep an object that finds nobody."""
    kernel.pids.pids.pop(pid.nr, None)
    for ns, number in pid.numbers:
        ns.pids.pop(number, None)
        if not ns.adding:                        # its init waits in zap_pid_ns_processes()
            wake_up(ns.wait)
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
            if pid.ns is not None:
                put_pid_ns(pid.ns)


@notrace
def put_pid_ns(ns: Any) -> None:
    """Drops a reference; the last one is that of the namespace on the one it is in, too."""
    while ns is not None:
        ns.count -= 1
        if ns.count:
            return
        ns = ns.parent


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
    task = register.task
    return find_pid_ns(nr, task.kernel, task.thread_pid.ns)


@notrace                                         # inlined in Linux
def find_pid_ns(nr: int, kernel: Kernel, ns: Any = None) -> Pid | None:
    """The Pid with this number in a namespace."""
    pid: Pid | None = (kernel.pids if ns is None else ns).pids.get(nr)
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
    """The thread with this number in the caller's namespace."""
    task = register.task
    ns = task.thread_pid.ns
    pid: Pid | None = (task.kernel.pids if ns is None else ns).pids.get(nr)
    if pid is None:
        return None
    for task in pid.tasks[PIDTYPE_PID]:
        return task
    return None


def find_ge_pid(nr: int, kernel: Kernel, ns: Any = None) -> Pid | None:
    """The Pid with the smallest number >= nr in a namespace (readdir of /proc)."""
    pids = (kernel.pids if ns is None else ns).pids
    for found in pids.irange(nr):
        return pids[found]  # type: ignore[no-any-return]
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


@notrace
def number_in(pid: Pid | None, ns: Any) -> int:
    """pid_nr_ns() where Linux inlines it."""
    if pid is None:
        return 0
    if ns is None:
        return pid.nr
    for level, number in pid.numbers:
        if level is ns:
            return number
    return 0


def pid_nr_ns(pid: Pid | None, ns: Any) -> int:
    """The number in a namespace; 0: it has none there."""
    return number_in(pid, ns)


def pid_vnr(pid: Pid | None) -> int:
    """The number as the caller's namespace sees it; 0: none."""
    return number_in(pid, register.task.thread_pid.ns)


@notrace
def pid_numbers(pid: Pid | None) -> list[int]:
    """Its numbers from the caller's namespace inwards (NStgid and so on in /proc/PID/status)."""
    ns = register.task.thread_pid.ns
    if pid is None:
        return [0]
    if ns is None:
        return [pid.nr, *(number for _, number in pid.numbers)]
    levels = [level for level, _ in pid.numbers]
    return [number for _, number in pid.numbers[levels.index(ns) :]] if ns in levels else [0]


def __task_pid_nr_ns(task: TaskStruct, pid_type: int, ns: Any) -> int:
    """The number of the task's Pid of that type in a namespace, 0 when it has none."""
    return number_in(task_pid_ptr(task, pid_type), ns)


@notrace
def task_pid_vnr(task: TaskStruct) -> int:
    ns = register.task.thread_pid.ns
    return task.pid if ns is None else number_in(task.thread_pid, ns)


@notrace
def task_tgid_vnr(task: TaskStruct) -> int:
    ns = register.task.thread_pid.ns
    return task.tgid if ns is None else number_in(task.group_leader.thread_pid, ns)


@notrace
def task_ppid_nr(task: TaskStruct) -> int:
    """The parent process's number as /proc shows it to the caller."""
    parent = task.group_leader.real_parent
    return task_tgid_vnr(parent) if parent is not None else 0


@notrace
def task_pgrp(task: TaskStruct) -> Pid | None:
    return task.signal.pgrp


@notrace
def task_session(task: TaskStruct) -> Pid | None:
    return task.signal.session


@notrace
def task_pgrp_vnr(task: TaskStruct) -> int:
    return __task_pid_nr_ns(task, PIDTYPE_PGID, register.task.thread_pid.ns)


@notrace
def task_session_vnr(task: TaskStruct) -> int:
    return __task_pid_nr_ns(task, PIDTYPE_SID, register.task.thread_pid.ns)


@notrace
def thread_group_leader(task: TaskStruct) -> bool:
    """True for the task that carries the process's number."""
    return task.exit_signal >= 0


@notrace
def thread_group_empty(task: TaskStruct) -> bool:
    """True when the task is its process's only thread."""
    return len(task.signal.threads) <= 1


@notrace
def is_child_reaper(pid: Pid) -> bool:
    """True for the Pid of its namespace's init."""
    return pid.nr == 1 if pid.ns is None else bool(pid.numbers[-1][1] == 1)


@notrace
def is_global_init(task: TaskStruct) -> bool:
    return task.tgid == 1


@notrace
def will_become_orphaned_pgrp(pgrp: Pid, ignored: TaskStruct | None) -> bool:
    """True when no process of the group (`ignored` left out) has a parent outside it in the same session."""
    for p in pgrp.tasks[PIDTYPE_PGID]:
        if p is ignored or (p.exit_state and thread_group_empty(p)) or is_global_init(p.real_parent):
            continue
        parent = p.real_parent.signal
        if parent.pgrp is not pgrp and parent.session is p.signal.session:
            return False
    return True


def is_current_pgrp_orphaned() -> bool:
    """No parent outside the caller's group, in its session, could continue it after a stop (Linux: kernel/exit.c)."""
    pgrp = current().signal.pgrp
    return pgrp is None or will_become_orphaned_pgrp(pgrp, None)


# ---- users -------------------------------------------------------------------------------------------------
@notrace
def alloc_uid(kernel: Kernel, uid: int) -> UserStruct:
    """The accounts of a user, made at the first use."""
    users = kernel.pids.users
    user = users.get(uid)
    if user is None:
        user = users[uid] = UserStruct(uid)
    return user
