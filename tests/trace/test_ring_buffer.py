"""The ring buffer: what is written is read, what is lost is counted, and pages are Linux's, byte for byte."""

import pathlib
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.kernel.trace import ring_buffer as rb
from glasskernel.kernel.trace.trace_events import TraceEventCall, parse_fields
from glasskernel.lib.errno import EINVAL, KernelError

DATA = pathlib.Path(__file__).parents[1] / "data" / "trace" / "binary"
PAGE = rb.BUF_PAGE_SIZE


def decode(page):
    """An independent decoder of the binary format: ([(ts, data)], events missed before the page or None)."""
    ts, commit = struct.unpack_from("<QQ", page)
    missed = None
    size = commit & 0xFFFFF
    if commit & 1 << 31:
        missed = struct.unpack_from("<Q", page, 16 + size)[0] if commit & 1 << 30 else -1
    events, at = [], 16
    while at < 16 + size:
        head, second = struct.unpack_from("<II", page + bytes(8), at)
        kind, delta = head & 31, head >> 5
        if kind == 30:
            ts += delta + (second << 27)
            at += 8
        elif kind == 29:
            at += 4 + second
        else:
            ts += delta
            start, end = (at + 4, at + 4 + 4 * kind) if kind else (at + 8, at + 4 + second)
            events.append((ts, page[start:end]))
            at = end
    return events, missed


def buffer(pages=4, overwrite=True):
    """A buffer of one CPU, and that CPU's part."""
    whole = rb.ring_buffer_alloc(1, pages * PAGE, rb.RB_FL_OVERWRITE if overwrite else 0)
    return whole, whole.buffers[0]


