"""The buffer that samples go through to user space: written by the kernel, mapped by the program.

Linux: kernel/events/ring_buffer.c (5.3). Same: data_head counts on for ever, data_tail is the reader's; what does not
    fit is counted and told by a record once there is room again; a reader is woken at the watermark or after
    wakeup_events samples; backward buffers and such that may be overwritten (mapped read-only).
Differs: nothing interrupts a writer, so a record is put there in one go.
Gaps: the AUX area.
Owns: RingBuffer and its frames. Context: output in any; the rest: task.
Invariants: head - tail <= size unless it may be overwritten; the head is published behind the bytes.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.fs.fcntl_signal import kill_fasync
from glasskernel.kernel.events.types import (
    PERF_RECORD_LOST,
    SAMPLE_ID_ALL,
    WATERMARK,
    WRITE_BACKWARD,
    PerfEvent,
    RingBuffer,
)
from glasskernel.kernel.irq_work import irq_work_queue
from glasskernel.kernel.sched.wait import wake_up_poll
from glasskernel.kernel.signal_types import SIGIO
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import get_zeroed_page, put_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel

PAGE_SIZE = 4096
GFP_KERNEL = 0xCC0
EPOLLIN = 1
POLL_HUP = 6
# struct perf_event_mmap_page
_DATA_HEAD, _DATA_TAIL, _DATA_OFFSET, _DATA_SIZE = 1024, 1032, 1040, 1048
_LOCK, _INDEX, _OFFSET, _CAPABILITIES, _SIZE = 8, 12, 16, 40, 72
_CAP_BIT0_IS_DEPRECATED = 2
_HEADER_SIZE = 76
_LOST, _U64 = Struct("<IHHQQ"), Struct("<Q")


# ---- memory ------------------------------------------------------------------------------------------------------
def rb_alloc(kernel: Kernel, nr_pages: int, watermark: int, overwrite: bool) -> RingBuffer:
    """A buffer of so many pages (a power of two, or none) behind the control page. Raises ENOMEM."""
    pages: list[int] = []
    try:
        user_page = get_zeroed_page(kernel, GFP_KERNEL)
        pages.append(user_page)
        for _ in range(nr_pages):
            pages.append(get_zeroed_page(kernel, GFP_KERNEL))
    except KernelError:
        for pfn in pages:
            put_page(kernel, pfn)
        raise
    size = nr_pages * PAGE_SIZE
    watermark = min(size, watermark) or size // 2
    return RingBuffer(user_page, pages[1:], overwrite, watermark)


def rb_free(kernel: Kernel, rb: RingBuffer) -> None:
    for pfn in (rb.user_page, *rb.pages):
        put_page(kernel, pfn)


def ring_buffer_put(kernel: Kernel, rb: RingBuffer) -> None:
    """A user of the buffer less; the last one frees it."""
    rb.refcount -= 1
    if not rb.refcount:
        rb_free(kernel, rb)


def ring_buffer_attach(event: PerfEvent, rb: RingBuffer | None) -> None:
    """From now on the event writes there (None: nowhere). Takes a reference, drops that of the buffer before."""
    old = event.rb
    if old is rb:
        return
    if old is not None:
        old.event_list.remove(event)
    event.rb = rb
    if rb is not None:
        rb.refcount += 1
        rb.event_list.append(event)
    if old is not None:
        ring_buffer_put(event.kernel, old)
        wake_up_poll(event.waitq, EPOLLIN)          # whoever waits shall look at the new buffer


# ---- the control page --------------------------------------------------------------------------------------------
@notrace
def _user_u64(kernel: Kernel, rb: RingBuffer, offset: int) -> int:
    return kernel.mem.ram64[(rb.user_page << 12) + offset >> 3]


@notrace
def _set_user(kernel: Kernel, rb: RingBuffer, offset: int, data: bytes) -> None:
    start = (rb.user_page << 12) + offset
    kernel.mem.ram[start : start + len(data)] = data


def perf_event_init_userpage(event: PerfEvent) -> None:
    rb = event.rb
    assert rb is not None
    kernel = event.kernel
    _set_user(kernel, rb, _CAPABILITIES, _U64.pack(_CAP_BIT0_IS_DEPRECATED))
    _set_user(kernel, rb, _SIZE, _HEADER_SIZE.to_bytes(4, "little"))
    _set_user(kernel, rb, _DATA_OFFSET, _U64.pack(PAGE_SIZE) + _U64.pack(len(rb.pages) * PAGE_SIZE))


def perf_event_update_userpage(event: PerfEvent, count: int, enabled: int, running: int) -> None:
    """What a program may read without a system call: count, times."""
    rb = event.rb
    if rb is None:
        return
    kernel = event.kernel
    lock = int.from_bytes(kernel.mem.ram[(rb.user_page << 12) + _LOCK : (rb.user_page << 12) + _INDEX], "little")
    _set_user(kernel, rb, _OFFSET, b"".join(_U64.pack(n & (1 << 64) - 1) for n in (count, enabled, running)))
    _set_user(kernel, rb, _LOCK, (lock + 2 & 0xFFFF_FFFF).to_bytes(4, "little"))


# ---- output ------------------------------------------------------------------------------------------------------
@notrace
def _copy(kernel: Kernel, rb: RingBuffer, position: int, data: bytes) -> None:
    """__output_copy(): bytes into the ring, page by page."""
    ram, pages = kernel.mem.ram, rb.pages
    at, mask = 0, len(pages) - 1
    while at < len(data):
        offset = position & PAGE_SIZE - 1
        size = min(PAGE_SIZE - offset, len(data) - at)
        start = (pages[position >> 12 & mask] << 12) + offset
        ram[start : start + size] = data[at : at + size]
        at += size
        position += size


def perf_output_begin(event: PerfEvent, size: int, sample_id: Callable[[PerfEvent], bytes]) -> tuple[RingBuffer,
                                                                                               int, bytes] | None:
    """Room for a record: (buffer, where, what goes before it). None: there is no buffer, or no room (then it is
    counted). sample_id(event): what ends a record of the kernel's own."""
    if event.parent is not None:
        event = event.parent
    rb = event.rb
    if rb is None:
        return None
    if rb.paused or not rb.pages:
        if rb.pages:
            rb.lost += 1
        return None
    kernel = event.kernel
    before = b""
    if rb.lost:                                  # first tell what is missing
        tail_end = sample_id(event) if event.attr.flags & SAMPLE_ID_ALL else b""
        before = _LOST.pack(PERF_RECORD_LOST, 0, _LOST.size + len(tail_end), event.id, rb.lost) + tail_end
    size += len(before)
    total = len(rb.pages) * PAGE_SIZE
    backward = event.attr.flags & WRITE_BACKWARD
    if size >= total:
        rb.lost += 1
        return None
    if not rb.overwrite:
        used = rb.head - _user_u64(kernel, rb, _DATA_TAIL) & (1 << 64) - 1
        if backward:
            used = -used & (1 << 64) - 1
        if (total - 1 - used & total - 1) < size:
            rb.lost += 1
            return None
    position = rb.head
    if backward:
        position = rb.head = rb.head - size & (1 << 64) - 1
    else:
        rb.head += size
    rb.lost = 0
    return rb, position, before


