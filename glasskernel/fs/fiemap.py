"""FIEMAP and FIBMAP: where the blocks of a file are on its device.

Linux: ioctl_fibmap(), ioctl_fiemap() of fs/ioctl.c, include/uapi/linux/fiemap.h (5.3). Owns: nothing.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.fs.inode import bmap
from glasskernel.kernel.capability import CAP_SYS_RAWIO, capable
from glasskernel.lib.errno import EBADR, EFBIG, EINVAL, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import filemap_write_and_wait

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode

FIEMAP_FLAG_SYNC, FIEMAP_FLAG_XATTR, FIEMAP_FLAG_CACHE = 0x1, 0x2, 0x4
FIEMAP_FLAGS_COMPAT = FIEMAP_FLAG_SYNC | FIEMAP_FLAG_XATTR
FIEMAP_EXTENT_LAST, FIEMAP_EXTENT_UNKNOWN, FIEMAP_EXTENT_DELALLOC, FIEMAP_EXTENT_ENCODED = 0x1, 0x2, 0x4, 0x8
FIEMAP_EXTENT_DATA_ENCRYPTED, FIEMAP_EXTENT_NOT_ALIGNED, FIEMAP_EXTENT_DATA_INLINE = 0x80, 0x100, 0x200
FIEMAP_EXTENT_DATA_TAIL, FIEMAP_EXTENT_UNWRITTEN = 0x400, 0x800
FIEMAP_EXTENT_MERGED, FIEMAP_EXTENT_SHARED = 0x1000, 0x2000
FIEMAP_MAX_EXTENTS = 0xFFFF_FFFF // 56
_HEADER = struct.Struct("<QQIIII")                # struct fiemap: start, length, flags, mapped_extents, extent_count, 0
_EXTENT = struct.Struct("<QQQ16xI12x")            # struct fiemap_extent: logical, physical, length, flags


@slotted
class FiemapExtentInfo:
    """struct fiemap_extent_info: what was asked for, and how many extents have been found."""

    fi_flags: int
    fi_extents_max: int
    fi_extents_start: int                         # address in user memory
    fi_extents_mapped: int = 0


def fiemap_fill_next_extent(fieinfo: FiemapExtentInfo, logical: int, phys: int, length: int, flags: int) -> bool:
    """Tells one extent. True: no more are wanted. Raises EFAULT."""
    if not fieinfo.fi_extents_max:                # only counting
        fieinfo.fi_extents_mapped += 1
        return bool(flags & FIEMAP_EXTENT_LAST)
    if fieinfo.fi_extents_mapped >= fieinfo.fi_extents_max:
        return True
    if flags & FIEMAP_EXTENT_DELALLOC:
        flags |= FIEMAP_EXTENT_UNKNOWN
    if flags & FIEMAP_EXTENT_DATA_ENCRYPTED:
        flags |= FIEMAP_EXTENT_ENCODED
    if flags & (FIEMAP_EXTENT_DATA_TAIL | FIEMAP_EXTENT_DATA_INLINE):
        flags |= FIEMAP_EXTENT_NOT_ALIGNED
    copy_to_user(fieinfo.fi_extents_start + fieinfo.fi_extents_mapped * _EXTENT.size,
                 _EXTENT.pack(logical, phys, length, flags))
    fieinfo.fi_extents_mapped += 1
    return fieinfo.fi_extents_mapped == fieinfo.fi_extents_max or bool(flags & FIEMAP_EXTENT_LAST)


def fiemap_check_flags(fieinfo: FiemapExtentInfo, fs_flags: int) -> None:
    """Raises EBADR for flags that the file system does not know, which user space can read then."""
    incompat = fieinfo.fi_flags & ~(FIEMAP_FLAGS_COMPAT & fs_flags)
    if incompat:
        fieinfo.fi_flags = incompat
        raise KernelError(EBADR)


@notrace
def fiemap_check_ranges(inode: Inode, start: int, length: int) -> int:
    """The length as far as the file system goes. Raises EINVAL, EFBIG."""
    if not length:
        raise KernelError(EINVAL)
    maxbytes = inode.i_sb.s_maxbytes
    if start > maxbytes:
        raise KernelError(EFBIG)
    return min(length, maxbytes - start)


@may_sleep
def ioctl_fiemap(filp: File, arg: int) -> None:
    """FS_IOC_FIEMAP. Raises EOPNOTSUPP, EINVAL, EFBIG, EBADR, EFAULT."""
    inode = filp.f_inode
    fiemap = inode.i_op.fiemap
    if fiemap is None:
        raise KernelError(EOPNOTSUPP)
    start, length, flags, _, count, _ = _HEADER.unpack(copy_from_user(arg, _HEADER.size))
    if count > FIEMAP_MAX_EXTENTS:
        raise KernelError(EINVAL)
    length = fiemap_check_ranges(inode, start, length)
    fieinfo = FiemapExtentInfo(flags, count, arg + _HEADER.size)
    if flags & FIEMAP_FLAG_SYNC:
        filemap_write_and_wait(inode.i_mapping)
    try:
        fiemap(inode, fieinfo, start, length)
    finally:
        copy_to_user(arg + 16, struct.pack("<II", fieinfo.fi_flags, fieinfo.fi_extents_mapped))


@may_sleep
def ioctl_fibmap(filp: File, arg: int) -> None:
    """FIBMAP. Raises EPERM, EINVAL where there are no blocks."""
    if filp.f_mapping.a_ops.bmap is None:
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_RAWIO):
        raise KernelError(EPERM)
    put_user_u32(arg, bmap(filp.f_inode, get_user_u32(arg)) & 0xFFFF_FFFF)
