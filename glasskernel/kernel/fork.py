"""Making tasks: fork, vfork, clone, clone3, kernel threads; and unshare.

Linux: kernel/fork.c (5.3). Same: what each CLONE_* flag shares and which combinations are EINVAL, the order
    in which a child is put together and taken apart again when something fails, RLIMIT_NPROC and max_threads,
    vfork's wait, clone3 with the extensible struct clone_args.
Differs: task_struct is built field by field, so that nothing is inherited by accident.
Owns: the birth of TaskStruct, SignalStruct, SighandStruct; kernel.pids.tasks, nr_threads, total_forks.
Gaps: CLONE_NEWUSER, NEWIPC, NEWCGROUP (EINVAL, see nsproxy); CLONE_INTO_CGROUP and set_tid
    (EINVAL).
Invariants: a task is in the lists of its Pid, its parent's children and its group's threads, all or none of
    them.
Context of every function: task; may sleep.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from glasskernel.arch.x86.process import copy_thread
from glasskernel.arch.x86.uaccess import access_ok, copy_from_user, put_user_u32
from glasskernel.fs.file import (
    copy_files,
    exit_files,
    fd_install,
    get_unused_fd_flags,
    put_files_struct,
    put_unused_fd,
    unshare_files,
)
from glasskernel.fs.fs_struct import copy_fs, exit_fs, unshare_fs_struct
from glasskernel.ipc.sem import copy_semundo, exit_sem
from glasskernel.kernel.capability import CAP_SYS_ADMIN, CAP_SYS_RESOURCE, capable
from glasskernel.kernel.cgroup.task import (
    cgroup_can_fork,
    cgroup_cancel_fork,
    cgroup_fork,
    cgroup_free,
    cgroup_post_fork,
)
from glasskernel.kernel.cred import copy_creds, exit_creds, uncount_process
from glasskernel.kernel.current import current
from glasskernel.kernel.futex import FUTEX_WAKE, do_futex, exit_pi_state_list, exit_robust_list
from glasskernel.kernel.nsproxy import copy_namespaces, exit_task_namespaces, unshare_nsproxy_namespaces
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_SID,
    PIDTYPE_TGID,
    alloc_pid,
    alloc_uid,
    attach_pid,
    free_pid,
    get_task_pid,
    init_task_pid,
    is_child_reaper,
    pid_vnr,
    put_pid,
    task_pid_vnr,
    thread_group_leader,
)
from glasskernel.kernel.pidfd import pidfd_create_file
from glasskernel.kernel.ptrace import ptrace_init_task
from glasskernel.kernel.ptrace_stop import (
    PTRACE_EVENT_CLONE,
    PTRACE_EVENT_FORK,
    PTRACE_EVENT_VFORK,
    PTRACE_EVENT_VFORK_DONE,
    ptrace_event_enabled,
    ptrace_event_pid,
)
from glasskernel.kernel.resource import init_rlimits
from glasskernel.kernel.sched.autogroup import sched_autogroup_exit, sched_autogroup_fork
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion_killable
from glasskernel.kernel.sched.core import sched_fork, wake_up_new_task
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.kernel.signal import (
    SIGNAL_GROUP_COREDUMP,
    SIGNAL_UNKILLABLE,
    __cleanup_sighand,
    calculate_sigpending,
    flush_sigqueue,
    recalc_sigpending,
    sas_ss_reset,
    task_join_group_stop,
    valid_signal,
)
from glasskernel.kernel.signal_types import SIG_IGN, SIGCHLD
from glasskernel.kernel.task import (
    PF_FORKNOEXEC,
    PF_FREEZER_SKIP,
    PF_IDLE,
    PF_NPROC_EXCEEDED,
    PF_SUPERPRIV,
    PF_WQ_WORKER,
    RLIMIT_NPROC,
    TASK_NEW,
    TIF_NOTIFY_RESUME,
    TIF_SECCOMP,
    TIF_SIGPENDING,
    TIF_SYSCALL_TRACEPOINT,
    KSigaction,
    SighandStruct,
    SignalStruct,
    TaskStruct,
)
from glasskernel.kernel.time.timekeeping import ktime_get, ktime_get_boottime
from glasskernel.lib.errno import E2BIG, EAGAIN, EINTR, EINVAL, EPERM, ERESTARTNOINTR, KernelError, Restart
from glasskernel.lib.syscalls import Registers, syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t, u64, ulong
from glasskernel.lib.uapi import Layout, uapi
from glasskernel.mm.mmap import dup_mm, mmdrop, mmget, mmput
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_KERNEL, NR_KERNEL_STACK_KB
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_HWCACHE_ALIGN, SLAB_TYPESAFE_BY_RCU
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_alloc_node, kmem_cache_free
from glasskernel.mm.vmalloc import (
    PAGE_KERNEL,
    VMALLOC_END,
    VMALLOC_START,
    __vmalloc_node_range,
    return_address,
    vfree,
    vfree_atomic,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import MmStruct

CSIGNAL: Final = 0xFF
CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND = 0x100, 0x200, 0x400, 0x800
CLONE_PIDFD, CLONE_PTRACE, CLONE_VFORK, CLONE_PARENT = 0x1000, 0x2000, 0x4000, 0x8000
CLONE_THREAD, CLONE_NEWNS, CLONE_SYSVSEM, CLONE_SETTLS = 0x10000, 0x20000, 0x40000, 0x80000
CLONE_PARENT_SETTID, CLONE_CHILD_CLEARTID = 0x100000, 0x200000
CLONE_DETACHED, CLONE_UNTRACED = 0x400000, 0x800000
CLONE_CHILD_SETTID, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x1000000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_IO = 0x10000000, 0x20000000, 0x40000000, 0x80000000
CLONE_CLEAR_SIGHAND: Final = 0x1_0000_0000
CLONE_INTO_CGROUP: Final = 0x2_0000_0000
CLONE_LEGACY_FLAGS: Final = 0xFFFF_FFFF
CLONE_NEW_NAMESPACES: Final = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)
O_RDWR, O_CLOEXEC = 2, 0o2000000

CLONE_ARGS_SIZE_VER0, CLONE_ARGS_SIZE_VER2 = 64, 88
_U64X11 = struct.Struct("<11Q")


@uapi("include/uapi/linux/sched.h", size=88)
class CloneArgs(Layout):
    """struct clone_args, version 2."""

    flags: u64
    pidfd: u64
    child_tid: u64
    parent_tid: u64
    exit_signal: u64
    stack: u64
    stack_size: u64
    tls: u64
    set_tid: u64
    set_tid_size: u64
    cgroup: u64


class KernelCloneArgs:
    """struct kernel_clone_args. fn, arg: what a kernel thread runs; None for children of user tasks."""

    __slots__ = ("arg", "child_tid", "exit_signal", "flags", "fn", "parent_tid", "pidfd", "stack",
                 "stack_size", "tls")

    def __init__(self, flags: int, exit_signal: int, stack: int = 0, parent_tid: int = 0, child_tid: int = 0,
                 tls: int = 0, pidfd: int = 0) -> None:
        self.flags = flags
        self.exit_signal = exit_signal
        self.stack = stack
        self.stack_size = 0
        self.parent_tid = parent_tid
        self.child_tid = child_tid
        self.tls = tls
        self.pidfd = pidfd
        self.fn: Callable[[Any], int] | None = None
        self.arg: Any = None


def fork_init(kernel: Kernel, totalram_pages: int) -> None:
    """Sets max_threads from the memory size: thread data may take an eighth of it (16 KB a thread).

    Gives the boot task, and so every process, its limits. Called by start_kernel().
    """
    threads = totalram_pages * 4096 // (16384 * 8)
    state = kernel.pids
    state.max_threads = min(max(threads, 20), 0x7FFF_FFFF)
    state.cached_stacks = [[] for _ in kernel.machine.cpus]
    kernel.pids.idle_tasks[0].signal.rlim = init_rlimits(state.max_threads)
    kernel.sched.kernel_thread = kernel_thread
    kernel.sched.put_task_struct = put_task_struct
    kernel.sched.release_task_stack = release_task_stack
    kernel.sched.mmdrop = mmdrop
    kernel.sched.calculate_sigpending = calculate_sigpending
    proc_caches_init(kernel)


def proc_caches_init(kernel: Kernel) -> None:
    """The caches of what makes a process. Linux makes the first in fork_init(), the last two in pid_idr_init() and
    cred_init().
    """
    slab = kernel.slab
    slab.task_struct_cachep = kmem_cache_create(kernel, b"task_struct", 8064, 64)
    slab.sighand_cachep = kmem_cache_create(kernel, b"sighand_cache", 2080, 0,
                                            SLAB_HWCACHE_ALIGN | SLAB_TYPESAFE_BY_RCU, ctor=True)
    slab.signal_cachep = kmem_cache_create(kernel, b"signal_cache", 1112, 0, SLAB_HWCACHE_ALIGN)
    slab.files_cachep = kmem_cache_create(kernel, b"files_cache", 704, 0, SLAB_HWCACHE_ALIGN)
    slab.fs_cachep = kmem_cache_create(kernel, b"fs_cache", 56, 0, SLAB_HWCACHE_ALIGN)
    slab.mm_cachep = kmem_cache_create(kernel, b"mm_struct", 1040, 0, SLAB_HWCACHE_ALIGN)
    slab.vm_area_cachep = kmem_cache_create(kernel, b"vm_area_struct", 200)
    slab.pid_cachep = kmem_cache_create(kernel, b"pid", 112, 0, SLAB_HWCACHE_ALIGN)
    slab.cred_jar = kmem_cache_create(kernel, b"cred_jar", 176, 0, SLAB_HWCACHE_ALIGN)


# ---- kernel stacks ----------------------------------------------------------------------------------------
THREAD_SIZE: Final = 16384
NR_CACHED_STACKS: Final = 2


@notrace
def alloc_thread_stack_node(kernel: Kernel, node: int) -> int:
    """Memory for a kernel stack: one that a CPU kept, this one's first, or a new one (CONFIG_VMAP_STACK).

    Linux looks at this CPU's only: a parent whose children end elsewhere maps a stack anew for each of them. Raises
    ENOMEM.
    """
    stacks = kernel.pids.cached_stacks
    this_cpu = kernel.machine.this_cpu.id
    for cached in (stacks[this_cpu], *stacks):
        if cached:
            return cached.pop()
    return __vmalloc_node_range(kernel, THREAD_SIZE, THREAD_SIZE, VMALLOC_START, VMALLOC_END, GFP_KERNEL | __GFP_ZERO,
                                PAGE_KERNEL, 0, node, return_address(2))


def account_kernel_stack(tsk: TaskStruct, account: int) -> None:
    """KernelStack of /proc/meminfo: one stack more (1) or less (-1)."""
    tsk.kernel.mem.vm_stat[NR_KERNEL_STACK_KB] += account * (THREAD_SIZE >> 10)


@notrace
def release_task_stack(tsk: TaskStruct) -> None:
    """put_task_stack() of the last user: the CPU keeps up to two stacks for the next forks. Context: any."""
    if tsk.stack_address:
        account_kernel_stack(tsk, -1)
        free_thread_stack(tsk)


@notrace
def free_thread_stack(tsk: TaskStruct) -> None:
    kernel = tsk.kernel
    address, tsk.stack_address = tsk.stack_address, 0
    cached = kernel.pids.cached_stacks[kernel.machine.this_cpu.id]
    if len(cached) < NR_CACHED_STACKS:
        cached.append(address)
    else:
        vfree_atomic(kernel, address)


def free_vm_stack_cache(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: the stacks that it kept, too."""
    cached = kernel.pids.cached_stacks[cpu]
    while cached:
        vfree(kernel, cached.pop())


