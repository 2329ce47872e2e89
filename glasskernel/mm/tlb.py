"""Flushing what remembers page-table entries: the engine's TLB and the kernel's own (mm.tlb_read, tlb_write).

Linux: arch/x86/mm/tlb.c. Differs: one engine serves all CPUs, so there is one TLB; it is flushed lazily, before
the next run in user mode. An entry that was not present needs no flush; every other change of one does.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.mm.types import MmStruct, VmAreaStruct

TLB_LOCAL_MM_SHOOTDOWN = 3             # why, for tlb_flush
TLB_FLUSH_ALL = -1


def flush_tlb_mm(mm: MmStruct) -> None:
    """Every translation of this address space is forgotten."""
    mm.tlb_read.clear()
    mm.tlb_write.clear()
    engine = mm.kernel.machine.engine
    if engine.loaded_tables == mm.pgd:
        probe = mm.kernel.tp.tlb_flush
        if probe is not None:
            probe(TLB_LOCAL_MM_SHOOTDOWN, TLB_FLUSH_ALL)
        engine.loaded_tables = 0


def flush_tlb_range(mm: MmStruct, start: int, end: int) -> None:
    """Translations of [start, end) are forgotten."""
    pages = (end - start) >> 12
    if pages > 32:
        flush_tlb_mm(mm)
        return
    read, write = mm.tlb_read, mm.tlb_write
    for page in range(start >> 12, (end + 4095) >> 12):
        read.pop(page, None)
        write.pop(page, None)
    engine = mm.kernel.machine.engine
    if engine.loaded_tables == mm.pgd:
        probe = mm.kernel.tp.tlb_flush
        if probe is not None:
            probe(TLB_LOCAL_MM_SHOOTDOWN, pages)
        engine.loaded_tables = 0


def flush_tlb_page(vma: VmAreaStruct, address: int) -> None:
    """The translation of one page is forgotten."""
    mm = vma.vm_mm
    mm.tlb_read.pop(address >> 12, None)
    mm.tlb_write.pop(address >> 12, None)
    engine = mm.kernel.machine.engine
    if engine.loaded_tables == mm.pgd:
        probe = mm.kernel.tp.tlb_flush
        if probe is not None:
            probe(TLB_LOCAL_MM_SHOOTDOWN, 1)
        engine.loaded_tables = 0
