"""The text of a set of page tables: ranges of addresses whose entries are alike.

Linux: arch/x86/mm/dump_pagetables.c (5.3). Same: markers, columns, units, and where a range ends: at another level,
    another flag (accessed and dirty count), a marker.
Differs: the kernel is Python and needs no tables; in the kernel half is what vmalloc() maps, in init_mm's tables, whose
    top entries each process has a copy of.
Owns: nothing. Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import PTE_GLOBAL, PTE_MASK, PTE_NX, PTE_PRESENT, PTE_USER, PTE_WRITE
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

PTE_PWT, PTE_PCD, PTE_PSE, PTE_PAT, PTE_PAT_LARGE = 0x8, 0x10, 0x80, 0x80, 0x1000
PTRS_PER_TABLE = 512
# struct addr_marker: (start, name, most lines of it that are shown; 0: all)
address_markers = (
    (0, b"User Space", 0), (1 << 63, b"Kernel Space", 0), (0xFFFF_8880_0000_0000, b"Low Kernel Mapping", 0),
    (0xFFFF_C900_0000_0000, b"vmalloc() Area", 0), (0xFFFF_EA00_0000_0000, b"Vmemmap", 0),
    (0xFFFF_FE00_0000_0000, b"CPU entry Area", 0), (0xFFFF_FF00_0000_0000, b"ESPfix Area", 16),
    (0xFFFF_FFFF_8000_0000, b"High Kernel Mapping", 0), (0xFFFF_FFFF_A000_0000, b"Modules", 0),
    (0xFFFF_FFFF_FF00_0000, b"End Modules", 0), (0xFFFF_FFFF_FF57_8000, b"Fixmap Area", 0), (U64_MAX, b"", 0),
)
_LEVELS = (b"cr3", b"pgd", b"p4d", b"pud", b"pmd", b"pte")
_FLAGS = ((PTE_USER, b"USR ", b"    "), (PTE_WRITE, b"RW ", b"ro "), (PTE_PWT, b"PWT ", b"    "),
          (PTE_PCD, b"PCD ", b"    "))


@slotted
class PgState:
    """struct pg_state: the range so far. marker: index of the one that it is behind. lines: shown since then."""

    level: int = 0
    prot: int = 0
    start_address: int = 0
    marker: int = 0
    lines: int = 0
    text: list[bytes] = field(default_factory=list)


def printk_prot(st: PgState) -> bytes:
    """The flags in words."""
    pr, level = st.prot, st.level
    if not pr & PTE_PRESENT:
        return b" " * 30 + _LEVELS[level]
    words = b"".join(yes if pr & bit else no for bit, yes, no in _FLAGS)
    words += b"PSE " if level <= 4 and pr & PTE_PSE else b"    "
    words += b"PAT " if (level == 5 and pr & PTE_PAT) or (level in (3, 4) and pr & PTE_PAT_LARGE) else b"    "
    words += b"GLB " if pr & PTE_GLOBAL else b"    "
    return words + (b"NX " if pr & PTE_NX else b"x  ") + _LEVELS[level]


@notrace
def _length(delta: int) -> bytes:
    units = b"BKMGTPE"
    at = 0
    while not delta & 1023 and at < len(units) - 1:
        delta >>= 10
        at += 1
    return b"%9d%c" % (delta, units[at])


def note_page(st: PgState, address: int, prot: int, level: int) -> None:
    """One more entry, from `address` on: it continues the range, or ends it."""
    if not st.level:
        st.prot, st.level = prot, level
        st.text.append(b"---[ %s ]---\n" % address_markers[0][1])
        return
    if prot == st.prot and level == st.level and address < address_markers[st.marker + 1][0]:
        return
    most = address_markers[st.marker][2]
    if not most or st.lines < most:
        st.text.append(b"0x%016x-0x%016x   %s %s\n" % (
            st.start_address, address, _length(address - st.start_address & U64_MAX), printk_prot(st)))
    st.lines += 1
    if address >= address_markers[st.marker + 1][0]:
        if most and st.lines > most:
            skipped = st.lines - most
            st.text.append(b"... %d entr%s skipped ... \n" % (skipped, b"y" if skipped == 1 else b"ies"))
        st.marker += 1
        st.lines = 0
        st.text.append(b"---[ %s ]---\n" % address_markers[st.marker][1])
    st.start_address, st.prot, st.level = address, prot, level


@notrace
def _walk_level(kernel: Kernel, st: PgState, table: int, base: int, shift: int) -> None:
    """walk_pud_level(), walk_pmd_level(), walk_pte_level(). table: where it lies in RAM."""
    level = {30: 3, 21: 4, 12: 5}[shift]
    ram64 = kernel.machine.ram64
    for index in range(PTRS_PER_TABLE):
        entry = ram64[(table >> 3) + index]
        address = base + (index << shift)
        if level == 5 or not entry or entry & PTE_PSE or not entry & PTE_PRESENT:
            note_page(st, address, entry & ~PTE_MASK, level)
        else:
            _walk_level(kernel, st, entry & PTE_MASK, address, shift - 9)


def ptdump_walk_pgd_level_core(kernel: Kernel, user_half: int, kernel_half: int) -> bytes:
    """All of it. The halves: physical addresses of top tables; 0: none, nothing is mapped there."""
    st = PgState()
    ram64 = kernel.machine.ram64
    for index in range(PTRS_PER_TABLE):
        pgd = user_half if index < PTRS_PER_TABLE // 2 else kernel_half
        entry = ram64[(pgd >> 3) + index] if pgd else 0
        address = index << 39 | (0xFFFF << 48 if index >= PTRS_PER_TABLE // 2 else 0)
        if not entry or not entry & PTE_PRESENT:
            note_page(st, address, entry & ~PTE_MASK, 1)
        else:
            _walk_level(kernel, st, entry & PTE_MASK, address, 30)
    note_last(st)
    return b"".join(st.text)


@notrace
def note_last(st: PgState) -> None:
    """The range that ends where addresses do."""
    st.text.append(b"0x%016x-0x%016x   %s %s\n" % (
        st.start_address, 0, _length(-st.start_address & U64_MAX), printk_prot(st)))
