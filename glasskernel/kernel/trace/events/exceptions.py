"""Page faults.

Linux: arch/x86/include/asm/trace/exceptions.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import IP
from glasskernel.kernel.current import current
from glasskernel.kernel.trace.events.values import caller_ip
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.lib.syscalls import Registers


exceptions = trace_system("exceptions")


@exceptions.event_class(
    fields="unsigned long address; unsigned long ip; unsigned long error_code",
    print_fmt='"address=%ps ip=%ps error_code=0x%lx", (void *)REC->address, (void *)REC->ip, REC->error_code',
    irqs_off=True,
)
def x86_exceptions(address: int, regs: Registers | None, error_code: int) -> Values:
    """regs None: the kernel itself touched the address."""
    return (address, caller_ip(current().kernel, 2) if regs is None else regs[IP], error_code)


page_fault_user = x86_exceptions.define("page_fault_user")
page_fault_kernel = x86_exceptions.define("page_fault_kernel")
