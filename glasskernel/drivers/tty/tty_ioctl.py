"""ioctls that every line discipline shares: termios, flushing, stopping.

Linux: drivers/tty/tty_ioctl.c (5.3). Same: who may change termios (tty_check_change), locked bits, that a pty's
master speaks for its slave. Owns: tty.termios, tty.termios_locked.
Gaps: TIOCGSOFTCAR and the modem lines of TIOCM* exist for no device here (EINVAL, ENOTTY as there).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.drivers.tty.tty_flow import (
    start_tty,
    stop_tty,
    tty_driver_flush_buffer,
    tty_unthrottle,
    tty_wait_until_sent,
)
from glasskernel.drivers.tty.tty_jobctrl import tty_check_change
from glasskernel.drivers.tty.types import (
    B0,
    BAUD_TABLE,
    BOTHER,
    CBAUD,
    CBAUDEX,
    CLOCAL,
    CREAD,
    HUPCL,
    IBSHIFT,
    PTY_TYPE_MASTER,
    TCFLSH,
    TCGETA,
    TCGETS,
    TCGETS2,
    TCIFLUSH,
    TCIOFF,
    TCIOFLUSH,
    TCION,
    TCOFLUSH,
    TCOOFF,
    TCOON,
    TCSETA,
    TCSETAF,
    TCSETAW,
    TCSETS,
    TCSETS2,
    TCSETSF,
    TCSETSF2,
    TCSETSW,
    TCSETSW2,
    TCXONC,
    TIOCGLCKTRMIOS,
    TIOCGSOFTCAR,
    TIOCSLCKTRMIOS,
    TIOCSSOFTCAR,
    TTY_DRIVER_TYPE_PTY,
    VSTART,
    VSTOP,
    Ktermios,
    Termio,
    Termios,
    Termios2,
    TtyStruct,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.time.types import MAX_SCHEDULE_TIMEOUT
from glasskernel.lib.errno import EINVAL, ENOTTY, EPERM, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File

TERMIOS_FLUSH, TERMIOS_WAIT, TERMIOS_TERMIO, TERMIOS_OLD = 1, 2, 4, 8


# ---- baud rates -----------------------------------------------------------------------------------------------
def tty_termios_baud_rate(termios: Ktermios) -> int:
    """Output speed in bits per second."""
    cbaud = termios.c_cflag & CBAUD
    if cbaud == BOTHER:
        return termios.c_ospeed
    if cbaud & CBAUDEX:
        cbaud = cbaud & ~CBAUDEX
        if not 1 <= cbaud <= 15:
            termios.c_cflag &= ~CBAUDEX
        else:
            cbaud += 15
    return BAUD_TABLE[cbaud] if cbaud < len(BAUD_TABLE) else 0


def tty_termios_input_baud_rate(termios: Ktermios) -> int:
    """Input speed; 0 in c_cflag: the output's."""
    cbaud = termios.c_cflag >> IBSHIFT & CBAUD
    if cbaud == B0:
        return tty_termios_baud_rate(termios)
    if cbaud == BOTHER:
        return termios.c_ispeed
    if cbaud & CBAUDEX:
        cbaud = cbaud & ~CBAUDEX
        if not 1 <= cbaud <= 15:
            termios.c_cflag &= ~(CBAUDEX << IBSHIFT)
        else:
            cbaud += 15
    return BAUD_TABLE[cbaud] if cbaud < len(BAUD_TABLE) else 0


def tty_termios_hw_change(a: Ktermios, b: Ktermios) -> bool:
    """True if the hardware would have to be set anew."""
    return (a.c_ispeed != b.c_ispeed or a.c_ospeed != b.c_ospeed
            or bool((a.c_cflag ^ b.c_cflag) & ~(HUPCL | CLOCAL | CREAD)))


# ---- termios --------------------------------------------------------------------------------------------------
@notrace
def unset_locked_termios(tty: TtyStruct, old: Ktermios) -> None:
    """Bits that TIOCSLCKTRMIOS locked keep their old values."""
    lock = tty.termios_locked
    new = tty.termios
    new.c_iflag = old.c_iflag & lock.c_iflag | new.c_iflag & ~lock.c_iflag
    new.c_oflag = old.c_oflag & lock.c_oflag | new.c_oflag & ~lock.c_oflag
    new.c_cflag = old.c_cflag & lock.c_cflag | new.c_cflag & ~lock.c_cflag
    new.c_lflag = old.c_lflag & lock.c_lflag | new.c_lflag & ~lock.c_lflag
    if lock.c_line:
        new.c_line = old.c_line
    if any(lock.c_cc):
        new.c_cc = bytes(o if locked else n for o, n, locked in zip(old.c_cc, new.c_cc, lock.c_cc))