# ---- parts of a task ---------------------------------------------------------------------------------------
@notrace
def dup_task_struct(orig: TaskStruct) -> TaskStruct:
    """A new task with what a child inherits; everything else starts fresh."""
    kernel = orig.kernel
    address = kmem_cache_alloc_node(kernel.slab.task_struct_cachep, GFP_KERNEL, 0)
    try:
        stack = alloc_thread_stack_node(kernel, 0)
    except KernelError:
        kmem_cache_free(kernel.slab.task_struct_cachep, address)
        raise
    p = TaskStruct(kernel, 0, 0, orig.comm)
    p.slab_address = address
    p.stack_address = stack
    account_kernel_stack(p, 1)
    p.flags = orig.flags & ~(PF_SUPERPRIV | PF_WQ_WORKER | PF_IDLE) | PF_FORKNOEXEC
    p.state = TASK_NEW
    p.cpu = orig.cpu
    p.prio = orig.prio
    p.static_prio = orig.static_prio
    p.normal_prio = orig.normal_prio
    p.rt_priority = orig.rt_priority
    p.policy = orig.policy
    p.sched_reset_on_fork = orig.sched_reset_on_fork
    p.sched_class = orig.sched_class
    p.cpus_allowed = orig.cpus_allowed
    p.timer_slack_ns = orig.timer_slack_ns
    p.ioprio = orig.ioprio
    p.personality = orig.personality
    p.cred = orig.cred
    p.real_cred = orig.real_cred
    p.nsproxy = orig.nsproxy
    p.user_ns = orig.user_ns
    p.blocked = orig.blocked
    p.sas_ss_sp = orig.sas_ss_sp
    p.sas_ss_size = orig.sas_ss_size
    p.sas_ss_flags = orig.sas_ss_flags
    p.self_exec_id = orig.self_exec_id
    p.ti_flags = orig.ti_flags & TIF_SYSCALL_TRACEPOINT     # syscall_tracepoint_update()
    p.signal = orig.signal
    p.sighand = orig.sighand
    p.mm = None
    p.mempolicy = orig.mempolicy
    p.il_prev = orig.il_prev
    p.mems_allowed = orig.mems_allowed
    return p


