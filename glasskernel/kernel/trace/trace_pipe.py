"""Reading a trace: the files trace, trace_pipe, trace_pipe_raw, snapshot.

Linux: kernel/trace/trace.c, ring_buffer_wait() of ring_buffer.c (5.3). Same: `trace` shows without taking and stops
    recording while it is open; trace_pipe takes, waits, and ends when tracing was switched off after it had read
    something; trace_pipe_raw gives pages in the binary format to read(2) and splice(2).
Owns: the iterators of open files. Context: task; trace_pipe and trace_pipe_raw sleep.
Invariants: a reader that waits has set buffer.waiters_pending.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.pipe import PipeBuffer, pipe_lock, pipe_unlock
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_lseek, seq_open, seq_read, seq_release
from glasskernel.fs.types import FMODE_READ, FMODE_WRITE, O_NONBLOCK, O_TRUNC, POLLIN, POLLRDNORM, FileOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import schedule, signal_pending
from glasskernel.kernel.sched.wait import WaitQueueEntry, finish_wait, prepare_to_wait, wake_up_interruptible_sync_poll
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.kernel.trace.ring_buffer import (
    PAGE_SIZE,
    RING_BUFFER_ALL_CPUS,
    RingBuffer,
    ring_buffer_empty,
    ring_buffer_empty_cpu,
    ring_buffer_nr_dirty_pages,
    ring_buffer_read_page,
)
from glasskernel.kernel.trace.trace import (
    TRACE_ITER_BLOCK,
    TRACE_ITER_LATENCY_FMT,
    TraceArray,
    TraceIterator,
    free_snapshot,
    tracing_alloc_snapshot_instance,
    tracing_reset_cpu,
    tracing_reset_online_cpus,
    tracing_snapshot_instance,
    tracing_start_tr,
    tracing_stop_tr,
)
from glasskernel.kernel.trace.trace_iter import (
    trace_consume,
    trace_empty,
    trace_find_next_entry_inc,
    trace_iterator,
    tracing_iter_reset,
    tracing_iter_start,
)
from glasskernel.kernel.trace.trace_output import print_trace_line, trace_default_header
from glasskernel.lib.errno import EAGAIN, EBUSY, EINTR, EINVAL, ERANGE, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.pipe import Pipe
    from glasskernel.fs.types import File, Inode, Kiocb, PollTable
    from glasskernel.mm.iov_iter import IovIter

SNAPSHOT_HELP = """# Snapshot commands:
# echo 0 > snapshot : Clears and frees snapshot buffer
# echo 1 > snapshot : Allocates snapshot buffer, if not already allocated.
#                      Takes a snapshot of the main buffer.
# echo 2 > snapshot : Clears snapshot buffer (but does not allocate or free)
#                      (Doesn't have to be '2' works with any number that
#                       is not a '0' or '1')
"""
SNAPSHOT_CPU_HELP = """# Snapshot commands:
# echo 0 > snapshot : Clears and frees snapshot buffer
# echo 1 > snapshot : Not supported with this kernel.
#                     Must use main snapshot file to allocate.
# echo 2 > snapshot : Clears this cpu's snapshot buffer (but does not allocate)
#                      (Doesn't have to be '2' works with any number that
#                       is not a '0' or '1')
"""


@slotted
class TraceFile:
    """What i_private of these files says: whose, and which CPU (-1: all)."""

    tr: TraceArray
    cpu: int = RING_BUFFER_ALL_CPUS


# ---- trace -------------------------------------------------------------------------------------------------------
def s_start(m: SeqFile) -> Any:
    """The record at m.index; 0 is the header. Going back means starting again."""
    iterator: TraceIterator = m.private
    index = m.index
    if index == 0 or index != iterator.pos:
        iterator.ent, iterator.idx, iterator.started = None, 0, 0
        for cpu in range(iterator.buffer.cpus):
            tracing_iter_reset(iterator, cpu)
        iterator.pos = 0
        while iterator.pos < index:
            iterator.pos += 1
            if trace_find_next_entry_inc(iterator) is None:
                return None
        return iterator
    return iterator if iterator.ent is not None else None


def s_next(m: SeqFile, _v: Any) -> Any:
    iterator: TraceIterator = m.private
    m.index += 1
    iterator.pos = m.index
    return trace_find_next_entry_inc(iterator)


def s_show(m: SeqFile, _v: Any) -> int | None:
    iterator: TraceIterator = m.private
    m.buf += (_header(iterator) if iterator.ent is None else print_trace_line(iterator)).encode("latin-1")
    return None


@notrace
def _header(iterator: TraceIterator) -> str:
    text = f"# tracer: {iterator.trace.name}\n#\n"
    if iterator.snapshot and trace_empty(iterator):
        allocated = "allocated" if iterator.tr.allocated_snapshot else "freed"
        shown = SNAPSHOT_HELP if iterator.cpu_file == RING_BUFFER_ALL_CPUS else SNAPSHOT_CPU_HELP
        return f"{text}#\n# * Snapshot is {allocated} *\n#\n{shown}"
    print_header = iterator.trace.print_header
    return text + (print_header(iterator) if print_header is not None else trace_default_header(iterator))


tracer_seq_ops = SeqOperations(s_start, s_next, s_show)


@notrace
def _open_trace(inode: Inode, file: File, snapshot: bool) -> None:
    """__tracing_open()"""
    where: TraceFile = inode.i_private
    tr = where.tr
    iterator = trace_iterator(tr, where.cpu, snapshot)
    m = seq_open(file, tracer_seq_ops)
    m.private = iterator
    iterator.trace.open(iterator)
    if not snapshot:
        tracing_stop_tr(tr)
    tracing_iter_start(iterator)


def tracing_open(inode: Inode, file: File) -> None:
    """`trace`: opening it with O_TRUNC empties the buffer."""
    where: TraceFile = inode.i_private
    tr = where.tr
    if file.f_mode & FMODE_WRITE and file.f_flags & O_TRUNC:
        buffer = tr.max_buffer if tr.current_trace.print_max else tr.buffer
        if where.cpu == RING_BUFFER_ALL_CPUS:
            tracing_reset_online_cpus(tr, buffer)
        else:
            tracing_reset_cpu(tr, buffer, where.cpu)
    if file.f_mode & FMODE_READ:
        _open_trace(inode, file, False)
        if tr.trace_flags & TRACE_ITER_LATENCY_FMT:
            file.private_data.private.latency_format = True
    tr.ref += 1


def tracing_release(inode: Inode, file: File) -> None:
    where: TraceFile = inode.i_private
    where.tr.ref -= 1
    if not file.f_mode & FMODE_READ:
        return
    iterator: TraceIterator = file.private_data.private
    iterator.trace.close(iterator)
    if not iterator.snapshot:
        tracing_start_tr(where.tr)
    seq_release(inode, file)


def tracing_write_stub(iocb: Kiocb, source: IovIter) -> int:
    """What is written does not matter: opening it did the work."""
    return len(source.copy_from_iter(source.count))


@notrace
def tracing_lseek(file: File, offset: int, whence: int) -> int:
    if file.f_mode & FMODE_READ:
        return seq_lseek(file, offset, whence)
    file.f_pos = 0
    return 0


tracing_fops = FileOperations(open=tracing_open, read_iter=seq_read, write_iter=tracing_write_stub,
                              llseek=tracing_lseek,
                              release=tracing_release)


# ---- snapshot ----------------------------------------------------------------------------------------------------
def tracing_snapshot_open(inode: Inode, file: File) -> None:
    if file.f_mode & FMODE_READ:
        _open_trace(inode, file, True)
    inode.i_private.tr.ref += 1


def tracing_snapshot_write(iocb: Kiocb, source: IovIter) -> int:
    """0 frees the snapshot, 1 takes one, other numbers empty it. Errors: EINVAL, EBUSY (a tracer uses the buffer)."""
    where: TraceFile = iocb.ki_filp.f_inode.i_private
    tr = where.tr
    data = source.copy_from_iter(source.count)
    value = parse_number(data)
    if tr.current_trace.use_max_tr:
        raise KernelError(EBUSY)
    alone = where.cpu != RING_BUFFER_ALL_CPUS
    if value == 0:
        if alone:
            raise KernelError(EINVAL)
        if tr.allocated_snapshot:
            free_snapshot(tr)
    elif value == 1:
        if alone:
            raise KernelError(EINVAL)             # no CONFIG_RING_BUFFER_ALLOW_SWAP
        tracing_alloc_snapshot_instance(tr)
        tracing_snapshot_instance(tr)
    elif tr.allocated_snapshot:
        if alone:
            tracing_reset_cpu(tr, tr.max_buffer, where.cpu)
        else:
            tracing_reset_online_cpus(tr, tr.max_buffer)
    iocb.ki_pos += len(data)
    return len(data)


snapshot_fops = FileOperations(open=tracing_snapshot_open, read_iter=seq_read, write_iter=tracing_snapshot_write,
                               llseek=tracing_lseek, release=tracing_release)


@notrace
def parse_number(data: bytes, base: int = 10) -> int:
    """kstrtoul_from_user(): digits, and a newline at most. Errors: EINVAL; ERANGE for what has no room in 64 bits."""
    text = data[:-1] if data.endswith(b"\n") else data
    text = text[1:] if text.startswith(b"+") else text
    try:
        if not text or b"_" in text or text != text.strip() or text.startswith((b"-", b"+")):
            raise ValueError
        value = int(text, base)
    except ValueError:
        raise KernelError(EINVAL) from None
    if value >> 64:
        raise KernelError(ERANGE)
    return value


# ---- waiting -----------------------------------------------------------------------------------------------------
@may_sleep
def ring_buffer_wait(buffer: RingBuffer, cpu: int, full: int) -> None:
    """Until there is something to read; full: until so many per cent of the CPU's pages are full. Raises EINTR."""
    queue = buffer.irq_work if cpu == RING_BUFFER_ALL_CPUS else buffer.buffers[cpu].waiters
    entry = WaitQueueEntry()
    try:
        while True:
            prepare_to_wait(queue, entry, TASK_INTERRUPTIBLE)
            if full:
                buffer.buffers[cpu].shortest_full = full
            else:
                _set_pending(buffer, cpu)
            if signal_pending(current()):
                raise KernelError(EINTR)          # a system call that is not restarted: trace-cmd counts on it
            if cpu == RING_BUFFER_ALL_CPUS:
                if not ring_buffer_empty(buffer):
                    return
            elif not ring_buffer_empty_cpu(buffer.buffers[cpu]):
                cpu_buffer = buffer.buffers[cpu]
                if not full or ring_buffer_nr_dirty_pages(cpu_buffer) * 100 > full * cpu_buffer.nr_pages:
                    return
            schedule()
    finally:
        finish_wait(queue, entry)