def tty_termios_copy_hw(new: Ktermios, old: Ktermios) -> None:
    """A device without hardware settings keeps them."""
    new.c_cflag = new.c_cflag & (HUPCL | CLOCAL | CREAD) | old.c_cflag & ~(HUPCL | CLOCAL | CREAD)
    new.c_ispeed = old.c_ispeed
    new.c_ospeed = old.c_ospeed


def tty_set_termios(tty: TtyStruct, new: Ktermios) -> None:
    """Installs new settings: the driver and the line discipline see them. Context: task."""
    old = tty.termios
    tty.termios = new.copy()
    unset_locked_termios(tty, old)
    if tty.ops.set_termios is not None:
        tty.ops.set_termios(tty, old)
    else:
        tty_termios_copy_hw(tty.termios, old)
    if tty.ldisc is not None:
        tty.ldisc.set_termios(tty, old)


def set_termios(tty: TtyStruct, arg: int, opt: int) -> int:
    """TCSETS and its relatives. Errors: EFAULT, EIO (background); Restart."""
    tty_check_change(tty)
    old = tty.termios
    new = old.copy()
    if opt & TERMIOS_TERMIO:
        termio: Termio = Termio.unpack(copy_from_user(arg, 18))
        new.c_iflag = old.c_iflag & ~0xFFFF | termio.c_iflag
        new.c_oflag = old.c_oflag & ~0xFFFF | termio.c_oflag
        new.c_cflag = old.c_cflag & ~0xFFFF | termio.c_cflag
        new.c_lflag = old.c_lflag & ~0xFFFF | termio.c_lflag
        new.c_line = termio.c_line
        new.c_cc = termio.c_cc + old.c_cc[8:]
    else:
        words: Termios | Termios2
        if opt & TERMIOS_OLD:
            words = Termios.unpack(copy_from_user(arg, 36))
        else:
            words2: Termios2 = Termios2.unpack(copy_from_user(arg, 44))
            new.c_ispeed = words2.c_ispeed
            new.c_ospeed = words2.c_ospeed
            words = words2
        new.c_iflag = words.c_iflag
        new.c_oflag = words.c_oflag
        new.c_cflag = words.c_cflag
        new.c_lflag = words.c_lflag
        new.c_line = words.c_line
        new.c_cc = words.c_cc
    new.c_ispeed = tty_termios_input_baud_rate(new)
    new.c_ospeed = tty_termios_baud_rate(new)
    if opt & TERMIOS_FLUSH and tty.ldisc is not None:
        tty.ldisc.flush_buffer(tty)
    if opt & TERMIOS_WAIT:
        tty_wait_until_sent(tty, MAX_SCHEDULE_TIMEOUT)
    tty_set_termios(tty, new)
    return 0


@notrace
def _store_termios(termios: Ktermios, arg: int, cmd: int) -> int:
    """TCGETS, TCGETS2, TCGETA, TIOCGLCKTRMIOS: to user memory."""
    t = termios
    words: Termio | Termios | Termios2
    if cmd == TCGETA:
        words = Termio(c_iflag=t.c_iflag & 0xFFFF, c_oflag=t.c_oflag & 0xFFFF, c_cflag=t.c_cflag & 0xFFFF,
                       c_lflag=t.c_lflag & 0xFFFF, c_line=t.c_line, c_cc=t.c_cc[:8], pad0=0)
    elif cmd == TCGETS2:
        words = Termios2(c_iflag=t.c_iflag, c_oflag=t.c_oflag, c_cflag=t.c_cflag, c_lflag=t.c_lflag,
                         c_line=t.c_line, c_cc=t.c_cc, c_ispeed=t.c_ispeed, c_ospeed=t.c_ospeed)
    else:
        words = Termios(c_iflag=t.c_iflag, c_oflag=t.c_oflag, c_cflag=t.c_cflag, c_lflag=t.c_lflag,
                        c_line=t.c_line, c_cc=t.c_cc)
    copy_to_user(arg, words.pack())
    return 0


