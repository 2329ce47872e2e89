"""The disk below /root: a fresh one, or the user's own.

The default machine has a disk of 1 GiB as a PC has it: a small first partition, and a second one with ext4 that is
mounted on /root. A disk that the user gives takes its place. Nothing that a disk holds is ever written over: only one
that is empty is formatted.
A boot must not wait for a mkfs, so the default disk's few pages come from home.bin, which home_image.py has made. Only
its UUID depends on the seed: with the feature metadata_csum_seed no checksum but the super blocks' own changes with it.
Owns: home.bin. Invariants: the same seed gives the same bytes.
"""
from __future__ import annotations

import os
import random
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from glasskernel.fs.ext4.disk import Ext4SuperBlock
from glasskernel.init.command import BOOT_TIME_NS, Device
from glasskernel.lib.crc32c import crc32c
from glasskernel.machine.disk import PAGE, SECTOR, Disk

if TYPE_CHECKING:
    from glasskernel.tools.image.geometry import MkfsOptions

DEFAULT_SIZE = 1 << 30
SECOND_PARTITION = 4096                    # sectors: as on the machine of the labs, whose sda2 begins there
HOME = os.path.join(os.path.dirname(__file__), "home.bin")
_GROUPS_WITH_SUPER_BLOCK = (0, 1, 3, 5, 7)
_GROUP = 128 << 20
_EXT3_INCOMPAT = 0x2 | 0x4 | 0x10          # filetype, recover, meta_bg
_EXT3_RO_COMPAT = 0x1 | 0x2 | 0x4          # sparse_super, large_file, btree_dir
_LEAST_TO_DIVIDE = 16 << 20


def home_disks(disks: Sequence[Disk], seed: int) -> tuple[list[Disk], Device]:
    """(disks of the machine, the device to mount on /root). disks: of the user; none: the default one.

    Raises ImageError for a first disk that is neither empty nor has a file system of ours.
    """
    if disks:
        return list(disks), prepare_home(disks[0], seed)
    return [default_disk(seed)], Device("/dev/sda2", fresh=True)


def default_disk(seed: int) -> Disk:
    """A fresh disk in memory. model "ssd": its delays are those of an everyday machine."""
    disk = Disk(size=DEFAULT_SIZE, model="ssd", seed=seed)
    with open(HOME, "rb") as file:
        pages = zlib.decompress(file.read())
    for at in range(0, len(pages), 4 + PAGE):
        disk.write_bytes(int.from_bytes(pages[at : at + 4], "little") * PAGE, pages[at + 4 : at + 4 + PAGE])
    dice = random.Random(f"home {seed}")
    disk.write_bytes(440, dice.randbytes(4))                   # the disk's signature, in the partition table
    uuid = random_uuid(dice)
    for group in _GROUPS_WITH_SUPER_BLOCK:
        offset = SECOND_PARTITION * SECTOR + group * _GROUP + (0 if group else 1024)
        block = bytearray(disk.read_bytes(offset, Ext4SuperBlock.SIZE))
        es = Ext4SuperBlock(block)
        es.s_uuid = es.s_hash_seed = uuid
        es.s_checksum = crc32c(0xFFFFFFFF, memoryview(block)[:0x3FC])
        disk.write_bytes(offset, bytes(block))
    return disk


def prepare_home(disk: Disk, seed: int) -> Device:
    """Formats an empty disk; where its ext4 is, as the first disk of a machine. Raises ImageError."""
    from glasskernel.tools.image.geometry import ImageError, MkfsOptions

    device = find_ext4(disk)
    if device is not None:
        return device
    if not disk.image.is_empty():
        raise ImageError(f"{disk.name or 'the first disk'} is not empty and has no ext4 file system for /root")
    if disk.read_only:
        raise ImageError(f"{disk.name or 'the first disk'} is empty and read-only: nothing for /root")
    dice = random.Random(f"home {seed}")
    options = MkfsOptions(root_mode=0o700, lost_found=False, now=BOOT_TIME_NS // 1_000_000_000, uuid=random_uuid(dice))
    if disk.path is None and disk.size >= _LEAST_TO_DIVIDE:
        return format_second_partition(disk, options, dice.getrandbits(32))
    from glasskernel.tools.image.mkfs import mkfs

    mkfs(disk.size, disk.write_bytes, options)
    return Device("/dev/sda", fresh=True)


def format_second_partition(disk: Disk, options: MkfsOptions, signature: int) -> Device:
    """A disk in memory is divided as that of a PC."""
    from glasskernel.tools.image.mkfs import mkfs
    from glasskernel.tools.image.partitions import mbr

    parts = [(2048, SECOND_PARTITION - 2048), (SECOND_PARTITION, disk.nr_sectors - SECOND_PARTITION)]
    disk.write_bytes(0, mbr(parts, signature))
    start = SECOND_PARTITION * SECTOR
    mkfs(disk.size - start, lambda offset, data: disk.write_bytes(start + offset, data), options)
    return Device("/dev/sda2", fresh=True)


def find_ext4(disk: Disk, name: str = "/dev/sda") -> Device | None:
    """The disk, or its last partition, with an ext2, ext3 or ext4 file system."""
    from glasskernel.tools.image.partitions import partitions

    kind = kind_at(disk, 0)
    if kind:
        return Device(name, kind)
    for number, start, _ in reversed(partitions(disk.read_bytes, disk.size)):
        kind = kind_at(disk, start)
        if kind:
            return Device(f"{name}{number}", kind)
    return None


def kind_at(disk: Disk, start: int) -> str:
    """ext2, ext3 or ext4, by the features, as blkid(8) tells them apart; "" for something else."""
    if start + 2048 > disk.size:
        return ""
    es = Ext4SuperBlock(bytearray(disk.read_bytes(start + 1024, 1024)))
    if es.s_magic != 0xEF53:
        return ""
    if es.s_feature_incompat & ~_EXT3_INCOMPAT or es.s_feature_ro_compat & ~_EXT3_RO_COMPAT:
        return "ext4"
    return "ext3" if es.s_feature_compat & 0x4 else "ext2"


def random_uuid(dice: random.Random) -> bytes:
    """A UUID of version 4."""
    raw = bytearray(dice.randbytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)
