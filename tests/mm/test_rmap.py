"""Reverse maps: from a frame to the entries that map it, through fork, copy-on-write, splits, merges and moves.

The kernel here is of memory only; its swap area is a dict.
"""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.arch.x86.pgtable import PTE_ACCESSED, lookup_pte
from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.mm import memory as memory_module
from glasskernel.mm import mmap
from glasskernel.mm.madvise import MADV_PAGEOUT, MADV_SEQUENTIAL, sys_madvise
from glasskernel.mm.memory import follow_page
from glasskernel.mm.mlock import sys_mlock
from glasskernel.mm.mmap import check_mm
from glasskernel.mm.mprotect import sys_mprotect
from glasskernel.mm.mremap import MREMAP_FIXED, MREMAP_MAYMOVE, sys_mremap
from glasskernel.mm.page_alloc import PG_swapcache, PG_uptodate, nr_free_pages
from glasskernel.mm.page_io import swap_set_page_dirty
from glasskernel.mm.page_writeback import end_page_writeback, set_page_writeback
from glasskernel.mm.pagemap import lock_page, unlock_page
from glasskernel.mm.rmap import TTU_IGNORE_ACCESS, page_mapped, page_mkclean, page_referenced, try_to_unmap
from glasskernel.mm.swap_check import check_anon
from glasskernel.mm.swap_fault import do_swap_page, do_wp_swap_cache_page
from glasskernel.mm.swap_state import add_to_swap, free_swap_cache
from glasskernel.mm.swap_types import SWAP_MAP_BAD, SWP_USED, SWP_WRITEOK, SwapInfoStruct, SwapState
from glasskernel.mm.swapfile import free_swap_and_cache, swap_duplicate, try_to_free_swap
from glasskernel.mm.types import (
    AS_NO_WRITEBACK_TAGS,
    MM_ANONPAGES,
    MM_SWAPENTS,
    VM_LOCKED,
    AddressSpace,
    AddressSpaceOperations,
)
from tests.mm.harness import PAGE, RW, Disk, kernel_with_a_cache

ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SLOTS = 4096


class SwapArea:
    """Slots in a dict. I/O ends at once."""

    def __init__(self, kernel):
        self.kernel, self.slots = kernel, {}
        aops = AddressSpaceOperations(readpage=self.readpage, writepage=self.writepage, set_page_dirty=swap_set_page_dirty)
        si = SwapInfoStruct(0, SWP_USED | SWP_WRITEOK, max=SLOTS, pages=SLOTS - 1, lowest_bit=1, highest_bit=SLOTS - 1,
                            cluster_next=1, swap_map=bytearray(SLOTS))
        si.swap_map[0] = SWAP_MAP_BAD
        kernel.swap = SwapState(swap_duplicate, free_swap_and_cache, free_swap_cache, do_swap_page, do_wp_swap_cache_page,
                                None, None, None, info=[si], active=[si], total_swap_pages=SLOTS - 1,
                                nr_swap_pages=SLOTS - 1)
        kernel.swap.spaces.append(AddressSpace(None, aops, flags=AS_NO_WRITEBACK_TAGS))
        self.si = si

    def offset(self, pfn):
        return self.kernel.swap.private[pfn]

    def readpage(self, file, mapping, index, pfn):
        self.kernel.mem.ram[pfn << 12 : (pfn + 1) << 12] = self.slots[self.offset(pfn)]
        self.kernel.mem.flags[pfn] |= PG_uptodate
        unlock_page(self.kernel, pfn)

    def writepage(self, mapping, index, pfn, wbc):
        if try_to_free_swap(self.kernel, pfn):
            unlock_page(self.kernel, pfn)
            return 0
        set_page_writeback(self.kernel, pfn)
        self.slots[self.offset(pfn)] = self.kernel.mem.ram[pfn << 12 : (pfn + 1) << 12].tobytes()
        unlock_page(self.kernel, pfn)
        end_page_writeback(self.kernel, pfn)
        return 0


class Memory:
    """The kernel, and what its only task does. fork() makes a second address space; switch() goes to one."""

    def __init__(self, kernel):
        self.kernel, self.mem = kernel, kernel.mem
        self.swap = SwapArea(kernel)
        self.first = kernel.task.mm

    def anon(self, pages, address=0, flags=0):
        return mmap.do_mmap(None, address, pages * PAGE, RW, ANON | flags, 0)

    def fork(self):
        return mmap.dup_mm(self.kernel.task, self.kernel.task.mm)

    def switch(self, mm):
        self.kernel.task.mm = mm
        self.kernel.task.vmacache = [None] * 4 if hasattr(self.kernel.task, "vmacache") else None

    def end(self, mm):
        self.switch(self.first)
        mmap.mmput(mm)

    def pfn(self, address, mm=None):
        return follow_page(mm or self.kernel.task.mm, address)

    def pte(self, address):
        return self.mem.ram64[lookup_pte(self.mem.ram64, self.kernel.task.mm.pgd, address)]

    def referenced(self, pfn):
        return page_referenced(self.kernel, pfn, False)

    def vma(self, address):
        return self.kernel.task.mm.vmas.first_ending_after(address)


