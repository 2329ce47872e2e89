"""What is in cpuN: taking the CPU off line and back, its hotplug state, crash notes. Made when somebody looks there.

Linux: register_cpu(), the cpu_subsys bus of drivers/base/cpu.c, device_offline() and device_online() of core.c, the
sysfs half of kernel/cpu.c (5.3). Same: files, modes, errors; an event tells of the change.
Owns: device_hotplug_lock. Lock order: device_hotplug_lock, then cpuhp.cpu_add_remove_lock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.cacheinfo import cache_add_dev
from glasskernel.drivers.base.power_sysfs import dpm_sysfs_add
from glasskernel.drivers.base.topology import add_topology
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, kobject_uevent, sysfs_create_file, sysfs_create_group
from glasskernel.kernel.cpu import (
    CPUHP_BRINGUP_CPU,
    CPUHP_OFFLINE,
    CPUHP_ONLINE,
    CpuhpCpuState,
    cpu_down,
    cpu_up,
    cpuhp_is_atomic_state,
    do_cpu_down,
    do_cpu_up,
)
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.slab_common import kmalloc
from glasskernel.mm.slab_types import PAGE_OFFSET

if TYPE_CHECKING:
    from glasskernel.drivers.base.core import Device
    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.init.kernel import Kernel

NOTE_BUF_SIZE = 2 * 12 + 8 + 336       # note_buf_t: two heads of ELF notes, the name "CORE", struct elf_prstatus


@notrace
def _cpu(kobj: Kobject) -> int:
    number: int = kobj.data.data
    return number


@notrace
def _state(kobj: Kobject) -> CpuhpCpuState:
    return kobj.kernel.cpu_hotplug().cpu[_cpu(kobj)]


@notrace
def strtobool(text: bytes) -> bool:
    """Errors: EINVAL."""
    first = text[:2].lower()
    if first[:1] in (b"y", b"1") or first == b"on":
        return True
    if first[:1] in (b"n", b"0") or first == b"of":
        return False
    raise KernelError(EINVAL)


@notrace
def kstrtoint(text: bytes) -> int:
    """A decimal number and a newline at most. Errors: EINVAL."""
    word = text.removesuffix(b"\n")
    if not word.removeprefix(b"-").isdigit():
        raise KernelError(EINVAL)
    return int(word)


# ---- online --------------------------------------------------------------------------------------------------------
def online_show(kobj: Kobject) -> bytes:
    return b"%d\n" % (kobj.kernel.sched.cpu_online_mask >> _cpu(kobj) & 1)


@may_sleep
def online_store(kobj: Kobject, text: bytes) -> None:
    """Errors: EINVAL, EBUSY (the last CPU; promises to SCHED_DEADLINE tasks), EAGAIN and ENOMEM (no threads)."""
    val = strtobool(text)
    lock = kobj.kernel.cpu_hotplug().device_hotplug_lock
    mutex_lock(lock)                               # lock_device_hotplug_sysfs()
    try:
        if val:
            device_online(kobj.data)
        else:
            device_offline(kobj.data)
    finally:
        mutex_unlock(lock)


@may_sleep
def device_online(dev: Device) -> None:
    kobj = dev.kobj
    if not kobj.kernel.sched.cpu_online_mask >> dev.data & 1:
        cpu_subsys_online(dev)
        kobject_uevent(kobj, b"online")


@may_sleep
def device_offline(dev: Device) -> None:
    kobj = dev.kobj
    if kobj.kernel.sched.cpu_online_mask >> dev.data & 1:
        cpu_subsys_offline(dev)
        kobject_uevent(kobj, b"offline")


@may_sleep
def cpu_subsys_online(dev: Device) -> None:
    cpu_up(dev.kobj.kernel, dev.data)


@may_sleep
def cpu_subsys_offline(dev: Device) -> None:
    cpu_down(dev.kobj.kernel, dev.data)


# ---- hotplug/ ------------------------------------------------------------------------------------------------------
def show_cpuhp_state(kobj: Kobject) -> bytes:
    return b"%d\n" % _state(kobj).state


def show_cpuhp_target(kobj: Kobject) -> bytes:
    return b"%d\n" % _state(kobj).target


@may_sleep
def write_cpuhp_target(kobj: Kobject, text: bytes) -> None:
    """Without CONFIG_CPU_HOTPLUG_STATE_CONTROL only all the way up or down. Errors: EINVAL, those of online_store()."""
    target = kstrtoint(text)
    if target not in (CPUHP_OFFLINE, CPUHP_ONLINE):
        raise KernelError(EINVAL)
    kernel, cpu = kobj.kernel, _cpu(kobj)
    hotplug = kernel.cpu_hotplug()
    mutex_lock(hotplug.device_hotplug_lock)
    try:
        if hotplug.cpu[cpu].state < target:
            do_cpu_up(kernel, cpu, target)
        else:
            do_cpu_down(kernel, cpu, target)
    finally:
        mutex_unlock(hotplug.device_hotplug_lock)


def show_cpuhp_fail(kobj: Kobject) -> bytes:
    return b"%d\n" % _state(kobj).fail


def write_cpuhp_fail(kobj: Kobject, text: bytes) -> None:
    """The callback of this state fails once. Errors: EINVAL for a state that has none, or must not fail.

    What happens to a dead CPU must not (5.12; 5.3 lets it, and is left with a CPU that is neither here nor there).
    """
    fail = kstrtoint(text)
    if not CPUHP_OFFLINE <= fail <= CPUHP_ONLINE or cpuhp_is_atomic_state(fail):
        raise KernelError(EINVAL)
    if fail < CPUHP_BRINGUP_CPU < _state(kobj).state:
        raise KernelError(EINVAL)
    step = kobj.kernel.cpu_hotplug().steps.get(fail)
    if step is None or (step.startup is None and step.teardown is None):
        raise KernelError(EINVAL)
    _state(kobj).fail = fail


_HOTPLUG = (
    Attribute(b"state", show_cpuhp_state), Attribute(b"target", show_cpuhp_target, write_cpuhp_target, 0o644),
    Attribute(b"fail", show_cpuhp_fail, write_cpuhp_fail, 0o644),
)


# ---- kdump ---------------------------------------------------------------------------------------------------------
@notrace
def crash_notes_memory_init(kernel: Kernel) -> int:
    """Where the CPUs' notes lie, one behind the other: a physical address. Allocated when first asked."""
    hotplug = kernel.cpu_hotplug()
    if not hotplug.crash_notes:
        hotplug.crash_notes = kmalloc(kernel, NOTE_BUF_SIZE * len(kernel.machine.cpus), GFP_KERNEL) - PAGE_OFFSET
    return hotplug.crash_notes


