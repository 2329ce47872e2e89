"""The page cache: one copy of a file's pages for read(2), write(2) and mmap(2).

Linux: mm/filemap.c (5.3). Same: the calls and their order, partial copies at a fault, i_size read after the
    page is up to date, PG_readahead, RLIMIT_FSIZE, SIGBUS behind the end, fault-around.
Differs: a page is its frame number and 0 is "no page"; write(2) takes the bytes from user memory before it
    locks the page, so no fault can happen under the page lock; ->fault answers an unlocked page (nothing
    sleeps before the PTE is set). The tree itself is in mm/pagemap.py, dirty pages in mm/page_writeback.py;
    this file re-exports their names.
Owns: nothing of its own. Invariant: bytes behind i_size in the last page are zero when a read or fault
    meets it.
Lock order: inode.i_rwsem, mm.mmap_sem, page lock.
Gaps: where there is no a_ops.direct_IO, O_DIRECT goes through the cache; cgroup accounting.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import RwSemaphore, down_write, up_read, up_write
from glasskernel.kernel.sched.core import cond_resched, fatal_signal_pending
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.task import RLIM_INFINITY, RLIMIT_FSIZE, TIF_SIGPENDING
from glasskernel.lib.errno import EAGAIN, EBUSY, EFBIG, EINTR, EINVAL, EIO, ENOEXEC, ETXTBSY, KernelError, Restart
from glasskernel.lib.errseq import errseq_check, errseq_mark_seen
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import inode_to_bdi
from glasskernel.mm.dirty_limits import balance_dirty_pages_ratelimited
from glasskernel.mm.memory import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_TRIED,
    map_cached_frames,
    unmap_mapping_range,
)
from glasskernel.mm.page_alloc import (
    GFP_HIGHUSER_MOVABLE,
    PG_error,
    PG_locked,
    PG_readahead,
    PG_uptodate,
    put_page,
)
from glasskernel.mm.page_writeback import (
    __set_page_dirty_nobuffers,
    do_writepages,
    filemap_check_errors,
    set_page_dirty,
    wait_for_stable_page,
    wait_for_writeback_range,
)
from glasskernel.mm.pagemap import (
    FGP_ACCESSED,
    FGP_CREAT,
    FGP_FOR_MMAP,
    FGP_LOCK,
    FGP_NOFS,
    FGP_NOWAIT,
    FGP_WRITE,
    FilemapState,
    __lock_page,
    __lock_page_killable,
    add_to_page_cache_lru,
    delete_from_page_cache,
    find_get_entry,
    find_get_page,
    find_get_pages_range,
    find_lock_page,
    find_or_create_page,
    grab_cache_page_write_begin,
    lock_page,
    lock_page_killable,
    pagecache_get_page,
    pagecache_init,
    trylock_page,
    unlock_page,
    wait_on_page_locked,
    wait_on_page_locked_killable,
    zero_user_segment,
)
from glasskernel.mm.readahead import (
    FileRaState,
    file_ra,
    page_cache_async_readahead,
    page_cache_sync_readahead,
    ra_submit,
)
from glasskernel.mm.swap import mark_page_accessed
from glasskernel.mm.truncate import (
    invalidate_inode_pages2,
    invalidate_inode_pages2_range,
    invalidate_mapping_pages,
    pagecache_isize_extended,
    truncate_inode_pages,
    truncate_inode_pages_range,
    truncate_pagecache,
    truncate_pagecache_range,
    truncate_setsize,
)
from glasskernel.mm.types import (
    AS_EIO,
    AS_ENOSPC,
    VM_FAULT_LOCKED,
    VM_FAULT_MAJOR,
    VM_FAULT_NOPAGE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_MAYWRITE,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    WB_SYNC_ALL,
    WB_SYNC_NONE,
    AddressSpace,
    VmAreaStruct,
    VmFault,
    VmOperations,
    WritebackControl,
    _einval,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

__all__ = [
    "FGP_ACCESSED", "FGP_CREAT", "FGP_FOR_MMAP", "FGP_LOCK", "FGP_NOFS", "FGP_NOWAIT", "FGP_WRITE",
    "FileRaState", "FilemapState", "__set_page_dirty_nobuffers", "add_to_page_cache_lru",
    "delete_from_page_cache", "filemap_fault", "filemap_fdatawait_range", "filemap_fdatawrite",
    "filemap_fdatawrite_range", "filemap_map_pages", "filemap_page_mkwrite", "filemap_write_and_wait",
    "filemap_write_and_wait_range", "find_get_entry", "find_get_page", "find_get_pages_range",
    "find_lock_page", "find_or_create_page", "generic_file_mmap", "generic_file_read_iter",
    "generic_file_readonly_mmap", "put_page", "generic_file_vm_ops", "generic_file_write_iter",
    "generic_perform_write", "generic_write_checks",
    "grab_cache_page_write_begin", "invalidate_inode_pages2", "invalidate_inode_pages2_range",
    "invalidate_mapping_pages", "lock_page", "mark_page_accessed", "pagecache_get_page", "pagecache_init",
    "pagecache_isize_extended", "read_cache_page", "set_page_dirty", "truncate_inode_pages",
    "truncate_inode_pages_range", "truncate_pagecache", "truncate_pagecache_range", "truncate_setsize",
    "trylock_page", "unlock_page", "unmap_mapping_range", "zero_user_segment",
]

# include/linux/fs.h and fs/types.py, which lies above this layer
O_APPEND, O_NOATIME, O_DSYNC = 0o2000, 0o1000000, 0o10000
IOCB_APPEND, IOCB_DIRECT, IOCB_DSYNC, IOCB_WRITE, IOCB_NOWAIT = 2, 4, 16, 64, 128
S_IFMT, S_IFBLK = 0o170000, 0o060000
S_SWAPFILE = 256                         # inode.i_flags
I_DIRTY = 7
SB_SYNCHRONOUS, S_SYNC = 16, 1
SIGXFSZ = 25
LLONG_MAX = (1 << 63) - 1
MMAP_LOTSAMISS = 100


# ---- reading ---------------------------------------------------------------------------------------
@may_sleep
def generic_file_read_iter(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter of file systems that use the page cache: how many bytes went, 0 at the end of the file.

    Moves iocb.ki_pos. Raises EIO, EFAULT, EAGAIN (IOCB_NOWAIT), ENOMEM.
    """
    if not to.count:
        return 0
    if iocb.ki_flags & IOCB_DIRECT:
        mapping = iocb.ki_filp.f_mapping
        direct = mapping.a_ops.direct_IO
        if direct is not None:
            end = iocb.ki_pos + to.count - 1
            filemap_write_and_wait_range(mapping, iocb.ki_pos, end)
            file_accessed(iocb.ki_filp)
            done = direct(iocb, to)
            if done < 0:                           # -EIOCBQUEUED
                return done
            iocb.ki_pos += done
            host = mapping.host
            if not to.count or host is None or iocb.ki_pos >= host.i_size:
                return done
            return generic_file_buffered_read(iocb, to, done)      # what direct I/O left: a hole, or an odd tail
    return generic_file_buffered_read(iocb, to, 0)