@pytest.fixture
def memory():
    with kernel_with_a_cache() as kernel:
        memory = Memory(kernel)
        yield memory
        memory.switch(memory.first)
        for mm in kernel.mm_list:
            assert check_mm(mm) == []
        assert check_anon(kernel) == []
        for vma in memory.first.vmas.values():
            mmap.do_munmap(memory.first, vma.vm_start, vma.vm_end - vma.vm_start)
        assert not kernel.swap.private
        assert not any(memory.swap.si.swap_map[1:])


# ---- finding entries -------------------------------------------------------------------------------------------
def test_a_page_is_referenced_once_for_each_process_that_used_it(memory):
    a = memory.anon(1)
    copy_to_user(a, b"x")
    pfn = memory.pfn(a)
    assert memory.referenced(pfn)[0] == 1
    assert not memory.pte(a) & PTE_ACCESSED
    assert memory.referenced(pfn)[0] == 0
    child = memory.fork()
    memory.switch(child)
    memory.first.tlb_read.clear()
    copy_from_user(a, 1)
    assert memory.referenced(pfn) == (1, memory.vma(a).vm_flags)
    copy_to_user(a, b"y")                              # its own copy now
    assert memory.pfn(a) != pfn == memory.pfn(a, memory.first)
    assert memory.referenced(memory.pfn(a))[0] == 1
    assert memory.referenced(pfn)[0] == 0
    memory.end(child)


def test_a_child_allocates_in_an_anon_vma_of_its_own(memory):
    """Its parent's pages are in the parent's; walks over the child's pages do not visit the parent."""
    a = memory.anon(2)
    copy_to_user(a, b"x")
    parent = memory.vma(a)
    child = memory.fork()
    memory.switch(child)
    vma = memory.vma(a)
    assert vma.anon_vma is not parent.anon_vma
    assert vma.anon_vma_chain == (parent.anon_vma, vma.anon_vma)
    assert list(parent.anon_vma.rb_root) == [parent, vma]
    assert list(vma.anon_vma.rb_root) == [vma]
    assert (vma.anon_vma.root, vma.anon_vma.parent, parent.anon_vma.degree) == (parent.anon_vma, parent.anon_vma, 3)
    copy_to_user(a, b"y")
    assert memory.mem.anon_vmas[memory.mem.anon_vma[memory.pfn(a)]] is vma.anon_vma
    memory.end(child)
    assert (list(parent.anon_vma.rb_root), parent.anon_vma.degree) == ([parent], 2)


def test_generations_of_forks_take_empty_anon_vmas_again(memory):
    """A daemon that forks and ends, again and again, does not make longer and longer chains."""
    a = memory.anon(1)
    copy_to_user(a, b"x")
    lengths = []
    for _ in range(12):
        child = memory.fork()
        old = memory.kernel.task.mm
        memory.switch(child)
        copy_to_user(a, b"y")
        lengths.append(len(memory.vma(a).anon_vma_chain))
        if old is not memory.first:
            mmap.mmput(old)
    assert max(lengths) <= 4
    assert len(memory.mem.anon_vmas) <= 5
    memory.end(child)


def test_the_last_who_maps_a_page_owns_it(memory):
    """Once the parent is gone, the child's page belongs to the child's anon_vma at its next write."""
    a = memory.anon(1)
    copy_to_user(a, b"x")
    child = memory.fork()
    mmap.do_munmap(memory.first, a, PAGE)
    memory.switch(child)
    pfn = memory.pfn(a)
    copy_to_user(a, b"y")
    assert memory.pfn(a) == pfn
    assert memory.mem.anon_vmas[memory.mem.anon_vma[pfn]] is memory.vma(a).anon_vma
    memory.end(child)


def test_neighbours_share_an_anon_vma_so_that_they_can_be_merged(memory):
    a = memory.anon(3)
    sys_mprotect(a + PAGE, PAGE, RW | mmap.PROT_EXEC)
    for page in (0, 1, 2):
        copy_to_user(a + page * PAGE, b"x")
    assert len({memory.vma(a + page * PAGE) for page in range(3)}) == 3
    assert len({memory.vma(a + page * PAGE).anon_vma for page in range(3)}) == 1
    sys_mprotect(a + PAGE, PAGE, RW)
    assert len({memory.vma(a + page * PAGE) for page in range(3)}) == 1
    assert {memory.referenced(memory.pfn(a + page * PAGE))[0] for page in range(3)} == {1}


