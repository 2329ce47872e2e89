"""Symbolic links: in the inode up to 59 bytes, else in a block.

Linux: fs/ext4/symlink.c, ext4_symlink() in namei.c (5.3). Same: a slow link is made in two transactions with the inode
    on the orphan list in between.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_DATA_TRANS_BLOCKS,
    EXT4_INDEX_EXTRA_TRANS_BLOCKS,
    ext4_handle_sync,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_journal_stop_quiet,
)
from glasskernel.fs.ext4.ialloc_new import ext4_new_inode_start_handle
from glasskernel.fs.ext4.inode_aops import ext4_set_aops
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.namei import IS_DIRSYNC, ext4_add_nondir
from glasskernel.fs.ext4.orphan import ext4_orphan_add, ext4_orphan_del
from glasskernel.fs.ext4.types import EXT4_EXTENTS_FL, EXT4_HT_DIR, EXT4_I, EXT4_SB, ext4_forced_shutdown
from glasskernel.fs.inode import clear_nlink, drop_nlink, iput, unlock_new_inode
from glasskernel.fs.types import S_IFLNK
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EIO, ENAMETOOLONG, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import read_mapping_page
from glasskernel.mm.page_alloc import put_page

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode


@may_sleep
def page_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    """->get_link() of a link whose text is in its first page (fs/namei.c). Raises EIO."""
    kernel = current().kernel
    pfn = read_mapping_page(inode.i_mapping, 0, None)
    start = pfn << 12
    text = kernel.mem.ram[start : start + min(inode.i_size, 4095)].tobytes()
    put_page(kernel, pfn)
    return text.split(b"\0", 1)[0]


@may_sleep
def page_symlink(inode: Inode, symname: bytes) -> None:
    """Writes the text through the page cache (fs/namei.c). Raises ENOSPC, EIO."""
    mapping = inode.i_mapping
    kernel = inode.i_sb.kernel
    data = symname + b"\0"
    pfn = mapping.a_ops.write_begin(None, mapping, 0, len(data) - 1)
    start = pfn << 12
    kernel.mem.ram[start : start + len(data) - 1] = data[:-1]
    mapping.a_ops.write_end(None, mapping, 0, len(data) - 1, len(data) - 1, pfn)


def simple_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    """->get_link() of a link in the inode."""
    assert inode.i_link is not None
    return inode.i_link


@may_sleep
def ext4_symlink(dir: Inode, dentry: Dentry, symname: bytes) -> None:
    """->symlink(). Raises ENAMETOOLONG, ENOSPC, EIO."""
    sb = dir.i_sb
    length = len(symname) + 1
    if ext4_forced_shutdown(EXT4_SB(sb)):
        raise KernelError(EIO)
    if length > sb.s_blocksize:
        raise KernelError(ENAMETOOLONG)
    tables = EXT4_SB(sb).s_tables
    slow = length > 60
    if slow:
        credits = 4 + EXT4_DATA_TRANS_BLOCKS(sb)     # not named yet: on the orphan list
    else:
        credits = EXT4_DATA_TRANS_BLOCKS(sb) + EXT4_INDEX_EXTRA_TRANS_BLOCKS + 3
    inode, handle = ext4_new_inode_start_handle(dir, S_IFLNK | 0o777, dentry.d_name, EXT4_HT_DIR, credits)
    if IS_DIRSYNC(dir):
        ext4_handle_sync(handle)
    ei = EXT4_I(inode)
    if not slow:
        try:
            ei.i_flags &= ~EXT4_EXTENTS_FL
            inode.i_op = tables.fast_symlink_iops
            ei.i_data[:] = symname.ljust(60, b"\0")
            inode.i_size = ei.i_disksize = length - 1
            inode.i_link = symname
            ext4_add_nondir(handle, dentry, inode)
        finally:
            ext4_journal_stop_quiet(handle)
        return
    inode.i_op = tables.symlink_iops
    ext4_set_aops(inode)
    running = True
    try:
        drop_nlink(inode)
        ext4_orphan_add(handle, inode)
        ext4_journal_stop(handle)
        running = False
        page_symlink(inode, symname)                 # starts handles of its own
        handle = ext4_journal_start(dir, EXT4_HT_DIR, EXT4_DATA_TRANS_BLOCKS(sb) + EXT4_INDEX_EXTRA_TRANS_BLOCKS + 1)
        running = True
        inc_nlink_from_zero(inode)
        ext4_orphan_del(handle, inode)
        ei.i_disksize = inode.i_size
        ext4_mark_inode_dirty(handle, inode)
    except KernelError:
        if running:
            ext4_journal_stop_quiet(handle)
        clear_nlink(inode)
        unlock_new_inode(inode)
        iput(inode)
        raise
    try:
        ext4_add_nondir(handle, dentry, inode)
    finally:
        ext4_journal_stop_quiet(handle)


@notrace
def inc_nlink_from_zero(inode: Inode) -> None:
    """set_nlink(inode, 1)"""
    inode.i_nlink = 1


