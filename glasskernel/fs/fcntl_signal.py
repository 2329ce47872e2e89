"""SIGIO: who is told when a file becomes ready.

Linux: the second half of fs/fcntl.c (5.3): f_setown, send_sigio, fasync_helper, kill_fasync.
Owns: File.f_owner.  Gaps: the owner's user IDs are not asked.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.types import (
    FASYNC,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLMSG,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
)
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_TGID,
    do_each_pid_task,
    find_vpid,
)
from glasskernel.kernel.signal import do_send_sig_info
from glasskernel.kernel.signal_types import (
    POLL_ERR,
    POLL_HUP,
    POLL_IN,
    POLL_MSG,
    POLL_OUT,
    POLL_PRI,
    SEND_SIG_PRIV,
    SI_SIGIO,
    SIG_SPECIFIC_SICODES,
    KernelSiginfo,
)
from glasskernel.lib.errno import ESRCH, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.kernel.task import TaskStruct

SIGURG, SIGIO = 23, 29
F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP = 0, 1, 2
BAND_TABLE = {POLL_IN: POLLIN | POLLRDNORM, POLL_OUT: POLLOUT | POLLWRNORM | POLLWRBAND,
              POLL_MSG: POLLIN | POLLRDNORM | POLLMSG, POLL_ERR: POLLERR, POLL_PRI: POLLPRI | POLLRDBAND,
              POLL_HUP: POLLHUP | POLLERR}
PIDTYPE_OF_OWNER = {F_OWNER_TID: PIDTYPE_PID, F_OWNER_PID: PIDTYPE_TGID, F_OWNER_PGRP: PIDTYPE_PGID}


@slotted
class FasyncStruct:
    """struct fasync_struct: a file on a list of those to signal, and its descriptor when it got there."""

    fa_fd: int
    fa_file: File


def f_setown(filp: File, who: int) -> None:
    """F_SETOWN: a process, or with a negative number a process group. Raises ESRCH."""
    kind = F_OWNER_PID
    if who < 0:
        kind, who = F_OWNER_PGRP, -who
    if who and find_vpid(who) is None:
        raise KernelError(ESRCH)
    __f_setown(filp, (kind, who, filp.f_owner[2]))


def __f_setown(filp: File, owner: tuple[int, int, int]) -> None:
    """Sets (type, pid, signal)."""
    if filp.f_security is not None:
        filp.f_inode.i_sb.kernel.lsm.security_file_set_fowner(filp)
    filp.f_owner = owner


def f_getown(filp: File) -> int:
    """F_GETOWN."""
    kind, who, _ = filp.f_owner
    return -who if kind == F_OWNER_PGRP else who


def send_sigio(filp: File, fd: int, band: int) -> None:
    """Sends SIGIO, or the signal of F_SETSIG with what became of the descriptor, to the owner of a file."""
    kind, who, _signum = filp.f_owner
    if not who:
        return
    pid = find_vpid(who)
    if pid is None:
        return
    pid_type = PIDTYPE_OF_OWNER[kind]
    for task in do_each_pid_task(pid, pid_type):
        send_sigio_to_task(task, filp, fd, band, pid_type)


def send_sigio_to_task(p: TaskStruct, filp: File, fd: int, reason: int, pid_type: int) -> None:
    """reason: POLL_*. A signal that no more of can be queued becomes a SIGIO that says nothing."""
    signum = filp.f_owner[2]
    if not sigio_perm(p, filp, signum):
        return
    with suppress(KernelError):              # ESRCH: it is gone
        if signum:
            # where the signal's own codes would be mistaken for POLL_*, SI_SIGIO stands for all of them
            code = SI_SIGIO if signum != SIGIO and signum in SIG_SPECIFIC_SICODES else reason
            try:
                do_send_sig_info(signum, KernelSiginfo(signum, code, si_band=BAND_TABLE.get(reason, -1), si_fd=fd), p,
                                 pid_type)
                return
            except KernelError:
                pass
        do_send_sig_info(SIGIO, SEND_SIG_PRIV, p, pid_type)


def send_sigurg(filp: File) -> bool:
    """Sends SIGURG to the owner of a file. True if it has one."""
    kind, who, _signum = filp.f_owner
    pid = find_vpid(who) if who else None
    if pid is None:
        return False
    pid_type = PIDTYPE_OF_OWNER[kind]
    for task in do_each_pid_task(pid, pid_type):
        if sigio_perm(task, filp, SIGURG):
            with suppress(KernelError):      # ESRCH
                do_send_sig_info(SIGURG, SEND_SIG_PRIV, task, pid_type)
    return True


@notrace
def sigio_perm(task: TaskStruct, filp: File, sig: int) -> bool:
    """May who asked for the signal send it to the owner? (Only a security module says no.)"""
    if filp.f_security is None:
        return True
    try:
        task.kernel.lsm.security_file_send_sigiotask(task, filp, sig)
    except KernelError:
        return False
    return True


def fasync_helper(fd: int, filp: File, on: int, fapp: list[FasyncStruct]) -> None:
    """->fasync(): puts a file on a list of those to signal, or takes it off."""
    for fa in fapp:
        if fa.fa_file is filp:
            if on:
                fa.fa_fd = fd
            else:
                fapp.remove(fa)
            return
    if on:
        fapp.append(FasyncStruct(fd, filp))


def kill_fasync(fp: list[FasyncStruct], sig: int, band: int) -> None:
    """Signals the owners of the files on a list. SIGURG has send_sigurg(), unless F_SETSIG asked for more."""
    for fa in list(fp):
        filp = fa.fa_file
        if filp.f_flags & FASYNC and (sig != SIGURG or filp.f_owner[2]):
            send_sigio(filp, fa.fa_fd, band)
