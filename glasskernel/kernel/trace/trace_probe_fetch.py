"""What a probe reads when it is hit: numbers, memory, strings, names.

Linux: kernel/trace/trace_probe_tmpl.h, mm/maccess.c (5.3). Same: memory that cannot be read gives 0, a string
    "(fault)"; a string ends after PATH_MAX bytes; user addresses are those below TASK_SIZE.
Differs: an argument of a kernel function is a Python value. A bytes object is a string in the kernel's memory: it can
    be dereferenced. Other objects have an address (the allocator's, or one that is given out when it is first shown)
    but no bytes behind it; their fields are had by name: `file->f_pos`.
    Kernel probes read user memory only where it is mapped: observing does not change the run.
Owns: Tracepoints.kaddrs. Context: any.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.pgtable import PTE_PRESENT, PTE_USER, lookup_pte, pte_pfn
from glasskernel.arch.x86.uaccess import kernel_page
from glasskernel.kernel.current import register
from glasskernel.kernel.trace.events.values import function_address, kaddr_of, new_kaddr
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.mm.vmalloc import is_vmalloc_addr

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

MAX_STRING_SIZE = 4096                            # PATH_MAX
PAGE_OFFSET = 0xFFFF_8880_0000_0000               # where the kernel sees all of RAM
_TASK_SIZE = 0x7FFF_FFFF_F000
_REMEMBERED = 65536

Fetch = Callable[[Any], Any]                      # from what a probe is hit with to a value; None: a fault
Read = Callable[["TaskStruct", int, int], bytes]  # (task, address, size) -> what could be read of it


# ---- numbers -----------------------------------------------------------------------------------------------------
@notrace
def object_address(thing: Any) -> int:
    """The address of a kernel object: the allocator's; else one that stays with the object while it is remembered."""
    address = getattr(thing, "slab_address", 0) or getattr(thing, "kaddr", 0)
    if address:
        return int(address)
    if callable(thing) and (address := function_address(thing)):
        return address
    try:
        return kaddr_of(thing)
    except AttributeError:                        # its class has no room for an address
        pass
    tp = register.task.kernel.tp
    known = tp.kaddrs.get(id(thing))              # the entry keeps the object alive: its id() is nobody else's
    if known is not None:
        return known[0]
    if len(tp.kaddrs) >= _REMEMBERED:
        del tp.kaddrs[next(iter(tp.kaddrs))]
    address = new_kaddr()
    tp.kaddrs[id(thing)] = (address, thing)
    return address


@notrace
def number_of(value: Any) -> int:
    """A value as a register holds it."""
    if value is None:
        return 0
    if isinstance(value, int | float):
        return int(value) & U64_MAX
    return object_address(value)


# ---- memory ------------------------------------------------------------------------------------------------------
@notrace
def probe_mem_read(task: TaskStruct, address: int, size: int) -> bytes:
    """Up to `size` bytes of the kernel's or the task's memory, as far as it is mapped."""
    address &= U64_MAX
    machine = task.kernel.machine
    ram = machine.ram
    if is_vmalloc_addr(address):
        return probe_vmalloc_read(ram, address, size)
    if address >= PAGE_OFFSET:
        at = address - PAGE_OFFSET
        return ram[at : at + size].tobytes() if at + size <= len(ram) else b""
    mm = task.mm
    parts: list[bytes] = []
    while size > 0 and mm is not None and 0 <= address < _TASK_SIZE:
        slot = lookup_pte(machine.ram64, mm.pgd, address)
        entry = machine.ram64[slot] if slot else 0
        if entry & (PTE_PRESENT | PTE_USER) != PTE_PRESENT | PTE_USER:
            break
        offset = address & 0xFFF
        chunk = min(4096 - offset, size)
        at = (pte_pfn(entry, address) << 12) + offset
        parts.append(ram[at : at + chunk].tobytes())
        address += chunk
        size -= chunk
    return b"".join(parts)