@notrace
def put_task_struct(tsk: TaskStruct) -> None:
    """Drops one of its references: who reaped it, and the CPU that it ran on last. Context: any."""
    tsk.usage -= 1
    if not tsk.usage:
        __put_task_struct(tsk)


def __put_task_struct(tsk: TaskStruct) -> None:
    """Nobody needs the task any more."""
    assert tsk.exit_state and tsk.stack is None
    cgroup_free(tsk)
    exit_creds(tsk)
    put_signal_struct(tsk)
    free_task(tsk)


@notrace
def put_signal_struct(tsk: TaskStruct) -> None:
    """The last of a process's tasks takes along what they shared."""
    sig = tsk.signal
    sig.sigcnt -= 1
    if not sig.sigcnt:
        sched_autogroup_exit(sig)
        kmem_cache_free(tsk.kernel.slab.signal_cachep, sig.slab_address)     # free_signal_struct()


def free_task(tsk: TaskStruct) -> None:
    """Its memory: what the CPU saved of its registers is most of it."""
    release_task_stack(tsk)                            # a fork that failed: it never ran
    tsk.thread = None  # type: ignore[assignment]      # arch_release_task_struct()
    kmem_cache_free(tsk.kernel.slab.task_struct_cachep, tsk.slab_address)    # free_task_struct()


