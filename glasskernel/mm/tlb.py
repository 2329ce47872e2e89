"""Flushing what remembers page-table entries: the engine's TLB and the kernel's own (mm.tlb_read, tlb_write).

Linux: arch/x86/mm/tlb.c (5.3). Same: flush_tlb_mm(), flush_tlb_range() and flush_tlb_page() are names for
flush_tlb_mm_range(), which flushes everything from tlb_single_page_flush_ceiling pages on.
Same: CPUs that run other threads of the process are interrupted; idle ones (lazy TLB) are not.
Differs: one engine serves all CPUs, so there is one TLB, flushed lazily, before the next run in user mode: when the
interrupt comes, it has forgotten already. An entry that was not present needs no flush; every other change of one does.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.smp import smp_call_function_many
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.mm.types import MmStruct, VmAreaStruct

TLB_REMOTE_SHOOTDOWN, TLB_LOCAL_MM_SHOOTDOWN, TLB_REMOTE_SEND_IPI = 1, 3, 4      # why, for tlb_flush
TLB_FLUSH_ALL = -1
_SINGLE_PAGE_FLUSH_CEILING = 33        # tlb_single_page_flush_ceiling


@notrace
def flush_tlb_mm(mm: MmStruct) -> None:
    """Every translation of this address space is forgotten."""
    flush_tlb_mm_range(mm, 0, TLB_FLUSH_ALL)


@notrace
def flush_tlb_range(mm: MmStruct, start: int, end: int) -> None:
    """Translations of [start, end) are forgotten."""
    flush_tlb_mm_range(mm, start, end)


@notrace
def flush_tlb_page(vma: VmAreaStruct, address: int) -> None:
    """The translation of one page is forgotten."""
    flush_tlb_mm_range(vma.vm_mm, address, address + 4096)


def ptep_clear_flush(vma: VmAreaStruct, address: int, slot: int) -> int:
    """An entry goes, and nothing remembers it; what it was (mm/pgtable-generic.c)."""
    ram64 = vma.vm_mm.kernel.mem.ram64
    entry: int = ram64[slot]
    ram64[slot] = 0
    flush_tlb_page(vma, address)
    return entry


def flush_tlb_mm_range(mm: MmStruct, start: int, end: int) -> None:
    """Translations of [start, end) are forgotten; of everything with the end TLB_FLUSH_ALL."""
    pages = (end - start) >> 12
    if end == TLB_FLUSH_ALL or pages > _SINGLE_PAGE_FLUSH_CEILING:
        pages = TLB_FLUSH_ALL
        mm.tlb_read.clear()
        mm.tlb_write.clear()
    else:
        read, write = mm.tlb_read, mm.tlb_write
        for page in range(start >> 12, (end + 4095) >> 12):
            read.pop(page, None)
            write.pop(page, None)
    if mm.kernel.machine.engine.loaded_tables == mm.pgd:
        flush_tlb_func_common(mm, pages)
    if mm.mm_users > 1:
        this_cpu = register.task.cpu
        cpus = [rq.cpu for rq in mm.kernel.sched.rqs if rq.curr.mm is mm and rq.cpu != this_cpu]
        if cpus:
            flush_tlb_others(cpus, FlushTlbInfo(mm, pages))


def flush_tlb_func_common(mm: MmStruct, pages: int) -> None:
    """The engine has these tables: it drops what it knows of them before it runs on."""
    probe = mm.kernel.tp.tlb_flush
    if probe is not None:
        probe(TLB_LOCAL_MM_SHOOTDOWN, pages)
    mm.kernel.machine.engine.loaded_tables = 0


# ---- the other CPUs ----------------------------------------------------------------------------------------
class FlushTlbInfo:
    """struct flush_tlb_info."""

    __slots__ = ("mm", "pages")

    def __init__(self, mm: MmStruct, pages: int) -> None:
        self.mm = mm
        self.pages = pages


@notrace
def flush_tlb_others(cpus: list[int], info: FlushTlbInfo) -> None:
    """CPUs that run other threads of the process must forget, too: they get an interrupt."""
    native_flush_tlb_others(cpus, info)


def native_flush_tlb_others(cpus: list[int], info: FlushTlbInfo) -> None:
    probe = info.mm.kernel.tp.tlb_flush
    if probe is not None:
        probe(TLB_REMOTE_SEND_IPI, info.pages)
    smp_call_function_many(cpus, flush_tlb_func_remote, info)


def flush_tlb_func_remote(info: FlushTlbInfo) -> None:
    """On each of them. Context: irq."""
    task = register.task
    kernel = task.kernel
    kernel.irq.cpu_stat["TLB"][task.cpu] += 1
    if task.mm is info.mm:                         # "already up to date", as Linux finds by mm's tlb_gen
        probe = kernel.tp.tlb_flush
        if probe is not None:
            probe(TLB_REMOTE_SHOOTDOWN, 0)
