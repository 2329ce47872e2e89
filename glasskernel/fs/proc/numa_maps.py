"""/proc/PID/numa_maps: the policy of each area, and on which nodes its pages are.

Linux: the last part of fs/proc/task_mmu.c, mpol_to_str() of mm/mempolicy.c (5.3). Same: fields, their order, when one
    is left out. A page counts where it is mapped, not where the policy wants it.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.pgtable import PMD_SIZE, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, lookup_pte, pte_pfn
from glasskernel.fs.proc.internal import seq_task
from glasskernel.fs.proc.task_mmu import is_stack, m_next, m_start, m_stop, proc_map_release, proc_maps_open
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_file_path, seq_lseek, seq_puts, seq_read
from glasskernel.fs.types import FileOperations
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import cpumask_list
from glasskernel.mm.memory import pte_ranges
from glasskernel.mm.mempolicy import (
    MPOL_DEFAULT,
    MPOL_F_LOCAL,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_LOCAL,
    Mempolicy,
    vma_policy_at,
)
from glasskernel.mm.page_alloc import (
    PG_active,
    PG_anon,
    PG_dirty,
    PG_reserved,
    PG_swapcache,
    PG_unevictable,
    PG_writeback,
    page_to_nid,
)
from glasskernel.mm.types import VM_HUGETLB

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.mm.page_alloc import MemState
    from glasskernel.mm.types import VmAreaStruct

_POLICY_MODES = (b"default", b"prefer", b"bind", b"interleave", b"local")


@slotted
class NumaMaps:
    """struct numa_maps: pages, but mapcount_max. node: by node."""

    pages: int = 0
    anon: int = 0
    active: int = 0
    writeback: int = 0
    mapcount_max: int = 0
    dirty: int = 0
    swapcache: int = 0
    node: dict[int, int] = field(default_factory=dict)


@notrace
def mpol_to_str(policy: Mempolicy | None) -> bytes:
    """As mount(8)'s mpol= takes it: b"bind=static:0-1"."""
    if policy is None:
        return _POLICY_MODES[MPOL_DEFAULT]
    mode = MPOL_LOCAL if policy.flags & MPOL_F_LOCAL else policy.mode
    text = _POLICY_MODES[mode]
    if policy.flags & MPOL_F_STATIC_NODES:
        text += b"=static"
    elif policy.flags & MPOL_F_RELATIVE_NODES:
        text += b"=relative"
    return text if mode == MPOL_LOCAL else text + b":" + cpumask_list(policy.nodes)


def gather_stats(mem: MemState, md: NumaMaps, pfn: int, pte_dirty: bool, nr_pages: int) -> None:
    """One page more."""
    state = mem.flags[pfn]
    count = mem.mapcount[pfn]
    md.pages += nr_pages
    if pte_dirty or state & PG_dirty:
        md.dirty += nr_pages
    if state & PG_swapcache:
        md.swapcache += nr_pages
    if state & (PG_active | PG_unevictable):
        md.active += nr_pages
    if state & PG_writeback:
        md.writeback += nr_pages
    if state & PG_anon:
        md.anon += nr_pages
    md.mapcount_max = max(md.mapcount_max, count)
    nid = page_to_nid(mem, pfn)
    md.node[nid] = md.node.get(nid, 0) + nr_pages


def gather_pte_stats(vma: VmAreaStruct, md: NumaMaps) -> None:
    """All pages of an area. (Linux: of one page table.)"""
    mm = vma.vm_mm
    mem = mm.kernel.mem
    def gather_huge(slot: int, address: int, _end: int) -> bool:
        entry = mem.ram64[slot]
        if not entry & PTE_SPECIAL:
            pages = 1 if vma.vm_flags & VM_HUGETLB else 512
            gather_stats(mem, md, pte_pfn(entry, address & -PMD_SIZE), bool(entry & PTE_DIRTY), pages)
        return True

    for start, _first, count in pte_ranges(mm, vma.vm_start, vma.vm_end, gather_huge):
        for address in range(start, start + 4096 * count, 4096):
            slot = lookup_pte(mem.ram64, mm.pgd, address)
            entry = mem.ram64[slot] if slot else 0
            if entry & PTE_PRESENT and not entry & PTE_SPECIAL:
                pfn = pte_pfn(entry, address)
                if not mem.flags[pfn] & PG_reserved:
                    gather_stats(mem, md, pfn, bool(entry & PTE_DIRTY), 1)


def show_numa_map(m: SeqFile, v: Any) -> int | None:
    """One area. Errors: ESRCH."""
    vma: VmAreaStruct = v
    mm = vma.vm_mm
    policy = vma_policy_at(vma, vma.vm_start)
    if policy is None:
        policy = seq_task(m).mempolicy
    seq_puts(m, b"%08x %b" % (vma.vm_start, mpol_to_str(policy)))
    if vma.vm_file is not None:
        seq_puts(m, b" file=")
        seq_file_path(m, vma.vm_file, b"\n\t= ")
    elif vma.vm_start <= mm.brk and vma.vm_end >= mm.start_brk:
        seq_puts(m, b" heap")
    elif is_stack(vma):
        seq_puts(m, b" stack")
    if vma.vm_flags & VM_HUGETLB:
        seq_puts(m, b" huge")
    md = NumaMaps()
    gather_pte_stats(vma, md)
    if md.pages:
        show_figures(m, md, bool(vma.vm_flags & VM_HUGETLB))
    seq_puts(m, b"\n")
    return None


@notrace
def show_figures(m: SeqFile, md: NumaMaps, huge: bool) -> None:
    figures = (
        (b"anon", md.anon, md.anon), (b"dirty", md.dirty, md.dirty),
        (b"mapped", md.pages, md.pages not in (md.anon, md.dirty)), (b"mapmax", md.mapcount_max, md.mapcount_max > 1),
        (b"swapcache", md.swapcache, md.swapcache), (b"active", md.active, md.active < md.pages and not huge),
        (b"writeback", md.writeback, md.writeback))
    seq_puts(m, b"".join([b" %b=%d" % (name, value) for name, value, shown in figures if shown]))
    seq_puts(m, b"".join([b" N%d=%d" % (nid, md.node[nid]) for nid in sorted(md.node)]))
    seq_puts(m, b" kernelpagesize_kB=%d" % (2048 if huge else 4))


proc_pid_numa_maps_op = SeqOperations(m_start, m_next, show_numa_map, m_stop)


def pid_numa_maps_open(inode: Inode, file: File) -> None:
    proc_maps_open(inode, file, proc_pid_numa_maps_op)


proc_pid_numa_maps_operations = FileOperations(
    open=pid_numa_maps_open, read_iter=seq_read, llseek=seq_lseek, release=proc_map_release,
)