@may_sleep
def generic_file_buffered_read(iocb: Kiocb, to: IovIter, written: int) -> int:
    """Copies from the page cache, reading what is missing. written: bytes that went already."""
    filp = iocb.ki_filp
    mapping = filp.f_mapping
    inode = mapping.host
    assert inode is not None
    pos = iocb.ki_pos
    if pos >= inode.i_sb.s_maxbytes:
        return written
    task = current()
    kernel = task.kernel
    mem = kernel.mem
    ram = mem.ram
    flags = mem.flags
    refcount = mem.refcount
    ra = filp.f_ra or file_ra(filp)
    prev_index = ra.prev_pos >> 12
    prev_offset = ra.prev_pos & 0xFFF
    index = pos >> 12
    last_index = (pos + to.count + 0xFFF) >> 12
    offset = pos & 0xFFF
    pfn = 0
    try:
        while True:
            cond_resched()
            if task.ti_flags & TIF_SIGPENDING and fatal_signal_pending(task):
                raise KernelError(EINTR)
            pfn = pagecache_get_page(mapping, index, 0, 0)
            if not pfn:
                if iocb.ki_flags & IOCB_NOWAIT:
                    raise KernelError(EAGAIN)
                page_cache_sync_readahead(mapping, ra, filp, index, last_index - index)
                pfn = pagecache_get_page(mapping, index, 0, 0)
                if not pfn and index << 12 < inode.i_size:
                    pfn = _no_cached_page(mapping, index)
                if not pfn:
                    break
            state = flags[pfn]
            if state & PG_readahead:
                page_cache_async_readahead(mapping, ra, filp, pfn, index, last_index - index)
            if not state & PG_uptodate:
                if iocb.ki_flags & IOCB_NOWAIT:
                    raise KernelError(EAGAIN)
                partially = mapping.a_ops.is_partially_uptodate
                if (partially is None or index << 12 >= inode.i_size
                        or not trylock_page(kernel, pfn)):
                    ready = False
                else:
                    ready = mem.mapping.get(pfn) is mapping and partially(pfn, offset, to.count)
                    unlock_page(kernel, pfn)
                if not ready and not _read_not_uptodate(kernel, filp, mapping, index, pfn):
                    put_page(kernel, pfn)
                    pfn = 0
                    continue
            # i_size is looked at after the page is known to be up to date: it was not behind the end then.
            isize = inode.i_size
            nr = isize - (index << 12)
            if nr > 4096:
                nr = 4096
            if nr <= offset:
                break
            if prev_index != index or offset != prev_offset:
                mark_page_accessed(kernel, pfn)
            prev_index = index
            start = (pfn << 12) + offset
            done = to.copy_to_iter(ram[start : start + nr - offset])
            written += done
            left = nr - offset - done
            offset += done
            prev_offset = offset & 0xFFF
            index += offset >> 12
            offset &= 0xFFF
            count = refcount[pfn] - 1                # put_page()
            if count:
                refcount[pfn] = count
            else:
                put_page(kernel, pfn)
            pfn = 0
            if not to.count or left:
                break
    except KernelError:
        if not written:
            raise
    finally:
        if pfn:
            put_page(kernel, pfn)
        ra.prev_pos = prev_index << 12 | prev_offset
        iocb.ki_pos = index << 12 | offset
        file_accessed(filp)
    return written


