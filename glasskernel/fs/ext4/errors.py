"""What happens when ext4 finds something wrong; storing the super block; messages.

Linux: the first part of fs/ext4/super.c (5.3). Same: texts, errors=continue|remount-ro|panic, the error fields of the
    super block, rate limits (10 messages in 5 s).
Differs: where __func__ and __LINE__ stand in Linux's text, ours are the Python function and line.
Owns: s_error_count and its neighbours, s_mount_flags & EXT4_MF_FS_ABORTED.
"""
from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_FUA, REQ_SYNC
from glasskernel.fs.buffer_head import buffer_write_io_error, clear_buffer_write_io_error, set_buffer_uptodate
from glasskernel.fs.buffer_io import __sync_dirty_buffer, lock_buffer, mark_buffer_dirty, unlock_buffer
from glasskernel.fs.ext4.types import (
    EXT4_ERROR_FS,
    EXT4_GROUP_INFO_BBITMAP_CORRUPT,
    EXT4_GROUP_INFO_IBITMAP_CORRUPT,
    EXT4_MF_FS_ABORTED,
    EXT4_MOUNT_BARRIER,
    EXT4_MOUNT_ERRORS_CONT,
    EXT4_MOUNT_ERRORS_PANIC,
    EXT4_MOUNT_ERRORS_RO,
    EXT4_SB,
    RO_COMPAT_METADATA_CSUM,
    ext4_forced_shutdown,
    ext4_free_blocks_count_set,
    test_opt,
)
from glasskernel.fs.jbd2.log import jbd2_journal_abort
from glasskernel.fs.types import SB_RDONLY
from glasskernel.kernel.current import current
from glasskernel.kernel.printk import printk
from glasskernel.kernel.time.timekeeping import ktime_get_real_seconds
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EBADMSG, EIO, EROFS, EUCLEAN, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.ext4.disk import Ext4SuperBlock
    from glasskernel.fs.types import Inode, SuperBlock

EFSCORRUPTED, EFSBADCRC = EUCLEAN, EBADMSG
KERN_EMERG, KERN_ALERT, KERN_CRIT, KERN_ERR, KERN_WARNING, KERN_NOTICE, KERN_INFO, KERN_DEBUG = 0, 1, 2, 3, 4, 5, 6, 7


# ---- messages ----------------------------------------------------------------------------------------------
def __ext4_msg(sb: SuperBlock, level: int, text: str) -> None:
    """EXT4-fs (sda2): text"""
    EXT4_SB(sb).s_msg_count += 1
    printk(sb.kernel, f"EXT4-fs ({sb.s_id.decode()}): {text}", level)


ext4_msg = __ext4_msg


@notrace
def _caller() -> tuple[str, int]:
    frame = sys._getframe(2)
    return frame.f_code.co_name, frame.f_lineno


@notrace
def ext4_warning(sb: SuperBlock, text: str) -> None:
    __ext4_warning(sb, *_caller(), text)


def __ext4_warning(sb: SuperBlock, function: str, line: int, text: str) -> None:
    EXT4_SB(sb).s_warning_count += 1
    printk(sb.kernel, f"EXT4-fs warning (device {sb.s_id.decode()}): {function}:{line}: {text}", KERN_WARNING)


@notrace
def ext4_warning_inode(inode: Inode, text: str) -> None:
    sb = inode.i_sb
    function, line = _caller()
    printk(sb.kernel, f"EXT4-fs warning (device {sb.s_id.decode()}): {function}:{line}: inode #{inode.i_ino}: "
           f"comm {current().comm.decode(errors='replace')}: {text}", KERN_WARNING)


@notrace
@may_sleep
def ext4_error(sb: SuperBlock, text: str) -> None:
    """The file system is damaged: says so, marks it, acts as errors= asks. Does not raise."""
    __ext4_error(sb, *_caller(), text)


@may_sleep
def __ext4_error(sb: SuperBlock, function: str, line: int, text: str) -> None:
    if ext4_forced_shutdown(EXT4_SB(sb)):
        return
    printk(sb.kernel, f"EXT4-fs error (device {sb.s_id.decode()}): {function}:{line}: "
           f"comm {current().comm.decode(errors='replace')}: {text}", KERN_CRIT)
    save_error_info(sb, function, line)
    ext4_handle_error(sb)


@notrace
@may_sleep
def ext4_error_inode(inode: Inode, text: str, block: int = 0) -> None:
    __ext4_error_inode(inode, *_caller(), block, text)


