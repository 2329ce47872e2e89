"""Ring buffers of trace records: a ring of pages for every CPU.

Linux: kernel/trace/ring_buffer.c (5.3). Same: the binary format of a page (time stamp, commit, records with a
    27-bit time delta, time extends, padding), the reader page that is swapped out of the ring, overwrite and
    producer/consumer mode, the counts of what was lost, resizing, swapping of whole CPUs.
Differs: pages are bytearrays, made when they are written first; no nesting: a record is reserved, filled and
    committed by one call, so commit_page is always tail_page. Absolute time stamps are not used; the first record
    of a page needs no time extend (as in 5.10).
Owns: RingBuffer and its pages. Context: any; nothing here sleeps (waiting: trace_pipe.py).
Invariants: entries in the pages between head_page and tail_page, and on reader_page behind `read`, are what is
    unread; entries = overrun + read + unread; a page's commit never exceeds BUF_PAGE_SIZE.
"""
from __future__ import annotations

from struct import Struct

from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.errno import EBUSY, EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

PAGE_SIZE = 4096
BUF_PAGE_HDR_SIZE = 16                           # u64 time_stamp; local_t commit
BUF_PAGE_SIZE = PAGE_SIZE - BUF_PAGE_HDR_SIZE
RINGBUF_TYPE_DATA_TYPE_LEN_MAX = 28
RINGBUF_TYPE_PADDING, RINGBUF_TYPE_TIME_EXTEND, RINGBUF_TYPE_TIME_STAMP = 29, 30, 31
RB_EVNT_HDR_SIZE, RB_ALIGNMENT, RB_MAX_SMALL_DATA, RB_EVNT_MIN_SIZE, RB_LEN_TIME_EXTEND = 4, 4, 112, 8, 8
BUF_MAX_DATA_SIZE = BUF_PAGE_SIZE - 8            # minus header and length word
TS_SHIFT = 27
TS_MASK = (1 << TS_SHIFT) - 1
RB_MISSED_EVENTS, RB_MISSED_STORED = 1 << 31, 1 << 30
RB_FL_OVERWRITE = 1
RING_BUFFER_ALL_CPUS = -1

_WORD, _TWO_WORDS, _HEADER = Struct("<I"), Struct("<II"), Struct("<QQ")


class BufferPage:
    """struct buffer_page, and its page. write: end of what is committed. read: up to where it was read."""

    __slots__ = ("commit", "data", "entries", "next", "prev", "read", "time_stamp")

    def __init__(self) -> None:
        self.data = bytearray()                  # the records only; BUF_PAGE_SIZE bytes once written to
        self.commit = 0
        self.read = 0
        self.entries = 0
        self.time_stamp = 0
        self.next: BufferPage = self
        self.prev: BufferPage = self

    def reset(self) -> None:
        self.commit = self.read = self.entries = self.time_stamp = 0


class RingBufferPerCpu:
    """struct ring_buffer_per_cpu."""

    __slots__ = ("buffer", "commit_overrun", "cpu", "dropped_events", "entries", "entries_bytes", "head_page",
                 "last_overrun",
                 "lost_events", "nr_pages", "overrun", "read", "read_bytes", "read_stamp", "reader_page",
                 "record_disabled",
                 "shortest_full", "tail_page", "waiters", "waiters_pending", "write_stamp")

    entries: int
    overrun: int
    commit_overrun: int
    dropped_events: int
    read: int
    read_bytes: int
    entries_bytes: int
    write_stamp: int
    read_stamp: int
    lost_events: int
    last_overrun: int

    def __init__(self, buffer: RingBuffer, cpu: int, nr_pages: int) -> None:
        self.buffer = buffer
        self.cpu = cpu
        self.record_disabled = 0
        self.waiters = WaitQueueHead()
        self.waiters_pending = False             # somebody waits here: the next record wakes
        self.shortest_full = 0                   # somebody waits until so many per cent of the pages are full
        self.reader_page = BufferPage()
        self.nr_pages = nr_pages
        self.head_page = self.tail_page = _ring_of(nr_pages)
        rb_reset_cpu(self)