@notrace
@may_sleep
def _no_cached_page(mapping: AddressSpace, index: int) -> int:
    """no_cached_page: readahead did not bring it (it is off, or out of memory). A fresh, unlocked page."""
    return pagecache_get_page(mapping, index, FGP_CREAT | FGP_FOR_MMAP, GFP_HIGHUSER_MOVABLE)


@notrace
@may_sleep
def _read_not_uptodate(
    kernel: Kernel, filp: File | None, mapping: AddressSpace, index: int, pfn: int, killable: bool = True
) -> bool:
    """page_not_up_to_date: reads a page that nobody has read. False: truncated, look again. Raises EIO.

    killable: a fatal signal ends the wait with Restart.
    """
    mem = kernel.mem
    flags = mem.flags
    if flags[pfn] & PG_locked:                   # readahead is at it
        (wait_on_page_locked_killable if killable else wait_on_page_locked)(kernel, pfn)
        if flags[pfn] & PG_uptodate:
            return True
    (lock_page_killable if killable else lock_page)(kernel, pfn)
    if mem.mapping.get(pfn) is not mapping:
        unlock_page(kernel, pfn)
        return False
    if flags[pfn] & PG_uptodate:
        unlock_page(kernel, pfn)
        return True
    flags[pfn] &= ~PG_error
    mapping.a_ops.readpage(filp, mapping, index, pfn)
    if not flags[pfn] & PG_uptodate:
        (wait_on_page_locked_killable if killable else wait_on_page_locked)(kernel, pfn)
        if not flags[pfn] & PG_uptodate:
            if mem.mapping.get(pfn) is not mapping:
                return False
            if filp is not None:
                shrink_readahead_size_eio(file_ra(filp))
            raise KernelError(EIO)
    return True


@notrace
def shrink_readahead_size_eio(ra: FileRaState) -> None:
    """A read error: a smaller window reads less of the bad part the next time."""
    ra.ra_pages //= 4


@notrace
def file_accessed(file: File) -> None:
    """A read happened: the access time, unless O_NOATIME. Inline in Linux too (include/linux/fs.h)."""
    if not file.f_flags & O_NOATIME:
        current().kernel.filemap.touch_atime(file.f_path)