def test_pages_of_files_are_found_through_the_file(memory):
    disk = Disk(memory.kernel, bytes(4 * PAGE))
    memory.kernel.disks.append(disk)
    one, two = disk.mmap(4), disk.mmap(2, index=2)
    copy_from_user(one + 2 * PAGE, 1)
    copy_from_user(two, 1)
    pfn = disk.mapping.pages[2]
    assert memory.referenced(pfn)[0] == 2
    sys_madvise(two, 2 * PAGE, MADV_SEQUENTIAL)
    memory.first.tlb_read.clear()
    copy_from_user(one + 2 * PAGE, 1)
    copy_from_user(two, 1)
    assert memory.referenced(pfn)[0] == 1              # read on the way through: not a sign of use
    copy_to_user(two, b"x")
    lock_page(memory.kernel, pfn)
    assert page_mkclean(memory.kernel, pfn) == 1
    assert try_to_unmap(memory.kernel, pfn, TTU_IGNORE_ACCESS)
    unlock_page(memory.kernel, pfn)
    assert not page_mapped(memory.kernel, pfn)
    assert copy_from_user(two, 1) == b"x"
    sys_mlock(one + 2 * PAGE, PAGE)
    assert memory.referenced(pfn)[1] & VM_LOCKED
    lock_page(memory.kernel, pfn)
    assert not try_to_unmap(memory.kernel, pfn, TTU_IGNORE_ACCESS)
    unlock_page(memory.kernel, pfn)


def test_unmapping_an_anonymous_page_leaves_swap_entries_in_every_process(memory):
    a = memory.anon(1)
    copy_to_user(a, b"data")
    child = memory.fork()
    pfn = memory.pfn(a)
    memory.mem.refcount[pfn] += 1
    lock_page(memory.kernel, pfn)
    assert add_to_swap(memory.kernel, pfn)
    assert not try_to_unmap(memory.kernel, pfn, 0)     # just used
    assert try_to_unmap(memory.kernel, pfn, TTU_IGNORE_ACCESS)
    unlock_page(memory.kernel, pfn)
    memory.mem.refcount[pfn] -= 1
    assert memory.swap.si.swap_map[1] == 0x42          # two users, and the cache
    for mm in (memory.first, child):
        assert (mm.rss_stat[MM_ANONPAGES], mm.rss_stat[MM_SWAPENTS]) == (0, 1)
    assert copy_from_user(a, 4) == b"data"
    memory.switch(child)
    copy_to_user(a, b"mine")
    memory.switch(memory.first)
    assert copy_from_user(a, 4) == b"data"
    copy_to_user(a, b"ours")
    assert not memory.mem.flags[memory.pfn(a)] & PG_swapcache
    memory.end(child)


def test_a_fork_without_memory_leaves_nothing_behind(memory, monkeypatch):
    """Whichever table it cannot get: counts, slots and anon_vmas are as before."""
    places = [0x4000_0000 + i * 0x40_0000 for i in range(4)]
    for place in places:
        memory.anon(2, place, mmap.MAP_FIXED)
        copy_to_user(place, b"here")
        copy_to_user(place + PAGE, b"away")
        sys_madvise(place + PAGE, PAGE, MADV_PAGEOUT)
    real, families = vars(memory_module)["pte_alloc_one"], len(memory.mem.anon_vmas)
    for left in range(4):
        budget = [left]

        def limited(mm, budget=budget):
            if not budget[0]:
                raise KernelError(ENOMEM)
            budget[0] -= 1
            return real(mm)

        monkeypatch.setattr(memory_module, "pte_alloc_one", limited)
        with pytest.raises(KernelError):
            memory.fork()
        assert len(memory.kernel.mm_list) == 1
        assert check_anon(memory.kernel) == []
        assert len(memory.mem.anon_vmas) == families
    monkeypatch.setattr(memory_module, "pte_alloc_one", real)
    child = memory.fork()
    for place in places:
        assert copy_from_user(place, 4) + copy_from_user(place + PAGE, 4) == b"hereaway"
    memory.end(child)


def test_a_copy_without_memory_leaves_the_page_as_it_was(memory, monkeypatch):
    a = memory.anon(1)
    copy_to_user(a, b"x")
    child = memory.fork()
    pfn, references = memory.pfn(a), memory.mem.refcount[memory.pfn(a)]

    def nothing(*_):
        raise KernelError(ENOMEM)

    monkeypatch.setattr(memory_module, "alloc_pages_vma", nothing)
    with pytest.raises(KernelError):
        copy_to_user(a, b"y")
    monkeypatch.undo()
    assert (memory.pfn(a), memory.mem.refcount[pfn], memory.mem.mapcount[pfn]) == (pfn, references, 2)
    assert copy_from_user(a, 1) == b"x"
    memory.end(child)


