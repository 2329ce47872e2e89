"""Job control: controlling terminals, foreground process groups.

Linux: drivers/tty/tty_jobctrl.c (5.3); what a hangup needs of it is in tty_hangup.py.
Same: who gets SIGTTIN, SIGTTOU, SIGHUP, SIGCONT, and when it is EIO.
Owns: tty.pgrp, tty.session, signal.tty, signal.tty_old_pgrp.
Exported to exit: disassociate_ctty(on_exit).
Invariants: signal.tty is T only if signal.session is T.session.
"""
from __future__ import annotations

from glasskernel.arch.x86.uaccess import get_user_u32, put_user_u32
from glasskernel.drivers.tty.tty_hangup import session_clear_tty, tty_vhangup_session
from glasskernel.drivers.tty.types import (
    TIOCGPGRP,
    TIOCGSID,
    TIOCNOTTY,
    TIOCSCTTY,
    TIOCSPGRP,
    TTY_DRIVER_TYPE_PTY,
    TtyStruct,
)
from glasskernel.fs.types import FMODE_READ, File
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    Pid,
    do_each_pid_task,
    find_vpid,
    get_pid,
    is_current_pgrp_orphaned,
    pid_vnr,
    put_pid,
    task_pgrp,
    task_session,
)
from glasskernel.kernel.signal import kill_pgrp
from glasskernel.kernel.signal_types import (
    SIG_IGN,
    SIGCONT,
    SIGHUP,
    SIGTTIN,
    SIGTTOU,
    sigmask,
)
from glasskernel.kernel.task import TIF_SIGPENDING
from glasskernel.lib.errno import EINVAL, EIO, ENOTTY, EPERM, ESRCH, KernelError, Restart
from glasskernel.lib.types import notrace, to_s32


@notrace
def is_ignored(sig: int) -> bool:
    """True if the caller blocks or ignores the signal."""
    task = current()
    return bool(task.blocked & sigmask(sig)) or task.sighand.action[sig - 1].handler == SIG_IGN


def __tty_check_change(tty: TtyStruct, sig: int) -> None:
    """Stops the caller with `sig` if it is in the background of its controlling terminal.

    Returns for the foreground, for other terminals, and for SIGTTOU when it is ignored.
    Errors: EIO where a stop could not end (ignored SIGTTIN, orphaned group); Restart after sending the signal.
    """
    task = current()
    if task.signal.tty is not tty:
        return
    pgrp = task_pgrp(task)
    tty_pgrp = tty.pgrp
    if tty_pgrp is None or pgrp is tty_pgrp:
        return
    if is_ignored(sig):
        if sig == SIGTTIN:
            raise KernelError(EIO)
        return
    if is_current_pgrp_orphaned():
        raise KernelError(EIO)
    kill_pgrp(pgrp, sig, 1)
    task.ti_flags |= TIF_SIGPENDING
    raise Restart


def tty_check_change(tty: TtyStruct) -> None:
    """Before the terminal's state is changed: the background gets SIGTTOU."""
    __tty_check_change(tty, SIGTTOU)


def __proc_set_tty(tty: TtyStruct) -> None:
    """tty becomes the controlling terminal of the caller's session."""
    task = current()
    put_pid(tty.session)
    put_pid(tty.pgrp)
    tty.pgrp = _get(task_pgrp(task))
    tty.session = _get(task_session(task))
    put_pid(task.signal.tty_old_pgrp)
    task.signal.tty = tty
    task.signal.tty_old_pgrp = None


@notrace
def _get(pid: Pid | None) -> Pid | None:
    return get_pid(pid) if pid is not None else None


@notrace
def proc_set_tty(tty: TtyStruct) -> None:
    __proc_set_tty(tty)


def tty_open_proc_set_tty(file: File, tty: TtyStruct) -> None:
    """open(2) without O_NOCTTY: a session leader without a terminal takes one that is free."""
    signal = current().signal
    if not signal.leader or signal.tty is not None or tty.session is not None:
        return
    if not file.f_mode & FMODE_READ:
        return                             # who can only write to it must not control it
    __proc_set_tty(tty)


def get_current_tty() -> TtyStruct | None:
    """The caller's controlling terminal."""
    tty: TtyStruct | None = current().signal.tty
    return tty