def payload(number, size):
    """A record that says its number; its length is a multiple of four, as Linux's are once they are stored."""
    return number.to_bytes(8, "little") + bytes(size // 4 * 4)


sizes = st.lists(st.tuples(st.integers(0, 600), st.sampled_from([0, 1, 100, 1 << 26, 1 << 27, 1 << 40])), max_size=250)


@given(sizes, st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_a_suffix_of_what_was_written_and_the_rest_is_counted(records, pages):
    _, cpu = buffer(pages)
    ts, written = 1000, []
    for number, (size, delta) in enumerate(records):
        ts += delta
        assert rb.ring_buffer_write(cpu, ts, payload(number, size))
        written.append((ts, payload(number, size)))
    read = []
    lost = 0
    while (event := rb.ring_buffer_consume(cpu)) is not None:
        lost += event.lost
        read.append((event.ts, event.data))
    assert read == written[len(written) - len(read):]
    assert lost == cpu.overrun == len(written) - len(read)


@given(sizes, st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_in_producer_consumer_mode_the_oldest_records_stay(records, pages):
    _, cpu = buffer(pages, overwrite=False)
    kept = [number for number, (size, _) in enumerate(records) if rb.ring_buffer_write(cpu, number, payload(number, size))]
    read = []
    while (event := rb.ring_buffer_consume(cpu)) is not None:
        read.append(int.from_bytes(event.data[:8], "little"))
    assert read == kept
    assert cpu.dropped_events == len(records) - len(kept) and not cpu.overrun


@given(st.lists(st.one_of(st.integers(0, 400), st.sampled_from(["read", "page", "peek", "iterate"])), max_size=300))
@settings(max_examples=60, deadline=None)
def test_readers_and_the_writer_may_take_turns(steps):
    """Consuming records, taking pages and looking come in any order between writes; nothing comes twice or out of order."""
    _, cpu = buffer(3)
    next_number, seen, lost = 0, [], 0
    for step in steps:
        if step == "read":
            event = rb.ring_buffer_consume(cpu)
            if event is not None:
                seen.append(int.from_bytes(event.data[:8], "little"))
                lost += event.lost
        elif step == "page":
            page = rb.ring_buffer_read_page(cpu, 4096, False)
            if page is not None:
                events, missed = decode(page)
                seen += [int.from_bytes(data[:8], "little") for _, data in events]
                lost += missed or 0
        elif step == "peek":
            rb.ring_buffer_peek(cpu)
        elif step == "iterate":
            iterator, count = rb.ring_buffer_read_start(cpu), 0
            while rb.ring_buffer_iter_peek(iterator) is not None:
                rb.ring_buffer_iter_advance(iterator)
                count += 1
            assert count == rb.ring_buffer_entries_cpu(cpu)
        else:
            rb.ring_buffer_write(cpu, next_number, payload(next_number, step))
            next_number += 1
    while (event := rb.ring_buffer_consume(cpu)) is not None:
        seen.append(int.from_bytes(event.data[:8], "little"))
        lost += event.lost
    assert seen == sorted(set(seen))
    assert lost == cpu.overrun and len(seen) + lost == next_number


@given(sizes, st.integers(2, 8), st.integers(2, 8), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_resizing_keeps_the_newest_records(records, before, after, consumed):
    whole, cpu = buffer(before)
    for number, (size, _) in enumerate(records):
        rb.ring_buffer_write(cpu, number, payload(number, size))
    for _ in range(consumed):
        rb.ring_buffer_consume(cpu)
    rb.ring_buffer_resize(whole, after * PAGE)
    assert rb.ring_buffer_size(cpu) == after * PAGE
    for number in range(len(records), len(records) + 20):
        rb.ring_buffer_write(cpu, number, payload(number, 300))
    left = []
    while (event := rb.ring_buffer_consume(cpu)) is not None:
        left.append(int.from_bytes(event.data[:8], "little"))
    assert left == list(range(len(records) + 20 - len(left), len(records) + 20))
    assert cpu.entries == cpu.overrun + cpu.read


def test_a_page_says_how_many_records_were_lost_before_it():
    _, cpu = buffer(2)
    for number in range(1000):
        rb.ring_buffer_write(cpu, number, payload(number, 20))
    events, missed = decode(rb.ring_buffer_read_page(cpu, 4096, False))
    assert missed == int.from_bytes(events[0][1][:8], "little") == cpu.overrun > 0


def test_only_whole_pages_for_splice():
    _, cpu = buffer(4)
    rb.ring_buffer_write(cpu, 1, payload(1, 20))
    assert rb.ring_buffer_read_page(cpu, 4096, True) is None
    assert decode(rb.ring_buffer_read_page(cpu, 4096, False))[0] == [(1, payload(1, 20))]


def test_swapping_needs_equal_sizes():
    a, _ = buffer(3)
    b, _ = buffer(3)
    rb.ring_buffer_write(a.buffers[0], 5, payload(7, 0))
    rb.ring_buffer_swap_cpu(a, b, 0)
    assert rb.ring_buffer_empty(a) and rb.ring_buffer_consume(b.buffers[0]).ts == 5
    with pytest.raises(KernelError) as error:
        rb.ring_buffer_swap_cpu(a, buffer(4)[0], 0)
    assert error.value.errno == EINVAL


def test_an_empty_buffer_holds_no_memory():
    whole, cpu = buffer(400)
    assert not any(page.data for page in (cpu.head_page, cpu.head_page.next, cpu.reader_page))
    rb.ring_buffer_write(cpu, 1, payload(1, 0))
    assert sum(len(page.data) for page in (cpu.head_page, cpu.head_page.next)) == PAGE
    assert whole.buffers[0] is cpu


# ---- pages of a real Linux ------------------------------------------------------------------------------------------
def reference_calls():
    """The events of the captured pages, from their format files."""
    calls = {}
    for text in re.split(r"(?m)^(?=name: )", (DATA / "sched-formats.txt").read_text()):
        name = re.search(r"^name: (\S+)\nID: (\d+)", text)
        if name is None:
            continue
        fields = re.findall(r"field:([^;]*);\toffset:(\d+)", text)
        own = ";".join(f for f, offset in fields if int(offset) >= 8)
        call = TraceEventCall("sched", name[1], parse_fields(own), re.search(r"print fmt: (.*)", text)[1], tuple, id=int(name[2]))
        calls[call.id] = call
    return calls


def test_pages_of_linux_are_read():
    """Every line of the text that Linux printed from these records comes out of our decoder and our print fmt."""
    calls = reference_calls()
    lines = []
    for cpu in range(4):
        for ts, data in decode((DATA / f"sched-cpu{cpu}.trace_pipe_raw.bin").read_bytes())[0]:
            call = calls[int.from_bytes(data[:2], "little")]
            usecs = (ts + 500) // 1000
            lines.append((ts, f"{usecs // 1000000}.{usecs % 1000000:06}: {call.name}: {call.print(None, data[8:])}"))
    ours = [text for _, text in sorted(lines, key=lambda line: line[0])]
    theirs = [re.sub(r"^.*?\] \S+ +", "", line) for line in (DATA / "sched-events.txt").read_text().splitlines() if line[:1] != "#"]
    assert sorted(ours) == sorted(theirs) and len(ours) > 50


@pytest.mark.parametrize("cpu", range(4))
def test_our_pages_are_linuxs_byte_for_byte(cpu):
    """The same records at the same times make the same page."""
    theirs = (DATA / f"sched-cpu{cpu}.trace_pipe_raw.bin").read_bytes()
    _, ours = buffer()
    for ts, data in decode(theirs)[0]:
        assert rb.ring_buffer_write(ours, ts, data)
    page = rb.ring_buffer_read_page(ours, 4096, False)
    size = 16 + (int.from_bytes(theirs[8:12], "little") & 0xFFFFF)
    assert page[:size] == theirs[:size]
