"""The LRU lists: where a page begins, what moves it, and that it leaves with its last user."""
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.lib.errno import EBUSY
from glasskernel.mm import filemap, mmap
from glasskernel.mm.memory import follow_page, handle_mm_fault
from glasskernel.mm.page_alloc import (
    GFP_KERNEL,
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    LRU_UNEVICTABLE,
    PG_reclaim,
    PG_referenced,
)
from glasskernel.mm.swap import (
    activate_page,
    check_lru,
    deactivate_file_page,
    isolate_lru_page,
    mark_page_accessed,
    mlock_vma_page,
    putback_lru_page,
    rotate_reclaimable_page,
)
from glasskernel.mm.vmscan import try_to_free_pages
from tests.mm.harness import PAGE, RW, Disk, errno_of, kernel_with_a_cache


@pytest.fixture
def kernel():
    with kernel_with_a_cache() as kernel:
        yield kernel
        assert check_lru(kernel) == []


@pytest.fixture
def disk(kernel):
    disk = Disk(kernel, bytes(64 * PAGE))
    kernel.disks.append(disk)
    return disk


def list_of(kernel, pfn):
    (lru,) = [lru for lru, pages in enumerate(kernel.mem.lru) if pfn in pages]
    return lru


def touch(kernel, address, pages=1):
    for at in range(address, address + pages * PAGE, PAGE):
        assert not handle_mm_fault(mmap.find_vma(kernel.task.mm, at), at, 1) & 0x43
    return follow_page(kernel.task.mm, address)


def anonymous(kernel, pages=1):
    return mmap.do_mmap(None, 0, pages * PAGE, RW, 0x22, 0)


def test_a_page_of_a_file_starts_inactive_and_its_second_use_activates_it(kernel, disk):
    disk.read(0, 10)
    pfn = disk.mapping.pages[0]
    assert list_of(kernel, pfn) == LRU_INACTIVE_FILE
    assert kernel.mem.flags[pfn] & PG_referenced
    disk.read(0, 5)
    assert list_of(kernel, pfn) == LRU_ACTIVE_FILE
    assert not kernel.mem.flags[pfn] & PG_referenced
    mark_page_accessed(kernel, pfn)                  # an active page is only marked
    assert list_of(kernel, pfn) == LRU_ACTIVE_FILE
    assert kernel.mem.flags[pfn] & PG_referenced


def test_pages_that_were_read_ahead_are_listed_but_not_referenced(kernel, disk):
    disk.read(0, 10)
    assert len(kernel.mem.lru[LRU_INACTIVE_FILE]) == len(disk.mapping.pages) > 1
    assert not kernel.mem.flags[disk.mapping.pages[1]] & PG_referenced


def test_anonymous_memory_starts_active_and_leaves_with_its_mapping(kernel):
    address = anonymous(kernel, 20)
    pfn = touch(kernel, address, 20)
    assert list_of(kernel, pfn) == LRU_ACTIVE_ANON
    assert len(kernel.mem.lru[LRU_ACTIVE_ANON]) == 20
    mmap.do_munmap(kernel.task.mm, address, 15 * PAGE)
    assert len(kernel.mem.lru[LRU_ACTIVE_ANON]) == 5


def test_the_copy_of_a_private_page_is_anonymous_and_the_files_page_stays(kernel, disk):
    address = disk.mmap(1, mmap.MAP_PRIVATE)
    copy = touch(kernel, address)
    assert list_of(kernel, copy) == LRU_ACTIVE_ANON
    assert list_of(kernel, disk.mapping.pages[0]) == LRU_INACTIVE_FILE


def test_truncated_and_invalidated_pages_leave(kernel, disk):
    disk.read(0, 8 * PAGE)
    disk.truncate(PAGE)
    assert list(kernel.mem.lru[LRU_INACTIVE_FILE]) == [disk.mapping.pages[0]]
    filemap.invalidate_mapping_pages(disk.mapping, 0, 100)
    assert not any(kernel.mem.lru)


def test_an_isolated_page_is_on_no_list_and_has_a_reference(kernel, disk):
    disk.read(0, 10)
    pfn = disk.mapping.pages[0]
    count = kernel.mem.refcount[pfn]
    isolate_lru_page(kernel, pfn)
    assert not any(pfn in pages for pages in kernel.mem.lru)
    assert kernel.mem.refcount[pfn] == count + 1
    assert errno_of(isolate_lru_page, kernel, pfn) == EBUSY
    mark_page_accessed(kernel, pfn)                  # used meanwhile: it comes back active
    putback_lru_page(kernel, pfn)
    assert list_of(kernel, pfn) == LRU_ACTIVE_FILE
    assert kernel.mem.refcount[pfn] == count


