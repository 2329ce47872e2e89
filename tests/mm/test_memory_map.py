"""The memory map through its own functions, on a kernel without processes: areas, faults, copy-on-write."""
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, user_page
from glasskernel.kernel.current import register
from glasskernel.kernel.sysctl import Sysctl
from glasskernel.kernel.task import RLIM_INFINITY, Cred, TaskStruct
from glasskernel.kernel.tracepoint import Tracepoints
from glasskernel.lib.errno import EFAULT, EINVAL, ENOMEM, KernelError
from glasskernel.machine.machine import Machine
from glasskernel.mm import memory, mmap, page_alloc, slab_common
from glasskernel.mm.slub_check import check_slab
from glasskernel.mm.types import VM_WRITE

ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
RW = mmap.PROT_READ | mmap.PROT_WRITE


def idt_page_fault(kernel):
    """What arch/x86/entry does, without signals."""

    def fault(address, error_code):
        mm = register.task.mm
        vma = mmap.find_vma(mm, address)
        if vma is None or vma.vm_start > address or (error_code & 2 and not vma.vm_flags & VM_WRITE):
            return False
        return not memory.handle_mm_fault(vma, address, 1 if error_code & 2 else 0) & 0x43

    return fault


@contextmanager
def memory_kernel():
    kernel = SimpleNamespace(machine=Machine(cpus=1, memory=32 << 20, seed=0), tp=Tracepoints(), mmap_listeners=(), uprobes=None, perf=None, swap=None, thp=None, hugetlb=None, vmalloc=SimpleNamespace(pgd=0), sysctl=Sysctl(), mm_list={}, lsm=None)
    page_alloc.mem_init(kernel)
    kernel.idt_page_fault = idt_page_fault(kernel)
    task = TaskStruct(kernel, 1, 1, b"test")
    task.cred = task.real_cred = Cred()
    task.signal = SimpleNamespace(rlim=[(RLIM_INFINITY, RLIM_INFINITY)] * 16)
    register.task = task
    slab_common.kmem_cache_init(kernel)
    kernel.slab.mm_cachep = slab_common.kmem_cache_create(kernel, b"mm_struct", 1040)
    kernel.slab.vm_area_cachep = slab_common.kmem_cache_create(kernel, b"vm_area_struct", 200)
    task.mm = mmap.mm_alloc(kernel)
    task.mm.mmap_base = 0x7FFF_0000_0000
    kernel.task = task
    yield kernel
    free = page_alloc.nr_free_pages(kernel.mem)
    mmap.mmput(task.mm)
    assert not kernel.mm_list
    assert page_alloc.check_frames(kernel) == []
    assert check_slab(kernel) == []
    assert page_alloc.nr_free_pages(kernel.mem) >= free
    slabs = {page.pfn for page in kernel.slab.pages.values()}
    assert sum(kernel.mem.refcount) == 1 + len(slabs)                   # the zero page


@pytest.fixture
def kernel():
    with memory_kernel() as kernel:
        yield kernel


def test_a_write_is_read_back_and_costs_one_frame_a_page(kernel):
    address = mmap.do_mmap(None, 0, 8192, RW, ANON, 0)
    copy_to_user(address + 4090, b"hello world!")
    assert copy_from_user(address + 4090, 12) == b"hello world!"
    assert kernel.task.mm.rss_stat[1] == 2


def test_reading_untouched_memory_gives_zeros_without_a_frame(kernel):
    address = mmap.do_mmap(None, 0, 4096, RW, ANON, 0)
    assert copy_from_user(address, 16) == bytes(16)
    assert kernel.task.mm.rss_stat[1] == 0
    copy_to_user(address, b"x")                            # the zero page itself must stay zero
    assert kernel.task.mm.rss_stat[1] == 1
    other = mmap.do_mmap(None, 0, 4096, RW, ANON, 0)
    assert copy_from_user(other, 1) == b"\0"


def test_neighbours_merge_and_a_hole_splits(kernel):
    mm = kernel.task.mm
    base = 0x10_0000_0000
    for i in (0, 2, 1):
        mmap.do_mmap(None, base + i * 4096, 4096, RW, ANON | mmap.MAP_FIXED, 0)
    assert len(mm.vmas) == 1
    mmap.do_munmap(mm, base + 4096, 4096)
    assert [(v.vm_start, v.vm_end) for v in mm.vmas] == [(base, base + 4096), (base + 8192, base + 12288)]
    assert mmap.check_mm(mm) == []


def test_nothing_can_be_reached_after_munmap(kernel):
    address = mmap.do_mmap(None, 0, 4096, RW, ANON, 0)
    copy_to_user(address, b"secret")
    mmap.do_munmap(kernel.task.mm, address, 4096)
    with pytest.raises(KernelError) as failure:
        copy_from_user(address, 6)
    assert failure.value.errno == EFAULT