@notrace
def copy_seccomp(p: TaskStruct, parent: TaskStruct) -> None:
    """The child may do no more than its parent."""
    if parent.seccomp_mode:
        p.seccomp_mode, p.seccomp_filter = parent.seccomp_mode, parent.seccomp_filter
        p.ti_flags |= TIF_SECCOMP


@notrace
def copy_sighand(clone_flags: int, p: TaskStruct) -> None:
    """Handlers: shared, or a copy."""
    old = current().sighand
    if clone_flags & CLONE_SIGHAND:
        old.count += 1
        p.sighand = old
        return
    address = kmem_cache_alloc(p.kernel.slab.sighand_cachep, GFP_KERNEL)
    p.sighand = SighandStruct(list(old.action))
    p.sighand.slab_address = address
    if clone_flags & CLONE_CLEAR_SIGHAND:
        default = KSigaction()
        p.sighand.action[:] = [a if a.handler == SIG_IGN else default for a in old.action]


@notrace
def copy_signal(clone_flags: int, p: TaskStruct) -> None:
    """What the threads of a new process will share."""
    if clone_flags & CLONE_THREAD:
        return
    old = current().signal
    address = kmem_cache_alloc(p.kernel.slab.signal_cachep, GFP_KERNEL | __GFP_ZERO)
    sig = SignalStruct(p)
    sig.slab_address = address
    sig.threads.append(p)
    sig.curr_target = p
    sig.wait_chldexit = WaitQueueHead()
    sig.rlim = list(old.rlim)
    sig.oom_score_adj = old.oom_score_adj
    sig.oom_score_adj_min = old.oom_score_adj_min
    sched_autogroup_fork(sig, old)
    p.signal = sig


@notrace
def copy_mm(clone_flags: int, p: TaskStruct) -> None:
    """The address space: shared, or a copy whose pages are shared until one side writes. Raises ENOMEM."""
    old = current().mm
    if old is None:
        return                                   # a kernel thread makes a kernel thread
    if clone_flags & CLONE_VM:
        mmget(old)
        mm = old
    else:
        mm = dup_mm(p, old)
    p.mm = mm
    p.active_mm = mm


