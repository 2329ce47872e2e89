"""N_TTY's input half: what a typed byte does.

Linux: drivers/tty/n_tty.c (5.3), from put_tty_queue() to n_tty_receive_buf2(). Same: canonical editing, ISIG, IXON,
what each of the echo flags prints, the 4096-byte buffer (a longer line loses all but its first 4095 bytes and the
newline), throttling. Differs: runs of ordinary bytes are taken at once.
Owns: NTtyData.read_buf and what belongs to it.
Gaps: breaks and parity errors: no device here reports any, so IGNBRK, BRKINT, INPCK, IGNPAR and PARMRK's marks have
    nothing to do; PARMRK doubles \\377.
Invariants: read_tail <= canon_head, commit_head <= read_head; a position in read_flags is < canon_head; who moves
    canon_head or commit_head wakes read_wait.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.drivers.tty.n_tty_output import (
    NTtyData,
    commit_echoes,
    echo_char,
    echo_char_raw,
    echo_erase_tab,
    echo_move_back_col,
    echo_set_canon_col,
    finish_erasing,
    flush_echoes,
    is_continuation,
    iscntrl,
    process_echoes,
)
from glasskernel.drivers.tty.tty_buffer import tty_buffer_restart_work
from glasskernel.drivers.tty.tty_flow import (
    start_tty,
    stop_tty,
    tty_driver_flush_buffer,
    tty_throttle_safe,
    tty_unthrottle_safe,
    tty_wakeup,
)
from glasskernel.drivers.tty.tty_jobctrl import tty_get_pgrp
from glasskernel.drivers.tty.types import (
    DISABLED_CHAR,
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ECHONL,
    ECHOPRT,
    EXTPROC,
    ICRNL,
    IEXTEN,
    IGNCR,
    INLCR,
    ISIG,
    ISTRIP,
    IUCLC,
    IXANY,
    IXON,
    N_TTY_BUF_SIZE,
    NOFLSH,
    PARMRK,
    TIOCPKT_FLUSHREAD,
    TTY_DRIVER_TYPE_PTY,
    TTY_THROTTLE_SAFE,
    TTY_UNTHROTTLE_SAFE,
    VEOF,
    VEOL,
    VEOL2,
    VERASE,
    VINTR,
    VKILL,
    VLNEXT,
    VQUIT,
    VREPRINT,
    VSTART,
    VSTOP,
    VSUSP,
    VWERASE,
    TtyStruct,
)
from glasskernel.fs.fcntl_signal import kill_fasync
from glasskernel.fs.types import POLLIN
from glasskernel.kernel.sched.wait import (
    wake_up_interruptible,
    wake_up_interruptible_poll,
)
from glasskernel.kernel.signal import kill_pgrp
from glasskernel.kernel.signal_types import POLL_IN, SIGINT, SIGIO, SIGQUIT, SIGTSTP
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    pass

TTY_THRESHOLD_THROTTLE: Final = 128        # this little room left: hold input back
TTY_THRESHOLD_UNTHROTTLE: Final = 128      # so few bytes left: let it come again

_STRIP: Final = bytes(i & 0x7F for i in range(256))
_LOWER: Final = bytes(i + 32 if 65 <= i <= 90 or (192 <= i <= 222 and i != 215) else i for i in range(256))
# lib/ctype.c's isalnum(), which takes Latin-1 letters for letters, and "_"
_WORD: Final = frozenset(c for c in range(256) if (chr(c).isascii() and (chr(c).isalnum() or c == 95))
                         or (c >= 192 and c not in (215, 247)))


# ---- the buffer -----------------------------------------------------------------------------------------------
@notrace
def read_cnt(ldata: NTtyData) -> int:
    return len(ldata.read_buf)


@notrace
def chars_in_buffer(tty: TtyStruct) -> int:
    """Bytes that a read(2) could take."""
    ldata = tty.disc_data
    head: int = ldata.canon_head if ldata.icanon else ldata.commit_head
    return head - int(ldata.read_tail)


@notrace
def _read_head(ldata: NTtyData) -> int:
    return ldata.read_tail + len(ldata.read_buf)


@notrace
def _set_read_head(ldata: NTtyData, head: int) -> None:
    """Forgets the bytes from `head` on."""
    del ldata.read_buf[head - ldata.read_tail :]


def n_tty_kick_worker(tty: TtyStruct) -> None:
    """There is room again for what waits in the flip buffer."""
    ldata = tty.disc_data
    if ldata.no_room:
        ldata.no_room = False
        tty_buffer_restart_work(tty.port)


@notrace
def reset_buffer_flags(ldata: NTtyData) -> None:
    """Forgets all input."""
    ldata.read_buf.clear()
    ldata.read_flags.clear()
    ldata.canon_head = ldata.commit_head = ldata.read_tail
    ldata.erasing = ldata.lnext = False


def n_tty_packet_mode_flush(tty: TtyStruct) -> None:
    if tty.link is not None and tty.link.packet:
        tty.ctrl_status |= TIOCPKT_FLUSHREAD
        wake_up_interruptible(tty.link.read_wait)


def n_tty_flush_buffer(tty: TtyStruct) -> None:
    """TCIFLUSH, hangup: forgets all input."""
    reset_buffer_flags(tty.disc_data)
    n_tty_kick_worker(tty)
    if tty.link is not None:
        n_tty_packet_mode_flush(tty)


@notrace
def n_tty_check_throttle(tty: TtyStruct) -> None:
    """After input: asks the driver to hold back when the buffer is nearly full."""
    ldata = tty.disc_data
    if ldata.icanon and ldata.canon_head == ldata.read_tail:
        return                                     # no line yet: more input is the only way on
    tty.flow_change = TTY_THROTTLE_SAFE
    if N_TTY_BUF_SIZE - len(ldata.read_buf) < TTY_THRESHOLD_THROTTLE:
        tty_throttle_safe(tty)
    tty.flow_change = 0


def n_tty_check_unthrottle(tty: TtyStruct) -> None:
    """After a read: lets input come again when the buffer is nearly empty."""
    if chars_in_buffer(tty) > TTY_THRESHOLD_UNTHROTTLE:
        return
    if tty.driver.type == TTY_DRIVER_TYPE_PTY:
        n_tty_kick_worker(tty)
        if tty.link is not None:
            tty_wakeup(tty.link)
        return
    tty.flow_change = TTY_UNTHROTTLE_SAFE
    n_tty_kick_worker(tty)
    tty_unthrottle_safe(tty)
    tty.flow_change = 0


# ---- input ----------------------------------------------------------------------------------------------------
@notrace
def eraser(c: int, tty: TtyStruct) -> None:
    """VERASE, VWERASE, VKILL: takes characters back, and off the screen."""
    ldata = tty.disc_data
    lflag = tty.termios.c_lflag
    cc = tty.termios.c_cc
    canon_head: int = ldata.canon_head
    head = _read_head(ldata)
    if head == canon_head:
        return
    erase = c == cc[VERASE]
    word = not erase and c == cc[VWERASE]
    if not erase and not word:
        if not lflag & ECHO:
            _set_read_head(ldata, canon_head)
            return
        if lflag & (ECHOK | ECHOKE | ECHOE) != ECHOK | ECHOKE | ECHOE:
            _set_read_head(ldata, canon_head)
            finish_erasing(ldata)
            echo_char(cc[VKILL], tty)
            if lflag & ECHOK:
                echo_char_raw(10, ldata)
            return
    buf = ldata.read_buf
    tail: int = ldata.read_tail
    seen_word = False
    while head != canon_head:
        first = head
        while True:                                # one character, of several bytes perhaps
            first -= 1
            c = buf[first - tail]
            if not is_continuation(c, tty) or first == canon_head:
                break
        if is_continuation(c, tty):
            break                                  # its first byte is not here: leave the rest
        if word:
            if c in _WORD:
                seen_word = True
            elif seen_word:
                break
        gone = bytes(buf[first - tail :])
        head = first
        _set_read_head(ldata, head)
        if lflag & ECHO:
            if lflag & ECHOPRT:
                if not ldata.erasing:
                    echo_char_raw(0x5C, ldata)
                    ldata.erasing = True
                echo_char(c, tty)
                for byte in gone[1:]:
                    echo_char_raw(byte, ldata)
                    echo_move_back_col(ldata)
            elif erase and not lflag & ECHOE:
                echo_char(cc[VERASE], tty)
            elif c == 9:
                _erase_tab(tty, head)
            elif not iscntrl(c):
                ldata.echo_buf += b"\b \b"
            elif lflag & ECHOCTL:
                ldata.echo_buf += b"\b \b\b \b"
        if erase:
            break
    if head == canon_head and lflag & ECHO:
        finish_erasing(ldata)


@notrace
def _erase_tab(tty: TtyStruct, head: int) -> None:
    """Echoes the erasing of a tab at `head`: counts the columns since the tab before it, or the line's begin."""
    ldata = tty.disc_data
    num_chars = 0
    after_tab = False
    while head != ldata.canon_head:
        head -= 1
        c = ldata.read_buf[head - ldata.read_tail]
        if c == 9:
            after_tab = True
            break
        if iscntrl(c):
            if tty.termios.c_lflag & ECHOCTL:
                num_chars += 2
        elif not is_continuation(c, tty):
            num_chars += 1
    echo_erase_tab(num_chars, after_tab, ldata)