def test_an_isolated_page_that_is_truncated_goes_when_it_is_put_back(kernel, disk):
    disk.read(0, 10)
    pfn = disk.mapping.pages[0]
    isolate_lru_page(kernel, pfn)
    disk.truncate(0)
    assert kernel.mem.refcount[pfn] == 1
    putback_lru_page(kernel, pfn)
    assert kernel.mem.refcount[pfn] == 0
    assert not any(pfn in pages for pages in kernel.mem.lru)


def test_a_locked_page_is_unevictable_until_it_is_cleared(kernel, disk):
    address = disk.mmap(1)
    pfn = touch(kernel, address)
    mlock_vma_page(kernel, pfn)
    assert list_of(kernel, pfn) == LRU_UNEVICTABLE
    activate_page(kernel, pfn)                       # nothing moves it
    deactivate_file_page(kernel, pfn)
    assert list_of(kernel, pfn) == LRU_UNEVICTABLE
    mmap.do_munmap(kernel.task.mm, address, PAGE)    # clear_page_mlock()
    assert list_of(kernel, pfn) == LRU_INACTIVE_FILE


def test_what_cannot_be_invalidated_goes_to_the_tail(kernel, disk):
    """POSIX_FADV_DONTNEED of pages that somebody holds: reclaim takes these first."""
    disk.read(0, 6 * PAGE)
    held = disk.mapping.pages[3]
    kernel.mem.refcount[held] += 1
    mark_page_accessed(kernel, held)
    mark_page_accessed(kernel, held)
    assert list_of(kernel, held) == LRU_ACTIVE_FILE
    filemap.invalidate_mapping_pages(disk.mapping, 3, 3)
    kernel.mem.refcount[held] -= 1
    assert next(iter(kernel.mem.lru[LRU_INACTIVE_FILE])) == held


def test_a_dirty_page_comes_to_the_tail_when_it_is_written(kernel, disk):
    disk.read(0, 6 * PAGE)
    disk.write(4 * PAGE, b"x" * PAGE)
    dirty = disk.mapping.pages[4]
    deactivate_file_page(kernel, dirty)
    assert kernel.mem.flags[dirty] & PG_reclaim
    assert next(iter(kernel.mem.lru[LRU_INACTIVE_FILE])) != dirty
    filemap.filemap_write_and_wait(disk.mapping)     # end_page_writeback(): rotate_reclaimable_page(), it is still locked
    assert not kernel.mem.flags[dirty] & PG_reclaim
    rotate_reclaimable_page(kernel, dirty)
    assert next(iter(kernel.mem.lru[LRU_INACTIVE_FILE])) == dirty


def test_reclaim_takes_what_was_used_once_and_leaves_what_is_active(kernel, disk):
    disk.read(0, 20 * PAGE)
    hot = [disk.mapping.pages[i] for i in (3, 7, 9)]
    for pfn in hot:
        mark_page_accessed(kernel, pfn)
        mark_page_accessed(kernel, pfn)
    assert try_to_free_pages(kernel, 0, GFP_KERNEL, kernel.mem.pgdat.node_zonelist) >= 17
    assert set(disk.mapping.pages) == {3, 7, 9}


STEPS = st.lists(st.tuples(st.sampled_from(["read", "write", "touch", "map", "unmap", "truncate", "lock", "free"]),
                           st.integers(0, 40), st.integers(1, 12)), max_size=40)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_whatever_happens_each_page_is_on_the_list_that_its_flags_tell(steps):
    with kernel_with_a_cache() as kernel:
        disk = Disk(kernel, bytes(48 * PAGE))
        kernel.disks.append(disk)
        areas = []
        for name, at, count in steps:
            if name == "read":
                disk.read(at * PAGE, count * PAGE)
            elif name == "write":
                disk.write(at * PAGE, b"w" * count * PAGE)
            elif name == "map":
                areas.append((disk.mmap(count, mmap.MAP_PRIVATE if at & 1 else mmap.MAP_SHARED), count)
                             if at & 2 else (anonymous(kernel, count), count))
            elif name == "touch" and areas:
                address, size = areas[at % len(areas)]
                vma = mmap.find_vma(kernel.task.mm, address)
                handle_mm_fault(vma, address + count % size * PAGE, at & 1)
            elif name == "unmap" and areas:
                address, size = areas.pop(at % len(areas))
                mmap.do_munmap(kernel.task.mm, address, size * PAGE)
            elif name == "truncate":
                disk.truncate(at * PAGE)
            elif name == "lock" and at in disk.mapping.pages:
                pfn = disk.mapping.pages[at]
                if kernel.mem.mapcount[pfn]:
                    mlock_vma_page(kernel, pfn)
            elif name == "free":
                try_to_free_pages(kernel, 0, GFP_KERNEL, kernel.mem.pgdat.node_zonelist)
            assert check_lru(kernel) == []
        assert len(kernel.mem.lru[LRU_INACTIVE_ANON]) == 0
