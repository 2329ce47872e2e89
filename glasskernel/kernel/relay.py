"""relay: bulk data from the kernel to user space through files, one buffer for each CPU.

Linux: kernel/relay.c (5.3). Same: a buffer is a ring of sub-buffers; a record never crosses two of them, the rest of a
    sub-buffer is padding that readers do not see; poll(2) tells of full sub-buffers, read(2) also gives what is not yet
    full; without room (no-overwrite) records are dropped.
Gaps: mmap(2) and splice(2) of the files, overwrite mode, global buffers.
Owns: RchanBuf. Context of relay_reserve(): any.
Invariants: subbufs_consumed <= subbufs_produced <= subbufs_consumed + n_subbufs.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.fs.debugfs.inode import debugfs_create_file, debugfs_remove_recursive
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.types import POLLERR, POLLIN, POLLRDNORM, File, FileOperations, Inode, Kiocb, PollTable
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.wait import WaitQueueHead, wake_up_all
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter


@slotted
class RchanBuf:
    """struct rchan_buf"""

    chan: Rchan
    cpu: int
    start: bytearray
    offset: int = 0                            # in the sub-buffer that is being written
    subbufs_produced: int = 0
    subbufs_consumed: int = 0
    bytes_consumed: int = 0                    # of the sub-buffer that is being read
    padding: list[int] = field(default_factory=list)
    read_wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    finalized: bool = False
    dentry: TreeNode | None = None


@slotted
class Rchan:
    """struct rchan. subbuf_start(buf) -> False: there is no room, the record is dropped."""

    kernel: Kernel
    subbuf_size: int
    n_subbufs: int
    subbuf_start: Callable[[RchanBuf], bool]
    buf: list[RchanBuf] = field(default_factory=list)


def relay_open(kernel: Kernel, base_filename: str, parent: TreeNode, subbuf_size: int, n_subbufs: int,
               subbuf_start: Callable[[RchanBuf], bool]) -> Rchan:
    """A channel: the files base_filename0, 1, ... in a directory of debugfs."""
    chan = Rchan(kernel, subbuf_size, n_subbufs, subbuf_start)
    for cpu in range(len(kernel.machine.cpus)):
        buf = RchanBuf(chan, cpu, bytearray(), padding=[0] * n_subbufs)
        buf.dentry = debugfs_create_file(kernel, f"{base_filename}{cpu}", 0o444, parent, buf, relay_file_operations)
        chan.buf.append(buf)
    return chan


@may_sleep
def relay_close(chan: Rchan) -> None:
    """The files go; readers get what is left, then the end."""
    for buf in chan.buf:
        relay_close_buf(buf)


def relay_close_buf(buf: RchanBuf) -> None:
    buf.finalized = True
    if buf.dentry is not None:
        debugfs_remove_recursive(buf.dentry)
    wake_up_all(buf.read_wait)


@notrace
def relay_buf_full(buf: RchanBuf) -> bool:
    return buf.subbufs_produced - buf.subbufs_consumed >= buf.chan.n_subbufs


@notrace
def relay_buf_empty(buf: RchanBuf) -> bool:
    return buf.subbufs_produced == buf.subbufs_consumed


def relay_switch_subbuf(buf: RchanBuf, length: int) -> int:
    """The record does not fit any more: the next sub-buffer. Returns length, or 0 if there is none."""
    chan = buf.chan
    if length > chan.subbuf_size:
        return 0
    if buf.offset <= chan.subbuf_size:         # the first try: this one is full now
        buf.padding[buf.subbufs_produced % chan.n_subbufs] = chan.subbuf_size - buf.offset
        buf.subbufs_produced += 1
        wake_up_all(buf.read_wait)
    if not chan.subbuf_start(buf):
        buf.offset = chan.subbuf_size + 1
        return 0
    buf.offset = 0
    return length


def relay_reserve(chan: Rchan, length: int) -> tuple[RchanBuf, int] | None:
    """Room for a record in this CPU's buffer: where in `start` it goes. None: dropped."""
    buf = chan.buf[register.task.cpu]
    if not buf.start:                          # a CPU that never writes needs no memory
        buf.start = bytearray(chan.subbuf_size * chan.n_subbufs)
    if buf.offset + length > chan.subbuf_size and not relay_switch_subbuf(buf, length):
        return None
    position = buf.subbufs_produced % chan.n_subbufs * chan.subbuf_size + buf.offset
    buf.offset += length
    return buf, position


def relay_flush(chan: Rchan) -> None:
    """What is not full yet shall be read as well."""
    for buf in chan.buf:
        if 0 < buf.offset <= chan.subbuf_size:
            relay_switch_subbuf(buf, 0)
        wake_up_all(buf.read_wait)


# ---- files -----------------------------------------------------------------------------------------------------
def relay_file_open(inode: Inode, filp: File) -> None:
    filp.private_data = inode.i_private


def relay_file_poll(filp: File, wait: PollTable) -> int:
    buf: RchanBuf = filp.private_data
    if buf.finalized:
        return POLLERR
    poll_wait(filp, buf.read_wait, wait)
    return 0 if relay_buf_empty(buf) else POLLIN | POLLRDNORM


def relay_file_read_avail(buf: RchanBuf) -> int:
    """Bytes of the oldest sub-buffer that can be read now."""
    chan = buf.chan
    if buf.subbufs_consumed < buf.subbufs_produced:
        padding = buf.padding[buf.subbufs_consumed % chan.n_subbufs]
        return chan.subbuf_size - padding - buf.bytes_consumed
    if buf.offset > chan.subbuf_size:
        return 0
    return buf.offset - buf.bytes_consumed


def relay_file_read_consume(buf: RchanBuf, size: int) -> None:
    buf.bytes_consumed += size
    if buf.subbufs_consumed < buf.subbufs_produced:
        padding = buf.padding[buf.subbufs_consumed % buf.chan.n_subbufs]
        if buf.bytes_consumed + padding >= buf.chan.subbuf_size:
            buf.subbufs_consumed += 1
            buf.bytes_consumed = 0


@may_sleep
def relay_file_read_iter(iocb: Kiocb, to: IovIter) -> int:
    """read(2): never waits; 0: nothing there yet."""
    buf: RchanBuf = iocb.ki_filp.private_data
    done = 0
    while to.count:
        avail = relay_file_read_avail(buf)
        if not avail:
            if buf.subbufs_consumed < buf.subbufs_produced:        # nothing but padding
                relay_file_read_consume(buf, 0)
                continue
            break
        size = min(avail, to.count)
        start = buf.subbufs_consumed % buf.chan.n_subbufs * buf.chan.subbuf_size + buf.bytes_consumed
        to.copy_to_iter(buf.start[start : start + size])
        relay_file_read_consume(buf, size)
        done += size
    return done


relay_file_operations = FileOperations(open=relay_file_open, poll=relay_file_poll, read_iter=relay_file_read_iter)