@notrace
def __isig(sig: int, tty: TtyStruct) -> None:
    pgrp = tty_get_pgrp(tty)
    if pgrp is not None:
        kill_pgrp(pgrp, sig, 1)


def isig(sig: int, tty: TtyStruct) -> None:
    """Signals the foreground group; without NOFLSH forgets input, output and echoes that wait."""
    __isig(sig, tty)
    if tty.termios.c_lflag & NOFLSH:
        return
    ldata = tty.disc_data
    ldata.echo_buf.clear()
    ldata.echo_mark = ldata.echo_commit = 0
    tty_driver_flush_buffer(tty)
    reset_buffer_flags(ldata)
    if tty.link is not None:
        n_tty_packet_mode_flush(tty)


def n_tty_receive_signal_char(tty: TtyStruct, sig: int, c: int) -> None:
    """INTR, QUIT or SUSP was typed."""
    isig(sig, tty)
    if tty.termios.c_iflag & IXON:
        start_tty(tty)
    if tty.termios.c_lflag & ECHO:
        echo_char(c, tty)
        commit_echoes(tty)
    else:
        process_echoes(tty)


def n_tty_receive_char_special(tty: TtyStruct, c: int) -> None:
    """One byte of char_map."""
    ldata = tty.disc_data
    termios = tty.termios
    iflag = termios.c_iflag
    lflag = termios.c_lflag
    cc = termios.c_cc
    if iflag & IXON:
        if c == cc[VSTART]:
            start_tty(tty)
            process_echoes(tty)
            return
        if c == cc[VSTOP]:
            stop_tty(tty)
            return
    if lflag & ISIG:
        if c == cc[VINTR]:
            n_tty_receive_signal_char(tty, SIGINT, c)
            return
        if c == cc[VQUIT]:
            n_tty_receive_signal_char(tty, SIGQUIT, c)
            return
        if c == cc[VSUSP]:
            n_tty_receive_signal_char(tty, SIGTSTP, c)
            return
    if tty.stopped and not tty.flow_stopped and iflag & (IXON | IXANY) == IXON | IXANY:
        start_tty(tty)
        process_echoes(tty)
    if c == 13:
        if iflag & IGNCR:
            return
        if iflag & ICRNL:
            c = 10
    elif c == 10 and iflag & INLCR:
        c = 13
    if ldata.icanon:
        if c == cc[VERASE] or c == cc[VKILL] or (c == cc[VWERASE] and lflag & IEXTEN):
            eraser(c, tty)
            commit_echoes(tty)
            return
        if c == cc[VLNEXT] and lflag & IEXTEN:
            ldata.lnext = True
            if lflag & ECHO:
                finish_erasing(ldata)
                if lflag & ECHOCTL:
                    ldata.echo_buf += b"^\b"
                    commit_echoes(tty)
            return
        if c == cc[VREPRINT] and lflag & ECHO and lflag & IEXTEN:
            finish_erasing(ldata)
            echo_char(c, tty)
            echo_char_raw(10, ldata)
            for typed in bytes(ldata.read_buf[ldata.canon_head - ldata.read_tail :]):
                echo_char(typed, tty)
            commit_echoes(tty)
            return
        newline = c == 10
        if newline:
            if lflag & (ECHO | ECHONL):
                echo_char_raw(10, ldata)
                commit_echoes(tty)
        elif c == cc[VEOF]:
            c = DISABLED_CHAR
            newline = True
        elif c == cc[VEOL] or (c == cc[VEOL2] and lflag & IEXTEN):
            if lflag & ECHO:
                if ldata.canon_head == _read_head(ldata):
                    echo_set_canon_col(ldata)
                echo_char(c, tty)
                commit_echoes(tty)
            if c == 0xFF and iflag & PARMRK:
                ldata.read_buf.append(c)
            newline = True
        if newline:
            ldata.read_flags.append(_read_head(ldata))
            ldata.read_buf.append(c)
            ldata.canon_head = _read_head(ldata)
            if tty.fasync:
                kill_fasync(tty.fasync, SIGIO, POLL_IN)
            wake_up_interruptible_poll(tty.read_wait, POLLIN)
            return
    if lflag & ECHO:
        finish_erasing(ldata)
        if c == 10:
            echo_char_raw(10, ldata)
        else:
            if ldata.canon_head == _read_head(ldata):
                echo_set_canon_col(ldata)
            echo_char(c, tty)
        commit_echoes(tty)
    if c == 0xFF and iflag & PARMRK:
        ldata.read_buf.append(c)
    ldata.read_buf.append(c)


