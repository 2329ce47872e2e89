"""Files that are made of records as they are read: most of /proc and /sys.

Linux: fs/seq_file.c (5.3). Same: a buffer of one page that doubles until a record fits, as many whole
    records in one read as fit into it, reads of any size give the same text, positions that seek by
    showing again.
Differs: start() and next() take the position from m.index instead of a pointer to it.
Owns: nothing. Invariants: m.buf[m.from_:] are the bytes that were made and not yet read; m.read_pos is the
    file position behind the last read.
Context of all operations: task; between start() and stop() the owner's lock may be held, so show() must
    not sleep unless the owner says so.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.d_path import d_path
from glasskernel.fs.types import FMODE_PWRITE, FileOperations
from glasskernel.lib.errno import EFAULT, EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb, Path
    from glasskernel.mm.iov_iter import IovIter

SEQ_SKIP = 1
SEQ_START_TOKEN = object()          # start() answers it where the first record is a header
SEEK_SET, SEEK_CUR = 0, 1
_MAX_LFS_FILESIZE = (1 << 63) - 1


@notrace
def _no_stop(_m: SeqFile, _v: Any) -> None:
    return None


@slotted(frozen=True)
class SeqOperations:
    """struct seq_operations.

    start(m): the record at m.index, or None at the end. next(m, v): moves m.index on and answers that record.
    show(m, v): appends its text; answers None, or SEQ_SKIP to leave it out. stop(m, v).
    """

    start: Callable[[SeqFile], Any]
    next: Callable[[SeqFile, Any], Any]
    show: Callable[[SeqFile, Any], int | None]
    stop: Callable[[SeqFile, Any], None] = _no_stop


@slotted
class SeqFile:
    """struct seq_file: file.private_data. private: the owner's."""

    op: SeqOperations
    file: File
    buf: bytearray = field(default_factory=bytearray)
    size: int = 0                    # of the buffer Linux would have; 0 before the first read
    from_: int = 0
    index: int = 0                   # number of the record that comes next
    read_pos: int = 0
    private: Any = None


# ---- opening -------------------------------------------------------------------------------------
def seq_open(file: File, op: SeqOperations) -> SeqFile:
    """Makes the file a seq_file. Positioned writes are not for it; reads are."""
    m = file.private_data = SeqFile(op, file)
    file.f_mode &= ~FMODE_PWRITE
    return m


def seq_release(inode: Inode, file: File) -> None:
    """For the release entry of a file opened with seq_open()."""
    file.private_data = None


def single_start(m: SeqFile) -> Any:
    return SEQ_START_TOKEN if m.index == 0 else None


def single_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return None


def single_open(file: File, show: Callable[[SeqFile, Any], int | None], data: Any) -> SeqFile:
    """A file that is one record: show(m, token), with data in m.private."""
    m = seq_open(file, SeqOperations(single_start, single_next, show))
    m.private = data
    return m


def single_open_size(file: File, show: Callable[[SeqFile, Any], int | None], data: Any, size: int) -> SeqFile:
    """The same with a first buffer of `size` bytes, where one page is known to be too small."""
    m = single_open(file, show, data)
    m.size = size
    return m


def single_release(inode: Inode, file: File) -> None:
    file.private_data = None


# ---- reading -------------------------------------------------------------------------------------
@notrace
def seq_has_overflowed(m: SeqFile) -> bool:
    return len(m.buf) >= m.size


