"""Requests that carry a driver's own command instead of bios: made, run, waited for.

Linux: block/blk-exec.c, blk_get_request() of block/blk-core.c, blk_rq_map_kern() (5.3).
Differs: they have the driver's tag from the start, and go past the I/O scheduler; sense data and the rest of struct
    scsi_request travel in rq.special until the driver makes its command of it.
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_add_page, bio_alloc
from glasskernel.block.blk_core import blk_queue_enter
from glasskernel.block.blk_mq_dispatch import blk_mq_free_request, blk_mq_request_bypass_insert, blk_mq_run_hw_queue
from glasskernel.block.blk_mq_tag import blk_mq_get_tag
from glasskernel.block.blk_types import RQF_QUIET, Gendisk, Request, RequestQueue
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion_io
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import ENXIO, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import __GFP_ZERO, GFP_KERNEL, alloc_page, put_page

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

REQ_OP_SCSI_IN, REQ_OP_SCSI_OUT = 32, 33


@slotted
class ScsiRequest:
    """struct scsi_request. result: as ScsiCmnd.result. sense: (key, code, qualifier), None without."""

    cmd: bytes
    timeout: int = 60 * 250            # jiffies
    result: int = 0
    resid_len: int = 0
    sense: tuple[int, int, int] | None = None


@notrace
def blk_rq_is_passthrough(rq: Request) -> bool:
    return rq.cmd_flags & 0xFF in (REQ_OP_SCSI_IN, REQ_OP_SCSI_OUT)


@may_sleep
def blk_get_request(q: RequestQueue, op: int) -> Request:
    """A request without bios; waits for a tag. Raises ENXIO (the device is gone)."""
    return blk_mq_alloc_request(q, op)


@may_sleep
def blk_mq_alloc_request(q: RequestQueue, op: int) -> Request:
    if not blk_queue_enter(q, 0):
        raise KernelError(ENXIO)
    ctx = q.queue_ctx[register.task.cpu]
    hctx = ctx.hctx
    tag = blk_mq_get_tag(hctx.tags, op, 0, hctx, blk_mq_run_hw_queue)
    rq = Request(q, ctx, hctx, op)
    rq.tag = tag
    hctx.tags.rqs[tag] = rq
    rq.rq_flags |= RQF_QUIET
    rq.start_time_ns = ktime_get()
    ctx.rq_dispatched[1] += 1
    return rq


@notrace
def blk_put_request(rq: Request) -> None:
    """Ends blk_get_request()."""
    blk_mq_free_request(rq)


@may_sleep
def blk_rq_map_data(kernel: Kernel, rq: Request, data: bytes, length: int) -> list[int]:
    """Memory of `length` bytes for the command, filled with data: its frames, for blk_rq_unmap_data()."""
    pages: list[int] = []
    if not length:
        return pages
    bio = bio_alloc(kernel, (length + 4095) >> 12)
    bio.bi_opf = rq.cmd_flags
    try:
        for offset in range(0, length, 4096):
            pages.append(alloc_page(kernel, GFP_KERNEL | __GFP_ZERO))
            start = pages[-1] << 12
            piece = data[offset : offset + 4096]
            kernel.machine.ram[start : start + len(piece)] = piece
            bio_add_page(bio, pages[-1], min(4096, length - offset), 0)
    except KernelError:
        blk_rq_unmap_data(kernel, pages, 0)
        raise
    rq.bio = rq.biotail = bio
    rq.data_len = length
    rq.nr_phys_segments = len(pages)
    return pages


@notrace
def blk_rq_unmap_data(kernel: Kernel, pages: list[int], length: int) -> bytes:
    """Gives the frames back; answers their first bytes."""
    ram = kernel.machine.ram
    data = b"".join([bytes(ram[pfn << 12 : (pfn << 12) + 4096]) for pfn in pages])[:length]
    for pfn in pages:
        put_page(kernel, pfn)
    return data


def blk_end_sync_rq(rq: Request, error: int) -> None:
    """end_io. Context: softirq."""
    waiting: Completion = rq.end_io_data
    complete(waiting)


def blk_execute_rq_nowait(q: RequestQueue, disk: Gendisk, rq: Request) -> None:
    rq.rq_disk = disk
    blk_mq_request_bypass_insert(rq, True)


@may_sleep
def blk_execute_rq(q: RequestQueue, disk: Gendisk, rq: Request) -> None:
    """Runs a request to its end."""
    rq.end_io = blk_end_sync_rq
    rq.end_io_data = wait = Completion()
    blk_execute_rq_nowait(q, disk, rq)
    wait_for_completion_io(wait)
