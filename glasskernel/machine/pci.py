"""The PCI bus: which functions answer on it, and their configuration space.

An Intel 440FX host bridge at 00.0, and the network card (machine/nic.py) at 03.0 if the machine has one. Read and
written as through the ports 0xCF8 and 0xCFC. Knows nothing of Linux.
Gaps: bridges to other buses, PCI Express, capabilities, moving windows (base addresses are where the firmware put
them).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.machine.nic import DEVICE_ID, NIC_IRQ, VENDOR_ID

if TYPE_CHECKING:
    from glasskernel.machine.machine import Machine

CONFIG_SIZE = 256
HOST_BRIDGE, NIC_DEVFN = 0 << 3, 3 << 3
NIC_WINDOW, NIC_WINDOW_SIZE = 0xFEBC0000, 0x20000
NIC_PORTS, NIC_PORTS_SIZE = 0xC000, 0x40
COMMAND_REGISTER, COMMAND_WRITABLE, COMMAND_ON = 4, 0x0547, 0x0107


def _config(ids: tuple[int, int], class_: int, revision: int, subsystem: tuple[int, int]) -> bytearray:
    config = bytearray(CONFIG_SIZE)
    config[0:2], config[2:4] = (number.to_bytes(2, "little") for number in ids)
    config[4:6] = COMMAND_ON.to_bytes(2, "little")
    config[8] = revision
    config[9:12] = class_.to_bytes(3, "little")
    config[0x2C:0x2E], config[0x2E:0x30] = (number.to_bytes(2, "little") for number in subsystem)
    return config


class PciBus:
    """Bus 0."""

    def __init__(self, machine: Machine) -> None:
        self._functions = {HOST_BRIDGE: _config((0x8086, 0x1237), 0x060000, 2, (0, 0))}
        if machine.has_nic:
            nic = self._functions[NIC_DEVFN] = _config((VENDOR_ID, DEVICE_ID), 0x020000, 2, (0x8086, 0x001E))
            nic[0x10:0x14] = NIC_WINDOW.to_bytes(4, "little")
            nic[0x14:0x18] = (NIC_PORTS | 1).to_bytes(4, "little")
            nic[0x3C], nic[0x3D] = machine.line_of(NIC_IRQ), 1          # line and pin A

    def read(self, devfn: int, offset: int, size: int) -> int:
        """`size` bytes (1, 2, 4) of a function's configuration; all ones if there is none."""
        config = self._functions.get(devfn)
        if config is None:
            return (1 << 8 * size) - 1
        return int.from_bytes(config[offset : offset + size], "little")

    def write(self, devfn: int, offset: int, size: int, value: int) -> None:
        """Only the command register and the interrupt line keep what is written."""
        config = self._functions.get(devfn)
        if config is None:
            return
        if offset == COMMAND_REGISTER:
            config[4:6] = (value & COMMAND_WRITABLE).to_bytes(2, "little")
        elif offset == 0x3C:
            config[0x3C] = value & 0xFF
