"""The core of tracing: trace arrays, tracers, options, clocks, and writing a record.

Linux: kernel/trace/trace.c, trace.h (5.3). Same: one ring buffer for each trace array, a second one for snapshots;
    options as bits of trace_flags; one tracer at a time in each array; buffers that grow when they are used first.
Differs: state lies in TraceState (kernel.tracing), made by the first who asks; comms are remembered when a record is
    written, not when a task is switched, so that no "<...>" appears before saved_cmdlines is full.
Owns: TraceState, TraceArray, Tracer, saved comms and tgids.
Context: trace_buffer_write() in any; the rest: task. Nothing here sleeps.
Invariants: trace_arrays[0] is the global one; a tracer's init() and reset() are called in turns.
Gaps: trace_printk formats (nothing in this kernel prints so), the boot command line's options.
"""
from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.irq_work import irq_work_queue
from glasskernel.kernel.sched.types import HARDIRQ_MASK, SOFTIRQ_OFFSET
from glasskernel.kernel.sched.wait import WaitQueueHead, wake_up
from glasskernel.kernel.task import TIF_NEED_RESCHED
from glasskernel.kernel.time.timekeeping import jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.kernel.trace.ring_buffer import (
    BUF_PAGE_SIZE,
    RB_FL_OVERWRITE,
    RING_BUFFER_ALL_CPUS,
    RingBuffer,
    RingBufferEvent,
    RingBufferIter,
    ring_buffer_alloc,
    ring_buffer_change_overwrite,
    ring_buffer_reset_cpu,
    ring_buffer_resize,
    ring_buffer_size,
    ring_buffer_write,
)
from glasskernel.kernel.trace.stacktrace import stack_trace_save, stack_trace_save_user
from glasskernel.kernel.trace.trace_clock import (
    trace_clock_global,
    trace_clock_host,
    trace_clock_local,
    trace_clock_local_costly,
    trace_clock_peek,
    trace_cost,
)
from glasskernel.kernel.trace.trace_events import TraceEventCall
from glasskernel.lib.errno import EBUSY, EEXIST, EINVAL, ENOMEM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import nr_free_pages

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.trace.trace_dynevent import DynEventOperations

TRACE_BUF_SIZE_DEFAULT = 1441792                 # bytes for each CPU
TRACE_MIN_SIZE = 1
SAVED_CMDLINES_DEFAULT = 128
MAX_TRACER_SIZE = 100
FTRACE_STACK_ENTRIES = 8                         # of user stacks, and what the format file of kernel_stack shows

# TRACE_ITER_*: the bits of trace_flags, in the order of trace_options
TRACE_OPTIONS = (
    "print-parent", "sym-offset", "sym-addr", "verbose", "raw", "hex", "bin", "block", "trace_printk", "annotate",
    "userstacktrace", "sym-userobj", "printk-msg-only", "context-info", "latency-format", "record-cmd", "record-tgid",
    "overwrite", "disable_on_free", "irq-info", "markers", "event-fork", "function-trace", "function-fork",
    "display-graph",
    "stacktrace",
)
(TRACE_ITER_PRINT_PARENT, TRACE_ITER_SYM_OFFSET, TRACE_ITER_SYM_ADDR, TRACE_ITER_VERBOSE, TRACE_ITER_RAW,
 TRACE_ITER_HEX,
 TRACE_ITER_BIN, TRACE_ITER_BLOCK, TRACE_ITER_PRINTK, TRACE_ITER_ANNOTATE, TRACE_ITER_USERSTACKTRACE,
 TRACE_ITER_SYM_USEROBJ,
 TRACE_ITER_PRINTK_MSGONLY, TRACE_ITER_CONTEXT_INFO, TRACE_ITER_LATENCY_FMT, TRACE_ITER_RECORD_CMD,
 TRACE_ITER_RECORD_TGID,
 TRACE_ITER_OVERWRITE, TRACE_ITER_STOP_ON_FREE, TRACE_ITER_IRQ_INFO, TRACE_ITER_MARKERS, TRACE_ITER_EVENT_FORK,
 TRACE_ITER_FUNCTION, TRACE_ITER_FUNC_FORK, TRACE_ITER_DISPLAY_GRAPH, TRACE_ITER_STACKTRACE) = (
    1 << bit for bit in range(len(TRACE_OPTIONS)))
