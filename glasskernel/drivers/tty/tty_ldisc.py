"""Line disciplines: setting them up, hanging them up, flushing them.

Linux: drivers/tty/tty_ldisc.c (5.3). Same: names, what a hangup does (flush, wake everybody, reset termios,
reopen or drop the discipline). Differs: no ldsem: tty.ldisc is None while there is none, and a sleeper that wakes
asks tty_hung_up_p() before it touches anything.
Owns: tty.ldisc.  Gaps: N_TTY is the only discipline; TIOCSETD of another fails with EINVAL, as for one that is
not registered.
"""
from __future__ import annotations

from glasskernel.drivers.tty.tty_buffer import tty_buffer_flush
from glasskernel.drivers.tty.tty_flow import tty_driver_flush_buffer
from glasskernel.drivers.tty.types import (
    N_TTY,
    TTY_DRIVER_RESET_TERMIOS,
    TtyLdiscOps,
    TtyStruct,
)
from glasskernel.fs.types import POLLIN, POLLOUT
from glasskernel.kernel.sched.wait import wake_up_interruptible_poll
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace


def tty_ldisc_get(tty: TtyStruct, disc: int) -> TtyLdiscOps:
    """The discipline with that number. Errors: EINVAL."""
    ops = tty.kernel.tty.ldiscs.get(disc)
    if ops is None:
        raise KernelError(EINVAL)
    return ops


def tty_ldisc_ref_wait(tty: TtyStruct) -> TtyLdiscOps | None:
    """The discipline for a read, write, poll or ioctl; None: the terminal was hung up."""
    return tty.ldisc


def tty_ldisc_flush(tty: TtyStruct) -> None:
    """TCIFLUSH: forgets input, in the discipline and before it."""
    if tty.ldisc is not None:
        tty.ldisc.flush_buffer(tty)
    tty_buffer_flush(tty.port)


def tty_ldisc_open(tty: TtyStruct, disc: TtyLdiscOps) -> None:
    disc.open(tty)


def tty_ldisc_close(tty: TtyStruct, disc: TtyLdiscOps) -> None:
    disc.close(tty)


def tty_ldisc_init(tty: TtyStruct) -> None:
    """A new terminal begins with N_TTY."""
    tty.ldisc = tty_ldisc_get(tty, N_TTY)


def tty_ldisc_setup(tty: TtyStruct, o_tty: TtyStruct | None) -> None:
    """First open: opens the discipline, on both ends of a pty."""
    assert tty.ldisc is not None
    tty_ldisc_open(tty, tty.ldisc)
    if o_tty is not None:
        assert o_tty.ldisc is not None
        tty_ldisc_open(o_tty, o_tty.ldisc)


def tty_ldisc_reinit(tty: TtyStruct, disc: int) -> None:
    """Begins anew with a discipline. Errors: EINVAL."""
    ops = tty_ldisc_get(tty, disc)
    if tty.ldisc is not None:
        tty_ldisc_close(tty, tty.ldisc)
    tty.ldisc = ops
    tty.termios = termios = tty.termios.copy()
    termios.c_line = disc
    tty_ldisc_open(tty, ops)


@notrace
def tty_ldisc_kill(tty: TtyStruct) -> None:
    if tty.ldisc is not None:
        tty_ldisc_close(tty, tty.ldisc)
        tty.ldisc = None


@notrace
def tty_reset_termios(tty: TtyStruct) -> None:
    tty.termios = tty.driver.init_termios.copy()


def tty_set_ldisc(tty: TtyStruct, disc: int) -> None:
    """TIOCSETD. Errors: EINVAL."""
    ops = tty_ldisc_get(tty, disc)
    if tty.ldisc is not ops:
        tty_ldisc_reinit(tty, disc)


def tty_ldisc_hangup(tty: TtyStruct, reinit: bool) -> None:
    """The line dropped. reinit: somebody (the console) keeps the terminal open."""
    ld = tty.ldisc
    if ld is not None:
        ld.flush_buffer(tty)
        tty_driver_flush_buffer(tty)
    wake_up_interruptible_poll(tty.write_wait, POLLOUT)
    wake_up_interruptible_poll(tty.read_wait, POLLIN)
    if tty.driver.flags & TTY_DRIVER_RESET_TERMIOS:
        tty_reset_termios(tty)
    if tty.ldisc is not None:
        if reinit:
            tty_ldisc_reinit(tty, tty.termios.c_line)
        else:
            tty_ldisc_kill(tty)


def tty_ldisc_release(tty: TtyStruct) -> None:
    """Last close: both ends lose their disciplines."""
    tty_ldisc_kill(tty)
    if tty.link is not None:
        tty_ldisc_kill(tty.link)