@notrace
def n_tty_receive_char_inline(tty: TtyStruct, chars: bytes) -> None:
    """Bytes without a meaning: echoed and kept."""
    ldata = tty.disc_data
    iflag = tty.termios.c_iflag
    if tty.stopped and not tty.flow_stopped and iflag & (IXON | IXANY) == IXON | IXANY:
        start_tty(tty)
        process_echoes(tty)
    if tty.termios.c_lflag & ECHO:
        finish_erasing(ldata)
        if ldata.canon_head == _read_head(ldata):
            echo_set_canon_col(ldata)
        if chars.isascii() and chars.isalnum():
            ldata.echo_buf += chars                # the common case; echo_char() would add no mark
        else:
            for c in chars:
                echo_char(c, tty)
        commit_echoes(tty)
    if iflag & PARMRK:
        chars = chars.replace(b"\xff", b"\xff\xff")
    ldata.read_buf += chars


def n_tty_receive_char_lnext(tty: TtyStruct, c: int) -> None:
    """The byte after VLNEXT: kept whatever it is."""
    tty.disc_data.lnext = False
    n_tty_receive_char_inline(tty, c.to_bytes(1, "little"))


@notrace
def n_tty_receive_buf_standard(tty: TtyStruct, data: bytes) -> None:
    """Bytes that may be edited, echoed or mapped."""
    ldata = tty.disc_data
    plain = ldata.plain
    at = 0
    size = len(data)
    while at < size:
        if ldata.lnext:
            n_tty_receive_char_lnext(tty, data[at])
            at += 1
            continue
        run = plain.match(data, at)
        if run is not None:
            n_tty_receive_char_inline(tty, run[0])
            at = run.end()
            continue
        n_tty_receive_char_special(tty, data[at])
        at += 1


