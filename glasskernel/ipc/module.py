"""The file system of message queues, known from boot on, imported when somebody looks into it.

Linux: init_mqueue_fs() in ipc/mqueue.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_set_d_op
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.mount import path_put, vfs_kern_mount
from glasskernel.fs.namei import kern_path
from glasskernel.fs.namespace import finish_automount
from glasskernel.fs.super import kill_litter_super
from glasskernel.fs.types import (
    DCACHE_NEED_AUTOMOUNT,
    FS_USERNS_MOUNT,
    MNT_NODEV,
    MNT_NOEXEC,
    MNT_NOSUID,
    MNT_RELATIME,
    DentryOperations,
    FileSystemType,
)
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Mount, Path
    from glasskernel.init.kernel import Kernel


@notrace
@may_sleep
def mqueue_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    from glasskernel.ipc.mqueue_fs import mqueue_mount  # late: start-up time

    return mqueue_mount(kernel, fs_type, flags, dev_name, data)


mqueue_fs_type = FileSystemType(b"mqueue", mqueue_mount, kill_litter_super, FS_USERNS_MOUNT)


@notrace
@may_sleep
def mqueue_automount(path: Path) -> Mount:
    """Somebody looks into /dev/mqueue, where a distribution's init has mounted it."""
    kernel = path.dentry.d_sb.kernel
    mnt = vfs_kern_mount(kernel, mqueue_fs_type, 0, b"mqueue", b"")
    finish_automount(mnt, path)
    mnt.mnt_flags |= MNT_NOSUID | MNT_NODEV | MNT_NOEXEC | MNT_RELATIME
    return mnt


@notrace
def mqueue_on_demand(kernel: Kernel, place: bytes) -> None:
    """Context: PID 1, at boot. The directory is in devtmpfs, which keeps its dentry."""
    path = kern_path(kernel, place)
    d_set_d_op(path.dentry, DentryOperations(d_automount=mqueue_automount))
    path.dentry.d_flags |= DCACHE_NEED_AUTOMOUNT
    path_put(path)


def init_mqueue_fs(kernel: Kernel) -> None:
    """Registers it. Context: boot."""
    register_filesystem(kernel, mqueue_fs_type)
