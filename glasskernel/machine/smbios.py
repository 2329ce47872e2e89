"""What the firmware tells of the machine: an SMBIOS 3.0 table.

Source: DMTF DSP0134 (System Management BIOS), structures 0, 1, 4, 16, 17, 19, 32 and 127.
The machine is one board with one processor package whose cores are the virtual CPUs, and one memory module.
"""
from __future__ import annotations

import struct

_TABLE_ADDRESS = 0xF0000            # where a PC's firmware leaves it; nothing else lies there
_PROCESSOR, _SOCKET, _MEMORY_ARRAY, _MEMORY_MODULE = 0x0400, 0x0400, 0x1000, 0x1100


class _Table:
    def __init__(self) -> None:
        self.data = b""

    def add(self, kind: int, handle: int, fields: bytes, *strings: str) -> None:
        """One structure: header, formatted area, then its strings, which fields name by number from 1."""
        self.data += struct.pack("<BBH", kind, 4 + len(fields), handle) + fields
        self.data += b"".join(s.encode() + b"\0" for s in strings) + (b"\0" if strings else b"\0\0")


def smbios_tables(
    cpus: int, memory: int, mhz: int, signature: tuple[int, int], model: str, seed: int
) -> tuple[bytes, bytes]:
    """(entry point, table). memory: bytes. mhz, model: of the CPUs. signature: EAX and EDX of CPUID leaf 1."""
    table = _Table()
    identity = bytearray((seed & (1 << 128) - 1).to_bytes(16, "big"))      # a UUID of version 4
    identity[6], identity[8] = identity[6] & 0x0F | 0x40, identity[8] & 0x3F | 0x80
    # RFC 4122's first three fields are little-endian here
    little_endian = bytes(identity[3::-1] + identity[5:3:-1] + identity[7:5:-1] + identity[8:])
    # 0: vendor, version, segment, date, size of the ROM, characteristics (not supported; virtual machine), releases
    table.add(0, 0, struct.pack("<BBHBBQBBBBBB", 1, 2, 0xF000, 3, 0, 1 << 3, 0, 0x10, 1, 0, 0xFF, 0xFF),
              "Glasskernel", "1.0", "09/15/2019")
    # 1: manufacturer, product, version, serial, UUID, wake-up type (power switch), SKU, family
    table.add(1, 0x100, struct.pack("<BBBB16sBBB", 1, 2, 3, 0, little_endian, 6, 0, 0),
              "Glasskernel", "Virtual Machine", "1")
    cores = min(cpus, 255)
    # 4: socket, central processor, family "see 2", manufacturer, ID, version, voltage, clocks, enabled, no upgrade,
    # no caches, serial, asset tag, part number, cores, 64-bit capable and multi-core, family 2: Xeon
    table.add(4, _PROCESSOR, struct.pack(
        "<BBBBIIBBHHHBBHHHBBBBBBHH", 1, 3, 0xFE, 2, *signature, 3, 0, 0, mhz, mhz, 0x41, 1, 0xFFFF, 0xFFFF, 0xFFFF,
        0, 0, 0, cores, cores, cores, 0x0C if cpus > 1 else 0x04, 0xB3), "CPU 0", "GenuineIntel", model)
    # 16: on the board, system memory, no error correction; then the maximum, one device
    table.add(16, _MEMORY_ARRAY, struct.pack("<BBBIHHQ", 3, 3, 3, 0x8000_0000, 0xFFFE, 1, memory))
    megabytes = memory >> 20
    # 17: one module of RAM
    table.add(17, _MEMORY_MODULE, struct.pack(
        "<HHHHHBBBBBHHBBBBBIH", _MEMORY_ARRAY, 0xFFFE, 64, 64, min(megabytes, 0x7FFF), 9, 0, 1, 0, 7, 2, 0, 2, 0, 0, 0,
        0, megabytes if megabytes >= 0x7FFF else 0, 0), "DIMM 0", "Glasskernel")
    # 19: where the memory array is mapped, in KB
    table.add(19, 0x1300, struct.pack("<IIHBQQ", 0, (memory >> 10) - 1, _MEMORY_ARRAY, 1, 0, 0))
    table.add(32, 0x2000, bytes(7))                    # booted without errors
    table.add(127, 0x7F00, b"")
    entry = bytearray(struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, 24, 3, 0, 0, 1, 0, len(table.data), _TABLE_ADDRESS))
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry), table.data
