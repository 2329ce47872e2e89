"""The vsyscall page: three system calls at fixed addresses, for programs older than the vDSO.

Linux: arch/x86/entry/vsyscall/vsyscall_64.c (5.3). Same: vsyscall=xonly: nothing is mapped, a jump there faults and is
emulated; reading it is SIGSEGV; /proc/PID/maps shows it as --xp.
Owns: nothing. Invariant: the call behaves as the function that the caller thinks is there: it returns to it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import AX, IP, SP
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.arch.x86.uaccess import get_user_u64
from glasskernel.lib.errno import EFAULT, KernelError
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.mm.types import VSYSCALL_ADDR

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

_CALLS = (SYSCALL_NUMBERS["gettimeofday"], SYSCALL_NUMBERS["time"], SYSCALL_NUMBERS["getcpu"])


@notrace
def addr_to_vsyscall_nr(address: int) -> int:
    """0 to 2, or -1 where no function begins."""
    offset = address - VSYSCALL_ADDR
    return offset >> 10 if not offset & 0x3FF and 0 <= offset < 3 << 10 else -1


def emulate_vsyscall(task: TaskStruct, address: int) -> bool:
    """User code jumped into the page. False: not to a function, or a pointer was bad; it gets SIGSEGV then."""
    nr = addr_to_vsyscall_nr(address)
    probe = task.kernel.tp.emulate_vsyscall
    if probe is not None:
        probe(nr)
    if nr < 0:
        return False
    regs = task.thread.regs
    try:
        caller = get_user_u64(regs[SP])
        result = task.kernel.sys_call_table[_CALLS[nr]](regs)
    except KernelError as error:
        if error.errno == EFAULT:
            return False
        result = -error.errno
    regs[AX] = result & U64_MAX
    regs[IP] = caller                              # ret
    regs[SP] += 8
    return True
