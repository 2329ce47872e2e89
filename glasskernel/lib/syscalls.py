"""SYSCALL_DEFINE: a system call is declared once, where it is implemented.

Linux: include/linux/syscalls.h, arch/x86/include/asm/syscall_wrapper.h.
`@syscall` reads the annotations of `sys_NAME` (as text: the module needs `from __future__ import annotations`)
and makes `__x64_sys_NAME(regs)` of it, which decodes the registers rdi rsi rdx r10 r8 r9 and calls it. That
wrapper is a real function because traces show it. It is compiled when a program first makes the call: most
programs make thirty different ones, of three hundred.

Owns: DECLARED, by name: the call, or the module that declares it and has not been imported yet.
"""
from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TypeVar, overload

from glasskernel.lib.slotted import slotted

Registers = memoryview                    # pt_regs as 64-bit words, indexed by arch.x86.ptrace's AX, BX, ...
SyscallHandler = Callable[[Registers], int]
F = TypeVar("F", bound=Callable[..., int])

# How C would narrow a 64-bit register to the declared type.
_DECODE = {
    "int": "(({r} & 0xffffffff) ^ 0x80000000) - 0x80000000",
    "s32": "(({r} & 0xffffffff) ^ 0x80000000) - 0x80000000",
    "u32": "{r} & 0xffffffff",
    "u16": "{r} & 0xffff",
    "long": "({r} ^ 0x8000000000000000) - 0x8000000000000000",
    "s64": "({r} ^ 0x8000000000000000) - 0x8000000000000000",
    "ulong": "{r}",
    "u64": "{r}",
    "size_t": "{r}",
    "UserPtr": "{r}",
}
_ARGUMENT_REGISTERS = (7, 6, 2, 10, 8, 9)      # rdi rsi rdx r10 r8 r9 in the order of arch.x86.ptrace


@slotted
class Syscall:
    """One SYSCALL_DEFINE. gaps: what of the man page is missing, for the coverage page."""

    name: str
    function: Callable[..., int]
    arguments: tuple[tuple[str, str], ...]     # (name, C type)
    raw: bool
    gaps: str = ""
    compiled: SyscallHandler | None = None

    @property
    def entry(self) -> SyscallHandler:
        """__x64_sys_NAME"""
        if self.compiled is None:
            types = tuple(kind for _name, kind in self.arguments)
            self.compiled = self.function if self.raw else _compile_entry(self.name, self.function, types)
        return self.compiled


DECLARED: dict[str, Syscall | str] = {}


def declared_by(module: str, names: list[str]) -> None:
    """Says that a module, which is not imported before one of its calls is made, declares these calls."""
    for name in names:
        DECLARED.setdefault(name, module)


def find_syscall(name: str) -> Syscall:
    """A declared call. Imports the module if need be. Raises KeyError for others."""
    call = DECLARED[name]
    if isinstance(call, str):
        importlib.import_module(call)
        call = DECLARED[name]
        assert not isinstance(call, str), f"{call} does not declare {name}"
    return call


@functools.cache
def _entry_template(types: tuple[str, ...]) -> Callable[[Callable[..., int]], SyscallHandler]:
    """Makes entries for calls with these argument types. Compiled once for all of them: start-up counts."""
    decoded = ", ".join(_DECODE[t].format(r=f"regs[{_ARGUMENT_REGISTERS[i]}]") for i, t in enumerate(types))
    source = f"def template(__se_sys):\n    def entry(regs):\n        return __se_sys({decoded})\n    return entry\n"
    scope: dict[str, Callable[[Callable[..., int]], SyscallHandler]] = {}
    exec(compile(source, "<SYSCALL_DEFINE>", "exec"), scope)
    return scope["template"]


def _compile_entry(name: str, function: Callable[..., int], types: tuple[str, ...]) -> SyscallHandler:
    entry = _entry_template(types)(function)
    full = f"__x64_sys_{name}"
    entry.__code__ = entry.__code__.replace(co_name=full, co_qualname=full, co_filename=f"<SYSCALL_DEFINE({name})>")
    entry.__name__ = entry.__qualname__ = full
    return entry


@overload
def syscall(function: F, /) -> F: ...
@overload
def syscall(*, gaps: str = ..., raw: bool = ...) -> Callable[[F], F]: ...


def syscall(function: F | None = None, *, gaps: str = "", raw: bool = False) -> F | Callable[[F], F]:
    """Declares the system call that `sys_NAME` implements and returns the function itself.

    raw: the function takes the registers themselves (fork, rt_sigreturn, execve ...).
    The function returns the value for rax and raises KernelError to fail.
    """

    def declare(fn: F) -> F:
        assert fn.__name__.startswith("sys_"), fn.__name__
        name = fn.__name__[4:]
        assert DECLARED.get(name, fn.__module__) == fn.__module__, f"{name} is declared twice"
        arguments = () if raw else tuple((k, v) for k, v in fn.__annotations__.items() if k != "return")
        DECLARED[name] = Syscall(name, fn, arguments, raw, gaps)
        return fn

    return declare if function is None else declare(function)