def test_a_child_and_its_parent_do_not_see_each_others_writes(kernel):
    parent = kernel.task.mm
    address = mmap.do_mmap(None, 0, 8192, RW, ANON, 0)
    copy_to_user(address, b"both")
    child = mmap.dup_mm(kernel.task, parent)
    copy_to_user(address, b"mine")
    kernel.task.mm = child
    assert copy_from_user(address, 4) == b"both"
    copy_to_user(address, b"kids")
    copy_to_user(address + 4096, b"new")
    kernel.task.mm = parent
    assert copy_from_user(address, 4) == b"mine"
    assert copy_from_user(address + 4096, 3) == bytes(3)
    mmap.mmput(child)
    page = user_page(address, 1)
    assert kernel.mem.refcount[page >> 12] == 1


def test_the_last_owner_of_a_page_writes_without_a_copy(kernel):
    address = mmap.do_mmap(None, 0, 4096, RW, ANON, 0)
    copy_to_user(address, b"x")
    before = user_page(address, 0)
    mmap.mmput(mmap.dup_mm(kernel.task, kernel.task.mm))
    copy_to_user(address, b"y")
    assert user_page(address, 0) == before


@pytest.mark.parametrize(
    ("address", "length", "prot", "flags", "errno"),
    [(0, 0, RW, ANON, EINVAL), (123, 4096, RW, ANON | mmap.MAP_FIXED, EINVAL), (0, 1 << 60, RW, ANON, ENOMEM),
     (0, 4096, RW, mmap.MAP_ANONYMOUS, EINVAL)],
)
def test_bad_arguments(kernel, address, length, prot, flags, errno):
    with pytest.raises(KernelError) as failure:
        mmap.do_mmap(None, address, length, prot, flags, 0)
    assert failure.value.errno == errno


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["map", "unmap", "write", "fork"]), st.integers(0, 15), st.integers(1, 6)),
                max_size=40))
def test_against_a_model_of_pages(steps):
    """Random maps, unmaps and writes in 16 pages; a dict says what each page must hold."""
    with memory_kernel() as k:
        mm, base, model = k.task.mm, 0x20_0000_0000, {}
        for number, (what, page, count) in enumerate(steps):
            pages = range(page, min(page + count, 16))
            start, size = base + page * 4096, len(pages) * 4096
            if what == "map":
                mmap.do_mmap(None, start, size, RW, ANON | mmap.MAP_FIXED, 0)
                model.update(dict.fromkeys(pages, 0))
            elif what == "unmap":
                mmap.do_munmap(mm, start, size)
                for p in pages:
                    model.pop(p, None)
            elif what == "write" and page in model:
                copy_to_user(start, bytes([number % 255 + 1]))
                model[page] = number % 255 + 1
            elif what == "fork":
                mmap.mmput(mmap.dup_mm(k.task, mm))
            assert mmap.check_mm(mm) == []
        for p in range(16):
            if p in model:
                assert copy_from_user(base + p * 4096, 1)[0] == model[p]
            else:
                with pytest.raises(KernelError):
                    copy_from_user(base + p * 4096, 1)


def highest_gap(mm, length):
    """unmapped_area_topdown() by trying every gap: each ends where the area above it begins, less its guard gap."""
    areas = [v for v in mm.vmas if v.vm_start < mm.mmap_base]
    bottoms = [mmap.mmap_min_addr(mm), *(v.vm_end for v in areas)]
    tops = [*(mmap.vm_start_gap(v) for v in areas), mm.mmap_base]
    return max((top - length for bottom, top in zip(bottoms, tops, strict=True) if top - bottom >= length), default=None)


@settings(max_examples=60, deadline=None)
@example([("map", 0, 1), ("map", 0, 1), ("unmap", 0, 1), ("stack", 0, 1), ("map", 0, 1), ("map", 0, 1)])
@given(st.lists(st.tuples(st.sampled_from(["map", "map", "unmap", "stack"]), st.integers(0, 40), st.integers(1, 6)),
                max_size=60))
def test_a_new_area_goes_into_the_highest_gap(steps):
    """vm_unmapped_area() remembers where it need not look; the answer must be that of a search that forgets."""
    with memory_kernel() as k:
        mm = k.task.mm
        mm.mmap_base = 0x7FFF_0000_0000
        for number, (what, page, count) in enumerate(steps):
            protection = RW if number % 2 else mmap.PROT_READ        # so neighbours do not merge
            if what == "unmap":
                mmap.do_munmap(mm, mm.mmap_base - (page + count) * 4096, count * 4096)
                continue
            flags = ANON | (mmap.MAP_GROWSDOWN if what == "stack" else 0)
            expected = highest_gap(mm, count * 4096)
            assert mmap.do_mmap(None, 0, count * 4096, protection, flags, 0) == expected


def test_ten_thousand_areas_take_no_ten_thousand_steps_each(kernel, monkeypatch):
    """Each mmap() looked at all areas before: msyncmany of stress-ng took minutes."""
    looked = []
    mm = kernel.task.mm
    before = type(mm.vmas).before
    monkeypatch.setattr(type(mm.vmas), "before", lambda tree, address: looked.append(1) or before(tree, address))
    for number in range(2000):
        mmap.do_mmap(None, 0, 4096, RW if number % 2 else mmap.PROT_READ, ANON, 0)
    assert len(mm.vmas) == 2000
    assert len(looked) < 10_000
