"""The timer wheel: many timeouts, most of which never happen.

Linux: kernel/time/timer.c (5.3). Same: nine levels of 64 buckets; a timer goes to the level that its distance
allows and stays there, so far timers fire up to an eighth of their distance late, never early; two bases per
CPU (BASE_DEF holds deferrable timers, for which an idle CPU does not wake).
Differs: schedule_timeout() and msleep() live in kernel/sched/core.py, run_local_timers() and
    update_process_times() in time/tick.py, because imports run downwards only.
Owns: kernel.time.wheel.
Invariants: a pending timer is in base.vectors[timer.idx] or base.expiring; pending_map has exactly the bits
    of buckets in use; no pending timer of BASE_STD is due before base.clk.
Context of every function: any. Locks: none (no kernel code runs between two calls of schedule() but ours).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import (
    jiffies,
    jiffies_to_msecs,
    jiffies_to_nsecs,
    msecs_to_jiffies,
    nsecs_to_jiffies,
    usecs_to_jiffies,
)
from glasskernel.kernel.time.types import (
    HZ,
    KTIME_MAX,
    LVL_BITS,
    LVL_CLK_MASK,
    LVL_CLK_SHIFT,
    LVL_DEPTH,
    LVL_MASK,
    LVL_SIZE,
    MAX_SCHEDULE_TIMEOUT,
    TICK_NSEC,
    TIMER_DEFERRABLE,
    WHEEL_TIMEOUT_CUTOFF,
    WHEEL_TIMEOUT_MAX,
    TimerBase,
    TimerList,
)
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

__all__ = [
    "HZ", "MAX_SCHEDULE_TIMEOUT", "TimerBase", "TimerList", "add_timer", "add_timer_on", "del_timer",
    "del_timer_sync", "from_timer", "get_next_timer_interrupt", "jiffies", "jiffies_to_msecs",
    "jiffies_to_nsecs", "mod_timer", "msecs_to_jiffies", "nsecs_to_jiffies", "round_jiffies",
    "round_jiffies_relative", "run_timer_softirq", "timer_clear_idle", "timer_pending", "timer_reduce",
    "timer_setup", "usecs_to_jiffies",
]

_NEVER = 1 << 62
_LVL_START = tuple((LVL_SIZE - 1) << (n - 1) * LVL_CLK_SHIFT if n else 0 for n in range(LVL_DEPTH))


@notrace
def timer_setup(timer: TimerList, function: Callable[[TimerList], None], flags: int = 0) -> None:
    """Prepares a timer. function(timer) is called in softirq context, once per add_timer()."""
    timer.function = function
    timer.flags = flags
    timer.base = None
    probe = register.task.kernel.tp.timer_init
    if probe is not None:
        probe(timer)


@notrace
def from_timer(timer: TimerList) -> Any:
    """What the timer is part of (container_of)."""
    return timer.data


@notrace
def timer_pending(timer: TimerList) -> bool:
    """True if it is armed."""
    return timer.base is not None


def add_timer(timer: TimerList) -> None:
    """Arms a timer that is not pending; timer.expires says when (jiffies)."""
    assert timer.base is None
    mod_timer(timer, timer.expires)


def add_timer_on(timer: TimerList, cpu: int) -> None:
    """add_timer() on a certain CPU."""
    assert timer.base is None
    kernel = register.task.kernel
    base = kernel.time.wheel[cpu][1 if timer.flags & TIMER_DEFERRABLE else 0]
    forward_timer_base(kernel, base)
    internal_add_timer(kernel, base, timer)


def mod_timer(timer: TimerList, expires: int) -> int:
    """(Re)arms a timer to fire at `expires` (jiffies) on this CPU. Returns 1 if it was pending."""
    return __mod_timer(timer, expires, 0)


def timer_reduce(timer: TimerList, expires: int) -> int:
    """Like mod_timer(), but only ever makes a pending timer fire earlier."""
    return __mod_timer(timer, expires, 1)


def __mod_timer(timer: TimerList, expires: int, reduce: int) -> int:
    task = register.task
    kernel = task.kernel
    base = timer.base
    was_pending = 0
    if base is not None:
        was_pending = 1
        if timer.expires == expires or (reduce and timer.expires <= expires):
            return 1
        forward_timer_base(kernel, base)
        if calc_wheel_index(expires, base.clk) == timer.idx:
            timer.expires = expires
            return 1
        detach_timer(timer)
    base = kernel.time.wheel[task.cpu][1 if timer.flags & TIMER_DEFERRABLE else 0]
    forward_timer_base(kernel, base)
    timer.expires = expires
    internal_add_timer(kernel, base, timer)
    return was_pending


def del_timer(timer: TimerList) -> int:
    """Disarms a timer. Returns 1 if it was pending."""
    if timer.base is None:
        return 0
    detach_timer(timer)
    return 1


def del_timer_sync(timer: TimerList) -> int:
    """del_timer(); afterwards its function does not run any more (here it never does: nothing runs in
    parallel).
    """
    return del_timer(timer)


def forward_timer_base(kernel: Kernel, base: TimerBase) -> None:
    """An idle CPU's wheel stood still: move it on, but not past a timer that is due."""
    now = kernel.time.jiffies
    if now - base.clk < 2:
        return
    next_expiry = __next_timer_interrupt(base) if base.pending_map else _NEVER
    base.clk = now if next_expiry > now else max(base.clk, next_expiry)


