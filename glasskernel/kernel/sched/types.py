"""The scheduler's objects: run queues, entities, classes, and the per-kernel state.

Linux: kernel/sched/sched.h, include/linux/sched.h (5.3). Only data and constants; core.py, fair.py, rt.py,
... work on them.
Owns: SchedState, reached as kernel.sched; one Rq per CPU in SchedState.rqs.
Invariants: a queued entity that does not run lies in its cfs_rq's `timeline`; the running one does not
    (cfs_rq.curr). rq.nr_running counts the queued tasks of all classes, the running one included, idle not.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

HZ = 250
TICK_NSEC = 1_000_000_000 // HZ
NSEC_PER_SEC = 1_000_000_000
NSEC_PER_MSEC = 1_000_000

SCHED_NORMAL, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE = 0, 1, 2, 3, 5, 6
SCHED_RESET_ON_FORK = 0x40000000

MAX_DL_PRIO = 0
MAX_RT_PRIO, MAX_USER_RT_PRIO, MAX_PRIO, DEFAULT_PRIO = 100, 100, 140, 120
MIN_NICE, MAX_NICE = -20, 19

# task.on_rq
TASK_ON_RQ_QUEUED, TASK_ON_RQ_MIGRATING = 1, 2

# enqueue and dequeue flags
DEQUEUE_SLEEP, DEQUEUE_SAVE, DEQUEUE_MOVE, DEQUEUE_NOCLOCK = 0x01, 0x02, 0x04, 0x08
ENQUEUE_WAKEUP, ENQUEUE_RESTORE, ENQUEUE_MOVE, ENQUEUE_NOCLOCK = 0x01, 0x02, 0x04, 0x08
ENQUEUE_HEAD, ENQUEUE_REPLENISH, ENQUEUE_MIGRATED = 0x10, 0x20, 0x40

# where the kernel can be preempted (kernel/sched/core.c; a boot option since 5.12: preempt=none|voluntary|full)
preempt_dynamic_none, preempt_dynamic_voluntary, preempt_dynamic_full = range(3)

# why a task changes its group (task_change_group): it was just forked; it goes from one to another
TASK_SET_GROUP, TASK_MOVE_GROUP = 0, 1

# wake flags
WF_SYNC, WF_FORK, WF_MIGRATED = 0x1, 0x2, 0x4
# why a CPU is chosen
SD_BALANCE_NEWIDLE, SD_BALANCE_EXEC, SD_BALANCE_FORK, SD_BALANCE_WAKE = 0x2, 0x4, 0x8, 0x10

# task.preempt_count (include/linux/preempt.h)
PREEMPT_OFFSET, SOFTIRQ_OFFSET, SOFTIRQ_DISABLE_OFFSET, HARDIRQ_OFFSET = 1, 0x100, 0x200, 0x10000
SOFTIRQ_MASK, HARDIRQ_MASK = 0xFF00, 0xF0000

# kcpustat: ns by CPU (include/linux/kernel_stat.h)
(CPUTIME_USER, CPUTIME_NICE, CPUTIME_SYSTEM, CPUTIME_SOFTIRQ, CPUTIME_IRQ, CPUTIME_IDLE, CPUTIME_IOWAIT,
 CPUTIME_STEAL, CPUTIME_GUEST, CPUTIME_GUEST_NICE) = range(10)

# The share of a nice level: 10 % of CPU more or less a level (kernel/sched/core.c).
sched_prio_to_weight = (
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916,
    9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277,
    1024, 820, 655, 526, 423, 335, 272, 215, 172, 137,
    110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
)
# 2^32 / weight
sched_prio_to_wmult = (
    48388, 59856, 76040, 92818, 118348, 147320, 184698, 229616, 287308, 360437,
    449829, 563644, 704093, 875809, 1099582, 1376151, 1717300, 2157191, 2708050, 3363326,
    4194304, 5237765, 6557202, 8165337, 10153587, 12820798, 15790321, 19976592, 24970740, 31350126,
    39045157, 49367440, 61356676, 76695844, 95443717, 119304647, 148102320, 186737708, 238609294, 286331153,
)
SCHED_FIXEDPOINT_SHIFT = 10                       # entities' weights have ten more bits, for shares of small groups
NICE_0_LOAD = 1024 << SCHED_FIXEDPOINT_SHIFT
MIN_SHARES, MAX_SHARES = 1 << 1, 1 << 18          # of a task group, before scaling
WEIGHT_IDLEPRIO, WMULT_IDLEPRIO = 3, 1431655765


class SchedEntity:
    """struct sched_entity: what CFS knows of a task, or of a task group on one CPU. vruntime and the *_runtime fields
    in ns.

    cfs_rq: where it is queued. parent: the entity of its group there (None: the root group's). my_q: what a group's
    entity stands for (None: a task's).
    """

    __slots__ = (
        "task", "depth", "parent", "cfs_rq", "my_q", "weight", "inv_weight", "vruntime", "sequence", "on_rq",
        "exec_start",
        "sum_exec_runtime", "prev_sum_exec_runtime", "nr_migrations", "last_queued", "run_delay",
        "pcount", "wait_start", "sleep_start", "block_start",
    )

    def __init__(self, task: TaskStruct) -> None:
        self.task = task                 # None: a group's
        self.depth = 0
        self.parent: SchedEntity | None = None
        self.cfs_rq: CfsRq = None  # type: ignore[assignment]     # set_task_rq(), init_tg_cfs_entry()
        self.my_q: CfsRq | None = None
        self.weight = NICE_0_LOAD
        self.inv_weight = 4194304
        self.vruntime = 0
        self.sequence = 0                # with vruntime the key in the timeline
        self.on_rq = 0
        self.exec_start = 0
        self.sum_exec_runtime = 0
        self.prev_sum_exec_runtime = 0
        self.nr_migrations = 0
        # struct sched_info
        self.last_queued = 0
        self.run_delay = 0
        self.pcount = 0
        # struct sched_statistics, while sched_schedstats is on: since when it waits for the CPU, sleeps, is blocked
        self.wait_start = 0
        self.sleep_start = 0
        self.block_start = 0


class SchedRtEntity:
    """struct sched_rt_entity. time_slice in ticks."""

    __slots__ = ("time_slice", "timeout", "on_list", "on_rq")

    def __init__(self) -> None:
        self.time_slice = 25
        self.timeout = 0                 # ticks since the last sleep: RLIMIT_RTTIME
        self.on_list = False
        self.on_rq = 0


class SchedDlEntity:
    """struct sched_dl_entity. dl_*: what was asked for, in ns; runtime, deadline: of the current period."""

    __slots__ = ("dl_runtime", "dl_deadline", "dl_period", "dl_bw", "runtime", "deadline", "dl_throttled",
                 "dl_yielded", "key", "timer")

    def __init__(self) -> None:
        self.dl_runtime = 0
        self.dl_deadline = 0
        self.dl_period = 0
        self.dl_bw = 0
        self.runtime = 0
        self.deadline = 0
        self.dl_throttled = False
        self.dl_yielded = False
        self.key: tuple[int, int, TaskStruct] | None = None      # its place on the timeline
        self.timer: Any = None                                   # Hrtimer


class DlRq:
    """struct dl_rq. timeline: (deadline, sequence, task), ascending."""

    __slots__ = ("timeline", "sequence")

    def __init__(self) -> None:
        self.timeline: list[tuple[int, int, TaskStruct]] = []
        self.sequence = 0


class CfsRq:
    """struct cfs_rq: the entities of one task group on one CPU.

    timeline: (vruntime, sequence, entity), ascending: Linux's red-black tree, in order. h_nr_running: the tasks in it
    and below, without throttled groups'.
    """

    __slots__ = (
        "tg", "tg_load_avg_contrib", "h_nr_running", "accounted", "runtime_enabled", "runtime_remaining", "throttled",
        "throttle_count",
        "throttled_clock",
        "load", "nr_running", "min_vruntime", "timeline", "sequence", "curr", "next", "last", "skip",
        "exec_clock", "rq",
    )

    def __init__(self, rq: Rq) -> None:
        self.rq = rq
        self.tg: TaskGroup = None  # type: ignore[assignment]     # sched_init(), init_tg_cfs_entry()
        self.load = 0                    # sum of the weights of all queued entities
        self.tg_load_avg_contrib = 0     # what of it is in tg.load_avg
        self.nr_running = 0
        self.h_nr_running = 0
        self.min_vruntime = (1 << 64) - (1 << 20)
        self.timeline: list[tuple[int, int, SchedEntity]] = []
        self.sequence = 0
        self.curr: SchedEntity | None = None
        self.next: SchedEntity | None = None
        self.last: SchedEntity | None = None
        self.skip: SchedEntity | None = None
        self.exec_clock = 0
        self.accounted = False           # cpuacct is there, or runtime_enabled
        # bandwidth.py
        self.runtime_enabled = False
        self.runtime_remaining = 0       # ns that may still be used before more is asked for
        self.throttled = False
        self.throttle_count = 0          # of it and all groups above
        self.throttled_clock = 0         # since when


@slotted
class CfsBandwidth:
    """struct cfs_bandwidth: how much CPU time a group may use in each period. Times in ns; quota RUNTIME_INF: any."""

    tg: TaskGroup
    period: int = 100_000_000
    quota: int = (1 << 64) - 1
    runtime: int = 0                              # of this period, not handed out yet
    idle: bool = False                            # nobody asked for runtime in this period
    period_active: bool = False
    period_timer: Any = None                      # Hrtimer
    slack_timer: Any = None
    throttled_cfs_rq: list[CfsRq] = field(default_factory=list)       # in the order in which they get runtime
    nr_periods: int = 0
    nr_throttled: int = 0
    throttled_time: int = 0


class TaskGroup:
    """struct task_group. se, cfs_rq: by CPU. shares: the weight of the whole group among its siblings, scaled."""

    __slots__ = ("css", "se", "cfs_rq", "shares", "load_avg", "parent", "children", "autogroup", "cfs_bandwidth")

    def __init__(self, parent: TaskGroup | None) -> None:
        self.css: Any = None                           # cpu_cgroup's; None: an autogroup
        self.se: list[SchedEntity | None] = []         # the root's are None
        self.cfs_rq: list[CfsRq] = []
        self.shares = NICE_0_LOAD
        self.load_avg = 0                              # the load of all CPUs, as they last told it
        self.parent = parent
        self.children: list[TaskGroup] = []
        self.autogroup: Any = None                     # whose it is
        self.cfs_bandwidth: CfsBandwidth | None = None     # None: no quota was ever set


class RtRq:
    """struct rt_rq.

    queue: by priority (0 is the highest), in order. bitmap: bit p is set if queue[p] is not empty.
    """

    __slots__ = ("bitmap", "queue", "nr_running", "rt_time", "rt_period_start", "rt_throttled")

    def __init__(self) -> None:
        self.bitmap = 0
        self.queue: list[deque[TaskStruct]] = [deque() for _ in range(MAX_RT_PRIO)]
        self.nr_running = 0
        self.rt_time = 0
        self.rt_period_start = 0
        self.rt_throttled = False


class Rq:
    """struct rq: the run queue of one CPU. clock in ns."""

    __slots__ = (
        "kernel", "cpu", "vcpu", "clock", "nr_running", "curr", "idle", "stop", "cfs", "rt", "dl",
        "switch_prev", "nr_switches", "nr_uninterruptible", "nr_iowait", "prev_mm", "calc_load_active",
        "calc_load_update", "next_balance", "idle_stamp", "avg_idle",
        "nr_balance_failed", "vtime_stamp", "cpustat",
        "yld_count", "sched_count", "sched_goidle", "ttwu_count", "ttwu_local",
        "rq_cpu_time", "run_delay", "pcount", "nohz_kick", "lb_count",
    )

    def __init__(self, kernel: Kernel, cpu: int) -> None:
        self.kernel = kernel
        self.cpu = cpu
        self.vcpu: Any = kernel.machine.cpus[cpu]
        self.clock = 0
        self.nr_running = 0
        self.curr: TaskStruct = None  # type: ignore[assignment]     # set by init_idle()
        self.idle: TaskStruct = None  # type: ignore[assignment]
        self.stop: TaskStruct | None = None
        self.cfs = CfsRq(self)
        self.rt = RtRq()
        self.dl = DlRq()
        self.switch_prev: TaskStruct = None  # type: ignore[assignment]   # who ran before: finish_task_switch()
        self.prev_mm: Any = None                       # borrowed mm to be dropped by finish_task_switch()
        self.nr_switches = 0
        self.nr_uninterruptible = 0
        self.nr_iowait = 0
        # loadavg
        self.calc_load_active = 0
        self.calc_load_update = 0
        # balancing; times in jiffies unless _ns
        self.next_balance = 0
        self.nr_balance_failed = 0
        self.idle_stamp = 0
        self.avg_idle = 1_000_000
        # cputime: up to which moment of this CPU's clock time is accounted, and where it went
        self.vtime_stamp = 0
        self.cpustat = [0] * 10
        # /proc/schedstat
        self.yld_count = 0
        self.sched_count = 0
        self.sched_goidle = 0
        self.ttwu_count = 0
        self.ttwu_local = 0
        self.nohz_kick = False
        self.lb_count = 0
        self.rq_cpu_time = 0
        self.run_delay = 0
        self.pcount = 0


@slotted(frozen=True)
class SchedClass:
    """struct sched_class. `next`: the class below. Called with the rq's clock up to date.

    pick_next_task(rq, prev) -> task or None: puts prev back when it finds a task. switched_to(rq, p): p joins
    the class. select_task_rq(p, cpu, sd_flag, wake_flags) -> CPU. task_tick(rq, curr, queued).
    get_rr_interval(rq, p) ->
    ticks.
    """

    name: str
    next: SchedClass | None
    enqueue_task: Callable[[Rq, TaskStruct, int], None]
    dequeue_task: Callable[[Rq, TaskStruct, int], None]
    yield_task: Callable[[Rq], None]
    check_preempt_curr: Callable[[Rq, TaskStruct, int], None]
    pick_next_task: Callable[[Rq, TaskStruct], TaskStruct | None]
    put_prev_task: Callable[[Rq, TaskStruct], None]
    set_next_task: Callable[[Rq, TaskStruct], None]
    select_task_rq: Callable[[TaskStruct, int, int, int], int]
    migrate_task_rq: Callable[[TaskStruct, int], None]
    task_tick: Callable[[Rq, TaskStruct, int], None]
    task_fork: Callable[[TaskStruct], None]
    prio_changed: Callable[[Rq, TaskStruct, int], None]
    switched_from: Callable[[Rq, TaskStruct], None]
    switched_to: Callable[[Rq, TaskStruct], None]
    get_rr_interval: Callable[[Rq, TaskStruct], int]
    update_curr: Callable[[Rq], None]
    task_change_group: Callable[[TaskStruct, int], None] | None = None       # None: only set_task_rq()


@slotted
class CfsBandwidthOperations:
    """What fair.py calls of bandwidth.py, for queues that have runtime_enabled."""

    account_cfs_rq_runtime: Callable[[CfsRq, int], None]
    check_enqueue_throttle: Callable[[CfsRq], None]
    check_cfs_rq_runtime: Callable[[CfsRq], bool]
    return_cfs_rq_runtime: Callable[[CfsRq], None]
    destroy_cfs_bandwidth: Callable[[CfsBandwidth], None]


@slotted
class SchedFeatures:
    """kernel/sched/features.h, the ones that do something here (/sys/kernel/debug/sched_features)."""

    GENTLE_FAIR_SLEEPERS: bool = True
    START_DEBIT: bool = True
    NEXT_BUDDY: bool = False
    LAST_BUDDY: bool = True
    WAKEUP_PREEMPTION: bool = True


@slotted
class SchedState:
    """kernel.sched. The sysctls are in ns unless named otherwise."""

    rqs: list[Rq] = field(default_factory=list)
    root_task_group: TaskGroup = field(default_factory=lambda: TaskGroup(None))
    task_groups: list[TaskGroup] = field(default_factory=list)
    cpu_possible_mask: int = 0
    cpu_online_mask: int = 0
    cpu_active_mask: int = 0                      # online, and tasks may be moved there
    numa_rqs: list[list[Rq]] | None = None        # by CPU: those of its node, if there are several (MemState.numa)
    sysctl_sched_latency: int = 6_000_000
    sysctl_sched_min_granularity: int = 750_000
    sysctl_sched_wakeup_granularity: int = 1_000_000
    sched_nr_latency: int = 8
    sysctl_sched_child_runs_first: int = 0
    schedstats: int = 0
    sysctl_sched_tunable_scaling: int = 1
    sysctl_sched_migration_cost: int = 500_000
    sysctl_sched_nr_migrate: int = 32
    sysctl_sched_rt_period: int = 1_000_000       # us
    sysctl_sched_rt_runtime: int = 950_000        # us; -1: no limit
    sched_rr_timeslice: int = 25                  # ticks (100 ms)
    features: SchedFeatures = field(default_factory=SchedFeatures)
    preempt_dynamic_mode: int = preempt_dynamic_none
    # load average: fixed point, FSHIFT 11
    calc_load_tasks: int = 0
    avenrun: list[int] = field(default_factory=lambda: [0, 0, 0])
    calc_load_update: int = 0                     # jiffies of the next sample
    dl_total_bw: int = 0                          # fixed point, of all CPUs together
    total_forks: int = 0
    sysctl_sched_autogroup_enabled: int = 0
    autogroup_seq_nr: int = 0                     # number of the youngest autogroup
    sysctl_sched_cfs_bandwidth_slice: int = 5_000         # us
    cfs_bandwidth: CfsBandwidthOperations = None  # type: ignore[assignment]        # set with the first quota
    cpuacct_charge: Callable[[TaskStruct, int], None] | None = None               # kernel/cgroup/cpuacct.py
    autogroup_next_nice: int = 0                  # jiffies: when anybody may change an autogroup's nice level again
    autogroup_task_group: Callable[[TaskStruct, TaskGroup], TaskGroup] | None = None      # sched/autogroup.py, once on
    forked_task_group: Callable[[TaskStruct], TaskGroup] | None = None            # the same
    task_css_group: Callable[[TaskStruct], TaskGroup] | None = None               # kernel/cgroup/cpu.py
    # hooks, set by rooms above
    kernel_thread: Callable[[Callable[[Any], int], Any, int], int] | None = None     # kernel/fork.py
    mmdrop: Callable[[Any], None] | None = None                                      # mm/mmap.py
    calculate_sigpending: Callable[[], None] | None = None                           # kernel/signal.py
    put_task_struct: Callable[[TaskStruct], None] | None = None                      # kernel/fork.py
    release_task_stack: Callable[[TaskStruct], None] = lambda _task: None            # kernel/fork.py
    rt_mutex_adjust_pi: Callable[[TaskStruct], None] | None = None                   # locking/rtmutex.py
    start_dl_timer: Callable[[TaskStruct, int], int] | None = None                   # time/dl_timer.py
    stop_one_cpu: Callable[[int, Callable[[Any], int], Any], int] | None = None      # kernel/stop_machine.py
    wq_worker_sleeping: Callable[[TaskStruct], None] | None = None                   # kernel/workqueue.py
    wq_worker_running: Callable[[TaskStruct], None] | None = None
    cpuset_cpus_allowed: Callable[[TaskStruct], int] | None = None                   # kernel/cgroup/cpuset.py
    cpuset_update_active_cpus: Callable[[], None] | None = None                      # init/cpuhp.py
    kthread_create_list: list[Any] = field(default_factory=list)
    kthreadd_task: TaskStruct | None = None
    ksoftirqd: list[TaskStruct | None] = field(default_factory=list)
    stoppers: list[TaskStruct | None] = field(default_factory=list)                  # migration/N
    stop_works: list[deque[Any]] = field(default_factory=list)
    stopper_enabled: int = 0                      # mask of CPUs whose migration/N takes work
    hotplug_threads: list[Any] = field(default_factory=list)                         # smpboot.SmpHotplugThread
