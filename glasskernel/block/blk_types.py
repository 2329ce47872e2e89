"""The objects of the block layer: bios, requests, queues, disks, and the tables between them.

Linux: include/linux/{blk_types,bio,blkdev,blk-mq,genhd,elevator}.h (5.3). Only data; block/*.py works on them.
Differs: bi_iter's fields are fields of the bio; a segment is a tuple (pfn, offset, length). __sector and __data_len of
    a request are called sector and data_len.
Owns: BlockState, reached as kernel.block.
Invariants: bi_io_vec never changes once the bio is submitted (clones share it): bi_idx and bi_bvec_done say what of it
    is left, bi_size how much; a request's bios are a chain bio -> biotail by bi_next, contiguous on the disk.
Units: sectors are 512 bytes, whatever the disk's logical block is.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.errno import (
    EAGAIN,
    EBADE,
    EBUSY,
    EILSEQ,
    EIO,
    ENODATA,
    ENOLINK,
    ENOMEM,
    ENOSPC,
    EOPNOTSUPP,
    EREMOTEIO,
    ETIMEDOUT,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.locking.mutex import Mutex
    from glasskernel.kernel.sched.wait import WaitQueueHead
    from glasskernel.kernel.time.types import TimerList
    from glasskernel.kernel.workqueue import DelayedWork, WorkqueueStruct, WorkStruct
    from glasskernel.mm.backing_dev import BackingDevInfo

SECTOR_SHIFT = 9
REQ_OP_BITS = 8
REQ_OP_MASK = (1 << REQ_OP_BITS) - 1
REQ_OP_READ, REQ_OP_WRITE, REQ_OP_FLUSH, REQ_OP_DISCARD = 0, 1, 2, 3
REQ_OP_SECURE_ERASE, REQ_OP_ZONE_RESET, REQ_OP_WRITE_SAME, REQ_OP_WRITE_ZEROES = 5, 6, 7, 9
(REQ_FAILFAST_DEV, REQ_FAILFAST_TRANSPORT, REQ_FAILFAST_DRIVER, REQ_SYNC, REQ_META, REQ_PRIO, REQ_NOMERGE, REQ_IDLE,
 REQ_INTEGRITY, REQ_FUA, REQ_PREFLUSH, REQ_RAHEAD, REQ_BACKGROUND, REQ_NOWAIT) = (1 << n for n in range(8, 22))
REQ_NOUNMAP, REQ_HIPRI, REQ_SWAP = 1 << 24, 1 << 25, 1 << 27
REQ_FAILFAST_MASK = REQ_FAILFAST_DEV | REQ_FAILFAST_TRANSPORT | REQ_FAILFAST_DRIVER
REQ_NOMERGE_FLAGS = REQ_NOMERGE | REQ_PREFLUSH | REQ_FUA
STAT_READ, STAT_WRITE, STAT_DISCARD, NR_STAT_GROUPS = 0, 1, 2, 3

(BLK_STS_OK, BLK_STS_NOTSUPP, BLK_STS_TIMEOUT, BLK_STS_NOSPC, BLK_STS_TRANSPORT, BLK_STS_TARGET, BLK_STS_NEXUS,
 BLK_STS_MEDIUM, BLK_STS_PROTECTION, BLK_STS_RESOURCE, BLK_STS_IOERR, BLK_STS_DM_REQUEUE, BLK_STS_AGAIN,
 BLK_STS_DEV_RESOURCE) = range(14)
_ERRNO = (0, EOPNOTSUPP, ETIMEDOUT, ENOSPC, ENOLINK, EREMOTEIO, EBADE, ENODATA, EILSEQ, ENOMEM, EIO, EIO, EAGAIN, EBUSY)
BLK_ERROR_NAMES = ("", "operation not supported", "timeout", "critical space allocation", "recoverable transport",
                   "critical target", "critical nexus", "critical medium", "protection", "kernel resource", "I/O",
                   "I/O", "nonblocking retry", "device resource")

# bio.bi_flags
(BIO_NO_PAGE_REF, BIO_CLONED, BIO_BOUNCED, BIO_USER_MAPPED, BIO_NULL_MAPPED, BIO_QUIET, BIO_CHAIN, BIO_REFFED,
 BIO_THROTTLED, BIO_TRACE_COMPLETION, BIO_QUEUE_ENTERED) = (1 << n for n in range(11))
BIO_MAX_PAGES = 256

# request.rq_flags
RQF_SORTED, RQF_STARTED, RQF_SOFTBARRIER, RQF_FLUSH_SEQ = 1 << 0, 1 << 1, 1 << 3, 1 << 4
RQF_MQ_INFLIGHT, RQF_DONTPREP, RQF_FAILED, RQF_QUIET, RQF_ELVPRIV = 1 << 6, 1 << 7, 1 << 10, 1 << 11, 1 << 12
RQF_IO_STAT, RQF_HASHED, RQF_STATS, RQF_TIMED_OUT = 1 << 13, 1 << 16, 1 << 17, 1 << 21
RQF_NOMERGE_FLAGS = RQF_STARTED | RQF_SOFTBARRIER | RQF_FLUSH_SEQ
MQ_RQ_IDLE, MQ_RQ_IN_FLIGHT, MQ_RQ_COMPLETE = 0, 1, 2

# request_queue.queue_flags
(QUEUE_FLAG_DYING, QUEUE_FLAG_NOMERGES, QUEUE_FLAG_SAME_COMP, QUEUE_FLAG_NONROT, QUEUE_FLAG_IO_STAT,
 QUEUE_FLAG_DISCARD, QUEUE_FLAG_NOXMERGES, QUEUE_FLAG_ADD_RANDOM, QUEUE_FLAG_SAME_FORCE, QUEUE_FLAG_DEAD, QUEUE_FLAG_WC,
 QUEUE_FLAG_FUA, QUEUE_FLAG_QUIESCED) = (1 << n for n in (1, 3, 4, 6, 7, 8, 9, 10, 12, 13, 17, 18, 24))
QUEUE_FLAG_MQ_DEFAULT = QUEUE_FLAG_IO_STAT | QUEUE_FLAG_SAME_COMP

# gendisk.flags
(GENHD_FL_REMOVABLE, GENHD_FL_UP, GENHD_FL_SUPPRESS_PARTITION_INFO, GENHD_FL_EXT_DEVT, GENHD_FL_NO_PART_SCAN) = (
    1, 16, 32, 64, 512)
DISK_MAX_PARTS = 256
RAMDISK_MAJOR, LOOP_MAJOR, BLOCK_EXT_MAJOR = 1, 7, 259
LOOP_MIN_COUNT = 8                       # CONFIG_BLK_DEV_LOOP_MIN_COUNT

# struct blk_mq_hw_ctx.state
BLK_MQ_S_STOPPED, BLK_MQ_S_SCHED_RESTART = 1 << 0, 1 << 2
BLK_MAX_REQUEST_COUNT, BLK_PLUG_FLUSH_SIZE = 16, 128 << 10


@notrace
def blk_status_to_errno(status: int) -> int:
    """The errno (positive) of a BLK_STS_*; 0 for BLK_STS_OK."""
    return _ERRNO[status]


@notrace
def errno_to_blk_status(errno: int) -> int:
    """The other way round; what has no status of its own is BLK_STS_IOERR."""
    return _ERRNO.index(errno) if errno in _ERRNO else BLK_STS_IOERR


@notrace
def op_is_write(op: int) -> int:
    """1 if data goes to the device: a write, a discard, ..."""
    return op & 1


@notrace
def op_is_flush(op: int) -> bool:
    """True if the device's write cache matters: such a request goes through block/blk_flush.py."""
    return bool(op & (REQ_FUA | REQ_PREFLUSH))


