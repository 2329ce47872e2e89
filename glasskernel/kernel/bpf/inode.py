"""bpffs: names for maps and programs, which live as long as their name.

Linux: kernel/bpf/inode.c (5.3). Same: what can be pinned where (only in this file system: EPERM), modes, directories,
    links, the mode= option. Owns: the references that inodes hold. Context: task.
Gaps: reading a pinned map's values as text (BTF): EIO as for maps without BTF.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.dcache import d_instantiate, d_make_root, dget
from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.fs.fsnotify import IN_CREATE, fsnotify_dirent
from glasskernel.fs.inode import clear_inode, current_time, get_next_ino, inc_nlink, inode_init_owner, new_inode
from glasskernel.fs.libfs import (
    simple_dir_operations,
    simple_link,
    simple_lookup,
    simple_rename,
    simple_rmdir,
    simple_statfs,
    simple_symlink_inode_operations,
    simple_unlink,
)
from glasskernel.fs.mount import path_put
from glasskernel.fs.namei import AT_FDCWD, LOOKUP_FOLLOW, done_path_create, filename_create, filename_lookup
from glasskernel.fs.permission import inode_permission, may_create
from glasskernel.fs.ramfs import ramfs_parse_param
from glasskernel.fs.super import mount_nodev
from glasskernel.fs.types import (
    MAY_READ,
    MAY_WRITE,
    O_ACCMODE,
    O_RDONLY,
    O_WRONLY,
    S_IFDIR,
    S_IFLNK,
    S_IFREG,
    FileOperations,
    InodeOperations,
    SuperOperations,
)
from glasskernel.kernel.bpf.objects import (
    bpf_get_file_flag,
    bpf_map_fops,
    bpf_map_inc,
    bpf_map_new_fd,
    bpf_map_put_with_uref,
    bpf_prog_fops,
    bpf_prog_inc,
    bpf_prog_new_fd,
    bpf_prog_put,
)
from glasskernel.kernel.bpf.types import BpfMap, BpfProg
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EACCES, EINVAL, EIO, EPERM, KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, FileSystemType, Inode, SuperBlock
    from glasskernel.init.kernel import Kernel

BPF_FS_MAGIC = 0xCAFE4A11


# ---- references --------------------------------------------------------------------------------------------------
def bpf_any_get(raw: Any) -> Any:
    """Raises EBUSY."""
    return bpf_prog_inc(raw) if isinstance(raw, BpfProg) else bpf_map_inc(raw, True)


def bpf_any_put(raw: Any) -> None:
    if isinstance(raw, BpfProg):
        bpf_prog_put(raw)
    elif isinstance(raw, BpfMap):
        bpf_map_put_with_uref(raw)


def bpf_fd_probe_obj(ufd: int) -> Any:
    """The map or program behind a descriptor, with a reference. Raises EBADF, EINVAL."""
    file = fget(ufd)
    try:
        if file.f_op not in (bpf_map_fops, bpf_prog_fops):
            raise KernelError(EINVAL)
        return bpf_any_get(file.private_data)
    finally:
        fput(file)


# ---- inodes ------------------------------------------------------------------------------------------------------
def bpf_get_inode(sb: SuperBlock, dir: Inode | None, mode: int) -> Inode:
    inode = new_inode(sb)
    inode.i_ino = get_next_ino()
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    inode_init_owner(inode, dir, mode)
    return inode


def bpf_dentry_finalize(dentry: Dentry, inode: Inode, dir: Inode) -> None:
    d_instantiate(dentry, inode)
    dget(dentry)
    dir.i_mtime = dir.i_ctime = current_time(dir)


def bpf_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->mkdir()"""
    inode = bpf_get_inode(dir.i_sb, dir, mode | S_IFDIR)
    inode.i_op, inode.i_fop = bpf_dir_iops, simple_dir_operations
    inc_nlink(inode)
    inc_nlink(dir)
    bpf_dentry_finalize(dentry, inode, dir)


def bpf_mkobj_ops(dentry: Dentry, mode: int, raw: Any, iops: InodeOperations) -> None:
    """A file that holds a map or a program."""
    parent = dentry.d_parent
    dir = parent.d_inode
    assert dir is not None
    inode = bpf_get_inode(dir.i_sb, dir, mode)
    inode.i_op, inode.i_fop, inode.i_private = iops, bpffs_obj_fops, raw
    bpf_dentry_finalize(dentry, inode, dir)


def bpf_symlink(dir: Inode, dentry: Dentry, target: bytes) -> None:
    """->symlink()"""
    inode = bpf_get_inode(dir.i_sb, dir, 0o777 | S_IFLNK)
    inode.i_op, inode.i_link, inode.i_size = simple_symlink_inode_operations, target, len(target)
    bpf_dentry_finalize(dentry, inode, dir)


