"""nsfs: a file for each namespace, which the links in /proc/PID/ns lead to.

Linux: fs/nsfs.c (5.3). Same: inode numbers are the namespaces'; two links that lead to the same inode are the same
    namespace; an open file, or a bind mount of one, keeps its namespace. What the kinds of namespaces are is
    fs/proc_ns.py's. Owns: NsfsInfo (sb.s_fs_info).
Differs: who asks for the file has its reference until his system call ends (Linux moves it into the path walk).
Invariants: an inode of nsfs holds a reference on its namespace.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.fs.d_path import dynamic_dname
from glasskernel.fs.dcache import d_alloc_pseudo, d_instantiate, dget, dput
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file import anon_fd, fget
from glasskernel.fs.file_table import fput
from glasskernel.fs.inode import clear_inode, new_inode
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.proc_ns import ProcNsOperations, ns_inum, userns_operations
from glasskernel.fs.super import init_pseudo, kill_anon_super
from glasskernel.fs.types import (
    NSFS_MAGIC,
    O_CLOEXEC,
    O_RDONLY,
    S_IFREG,
    SB_NOUSER,
    Dentry,
    DentryOperations,
    FileOperations,
    FileSystemType,
    Mount,
    Path,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.task_work import CallbackHead, task_work_add
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EINVAL, ENOTTY, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

NS_GET_USERNS, NS_GET_PARENT, NS_GET_NSTYPE, NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB703, 0xB704


@slotted
class NsfsInfo:
    """sb.s_fs_info. dentries: by the number of their namespace (ns_common.stashed), while they are in use."""

    dentries: dict[int, Dentry] = field(default_factory=dict)


@slotted
class NsCommon:
    """struct ns_common: inode.i_private. ns: the namespace; None where there is only one."""

    ops: ProcNsOperations
    ns: Any


def ns_dname(dentry: Dentry) -> bytes:
    """b"mnt:[4026531840]" """
    inode = dentry.d_inode
    assert inode is not None
    return dynamic_dname(dentry, inode.i_private.ops.name)


@may_sleep
def ns_evict(inode: Inode) -> None:
    """The last user of the dentry is gone."""
    clear_inode(inode)
    del inode.i_sb.s_fs_info.dentries[inode.i_ino]
    common: NsCommon = inode.i_private
    if common.ns is not None:
        common.ops.put(common.ns)


@may_sleep
def ns_get_path(mnt: Mount, ops: ProcNsOperations, ns: Any) -> Path:
    """The file of a namespace. The reference is the running task's, until its system call ends."""
    sb = mnt.mnt_sb
    dentries: dict[int, Dentry] = sb.s_fs_info.dentries
    number = ns_inum(ops, ns)
    dentry = dentries.get(number)
    if dentry is None:
        if ns is not None:
            ns.count += 1
        inode = new_inode(sb)
        inode.i_ino = number
        inode.i_mode = S_IFREG | 0o444
        inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
        inode.i_fop = ns_file_operations
        inode.i_private = NsCommon(ops, ns)
        dentry = dentries[number] = d_alloc_pseudo(sb, b"")
        d_instantiate(dentry, inode)
    else:
        dget(dentry)
    task_work_add(current(), CallbackHead(dput, dentry), True)
    return Path(mnt, dentry)


@may_sleep
def nsfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    root = init_pseudo(kernel, fs_type, NSFS_MAGIC, nsfs_ops, ns_dentry_operations)
    root.d_sb.s_fs_info = NsfsInfo()
    return root


@may_sleep
def open_related_ns(mnt: Mount, ops: ProcNsOperations, ns: Any) -> int:
    """A descriptor of another namespace's file. Errors: EMFILE."""
    return anon_fd(dentry_open(ns_get_path(mnt, ops, ns), O_RDONLY), O_CLOEXEC)


def proc_ns_fget(fd: int) -> File:
    """A namespace's file. Raises EBADF, EINVAL."""
    file = fget(fd)
    if file.f_op is not ns_file_operations:
        fput(file)
        raise KernelError(EINVAL)
    return file


@may_sleep
def ns_ioctl(file: File, ioctl: int, arg: int) -> int:
    """ioctl_ns(2). Errors: EPERM for the parent of an initial namespace, EINVAL, ENOTTY, EFAULT."""
    common: NsCommon = file.f_inode.i_private
    ops = common.ops
    if ioctl == NS_GET_USERNS:
        if ops is userns_operations:
            raise KernelError(EPERM)
        return open_related_ns(file.f_path.mnt, userns_operations, None)
    if ioctl == NS_GET_PARENT:
        return open_related_ns(file.f_path.mnt, ops, ops.get_parent(common.ns))
    if ioctl == NS_GET_NSTYPE:
        return ops.type
    if ioctl == NS_GET_OWNER_UID:
        if ops is not userns_operations:
            raise KernelError(EINVAL)
        put_user_u32(arg, 0)
        return 0
    raise KernelError(ENOTTY)


ns_file_operations = FileOperations(unlocked_ioctl=ns_ioctl)
ns_dentry_operations = DentryOperations(d_dname=ns_dname)
nsfs_ops = SuperOperations(statfs=simple_statfs, evict_inode=ns_evict, show_path=ns_dname)
nsfs_type = FileSystemType(b"nsfs", nsfs_mount, kill_anon_super)


@notrace
def nsfs_init(kernel: Kernel) -> Mount:
    """The kernel's own mount of nsfs."""
    mnt = kern_mount(kernel, nsfs_type)
    mnt.mnt_sb.s_flags &= ~SB_NOUSER              # its files may be mounted
    return mnt
