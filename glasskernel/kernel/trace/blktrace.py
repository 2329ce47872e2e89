"""blktrace: what happens to the requests of a disk, for blktrace(8) and btrace(8).

Linux: kernel/trace/blktrace.c (5.3). Same: the ioctls BLKTRACESETUP, START, STOP, TEARDOWN; records and their actions
    in relay files block/NAME/traceN of debugfs; notes of who a pid is; filters by action, sectors and pid; `msg` and
    `dropped`.
Differs: the tracepoints call us only while some device is traced (blk_register_tracepoints).
Owns: BlkTrace (q.blk_trace). Context of the probes: any.
The tracer "blk" and /sys/block/X/trace are blk_tracer.py's.
Gaps: cgroup ids, pass-through commands.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.block.blk_types import (
    REQ_FUA,
    REQ_META,
    REQ_OP_DISCARD,
    REQ_OP_FLUSH,
    REQ_OP_MASK,
    REQ_OP_SECURE_ERASE,
    REQ_PREFLUSH,
    REQ_RAHEAD,
    REQ_SYNC,
    Bio,
    BlockDevice,
    HdStruct,
    Request,
    RequestQueue,
    blk_status_to_errno,
)
from glasskernel.block.genhd import disk_name
from glasskernel.fs.debugfs.inode import debugfs_create_dir, debugfs_create_file, debugfs_remove_recursive
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.current import register
from glasskernel.kernel.relay import (
    Rchan,
    RchanBuf,
    relay_buf_full,
    relay_close,
    relay_flush,
    relay_open,
    relay_reserve,
)
from glasskernel.kernel.time.timekeeping import ktime_get, ktime_get_real
from glasskernel.kernel.trace.trace import trace_buffer_write
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.errno import EBUSY, EINVAL, ENOTTY, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.iov_iter import IovIter

BLKTRACESETUP, BLKTRACESTART, BLKTRACESTOP, BLKTRACETEARDOWN = 0xC0481273, 0x1274, 0x1275, 0x1276
(
    BLK_TC_READ,
    BLK_TC_WRITE,
    BLK_TC_FLUSH,
    BLK_TC_SYNC,
    BLK_TC_QUEUE,
    BLK_TC_REQUEUE,
    BLK_TC_ISSUE,
    BLK_TC_COMPLETE,
    BLK_TC_FS,
    BLK_TC_PC,
    BLK_TC_NOTIFY,
    BLK_TC_AHEAD,
    BLK_TC_META,
    BLK_TC_DISCARD,
    BLK_TC_DRV_DATA,
    BLK_TC_FUA,
) = (1 << n for n in range(16))
BLK_TC_SHIFT = 16
_QUEUE = BLK_TC_QUEUE << BLK_TC_SHIFT
BLK_TA_QUEUE, BLK_TA_BACKMERGE, BLK_TA_FRONTMERGE, BLK_TA_GETRQ, BLK_TA_SLEEPRQ = (n | _QUEUE for n in range(1, 6))
BLK_TA_REQUEUE, BLK_TA_ISSUE = 6 | BLK_TC_REQUEUE << BLK_TC_SHIFT, 7 | BLK_TC_ISSUE << BLK_TC_SHIFT
BLK_TA_COMPLETE = 8 | BLK_TC_COMPLETE << BLK_TC_SHIFT
BLK_TA_PLUG, BLK_TA_UNPLUG_IO, BLK_TA_UNPLUG_TIMER, BLK_TA_INSERT = (n | _QUEUE for n in range(9, 13))
BLK_TA_SPLIT, BLK_TA_REMAP = 13, 15 | _QUEUE
BLK_TN_PROCESS, BLK_TN_TIMESTAMP, BLK_TN_MESSAGE = (n | BLK_TC_NOTIFY << BLK_TC_SHIFT for n in range(3))
BLK_IO_TRACE_MAGIC, BLK_IO_TRACE_VERSION = 0x65617400, 0x07
Blktrace_setup, Blktrace_running, Blktrace_stopped = 1, 2, 3
BLK_TN_MAX_MSG = 128
_TRACE = struct.Struct("<IIQQIIIIIHH")         # struct blk_io_trace
_TRACER_TRACE = struct.Struct("<QQIIIIIHH")     # the same from `time` on
TRACE_BLK = 13
_SETUP = struct.Struct("<32sHxxIIxxxxQQIxxxx")     # struct blk_user_trace_setup


@slotted
class BlkTrace:
    """struct blk_trace. end_lba: 0 for no limit. dir: None if /sys/block/X/trace made it: no files, no relay."""

    kernel: Kernel
    dev: int
    dir: TreeNode | None
    act_mask: int
    start_lba: int
    end_lba: int
    pid: int
    rchan: Rchan = None  # type: ignore[assignment]
    trace_state: int = Blktrace_setup
    sequence: list[int] = field(default_factory=list)
    dropped: int = 0
    known: dict[TaskStruct, None] = field(default_factory=dict)      # whose names were noted since the start


# ---- records ---------------------------------------------------------------------------------------------------
@notrace
def _write(bt: BlkTrace, sector: int, nbytes: int, action: int, pid: int, error: int, pdu: bytes, time_ns: int) -> None:
    place = relay_reserve(bt.rchan, _TRACE.size + len(pdu))
    if place is None:
        return
    buf, position = place
    cpu = register.task.cpu
    notify = action & BLK_TC_NOTIFY << BLK_TC_SHIFT
    if not notify:
        bt.sequence[cpu] += 1
    _TRACE.pack_into(
        buf.start,
        position,
        BLK_IO_TRACE_MAGIC | BLK_IO_TRACE_VERSION,
        0 if notify else bt.sequence[cpu],
        time_ns,
        sector & (1 << 64) - 1,
        nbytes,
        action,
        pid,
        bt.dev,
        cpu,
        error & 0xFFFF,
        len(pdu),
    )
    buf.start[position + _TRACE.size : position + _TRACE.size + len(pdu)] = pdu


def trace_note(bt: BlkTrace, pid: int, action: int, data: bytes) -> None:
    """A note between the records."""
    _write(bt, 0, 0, action, pid, 0, data, ktime_get())


def trace_note_tsk(bt: BlkTrace, task: TaskStruct) -> None:
    """Who is this pid?"""
    bt.known[task] = None
    trace_note(bt, task.pid, BLK_TN_PROCESS, task.comm.ljust(16, b"\0"))


def trace_note_time(bt: BlkTrace) -> None:
    """The wall clock, once."""
    now = ktime_get_real()
    trace_note(bt, 0, BLK_TN_TIMESTAMP, struct.pack("<II", now // 1_000_000_000, now % 1_000_000_000))


def act_log_check(bt: BlkTrace, what: int, sector: int, pid: int) -> bool:
    """True if the filters keep the record out."""
    if not bt.act_mask << BLK_TC_SHIFT & what:
        return True
    if sector and (sector < bt.start_lba or (bt.end_lba and sector > bt.end_lba)):
        return True
    return bool(bt.pid and pid != bt.pid)


def __blk_add_trace(bt: BlkTrace, sector: int, nbytes: int, opf: int, what: int, error: int, pdu: bytes = b"") -> None:
    """One record. Context: any."""
    tr = bt.kernel.block.blk_tr
    if bt.trace_state != Blktrace_running and tr is None:
        return
    op = opf & REQ_OP_MASK
    flags = BLK_TC_WRITE if op & 1 else BLK_TC_READ
    if opf & REQ_SYNC:
        flags |= BLK_TC_SYNC
    if opf & REQ_RAHEAD:
        flags |= BLK_TC_AHEAD
    if opf & REQ_META:
        flags |= BLK_TC_META
    if opf & REQ_PREFLUSH:
        flags |= BLK_TC_FLUSH
    if opf & REQ_FUA:
        flags |= BLK_TC_FUA
    if op in (REQ_OP_DISCARD, REQ_OP_SECURE_ERASE):
        flags |= BLK_TC_DISCARD
    if op == REQ_OP_FLUSH:
        flags |= BLK_TC_FLUSH
    what |= flags << BLK_TC_SHIFT
    task = register.task
    if act_log_check(bt, what, sector, task.pid):
        return
    if tr is not None:
        trace_buffer_write(tr, TRACE_BLK, _TRACER_TRACE.pack(0, sector & (1 << 64) - 1, nbytes, what, task.pid, bt.dev,
                                                             task.cpu, error & 0xFFFF, len(pdu)) + pdu)
        return
    if task not in bt.known:
        trace_note_tsk(bt, task)
    _write(bt, sector, nbytes, what, task.pid, error, pdu, ktime_get())


# ---- the tracepoints --------------------------------------------------------------------------------------------
def blk_add_trace_rq(rq: Request, error: int, nr_bytes: int, what: int) -> None:
    bt: BlkTrace | None = rq.q.blk_trace
    if bt is not None:
        __blk_add_trace(bt, max(rq.sector, 0), nr_bytes, rq.cmd_flags, what | BLK_TC_FS << BLK_TC_SHIFT, error)


def blk_add_trace_rq_insert(q: RequestQueue, rq: Request) -> None:
    blk_add_trace_rq(rq, 0, rq.data_len, BLK_TA_INSERT)


def blk_add_trace_rq_issue(q: RequestQueue, rq: Request) -> None:
    blk_add_trace_rq(rq, 0, rq.data_len, BLK_TA_ISSUE)


def blk_add_trace_rq_requeue(q: RequestQueue, rq: Request) -> None:
    blk_add_trace_rq(rq, 0, rq.data_len, BLK_TA_REQUEUE)


def blk_add_trace_rq_complete(rq: Request, error: int, nr_bytes: int) -> None:
    blk_add_trace_rq(rq, error, nr_bytes, BLK_TA_COMPLETE)


def blk_add_trace_bio(q: RequestQueue, bio: Bio, what: int, error: int) -> None:
    bt: BlkTrace | None = q.blk_trace
    if bt is not None:
        __blk_add_trace(bt, bio.bi_sector, bio.bi_size, bio.bi_opf, what, error)


def blk_add_trace_bio_complete(q: RequestQueue, bio: Bio, error: int) -> None:
    blk_add_trace_bio(q, bio, BLK_TA_COMPLETE, error)


def blk_add_trace_bio_backmerge(q: RequestQueue, rq: Request, bio: Bio) -> None:
    blk_add_trace_bio(q, bio, BLK_TA_BACKMERGE, 0)


def blk_add_trace_bio_frontmerge(q: RequestQueue, rq: Request, bio: Bio) -> None:
    blk_add_trace_bio(q, bio, BLK_TA_FRONTMERGE, 0)


def blk_add_trace_bio_queue(q: RequestQueue, bio: Bio) -> None:
    blk_add_trace_bio(q, bio, BLK_TA_QUEUE, 0)


def blk_add_trace_getrq(q: RequestQueue, bio: Bio | None, rw: int) -> None:
    if bio is not None:
        blk_add_trace_bio(q, bio, BLK_TA_GETRQ, 0)


def blk_add_trace_plug(q: RequestQueue) -> None:
    bt: BlkTrace | None = q.blk_trace
    if bt is not None:
        __blk_add_trace(bt, 0, 0, 0, BLK_TA_PLUG, 0)


def blk_add_trace_unplug(q: RequestQueue, depth: int, explicit: bool) -> None:
    bt: BlkTrace | None = q.blk_trace
    if bt is not None:
        __blk_add_trace(bt, 0, 0, 0, BLK_TA_UNPLUG_IO if explicit else BLK_TA_UNPLUG_TIMER, 0, struct.pack(">Q", depth))


def blk_add_trace_split(q: RequestQueue, bio: Bio, pdu: int) -> None:
    bt: BlkTrace | None = q.blk_trace
    if bt is not None:
        __blk_add_trace(bt, bio.bi_sector, bio.bi_size, bio.bi_opf, BLK_TA_SPLIT, blk_status_to_errno(bio.bi_status),
                        struct.pack(">Q", pdu))


def blk_add_trace_bio_remap(q: RequestQueue, bio: Bio, dev: int, from_: int) -> None:
    bt: BlkTrace | None = q.blk_trace
    if bt is not None and bio.bi_disk is not None:
        to = bio.bi_disk.major << 20 | bio.bi_disk.first_minor
        __blk_add_trace(bt, bio.bi_sector, bio.bi_size, bio.bi_opf, BLK_TA_REMAP, blk_status_to_errno(bio.bi_status),
                        struct.pack(">IIQ", dev, to, from_))


_PROBES: tuple[tuple[str, Callable[..., None]], ...] = (
    ("block_rq_insert", blk_add_trace_rq_insert), ("block_rq_issue", blk_add_trace_rq_issue),
    ("block_rq_requeue", blk_add_trace_rq_requeue), ("block_rq_complete", blk_add_trace_rq_complete),
    ("block_bio_complete", blk_add_trace_bio_complete), ("block_bio_backmerge", blk_add_trace_bio_backmerge),
    ("block_bio_frontmerge", blk_add_trace_bio_frontmerge), ("block_bio_queue", blk_add_trace_bio_queue),
    ("block_getrq", blk_add_trace_getrq), ("block_plug", blk_add_trace_plug), ("block_unplug", blk_add_trace_unplug),
    ("block_split", blk_add_trace_split), ("block_bio_remap", blk_add_trace_bio_remap),
)


def blk_register_tracepoints(kernel: Kernel) -> None:
    for name, probe in _PROBES:
        tracepoint_probe_register(kernel, name, probe)


def blk_unregister_tracepoints(kernel: Kernel) -> None:
    for name, probe in _PROBES:
        tracepoint_probe_unregister(kernel, name, probe)


# ---- files ---------------------------------------------------------------------------------------------------------
@notrace
def _open(inode: Inode, filp: File) -> None:
    filp.private_data = inode.i_private


def blk_dropped_read(iocb: Kiocb, to: IovIter) -> int:
    """`dropped`: records that found no room."""
    bt: BlkTrace = iocb.ki_filp.private_data
    done = to.copy_to_iter((b"%d\n" % bt.dropped)[iocb.ki_pos : iocb.ki_pos + to.count])
    iocb.ki_pos += done
    return done


def blk_msg_write(iocb: Kiocb, source: IovIter) -> int:
    """`msg`: a line of the user's among the records. Raises EINVAL."""
    count = source.count
    if count >= BLK_TN_MAX_MSG:
        raise KernelError(EINVAL)
    bt: BlkTrace = iocb.ki_filp.private_data
    text = source.copy_from_iter(count)
    if bt.trace_state == Blktrace_running:
        trace_note(bt, register.task.pid, BLK_TN_MESSAGE, text.rstrip(b"\n"))
    return count