# ---- in any order ----------------------------------------------------------------------------------------------
PAGES = 12
AREA = 0x5000_0000
operations = st.one_of(
    st.tuples(st.just("write"), st.integers(0, PAGES - 1), st.integers(1, 255)),
    st.tuples(st.just("read"), st.integers(0, PAGES - 1)),
    st.tuples(st.just("pageout"), st.integers(0, PAGES - 1), st.integers(1, PAGES)),
    st.tuples(st.just("unmap"), st.integers(0, PAGES - 1), st.integers(1, 4)),
    st.tuples(st.just("map"), st.integers(0, PAGES - 1), st.integers(1, 4)),
    st.tuples(st.just("move"), st.integers(0, PAGES - 1), st.integers(0, PAGES - 1), st.integers(1, 4)),
    st.tuples(st.just("protect"), st.integers(0, PAGES - 1), st.integers(1, 4), st.sampled_from([0, 1, 3])),
    st.tuples(st.just("fork"),), st.tuples(st.just("switch"), st.integers(0, 3)), st.tuples(st.just("exit"),),
)


class Model:
    """What each process should see: for each page (byte, rights), or None where nothing is mapped."""

    def __init__(self, memory):
        self.memory = memory
        self.views = {memory.first: [(0, 3)] * PAGES}

    @property
    def view(self):
        return self.views[self.memory.kernel.task.mm]

    def do(self, name, *args):
        getattr(self, name)(*args)

    def write(self, page, byte):
        if self.view[page] and self.view[page][1] == 3:
            copy_to_user(AREA + page * PAGE, bytes([byte]) * PAGE)
            self.view[page] = (byte, 3)
        else:
            with pytest.raises(KernelError):
                copy_to_user(AREA + page * PAGE, b"x")

    def read(self, page):
        if self.view[page] and self.view[page][1]:
            assert copy_from_user(AREA + page * PAGE, PAGE) == bytes([self.view[page][0]]) * PAGE
        else:
            with pytest.raises(KernelError):
                copy_from_user(AREA + page * PAGE, 1)

    def pageout(self, page, count):
        count = min(count, PAGES - page)
        try:
            sys_madvise(AREA + page * PAGE, count * PAGE, MADV_PAGEOUT)
        except KernelError:
            assert None in self.view[page : page + count]

    def unmap(self, page, count):
        count = min(count, PAGES - page)
        mmap.do_munmap(self.memory.kernel.task.mm, AREA + page * PAGE, count * PAGE)
        self.view[page : page + count] = [None] * count

    def map(self, page, count):
        count = min(count, PAGES - page)
        self.memory.anon(count, AREA + page * PAGE, mmap.MAP_FIXED)
        self.view[page : page + count] = [(0, 3)] * count

    def move(self, page, to, count):
        count = min(count, PAGES - page, PAGES - to)
        if None in self.view[page : page + count] or (page < to + count and to < page + count):
            return
        try:
            sys_mremap(AREA + page * PAGE, count * PAGE, count * PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, AREA + to * PAGE)
        except KernelError:                            # EFAULT: more than one area; the target is unmapped by then
            self.view[to : to + count] = [None] * count
            return
        self.view[to : to + count] = self.view[page : page + count]
        self.view[page : page + count] = [None] * count

    def protect(self, page, count, rights):
        count = min(count, PAGES - page)
        if None not in self.view[page : page + count]:
            sys_mprotect(AREA + page * PAGE, count * PAGE, rights)
            self.view[page : page + count] = [(byte, rights) for byte, _ in self.view[page : page + count]]

    def fork(self):
        if len(self.views) < 4:
            self.views[self.memory.fork()] = list(self.view)

    def switch(self, which):
        self.memory.switch(list(self.views)[which % len(self.views)])

    def exit(self):
        mm = self.memory.kernel.task.mm
        if mm is not self.memory.first:
            del self.views[mm]
            self.memory.end(mm)

    def check(self):
        kernel = self.memory.kernel
        for mm in kernel.mm_list:
            assert check_mm(mm) == []
        assert check_anon(kernel) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(operations, max_size=40))
def test_every_process_sees_what_it_wrote_whatever_happens_in_between(steps):
    with kernel_with_a_cache() as kernel:
        memory = Memory(kernel)
        free = nr_free_pages(kernel.mem)
        memory.anon(PAGES, AREA, mmap.MAP_FIXED)
        model = Model(memory)
        for step in steps:
            model.do(*step)
            model.check()
        for mm in list(model.views):
            memory.switch(mm)
            for page in range(PAGES):
                model.read(page)
            model.check()
            model.exit()
        memory.switch(memory.first)
        mmap.do_munmap(memory.first, AREA, PAGES * PAGE)
        model.check()
        assert not any(memory.swap.si.swap_map[1:])
        assert not kernel.swap.private
        assert not kernel.mem.anon_vmas
        assert nr_free_pages(kernel.mem) >= free - 8       # tables
