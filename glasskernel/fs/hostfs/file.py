"""Files of hostfs: their bytes and attributes.

Linux: fs/hostfs/hostfs_kern.c (5.3). Same: the page cache is filled by readpage from the host file. Differs: writes go
    to the host before write(2) returns; what is written through a mapping goes there with msync(2) or the last close.
Owns: nothing. Access: first the guest's checks by mode and owner, then the host's for the user who runs us. Owners
    and set-user-ID bits are never changed on the host.
"""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.hostfs.node import HostNode, change, host_file, hostfs_sb, node_path, refresh, reread
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.types import (
    ATTR_ATIME,
    ATTR_GID,
    ATTR_MODE,
    ATTR_MTIME,
    ATTR_SIZE,
    ATTR_UID,
    FMODE_WRITE,
    S_IFMT,
    S_IFREG,
    FileOperations,
    InodeOperations,
)
from glasskernel.lib.errno import EACCES, EIO, ENOENT, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import (
    filemap_write_and_wait,
    filemap_write_and_wait_range,
    generic_file_mmap,
    generic_file_read_iter,
    generic_file_write_iter,
)
from glasskernel.mm.page_alloc import put_page
from glasskernel.mm.page_writeback import (
    __set_page_dirty_nobuffers,
    end_page_writeback,
    redirty_page_for_writepage,
    set_page_writeback,
)
from glasskernel.mm.pagemap import PageUptodate, SetPageUptodate, grab_cache_page_write_begin, unlock_page
from glasskernel.mm.truncate import truncate_setsize
from glasskernel.mm.types import AddressSpaceOperations

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Iattr, Inode, Kstat
    from glasskernel.mm.types import AddressSpace, WritebackControl


def hostfs_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """In a share for writing the host is asked each time, since it may write too."""
    node: HostNode = inode.i_private
    info = hostfs_sb(inode)
    if info.host.writable and inode.i_nlink and not node.rule.made:
        with contextlib.suppress(OSError):
            refresh(inode, info.host.stat(node_path(node)))
    return generic_fillattr(inode)


def hostfs_setattr(dentry: Dentry, iattr: Iattr) -> None:
    """chmod, truncate, utimes go to the host at once. Errors: EPERM for a change of owner; the host's."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, iattr)
    valid = iattr.ia_valid
    if (valid & ATTR_UID and iattr.ia_uid != inode.i_uid) or (valid & ATTR_GID and iattr.ia_gid != inode.i_gid):
        raise KernelError(EPERM)
    node: HostNode = inode.i_private
    host = hostfs_sb(inode).host
    if valid & ATTR_SIZE:
        change(inode, host_file(inode, True).truncate, iattr.ia_size)
        truncate_setsize(inode, iattr.ia_size)
    if valid & ATTR_MODE:
        if iattr.ia_mode & 0o6000 & ~inode.i_mode:
            raise KernelError(EPERM)
        change(inode, host.chmod, node_path(node), iattr.ia_mode)
    if valid & (ATTR_ATIME | ATTR_MTIME):
        change(inode, host.utime, node_path(node),
                iattr.ia_atime if valid & ATTR_ATIME else inode.i_atime,
                iattr.ia_mtime if valid & ATTR_MTIME else inode.i_mtime)
    setattr_copy(inode, iattr)
    reread(inode)


def hostfs_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    """The text, read once: it says nothing about the host until the guest resolves it in its own tree."""
    link = inode.i_link
    if link is None:
        try:
            link = hostfs_sb(inode).host.readlink(node_path(inode.i_private))
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if not hostfs_sb(inode).host.writable:
            inode.i_link = link
    return link


def hostfs_open(inode: Inode, file: File) -> None:
    """Looks at the host's file again: its size may have changed, or another file may have taken its place."""
    node: HostNode = inode.i_private
    if inode.i_nlink and inode.i_mode & S_IFMT == S_IFREG:
        info = hostfs_sb(inode)
        try:
            st = info.host.stat(node_path(node))
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if st.st_mode & S_IFMT != S_IFREG:
            raise KernelError(ENOENT)
        if node.key != (st.st_dev, st.st_ino) and node.file is not None:
            node.file.close()                       # replaced: a package was upgraded, say
            node.file = None
        refresh(inode, st)
        if file.f_mode & FMODE_WRITE:
            host_file(inode, True)


@notrace
def hostfs_no_device_open(inode: Inode, file: File) -> None:
    """A device of the host is out of reach. Errors: EACCES, as on a mount with nodev."""
    raise KernelError(EACCES)


