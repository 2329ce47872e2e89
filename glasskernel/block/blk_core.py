"""Submitting bios, and ending the requests made of them.

Linux: block/blk-core.c (5.3), submit_bio_wait() of block/bio.c, blkdev_issue_flush() of block/blk-flush.c.
Same: a bio submitted from within make_request_fn() waits in current().bio_list, so stacked devices (loop, partitions of
    them) do not recurse; a partition's bio is checked against its end, then remapped to the disk.
Owns: request_queue.q_usage_counter, task.bio_list. Invariant: a queue that is frozen (mq_freeze_depth > 0) with
    q_usage_counter 0 has no bio or request inside.
Gaps: blkcg, throttling, zoned devices, fault injection.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_advance, bio_alloc, bio_endio, bio_has_data, bio_put, bio_set_dev
from glasskernel.block.blk_types import (
    BIO_QUIET,
    BIO_TRACE_COMPLETION,
    BLK_ERROR_NAMES,
    BLK_STS_AGAIN,
    BLK_STS_IOERR,
    BLK_STS_NOTSUPP,
    BLK_STS_OK,
    QUEUE_FLAG_DISCARD,
    QUEUE_FLAG_DYING,
    QUEUE_FLAG_IO_STAT,
    QUEUE_FLAG_WC,
    REQ_FUA,
    REQ_NOWAIT,
    REQ_OP_DISCARD,
    REQ_OP_MASK,
    REQ_OP_SECURE_ERASE,
    REQ_OP_WRITE,
    REQ_OP_WRITE_SAME,
    REQ_OP_WRITE_ZEROES,
    REQ_OP_ZONE_RESET,
    REQ_PREFLUSH,
    REQ_SYNC,
    RQF_FLUSH_SEQ,
    RQF_IO_STAT,
    RQF_QUIET,
    Bio,
    BlockState,
    IoContext,
    QueueLimits,
    RequestQueue,
    blk_status_to_errno,
    op_is_flush,
    op_is_write,
    op_stat_group,
)
from glasskernel.block.genhd import (
    __disk_get_part,
    disk_map_sector_rcu,
    disk_name,
    get_capacity,
    part_dec_in_flight,
    part_inc_in_flight,
    update_io_ticks,
    with_disk,
)
from glasskernel.kernel.current import current, register
from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion_io
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up_all
from glasskernel.kernel.time.timekeeping import jiffies
from glasskernel.kernel.workqueue import WQ_HIGHPRI, WQ_MEM_RECLAIM, alloc_workqueue
from glasskernel.lib.errno import EIO, ENXIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import bdi_alloc
from glasskernel.mm.page_alloc import PGPGIN, PGPGOUT

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice, HdStruct, Request
    from glasskernel.init.kernel import Kernel

OP_NAMES = {0: "READ", 1: "WRITE", 2: "FLUSH", 3: "DISCARD", 5: "SECURE_ERASE", 6: "ZONE_RESET", 7: "WRITE_SAME",
            9: "WRITE_ZEROES", 32: "SCSI_IN", 33: "SCSI_OUT", 34: "DRV_IN", 35: "DRV_OUT"}


# ---- queues ---------------------------------------------------------------------------------------------
def blk_dev_init(kernel: Kernel) -> None:
    """Makes kernel.block. Context: boot."""
    workqueue = alloc_workqueue(kernel, "kblockd", WQ_MEM_RECLAIM | WQ_HIGHPRI, 0)
    kernel.block = BlockState(workqueue, [[] for _ in kernel.machine.cpus])
    kernel.block.major_names[259] = b"blkext"


def blk_alloc_queue(kernel: Kernel) -> RequestQueue:
    """A queue without a driver (blk_alloc_queue_node)."""
    q = RequestQueue(kernel, kernel.block.nr_queues)
    kernel.block.nr_queues += 1
    q.backing_dev_info = bdi_alloc(kernel)
    q.backing_dev_info.name = b"block"
    q.mq_freeze_wq = WaitQueueHead()
    q.sysfs_lock = Mutex()
    return q


def blk_queue_make_request(q: RequestQueue, mfn: object) -> None:
    """The driver takes bios itself: mfn(q, bio)."""
    q.nr_requests = 128
    q.make_request_fn = mfn  # type: ignore[assignment]
    q.limits = QueueLimits(max_segments=0xFFFF, max_segment_size=0xFFFFFFFF, max_hw_sectors=0xFFFFFFFF >> 9,
                           max_sectors=0xFFFFFFFF >> 9)


@may_sleep
def blk_queue_enter(q: RequestQueue, flags: int) -> bool:
    """One more bio is inside; waits while the queue is frozen. False: the device is gone."""
    if q.mq_freeze_depth or q.queue_flags & QUEUE_FLAG_DYING:
        if q.queue_flags & QUEUE_FLAG_DYING or flags & REQ_NOWAIT:
            return False
        wait_event(q.mq_freeze_wq, lambda: not q.mq_freeze_depth or q.queue_flags & QUEUE_FLAG_DYING)
        if q.queue_flags & QUEUE_FLAG_DYING:
            return False
    q.q_usage_counter += 1
    return True


@notrace
def blk_queue_enter_live(q: RequestQueue) -> None:
    """For a request, while its bio is inside."""
    q.q_usage_counter += 1


def blk_queue_exit(q: RequestQueue) -> None:
    """One less; the last one lets a freeze go on."""
    q.q_usage_counter -= 1
    if not q.q_usage_counter and q.mq_freeze_depth:
        blk_queue_usage_counter_release(q)


def blk_queue_usage_counter_release(q: RequestQueue) -> None:
    wake_up_all(q.mq_freeze_wq)


# ---- checks and the remap -----------------------------------------------------------------------------------
@notrace
def bio_check_ro(bio: Bio, part: HdStruct) -> bool:
    """True if the bio writes to what is read-only. Flushes may pass."""
    if not op_is_write(bio.bi_opf) or not part.policy:
        return False
    if op_is_flush(bio.bi_opf) and not bio.bi_size >> 9:
        return False
    assert bio.bi_disk is not None
    bio.kernel.printk(f"generic_make_request: Trying to write to read-only block-device "
                      f"{disk_name(bio.bi_disk, part.partno).decode()} (partno {part.partno})", 4)
    return False                               # Linux 5.3 only warns: older lvm tools rely on it


@notrace
def bio_check_eod(bio: Bio, maxsector: int) -> bool:
    """True if the bio reaches beyond the end of the device."""
    nr_sectors = bio.bi_size >> 9
    if nr_sectors and maxsector and (nr_sectors > maxsector or bio.bi_sector > maxsector - nr_sectors):
        handle_bad_sector(bio, maxsector)
        return True
    return False


def handle_bad_sector(bio: Bio, maxsector: int) -> None:
    assert bio.bi_disk is not None
    name = disk_name(bio.bi_disk, bio.bi_partno).decode()
    bio.kernel.printk("attempt to access beyond end of device", 6)
    bio.kernel.printk(f"{name}: rw={bio.bi_opf}, want={bio.bi_sector + (bio.bi_size >> 9)}, limit={maxsector}", 6)


@notrace
def blk_partition_remap(bio: Bio) -> bool:
    """Turns sectors of a partition into sectors of its disk. False: beyond the partition's end, or it is gone."""
    disk = bio.bi_disk
    assert disk is not None
    part = __disk_get_part(disk, bio.bi_partno)
    if part is None or bio_check_ro(bio, part):
        return False
    if bio.bi_size >> 9 or bio.bi_opf & REQ_OP_MASK == REQ_OP_ZONE_RESET:
        if bio_check_eod(bio, part.nr_sects):
            return False
        bio.bi_sector += part.start_sect
        probe = bio.kernel.tp.block_bio_remap
        if probe is not None:
            probe(disk.queue, bio, part.devt, bio.bi_sector - part.start_sect)
    bio.bi_partno = 0
    return True


