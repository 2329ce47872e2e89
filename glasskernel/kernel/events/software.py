"""The PMUs that are made of software: counts of the kernel's own events, the clocks, and tracepoints.

Linux: the software half of kernel/events/core.c, kernel/trace/trace_event_perf.c (5.3). Same: one list of listeners
    for each event on each CPU (swevent_htable); sampling by period; clocks sample by an hrtimer; a tracepoint is
    listened to while at least one event wants it.
Differs: interrupts come at the border to user mode (and in the idle loop), so that is where clocks find a program.
Gaps: the PMUs kprobe and uprobe (use tracefs and the tracepoint PMU).
Owns: PerfState.swevents, .tp_users. Context: counting in any.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.events.core import (
    NSEC_PER_SEC,
    perf_clock,
    perf_event_overflow,
    perf_exclude_event,
    perf_state,
    update_context_time,
)
from glasskernel.kernel.events.types import (
    EXCLUDE_IDLE,
    FREQ,
    MAX_INTERRUPTS,
    PERF_COUNT_SW_CPU_CLOCK,
    PERF_COUNT_SW_CPU_MIGRATIONS,
    PERF_COUNT_SW_MAX,
    PERF_COUNT_SW_TASK_CLOCK,
    PERF_EF_START,
    PERF_EF_UPDATE,
    PERF_EVENT_STATE_ACTIVE,
    PERF_HES_STOPPED,
    PERF_SAMPLE_BRANCH_STACK,
    PERF_SAMPLE_PERIOD,
    PERF_SAMPLE_RAW,
    PERF_TYPE_SOFTWARE,
    PERF_TYPE_TRACEPOINT,
    PerfEvent,
    PerfRegs,
    PerfState,
    Pmu,
)
from glasskernel.kernel.smp import smp_call_function_single
from glasskernel.kernel.time.hrtimer import (
    HRTIMER_MODE_REL,
    HRTIMER_NORESTART,
    HRTIMER_RESTART,
    hrtimer_cancel,
    hrtimer_forward_now,
    hrtimer_init,
    hrtimer_start,
)
from glasskernel.kernel.time.types import CLOCK_MONOTONIC, Hrtimer
from glasskernel.kernel.trace.stacktrace import walk_frames
from glasskernel.kernel.trace.trace import tracing_gen_ctx
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.errno import EINVAL, ENOENT, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

_MIN_PERIOD_NS = 10_000
_SW_CPU_CLOCK, _SW_TASK_CLOCK = (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK), (PERF_TYPE_SOFTWARE,
                                                                                PERF_COUNT_SW_TASK_CLOCK)


# ---- software events ---------------------------------------------------------------------------------------------
@notrace
def perf_sw_event(event_id: int, user_mode: bool, addr: int) -> None:
    """PERF_COUNT_SW_* happened to the running task. Called while kernel.perf is set."""
    task = register.task
    state = perf_state(task.kernel)
    if (PERF_TYPE_SOFTWARE, event_id) in state.swevents[task.cpu]:
        ___perf_sw_event(event_id, 1, PerfRegs(task, user_mode, sys._getframe(1)), addr)


def ___perf_sw_event(event_id: int, nr: int, regs: PerfRegs, addr: int) -> None:
    do_perf_sw_event(PERF_TYPE_SOFTWARE, event_id, nr, regs, addr, b"")


def do_perf_sw_event(kind: int, event_id: int, nr: int, regs: PerfRegs, addr: int, raw: bytes) -> None:
    """For every event of this CPU that counts it."""
    task = register.task
    listeners = perf_state(task.kernel).swevents[task.cpu].get((kind, event_id), ())
    for event in tuple(listeners):
        if not event.hw.state & PERF_HES_STOPPED and not perf_exclude_event(event, regs):
            perf_swevent_event(event, nr, regs, addr, raw)


def perf_swevent_event(event: PerfEvent, nr: int, regs: PerfRegs, addr: int, raw: bytes) -> None:
    """Counts, and samples when a period is over."""
    event.count += nr
    attr, hw = event.attr, event.hw
    if not attr.sample_period:
        return
    if attr.sample_type & PERF_SAMPLE_PERIOD and not attr.flags & FREQ:
        perf_swevent_overflow(event, 1, regs, addr, raw, nr)
        return
    period = hw.last_period
    if nr == 1 and hw.sample_period == 1 and not attr.flags & FREQ:
        perf_swevent_overflow(event, 1, regs, addr, raw, period)
        return
    hw.period_left -= nr
    if hw.period_left <= 0:
        perf_swevent_overflow(event, 0, regs, addr, raw, period)


def perf_swevent_set_period(event: PerfEvent) -> int:
    """How many periods are over; begins the next."""
    hw = event.hw
    hw.last_period = hw.sample_period
    if hw.period_left > 0:
        return 0
    nr = (hw.sample_period - hw.period_left) // hw.sample_period
    hw.period_left += nr * hw.sample_period
    return nr


def perf_swevent_overflow(event: PerfEvent, overflow: int, regs: PerfRegs, addr: int, raw: bytes, period: int) -> None:
    if not overflow:
        overflow = perf_swevent_set_period(event)
    if event.hw.interrupts == MAX_INTERRUPTS:
        return
    throttle = False
    for _ in range(overflow):
        if perf_event_overflow(event, throttle, regs, addr, raw, period):
            break                                # what is left would be the same sample again
        throttle = True


@notrace
def _listen(event: PerfEvent, kind: int, event_id: int) -> None:
    swevents = perf_state(event.kernel).swevents[event.oncpu]
    swevents.setdefault((kind, event_id), []).append(event)


@notrace
def _unlisten(event: PerfEvent) -> None:
    swevents = perf_state(event.kernel).swevents[event.oncpu]
    key = event.attr.type, event.attr.config
    listeners = swevents[key]
    listeners.remove(event)
    if not listeners:
        del swevents[key]


def perf_swevent_add(event: PerfEvent, flags: int) -> None:
    if event.attr.sample_period:
        event.hw.last_period = event.hw.sample_period
        perf_swevent_set_period(event)
    event.hw.state = 0 if flags & PERF_EF_START else PERF_HES_STOPPED
    _listen(event, event.attr.type, event.attr.config)


def perf_swevent_del(event: PerfEvent, flags: int) -> None:
    _unlisten(event)


def perf_swevent_start(event: PerfEvent, flags: int) -> None:
    event.hw.state = 0


def perf_swevent_stop(event: PerfEvent, flags: int) -> None:
    event.hw.state = PERF_HES_STOPPED


def perf_swevent_read(event: PerfEvent) -> None:
    """The count is always right."""


def perf_swevent_init(event: PerfEvent) -> None:
    """Raises ENOENT, EOPNOTSUPP."""
    attr = event.attr
    if attr.type != PERF_TYPE_SOFTWARE or attr.config >= PERF_COUNT_SW_MAX:
        raise KernelError(ENOENT)
    if attr.sample_type & PERF_SAMPLE_BRANCH_STACK:
        raise KernelError(EOPNOTSUPP)
    if attr.config == PERF_COUNT_SW_CPU_CLOCK:
        event.pmu = perf_cpu_clock
        perf_swevent_init_hrtimer(event)
    elif attr.config == PERF_COUNT_SW_TASK_CLOCK:
        event.pmu = perf_task_clock
        perf_swevent_init_hrtimer(event)


@notrace
def count_migration(state: PerfState, task: TaskStruct) -> None:
    if state.migrated.pop(task, 0) is None:
        perf_sw_event(PERF_COUNT_SW_CPU_MIGRATIONS, False, 0)


# ---- clocks ------------------------------------------------------------------------------------------------------
def perf_swevent_init_hrtimer(event: PerfEvent) -> None:
    attr, hw = event.attr, event.hw
    if not attr.sample_period:
        return
    timer = hw.hrtimer = Hrtimer(perf_swevent_hrtimer, event)
    hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
    timer.function = perf_swevent_hrtimer
    if attr.flags & FREQ:                        # a clock's frequency is a period
        attr.sample_period = NSEC_PER_SEC // attr.sample_period
        attr.flags &= ~FREQ
        hw.sample_period = hw.last_period = hw.period_left = attr.sample_period


@notrace
def get_irq_regs(task: TaskStruct) -> PerfRegs:
    """What the interrupt interrupted. In the middle of a task's kernel code interrupts come only where it would let
    others run; otherwise at the border to user mode."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name != "smp_apic_timer_interrupt":
        frame = frame.f_back
    return PerfRegs(task, task.mm is not None and not walk_frames(frame.f_back), frame.f_back)