TRACE_DEFAULT_FLAGS = (TRACE_ITER_FUNCTION | TRACE_ITER_PRINT_PARENT | TRACE_ITER_PRINTK | TRACE_ITER_ANNOTATE
                       | TRACE_ITER_CONTEXT_INFO | TRACE_ITER_RECORD_CMD | TRACE_ITER_OVERWRITE | TRACE_ITER_IRQ_INFO
                       | TRACE_ITER_MARKERS)
TOP_LEVEL_TRACE_FLAGS = TRACE_ITER_PRINTK | TRACE_ITER_PRINTK_MSGONLY | TRACE_ITER_RECORD_CMD
ZEROED_TRACE_FLAGS = TRACE_ITER_EVENT_FORK | TRACE_ITER_FUNC_FORK
# trace_entry.flags
(TRACE_FLAG_IRQS_OFF, TRACE_FLAG_IRQS_NOSUPPORT, TRACE_FLAG_NEED_RESCHED, TRACE_FLAG_HARDIRQ, TRACE_FLAG_SOFTIRQ,
 TRACE_FLAG_PREEMPT_RESCHED, TRACE_FLAG_NMI) = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40
_PREEMPT_MASK = 0xFF
# trace_event_file.flags
(EVENT_FILE_FL_ENABLED, EVENT_FILE_FL_FILTERED, EVENT_FILE_FL_SOFT_MODE, EVENT_FILE_FL_SOFT_DISABLED,
 EVENT_FILE_FL_TRIGGER_MODE, EVENT_FILE_FL_TRIGGER_COND, EVENT_FILE_FL_PID_FILTER) = (1 << bit for bit in range(7))

_COMMON = Struct("<HBBi")
_STACK_HEAD, _USER_STACK = Struct("<i4x"), Struct("<I4x8Q")
TRACE_STACK, TRACE_USER_STACK = 4, 12

Clock = Callable[["Kernel", int], int]


@notrace
def _trace_clock_counter(kernel: Kernel, _cpu: int) -> int:
    state = trace_state(kernel)
    state.counter += 1
    return state.counter