@notrace
def _set_pending(buffer: RingBuffer, cpu: int) -> None:
    if cpu == RING_BUFFER_ALL_CPUS:
        buffer.waiters_pending = True
    else:
        buffer.buffers[cpu].waiters_pending = True


@may_sleep
def wait_on_pipe(iterator: TraceIterator, full: int) -> None:
    if not iterator.buffer_iters:
        ring_buffer_wait(iterator.buffer, iterator.cpu_file, full)


@notrace
def trace_poll(iterator: TraceIterator, file: File, table: PollTable) -> int:
    if iterator.buffer_iters or iterator.tr.trace_flags & TRACE_ITER_BLOCK:
        return POLLIN | POLLRDNORM
    buffer, cpu = iterator.buffer, iterator.cpu_file
    poll_wait(file, buffer.irq_work if cpu == RING_BUFFER_ALL_CPUS else buffer.buffers[cpu].waiters, table)
    _set_pending(buffer, cpu)
    return 0 if trace_empty(iterator) else POLLIN | POLLRDNORM


# ---- trace_pipe --------------------------------------------------------------------------------------------------
@slotted
class TracePipe:
    """An open trace_pipe. left: text that did not fit into the last read."""

    iterator: TraceIterator
    left: bytes = b""
    has_read: bool = False


