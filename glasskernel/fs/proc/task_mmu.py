"""/proc/PID/maps, smaps, smaps_rollup, pagemap and clear_refs.

Linux: fs/proc/task_mmu.c (5.3). Same: columns, padding, names of areas, every line of smaps, 64-bit
    pagemap entries.
Differs: a position in maps is an address, as in Linux with m->version.
Owns: nothing. Locks: mmap_sem is not needed: nothing here sleeps between two areas.
Gaps: soft-dirty (clear_refs 4).
"""
from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.pgtable import (
    PMD_SIZE,
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_PRESENT,
    PTE_PROTNONE,
    PTE_PSE,
    PTE_SPECIAL,
    SWP_TYPE_SHIFT,
    pte_pfn,
    pte_to_swp_entry,
)
from glasskernel.arch.x86.vma import get_gate_vma
from glasskernel.fs.proc.internal import get_proc_task, mm_access, proc_task, seq_task
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import (
    SeqFile,
    SeqOperations,
    seq_file_path,
    seq_lseek,
    seq_open,
    seq_pad,
    seq_put_decimal_ull,
    seq_put_hex_ll,
    seq_putc,
    seq_puts,
    seq_read,
    seq_release,
    single_open,
    single_release,
)
from glasskernel.fs.types import MAJOR, MINOR, FileOperations
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_FSCREDS
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.huge_types import transparent_hugepage_enabled
from glasskernel.mm.memory import pte_ranges
from glasskernel.mm.page_alloc import PG_anon
from glasskernel.mm.shmem import SHMEM_I
from glasskernel.mm.tlb import flush_tlb_mm
from glasskernel.mm.types import (
    TASK_SIZE,
    VM_ACCOUNT,
    VM_DENYWRITE,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_MIXEDMAP,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    VSYSCALL_ADDR,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import MmStruct, VmAreaStruct


# ---- walking the areas ---------------------------------------------------------------------------
@notrace
def _mm(m: SeqFile) -> MmStruct | None:
    """The address space that was there at open(2), while somebody uses it."""
    mm: MmStruct | None = m.private
    return mm if mm is not None and mm.mm_users else None


def m_start(m: SeqFile) -> Any:
    """m.index is the address from which on areas are still to be shown. Errors: ESRCH."""
    seq_task(m)
    mm = _mm(m)
    return None if mm is None else mm.vmas.first_ending_after(m.index)


def m_next(m: SeqFile, v: Any) -> Any:
    m.index = v.vm_end
    mm = _mm(m)
    return None if mm is None else mm.vmas.first_ending_after(m.index)


def m_stop(m: SeqFile, v: Any) -> None:
    return None


@notrace
def proc_maps_open(inode: Inode, file: File, ops: SeqOperations) -> None:
    """Errors: EACCES for somebody else's process, ESRCH."""
    task = proc_task(inode)
    seq_open(file, ops).private = mm_access(task, PTRACE_MODE_READ_FSCREDS)


def proc_map_release(inode: Inode, file: File) -> None:
    seq_release(inode, file)


# ---- maps ----------------------------------------------------------------------------------------
@notrace
def is_stack(vma: VmAreaStruct) -> bool:
    """The area of the main thread's stack."""
    start_stack = vma.vm_mm.start_stack
    return vma.vm_start <= start_stack <= vma.vm_end


def show_vma_header_prefix(m: SeqFile, start: int, end: int, flags: int, pgoff: int, dev: int, ino: int) -> None:
    """b"55aae4a37000-55aae4a39000 r--p 00000000 fe:00 552 " """
    seq_put_hex_ll(m, b"", start, 8)
    seq_put_hex_ll(m, b"-", end, 8)
    seq_putc(m, b" ")
    seq_putc(m, b"r" if flags & VM_READ else b"-")
    seq_putc(m, b"w" if flags & VM_WRITE else b"-")
    seq_putc(m, b"x" if flags & VM_EXEC else b"-")
    seq_putc(m, b"s" if flags & VM_MAYSHARE else b"p")
    seq_put_hex_ll(m, b" ", pgoff, 8)
    seq_put_hex_ll(m, b" ", MAJOR(dev), 2)
    seq_put_hex_ll(m, b":", MINOR(dev), 2)
    seq_put_decimal_ull(m, b" ", ino)
    seq_putc(m, b" ")


def show_map_vma(m: SeqFile, vma: VmAreaStruct) -> None:
    """The line of one area, without its newline in smaps' sense: it ends with one."""
    mm = vma.vm_mm
    file = vma.vm_file
    dev = ino = pgoff = 0
    if file is not None:
        inode = file.f_path.dentry.d_inode or file.f_inode      # of an overlay's file the numbers that stat(2) shows
        dev = inode.i_sb.s_dev
        ino = inode.i_ino
        pgoff = vma.vm_pgoff << 12
    line = len(m.buf)
    show_vma_header_prefix(m, vma.vm_start, vma.vm_end, vma.vm_flags, pgoff, dev, ino)
    name = b""
    if file is not None:
        seq_pad(m, b" ", line, 25 + 8 * 6 - 1)
        seq_file_path(m, file, b"\n")
        seq_putc(m, b"\n")
        return
    ops = vma.vm_ops
    if ops is not None and ops.name is not None:
        name = ops.name(vma)
    elif vma.vm_start <= mm.brk and vma.vm_end >= mm.start_brk:
        name = b"[heap]"
    elif is_stack(vma):
        name = b"[stack]"
    if name:
        seq_pad(m, b" ", line, 25 + 8 * 6 - 1)
        seq_puts(m, name)
    seq_putc(m, b"\n")


def show_map(m: SeqFile, v: Any) -> int | None:
    show_map_vma(m, v)
    return None


@notrace
def maps_start(m: SeqFile) -> Any:
    """m_start(), with the vsyscall page behind the last area."""
    vma = m_start(m)
    mm = _mm(m)
    return vma if vma is not None or mm is None or m.index > VSYSCALL_ADDR else get_gate_vma(mm)


@notrace
def maps_next(m: SeqFile, v: Any) -> Any:
    m.index = v.vm_end
    return maps_start(m)


proc_pid_maps_op = SeqOperations(maps_start, maps_next, show_map, m_stop)


def pid_maps_open(inode: Inode, file: File) -> None:
    proc_maps_open(inode, file, proc_pid_maps_op)


proc_pid_maps_operations = FileOperations(
    open=pid_maps_open, read_iter=seq_read, llseek=seq_lseek, release=proc_map_release,
)


# ---- smaps ---------------------------------------------------------------------------------------
@slotted
class MemSizeStats:
    """struct mem_size_stats: bytes; pss << PSS_SHIFT."""

    resident: int = 0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    referenced: int = 0
    anonymous: int = 0
    pss: int = 0
    pss_anon: int = 0
    pss_file: int = 0
    pss_shmem: int = 0
    pss_locked: int = 0
    swap: int = 0
    swap_pss: int = 0
    anonymous_thp: int = 0
    shared_hugetlb: int = 0
    private_hugetlb: int = 0


PSS_SHIFT = 12


@notrace
def swp_swapcount(kernel: Kernel, entry: int) -> int:
    """How many page-table entries hold a slot (mm/swapfile.c)."""
    from glasskernel.mm.swapfile import swap_count, swp_swap_info  # late: start-up time

    return swap_count(swp_swap_info(kernel, entry), entry & (1 << SWP_TYPE_SHIFT) - 1)


@notrace
def shmem_swap_usage(vma: VmAreaStruct) -> int:
    """Pages of a shared area of tmpfs that are in a swap area (mm/shmem.c)."""
    swap = vma.vm_mm.kernel.swap
    assert swap is not None and vma.vm_file is not None
    inode = vma.vm_file.f_mapping.host
    if inode is None or inode not in swap.shmem_swaplist:
        return 0
    end = vma.vm_pgoff + ((vma.vm_end - vma.vm_start) >> 12)
    return sum(1 for index in SHMEM_I(inode).swapped if vma.vm_pgoff <= index < end)


def smaps_pmd_entry(vma: VmAreaStruct, mss: MemSizeStats, huge: list[list[int]], slot: int, address: int,
                    end: int) -> bool:
    """2 MB that are mapped at once: of the pool, or as many small ones, whose entries go into `huge`."""
    mem = vma.vm_mm.kernel.mem
    entry = mem.ram64[slot]
    pfn = pte_pfn(entry, address)
    if vma.vm_flags & VM_HUGETLB:                          # smaps_hugetlb_range()
        if mem.mapcount[pfn] >= 2:
            mss.shared_hugetlb += end - address
        else:
            mss.private_hugetlb += end - address
        return True
    if not entry & PTE_SPECIAL:
        mss.anonymous_thp += end - address
        first = entry & ~(PTE_PSE | PTE_MASK) | pfn << 12
        huge.append(list(range(first, first + end - address, 4096)))
    return True


def smap_gather_stats(vma: VmAreaStruct, mss: MemSizeStats) -> None:
    """Adds up the pages that are mapped in an area (smaps_pte_range)."""
    mm = vma.vm_mm
    mem = mm.kernel.mem
    ram64 = mem.ram64
    zero_pfn = mem.zero_pfn
    mapping = mem.mapping
    mapcount = mem.mapcount
    if mm.kernel.swap is not None and vma.vm_file is not None and vma.vm_flags & VM_SHARED:
        mss.swap += shmem_swap_usage(vma) << 12
    huge: list[list[int]] = []
    tables = pte_ranges(mm, vma.vm_start, vma.vm_end,
                        lambda slot, address, end: smaps_pmd_entry(vma, mss, huge, slot, address, end))
    for entries in chain((ram64[first : first + count] for _, first, count in tables), huge):
        for entry in entries:
            if not entry & PTE_PRESENT:
                if entry and not entry & PTE_PROTNONE:
                    mss.swap += 4096
                    mss.swap_pss += (4096 << PSS_SHIFT) // swp_swapcount(mm.kernel, pte_to_swp_entry(entry))
                continue
            pfn = (entry & PTE_MASK) >> 12
            if pfn == zero_pfn or not mapcount[pfn]:
                continue
            mss.resident += 4096
            owner = mapping.get(pfn)
            users = mapcount[pfn]
            share = (4096 << PSS_SHIFT) // users
            mss.pss += share
            if owner is None or mem.flags[pfn] & PG_anon:
                mss.anonymous += 4096
                mss.pss_anon += share
            elif owner.unevictable:
                mss.pss_shmem += share
            else:
                mss.pss_file += share
            if vma.vm_flags & VM_LOCKED:
                mss.pss_locked += share
            if entry & PTE_ACCESSED:
                mss.referenced += 4096
            dirty = entry & PTE_DIRTY
            if users >= 2:
                if dirty:
                    mss.shared_dirty += 4096
                else:
                    mss.shared_clean += 4096
            elif dirty:
                mss.private_dirty += 4096
            else:
                mss.private_clean += 4096


def __show_smap(m: SeqFile, mss: MemSizeStats, rollup_mode: bool) -> None:
    """Rss ... Locked"""
    seq_puts(m, b"Rss:            %8d kB\nPss:            %8d kB\n" % (mss.resident >> 10, mss.pss >> 22))
    if rollup_mode:
        seq_puts(m, b"Pss_Anon:       %8d kB\nPss_File:       %8d kB\nPss_Shmem:      %8d kB\n" % (
            mss.pss_anon >> 22, mss.pss_file >> 22, mss.pss_shmem >> 22))
    seq_puts(m, (
        b"Shared_Clean:   %8d kB\nShared_Dirty:   %8d kB\nPrivate_Clean:  %8d kB\nPrivate_Dirty:  %8d kB\n"
        b"Referenced:     %8d kB\nAnonymous:      %8d kB\nLazyFree:       %8d kB\nAnonHugePages:  %8d kB\n"
        b"ShmemPmdMapped: %8d kB\nShared_Hugetlb: %8d kB\nPrivate_Hugetlb: %7d kB\nSwap:           %8d kB\n"
        b"SwapPss:        %8d kB\nLocked:         %8d kB\n") % (
        mss.shared_clean >> 10, mss.shared_dirty >> 10, mss.private_clean >> 10, mss.private_dirty >> 10,
        mss.referenced >> 10, mss.anonymous >> 10, 0, mss.anonymous_thp >> 10, 0, mss.shared_hugetlb >> 10,
        mss.private_hugetlb >> 10, mss.swap >> 10, mss.swap_pss >> 22,
        mss.pss_locked >> 22))


_VM_FLAG_NAMES = (
    (VM_READ, b"rd"), (VM_WRITE, b"wr"), (VM_EXEC, b"ex"), (VM_SHARED, b"sh"), (VM_MAYREAD, b"mr"),
    (VM_MAYWRITE, b"mw"), (VM_MAYEXEC, b"me"), (VM_MAYSHARE, b"ms"), (VM_GROWSDOWN, b"gd"), (VM_PFNMAP, b"pf"),
    (VM_DENYWRITE, b"dw"), (VM_LOCKED, b"lo"), (VM_IO, b"io"), (VM_SEQ_READ, b"sr"), (VM_RAND_READ, b"rr"),
    (VM_DONTCOPY, b"dc"), (VM_DONTEXPAND, b"de"), (VM_ACCOUNT, b"ac"),
    (VM_NORESERVE, b"nr"), (VM_HUGETLB, b"ht"), (VM_WIPEONFORK, b"wf"), (VM_DONTDUMP, b"dd"), (VM_MIXEDMAP, b"mm"),
    (VM_HUGEPAGE, b"hg"), (VM_NOHUGEPAGE, b"nh"), (VM_MERGEABLE, b"mg"),
)


@notrace
def show_smap_vma_flags(m: SeqFile, vma: VmAreaStruct) -> None:
    flags = vma.vm_flags
    seq_puts(m, b"VmFlags: " + b"".join([name + b" " for bit, name in _VM_FLAG_NAMES if flags & bit]) + b"\n")


def show_smap(m: SeqFile, v: Any) -> int | None:
    """Everything of one area."""
    mss = MemSizeStats()
    smap_gather_stats(v, mss)
    page = 2048 if v.vm_flags & VM_HUGETLB else 4
    show_map_vma(m, v)
    seq_puts(m, b"Size:           %8d kB\nKernelPageSize: %8d kB\nMMUPageSize:    %8d kB\n" % (
        (v.vm_end - v.vm_start) >> 10, page, page))
    __show_smap(m, mss, False)
    seq_puts(m, b"THPeligible:    %d\n" % transparent_hugepage_enabled(v))
    show_smap_vma_flags(m, v)
    return None


proc_pid_smaps_op = SeqOperations(m_start, m_next, show_smap, m_stop)


def pid_smaps_open(inode: Inode, file: File) -> None:
    proc_maps_open(inode, file, proc_pid_smaps_op)


proc_pid_smaps_operations = FileOperations(
    open=pid_smaps_open, read_iter=seq_read, llseek=seq_lseek, release=proc_map_release,
)


def show_smaps_rollup(m: SeqFile, v: Any) -> int | None:
    """The sums over all areas. Errors: ESRCH."""
    seq_task(m)
    mm = _mm(m)
    if mm is None or not len(mm.vmas):
        return None
    mss = MemSizeStats()
    areas = mm.vmas.values()
    for vma in areas:
        smap_gather_stats(vma, mss)
    line = len(m.buf)
    show_vma_header_prefix(m, areas[0].vm_start, areas[-1].vm_end, 0, 0, 0, 0)
    seq_pad(m, b" ", line, 25 + 8 * 6 - 1)
    seq_puts(m, b"[rollup]\n")
    __show_smap(m, mss, True)
    return None


def smaps_rollup_open(inode: Inode, file: File) -> None:
    single_open(file, show_smaps_rollup, mm_access(proc_task(inode), PTRACE_MODE_READ_FSCREDS))


proc_pid_smaps_rollup_operations = FileOperations(
    open=smaps_rollup_open, read_iter=seq_read, llseek=seq_lseek, release=single_release,
)


# ---- pagemap -------------------------------------------------------------------------------------
PM_MMAP_EXCLUSIVE, PM_FILE, PM_SWAP, PM_PRESENT = 1 << 56, 1 << 61, 1 << 62, 1 << 63


def pagemap_open(inode: Inode, file: File) -> None:
    file.private_data = mm_access(proc_task(inode), PTRACE_MODE_READ_FSCREDS)


def pagemap_read(iocb: Kiocb, to: IovIter) -> int:
    """64 bits for each page of the address space. Frame numbers only with CAP_SYS_ADMIN. Errors: EINVAL."""
    mm: MmStruct | None = iocb.ki_filp.private_data
    if mm is None or not mm.mm_users:
        return 0
    if iocb.ki_pos & 7 or to.count & 7:
        raise KernelError(EINVAL)
    show_pfn = capable(CAP_SYS_ADMIN)
    start = iocb.ki_pos // 8 << 12
    end = min(start + (to.count // 8 << 12), TASK_SIZE + 4096)
    if start >= end:
        return 0
    mem = mm.kernel.mem
    entries = [0] * ((end - start) >> 12)

    def pagemap_pmd_range(slot: int, address: int, end: int) -> bool:
        entry = mem.ram64[slot]
        for at in range(address, end, 4096):
            pfn = pte_pfn(entry, at)
            head = pte_pfn(entry, address & -PMD_SIZE) if not mem.mapcount[pfn] else pfn
            word = PM_PRESENT | (pfn if show_pfn else 0) | (0 if mem.flags[head] & PG_anon else PM_FILE)
            entries[(at - start) >> 12] = word | (PM_MMAP_EXCLUSIVE if mem.mapcount[head] == 1 else 0)
        return True

    for address, first, count in pte_ranges(mm, start, end, pagemap_pmd_range):
        base = (address - start) >> 12
        for i, entry in enumerate(mem.ram64[first : first + count]):
            if entry & PTE_PRESENT:
                pfn = (entry & PTE_MASK) >> 12
                word = PM_PRESENT | (pfn if show_pfn else 0)
                if pfn in mem.mapping and not mem.flags[pfn] & PG_anon:
                    word |= PM_FILE
                if mem.mapcount[pfn] == 1:
                    word |= PM_MMAP_EXCLUSIVE
                entries[base + i] = word
            elif entry and not entry & PTE_PROTNONE:
                swap = pte_to_swp_entry(entry)             # type in bits 0-4, offset in bits 5-54
                where = (swap & (1 << SWP_TYPE_SHIFT) - 1) << 5 | swap >> SWP_TYPE_SHIFT
                entries[base + i] = PM_SWAP | (where if show_pfn else 0)
    done = to.copy_to_iter(b"".join([w.to_bytes(8, "little") for w in entries]))
    iocb.ki_pos += done
    return done


proc_pagemap_operations = FileOperations(open=pagemap_open, read_iter=pagemap_read, llseek=generic_file_llseek)

CLEAR_REFS_ALL, CLEAR_REFS_ANON, CLEAR_REFS_MAPPED, CLEAR_REFS_MM_HIWATER_RSS = 1, 2, 3, 5


def clear_refs_write(iocb: Kiocb, source: IovIter) -> int:
    """1, 2, 3: clears the referenced bits of all, anonymous, file pages; 5: the peak RSS. Errors: EINVAL, ESRCH."""
    data = source.copy_from_iter(min(source.count, 12))
    text = data.strip()
    if not text.isdigit():
        raise KernelError(EINVAL)
    kind = int(text)
    if kind not in (CLEAR_REFS_ALL, CLEAR_REFS_ANON, CLEAR_REFS_MAPPED, CLEAR_REFS_MM_HIWATER_RSS):
        raise KernelError(EINVAL)
    task = get_proc_task(iocb.ki_filp.f_inode)
    mm = task.mm if task is not None else None
    if mm is not None:
        if kind == CLEAR_REFS_MM_HIWATER_RSS:
            mm.hiwater_rss = sum(mm.rss_stat) - mm.rss_stat[2]
        else:
            ram64 = mm.kernel.mem.ram64
            for vma in mm.vmas.values():
                if (kind == CLEAR_REFS_ANON and vma.vm_file) or (kind == CLEAR_REFS_MAPPED and not vma.vm_file):
                    continue
                def clear_refs_pmd(slot: int, _address: int, _end: int) -> bool:
                    ram64[slot] &= ~PTE_ACCESSED
                    return True

                for _, first, count in pte_ranges(mm, vma.vm_start, vma.vm_end, clear_refs_pmd):
                    for slot in range(first, first + count):
                        if ram64[slot] & PTE_PRESENT:
                            ram64[slot] &= ~PTE_ACCESSED
            flush_tlb_mm(mm)
    iocb.ki_pos += len(data)
    return len(data)


proc_clear_refs_operations = FileOperations(write_iter=clear_refs_write)
