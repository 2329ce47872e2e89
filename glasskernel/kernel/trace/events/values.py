"""What events say about objects that have no number of their own: where they lie, who calls them.

Linux: %p and %ps of a pointer. Same: an object keeps its address, two objects have different ones.
Differs: nothing lies anywhere. An object gets an address of the direct map when an event shows it first, so addresses
    depend on the run alone; a function's is that of kernel/kallsyms.py.
Owns: the slot `kaddr` of every object, Tracepoints.next_kaddr.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import kallsyms_table
from glasskernel.kernel.trace.stacktrace import stack_trace_save
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

VMEMMAP_BASE = 0xFFFF_EA00_0000_0000
_OBJECT_SIZE = 192


@notrace
def kaddr_of(thing: Any) -> int:
    """The address of a kernel object (its class has a slot `kaddr`); 0 for None."""
    if thing is None:
        return 0
    address: int = getattr(thing, "kaddr", 0)
    if not address:
        address = thing.kaddr = new_kaddr()
    return address


@notrace
def new_kaddr() -> int:
    """An address that no other object has had."""
    tp = register.task.kernel.tp
    address = tp.next_kaddr
    tp.next_kaddr = address + _OBJECT_SIZE
    return address


@notrace
def function_address(function: Any) -> int:
    """The address of a kernel function; 0: Linux has none there."""
    while hasattr(function, "func"):             # functools.partial
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    symbol = kallsyms_table().by_code.get(id(code))
    return symbol.address if symbol is not None else 0


@notrace
def caller_ip(kernel: Kernel, skip: int = 0) -> int:
    """_RET_IP_: where in the kernel the event was raised."""
    stack = stack_trace_save(kernel, skip)
    return stack[0] if stack else 0


@notrace
def jiffies_now(kernel: Kernel) -> int:
    return kernel.time.jiffies


@notrace
def jiffies_to_msecs(jiffies: int) -> int:
    return jiffies * 4


# What a print fmt may name.
HELPERS: dict[str, Any] = dict(
    vmemmap_base=VMEMMAP_BASE, jiffies=jiffies_now, jiffies_to_msecs=jiffies_to_msecs,
    HRTIMER_MODE_ABS=0, HRTIMER_MODE_REL=1, HRTIMER_MODE_ABS_PINNED=2, HRTIMER_MODE_REL_PINNED=3,
    HRTIMER_MODE_ABS_SOFT=4, HRTIMER_MODE_REL_SOFT=5, HRTIMER_MODE_ABS_PINNED_SOFT=6, HRTIMER_MODE_REL_PINNED_SOFT=7,
)
