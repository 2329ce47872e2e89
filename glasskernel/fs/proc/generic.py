"""Entries of /proc that do not belong to a process: making, finding and listing them.

Linux: fs/proc/generic.c, and fs/proc/inode.c for regular entries (5.3). Differs: entries are listed by
    name, as in Linux's tree (shorter names first).
Owns: every ProcDirEntry.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_splice_alias
from glasskernel.fs.inode import iget_locked, unlock_new_inode
from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.proc.internal import ProcDirEntry, proc_state
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import seq_lseek, seq_open, seq_read, seq_release, single_open
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.types import (
    DEFAULT_POLLMASK,
    DT_DIR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    DentryOperations,
    FileOperations,
    InodeOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EEXIST, EIO, ENOENT, ENOTTY, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile, SeqOperations
    from glasskernel.fs.types import (
        Dentry,
        DirContext,
        File,
        Iattr,
        Inode,
        Kiocb,
        Kstat,
        PollTable,
        SuperBlock,
    )
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter


# ---- making --------------------------------------------------------------------------------------
@notrace
def _parent_of(kernel: Kernel, name: bytes, parent: ProcDirEntry | None) -> tuple[ProcDirEntry, bytes]:
    """(directory, last name): xlate_proc_name(). name may hold slashes. Errors: ENOENT."""
    pde = parent if parent is not None else proc_state(kernel).root
    parts = name.split(b"/")
    for part in parts[:-1]:
        found = (pde.subdir or {}).get(part)
        if found is None:
            raise KernelError(ENOENT)
        pde = found
    return pde, parts[-1]


def proc_register(kernel: Kernel, dir: ProcDirEntry, dp: ProcDirEntry) -> ProcDirEntry:
    """Puts an entry into a directory. Errors: EEXIST."""
    assert dir.subdir is not None
    if dp.name in dir.subdir:
        raise KernelError(EEXIST)
    dp.parent = dir
    dir.subdir[dp.name] = dp
    return dp


@notrace
def __proc_create(kernel: Kernel, name: bytes, mode: int, parent: ProcDirEntry | None) -> ProcDirEntry:
    dir, last = _parent_of(kernel, name, parent)
    state = proc_state(kernel)
    state.last_ino += 1
    return proc_register(kernel, dir, ProcDirEntry(last, mode, state.last_ino))


def proc_create_data(kernel: Kernel, name: bytes, mode: int, parent: ProcDirEntry | None,
                     fops: FileOperations, data: Any) -> ProcDirEntry:
    """A file with its own operations. mode 0: 0444. Errors: EEXIST, ENOENT."""
    ent = __proc_create(kernel, name, S_IFREG | (mode or 0o444), parent)
    ent.fops = fops
    ent.data = data
    return ent


def proc_create(kernel: Kernel, name: bytes, mode: int, parent: ProcDirEntry | None,
                fops: FileOperations) -> ProcDirEntry:
    return proc_create_data(kernel, name, mode, parent, fops, None)


@notrace
def proc_create_seq_data(kernel: Kernel, name: bytes, mode: int, parent: ProcDirEntry | None,
                         ops: SeqOperations, data: Any = None) -> ProcDirEntry:
    """A file made of records. m.private is the entry's data. Errors: EEXIST, ENOENT."""
    ent = __proc_create(kernel, name, S_IFREG | (mode or 0o444), parent)
    ent.seq_ops = ops
    ent.data = data
    return ent


def proc_create_single_data(kernel: Kernel, name: bytes, mode: int, parent: ProcDirEntry | None,
                            show: Callable[[SeqFile, Any], int | None], data: Any = None) -> ProcDirEntry:
    """A file that is one record. Errors: EEXIST, ENOENT."""
    ent = __proc_create(kernel, name, S_IFREG | (mode or 0o444), parent)
    ent.single_show = show
    ent.data = data
    return ent


def proc_mkdir(kernel: Kernel, name: bytes, parent: ProcDirEntry | None = None) -> ProcDirEntry:
    """A directory. Errors: EEXIST, ENOENT."""
    ent = __proc_create(kernel, name, S_IFDIR | 0o555, parent)
    ent.subdir = {}
    ent.nlink = 2
    if ent.parent is not None:
        ent.parent.nlink += 1
    return ent