def tracing_open_pipe(inode: Inode, file: File) -> None:
    where: TraceFile = inode.i_private
    iterator = trace_iterator(where.tr, where.cpu)
    iterator.buffer = where.tr.buffer
    file.private_data = TracePipe(iterator)
    iterator.trace.pipe_open(iterator)
    where.tr.ref += 1
    where.tr.trace_ref += 1


def tracing_release_pipe(inode: Inode, file: File) -> None:
    pipe: TracePipe = file.private_data
    tr = inode.i_private.tr
    tr.trace_ref -= 1
    tr.ref -= 1
    pipe.iterator.trace.pipe_close(pipe.iterator)


@may_sleep
def tracing_wait_pipe(file: File, pipe: TracePipe) -> None:
    """Until there is something; or tracing was switched off and this reader has read something. Raises EAGAIN,
    EINTR."""
    iterator = pipe.iterator
    while trace_empty(iterator):
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        if iterator.tr.buffer.off and pipe.has_read:
            return
        wait_on_pipe(iterator, 0)


@may_sleep
def tracing_read_pipe(iocb: Kiocb, to: IovIter) -> int:
    """Takes records as text; at least one line."""
    file = iocb.ki_filp
    pipe: TracePipe = file.private_data
    iterator = pipe.iterator
    while not pipe.left:
        tracing_wait_pipe(file, pipe)
        iterator.buffer = iterator.tr.buffer      # a snapshot may have exchanged it
        if trace_empty(iterator):
            return 0
        room = min(to.count, PAGE_SIZE - 1)
        text: list[str] = []
        size = 0
        iterator.ent, iterator.started, iterator.idx, pipe.has_read = None, 0, 0, True
        iterator.trace = iterator.tr.current_trace
        while size < room and trace_find_next_entry_inc(iterator) is not None:
            line = print_trace_line(iterator)
            trace_consume(iterator)
            text.append(line)
            size += len(line)
        pipe.left = "".join(text).encode("latin-1")
    done = to.copy_to_iter(memoryview(pipe.left)[: to.count])
    pipe.left = pipe.left[done:]
    return done