_SET = {
    TCSETS: TERMIOS_OLD, TCSETSW: TERMIOS_OLD | TERMIOS_WAIT, TCSETSF: TERMIOS_OLD | TERMIOS_WAIT | TERMIOS_FLUSH,
    TCSETS2: 0, TCSETSW2: TERMIOS_WAIT, TCSETSF2: TERMIOS_WAIT | TERMIOS_FLUSH,
    TCSETA: TERMIOS_TERMIO, TCSETAW: TERMIOS_TERMIO | TERMIOS_WAIT,
    TCSETAF: TERMIOS_TERMIO | TERMIOS_WAIT | TERMIOS_FLUSH,
}


def tty_mode_ioctl(tty: TtyStruct, file: File, cmd: int, arg: int) -> int:
    """Settings. On a pty's master they are the slave's. Errors: ENOTTY for anything else."""
    real_tty = tty
    if tty.driver.type == TTY_DRIVER_TYPE_PTY and tty.driver.subtype == PTY_TYPE_MASTER and tty.link is not None:
        real_tty = tty.link
    if cmd in (TCGETS, TCGETS2, TCGETA):
        return _store_termios(real_tty.termios, arg, cmd)
    opt = _SET.get(cmd)
    if opt is not None:
        return set_termios(real_tty, arg, opt)
    if cmd == TIOCGLCKTRMIOS:
        return _store_termios(real_tty.termios_locked, arg, cmd)
    if cmd == TIOCSLCKTRMIOS:
        if not capable(CAP_SYS_ADMIN):
            raise KernelError(EPERM)
        words: Termios = Termios.unpack(copy_from_user(arg, 36))
        real_tty.termios_locked = Ktermios(words.c_iflag, words.c_oflag, words.c_cflag, words.c_lflag,
                                           words.c_line, words.c_cc, 0, 0)
        return 0
    if cmd == TIOCGSOFTCAR:
        put_user_u32(arg, 1 if real_tty.termios.c_cflag & CLOCAL else 0)
        return 0
    if cmd == TIOCSSOFTCAR:
        new = real_tty.termios.copy()
        new.c_cflag = new.c_cflag & ~CLOCAL | (CLOCAL if get_user_u32(arg) else 0)
        tty_set_termios(real_tty, new)
        return 0
    raise KernelError(ENOTTY)


# ---- flushing, stopping ---------------------------------------------------------------------------------------
def __tty_perform_flush(tty: TtyStruct, arg: int) -> int:
    """TCFLSH. Errors: EINVAL."""
    if not TCIFLUSH <= arg <= TCIOFLUSH:
        raise KernelError(EINVAL)
    if arg != TCOFLUSH and tty.ldisc is not None:
        tty.ldisc.flush_buffer(tty)
        tty_unthrottle(tty)
    if arg != TCIFLUSH:
        tty_driver_flush_buffer(tty)
    return 0


def tty_perform_flush(tty: TtyStruct, arg: int) -> int:
    """TCFLSH from user space. Errors: EINVAL, EIO (background); Restart."""
    tty_check_change(tty)
    return __tty_perform_flush(tty, arg)


def n_tty_ioctl_helper(tty: TtyStruct, file: File, cmd: int, arg: int) -> int:
    """TCXONC, TCFLSH and tty_mode_ioctl(). Errors: EINVAL, EIO, ENOTTY; Restart."""
    if cmd == TCXONC:
        tty_check_change(tty)
        if arg == TCOOFF:
            if not tty.flow_stopped:
                tty.flow_stopped = True
                stop_tty(tty)
        elif arg == TCOON:
            if tty.flow_stopped:
                tty.flow_stopped = False
                start_tty(tty)
        elif arg in (TCIOFF, TCION):
            _send_flow_char(tty, VSTOP if arg == TCIOFF else VSTART)
        else:
            raise KernelError(EINVAL)
        return 0
    if cmd == TCFLSH:
        return tty_perform_flush(tty, arg)
    return tty_mode_ioctl(tty, file, cmd, arg)


@notrace
def _send_flow_char(tty: TtyStruct, which: int) -> None:
    """tty_send_xchar() for drivers without an urgent path of their own."""
    ch = tty.termios.c_cc[which]
    if not ch:
        return
    was_stopped = tty.stopped
    if was_stopped:
        start_tty(tty)
    tty.ops.write(tty, bytes((ch,)))
    if was_stopped:
        stop_tty(tty)
