"""CRC16 (polynomial 0x8005, reflected).

Linux: lib/crc16.c. ext4 without metadata_csum keeps it in group descriptors.
"""
from __future__ import annotations

from glasskernel.lib.types import notrace


@notrace
def crc16(crc: int, data: bytes | bytearray | memoryview) -> int:
    """Goes on with `crc` over `data`."""
    for byte in bytes(data):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc
