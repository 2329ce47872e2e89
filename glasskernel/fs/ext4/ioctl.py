"""ioctl(2): flags, attributes, extents, trimming.

Linux: fs/ext4/ioctl.c and ext4_fiemap() of extents.c (5.3). Same: who may change which
    flag, EOPNOTSUPP for flags ext4 does not know, FIEMAP's flags and last extent.
Gaps: resize (EOPNOTSUPP), defragmentation (MOVE_EXT: EOPNOTSUPP), MIGRATE, SWAP_BOOT, encryption (ENOTTY), project ids.
"""
from __future__ import annotations

from struct import pack, unpack
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.fs.ext4.errors import KERN_ALERT, ext4_msg
from glasskernel.fs.ext4.ext4_jbd2 import (
    ext4_force_commit,
    ext4_handle_sync,
    ext4_journal_start,
    ext4_journal_stop,
)
from glasskernel.fs.ext4.extents_status import ES_DELAYED, ext4_es_find_extent_range
from glasskernel.fs.ext4.inode import ext4_set_inode_flags
from glasskernel.fs.ext4.inode_loc import ext4_mark_iloc_dirty, ext4_mark_inode_dirty, ext4_reserve_inode_write
from glasskernel.fs.ext4.inode_map import ext4_map_blocks
from glasskernel.fs.ext4.mballoc import ext4_trim_fs
from glasskernel.fs.ext4.types import (
    EXT4_APPEND_FL,
    EXT4_EXTENTS_FL,
    EXT4_FL_USER_MODIFIABLE,
    EXT4_FL_USER_VISIBLE,
    EXT4_FLAGS_SHUTDOWN,
    EXT4_HT_INODE,
    EXT4_I,
    EXT4_IMMUTABLE_FL,
    EXT4_JOURNAL_DATA_FL,
    EXT4_MAP_MAPPED,
    EXT4_MAP_UNWRITTEN,
    EXT4_NOATIME_FL,
    EXT4_NODUMP_FL,
    EXT4_OTHER_FLMASK,
    EXT4_REG_FLMASK,
    EXT4_SB,
    EXT4_SYNC_FL,
    EXT_MAX_BLOCKS,
    Ext4MapBlocks,
    ext4_forced_shutdown,
)
from glasskernel.fs.fiemap import (
    FIEMAP_EXTENT_DELALLOC,
    FIEMAP_EXTENT_LAST,
    FIEMAP_EXTENT_UNKNOWN,
    FIEMAP_EXTENT_UNWRITTEN,
    FIEMAP_FLAG_CACHE,
    FIEMAP_FLAG_SYNC,
    FiemapExtentInfo,
    fiemap_check_flags,
    fiemap_fill_next_extent,
)
from glasskernel.fs.inode import current_time, inode_lock, inode_owner_or_capable, inode_unlock
from glasskernel.fs.jbd2.log import jbd2_journal_abort
from glasskernel.fs.mnt_writers import mnt_drop_write, mnt_want_write
from glasskernel.fs.super import sync_filesystem
from glasskernel.fs.types import S_IFDIR, S_IFMT, S_IFREG, S_SYNC
from glasskernel.kernel.capability import CAP_LINUX_IMMUTABLE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, capable
from glasskernel.lib.errno import EACCES, EINVAL, ENOTTY, EOPNOTSUPP, EPERM, ESHUTDOWN, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import filemap_write_and_wait

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_GETVERSION, FS_IOC_SETVERSION = 0x80086601, 0x40086602, 0x80087601, 0x40087602
EXT4_IOC_GETVERSION, EXT4_IOC_SETVERSION = 0x80086603, 0x40086604
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FITRIM, EXT4_IOC_SHUTDOWN = 0xC0185879, 0x8004587D
EXT4_GOING_FLAGS_DEFAULT, EXT4_GOING_FLAGS_LOGFLUSH = 0, 1
FS_IOC_GETFSLABEL = 0x81009431
EXT4_IOC_RESIZE_FS, EXT4_IOC_MOVE_EXT, EXT4_IOC_MIGRATE, EXT4_IOC_ALLOC_DA_BLKS = 0x40086610, 0xC028660F, 0x6609, 0x660C
EXT4_IOC_PRECACHE_EXTENTS = 0x6612
FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND, FS_XFLAG_SYNC, FS_XFLAG_NOATIME, FS_XFLAG_NODUMP = 0x8, 0x10, 0x20, 0x40, 0x80
XFLAGS = ((EXT4_SYNC_FL, FS_XFLAG_SYNC), (EXT4_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE), (EXT4_APPEND_FL, FS_XFLAG_APPEND),
          (EXT4_NODUMP_FL, FS_XFLAG_NODUMP), (EXT4_NOATIME_FL, FS_XFLAG_NOATIME))