@may_sleep
def generic_make_request_checks(bio: Bio) -> bool:
    """True if the bio may go to its queue; else it has ended with an error, or with nothing to do."""
    disk = bio.bi_disk
    status = BLK_STS_IOERR
    if disk is None or disk.queue is None:
        bio.kernel.printk("generic_make_request: Trying to access nonexistent block-device", 3)
        bio.bi_status = status
        bio_endio(bio)
        return False
    q = disk.queue
    opf = bio.bi_opf
    if opf & REQ_NOWAIT and q.mq_ops is None:
        return _not_supported(bio)
    if bio.bi_partno:
        if not blk_partition_remap(bio):
            bio.bi_status = status
            bio_endio(bio)
            return False
    elif bio_check_ro(bio, disk.part0) or bio_check_eod(bio, get_capacity(disk)):
        bio.bi_status = status
        bio_endio(bio)
        return False
    if opf & (REQ_PREFLUSH | REQ_FUA) and not q.queue_flags & QUEUE_FLAG_WC:
        bio.bi_opf = opf = opf & ~(REQ_PREFLUSH | REQ_FUA)     # nothing is volatile there
        if not bio.bi_size >> 9:
            bio.bi_status = BLK_STS_OK
            bio_endio(bio)
            return False
    op = opf & REQ_OP_MASK
    if op > REQ_OP_WRITE:
        if op == REQ_OP_DISCARD and not q.queue_flags & QUEUE_FLAG_DISCARD:
            return _not_supported(bio)
        if op in (REQ_OP_SECURE_ERASE, REQ_OP_ZONE_RESET):
            return _not_supported(bio)
        if op == REQ_OP_WRITE_SAME and not q.limits.max_write_same_sectors:
            return _not_supported(bio)
        if op == REQ_OP_WRITE_ZEROES and not q.limits.max_write_zeroes_sectors:
            return _not_supported(bio)
    create_task_io_context()
    if not bio.bi_flags & BIO_TRACE_COMPLETION:
        probe = bio.kernel.tp.block_bio_queue
        if probe is not None:
            probe(q, bio)
        bio.bi_flags |= BIO_TRACE_COMPLETION   # the origin of a split bio is traced once
    return True


