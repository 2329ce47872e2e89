"""/proc/sysvipc, the sysctls of System V IPC and of POSIX message queues.

Linux: ipc/util.c, ipc/ipc_sysctl.c, ipc/mq_sysctl.c (5.3). Owns: nothing.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.dcache import d_set_d_op
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.mount import path_put, vfs_kern_mount
from glasskernel.fs.namei import kern_path
from glasskernel.fs.namespace import finish_automount
from glasskernel.fs.proc.generic import proc_create_single_data, proc_mkdir
from glasskernel.fs.proc.proc_sysctl import CtlTable, integer, numbers, register_sysctl
from glasskernel.fs.seq_file import seq_puts
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
from glasskernel.ipc.msg import sysvipc_msg_lines
from glasskernel.ipc.sem import sysvipc_sem_lines
from glasskernel.ipc.shm import sysvipc_shm_lines
from glasskernel.ipc.util import IpcState, ipc_state
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.types import Dentry, Mount, Path
    from glasskernel.init.kernel import Kernel

_SEM_LIMITS = ("sem_msl", "sem_mns", "sem_opm", "sem_mni")


def sysvipc_proc_show(m: SeqFile, v: Any) -> int | None:
    lines: Callable[[IpcState], list[bytes]] = m.private
    seq_puts(m, b"".join(lines(ipc_state())))
    return None


@notrace
def _sem_get(kernel: Kernel) -> bytes:
    return b"\t".join(b"%d" % getattr(kernel.ipc, name) for name in _SEM_LIMITS)


@notrace
def _sem_set(kernel: Kernel, text: bytes) -> None:
    for name, value in zip(_SEM_LIMITS, numbers(text)):
        if not 0 <= value <= (32768 if name == "sem_mni" else 0x7FFF_FFFF):
            raise KernelError(EINVAL)
        setattr(kernel.ipc, name, value)


@notrace
def _ipc(kernel: Kernel) -> IpcState:
    return kernel.ipc


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


def ipc_proc_init(kernel: Kernel) -> None:
    """After proc_root_init() and ipc_init()."""
    directory = proc_mkdir(kernel, b"sysvipc", None)
    for name, lines in ((b"msg", sysvipc_msg_lines), (b"sem", sysvipc_sem_lines), (b"shm", sysvipc_shm_lines)):
        proc_create_single_data(kernel, name, 0, directory, sysvipc_proc_show, lines)
    unlimited = (1 << 64) - 1
    register_sysctl(kernel, b"kernel", [
        CtlTable(b"sem", 0o644, _sem_get, _sem_set),
        integer(b"shmmax", 0o644, _ipc, "shm_max", 0, unlimited),
        integer(b"shmall", 0o644, _ipc, "shm_all", 0, unlimited), integer(b"shmmni", 0o644, _ipc, "shm_mni", 0, 32768),
        integer(b"shm_rmid_forced", 0o644, _ipc, "shm_rmid_forced", 0, 1),
        integer(b"msgmax", 0o644, _ipc, "msg_max", 0), integer(b"msgmnb", 0o644, _ipc, "msg_mnb", 0),
        integer(b"msgmni", 0o644, _ipc, "msg_mni", 0, 32768),
    ])
    register_sysctl(kernel, b"fs/mqueue", [
        integer(b"queues_max", 0o644, _ipc, "mq_queues_max"),
        integer(b"msg_max", 0o644, _ipc, "mq_msg_max", 1, 65536),
        integer(b"msgsize_max", 0o644, _ipc, "mq_msgsize_max", 128, 16 << 20),
        integer(b"msg_default", 0o644, _ipc, "mq_msg_default", 1, 65536),
        integer(b"msgsize_default", 0o644, _ipc, "mq_msgsize_default", 128, 16 << 20),
    ])
    register_filesystem(kernel, mqueue_fs_type)