@notrace
def op_is_sync(op: int) -> bool:
    """True if somebody waits for it: every read, and writes that say so."""
    return not op & REQ_OP_MASK or bool(op & (REQ_SYNC | REQ_FUA | REQ_PREFLUSH))


@notrace
def op_stat_group(op: int) -> int:
    op &= REQ_OP_MASK
    return STAT_DISCARD if op == REQ_OP_DISCARD else op & 1


@slotted
class Bio:
    """struct bio: pages and where on the disk they belong. bi_end_io(bio) runs in any context: it may not sleep.

    bi_sector: relative to the partition until blk_partition_remap().
    """

    kernel: Kernel
    bi_disk: Gendisk | None = None
    bi_partno: int = 0
    bi_opf: int = 0                            # REQ_OP_* | REQ_*
    bi_sector: int = 0
    bi_io_vec: list[tuple[int, int, int]] = field(default_factory=list)         # (pfn, offset, length)
    bi_size: int = 0                           # bytes left
    bi_end_io: Callable[[Bio], None] | None = None
    bi_private: Any = None
    bi_status: int = 0                         # BLK_STS_*
    bi_ioprio: int = 0
    bi_flags: int = 0                          # BIO_*
    bi_idx: int = 0                            # the segment that is next, and how many bytes of it are done
    bi_bvec_done: int = 0
    bi_next: Bio | None = None
    bi_remaining: int = 1                      # __bi_remaining: bio_chain() counts
    bi_cnt: int = 1                            # __bi_cnt
    bi_max_vecs: int = BIO_MAX_PAGES

    def __repr__(self) -> str:
        return f"<bio {self.bi_opf:#x} {self.bi_sector} + {self.bi_size >> 9}>"