def tracing_poll_pipe(file: File, table: PollTable) -> int:
    pipe: TracePipe = file.private_data
    return POLLIN | POLLRDNORM if pipe.left else trace_poll(pipe.iterator, file, table)


tracing_pipe_fops = FileOperations(open=tracing_open_pipe, poll=tracing_poll_pipe, read_iter=tracing_read_pipe,
                                   release=tracing_release_pipe)


# ---- trace_pipe_raw ----------------------------------------------------------------------------------------------
@slotted
class FtraceBufferInfo:
    """struct ftrace_buffer_info: an open trace_pipe_raw. spare: the page that is being read, from `read` on."""

    iterator: TraceIterator
    spare: bytes = b""
    read: int = PAGE_SIZE


@notrace
def _buffer_of(iterator: TraceIterator) -> RingBuffer:
    tr = iterator.tr
    iterator.buffer = tr.max_buffer if iterator.snapshot else tr.buffer
    return iterator.buffer


def tracing_buffers_open(inode: Inode, file: File) -> None:
    where: TraceFile = inode.i_private
    file.private_data = FtraceBufferInfo(trace_iterator(where.tr, where.cpu))
    where.tr.ref += 1


def snapshot_raw_open(inode: Inode, file: File) -> None:
    """Errors: EBUSY (a tracer uses the snapshot buffer)."""
    where: TraceFile = inode.i_private
    if where.tr.current_trace.use_max_tr:
        raise KernelError(EBUSY)
    file.private_data = FtraceBufferInfo(trace_iterator(where.tr, where.cpu, True))
    where.tr.ref += 1


def tracing_buffers_release(inode: Inode, file: File) -> None:
    inode.i_private.tr.ref -= 1


def tracing_buffers_poll(file: File, table: PollTable) -> int:
    info: FtraceBufferInfo = file.private_data
    _buffer_of(info.iterator)
    return trace_poll(info.iterator, file, table)


@may_sleep
def tracing_buffers_read(iocb: Kiocb, to: IovIter) -> int:
    """One page, or what is left of one. Raises EAGAIN, EINTR."""
    file = iocb.ki_filp
    info: FtraceBufferInfo = file.private_data
    iterator = info.iterator
    if not to.count:
        return 0
    while info.read >= PAGE_SIZE:
        page = ring_buffer_read_page(_buffer_of(iterator).buffers[iterator.cpu_file], to.count, False)
        if page is not None:
            info.spare, info.read = page, 0
            break
        if not trace_empty(iterator):
            return 0                              # no room for one record
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait_on_pipe(iterator, 0)
    done = to.copy_to_iter(memoryview(info.spare)[info.read : info.read + to.count])
    info.read += done
    iocb.ki_pos += done
    return done


@may_sleep
def tracing_buffers_splice_read(file: File, pos: int, pipe: Pipe, length: int, nonblock: bool) -> tuple[int, int]:
    """Whole pages into a pipe: (bytes, new position). Raises EINVAL (not by pages), EAGAIN, EINTR."""
    info: FtraceBufferInfo = file.private_data
    iterator = info.iterator
    if pos & PAGE_SIZE - 1 or length < PAGE_SIZE:
        raise KernelError(EINVAL)
    pages: list[bytes] = []
    while True:
        cpu_buffer = _buffer_of(iterator).buffers[iterator.cpu_file]
        room = min(pipe.buffers - len(pipe.bufs), length // PAGE_SIZE)
        while len(pages) < room:
            page = ring_buffer_read_page(cpu_buffer, PAGE_SIZE, True)
            if page is None:
                break
            pages.append(page)
        if pages:
            break
        if nonblock or file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait_on_pipe(iterator, iterator.tr.buffer_percent)
    pipe_lock(pipe)
    try:
        for page in pages:
            pipe.bufs.append(PipeBuffer(page, PAGE_SIZE))
    finally:
        pipe_unlock(pipe)
    wake_up_interruptible_sync_poll(pipe.wait, POLLIN | POLLRDNORM)
    return len(pages) * PAGE_SIZE, pos + len(pages) * PAGE_SIZE


tracing_buffers_fops = FileOperations(open=tracing_buffers_open, read_iter=tracing_buffers_read,
                                      poll=tracing_buffers_poll,
                                      release=tracing_buffers_release, splice_read=tracing_buffers_splice_read)
snapshot_raw_fops = FileOperations(open=snapshot_raw_open, read_iter=tracing_buffers_read, poll=tracing_buffers_poll,
                                   release=tracing_buffers_release, splice_read=tracing_buffers_splice_read)
