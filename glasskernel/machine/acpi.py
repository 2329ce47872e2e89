"""ACPI as the firmware of a PC offers it: tables in its ROM, and the power-management registers.

Source: ACPI specification 5.1: RSDP, RSDT, FADT (revision 1), FACS, DSDT, MADT. The tables say what this machine has:
    a local APIC for each CPU, one I/O APIC, the timer on its input 2, the SCI on line 9, registers at ports 0x600 to
    0x605.
Owns: the PM1 registers.  Gaps: AML (the DSDT is empty), sleeping states, general-purpose events, the PM timer.
Invariant: the SCI is raised when a status bit that is enabled comes up.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.machine.machine import Machine

SCI_IRQ = 9
PM1_EVENT_BLOCK, PM1_CONTROL_BLOCK, SMI_COMMAND = 0x600, 0x604, 0xB2
ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0                # values for SMI_COMMAND
PM1_TIMER, PM1_GLOBAL_LOCK, PM1_POWER_BUTTON, PM1_SLEEP_BUTTON = 1, 1 << 5, 1 << 8, 1 << 9       # status and enable
PM1_SCI_ENABLE = 1                                    # control
RSDP_ADDRESS, TABLES_ADDRESS = 0xF0040, 0xF0080
LOCAL_APIC_ADDRESS, IO_APIC_ADDRESS = 0xFEE00000, 0xFEC00000
_FLAG_WBINVD, _FLAG_SLEEP_BUTTON_IS_A_DEVICE = 1, 1 << 5


def _checksum(table: bytes, at: int) -> bytes:
    data = bytearray(table)
    data[at] = -sum(data) & 0xFF
    return bytes(data)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with its header: 36 bytes, sum 0."""
    header = struct.pack("<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, b"GLASSK", b"VMACHINE", 1, b"GLSK",
                         1)
    return _checksum(header + body, 9)


def _madt(cpus: int) -> bytes:
    entries = b"".join(struct.pack("<BBBBI", 0, 8, cpu, cpu, 1) for cpu in range(cpus))
    entries += struct.pack("<BBBBII", 1, 12, cpus, 0, IO_APIC_ADDRESS, 0)
    entries += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0)              # ISA line 0 (the timer) is input 2
    entries += struct.pack("<BBBBIH", 2, 10, 0, SCI_IRQ, SCI_IRQ, 0xD)     # level, active high
    entries += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)                # all CPUs: NMI at LINT1
    return _table(b"APIC", 1, struct.pack("<II", LOCAL_APIC_ADDRESS, 1) + entries)


def _fadt(facs: int, dsdt: int) -> bytes:
    body = struct.pack("<IIBBHIBBBBIIIIIIII", facs, dsdt, 1, 0, SCI_IRQ, SMI_COMMAND, ACPI_ENABLE, ACPI_DISABLE, 0, 0,
                       PM1_EVENT_BLOCK, 0, PM1_CONTROL_BLOCK, 0, 0, 0, 0, 0)
    body += struct.pack("<BBBBBBBBHHHHBBBBBHBI", 4, 2, 0, 0, 0, 0, 0, 0, 0xFFF, 0xFFF, 0, 0, 0, 0, 0, 0, 0x32, 3, 0,
                        _FLAG_WBINVD | _FLAG_SLEEP_BUTTON_IS_A_DEVICE)
    return _table(b"FACP", 1, body)


def acpi_tables(cpus: int) -> dict[int, bytes]:
    """What lies where in the ROM: physical address -> table."""
    rom: dict[int, bytes] = {}
    address = TABLES_ADDRESS

    def place(table: bytes) -> int:
        nonlocal address
        at, address = address, (address + len(table) + 63) & ~63
        rom[at] = table
        return at

    facs = place(struct.pack("<4sI4I", b"FACS", 64, 0, 0, 0, 0) + bytes(40))
    dsdt = place(_table(b"DSDT", 1, b""))
    tables = [place(_fadt(facs, dsdt)), place(_madt(cpus))]
    rsdt = place(_table(b"RSDT", 1, struct.pack(f"<{len(tables)}I", *tables)))
    rom[RSDP_ADDRESS] = _checksum(struct.pack("<8sB6sBI", b"RSD PTR ", 0, b"GLASSK", 0, rsdt), 8)
    return rom


class AcpiRegisters:
    """PM1_STS, PM1_EN and PM1_CNT."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._status = self._enable = self._control = 0

    def inw(self, port: int) -> int:
        return {0: self._status, 2: self._enable, 4: self._control}.get(port - PM1_EVENT_BLOCK, 0xFFFF)

    def outw(self, port: int, value: int) -> None:
        """Ones clear status bits."""
        if port == PM1_EVENT_BLOCK:
            self._status &= ~value
        elif port == PM1_EVENT_BLOCK + 2:
            self._enable = value
            self._update(0)
        elif port == PM1_CONTROL_BLOCK:
            self._control = value & ~PM1_SCI_ENABLE | self._control & PM1_SCI_ENABLE

    def smi(self, value: int) -> None:
        """Port 0xB2: the firmware hands the events over, or takes them back."""
        if value in (ACPI_ENABLE, ACPI_DISABLE):
            self._control = self._control & ~PM1_SCI_ENABLE | int(value == ACPI_ENABLE)

    def press_power_button(self) -> None:
        """For whoever builds the machine."""
        self._update(PM1_POWER_BUTTON)

    def _update(self, coming: int) -> None:
        self._status |= coming
        if self._status & self._enable and self._control & PM1_SCI_ENABLE:
            self.machine.post_irq(SCI_IRQ)
