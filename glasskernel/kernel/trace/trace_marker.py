"""Records that user space writes: trace_marker and trace_marker_raw.

Linux: kernel/trace/trace.c tracing_mark_write() (5.3). Same: a newline is added, long texts are cut, EBADF while
    tracing is off.
Differs: a file of its own, because its functions are symbols that records name; tracers do not see them.
Owns: nothing. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import FileOperations
from glasskernel.kernel.kallsyms import kallsyms_lookup_name
from glasskernel.kernel.trace.events.ftrace import TRACE_PRINT, TRACE_RAW_DATA
from glasskernel.kernel.trace.trace import TRACE_ITER_MARKERS, TraceArray, trace_buffer_write, tracing_update_buffers
from glasskernel.lib.errno import EBADF, EFAULT, EINVAL, KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import Kiocb
    from glasskernel.mm.iov_iter import IovIter

TRACE_MARK_MAX = 1024                            # TRACE_BUF_SIZE: longer markers are cut
RAW_DATA_MAX = 3072


def tracing_mark_write(iocb: Kiocb, source: IovIter) -> int:
    """A line of text from user space. Errors: EBADF (tracing is off), EINVAL (options/markers is off)."""
    tr: TraceArray = iocb.ki_filp.f_inode.i_private
    if tr.buffer.off:
        raise KernelError(EBADF)
    if not tr.trace_flags & TRACE_ITER_MARKERS:
        raise KernelError(EINVAL)
    wanted = min(source.count, TRACE_MARK_MAX)
    try:
        text = source.copy_from_iter(wanted)
    except KernelError as error:
        if error.errno != EFAULT:
            raise
        text = b"<faulted>"
    tracing_update_buffers(tr.state, tr)
    written = len(text)
    ip = kallsyms_lookup_name(tr.kernel, "tracing_mark_write")
    text += b"\0" if text.endswith(b"\n") else b"\n\0"
    if not trace_buffer_write(tr, TRACE_PRINT, ip.to_bytes(8, "little") + text):
        raise KernelError(EBADF)
    iocb.ki_pos += written
    return written


def tracing_mark_raw_write(iocb: Kiocb, source: IovIter) -> int:
    """Bytes from user space that begin with a number. Errors: EBADF, EINVAL (no number, too long)."""
    tr: TraceArray = iocb.ki_filp.f_inode.i_private
    if tr.buffer.off:
        raise KernelError(EBADF)
    if not tr.trace_flags & TRACE_ITER_MARKERS or not 4 <= source.count <= RAW_DATA_MAX:
        raise KernelError(EINVAL)
    data = source.copy_from_iter(source.count)
    tracing_update_buffers(tr.state, tr)
    if not trace_buffer_write(tr, TRACE_RAW_DATA, data + bytes(-len(data) % 4)):
        raise KernelError(EBADF)
    iocb.ki_pos += len(data)
    return len(data)


mark_fops = FileOperations(write_iter=tracing_mark_write)
mark_raw_fops = FileOperations(write_iter=tracing_mark_raw_write)
