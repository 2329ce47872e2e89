"""madvise(2): what a range will be used for, and giving its pages back.

Linux: mm/madvise.c (5.3), built without KSM and memory failure handling: their
    advice is EINVAL, as there. Same: holes are skipped and reported with ENOMEM at the end, splitting and
    merging of areas.
Differs: MADV_FREE frees at once (Linux: when memory runs short, which may be at once, too). MADV_COLD and MADV_PAGEOUT
    of 5.4 are served by mm/madvise_pageout.py, as MADV_WILLNEED of what was swapped out (but not of tmpfs).
Owns: nothing. Lock: mmap_sem, for writing where flags change. Gaps: process_madvise(2) is newer.
"""
from __future__ import annotations

from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.lib.errno import EACCES, EAGAIN, EINVAL, ENOMEM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, size_t, ulong
from glasskernel.mm.memory import zap_page_range
from glasskernel.mm.mmap import find_vma, split_vma, vma_merge
from glasskernel.mm.readahead import force_page_cache_readahead
from glasskernel.mm.types import (
    MMF_VM_HUGEPAGE,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    VmAreaStruct,
)

MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED = range(5)
MADV_FREE, MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK = 8, 9, 10, 11
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15
MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK = 16, 17, 18, 19
MADV_COLD, MADV_PAGEOUT = 20, 21                       # of 5.4
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP

_KNOWN = frozenset((
    MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE,
    MADV_DONTFORK, MADV_DOFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK,
    MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT,
))
_NEED_READ_LOCK_ONLY = frozenset((MADV_REMOVE, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT))


@may_sleep
def madvise_behavior(vma: VmAreaStruct, start: int, end: int, behavior: int) -> VmAreaStruct:
    """Advice that changes the area's flags; answers the area that has it. Raises EINVAL, EAGAIN."""
    mm = vma.vm_mm
    flags = vma.vm_flags
    if behavior == MADV_NORMAL:
        flags &= ~(VM_RAND_READ | VM_SEQ_READ)
    elif behavior == MADV_SEQUENTIAL:
        flags = flags & ~VM_RAND_READ | VM_SEQ_READ
    elif behavior == MADV_RANDOM:
        flags = flags & ~VM_SEQ_READ | VM_RAND_READ
    elif behavior == MADV_DONTFORK:
        flags |= VM_DONTCOPY
    elif behavior == MADV_DOFORK:
        if flags & VM_IO:
            raise KernelError(EINVAL)
        flags &= ~VM_DONTCOPY
    elif behavior == MADV_WIPEONFORK:
        if vma.vm_file is not None or flags & VM_SHARED:
            raise KernelError(EINVAL)
        flags |= VM_WIPEONFORK
    elif behavior == MADV_KEEPONFORK:
        flags &= ~VM_WIPEONFORK
    elif behavior in (MADV_HUGEPAGE, MADV_NOHUGEPAGE):
        flags = hugepage_madvise(vma, flags, behavior)
    elif behavior == MADV_DONTDUMP:
        flags |= VM_DONTDUMP
    elif behavior == MADV_DODUMP:
        if not flags & VM_HUGETLB and flags & VM_SPECIAL:
            raise KernelError(EINVAL)
        flags &= ~VM_DONTDUMP
    if flags == vma.vm_flags:
        return vma
    try:
        if start != vma.vm_start:
            split_vma(mm, vma, start, True)
        if end != vma.vm_end:
            split_vma(mm, vma, end, False)
    except KernelError:
        raise KernelError(EAGAIN) from None
    merged = vma_merge(mm, start, end, flags, vma.anon_vma, vma.vm_file, vma.vm_pgoff)
    if merged is not None:
        vma = merged
    vma.vm_flags = flags
    if flags & VM_HUGEPAGE and vma.vm_ops is None and mm.kernel.thp is not None:
        mm.kernel.thp.free_pmd_range(mm, vma.vm_start, vma.vm_end)         # empty tables stand where huge pages could
    return vma


def hugepage_madvise(vma: VmAreaStruct, vm_flags: int, advice: int) -> int:
    """The flags with the advice in them. Raises EINVAL. (mm/khugepaged.c)"""
    if advice == MADV_NOHUGEPAGE:
        return vm_flags & ~VM_HUGEPAGE | VM_NOHUGEPAGE
    if vm_flags & (VM_SPECIAL | VM_HUGETLB):               # VM_NO_KHUGEPAGED
        raise KernelError(EINVAL)
    thp = vma.vm_mm.kernel.thp_init()
    if not vma.vm_mm.flags & MMF_VM_HUGEPAGE:              # khugepaged_enter_vma_merge()
        thp.khugepaged_enter(vma.vm_mm)
    return vm_flags & ~VM_NOHUGEPAGE | VM_HUGEPAGE