@notrace
def probe_vmalloc_read(ram: memoryview, address: int, size: int) -> bytes:
    """The same of the vmalloc area."""
    parts: list[bytes] = []
    while size > 0:
        page = kernel_page(address)
        if page is None:
            break
        offset = address & 0xFFF
        chunk = min(4096 - offset, size)
        parts.append(ram[page + offset : page + offset + chunk].tobytes())
        address += chunk
        size -= chunk
    return b"".join(parts)


@notrace
def probe_user_only(task: TaskStruct, address: int, size: int) -> bytes:
    """The same of user memory only: ustring, +u0(...)."""
    return probe_mem_read(task, address, size) if 0 <= address < _TASK_SIZE else b""


@notrace
def _bytes_of(value: Any) -> bytes | None:
    """A string of the kernel, with its 0."""
    return bytes(value) + b"\0" if isinstance(value, bytes | bytearray | memoryview) else None


@notrace
def read_value(value: Any, offset: int, size: int, read: Read) -> bytes | None:
    """`size` bytes from `offset` on behind a value. None: a fault."""
    own = _bytes_of(value)
    if own is not None:
        data = own[offset : offset + size] if offset >= 0 else b""
    elif isinstance(value, int):
        data = read(register.task, value + offset & U64_MAX, size)
    else:
        return None
    return data if len(data) == size else None


@notrace
def read_string(value: Any, offset: int, read: Read) -> bytes | None:
    """fetch_store_string(): up to the 0, which is not answered."""
    own = _bytes_of(value)
    if own is not None:
        return own[offset:].partition(b"\0")[0] if 0 <= offset < len(own) else None
    if not isinstance(value, int):
        return None
    found, address = b"", value + offset & U64_MAX
    while len(found) < MAX_STRING_SIZE:           # page by page: what follows the string need not be there
        chunk = read(register.task, address, min(4096 - (address & 0xFFF), 256))
        if not chunk:
            return None
        head, zero, _ = chunk.partition(b"\0")
        found += head
        if zero:
            return found[: MAX_STRING_SIZE - 1]
        address += len(chunk)
    return found[: MAX_STRING_SIZE - 1]


# ---- steps of a fetch argument -----------------------------------------------------------------------------------
@notrace
def dereference(base: Fetch, offset: int, read: Read) -> Fetch:
    """FETCH_OP_DEREF in the middle: the pointer that lies there."""

    def fetch(context: Any) -> Any:
        data = read_value(base(context), offset, 8, read)
        return None if data is None else int.from_bytes(data, "little")

    return fetch


@notrace
def field_named(base: Fetch, name: str) -> Fetch:
    """`->name`: a field of a kernel object."""

    def fetch(context: Any) -> Any:
        return getattr(base(context), name, None)

    return fetch


@notrace
def store_raw(base: Fetch) -> Fetch:
    """FETCH_OP_ST_RAW: the value itself."""
    return lambda context: number_of(base(context))


@notrace
def store_memory(base: Fetch, offset: int, size: int, read: Read) -> Fetch:
    """FETCH_OP_ST_MEM: a number that lies in memory."""

    def fetch(context: Any) -> int:
        data = read_value(base(context), offset, size, read)
        return 0 if data is None else int.from_bytes(data, "little")

    return fetch


@notrace
def store_string(base: Fetch, offset: int, read: Read) -> Fetch:
    """FETCH_OP_ST_STRING. None: a fault."""
    return lambda context: read_string(base(context), offset, read)


@notrace
def bitfield(whole: Fetch, width: int, offset: int) -> Fetch:
    """FETCH_OP_MOD_BF"""
    mask = (1 << width) - 1
    return lambda context: whole(context) >> offset & mask


@notrace
def array(items: list[Fetch]) -> Fetch:
    """FETCH_OP_LP_ARRAY"""
    return lambda context: [item(context) for item in items]