def hostfs_readpage(file: File | None, mapping: AddressSpace, index: int, pfn: int) -> None:
    """->readpage(). Errors: EIO when the host cannot read it any more."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    try:
        fill_frame(mapping, index, pfn)
        SetPageUptodate(kernel, pfn)
    finally:
        unlock_page(kernel, pfn)


@notrace
def fill_frame(mapping: AddressSpace, index: int, pfn: int) -> None:
    """Reads one frame from the host; what lies behind its end is zero. A file that shrank has its size corrected.

    Errors: EIO when the host cannot read it any more.
    """
    inode = mapping.host
    assert inode is not None
    start = pfn << 12
    frame = inode.i_sb.kernel.machine.ram[start : start + 4096]
    source = host_file(inode)
    try:
        done = source.read_into(frame, index << 12)
        if done < 4096:
            frame[done:] = bytes(4096 - done)
            if (index << 12) + done < inode.i_size:
                inode.i_size = source.stat().st_size
    except OSError:
        raise KernelError(EIO) from None


@may_sleep
def hostfs_write_begin(file: File | None, mapping: AddressSpace, pos: int, length: int) -> int:
    """The frame to copy to, locked. What the copy leaves of a page that is not cached is read first."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    index = pos >> 12
    pfn = grab_cache_page_write_begin(mapping, index)
    if not PageUptodate(kernel, pfn) and length < 4096:
        try:
            fill_frame(mapping, index, pfn)
        except KernelError:
            unlock_page(kernel, pfn)
            put_page(kernel, pfn)
            raise
        SetPageUptodate(kernel, pfn)
    return pfn


def hostfs_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int,
                     pfn: int) -> int:
    """Writes through: the host has the bytes before write(2) returns. Errors: ENOSPC, EIO ... of the host."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    start = (pfn << 12) + (pos & 4095)
    try:
        done = host_file(inode, True).write(kernel.machine.ram[start : start + copied], pos)
        if done == 4096:
            SetPageUptodate(kernel, pfn)
    except OSError as e:
        raise KernelError(e.errno or EIO) from None
    finally:
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)
    if pos + done > inode.i_size:
        inode.i_size = pos + done
    return done


def hostfs_writepage(mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl) -> int:
    """Stores what was written through a shared mapping. Errors: the host's; the page stays dirty then."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    size = min(4096, inode.i_size - (index << 12))
    set_page_writeback(kernel, pfn)
    try:
        if size > 0:
            host_file(inode, True).write(kernel.machine.ram[pfn << 12 : (pfn << 12) + size], index << 12)
    except (OSError, KernelError) as e:
        redirty_page_for_writepage(wbc, mapping, pfn)
        raise KernelError(e.errno or EIO) from None
    finally:
        unlock_page(kernel, pfn)
        end_page_writeback(kernel, pfn)
    return 0


def hostfs_file_release(inode: Inode, file: File) -> None:
    """The last user of this open is gone: what was written through a mapping goes to the host."""
    if inode.i_mapping.dirty:
        filemap_write_and_wait(inode.i_mapping)
    if file.f_mode & FMODE_WRITE:
        reread(inode)


def hostfs_fsync(file: File, start: int, end: int, datasync: int) -> None:
    """fsync(2) of the host's file."""
    inode = file.f_inode
    if inode.i_mode & S_IFMT == S_IFREG and hostfs_sb(inode).host.writable:
        filemap_write_and_wait_range(inode.i_mapping, start, end)
        try:
            host_file(inode).sync(bool(datasync))
        except OSError as e:
            raise KernelError(e.errno or EIO) from None


hostfs_aops = AddressSpaceOperations(
    readpage=hostfs_readpage, write_begin=hostfs_write_begin, write_end=hostfs_write_end,
    writepage=hostfs_writepage, set_page_dirty=__set_page_dirty_nobuffers,
)
hostfs_iops = InodeOperations(getattr=hostfs_getattr, setattr=hostfs_setattr)
hostfs_link_iops = InodeOperations(get_link=hostfs_get_link, getattr=hostfs_getattr, setattr=hostfs_setattr)
hostfs_file_fops = FileOperations(
    llseek=generic_file_llseek, iter=True, read_iter=generic_file_read_iter, write_iter=generic_file_write_iter,
    mmap=generic_file_mmap, open=hostfs_open, release=hostfs_file_release, fsync=hostfs_fsync,
)
hostfs_no_device_fops = FileOperations(open=hostfs_no_device_open)
