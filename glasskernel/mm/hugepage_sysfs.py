"""/sys/kernel/mm/hugepages and /sys/kernel/mm/transparent_hugepage.

Linux: the sysfs parts of mm/hugetlb.c and mm/huge_memory.c (5.3). Same: names, modes, texts ("always [madvise] never").
Owns: nothing: looking changes nothing; kernel.hugetlb and kernel.thp are made by who writes.
Gaps: shmem_enabled, khugepaged/max_ptes_swap, the pools of nodes (/sys/devices/system/node).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.fs.sysfs.kobject import Attribute, Kobject, kobject_create_and_add, sysfs_create_group
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.huge_types import (
    HPAGE_PMD_NR,
    HPAGE_PMD_SIZE,
    THP_DEFAULT_FLAGS,
    TRANSPARENT_HUGEPAGE_DEFRAG_DIRECT_FLAG,
    TRANSPARENT_HUGEPAGE_DEFRAG_KHUGEPAGED_FLAG,
    TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_FLAG,
    TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_OR_MADV_FLAG,
    TRANSPARENT_HUGEPAGE_DEFRAG_REQ_MADV_FLAG,
    TRANSPARENT_HUGEPAGE_FLAG,
    TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG,
    TRANSPARENT_HUGEPAGE_USE_ZERO_PAGE_FLAG,
)
from glasskernel.mm.hugetlb import set_max_huge_pages
from glasskernel.mm.khugepaged import khugepaged_setting

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

_ENABLED: Final = (
    (b"always", TRANSPARENT_HUGEPAGE_FLAG), (b"madvise", TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG), (b"never", 0))
_DEFRAG: Final = (
    (b"always", TRANSPARENT_HUGEPAGE_DEFRAG_DIRECT_FLAG), (b"defer", TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_FLAG),
    (b"defer+madvise", TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_OR_MADV_FLAG),
    (b"madvise", TRANSPARENT_HUGEPAGE_DEFRAG_REQ_MADV_FLAG), (b"never", 0))
Choices = tuple[tuple[bytes, int], ...]


# ---- the pool ---------------------------------------------------------------------------------------------------
@notrace
def count(text: bytes) -> int:
    """A number that was written. Raises EINVAL."""
    if not text.strip().isdigit():
        raise KernelError(EINVAL)
    return int(text)


@notrace
def figure(name: bytes, field: str) -> Attribute:
    """A counter of struct hstate."""
    def show(kobj: Kobject) -> bytes:
        return b"%d\n" % (getattr(kobj.kernel.hugetlb, field) if kobj.kernel.hugetlb is not None else 0)

    return Attribute(name, show)


def nr_hugepages_show(kobj: Kobject) -> bytes:
    h = kobj.kernel.hugetlb
    return b"%d\n" % (h.nr_huge_pages if h is not None else 0)


def nr_hugepages_store(kobj: Kobject, text: bytes) -> None:
    """The pool grows or shrinks, as far as it can. Errors: EINVAL."""
    set_max_huge_pages(kobj.kernel.hugetlb_init(), count(text))


def nr_overcommit_hugepages_show(kobj: Kobject) -> bytes:
    h = kobj.kernel.hugetlb
    return b"%d\n" % (h.nr_overcommit_huge_pages if h is not None else 0)


def nr_overcommit_hugepages_store(kobj: Kobject, text: bytes) -> None:
    """How many pages the pool may grow by when it is empty. Errors: EINVAL."""
    kobj.kernel.hugetlb_init().nr_overcommit_huge_pages = count(text)


hstate_attrs = (
    Attribute(b"nr_hugepages", nr_hugepages_show, nr_hugepages_store, 0o644),
    Attribute(b"nr_hugepages_mempolicy", nr_hugepages_show, nr_hugepages_store, 0o644),
    Attribute(b"nr_overcommit_hugepages", nr_overcommit_hugepages_show, nr_overcommit_hugepages_store, 0o644),
    figure(b"free_hugepages", "free_huge_pages"), figure(b"resv_hugepages", "resv_huge_pages"),
    figure(b"surplus_hugepages", "surplus_huge_pages"),
)


# ---- transparent ones -------------------------------------------------------------------------------------------
@notrace
def thp_flags(kernel: Kernel) -> int:
    return kernel.thp.flags if kernel.thp is not None else THP_DEFAULT_FLAGS


@notrace
def show_choice(kobj: Kobject, choices: Choices) -> bytes:
    """All words, the chosen one in brackets."""
    flags = thp_flags(kobj.kernel)
    chosen = next(word for word, bit in choices if flags & bit or not bit)
    return b" ".join([b"[%b]" % word if word == chosen else word for word, _bit in choices]) + b"\n"


@notrace
def store_choice(kobj: Kobject, text: bytes, choices: Choices) -> None:
    """Errors: EINVAL for another word."""
    chosen = dict(choices).get(text.strip())
    if chosen is None:
        raise KernelError(EINVAL)
    thp = kobj.kernel.thp_init()
    thp.flags = thp.flags & ~sum(bit for _word, bit in choices) | chosen


@notrace
def store_flag(kobj: Kobject, text: bytes, bit: int) -> None:
    """0 or 1. Errors: EINVAL."""
    value = count(text)
    if value > 1:
        raise KernelError(EINVAL)
    thp = kobj.kernel.thp_init()
    thp.flags = thp.flags | bit if value else thp.flags & ~bit


def enabled_show(kobj: Kobject) -> bytes:
    return show_choice(kobj, _ENABLED)


def enabled_store(kobj: Kobject, text: bytes) -> None:
    """For areas that are touched from now on."""
    store_choice(kobj, text, _ENABLED)


def defrag_show(kobj: Kobject) -> bytes:
    return show_choice(kobj, _DEFRAG)


def defrag_store(kobj: Kobject, text: bytes) -> None:
    store_choice(kobj, text, _DEFRAG)


def use_zero_page_show(kobj: Kobject) -> bytes:
    return b"%d\n" % bool(thp_flags(kobj.kernel) & TRANSPARENT_HUGEPAGE_USE_ZERO_PAGE_FLAG)


def use_zero_page_store(kobj: Kobject, text: bytes) -> None:
    """0: reads of untouched memory get a huge page at once. Errors: EINVAL."""
    store_flag(kobj, text, TRANSPARENT_HUGEPAGE_USE_ZERO_PAGE_FLAG)


def hpage_pmd_size_show(kobj: Kobject) -> bytes:
    return b"%d\n" % HPAGE_PMD_SIZE


hugepage_attr = (
    Attribute(b"enabled", enabled_show, enabled_store, 0o644),
    Attribute(b"defrag", defrag_show, defrag_store, 0o644),
    Attribute(b"use_zero_page", use_zero_page_show, use_zero_page_store, 0o644),
    Attribute(b"hpage_pmd_size", hpage_pmd_size_show),
)


@notrace
def khugepaged_attr(name: str, low: int = 0, high: int = (1 << 32) - 1, writable: bool = True) -> Attribute:
    """A figure of khugepaged's. Errors: EINVAL outside low..high."""
    def show(kobj: Kobject) -> bytes:
        return b"%d\n" % khugepaged_setting(kobj.kernel, name)

    def store(kobj: Kobject, text: bytes) -> None:
        value = count(text)
        if not low <= value <= high:
            raise KernelError(EINVAL)
        kobj.kernel.thp_init()
        khugepaged_setting(kobj.kernel, name, value)

    return Attribute(name.encode(), show, store if writable else None, 0o644 if writable else 0o444)


