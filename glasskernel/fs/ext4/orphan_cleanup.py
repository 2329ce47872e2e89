"""Recovery of the orphan list at mount.

Linux: ext4_orphan_cleanup() in fs/ext4/super.c, ext4_orphan_get() in ialloc.c (5.3). Same: deleted files go,
    truncations are finished, messages, a list that leads nowhere is cleared.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.block_dev import bdev_read_only
from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.balloc import test_bit
from glasskernel.fs.ext4.errors import EFSCORRUPTED, KERN_DEBUG, KERN_ERR, KERN_INFO, ext4_error, ext4_msg
from glasskernel.fs.ext4.ialloc import ext4_read_inode_bitmap
from glasskernel.fs.ext4.inode import EXT4_IGET_NORMAL, ext4_iget
from glasskernel.fs.ext4.truncate import ext4_can_truncate, ext4_truncate
from glasskernel.fs.ext4.types import EXT4_ERROR_FS, EXT4_I, EXT4_SB
from glasskernel.fs.inode import inode_lock, inode_unlock, iput
from glasskernel.fs.types import SB_RDONLY
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep
from glasskernel.mm.truncate import truncate_inode_pages

if TYPE_CHECKING:
    from glasskernel.fs.ext4.disk import Ext4SuperBlock
    from glasskernel.fs.types import Inode, SuperBlock


@may_sleep
def ext4_orphan_get(sb: SuperBlock, ino: int) -> Inode:
    """An inode of the list, if it makes sense. Raises EFSCORRUPTED, EIO."""
    sbi = EXT4_SB(sb)
    if ino < sbi.s_first_ino or ino > sbi.s_es.s_inodes_count:
        ext4_error(sb, f"bad orphan inode {ino}")
        raise KernelError(EFSCORRUPTED)
    group, bit = divmod(ino - 1, sbi.s_inodes_per_group)
    bitmap_bh = ext4_read_inode_bitmap(sb, group)
    used = test_bit(bitmap_bh.b_data, bit)
    brelse(bitmap_bh)
    if not used:
        ext4_error(sb, f"bad orphan inode {ino}")
        raise KernelError(EFSCORRUPTED)
    inode = ext4_iget(sb, ino, EXT4_IGET_NORMAL)
    if (inode.i_nlink and not ext4_can_truncate(inode)) or EXT4_I(inode).i_dtime > sbi.s_es.s_inodes_count:
        ext4_error(sb, f"bad orphan inode {ino}")
        if not inode.i_nlink:
            inode.i_blocks = 0
        iput(inode)
        raise KernelError(EFSCORRUPTED)
    return inode


@may_sleep
def ext4_orphan_cleanup(sb: SuperBlock, es: Ext4SuperBlock) -> None:
    """Deletes or truncates every inode of the list."""
    if not es.s_last_orphan:
        return
    sbi = EXT4_SB(sb)
    if bdev_read_only(sb.s_bdev):
        ext4_msg(sb, KERN_ERR, "write access unavailable, skipping orphan cleanup")
        return
    if sbi.s_mount_state & EXT4_ERROR_FS:
        if es.s_last_orphan and not sb.s_flags & SB_RDONLY:
            ext4_msg(sb, KERN_INFO, "Errors on filesystem, clearing orphan list.\n")
            es.s_last_orphan = 0
        return
    saved = sb.s_flags
    if sb.s_flags & SB_RDONLY:
        ext4_msg(sb, KERN_INFO, "orphan cleanup on readonly fs")
        sb.s_flags &= ~SB_RDONLY
    nr_orphans = nr_truncates = 0
    while es.s_last_orphan:
        if sbi.s_mount_state & EXT4_ERROR_FS:
            es.s_last_orphan = 0
            break
        ino = es.s_last_orphan
        try:
            inode = ext4_orphan_get(sb, ino)
        except KernelError:
            es.s_last_orphan = 0
            break
        # Newest last: what comes later in the list on disk is older.
        sbi.s_orphan = {inode: None}
        EXT4_I(inode).i_orphan = True
        if inode.i_nlink:
            ext4_msg(sb, KERN_DEBUG, f"orphan_cleanup: truncating inode {ino} to {inode.i_size} bytes")
            inode_lock(inode)
            try:
                truncate_inode_pages(inode.i_mapping, inode.i_size)
                ext4_truncate(inode)
            except KernelError as e:
                ext4_error(sb, f"couldn't truncate orphan inode {ino}: {e.errno}")
                es.s_last_orphan = 0
            finally:
                inode_unlock(inode)
            nr_truncates += 1
        else:
            ext4_msg(sb, KERN_DEBUG, f"orphan_cleanup: deleting unreferenced inode {ino}")
            nr_orphans += 1
        iput(inode)
        if es.s_last_orphan == ino:
            es.s_last_orphan = 0                     # no progress: an error was said
            break
    if nr_orphans:
        ext4_msg(sb, KERN_INFO, f"{nr_orphans} orphan inode{'s' if nr_orphans > 1 else ''} deleted")
    if nr_truncates:
        ext4_msg(sb, KERN_INFO, f"{nr_truncates} truncate{'s' if nr_truncates > 1 else ''} cleaned up")
    sb.s_flags = saved
