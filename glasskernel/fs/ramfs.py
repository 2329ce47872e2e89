"""ramfs: files that live in the page cache and nowhere else. rootfs is one.

Linux: fs/ramfs/inode.c, file-mmu.c (5.3). Same: no limits, mode= option, page cache pages that are never reclaimed.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_instantiate, d_make_root, dget
from glasskernel.fs.inode import (
    current_time,
    get_next_ino,
    inc_nlink,
    init_special_inode,
    inode_init_owner,
    new_inode,
)
from glasskernel.fs.libfs import (
    noop_fsync,
    simple_dir_operations,
    simple_link,
    simple_lookup,
    simple_rename,
    simple_rmdir,
    simple_statfs,
    simple_symlink_inode_operations,
    simple_unlink,
)
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.super import kill_litter_super, mount_nodev
from glasskernel.fs.types import (
    ATTR_SIZE,
    FS_USERNS_MOUNT,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    FileOperations,
    FileSystemType,
    InodeOperations,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.mm.filemap import generic_file_mmap, generic_file_read_iter, generic_file_write_iter
from glasskernel.mm.page_alloc import ZERO_PAGE, PG_uptodate, put_page
from glasskernel.mm.pagemap import grab_cache_page_write_begin, unlock_page
from glasskernel.mm.truncate import truncate_setsize
from glasskernel.mm.types import AS_UNEVICTABLE, AddressSpaceOperations

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Iattr, Inode, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace

RAMFS_MAGIC = 0x858458F6


# ---- pages -------------------------------------------------------------------------------------------------
def simple_readpage(file: File | None, mapping: AddressSpace, index: int, pfn: int) -> None:
    """->readpage(): what was never written is zeros."""
    kernel = current().kernel
    mem = kernel.mem
    mem.note_kernel_write(pfn)
    mem.ram[pfn << 12 : (pfn + 1) << 12] = ZERO_PAGE
    mem.flags[pfn] |= PG_uptodate
    unlock_page(kernel, pfn)


def simple_write_begin(file: File | None, mapping: AddressSpace, pos: int, length: int) -> int:
    """->write_begin(): the page, locked, zeroed outside the part that is about to be written."""
    pfn = grab_cache_page_write_begin(mapping, pos >> 12)
    mem = current().kernel.mem
    if length != 4096 and not mem.flags[pfn] & PG_uptodate:
        mem.note_kernel_write(pfn)
        mem.ram[pfn << 12 : (pfn + 1) << 12] = ZERO_PAGE
    return pfn


def simple_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int) -> int:
    """->write_end(): up to date, i_size moved, unlocked."""
    kernel = current().kernel
    kernel.mem.flags[pfn] |= PG_uptodate
    inode = mapping.host
    assert inode is not None
    if pos + copied > inode.i_size:
        inode.i_size = pos + copied
    unlock_page(kernel, pfn)
    put_page(kernel, pfn)
    return copied


ramfs_aops = AddressSpaceOperations(
    readpage=simple_readpage, write_begin=simple_write_begin, write_end=simple_write_end)
ramfs_file_operations = FileOperations(
    llseek=generic_file_llseek, iter=True, read_iter=generic_file_read_iter, write_iter=generic_file_write_iter,
    mmap=generic_file_mmap, fsync=noop_fsync)


def ramfs_setattr(dentry: Dentry, attr: Iattr) -> None:
    """->setattr(): a new size drops pages too."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, attr)
    if attr.ia_valid & ATTR_SIZE:
        truncate_setsize(inode, attr.ia_size)
    setattr_copy(inode, attr)


# ---- inodes ------------------------------------------------------------------------------------------------
def ramfs_get_inode(sb: SuperBlock, dir: Inode | None, mode: int, dev: int) -> Inode:
    """A new inode."""
    inode = new_inode(sb)
    inode.i_ino = get_next_ino()
    inode_init_owner(inode, dir, mode)
    inode.i_mapping.a_ops = ramfs_aops
    inode.i_mapping.unevictable = True
    inode.i_mapping.flags |= AS_UNEVICTABLE              # mapping_set_unevictable()
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    kind = mode & S_IFMT
    if kind == S_IFREG:
        inode.i_op = ramfs_file_inode_operations
        inode.i_fop = ramfs_file_operations
    elif kind == S_IFDIR:
        inode.i_op = ramfs_dir_inode_operations
        inode.i_fop = simple_dir_operations
        inc_nlink(inode)
    elif kind == S_IFLNK:
        inode.i_op = simple_symlink_inode_operations
    else:
        init_special_inode(inode, inode.i_mode, dev)
    return inode


def ramfs_mknod(dir: Inode, dentry: Dentry, mode: int, dev: int) -> None:
    """->mknod(). The extra reference on the dentry is the directory entry."""
    inode = ramfs_get_inode(dir.i_sb, dir, mode, dev)
    d_instantiate(dentry, inode)
    dget(dentry)
    dir.i_mtime = dir.i_ctime = current_time(dir)


def ramfs_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->mkdir()."""
    ramfs_mknod(dir, dentry, mode | S_IFDIR, 0)
    inc_nlink(dir)


def ramfs_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->create()."""
    ramfs_mknod(dir, dentry, mode | S_IFREG, 0)


def ramfs_symlink(dir: Inode, dentry: Dentry, symname: bytes) -> None:
    """->symlink()."""
    inode = ramfs_get_inode(dir.i_sb, dir, S_IFLNK | 0o777, 0)
    inode.i_link = symname
    inode.i_size = len(symname)
    d_instantiate(dentry, inode)
    dget(dentry)
    dir.i_mtime = dir.i_ctime = current_time(dir)


ramfs_file_inode_operations = InodeOperations(setattr=ramfs_setattr)
ramfs_dir_inode_operations = InodeOperations(
    create=ramfs_create, lookup=simple_lookup, link=simple_link, unlink=simple_unlink, symlink=ramfs_symlink,
    mkdir=ramfs_mkdir, rmdir=simple_rmdir, mknod=ramfs_mknod, rename=simple_rename)


# ---- the file system ---------------------------------------------------------------------------------------
def ramfs_show_options(dentry: Dentry) -> bytes:
    """->show_options(): the mode of the root directory, unless it is 755."""
    mode: int = dentry.d_sb.s_fs_info
    return b"" if mode == 0o755 else b",mode=%o" % mode


ramfs_ops = SuperOperations(
    statfs=simple_statfs, drop_inode=lambda _inode: True, show_options=ramfs_show_options)


def ramfs_parse_param(data: bytes) -> int:
    """The mode of the root directory; other options are ignored, as ramfs always did. Raises EINVAL."""
    mode = 0o755
    for option in data.split(b","):
        key, _, value = option.partition(b"=")
        if key == b"mode":
            try:
                mode = int(value, 8) & 0o7777
            except ValueError:
                raise KernelError(EINVAL) from None
    return mode


def ramfs_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """Fills a super block."""
    mode = ramfs_parse_param(data)
    sb.s_fs_info = mode
    sb.s_magic = RAMFS_MAGIC
    sb.s_op = ramfs_ops
    sb.s_root = d_make_root(ramfs_get_inode(sb, None, S_IFDIR | mode, 0))


def ramfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount()."""
    return mount_nodev(kernel, fs_type, flags, data, ramfs_fill_super)


ramfs_fs_type = FileSystemType(b"ramfs", ramfs_mount, kill_litter_super, FS_USERNS_MOUNT)
rootfs_fs_type = FileSystemType(b"rootfs", ramfs_mount, kill_litter_super)
