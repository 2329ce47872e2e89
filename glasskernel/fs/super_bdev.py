"""File systems on block devices: one super block for each device.

Linux: the part of fs/super.c (5.3) that works on block devices. Same: mount_bdev() opens the device exclusively for the
    file system type; a second mount of the same device shares the super block if both are read-only or both are not;
    kill_block_super() writes everything back before it gives the device up.
Owns: sb.s_bdev, bdev.bd_super. Gaps: freezing (bd_fsfreeze_count).
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.block_dev import blkdev_get_by_path, blkdev_put, sb_set_blocksize, sync_blockdev
from glasskernel.fs.dcache import dget, sb_has_root
from glasskernel.fs.super import deactivate_super, generic_shutdown_super, sget
from glasskernel.fs.types import FMODE_EXCL, FMODE_READ, FMODE_WRITE, SB_ACTIVE, SB_RDONLY
from glasskernel.lib.errno import EBUSY, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.super import FillSuper
    from glasskernel.fs.types import Dentry, FileSystemType, SuperBlock
    from glasskernel.init.kernel import Kernel


def set_bdev_super(s: SuperBlock, bdev: BlockDevice) -> None:
    """sget()'s `set`."""
    s.s_bdev = bdev
    s.s_dev = bdev.bd_dev
    s.s_bdi = bdev.bd_disk.queue.backing_dev_info


def test_bdev_super(s: SuperBlock, bdev: BlockDevice) -> bool:
    """sget()'s `test`."""
    return s.s_bdev is bdev


@notrace
def bdevname(bdev: BlockDevice) -> bytes:
    """"sda2": what messages and sb.s_id call a device."""
    name: bytes = bdev.bd_disk.disk_name
    if not bdev.bd_partno:
        return name
    return name + (b"p" if name[-1:].isdigit() else b"") + b"%d" % bdev.bd_partno


@may_sleep
def mount_bdev(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes,
               fill_super: FillSuper) -> Dentry:
    """->mount() of a file system on a device: its root with a reference. Raises ENOTBLK, EBUSY, ENXIO, EACCES ..."""
    mode = FMODE_READ | FMODE_EXCL
    if not flags & SB_RDONLY:
        mode |= FMODE_WRITE
    bdev = blkdev_get_by_path(kernel, dev_name, mode, fs_type)
    if kernel.vfs.on_demand is not None and kernel.vfs.on_demand.mnt.mnt_sb.s_bdev is bdev:
        kernel.vfs.mount_now(kernel.vfs.on_demand.mnt)
    try:
        s = sget(kernel, fs_type, lambda old: test_bdev_super(old, bdev), lambda new: set_bdev_super(new, bdev), flags)
    except KernelError:
        blkdev_put(bdev, mode)
        raise
    if sb_has_root(s):
        blkdev_put(bdev, mode)
        if (flags ^ s.s_flags) & SB_RDONLY:
            deactivate_super(s)
            raise KernelError(EBUSY)
    else:
        s.s_mode = mode
        s.s_id = bdevname(bdev)
        sb_set_blocksize(s, bdev.bd_block_size)
        try:
            fill_super(s, data, bool(flags & 1 << 15))         # SB_SILENT
        except KernelError:
            deactivate_super(s)
            raise
        s.s_flags |= SB_ACTIVE
        bdev.bd_super = s
    return dget(s.s_root)


@may_sleep
def kill_block_super(sb: SuperBlock) -> None:
    """->kill_sb() of a file system on a device."""
    bdev: BlockDevice = sb.s_bdev
    mode = sb.s_mode
    bdev.bd_super = None
    generic_shutdown_super(sb)
    with suppress(KernelError):
        sync_blockdev(bdev)
    blkdev_put(bdev, mode | FMODE_EXCL)
