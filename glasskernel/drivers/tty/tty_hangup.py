"""Hanging up: the line dropped, or the session that owned the terminal is over.

Linux: __tty_hangup() and its callers in drivers/tty/tty_io.c, and tty_signal_session_leader() and
session_clear_tty() of tty_jobctrl.c (5.3). Same: files get hung_up_tty_fops (read 0, write EIO), the session's
leader SIGHUP and SIGCONT, sleepers leave. Files opened as /dev/console stay usable.
Owns: TTY_HUPPED, TTY_HUPPING.
Invariants: after __tty_hangup() nobody has the terminal as signal.tty, and tty.pgrp and tty.session are None.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.tty.tty_ldisc import tty_ldisc_hangup
from glasskernel.drivers.tty.types import (
    TTY_DO_WRITE_WAKEUP,
    TTY_HUPPED,
    TTY_HUPPING,
    TTY_THROTTLED,
    TtyStruct,
)
from glasskernel.fs.fcntl_signal import fasync_helper
from glasskernel.kernel.capability import CAP_SYS_TTY_CONFIG, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_SID, Pid, do_each_pid_task, get_pid, put_pid
from glasskernel.kernel.signal import __group_send_sig_info, kill_pgrp
from glasskernel.kernel.signal_types import SEND_SIG_PRIV, SIGCONT, SIGHUP
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import EPERM, KernelError
from glasskernel.lib.syscalls import syscall

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.kernel.task import TaskStruct


def proc_clear_tty(task: TaskStruct) -> None:
    """The process has no controlling terminal any more."""
    task.signal.tty = None


def session_clear_tty(session: Pid | None) -> None:
    """Every process of the session loses its terminal."""
    for task in do_each_pid_task(session, PIDTYPE_SID):
        proc_clear_tty(task)


def tty_signal_session_leader(tty: TtyStruct, exit_session: bool) -> None:
    """SIGHUP and SIGCONT for the session's leader, and on its exit SIGHUP for the foreground."""
    tty_pgrp: Pid | None = None
    for task in do_each_pid_task(tty.session, PIDTYPE_SID):
        if task.signal.tty is tty:
            task.signal.tty = None
        if not task.signal.leader:
            continue
        __group_send_sig_info(SIGHUP, SEND_SIG_PRIV, task)
        __group_send_sig_info(SIGCONT, SEND_SIG_PRIV, task)
        put_pid(task.signal.tty_old_pgrp)
        tty_pgrp = tty.pgrp
        task.signal.tty_old_pgrp = get_pid(tty_pgrp) if tty_pgrp is not None else None
    if tty_pgrp is not None and exit_session:
        kill_pgrp(tty_pgrp, SIGHUP, 1)


def __tty_hangup(tty: TtyStruct, exit_session: bool) -> None:
    """Takes the terminal away from everybody. Context: task."""
    state = tty.kernel.tty
    redirect = state.redirect
    if redirect is not None and redirect.private_data is not None and redirect.private_data.tty is tty:
        state.redirect = None
    if tty.flags & TTY_HUPPED:
        return
    tty.flags |= TTY_HUPPING
    console: File | None = None
    closecount = 0
    for file in tty.tty_files:
        if file.f_op is state.console_fops:
            console = file
        elif file.f_op is not state.hung_up_tty_fops:
            closecount += 1
            fasync_helper(-1, file, 0, tty.fasync)
            file.f_op = state.hung_up_tty_fops
    tty_signal_session_leader(tty, exit_session)
    tty_ldisc_hangup(tty, console is not None)
    tty.flags &= ~(TTY_THROTTLED | TTY_DO_WRITE_WAKEUP)
    put_pid(tty.session)
    put_pid(tty.pgrp)
    tty.session = None
    tty.pgrp = None
    tty.ctrl_status = 0
    if console is not None:
        for _ in range(closecount):
            tty.ops.close(tty, console)
    elif tty.ops.hangup is not None:
        tty.ops.hangup(tty)
    tty.flags = tty.flags & ~TTY_HUPPING | TTY_HUPPED


def do_tty_hangup(work: WorkStruct) -> None:
    """The work item of tty_hangup()."""
    __tty_hangup(work.data, False)


def tty_hangup(tty: TtyStruct) -> None:
    """A driver lost the line. Context: any; the rest is done by a worker."""
    schedule_work(WorkStruct(do_tty_hangup, tty))


def tty_vhangup(tty: TtyStruct) -> None:
    """A pty's master was closed, TIOCVHANGUP. Context: task."""
    __tty_hangup(tty, False)


def tty_vhangup_self() -> None:
    """vhangup(2): hangs the caller's own terminal up."""
    tty: TtyStruct | None = current().signal.tty
    if tty is not None:
        tty_vhangup(tty)


@syscall
def sys_vhangup() -> int:
    """Errors: EPERM without CAP_SYS_TTY_CONFIG."""
    if not capable(CAP_SYS_TTY_CONFIG):
        raise KernelError(EPERM)
    tty_vhangup_self()
    return 0


def tty_vhangup_session(tty: TtyStruct) -> None:
    """The session leader exits."""
    __tty_hangup(tty, True)