# ---- writing ---------------------------------------------------------------------------------------
@may_sleep
def generic_file_write_iter(iocb: Kiocb, source: IovIter) -> int:
    """->write_iter of file systems that use the page cache: how many bytes were taken. Takes i_rwsem.

    Raises what generic_write_checks() and ->write_begin raise (EFBIG, ENOSPC, EIO), EFAULT.
    """
    inode = iocb.ki_filp.f_mapping.host
    assert inode is not None
    sem = inode.i_rwsem
    if sem is None:
        sem = inode.i_rwsem = RwSemaphore()
    down_write(sem)
    try:
        if not generic_write_checks(iocb, source):
            return 0
        written = __generic_file_write_iter(iocb, source)
    finally:
        up_write(sem)
    if written > 0 and (iocb.ki_flags & IOCB_DSYNC or inode.i_sb.s_flags & SB_SYNCHRONOUS or inode.i_flags & S_SYNC):
        generic_write_sync(iocb, written)
    return written


@notrace
def generic_write_sync(iocb: Kiocb, count: int) -> None:
    """O_SYNC and O_DSYNC: what was written is stored before write(2) returns."""
    file = iocb.ki_filp
    file.f_op.fsync(file, iocb.ki_pos - count, iocb.ki_pos - 1, 0 if iocb.ki_flags & 32 else 1)


def generic_write_checks(iocb: Kiocb, source: IovIter) -> int:
    """How many bytes may be written at iocb.ki_pos; O_APPEND moves it to the end, limits cut source.count.

    Raises EFBIG (RLIMIT_FSIZE, with SIGXFSZ, or the file system's limit), EINVAL (NOWAIT without DIRECT),
    ETXTBSY (a swap file).
    """
    if not source.count:
        return 0
    inode = iocb.ki_filp.f_mapping.host
    assert inode is not None
    if inode.i_flags & S_SWAPFILE:
        raise KernelError(ETXTBSY)
    if iocb.ki_flags & IOCB_APPEND:
        iocb.ki_pos = inode.i_size
    if iocb.ki_flags & (IOCB_NOWAIT | IOCB_DIRECT) == IOCB_NOWAIT:
        raise KernelError(EINVAL)
    count = generic_write_check_limits(iocb.ki_filp, iocb.ki_pos, source.count)
    if count < source.count:
        truncate_iter(source, count)
    return source.count


@notrace
def truncate_iter(source: IovIter, count: int) -> None:
    """iov_iter_truncate()"""
    if count < source.count:
        source.count = count


def generic_write_check_limits(file: File, pos: int, count: int) -> int:
    """How many of `count` bytes may be written at `pos`. Raises EFBIG if none (SIGXFSZ for RLIMIT_FSIZE)."""
    task = current()
    limit = task.signal.rlim[RLIMIT_FSIZE][0]
    if limit != RLIM_INFINITY:
        if pos >= limit:
            send_sig(SIGXFSZ, task, 0)
            raise KernelError(EFBIG)
        count = min(count, limit - pos)
    inode = file.f_mapping.host
    assert inode is not None
    max_size = inode.i_sb.s_maxbytes
    if pos >= max_size:
        raise KernelError(EFBIG)
    return min(count, max_size - pos)


@may_sleep
def __generic_file_write_iter(iocb: Kiocb, source: IovIter) -> int:
    """generic_file_write_iter() with i_rwsem held and the checks done."""
    file = iocb.ki_filp
    hooks = current().kernel.filemap
    hooks.file_remove_privs(file)
    hooks.file_update_time(file)
    written = 0
    if iocb.ki_flags & IOCB_DIRECT and file.f_mapping.a_ops.direct_IO is not None:
        written = generic_file_direct_write(iocb, source)
        if not source.count:
            return written
        pos = iocb.ki_pos
        try:
            done = generic_perform_write(file, source, pos)
            filemap_write_and_wait_range(file.f_mapping, pos, pos + done - 1)
        except KernelError:
            if not written:
                raise
            return written
        iocb.ki_pos += done
        invalidate_mapping_pages(file.f_mapping, pos >> 12, (pos + done - 1) >> 12)
        return written + done
    done = generic_perform_write(file, source, iocb.ki_pos)
    iocb.ki_pos += done
    return done


