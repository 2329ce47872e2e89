"""What perf events are made of: attributes, events, contexts, buffers, PMUs.

Linux: include/uapi/linux/perf_event.h, include/linux/perf_event.h (5.3). Same: names, numbers and layouts.
Owns: PerfState (kernel.perf_state). kernel.perf is the same object while at least one event exists, else None: that is
    what switches, faults, mappings ... test. Context of all of it: any; only one CPU is in the kernel at a time.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import s32, u16, u32, u64
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from types import FrameType

    from glasskernel.fs.fcntl_signal import FasyncStruct
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.types import BpfProg
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.time.types import Hrtimer

(PERF_TYPE_HARDWARE, PERF_TYPE_SOFTWARE, PERF_TYPE_TRACEPOINT, PERF_TYPE_HW_CACHE, PERF_TYPE_RAW,
 PERF_TYPE_BREAKPOINT) = range(6)
(PERF_COUNT_SW_CPU_CLOCK, PERF_COUNT_SW_TASK_CLOCK, PERF_COUNT_SW_PAGE_FAULTS, PERF_COUNT_SW_CONTEXT_SWITCHES,
 PERF_COUNT_SW_CPU_MIGRATIONS, PERF_COUNT_SW_PAGE_FAULTS_MIN, PERF_COUNT_SW_PAGE_FAULTS_MAJ,
 PERF_COUNT_SW_ALIGNMENT_FAULTS, PERF_COUNT_SW_EMULATION_FAULTS, PERF_COUNT_SW_DUMMY, PERF_COUNT_SW_BPF_OUTPUT,
 PERF_COUNT_SW_MAX) = range(12)
# sample_type
(PERF_SAMPLE_IP, PERF_SAMPLE_TID, PERF_SAMPLE_TIME, PERF_SAMPLE_ADDR, PERF_SAMPLE_READ, PERF_SAMPLE_CALLCHAIN,
 PERF_SAMPLE_ID, PERF_SAMPLE_CPU, PERF_SAMPLE_PERIOD, PERF_SAMPLE_STREAM_ID, PERF_SAMPLE_RAW,
 PERF_SAMPLE_BRANCH_STACK, PERF_SAMPLE_REGS_USER, PERF_SAMPLE_STACK_USER, PERF_SAMPLE_WEIGHT, PERF_SAMPLE_DATA_SRC,
 PERF_SAMPLE_IDENTIFIER, PERF_SAMPLE_TRANSACTION, PERF_SAMPLE_REGS_INTR, PERF_SAMPLE_PHYS_ADDR,
 PERF_SAMPLE_MAX) = (1 << bit for bit in range(21))
PERF_FORMAT_TOTAL_TIME_ENABLED, PERF_FORMAT_TOTAL_TIME_RUNNING, PERF_FORMAT_ID, PERF_FORMAT_GROUP = 1, 2, 4, 8
PERF_FORMAT_MAX = 16
# perf_event_open(2)
PERF_FLAG_FD_NO_GROUP, PERF_FLAG_FD_OUTPUT, PERF_FLAG_PID_CGROUP, PERF_FLAG_FD_CLOEXEC = 1, 2, 4, 8
PERF_FLAG_ALL = 15
# records
(PERF_RECORD_MMAP, PERF_RECORD_LOST, PERF_RECORD_COMM, PERF_RECORD_EXIT, PERF_RECORD_THROTTLE,
 PERF_RECORD_UNTHROTTLE, PERF_RECORD_FORK, PERF_RECORD_READ, PERF_RECORD_SAMPLE, PERF_RECORD_MMAP2) = range(1, 11)
PERF_RECORD_SWITCH, PERF_RECORD_SWITCH_CPU_WIDE = 14, 15
PERF_RECORD_MISC_KERNEL, PERF_RECORD_MISC_USER = 1, 2
PERF_RECORD_MISC_MMAP_DATA = PERF_RECORD_MISC_COMM_EXEC = PERF_RECORD_MISC_SWITCH_OUT = 1 << 13
PERF_RECORD_MISC_SWITCH_OUT_PREEMPT = 1 << 14
PERF_CONTEXT_KERNEL, PERF_CONTEXT_USER = (1 << 64) - 128, (1 << 64) - 512
# perf_event.state
(PERF_EVENT_STATE_DEAD, PERF_EVENT_STATE_EXIT, PERF_EVENT_STATE_ERROR, PERF_EVENT_STATE_OFF,
 PERF_EVENT_STATE_INACTIVE, PERF_EVENT_STATE_ACTIVE) = range(-4, 2)
PERF_EF_START, PERF_EF_RELOAD, PERF_EF_UPDATE = 1, 2, 4
PERF_HES_STOPPED, PERF_HES_UPTODATE = 1, 2
MAX_INTERRUPTS = (1 << 64) - 1
PERF_ATTR_SIZE_VER0 = 64
# bits of perf_event_attr.flags
_BITS = ("disabled", "inherit", "pinned", "exclusive", "exclude_user", "exclude_kernel", "exclude_hv", "exclude_idle",
         "mmap", "comm", "freq", "inherit_stat", "enable_on_exec", "task", "watermark", "precise_ip", "precise_ip_high",
         "mmap_data", "sample_id_all", "exclude_host", "exclude_guest", "exclude_callchain_kernel",
         "exclude_callchain_user", "mmap2", "comm_exec", "use_clockid", "context_switch", "write_backward",
         "namespaces", "ksymbol", "bpf_event")
ATTR_BITS = {name: 1 << bit for bit, name in enumerate(_BITS)}
(DISABLED, INHERIT, PINNED, EXCLUSIVE, EXCLUDE_USER, EXCLUDE_KERNEL, _HV, EXCLUDE_IDLE, MMAP, COMM, FREQ, INHERIT_STAT,
 ENABLE_ON_EXEC, TASK, WATERMARK, _PRECISE, _PRECISE_HIGH, MMAP_DATA, SAMPLE_ID_ALL, _HOST, _GUEST,
 EXCLUDE_CALLCHAIN_KERNEL, EXCLUDE_CALLCHAIN_USER, MMAP2, COMM_EXEC, USE_CLOCKID, CONTEXT_SWITCH, WRITE_BACKWARD,
 NAMESPACES, KSYMBOL, BPF_EVENT) = ATTR_BITS.values()


@uapi("include/uapi/linux/perf_event.h", size=112)
class PerfEventAttr(Layout):
    """struct perf_event_attr. sample_period: or sample_freq; wakeup_events: or wakeup_watermark; bp_addr, bp_len: or
    config1 and config2. flags: DISABLED ... BPF_EVENT."""

    type: u32
    size: u32
    config: u64
    sample_period: u64
    sample_type: u64
    read_format: u64
    flags: u64
    wakeup_events: u32
    bp_type: u32
    bp_addr: u64
    bp_len: u64
    branch_sample_type: u64
    sample_regs_user: u64
    sample_stack_user: u32
    clockid: s32
    sample_regs_intr: u64
    aux_watermark: u32
    sample_max_stack: u16
    reserved_2: u16


@slotted
class PerfRegs:
    """The struct pt_regs of a sample: either the user's registers of `task`, or a place in the kernel, from which
    frame leads outwards."""

    task: TaskStruct
    user_mode: bool
    frame: FrameType | None = None


@slotted
class HwPerfEvent:
    """struct hw_perf_event. Times and prev_count of clocks in ns."""

    sample_period: int = 0
    last_period: int = 0
    period_left: int = 0
    prev_count: int = 0
    state: int = 0
    interrupts: int = 0
    interrupts_seq: int = 0
    freq_time_stamp: int = 0
    hrtimer: Hrtimer | None = None
    tp_event: Any = None                 # trace_events.TraceEventCall
    target: TaskStruct | None = None
    breakpoint: Any = None               # hw_breakpoint.py's


@slotted
class Pmu:
    """struct pmu. event_init(event) raises ENOENT for another's event; the others are called while event.ctx is on a
    CPU: event.oncpu. add(event, flags), remove(event, flags): ->del; start(event, flags), stop(event, flags)."""

    name: bytes
    type: int
    event_init: Callable[[PerfEvent], None]
    add: Callable[[PerfEvent, int], None]
    remove: Callable[[PerfEvent, int], None]
    start: Callable[[PerfEvent, int], None]
    stop: Callable[[PerfEvent, int], None]
    read: Callable[[PerfEvent], None]


@slotted
class PerfEvent:
    """struct perf_event. Times in ns of ctx.time. sibling_list: of a group's leader."""

    kernel: Kernel
    attr: PerfEventAttr
    cpu: int
    id: int
    pmu: Pmu = None  # type: ignore[assignment]
    group_leader: PerfEvent = None  # type: ignore[assignment]
    sibling_list: list[PerfEvent] = field(default_factory=list)
    parent: PerfEvent | None = None
    child_list: list[PerfEvent] = field(default_factory=list)
    ctx: PerfEventContext = None  # type: ignore[assignment]
    state: int = PERF_EVENT_STATE_OFF
    oncpu: int = -1
    count: int = 0
    child_count: int = 0
    total_time_enabled: int = 0
    total_time_running: int = 0
    tstamp: int = 0
    child_total_time_enabled: int = 0
    child_total_time_running: int = 0
    hw: HwPerfEvent = field(default_factory=HwPerfEvent)
    rb: RingBuffer | None = None
    mmap_count: int = 0
    waitq: WaitQueueHead = field(default_factory=WaitQueueHead)
    fasync: list[FasyncStruct] = field(default_factory=list)
    event_limit: int = 0
    pending_kill: int = 0
    pending_wakeup: bool = False
    pending_disable: bool = False
    pending_queued: bool = False
    filter: Callable[[bytes], bool] | None = None
    filp: File | None = None
    owner: TaskStruct | None = None
    clock_offset: Callable[[], int] | None = None        # of attr.clockid to the local clock
    destroy: Callable[[PerfEvent], None] | None = None
    prog: BpfProg | None = None          # a reference
    overflow_handler: Callable[[PerfEvent, PerfRegs, int, bytes, int], None] | None = None   # instead of a sample


