"""The objects of time: clocks, the timer wheel, high-resolution timers, ticks.

Linux: include/linux/timer.h, hrtimer.h, kernel/time/timer.c, hrtimer.c, tick-sched.h (5.3). Only data and
constants.
Owns: TimeState, reached as kernel.time.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

HZ = 250
TICK_NSEC = 1_000_000_000 // HZ
KTIME_MAX = (1 << 63) - 1
NSEC_PER_SEC, NSEC_PER_MSEC, NSEC_PER_USEC = 1_000_000_000, 1_000_000, 1_000
INITIAL_JIFFIES = (1 << 32) - 300 * HZ          # jiffies wrap (in 32 bits) 5 minutes after boot, as in Linux
MAX_SCHEDULE_TIMEOUT = (1 << 63) - 1

CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID = 0, 1, 2, 3
CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME = 4, 5, 6, 7
CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM, CLOCK_TAI = 8, 9, 11
TIMER_ABSTIME = 1

# hrtimers
HRTIMER_NORESTART, HRTIMER_RESTART = 0, 1
HRTIMER_STATE_INACTIVE, HRTIMER_STATE_ENQUEUED = 0, 1
HRTIMER_MODE_ABS, HRTIMER_MODE_REL = 0, 1
HRTIMER_BASE_MONOTONIC, HRTIMER_BASE_REALTIME, HRTIMER_BASE_BOOTTIME, HRTIMER_BASE_TAI = 0, 1, 2, 3

# timer_list.flags
TIMER_DEFERRABLE, TIMER_PINNED, TIMER_IRQSAFE = 0x00080000, 0x00100000, 0x00200000

# The wheel: 9 levels of 64 buckets; each level is 8 times coarser than the one below.
LVL_CLK_SHIFT, LVL_BITS, LVL_DEPTH = 3, 6, 9
LVL_SIZE = 1 << LVL_BITS
LVL_MASK, LVL_CLK_MASK = LVL_SIZE - 1, (1 << LVL_CLK_SHIFT) - 1
WHEEL_SIZE = LVL_SIZE * LVL_DEPTH
WHEEL_TIMEOUT_CUTOFF = LVL_MASK << (LVL_DEPTH - 1) * LVL_CLK_SHIFT
WHEEL_TIMEOUT_MAX = WHEEL_TIMEOUT_CUTOFF - (1 << (LVL_DEPTH - 1) * LVL_CLK_SHIFT)


class TimerList:
    """struct timer_list. expires in jiffies. data: what `function` finds with from_timer()."""

    __slots__ = ("expires", "function", "flags", "data", "base", "idx", "kaddr")

    def __init__(self, function: Callable[[TimerList], None] | None = None, data: Any = None,
                 flags: int = 0) -> None:
        self.expires = 0
        self.function = function
        self.flags = flags
        self.data = data
        self.base: TimerBase | None = None      # not None: pending, in base.vectors[idx]
        self.idx = 0


class TimerBase:
    """struct timer_base. clk: the next jiffy to be looked at. pending_map: bit i is set if vectors[i] has
    timers.

    expiring: what expire_timers() is working on; those timers have idx -1.
    """

    __slots__ = ("cpu", "clk", "running_timer", "is_idle", "pending_map", "vectors", "expiring")

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu
        self.clk = INITIAL_JIFFIES
        self.running_timer: TimerList | None = None
        self.is_idle = False
        self.pending_map = 0
        self.vectors: list[dict[TimerList, None] | None] = [None] * WHEEL_SIZE    # made when first used
        self.expiring: dict[TimerList, None] = {}


class Hrtimer:
    """struct hrtimer. expires, softexpires in ns of its clock. function(timer) -> HRTIMER_RESTART or
    _NORESTART.

    data: what `function` finds with container_of().
    """

    __slots__ = ("expires", "softexpires", "function", "base", "state", "key", "data", "kaddr")

    def __init__(self, function: Callable[[Hrtimer], int] | None = None, data: Any = None) -> None:
        self.expires = 0
        self.softexpires = 0
        self.function = function
        self.base: HrtimerClockBase = None  # type: ignore[assignment]     # set by hrtimer_init()
        self.state = HRTIMER_STATE_INACTIVE
        self.key: tuple[int, int, Hrtimer] | None = None
        self.data = data


class HrtimerClockBase:
    """struct hrtimer_clock_base. active: (expires, sequence, timer), ascending."""

    __slots__ = ("cpu_base", "index", "clockid", "active")

    def __init__(self, cpu_base: HrtimerCpuBase, index: int, clockid: int) -> None:
        self.cpu_base = cpu_base
        self.index = index
        self.clockid = clockid
        self.active: list[tuple[int, int, Hrtimer]] = []


class HrtimerCpuBase:
    """struct hrtimer_cpu_base. expires_next: what the clock event device is set to (monotonic ns)."""

    __slots__ = ("kernel", "cpu", "clock_base", "expires_next", "in_hrtirq", "running", "nr_events")

    def __init__(self, kernel: Kernel, cpu: int) -> None:
        self.kernel = kernel
        self.cpu = cpu
        clocks = (CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI)
        self.clock_base = tuple(HrtimerClockBase(self, index, clock) for index, clock in enumerate(clocks))
        self.expires_next = KTIME_MAX
        self.in_hrtirq = False
        self.running: Hrtimer | None = None
        self.nr_events = 0


@slotted
class TickSched:
    """struct tick_sched: the tick of one CPU, and whether it is stopped because the CPU is idle."""

    sched_timer: Hrtimer
    tick_stopped: bool = False
    inidle: bool = False
    got_idle_tick: bool = False
    idle_active: bool = False
    idle_entrytime: int = 0
    last_tick: int = 0
    next_tick: int = 0
    idle_calls: int = 0
    idle_sleeps: int = 0


@notrace
def _no_signal(*_args: Any) -> None:
    return None


@slotted
class TimeState:
    """kernel.time. Times in ns; jiffies counted as Linux counts them, from INITIAL_JIFFIES."""

    jiffies: int = INITIAL_JIFFIES
    last_jiffies_update: int = 0                # ns of the jiffy counted last: what the coarse clocks read
    offs_real: int = 0                          # CLOCK_REALTIME - CLOCK_MONOTONIC
    offs_boot: int = 0
    tai_offset: int = 0                         # seconds
    tz_minuteswest: int = 0
    tz_dsttime: int = 0
    clock_was_set_seq: int = 0
    update_vsyscall: Callable[[Kernel], None] = _no_signal      # the vDSO's page, set by arch/x86
    wheel: list[tuple[TimerBase, TimerBase]] = field(default_factory=list)     # (BASE_STD, BASE_DEF) by CPU
    hrtimer_bases: list[HrtimerCpuBase] = field(default_factory=list)
    hrtimer_sequence: int = 0
    tick_sched: list[TickSched] = field(default_factory=list)
    tick_do_timer_cpu: int = 0                  # who counts jiffies; -1: nobody at the moment
    cpu_timers: dict[Any, None] = field(default_factory=dict)     # armed POSIX timers on CPU clocks
