"""Looking for a partition table.

Linux: block/partitions/check.c, msdos.c, efi.c (5.3). Same: GPT wins over the protective MBR; logical partitions are
    numbered from 5; an MBR without a valid flag byte is none.
Gaps: other kinds of tables (BSD, Sun, LDM, ...), the alternate GPT header is used only when the primary one is bad.
Context: task; the disk is open.
"""
from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from glasskernel.fs.buffer import __bread_gfp
from glasskernel.fs.buffer_io import brelse
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice, Gendisk

_GPT_SIGNATURE = b"EFI PART"
_EXTENDED = (0x05, 0x0F, 0x85)


@slotted
class FoundPartition:
    start: int
    size: int
    uuid: bytes = b""
    volname: bytes = b""


@slotted
class ParsedPartitions:
    """struct parsed_partitions. text: what the kernel's log says, b" sda1 sda2"."""

    bdev: BlockDevice
    disk: Gendisk
    name: bytes
    parts: dict[int, FoundPartition] = field(default_factory=dict)
    text: str = ""


@may_sleep
def read_part_sector(state: ParsedPartitions, sector: int, count: int = 1) -> bytes | None:
    """Sectors of the disk, through its page cache; None if they cannot be read."""
    if sector + count > state.disk.part0.nr_sects:
        return None
    size = state.bdev.bd_block_size
    parts = []
    offset, left = sector * 512, count * 512
    while left:
        block, start = divmod(offset, size)
        bh = __bread_gfp(state.bdev, block, size, 0)
        if bh is None:
            return None
        take = min(size - start, left)
        parts.append(bytes(bh.b_data[start : start + take]))
        brelse(bh)
        offset += take
        left -= take
    return b"".join(parts)


@notrace
def put_partition(
    state: ParsedPartitions, number: int, start: int, size: int, uuid: bytes = b"", volname: bytes = b""
) -> None:
    state.parts[number] = FoundPartition(start, size, uuid, volname)
    state.text += f" {state.name.decode()}{number}"


@may_sleep
def check_partition(disk: Gendisk, bdev: BlockDevice) -> ParsedPartitions | None:
    """What is on the disk; None: no table, or it cannot be read."""
    name = disk.disk_name + (b"p" if disk.disk_name[-1:].isdigit() else b"")
    state = ParsedPartitions(bdev, disk, name)
    for check in (efi_partition, msdos_partition):
        if check(state):
            return state
    return None


# ---- MBR -------------------------------------------------------------------------------------------------------
@may_sleep
def msdos_partition(state: ParsedPartitions) -> bool:
    """True if there is a (possibly empty) MBR."""
    data = read_part_sector(state, 0)
    if data is None or data[510:512] != b"\x55\xaa":
        return False
    entries = [data[446 + 16 * n : 462 + 16 * n] for n in range(4)]
    if any(entry[0] & 0x7F for entry in entries):          # the boot flag: else it is a FAT boot sector or the like
        return False
    for number, entry in enumerate(entries, 1):
        start, size = struct.unpack_from("<II", entry, 8)
        if not size:
            continue
        if entry[4] in _EXTENDED:
            put_partition(state, number, start, min(size, 2))        # a stub, so that nobody formats it
            state.text += " <"
            parse_extended(state, start, size)
            state.text += " >"
        else:
            put_partition(state, number, start, size)
    return True


@may_sleep
def parse_extended(state: ParsedPartitions, first_sector: int, first_size: int) -> None:
    """The chain of logical partitions."""
    this_sector, number = first_sector, 5
    for _ in range(100):
        data = read_part_sector(state, this_sector)
        if data is None or data[510:512] != b"\x55\xaa":
            return
        next_sector = 0
        for index in range(4):
            kind = data[446 + 16 * index + 4]
            start, size = struct.unpack_from("<II", data, 446 + 16 * index + 8)
            if not size:
                continue
            if kind in _EXTENDED:
                next_sector = next_sector or first_sector + start
            elif index < 2:
                put_partition(state, number, this_sector + start, size)
                number += 1
        if not next_sector:
            return
        this_sector = next_sector


# ---- GPT -------------------------------------------------------------------------------------------------------
@notrace
def _guid(raw: bytes) -> bytes:
    a, b, c = struct.unpack_from("<IHH", raw)
    tail = raw[8:].hex()
    return f"{a:08x}-{b:04x}-{c:04x}-{tail[:4]}-{tail[4:]}".encode()


@may_sleep
def is_gpt_valid(state: ParsedPartitions, lba: int) -> bytes | None:
    """The partition entries of a sound header at this sector, with their size in front; None if it is not sound."""
    block = state.disk.queue.limits.logical_block_size >> 9
    header = read_part_sector(state, lba * block)
    if header is None or header[:8] != _GPT_SIGNATURE:
        return None
    size, crc = struct.unpack_from("<II", header, 12)
    if not 92 <= size <= 512 or zlib.crc32(header[:16] + bytes(4) + header[20:size]) != crc:
        return None
    my_lba, = struct.unpack_from("<Q", header, 24)
    table, count, entry_size, table_crc = struct.unpack_from("<QIII", header, 72)
    if my_lba != lba or entry_size < 128 or count > 4096:
        return None
    length = count * entry_size
    entries = read_part_sector(state, table * block, (length + 511) // 512)
    if entries is None or zlib.crc32(entries[:length]) != table_crc:
        return None
    return int(entry_size).to_bytes(4, "little") + bytes(entries[:length])


@may_sleep
def efi_partition(state: ParsedPartitions) -> bool:
    """True if there is a GPT."""
    mbr = read_part_sector(state, 0)
    if mbr is None or mbr[510:512] != b"\x55\xaa" or all(mbr[450 + 16 * n] != 0xEE for n in range(4)):
        return False
    last = state.disk.part0.nr_sects // (state.disk.queue.limits.logical_block_size >> 9) - 1
    found = is_gpt_valid(state, 1)
    if found is None:
        found = is_gpt_valid(state, last)
        if found is None:
            return False
        state.disk.queue.kernel.printk("Alternate GPT is used: the primary one is invalid.", 4)
    entry_size = int.from_bytes(found[:4], "little")
    block = state.disk.queue.limits.logical_block_size >> 9
    for number in range((len(found) - 4) // entry_size):
        entry = found[4 + number * entry_size :][:128]
        first, end = struct.unpack_from("<QQ", entry, 32)
        if entry[:16] == bytes(16) or first > last or end > last or end < first:
            continue
        label = entry[56:128].decode("utf-16-le", "replace").split("\0", 1)[0].encode()
        put_partition(state, number + 1, first * block, (end - first + 1) * block, _guid(entry[16:32]), label)
    return True