@may_sleep
def __ext4_error_inode(inode: Inode, function: str, line: int, block: int, text: str) -> None:
    sb = inode.i_sb
    if ext4_forced_shutdown(EXT4_SB(sb)):
        return
    es = EXT4_SB(sb).s_es
    es.s_last_error_ino = inode.i_ino
    es.s_last_error_block = block
    where = f"block {block}: " if block else ""
    printk(sb.kernel, f"EXT4-fs error (device {sb.s_id.decode()}): {function}:{line}: inode #{inode.i_ino}: {where}"
           f"comm {current().comm.decode(errors='replace')}: {text}", KERN_CRIT)
    save_error_info(sb, function, line)
    ext4_handle_error(sb)


@notrace
@may_sleep
def ext4_grp_locked_error(sb: SuperBlock, group: int, ino: int, block: int, text: str) -> None:
    __ext4_grp_locked_error(*_caller(), sb, group, ino, block, text)


@may_sleep
def __ext4_grp_locked_error(
    function: str, line: int, sb: SuperBlock, group: int, ino: int, block: int, text: str
) -> None:
    if ext4_forced_shutdown(EXT4_SB(sb)):
        return
    es = EXT4_SB(sb).s_es
    es.s_last_error_ino = ino
    es.s_last_error_block = block
    where = (f"inode {ino}: " if ino else "") + (f"block {block}:" if block else "")
    printk(
        sb.kernel,
        f"EXT4-fs error (device {sb.s_id.decode()}): {function}:{line}: group {group}, {where}{text}",
        KERN_CRIT,
    )
    save_error_info(sb, function, line)
    ext4_handle_error(sb)


@may_sleep
def __ext4_std_error(sb: SuperBlock, errno: int, function: str, line: int) -> None:
    if ext4_forced_shutdown(EXT4_SB(sb)):
        return
    if errno == EROFS and sb.s_flags & SB_RDONLY:
        return
    printk(
        sb.kernel,
        f"EXT4-fs error (device {sb.s_id.decode()}) in {function}:{line}: {ext4_decode_error(sb, errno)}",
        KERN_CRIT,
    )
    save_error_info(sb, function, line)
    ext4_handle_error(sb)


@notrace
@may_sleep
def ext4_std_error(sb: SuperBlock, errno: int) -> None:
    if errno:
        __ext4_std_error(sb, errno, *_caller())


@notrace
def ext4_decode_error(sb: SuperBlock, errno: int) -> str:
    journal = EXT4_SB(sb).s_journal
    if errno == EFSCORRUPTED:
        return "Corrupt filesystem"
    if errno == EFSBADCRC:
        return "Filesystem failed CRC"
    if errno == EIO:
        return "IO failure"
    if errno == EROFS:
        return "Readonly filesystem" if journal is None or not journal.j_errno else "Journal has aborted"
    return f"error {errno}"


@notrace
def _panic(sb: SuperBlock, text: str) -> None:
    """errors=panic: the machine stops, as at a bug of our own."""
    printk(sb.kernel, f"Kernel panic - not syncing: {text}", KERN_EMERG)
    sb.kernel.sysctl.panic_on_oops = 1
    raise AssertionError(text)


@may_sleep
def __ext4_abort(sb: SuperBlock, function: str, line: int, text: str) -> None:
    """A failure that cannot wait for a clean end: the file system becomes read-only at once."""
    sbi = EXT4_SB(sb)
    if ext4_forced_shutdown(sbi):
        return
    save_error_info(sb, function, line)
    printk(sb.kernel, f"EXT4-fs error (device {sb.s_id.decode()}): {function}:{line}: {text}", KERN_CRIT)
    if not sb.s_flags & SB_RDONLY:
        ext4_msg(sb, KERN_CRIT, "Remounting filesystem read-only")
        sbi.s_mount_flags |= EXT4_MF_FS_ABORTED
        sb.s_flags |= SB_RDONLY
        if sbi.s_journal is not None:
            jbd2_journal_abort(sbi.s_journal, -EIO)
    if test_opt(sbi, EXT4_MOUNT_ERRORS_PANIC):
        _panic(sb, "EXT4-fs panic from previous error\n")


@notrace
@may_sleep
def save_error_info(sb: SuperBlock, function: str, line: int) -> None:
    __save_error_info(sb, function, line)
    with suppress(KernelError):                  # the device may be what is broken
        ext4_commit_super(sb, 1)