@may_sleep
def generic_file_direct_write(iocb: Kiocb, source: IovIter) -> int:
    """O_DIRECT: cached pages of the range are stored before and dropped around the transfer."""
    mapping = iocb.ki_filp.f_mapping
    inode = mapping.host
    direct = mapping.a_ops.direct_IO
    assert inode is not None and direct is not None
    pos = iocb.ki_pos
    end = (pos + source.count - 1) >> 12
    filemap_write_and_wait_range(mapping, pos, pos + source.count - 1)
    try:
        invalidate_inode_pages2_range(mapping, pos >> 12, end)
    except KernelError as e:
        if e.errno == EBUSY:
            return 0                               # a page that cannot go: the page cache does the write
        raise
    iocb.ki_flags |= IOCB_WRITE
    written = direct(iocb, source)
    if mapping.pages:
        with suppress(KernelError):
            invalidate_inode_pages2_range(mapping, pos >> 12, end)
    if written > 0:
        pos += written
        if pos > inode.i_size and inode.i_mode & S_IFMT != S_IFBLK:
            inode.i_size = pos
            current().kernel.filemap.mark_inode_dirty(inode, I_DIRTY)
        iocb.ki_pos = pos
    return written


@may_sleep
def generic_perform_write(file: File, source: IovIter, pos: int) -> int:
    """Copies into the page cache, page by page, through ->write_begin and ->write_end; answers how much.

    Locks: i_rwsem held. Raises EFAULT, ENOSPC, ENOMEM, EIO, EINTR if not one byte went.
    """
    mapping = file.f_mapping
    write_begin = mapping.a_ops.write_begin
    write_end = mapping.a_ops.write_end
    task = current()
    kernel = task.kernel
    mem = kernel.mem
    ram = mem.ram
    throttled = inode_to_bdi(mapping.host) is not None
    written = 0
    try:
        while True:
            offset = pos & 0xFFF
            size = 4096 - offset
            if size > source.count:
                size = source.count
            data = source.copy_from_iter(size)
            size = len(data)
            if task.ti_flags & TIF_SIGPENDING and fatal_signal_pending(task):
                raise KernelError(EINTR)
            try:
                pfn = write_begin(file, mapping, pos, size)
            except KernelError:
                source.revert(size)
                raise
            mem.note_kernel_write(pfn)
            start = (pfn << 12) + offset
            ram[start : start + size] = data
            size = write_end(file, mapping, pos, size, size, pfn)
            cond_resched()
            if throttled:
                balance_dirty_pages_ratelimited(mapping)
            pos += size
            written += size
            if not source.count:
                return written
    except KernelError:
        if not written:
            raise
    return written


# ---- storing ---------------------------------------------------------------------------------------
@may_sleep
def filemap_fdatawrite_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Starts to store the dirty pages of bytes start..end (inclusive), all of them. Raises EIO, ENOSPC."""
    __filemap_fdatawrite_range(mapping, start, end, WB_SYNC_ALL)


@may_sleep
def __filemap_fdatawrite_range(mapping: AddressSpace, start: int, end: int, sync_mode: int) -> None:
    if mapping.dirty:
        do_writepages(mapping, WritebackControl(LLONG_MAX, 0, start, end, sync_mode))


@notrace
@may_sleep
def __filemap_fdatawrite(mapping: AddressSpace, sync_mode: int) -> None:
    __filemap_fdatawrite_range(mapping, 0, LLONG_MAX, sync_mode)


@may_sleep
def filemap_fdatawrite(mapping: AddressSpace) -> None:
    """Starts to store every dirty page. Raises EIO, ENOSPC."""
    __filemap_fdatawrite(mapping, WB_SYNC_ALL)


@may_sleep
def filemap_flush(mapping: AddressSpace) -> None:
    """The same as far as it does not have to wait for pages that are on their way already."""
    __filemap_fdatawrite(mapping, WB_SYNC_NONE)


@may_sleep
def __filemap_fdatawait_range(mapping: AddressSpace, start: int, end: int) -> None:
    wait_for_writeback_range(mapping, start >> 12, end >> 12)


@may_sleep
def filemap_fdatawait_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Waits for the pages of bytes start..end that are on their way to the device. Raises EIO, ENOSPC."""
    __filemap_fdatawait_range(mapping, start, end)
    filemap_check_errors(mapping)


