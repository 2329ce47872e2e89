"""Regular files: read, write, mmap, seek; blocks at close.

Linux: fs/ext4/file.c, ext4_page_mkwrite() and ext4_alloc_da_blocks() of inode.c (5.3). Same: SEEK_DATA and SEEK_HOLE
    through the block map, s_bitmap_maxbytes, allocation at close for files truncated to 0 (auto_da_alloc).
Lock order: i_rwsem; i_mmap_sem in faults.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_page import block_page_mkwrite
from glasskernel.fs.d_path import d_path
from glasskernel.fs.dentry_open import generic_file_open
from glasskernel.fs.ext4.convert import ext4_writepage_trans_blocks
from glasskernel.fs.ext4.ext4_jbd2 import (
    ext4_handle_dirty_super,
    ext4_inode_attach_jinode,
    ext4_journal_get_write_access,
    ext4_journal_start,
    ext4_journal_start_sb,
    ext4_journal_stop,
    ext4_should_journal_data,
)
from glasskernel.fs.ext4.extents_status import ES_DELAYED, ext4_es_find_extent_range
from glasskernel.fs.ext4.inode import ext4_filemap_fault
from glasskernel.fs.ext4.inode_aops import ext4_da_get_block_prep, ext4_nonda_switch
from glasskernel.fs.ext4.inode_map import ext4_get_block, ext4_map_blocks
from glasskernel.fs.ext4.mballoc import ext4_discard_preallocations
from glasskernel.fs.ext4.page_io import ext4_unwritten_wait
from glasskernel.fs.ext4.types import (
    EXT4_EXTENTS_FL,
    EXT4_HT_MISC,
    EXT4_HT_WRITE_PAGE,
    EXT4_I,
    EXT4_MAP_MAPPED,
    EXT4_MAP_UNWRITTEN,
    EXT4_MF_MNTDIR_SAMPLED,
    EXT4_MOUNT_DELALLOC,
    EXT4_SB,
    EXT4_STATE_DA_ALLOC_CLOSE,
    Ext4MapBlocks,
    ext4_forced_shutdown,
    test_opt,
)
from glasskernel.fs.inode import inode_lock, inode_lock_shared, inode_unlock, inode_unlock_shared
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import FMODE_WRITE, IOCB_DIRECT, SB_RDONLY, Path, is_sync_kiocb
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.lib.errno import EFBIG, EINVAL, EIO, ENXIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import (
    __generic_file_write_iter,
    file_accessed,
    filemap_flush,
    filemap_map_pages,
    generic_file_read_iter,
    generic_write_checks,
    generic_write_sync,
)
from glasskernel.mm.iov_iter import iov_iter_alignment
from glasskernel.mm.page_alloc import PG_uptodate
from glasskernel.mm.types import VmOperations

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb, SuperBlock
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import VmAreaStruct, VmFault

IOCB_DSYNC = 16
SEEK_DATA, SEEK_HOLE = 3, 4
VM_FAULT_SIGBUS = 2


@may_sleep
def ext4_alloc_da_blocks(inode: Inode) -> None:
    """Delayed blocks are allocated and written now: a file replaced by rename must not be empty after a crash."""
    if not EXT4_I(inode).i_reserved_data_blocks:
        return
    probe = inode.i_sb.kernel.tp.ext4_alloc_da_blocks
    if probe is not None:
        probe(inode)
    filemap_flush(inode.i_mapping)


@may_sleep
def ext4_sample_last_mounted(sb: SuperBlock, filp: File) -> None:
    """The first open() after a mount notes where the file system is mounted. Raises EIO, EROFS."""
    sbi = EXT4_SB(sb)
    sbi.s_mount_flags |= EXT4_MF_MNTDIR_SAMPLED
    mnt = filp.f_path.mnt
    path = d_path(Path(mnt, mnt.mnt_root))
    handle = ext4_journal_start_sb(sb, EXT4_HT_MISC, 1)
    try:
        ext4_journal_get_write_access(handle, sbi.s_sbh)
        sbi.s_es.s_last_mounted = path[:64]
        ext4_handle_dirty_super(handle, sb)
    finally:
        ext4_journal_stop(handle)


@may_sleep
def ext4_file_open(inode: Inode, filp: File) -> None:
    """->open(). Raises EIO (shut down), EOVERFLOW."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    if ext4_forced_shutdown(sbi):
        raise KernelError(EIO)
    if not sbi.s_mount_flags & EXT4_MF_MNTDIR_SAMPLED and not sb.s_flags & SB_RDONLY:
        ext4_sample_last_mounted(sb, filp)
    if filp.f_mode & FMODE_WRITE:
        ext4_inode_attach_jinode(inode)
    generic_file_open(inode, filp)


@may_sleep
def ext4_release_file(inode: Inode, filp: File) -> None:
    """->release(): the last writer gives preallocated blocks back."""
    ei = EXT4_I(inode)
    if ei.i_state_flags & EXT4_STATE_DA_ALLOC_CLOSE:
        ext4_alloc_da_blocks(inode)
        ei.i_state_flags &= ~EXT4_STATE_DA_ALLOC_CLOSE
    if filp.f_mode & FMODE_WRITE and inode.i_writecount == 1 and not ei.i_reserved_data_blocks:
        down_write(ei.i_data_sem)
        ext4_discard_preallocations(inode)
        up_write(ei.i_data_sem)