@slotted
class BlockDevice:
    """struct block_device: a disk or partition that somebody has opened. fs/block_dev.py works on it."""

    bd_dev: int = 0
    bd_inode: Inode = None  # type: ignore[assignment]
    bd_super: SuperBlock | None = None
    bd_disk: Gendisk = None  # type: ignore[assignment]
    bd_partno: int = 0
    bd_part: HdStruct | None = None
    bd_contains: BlockDevice | None = None
    bd_block_size: int = 4096
    bd_openers: int = 0
    bd_holder: Any = None
    bd_holders: int = 0
    bd_claiming: Any = None
    bd_write_holder: bool = False
    bd_mutex: Any = None
    bd_invalidated: int = 0                    # the partition table must be read again
    bd_part_count: int = 0


@slotted
class HdStruct:
    """struct hd_struct: a partition, or the whole disk (partno 0). Statistics are by STAT_READ, WRITE, DISCARD."""

    start_sect: int = 0
    nr_sects: int = 0
    partno: int = 0
    policy: int = 0                            # 1: read-only
    alignment_offset: int = 0
    discard_alignment: int = 0
    uuid: bytes = b""
    volname: bytes = b""
    devt: int = 0
    device: Any = None                         # drivers.base.core.Device
    holder_dir: Any = None
    disk: Gendisk | None = None
    # statistics
    ios: list[int] = field(default_factory=lambda: [0, 0, 0])
    merges: list[int] = field(default_factory=lambda: [0, 0, 0])
    sectors: list[int] = field(default_factory=lambda: [0, 0, 0])
    nsecs: list[int] = field(default_factory=lambda: [0, 0, 0])
    in_flight: list[int] = field(default_factory=lambda: [0, 0])
    io_ticks: int = 0                          # jiffies
    time_in_queue: int = 0                     # jiffies
    stamp: int = 0


@slotted(frozen=True)
class BlockDeviceOperations:
    """struct block_device_operations. Entries may sleep; None: the block layer does what Linux does without."""

    open: Callable[[BlockDevice, int], None] | None = None
    release: Callable[[Gendisk, int], None] | None = None
    ioctl: Callable[[BlockDevice, int, int, int], int] | None = None
    revalidate_disk: Callable[[Gendisk], None] | None = None
    getgeo: Callable[[BlockDevice], tuple[int, int, int]] | None = None         # heads, sectors, cylinders


@slotted
class Gendisk:
    """struct gendisk: a disk with its partitions. block/genhd.py works on it."""

    disk_name: bytes = b""
    major: int = 0
    first_minor: int = 0
    minors: int = 1
    flags: int = 0
    part_tbl: dict[int, HdStruct] = field(default_factory=dict)                 # by partno, 0 is part0
    part0: HdStruct = field(default_factory=HdStruct)
    queue: RequestQueue = None  # type: ignore[assignment]
    fops: BlockDeviceOperations = field(default_factory=BlockDeviceOperations)
    private_data: Any = None
    parent: Any = None                         # the device that it hangs under
    slave_dir: Any = None
    openers: int = 0

    def __repr__(self) -> str:
        return f"<gendisk {self.disk_name.decode()}>"