def mm_release(task: TaskStruct, mm: MmStruct) -> None:
    """The task stops using its address space (exit, exec): tells those who wait for that.

    Robust futexes are given up, the thread's join word is cleared and woken, vfork's parent goes on.
    """
    if task.utask is not None and task.kernel.uprobes is not None:
        task.kernel.uprobes.uprobe_free_utask(task)
    if task.robust_list:
        exit_robust_list(task)
        task.robust_list = 0
    if task in task.kernel.futex.pi_owned:
        exit_pi_state_list(task)
    task.rseq = 0                                # its memory goes away
    address = task.clear_child_tid
    if address:
        if not task.signal.flags & SIGNAL_GROUP_COREDUMP and mm.mm_users > 1:
            try:
                put_user_u32(address, 0)
                do_futex(address, FUTEX_WAKE, 1, None, 0, 0, 0)
            except KernelError:
                pass                             # not our problem: the word is user space's
        task.clear_child_tid = 0
    if task.vfork_done is not None:
        complete_vfork_done(task)


@notrace
def complete_vfork_done(task: TaskStruct) -> None:
    vfork = task.vfork_done
    if vfork is not None:
        task.vfork_done = None
        complete(vfork)


@may_sleep
@notrace
def wait_for_vfork_done(child: TaskStruct, vfork: Completion) -> bool:
    """The parent of vfork() waits until the child execs or exits. False: a fatal signal ended that early."""
    task = current()
    task.flags |= PF_FREEZER_SKIP                # freezer_do_not_count(): the child may be frozen
    try:
        wait_for_completion_killable(vfork)
    except KernelError:
        child.vfork_done = None                  # we are dying: the child must not complete it any more
        return False
    finally:
        task.flags &= ~PF_FREEZER_SKIP           # freezer_count(): it freezes on its way to user mode
    return True


# ---- putting a task together -------------------------------------------------------------------------------
@notrace
def check_clone_flags(clone_flags: int, task: TaskStruct) -> None:
    """The combinations that copy_process() refuses. Raises EINVAL."""
    if clone_flags & (CLONE_NEWNS | CLONE_FS) == CLONE_NEWNS | CLONE_FS:
        raise KernelError(EINVAL)
    if clone_flags & (CLONE_NEWUSER | CLONE_FS) == CLONE_NEWUSER | CLONE_FS:
        raise KernelError(EINVAL)
    if clone_flags & CLONE_THREAD and not clone_flags & CLONE_SIGHAND:
        raise KernelError(EINVAL)
    if clone_flags & CLONE_SIGHAND and not clone_flags & CLONE_VM:
        raise KernelError(EINVAL)
    if clone_flags & CLONE_PARENT and task.signal.flags & SIGNAL_UNKILLABLE:
        raise KernelError(EINVAL)
    if clone_flags & CLONE_THREAD and (
            clone_flags & (CLONE_NEWUSER | CLONE_NEWPID) or task.nsproxy.pid_ns is not task.thread_pid.ns):
        raise KernelError(EINVAL)
    if clone_flags & CLONE_PIDFD and clone_flags & (CLONE_DETACHED | CLONE_THREAD):
        raise KernelError(EINVAL)


