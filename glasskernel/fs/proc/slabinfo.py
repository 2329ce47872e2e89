"""/proc/slabinfo and /proc/vmallocinfo.

Linux: mm/slab_common.c (slab_start .. cache_show), mm/vmalloc.c (s_start .. s_show) (5.3). Same: headings, columns,
    order (the newest cache first; areas by address), who may read them, addresses of areas hashed away.
Differs: the hash of an address depends on the machine's seed, so that a run can be repeated.
Owns: nothing. Gaps: writing to slabinfo (EIO, as with SLUB).
"""
from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_seq_data
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_puts
from glasskernel.kernel.current import current
from glasskernel.kernel.kallsyms import LINE_SIZE, kallsyms_table, sprint_symbol
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import page_to_nid
from glasskernel.mm.slab_common import get_slabinfo
from glasskernel.mm.vmalloc import VM_ALLOC, VM_IOREMAP, VM_MAP, VM_USERMAP, is_vmalloc_addr

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.slab_types import KmemCache
    from glasskernel.mm.vmalloc import ReturnAddress, VmapArea, VmStruct

_HEADER = (
    b"slabinfo - version: 2.1\n"
    b"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    b" : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n")


def slab_start(m: SeqFile) -> KmemCache | None:
    """Caches, the newest first."""
    caches = list(current().kernel.slab.caches.values())
    return caches[-1 - m.index] if m.index < len(caches) else None


def slab_next(m: SeqFile, v: Any) -> KmemCache | None:
    m.index += 1
    return slab_start(m)


def slab_show(m: SeqFile, s: KmemCache) -> int | None:
    if not m.index:
        print_slabinfo_header(m)
    cache_show(s, m)
    return None


def print_slabinfo_header(m: SeqFile) -> None:
    seq_puts(m, _HEADER)


def cache_show(s: KmemCache, m: SeqFile) -> None:
    """One line. SLUB has no tunables and shares nothing."""
    i = get_slabinfo(s)
    seq_puts(m, b"%-17b %6d %6d %6d %4d %4d" % (s.name, i.active_objs, i.num_objs, s.size, i.objects_per_slab,
                                               1 << i.cache_order))
    seq_puts(m, b" : tunables %4d %4d %4d" % (0, 0, 0))
    seq_puts(m, b" : slabdata %6d %6d %6d" % (i.active_slabs, i.num_slabs, 0))
    seq_puts(m, b"\n")


slabinfo_op = SeqOperations(start=slab_start, next=slab_next, show=slab_show)


# ---- vmallocinfo -------------------------------------------------------------------------------------------------
def s_start(m: SeqFile) -> VmapArea | None:
    """Areas by address."""
    state = current().kernel.vmalloc
    return state.areas[state.starts[m.index]] if m.index < len(state.starts) else None


def s_next(m: SeqFile, v: Any) -> VmapArea | None:
    m.index += 1
    return s_start(m)


def s_show(m: SeqFile, va: VmapArea) -> int | None:
    """Addresses, size with the guard page, who asked, how many pages and for what."""
    v = va.vm
    first, behind = hashed_address(va.va_start), hashed_address(va.va_end)
    if v is None:
        seq_puts(m, b"0x%016x-0x%016x %7d vm_map_ram\n" % (first, behind, va.va_end - va.va_start))
        return None
    text = b"0x%016x-0x%016x %7d" % (first, behind, v.size)
    text += caller_symbol(v.caller)
    if v.pages:
        text += b" pages=%d" % len(v.pages)
    for flag, name in ((VM_IOREMAP, b"ioremap"), (VM_ALLOC, b"vmalloc"), (VM_MAP, b"vmap"), (VM_USERMAP, b"user")):
        if v.flags & flag:
            text += b" " + name
    if is_vmalloc_addr(v.pages_address):
        text += b" vpages"
    show_numa_info(m, v, text)
    return None


def show_numa_info(m: SeqFile, v: VmStruct, text: bytes) -> None:
    """The pages of each node."""
    mem = current().kernel.mem
    nodes = [page_to_nid(mem, pfn) for pfn in v.pages]
    seq_puts(m, text + b"".join([b" N%d=%d" % (nid, nodes.count(nid)) for nid in sorted(set(nodes))]) + b"\n")


@notrace
def hashed_address(address: int) -> int:
    """%p: a number that tells nothing of an address but whether two are the same."""
    return zlib.crc32(b"%x %x" % (current().kernel.machine.seed, address))


@notrace
def caller_symbol(caller: ReturnAddress) -> bytes:
    """%pS of a return address, after a space; empty if the caller is no kernel function."""
    symbol = kallsyms_table().by_code.get(id(caller.code))
    if symbol is None:
        return b""
    address = symbol.address + LINE_SIZE * max(caller.line - caller.code.co_firstlineno, 0)
    return b" " + sprint_symbol(current().kernel, address).encode()


vmalloc_op = SeqOperations(start=s_start, next=s_next, show=s_show)


@notrace
def proc_slabinfo_init(kernel: Kernel) -> None:
    """slab_proc_init(), proc_vmalloc_init()"""
    proc_create_seq_data(kernel, b"slabinfo", 0o400, None, slabinfo_op)
    proc_create_seq_data(kernel, b"vmallocinfo", 0o400, None, vmalloc_op)