@slotted
class PerfEventContext:
    """struct perf_event_context: the events of one task (cpu: -1), or of one CPU. timestamp: of the CPU's clock."""

    kernel: Kernel
    task: TaskStruct | None
    cpu: int = -1
    event_list: list[PerfEvent] = field(default_factory=list)
    is_active: bool = False
    oncpu: int = -1
    time: int = 0
    timestamp: int = 0


@slotted
class RingBuffer:
    """struct ring_buffer. head counts bytes and never wraps; pages: frames of the data; user_page: the frame of
    struct perf_event_mmap_page; event_list: the events that write here."""

    user_page: int
    pages: list[int]
    overwrite: bool
    watermark: int
    head: int = 0
    lost: int = 0
    events: int = 0
    wakeup: int = 0
    poll: int = 0
    paused: bool = False
    refcount: int = 1
    mmap_count: int = 0
    mmap_locked: int = 0
    mmap_user: int = 0                   # the uid that it is accounted to
    event_list: list[PerfEvent] = field(default_factory=list)


class PerfState:
    """kernel.perf_state. Functions: what other rooms call; set by perf_event_init()."""

    task_sched_out: Callable[[TaskStruct, TaskStruct], None]
    task_sched_in: Callable[[TaskStruct, TaskStruct], None]
    task_tick: Callable[[int], None]
    sw_event: Callable[[int, bool, int], None]
    event_mmap: Callable[[Any], None]
    event_comm: Callable[[TaskStruct, bool], None]
    event_exec: Callable[[TaskStruct], None]
    event_init_task: Callable[[TaskStruct, TaskStruct], None]
    event_fork: Callable[[TaskStruct], None]
    event_exit_task: Callable[[TaskStruct], None]
    event_disable: Callable[[PerfEvent], None]                       # core.py's, for what lies below it
    update_context_time: Callable[[PerfEventContext], None]
    update_event_time: Callable[[PerfEvent], None]

    def __init__(self, kernel: Kernel) -> None:
        cpus = range(len(kernel.machine.cpus))
        self.kernel = kernel
        self.nr_events = 0
        self.bpf_prog_active = False                                 # a program of an event runs
        self.next_id = 0
        self.pmus: dict[int, Pmu] = {}
        self.cpu_contexts = [PerfEventContext(kernel, None, cpu) for cpu in cpus]
        self.task_contexts: dict[TaskStruct, PerfEventContext] = {}
        self.swevents: list[dict[tuple[int, int], list[PerfEvent]]] = [{} for _ in cpus]       # swevent_htable
        self.throttled_seq = [0 for _ in cpus]
        self.throttled_count = [0 for _ in cpus]
        self.migrated: dict[TaskStruct, None] = {}                   # task_struct.sched_migrated
        self.locked_vm: dict[int, int] = {}                          # user_struct.locked_vm: pages by uid
        self.tp_users: dict[int, Any] = {}                           # software.PerfTracepoint by event id