blk_dropped_fops = FileOperations(open=_open, read_iter=blk_dropped_read, llseek=noop_llseek)
blk_msg_fops = FileOperations(open=_open, write_iter=blk_msg_write, llseek=noop_llseek)


def blk_subbuf_start_callback(bt: BlkTrace, buf: RchanBuf) -> bool:
    """Is there room for another sub-buffer?"""
    if relay_buf_full(buf):
        bt.dropped += 1
        return False
    return True


# ---- setting up -----------------------------------------------------------------------------------------------------
@notrace
def _block_dir(kernel: Kernel) -> TreeNode:
    """/sys/kernel/debug/block"""
    children = kernel.debugfs.root.children
    assert children is not None
    return children[b"block"] if b"block" in children else debugfs_create_dir(kernel, "block")


@may_sleep
def blk_trace_setup(bdev: BlockDevice, arg: int) -> None:
    """BLKTRACESETUP: makes the files; their directory's name goes back. Raises EBUSY, EINVAL."""
    name_in, act_mask, buf_size, buf_nr, start_lba, end_lba, pid = _SETUP.unpack(copy_from_user(arg, _SETUP.size))
    del name_in
    if not buf_size or not buf_nr or buf_size < _TRACE.size or buf_size * buf_nr > 1 << 27:
        raise KernelError(EINVAL)
    q = bdev.bd_disk.queue
    if q.blk_trace is not None:
        raise KernelError(EBUSY)
    kernel = q.kernel
    name = disk_name(bdev.bd_disk, bdev.bd_partno).replace(b"/", b"_")
    directory = debugfs_create_dir(kernel, name.decode(), _block_dir(kernel))
    start_lba, end_lba = blk_trace_setup_lba(bdev.bd_part, start_lba, end_lba)
    bt = BlkTrace(kernel, bdev.bd_dev, directory, act_mask or 0xFFFF, start_lba, end_lba, pid)
    bt.sequence = [0] * len(kernel.machine.cpus)
    debugfs_create_file(kernel, "dropped", 0o444, directory, bt, blk_dropped_fops)
    debugfs_create_file(kernel, "msg", 0o222, directory, bt, blk_msg_fops)
    bt.rchan = relay_open(kernel, "trace", directory, buf_size, buf_nr, lambda buf: blk_subbuf_start_callback(bt, buf))
    if not any(disk.queue.blk_trace is not None for disk in kernel.block.disks):
        blk_register_tracepoints(kernel)
    q.blk_trace = bt
    copy_to_user(arg, _SETUP.pack(name, act_mask, buf_size, buf_nr, bt.start_lba, bt.end_lba, pid))


