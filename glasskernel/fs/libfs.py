"""Ready-made operations for simple file systems.

Linux: fs/libfs.c (5.3). Same: directories whose entries are their dentries (tmpfs, ramfs, devpts), newest first.
Differs: an open directory reads from a snapshot taken at position 2, so that a seek to a cookie is exact and
    what is removed meanwhile is skipped; Linux keeps a cursor dentry in the child list. simple_attr is not here.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_add, d_alloc_name, d_instantiate, d_make_root, d_set_d_op, dget, dput
from glasskernel.fs.inode import (
    current_time,
    drop_nlink,
    get_next_ino,
    inc_nlink,
    new_inode,
)
from glasskernel.fs.types import (
    DT_BLK,
    DT_CHR,
    DT_DIR,
    DT_FIFO,
    DT_LNK,
    DT_REG,
    DT_SOCK,
    DT_UNKNOWN,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    DentryOperations,
    FileOperations,
    FileSystemType,
    InodeOperations,
    Kstatfs,
    SuperOperations,
)
from glasskernel.lib.errno import EINVAL, EISDIR, ENAMETOOLONG, ENOTEMPTY, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Inode, Kiocb, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

_DT = {0o010000: DT_FIFO, 0o020000: DT_CHR, 0o040000: DT_DIR, 0o060000: DT_BLK, 0o100000: DT_REG,
       0o120000: DT_LNK, 0o140000: DT_SOCK}


@notrace
def fs_umode_to_dtype(mode: int) -> int:
    """DT_* for a mode."""
    return _DT.get(mode & S_IFMT, DT_UNKNOWN)


def simple_statfs(dentry: Dentry) -> Kstatfs:
    """->statfs() of a file system without blocks."""
    sb = dentry.d_sb
    return Kstatfs(sb.s_magic, 4096, f_namelen=255)


def always_delete_dentry(dentry: Dentry) -> bool:
    """->d_delete(): unused dentries are not kept (a negative one would hide nothing but memory)."""
    return True


simple_dentry_operations = DentryOperations(d_delete=always_delete_dentry)


def simple_lookup(dir: Inode, dentry: Dentry) -> None:
    """->lookup() where every entry is in the dentry cache: a miss there is a miss."""
    if len(dentry.d_name) > 255:
        raise KernelError(ENAMETOOLONG)
    if dentry.d_sb.s_d_op is None:
        d_set_d_op(dentry, simple_dentry_operations)
    d_add(dentry, None)


def generic_read_dir(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter() of directories."""
    raise KernelError(EISDIR)


# ---- directories -------------------------------------------------------------------------------------------
@notrace
def dir_emit_dots(file: File, ctx: DirContext) -> bool:
    """Emits "." and ".." at positions 0 and 1. False: the buffer is full."""
    dentry = file.f_path.dentry
    if ctx.pos == 0:
        inode = dentry.d_inode
        assert inode is not None
        if not ctx.emit(b".", inode.i_ino, DT_DIR):
            return False
        ctx.pos = 1
    if ctx.pos == 1:
        inode = dentry.d_parent.d_inode
        assert inode is not None
        if not ctx.emit(b"..", inode.i_ino, DT_DIR):
            return False
        ctx.pos = 2
    return True


def dcache_dir_open(inode: Inode, file: File) -> None:
    """->open(): no snapshot yet."""
    file.private_data = None


def dcache_dir_close(inode: Inode, file: File) -> None:
    """->release()."""
    file.private_data = None


def dcache_dir_lseek(file: File, offset: int, whence: int) -> int:
    """->llseek(): from the start or from here. Position 0 reads afresh. Raises EINVAL."""
    if whence == 1:
        offset += file.f_pos
    elif whence != 0:
        raise KernelError(EINVAL)
    if offset < 0:
        raise KernelError(EINVAL)
    if offset != file.f_pos:
        file.f_pos = offset
        if offset < 2:
            file.private_data = None
    return offset


def dcache_readdir(file: File, ctx: DirContext) -> None:
    """->iterate(): the positive children, newest first."""
    if not dir_emit_dots(file, ctx):
        return
    dentry = file.f_path.dentry
    children: list[Dentry] | None = file.private_data
    if children is None or ctx.pos == 2:
        children = file.private_data = [d for d in reversed(dentry.d_subdirs.values()) if d.d_inode is not None]
    emit = ctx.emit
    for index in range(ctx.pos - 2, len(children)):
        child = children[index]
        inode = child.d_inode
        if inode is not None and child.d_hashed and child.d_parent is dentry:
            if not emit(child.d_name, inode.i_ino, _DT.get(inode.i_mode & S_IFMT, DT_UNKNOWN)):
                return
        ctx.pos = index + 3


@may_sleep
def noop_fsync(file: File, start: int, end: int, datasync: int) -> None:
    """->fsync() where nothing is ever written."""


