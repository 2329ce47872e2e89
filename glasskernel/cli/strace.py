"""`--strace`: connects a kernel's tracepoints to the log of tools.strace.

Invariants: looking changes nothing. Memory is read where it is: in a mapped frame, or, for a page that no
    fault has brought in yet, in the page cache; untouched anonymous memory is zeros. Nothing is faulted in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.ptrace import DI, DX, R8, R9, R10, SI, SP
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.kernel.current import current
from glasskernel.kernel.signal_types import KernelSiginfo
from glasskernel.kernel.tracepoint import tracepoint_probe_register
from glasskernel.mm.memory import follow_page
from glasskernel.tools.strace import Strace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.signal_types import SigInfoArg
    from glasskernel.kernel.task import KSigaction, TaskStruct
    from glasskernel.lib.syscalls import Registers
    from glasskernel.mm.types import MmStruct

PAGE_SIZE: Final = 4096
_NR_RT_SIGRETURN: Final = SYSCALL_NUMBERS["rt_sigreturn"]


class SyscallLog:
    """What listens. Task numbers are those of the first PID namespace; calls by int $0x80 are left out."""

    def __init__(self, kernel: Kernel, write: Callable[[str], None], pid_column: bool) -> None:
        self._kernel = kernel
        self._tasks: dict[int, TaskStruct] = {}
        self._strace = Strace(
            write, read_memory=self._read, pid_column=pid_column, stack_pointer=self._stack_pointer
        )

    def sys_enter(self, regs: Registers, nr: int) -> None:
        task = current()
        if task.thread.ts_compat or task.mm is self._kernel.tasks[0].mm:    # PID 1, and its child before execve
            return
        self._tasks[task.pid] = task
        self._strace.enter(task.pid, nr, _arguments(regs))

    def sys_exit(self, regs: Registers, ret: int) -> None:
        task = current()
        thread = task.thread
        if thread.ts_compat or task.pid not in self._tasks:
            return
        nr = thread.orig_ax if thread.orig_ax != -1 else _NR_RT_SIGRETURN    # after it there is no call any more
        self._strace.exit(task.pid, nr, _arguments(regs), ret, self._kernel.now_ns)

    def signal_deliver(self, _sig: int, info: SigInfoArg, _ka: KSigaction) -> None:
        if isinstance(info, int):                  # the rest of a group that dies
            return
        task = current()
        names = (name for name in KernelSiginfo.__annotations__ if name.startswith("si_"))
        fields = {name: value for name in names if isinstance(value := getattr(info, name), int)}
        fields["si_timerid"] = fields.get("si_tid", 0)
        self._strace.signal(task.pid, info.si_signo, fields)

    def sched_process_exit(self, task: TaskStruct) -> None:
        if self._tasks.pop(task.pid, None) is not None:
            self._strace.exited(task.pid, task.exit_code)

    def _stack_pointer(self, pid: int) -> int:
        return self._tasks[pid].thread.regs[SP]

    def _read(self, pid: int, address: int, size: int) -> bytes | None:
        task = self._tasks.get(pid)
        mm = task.mm if task is not None else None
        if mm is None:
            return None
        parts = []
        while size > 0:
            offset = address & (PAGE_SIZE - 1)
            chunk = min(PAGE_SIZE - offset, size)
            page = _page(mm, address)
            if page is None:
                return None
            parts.append(bytes(page[offset : offset + chunk]))
            address += chunk
            size -= chunk
        return b"".join(parts)


def attach_strace(kernel: Kernel, write: Callable[[str], None], pid_column: bool) -> None:
    """From now on every system call, signal and exit is a line. pid_column: as `strace -f -o FILE` writes."""
    log = SyscallLog(kernel, write, pid_column)
    for name in ("sys_enter", "sys_exit", "signal_deliver", "sched_process_exit"):
        tracepoint_probe_register(kernel, name, getattr(log, name))


def _arguments(regs: Registers) -> tuple[int, int, int, int, int, int]:
    return regs[DI], regs[SI], regs[DX], regs[R10], regs[R8], regs[R9]


def _page(mm: MmStruct, address: int) -> memoryview | bytes | None:
    """The page around an address, as a fault would show it; None: nothing is there or it is not in memory."""
    vma = mm.vmas.first_ending_after(address) if address < 1 << 47 else None
    if vma is None or vma.vm_start > address:
        return None
    pfn = follow_page(mm, address)
    if pfn is None:
        if vma.vm_file is None:
            return bytes(PAGE_SIZE)
        index = (address - vma.vm_start) // PAGE_SIZE + vma.vm_pgoff
        pfn = vma.vm_file.f_mapping.pages.get(index)
        if pfn is None:
            return None
    return mm.kernel.machine.ram[pfn << 12 : (pfn + 1) << 12]