def perf_swevent_hrtimer(timer: Hrtimer) -> int:
    """A clock's period is over. Context: irq."""
    event: PerfEvent = timer.data
    if event.state != PERF_EVENT_STATE_ACTIVE:
        return HRTIMER_NORESTART
    event.pmu.read(event)
    task = register.task
    regs = get_irq_regs(task)
    restart = HRTIMER_RESTART
    if not perf_exclude_event(event, regs) and not (event.attr.flags & EXCLUDE_IDLE and not task.pid):
        if perf_event_overflow(event, True, regs, 0, b"", event.hw.last_period):
            restart = HRTIMER_NORESTART
    hrtimer_forward_now(timer, max(_MIN_PERIOD_NS, event.hw.sample_period))
    return restart


def perf_swevent_start_hrtimer(event: PerfEvent) -> None:
    """On the CPU that the event counts on."""
    hw = event.hw
    if hw.hrtimer is None:
        return
    period = max(hw.period_left or hw.sample_period, _MIN_PERIOD_NS)
    hw.period_left = 0

    def start(_info: object) -> None:
        if event.state == PERF_EVENT_STATE_ACTIVE and hw.hrtimer is not None:
            hrtimer_start(hw.hrtimer, period, HRTIMER_MODE_REL)

    smp_call_function_single(event.oncpu, start, None)