def crash_notes_show(kobj: Kobject) -> bytes:
    return b"%x\n" % (crash_notes_memory_init(kobj.kernel) + NOTE_BUF_SIZE * _cpu(kobj))


def crash_notes_size_show(kobj: Kobject) -> bytes:
    return b"%d\n" % NOTE_BUF_SIZE


_CRASH = (Attribute(b"crash_notes", crash_notes_show, mode=0o400),
          Attribute(b"crash_notes_size", crash_notes_size_show, mode=0o400))


# ---- the directory -------------------------------------------------------------------------------------------------
@notrace
def populate_cpu(kn: KernfsNode) -> None:
    """Somebody looks into cpuN."""
    kobj: Kobject = kn.priv
    device: Device = kobj.data
    if device.data:
        sysfs_create_file(kobj, Attribute(b"online", online_show, online_store, 0o644))
    sysfs_create_group(kobj, _CRASH)
    sysfs_create_group(kobj, _HOTPLUG, b"hotplug")
    dpm_sysfs_add(kobj)
    if kobj.kernel.sched.cpu_online_mask >> device.data & 1:
        add_topology(device)
        cache_add_dev(device)


# ---- /sys/devices/system/cpu/hotplug, smt ----------------------------------------------------------------------------
def show_cpuhp_states(kobj: Kobject) -> bytes:
    """Every step with its number."""
    steps = kobj.kernel.cpu_hotplug().steps
    return b"".join(b"%3d: %b\n" % (state, step.name.encode()) for state, step in steps.items())