@slotted
class QueueLimits:
    """struct queue_limits: what one request of this device may be. The defaults are blk_set_default_limits()'s."""

    max_segments: int = 128
    max_segment_size: int = 65536
    max_hw_sectors: int = 255
    max_dev_sectors: int = 0
    max_sectors: int = 255
    chunk_sectors: int = 0
    logical_block_size: int = 512
    physical_block_size: int = 512
    alignment_offset: int = 0
    io_min: int = 512
    io_opt: int = 0
    max_discard_sectors: int = 0
    max_hw_discard_sectors: int = 0
    max_discard_segments: int = 1
    discard_granularity: int = 0
    discard_alignment: int = 0
    max_write_same_sectors: int = 0
    max_write_zeroes_sectors: int = 0


@slotted
class Request:
    """struct request. The queue's owner of it changes: plug -> scheduler or software queue -> dispatch list ->
    driver.
    """

    q: RequestQueue
    mq_ctx: BlkMqCtx
    mq_hctx: BlkMqHwCtx
    cmd_flags: int = 0                         # REQ_OP_* | REQ_*
    rq_flags: int = 0                          # RQF_*
    tag: int = -1                              # the driver's
    internal_tag: int = -1                     # the scheduler's
    sector: int = 0
    data_len: int = 0                          # bytes
    bio: Bio | None = None
    biotail: Bio | None = None
    rq_disk: Gendisk | None = None
    part: HdStruct | None = None
    start_time_ns: int = 0
    io_start_time_ns: int = 0
    nr_phys_segments: int = 0
    ioprio: int = 0
    state: int = MQ_RQ_IDLE
    timeout: int = 0                           # jiffies
    deadline: int = 0
    fifo_time: int = 0                         # jiffies: when a scheduler must dispatch it
    elv_icq: Any = None                        # the scheduler's, of the task that asked
    elv_priv: Any = None
    elv_hash_key: int = 0                      # where it is in ElevatorQueue.hash
    elv_rb_key: tuple[int, int] | None = None  # where it is in a scheduler's tree
    flush_seq: int = 0                         # REQ_FSEQ_*
    flush_saved_end_io: Callable[[Request, int], None] | None = None
    end_io: Callable[[Request, int], None] | None = None
    end_io_data: Any = None
    special: Any = None                        # the driver's half (blk_mq_rq_to_pdu)

    def __repr__(self) -> str:
        return f"<request {self.cmd_flags:#x} {self.sector} + {self.data_len >> 9} tag {self.tag}>"


@slotted
class BlkMqCtx:
    """struct blk_mq_ctx: one CPU's software queue."""

    cpu: int
    queue: RequestQueue
    hctx: BlkMqHwCtx = None  # type: ignore[assignment]
    index_hw: int = 0
    rq_list: deque[Request] = field(default_factory=deque)
    rq_dispatched: list[int] = field(default_factory=lambda: [0, 0])
    rq_merged: int = 0
    rq_completed: list[int] = field(default_factory=lambda: [0, 0])


@slotted
class BlkMqHwCtx:
    """struct blk_mq_hw_ctx: a queue of the hardware."""

    queue: RequestQueue
    queue_num: int
    tags: BlkMqTags
    sched_tags: BlkMqTags | None = None
    dispatch: list[Request] = field(default_factory=list)         # what the driver could not take
    state: int = 0
    run_work: DelayedWork = None  # type: ignore[assignment]
    cpumask: list[int] = field(default_factory=list)
    next_cpu: int = 0
    ctxs: list[BlkMqCtx] = field(default_factory=list)
    ctx_map: int = 0                                              # bit n: ctxs[n] has requests
    dispatch_from: BlkMqCtx | None = None
    dispatch_busy: int = 0                                        # weighted: how often the driver was busy
    dispatch_wait: bool = False                                   # waits for a driver tag
    fq: BlkFlushQueue = None  # type: ignore[assignment]
    sched_data: Any = None
    queued: int = 0
    run: int = 0
    driver_data: Any = None
    kobj: Any = None


@slotted
class BlkMqTags:
    """struct blk_mq_tags: numbers for requests. free: bit n set = n is free. rqs: who has it."""

    nr_tags: int
    free: int
    rqs: list[Request | None]
    wait: WaitQueueHead
    depth: int = 0                                                # nr_requests may be lowered