def calc_wheel_index(expires: int, clk: int) -> int:
    """The bucket for a timer: one granule later than asked, so that it is never early."""
    delta = expires - clk
    if delta < 0:
        return clk & LVL_MASK
    for level in range(1, LVL_DEPTH):
        if delta < _LVL_START[level]:
            shift = (level - 1) * LVL_CLK_SHIFT
            return ((level - 1) << LVL_BITS) + ((expires + (1 << shift) >> shift) & LVL_MASK)
    if delta >= WHEEL_TIMEOUT_CUTOFF:
        expires = clk + WHEEL_TIMEOUT_MAX
    shift = (LVL_DEPTH - 1) * LVL_CLK_SHIFT
    return ((LVL_DEPTH - 1) << LVL_BITS) + ((expires + (1 << shift) >> shift) & LVL_MASK)


def internal_add_timer(kernel: Kernel, base: TimerBase, timer: TimerList) -> None:
    """Queues the timer, and wakes its CPU if that one sleeps without ticks."""
    idx = calc_wheel_index(timer.expires, base.clk)
    timer.base = base
    timer.idx = idx
    bucket = base.vectors[idx]
    if bucket is None:
        bucket = base.vectors[idx] = {}
    bucket[timer] = None
    base.pending_map |= 1 << idx
    probe = kernel.tp.timer_start
    if probe is not None:
        probe(timer, timer.expires, timer.flags)
    if base.is_idle and base.cpu != register.task.cpu and not timer.flags & TIMER_DEFERRABLE:
        wake_up_nohz_cpu(kernel, base.cpu)


def wake_up_nohz_cpu(kernel: Kernel, cpu: int) -> None:
    """A timer was queued on an idle CPU: it must look at its timers again."""
    kernel.machine.kick(cpu)


@notrace
def detach_timer(timer: TimerList) -> None:
    base = timer.base
    assert base is not None
    probe = register.task.kernel.tp.timer_cancel
    if probe is not None:
        probe(timer)
    if timer.idx < 0:
        del base.expiring[timer]
        timer.base = None
        return
    bucket = base.vectors[timer.idx]
    assert bucket is not None
    del bucket[timer]
    if not bucket:
        base.pending_map &= ~(1 << timer.idx)
    timer.base = None


def __next_timer_interrupt(base: TimerBase) -> int:
    """When the next bucket in use is due, in jiffies; _NEVER if none is."""
    pending = base.pending_map
    nearest = _NEVER
    clk = base.clk
    shift = 0
    for level in range(LVL_DEPTH):
        bits = pending >> level * LVL_SIZE & (1 << LVL_SIZE) - 1
        if bits:
            start = clk & LVL_MASK
            turned = (bits >> start | bits << LVL_SIZE - start) & (1 << LVL_SIZE) - 1
            when = clk + (turned & -turned).bit_length() - 1 << shift
            if when < nearest:
                nearest = when
        # The next level's current bucket was looked at already, unless its clock has just moved on.
        clk = (clk >> LVL_CLK_SHIFT) + (1 if clk & LVL_CLK_MASK else 0)
        shift += LVL_CLK_SHIFT
    return nearest


