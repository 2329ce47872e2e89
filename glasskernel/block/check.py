"""Invariants of the block layer, for tests."""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.genhd import disk_part_iter
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def check_block(kernel: Kernel) -> list[str]:
    """Everything that is wrong, in words. Nobody does I/O, so that every queue must be empty."""
    wrong: list[str] = []
    for task in kernel.tasks:
        if task.plug is not None and task.plug.mq_list:
            wrong.append(f"{task!r} has requests in its plug")
        if task.bio_list is not None:
            wrong.append(f"{task!r} is inside generic_make_request()")
    for cpu, done in enumerate(kernel.block.blk_cpu_done):
        if done:
            wrong.append(f"CPU {cpu} has {len(done)} completed requests that nobody ends")
    for disk in kernel.block.disks:
        q = disk.queue
        if q.q_usage_counter or q.mq_freeze_depth:
            wrong.append(f"{disk!r}: {q.q_usage_counter} users of its queue, frozen {q.mq_freeze_depth} times")
        for part in disk_part_iter(disk, True):
            if part.in_flight != [0, 0]:
                wrong.append(f"{disk!r}: partition {part.partno} has {part.in_flight} requests in flight")
        if q.requeue_list:
            wrong.append(f"{disk!r}: {len(q.requeue_list)} requests wait to be queued again")
        for hctx in q.queue_hw_ctx:
            if hctx.dispatch or hctx.ctx_map or any(ctx.rq_list for ctx in hctx.ctxs):
                wrong.append(f"{disk!r}: hardware queue {hctx.queue_num} has requests")
            for tags in (hctx.tags, hctx.sched_tags):
                if tags is not None and any(rq is not None for rq in tags.rqs):
                    wrong.append(f"{disk!r}: tags are in use: {[rq for rq in tags.rqs if rq is not None]}")
            if q.elevator is not None and q.elevator.type.has_work(hctx):
                wrong.append(f"{disk!r}: {q.elevator.type.elevator_name.decode()} has requests")
        if q.elevator is not None and q.elevator.hash:
            wrong.append(f"{disk!r}: requests are in the scheduler's hash")
    return wrong


@notrace
def frames_of_ram_disks(kernel: Kernel) -> set[int]:
    """The frames that brd holds."""
    return {pfn for disk in kernel.block.disks for pfn in getattr(disk.private_data, "brd_pages", {}).values()}