@notrace
def trace_clock_jiffies(kernel: Kernel, _cpu: int) -> int:
    """uptime: in jiffies, shown in ns."""
    return jiffies() * (1_000_000_000 // HZ)


@notrace
def trace_clock_x86_tsc(kernel: Kernel, cpu: int) -> int:
    """rdtsc: one cycle a ns here."""
    return trace_clock_local(kernel, cpu)


# (name, function, in ns)
TRACE_CLOCKS: tuple[tuple[str, Clock, bool], ...] = (
    ("local", trace_clock_local, True), ("global", trace_clock_global, True), ("counter", _trace_clock_counter, False),
    ("uptime", trace_clock_jiffies, True), ("perf", trace_clock_local, True), ("mono", trace_clock_local, True),
    ("mono_raw", trace_clock_local, True), ("boot", trace_clock_local, True), ("x86-tsc", trace_clock_x86_tsc, False),
    ("host", trace_clock_host, True),
)


@notrace
def trace_clock_of(state: TraceState, clock_id: int) -> Clock:
    """A clock's function. Where records cost time, the local clock's charges them."""
    clock = TRACE_CLOCKS[clock_id][1]
    return trace_clock_local_costly if state.cost_ns and clock in (trace_clock_local, trace_clock_global) else clock


# ---- objects -----------------------------------------------------------------------------------------------------
@slotted
class TracerFlags:
    """struct tracer_flags: a tracer's own options. opts: (name, bit)."""

    opts: tuple[tuple[str, int], ...] = ()
    val: int = 0


@notrace
def _nothing(*_arguments: Any) -> None:
    return None


@slotted
class Tracer:
    """struct tracer. Functions may raise KernelError.

    init(tr), reset(tr): chosen, no longer chosen. start(tr), stop(tr): tracing_on. open(iterator), pipe_open(iterator),
    close(iterator), pipe_close(iterator): a reader comes and goes. print_header(iterator) -> text; None: the usual one.
    print_line(iterator, entry) -> the text of a record; None: not mine. set_flag(tr, bit, on): an option of `flags`.
    flag_changed(tr, mask, on): one of trace_flags; raises to refuse.
    """

    name: str
    init: Callable[[TraceArray], None] = _nothing
    reset: Callable[[TraceArray], None] = _nothing
    start: Callable[[TraceArray], None] = _nothing
    stop: Callable[[TraceArray], None] = _nothing
    open: Callable[[TraceIterator], None] = _nothing
    close: Callable[[TraceIterator], None] = _nothing
    pipe_open: Callable[[TraceIterator], None] = _nothing
    pipe_close: Callable[[TraceIterator], None] = _nothing
    print_header: Callable[[TraceIterator], str] | None = None
    print_line: Callable[[TraceIterator, TraceEntry], str | None] = _nothing
    set_flag: Callable[[TraceArray, int, bool], None] = _nothing
    flag_changed: Callable[[TraceArray, int, bool], None] = _nothing
    update_thresh: Callable[[TraceArray], None] = _nothing
    flags: TracerFlags = field(default_factory=TracerFlags)
    print_max: bool = False                      # shows the snapshot of the worst case
    allow_instances: bool = False
    use_max_tr: bool = False                     # needs the second buffer
    data: Any = None                             # the tracer's own


@slotted
class TraceEventFile:
    """struct trace_event_file: an event in one trace array. probe: what listens to the tracepoint.

    filter(payload) -> keep it?; triggers: objects whose before(file, payload) and after(file, payload) are called.
    """

    tr: TraceArray
    call: TraceEventCall
    flags: int = 0
    sm_ref: int = 0                              # soft mode: triggers that want it
    filter: Callable[[bytes], bool] | None = None
    filter_string: str = ""
    triggers: list[Any] = field(default_factory=list)
    probe: Callable[..., None] | None = None


@slotted
class TraceArrayCpu:
    """struct trace_array_cpu of the worst case that a latency tracer keeps. Times in ns."""

    saved_latency: int = 0
    critical_start: int = 0
    critical_end: int = 0
    nice: int = 0
    policy: int = 0
    rt_priority: int = 0
    preempt_timestamp: int = 0
    pid: int = 0
    uid: int = 0
    comm: bytes = b""
    cpu: int = 0


class TraceArray:
    """struct trace_array: a buffer with its events, options and tracer. One is global, the others are instances."""

    def __init__(self, state: TraceState, name: str, size: int) -> None:
        self.state = state
        self.kernel = state.kernel
        self.name = name                         # "" for the global one
        self.trace_flags: int = TRACE_DEFAULT_FLAGS
        if name:
            self.trace_flags = state.global_trace.trace_flags & ~ZEROED_TRACE_FLAGS
        self.buffer: RingBuffer = ring_buffer_alloc(len(self.kernel.machine.cpus), size, RB_FL_OVERWRITE)
        self.max_buffer: RingBuffer = ring_buffer_alloc(len(self.kernel.machine.cpus), 1, RB_FL_OVERWRITE)
        self.expanded = bool(name)               # ring_buffer_expanded: else the size is still the smallest
        self.allocated_snapshot = False
        self.current_trace: Tracer = state.nop_trace
        self.clock_id = 0
        self.clock: Clock = trace_clock_of(state, 0)
        self.stop_count = 0
        self.ref = 0                             # open files
        self.trace_ref = 0                       # open trace_pipes: the tracer stays
        self.tracing_cpumask = (1 << len(self.kernel.machine.cpus)) - 1
        self.filtered_pids: dict[int, None] | None = None
        self.events: dict[str, dict[str, TraceEventFile]] = {}
        self.event_names: dict[str, TraceEventFile] = {}
        self.max_latency = 0                     # ns
        self.max_data = TraceArrayCpu()
        self.buffer_percent = 50
        self.dir: TreeNode | None = None
        self.pipe_cpus: dict[int, None] = {}     # trace_pipes that are open, by CPU (-1: of all)
        self.data: dict[str, Any] = {}           # what tracers keep for this array, by name

    @property
    def buffer_disabled(self) -> bool:
        return self.buffer.off


class TraceState:
    """kernel.tracing. tracers: those registered last come first, as available_tracers shows them."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.counter = 0
        self.cost_ns = trace_cost(kernel.params.cmdline)         # of making a record
        self.nop_trace = nop_tracer()
        self.tracers: list[Tracer] = [self.nop_trace]
        self.saved_cmdlines: dict[int, bytes] = {}
        self.saved_cmdlines_size = SAVED_CMDLINES_DEFAULT
        self.saved_tgids: dict[int, int] = {}
        self.tracing_thresh = 0                  # ns
        self.next_event_type = 0                 # the number of the next dynamic event
        self.calls: dict[int, TraceEventCall] = {}
        self.calls_by_name: dict[str, TraceEventCall] = {}
        self.error_log: list[Any] = []
        self.syscall_probes: Any = None          # trace_syscalls.py's listeners
        self.dyn_event_ops: list[DynEventOperations] = []
        self.tracefs_inits: list[tuple[bool, Callable[[TraceArray, TreeNode], None]]] = []
        from glasskernel.kernel.trace.events import event_calls  # late: it looks at every file of the kernel

        for call in event_calls():
            self.calls[call.id] = call
            self.calls_by_name.setdefault(call.name, call)
        self.next_event_type = max(self.calls) + 1
        # filters and triggers: "filter", "trigger" (file, text), "trigger_show" (file), "trigger_clear" (file),
        # "subsystem_filter" (tr, system, text), "subsystem_filter_show" (tr, system)
        self.filter_ops: dict[str, Callable[..., Any]] = {}
        self.global_trace: TraceArray = TraceArray(self, "", 1)
        self.trace_arrays: list[TraceArray] = [self.global_trace]


@slotted
class TraceEntry:
    """struct trace_entry, and what comes with it. payload: behind the common fields."""

    type: int
    flags: int
    preempt_count: int
    pid: int
    payload: bytes


@slotted
class TraceIterator:
    """struct trace_iterator: a reader of a trace array. buffer_iters: of each CPU; empty: the reader takes records.

    ent, cpu, ts, lost_events: the record that is looked at. idx: how many were looked at so far.
    """

    tr: TraceArray
    buffer: RingBuffer
    trace: Tracer
    cpu_file: int = RING_BUFFER_ALL_CPUS
    snapshot: bool = False
    annotate: bool = False                       # TRACE_FILE_ANNOTATE: buffers lost something
    latency_format: bool = False                 # TRACE_FILE_LAT_FMT
    buffer_iters: list[RingBufferIter | None] = field(default_factory=list)
    skipped: dict[int, int] = field(default_factory=dict)        # records from before time_start, by CPU
    ent: TraceEntry | None = None
    cpu: int = 0
    ts: int = 0
    lost_events: int = 0
    idx: int = 0
    pos: int = 0
    started: int = 0                             # CPUs whose beginning was announced
    private: Any = None                          # the tracer's own

    @property
    def time_in_ns(self) -> bool:
        return TRACE_CLOCKS[self.tr.clock_id][2]


@notrace
def trace_state(kernel: Kernel) -> TraceState:
    """kernel.tracing, made now if nobody has traced yet."""
    if kernel.tracing is None:
        return kernel.trace_init()               # it imports the tracers, which import this file
    return kernel.tracing


# ---- writing a record --------------------------------------------------------------------------------------------
@notrace
def tracing_gen_ctx(task: TaskStruct, irqs_off: bool) -> int:
    """The flags of a record. irqs_off: Linux would have interrupts off there."""
    count = task.preempt_count
    flags = TRACE_FLAG_IRQS_OFF if irqs_off else 0
    if count:
        if count & HARDIRQ_MASK:
            flags |= TRACE_FLAG_HARDIRQ | TRACE_FLAG_IRQS_OFF
        if count & SOFTIRQ_OFFSET:
            flags |= TRACE_FLAG_SOFTIRQ
    if task.ti_flags & TIF_NEED_RESCHED:
        flags |= TRACE_FLAG_NEED_RESCHED
    return flags


@notrace
def trace_buffer_write(tr: TraceArray, event_id: int, payload: bytes, irqs_off: bool = False,
                       stack: bool = True) -> bool:
    """Writes a record to the buffer of this CPU. stack: options/stacktrace applies to it. False: it was dropped."""
    buffer = tr.buffer
    if buffer.off:
        return False
    task = register.task
    pid, cpu = task.pid, task.cpu
    flags = TRACE_FLAG_IRQS_OFF if irqs_off else 0
    count = task.preempt_count
    if count:
        if count & HARDIRQ_MASK:
            flags |= TRACE_FLAG_HARDIRQ | TRACE_FLAG_IRQS_OFF
        if count & SOFTIRQ_OFFSET:
            flags |= TRACE_FLAG_SOFTIRQ
    if task.ti_flags & TIF_NEED_RESCHED:
        flags |= TRACE_FLAG_NEED_RESCHED
    cpu_buffer = buffer.buffers[cpu]
    if not ring_buffer_write(cpu_buffer, tr.clock(tr.kernel, cpu),
                             _COMMON.pack(event_id, flags, count & _PREEMPT_MASK, pid) + payload):
        return False
    options = tr.trace_flags
    state = tr.state
    if options & TRACE_ITER_RECORD_CMD and state.saved_cmdlines.get(pid) != task.comm and pid:
        trace_save_cmdline(state, task)
    if options & TRACE_ITER_RECORD_TGID and pid:
        state.saved_tgids[pid] = task.tgid
    if options & (TRACE_ITER_STACKTRACE | TRACE_ITER_USERSTACKTRACE) and stack:
        ftrace_trace_stacks(tr, task, irqs_off)
    if buffer.waiters_pending:                   # rb_wakeups()
        buffer.waiters_pending = False
        irq_work_queue(tr.kernel, lambda: rb_wake_up_waiters(buffer.irq_work))
    if cpu_buffer.waiters_pending:
        cpu_buffer.waiters_pending = False
        irq_work_queue(tr.kernel, lambda: rb_wake_up_waiters(cpu_buffer.waiters))
    return True


@notrace
def rb_wake_up_waiters(queue: WaitQueueHead) -> None:
    wake_up(queue)


@notrace
def trace_save_cmdline(state: TraceState, task: TaskStruct) -> None:
    """Remembers a comm; the oldest one goes when there is no room."""
    saved = state.saved_cmdlines
    if task.pid not in saved and len(saved) >= state.saved_cmdlines_size:
        del saved[next(iter(saved))]
    saved[task.pid] = task.comm


@notrace
def trace_find_cmdline(state: TraceState, pid: int) -> str:
    if not pid:
        return "<idle>"
    comm = state.saved_cmdlines.get(pid)
    return "<...>" if comm is None else comm.decode("latin-1")


@notrace
def ftrace_trace_stacks(tr: TraceArray, task: TaskStruct, irqs_off: bool = False) -> None:
    """options/stacktrace and options/userstacktrace: the stack behind the record that was just written."""
    if tr.trace_flags & TRACE_ITER_STACKTRACE:
        trace_stack(tr, irqs_off)
    if tr.trace_flags & TRACE_ITER_USERSTACKTRACE:
        ftrace_trace_userstack(tr, task, irqs_off)


@notrace
def trace_stack(tr: TraceArray, irqs_off: bool = False) -> None:
    """__ftrace_trace_stack(): a record with the kernel stack."""
    calls = stack_trace_save(tr.kernel, 0)
    trace_buffer_write(tr, TRACE_STACK, _STACK_HEAD.pack(len(calls)) + b"".join(c.to_bytes(8, "little") for c in calls),
                       irqs_off, stack=False)


@notrace
def ftrace_trace_userstack(tr: TraceArray, task: TaskStruct, irqs_off: bool = False) -> None:
    """A record with the user stack; nothing for a kernel thread."""
    if task.mm is None:
        return
    calls = stack_trace_save_user(task)[:FTRACE_STACK_ENTRIES]
    calls += [0] * (FTRACE_STACK_ENTRIES - len(calls))
    trace_buffer_write(tr, TRACE_USER_STACK, _USER_STACK.pack(task.tgid, *calls), irqs_off, stack=False)


@notrace
def trace_entry_of(event: RingBufferEvent) -> TraceEntry:
    kind, flags, count, pid = _COMMON.unpack_from(event.data)
    return TraceEntry(kind, flags, count, pid, event.data[8:])


# ---- tracing_on --------------------------------------------------------------------------------------------------
def tracer_tracing_on(tr: TraceArray) -> None:
    tr.buffer.off = False


def tracer_tracing_off(tr: TraceArray) -> None:
    """Stops recording; nothing else changes."""
    tr.buffer.off = True


def tracing_start_tr(tr: TraceArray) -> None:
    """Undoes one tracing_stop_tr()."""
    if tr.stop_count:
        tr.stop_count -= 1
        if not tr.stop_count:
            tr.buffer.record_disabled -= 1
            tr.max_buffer.record_disabled -= 1


def tracing_stop_tr(tr: TraceArray) -> None:
    """No record is made while somebody reads `trace`."""
    tr.stop_count += 1
    if tr.stop_count == 1:
        tr.buffer.record_disabled += 1
        tr.max_buffer.record_disabled += 1


# ---- the buffer --------------------------------------------------------------------------------------------------
def tracing_update_buffers(state: TraceState, tr: TraceArray | None = None) -> None:
    """Somebody uses tracing: the buffer gets its real size."""
    tr = tr or state.global_trace
    if not tr.expanded:
        __tracing_resize_ring_buffer(tr, TRACE_BUF_SIZE_DEFAULT, RING_BUFFER_ALL_CPUS)


@notrace
def __tracing_resize_ring_buffer(tr: TraceArray, size: int, cpu: int) -> None:
    tr.expanded = True
    ring_buffer_resize(tr.buffer, size, cpu)
    if tr.current_trace.use_max_tr:
        ring_buffer_resize(tr.max_buffer, size, cpu)


def tracing_resize_ring_buffer(tr: TraceArray, size: int, cpu: int) -> None:
    """buffer_size_kb. size: bytes. Errors: ENOMEM when the machine has not so much memory to spare."""
    wanted = -(-size // BUF_PAGE_SIZE)
    buffers = tr.buffer.buffers if cpu == RING_BUFFER_ALL_CPUS else [tr.buffer.buffers[cpu]]
    if sum(max(wanted - b.nr_pages, 0) for b in buffers) > nr_free_pages(tr.kernel.mem):
        raise KernelError(ENOMEM)
    __tracing_resize_ring_buffer(tr, size, cpu)


def tracing_reset_online_cpus(tr: TraceArray, buffer: RingBuffer) -> None:
    """Empties a buffer."""
    for cpu_buffer in buffer.buffers:
        ring_buffer_reset_cpu(cpu_buffer)
    buffer.time_start = trace_clock_peek(tr.kernel, register.task.cpu) if TRACE_CLOCKS[tr.clock_id][2] else 0


def tracing_reset_cpu(tr: TraceArray, buffer: RingBuffer, cpu: int) -> None:
    ring_buffer_reset_cpu(buffer.buffers[cpu])


def tracing_set_clock(tr: TraceArray, name: str) -> None:
    """trace_clock: stamps of different clocks do not mix, so the buffers are emptied. Errors: EINVAL."""
    numbers = [number for number, clock in enumerate(TRACE_CLOCKS) if clock[0] == name]
    if not numbers:
        raise KernelError(EINVAL)
    tr.clock_id, tr.clock = numbers[0], trace_clock_of(tr.state, numbers[0])
    tracing_reset_online_cpus(tr, tr.buffer)
    tracing_reset_online_cpus(tr, tr.max_buffer)


# ---- snapshots ---------------------------------------------------------------------------------------------------
def tracing_alloc_snapshot_instance(tr: TraceArray) -> None:
    """Gives the second buffer the sizes of the first."""
    if not tr.allocated_snapshot:
        resize_buffer_duplicate_size(tr.max_buffer, tr.buffer)
        tr.allocated_snapshot = True


def resize_buffer_duplicate_size(to: RingBuffer, source: RingBuffer) -> None:
    for cpu, cpu_buffer in enumerate(source.buffers):
        ring_buffer_resize(to, ring_buffer_size(cpu_buffer), cpu)


def free_snapshot(tr: TraceArray) -> None:
    ring_buffer_resize(tr.max_buffer, 1)
    tracing_reset_online_cpus(tr, tr.max_buffer)
    tr.allocated_snapshot = False


def update_max_tr(tr: TraceArray, task: TaskStruct, cpu: int) -> None:
    """The buffer becomes the snapshot. Context: any."""
    if tr.stop_count or not tr.allocated_snapshot:
        return
    tr.max_buffer.off = tr.buffer.off
    tr.buffer, tr.max_buffer = tr.max_buffer, tr.buffer
    tr.max_buffer.off = False
    data = tr.max_data
    data.cpu, data.pid, data.comm, data.uid = cpu, task.pid, task.comm, task.cred.uid
    data.nice, data.policy, data.rt_priority = task.static_prio - 120, task.policy, task.rt_priority
    data.saved_latency = tr.max_latency


def tracing_snapshot_instance(tr: TraceArray) -> None:
    """snapshot: nothing unless a second buffer is there and no tracer uses it."""
    if tr.allocated_snapshot and not tr.current_trace.use_max_tr:
        update_max_tr(tr, register.task, register.task.cpu)


# ---- options -----------------------------------------------------------------------------------------------------
def set_tracer_flag(tr: TraceArray, mask: int, enabled: bool) -> None:
    """One of trace_flags. Errors: those of the tracer."""
    if bool(tr.trace_flags & mask) == enabled:
        return
    tr.current_trace.flag_changed(tr, mask, enabled)
    tr.trace_flags = tr.trace_flags | mask if enabled else tr.trace_flags & ~mask
    if mask == TRACE_ITER_OVERWRITE:
        ring_buffer_change_overwrite(tr.buffer, enabled)
        ring_buffer_change_overwrite(tr.max_buffer, enabled)
    for listener in tr.data.get("flag_listeners", ()):
        listener(tr, mask, enabled)              # event-fork, function-fork


def __set_tracer_option(tr: TraceArray, trace: Tracer, bit: int, enabled: bool) -> None:
    """One of a tracer's own. Errors: those of the tracer."""
    trace.set_flag(tr, bit, enabled)
    trace.flags.val = trace.flags.val | bit if enabled else trace.flags.val & ~bit


def trace_set_options(tr: TraceArray, option: str) -> None:
    """trace_options: "name" or "noname". Errors: EINVAL."""
    name = option.strip()
    enabled = not name.startswith("no")
    short = name if enabled else name[2:]
    if short in TRACE_OPTIONS:
        set_tracer_flag(tr, 1 << TRACE_OPTIONS.index(short), enabled)
        return
    for known, bit in tr.current_trace.flags.opts:
        if known == short:
            __set_tracer_option(tr, tr.current_trace, bit, enabled)
            return
    raise KernelError(EINVAL)


# ---- tracers -----------------------------------------------------------------------------------------------------
def register_tracer(kernel: Kernel, tracer: Tracer) -> None:
    """Makes a tracer known. Errors: EINVAL, EBUSY (the name is taken)."""
    state = trace_state(kernel)
    if not tracer.name or len(tracer.name) >= MAX_TRACER_SIZE:
        raise KernelError(EINVAL)
    if any(t.name == tracer.name for t in state.tracers):
        raise KernelError(EBUSY)
    state.tracers.insert(0, tracer)


def tracing_set_tracer(tr: TraceArray, name: str) -> None:
    """current_tracer. Errors: EINVAL (none of that name, or not for instances), EBUSY (a trace_pipe is open)."""
    tracing_update_buffers(tr.state, tr)
    for tracer in tr.state.tracers:
        if tracer.name == name:
            break
    else:
        raise KernelError(EINVAL)
    if tracer is tr.current_trace:
        return
    if not trace_ok_for_array(tracer, tr):
        raise KernelError(EINVAL)
    if tr.trace_ref:
        raise KernelError(EBUSY)
    previous = tr.current_trace
    previous.reset(tr)
    tr.current_trace = tr.state.nop_trace
    if previous.use_max_tr and not tracer.use_max_tr:
        free_snapshot(tr)
    if tracer.use_max_tr and not tr.allocated_snapshot:
        tracing_alloc_snapshot_instance(tr)
    tracing_reset_online_cpus(tr, tr.buffer)         # tracer_init(): every tracer of Linux has ->init, nop too
    tracer.init(tr)
    tr.current_trace = tracer


@notrace
def trace_ok_for_array(tracer: Tracer, tr: TraceArray) -> bool:
    return not tr.name or tracer.allow_instances


# trace_nop.c
TRACE_NOP_OPT_ACCEPT, TRACE_NOP_OPT_REFUSE = 1, 2


@notrace
def nop_tracer() -> Tracer:
    """The tracer that does nothing, with two options to test options with."""

    def nop_set_flag(tr: TraceArray, bit: int, on: bool) -> None:
        if bit == TRACE_NOP_OPT_REFUSE:
            raise KernelError(EINVAL)

    opts = (("test_nop_accept", TRACE_NOP_OPT_ACCEPT), ("test_nop_refuse", TRACE_NOP_OPT_REFUSE))
    return Tracer("nop", set_flag=nop_set_flag, flags=TracerFlags(opts), allow_instances=True)


def new_trace_array(state: TraceState, name: str) -> TraceArray:
    """mkdir instances/NAME. Errors: EEXIST."""
    if any(tr.name == name for tr in state.trace_arrays):
        raise KernelError(EEXIST)
    tr = TraceArray(state, name, TRACE_BUF_SIZE_DEFAULT)
    state.trace_arrays.append(tr)
    return tr
