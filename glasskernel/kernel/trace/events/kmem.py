"""Objects of the slab allocator, pages of the buddy allocator.

Linux: include/trace/events/kmem.h (5.3).
Gaps: events that tell migrate types (the free lists do not).
"""
from __future__ import annotations

from glasskernel.kernel.current import register
from glasskernel.kernel.trace.events.gfpflags import SHOW_GFP_FLAGS
from glasskernel.kernel.trace.events.values import HELPERS, caller_ip
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

kmem = trace_system("kmem")

_ALLOC = "unsigned long call_site; const void * ptr; size_t bytes_req; size_t bytes_alloc; gfp_t gfp_flags"
_ALLOC_FMT = (
    '"call_site=%pS ptr=%p bytes_req=%zu bytes_alloc=%zu gfp_flags=%s", (void *)REC->call_site, REC->ptr, '
    "REC->bytes_req, REC->bytes_alloc, " + SHOW_GFP_FLAGS)
_ALLOC_NODE = _ALLOC + "; int node"
_ALLOC_NODE_FMT = (
    '"call_site=%pS ptr=%p bytes_req=%zu bytes_alloc=%zu gfp_flags=%s node=%d", (void *)REC->call_site, REC->ptr, '
    "REC->bytes_req, REC->bytes_alloc, " + SHOW_GFP_FLAGS + ", REC->node")
_FREE = "unsigned long call_site; const void * ptr"
_FREE_FMT = '"call_site=%pS ptr=%p", (void *)REC->call_site, REC->ptr'


@notrace
def _call_site() -> int:
    """Who called the allocator: one function above the one that raised the event."""
    return caller_ip(register.task.kernel, 1)


@kmem.event(fields=_ALLOC, print_fmt=_ALLOC_FMT, helpers=HELPERS)
def kmalloc(ptr: int, bytes_req: int, bytes_alloc: int, gfp_flags: int) -> Values:
    return (_call_site(), ptr, bytes_req, bytes_alloc, gfp_flags)


@kmem.event(fields=_ALLOC, print_fmt=_ALLOC_FMT, helpers=HELPERS)
def kmem_cache_alloc(ptr: int, bytes_req: int, bytes_alloc: int, gfp_flags: int) -> Values:
    return (_call_site(), ptr, bytes_req, bytes_alloc, gfp_flags)


@kmem.event(fields=_ALLOC_NODE, print_fmt=_ALLOC_NODE_FMT, helpers=HELPERS)
def kmalloc_node(ptr: int, bytes_req: int, bytes_alloc: int, gfp_flags: int, node: int) -> Values:
    return (_call_site(), ptr, bytes_req, bytes_alloc, gfp_flags, node)


@kmem.event(fields=_ALLOC_NODE, print_fmt=_ALLOC_NODE_FMT, helpers=HELPERS)
def kmem_cache_alloc_node(ptr: int, bytes_req: int, bytes_alloc: int, gfp_flags: int, node: int) -> Values:
    return (_call_site(), ptr, bytes_req, bytes_alloc, gfp_flags, node)


@kmem.event(fields=_FREE, print_fmt=_FREE_FMT, helpers=HELPERS)
def kfree(ptr: int) -> Values:
    return (_call_site(), ptr)


@kmem.event(fields=_FREE, print_fmt=_FREE_FMT, helpers=HELPERS)
def kmem_cache_free(ptr: int) -> Values:
    return (_call_site(), ptr)


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
