"""SIGIO: who is told when a file becomes ready.

Linux: the second half of fs/fcntl.c (5.3): f_setown, send_sigio, fasync_helper, kill_fasync.
Differs: a fasync list is a list of files. Owns: File.f_owner.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import FASYNC
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_TGID,
    do_each_pid_task,
    find_vpid,
)
from glasskernel.kernel.signal import send_sig
from glasskernel.lib.errno import ESRCH, KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import File

SIGURG, SIGIO = 23, 29
F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP = 0, 1, 2
PIDTYPE_OF_OWNER = {F_OWNER_TID: PIDTYPE_PID, F_OWNER_PID: PIDTYPE_TGID, F_OWNER_PGRP: PIDTYPE_PGID}


def f_setown(filp: File, who: int) -> None:
    """F_SETOWN: a process, or with a negative number a process group. Raises ESRCH."""
    kind = F_OWNER_PID
    if who < 0:
        kind, who = F_OWNER_PGRP, -who
    if who and find_vpid(who) is None:
        raise KernelError(ESRCH)
    filp.f_owner = (kind, who, filp.f_owner[2])


def f_getown(filp: File) -> int:
    """F_GETOWN."""
    kind, who, _ = filp.f_owner
    return -who if kind == F_OWNER_PGRP else who


def send_sigio(filp: File, band: int) -> None:
    """Sends SIGIO, or the signal of F_SETSIG, to the owner of a file."""
    kind, who, signum = filp.f_owner
    if not who:
        return
    pid = find_vpid(who)
    if pid is None:
        return
    for task in do_each_pid_task(pid, PIDTYPE_OF_OWNER[kind]):
        send_sig(signum or SIGIO, task, 1)


def send_sigurg(filp: File) -> bool:
    """Sends SIGURG to the owner of a file. True if it has one."""
    kind, who, _signum = filp.f_owner
    pid = find_vpid(who) if who else None
    if pid is None:
        return False
    for task in do_each_pid_task(pid, PIDTYPE_OF_OWNER[kind]):
        send_sig(SIGURG, task, 1)
    return True


def fasync_helper(filp: File, on: int, fapp: list[File]) -> None:
    """->fasync(): puts a file on a list of those to signal, or takes it off."""
    if on:
        if filp not in fapp:
            fapp.append(filp)
    elif filp in fapp:
        fapp.remove(filp)


def kill_fasync(fp: list[File], sig: int, band: int) -> None:
    """Signals the owners of the files on a list."""
    for filp in list(fp):
        if filp.f_flags & FASYNC:
            send_sigio(filp, band)