@may_sleep
def filemap_fdatawait(mapping: AddressSpace) -> None:
    """filemap_fdatawait_range() of everything."""
    filemap_fdatawait_range(mapping, 0, LLONG_MAX)


@may_sleep
def filemap_fdatawait_keep_errors(mapping: AddressSpace) -> None:
    """The same; errors stay for who asks later."""
    __filemap_fdatawait_range(mapping, 0, LLONG_MAX)


@may_sleep
def filemap_write_and_wait_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Stores the dirty pages of bytes start..end (inclusive) and waits for them. Raises EIO, ENOSPC."""
    if mapping.pages:
        error = None
        try:
            __filemap_fdatawrite_range(mapping, start, end, WB_SYNC_ALL)
        except KernelError as e:
            error = e.errno
        if error != EIO:
            filemap_fdatawait_range(mapping, start, end)
    else:
        error = None
    filemap_check_errors(mapping)
    if error is not None:
        raise KernelError(error)


@may_sleep
def filemap_write_and_wait(mapping: AddressSpace) -> None:
    """Stores every dirty page and waits."""
    filemap_write_and_wait_range(mapping, 0, LLONG_MAX)


@may_sleep
def file_write_and_wait_range(file: File, start: int, end: int) -> None:
    """What ->fsync begins with: the dirty pages are stored. Raises each error once for every open file."""
    mapping = file.f_mapping
    error = None
    if mapping.pages:
        try:
            __filemap_fdatawrite_range(mapping, start, end, WB_SYNC_ALL)
        except KernelError as e:
            error = e.errno
        if error != EIO:
            __filemap_fdatawait_range(mapping, start, end)
    file_check_and_advance_wb_err(file)
    if error is not None:
        raise KernelError(error)


@may_sleep
def file_fdatawait_range(file: File, start: int, end: int) -> None:
    """filemap_fdatawait_range() with the errors that this open has not been told yet."""
    __filemap_fdatawait_range(file.f_mapping, start, end)
    file_check_and_advance_wb_err(file)


def file_check_and_advance_wb_err(file: File) -> None:
    """Raises the error of a write that failed since this open was told the last time."""
    mapping = file.f_mapping
    if mapping.wb_err == file.f_wb_err:
        return
    old = file.f_wb_err
    errno = errseq_check(mapping.wb_err, old)
    mapping.wb_err = file.f_wb_err = errseq_mark_seen(mapping.wb_err)
    probe = current().kernel.tp.file_check_and_advance_wb_err
    if probe is not None:
        probe(file, old)
    mapping.flags &= ~(AS_EIO | AS_ENOSPC)
    if errno:
        raise KernelError(errno)


# ---- mapping ---------------------------------------------------------------------------------------
@may_sleep
def filemap_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->fault for files in the page cache: vmf.pfn, up to date, with a reference. MAJOR if it was read.

    VM_FAULT_SIGBUS behind the end of the file and after a read error. Context: task, mmap_sem for reading.
    """
    file = vma.vm_file
    assert file is not None
    mapping = file.f_mapping
    inode = mapping.host
    assert inode is not None
    kernel = vma.vm_mm.kernel
    flags = kernel.mem.flags
    offset = vmf.pgoff
    if offset << 12 >= inode.i_size:
        return VM_FAULT_SIGBUS
    ra = file_ra(file)
    fault = 0
    fpin: File | None = None                             # mmap_sem was dropped, and the file is held instead
    pfn = pagecache_get_page(mapping, offset, 0, 0)
    if not pfn:
        fault = VM_FAULT_MAJOR
        fpin = do_sync_mmap_readahead(vma, vmf, ra, file, offset)
        pfn = fault_page(mapping, offset, fpin)
    elif not vmf.flags & FAULT_FLAG_TRIED:
        fpin = do_async_mmap_readahead(vma, vmf, ra, file, pfn, offset)
    while pfn and not flags[pfn] & PG_uptodate:
        if flags[pfn] & PG_locked:                       # lock_page_maybe_drop_mmap(): readahead is at it
            fpin = maybe_unlock_mmap_for_io(vmf, fpin)
            if vmf.flags & FAULT_FLAG_KILLABLE:
                try:
                    __lock_page_killable(kernel, pfn)
                except Restart:
                    if fpin is None:                     # who called looks for signals after a retry only
                        up_read(vma.vm_mm.mmap_sem)
                    return out_retry(kernel, fpin, pfn, fault)
            else:
                __lock_page(kernel, pfn)
        lock_page(kernel, pfn)
        if kernel.mem.mapping.get(pfn) is mapping:
            if flags[pfn] & PG_uptodate:
                unlock_page(kernel, pfn)
                break
            # page_not_uptodate: an error, most likely; once more
            fpin = maybe_unlock_mmap_for_io(vmf, fpin)
            flags[pfn] &= ~PG_error
            try:
                mapping.a_ops.readpage(file, mapping, offset, pfn)
                wait_on_page_locked(kernel, pfn)
                error = not flags[pfn] & PG_uptodate and kernel.mem.mapping.get(pfn) is mapping
            except KernelError:
                error = True
            if fpin is not None:
                return out_retry(kernel, fpin, pfn, fault)
            if error:
                shrink_readahead_size_eio(ra)
                put_page(kernel, pfn)
                return fault | VM_FAULT_SIGBUS
        else:
            unlock_page(kernel, pfn)
        put_page(kernel, pfn)
        pfn = fault_page(mapping, offset, fpin)
    if fpin is not None:
        return out_retry(kernel, fpin, pfn, fault)
    if offset << 12 >= inode.i_size or kernel.mem.mapping.get(pfn) is not mapping:   # truncated meanwhile
        put_page(kernel, pfn)
        return fault | (VM_FAULT_SIGBUS if offset << 12 >= inode.i_size else VM_FAULT_NOPAGE)
    vmf.pfn = pfn
    return fault