def khugepaged_defrag_show(kobj: Kobject) -> bytes:
    return b"%d\n" % bool(thp_flags(kobj.kernel) & TRANSPARENT_HUGEPAGE_DEFRAG_KHUGEPAGED_FLAG)


def khugepaged_defrag_store(kobj: Kobject, text: bytes) -> None:
    """1: it may reclaim. Errors: EINVAL."""
    store_flag(kobj, text, TRANSPARENT_HUGEPAGE_DEFRAG_KHUGEPAGED_FLAG)


khugepaged_attrs = (
    Attribute(b"defrag", khugepaged_defrag_show, khugepaged_defrag_store, 0o644),
    khugepaged_attr("max_ptes_none", 0, HPAGE_PMD_NR - 1), khugepaged_attr("pages_to_scan", 1),
    khugepaged_attr("pages_collapsed", writable=False), khugepaged_attr("full_scans", writable=False),
    khugepaged_attr("scan_sleep_millisecs"), khugepaged_attr("alloc_sleep_millisecs"),
)


@notrace
def hugepage_init_sysfs(mm_kobj: Kobject) -> None:
    """Somebody looks into /sys/kernel/mm."""
    hugepages = kobject_create_and_add(b"hugepages", mm_kobj)
    sysfs_create_group(kobject_create_and_add(b"hugepages-2048kB", hugepages), hstate_attrs)
    transparent = kobject_create_and_add(b"transparent_hugepage", mm_kobj)
    sysfs_create_group(transparent, hugepage_attr)
    sysfs_create_group(kobject_create_and_add(b"khugepaged", transparent), khugepaged_attrs)
