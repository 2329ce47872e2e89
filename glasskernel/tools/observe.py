"""Host-side listeners on a kernel: what --strace sees. They look, and change nothing.

Memory is read without faults: a page that the program has not touched yet is read where it would come from.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.ptrace import DI, DX, R8, R9, R10, SI, SP
from glasskernel.kernel.pid import find_pid_ns, pid_task
from glasskernel.lib.types import U64_MAX
from glasskernel.mm.memory import follow_page

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import MmStruct
    from glasskernel.tools.strace import Strace

_PIDTYPE_PID = 0


def peek_user_memory(mm: MmStruct, address: int, size: int) -> bytes | None:
    """`size` bytes of an address space as they are or would be; None if a part is not mapped or not at hand."""
    mem = mm.kernel.mem
    parts = []
    while size > 0:
        offset = address & 0xFFF
        chunk = min(4096 - offset, size)
        pfn = follow_page(mm, address)
        if pfn is not None:
            start = (pfn << 12) + offset
            parts.append(mem.ram[start : start + chunk].tobytes())
        else:
            vma = mm.vmas.first_ending_after(address)
            if vma is None or vma.vm_start > address:
                return None
            if vma.vm_file is None:
                parts.append(bytes(chunk))
            else:
                mapping = vma.vm_file.f_mapping
                index = vma.vm_pgoff + ((address - vma.vm_start) >> 12)
                cached = mapping.pages.get(index)
                if cached is not None:
                    start = (cached << 12) + offset
                    parts.append(mem.ram[start : start + chunk].tobytes())
                elif mapping.a_ops.peek is not None:
                    page = mapping.a_ops.peek(mapping, index)
                    parts.append(page.ljust(4096, b"\0")[offset : offset + chunk])
                else:
                    return None
        address += chunk
        size -= chunk
    return b"".join(parts)


def memory_reader(kernel: Kernel) -> Any:
    """read_memory(pid, address, size) -> bytes or None, for decoders."""

    def read_memory(pid: int, address: int, size: int) -> bytes | None:
        task = pid_task(find_pid_ns(pid, kernel), _PIDTYPE_PID)
        if task is None or task.mm is None or not 0 <= address < 1 << 47:
            return None
        return peek_user_memory(task.mm, address, size)

    return read_memory


class StraceObserver:
    """Feeds a Strace with the system calls, signals and exits of every task that has an address space."""

    def __init__(self, kernel: Kernel, strace: Strace) -> None:
        self._kernel = kernel
        self._strace = strace
        self._arguments: dict[int, tuple[int, ...]] = {}
        kernel.syscall_observer = self
        kernel.observers.signal = self.signal
        kernel.observers.exit = self.exited

    def enter(self, task: TaskStruct, nr: int) -> None:
        regs = task.thread.regs
        arguments = (regs[DI], regs[SI], regs[DX], regs[R10], regs[R8], regs[R9])
        self._arguments[task.pid] = arguments
        self._strace.enter(task.pid, nr, arguments)

    def exit(self, task: TaskStruct, nr: int, result: int) -> None:
        arguments = self._arguments.pop(task.pid, (0, 0, 0, 0, 0, 0))
        if result > U64_MAX >> 1:
            result -= U64_MAX + 1
        self._strace.exit(task.pid, nr, arguments, result, self._kernel.now_ns)  # type: ignore[arg-type]

    def signal(self, task: TaskStruct, info: Any) -> None:
        fields = {name: getattr(info, name) for name in (
            "si_signo", "si_code", "si_errno", "si_pid", "si_uid", "si_status", "si_utime", "si_stime", "si_addr",
            "si_value", "si_overrun", "si_tid", "si_band", "si_fd")}
        self._strace.signal(task.pid, info.si_signo, fields)

    def exited(self, task: TaskStruct, status: int) -> None:
        self._arguments.pop(task.pid, None)
        self._strace.exited(task.pid, status)


def stack_pointer_of(kernel: Kernel) -> Any:
    """stack_pointer(pid) -> the task's user stack pointer."""

    def stack_pointer(pid: int) -> int:
        task = pid_task(find_pid_ns(pid, kernel), _PIDTYPE_PID)
        return task.thread.regs[SP] if task is not None else 0

    return stack_pointer
