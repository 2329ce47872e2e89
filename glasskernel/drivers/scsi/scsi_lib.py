"""SCSI: from a request to a command of the host adapter, and back.

Linux: drivers/scsi/scsi_lib.c, scsi.c, scsi_error.c (5.3), the path of file-system requests.
Same: a device takes queue_depth commands at once (its budget); a completion goes through the BLOCK softirq; sense data
    decides what the block layer is told.
Owns: sdev.device_busy, ScsiCmnd. Context: what blk-mq says for the operations.
Gaps: error recovery beyond abort-and-fail, retries of transient errors.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_core import blk_queue_max_hw_sectors, blk_update_request
from glasskernel.block.blk_exec import blk_rq_is_passthrough
from glasskernel.block.blk_merge import blk_rq_map_sg
from glasskernel.block.blk_mq import blk_mq_alloc_tag_set, blk_mq_init_queue
from glasskernel.block.blk_mq_dispatch import (
    __blk_mq_end_request,
    blk_mq_complete_request,
    blk_mq_requeue_request,
    blk_mq_run_hw_queues,
    blk_mq_start_request,
)
from glasskernel.block.blk_types import (
    BLK_STS_DEV_RESOURCE,
    BLK_STS_IOERR,
    BLK_STS_MEDIUM,
    BLK_STS_NOSPC,
    BLK_STS_OK,
    BLK_STS_RESOURCE,
    BLK_STS_TARGET,
    BLK_STS_TIMEOUT,
    RQF_DONTPREP,
    RQF_QUIET,
    BlkMqHwCtx,
    BlkMqOps,
    BlkMqTagSet,
    Request,
    RequestQueue,
)
from glasskernel.drivers.scsi.scsi_types import (
    CHECK_CONDITION,
    DATA_PROTECT,
    DID_ALLOC_FAILURE,
    DID_MEDIUM_ERROR,
    DID_OK,
    DID_TARGET_FAILURE,
    DID_TIME_OUT,
    HARDWARE_ERROR,
    ILLEGAL_REQUEST,
    MEDIUM_ERROR,
    ScsiCmnd,
    ScsiDevice,
    ScsiHost,
)
from glasskernel.kernel.time.timekeeping import jiffies
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.drivers.scsi.scsi_types import ScsiDisk

SUCCESS, NEEDS_RETRY, FAILED = 0x2002, 0x2001, 0x2003
BLKPREP_OK = 0


# ---- down: queue_rq() ---------------------------------------------------------------------------------------
def scsi_mq_get_budget(hctx: BlkMqHwCtx) -> bool:
    """True if the device takes one more command."""
    return scsi_dev_queue_ready(hctx.queue, hctx.queue.queuedata)


def scsi_dev_queue_ready(q: RequestQueue, sdev: ScsiDevice) -> bool:
    sdev.device_busy += 1
    if sdev.device_busy > sdev.queue_depth:
        sdev.device_busy -= 1
        # Whoever frees a request runs the queue again.
        for hctx in q.queue_hw_ctx:
            hctx.state |= 1 << 2               # BLK_MQ_S_SCHED_RESTART
        return False
    return True


def scsi_mq_put_budget(hctx: BlkMqHwCtx) -> None:
    sdev: ScsiDevice = hctx.queue.queuedata
    sdev.device_busy -= 1


def scsi_queue_rq(hctx: BlkMqHwCtx, req: Request, last: bool) -> int:
    """->queue_rq(): prepares a command and hands it to the host adapter."""
    sdev: ScsiDevice = req.q.queuedata
    shost = sdev.host
    if shost.host_busy >= shost.can_queue:     # scsi_host_queue_ready()
        scsi_mq_put_budget(hctx)
        return BLK_STS_RESOURCE
    shost.host_busy += 1
    if not req.rq_flags & RQF_DONTPREP:
        ret = scsi_mq_prep_fn(req)
        if ret != BLK_STS_OK:
            shost.host_busy -= 1
            scsi_mq_put_budget(hctx)
            return ret
        req.rq_flags |= RQF_DONTPREP
    cmd: ScsiCmnd = req.special
    cmd.scsi_done = scsi_mq_done
    blk_mq_start_request(req)
    reason = scsi_dispatch_cmd(cmd)
    if reason:
        shost.host_busy -= 1
        scsi_mq_put_budget(hctx)
        return BLK_STS_DEV_RESOURCE if sdev.device_busy else BLK_STS_RESOURCE
    return BLK_STS_OK


def scsi_mq_prep_fn(req: Request) -> int:
    cmd = ScsiCmnd(req.q.queuedata, req)
    if blk_rq_is_passthrough(req):
        cmd.req = req.special
    cmd.jiffies_at_alloc = jiffies()
    cmd.tag = req.tag
    req.special = cmd
    return scsi_setup_cmnd(req.q.queuedata, req)


def scsi_setup_cmnd(sdev: ScsiDevice, req: Request) -> int:
    if blk_rq_is_passthrough(req):
        return scsi_setup_scsi_cmnd(sdev, req)
    return scsi_setup_fs_cmnd(sdev, req)


def scsi_setup_scsi_cmnd(sdev: ScsiDevice, req: Request) -> int:
    """The program has written the command block."""
    cmd: ScsiCmnd = req.special
    assert cmd.req is not None
    ret = scsi_init_io(cmd)
    cmd.cmnd = cmd.req.cmd
    cmd.transfersize = req.data_len
    cmd.allowed = 0
    return ret


def scsi_setup_fs_cmnd(sdev: ScsiDevice, req: Request) -> int:
    """The upper-level driver (sd) writes the command block."""
    assert req.rq_disk is not None or req.q.disk is not None
    disk = req.rq_disk or req.q.disk
    assert disk is not None
    sdkp: ScsiDisk = disk.private_data
    init_command: Callable[[ScsiDisk, ScsiCmnd], int] = sdev.sdev_gendev.data
    return init_command(sdkp, req.special)


def scsi_init_io(cmd: ScsiCmnd) -> int:
    """The memory of a command."""
    cmd.sdb = blk_rq_map_sg(cmd.request.q, cmd.request)
    return BLK_STS_OK


def scsi_dispatch_cmd(cmd: ScsiCmnd) -> int:
    """Hands a command to the host adapter. 0, or why it cannot take it."""
    cmd.device.iorequest_cnt += 1
    host = cmd.device.host
    return host.hostt.queuecommand(host, cmd)


# ---- up: completion --------------------------------------------------------------------------------------------
def scsi_mq_done(cmd: ScsiCmnd) -> None:
    """cmd.scsi_done: the host adapter is done. Context: irq."""
    blk_mq_complete_request(cmd.request)


def scsi_softirq_done(rq: Request) -> None:
    """->complete(). Context: softirq."""
    cmd: ScsiCmnd = rq.special
    cmd.device.iodone_cnt += 1
    if cmd.result:
        cmd.device.ioerr_cnt += 1
    disposition = scsi_decide_disposition(cmd)
    if disposition == NEEDS_RETRY and cmd.retries < cmd.allowed:
        cmd.retries += 1
        scsi_device_unbusy(cmd.device)
        blk_mq_requeue_request(rq, True)
        return
    scsi_finish_command(cmd)


def scsi_decide_disposition(scmd: ScsiCmnd) -> int:
    """SUCCESS: tell the block layer, good or bad; NEEDS_RETRY."""
    if scmd.result >> 16 & 0xFF:
        return SUCCESS
    if scmd.result & 0xFF == CHECK_CONDITION:
        return scsi_check_sense(scmd)
    return SUCCESS


def scsi_check_sense(scmd: ScsiCmnd) -> int:
    """What the device says about a failure becomes the host byte."""
    key, asc, ascq = scmd.sense_buffer
    host_byte = DID_OK
    if key == MEDIUM_ERROR:
        if asc not in (0x11, 0x13, 0x14):
            return NEEDS_RETRY
        host_byte = DID_MEDIUM_ERROR
    elif key == DATA_PROTECT and (asc, ascq) == (0x27, 7):
        host_byte = DID_ALLOC_FAILURE
    elif key in (HARDWARE_ERROR, DATA_PROTECT, ILLEGAL_REQUEST):
        host_byte = DID_TARGET_FAILURE
    scmd.result |= host_byte << 16
    return SUCCESS


def scsi_device_unbusy(sdev: ScsiDevice) -> None:
    sdev.host.host_busy -= 1
    sdev.device_busy -= 1


def scsi_finish_command(cmd: ScsiCmnd) -> None:
    """The command is over: how many bytes are good?"""
    scsi_device_unbusy(cmd.device)
    req = cmd.request
    good_bytes = req.data_len if not cmd.result else 0
    scsi_io_completion(cmd, good_bytes)


def scsi_result_to_blk_status(cmd: ScsiCmnd, result: int) -> int:
    """BLK_STS_* of a result."""
    host_byte = result >> 16 & 0xFF
    if host_byte == DID_OK:
        return BLK_STS_IOERR if result else BLK_STS_OK
    return {DID_TARGET_FAILURE: BLK_STS_TARGET, DID_ALLOC_FAILURE: BLK_STS_NOSPC, DID_MEDIUM_ERROR: BLK_STS_MEDIUM,
            DID_TIME_OUT: BLK_STS_TIMEOUT}.get(host_byte, BLK_STS_IOERR)


def scsi_io_completion(cmd: ScsiCmnd, good_bytes: int) -> None:
    req = cmd.request
    status = scsi_result_to_blk_status(cmd, cmd.result) if cmd.result else BLK_STS_OK
    if cmd.req is not None:                        # who sent it looks at the result
        cmd.req.result = cmd.result
        cmd.req.resid_len = cmd.resid
        if cmd.result & 0xFF == CHECK_CONDITION:
            cmd.req.sense = cmd.sense_buffer
        scsi_end_request(req, BLK_STS_OK, req.data_len)
        return
    if status == BLK_STS_OK:
        scsi_end_request(req, BLK_STS_OK, good_bytes)
        return
    if not req.rq_flags & RQF_QUIET:
        scsi_print_result(cmd)
    scsi_end_request(req, status, req.data_len)


def scsi_end_request(req: Request, error: int, nbytes: int) -> bool:
    """Ends the request, and lets the queue go on. True if a part of it is left."""
    q = req.q
    if blk_update_request(req, error, nbytes):
        return True
    req.special = None
    req.rq_flags &= ~RQF_DONTPREP
    __blk_mq_end_request(req, error)
    blk_mq_run_hw_queues(q, True)
    return False


@notrace
def scsi_print_result(cmd: ScsiCmnd) -> None:
    disk = cmd.request.rq_disk
    name = f"[{disk.disk_name.decode()}] " if disk is not None else ""
    prefix = f"sd {cmd.device.address}: {name}tag#{cmd.tag} "
    kernel = cmd.device.host.kernel
    host = {DID_OK: "DID_OK", DID_TARGET_FAILURE: "DID_TARGET_FAILURE", DID_ALLOC_FAILURE: "DID_ALLOC_FAILURE",
            DID_MEDIUM_ERROR: "DID_MEDIUM_ERROR", DID_TIME_OUT: "DID_TIME_OUT"}.get(cmd.result >> 16 & 0xFF, "invalid")
    kernel.printk(f"{prefix}FAILED Result: hostbyte={host} driverbyte=DRIVER_SENSE", 6)
    kernel.printk(f"{prefix}CDB: {cmd.cmnd.hex(' ')}", 6)


def scsi_times_out(req: Request) -> bool:
    """->timeout(): the command is taken back and fails."""
    cmd: ScsiCmnd = req.special
    host = cmd.device.host
    if host.hostt.eh_abort_handler is not None and not host.hostt.eh_abort_handler(cmd):
        return False
    cmd.result = DID_TIME_OUT << 16
    blk_mq_complete_request(req)
    return True


scsi_mq_ops = BlkMqOps(queue_rq=scsi_queue_rq, complete=scsi_softirq_done, get_budget=scsi_mq_get_budget,
                       put_budget=scsi_mq_put_budget, timeout=scsi_times_out)


# ---- setting up ---------------------------------------------------------------------------------------------------
def scsi_mq_setup_tags(shost: ScsiHost, nr_hw_queues: int) -> None:
    shost.tag_set = BlkMqTagSet(scsi_mq_ops, nr_hw_queues, shost.can_queue, driver_data=shost)
    blk_mq_alloc_tag_set(shost.kernel, shost.tag_set)


def scsi_mq_alloc_queue(sdev: ScsiDevice) -> RequestQueue:
    """The device's request queue, with the limits of its host adapter."""
    q = sdev.request_queue = blk_mq_init_queue(sdev.host.kernel, sdev.host.tag_set)
    q.queuedata = sdev
    __scsi_init_queue(sdev.host, q)
    return q


def __scsi_init_queue(shost: ScsiHost, q: RequestQueue) -> None:
    q.limits.max_segments = shost.hostt.sg_tablesize
    q.limits.max_segment_size = 65536
    blk_queue_max_hw_sectors(q, shost.hostt.max_sectors)
