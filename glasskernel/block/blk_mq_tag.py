"""Tags: the numbers of requests, and waiting for one.

Linux: block/blk-mq-tag.c, lib/sbitmap.c (5.3). Same: a scheduler has tags of its own (internal_tag), the driver's are
    taken when a request is dispatched; who finds none runs the hardware queue, sleeps in io_schedule() and is woken by
    a free.
Differs: the bitmap is one integer and the lowest free number is taken; every waiter is on one queue; no reserved tags.
Owns: BlkMqTags. Invariant: bit n of `free` is set exactly if rqs[n] is None, for n < depth.
Gaps: fair sharing of tags between active queues (blk_mq_tag_busy).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_NOWAIT, BlkMqTags, Request
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import io_schedule
from glasskernel.kernel.sched.wait import WaitQueueEntry, WaitQueueHead, finish_wait, prepare_to_wait_exclusive, wake_up
from glasskernel.kernel.task import TASK_UNINTERRUPTIBLE
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.block.blk_types import BlkMqHwCtx


def blk_mq_init_tags(total_tags: int) -> BlkMqTags:
    """total_tags numbers, all free."""
    return BlkMqTags(total_tags, (1 << total_tags) - 1, [None] * total_tags, WaitQueueHead(), total_tags)


def __blk_mq_get_tag(tags: BlkMqTags, depth: int = 0) -> int:
    """A free number below `depth` (0: any), or -1. The number is taken; the caller sets rqs."""
    free = tags.free & (1 << (depth or tags.depth)) - 1
    if not free:
        return -1
    bit = free & -free
    tags.free ^= bit
    return bit.bit_length() - 1


@may_sleep
def blk_mq_get_tag(
    tags: BlkMqTags, op: int, depth: int, hctx: BlkMqHwCtx, run: Callable[[BlkMqHwCtx, bool], bool]
) -> int:
    """As above, but waits for one. -1 only with REQ_NOWAIT. run: blk_mq_run_hw_queue()."""
    tag = __blk_mq_get_tag(tags, depth)
    if tag >= 0 or op & REQ_NOWAIT:
        return tag
    wait = WaitQueueEntry(None, register.task)
    while True:
        run(hctx, False)                       # what is queued may be all that holds tags
        tag = __blk_mq_get_tag(tags, depth)
        if tag >= 0:
            break
        prepare_to_wait_exclusive(tags.wait, wait, TASK_UNINTERRUPTIBLE)
        tag = __blk_mq_get_tag(tags, depth)
        if tag >= 0:
            break
        io_schedule()
        finish_wait(tags.wait, wait)
        wait = WaitQueueEntry(None, register.task)
    finish_wait(tags.wait, wait)
    return tag


def blk_mq_put_tag(tags: BlkMqTags, tag: int) -> None:
    """Gives a number back."""
    tags.rqs[tag] = None
    tags.free |= 1 << tag
    if tags.wait.entries:
        wake_up(tags.wait)


def blk_mq_tag_update_depth(tags: BlkMqTags, depth: int) -> None:
    """Only the first `depth` numbers are given out from now on; more than there were makes new ones."""
    if depth > tags.nr_tags:
        tags.rqs += [None] * (depth - tags.nr_tags)
        tags.free |= (1 << depth) - (1 << tags.nr_tags)
        tags.nr_tags = depth
    tags.depth = depth
    if tags.wait.entries:
        wake_up(tags.wait)


@notrace
def blk_mq_tags_busy(tags: BlkMqTags) -> list[Request]:
    """Who has a number (blk_mq_tagset_busy_iter)."""
    return [rq for rq in tags.rqs if rq is not None]
