"""printk: the kernel's log, syslog(2), /dev/kmsg and /proc/kmsg.

Linux: kernel/printk/printk.c (5.3). Same: records with a sequence number, level and time; the oldest go
    when the buffer of log_buf_len bytes is full; console_loglevel; syslog(2)'s actions; the format of
    /dev/kmsg with its escapes. Differs: records are objects; every printk() is one record (no KERN_CONT).
Owns: Kernel.log. Invariants: records are in the order of their numbers without gaps; size is the sum of
    what the records would take in Linux's ring.
Gaps: no rate limit of /dev/kmsg writers.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.kernel.capability import CAP_SYS_ADMIN, CAP_SYSLOG, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible, wake_up_interruptible
from glasskernel.lib.errno import EAGAIN, EINVAL, EPERM, EPIPE, ESPIPE, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

(SYSLOG_ACTION_CLOSE, SYSLOG_ACTION_OPEN, SYSLOG_ACTION_READ, SYSLOG_ACTION_READ_ALL, SYSLOG_ACTION_READ_CLEAR,
 SYSLOG_ACTION_CLEAR, SYSLOG_ACTION_CONSOLE_OFF, SYSLOG_ACTION_CONSOLE_ON, SYSLOG_ACTION_CONSOLE_LEVEL,
 SYSLOG_ACTION_SIZE_UNREAD, SYSLOG_ACTION_SIZE_BUFFER) = range(11)
LOGLEVEL_DEFAULT = 4
_RECORD_OVERHEAD = 16                     # struct printk_log
_POLLIN, _POLLRDNORM, _POLLERR, _POLLPRI = 0x1, 0x40, 0x8, 0x2


@slotted(frozen=True)
class PrintkLog:
    """struct printk_log and its text. level: facility << 3 | severity. ts_nsec: since boot."""

    seq: int
    ts_nsec: int
    level: int
    text: bytes
    dict_: bytes = b""


@slotted
class LogState:
    """Kernel.log. sinks: called with each record that the console shows; the machine's owner adds them."""

    records: deque[PrintkLog] = field(default_factory=deque)
    size: int = 0
    log_buf_len: int = 1 << 18
    next_seq: int = 0
    clear_seq: int = 0
    syslog_seq: int = 0                   # next record for syslog(READ) and /proc/kmsg
    syslog_partial: int = 0               # bytes of it that were read already
    console_loglevel: int = 7
    default_message_loglevel: int = LOGLEVEL_DEFAULT
    minimum_console_loglevel: int = 1
    default_console_loglevel: int = 7
    saved_console_loglevel: int = -1
    dmesg_restrict: int = 0
    printk_ratelimit: int = 5
    printk_ratelimit_burst: int = 10
    log_wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    sinks: list[Callable[[PrintkLog], None]] = field(default_factory=list)


@notrace
def log_init(kernel: Kernel) -> None:
    """setup_log_buf(): before everything that prints."""
    kernel.log = LogState()


# ---- storing -------------------------------------------------------------------------------------
def printk(kernel: Kernel, text: str | bytes, level: int = 6) -> None:
    """Logs a message; every line of it is a record. level: 0 emergency ... 7 debug. Context: any."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape")
    for line in text.rstrip(b"\n").split(b"\n"):
        vprintk_emit(kernel, level, line)


def vprintk_emit(kernel: Kernel, level: int, text: bytes, dict_: bytes = b"") -> None:
    """One record. level may hold a facility (level >> 3)."""
    vprintk_store(kernel, level, text, dict_)
    log: LogState = kernel.log
    if log.sinks and level & 7 < log.console_loglevel:
        console_unlock(kernel, log.records[-1])
    wake_up_klogd(kernel)


def vprintk_store(kernel: Kernel, level: int, text: bytes, dict_: bytes) -> None:
    """Into the ring, at most a line's length."""
    log_store(kernel, level, text[:992], dict_)


def console_unlock(kernel: Kernel, record: PrintkLog) -> None:
    """What was logged goes to the consoles."""
    log: LogState = kernel.log
    probe = kernel.tp.console
    if probe is not None:
        probe(msg_print_text(record, False))
    for sink in log.sinks:
        sink(record)


def log_store(kernel: Kernel, level: int, text: bytes, dict_: bytes) -> None:
    """Appends a record and drops the oldest ones that do not fit any more."""
    log: LogState = kernel.log
    record = PrintkLog(log.next_seq, kernel.machine.now(), level, text, dict_)
    log.next_seq += 1
    log.records.append(record)
    log.size += _record_size(record)
    while log.size > log.log_buf_len:
        log.size -= _record_size(log.records.popleft())


@notrace
def _record_size(record: PrintkLog) -> int:
    return (_RECORD_OVERHEAD + len(record.text) + len(record.dict_) + 3) & ~3


def wake_up_klogd(kernel: Kernel) -> None:
    """Readers of /proc/kmsg and /dev/kmsg wait for this."""
    log_wait = kernel.log.log_wait
    if log_wait.entries:
        wake_up_interruptible(log_wait)