def bpf_lookup(dir: Inode, dentry: Dentry) -> None:
    """->lookup(): names with a dot are kept for later, EPERM."""
    if b"." in dentry.d_name:
        raise KernelError(EPERM)
    simple_lookup(dir, dentry)


def bpffs_obj_open(inode: Inode, file: File) -> None:
    """->open(): only bpf(2) opens them. Raises EIO."""
    raise KernelError(EIO)


def bpf_free_inode(inode: Inode) -> None:
    """->evict_inode()"""
    clear_inode(inode)
    if inode.i_op in (bpf_prog_iops, bpf_map_iops):
        bpf_any_put(inode.i_private)


def bpf_show_options(dentry: Dentry) -> bytes:
    """->show_options()"""
    mode: int = dentry.d_sb.s_fs_info
    return b",mode=%o" % mode if mode != 0o1777 else b""


bpffs_obj_fops = FileOperations(open=bpffs_obj_open)
bpf_prog_iops, bpf_map_iops = InodeOperations(), InodeOperations()
bpf_dir_iops = InodeOperations(lookup=bpf_lookup, mkdir=bpf_mkdir, symlink=bpf_symlink, rmdir=simple_rmdir,
                               rename=simple_rename, link=simple_link, unlink=simple_unlink)
bpf_super_ops = SuperOperations(statfs=simple_statfs, drop_inode=lambda _inode: True, show_options=bpf_show_options,
                                evict_inode=bpf_free_inode)


# ---- pinning -----------------------------------------------------------------------------------------------------
def bpf_obj_do_pin(pathname: bytes, raw: Any) -> None:
    """Raises EPERM (another file system), EEXIST, ENOENT, EACCES."""
    path, dentry = filename_create(AT_FDCWD, pathname, 0)
    try:
        dir = path.dentry.d_inode
        assert dir is not None
        mode = S_IFREG | (0o600 & ~current().fs.umask)
        if dir.i_op is not bpf_dir_iops:
            raise KernelError(EPERM)
        may_create(dir, dentry)
        bpf_mkobj_ops(dentry, mode, raw, bpf_prog_iops if isinstance(raw, BpfProg) else bpf_map_iops)
        fsnotify_dirent(dir, IN_CREATE, dentry, False)
    finally:
        done_path_create(path, dentry)


def bpf_obj_pin(kernel: Kernel, ufd: int, pathname: bytes) -> int:
    """BPF_OBJ_PIN. Raises EBADF, EINVAL, and what bpf_obj_do_pin() raises."""
    raw = bpf_fd_probe_obj(ufd)
    try:
        bpf_obj_do_pin(pathname, raw)
    except KernelError:
        bpf_any_put(raw)
        raise
    return 0


def bpf_obj_do_get(kernel: Kernel, pathname: bytes, f_flags: int) -> Any:
    """What a name stands for, with a reference. Raises ENOENT, EACCES (no such object either)."""
    path = filename_lookup(AT_FDCWD, pathname, LOOKUP_FOLLOW)
    try:
        inode = path.dentry.d_inode
        assert inode is not None
        access = f_flags & O_ACCMODE
        mask = MAY_READ if access == O_RDONLY else MAY_WRITE if access == O_WRONLY else MAY_READ | MAY_WRITE
        inode_permission(inode, mask)
        if inode.i_op not in (bpf_prog_iops, bpf_map_iops):
            raise KernelError(EACCES)
        return bpf_any_get(inode.i_private)
    finally:
        path_put(path)


def bpf_obj_get(kernel: Kernel, pathname: bytes, flags: int) -> int:
    """BPF_OBJ_GET: a descriptor. Raises EINVAL, and what bpf_obj_do_get() raises."""
    f_flags = bpf_get_file_flag(flags)
    raw = bpf_obj_do_get(kernel, pathname, f_flags)
    try:
        return bpf_prog_new_fd(raw) if isinstance(raw, BpfProg) else bpf_map_new_fd(raw, f_flags)
    except KernelError:
        bpf_any_put(raw)
        raise


# ---- the file system ---------------------------------------------------------------------------------------------
def bpf_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    mode = ramfs_parse_param(b"mode=1777," + data)         # the same options, another default
    sb.s_fs_info, sb.s_magic, sb.s_op = mode, BPF_FS_MAGIC, bpf_super_ops
    inode = bpf_get_inode(sb, None, S_IFDIR | mode)
    inode.i_op, inode.i_fop = bpf_dir_iops, simple_dir_operations
    inc_nlink(inode)
    sb.s_root = d_make_root(inode)


def bpf_get_tree(kernel: Kernel, fs_type: FileSystemType, flags: int, data: bytes) -> Dentry:
    """->mount()"""
    return mount_nodev(kernel, fs_type, flags, data, bpf_fill_super)