# ---- flags -------------------------------------------------------------------------------------------------
@may_sleep
def ext4_ioctl_setflags(inode: Inode, flags: int) -> None:
    """Raises EPERM, EOPNOTSUPP, EIO."""
    ei = EXT4_I(inode)
    oldflags = ei.i_flags
    if (flags ^ oldflags) & (EXT4_APPEND_FL | EXT4_IMMUTABLE_FL) and not capable(CAP_LINUX_IMMUTABLE):
        raise KernelError(EPERM)
    if (flags ^ oldflags) & EXT4_JOURNAL_DATA_FL and not capable(CAP_SYS_RESOURCE):
        raise KernelError(EPERM)
    if (flags ^ oldflags) & EXT4_EXTENTS_FL:
        raise KernelError(EOPNOTSUPP)
    if (flags ^ oldflags) & EXT4_JOURNAL_DATA_FL:
        raise KernelError(EOPNOTSUPP)                # switching a file's data mode is not here
    handle = ext4_journal_start(inode, EXT4_HT_INODE, 1)
    try:
        if inode.i_flags & S_SYNC:
            ext4_handle_sync(handle)
        ei.i_flags = oldflags & ~EXT4_FL_USER_MODIFIABLE | flags & EXT4_FL_USER_MODIFIABLE
        ext4_set_inode_flags(inode)
        inode.i_ctime = current_time(inode)
        ext4_mark_inode_dirty(handle, inode)
    finally:
        ext4_journal_stop(handle)


@notrace
@may_sleep
def _set_flags(filp: File, flags: int) -> None:
    inode = filp.f_inode
    if not inode_owner_or_capable(inode):
        raise KernelError(EACCES)
    if flags & ~EXT4_FL_USER_VISIBLE:
        raise KernelError(EOPNOTSUPP)
    kind = inode.i_mode & S_IFMT
    if kind == S_IFREG:
        flags &= EXT4_REG_FLMASK
    elif kind != S_IFDIR:
        flags &= EXT4_OTHER_FLMASK
    mnt_want_write(filp.f_path.mnt)
    try:
        inode_lock(inode)
        try:
            ext4_ioctl_setflags(inode, flags)
        finally:
            inode_unlock(inode)
    finally:
        mnt_drop_write(filp.f_path.mnt)


@notrace
@may_sleep
def _set_version(filp: File, arg: int) -> None:
    inode = filp.f_inode
    if not inode_owner_or_capable(inode):
        raise KernelError(EPERM)
    if EXT4_SB(inode.i_sb).s_csum_seed:
        raise KernelError(ENOTTY)                    # checksums depend on it
    generation = unpack("<I", copy_from_user(arg, 4))[0]
    mnt_want_write(filp.f_path.mnt)
    try:
        inode_lock(inode)
        try:
            handle = ext4_journal_start(inode, EXT4_HT_INODE, 1)
            try:
                iloc = ext4_reserve_inode_write(handle, inode)
                inode.i_ctime = current_time(inode)
                inode.i_generation = generation
                ext4_mark_iloc_dirty(handle, inode, iloc)
            finally:
                ext4_journal_stop(handle)
        finally:
            inode_unlock(inode)
    finally:
        mnt_drop_write(filp.f_path.mnt)


# ---- extents -----------------------------------------------------------------------------------------------
@notrace
@may_sleep
def ext4_extents(inode: Inode, start: int, length: int) -> list[tuple[int, int, int, int]]:
    """(logical, physical, length, FIEMAP_EXTENT_*) of a range, in bytes."""
    bits = inode.i_blkbits
    lblk = start >> bits
    last = min(start + length - 1 >> bits, EXT_MAX_BLOCKS - 1)
    end_of_file = max(inode.i_size - 1 >> bits, 0) if inode.i_size else -1
    found: list[tuple[int, int, int, int]] = []
    while lblk <= last:
        map = Ext4MapBlocks(lblk, last - lblk + 1)
        ret = ext4_map_blocks(None, inode, map, 0)
        count = map.m_len
        if ret > 0:
            flags = FIEMAP_EXTENT_UNWRITTEN if map.m_flags & EXT4_MAP_UNWRITTEN else 0
            if map.m_flags & (EXT4_MAP_MAPPED | EXT4_MAP_UNWRITTEN):
                found.append((lblk << bits, map.m_pblk << bits, count << bits, flags))
        else:
            es = ext4_es_find_extent_range(inode, ES_DELAYED, lblk, lblk + count - 1)
            if es is not None:
                first = max(es.es_lblk, lblk)
                count = min(es.es_lblk + es.es_len, lblk + count) - first
                found.append((first << bits, 0, count << bits, FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNKNOWN))
                count += first - lblk
            elif lblk + count > end_of_file and not ret and lblk + count > last:
                break
        lblk += count
    return found


@may_sleep
def ext4_fiemap(inode: Inode, fieinfo: FiemapExtentInfo, start: int, length: int) -> None:
    """->fiemap(): the extents of a range; the file's last one says so. Raises EBADR, EFAULT."""
    fieinfo.fi_flags &= ~FIEMAP_FLAG_CACHE             # what is looked up stays in the extent status tree anyway
    fiemap_check_flags(fieinfo, FIEMAP_FLAG_SYNC)
    found = ext4_extents(inode, start, length)
    if found:
        logical, physical, size, flags = found[-1]
        bits = inode.i_blkbits
        after = logical + size >> bits
        if after >= EXT_MAX_BLOCKS or not ext4_extents(
            inode, logical + size, (EXT_MAX_BLOCKS << bits) - (logical + size)
        ):
            found[-1] = (logical, physical, size, flags | FIEMAP_EXTENT_LAST)
    for logical, physical, size, flags in found:
        if fiemap_fill_next_extent(fieinfo, logical, physical, size, flags):
            break


