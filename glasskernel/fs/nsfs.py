"""nsfs: a file for each namespace, which the links in /proc/PID/ns lead to.

Linux: fs/nsfs.c (5.3). Same: inode numbers are the namespaces'; two links that lead to the same inode are the same
    namespace. Owns: NsfsInfo (sb.s_fs_info): the dentry of each number that was looked at, for good.
Gaps: setns(2) is the caller's.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.fs.d_path import dynamic_dname
from glasskernel.fs.dcache import d_alloc_pseudo, d_instantiate
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file import anon_fd
from glasskernel.fs.inode import new_inode
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.super import init_pseudo, kill_anon_super
from glasskernel.fs.types import (
    O_CLOEXEC,
    O_RDONLY,
    S_IFREG,
    Dentry,
    DentryOperations,
    FileOperations,
    FileSystemType,
    Mount,
    Path,
    SuperOperations,
)
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EINVAL, ENOTTY, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel

NSFS_MAGIC = 0x6E736673
PROC_USER_INIT_INO = 4026531837
NS_GET_USERNS, NS_GET_PARENT, NS_GET_NSTYPE, NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB703, 0xB704
_TYPES = {b"mnt": 0x00020000, b"cgroup": 0x02000000, b"uts": 0x04000000, b"ipc": 0x08000000, b"user": 0x10000000,
          b"pid": 0x20000000, b"net": 0x40000000}                    # CLONE_NEW*


@slotted
class NsfsInfo:
    """sb.s_fs_info. dentries: by the number of their namespace; each has a reference."""

    dentries: dict[int, Dentry] = field(default_factory=dict)


@slotted
class NsCommon:
    """struct ns_common: inode.i_private. kind: b"mnt". ns: the namespace; None where there is only one."""

    kind: bytes
    ns: Any


def ns_dname(dentry: Dentry) -> bytes:
    """b"mnt:[4026531840]" """
    inode = dentry.d_inode
    assert inode is not None
    return dynamic_dname(dentry, inode.i_private.kind)


@may_sleep
def ns_get_path(mnt: Mount, kind: bytes, number: int, ns: Any) -> Path:
    """The file of a namespace. nsfs keeps the references."""
    sb = mnt.mnt_sb
    dentries: dict[int, Dentry] = sb.s_fs_info.dentries
    dentry = dentries.get(number)
    if dentry is None:
        inode = new_inode(sb)
        inode.i_ino = number
        inode.i_mode = S_IFREG | 0o444
        inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
        inode.i_fop = ns_file_operations
        inode.i_private = NsCommon(kind, ns)
        dentry = dentries[number] = d_alloc_pseudo(sb, b"")
        d_instantiate(dentry, inode)
    return Path(mnt, dentry)


@may_sleep
def nsfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    root = init_pseudo(kernel, fs_type, NSFS_MAGIC, nsfs_ops, ns_dentry_operations)
    root.d_sb.s_fs_info = NsfsInfo()
    return root


@may_sleep
def open_related_ns(mnt: Mount, kind: bytes, number: int) -> int:
    """A descriptor of another namespace's file. Errors: EMFILE."""
    return anon_fd(dentry_open(ns_get_path(mnt, kind, number, None), O_RDONLY), O_CLOEXEC)


@may_sleep
def ns_ioctl(file: File, ioctl: int, arg: int) -> int:
    """ioctl_ns(2). Errors: EPERM for the parent of an initial namespace, EINVAL, ENOTTY, EFAULT."""
    common: NsCommon = file.f_inode.i_private
    if ioctl == NS_GET_USERNS:
        if common.kind == b"user":
            raise KernelError(EPERM)
        return open_related_ns(file.f_path.mnt, b"user", PROC_USER_INIT_INO)
    if ioctl == NS_GET_PARENT:
        raise KernelError(EPERM if common.kind in (b"user", b"pid") else EINVAL)
    if ioctl == NS_GET_NSTYPE:
        return _TYPES[common.kind]
    if ioctl == NS_GET_OWNER_UID:
        if common.kind != b"user":
            raise KernelError(EINVAL)
        put_user_u32(arg, 0)
        return 0
    raise KernelError(ENOTTY)


ns_file_operations = FileOperations(unlocked_ioctl=ns_ioctl)
ns_dentry_operations = DentryOperations(d_dname=ns_dname)
nsfs_ops = SuperOperations(statfs=simple_statfs)
nsfs_type = FileSystemType(b"nsfs", nsfs_mount, kill_anon_super)


@notrace
def nsfs_init(kernel: Kernel) -> Mount:
    """The kernel's own mount of nsfs."""
    return kern_mount(kernel, nsfs_type)
