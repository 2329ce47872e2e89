"""struct task_struct and the objects that tasks share.

Linux: include/linux/sched.h, sched/signal.h, cred.h, fdtable.h, fs_struct.h. Only data: the functions that
work on them live in kernel/sched, kernel/signal.py, kernel/fork.py, kernel/cred.py, fs/file.py, ...
Owns: nothing; every TaskStruct is reached from Kernel.pids.
Invariants: `state` is TASK_RUNNING for every task on a run queue; a task with exit_state != 0 is never
    scheduled again once its last schedule() is over; sighand is None only after release_task().
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenlet import greenlet

    from glasskernel.arch.x86.process import ThreadStruct
    from glasskernel.fs.types import File, Path
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.nsproxy import Nsproxy, UserNamespace
    from glasskernel.kernel.pid import Pid
    from glasskernel.kernel.sched.completion import Completion
    from glasskernel.kernel.sched.types import SchedClass, SchedDlEntity, SchedEntity, SchedRtEntity, TaskGroup
    from glasskernel.kernel.sched.wait import WaitQueueHead
    from glasskernel.mm.types import MmStruct

# task.state (include/linux/sched.h)
TASK_RUNNING = 0x0
TASK_INTERRUPTIBLE = 0x1
TASK_UNINTERRUPTIBLE = 0x2
TASK_STOPPED_BIT = 0x4
TASK_TRACED_BIT = 0x8
TASK_PARKED = 0x40
TASK_DEAD = 0x80
TASK_WAKEKILL = 0x100
TASK_WAKING = 0x200
TASK_NOLOAD = 0x400
TASK_NEW = 0x800
TASK_KILLABLE = TASK_WAKEKILL | TASK_UNINTERRUPTIBLE
TASK_STOPPED = TASK_WAKEKILL | TASK_STOPPED_BIT
TASK_TRACED = TASK_WAKEKILL | TASK_TRACED_BIT
TASK_IDLE = TASK_UNINTERRUPTIBLE | TASK_NOLOAD
TASK_NORMAL = TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE
# task.exit_state
EXIT_DEAD = 0x10
EXIT_ZOMBIE = 0x20
EXIT_TRACE = EXIT_ZOMBIE | EXIT_DEAD

# task.flags
PF_IDLE = 0x2
PF_EXITING = 0x4
PF_WQ_WORKER = 0x20
PF_FORKNOEXEC = 0x40
PF_SUPERPRIV = 0x100
PF_DUMPCORE = 0x200
PF_SIGNALED = 0x400
PF_MEMALLOC = 0x800
PF_NPROC_EXCEEDED = 0x1000
PF_FROZEN = 0x10000
PF_KSWAPD = 0x20000
PF_MEMALLOC_NOFS = 0x40000
PF_KTHREAD = 0x200000
PF_RANDOMIZE = 0x400000
PF_NO_SETAFFINITY = 0x4000000
PF_FREEZER_SKIP = 0x40000000

# thread_info.flags: what must be done before the return to user mode (arch/x86/include/asm/thread_info.h)
TIF_SYSCALL_TRACE = 1 << 0
TIF_NOTIFY_RESUME = 1 << 1
TIF_SIGPENDING = 1 << 2
TIF_NEED_RESCHED = 1 << 3
TIF_SINGLESTEP = 1 << 4
TIF_SYSCALL_EMU = 1 << 6
TIF_SECCOMP = 1 << 8
TIF_UPROBE = 1 << 12
TIF_FORCED_TF = 1 << 24
TIF_SYSCALL_TRACEPOINT = 1 << 28
TIF_WORK_SYSCALL_ENTRY = TIF_SYSCALL_TRACE | TIF_SYSCALL_EMU | TIF_SECCOMP | TIF_SYSCALL_TRACEPOINT
SYSCALL_EXIT_WORK_FLAGS = TIF_SYSCALL_TRACE | TIF_SINGLESTEP | TIF_SYSCALL_TRACEPOINT

NSIG = 64
RLIM_INFINITY = 0xFFFF_FFFF_FFFF_FFFF
(RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS, RLIMIT_NPROC, RLIMIT_NOFILE,
 RLIMIT_MEMLOCK, RLIMIT_AS, RLIMIT_LOCKS, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO,
 RLIMIT_RTTIME) = range(16)


@slotted
class Cred:
    """struct cred: immutable once a task uses it. prepare_creds() copies, commit_creds() installs."""

    uid: int = 0
    gid: int = 0
    suid: int = 0
    sgid: int = 0
    euid: int = 0
    egid: int = 0
    fsuid: int = 0
    fsgid: int = 0
    groups: tuple[int, ...] = ()
    securebits: int = 0
    cap_inheritable: int = 0
    cap_permitted: int = 0
    cap_effective: int = 0
    cap_bset: int = 0
    cap_ambient: int = 0
    no_new_privs: bool = False
    session_keyring: Any = None                 # security.keys.types.Key, with a reference while the set is in use
    process_keyring: Any = None
    thread_keyring: Any = None
    jit_keyring: int = 0                        # where request_key() puts what it finds: KEY_REQKEY_DEFL_*
    security: Any = None                        # the security module's
    usage: int = 0                              # tasks and open files; 0 while it is being prepared
    slab_address: int = 0                       # while it is used; 0: made at boot


@slotted
class FsStruct:
    """struct fs_struct: where path walks start. Shared by CLONE_FS."""

    root: Path
    pwd: Path
    umask: int = 0o022
    users: int = 1
    slab_address: int = 0                       # the slot of its cache, like the next ones; 0: made at boot


@slotted
class FilesStruct:
    """struct files_struct: the descriptor table. Shared by CLONE_FILES. fs/file.py works on it.

    fd: index = descriptor, None = free. close_on_exec: bit mask by descriptor.
    next_fd: no free descriptor lies below it. reserved: taken by get_unused_fd_flags(), not installed yet.
    """

    fd: list[File | None] = field(default_factory=list)
    close_on_exec: int = 0
    next_fd: int = 0
    count: int = 1
    reserved: dict[int, None] = field(default_factory=dict)
    slab_address: int = 0


@slotted
class KSigaction:
    """struct k_sigaction. handler: SIG_DFL 0, SIG_IGN 1 or a user address. mask: bit signo-1.

    Never changed in place: SighandStruct.action gets a new one, so that fork copies 64 references.
    """

    handler: int = 0
    flags: int = 0
    restorer: int = 0
    mask: int = 0


@slotted
class SighandStruct:
    """struct sighand_struct, shared by CLONE_SIGHAND. action[signo - 1]."""

    action: list[KSigaction] = field(default_factory=lambda: [KSigaction()] * NSIG)
    count: int = 1
    signalfd_wqh: WaitQueueHead | None = None                    # made by the first signalfd
    slab_address: int = 0


@slotted
class SigPending:
    """struct sigpending. signal: mask of pending signals (bit signo-1). queue: their KernelSiginfo, in order."""

    signal: int = 0
    queue: list[Any] = field(default_factory=list)        # list[kernel.signal_types.KernelSiginfo]


@slotted
class SignalStruct:
    """struct signal_struct: what the threads of a process share, for as long as one of them exists."""

    group_leader: TaskStruct
    threads: list[TaskStruct] = field(default_factory=list)      # live threads, leader first, in creation order
    nr_threads: int = 1
    live: int = 1                                                # threads that have not begun to exit
    wait_chldexit: WaitQueueHead | None = None
    curr_target: TaskStruct | None = None
    shared_pending: SigPending = field(default_factory=SigPending)
    group_exit_code: int = 0
    group_exit_task: TaskStruct | None = None
    notify_count: int = 0
    group_stop_count: int = 0
    flags: int = 0                                               # SIGNAL_*
    is_child_subreaper: bool = False
    has_child_subreaper: bool = False
    # jobs
    pgrp: Pid | None = None
    session: Pid | None = None
    leader: bool = False                                         # session leader
    tty: Any = None                                              # drivers.tty.types.TtyStruct
    tty_old_pgrp: Pid | None = None
    # accounting of threads that are gone, in ns / counts
    utime: int = 0
    stime: int = 0
    cutime: int = 0
    cstime: int = 0
    nvcsw: int = 0
    nivcsw: int = 0
    cnvcsw: int = 0
    cnivcsw: int = 0
    min_flt: int = 0
    maj_flt: int = 0
    cmin_flt: int = 0
    cmaj_flt: int = 0
    maxrss: int = 0                                              # pages
    cmaxrss: int = 0
    inblock: int = 0
    oublock: int = 0
    cinblock: int = 0
    coublock: int = 0
    rlim: list[tuple[int, int]] = field(default_factory=list)    # (soft, hard) by RLIMIT_*
    # timers (kernel/time)
    posix_timers: dict[int, Any] = field(default_factory=dict)
    posix_timer_id: int = 0
    real_timer: Any = None                                       # Hrtimer of ITIMER_REAL
    it: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0), (0, 0)])   # VIRTUAL, PROF: (expires, incr) ns
    oom_score_adj: int = 0
    oom_score_adj_min: int = 0                                   # how low one without CAP_SYS_RESOURCE may set it
    oom_mm: Any = None                                           # MmStruct: the OOM killer chose this process
    autogroup: Any = None                                        # kernel.sched.autogroup.Autogroup; None: default
    sigcnt: int = 1                                              # tasks that have not been freed
    slab_address: int = 0


@slotted
class TaskStruct:
    """struct task_struct. Fields are grouped by the file that owns them."""

    kernel: Kernel
    pid: int                                    # the thread's number
    tgid: int                                   # the process's number
    comm: bytes                                 # at most 15 bytes
    group_leader: TaskStruct = None  # type: ignore[assignment]     # itself for the first thread
    thread_pid: Pid = None  # type: ignore[assignment]
    # --- execution: kernel/sched, arch/x86/process ---
    stack: greenlet | None = None               # the kernel stack
    stack_address: int = 0                      # its memory; 0: the idle tasks', which are part of the kernel image
    thread: ThreadStruct = None  # type: ignore[assignment]
    state: int = TASK_RUNNING
    ti_flags: int = 0                           # TIF_*
    usage: int = 2                              # one until it is reaped, one until it has left its CPU
    slab_address: int = 0
    flags: int = 0                              # PF_*
    preempt_count: int = 0
    cpu: int = 0
    on_cpu: bool = False
    on_rq: int = 0
    wake_cpu: int = 0
    prio: int = 120
    static_prio: int = 120
    normal_prio: int = 120
    rt_priority: int = 0
    policy: int = 0                             # SCHED_NORMAL
    sched_reset_on_fork: bool = False
    sched_class: SchedClass = None  # type: ignore[assignment]
    se: SchedEntity = None  # type: ignore[assignment]
    sched_task_group: TaskGroup = None  # type: ignore[assignment]
    rt: SchedRtEntity = None  # type: ignore[assignment]
    dl: SchedDlEntity = None  # type: ignore[assignment]       # made by the first SCHED_DEADLINE
    cpus_allowed: int = 0                       # mask of CPU numbers
    in_iowait: bool = False
    nvcsw: int = 0
    nivcsw: int = 0
    utime: int = 0                              # ns
    stime: int = 0                              # ns
    start_time: int = 0                         # ns since boot, CLOCK_MONOTONIC
    real_start_time: int = 0                    # CLOCK_BOOTTIME
    timer_slack_ns: int = 50_000
    ioprio: int = 0                             # io_context.ioprio; 0: none of its own
    # --- memory: mm ---
    mm: MmStruct | None = None                  # None for kernel threads
    active_mm: MmStruct | None = None
    min_flt: int = 0
    maj_flt: int = 0
    mempolicy: Any = None                       # mm.mempolicy.Mempolicy; None: the default
    il_prev: int = 0                            # where MPOL_INTERLEAVE was last
    mems_allowed: int = -1                      # nodes that its cpuset lets it have; -1: all
    vmacache_seqnum: int = -1                   # struct vmacache: the mm's when `vmacache` was filled
    vmacache: list[Any] = field(default_factory=list)
    # --- family: kernel/fork, kernel/exit ---
    real_parent: TaskStruct = None  # type: ignore[assignment]
    parent: TaskStruct = None  # type: ignore[assignment]           # the tracer, when traced
    children: list[TaskStruct] = field(default_factory=list)        # processes whose real_parent is this task
    ptraced: list[TaskStruct] = field(default_factory=list)
    ptrace: int = 0                             # PT_*
    ptracer_cred: Cred | None = None            # the tracer's when it attached
    ptrace_message: int = 0                     # of the last event
    exit_state: int = 0
    exit_code: int = 0                          # wait status word
    exit_signal: int = 0                        # -1: a thread that is not the leader
    pdeath_signal: int = 0
    vfork_done: Completion | None = None
    utask: Any = None                           # kernel.events.uprobes_xol.UprobeTask
    seccomp_mode: int = 0                       # SECCOMP_MODE_*; nonzero: TIF_SECCOMP
    seccomp_filter: Any = None                  # kernel.seccomp.SeccompFilter, the youngest
    pi_blocked_on: Any = None                   # kernel.futex.FutexQ: the PI lock that it waits for
    pi_top_task: TaskStruct | None = None       # whose priority it has inherited
    self_exec_id: int = 0                       # counts exec: a child made before it may not use its exit_signal
    parent_exec_id: int = 0                     # the parent's, when this task was made
    task_works: list[Any] | None = field(default_factory=list)       # kernel.task_work.CallbackHead; None: no more
    set_child_tid: int = 0
    clear_child_tid: int = 0
    robust_list: int = 0
    rseq: int = 0                               # address of struct rseq, 0: not registered
    rseq_sig: int = 0
    did_exec: bool = False
    personality: int = 0
    # --- credentials and files ---
    cred: Cred = None  # type: ignore[assignment]                   # effective: what checks use
    real_cred: Cred = None  # type: ignore[assignment]              # what others see
    fs: FsStruct = None  # type: ignore[assignment]
    files: FilesStruct = None  # type: ignore[assignment]
    nsproxy: Nsproxy = None  # type: ignore[assignment]
    user_ns: UserNamespace | None = None
    cgroups: Any = None                         # kernel.cgroup.types.CssSet; None: the initial one
    # --- signals: kernel/signal ---
    signal: SignalStruct = None  # type: ignore[assignment]
    sighand: SighandStruct = None  # type: ignore[assignment]
    pending: SigPending = field(default_factory=SigPending)
    blocked: int = 0                            # mask, bit signo-1
    real_blocked: int = 0
    saved_sigmask: int = 0
    restore_sigmask: bool = False               # TIF_RESTORE_SIGMASK
    sas_ss_sp: int = 0
    sas_ss_size: int = 0
    sas_ss_flags: int = 2                       # SS_DISABLE
    jobctl: int = 0
    last_siginfo: Any = None
    restart_block: Callable[[], int] | None = None
    # --- I/O accounting (task_io_accounting) ---
    rchar: int = 0
    wchar: int = 0
    syscr: int = 0
    syscw: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    # --- block I/O and write-back ---
    plug: Any = None                            # block.blk_types.BlkPlug: requests of this task wait in it
    bio_list: Any = None                        # bios submitted from within a make_request_fn()
    io_context: Any = None                      # block.blk_types.IoContext, made by the first bio
    sysvsem: Any = None                         # ipc.sem.SemUndoList
    journal_info: Any = None                    # the running handle of fs/jbd2
    nr_dirtied: int = 0                         # pages since the last balance_dirty_pages()
    nr_dirtied_pause: int = 32                  # when to call it again
    dirty_paused_when: int = 0                  # jiffies
    # --- tracing ---
    ret_stack: Any = None                       # kernel.trace.fgraph.RetStack: traced calls that have not returned
    # --- kernel threads ---
    kthread: Any = None                         # kernel.kthread.Kthread
    oops_in_progress: bool = False

    def __repr__(self) -> str:
        return f"<task {self.pid} {self.comm.decode(errors='replace')}>"
