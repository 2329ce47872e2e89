"""/sys/firmware/acpi: the tables, and how often which event came.

Linux: drivers/acpi/sysfs.c (5.3). Same: one binary file a table, for root; counters with the state of their event; 0
    written to a counter clears it, `enable` and `disable` turn an event on and off.
Owns: nothing. Gaps: gpeNN, hotplug, the profile files other than pm_profile.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.acpi.event import (
    EVENT_BITS,
    EVENT_NAMES,
    AcpiState,
    acpi_enable_event,
    acpi_event_enabled,
)
from glasskernel.fs.sysfs.kobject import Attribute, kobject_create_and_add, sysfs_create_bin_file, sysfs_create_file
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.sysfs.kobject import Kobject


@notrace
def acpi_sysfs_init(acpi: AcpiState, firmware: Kobject) -> None:
    """Fills /sys/firmware/acpi."""
    tables = kobject_create_and_add(b"tables", firmware)
    for signature in sorted(acpi.tables.tables):
        if signature != b"RSDT":                 # the list itself is none of them
            table = acpi.tables.tables[signature]
            sysfs_create_bin_file(tables, Attribute(signature, _constant(table), mode=0o400), len(table))
    interrupts = kobject_create_and_add(b"interrupts", firmware)
    for event, name in enumerate(EVENT_NAMES):
        show, store = _show_event(acpi, event), _store_event(acpi, event)
        sysfs_create_file(interrupts, Attribute(name.encode(), show, store, 0o644))
    sysfs_create_file(interrupts, Attribute(b"sci", lambda _kobj: b"%8d\n" % acpi.sci_count))
    sysfs_create_file(interrupts, Attribute(b"sci_not", lambda _kobj: b"%8d\n" % acpi.sci_not_count))
    sysfs_create_file(firmware, Attribute(b"pm_profile", lambda _kobj: b"%d\n" % acpi.tables.tables[b"FACP"][45]))


@notrace
def _constant(data: bytes) -> Callable[[Kobject], bytes]:
    return notrace(lambda _kobj: data)


@notrace
def _show_event(acpi: AcpiState, event: int) -> Callable[[Kobject], bytes]:
    def counter_show(kobj: Kobject) -> bytes:
        enabled = acpi_event_enabled(acpi, event)
        pending = acpi.registers.inw(acpi.tables.pm1_event_block) & EVENT_BITS[event]
        handled = b"invalid" if event not in acpi.handlers else b"enabled" if enabled else b"disabled"
        return b"%8d%b%b  %-12b  unmasked\n" % (acpi.fixed_event_count[event], b"  EN" if enabled else b"    ",
                                                b"  STS" if pending else b"     ", handled)

    return counter_show


@notrace
def _store_event(acpi: AcpiState, event: int) -> Callable[[Kobject, bytes], None]:
    def counter_set(kobj: Kobject, text: bytes) -> None:
        word = text.strip()
        port = acpi.tables.pm1_event_block + 2
        if event not in acpi.handlers:
            raise KernelError(EINVAL)
        if word == b"enable":
            acpi_enable_event(acpi, event)
        elif word == b"disable":
            acpi.registers.outw(port, acpi.registers.inw(port) & ~EVENT_BITS[event])
        elif word == b"clear":
            acpi.registers.outw(acpi.tables.pm1_event_block, EVENT_BITS[event])
        elif word.isdigit():
            acpi.fixed_event_count[event] = int(word)
        else:
            raise KernelError(EINVAL)

    return counter_set