@slotted
class BlkFlushQueue:
    """struct blk_flush_queue: flushes of a hardware queue. Index 0/1: two lists that take turns."""

    flush_queue: tuple[list[Request], list[Request]] = field(default_factory=lambda: ([], []))
    flush_data_in_flight: list[Request] = field(default_factory=list)
    flush_pending_idx: int = 0
    flush_running_idx: int = 0
    flush_pending_since: int = 0                                  # jiffies
    flush_rq: Request | None = None                               # the one flush that is under way
    rq_status: int = 0


@slotted(frozen=True)
class BlkMqOps:
    """struct blk_mq_ops. queue_rq(hctx, rq, last) -> BLK_STS_*: OK, (DEV_)RESOURCE to be asked again, or an error.

    complete(rq): in softirq, after blk_mq_complete_request(). get_budget(hctx) -> False: the device is full.
    timeout(rq) -> True if the driver has dealt with it (BLK_EH_DONE), False to wait once more.
    """

    queue_rq: Callable[[BlkMqHwCtx, Request, bool], int]
    complete: Callable[[Request], None] | None = None
    get_budget: Callable[[BlkMqHwCtx], bool] | None = None
    put_budget: Callable[[BlkMqHwCtx], None] | None = None
    commit_rqs: Callable[[BlkMqHwCtx], None] | None = None
    timeout: Callable[[Request], bool] | None = None


@slotted
class BlkMqTagSet:
    """struct blk_mq_tag_set"""

    ops: BlkMqOps
    nr_hw_queues: int = 1
    queue_depth: int = 64
    timeout: int = 0                           # jiffies; 0: 30 s
    blocking: bool = False                     # BLK_MQ_F_BLOCKING: queue_rq() may sleep
    no_sched: bool = False                     # BLK_MQ_F_NO_SCHED
    driver_data: Any = None
    tags: list[BlkMqTags] = field(default_factory=list)
    tag_list: list[RequestQueue] = field(default_factory=list)


@slotted
class RequestQueue:
    """struct request_queue"""

    kernel: Kernel
    id: int
    limits: QueueLimits = field(default_factory=QueueLimits)
    queue_flags: int = 0
    make_request_fn: Callable[[RequestQueue, Bio], None] = None  # type: ignore[assignment]
    backing_dev_info: BackingDevInfo = None  # type: ignore[assignment]
    mq_ops: BlkMqOps | None = None             # None: a bio-based driver
    queue_ctx: list[BlkMqCtx] = field(default_factory=list)                     # by CPU
    queue_hw_ctx: list[BlkMqHwCtx] = field(default_factory=list)
    nr_hw_queues: int = 0
    tag_set: BlkMqTagSet | None = None
    elevator: ElevatorQueue | None = None
    last_merge: Request | None = None
    nr_requests: int = 128
    queuedata: Any = None
    disk: Gendisk | None = None
    sg_timeout: int = 60 * 250                 # jiffies: what SG_GET_TIMEOUT says
    sg_reserved_size: int = 0x7FFFFFFF
    # timeouts
    rq_timeout: int = 0                        # jiffies
    timeout: TimerList = None  # type: ignore[assignment]
    timeout_work: WorkStruct = None  # type: ignore[assignment]
    # requeueing
    requeue_list: list[tuple[Request, bool]] = field(default_factory=list)      # (request, at the head)
    requeue_work: DelayedWork = None  # type: ignore[assignment]
    # who is inside: bios on their way and allocated requests
    q_usage_counter: int = 0
    mq_freeze_depth: int = 0
    mq_freeze_wq: WaitQueueHead = None  # type: ignore[assignment]
    sysfs_lock: Mutex = None  # type: ignore[assignment]
    kobj: Any = None
    mq_kobj: Any = None
    blk_trace: Any = None                      # kernel.trace.blktrace.BlkTrace
    debugfs_dir: Any = None


@slotted
class ElevatorQueue:
    """struct elevator_queue: a queue's scheduler. hash: mergeable requests by the sector behind their end."""

    type: ElevatorType
    elevator_data: Any = None
    hash: dict[int, list[Request]] = field(default_factory=dict)
    kobj: Any = None
    registered: bool = False


@slotted(frozen=True)
class ElvFsEntry:
    """struct elv_fs_entry: a file in queue/iosched. show(e) -> text, store(e, text)."""

    name: bytes
    show: Callable[[ElevatorQueue], bytes]
    store: Callable[[ElevatorQueue, bytes], None] | None = None


