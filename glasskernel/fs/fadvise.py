"""posix_fadvise(2) and readahead(2).

Linux: mm/fadvise.c, and the system call of mm/readahead.c (5.3); here, because descriptors lie above mm.
Same: WILLNEED reads ahead, DONTNEED drops clean pages, the others set the readahead window.
"""
from __future__ import annotations

from glasskernel.fs.file import fdget
from glasskernel.fs.types import FMODE_READ, S_IFIFO, S_IFMT, S_IFREG
from glasskernel.lib.errno import EBADF, EINVAL, ESPIPE, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import s64, size_t
from glasskernel.mm.filemap import filemap_fdatawrite_range
from glasskernel.mm.readahead import FMODE_RANDOM, VM_READAHEAD_PAGES, file_ra, force_page_cache_readahead
from glasskernel.mm.truncate import invalidate_mapping_pages
from glasskernel.mm.types import _einval

(POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL, POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED,
 POSIX_FADV_NOREUSE) = range(6)


@syscall
def sys_fadvise64(fd: int, offset: s64, len: size_t, advice: int) -> int:
    """posix_fadvise(2). Errors: EBADF, ESPIPE (pipe), EINVAL."""
    file = fdget(fd)
    if file.f_inode.i_mode & S_IFMT == S_IFIFO:
        raise KernelError(ESPIPE)
    length = ((len & (1 << 64) - 1) ^ 1 << 63) - (1 << 63)
    mapping = file.f_mapping
    if mapping is None or length < 0 or not POSIX_FADV_NORMAL <= advice <= POSIX_FADV_NOREUSE:
        raise KernelError(EINVAL)
    if mapping.unevictable or mapping.a_ops.readpage is _einval:
        return 0                                        # memory is the storage: nothing to read or to drop
    end = offset + length - 1 if length and offset + length > offset else (1 << 63) - 1
    if advice == POSIX_FADV_NORMAL:
        file_ra(file).ra_pages = VM_READAHEAD_PAGES
        file.f_mode &= ~FMODE_RANDOM
    elif advice == POSIX_FADV_RANDOM:
        file.f_mode |= FMODE_RANDOM
    elif advice == POSIX_FADV_SEQUENTIAL:
        file_ra(file).ra_pages = VM_READAHEAD_PAGES * 2
        file.f_mode &= ~FMODE_RANDOM
    elif advice == POSIX_FADV_WILLNEED:
        start, last = offset >> 12, min(end, max(file.f_inode.i_size - 1, 0)) >> 12
        force_page_cache_readahead(mapping, file, start, last - start + 1)
    elif advice == POSIX_FADV_DONTNEED:
        filemap_fdatawrite_range(mapping, offset, end)
        first, last = (offset + 4095) >> 12, end >> 12
        if (end & 4095) != 4095 and end != (1 << 63) - 1 and end != file.f_inode.i_size - 1:
            last -= 1                                   # a page that is only partly meant stays
        if last >= first:
            invalidate_mapping_pages(mapping, first, last)
    return 0


@syscall
def sys_readahead(fd: int, offset: s64, count: size_t) -> int:
    """readahead(2). Errors: EBADF, EINVAL."""
    file = fdget(fd)
    if not file.f_mode & FMODE_READ:
        raise KernelError(EBADF)
    mapping = file.f_mapping
    if mapping is None or mapping.a_ops.readpage is _einval or file.f_inode.i_mode & S_IFMT != S_IFREG:
        raise KernelError(EINVAL)
    if not mapping.unevictable:
        last = min(offset + count, file.f_inode.i_size) - 1
        if last >= offset:
            force_page_cache_readahead(mapping, file, offset >> 12, (last >> 12) - (offset >> 12) + 1)
    return 0
