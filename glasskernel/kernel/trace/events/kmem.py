"""Pages of the buddy allocator.

Linux: include/trace/events/kmem.h (5.3).
Gaps: kmalloc and its like (there is no slab allocator); events that tell migrate types (the free lists do not).
"""
from __future__ import annotations

from glasskernel.kernel.trace.events.gfpflags import SHOW_GFP_FLAGS
from glasskernel.kernel.trace.events.values import HELPERS
from glasskernel.kernel.trace.trace_events import Values, trace_system

kmem = trace_system("kmem")


@kmem.event(
    fields="unsigned long pfn; unsigned int order",
    print_fmt='"page=%p pfn=%lu order=%d", (((struct page *)vmemmap_base) + (REC->pfn)), REC->pfn, REC->order',
    helpers=HELPERS,
)
def mm_page_free(pfn: int, order: int) -> Values:
    return (pfn, order)


@kmem.event(
    fields="unsigned long pfn; unsigned int order; gfp_t gfp_flags; int migratetype",
    print_fmt=(
        ('"page=%p pfn=%lu order=%d migratetype=%d gfp_flags=%s", '
         'REC->pfn != -1UL ? (((struct page *)vmemmap_base) + (REC->pfn)) : ((void *)0), '
         'REC->pfn != -1UL ? REC->pfn : 0, REC->order, REC->migratetype, ')
        + SHOW_GFP_FLAGS),
    helpers=HELPERS,
)
def mm_page_alloc(pfn: int, order: int, gfp_flags: int, migratetype: int) -> Values:
    return (pfn, order, gfp_flags, migratetype)