simple_dir_operations = FileOperations(
    open=dcache_dir_open, release=dcache_dir_close, llseek=dcache_dir_lseek, read_iter=generic_read_dir,
    iterate=dcache_readdir, fsync=noop_fsync)
simple_dir_inode_operations = InodeOperations(lookup=simple_lookup)
simple_super_operations = SuperOperations(statfs=simple_statfs)


def simple_open(inode: Inode, file: File) -> None:
    """->open(): private_data is the inode's i_private."""
    if inode.i_private is not None:
        file.private_data = inode.i_private


# ---- names -------------------------------------------------------------------------------------------------
def simple_link(old_dentry: Dentry, dir: Inode, dentry: Dentry) -> None:
    """->link()."""
    inode = old_dentry.d_inode
    assert inode is not None
    inode.i_ctime = dir.i_ctime = dir.i_mtime = current_time(inode)
    inc_nlink(inode)
    inode.i_count += 1
    dget(dentry)
    d_instantiate(dentry, inode)


def simple_empty(dentry: Dentry) -> bool:
    """True if a directory has no entries."""
    return all(child.d_inode is None for child in dentry.d_subdirs.values())


def simple_unlink(dir: Inode, dentry: Dentry) -> None:
    """->unlink()."""
    inode = dentry.d_inode
    assert inode is not None
    inode.i_ctime = dir.i_ctime = dir.i_mtime = current_time(inode)
    drop_nlink(inode)
    dput(dentry)


def simple_rmdir(dir: Inode, dentry: Dentry) -> None:
    """->rmdir(). Raises ENOTEMPTY."""
    if not simple_empty(dentry):
        raise KernelError(ENOTEMPTY)
    assert dentry.d_inode is not None
    drop_nlink(dentry.d_inode)
    simple_unlink(dir, dentry)
    drop_nlink(dir)


def simple_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry, flags: int) -> None:
    """->rename() without RENAME_EXCHANGE and RENAME_WHITEOUT. Raises EINVAL, ENOTEMPTY."""
    inode = old_dentry.d_inode
    assert inode is not None
    if flags & ~1:
        raise KernelError(EINVAL)
    if not simple_empty(new_dentry):
        raise KernelError(ENOTEMPTY)
    they_are_dirs = inode.i_mode & S_IFMT == S_IFDIR
    if new_dentry.d_inode is not None:
        simple_unlink(new_dir, new_dentry)
        if they_are_dirs:
            drop_nlink(new_dentry.d_inode)
            drop_nlink(old_dir)
    elif they_are_dirs:
        drop_nlink(old_dir)
        inc_nlink(new_dir)
    old_dir.i_ctime = old_dir.i_mtime = new_dir.i_ctime = new_dir.i_mtime = inode.i_ctime = current_time(old_dir)


def simple_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    """->get_link() where i_link is the text."""
    assert inode.i_link is not None
    return inode.i_link


simple_symlink_inode_operations = InodeOperations(get_link=simple_get_link)


# ---- super blocks that fill themselves ---------------------------------------------------------------------
def simple_fill_super(sb: SuperBlock, magic: int, files: dict[bytes, tuple[FileOperations, int]]) -> None:
    """A root directory with the given files: name -> (operations, permission bits)."""
    sb.s_magic = magic
    sb.s_op = simple_super_operations
    root = new_inode(sb)
    root.i_ino = 1
    root.i_mode = S_IFDIR | 0o755
    root.i_atime = root.i_mtime = root.i_ctime = current_time(root)
    root.i_op = simple_dir_inode_operations
    root.i_fop = simple_dir_operations
    root.i_nlink = 2
    sb.s_root = d_make_root(root)
    for ino, (name, (fops, mode)) in enumerate(files.items(), 2):
        dentry = d_alloc_name(sb.s_root, name)
        inode = new_inode(sb)
        inode.i_ino = ino
        inode.i_mode = S_IFREG | mode
        inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
        inode.i_fop = fops
        d_add(dentry, inode)


def alloc_anon_inode(sb: SuperBlock) -> Inode:
    """The inode of anonymous files: no type, mode 0600."""
    inode = new_inode(sb)
    inode.i_ino = get_next_ino()
    inode.i_mode = 0o600
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    return inode


@may_sleep
def simple_pin_fs(kernel: Kernel, fs_type: FileSystemType) -> SuperBlock:
    """The super block of a file system that the kernel itself keeps alive."""
    return fs_type.mount(kernel, fs_type, 0, fs_type.name, b"").d_sb


def simple_read_from_buffer(to: IovIter, iocb: Kiocb, data: bytes) -> int:
    """->read_iter() of a text that is at hand."""
    if iocb.ki_pos >= len(data):
        return 0
    done = to.copy_to_iter(data[iocb.ki_pos : iocb.ki_pos + to.count])
    iocb.ki_pos += done
    return done
