"""Going through the records of all CPUs in the order of time.

Linux: kernel/trace/trace.c (5.3). Owns: nothing. Context: task; none of this sleeps.
"""
from __future__ import annotations

from glasskernel.kernel.trace.ring_buffer import (
    RING_BUFFER_ALL_CPUS,
    RingBuffer,
    ring_buffer_consume,
    ring_buffer_empty_cpu,
    ring_buffer_iter_advance,
    ring_buffer_iter_empty,
    ring_buffer_iter_peek,
    ring_buffer_iter_reset,
    ring_buffer_overruns,
    ring_buffer_peek,
    ring_buffer_read_start,
)
from glasskernel.kernel.trace.trace import (
    TRACE_ITER_LATENCY_FMT,
    TraceArray,
    TraceEntry,
    TraceIterator,
    trace_entry_of,
)
from glasskernel.lib.types import notrace

Found = tuple[TraceEntry, int, int, int]          # (entry, cpu, ts, records lost before it)


@notrace
def trace_iterator(tr: TraceArray, cpu: int, snapshot: bool = False) -> TraceIterator:
    """A reader of a CPU's records, or of all; it takes what it reads."""
    buffer: RingBuffer = tr.max_buffer if snapshot or tr.current_trace.print_max else tr.buffer
    iterator = TraceIterator(tr, buffer, tr.current_trace, cpu, snapshot)
    iterator.latency_format = bool(tr.trace_flags & TRACE_ITER_LATENCY_FMT)
    return iterator


@notrace
def tracing_iter_start(iterator: TraceIterator) -> None:
    """Now it looks only: a cursor for each of its CPUs."""
    cpus = range(iterator.buffer.cpus)
    iterator.buffer_iters = [
        ring_buffer_read_start(iterator.buffer.buffers[c]) if iterator.cpu_file in (c, RING_BUFFER_ALL_CPUS) else None
        for c in cpus
    ]
    iterator.annotate = bool(ring_buffer_overruns(iterator.buffer))
    for cpu in cpus:
        tracing_iter_reset(iterator, cpu)


def tracing_iter_reset(iterator: TraceIterator, cpu: int) -> None:
    """A CPU's cursor goes to its first record that is not older than the trace."""
    cursor = iterator.buffer_iters[cpu]
    iterator.skipped[cpu] = 0
    if cursor is None:
        return
    ring_buffer_iter_reset(cursor)
    start = iterator.buffer.time_start
    while start:
        event = ring_buffer_iter_peek(cursor)
        if event is None or event.ts >= start:
            break
        iterator.skipped[cpu] += 1
        ring_buffer_iter_advance(cursor)


@notrace
def peek_next_entry(iterator: TraceIterator, cpu: int) -> Found | None:
    """A CPU's next record."""
    if iterator.buffer_iters:
        cursor = iterator.buffer_iters[cpu]
        event = ring_buffer_iter_peek(cursor) if cursor is not None else None
    else:
        event = ring_buffer_peek(iterator.buffer.buffers[cpu])
    return (trace_entry_of(event), cpu, event.ts, event.lost) if event is not None else None


@notrace
def find_next_entry(iterator: TraceIterator) -> Found | None:
    """__find_next_entry(): the oldest record of all."""
    if iterator.cpu_file != RING_BUFFER_ALL_CPUS:
        return peek_next_entry(iterator, iterator.cpu_file)
    oldest: Found | None = None
    for cpu in range(iterator.buffer.cpus):
        found = peek_next_entry(iterator, cpu)
        if found is not None and (oldest is None or found[2] < oldest[2]):
            oldest = found
    return oldest


@notrace
def trace_find_next_entry(iterator: TraceIterator) -> Found | None:
    """The record behind the one that is looked at; the iterator stays. A reader that takes cannot look ahead: None."""
    cursor = iterator.buffer_iters[iterator.cpu] if iterator.buffer_iters else None
    if cursor is None:
        return None
    saved = (cursor.page, cursor.at, cursor.stamp)
    found = find_next_entry(iterator)
    cursor.page, cursor.at, cursor.stamp = saved
    return found


@notrace
def trace_find_next_entry_inc(iterator: TraceIterator) -> TraceIterator | None:
    """Looks at the next record: the cursor moves behind it. None: there is none."""
    found = find_next_entry(iterator)
    if found is None:
        iterator.ent = None
        return None
    iterator.ent, iterator.cpu, iterator.ts, iterator.lost_events = found
    iterator.idx += 1                             # trace_iterator_increment()
    if iterator.buffer_iters:
        cursor = iterator.buffer_iters[iterator.cpu]
        assert cursor is not None
        ring_buffer_iter_advance(cursor)
    return iterator


@notrace
def trace_consume(iterator: TraceIterator) -> None:
    """Takes the record that is looked at."""
    ring_buffer_consume(iterator.buffer.buffers[iterator.cpu])


@notrace
def trace_empty(iterator: TraceIterator) -> bool:
    """True if nothing is left to read."""
    cpus = range(iterator.buffer.cpus) if iterator.cpu_file == RING_BUFFER_ALL_CPUS else (iterator.cpu_file,)
    for cpu in cpus:
        cursor = iterator.buffer_iters[cpu] if iterator.buffer_iters else None
        if not (ring_buffer_iter_empty(cursor) if cursor is not None
                else ring_buffer_empty_cpu(iterator.buffer.buffers[cpu])):
            return False
    return True