@notrace
def n_tty_receive_buf_closing(tty: TtyStruct, data: bytes) -> None:
    """The last close is under way: only flow control counts."""
    termios = tty.termios
    if not termios.c_iflag & IXON:
        return
    for c in data:
        if c == termios.c_cc[VSTART] or (c != termios.c_cc[VSTOP] and tty.stopped and not tty.flow_stopped \
                and termios.c_iflag & IXANY and c not in (
                termios.c_cc[VINTR], termios.c_cc[VQUIT], termios.c_cc[VSUSP])):
            start_tty(tty)
            process_echoes(tty)
        elif c == termios.c_cc[VSTOP]:
            stop_tty(tty)


def __receive_buf(tty: TtyStruct, data: bytes) -> None:
    ldata = tty.disc_data
    iflag = tty.termios.c_iflag
    lflag = tty.termios.c_lflag
    if not ldata.real_raw and (iflag & ISTRIP or (iflag & IUCLC and lflag & IEXTEN)):
        if iflag & ISTRIP:
            data = data.translate(_STRIP)
        if iflag & IUCLC and lflag & IEXTEN:
            data = data.translate(_LOWER)
    if ldata.raw or lflag & EXTPROC:
        ldata.read_buf += data
    elif tty.closing:
        n_tty_receive_buf_closing(tty, data)
    else:
        n_tty_receive_buf_standard(tty, data)
        flush_echoes(tty)
        if tty.ops.flush_chars is not None:
            tty.ops.flush_chars(tty)
    if ldata.icanon and not lflag & EXTPROC:
        return
    ldata.commit_head = _read_head(ldata)
    if ldata.read_buf:
        if tty.fasync:
            kill_fasync(tty.fasync, SIGIO, POLL_IN)
        wake_up_interruptible_poll(tty.read_wait, POLLIN)