def perf_swevent_cancel_hrtimer(event: PerfEvent) -> None:
    timer = event.hw.hrtimer
    if timer is None:
        return
    if timer.state:
        remaining = timer.expires - event.kernel.machine.now()
        event.hw.period_left = max(remaining, 0)
    hrtimer_cancel(timer)


@notrace
def _clock_now(event: PerfEvent) -> int:
    """cpu-clock: the CPU's; task-clock: that of the context."""
    if event.attr.config == PERF_COUNT_SW_CPU_CLOCK:
        return perf_clock(event.kernel, event.oncpu)
    update_context_time(event.ctx)
    return event.ctx.time


def cpu_clock_event_update(event: PerfEvent) -> None:
    """cpu_clock_event_update() and task_clock_event_update()"""
    now = _clock_now(event)
    event.count += max(now - event.hw.prev_count, 0)
    event.hw.prev_count = now


def cpu_clock_event_start(event: PerfEvent, flags: int) -> None:
    event.hw.prev_count = _clock_now(event)
    perf_swevent_start_hrtimer(event)


def cpu_clock_event_stop(event: PerfEvent, flags: int) -> None:
    perf_swevent_cancel_hrtimer(event)
    cpu_clock_event_update(event)


def cpu_clock_event_add(event: PerfEvent, flags: int) -> None:
    if flags & PERF_EF_START:
        cpu_clock_event_start(event, flags)


def cpu_clock_event_del(event: PerfEvent, flags: int) -> None:
    cpu_clock_event_stop(event, PERF_EF_UPDATE)


perf_swevent = Pmu(b"software", PERF_TYPE_SOFTWARE, perf_swevent_init, perf_swevent_add, perf_swevent_del,
                   perf_swevent_start, perf_swevent_stop, perf_swevent_read)
perf_cpu_clock = Pmu(b"cpu_clock", -1, perf_swevent_init, cpu_clock_event_add, cpu_clock_event_del,
                     cpu_clock_event_start, cpu_clock_event_stop, cpu_clock_event_update)
perf_task_clock = Pmu(b"task_clock", -1, perf_swevent_init, cpu_clock_event_add, cpu_clock_event_del,
                      cpu_clock_event_start, cpu_clock_event_stop, cpu_clock_event_update)


# ---- tracepoints -------------------------------------------------------------------------------------------------
class PerfTracepoint:
    """One tracepoint that perf listens to, for all its events. It looks like a trace_event_file to the events that
    register themselves (system calls, probes)."""

    __slots__ = ("call", "flags", "probe", "tr", "uses")

    def __init__(self, kernel: Kernel, call: Any) -> None:
        assert kernel.tracing is not None
        self.call, self.tr, self.flags, self.uses = call, kernel.tracing.global_trace, 0, 0
        self.probe = make_perf_probe(kernel, call)