# ---- the whole file system ------------------------------------------------------------------------------------
@notrace
@may_sleep
def _fitrim(filp: File, arg: int) -> None:
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    sb = filp.f_inode.i_sb
    queue = sb.s_bdev.bd_disk.queue
    granularity = getattr(getattr(queue, "limits", queue), "discard_granularity", 0)
    if not granularity:
        raise KernelError(EOPNOTSUPP)
    start, length, minlen = unpack("<QQQ", copy_from_user(arg, 24))
    trimmed = ext4_trim_fs(sb, start, length, max(minlen, granularity))
    copy_to_user(arg, pack("<QQQ", start, trimmed, max(minlen, granularity)))


@may_sleep
def ext4_shutdown(filp: File, arg: int) -> None:
    """EXT4_IOC_SHUTDOWN: no more I/O, as after a power cut. Raises EPERM, EINVAL."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    sb = filp.f_inode.i_sb
    sbi = EXT4_SB(sb)
    flags = unpack("<I", copy_from_user(arg, 4))[0]
    if flags > 2:
        raise KernelError(EINVAL)
    if ext4_forced_shutdown(sbi):
        return
    ext4_msg(sb, KERN_ALERT, f"shut down requested ({flags})")
    probe = sb.kernel.tp.ext4_shutdown
    if probe is not None:
        probe(sb, flags)
    if flags == EXT4_GOING_FLAGS_DEFAULT:
        sync_filesystem(sb)                          # freeze_bdev(), thaw_bdev()
        sbi.s_ext4_flags |= EXT4_FLAGS_SHUTDOWN
        return
    if flags == EXT4_GOING_FLAGS_LOGFLUSH:
        ext4_force_commit(sb)
    sbi.s_ext4_flags |= EXT4_FLAGS_SHUTDOWN
    if sbi.s_journal is not None:
        jbd2_journal_abort(sbi.s_journal, -ESHUTDOWN)


@may_sleep
def ext4_ioctl(filp: File, cmd: int, arg: int) -> int:
    """->unlocked_ioctl(). Raises ENOTTY, EOPNOTSUPP, EPERM, EINVAL, EFAULT."""
    inode = filp.f_inode
    ei = EXT4_I(inode)
    if cmd == FS_IOC_GETFLAGS:
        flags = ei.i_flags & EXT4_FL_USER_VISIBLE
        if inode.i_mode & S_IFMT == S_IFREG:
            flags &= ~0x20000000
        copy_to_user(arg, pack("<I", flags))
    elif cmd == FS_IOC_SETFLAGS:
        _set_flags(filp, unpack("<I", copy_from_user(arg, 4))[0])
    elif cmd in (FS_IOC_GETVERSION, EXT4_IOC_GETVERSION):
        copy_to_user(arg, pack("<I", inode.i_generation))
    elif cmd in (FS_IOC_SETVERSION, EXT4_IOC_SETVERSION):
        _set_version(filp, arg)
    elif cmd == FS_IOC_FSGETXATTR:
        xflags = sum(xflag for flag, xflag in XFLAGS if ei.i_flags & flag)
        copy_to_user(arg, pack("<IIIII8x", xflags, 0, 0, ei.i_projid, 0))
    elif cmd == FS_IOC_FSSETXATTR:
        xflags, _, _, projid, _ = unpack("<IIIII8x", copy_from_user(arg, 28))
        if xflags & ~0xF8:
            raise KernelError(EOPNOTSUPP)
        if projid != ei.i_projid:
            raise KernelError(EOPNOTSUPP)
        kept = ei.i_flags & ~sum(flag for flag, _ in XFLAGS) & EXT4_FL_USER_VISIBLE
        _set_flags(filp, kept | sum(flag for flag, xflag in XFLAGS if xflags & xflag))
    elif cmd == FITRIM:
        _fitrim(filp, arg)
    elif cmd == EXT4_IOC_SHUTDOWN:
        ext4_shutdown(filp, arg)
    elif cmd == FS_IOC_GETFSLABEL:
        copy_to_user(arg, EXT4_SB(inode.i_sb).s_es.s_volume_name.split(b"\0")[0].ljust(256, b"\0"))
    elif cmd == EXT4_IOC_ALLOC_DA_BLKS:
        filemap_write_and_wait(inode.i_mapping)
    elif cmd == EXT4_IOC_PRECACHE_EXTENTS:
        ext4_extents(inode, 0, max(inode.i_size, 1))
    elif cmd in (EXT4_IOC_RESIZE_FS, EXT4_IOC_MOVE_EXT, EXT4_IOC_MIGRATE):
        raise KernelError(EOPNOTSUPP)
    else:
        raise KernelError(ENOTTY)
    return 0
