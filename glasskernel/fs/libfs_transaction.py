"""Files that answer a question: one write asks, reads give the answer.

Linux: simple_transaction_get(), simple_transaction_read() ... of fs/libfs.c (5.3). Same: one question for each open
    of the file (EBUSY), at most a page less the header. Imported by file systems that have such files.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.libfs import simple_read_from_buffer
from glasskernel.lib.errno import EBUSY, EFBIG, KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.mm.iov_iter import IovIter

SIMPLE_TRANSACTION_LIMIT = 4096 - 8


def simple_transaction_get(file: File, source: IovIter) -> bytes:
    """The question. Raises EFBIG, EBUSY, EFAULT."""
    if source.count > SIMPLE_TRANSACTION_LIMIT - 1:
        raise KernelError(EFBIG)
    if file.private_data is not None:
        raise KernelError(EBUSY)
    file.private_data = b""
    return source.copy_from_iter(source.count)


def simple_transaction_set(file: File, answer: bytes) -> None:
    """What reads will give."""
    assert len(answer) <= SIMPLE_TRANSACTION_LIMIT
    file.private_data = answer


def simple_transaction_read(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): the answer, nothing where nobody has asked."""
    answer: bytes | None = iocb.ki_filp.private_data
    return simple_read_from_buffer(to, iocb, answer) if answer is not None else 0


def simple_transaction_release(inode: Inode, file: File) -> None:
    """->release()"""
    file.private_data = None