@may_sleep
def madvise_willneed(vma: VmAreaStruct, start: int, end: int) -> None:
    """Reads a file's pages ahead, or what was swapped out."""
    file = vma.vm_file
    if file is None:
        if vma.vm_mm.kernel.swap is not None:
            from glasskernel.mm.madvise_pageout import force_swapin_readahead

            force_swapin_readahead(vma, start, end)
        return
    mapping = file.f_mapping
    if mapping.unevictable or mapping.host is None:
        return                                         # tmpfs: everything is in memory
    first = ((start - vma.vm_start) >> 12) + vma.vm_pgoff
    force_page_cache_readahead(mapping, file, first, (end - start) >> 12)


def madvise_dontneed_free(vma: VmAreaStruct, start: int, end: int, behavior: int) -> None:
    """MADV_DONTNEED and MADV_FREE: the next touch finds zeros, or the file. Raises EINVAL."""
    if vma.vm_flags & (VM_LOCKED | VM_HUGETLB | VM_PFNMAP):
        raise KernelError(EINVAL)
    if behavior == MADV_FREE:
        madvise_free_single_vma(vma, start, end)
    else:
        madvise_dontneed_single_vma(vma, start, end)


def madvise_dontneed_single_vma(vma: VmAreaStruct, start: int, end: int) -> None:
    zap_page_range(vma, start, end - start)


def madvise_free_single_vma(vma: VmAreaStruct, start: int, end: int) -> None:
    if vma.vm_ops is not None:
        raise KernelError(EINVAL)
    zap_page_range(vma, start, end - start)


@may_sleep
def madvise_remove(vma: VmAreaStruct, start: int, end: int) -> None:
    """Punches a hole into the file behind a shared writable area. Raises EINVAL, EACCES, EOPNOTSUPP."""
    if vma.vm_flags & VM_LOCKED:
        raise KernelError(EINVAL)
    file = vma.vm_file
    if file is None or file.f_mapping is None or file.f_mapping.host is None:
        raise KernelError(EINVAL)
    if vma.vm_flags & (VM_SHARED | VM_WRITE) != VM_SHARED | VM_WRITE:
        raise KernelError(EACCES)
    offset = start - vma.vm_start + (vma.vm_pgoff << 12)
    mm = vma.vm_mm
    file.f_count += 1
    up_read(mm.mmap_sem)
    try:
        file.f_op.fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, end - start)
    finally:
        mm.kernel.fput(file)
        down_read(mm.mmap_sem)


@notrace
@may_sleep
def madvise_vma(vma: VmAreaStruct, start: int, end: int, behavior: int) -> VmAreaStruct:
    if behavior == MADV_REMOVE:
        madvise_remove(vma, start, end)
    elif behavior == MADV_WILLNEED:
        madvise_willneed(vma, start, end)
    elif behavior == MADV_COLD:
        from glasskernel.mm.madvise_pageout import madvise_cold

        madvise_cold(vma, start, end)
    elif behavior == MADV_PAGEOUT:
        from glasskernel.mm.madvise_pageout import madvise_pageout

        madvise_pageout(vma, start, end)
    elif behavior in (MADV_DONTNEED, MADV_FREE):
        madvise_dontneed_free(vma, start, end, behavior)
    else:
        return madvise_behavior(vma, start, end, behavior)
    return vma


@syscall(gaps="no KSM, memory failure: EINVAL")
def sys_madvise(start: ulong, len_in: size_t, behavior: int) -> int:
    """madvise(2)"""
    if behavior not in _KNOWN or start & 0xFFF:
        raise KernelError(EINVAL)
    length = (len_in + 0xFFF) & ~0xFFF
    end = start + length
    if length >> 64 or end >> 64:
        raise KernelError(EINVAL)
    if end == start:
        return 0
    mm = current().mm
    assert mm is not None
    read_only = behavior in _NEED_READ_LOCK_ONLY
    (down_read if read_only else down_write)(mm.mmap_sem)
    try:
        unmapped = False
        while True:
            vma = find_vma(mm, start)
            if vma is None:
                raise KernelError(ENOMEM)
            if start < vma.vm_start:
                unmapped = True
                start = vma.vm_start
                if start >= end:
                    raise KernelError(ENOMEM)
            part_end = min(vma.vm_end, end)
            madvise_vma(vma, start, part_end, behavior)
            start = part_end
            if start >= end:
                break
    finally:
        (up_read if read_only else up_write)(mm.mmap_sem)
    if unmapped:
        raise KernelError(ENOMEM)
    return 0