class RingBuffer:
    """struct ring_buffer. irq_work: who waits for records of any CPU, waiters_pending says that somebody does."""

    __slots__ = ("buffers", "cpus", "flags", "irq_work", "off", "record_disabled", "time_start", "waiters_pending")

    def __init__(self, cpus: int, size: int, flags: int = RB_FL_OVERWRITE) -> None:
        self.cpus = cpus
        self.flags = flags
        self.record_disabled = 0
        self.off = False                         # RB_BUFFER_OFF: tracing_on
        self.time_start = 0                      # trace_buffer.time_start: records from before do not show
        self.irq_work = WaitQueueHead()
        self.waiters_pending = False
        nr_pages = max(-(-size // BUF_PAGE_SIZE), 2)
        self.buffers = [RingBufferPerCpu(self, cpu, nr_pages) for cpu in range(cpus)]


@slotted
class RingBufferEvent:
    """A record that was read. data: behind the ring buffer's own header. lost: records lost before it."""

    ts: int
    data: bytes
    lost: int = 0


@notrace
def _ring_of(count: int) -> BufferPage:
    first = last = BufferPage()
    for _ in range(count - 1):
        page = BufferPage()
        last.next, page.prev = page, last
        last = page
    last.next, first.prev = first, last
    return first


def ring_buffer_alloc(cpus: int, size: int, flags: int) -> RingBuffer:
    """A buffer of at least `size` bytes for each CPU."""
    return RingBuffer(cpus, size, flags)


# ---- writing -----------------------------------------------------------------------------------------------------
def ring_buffer_write(cpu_buffer: RingBufferPerCpu, ts: int, data: bytes) -> bool:
    """Appends a record. ts: never less than the last one's. False: it was dropped (no room, too long, switched off)."""
    buffer = cpu_buffer.buffer
    if buffer.off or buffer.record_disabled or cpu_buffer.record_disabled:
        return False
    length = len(data)
    if length > RB_MAX_SMALL_DATA:               # rb_calculate_event_length()
        if length > BUF_MAX_DATA_SIZE:
            return False
        size = length + 11 & ~3
    else:
        size = length + 7 & ~3
        if size < 12:                            # never as short as a time extend
            size = 12
    page = cpu_buffer.tail_page
    delta = ts - cpu_buffer.write_stamp
    tail = page.commit
    extend = RB_LEN_TIME_EXTEND if delta > TS_MASK else 0
    if tail + size + extend > BUF_PAGE_SIZE:
        moved = rb_move_tail(cpu_buffer, page)
        if moved is None:
            return False
        page, tail = moved, 0
    if not tail:                                 # the page's own stamp is the record's
        page.time_stamp = ts
        delta = extend = 0
        if not page.data:
            page.data = bytearray(BUF_PAGE_SIZE)
    memory = page.data
    at = tail
    if extend:
        _TWO_WORDS.pack_into(memory, at, RINGBUF_TYPE_TIME_EXTEND | (delta & TS_MASK) << 5, delta >> TS_SHIFT)
        at += RB_LEN_TIME_EXTEND
        delta = 0
    if length > RB_MAX_SMALL_DATA:
        _TWO_WORDS.pack_into(memory, at, delta << 5, size - RB_EVNT_HDR_SIZE)
        start = at + 8
    else:
        _WORD.pack_into(memory, at, size - RB_EVNT_HDR_SIZE >> 2 | delta << 5)
        start = at + 4
    memory[start : start + length] = data
    at += size
    if start + length != at:
        memory[start + length : at] = bytes(at - start - length)
    page.commit = at
    page.entries += 1
    cpu_buffer.entries += 1
    cpu_buffer.entries_bytes += at - tail
    cpu_buffer.write_stamp = ts
    return True


def rb_move_tail(cpu_buffer: RingBufferPerCpu, tail_page: BufferPage) -> BufferPage | None:
    """The page that follows, empty; None: the ring is full and must not be overwritten."""
    next_page = tail_page.next
    if next_page is cpu_buffer.head_page and tail_page is not cpu_buffer.reader_page:
        if not cpu_buffer.buffer.flags & RB_FL_OVERWRITE:
            cpu_buffer.dropped_events += 1
            return None
        rb_handle_head_page(cpu_buffer, next_page)
    cpu_buffer.entries_bytes += BUF_PAGE_SIZE - tail_page.commit
    _reset_tail(tail_page)
    next_page.reset()
    cpu_buffer.tail_page = next_page
    full = cpu_buffer.shortest_full
    if full and ring_buffer_nr_dirty_pages(cpu_buffer) * 100 > full * cpu_buffer.nr_pages:
        cpu_buffer.shortest_full = 0
        cpu_buffer.waiters_pending = True
    return next_page


def rb_handle_head_page(cpu_buffer: RingBufferPerCpu, page: BufferPage) -> None:
    """The oldest page is about to be overwritten: its records are lost."""
    cpu_buffer.overrun += page.entries
    cpu_buffer.entries_bytes -= BUF_PAGE_SIZE
    cpu_buffer.head_page = page.next


@notrace
def _reset_tail(page: BufferPage) -> None:
    """rb_reset_tail(): what is left of a page becomes padding, which no reader is shown."""
    tail = page.commit
    left = BUF_PAGE_SIZE - tail
    if left <= 0 or not page.data:
        return
    if left < RB_EVNT_MIN_SIZE:
        _WORD.pack_into(page.data, tail, RINGBUF_TYPE_PADDING)
    else:
        _TWO_WORDS.pack_into(page.data, tail, RINGBUF_TYPE_PADDING | 1 << 5, left - RB_EVNT_HDR_SIZE)


# ---- reading -----------------------------------------------------------------------------------------------------
@notrace
def rb_event_length(memory: bytearray, at: int) -> int:
    """The size of the record at a place, with its header."""
    word: int = _WORD.unpack_from(memory, at)[0]
    type_len = word & 31
    if 0 < type_len <= RINGBUF_TYPE_DATA_TYPE_LEN_MAX:
        return RB_EVNT_HDR_SIZE + 4 * type_len
    if type_len in (RINGBUF_TYPE_TIME_EXTEND, RINGBUF_TYPE_TIME_STAMP):
        return RB_LEN_TIME_EXTEND
    if type_len == RINGBUF_TYPE_PADDING and not word >> 5:
        return BUF_PAGE_SIZE - at
    return RB_EVNT_HDR_SIZE + int(_WORD.unpack_from(memory, at + 4)[0])


@notrace
def rb_event_ts_length(memory: bytearray, at: int) -> int:
    """The same, together with the record that a time extend belongs to."""
    size = rb_event_length(memory, at)
    if memory[at] & 31 == RINGBUF_TYPE_TIME_EXTEND:
        size += rb_event_length(memory, at + size)
    return size


@notrace
def rb_event_at(memory: bytearray, at: int, stamp: int) -> tuple[int, int, int, int]:
    """(stamp, start of data, its end, where the next record begins) of the record at a place. stamp: of the one
    before."""
    word, second = _TWO_WORDS.unpack_from(memory, at) if at + 8 <= BUF_PAGE_SIZE else (_WORD.unpack_from(memory,
                                                                                                         at)[0], 0)
    if word & 31 == RINGBUF_TYPE_TIME_EXTEND:
        stamp += (word >> 5) + (second << TS_SHIFT)
        at += RB_LEN_TIME_EXTEND
        word, second = _TWO_WORDS.unpack_from(memory, at) if at + 8 <= BUF_PAGE_SIZE else (_WORD.unpack_from(memory,
                                                                                                             at)[0], 0)
    stamp += word >> 5
    type_len = word & 31
    if type_len:
        end = at + 4 + 4 * type_len
        return stamp, at + 4, end, end
    return stamp, at + 8, at + 4 + second, at + 4 + second


def rb_get_reader_page(cpu_buffer: RingBufferPerCpu) -> BufferPage | None:
    """The page to read from: the reader page, or the oldest page of the ring in exchange for it. None: nothing to
    read."""
    while True:
        reader = cpu_buffer.reader_page
        if reader.read < reader.commit:
            return reader
        if reader is cpu_buffer.tail_page or cpu_buffer.entries == cpu_buffer.overrun + cpu_buffer.read:
            return None
        head = cpu_buffer.head_page
        reader.reset()
        reader.next, reader.prev = head.next, head.prev
        if head.next is head:                    # cannot be: a ring has two pages at least
            reader.next = reader.prev = reader
        overwrite = cpu_buffer.overrun
        head.prev.next = reader
        head.next.prev = reader
        cpu_buffer.head_page = reader.next
        cpu_buffer.reader_page = head
        head.read = 0
        cpu_buffer.read_stamp = head.time_stamp
        if overwrite != cpu_buffer.last_overrun:
            cpu_buffer.lost_events = overwrite - cpu_buffer.last_overrun
            cpu_buffer.last_overrun = overwrite


def ring_buffer_peek(cpu_buffer: RingBufferPerCpu) -> RingBufferEvent | None:
    """The record that ring_buffer_consume() would take."""
    page = rb_get_reader_page(cpu_buffer)
    if page is None:
        return None
    stamp, start, end, _ = rb_event_at(page.data, page.read, cpu_buffer.read_stamp)
    return RingBufferEvent(stamp, bytes(memoryview(page.data)[start:end]), cpu_buffer.lost_events)


def ring_buffer_consume(cpu_buffer: RingBufferPerCpu) -> RingBufferEvent | None:
    """Takes the oldest record."""
    event = ring_buffer_peek(cpu_buffer)
    if event is not None:
        cpu_buffer.lost_events = 0
        rb_advance_reader(cpu_buffer)
    return event


def rb_advance_reader(cpu_buffer: RingBufferPerCpu) -> None:
    """One record further, with its time extend."""
    page = rb_get_reader_page(cpu_buffer)
    if page is None:
        return
    cpu_buffer.read_stamp, _, _, page.read = rb_event_at(page.data, page.read, cpu_buffer.read_stamp)
    cpu_buffer.read += 1


def ring_buffer_read_page(cpu_buffer: RingBufferPerCpu, length: int, full: bool) -> bytes | None:
    """A page in the binary format, and takes its records. length: room, with the page's header. full: only whole
    pages."""
    length -= BUF_PAGE_HDR_SIZE
    page = rb_get_reader_page(cpu_buffer) if length > 0 else None
    if page is None:
        return None
    read, commit, missed = page.read, page.commit, cpu_buffer.lost_events
    if read or length < commit - read or page is cpu_buffer.tail_page:
        if full:
            return None
        length = min(length, commit - read)
        stamp = cpu_buffer.read_stamp
        at = read
        size = rb_event_ts_length(page.data, at)
        if length < size:
            return None
        while length >= size:
            length -= size
            rb_advance_reader(cpu_buffer)
            at = page.read
            if at >= commit:
                break
            size = rb_event_ts_length(page.data, at)
        data = bytearray(memoryview(page.data)[read:at])
    else:
        cpu_buffer.read += page.entries
        cpu_buffer.read_bytes += BUF_PAGE_SIZE
        stamp = page.time_stamp
        data = bytearray(memoryview(page.data)[:commit])
        page.reset()
    cpu_buffer.lost_events = 0
    commit = len(data)
    if missed:
        if BUF_PAGE_SIZE - commit >= 8:          # room to say how many
            data += missed.to_bytes(8, "little")
            commit |= RB_MISSED_STORED
        commit |= RB_MISSED_EVENTS
    return _HEADER.pack(stamp, commit) + bytes(data) + bytes(BUF_PAGE_SIZE - len(data))


@slotted
class RingBufferIter:
    """struct ring_buffer_iter: reads without taking. stamp: of the record before `at`."""

    cpu_buffer: RingBufferPerCpu
    page: BufferPage = field(default_factory=BufferPage)
    at: int = 0
    stamp: int = 0
    cache_read: int = 0
    cache_reader_page: BufferPage | None = None


def ring_buffer_read_start(cpu_buffer: RingBufferPerCpu) -> RingBufferIter:
    """An iterator over what is unread."""
    iterator = RingBufferIter(cpu_buffer)
    ring_buffer_iter_reset(iterator)
    return iterator


def ring_buffer_iter_reset(iterator: RingBufferIter) -> None:
    """Back to the oldest record."""
    cpu_buffer = iterator.cpu_buffer
    page = cpu_buffer.reader_page
    iterator.page, iterator.at = page, page.read
    iterator.stamp = cpu_buffer.read_stamp if page.read else page.time_stamp
    iterator.cache_read, iterator.cache_reader_page = cpu_buffer.read, page


@notrace
def _iter_settle(iterator: RingBufferIter) -> bool:
    """Moves over exhausted pages. False: at the end."""
    cpu_buffer = iterator.cpu_buffer
    if iterator.cache_read != cpu_buffer.read or iterator.cache_reader_page is not cpu_buffer.reader_page:
        ring_buffer_iter_reset(iterator)         # somebody took what we were looking at
    while iterator.at >= iterator.page.commit:
        if iterator.page is cpu_buffer.tail_page or cpu_buffer.entries == cpu_buffer.overrun + cpu_buffer.read:
            return False
        iterator.page = cpu_buffer.head_page if iterator.page is cpu_buffer.reader_page else iterator.page.next
        iterator.at, iterator.stamp = 0, iterator.page.time_stamp
    return True


def ring_buffer_iter_peek(iterator: RingBufferIter) -> RingBufferEvent | None:
    """The record at the iterator."""
    if not _iter_settle(iterator):
        return None
    stamp, start, end, _ = rb_event_at(iterator.page.data, iterator.at, iterator.stamp)
    return RingBufferEvent(stamp, bytes(memoryview(iterator.page.data)[start:end]))


def ring_buffer_iter_advance(iterator: RingBufferIter) -> None:
    """One record further."""
    if _iter_settle(iterator):
        iterator.stamp, _, _, iterator.at = rb_event_at(iterator.page.data, iterator.at, iterator.stamp)


def ring_buffer_iter_empty(iterator: RingBufferIter) -> bool:
    return not _iter_settle(iterator)


# ---- counts ------------------------------------------------------------------------------------------------------
@notrace
def ring_buffer_entries_cpu(cpu_buffer: RingBufferPerCpu) -> int:
    """Unread records."""
    return cpu_buffer.entries - (cpu_buffer.overrun + cpu_buffer.read)


def ring_buffer_overruns(buffer: RingBuffer) -> int:
    return sum(b.overrun for b in buffer.buffers)


@notrace
def ring_buffer_empty_cpu(cpu_buffer: RingBufferPerCpu) -> bool:
    return cpu_buffer.entries == cpu_buffer.overrun + cpu_buffer.read


def ring_buffer_empty(buffer: RingBuffer) -> bool:
    return all(ring_buffer_empty_cpu(b) for b in buffer.buffers)


def ring_buffer_oldest_event_ts(cpu_buffer: RingBufferPerCpu) -> int:
    """When the oldest page began."""
    reader = cpu_buffer.reader_page
    page = reader if reader.read < reader.commit or cpu_buffer.tail_page is reader else cpu_buffer.head_page
    return page.time_stamp


def ring_buffer_size(cpu_buffer: RingBufferPerCpu) -> int:
    """Bytes for records."""
    return BUF_PAGE_SIZE * cpu_buffer.nr_pages


@notrace
def ring_buffer_nr_dirty_pages(cpu_buffer: RingBufferPerCpu) -> int:
    """Pages with something unread."""
    count, page = 0, cpu_buffer.head_page
    for _ in range(cpu_buffer.nr_pages):
        count += page.commit > 0
        if page is cpu_buffer.tail_page:
            break
        page = page.next
    reader = cpu_buffer.reader_page
    return count + (reader.read < reader.commit)


# ---- changing it -------------------------------------------------------------------------------------------------
def rb_reset_cpu(cpu_buffer: RingBufferPerCpu) -> None:
    """Empty, and every count zero."""
    page = cpu_buffer.head_page
    for _ in range(cpu_buffer.nr_pages):
        page.reset()
        page = page.next
    cpu_buffer.tail_page = cpu_buffer.head_page
    cpu_buffer.reader_page.reset()
    cpu_buffer.entries = cpu_buffer.overrun = cpu_buffer.commit_overrun = cpu_buffer.dropped_events = 0
    cpu_buffer.read = cpu_buffer.read_bytes = cpu_buffer.entries_bytes = 0
    cpu_buffer.write_stamp = cpu_buffer.read_stamp = cpu_buffer.lost_events = cpu_buffer.last_overrun = 0


def ring_buffer_reset_cpu(cpu_buffer: RingBufferPerCpu) -> None:
    rb_reset_cpu(cpu_buffer)


def ring_buffer_resize(buffer: RingBuffer, size: int, cpu: int = RING_BUFFER_ALL_CPUS) -> None:
    """`size` bytes, rounded up to pages; records that no longer fit are lost, the oldest first."""
    nr_pages = max(-(-size // BUF_PAGE_SIZE), 2)
    for cpu_buffer in buffer.buffers if cpu == RING_BUFFER_ALL_CPUS else [buffer.buffers[cpu]]:
        if nr_pages > cpu_buffer.nr_pages:
            rb_insert_pages(cpu_buffer, nr_pages - cpu_buffer.nr_pages)
        elif nr_pages < cpu_buffer.nr_pages:
            rb_remove_pages(cpu_buffer, cpu_buffer.nr_pages - nr_pages)


def rb_insert_pages(cpu_buffer: RingBufferPerCpu, count: int) -> None:
    """Fresh pages before the oldest one."""
    first = _ring_of(count)
    last, head = first.prev, cpu_buffer.head_page
    before = head.prev
    before.next, first.prev = first, before
    last.next, head.prev = head, last
    cpu_buffer.nr_pages += count


def rb_remove_pages(cpu_buffer: RingBufferPerCpu, count: int) -> None:
    """Takes pages out behind the one that is written: free ones first, then those with the oldest records."""
    tail = cpu_buffer.tail_page
    on_reader = tail is cpu_buffer.reader_page
    page = cpu_buffer.head_page if on_reader else tail.next
    for _ in range(count):
        following = page.next
        if page is cpu_buffer.head_page:
            cpu_buffer.head_page = following
        if page.entries:
            cpu_buffer.overrun += page.entries
            cpu_buffer.entries_bytes -= BUF_PAGE_SIZE
        page.prev.next, following.prev = following, page.prev
        page = following
    if on_reader:
        tail.next = cpu_buffer.head_page = page
    cpu_buffer.nr_pages -= count


def ring_buffer_swap_cpu(buffer_a: RingBuffer, buffer_b: RingBuffer, cpu: int) -> None:
    """Exchanges a CPU's records. Errors: EINVAL (sizes differ), EBUSY."""
    a, b = buffer_a.buffers[cpu], buffer_b.buffers[cpu]
    if a.nr_pages != b.nr_pages:
        raise KernelError(EINVAL)
    if a is b:
        raise KernelError(EBUSY)
    buffer_a.buffers[cpu], buffer_b.buffers[cpu] = b, a
    a.buffer, b.buffer = buffer_b, buffer_a


def ring_buffer_change_overwrite(buffer: RingBuffer, overwrite: bool) -> None:
    buffer.flags = buffer.flags & ~RB_FL_OVERWRITE | (RB_FL_OVERWRITE if overwrite else 0)