@notrace
def make_perf_probe(kernel: Kernel, call: Any) -> Callable[..., None]:
    """perf_trace_*(): from a tracepoint's arguments to samples."""
    key = (PERF_TYPE_TRACEPOINT, call.id)
    state = perf_state(kernel)

    def perf_trace(*arguments: Any) -> None:
        task = register.task
        if key not in state.swevents[task.cpu] and call.call_bpf is None:
            return
        values = call.assign(*arguments)
        if values is not None:
            perf_trace_buf_submit(call, call.pack(values), PerfRegs(task, False, sys._getframe(1)))

    return perf_trace


@notrace
def perf_trace_buf_submit(call: Any, payload: bytes, regs: PerfRegs) -> None:
    """A record with its common fields, for the events that listen."""
    task = regs.task
    common = (call.id | tracing_gen_ctx(task, call.irqs_off) << 16 | (task.preempt_count & 0xFF) << 24
              ).to_bytes(4, "little") + (task.pid & 0xFFFF_FFFF).to_bytes(4, "little")
    raw = common + payload
    if call.call_bpf is not None and call.tracepoint and not call.call_bpf(task.kernel, call, (raw, regs.frame)):
        return
    perf_tp_event(call.id, 1, payload, raw, regs)


def perf_tp_event(event_type: int, count: int, payload: bytes, raw: bytes, regs: PerfRegs) -> None:
    task = regs.task
    listeners = perf_state(task.kernel).swevents[task.cpu].get((PERF_TYPE_TRACEPOINT, event_type), ())
    for event in tuple(listeners):
        if perf_tp_event_match(event, payload, regs):
            perf_swevent_event(event, count, regs, 0, raw)


def perf_tp_event_match(event: PerfEvent, payload: bytes, regs: PerfRegs) -> bool:
    if event.hw.state & PERF_HES_STOPPED or perf_exclude_event(event, regs):
        return False
    keep = (event.parent or event).filter
    return keep is None or keep(payload)


def perf_trace_event_perm(event: PerfEvent) -> None:
    """Raises EPERM: what others do is not for everybody to see."""
    kernel = event.kernel
    if event.parent is not None or not event.attr.sample_type & PERF_SAMPLE_RAW:
        return
    if kernel.sysctl.perf_event_paranoid > -1 and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)


def perf_trace_init(event: PerfEvent) -> None:
    """Finds the event by its id and begins to listen. Raises EINVAL, EPERM."""
    kernel = event.kernel
    tracing = kernel.tracing or kernel.trace_init()
    call = tracing.calls.get(event.attr.config)
    if call is None or call.ignore_enable or (not call.tracepoint and call.register is None):
        raise KernelError(EINVAL)
    perf_trace_event_perm(event)
    event.hw.tp_event = call
    users = perf_state(kernel).tp_users
    user = users.get(call.id)
    if user is None:
        user = users[call.id] = PerfTracepoint(kernel, call)
        reg: Any = call.register
        if reg is not None:
            reg(user, True)
        else:
            tracepoint_probe_register(kernel, call.tracepoint, user.probe)
    user.uses += 1
    event.destroy = perf_trace_destroy


def perf_trace_destroy(event: PerfEvent) -> None:
    call, kernel = event.hw.tp_event, event.kernel
    users = perf_state(kernel).tp_users
    user = users[call.id]
    user.uses -= 1
    if user.uses:
        return
    del users[call.id]
    if call.register is not None:
        call.register(user, False)
    else:
        tracepoint_probe_unregister(kernel, call.tracepoint, user.probe)


def perf_tp_event_init(event: PerfEvent) -> None:
    """Raises ENOENT, EOPNOTSUPP, EINVAL, EPERM."""
    if event.attr.type != PERF_TYPE_TRACEPOINT:
        raise KernelError(ENOENT)
    if event.attr.sample_type & PERF_SAMPLE_BRANCH_STACK:
        raise KernelError(EOPNOTSUPP)
    perf_trace_init(event)


perf_tracepoint = Pmu(b"tracepoint", PERF_TYPE_TRACEPOINT, perf_tp_event_init, perf_swevent_add, perf_swevent_del,
                      perf_swevent_start, perf_swevent_stop, perf_swevent_read)