@notrace
def _not_supported(bio: Bio) -> bool:
    bio.bi_status = BLK_STS_NOTSUPP
    bio_endio(bio)
    return False


@notrace
def create_task_io_context() -> IoContext:
    """The io_context of the running task, made at its first bio."""
    task = register.task
    ioc: IoContext | None = task.io_context
    if ioc is None:
        ioc = task.io_context = IoContext()
    ioc.ioprio = task.ioprio
    return ioc


# ---- submitting ---------------------------------------------------------------------------------------------
@may_sleep
def generic_make_request(bio: Bio) -> None:
    """Hands a bio to the driver of its disk. It ends through bi_end_io, perhaps before this returns."""
    if not generic_make_request_checks(bio):
        return
    task = register.task
    if task.bio_list is not None:              # from within a make_request_fn(): later, not deeper
        task.bio_list[0].append(bio)
        return
    pending: list[list[Bio]] = [[], []]
    task.bio_list = pending
    try:
        current_bio: Bio | None = bio
        while current_bio is not None:
            disk = current_bio.bi_disk
            assert disk is not None
            q = disk.queue
            if blk_queue_enter(q, current_bio.bi_opf & REQ_NOWAIT):
                pending[1] = pending[0]
                pending[0] = []
                q.make_request_fn(q, current_bio)
                blk_queue_exit(q)
                # What went to lower devices comes first, then the rest of this one, then what waited before.
                made = pending[0]
                lower = [b for b in made if b.bi_disk is not None and b.bi_disk.queue is not q]
                same = [b for b in made if b.bi_disk is None or b.bi_disk.queue is q]
                pending[0] = lower + same + pending[1]
            else:
                dying = q.queue_flags & QUEUE_FLAG_DYING
                current_bio.bi_status = BLK_STS_IOERR if dying else BLK_STS_AGAIN
                bio_endio(current_bio)
            current_bio = pending[0].pop(0) if pending[0] else None
    finally:
        task.bio_list = None


@may_sleep
def submit_bio(bio: Bio) -> None:
    """Submits a bio: counts it, then generic_make_request()."""
    if bio_has_data(bio):
        count = bio.bi_size >> 9
        events = bio.kernel.mem.vm_event
        if op_is_write(bio.bi_opf):
            events[PGPGOUT] += count
        else:
            current().read_bytes += bio.bi_size            # task_io_account_read()
            events[PGPGIN] += count
    generic_make_request(bio)


def submit_bio_wait_endio(bio: Bio) -> None:
    complete(bio.bi_private)


@may_sleep
def submit_bio_wait(bio: Bio) -> None:
    """Submits a bio and waits for its end. Raises the errno of its status."""
    done = Completion()
    bio.bi_private = done
    bio.bi_end_io = submit_bio_wait_endio
    bio.bi_opf |= REQ_SYNC
    submit_bio(bio)
    wait_for_completion_io(done)
    if bio.bi_status:
        raise KernelError(blk_status_to_errno(bio.bi_status))


@may_sleep
def blkdev_issue_flush(bdev: BlockDevice) -> None:
    """What the device has acknowledged is safe afterwards. Raises EIO, ENXIO."""
    disk = bdev.bd_disk
    if disk is None or disk.queue is None or disk.queue.make_request_fn is None:
        raise KernelError(ENXIO)
    bio = bio_alloc(disk.queue.kernel, 0)
    bio_set_dev(bio, bdev)
    bio.bi_opf = REQ_OP_WRITE | REQ_PREFLUSH
    try:
        submit_bio_wait(bio)
    except KernelError as error:
        raise KernelError(EIO) from error
    finally:
        bio_put(bio)


# ---- requests: statistics, and their end ------------------------------------------------------------------------
def blk_account_io_start(rq: Request, new_io: bool) -> None:
    """Statistics: a request begins, or (new_io False) got another bio."""
    if not rq.rq_flags & RQF_IO_STAT or rq.rq_disk is None:
        return
    rw = rq.cmd_flags & 1
    if not new_io:
        assert rq.part is not None
        for part in with_disk(rq.part):
            part.merges[op_stat_group(rq.cmd_flags)] += 1
    else:
        rq.part = part = disk_map_sector_rcu(rq.rq_disk, rq.sector)
        part_inc_in_flight(part, rw)
        update_io_ticks(part, jiffies())