def perf_output_end(event: PerfEvent, rb: RingBuffer, position: int, data: bytes, is_sample: bool) -> None:
    """Writes the record, publishes the head and wakes the reader if it is time."""
    kernel = event.kernel
    _copy(kernel, rb, position, data)
    wanted = False
    if is_sample and not event.attr.flags & WATERMARK and event.attr.wakeup_events:
        rb.events += 1
        if rb.events >= event.attr.wakeup_events:
            rb.events -= event.attr.wakeup_events
            wanted = True
    distance = rb.head - rb.wakeup if not event.attr.flags & WRITE_BACKWARD else rb.wakeup - rb.head
    if (distance & (1 << 64) - 1) > rb.watermark:
        rb.wakeup = rb.head
        wanted = True
    _set_user(kernel, rb, _DATA_HEAD, _U64.pack(rb.head))
    if wanted:
        perf_output_wakeup(event, rb)


def perf_output_wakeup(event: PerfEvent, rb: RingBuffer) -> None:
    """The reader shall come: through an interrupt, for this may be the scheduler itself."""
    rb.poll = EPOLLIN
    event.pending_wakeup = True
    queue_pending(event)


@notrace
def queue_pending(event: PerfEvent) -> None:
    """irq_work_queue(&event->pending)"""
    if not event.pending_queued:
        event.pending_queued = True
        irq_work_queue(event.kernel, lambda: perf_pending_event(event))


def perf_pending_event(event: PerfEvent) -> None:
    """Context: irq."""
    event.pending_queued = False
    if event.pending_disable:
        event.pending_disable = False
        state = event.kernel.perf_state
        assert state is not None
        state.event_disable(event)
    if event.pending_wakeup:
        event.pending_wakeup = False
        perf_event_wakeup(event)


def perf_event_wakeup(event: PerfEvent) -> None:
    ring_buffer_wakeup(event)
    if event.pending_kill:
        kill_fasync((event.parent or event).fasync, SIGIO, event.pending_kill)
        event.pending_kill = 0


def ring_buffer_wakeup(event: PerfEvent) -> None:
    """Everybody who waits for an event that writes to this buffer."""
    if event.parent is not None:
        event = event.parent
    if event.rb is None:
        wake_up_poll(event.waitq, EPOLLIN)
        return
    for other in event.rb.event_list:
        wake_up_poll(other.waitq, EPOLLIN)
