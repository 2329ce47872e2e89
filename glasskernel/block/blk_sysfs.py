"""/sys/block/X/queue, queue/iosched and mq.

Linux: block/blk-sysfs.c, block/blk-mq-sysfs.c, elv_register_queue() of block/elevator.c (5.3).
Same: names, formats, which can be written; a write that is too large or not a number answers EINVAL.
Gaps: zoned devices, dax, io_poll, wbt_lat_usec (no writeback throttling).
Owns: q.kobj, q.mq_kobj, e.kobj. Context: task.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.block.blk_core import blk_queue_write_cache
from glasskernel.block.blk_mq import blk_mq_update_nr_requests
from glasskernel.block.blk_types import (
    QUEUE_FLAG_ADD_RANDOM,
    QUEUE_FLAG_FUA,
    QUEUE_FLAG_IO_STAT,
    QUEUE_FLAG_NOMERGES,
    QUEUE_FLAG_NONROT,
    QUEUE_FLAG_NOXMERGES,
    QUEUE_FLAG_SAME_COMP,
    QUEUE_FLAG_SAME_FORCE,
    QUEUE_FLAG_WC,
    ElevatorQueue,
    ElvFsEntry,
    Gendisk,
    RequestQueue,
)
from glasskernel.block.elevator import elv_iosched_show, elv_iosched_store
from glasskernel.fs.sysfs.kobject import (
    Attribute,
    Kobject,
    kobject_add,
    kobject_create_and_add,
    kobject_del,
    sysfs_create_file,
)
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.drivers.base.core import Device

BLKDEV_MIN_RQ = 4


@notrace
def _q(kobj: Kobject) -> RequestQueue:
    q: RequestQueue = kobj.data
    return q


@notrace
def queue_var_store(text: bytes) -> int:
    """A decimal number. Raises EINVAL."""
    text = text.strip()
    if not text.isdigit() or len(text) > 19:
        raise KernelError(EINVAL)
    return int(text)


# ---- values with a meaning -----------------------------------------------------------------------------------
def queue_requests_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _q(kobj).nr_requests


def queue_requests_store(kobj: Kobject, text: bytes) -> None:
    q = _q(kobj)
    if q.mq_ops is None:
        raise KernelError(EINVAL)
    blk_mq_update_nr_requests(q, max(queue_var_store(text), BLKDEV_MIN_RQ))


def queue_ra_show(kobj: Kobject) -> bytes:
    return b"%d\n" % (_q(kobj).backing_dev_info.ra_pages << 2)


def queue_ra_store(kobj: Kobject, text: bytes) -> None:
    _q(kobj).backing_dev_info.ra_pages = queue_var_store(text) >> 2


def queue_max_sectors_show(kobj: Kobject) -> bytes:
    return b"%d\n" % (_q(kobj).limits.max_sectors >> 1)


def queue_max_sectors_store(kobj: Kobject, text: bytes) -> None:
    q = _q(kobj)
    kb = queue_var_store(text)
    if not 4 <= kb <= q.limits.max_hw_sectors >> 1:
        raise KernelError(EINVAL)
    q.limits.max_sectors = kb << 1
    q.backing_dev_info.io_pages = kb >> 2


def queue_nomerges_show(kobj: Kobject) -> bytes:
    flags = _q(kobj).queue_flags
    return b"%d\n" % (2 if flags & QUEUE_FLAG_NOMERGES else 1 if flags & QUEUE_FLAG_NOXMERGES else 0)


def queue_nomerges_store(kobj: Kobject, text: bytes) -> None:
    q = _q(kobj)
    nm = queue_var_store(text)
    q.queue_flags &= ~(QUEUE_FLAG_NOMERGES | QUEUE_FLAG_NOXMERGES)
    if nm == 2:
        q.queue_flags |= QUEUE_FLAG_NOMERGES
    elif nm:
        q.queue_flags |= QUEUE_FLAG_NOXMERGES


def queue_rq_affinity_show(kobj: Kobject) -> bytes:
    flags = _q(kobj).queue_flags
    return b"%d\n" % (bool(flags & QUEUE_FLAG_SAME_COMP) << bool(flags & QUEUE_FLAG_SAME_FORCE))


def queue_rq_affinity_store(kobj: Kobject, text: bytes) -> None:
    q = _q(kobj)
    value = queue_var_store(text)
    q.queue_flags &= ~(QUEUE_FLAG_SAME_COMP | QUEUE_FLAG_SAME_FORCE)
    if value:
        q.queue_flags |= QUEUE_FLAG_SAME_COMP | (QUEUE_FLAG_SAME_FORCE if value == 2 else 0)


def queue_wc_show(kobj: Kobject) -> bytes:
    return b"write back\n" if _q(kobj).queue_flags & QUEUE_FLAG_WC else b"write through\n"


def queue_wc_store(kobj: Kobject, text: bytes) -> None:
    """What the kernel believes of the device's cache; the device itself does not change."""
    value = text.strip()
    if value not in (b"write back", b"write through", b"none"):
        raise KernelError(EINVAL)
    q = _q(kobj)
    blk_queue_write_cache(q, value == b"write back", bool(q.queue_flags & QUEUE_FLAG_FUA))


def queue_fua_show(kobj: Kobject) -> bytes:
    return b"%d\n" % bool(_q(kobj).queue_flags & QUEUE_FLAG_FUA)


def queue_scheduler_show(kobj: Kobject) -> bytes:
    return elv_iosched_show(_q(kobj))


def queue_scheduler_store(kobj: Kobject, text: bytes) -> None:
    """Raises EINVAL for a scheduler that there is not."""
    q = _q(kobj)
    mutex_lock(q.sysfs_lock)
    try:
        elv_iosched_store(q, text)
    finally:
        mutex_unlock(q.sysfs_lock)


def queue_discard_max_store(kobj: Kobject, text: bytes) -> None:
    limits = _q(kobj).limits
    value = queue_var_store(text)
    if value & (limits.discard_granularity - 1 if limits.discard_granularity else 511):
        raise KernelError(EINVAL)
    limits.max_discard_sectors = min(value >> 9, limits.max_hw_discard_sectors)


def queue_io_timeout_show(kobj: Kobject) -> bytes:
    return b"%d\n" % (_q(kobj).rq_timeout * 4)


def queue_io_timeout_store(kobj: Kobject, text: bytes) -> None:
    value = queue_var_store(text)
    if not value:
        raise KernelError(EINVAL)
    _q(kobj).rq_timeout = max(value // 4, 1)


@notrace
def _flag(name: bytes, flag: int, inverted: bool = False) -> Attribute:
    def show(kobj: Kobject) -> bytes:
        return b"%d\n" % (bool(_q(kobj).queue_flags & flag) != inverted)

    def store(kobj: Kobject, text: bytes) -> None:
        q = _q(kobj)
        if bool(queue_var_store(text)) != inverted:
            q.queue_flags |= flag
        else:
            q.queue_flags &= ~flag

    return Attribute(name, show, store, 0o644)


@notrace
def _number(name: bytes, value: Callable[[RequestQueue], int]) -> Attribute:
    return Attribute(name, lambda kobj: b"%d\n" % value(_q(kobj)))


_QUEUE_ATTRS = (
    Attribute(b"nr_requests", queue_requests_show, queue_requests_store, 0o644),
    Attribute(b"read_ahead_kb", queue_ra_show, queue_ra_store, 0o644),
    _number(b"max_hw_sectors_kb", lambda q: q.limits.max_hw_sectors >> 1),
    Attribute(b"max_sectors_kb", queue_max_sectors_show, queue_max_sectors_store, 0o644),
    _number(b"max_segments", lambda q: q.limits.max_segments),
    _number(b"max_discard_segments", lambda q: q.limits.max_discard_segments),
    _number(b"max_integrity_segments", lambda q: 0),
    _number(b"max_segment_size", lambda q: q.limits.max_segment_size),
    Attribute(b"scheduler", queue_scheduler_show, queue_scheduler_store, 0o644),
    _number(b"hw_sector_size", lambda q: q.limits.logical_block_size),
    _number(b"logical_block_size", lambda q: q.limits.logical_block_size),
    _number(b"physical_block_size", lambda q: q.limits.physical_block_size),
    _number(b"chunk_sectors", lambda q: q.limits.chunk_sectors),
    _number(b"minimum_io_size", lambda q: q.limits.io_min),
    _number(b"optimal_io_size", lambda q: q.limits.io_opt),
    _number(b"discard_granularity", lambda q: q.limits.discard_granularity),
    Attribute(
        b"discard_max_bytes",
        lambda k: b"%d\n" % (_q(k).limits.max_discard_sectors << 9),
        queue_discard_max_store,
        0o644,
    ),
    _number(b"discard_max_hw_bytes", lambda q: q.limits.max_hw_discard_sectors << 9),
    _number(b"discard_zeroes_data", lambda q: 0),
    _number(b"write_same_max_bytes", lambda q: q.limits.max_write_same_sectors << 9),
    _number(b"write_zeroes_max_bytes", lambda q: q.limits.max_write_zeroes_sectors << 9),
    _flag(b"rotational", QUEUE_FLAG_NONROT, inverted=True),
    Attribute(b"zoned", lambda k: b"none\n"),
    _number(b"nr_zones", lambda q: 0),
    Attribute(b"nomerges", queue_nomerges_show, queue_nomerges_store, 0o644),
    Attribute(b"rq_affinity", queue_rq_affinity_show, queue_rq_affinity_store, 0o644),
    _flag(b"iostats", QUEUE_FLAG_IO_STAT),
    _flag(b"add_random", QUEUE_FLAG_ADD_RANDOM),
    Attribute(b"write_cache", queue_wc_show, queue_wc_store, 0o644),
    Attribute(b"fua", queue_fua_show),
    _number(b"dax", lambda q: 0),
    Attribute(b"io_timeout", queue_io_timeout_show, queue_io_timeout_store, 0o644),
)


# ---- the scheduler's attributes -------------------------------------------------------------------------------
@notrace
def _elv_attr(e: ElevatorQueue, entry: ElvFsEntry) -> Attribute:
    store = entry.store
    return Attribute(
        entry.name,
        lambda _k: entry.show(e),
        (lambda _k, text: store(e, text)) if store is not None else None,
        0o644 if store is not None else 0o444,
    )


def elv_register_queue(q: RequestQueue) -> None:
    """queue/iosched with what can be tuned."""
    e = q.elevator
    if e is None or q.kobj is None:
        return
    e.kobj = Kobject(q.kernel, b"iosched", q.kobj)
    kobject_add(e.kobj)
    for entry in e.type.elevator_attrs:
        sysfs_create_file(e.kobj, _elv_attr(e, entry))
    e.registered = True


def elv_unregister_queue(q: RequestQueue) -> None:
    e = q.elevator
    if e is not None and e.registered:
        kobject_del(e.kobj)
        e.registered = False


# ---- registering ------------------------------------------------------------------------------------------------
@may_sleep
def blk_register_queue(disk: Gendisk) -> None:
    """The disk's queue and mq directories."""
    q = disk.queue
    device: Device = disk.part0.device
    q.kobj = kobject_create_and_add(b"queue", device.kobj)
    q.kobj.data = q
    for attr in _QUEUE_ATTRS:
        sysfs_create_file(q.kobj, attr)
    if q.mq_ops is not None:
        blk_mq_register_dev(q, device.kobj)
    if q.elevator is not None:
        elv_register_queue(q)


def blk_mq_register_dev(q: RequestQueue, parent: Kobject) -> None:
    """mq/N for each hardware queue."""
    q.mq_kobj = kobject_create_and_add(b"mq", parent)
    for hctx in q.queue_hw_ctx:
        hctx.kobj = kobject_create_and_add(b"%d" % hctx.queue_num, q.mq_kobj)
        cpus = b", ".join(b"%d" % cpu for cpu in hctx.cpumask)
        depth = hctx.tags.nr_tags
        for name, text in ((b"nr_tags", b"%d\n" % depth), (b"nr_reserved_tags", b"0\n"), (b"cpu_list", cpus + b"\n")):
            sysfs_create_file(hctx.kobj, Attribute(name, lambda _k, text=text: text))  # type: ignore[misc]
        for cpu in hctx.cpumask:
            kobject_create_and_add(b"cpu%d" % cpu, hctx.kobj)


@may_sleep
def blk_unregister_queue(disk: Gendisk) -> None:
    q = disk.queue
    if q.kobj is None:
        return
    elv_unregister_queue(q)
    for kobj in (q.mq_kobj, q.kobj):
        if kobj is not None:
            with suppress(KernelError):
                kobject_del(kobj)
    q.kobj = q.mq_kobj = None