@notrace
def blk_account_io_completion(req: Request, nbytes: int) -> None:
    if req.part is not None and req.rq_flags & RQF_IO_STAT:
        for part in with_disk(req.part):
            part.sectors[op_stat_group(req.cmd_flags)] += nbytes >> 9


def blk_account_io_done(req: Request, now_ns: int) -> None:
    """Statistics: the request is over. Flush sequences were counted by their parts."""
    if req.part is None or not req.rq_flags & RQF_IO_STAT or req.rq_flags & RQF_FLUSH_SEQ:
        return
    sgrp = op_stat_group(req.cmd_flags)
    duration = now_ns - req.start_time_ns
    update_io_ticks(req.part, jiffies())
    for part in with_disk(req.part):
        part.ios[sgrp] += 1
        part.nsecs[sgrp] += duration
        part.time_in_queue += duration // 4_000_000
    part_dec_in_flight(req.part, req.cmd_flags & 1)


@notrace
def blk_do_io_stat(q: RequestQueue) -> bool:
    return bool(q.queue_flags & QUEUE_FLAG_IO_STAT)


@notrace
def print_req_error(req: Request, status: int) -> None:
    assert req.rq_disk is not None
    req.q.kernel.printk(
        f"blk_update_request: {BLK_ERROR_NAMES[status]} error, "
        f"dev {req.rq_disk.disk_name.decode()}, sector {req.sector} "
        f"op {req.cmd_flags & REQ_OP_MASK:#x}:({OP_NAMES.get(req.cmd_flags & REQ_OP_MASK, 'UNKNOWN')}) "
        f"flags {req.cmd_flags & ~REQ_OP_MASK:#x} phys_seg {req.nr_phys_segments} prio class {req.ioprio >> 13}",
        3,
    )


@notrace
def req_bio_endio(rq: Request, bio: Bio, nbytes: int, error: int) -> None:
    """Some bytes of a bio are done, perhaps all."""
    if error:
        bio.bi_status = error
    if rq.rq_flags & RQF_QUIET:
        bio.bi_flags |= BIO_QUIET
    bio_advance(bio, nbytes)
    if bio.bi_size == 0 and not rq.rq_flags & RQF_FLUSH_SEQ:   # a flush sequence ends its bio itself
        bio_endio(bio)


def blk_update_request(req: Request, error: int, nr_bytes: int) -> bool:
    """nr_bytes of a request are done: ends the bios that are complete. True if some are left."""
    probe = req.q.kernel.tp.block_rq_complete
    if probe is not None:
        probe(req, -blk_status_to_errno(error), nr_bytes)
    if req.bio is None:
        return False
    if error and not req.rq_flags & RQF_QUIET:
        print_req_error(req, error)
    blk_account_io_completion(req, nr_bytes)
    total = 0
    while req.bio is not None:
        bio = req.bio
        bio_bytes = min(bio.bi_size, nr_bytes)
        if bio_bytes == bio.bi_size:
            req.bio = bio.bi_next
            bio.bi_next = None
        bio.bi_flags &= ~BIO_TRACE_COMPLETION              # the request's completion was traced
        req_bio_endio(req, bio, bio_bytes, error)
        total += bio_bytes
        nr_bytes -= bio_bytes
        if not nr_bytes:
            break
    if req.bio is None:
        req.data_len = 0
        return False
    req.data_len -= total
    req.sector += total >> 9
    return True


# ---- limits (block/blk-settings.c) -----------------------------------------------------------------------------
@notrace
def blk_queue_max_hw_sectors(q: RequestQueue, max_hw_sectors: int) -> None:
    """The device's limit; ours is at most BLK_DEF_MAX_SECTORS (1280 KB)."""
    q.limits.max_hw_sectors = max_hw_sectors
    q.limits.max_sectors = min(max_hw_sectors, 2560)
    q.backing_dev_info.io_pages = q.limits.max_sectors >> 3


@notrace
def blk_queue_logical_block_size(q: RequestQueue, size: int) -> None:
    limits = q.limits
    limits.logical_block_size = size
    limits.physical_block_size = max(limits.physical_block_size, size)
    limits.io_min = max(limits.io_min, limits.physical_block_size)


def blk_queue_write_cache(q: RequestQueue, wc: bool, fua: bool) -> None:
    """The device has a volatile write cache; fua: single writes can go past it."""
    q.queue_flags &= ~(QUEUE_FLAG_WC | 1 << 18)
    if wc:
        q.queue_flags |= QUEUE_FLAG_WC
    if fua:
        q.queue_flags |= 1 << 18


