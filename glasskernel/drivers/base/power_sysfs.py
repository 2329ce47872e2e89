"""The power/ directory of a device that has no runtime power management.

Linux: drivers/base/power/sysfs.c, runtime.c, qos.c (5.3). Same: files, modes, values, who fails how.
Owns: DevPmInfo. Gaps: devices that suspend, wakeup sources.
"""
from __future__ import annotations

from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_group
from glasskernel.lib.errno import EINVAL, EIO, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

PM_QOS_RESUME_LATENCY_NO_CONSTRAINT = (1 << 31) - 1


@slotted
class DevPmInfo:
    """struct dev_pm_info, of a device whose runtime_status is "unsupported". usage_count: who forbids suspending."""

    runtime_auto: bool = True
    usage_count: int = 0
    async_suspend: bool = False
    resume_latency_us: int = PM_QOS_RESUME_LATENCY_NO_CONSTRAINT


@notrace
def _power(kobj: Kobject) -> DevPmInfo:
    info: DevPmInfo = kobj.data
    return info


def control_show(kobj: Kobject) -> bytes:
    return b"auto\n" if _power(kobj).runtime_auto else b"on\n"


def control_store(kobj: Kobject, text: bytes) -> None:
    """Errors: EINVAL."""
    word = text.removesuffix(b"\n")
    if word not in (b"auto", b"on"):
        raise KernelError(EINVAL)
    power = _power(kobj)
    if power.runtime_auto != (word == b"auto"):    # pm_runtime_allow(), pm_runtime_forbid()
        power.runtime_auto = not power.runtime_auto
        power.usage_count += -1 if power.runtime_auto else 1


def async_show(kobj: Kobject) -> bytes:
    return b"enabled\n" if _power(kobj).async_suspend else b"disabled\n"


def async_store(kobj: Kobject, text: bytes) -> None:
    """Errors: EINVAL."""
    word = text.removesuffix(b"\n")
    if word not in (b"enabled", b"disabled"):
        raise KernelError(EINVAL)
    _power(kobj).async_suspend = word == b"enabled"


def autosuspend_delay_ms_show(kobj: Kobject) -> bytes:
    """Errors: EIO: the device does not use it."""
    raise KernelError(EIO)


def autosuspend_delay_ms_store(kobj: Kobject, text: bytes) -> None:
    """Errors: EIO: the device does not use it."""
    raise KernelError(EIO)


def pm_qos_resume_latency_us_show(kobj: Kobject) -> bytes:
    value = _power(kobj).resume_latency_us
    if not value:
        return b"n/a\n"
    return b"%d\n" % (0 if value == PM_QOS_RESUME_LATENCY_NO_CONSTRAINT else value)


def pm_qos_resume_latency_us_store(kobj: Kobject, text: bytes) -> None:
    """0: no limit; "n/a": no delay at all. Errors: EINVAL."""
    word = text.removesuffix(b"\n")
    if word == b"n/a":
        _power(kobj).resume_latency_us = 0
    elif word.isdigit() and int(word) < PM_QOS_RESUME_LATENCY_NO_CONSTRAINT:
        _power(kobj).resume_latency_us = int(word) or PM_QOS_RESUME_LATENCY_NO_CONSTRAINT
    else:
        raise KernelError(EINVAL)


_ATTRS = (
    Attribute(b"control", control_show, control_store, 0o644), Attribute(b"async", async_show, async_store, 0o644),
    Attribute(b"autosuspend_delay_ms", autosuspend_delay_ms_show, autosuspend_delay_ms_store, 0o644),
    Attribute(b"pm_qos_resume_latency_us", pm_qos_resume_latency_us_show, pm_qos_resume_latency_us_store, 0o644),
    Attribute(b"runtime_usage", lambda k: b"%d\n" % _power(k).usage_count),
    Attribute(b"runtime_active_kids", lambda k: b"0\n"), Attribute(b"runtime_active_time", lambda k: b"0\n"),
    Attribute(b"runtime_suspended_time", lambda k: b"0\n"), Attribute(b"runtime_enabled", lambda k: b"disabled\n"),
    Attribute(b"runtime_status", lambda k: b"unsupported\n"),
)


def dpm_sysfs_add(kobj: Kobject) -> None:
    """power/ in the directory of a device."""
    sysfs_create_group(Kobject(kobj.kernel, b"power", kobj, kobj.sd, data=DevPmInfo()), _ATTRS, b"power")