def copy_process(args: KernelCloneArgs, trace: int) -> TaskStruct:
    """Builds a child of the current task that only wants waking. trace: the PTRACE_EVENT_* that it will be, or 0.

    Raises EINVAL (flags), EAGAIN (RLIMIT_NPROC, max_threads, no pid), ENOMEM, EMFILE (CLONE_PIDFD), EINTR,
    and Restart(ERESTARTNOINTR) when a signal is pending: it is to be seen before the fork, not by both.
    """
    clone_flags = args.flags
    task = current()
    kernel = task.kernel
    pids = kernel.pids
    check_clone_flags(clone_flags, task)
    recalc_sigpending()
    if task.ti_flags & TIF_SIGPENDING:
        raise Restart(ERESTARTNOINTR)
    p = dup_task_struct(task)
    if clone_flags & CLONE_CHILD_SETTID:
        p.set_child_tid = args.child_tid
    if clone_flags & CLONE_CHILD_CLEARTID:
        p.clear_child_tid = args.child_tid
    uid = p.real_cred.uid
    if (
        alloc_uid(kernel, uid).processes >= p.signal.rlim[RLIMIT_NPROC][0]
        and uid
        and not capable(CAP_SYS_RESOURCE)
        and not capable(CAP_SYS_ADMIN)
    ):
        free_task(p)
        raise KernelError(EAGAIN)
    task.flags &= ~PF_NPROC_EXCEEDED
    if pids.nr_threads >= pids.max_threads:
        free_task(p)
        raise KernelError(EAGAIN)

    copy_seccomp(p, task)
    # Each step that must be undone leaves its undoing here: a fork that fails takes itself apart in reverse.
    undo: list[Callable[[], None]] = [lambda: free_task(p)]
    try:
        copy_creds(p, clone_flags)
        undo.append(lambda: exit_creds(p))
        undo.append(lambda: uncount_process(p))
        cgroup_fork(p)
        sched_fork(clone_flags, p)
        if kernel.lsm is not None:
            kernel.lsm.security_task_alloc(p)
        copy_semundo(clone_flags, p)
        undo.append(lambda: exit_sem(p))
        p.files = copy_files(bool(clone_flags & CLONE_FILES), task)
        undo.append(lambda: exit_files(p))
        if task.fs is not None:                  # the boot task has none before a file system is mounted
            p.fs = copy_fs(bool(clone_flags & CLONE_FS), task)
            undo.append(lambda: exit_fs(p))
        copy_sighand(clone_flags, p)
        undo.append(lambda: _drop_sighand(p))
        copy_signal(clone_flags, p)
        undo.append(lambda: _drop_signal(p, clone_flags))
        copy_mm(clone_flags, p)
        undo.append(lambda: _drop_mm(p))
        copy_namespaces(clone_flags, p)
        undo.append(lambda: exit_task_namespaces(p))
        copy_thread(clone_flags, args.fn or args.stack, args.arg, p, args.tls)
        pid = alloc_pid(kernel, p.nsproxy.pid_ns)
        undo.append(lambda: free_pid(kernel, pid))
        pidfd = -1
        pidfile: File | None = None
        if clone_flags & CLONE_PIDFD:
            pidfd = get_unused_fd_flags(O_RDWR | O_CLOEXEC)
            undo.append(lambda: put_unused_fd(pidfd))
            pidfile = pidfd_create_file(pid, O_RDWR)
            undo.append(lambda: kernel.fput(pidfile))
            put_user_u32(args.pidfd, pidfd)
        cgroup_can_fork(p)
        undo.append(lambda: cgroup_cancel_fork(p))
        if task.pending.signal & 1 << 8:         # SIGKILL came while we slept
            raise KernelError(EINTR)
    except KernelError:
        for step in reversed(undo):
            step()
        raise

    if clone_flags & (CLONE_VM | CLONE_VFORK) == CLONE_VM:
        sas_ss_reset(p)                          # two tasks cannot use one alternate stack
    p.pid = pid.nr
    if clone_flags & CLONE_THREAD:
        p.exit_signal = -1
        p.group_leader = task.group_leader
        p.tgid = task.tgid
    else:
        p.exit_signal = task.group_leader.exit_signal if clone_flags & CLONE_PARENT else args.exit_signal
        p.group_leader = p
        p.tgid = p.pid
    p.start_time = ktime_get()
    p.real_start_time = ktime_get_boottime()
    if not clone_flags & CLONE_THREAD and task.rseq:
        p.rseq = task.rseq                       # rseq_fork()
        p.rseq_sig = task.rseq_sig
        p.ti_flags |= TIF_NOTIFY_RESUME
    if clone_flags & (CLONE_PARENT | CLONE_THREAD):
        p.real_parent = task.real_parent
        p.parent_exec_id = task.parent_exec_id
    else:
        p.real_parent = task
        p.parent_exec_id = task.self_exec_id
    ptrace_init_task(p, bool(clone_flags & CLONE_PTRACE or trace))
    init_task_pid(p, PIDTYPE_PID, pid)
    if thread_group_leader(p):
        sig, old = p.signal, task.signal
        init_task_pid(p, PIDTYPE_PGID, old.pgrp)
        init_task_pid(p, PIDTYPE_SID, old.session)
        if is_child_reaper(pid):
            (pids if pid.ns is None else pid.ns).child_reaper = p
            sig.flags |= SIGNAL_UNKILLABLE
        sig.tty = old.tty
        parent_sig = p.real_parent.signal
        sig.has_child_subreaper = parent_sig.has_child_subreaper or parent_sig.is_child_subreaper
        p.real_parent.children.append(p)
        pids.tasks[p] = None
        attach_pid(p, PIDTYPE_TGID)
        attach_pid(p, PIDTYPE_PGID)
        attach_pid(p, PIDTYPE_SID)
    else:
        sig = task.signal
        sig.nr_threads += 1
        sig.live += 1
        sig.sigcnt += 1
        task_join_group_stop(p)
        sig.threads.append(p)
    attach_pid(p, PIDTYPE_PID)
    pids.nr_threads += 1
    pids.total_forks += 1
    if pidfile is not None:
        fd_install(pidfd, pidfile)
    cgroup_post_fork(p)
    if kernel.perf is not None:
        kernel.perf.event_init_task(task, p)
        kernel.perf.event_fork(p)
    probe = kernel.tp.task_newtask
    if probe is not None:
        probe(p, clone_flags)
    if kernel.uprobes is not None:
        kernel.uprobes.uprobe_copy_process(p, clone_flags)
    return p


