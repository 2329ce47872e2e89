"""Events in their contexts: which of them count now, since when, and what they have counted.

Linux: kernel/events/core.c (5.3). Same: states, groups, times, inheritance, what exec and exit do, throttling and the
    adjusting of periods. Neighbours: syscall.py, output.py, sideband.py, software.py.
Differs: events of other CPUs are changed from here, for only one CPU is in the kernel at a time; there is always room
    on the PMUs, for all of them are made of software, so nothing is rotated; the context of a task is
    PerfState.task_contexts[task].
Owns: PerfEvent, PerfEventContext; kernel.perf. Context: any, except where it says may_sleep.
Invariants: event.oncpu >= 0 exactly while state is ACTIVE; a task's context is active exactly while it is on a CPU.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.events.output import perf_event_output, perf_event_read_event, perf_log_throttle
from glasskernel.kernel.events.ring_buffer import (
    perf_event_update_userpage,
    perf_event_wakeup,
    queue_pending,
    ring_buffer_attach,
)
from glasskernel.kernel.events.types import (
    DISABLED,
    ENABLE_ON_EXEC,
    EXCLUDE_KERNEL,
    EXCLUDE_USER,
    FREQ,
    INHERIT,
    INHERIT_STAT,
    MAX_INTERRUPTS,
    PERF_EF_START,
    PERF_EVENT_STATE_ACTIVE,
    PERF_EVENT_STATE_ERROR,
    PERF_EVENT_STATE_EXIT,
    PERF_EVENT_STATE_INACTIVE,
    PERF_EVENT_STATE_OFF,
    PerfEvent,
    PerfEventAttr,
    PerfEventContext,
    PerfRegs,
    PerfState,
)
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

NSEC_PER_SEC = 1_000_000_000
TICK_NSEC = NSEC_PER_SEC // HZ
_POLL_IN, _POLL_HUP = 1, 6


@notrace
def perf_state(kernel: Kernel) -> PerfState:
    state: PerfState | None = kernel.perf_state
    assert state is not None
    return state


@notrace
def perf_clock(kernel: Kernel, cpu: int) -> int:
    """local_clock() of a CPU, in ns."""
    vcpu = kernel.machine.cpus[cpu]
    return kernel.machine.now() if vcpu.halted else vcpu.clock_ns


# ---- times and states --------------------------------------------------------------------------------------------
@notrace
def update_context_time(ctx: PerfEventContext) -> None:
    if ctx.is_active:
        now = perf_clock(ctx.kernel, ctx.oncpu)
        if now > ctx.timestamp:
            ctx.time += now - ctx.timestamp
            ctx.timestamp = now


@notrace
def perf_event_update_time(event: PerfEvent) -> None:
    """total_time_enabled and _running up to ctx.time."""
    leader = event.group_leader
    state = leader.state if leader.state <= PERF_EVENT_STATE_OFF else event.state
    delta = event.ctx.time - event.tstamp
    if state >= PERF_EVENT_STATE_INACTIVE:
        event.total_time_enabled += delta
    if state >= PERF_EVENT_STATE_ACTIVE:
        event.total_time_running += delta
    event.tstamp = event.ctx.time


@notrace
def perf_event_set_state(event: PerfEvent, state: int) -> None:
    if event.state == state:
        return
    perf_event_update_time(event)
    if (event.state < 0) != (state < 0):         # a leader on or off: that counts for the whole group
        for sibling in event.sibling_list:
            perf_event_update_time(sibling)
    event.state = state


@notrace
def event_filter_match(event: PerfEvent, cpu: int) -> bool:
    return event.cpu in (-1, cpu)


# ---- on and off a CPU --------------------------------------------------------------------------------------------
def event_sched_in(event: PerfEvent, cpu: int) -> None:
    """The event begins to count there."""
    if event.state <= PERF_EVENT_STATE_OFF:
        return
    event.oncpu = cpu
    perf_event_set_state(event, PERF_EVENT_STATE_ACTIVE)
    if event.hw.interrupts == MAX_INTERRUPTS:
        perf_log_throttle(event, True)
        event.hw.interrupts = 0
    event.pmu.add(event, PERF_EF_START)


def event_sched_out(event: PerfEvent) -> None:
    """It stops counting."""
    if event.state != PERF_EVENT_STATE_ACTIVE:
        return
    event.pmu.remove(event, 0)
    event.oncpu = -1
    state = PERF_EVENT_STATE_INACTIVE
    if event.pending_disable:
        event.pending_disable = False
        state = PERF_EVENT_STATE_OFF
    perf_event_set_state(event, state)


def group_sched_in(leader: PerfEvent, cpu: int) -> None:
    if leader.state == PERF_EVENT_STATE_OFF:
        return
    event_sched_in(leader, cpu)
    for event in leader.sibling_list:
        event_sched_in(event, cpu)


def group_sched_out(leader: PerfEvent) -> None:
    if leader.state != PERF_EVENT_STATE_ACTIVE:
        return
    event_sched_out(leader)
    for event in leader.sibling_list:
        event_sched_out(event)


def ctx_sched_in(ctx: PerfEventContext, cpu: int) -> None:
    """A context comes to a CPU: everything in it that may count there does."""
    ctx.is_active, ctx.oncpu = True, cpu
    ctx.timestamp = perf_clock(ctx.kernel, cpu)
    for event in ctx.event_list:
        if event.group_leader is event and event.state == PERF_EVENT_STATE_INACTIVE and event_filter_match(event, cpu):
            group_sched_in(event, cpu)


def ctx_sched_out(ctx: PerfEventContext) -> None:
    if not ctx.is_active:
        return
    update_context_time(ctx)
    for event in ctx.event_list:
        if event.group_leader is event:
            group_sched_out(event)
    ctx.is_active, ctx.oncpu = False, -1


@notrace
def task_runs(task: TaskStruct) -> bool:
    return task.kernel.sched.rqs[task.cpu].curr is task


# ---- contexts and their events -----------------------------------------------------------------------------------
def find_get_context(kernel: Kernel, task: TaskStruct | None, cpu: int) -> PerfEventContext:
    """The context of a task, made now if it has none, or of a CPU."""
    state = perf_state(kernel)
    if task is None:
        return state.cpu_contexts[cpu]
    ctx = state.task_contexts.get(task)
    if ctx is None:
        ctx = state.task_contexts[task] = PerfEventContext(kernel, task)
    return ctx


def perf_install_in_context(ctx: PerfEventContext, event: PerfEvent) -> None:
    """The event belongs to the context, and counts if that is on a CPU."""
    event.ctx = ctx
    if not ctx.is_active and ctx.task is None:
        ctx_sched_in(ctx, ctx.cpu)
    elif not ctx.is_active and ctx.task is not None and task_runs(ctx.task):
        ctx_sched_in(ctx, ctx.task.cpu)
    update_context_time(ctx)
    add_event_to_ctx(event, ctx)
    if ctx.is_active and event.state == PERF_EVENT_STATE_INACTIVE:
        sched_in_now(event)


@notrace
def add_event_to_ctx(event: PerfEvent, ctx: PerfEventContext) -> None:
    event.ctx = ctx
    event.tstamp = ctx.time
    ctx.event_list.append(event)
    leader = event.group_leader
    if leader is not event:
        leader.sibling_list.append(event)


@notrace
def sched_in_now(event: PerfEvent) -> None:
    """An event that just became INACTIVE in an active context."""
    ctx, leader = event.ctx, event.group_leader
    if not event_filter_match(event, ctx.oncpu):
        return
    if leader is event:
        group_sched_in(event, ctx.oncpu)
    elif leader.state == PERF_EVENT_STATE_ACTIVE:
        event_sched_in(event, ctx.oncpu)


def perf_remove_from_context(event: PerfEvent) -> None:
    """It leaves its context and its group; what it led stands alone."""
    ctx = event.ctx
    if event not in ctx.event_list:
        return
    update_context_time(ctx)
    event_sched_out(event)
    if event.group_leader is not event:
        event.group_leader.sibling_list.remove(event)
        event.group_leader = event
    else:
        for sibling in event.sibling_list:
            sibling.group_leader = sibling
        event.sibling_list = []
    ctx.event_list.remove(event)
    perf_event_set_state(event, min(event.state, PERF_EVENT_STATE_OFF))
    if not ctx.event_list:
        ctx.is_active, ctx.oncpu = False, -1
        if ctx.task is not None:
            perf_state(event.kernel).task_contexts.pop(ctx.task, None)


def perf_event_exit_cpu(kernel: Kernel, cpu: int) -> None:
    """A CPU goes: events that count what runs there stop for good. Context: cpuhp/N."""
    ctx = perf_state(kernel).cpu_contexts[cpu]
    for event in tuple(ctx.event_list):
        perf_remove_from_context(event)            # __perf_event_exit_context()


def perf_event_enable(event: PerfEvent) -> None:
    """_perf_event_enable()"""
    if event.state >= PERF_EVENT_STATE_INACTIVE or event.state < PERF_EVENT_STATE_ERROR:
        return
    update_context_time(event.ctx)
    perf_event_set_state(event, PERF_EVENT_STATE_INACTIVE)
    if event.ctx.is_active:
        sched_in_now(event)


def perf_event_disable(event: PerfEvent) -> None:
    """_perf_event_disable()"""
    if event.state < PERF_EVENT_STATE_INACTIVE:
        return
    update_context_time(event.ctx)
    if event.group_leader is event:
        group_sched_out(event)
    else:
        event_sched_out(event)
    perf_event_set_state(event, PERF_EVENT_STATE_OFF)


def perf_event_reset(event: PerfEvent) -> None:
    """_perf_event_reset(): the count is 0; the times go on."""
    perf_event_read(event)
    event.count = 0
    perf_event_update_userpage(event, 0, event.total_time_enabled, event.total_time_running)


def perf_event_refresh(event: PerfEvent, refresh: int) -> None:
    """So many more overflows, then it stops."""
    event.event_limit += refresh
    perf_event_enable(event)


def perf_event_read(event: PerfEvent) -> None:
    """Brings count and times up to now."""
    update_context_time(event.ctx)
    if event.oncpu >= 0:
        event.pmu.read(event)
    if event.state > PERF_EVENT_STATE_EXIT:
        perf_event_update_time(event)


# ---- birth and death ---------------------------------------------------------------------------------------------
def perf_event_alloc(kernel: Kernel, attr: PerfEventAttr, cpu: int, task: TaskStruct | None,
                     group_leader: PerfEvent | None, parent: PerfEvent | None) -> PerfEvent:
    """An event that is in no context yet. Raises what its PMU says: ENOENT, EOPNOTSUPP, EPERM, EINVAL, ENOSPC."""
    state = perf_state(kernel)
    state.next_id += 1
    event = PerfEvent(kernel, attr, cpu, state.next_id)
    event.group_leader = group_leader or event
    event.parent = parent
    event.hw.target = task
    event.state = PERF_EVENT_STATE_OFF if attr.flags & DISABLED else PERF_EVENT_STATE_INACTIVE
    hw = event.hw
    hw.sample_period = 1 if attr.flags & FREQ and attr.sample_period else attr.sample_period
    hw.last_period = hw.period_left = hw.sample_period
    perf_init_event(state, event)
    if not state.nr_events:
        kernel.perf = state
    state.nr_events += 1
    return event


def perf_init_event(state: PerfState, event: PerfEvent) -> None:
    """Finds the PMU: first that of the type, else whoever wants it."""
    first = state.pmus.get(event.attr.type)
    for pmu in ([first] if first is not None else list(state.pmus.values())):
        event.pmu = pmu
        try:
            pmu.event_init(event)
            return
        except KernelError as error:
            if error.errno != ENOENT:
                raise
    raise KernelError(ENOENT)


def _free_event(event: PerfEvent) -> None:
    """Nobody knows it any more."""
    ring_buffer_attach(event, None)
    event.pending_disable = event.pending_wakeup = False
    if event.destroy is not None:
        event.destroy(event)
    state = perf_state(event.kernel)
    state.nr_events -= 1
    if not state.nr_events:
        event.kernel.perf = None


def perf_event_release_kernel(event: PerfEvent) -> None:
    """Its last file is closed: the event and what tasks inherited of it go."""
    perf_remove_from_context(event)
    for child in list(event.child_list):
        perf_remove_from_context(child)
        _free_event(child)
    event.child_list = []
    _free_event(event)


# ---- tasks -------------------------------------------------------------------------------------------------------
def perf_event_init_task(parent: TaskStruct, child: TaskStruct) -> None:
    """fork: the child gets an event for each one that wants to be inherited."""
    ctx = perf_state(parent.kernel).task_contexts.get(parent)
    if ctx is None:
        return
    for event in list(ctx.event_list):
        if event.group_leader is event and event.attr.flags & INHERIT:
            inherit_group(event, child)


def inherit_group(leader: PerfEvent, child: TaskStruct) -> None:
    own = inherit_event(leader, child, None)
    for event in leader.sibling_list:
        inherit_event(event, child, own)


def inherit_event(event: PerfEvent, child: TaskStruct, leader: PerfEvent | None) -> PerfEvent:
    counts = event.state >= PERF_EVENT_STATE_INACTIVE
    parent = event.parent or event
    attr = PerfEventAttr.unpack(event.attr.pack())
    heir = perf_event_alloc(event.kernel, attr, parent.cpu, child, leader, parent)
    heir.state = PERF_EVENT_STATE_INACTIVE if counts else PERF_EVENT_STATE_OFF
    if attr.flags & FREQ:
        heir.hw.sample_period = heir.hw.last_period = heir.hw.period_left = parent.hw.sample_period
    heir.clock_offset = parent.clock_offset
    add_event_to_ctx(heir, find_get_context(event.kernel, child, -1))
    parent.child_list.append(heir)
    return heir


def perf_event_enable_on_exec(task: TaskStruct) -> None:
    ctx = perf_state(task.kernel).task_contexts.get(task)
    if ctx is None:
        return
    for event in ctx.event_list:
        if event.attr.flags & ENABLE_ON_EXEC:
            event.attr.flags &= ~ENABLE_ON_EXEC
            perf_event_enable(event)


def perf_event_exit_task_context(task: TaskStruct) -> None:
    """The end of a task: what it counted goes to the events that it was inherited from."""
    ctx = perf_state(task.kernel).task_contexts.get(task)
    if ctx is None:
        return
    ctx_sched_out(ctx)
    for event in list(ctx.event_list):
        perf_event_exit_event(event, task)
    perf_state(task.kernel).task_contexts.pop(task, None)


def perf_event_exit_event(event: PerfEvent, task: TaskStruct) -> None:
    parent = event.parent
    perf_event_update_time(event)
    if parent is None:
        event.ctx.event_list.remove(event)
        event.state = PERF_EVENT_STATE_EXIT
        event.pending_kill = _POLL_HUP
        perf_event_wakeup(event)
        return
    sync_child_event(event, task)
    perf_remove_from_context(event)
    parent.child_list.remove(event)
    _free_event(event)


def sync_child_event(event: PerfEvent, task: TaskStruct) -> None:
    parent = event.parent
    assert parent is not None
    if event.attr.flags & INHERIT_STAT:
        perf_event_read_event(event, task)
    parent.child_count += event.count
    parent.child_total_time_enabled += event.total_time_enabled
    parent.child_total_time_running += event.total_time_running


# ---- overflow ----------------------------------------------------------------------------------------------------
@notrace
def perf_exclude_event(event: PerfEvent, regs: PerfRegs) -> bool:
    return bool(event.attr.flags & (EXCLUDE_USER if regs.user_mode else EXCLUDE_KERNEL))


def perf_event_overflow(event: PerfEvent, throttle: bool, regs: PerfRegs, addr: int, raw: bytes, period: int) -> bool:
    """__perf_event_overflow(): a period is over: a sample. True: the event shall stop."""
    if not event.attr.sample_period:
        return False
    stop = __perf_event_account_interrupt(event, throttle)
    event.pending_kill = _POLL_IN
    if event.event_limit:
        event.event_limit -= 1
        if not event.event_limit:
            stop = True
            event.pending_kill = _POLL_HUP
            event.pending_disable = event.pending_wakeup = True
            queue_pending(event)
    handler = (event.parent or event).overflow_handler
    (handler or perf_event_output)(event, regs, addr, raw, period)
    if (event.parent or event).fasync and event.pending_kill:
        event.pending_wakeup = True
        queue_pending(event)
    return stop


def __perf_event_account_interrupt(event: PerfEvent, throttle: bool) -> bool:
    """Not more samples in a tick than perf_event_max_sample_rate allows; the period follows the frequency."""
    hw, kernel = event.hw, event.kernel
    state, cpu = perf_state(kernel), register.task.cpu
    stop = False
    if state.throttled_seq[cpu] != hw.interrupts_seq:
        hw.interrupts_seq = state.throttled_seq[cpu]
        hw.interrupts = 1
    else:
        hw.interrupts += 1
        if throttle and hw.interrupts >= -(-kernel.sysctl.perf_event_sample_rate // HZ):
            state.throttled_count[cpu] += 1
            hw.interrupts = MAX_INTERRUPTS
            perf_log_throttle(event, False)
            stop = True
    if event.attr.flags & FREQ:
        now = perf_clock(kernel, cpu)
        delta, hw.freq_time_stamp = now - hw.freq_time_stamp, now
        if 0 < delta < 2 * TICK_NSEC:
            perf_adjust_period(event, delta, hw.last_period)
    return stop


def perf_adjust_period(event: PerfEvent, nsec: int, count: int) -> None:
    """`count` events came in so many ns: how many are a period of attr.sample_freq?"""
    hw = event.hw
    wanted = perf_calculate_period(event, nsec, count)
    delta = wanted - hw.sample_period
    hw.sample_period = max(hw.sample_period + int((delta + 7) / 8), 1)        # a low-pass filter
    if hw.period_left > 8 * hw.sample_period:
        hw.period_left = 0


@notrace
def perf_calculate_period(event: PerfEvent, nsec: int, count: int) -> int:
    return max(count * NSEC_PER_SEC // (nsec * event.attr.sample_period), 1)


def perf_event_task_tick(cpu: int) -> None:
    """Each tick: throttled events go on."""
    kernel = register.task.kernel
    state = perf_state(kernel)
    state.throttled_seq[cpu] += 1
    throttled, state.throttled_count[cpu] = state.throttled_count[cpu], 0
    if throttled:
        task_ctx = state.task_contexts.get(register.task)
        for ctx in (state.cpu_contexts[cpu], task_ctx):
            if ctx is not None:
                perf_adjust_freq_unthr_context(ctx)


def perf_adjust_freq_unthr_context(ctx: PerfEventContext) -> None:
    for event in ctx.event_list:
        if event.state == PERF_EVENT_STATE_ACTIVE and event.hw.interrupts == MAX_INTERRUPTS:
            event.hw.interrupts = 0
            perf_log_throttle(event, True)
            event.pmu.start(event, 0)
