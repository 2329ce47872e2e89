"""sys_call_table: made of what the kernel's modules declare with @syscall.

Linux: arch/x86/entry/syscall_64.c. Every module of these packages is part of the kernel, so every module is
imported: there is no list of them that could lack one. What declares no system call and is not always needed is
imported by its first user instead, as Linux loads modules: start-up time counts.
"""
from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from glasskernel.arch.x86.entry.traps import ia32_table
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.lib.errno import ENOSYS, KernelError
from glasskernel.lib.syscalls import DECLARED, Registers, Syscall, SyscallHandler
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

NR_SYSCALLS = 512
_PACKAGES = ("arch", "kernel", "mm", "block", "fs", "ipc", "drivers", "security")
ON_DEMAND = ("glasskernel.fs.ext4", "glasskernel.fs.jbd2", "glasskernel.fs.tracefs", "glasskernel.kernel.trace",
             "glasskernel.drivers.rtc", "glasskernel.security.keys")


@notrace
def _import_all(package: str, directory: str) -> None:
    for name in sorted(os.listdir(directory)):
        if name.endswith(".py") and name != "__init__.py":
            importlib.import_module(f"{package}.{name[:-3]}")
        elif os.path.isfile(f"{directory}/{name}/__init__.py") and f"{package}.{name}" not in ON_DEMAND:
            _import_all(f"{package}.{name}", f"{directory}/{name}")


for _name in _PACKAGES:
    _import_all(f"glasskernel.{_name}", os.path.join(os.path.dirname(os.path.dirname(__file__)), _name))


@notrace
def fill_tables(kernel: Kernel) -> None:
    """kernel.sys_call_table by number, and i386's for int $0x80."""
    table = [_ni_syscall(kernel, nr) for nr in range(NR_SYSCALLS)]
    for name, number in SYSCALL_NUMBERS.items():
        if name in DECLARED:
            table[number] = _compile_first(DECLARED[name], table, number)
    kernel.sys_call_table = table
    kernel.ia32_sys_call_table = ia32_table(DECLARED)


@notrace
def _compile_first(call: Syscall, table: list[SyscallHandler], number: int) -> SyscallHandler:
    """What stands in the table until a program makes the call."""

    def compile_and_call(regs: Registers) -> int:
        table[number] = call.entry
        return table[number](regs)

    return compile_and_call


@notrace
def _ni_syscall(kernel: Kernel, nr: int) -> SyscallHandler:
    """sys_ni_syscall() for one number: counts, for --report."""

    def sys_ni_syscall(_regs: Registers) -> int:
        kernel.enosys[nr] = kernel.enosys.get(nr, 0) + 1
        raise KernelError(ENOSYS)

    return sys_ni_syscall