@slotted(frozen=True)
class ElevatorType:
    """struct elevator_type with its elevator_mq_ops. Entries that may be None are optional in Linux, too.

    init_sched(q, eq): sets eq.elevator_data. dispatch_request(hctx) -> the next request or None.
    bio_merge(hctx, bio, nr_segs) -> True if the bio is in a request now. request_merge(q, bio) -> (ELEVATOR_*,
    request).
    """

    elevator_name: bytes
    init_sched: Callable[[RequestQueue, ElevatorQueue], None]
    insert_requests: Callable[[BlkMqHwCtx, list[Request], bool], None]
    dispatch_request: Callable[[BlkMqHwCtx], Request | None]
    has_work: Callable[[BlkMqHwCtx], bool]
    exit_sched: Callable[[ElevatorQueue], None] | None = None
    init_hctx: Callable[[BlkMqHwCtx, int], None] | None = None
    exit_hctx: Callable[[BlkMqHwCtx, int], None] | None = None
    depth_updated: Callable[[BlkMqHwCtx], None] | None = None
    allow_merge: Callable[[RequestQueue, Request, Bio], bool] | None = None
    bio_merge: Callable[[BlkMqHwCtx, Bio, int], bool] | None = None
    request_merge: Callable[[RequestQueue, Bio], tuple[int, Request | None]] | None = None
    request_merged: Callable[[RequestQueue, Request, int], None] | None = None
    requests_merged: Callable[[RequestQueue, Request, Request], None] | None = None
    limit_depth: Callable[[int, BlkMqHwCtx], int] | None = None                 # (op, hctx) -> tags, 0: all
    prepare_request: Callable[[Request, Bio | None], None] | None = None
    finish_request: Callable[[Request], None] | None = None
    completed_request: Callable[[Request, int], None] | None = None             # (rq, now in ns)
    requeue_request: Callable[[Request], None] | None = None
    former_request: Callable[[RequestQueue, Request], Request | None] | None = None
    next_request: Callable[[RequestQueue, Request], Request | None] | None = None
    exit_icq: Callable[[Any], None] | None = None
    uses_icq: bool = False                                                      # icq_size: needs per-task data
    elevator_attrs: tuple[ElvFsEntry, ...] = ()
    elevator_alias: bytes = b""


@slotted
class BlkPlug:
    """struct blk_plug: requests that a task collects before it hands them over."""

    mq_list: list[Request] = field(default_factory=list)
    rq_count: int = 0
    multiple_queues: bool = False


@slotted
class IoContext:
    """struct io_context: a task's I/O as schedulers see it. icqs: by queue."""

    ioprio: int = 0
    nr_tasks: int = 1
    icqs: dict[RequestQueue, Any] = field(default_factory=dict)


@slotted
class BlockState:
    """kernel.block. Made by blk_dev_init()."""

    kblockd_workqueue: WorkqueueStruct
    blk_cpu_done: list[list[Request]]                             # by CPU: completed, for the BLOCK softirq
    major_names: dict[int, bytes] = field(default_factory=dict)
    bdev_map: dict[int, tuple[Gendisk, int]] = field(default_factory=dict)      # dev_t -> disk, partno
    bdev_probe: dict[int, Callable[[int], tuple[Gendisk, int] | None]] = field(default_factory=dict)  # by major
    disks: list[Gendisk] = field(default_factory=list)            # in the order of their registration
    ext_devt: dict[int, HdStruct] = field(default_factory=dict)   # minors of major 259 in use
    elv_list: dict[bytes, ElevatorType | None] = field(default_factory=dict)    # by name; None: not imported yet
    nr_queues: int = 0
    block_class: Any = None                                       # drivers.base.core.Class
    block_depr: Any = None                                        # /sys/block
    loop_devices: dict[int, Any] = field(default_factory=dict)    # drivers.block.loop.LoopDevice, by number
    loop_ctl_mutex: Any = None
    # of upper rooms
    blk_tr: Any = None                                            # kernel.trace.trace.TraceArray of the tracer "blk"
    blk_trace_attr: Callable[[HdStruct, str, bytes | None], bytes] | None = None
    blk_trace_ioctl: Callable[[BlockDevice, int, int], int] | None = None
    elv_register_queue: Callable[[RequestQueue], None] | None = None            # the iosched directory
    elv_unregister_queue: Callable[[RequestQueue], None] | None = None
