"""The buddy allocator against a model: what is handed out never overlaps, and everything comes back."""
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.kernel.current import register
from glasskernel.kernel.tracepoint import Tracepoints
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.machine.machine import Machine
from glasskernel.mm import page_alloc
from glasskernel.mm.page_alloc import __GFP_ZERO as GFP_ZERO
from glasskernel.mm.page_alloc import GFP_KERNEL
from tests.mm.harness import kernel_with_a_cache


@pytest.fixture(autouse=True, scope="module")
def task():
    """Somebody allocates: frames are taken as the policy of the running task says."""
    before = getattr(register, "task", None)
    register.task = SimpleNamespace(mempolicy=None)
    yield
    if before is None:
        del register.task
    else:
        register.task = before


def small_kernel(memory=32 << 20):
    kernel = SimpleNamespace(machine=Machine(cpus=2, memory=memory, seed=0), tp=Tracepoints(), swap=None)
    page_alloc.mem_init(kernel)
    return kernel


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=120))
def test_blocks_are_aligned_disjoint_and_come_back(steps):
    kernel = small_kernel()
    before = page_alloc.nr_free_pages(kernel.mem)
    held = []
    for take, order in steps:
        if take or not held:
            pfn = page_alloc.alloc_pages(kernel, GFP_KERNEL, order)
            assert pfn % (1 << order) == 0
            frames = set(range(pfn, pfn + (1 << order)))
            assert not any(frames & other for _, _, other in held)
            held.append((pfn, order, frames))
        else:
            pfn, order, _ = held.pop(order % len(held))
            page_alloc.free_pages(kernel, pfn, order)
    for pfn, order, _ in held:
        page_alloc.free_pages(kernel, pfn, order)
    page_alloc.drain_all_pages(kernel.mem)
    assert page_alloc.nr_free_pages(kernel.mem) == before
    assert page_alloc.check_frames(kernel) == []


def test_buddies_merge_back_into_the_biggest_blocks():
    kernel = small_kernel()
    page_alloc.drain_all_pages(kernel.mem)
    shape = [[len(a) for a in z.free_area] for z in kernel.mem.zones]
    pages = [page_alloc.alloc_page(kernel, GFP_KERNEL) for _ in range(500)]
    for pfn in pages:
        page_alloc.put_page(kernel, pfn)
    page_alloc.drain_all_pages(kernel.mem)
    assert [[len(a) for a in z.free_area] for z in kernel.mem.zones] == shape


def test_memory_runs_out_with_enomem_and_all_of_it_was_handed_out():
    with kernel_with_a_cache() as kernel:
        pages = []
        with pytest.raises(KernelError) as failure:
            while True:
                pages.append(page_alloc.alloc_page(kernel, GFP_KERNEL))
        assert failure.value.errno == ENOMEM
        assert len(set(pages)) == len(pages)
        low = sum(z.watermark[0] + z.lowmem_reserve[-1] for z in kernel.mem.zones)
        assert page_alloc.nr_free_pages(kernel.mem) <= low + 2 * 31
        for pfn in pages:
            page_alloc.put_page(kernel, pfn)


def test_zero_pages_are_zero_even_after_use():
    kernel = small_kernel()
    pfn = page_alloc.alloc_page(kernel, GFP_KERNEL)
    kernel.mem.ram[pfn << 12 : (pfn + 1) << 12] = b"x" * 4096
    page_alloc.put_page(kernel, pfn)
    again = page_alloc.alloc_page(kernel, GFP_KERNEL | GFP_ZERO)
    assert again == pfn                        # the hot frame comes first
    assert bytes(kernel.mem.ram[pfn << 12 : (pfn + 1) << 12]) == bytes(4096)