def __save_error_info(sb: SuperBlock, function: str, line: int) -> None:
    """Notes an error in the super block in RAM."""
    sbi = EXT4_SB(sb)
    sbi.s_mount_state |= EXT4_ERROR_FS
    es = sbi.s_es
    es.s_state |= EXT4_ERROR_FS
    now = ktime_get_real_seconds() & 0xFFFFFFFF
    es.s_last_error_time = now
    es.s_last_error_func = function.encode()
    es.s_last_error_line = line
    if not es.s_first_error_time:
        es.s_first_error_time = now
        es.s_first_error_func = function.encode()
        es.s_first_error_line = line
        es.s_first_error_ino = es.s_last_error_ino
        es.s_first_error_block = es.s_last_error_block
    es.s_error_count = es.s_error_count + 1 & 0xFFFFFFFF


@may_sleep
def ext4_handle_error(sb: SuperBlock) -> None:
    """Acts as errors= asks."""
    sbi = EXT4_SB(sb)
    if sb.s_flags & SB_RDONLY:
        return
    if not test_opt(sbi, EXT4_MOUNT_ERRORS_CONT):
        sbi.s_mount_flags |= EXT4_MF_FS_ABORTED
        if sbi.s_journal is not None:
            jbd2_journal_abort(sbi.s_journal, -EIO)
    if test_opt(sbi, EXT4_MOUNT_ERRORS_RO):
        ext4_msg(sb, KERN_CRIT, "Remounting filesystem read-only")
        sb.s_flags |= SB_RDONLY
    elif test_opt(sbi, EXT4_MOUNT_ERRORS_PANIC):
        _panic(sb, f"EXT4-fs (device {sb.s_id.decode()}): panic forced after error\n")


@may_sleep
def ext4_mark_group_bitmap_corrupted(sb: SuperBlock, group: int, flags: int) -> None:
    """No more allocations from this group: its free counts leave the sums."""
    sbi = EXT4_SB(sb)
    grp = sbi.s_group_info[group]
    if flags & EXT4_GROUP_INFO_BBITMAP_CORRUPT and not grp.bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT:
        grp.bb_state |= EXT4_GROUP_INFO_BBITMAP_CORRUPT
        sbi.s_freeclusters_counter -= grp.bb_free
    if flags & EXT4_GROUP_INFO_IBITMAP_CORRUPT:
        grp.bb_state |= EXT4_GROUP_INFO_IBITMAP_CORRUPT


# ---- the super block ---------------------------------------------------------------------------------------
def ext4_superblock_csum(sb: SuperBlock, es: Ext4SuperBlock) -> int:
    return crc32c(0xFFFFFFFF, es.m[es.o : es.o + 0x3FC])


def ext4_superblock_csum_set(sb: SuperBlock) -> None:
    es = EXT4_SB(sb).s_es
    if es.s_feature_ro_compat & RO_COMPAT_METADATA_CSUM:
        es.s_checksum = ext4_superblock_csum(sb, es)


@notrace
def ext4_superblock_csum_verify(sb: SuperBlock, es: Ext4SuperBlock) -> bool:
    if not es.s_feature_ro_compat & RO_COMPAT_METADATA_CSUM:
        return True
    return es.s_checksum == ext4_superblock_csum(sb, es)


@notrace
def ext4_update_tstamp(es: Ext4SuperBlock, lo: str, hi: str) -> None:
    now = ktime_get_real_seconds()
    setattr(es, lo, now & 0xFFFFFFFF)
    setattr(es, hi, now >> 32 & 0xFF)


@may_sleep
def ext4_commit_super(sb: SuperBlock, sync: int) -> None:
    """Stores the super block: counts, times, state. sync: waits for it. Raises EIO."""
    sbi = EXT4_SB(sb)
    bh = sbi.s_sbh
    if bh is None:
        return
    es = sbi.s_es
    if not sb.s_flags & SB_RDONLY:               # a read-only mount leaves no trace
        ext4_update_tstamp(es, "s_wtime", "s_wtime_hi")
    ext4_free_blocks_count_set(es, max(sbi.s_freeclusters_counter, 0))
    es.s_free_inodes_count = max(sbi.s_freeinodes_counter, 0)
    ext4_superblock_csum_set(sb)
    if sync:
        lock_buffer(bh)
    if buffer_write_io_error(bh):
        ext4_msg(sb, KERN_ERR, "previous I/O error to superblock detected")
        clear_buffer_write_io_error(bh)
        set_buffer_uptodate(bh)
    mark_buffer_dirty(bh)
    if sync:
        unlock_buffer(bh)
        __sync_dirty_buffer(bh, REQ_SYNC | (REQ_FUA if test_opt(sbi, EXT4_MOUNT_BARRIER) else 0))
