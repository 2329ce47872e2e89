"""N_TTY's output half: post-processing (OPOST) and the echo of what was typed.

Linux: drivers/tty/n_tty.c (5.3), from do_output_char() to finish_erasing(). Same: the column that tabs and erasing
go by, echoes as a queue of bytes and small operations that is worked off when the driver has room, ^X for control
characters. Differs: runs of ordinary bytes are handled at once; a block with many lines goes to the driver in one
piece when the only job is NL -> CR NL.
Owns: NTtyData.column, .canon_column, .echo_buf.
Invariants: echo_commit and echo_mark are offsets into echo_buf, 0 <= echo_commit <= echo_mark <= len(echo_buf),
    and never lie inside an operation.
"""
from __future__ import annotations

import re
from collections import deque
from typing import Final

from glasskernel.drivers.tty.tty_flow import tty_put_char, tty_write_room
from glasskernel.drivers.tty.types import (
    ECHO,
    ECHOCTL,
    ECHONL,
    IUTF8,
    N_TTY_BUF_SIZE,
    OCRNL,
    OLCUC,
    ONLCR,
    ONLRET,
    ONOCR,
    OPOST,
    TABDLY,
    XTABS,
    TtyStruct,
)
from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

# Bytes of echo_buf. An operation is ECHO_OP_START and one of the others.
ECHO_OP_START, ECHO_OP_MOVE_BACK_COL, ECHO_OP_SET_CANON_COL, ECHO_OP_ERASE_TAB = 0xFF, 0x80, 0x81, 0x82
ECHO_COMMIT_WATERMARK, ECHO_BLOCK = 512, 256
ECHO_DISCARD_WATERMARK: Final = N_TTY_BUF_SIZE - (ECHO_BLOCK + 32)
BULK_LINES: Final = 8                       # from so many lines on a block goes out in one piece

_PLAIN = re.compile(rb"[^\x00-\x1f\x7f]+")
_CONTINUATION = re.compile(rb"[\x80-\xbf]")


@slotted
class NTtyData:
    """struct n_tty_data. read_buf holds the bytes [read_tail, read_head); positions count all bytes since open.

    read_flags: positions of the characters that end a line, rising. char_map: for each byte 1 if it needs
    n_tty_receive_char_special(). plain: matches a run of bytes that do not.
    """

    address: int                       # its memory, of vzalloc()
    read_buf: bytearray = field(default_factory=bytearray)
    read_tail: int = 0
    read_flags: deque[int] = field(default_factory=deque)
    canon_head: int = 0                       # end of the last complete line
    commit_head: int = 0                      # end of what a raw reader may take
    char_map: bytes = bytes(256)
    plain: re.Pattern[bytes] = _PLAIN
    raw: bool = False
    real_raw: bool = False
    icanon: bool = False
    lnext: bool = False                       # the next character is taken literally
    erasing: bool = False                     # between \ and / of ECHOPRT
    no_room: bool = False
    column: int = 0
    canon_column: int = 0                     # where the line being typed began
    echo_buf: bytearray = field(default_factory=bytearray)
    echo_commit: int = 0
    echo_mark: int = 0
    # held across sleeps:
    atomic_read_lock: Mutex = field(default_factory=Mutex)              # one read(2) at a time


@notrace
def iscntrl(c: int) -> bool:
    """lib/ctype.c: C0 and DEL."""
    return c < 32 or c == 127


@notrace
def is_continuation(c: int, tty: TtyStruct) -> bool:
    """A byte of a UTF-8 character that is not its first."""
    return bool(tty.termios.c_iflag & IUTF8) and c & 0xC0 == 0x80


@notrace
def _columns(run: bytes | bytearray, tty: TtyStruct) -> int:
    """Columns that a run without control characters takes."""
    if tty.termios.c_iflag & IUTF8 and not run.isascii():
        return len(run) - len(_CONTINUATION.findall(run))
    return len(run)


