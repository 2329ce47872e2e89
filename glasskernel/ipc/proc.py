"""/proc/sysvipc, the sysctls of System V IPC and of POSIX message queues.

Linux: ipc/util.c, ipc/ipc_sysctl.c, ipc/mq_sysctl.c (5.3). Owns: nothing.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_single_data, proc_mkdir
from glasskernel.fs.proc.proc_sysctl import CtlTable, integer, numbers, register_sysctl
from glasskernel.fs.seq_file import seq_puts
from glasskernel.ipc.msg import sysvipc_msg_lines
from glasskernel.ipc.sem import sysvipc_sem_lines
from glasskernel.ipc.shm import sysvipc_shm_lines
from glasskernel.ipc.util import IpcState, ipc_state
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
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


def ipc_proc_init(kernel: Kernel) -> None:
    """After proc_sys_init() and ipc_init()."""
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