@may_sleep
def seq_read(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter of every seq_file. Errors: what start() and show() raise before the first byte, EFAULT."""
    m: SeqFile = iocb.ki_filp.private_data
    if iocb.ki_pos == 0:
        m.index = 0
        m.buf.clear()
        m.from_ = 0
    if iocb.ki_pos != m.read_pos:
        traverse(m, iocb.ki_pos)
    if not m.size:
        m.size = 4096
    copied = 0
    buf = m.buf
    if len(buf) > m.from_:                                   # left over from the last read
        copied = to.copy_to_iter(memoryview(buf)[m.from_ : m.from_ + to.count])
        m.from_ += copied
        if not to.count or m.from_ < len(buf):
            iocb.ki_pos += copied
            m.read_pos = iocb.ki_pos
            return copied
    op = m.op
    show = op.show
    m.buf = buf = bytearray()
    m.from_ = 0
    v = None
    try:
        v = op.start(m)
        while v is not None:
            if show(m, v):
                buf.clear()
            if not buf:                                      # an empty record
                v = op.next(m, v)
                continue
            if len(buf) < m.size:
                break
            op.stop(m, v)                                    # does not fit: a bigger buffer, and again
            m.size <<= 1
            buf.clear()
            v = op.start(m)
        while v is not None:                                 # more whole records, as far as they fit
            offs = len(buf)
            v = op.next(m, v)
            if v is None or offs >= to.count:
                break
            skip = show(m, v)
            if skip or len(buf) >= m.size:
                del buf[offs:]
                if not skip:
                    break
    except KernelError:
        buf.clear()
        op.stop(m, v)
        if not copied:
            raise
        iocb.ki_pos += copied
        m.read_pos = iocb.ki_pos
        return copied
    op.stop(m, v)
    if buf and to.count:
        try:
            done = to.copy_to_iter(memoryview(buf)[: to.count])
        except KernelError:
            if not copied:
                raise KernelError(EFAULT) from None
            done = 0
        m.from_ = done
        copied += done
    iocb.ki_pos += copied
    m.read_pos = iocb.ki_pos
    return copied


def traverse(m: SeqFile, offset: int) -> None:
    """Shows from the start until `offset` bytes have gone by; the rest of that record waits in the buffer."""
    m.index = 0
    m.buf = buf = bytearray()
    m.from_ = 0
    m.read_pos = offset
    if not offset:
        return
    if not m.size:
        m.size = 4096
    op = m.op
    pos = 0
    v = op.start(m)
    while v is not None:
        if op.show(m, v):
            buf.clear()
        if len(buf) >= m.size:
            op.stop(m, v)
            m.size <<= 1
            buf.clear()
            m.index = 0
            pos = 0
            v = op.start(m)
            continue
        if pos + len(buf) > offset:
            m.from_ = offset - pos
            m.index += 1
            break
        pos += len(buf)
        buf.clear()
        v = op.next(m, v)
        if pos == offset:
            break
    op.stop(m, v)


def seq_lseek(file: File, offset: int, whence: int) -> int:
    """lseek(2): SEEK_SET and SEEK_CUR. Errors: EINVAL."""
    m: SeqFile = file.private_data
    if whence == SEEK_CUR:
        offset += file.f_pos
    elif whence != SEEK_SET:
        raise KernelError(EINVAL)
    if not 0 <= offset <= _MAX_LFS_FILESIZE:
        raise KernelError(EINVAL)
    if offset != m.read_pos:
        traverse(m, offset)
    file.f_pos = offset
    return offset


# ---- writing text --------------------------------------------------------------------------------
def seq_printf(m: SeqFile, fmt: bytes, *args: object) -> None:
    """Appends fmt % args."""
    m.buf += fmt % args


def seq_putc(m: SeqFile, c: bytes) -> None:
    m.buf += c


def seq_puts(m: SeqFile, s: bytes) -> None:
    m.buf += s


def seq_write(m: SeqFile, data: bytes) -> None:
    m.buf += data


def seq_put_decimal_ull(m: SeqFile, delimiter: bytes, num: int) -> None:
    """delimiter and an unsigned number."""
    seq_put_decimal_ull_width(m, delimiter, num, 0)


def seq_put_decimal_ll(m: SeqFile, delimiter: bytes, num: int) -> None:
    m.buf += b"%b%d" % (delimiter, num)


def seq_put_decimal_ull_width(m: SeqFile, delimiter: bytes, num: int, width: int) -> None:
    m.buf += b"%b%*d" % (delimiter, width, num)


def seq_put_hex_ll(m: SeqFile, delimiter: bytes, v: int, width: int) -> None:
    """delimiter and a number in hexadecimal with at least `width` digits."""
    m.buf += b"%b%0*x" % (delimiter, width, v)


def seq_pad(m: SeqFile, c: bytes, since: int, width: int) -> None:
    """Spaces up to `width` columns after position `since` of the buffer, then c."""
    missing = since + width - len(m.buf)
    if missing > 0:
        m.buf += b" " * missing
    m.buf += c


def mangle_path(s: bytes, esc: bytes) -> bytes:
    r"""s with every byte of esc, and the backslash if it is in esc, as \ooo."""
    if not any(c in esc for c in s):
        return s
    return b"".join(b"\\%03o" % c if c in esc else bytes((c,)) for c in s)


def seq_escape(m: SeqFile, s: bytes, esc: bytes) -> None:
    """s, with the bytes of esc in octal."""
    m.buf += mangle_path(s, esc)


def seq_path(m: SeqFile, path: Path, esc: bytes) -> None:
    """A path as the reader sees it, escaped."""
    m.buf += mangle_path(d_path(path), esc)


def seq_file_path(m: SeqFile, file: File, esc: bytes) -> None:
    """The path of an open file."""
    seq_path(m, file.f_path, esc)


seq_fops = FileOperations(llseek=seq_lseek, read_iter=seq_read, release=seq_release)