def n_tty_receive_buf_common(tty: TtyStruct, data: bytes, flow: bool) -> int:
    """Takes what there is room for; answers how many bytes. flow: the driver keeps the rest (no_room)."""
    ldata = tty.disc_data
    rcvd = 0
    while True:
        room = N_TTY_BUF_SIZE - len(ldata.read_buf)
        if tty.termios.c_iflag & PARMRK:
            room = (room + 2) // 3
        room -= 1
        overflow = False
        if room <= 0:
            overflow = ldata.icanon and ldata.canon_head == ldata.read_tail
            if overflow and room < 0:
                del ldata.read_buf[-1:]            # the newline must still find room
            room = 1 if overflow else 0
            ldata.no_room = flow and not room
        n = min(len(data) - rcvd, room)
        if not n:
            break
        __receive_buf(tty, data if n == len(data) else data[rcvd : rcvd + n])
        rcvd += n
    tty.receive_room = room
    if tty.driver.type == TTY_DRIVER_TYPE_PTY:
        if overflow:
            tty.flow_change = TTY_UNTHROTTLE_SAFE
            tty_unthrottle_safe(tty)
            tty.flow_change = 0
    else:
        n_tty_check_throttle(tty)
    return rcvd


def n_tty_receive_buf(tty: TtyStruct, data: bytes) -> int:
    """tty_ldisc_ops.receive_buf: what does not fit is lost (TIOCSTI)."""
    return n_tty_receive_buf_common(tty, data, False)


def n_tty_receive_buf2(tty: TtyStruct, data: bytes) -> int:
    """tty_ldisc_ops.receive_buf2: what does not fit stays with the driver."""
    return n_tty_receive_buf_common(tty, data, True)
