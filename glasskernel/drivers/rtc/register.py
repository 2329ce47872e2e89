"""Making the clock's object, when somebody uses it.

Linux: rtc_allocate_device() of drivers/rtc/class.c, cmos_do_probe() of rtc-cmos.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.rtc.interface import (
    rtc_aie_update_irq,
    rtc_pie_update_irq,
    rtc_timer_do_work,
    rtc_uie_update_irq,
)
from glasskernel.drivers.rtc.lib import rtc_tm_to_time64
from glasskernel.drivers.rtc.rtc_cmos import cmos_do_probe, cmos_rtc_ops
from glasskernel.drivers.rtc.types import RtcDevice, RtcTimer
from glasskernel.kernel.time.hrtimer import hrtimer_init
from glasskernel.kernel.time.types import CLOCK_MONOTONIC, HRTIMER_MODE_REL, Hrtimer
from glasskernel.kernel.workqueue import WorkStruct
from glasskernel.lib.types import notrace
from glasskernel.machine.rtc import Rtc

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

_DAY = 86400


@notrace
def rtc_register_device(kernel: Kernel) -> RtcDevice:
    """The chip as it is at this moment: it has kept time since power-on."""
    rtc = RtcDevice(kernel, b"rtc_cmos", Rtc(kernel.machine, kernel.params.boot_time_ns), cmos_rtc_ops,
                    RtcTimer(rtc_aie_update_irq), RtcTimer(rtc_uie_update_irq), Hrtimer(rtc_pie_update_irq),
                    WorkStruct(rtc_timer_do_work))
    rtc.irqwork.data = rtc.pie_timer.data = rtc
    hrtimer_init(rtc.pie_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
    cmos_do_probe(rtc)
    rtc_initialize_alarm(rtc)
    return rtc


def rtc_initialize_alarm(rtc: RtcDevice) -> None:
    """The alarm of who set it before us: the next time that the clock shows what its registers say."""
    now = rtc_tm_to_time64(rtc.ops.read_time(rtc))
    alarm = rtc.ops.read_alarm(rtc).time
    hour, minute, second = (0 if value < 0 else value for value in (alarm.tm_hour, alarm.tm_min, alarm.tm_sec))
    expires = now - now % _DAY + (hour * 60 + minute) * 60 + second
    rtc.aie_timer.expires = expires if expires > now else expires + _DAY
