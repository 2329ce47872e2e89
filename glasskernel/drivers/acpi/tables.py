"""The firmware's tables: found, checked, and what the MADT and the FADT say.

Linux: drivers/acpi/tables.c, acpica/tbxfroot.c, tbutils.c, arch/x86/kernel/acpi/boot.c, /sys/firmware/acpi/tables of
    sysfs.c (5.3). Same: from the RSDP to the RSDT to the tables, each of which must add up to 0; the MADT names the
    CPUs.
Differs: read when somebody looks, not at boot: the machine's CPUs and lines are known without it.
Owns: nothing. Gaps: XSDT, AML.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, ENODEV, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.acpi import acpi_tables

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

ACPI_MADT_TYPE_LOCAL_APIC, ACPI_MADT_TYPE_IO_APIC, ACPI_MADT_TYPE_INTERRUPT_OVERRIDE = 0, 1, 2
ACPI_MADT_ENABLED = 1


@slotted
class AcpiTables:
    """acpi_gbl_root_table_list and what boot.c keeps of it. lapics: APIC ids of CPUs. overrides: ISA line -> input."""

    memory: dict[int, bytes]                    # the firmware's ROM
    tables: dict[bytes, bytes] = field(default_factory=dict)
    lapics: list[int] = field(default_factory=list)
    overrides: dict[int, int] = field(default_factory=dict)
    ioapic_address: int = 0
    sci_interrupt: int = 0
    pm1_event_block: int = 0
    pm1_control_block: int = 0
    smi_command: int = 0
    acpi_enable: int = 0


@notrace
def acpi_os_map_memory(acpi: AcpiTables, address: int, length: int) -> bytes:
    """Bytes of the ROM. Raises ENODEV where nothing is."""
    for start, table in acpi.memory.items():
        if start <= address and address + length <= start + len(table):
            return table[address - start : address - start + length]
    raise KernelError(ENODEV)


def acpi_table_init(kernel: Kernel) -> AcpiTables:
    """Finds all tables. Raises ENODEV (no ACPI here), EINVAL (a table is damaged)."""
    acpi = AcpiTables(acpi_tables(kernel.machine.nr_cpus))
    acpi_tb_parse_root_table(acpi, acpi_find_root_pointer(acpi))
    acpi_parse_fadt(acpi, acpi_get_table(acpi, b"FACP"))
    acpi_process_madt(acpi, acpi_get_table(acpi, b"APIC"))
    return acpi


def acpi_find_root_pointer(acpi: AcpiTables) -> int:
    """The RSDP lies on a 16-byte border between 0xE0000 and 0xFFFFF. Raises ENODEV."""
    for address in sorted(acpi.memory):
        if 0xE0000 <= address < 0x100000 and not address % 16 and acpi_tb_validate_rsdp(acpi.memory[address]):
            return address
    raise KernelError(ENODEV)


def acpi_tb_validate_rsdp(rsdp: bytes) -> bool:
    return rsdp[:8] == b"RSD PTR " and acpi_tb_checksum(rsdp[:20]) == 0


def acpi_tb_checksum(data: bytes) -> int:
    return sum(data) & 0xFF


def acpi_tb_parse_root_table(acpi: AcpiTables, rsdp_address: int) -> None:
    """The RSDT lists the tables; the FADT, the other two."""
    (rsdt_address,) = struct.unpack("<I", acpi_os_map_memory(acpi, rsdp_address + 16, 4))
    rsdt = acpi_tb_install_standard_table(acpi, rsdt_address)
    for (address,) in struct.iter_unpack("<I", rsdt[36:]):
        table = acpi_tb_install_standard_table(acpi, address)
        if table[:4] == b"FACP":
            facs, dsdt = struct.unpack("<II", table[36:44])
            acpi_tb_install_standard_table(acpi, dsdt)
            acpi_tb_install_standard_table(acpi, facs)


def acpi_tb_install_standard_table(acpi: AcpiTables, address: int) -> bytes:
    """One table, if it is sound. Raises EINVAL, ENODEV."""
    signature, length = struct.unpack("<4sI", acpi_os_map_memory(acpi, address, 8))
    table = acpi_os_map_memory(acpi, address, length)
    if signature != b"FACS" and acpi_tb_checksum(table):
        raise KernelError(EINVAL)
    acpi.tables[signature] = table
    return table


def acpi_get_table(acpi: AcpiTables, signature: bytes) -> bytes:
    """Raises ENODEV."""
    table = acpi.tables.get(signature)
    if table is None:
        raise KernelError(ENODEV)
    return table


def acpi_parse_fadt(acpi: AcpiTables, fadt: bytes) -> None:
    acpi.sci_interrupt, acpi.smi_command, acpi.acpi_enable = struct.unpack("<HIB", fadt[46:53])
    acpi.pm1_event_block, _, acpi.pm1_control_block = struct.unpack("<III", fadt[56:68])


def acpi_process_madt(acpi: AcpiTables, madt: bytes) -> None:
    """CPUs, the I/O APIC, and lines that are not wired as on the first PC. Raises EINVAL for an entry without end."""
    at = 44
    while at < len(madt):
        kind, length = madt[at], madt[at + 1]
        if length < 2 or at + length > len(madt):
            raise KernelError(EINVAL)
        entry = madt[at : at + length]
        if kind == ACPI_MADT_TYPE_LOCAL_APIC and entry[4] & ACPI_MADT_ENABLED:
            acpi.lapics.append(entry[3])
        elif kind == ACPI_MADT_TYPE_IO_APIC:
            (acpi.ioapic_address,) = struct.unpack("<I", entry[4:8])
        elif kind == ACPI_MADT_TYPE_INTERRUPT_OVERRIDE:
            (acpi.overrides[entry[3]],) = struct.unpack("<I", entry[4:8])
        at += length
