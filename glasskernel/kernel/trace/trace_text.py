"""Files of tracefs that are one short text.

Linux has one set of functions for each of them in kernel/trace/trace.c; here they differ in what they show and
    store.
Owns: nothing. Context: task.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.libfs import simple_read_from_buffer
from glasskernel.fs.types import FMODE_WRITE, O_TRUNC, FileOperations
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.mm.iov_iter import IovIter


@notrace
def text_file(show: Callable[[Any], str] | None = None, store: Callable[[Any, bytes], None] | None = None,
              truncate: Callable[[Any], None] | None = None) -> FileOperations:
    """The text is show(i_private), made at position 0; store(i_private, data) takes all of one write.

    truncate(i_private): the file is opened for writing with O_TRUNC.
    """

    @notrace
    def open_text(inode: Inode, file: File) -> None:
        if truncate is not None and file.f_mode & FMODE_WRITE and file.f_flags & O_TRUNC:
            truncate(inode.i_private)

    @notrace
    def read_text(iocb: Kiocb, to: IovIter) -> int:
        assert show is not None
        file = iocb.ki_filp
        if iocb.ki_pos == 0 or file.private_data is None:
            file.private_data = show(file.f_inode.i_private).encode("latin-1")
        return simple_read_from_buffer(to, iocb, file.private_data)

    @notrace
    def write_text(iocb: Kiocb, source: IovIter) -> int:
        assert store is not None
        data = source.copy_from_iter(source.count)
        store(iocb.ki_filp.f_inode.i_private, data.partition(b"\0")[0])         # Linux reads it as a C string
        iocb.ki_pos += len(data)
        return len(data)

    operations: dict[str, Any] = {"open": open_text}
    if show is not None:
        operations["read_iter"] = read_text
    if store is not None:
        operations["write_iter"] = write_text
    return FileOperations(**operations)