def proc_symlink(kernel: Kernel, name: bytes, parent: ProcDirEntry | None, dest: bytes) -> ProcDirEntry:
    """A symlink. Errors: EEXIST, ENOENT."""
    ent = __proc_create(kernel, name, S_IFLNK | 0o777, parent)
    ent.link = dest
    ent.size = len(dest)
    return ent


def remove_proc_entry(kernel: Kernel, name: bytes, parent: ProcDirEntry | None) -> None:
    """Takes an entry and all below it away. Open files of it stay readable."""
    dir, last = _parent_of(kernel, name, parent)
    if dir.subdir is None or last not in dir.subdir:
        return
    ent = dir.subdir.pop(last)
    ent.gone = True
    if ent.subdir is not None:
        dir.nlink -= 1


# ---- inodes --------------------------------------------------------------------------------------
def proc_get_inode(sb: SuperBlock, de: ProcDirEntry) -> Inode:
    """The inode of an entry, with a reference."""
    inode = iget_locked(sb, de.low_ino)
    if inode.i_private is not de:
        inode.i_private = de
        inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
        inode.i_mode = de.mode
        inode.i_uid = de.uid
        inode.i_gid = de.gid
        inode.i_size = de.size
        inode.i_nlink = de.nlink
        kind = de.mode & S_IFMT
        if kind == S_IFLNK:
            inode.i_op = de.proc_iops or proc_link_inode_operations
            inode.i_link = de.link or None         # /proc/self makes its text when it is asked
        elif kind == S_IFDIR:
            inode.i_op = de.proc_iops or proc_dir_inode_operations
            inode.i_fop = de.proc_dir_ops or proc_dir_operations
        else:
            inode.i_op = de.proc_iops or proc_file_inode_operations
            inode.i_fop = proc_reg_file_ops
        unlock_new_inode(inode)
    return inode


def proc_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    de: ProcDirEntry = inode.i_private
    inode.i_nlink = de.nlink
    return generic_fillattr(inode)