# ---- output ---------------------------------------------------------------------------------------------------
def do_output_char(c: int, tty: TtyStruct, space: int) -> int:
    """Sends one byte the way c_oflag wants it; answers the room it took, -1: too little room."""
    if not space:
        return -1
    ldata: NTtyData = tty.disc_data
    oflag = tty.termios.c_oflag
    if c == 10:
        if oflag & ONLRET:
            ldata.column = 0
        if oflag & ONLCR:
            if space < 2:
                return -1
            ldata.canon_column = ldata.column = 0
            tty.ops.write(tty, b"\r\n")
            return 2
        ldata.canon_column = ldata.column
    elif c == 13:
        if oflag & ONOCR and ldata.column == 0:
            return 0
        if oflag & OCRNL:
            c = 10
            if oflag & ONLRET:
                ldata.canon_column = ldata.column = 0
        else:
            ldata.canon_column = ldata.column = 0
    elif c == 9:
        spaces = 8 - (ldata.column & 7)
        if oflag & TABDLY == XTABS:
            if space < spaces:
                return -1
            ldata.column += spaces
            tty.ops.write(tty, b" " * spaces)
            return spaces
        ldata.column += spaces
    elif c == 8:
        if ldata.column > 0:
            ldata.column -= 1
    elif not iscntrl(c):
        if oflag & OLCUC and (97 <= c <= 122 or 223 <= c != 247):
            c -= 32
        if not is_continuation(c, tty):
            ldata.column += 1
    tty_put_char(tty, c)
    return 1


@notrace
def process_output(c: int, tty: TtyStruct) -> int:
    """do_output_char() with the room there is; -1: none."""
    space = tty_write_room(tty)
    return -1 if do_output_char(c, tty, space) < 0 else 0


@notrace
def process_output_block(tty: TtyStruct, buf: memoryview) -> int:
    """Sends the bytes before the first that needs do_output_char(); answers how many."""
    space = tty_write_room(tty)
    if not space:
        return 0
    ldata = tty.disc_data
    oflag = tty.termios.c_oflag
    block = bytes(buf[:space])
    if oflag & (ONLCR | OLCUC | OCRNL | ONOCR | ONLRET | TABDLY) == ONLCR and block.count(b"\n") >= BULK_LINES:
        return _whole_lines(tty, block, space)
    i = 0
    end = len(block)
    upper = oflag & OLCUC
    while i < end:
        c = block[i]
        if c == 10:
            if oflag & ONLRET:
                ldata.column = 0
            if oflag & ONLCR:
                break
            ldata.canon_column = ldata.column
        elif c == 13:
            if (oflag & ONOCR and ldata.column == 0) or oflag & OCRNL:
                break
            ldata.canon_column = ldata.column = 0
        elif c == 9:
            break
        elif c == 8:
            if ldata.column > 0:
                ldata.column -= 1
        elif c >= 32 and c != 127:
            if upper:
                break
            run = _PLAIN.match(block, i)
            assert run is not None
            ldata.column += _columns(run[0], tty)
            i = run.end()
            continue
        i += 1
    return tty.ops.write(tty, block[:i] if i < end else block) if i else 0


@notrace
def _whole_lines(tty: TtyStruct, block: bytes, space: int) -> int:
    """As many whole lines of the block as there is room for, in one piece; answers bytes taken from the block."""
    size = block.rfind(b"\n") + 1
    lines = block.count(b"\n")
    while size + lines > space:
        size = block.rfind(b"\n", 0, size - 1) + 1
        lines -= 1
        if not lines:
            return 0
    out = block[:size].replace(b"\n", b"\r\n")
    sent = tty.ops.write(tty, out)
    tty.disc_data.canon_column = tty.disc_data.column = 0
    if sent == len(out):
        return size
    return sent - out.count(b"\n", 0, sent)          # a driver that takes less than its room


# ---- echo: what goes into the queue ---------------------------------------------------------------------------
def echo_char_raw(c: int, ldata: NTtyData) -> None:
    """Echoes the byte as it is."""
    if c == ECHO_OP_START:
        ldata.echo_buf.append(ECHO_OP_START)
    ldata.echo_buf.append(c)


def echo_char(c: int, tty: TtyStruct) -> None:
    """Echoes a typed byte, a control character as ^X if ECHOCTL is set."""
    echo = tty.disc_data.echo_buf
    if c == ECHO_OP_START:
        echo.append(ECHO_OP_START)
    elif (c < 32 or c == 127) and c != 9 and tty.termios.c_lflag & ECHOCTL:
        echo.append(ECHO_OP_START)
    echo.append(c)


@notrace
def echo_move_back_col(ldata: NTtyData) -> None:
    """The bytes of one character took more columns than it has."""
    ldata.echo_buf += b"\xff\x80"


@notrace
def echo_set_canon_col(ldata: NTtyData) -> None:
    """The line being typed begins in this column."""
    ldata.echo_buf += b"\xff\x81"


@notrace
def echo_erase_tab(num_chars: int, after_tab: bool, ldata: NTtyData) -> None:
    """Erases a tab that follows num_chars columns of input, counted from the last tab or the line's begin."""
    ldata.echo_buf += bytes((ECHO_OP_START, ECHO_OP_ERASE_TAB, num_chars & 7 | (0x80 if after_tab else 0)))