def get_next_timer_interrupt(kernel: Kernel, cpu: int, basej: int, basem: int) -> int:
    """When this idle CPU must wake for its wheel: monotonic ns, KTIME_MAX for never. basej, basem: now."""
    base = kernel.time.wheel[cpu][0]
    nextevt = __next_timer_interrupt(base) if base.pending_map else _NEVER
    if basej > base.clk:
        base.clk = basej if nextevt > basej else max(base.clk, nextevt)
    if nextevt <= basej:
        base.is_idle = False
        return basem
    base.is_idle = nextevt - basej > 1
    if nextevt >= _NEVER:
        return KTIME_MAX
    return basem + (nextevt - basej) * TICK_NSEC


def timer_clear_idle(kernel: Kernel, cpu: int) -> None:
    """The CPU ticks again."""
    kernel.time.wheel[cpu][0].is_idle = False


def run_timer_softirq(kernel: Kernel) -> None:
    """TIMER_SOFTIRQ."""
    std, deferrable = kernel.time.wheel[register.task.cpu]
    __run_timers(kernel, std)
    __run_timers(kernel, deferrable)


def __run_timers(kernel: Kernel, base: TimerBase) -> None:
    time = kernel.time
    while time.jiffies >= base.clk:
        levels = collect_expired_timers(time.jiffies, base)
        base.clk += 1
        if levels:
            expire_timers(kernel, base)


def collect_expired_timers(now: int, base: TimerBase) -> int:
    """Moves the buckets that are due at base.clk to the expiring one; skips stretches without timers.

    Returns how many levels had one.
    """
    if now - base.clk > 2:
        next_expiry = __next_timer_interrupt(base) if base.pending_map else _NEVER
        if next_expiry > now:
            base.clk = now
            return 0
        base.clk = next_expiry
    due = []
    clk = base.clk
    for level in range(LVL_DEPTH):
        idx = (clk & LVL_MASK) + level * LVL_SIZE
        if base.pending_map >> idx & 1:
            due.append(idx)
        if clk & LVL_CLK_MASK:
            break
        clk >>= LVL_CLK_SHIFT
    expiring = base.expiring
    for idx in reversed(due):
        bucket = base.vectors[idx]
        assert bucket is not None
        for timer in bucket:
            timer.idx = -1                       # still pending: a function may delete another timer
        expiring.update(bucket)
        bucket.clear()
        base.pending_map &= ~(1 << idx)
    return len(due)


def expire_timers(kernel: Kernel, base: TimerBase) -> None:
    """Runs what collect_expired_timers() found."""
    expiring = base.expiring
    baseclk = base.clk - 1
    while expiring:
        timer = next(iter(expiring))
        base.running_timer = timer
        detach_timer(timer)
        function = timer.function
        assert function is not None
        call_timer_fn(kernel, timer, function, baseclk)
        base.running_timer = None


def call_timer_fn(kernel: Kernel, timer: TimerList, function: Callable[[TimerList], None], baseclk: int) -> None:
    """Calls the timer's function. Context: softirq."""
    probe = kernel.tp.timer_expire_entry
    if probe is not None:
        probe(timer, baseclk)
    function(timer)
    probe = kernel.tp.timer_expire_exit
    if probe is not None:
        probe(timer)


def round_jiffies(when: int) -> int:
    """The next full second near `when`, so that timers of no precision fall together."""
    rem = when % HZ
    rounded = when - rem if rem < HZ // 4 else when - rem + HZ
    return rounded if rounded > jiffies() else when


def round_jiffies_relative(delta: int) -> int:
    """round_jiffies() of a distance from now."""
    now = jiffies()
    return round_jiffies(delta + now) - now