def disassociate_ctty(on_exit: bool) -> None:
    """A session leader gives its terminal up (TIOCNOTTY) or exits. Nothing for other processes.

    On exit the terminal itself is hung up unless it is a pty: the foreground gets SIGHUP; without an exit also
    SIGCONT. If the terminal is already gone, the group that was in its foreground is told on exit.
    """
    signal = current().signal
    if not signal.leader:
        return
    tty = get_current_tty()
    if tty is not None:
        if on_exit and tty.driver.type != TTY_DRIVER_TYPE_PTY:
            tty_vhangup_session(tty)
        else:
            tty_pgrp = tty_get_pgrp(tty)
            if tty_pgrp is not None:
                kill_pgrp(tty_pgrp, SIGHUP, on_exit)
                if not on_exit:
                    kill_pgrp(tty_pgrp, SIGCONT, on_exit)
    elif on_exit:
        old_pgrp = signal.tty_old_pgrp
        signal.tty_old_pgrp = None
        if old_pgrp is not None:
            kill_pgrp(old_pgrp, SIGHUP, on_exit)
            kill_pgrp(old_pgrp, SIGCONT, on_exit)
            put_pid(old_pgrp)
        return
    put_pid(signal.tty_old_pgrp)
    signal.tty_old_pgrp = None
    tty = signal.tty
    if tty is not None:
        put_pid(tty.session)
        put_pid(tty.pgrp)
        tty.session = None
        tty.pgrp = None
    session_clear_tty(task_session(current()))


def tty_get_pgrp(tty: TtyStruct) -> Pid | None:
    """The foreground process group."""
    return tty.pgrp


# ---- ioctls ---------------------------------------------------------------------------------------------------
@notrace
def tiocsctty(tty: TtyStruct, file: File, arg: int) -> int:
    """TIOCSCTTY: a session leader without a terminal takes this one; arg 1 and CAP_SYS_ADMIN: from its owner.

    Errors: EPERM.
    """
    task = current()
    signal = task.signal
    if signal.leader and task_session(task) is tty.session:
        return 0
    if not signal.leader or signal.tty is not None:
        raise KernelError(EPERM)
    if tty.session is not None:
        if arg != 1 or not capable(CAP_SYS_ADMIN):
            raise KernelError(EPERM)
        session_clear_tty(tty.session)
    if not file.f_mode & FMODE_READ and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    proc_set_tty(tty)
    return 0


@notrace
def session_of_pgrp(pgrp: Pid) -> Pid | None:
    """The session that a process group belongs to."""
    for task in do_each_pid_task(pgrp, PIDTYPE_PGID):
        return task_session(task)
    return None


@notrace
def tiocgpgrp(tty: TtyStruct, real_tty: TtyStruct, arg: int) -> int:
    """TIOCGPGRP. Errors: ENOTTY for a terminal that is not the caller's own (a pty's master may ask)."""
    if tty is real_tty and current().signal.tty is not real_tty:
        raise KernelError(ENOTTY)
    put_user_u32(arg, pid_vnr(tty_get_pgrp(real_tty)))
    return 0


@notrace
def tiocspgrp(tty: TtyStruct, real_tty: TtyStruct, arg: int) -> int:
    """TIOCSPGRP: another group of the caller's session comes to the foreground.

    Errors: ENOTTY, EINVAL (negative), ESRCH, EPERM (a group of another session).
    """
    try:
        tty_check_change(real_tty)
    except KernelError as e:
        if e.errno == EIO:
            raise KernelError(ENOTTY) from None
        raise
    task = current()
    if task.signal.tty is not real_tty or real_tty.session is not task_session(task):
        raise KernelError(ENOTTY)
    number = to_s32(get_user_u32(arg))
    if number < 0:
        raise KernelError(EINVAL)
    pgrp = find_vpid(number)
    if pgrp is None:
        raise KernelError(ESRCH)
    if session_of_pgrp(pgrp) is not task_session(task):
        raise KernelError(EPERM)
    put_pid(real_tty.pgrp)
    real_tty.pgrp = get_pid(pgrp)
    return 0


@notrace
def tiocgsid(tty: TtyStruct, real_tty: TtyStruct, arg: int) -> int:
    """TIOCGSID. Errors: ENOTTY."""
    if tty is real_tty and current().signal.tty is not real_tty:
        raise KernelError(ENOTTY)
    if real_tty.session is None:
        raise KernelError(ENOTTY)
    put_user_u32(arg, pid_vnr(real_tty.session))
    return 0


def tty_jobctrl_ioctl(tty: TtyStruct, real_tty: TtyStruct, file: File, cmd: int, arg: int) -> int | None:
    """The ioctls above; None: not one of them."""
    if cmd == TIOCGPGRP:
        return tiocgpgrp(tty, real_tty, arg)
    if cmd == TIOCSPGRP:
        return tiocspgrp(tty, real_tty, arg)
    if cmd == TIOCNOTTY:
        if current().signal.tty is not tty:
            raise KernelError(ENOTTY)
        no_tty()
        return 0
    if cmd == TIOCSCTTY:
        return tiocsctty(real_tty, file, arg)
    if cmd == TIOCGSID:
        return tiocgsid(tty, real_tty, arg)
    return None


def no_tty() -> None:
    """TIOCNOTTY: the caller, or its whole session if it is the leader, has no terminal any more."""
    disassociate_ctty(False)
    current().signal.tty = None