@notrace
def finish_erasing(ldata: NTtyData) -> None:
    """ECHOPRT: closes the list of erased characters."""
    if ldata.erasing:
        echo_char_raw(0x2F, ldata)
        ldata.erasing = False


# ---- echo: how it comes out -----------------------------------------------------------------------------------
def __process_echoes(tty: TtyStruct) -> int:
    """Sends committed echoes while there is room; answers how many bytes went."""
    ldata = tty.disc_data
    echo = ldata.echo_buf
    old_space = space = tty_write_room(tty)
    commit = ldata.echo_commit
    opost = tty.termios.c_oflag & OPOST
    bulk = not opost or not tty.termios.c_oflag & OLCUC
    tail = 0
    while tail < commit:
        c = echo[tail]
        if c == ECHO_OP_START:
            op = echo[tail + 1]
            if op == ECHO_OP_ERASE_TAB:
                num_chars = echo[tail + 2]
                if not num_chars & 0x80:
                    num_chars += ldata.canon_column      # no tab before it: count from the line's begin
                num_bs = 8 - (num_chars & 7)
                if num_bs > space:
                    break
                space -= num_bs
                for _ in range(num_bs):
                    tty_put_char(tty, 8)
                    if ldata.column > 0:
                        ldata.column -= 1
                tail += 3
            elif op == ECHO_OP_SET_CANON_COL:
                ldata.canon_column = ldata.column
                tail += 2
            elif op == ECHO_OP_MOVE_BACK_COL:
                if ldata.column > 0:
                    ldata.column -= 1
                tail += 2
            elif op == ECHO_OP_START:
                if not space:
                    break
                tty_put_char(tty, ECHO_OP_START)
                ldata.column += 1
                space -= 1
                tail += 2
            else:                                        # a control character
                if space < 2:
                    break
                tty_put_char(tty, 0x5E)
                tty_put_char(tty, op ^ 0o100)
                ldata.column += 2
                space -= 2
                tail += 2
        elif opost and (c < 32 or c == 127 or not bulk):
            used = do_output_char(c, tty, space)
            if used < 0:
                break
            space -= used
            tail += 1
        else:
            if space <= 0:
                break
            end = tail + 1
            if c >= 32 and bulk:
                run = _PLAIN.match(echo, tail, min(commit, tail + space))
                if run is not None:
                    end = run.end()
                    cut = echo.find(0xFF, tail, end)
                    if cut >= 0:
                        end = cut
            chars = bytes(echo[tail:end])
            if opost:
                ldata.column += _columns(chars, tty)
            tty.ops.write(tty, chars)
            space -= end - tail
            tail = end
    # The queue must not overrun before the next commit: drop the oldest echoes.
    while commit - tail >= ECHO_DISCARD_WATERMARK:
        if echo[tail] != ECHO_OP_START:
            tail += 1
        else:
            tail += 3 if echo[tail + 1] == ECHO_OP_ERASE_TAB else 2
    if tail:
        del echo[:tail]
        ldata.echo_commit = commit - tail
        ldata.echo_mark = max(ldata.echo_mark - tail, ldata.echo_commit)
    return old_space - space


def commit_echoes(tty: TtyStruct) -> None:
    """Everything echoed so far may go out; it does so at once if it is much."""
    ldata = tty.disc_data
    nr = len(ldata.echo_buf)
    ldata.echo_mark = nr
    if nr < ECHO_COMMIT_WATERMARK or nr % ECHO_BLOCK > ldata.echo_commit % ECHO_BLOCK:
        return
    ldata.echo_commit = nr
    if __process_echoes(tty) and tty.ops.flush_chars is not None:
        tty.ops.flush_chars(tty)


def process_echoes(tty: TtyStruct) -> None:
    """Sends what commit_echoes() marked."""
    ldata = tty.disc_data
    if not ldata.echo_mark:
        return
    ldata.echo_commit = ldata.echo_mark
    if __process_echoes(tty) and tty.ops.flush_chars is not None:
        tty.ops.flush_chars(tty)


@notrace
def flush_echoes(tty: TtyStruct) -> None:
    """Sends all echoes: the end of a block of input."""
    ldata = tty.disc_data
    if not tty.termios.c_lflag & (ECHO | ECHONL) or ldata.echo_commit == len(ldata.echo_buf):
        return
    ldata.echo_commit = len(ldata.echo_buf)
    __process_echoes(tty)
