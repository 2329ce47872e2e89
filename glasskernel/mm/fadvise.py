"""posix_fadvise(2) and readahead(2): how a file will be read.

Linux: mm/fadvise.c, ksys_readahead() of mm/readahead.c (5.3). Same: RANDOM and SEQUENTIAL change the
    readahead of this open, WILLNEED reads, DONTNEED stores and drops the whole pages of the range, ESPIPE
    for pipes.
Owns: nothing.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.lib.errno import EBADF, EINVAL, ESPIPE, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, s64, size_t
from glasskernel.mm.backing_dev import inode_to_bdi
from glasskernel.mm.filemap import __filemap_fdatawrite_range
from glasskernel.mm.readahead import FMODE_RANDOM, VM_READAHEAD_PAGES, file_ra, force_page_cache_readahead
from glasskernel.mm.truncate import invalidate_mapping_pages
from glasskernel.mm.types import WB_SYNC_NONE

if TYPE_CHECKING:
    from glasskernel.fs.types import File

(POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL, POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED,
 POSIX_FADV_NOREUSE) = range(6)
S_IFMT, S_IFIFO, S_IFREG = 0o170000, 0o010000, 0o100000        # fs/types.py lies above
FMODE_READ = 1


@may_sleep
def generic_fadvise(file: File, offset: int, length: int, advice: int) -> None:
    """Raises ESPIPE for pipes, EINVAL for a negative length, for unknown advice, for what has no pages."""
    inode = file.f_inode
    if inode.i_mode & S_IFMT == S_IFIFO:
        raise KernelError(ESPIPE)
    mapping = file.f_mapping
    if mapping is None or length < 0:
        raise KernelError(EINVAL)
    if not 0 <= advice <= POSIX_FADV_NOREUSE:
        raise KernelError(EINVAL)
    if mapping.unevictable or mapping.host is None:
        return                                         # memory only (noop_backing_dev_info)
    end = offset + length - 1 if length and offset + length < 1 << 63 else (1 << 63) - 1
    bdi = inode_to_bdi(mapping.host)
    ra_pages = VM_READAHEAD_PAGES if bdi is None else bdi.ra_pages
    if advice == POSIX_FADV_NORMAL:
        file_ra(file).ra_pages = ra_pages
        file.f_mode &= ~FMODE_RANDOM
    elif advice == POSIX_FADV_RANDOM:
        file.f_mode |= FMODE_RANDOM
    elif advice == POSIX_FADV_SEQUENTIAL:
        file_ra(file).ra_pages = ra_pages * 2
        file.f_mode &= ~FMODE_RANDOM
    elif advice == POSIX_FADV_WILLNEED:
        start = offset >> 12
        force_page_cache_readahead(mapping, file, start, (end >> 12) - start + 1)
    elif advice == POSIX_FADV_DONTNEED:
        if mapping.dirty:
            with suppress(KernelError):                # fsync() will tell
                __filemap_fdatawrite_range(mapping, offset, end, WB_SYNC_NONE)
        start = (offset + 0xFFF) >> 12
        last = end >> 12
        if end & 0xFFF != 0xFFF and end != inode.i_size - 1:
            last -= 1                                  # a part of a page stays
        if last >= start:
            invalidate_mapping_pages(mapping, start, last)


@may_sleep
def vfs_fadvise(file: File, offset: int, length: int, advice: int) -> None:
    """generic_fadvise(): no file system has its own."""
    generic_fadvise(file, offset, length, advice)


@syscall
def sys_fadvise64(fd: int, offset: s64, len: size_t, advice: int) -> int:
    """posix_fadvise(2)"""
    kernel = current().kernel
    file = kernel.fget(fd)
    if file is None:
        raise KernelError(EBADF)
    try:
        vfs_fadvise(file, offset, len if len < 1 << 63 else -1, advice)
    finally:
        kernel.fput(file)
    return 0


@syscall
def sys_readahead(fd: int, offset: s64, count: size_t) -> int:
    """readahead(2)"""
    kernel = current().kernel
    file = kernel.fget(fd)
    if file is None:
        raise KernelError(EBADF)
    try:
        if not file.f_mode & FMODE_READ:
            raise KernelError(EBADF)
        if file.f_mapping is None or file.f_inode.i_mode & S_IFMT != S_IFREG:
            raise KernelError(EINVAL)
        vfs_fadvise(file, offset, min(count, (1 << 63) - 1), POSIX_FADV_WILLNEED)
    finally:
        kernel.fput(file)
    return 0