# ---- text ----------------------------------------------------------------------------------------
@notrace
def print_time(ts_nsec: int) -> bytes:
    """b"[    1.234567] " """
    return b"[%5d.%06d] " % (ts_nsec // 1_000_000_000, ts_nsec % 1_000_000_000 // 1000)


def msg_print_text(record: PrintkLog, syslog: bool, time: bool = True) -> bytes:
    """The record as a line; with syslog its level in front: b"<6>[    0.000000] text\\n"."""
    prefix = b"<%d>" % record.level if syslog else b""
    if time:
        prefix += print_time(record.ts_nsec)
    return prefix + record.text + b"\n"


@notrace
def msg_print_ext(record: PrintkLog) -> bytes:
    """The record as /dev/kmsg has it: b"6,339,5140900,-;text\\n", bytes that do not print as \\xNN."""
    parts = [b"%d,%d,%d,-;" % (record.level, record.seq, record.ts_nsec // 1000), _escape(record.text), b"\n"]
    if record.dict_:
        parts += [b" %b\n" % _escape(line) for line in record.dict_.split(b"\0")]
    return b"".join(parts)


@notrace
def _escape(text: bytes) -> bytes:
    if all(32 <= c < 127 and c != 92 for c in text):
        return text
    return b"".join(bytes((c,)) if 32 <= c < 127 and c != 92 else b"\\x%02x" % c for c in text)


@notrace
def _record(log: LogState, seq: int) -> PrintkLog:
    """The record `seq`, which exists."""
    return log.records[seq - log.records[0].seq]


@notrace
def _first_seq(log: LogState) -> int:
    return log.records[0].seq if log.records else log.next_seq


# ---- syslog(2) -----------------------------------------------------------------------------------
def check_syslog_permissions(kernel: Kernel, type_: int, from_proc: bool) -> None:
    """Errors: EPERM for everything but READ_ALL and SIZE_BUFFER without CAP_SYSLOG (or CAP_SYS_ADMIN); EACCES."""
    everybody = from_proc and type_ != SYSLOG_ACTION_OPEN
    if not kernel.log.dmesg_restrict and type_ in (SYSLOG_ACTION_READ_ALL, SYSLOG_ACTION_SIZE_BUFFER):
        everybody = True
    if not everybody and not (capable(CAP_SYSLOG) or capable(CAP_SYS_ADMIN)):
        raise KernelError(EPERM)
    if kernel.lsm is not None:
        kernel.lsm.security_syslog(type_)


@may_sleep
def syslog_print(kernel: Kernel, size: int) -> bytes:
    """Takes up to `size` bytes of what was not read yet."""
    log: LogState = kernel.log
    parts: list[bytes] = []
    while size > 0:
        if log.syslog_seq < _first_seq(log):
            log.syslog_seq = _first_seq(log)
            log.syslog_partial = 0
        if log.syslog_seq == log.next_seq:
            break
        text = msg_print_text(_record(log, log.syslog_seq), True)[log.syslog_partial :]
        if len(text) <= size:
            log.syslog_seq += 1
            log.syslog_partial = 0
        elif not parts:
            text = text[:size]
            log.syslog_partial += size
        else:
            break
        parts.append(text)
        size -= len(text)
    return b"".join(parts)


def syslog_print_all(kernel: Kernel, size: int) -> bytes:
    """The last records since the last clear, as many as fit whole."""
    log: LogState = kernel.log
    parts: list[bytes] = []
    for record in reversed(log.records):
        if record.seq < log.clear_seq:
            break
        text = msg_print_text(record, True)
        if len(text) > size:
            break
        parts.append(text)
        size -= len(text)
    return b"".join(reversed(parts))


@may_sleep
def do_syslog(type_: int, buf: int, length: int, from_proc: bool) -> int:
    """syslog(2). Errors: EPERM, EINVAL, EFAULT; a signal while it waits."""
    kernel = current().kernel
    log: LogState = kernel.log
    check_syslog_permissions(kernel, type_, from_proc)
    if type_ in (SYSLOG_ACTION_CLOSE, SYSLOG_ACTION_OPEN):
        return 0
    if type_ == SYSLOG_ACTION_READ:
        if not buf or length < 0:
            raise KernelError(EINVAL)
        if not length:
            return 0
        wait_event_interruptible(log.log_wait, lambda: log.syslog_seq != log.next_seq)
        data = syslog_print(kernel, length)
        copy_to_user(buf, data)
        return len(data)
    if type_ in (SYSLOG_ACTION_READ_ALL, SYSLOG_ACTION_READ_CLEAR):
        if not buf or length < 0:
            raise KernelError(EINVAL)
        data = syslog_print_all(kernel, length)
        copy_to_user(buf, data)
        if type_ == SYSLOG_ACTION_READ_CLEAR:
            log.clear_seq = log.next_seq
        return len(data)
    if type_ == SYSLOG_ACTION_CLEAR:
        log.clear_seq = log.next_seq
    elif type_ == SYSLOG_ACTION_CONSOLE_OFF:
        if log.saved_console_loglevel < 0:
            log.saved_console_loglevel = log.console_loglevel
        log.console_loglevel = log.minimum_console_loglevel
    elif type_ == SYSLOG_ACTION_CONSOLE_ON:
        if log.saved_console_loglevel >= 0:
            log.console_loglevel = log.saved_console_loglevel
            log.saved_console_loglevel = -1
    elif type_ == SYSLOG_ACTION_CONSOLE_LEVEL:
        if not 1 <= length <= 8:
            raise KernelError(EINVAL)
        log.console_loglevel = max(length, log.minimum_console_loglevel)
        log.saved_console_loglevel = -1
    elif type_ == SYSLOG_ACTION_SIZE_UNREAD:
        seq = max(log.syslog_seq, _first_seq(log))
        if from_proc:
            return log.next_seq - seq
        return sum(len(msg_print_text(r, True)) for r in log.records if r.seq >= seq) - log.syslog_partial
    elif type_ == SYSLOG_ACTION_SIZE_BUFFER:
        return log.log_buf_len
    else:
        raise KernelError(EINVAL)
    return 0


@syscall
def sys_syslog(type: int, buf: UserPtr, len: int) -> int:
    return do_syslog(type, buf, len, False)


# ---- /dev/kmsg -----------------------------------------------------------------------------------
def devkmsg_open(inode: Inode, file: File) -> None:
    """Reading begins with the oldest record. Errors: EPERM (dmesg_restrict)."""
    if file.f_flags & 3 != 1:
        check_syslog_permissions(inode.i_sb.kernel, SYSLOG_ACTION_READ_ALL, False)
    file.private_data = [_first_seq(inode.i_sb.kernel.log)]


@may_sleep
def devkmsg_read(iocb: Kiocb, to: IovIter) -> int:
    """One record a read. Errors: EAGAIN, EPIPE once when records were lost, EINVAL if it does not fit."""
    file = iocb.ki_filp
    kernel = current().kernel
    log: LogState = kernel.log
    cursor = file.private_data
    if cursor[0] == log.next_seq:
        if file.f_flags & 0o4000:
            raise KernelError(EAGAIN)
        wait_event_interruptible(log.log_wait, lambda: cursor[0] != log.next_seq)
    if cursor[0] < _first_seq(log):
        cursor[0] = _first_seq(log)
        raise KernelError(EPIPE)
    text = msg_print_ext(_record(log, cursor[0]))
    cursor[0] += 1
    if len(text) > to.count:
        raise KernelError(EINVAL)
    to.copy_to_iter(text)
    return len(text)


def devkmsg_write(iocb: Kiocb, source: IovIter) -> int:
    """A line becomes a record; "<N>" in front of it sets the level; the facility is user's (1) unless given.

    Errors: EINVAL for more than 992 bytes.
    """
    size = source.count
    if size > 992:
        raise KernelError(EINVAL)
    line = source.copy_from_iter(size)
    level = 1 << 3 | current().kernel.log.default_message_loglevel
    text = line
    if line[:1] == b"<":
        end = line.find(b">")
        if end > 1 and line[1:end].isdigit():
            number = int(line[1:end]) & 0xFFFFFFFF
            level = (number >> 3 or 1) << 3 | number & 7
            text = line[end + 1 :]
    if text.endswith(b"\n"):
        text = text[:-1]
    devkmsg_emit(level, text)
    return len(line)


def devkmsg_emit(level: int, text: bytes) -> None:
    """A record from user space."""
    vprintk_emit(current().kernel, level, text)


def devkmsg_llseek(file: File, offset: int, whence: int) -> int:
    """SEEK_SET: oldest, SEEK_DATA: after the last clear, SEEK_END: behind the newest. Errors: ESPIPE, EINVAL."""
    log: LogState = current().kernel.log
    if offset:
        raise KernelError(ESPIPE)
    if whence == 0:
        file.private_data[0] = _first_seq(log)
    elif whence == 3:
        file.private_data[0] = max(log.clear_seq, _first_seq(log))
    elif whence == 2:
        file.private_data[0] = log.next_seq
    else:
        raise KernelError(EINVAL)
    return 0


def devkmsg_poll(file: File, table: PollTable) -> int:
    log: LogState = current().kernel.log
    if table.queue is not None:
        table.queue(file, log.log_wait)
    seq = file.private_data[0]
    if seq >= log.next_seq:
        return 0
    return _POLLIN | _POLLRDNORM | (_POLLERR | _POLLPRI if seq < _first_seq(log) else 0)


def devkmsg_release(inode: Inode, file: File) -> None:
    file.private_data = None


@notrace
def dmesg(kernel: Kernel) -> str:
    """The whole log as dmesg(1) prints it: for people at the Python prompt."""
    records: Any = kernel.log.records
    return b"".join(msg_print_text(r, False) for r in records).decode("utf-8", "replace")