@notrace
def fault_page(mapping: AddressSpace, offset: int, fpin: File | None) -> int:
    """A page to be read. 0: there is no memory, but the fault begins anew anyhow. Raises ENOMEM."""
    try:
        return pagecache_get_page(mapping, offset, FGP_CREAT | FGP_FOR_MMAP, GFP_HIGHUSER_MOVABLE)
    except KernelError:
        if fpin is None:
            raise
        return 0


def maybe_unlock_mmap_for_io(vmf: VmFault, fpin: File | None) -> File | None:
    """Other threads need not wait for the disk: if the fault may be tried again, mmap_sem goes and the file is held."""
    if fpin is None and vmf.flags & FAULT_FLAG_ALLOW_RETRY:
        fpin = vmf.vma.vm_file
        assert fpin is not None
        fpin.f_count += 1
        up_read(vmf.vma.vm_mm.mmap_sem)
    return fpin


@notrace
def out_retry(kernel: Kernel, fpin: File | None, pfn: int, fault: int) -> int:
    """mmap_sem is not held any more: the fault begins anew."""
    if pfn:
        put_page(kernel, pfn)
    if fpin is not None:
        kernel.fput(fpin)
    return fault | VM_FAULT_RETRY


@may_sleep
def do_sync_mmap_readahead(
    vma: VmAreaStruct, vmf: VmFault, ra: FileRaState, file: File, offset: int
) -> File | None:
    """A mapped page is missing: reads around it, unless the reader jumps about. Answers the file if mmap_sem went."""
    if vma.vm_flags & VM_RAND_READ or not ra.ra_pages:
        return None
    mapping = file.f_mapping
    if vma.vm_flags & VM_SEQ_READ:
        fpin = maybe_unlock_mmap_for_io(vmf, None)
        page_cache_sync_readahead(mapping, ra, file, offset, ra.ra_pages)
        return fpin
    if ra.mmap_miss < MMAP_LOTSAMISS * 10:
        ra.mmap_miss += 1
    if ra.mmap_miss > MMAP_LOTSAMISS:
        return None
    fpin = maybe_unlock_mmap_for_io(vmf, None)
    ra.start = max(0, offset - ra.ra_pages // 2)
    ra.size = ra.ra_pages
    ra.async_size = ra.ra_pages // 4
    ra_submit(ra, mapping, file)
    return fpin


@may_sleep
def do_async_mmap_readahead(
    vma: VmAreaStruct, vmf: VmFault, ra: FileRaState, file: File, pfn: int, offset: int
) -> File | None:
    """A mapped page was there: goes on reading if it carries the mark. Answers the file if mmap_sem went."""
    if vma.vm_flags & VM_RAND_READ:
        return None
    if ra.mmap_miss > 0:
        ra.mmap_miss -= 1
    fpin = None
    if vma.vm_mm.kernel.mem.flags[pfn] & PG_readahead:
        fpin = maybe_unlock_mmap_for_io(vmf, None)
        page_cache_async_readahead(file.f_mapping, ra, file, pfn, offset, ra.ra_pages)
    return fpin


def filemap_map_pages(vma: VmAreaStruct, vmf: VmFault, start_pgoff: int, end_pgoff: int) -> None:
    """->map_pages: maps the pages start..end (inclusive) that are cached and up to date. Does not sleep."""
    file = vma.vm_file
    assert file is not None
    mapping = file.f_mapping
    inode = mapping.host
    assert inode is not None
    pages = mapping.pages
    flags = vma.vm_mm.kernel.mem.flags
    max_idx = (inode.i_size + 0xFFF) >> 12
    if end_pgoff >= max_idx:
        end_pgoff = max_idx - 1
    if end_pgoff < start_pgoff:
        return
    frames = []
    for index in range(start_pgoff, end_pgoff + 1):
        pfn = pages.get(index, 0)
        ready = pfn and flags[pfn] & (PG_uptodate | PG_locked | PG_readahead) == PG_uptodate
        frames.append(pfn if ready else 0)
    mapped = map_cached_frames(vma, vma.vm_start + ((start_pgoff - vma.vm_pgoff) << 12), frames)
    ra = file.f_ra
    if ra is not None and ra.mmap_miss > 0:
        ra.mmap_miss = max(0, ra.mmap_miss - mapped)


@may_sleep
def filemap_page_mkwrite(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->page_mkwrite: a shared page is about to be written to; it stays locked. NOPAGE if it was truncated."""
    file = vma.vm_file
    assert file is not None
    kernel = vma.vm_mm.kernel
    kernel.filemap.file_update_time(file)
    lock_page(kernel, vmf.pfn)
    if kernel.mem.mapping.get(vmf.pfn) is not file.f_mapping:
        unlock_page(kernel, vmf.pfn)
        return VM_FAULT_NOPAGE
    set_page_dirty(kernel, vmf.pfn)
    wait_for_stable_page(kernel, vmf.pfn)
    return VM_FAULT_LOCKED


generic_file_vm_ops = VmOperations(
    fault=filemap_fault, map_pages=filemap_map_pages, page_mkwrite=filemap_page_mkwrite
)


def generic_file_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap of file systems that use the page cache. Raises ENOEXEC if the file cannot be read by pages."""
    if file.f_mapping.a_ops.readpage is _einval:
        raise KernelError(ENOEXEC)
    file_accessed(file)
    vma.vm_ops = generic_file_vm_ops


def generic_file_readonly_mmap(file: File, vma: VmAreaStruct) -> None:
    """The same for file systems that cannot store. EINVAL for shared areas that may become writable."""
    if vma.vm_flags & VM_SHARED and vma.vm_flags & VM_MAYWRITE:
        raise KernelError(EINVAL)
    generic_file_mmap(file, vma)


# ---- pages for the file systems themselves ---------------------------------------------------------
@may_sleep
def read_cache_page(mapping: AddressSpace, index: int, file: File | None) -> int:
    """Page `index`, up to date, with a reference. Raises EIO, ENOMEM."""
    return do_read_cache_page(mapping, index, file)


@notrace
@may_sleep
def read_mapping_page(mapping: AddressSpace, index: int, file: File | None) -> int:
    """read_cache_page(), under its other name."""
    return read_cache_page(mapping, index, file)


@may_sleep
def do_read_cache_page(mapping: AddressSpace, index: int, file: File | None) -> int:
    kernel = current().kernel
    while True:
        pfn = pagecache_get_page(mapping, index, FGP_CREAT | FGP_FOR_MMAP, GFP_HIGHUSER_MOVABLE)
        if kernel.mem.flags[pfn] & PG_uptodate:
            break
        try:
            if _read_not_uptodate(kernel, file, mapping, index, pfn):
                break
        except KernelError:
            put_page(kernel, pfn)
            raise
        put_page(kernel, pfn)
    mark_page_accessed(kernel, pfn)
    return pfn
