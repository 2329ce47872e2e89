"""N_TTY: the line discipline that turns keys into lines, signals and echoes.

Linux: drivers/tty/n_tty.c (5.3): read, write, poll, ioctl, settings. What a typed byte does is in n_tty_input.py,
post-processing and echo in n_tty_output.py. Same: VMIN and VTIME, packet mode, job control, what is read when a read
is shorter than the line. Differs: termios_rwsem and output_lock are not needed, since nothing here is preempted
between two sleeps.
Owns: tty.disc_data (NTtyData).
Invariants: one read(2) and one write(2) at a time (atomic_read_lock, atomic_write_lock).
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.drivers.tty.n_tty_input import (
    _read_head,
    n_tty_check_unthrottle,
    n_tty_flush_buffer,
    n_tty_kick_worker,
    n_tty_packet_mode_flush,
    n_tty_receive_buf,
    n_tty_receive_buf2,
    read_cnt,
    reset_buffer_flags,
)
from glasskernel.drivers.tty.n_tty_output import (
    NTtyData,
    process_echoes,
    process_output,
    process_output_block,
)
from glasskernel.drivers.tty.tty_buffer import tty_buffer_flush_work
from glasskernel.drivers.tty.tty_flow import (
    start_tty,
    tty_chars_in_buffer,
    tty_hung_up_p,
    tty_unthrottle,
    tty_write_room,
)
from glasskernel.drivers.tty.tty_io import redirected_tty_write, tty_is_writelocked
from glasskernel.drivers.tty.tty_ioctl import n_tty_ioctl_helper
from glasskernel.drivers.tty.tty_jobctrl import __tty_check_change, tty_check_change
from glasskernel.drivers.tty.types import (
    BRKINT,
    DISABLED_CHAR,
    ECHO,
    EXTPROC,
    ICANON,
    ICRNL,
    IEXTEN,
    IGNBRK,
    IGNCR,
    IGNPAR,
    INLCR,
    INPCK,
    ISIG,
    ISTRIP,
    IUCLC,
    IXON,
    N_TTY,
    OPOST,
    PARMRK,
    TIOCINQ,
    TIOCOUTQ,
    TIOCPKT_DATA,
    TOSTOP,
    TTY_DO_WRITE_WAKEUP,
    TTY_DRIVER_REAL_RAW,
    TTY_HUPPING,
    TTY_OTHER_CLOSED,
    VEOF,
    VEOL,
    VEOL2,
    VERASE,
    VINTR,
    VKILL,
    VLNEXT,
    VMIN,
    VQUIT,
    VREPRINT,
    VSTART,
    VSTOP,
    VSUSP,
    VTIME,
    VWERASE,
    Ktermios,
    TtyLdiscOps,
    TtyStruct,
    tty_io_nonblock,
)
from glasskernel.fs.fcntl_signal import kill_fasync
from glasskernel.fs.types import O_NONBLOCK, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_lock_interruptible, mutex_trylock, mutex_unlock
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    add_wait_queue,
    remove_wait_queue,
    wait_woken,
    wake_up_interruptible,
    woken_wake_function,
)
from glasskernel.kernel.signal_types import POLL_OUT, SIGIO, SIGTTIN
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.kernel.time.types import HZ, MAX_SCHEDULE_TIMEOUT
from glasskernel.lib.errno import EAGAIN, EFAULT, EIO, KernelError, Restart
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.vmalloc import vfree, vzalloc

if TYPE_CHECKING:
    from glasskernel.fs.types import File, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

WAKEUP_CHARS: Final = 256                  # poll() says writable below this many unsent bytes


# ---- settings -------------------------------------------------------------------------------------------------
def n_tty_set_termios(tty: TtyStruct, old: Ktermios | None) -> None:
    """tty_ldisc_ops.set_termios: tty.termios has changed from `old` (None: at open)."""
    ldata = tty.disc_data
    termios = tty.termios
    iflag = termios.c_iflag
    lflag = termios.c_lflag
    if old is None or (old.c_lflag ^ lflag) & (ICANON | EXTPROC):
        ldata.read_flags.clear()
        head = _read_head(ldata)
        if not lflag & ICANON or not ldata.read_buf:
            ldata.canon_head = ldata.read_tail
        else:
            ldata.read_flags.append(head - 1)      # what is there counts as a line
            ldata.canon_head = head
        ldata.commit_head = head
        ldata.erasing = ldata.lnext = False
    ldata.icanon = bool(lflag & ICANON)
    if iflag & (ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | PARMRK) or lflag & (ICANON | ISIG | ECHO):
        cc = termios.c_cc
        special = set()
        if iflag & (IGNCR | ICRNL):
            special.add(13)
        if iflag & INLCR:
            special.add(10)
        if lflag & ICANON:
            special.update((cc[VERASE], cc[VKILL], cc[VEOF], 10, cc[VEOL]))
            if lflag & IEXTEN:
                special.update((cc[VWERASE], cc[VLNEXT], cc[VEOL2]))
                if lflag & ECHO:
                    special.add(cc[VREPRINT])
        if iflag & IXON:
            special.update((cc[VSTART], cc[VSTOP]))
        if lflag & ISIG:
            special.update((cc[VINTR], cc[VQUIT], cc[VSUSP]))
        special.discard(DISABLED_CHAR)
        ldata.char_map = bytes(c in special for c in range(256))
        ldata.plain = re.compile(b"[^%b]+" % b"".join(b"\\x%02x" % c for c in sorted(special)) if special
                                 else b"(?s:.+)")
        ldata.raw = ldata.real_raw = False
    else:
        ldata.raw = True
        ldata.real_raw = bool((iflag & IGNBRK or not iflag & (BRKINT | PARMRK))
                              and (iflag & IGNPAR or not iflag & INPCK)
                              and tty.driver.flags & TTY_DRIVER_REAL_RAW)
    if not iflag & IXON and old is not None and old.c_iflag & IXON and not tty.flow_stopped:
        start_tty(tty)                             # a ^S of before must not last for ever
        process_echoes(tty)
    wake_up_interruptible(tty.write_wait)
    wake_up_interruptible(tty.read_wait)


SIZEOF_N_TTY_DATA: Final = 8952


def n_tty_open(tty: TtyStruct) -> None:
    """tty_ldisc_ops.open"""
    tty.disc_data = NTtyData(vzalloc(current().kernel, SIZEOF_N_TTY_DATA))
    tty.closing = False
    n_tty_set_termios(tty, None)
    tty_unthrottle(tty)


def n_tty_close(tty: TtyStruct) -> None:
    """tty_ldisc_ops.close. The data stays for readers that are just leaving; the next open replaces it."""
    if tty.link is not None:
        n_tty_packet_mode_flush(tty)
    reset_buffer_flags(tty.disc_data)
    vfree(current().kernel, tty.disc_data.address)
    tty.disc_data.address = 0


# ---- read -----------------------------------------------------------------------------------------------------
@notrace
def input_available_p(tty: TtyStruct, poll: bool) -> bool:
    """True if a read(2) would find something; poll: VMIN counts, as poll(2) goes by it."""
    ldata = tty.disc_data
    termios = tty.termios
    if ldata.icanon and not termios.c_lflag & EXTPROC:
        return bool(ldata.canon_head != ldata.read_tail)
    amount = 1
    if poll and not termios.c_cc[VTIME] and termios.c_cc[VMIN]:
        amount = termios.c_cc[VMIN]
    return bool(ldata.commit_head - ldata.read_tail >= amount)


def copy_from_read_buf(tty: TtyStruct, to: IovIter) -> None:
    """Raw: all that is there and fits. Raises EFAULT."""
    ldata = tty.disc_data
    n = min(ldata.commit_head - ldata.read_tail, to.count)
    if n <= 0:
        return
    # EXTPROC: a single EOF character on its own line means end of file, and is taken away unread.
    eof = n == 1 and ldata.read_buf[0] == tty.termios.c_cc[VEOF]
    if tty.termios.c_lflag & EXTPROC and ldata.icanon and eof and len(ldata.read_buf) == 1:
        copied = 1
    else:
        copied = to.copy_to_iter(bytes(ldata.read_buf[:n]))
    _consume(ldata, copied)
    if tty.termios.c_lflag & EXTPROC and ldata.icanon and not ldata.read_buf:
        ldata.canon_head = ldata.read_tail
    if copied < n:
        raise KernelError(EFAULT)


@notrace
def _consume(ldata: NTtyData, n: int) -> None:
    del ldata.read_buf[:n]
    ldata.read_tail += n


def canon_copy_from_read_buf(tty: TtyStruct, to: IovIter) -> None:
    """Canonical: at most one line. An EOF character ends a line and is not part of it. Raises EFAULT."""
    ldata = tty.disc_data
    nr = to.count
    if not nr:
        return
    flags = ldata.read_flags
    n: int = ldata.canon_head - ldata.read_tail
    found = False
    eof = 0
    if flags:
        eol = flags[0] - ldata.read_tail
        if ldata.read_buf[eol] == DISABLED_CHAR:
            eof = 1
            n = eol
            found = n <= nr                        # a read that takes all before it takes it, too
        else:
            n = eol + 1
            found = n <= nr
    if n > nr:
        n = nr
    if n:
        copied = to.copy_to_iter(bytes(ldata.read_buf[:n]))
        if copied < n:
            _consume(ldata, copied)
            raise KernelError(EFAULT)
    if found:
        flags.popleft()
        n += eof
    _consume(ldata, n)


@notrace
def job_control(tty: TtyStruct, file: File) -> None:
    """A background process that reads gets SIGTTIN. Raises Restart, or EIO for who cannot be stopped."""
    if file.f_op.write_iter is redirected_tty_write:
        return                                     # never stop readers of /dev/console
    __tty_check_change(tty, SIGTTIN)


@may_sleep
def n_tty_read(tty: TtyStruct, file: File, to: IovIter) -> int:
    """tty_ldisc_ops.read: one line, or what VMIN and VTIME say.

    Errors: EAGAIN (O_NONBLOCK), EIO (other end of the pty closed; background), EFAULT; Restart on a signal.
    """
    job_control(tty, file)
    ldata = tty.disc_data
    if file.f_flags & O_NONBLOCK:
        if not mutex_trylock(ldata.atomic_read_lock):
            raise KernelError(EAGAIN)
    else:
        try:
            mutex_lock_interruptible(ldata.atomic_read_lock)
        except KernelError:
            raise Restart from None
    minimum = time = 0
    timeout = MAX_SCHEDULE_TIMEOUT
    if not ldata.icanon:
        cc = tty.termios.c_cc
        minimum = cc[VMIN]
        if minimum:
            time = HZ // 10 * cc[VTIME]
        else:
            timeout = HZ // 10 * cc[VTIME]
            minimum = 1
    packet = tty.packet
    link = tty.link
    tail = ldata.read_tail
    start = to.count
    wait = WaitQueueEntry(woken_wake_function)
    add_wait_queue(tty.read_wait, wait)
    try:
        while to.count:
            if packet and link is not None and link.ctrl_status:
                if to.count == start:
                    status, link.ctrl_status = link.ctrl_status, 0
                    to.copy_to_iter(bytes((status & 0xFF,)))
                break
            if not input_available_p(tty, False):
                tty_buffer_flush_work(tty.port)
                if not input_available_p(tty, False):
                    if tty.flags & TTY_OTHER_CLOSED:
                        raise KernelError(EIO)
                    if tty_hung_up_p(file) or tty.flags & TTY_HUPPING or not timeout:
                        break
                    if tty_io_nonblock(tty, file):
                        raise KernelError(EAGAIN)
                    if signal_pending(current()):
                        raise Restart
                    timeout = wait_woken(wait, TASK_INTERRUPTIBLE, timeout)    # DOC: tty-read-sleep
                    continue
            if ldata.icanon and not tty.termios.c_lflag & EXTPROC:
                canon_copy_from_read_buf(tty, to)
            else:
                if packet and to.count == start:
                    to.copy_to_iter(bytes((TIOCPKT_DATA,)))
                copy_from_read_buf(tty, to)
            n_tty_check_unthrottle(tty)
            if start - to.count >= minimum:
                break
            if time:
                timeout = time
    except KernelError:
        if to.count == start:
            raise
    finally:
        remove_wait_queue(tty.read_wait, wait)
        if tail != ldata.read_tail:
            n_tty_kick_worker(tty)
        mutex_unlock(ldata.atomic_read_lock)
    return start - to.count


# ---- write ----------------------------------------------------------------------------------------------------
@may_sleep
def n_tty_write(tty: TtyStruct, file: File | None, data: bytes) -> int:
    """tty_ldisc_ops.write: sends everything, or what goes before a signal, a hangup, or O_NONBLOCK's end.

    Errors: EIO (hung up; other end closed; background with TOSTOP and nobody to stop), EAGAIN; Restart.
    """
    if tty.termios.c_lflag & TOSTOP and not (file and file.f_op.write_iter is redirected_tty_write):
        tty_check_change(tty)
    process_echoes(tty)
    b = memoryview(data)
    wait = WaitQueueEntry(woken_wake_function)
    add_wait_queue(tty.write_wait, wait)
    try:
        while True:
            if signal_pending(current()):
                raise Restart
            if tty_hung_up_p(file) or (tty.link is not None and not tty.link.count):
                raise KernelError(EIO)
            if tty.termios.c_oflag & OPOST:
                while b:
                    num = process_output_block(tty, b)
                    b = b[num:]
                    if not b or process_output(b[0], tty) < 0:
                        break
                    b = b[1:]
                if tty.ops.flush_chars is not None:
                    tty.ops.flush_chars(tty)
            else:
                while b:
                    num = tty.ops.write(tty, bytes(b))
                    if not num:
                        break
                    b = b[num:]
            if not b:
                break
            if file is not None and tty_io_nonblock(tty, file):
                raise KernelError(EAGAIN)
            wait_woken(wait, TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT)         # DOC: tty-write-sleep
    except KernelError:
        if len(b) == len(data):
            raise
    finally:
        remove_wait_queue(tty.write_wait, wait)
        if b and tty.fasync:
            tty.flags |= TTY_DO_WRITE_WAKEUP
    return len(data) - len(b)


def n_tty_write_wakeup(tty: TtyStruct) -> None:
    """tty_ldisc_ops.write_wakeup: who could not write everything gets SIGIO."""
    tty.flags &= ~TTY_DO_WRITE_WAKEUP
    kill_fasync(tty.fasync, SIGIO, POLL_OUT)


# ---- poll, ioctl ----------------------------------------------------------------------------------------------
def n_tty_poll(tty: TtyStruct, file: File, wait: PollTable) -> int:
    """tty_ldisc_ops.poll"""
    if wait.queue is not None:
        wait.queue(file, tty.read_wait)
        wait.queue(file, tty.write_wait)
    mask = 0
    if input_available_p(tty, True):
        mask |= POLLIN | POLLRDNORM
    else:
        tty_buffer_flush_work(tty.port)
        if input_available_p(tty, True):
            mask |= POLLIN | POLLRDNORM
    if tty.packet and tty.link is not None and tty.link.ctrl_status:
        mask |= POLLPRI | POLLIN | POLLRDNORM
    if tty.flags & TTY_OTHER_CLOSED:
        mask |= POLLHUP
    if tty_hung_up_p(file):
        mask |= POLLHUP
    if not tty_is_writelocked(tty) and tty_chars_in_buffer(tty) < WAKEUP_CHARS and tty_write_room(tty) > 0:
        mask |= POLLOUT | POLLWRNORM
    return mask


@notrace
def inq_canon(ldata: NTtyData) -> int:
    """Bytes of complete lines, without the EOF characters."""
    if ldata.canon_head == ldata.read_tail:
        return 0
    eofs = 0
    for position in ldata.read_flags:
        if ldata.read_buf[position - ldata.read_tail] == DISABLED_CHAR:
            eofs += 1
    return ldata.canon_head - ldata.read_tail - eofs


def n_tty_ioctl(tty: TtyStruct, file: File, cmd: int, arg: int) -> int:
    """tty_ldisc_ops.ioctl: TIOCOUTQ, FIONREAD and what all disciplines share."""
    if cmd == TIOCOUTQ:
        put_user_u32(arg, tty_chars_in_buffer(tty))
        return 0
    if cmd == TIOCINQ:
        lflag = tty.termios.c_lflag
        canonical = lflag & ICANON and not lflag & EXTPROC
        put_user_u32(arg, inq_canon(tty.disc_data) if canonical else read_cnt(tty.disc_data))
        return 0
    return n_tty_ioctl_helper(tty, file, cmd, arg)


n_tty_ops = TtyLdiscOps(
    num=N_TTY, name=b"n_tty", open=n_tty_open, close=n_tty_close, flush_buffer=n_tty_flush_buffer, read=n_tty_read,
    write=n_tty_write, ioctl=n_tty_ioctl, set_termios=n_tty_set_termios, poll=n_tty_poll,
    receive_buf=n_tty_receive_buf, receive_buf2=n_tty_receive_buf2, write_wakeup=n_tty_write_wakeup)


def n_tty_init(kernel: Kernel) -> None:
    """Registers the discipline."""
    kernel.tty.ldiscs[N_TTY] = n_tty_ops
