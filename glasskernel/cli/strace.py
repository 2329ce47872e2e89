"""`--strace`: connects a kernel's observers to the log of tools.strace.

Invariants: looking changes nothing. Memory is read where it is: in a mapped frame, or, for a page that no
    fault has brought in yet, in the page cache; untouched anonymous memory is zeros. Nothing is faulted in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from glasskernel.arch.x86.ptrace import DI, DX, R8, R9, R10, SI, SP
from glasskernel.mm.memory import follow_page
from glasskernel.tools.strace import Strace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import MmStruct

PAGE_SIZE: Final = 4096


class SyscallLog:
    """The kernel's SyscallObserver. Task numbers are those of the first PID namespace."""

    def __init__(self, kernel: Kernel, write: Callable[[str], None], pid_column: bool) -> None:
        self._kernel = kernel
        self._tasks: dict[int, TaskStruct] = {}
        self._strace = Strace(
            write, read_memory=self._read, pid_column=pid_column, stack_pointer=self._stack_pointer
        )

    def enter(self, task: TaskStruct, nr: int) -> None:
        if task.mm is self._kernel.tasks[0].mm:    # PID 1, and its child before the first execve
            return
        self._tasks[task.pid] = task
        self._strace.enter(task.pid, nr, _arguments(task))

    def exit(self, task: TaskStruct, nr: int, result: int) -> None:
        if task.pid not in self._tasks:
            return
        self._strace.exit(task.pid, nr, _arguments(task), result, self._kernel.now_ns)

    def signal(self, task: TaskStruct, info: Any) -> None:
        """A signal is being delivered; info: KernelSiginfo."""
        names = (name for name in info.__slots__ if name.startswith("si_"))
        fields = {name: value for name in names if isinstance(value := getattr(info, name), int)}
        fields["si_timerid"] = fields.get("si_tid", 0)
        self._strace.signal(task.pid, info.si_signo, fields)

    def exited(self, task: TaskStruct, status: int) -> None:
        """The task ends; status: wait(2)'s word."""
        if self._tasks.pop(task.pid, None) is not None:
            self._strace.exited(task.pid, status)

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
    kernel.syscall_observer = log
    kernel.observers.signal = log.signal
    kernel.observers.exit = log.exited


def _arguments(task: TaskStruct) -> tuple[int, int, int, int, int, int]:
    regs = task.thread.regs
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