@may_sleep
def ext4_file_read_iter(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter()."""
    if ext4_forced_shutdown(EXT4_SB(iocb.ki_filp.f_inode.i_sb)):
        raise KernelError(EIO)
    if not to.count:
        return 0
    return generic_file_read_iter(iocb, to)


@notrace
def ext4_write_checks(iocb: Kiocb, source: IovIter) -> int:
    """generic_write_checks() with the limit of block maps."""
    count = generic_write_checks(iocb, source)
    if count <= 0:
        return count
    inode = iocb.ki_filp.f_inode
    if not EXT4_I(inode).i_flags & EXT4_EXTENTS_FL:
        limit = EXT4_SB(inode.i_sb).s_bitmap_maxbytes
        if iocb.ki_pos >= limit:
            raise KernelError(EFBIG)
        if source.count > limit - iocb.ki_pos:
            source.count = limit - iocb.ki_pos
    return source.count


def ext4_unaligned_aio(inode: Inode, source: IovIter, pos: int) -> bool:
    """True for a write that covers parts of blocks inside the file."""
    if pos >= inode.i_size:
        return False
    return bool((pos | iov_iter_alignment(source)) & (inode.i_sb.s_blocksize - 1))


@may_sleep
def ext4_file_write_iter(iocb: Kiocb, source: IovIter) -> int:
    """->write_iter()."""
    inode = iocb.ki_filp.f_inode
    if ext4_forced_shutdown(EXT4_SB(inode.i_sb)):
        raise KernelError(EIO)
    inode_lock(inode)
    try:
        if ext4_write_checks(iocb, source) <= 0:
            return 0
        if not iocb.ki_flags & IOCB_DIRECT or is_sync_kiocb(iocb):
            written = __generic_file_write_iter(iocb, source)
        else:
            # Two that share a block would both zero the rest of it: one after the other.
            unaligned_aio = EXT4_I(inode).i_flags & EXT4_EXTENTS_FL and ext4_unaligned_aio(inode, source, iocb.ki_pos)
            if unaligned_aio:
                ext4_unwritten_wait(inode)
            written = __generic_file_write_iter(iocb, source)
            if unaligned_aio and written < 0:
                ext4_unwritten_wait(inode)
    finally:
        inode_unlock(inode)
    if written > 0 and iocb.ki_flags & IOCB_DSYNC:
        generic_write_sync(iocb, written)
    return written


@may_sleep
def ext4_page_mkwrite(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->page_mkwrite: blocks, or a reservation, before a mapping writes."""
    file = vma.vm_file
    assert file is not None
    inode = file.f_inode
    sb = inode.i_sb
    kernel = sb.kernel
    kernel.filemap.file_update_time(file)
    ei = EXT4_I(inode)
    down_read(ei.i_mmap_sem)
    try:
        if (test_opt(EXT4_SB(sb), EXT4_MOUNT_DELALLOC) and not ext4_should_journal_data(inode)
                and not ext4_nonda_switch(sb)):
            return block_page_mkwrite(vma, vmf, ext4_da_get_block_prep)
        try:
            handle = ext4_journal_start(inode, EXT4_HT_WRITE_PAGE, ext4_writepage_trans_blocks(inode))
        except KernelError:
            return VM_FAULT_SIGBUS
        try:
            return block_page_mkwrite(vma, vmf, ext4_get_block)
        finally:
            ext4_journal_stop(handle)
    finally:
        up_read(ei.i_mmap_sem)


ext4_file_vm_ops = VmOperations(fault=ext4_filemap_fault, map_pages=filemap_map_pages, page_mkwrite=ext4_page_mkwrite)


def ext4_file_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap()."""
    if ext4_forced_shutdown(EXT4_SB(file.f_inode.i_sb)):
        raise KernelError(EIO)
    file_accessed(file)
    vma.vm_ops = ext4_file_vm_ops


# ---- seeking -----------------------------------------------------------------------------------------------
@notrace
def _cached_data(inode: Inode, lblk: int) -> bool:
    """True if the page cache has data for an unwritten block."""
    pfn = inode.i_mapping.pages.get(lblk << inode.i_blkbits >> 12, 0)
    return bool(pfn and inode.i_sb.kernel.mem.flags[pfn] & PG_uptodate)


@notrace
@may_sleep
def ext4_iomap_seek(inode: Inode, offset: int, want_data: bool) -> int:
    """iomap_seek_data(), iomap_seek_hole(): where data, or a hole, begins at or behind `offset`. Raises ENXIO."""
    size = inode.i_size
    if offset < 0 or offset >= size:
        raise KernelError(ENXIO)
    bits = inode.i_blkbits
    position = offset
    while position < size:
        lblk = position >> bits
        map = Ext4MapBlocks(lblk, (size - 1 >> bits) - lblk + 1)
        ret = ext4_map_blocks(None, inode, map, 0)
        length = map.m_len
        if ret > 0 and map.m_flags & EXT4_MAP_MAPPED:
            data = True
        elif ret > 0 and map.m_flags & EXT4_MAP_UNWRITTEN:
            data, length = _cached_data(inode, lblk), 1
        else:
            es = ext4_es_find_extent_range(inode, ES_DELAYED, lblk, lblk + length - 1)
            data = es is not None and es.es_lblk <= lblk
            if es is not None:
                length = es.es_lblk + es.es_len - lblk if data else es.es_lblk - lblk
        if data == want_data:
            return position
        position = lblk + max(length, 1) << bits
    if want_data:
        raise KernelError(ENXIO)
    return size


@may_sleep
def ext4_llseek(file: File, offset: int, whence: int) -> int:
    """->llseek(). Raises EINVAL, ENXIO."""
    inode = file.f_inode
    if whence not in (SEEK_DATA, SEEK_HOLE):
        return generic_file_llseek(file, offset, whence)
    inode_lock_shared(inode)
    try:
        position = ext4_iomap_seek(inode, offset, whence == SEEK_DATA)
    finally:
        inode_unlock_shared(inode)
    if position > inode.i_sb.s_maxbytes:
        raise KernelError(EINVAL)
    file.f_pos = position
    return position


