"""The page cache against a model: a file is a bytearray, whichever way it is read, written, mapped or cut."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.fs.types import Kiocb
from glasskernel.kernel.task import RLIMIT_FSIZE
from glasskernel.lib.errno import EFAULT, EFBIG, EIO
from glasskernel.mm import filemap, memory, mmap
from glasskernel.mm.iov_iter import KernelIter, UserIter
from glasskernel.mm.page_alloc import GFP_KERNEL, PG_readahead
from glasskernel.mm.vmscan import try_to_free_pages
from tests.mm.harness import PAGE, RW, Disk, errno_of, kernel_with_a_cache


@pytest.fixture
def kernel():
    with kernel_with_a_cache() as kernel:
        yield kernel


@pytest.fixture
def disk(kernel):
    def make(data=b"", **options):
        disk = Disk(kernel, data, **options)
        kernel.disks.append(disk)
        return disk

    return make


def pattern(pages, tail=0):
    return b"".join(i.to_bytes(4, "little") * (PAGE // 4) for i in range(pages)) + b"t" * tail


# ---- reading ----------------------------------------------------------------------------------------
def test_a_read_across_pages_stops_at_the_end_of_the_file(disk):
    data = pattern(5, 100)
    d = disk(data)
    assert d.read(PAGE - 3, 2 * PAGE) == data[PAGE - 3 : 3 * PAGE - 3]
    assert d.read(5 * PAGE - 1, 1000) == data[5 * PAGE - 1 :]
    assert d.read(len(data), 10) == d.read(1 << 40, 10) == b""


def test_a_page_is_read_from_the_file_system_once(disk):
    d = disk(pattern(8))
    d.read(0, 8 * PAGE)
    d.read(0, 8 * PAGE)
    assert sorted(d.reads) == list(range(8))


def test_a_read_error_after_some_bytes_is_kept_for_the_next_read(disk):
    d = disk(pattern(4), readpages=False)
    d.bad = {2}
    assert d.read(0, 4 * PAGE) == pattern(2)
    assert errno_of(d.read, 2 * PAGE, 10) == EIO
    d.bad.clear()
    assert d.read(2 * PAGE, PAGE) == pattern(3)[2 * PAGE :]


def test_a_read_into_bad_memory_is_efault_or_short(kernel, disk):
    d = disk(pattern(4))
    iocb = Kiocb(d.file, 0)
    assert errno_of(filemap.generic_file_read_iter, iocb, UserIter([(0x1000, 100)])) == EFAULT
    assert iocb.ki_pos == 0
    address = mmap.do_mmap(None, 0, PAGE, RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0)
    assert filemap.generic_file_read_iter(iocb, UserIter([(address, 3 * PAGE)])) == PAGE
    assert iocb.ki_pos == PAGE
    assert copy_from_user(address, PAGE) == pattern(1)


# ---- readahead --------------------------------------------------------------------------------------
def test_sequential_reads_double_the_window_up_to_32_pages(disk):
    d = disk(pattern(200))
    windows = []
    for page in range(100):
        before = len(d.reads)
        d.read(page * PAGE, PAGE)
        if len(d.reads) > before:
            windows.append(len(d.reads) - before)
    assert windows[0] == 4 and 32 in windows and max(windows) == 32
    assert windows == sorted(windows)
    assert d.reads == sorted(set(d.reads)), "each page once, in order"


def test_the_mark_starts_the_next_window_before_the_reader_gets_there(kernel, disk):
    d = disk(pattern(100))
    d.read(0, PAGE)
    marked = [i for i, pfn in d.mapping.pages.items() if kernel.mem.flags[pfn] & PG_readahead]
    assert marked == [1]
    d.read(PAGE, PAGE)
    assert len(d.mapping.pages) > 4


def test_random_reads_bring_only_what_is_asked(disk):
    d = disk(pattern(300))
    for page in (250, 3, 177, 90):
        d.read(page * PAGE, PAGE)
    assert sorted(d.reads) == [3, 90, 177, 250]


def test_readahead_never_reads_behind_the_end(disk):
    d = disk(pattern(3, 1))
    d.read(0, 1)
    assert d.reads == [0, 1, 2, 3]


# ---- writing ----------------------------------------------------------------------------------------
def test_a_write_is_read_back_and_stored_when_asked(disk):
    d = disk(pattern(2))
    assert d.write(PAGE - 2, b"hello") == 5
    assert d.read(PAGE - 3, 7)[1:6] == b"hello"
    assert d.data == pattern(2)
    filemap.filemap_write_and_wait(d.mapping)
    assert bytes(d.data[PAGE - 2 : PAGE + 3]) == b"hello"
    assert not d.mapping.dirty


def test_a_gap_between_the_old_end_and_a_write_is_zero(disk):
    d = disk(b"abc")
    d.write(3 * PAGE + 5, b"z")
    assert d.read(0, 4 * PAGE) == b"abc" + bytes(3 * PAGE + 2) + b"z"


def test_append_writes_at_the_end_wherever_the_position_is(disk):
    d = disk(b"abc")
    iocb = Kiocb(d.file, 0, 2)                    # IOCB_APPEND
    filemap.generic_file_write_iter(iocb, KernelIter(b"de"))
    assert (iocb.ki_pos, d.read(0, 9)) == (5, b"abcde")


def test_the_file_size_limit_cuts_and_then_refuses(kernel, disk, monkeypatch):
    sent = []
    monkeypatch.setattr(filemap, "send_sig", lambda sig, task, priv: sent.append(sig))
    kernel.task.signal.rlim[RLIMIT_FSIZE] = (10, 10)
    d = disk()
    assert d.write(4, b"0123456789") == 6
    assert sent == []
    assert errno_of(d.write, 10, b"x") == EFBIG
    assert sent == [25]                           # SIGXFSZ


def test_a_write_from_bad_memory_is_efault_or_short(disk):
    d = disk(pattern(2))
    iocb = Kiocb(d.file, 100)
    assert errno_of(filemap.generic_file_write_iter, iocb, UserIter([(0x1000, 100)])) == EFAULT
    address = mmap.do_mmap(None, 0, PAGE, RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0)
    copy_to_user(address + PAGE - 10, b"0123456789")
    assert filemap.generic_file_write_iter(iocb, UserIter([(address + PAGE - 10, 20)])) == 10
    assert d.read(98, 14) == pattern(1)[98:100] + b"0123456789" + pattern(1)[110:112]


def test_writing_a_file_from_its_own_mapping(disk):
    d = disk(pattern(2))
    address = d.mmap(1)
    assert filemap.generic_file_write_iter(Kiocb(d.file, 1), UserIter([(address, 100)])) == 100
    assert d.read(0, 101) == pattern(1)[:1] + pattern(1)[:100]


# ---- mapping ----------------------------------------------------------------------------------------
def test_a_mapping_and_read_see_the_same_bytes(disk):
    d = disk(pattern(4))
    address = d.mmap(4)
    copy_to_user(address + PAGE, b"mapped")
    d.write(0, b"written")
    assert d.read(PAGE, 6) == b"mapped"
    assert copy_from_user(address, 7) == b"written"
    filemap.filemap_write_and_wait(d.mapping)
    assert bytes(d.data[PAGE : PAGE + 6]) == b"mapped"


def test_a_store_after_writeback_makes_the_page_dirty_again(disk):
    d = disk(pattern(1))
    address = d.mmap(1)
    for text in (b"first", b"again"):
        copy_to_user(address, text)
        assert list(d.mapping.dirty) == [0]
        filemap.filemap_write_and_wait(d.mapping)
        assert bytes(d.data[:5]) == text


def test_a_private_mapping_keeps_its_stores(disk):
    d = disk(pattern(1))
    address = d.mmap(1, mmap.MAP_PRIVATE)
    copy_to_user(address, b"mine")
    assert d.read(0, 4) == pattern(1)[:4]
    assert not d.mapping.dirty


def test_touching_a_page_behind_the_end_fails_and_the_rest_of_the_last_page_is_zero(disk):
    d = disk(b"abc")
    address = d.mmap(2)
    assert copy_from_user(address, 6) == b"abc\0\0\0"
    assert errno_of(copy_from_user, address + PAGE, 1) == EFAULT


def test_truncation_takes_mapped_pages_away_even_private_copies(disk):
    d = disk(pattern(3))
    shared, private = d.mmap(3), d.mmap(3, mmap.MAP_PRIVATE)
    copy_to_user(shared + 2 * PAGE, b"x")
    copy_to_user(private + 2 * PAGE, b"y")
    d.truncate(PAGE + 10)
    assert errno_of(copy_from_user, shared + 2 * PAGE, 1) == EFAULT
    assert errno_of(copy_from_user, private + 2 * PAGE, 1) == EFAULT
    assert copy_from_user(shared + PAGE + 8, 4) == pattern(2)[PAGE + 8 : PAGE + 10] + b"\0\0"
    d.truncate(3 * PAGE)
    assert d.read(PAGE + 10, 2 * PAGE) == bytes(2 * PAGE - 10)


def test_a_fault_maps_what_is_cached_around_it(kernel, disk):
    d = disk(pattern(16))
    d.read(0, 16 * PAGE)
    address = d.mmap(16)
    copy_from_user(address + 5 * PAGE, 1)
    mapped = [i for i in range(16) if memory.follow_page(kernel.task.mm, address + i * PAGE) is not None]
    unmarked = [i for i in range(16) if not kernel.mem.flags[d.mapping.pages[i]] & PG_readahead]
    assert mapped == unmarked and len(mapped) >= 15


def test_a_fault_on_an_unreadable_page_is_a_bus_error(disk):
    d = disk(pattern(2), readpages=False)
    d.bad = {1}
    address = d.mmap(2)
    assert copy_from_user(address, 1) == b"\0"
    assert errno_of(copy_from_user, address + PAGE, 1) == EFAULT


# ---- taking pages out -------------------------------------------------------------------------------
def test_a_hole_zeroes_its_ends_and_drops_its_whole_pages(disk):
    d = disk(pattern(5))
    d.read(0, 5 * PAGE)
    filemap.truncate_pagecache_range(d.inode, 100, 3 * PAGE + 99)
    assert sorted(d.mapping.pages) == [0, 3, 4]
    assert d.read(0, PAGE) == pattern(1)[:100] + bytes(PAGE - 100)
    assert d.read(3 * PAGE, PAGE) == bytes(100) + pattern(4)[3 * PAGE + 100 :]


def test_a_hole_inside_one_page(disk):
    d = disk(b"x" * PAGE)
    d.read(0, 1)
    filemap.truncate_pagecache_range(d.inode, 10, 19)
    assert d.read(0, 30) == b"x" * 10 + bytes(10) + b"x" * 10


def test_invalidation_spares_dirty_and_mapped_pages(disk):
    d = disk(pattern(4))
    d.read(0, 4 * PAGE)
    d.write(PAGE, b"dirty")
    copy_from_user(d.mmap(1, index=3), 1)
    assert filemap.invalidate_mapping_pages(d.mapping, 0, 100) == 2
    assert sorted(d.mapping.pages) == [1, 3]


def test_memory_that_runs_out_is_taken_from_clean_cache():
    with kernel_with_a_cache(16) as kernel:
        d = Disk(kernel, pattern(6000))           # 24 MB, more than there is
        kernel.disks.append(d)
        for page in range(0, 6000, 8):
            assert d.read(page * PAGE, 4) == page.to_bytes(4, "little")
        assert len(d.mapping.pages) < 4000


# ---- the model --------------------------------------------------------------------------------------
offsets = st.one_of(st.integers(0, 6 * PAGE), st.sampled_from([0, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE]))
steps = st.lists(st.one_of(
    st.tuples(st.just("write"), offsets, st.binary(min_size=1, max_size=300)),
    st.tuples(st.just("fill"), offsets, st.integers(1, 3 * PAGE)),
    st.tuples(st.just("read"), offsets, st.integers(1, 3 * PAGE)),
    st.tuples(st.just("truncate"), offsets),
    st.tuples(st.just("store"), offsets, st.binary(min_size=1, max_size=300)),
    st.tuples(st.just("load"), offsets, st.integers(1, 300)),
    st.tuples(st.just("writeback")),
    st.tuples(st.just("invalidate")),
    st.tuples(st.just("shrink")),
    st.tuples(st.just("unmap")),
), max_size=30)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_any_mix_of_calls_leaves_the_bytes_a_plain_array_would_have(steps):
    with kernel_with_a_cache(16) as kernel:
        d = Disk(kernel, pattern(2, 77))
        kernel.disks.append(d)
        model = bytearray(pattern(2, 77))
        address = 0

        def put(pos, data):
            if len(model) < pos:
                model.extend(bytes(pos - len(model)))
            model[pos : pos + len(data)] = data

        for name, *args in steps:
            if name in ("store", "load") and not address:
                address = d.mmap(16)
            if name == "write":
                assert d.write(*args) == len(args[1])
                put(*args)
            elif name == "fill":
                data = bytes([len(model) & 0xFF or 1]) * args[1]
                assert d.write(args[0], data) == len(data)
                put(args[0], data)
            elif name == "read":
                assert d.read(*args) == model[args[0] : args[0] + args[1]]
            elif name == "truncate":
                if args[0] > len(model):          # the new part reads as zeros
                    put(args[0], b"")
                d.truncate(args[0])
                del model[args[0] :]
            elif name == "store":
                data = args[1][: max(0, len(model) - args[0])]
                if data:                          # a store behind the end has no defined outcome
                    copy_to_user(address + args[0], data)
                    put(args[0], data)
            elif name == "load":
                size = min(args[1], len(model) - args[0])
                if size > 0:
                    assert copy_from_user(address + args[0], size) == model[args[0] : args[0] + size]
            elif name == "writeback":
                filemap.filemap_write_and_wait(d.mapping)
            elif name == "invalidate":
                filemap.invalidate_mapping_pages(d.mapping, 0, 100)
            elif name == "shrink":
                try_to_free_pages(kernel, 0, GFP_KERNEL, kernel.mem.pgdat.node_zonelist)
            elif name == "unmap" and address:
                mmap.do_munmap(kernel.task.mm, address, 16 * PAGE)
                address = 0
        assert d.read(0, len(model) + 10) == model
        filemap.filemap_write_and_wait(d.mapping)
        stored = bytes(d.data).ljust(len(model), b"\0")
        assert stored == model
