"""What a real-time clock is to the rest of the kernel.

Linux: include/linux/rtc.h, include/uapi/linux/rtc.h (5.3). Only data and constants.
Owns: RtcDevice, reached as kernel.rtc once somebody has looked at the clock.
Invariants: timerqueue is sorted by expiry; the chip's alarm is that of its first timer, off if there is none.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.drivers.rtc.lib import RtcTime, RtcWkalrm
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.time.types import Hrtimer
    from glasskernel.kernel.workqueue import WorkStruct
    from glasskernel.machine.rtc import Rtc

RTC_IRQF, RTC_PF, RTC_AF, RTC_UF = 0x80, 0x40, 0x20, 0x10
RTC_MAX_FREQ = 8192
(RTC_AIE_ON, RTC_AIE_OFF, RTC_UIE_ON, RTC_UIE_OFF, RTC_PIE_ON, RTC_PIE_OFF) = range(0x7001, 0x7007)
RTC_ALM_SET, RTC_ALM_READ, RTC_RD_TIME, RTC_SET_TIME = 0x40247007, 0x80247008, 0x80247009, 0x4024700A
RTC_IRQP_READ, RTC_IRQP_SET, RTC_EPOCH_READ = 0x8008700B, 0x4008700C, 0x8008700D
RTC_WKALM_SET, RTC_WKALM_RD = 0x4028700F, 0x80287010


@slotted(frozen=True)
class RtcClassOps:
    """struct rtc_class_ops. Called with ops_lock held."""

    read_time: Callable[[RtcDevice], RtcTime]
    set_time: Callable[[RtcDevice, RtcTime], None]
    read_alarm: Callable[[RtcDevice], RtcWkalrm]
    set_alarm: Callable[[RtcDevice, RtcWkalrm], None]
    alarm_irq_enable: Callable[[RtcDevice, bool], None]
    proc: Callable[[RtcDevice], bytes]


@slotted
class RtcTimer:
    """struct rtc_timer: something to be done when the clock shows `expires` (seconds). period: seconds, 0: once."""

    func: Callable[[RtcDevice], None]
    expires: int = 0
    period: int = 0
    enabled: bool = False


@slotted
class RtcDevice:
    """struct rtc_device."""

    kernel: Kernel
    name: bytes
    chip: Rtc
    ops: RtcClassOps
    aie_timer: RtcTimer
    uie_rtctimer: RtcTimer
    pie_timer: Hrtimer
    irqwork: WorkStruct
    ops_lock: Mutex = field(default_factory=Mutex)
    timerqueue: list[RtcTimer] = field(default_factory=list)
    busy: bool = False                             # RTC_DEV_BUSY: open
    # what read(2) answers: kind of interrupt, and how many since the last read << 8
    irq_data: int = 0
    irq_queue: WaitQueueHead = field(default_factory=WaitQueueHead)
    irq_freq: int = 1024
    max_user_freq: int = 64
    pie_enabled: bool = False