@notrace
def _drop_sighand(p: TaskStruct) -> None:
    __cleanup_sighand(p.sighand)
    flush_sigqueue(p.pending)


@notrace
def _drop_signal(p: TaskStruct, clone_flags: int) -> None:
    if not clone_flags & CLONE_THREAD:
        sched_autogroup_exit(p.signal)
        kmem_cache_free(p.kernel.slab.signal_cachep, p.signal.slab_address)


@notrace
def _drop_mm(p: TaskStruct) -> None:
    mm = p.mm
    if mm is not None:
        p.mm = None
        mmput(mm)


@may_sleep
def _do_fork(args: KernelCloneArgs) -> int:
    """Makes a child, starts it and answers its pid; with CLONE_VFORK only after it let go of our memory."""
    clone_flags = args.flags
    trace = 0
    if not clone_flags & CLONE_UNTRACED and current().ptrace:
        if clone_flags & CLONE_VFORK:
            trace = PTRACE_EVENT_VFORK
        else:
            trace = PTRACE_EVENT_FORK if args.exit_signal == SIGCHLD else PTRACE_EVENT_CLONE
        if not ptrace_event_enabled(current(), trace):
            trace = 0
    p = copy_process(args, trace)
    probe = p.kernel.tp.sched_process_fork
    if probe is not None:
        probe(current(), p)
    pid = get_task_pid(p, PIDTYPE_PID)
    nr = pid_vnr(pid)
    if clone_flags & CLONE_PARENT_SETTID:
        with suppress(KernelError):              # Linux does not look at the answer either
            put_user_u32(args.parent_tid, nr)
    if clone_flags & CLONE_VFORK:
        vfork = p.vfork_done = Completion()
        wake_up_new_task(p)
        if trace:
            ptrace_event_pid(trace, pid)
        if wait_for_vfork_done(p, vfork):
            ptrace_event_pid(PTRACE_EVENT_VFORK_DONE, pid)
    else:
        wake_up_new_task(p)
        if trace:
            ptrace_event_pid(trace, pid)
    put_pid(pid)
    return nr


def kernel_thread(fn: Callable[[Any], int], arg: Any, flags: int) -> int:
    """Makes a kernel thread that runs fn(arg); answers its pid. flags: CLONE_* and an exit signal."""
    args = KernelCloneArgs((flags | CLONE_VM | CLONE_UNTRACED) & ~CSIGNAL, flags & CSIGNAL)
    args.fn = fn
    args.arg = arg
    return _do_fork(args)


# ---- the system calls --------------------------------------------------------------------------------------
@syscall(raw=True)
def sys_fork(regs: Registers) -> int:
    """fork(2). Errors: EAGAIN, ENOMEM."""
    return _do_fork(KernelCloneArgs(0, SIGCHLD))


@syscall(raw=True)
def sys_vfork(regs: Registers) -> int:
    """vfork(2). Errors: EAGAIN, ENOMEM."""
    return _do_fork(KernelCloneArgs(CLONE_VFORK | CLONE_VM, SIGCHLD))


@syscall
def sys_clone(
    clone_flags: ulong, newsp: UserPtr, parent_tidptr: UserPtr, child_tidptr: UserPtr, tls: ulong
) -> int:
    """clone(2). Errors: EINVAL, EAGAIN, ENOMEM, EPERM."""
    if clone_flags & (CLONE_PIDFD | CLONE_PARENT_SETTID) == CLONE_PIDFD | CLONE_PARENT_SETTID:
        raise KernelError(EINVAL)                # legacy_clone_args_valid(): both want that pointer
    return _do_fork(KernelCloneArgs(
        clone_flags & CLONE_LEGACY_FLAGS & ~CSIGNAL, clone_flags & CSIGNAL, newsp, parent_tidptr,
        child_tidptr, tls, parent_tidptr,
    ))