def blk_trace_setup_lba(part: HdStruct | None, start_lba: int, end_lba: int) -> tuple[int, int]:
    """The sectors of a partition, within what the user wants."""
    if part is None or not part.partno:
        return start_lba, end_lba
    end = part.start_sect + part.nr_sects
    return max(start_lba, part.start_sect), min(end_lba, end) if end_lba else end


@may_sleep
def blk_trace_startstop(q: RequestQueue, start: bool) -> None:
    """BLKTRACESTART, BLKTRACESTOP. Raises EINVAL."""
    bt: BlkTrace | None = q.blk_trace
    if bt is None or bt.dir is None:
        raise KernelError(EINVAL)
    if start:
        if bt.trace_state not in (Blktrace_setup, Blktrace_stopped):
            raise KernelError(EINVAL)
        bt.known.clear()
        bt.trace_state = Blktrace_running
        trace_note_time(bt)
    else:
        if bt.trace_state != Blktrace_running:
            raise KernelError(EINVAL)
        bt.trace_state = Blktrace_stopped
        relay_flush(bt.rchan)


@may_sleep
def blk_trace_remove(q: RequestQueue) -> None:
    """BLKTRACETEARDOWN. Raises EINVAL."""
    bt: BlkTrace | None = q.blk_trace
    if bt is None:
        raise KernelError(EINVAL)
    q.blk_trace = None
    if bt.trace_state == Blktrace_running:
        bt.trace_state = Blktrace_stopped
        relay_flush(bt.rchan)
    blk_trace_cleanup(bt)


def blk_trace_cleanup(bt: BlkTrace) -> None:
    if bt.dir is not None:
        relay_close(bt.rchan)
        debugfs_remove_recursive(bt.dir)
    if not any(disk.queue.blk_trace is not None for disk in bt.kernel.block.disks):
        blk_unregister_tracepoints(bt.kernel)


@may_sleep
def blk_trace_ioctl(bdev: BlockDevice, cmd: int, arg: int) -> int:
    """The ioctls of blktrace(8)."""
    q = bdev.bd_disk.queue
    if cmd == BLKTRACESETUP:
        blk_trace_setup(bdev, arg)
    elif cmd in (BLKTRACESTART, BLKTRACESTOP):
        blk_trace_startstop(q, cmd == BLKTRACESTART)
    elif cmd == BLKTRACETEARDOWN:
        blk_trace_remove(q)
    else:
        raise KernelError(ENOTTY)
    return 0