def proc_notify_change(dentry: Dentry, iattr: Iattr) -> None:
    """chmod and chown stay with the entry. Errors: EPERM."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, iattr)
    setattr_copy(inode, iattr)
    de: ProcDirEntry = inode.i_private
    de.uid, de.gid, de.mode = inode.i_uid, inode.i_gid, inode.i_mode


# ---- directories ---------------------------------------------------------------------------------
def proc_lookup_de(dir: Inode, dentry: Dentry, de: ProcDirEntry) -> Dentry | None:
    """Errors: ENOENT; nothing is remembered of a miss."""
    found = (de.subdir or {}).get(dentry.d_name)
    if found is None:
        raise KernelError(ENOENT)
    inode = proc_get_inode(dir.i_sb, found)
    dentry.d_op = found.proc_dops or proc_misc_dentry_ops
    return d_splice_alias(inode, dentry)


def proc_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    return proc_lookup_de(dir, dentry, dir.i_private)


def proc_readdir_de(file: File, ctx: DirContext, de: ProcDirEntry) -> bool:
    """Emits ".", ".." and the entries; answers False when the buffer is full."""
    inode = file.f_inode
    if ctx.pos == 0:
        if not ctx.emit(b".", inode.i_ino, DT_DIR):
            return False
        ctx.pos = 1
    if ctx.pos == 1:
        parent = file.f_path.dentry.d_parent.d_inode
        if not ctx.emit(b"..", parent.i_ino if parent else inode.i_ino, DT_DIR):
            return False
        ctx.pos = 2
    entries = sorted((de.subdir or {}).values(), key=lambda e: (len(e.name), e.name))
    for ent in entries[ctx.pos - 2 :]:
        if not ctx.emit(ent.name, ent.low_ino, ent.mode >> 12):
            return False
        ctx.pos += 1
    return True


def proc_readdir(file: File, ctx: DirContext) -> None:
    proc_readdir_de(file, ctx, file.f_inode.i_private)


def proc_misc_d_revalidate(dentry: Dentry) -> bool:
    """False once the entry was removed."""
    inode = dentry.d_inode
    return inode is None or not inode.i_private.gone


def proc_misc_d_delete(dentry: Dentry) -> bool:
    inode = dentry.d_inode
    return inode is not None and bool(inode.i_private.gone)


@notrace
def proc_kernel(m: SeqFile) -> Kernel:
    """The kernel that a seq_file of /proc shows."""
    return current().kernel


# ---- regular entries (fs/proc/inode.c) -----------------------------------------------------------
def proc_reg_open(inode: Inode, file: File) -> None:
    """Errors: ENOENT once the entry was removed; those of its own open()."""
    de: ProcDirEntry = inode.i_private
    if de.gone:
        raise KernelError(ENOENT)
    if de.fops is not None:
        de.fops.open(inode, file)
    elif de.seq_ops is not None:
        proc_seq_open(file, de)
    else:
        proc_single_open(file, de)


def proc_seq_open(file: File, de: ProcDirEntry) -> None:
    assert de.seq_ops is not None
    seq_open(file, de.seq_ops).private = de.data


def proc_single_open(file: File, de: ProcDirEntry) -> None:
    assert de.single_show is not None
    single_open(file, de.single_show, de.data)


def proc_reg_read(iocb: Kiocb, to: IovIter) -> int:
    """Hands the read to the entry."""
    fops = iocb.ki_filp.f_inode.i_private.fops
    return seq_read(iocb, to) if fops is None else fops.read_iter(iocb, to)


def proc_reg_write(iocb: Kiocb, source: IovIter) -> int:
    """Hands the write to the entry. Errors: EIO if it takes none."""
    de: ProcDirEntry = iocb.ki_filp.f_inode.i_private
    if de.fops is not None:
        return de.fops.write_iter(iocb, source)
    if de.write is None:
        raise KernelError(EIO)
    data = source.copy_from_iter(min(source.count, 4096))
    de.write(de, data)
    iocb.ki_pos += len(data)
    return len(data)


def proc_reg_llseek(file: File, offset: int, whence: int) -> int:
    fops = file.f_inode.i_private.fops
    if fops is None or fops.llseek is None:
        return seq_lseek(file, offset, whence) if fops is None else generic_file_llseek(file, offset, whence)
    return fops.llseek(file, offset, whence)  # type: ignore[no-any-return]


def proc_reg_poll(file: File, table: PollTable) -> int:
    fops = file.f_inode.i_private.fops
    return DEFAULT_POLLMASK if fops is None else fops.poll(file, table)


def proc_reg_unlocked_ioctl(file: File, cmd: int, arg: int) -> int:
    """Errors: ENOTTY unless the entry has its own."""
    fops = file.f_inode.i_private.fops
    if fops is None:
        raise KernelError(ENOTTY)
    return fops.unlocked_ioctl(file, cmd, arg)  # type: ignore[no-any-return]


def proc_reg_release(inode: Inode, file: File) -> None:
    fops = inode.i_private.fops
    if fops is None:
        seq_release(inode, file)
    else:
        fops.release(inode, file)


proc_reg_file_ops = FileOperations(
    llseek=proc_reg_llseek, read_iter=proc_reg_read, write_iter=proc_reg_write, poll=proc_reg_poll,
    unlocked_ioctl=proc_reg_unlocked_ioctl, open=proc_reg_open, release=proc_reg_release,
)
proc_misc_dentry_ops = DentryOperations(d_revalidate=proc_misc_d_revalidate, d_delete=proc_misc_d_delete)
proc_file_inode_operations = InodeOperations(setattr=proc_notify_change)


@notrace
def proc_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    link = inode.i_link
    assert link is not None
    return link


proc_link_inode_operations = InodeOperations(get_link=proc_get_link)
proc_dir_inode_operations = InodeOperations(
    lookup=proc_lookup, getattr=proc_getattr, setattr=proc_notify_change,
)
proc_dir_operations = FileOperations(
    llseek=generic_file_llseek, read_iter=generic_read_dir, iterate=proc_readdir,
)