def copy_clone_args_from_user(uargs: int, usize: int) -> KernelCloneArgs:
    """Reads struct clone_args of any size. Raises E2BIG, EINVAL, EFAULT."""
    if usize > 4096:
        raise KernelError(E2BIG)
    if usize < CLONE_ARGS_SIZE_VER0:
        raise KernelError(EINVAL)
    data = copy_from_user(uargs, usize)
    if usize > CLONE_ARGS_SIZE_VER2 and any(data[CLONE_ARGS_SIZE_VER2:]):
        raise KernelError(E2BIG)                 # a newer caller wants what we do not know
    (flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, _cgroup,
     ) = _U64X11.unpack(data[:CLONE_ARGS_SIZE_VER2].ljust(CLONE_ARGS_SIZE_VER2, b"\0"))
    if exit_signal & ~CSIGNAL or not valid_signal(exit_signal):
        raise KernelError(EINVAL)
    if set_tid or set_tid_size:
        raise KernelError(EINVAL)
    args = KernelCloneArgs(flags, exit_signal, stack, parent_tid, child_tid, tls, pidfd)
    args.stack_size = stack_size
    return args


@notrace
def clone3_args_valid(args: KernelCloneArgs) -> bool:
    flags = args.flags
    if flags & ~(CLONE_LEGACY_FLAGS | CLONE_CLEAR_SIGHAND) or flags & (CLONE_DETACHED | CSIGNAL):
        return False
    if flags & (CLONE_SIGHAND | CLONE_CLEAR_SIGHAND) == CLONE_SIGHAND | CLONE_CLEAR_SIGHAND:
        return False
    if flags & (CLONE_THREAD | CLONE_PARENT) and args.exit_signal:
        return False
    if not args.stack:
        return args.stack_size == 0
    if not args.stack_size or not access_ok(args.stack, args.stack_size):
        return False
    args.stack += args.stack_size                # the stack grows down from its end
    return True


@syscall(gaps="set_tid and CLONE_INTO_CGROUP are EINVAL")
def sys_clone3(uargs: UserPtr, size: size_t) -> int:
    """clone3(2). Errors: E2BIG, EINVAL, EFAULT, EAGAIN, ENOMEM, EPERM."""
    args = copy_clone_args_from_user(uargs, size)
    if not clone3_args_valid(args):
        raise KernelError(EINVAL)
    return _do_fork(args)


@syscall
def sys_set_tid_address(tidptr: UserPtr) -> int:
    """set_tid_address(2): where exit shall clear a word and wake its futex."""
    task = current()
    task.clear_child_tid = tidptr
    return task_pid_vnr(task)


def ksys_unshare(unshare_flags: int) -> int:
    """Gives the current task its own copy of what it shared. Raises EINVAL, EPERM, ENOMEM."""
    if unshare_flags & CLONE_NEWUSER:
        unshare_flags |= CLONE_THREAD | CLONE_FS
    if unshare_flags & CLONE_VM:
        unshare_flags |= CLONE_SIGHAND
    if unshare_flags & CLONE_SIGHAND:
        unshare_flags |= CLONE_THREAD
    if unshare_flags & CLONE_NEWNS:
        unshare_flags |= CLONE_FS
    if unshare_flags & ~(
        CLONE_THREAD | CLONE_FS | CLONE_NEWNS | CLONE_SIGHAND | CLONE_VM | CLONE_FILES | CLONE_SYSVSEM
        | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWCGROUP
    ):
        raise KernelError(EINVAL)
    task = current()
    if unshare_flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) and len(task.signal.threads) > 1:
        raise KernelError(EINVAL)
    if unshare_flags & (CLONE_SIGHAND | CLONE_VM) and task.sighand.count > 1:
        raise KernelError(EINVAL)
    if unshare_flags & CLONE_VM and task.mm is not None and task.mm.mm_users > 1:
        raise KernelError(EINVAL)
    if unshare_flags & CLONE_NEW_NAMESPACES and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if unshare_flags & CLONE_FS:
        unshare_fs_struct(task)
    if unshare_flags & CLONE_FILES:
        old_files = unshare_files(task)
        if old_files is not None:
            put_files_struct(old_files)
    if unshare_flags & CLONE_NEW_NAMESPACES:
        unshare_nsproxy_namespaces(unshare_flags & CLONE_NEW_NAMESPACES)
    return 0


@syscall(gaps="of the namespaces only mount and UTS")
def sys_unshare(unshare_flags: ulong) -> int:
    """unshare(2). Errors: EINVAL, EPERM, ENOMEM."""
    return ksys_unshare(unshare_flags)
