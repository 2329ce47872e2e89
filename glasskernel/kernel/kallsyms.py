"""The table of kernel symbols: which function lies at an address, and where a function lies.

Linux: kernel/kallsyms.c (5.3). Same: looking up by address, by name, `name+0x10/0x40`.
Differs: nothing lies anywhere, so addresses are made up, the same on every host: rooms follow each other in the order
    in which Linux links its directories, files by name, and a source line takes 16 bytes. A symbol is a module-level
    function of a kernel room that is not @notrace. A system call's body `sys_read` stands under the name of its entry,
    `__x64_sys_read`, with which it makes one function in Linux. Every symbol is a text symbol of type T.
Owns: KallsymsTable, made once from the source by the first who asks. Gaps: data symbols, modules, and the tracer
    itself (kernel/trace, which cannot trace itself either).
Invariants: symbols are sorted by address; no two have the same one.
"""
from __future__ import annotations

import functools
import importlib
import os
from bisect import bisect_right
from keyword import iskeyword
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from glasskernel.lib.slotted import slotted
from glasskernel.lib.syscalls import DECLARED, find_syscall
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

TEXT_START = 0xFFFF_FFFF_8100_0000
ENTRY_TEXT_START = 0xFFFF_FFFF_81E0_0000         # .entry.text: what Linux writes in assembly
LINE_SIZE = 16
_PACKAGE = "glasskernel"
_ROOMS = ("init", "arch", "kernel", "mm", "fs", "ipc", "security", "block", "drivers", "net")
_CO_GENERATOR = 0x20
# System calls that Linux's source calls otherwise than the C library does (fs/stat.c, kernel/sys.c, fs/namespace.c).
_SOURCE_NAMES = {"stat": "newstat", "lstat": "newlstat", "fstat": "newfstat", "uname": "newuname", "umount2": "umount",
                 "sendfile": "sendfile64", "_sysctl": "sysctl"}
# Inline functions of Linux under the name of what they call out of line (include/linux/uaccess.h).
_LINKED_NAMES = {"copy_from_user": "_copy_from_user", "copy_to_user": "_copy_to_user"}
# Entry code, and how much of it lies before the call into C (arch/x86/entry/entry_64.S).
_ASSEMBLY = (
    ("entry_SYSCALL_64", 0x00), ("entry_SYSCALL_64_after_hwframe", 0x44), ("ret_from_fork", 0x35),
    ("common_interrupt", 0x0F), ("apic_timer_interrupt", 0x0F), ("reschedule_interrupt", 0x0F),
    ("divide_error", 0x2D), ("overflow", 0x2D), ("bounds", 0x2D), ("invalid_op", 0x2D), ("debug", 0x36), ("int3", 0x36),
    ("stack_segment", 0x34), ("general_protection", 0x34), ("page_fault", 0x34), ("alignment_check", 0x34),
    ("coprocessor_error", 0x2D), ("simd_coprocessor_error", 0x2D),
    ("entry_INT80_compat", 0x85),
)
_ASSEMBLY_SIZE = 0x100
# Our functions that play the part of entry_64.S, by file.
_ENTRY_CODE = {"arch.x86.entry.common": ("user_mode_loop", "ret_from_fork"), "arch.x86.entry.idt": ("vector",),
               "arch.x86.entry.fault": ("idt_page_fault",)}
_TRACE_MARKER = "kernel.trace.trace_marker"       # records name its functions; no tracer sees them
# Linux's own notrace functions: symbols that show in stacks, but that no tracer can be attached to.
_LINUX_NOTRACE = ("__schedule", "secondary_startup_64")


@slotted
class Symbol:
    """One function. code: what Python executes for it; None: assembly. module: the file, "fs.read_write"."""

    address: int
    name: str
    module: str
    code: CodeType | None = None
    first_line: int = 0
    call_offset: int = 0                          # assembly: where it calls C
    traceable: bool = False


class KallsymsTable:
    """Every symbol. by_code: keyed by id() of the code object, which `symbols` keeps alive: hashing one is slow."""

    __slots__ = ("addresses", "by_code", "by_name", "end", "entries", "symbols")

    def __init__(self, symbols: list[Symbol], end: int) -> None:
        self.symbols = symbols
        self.end = end
        self.addresses = [s.address for s in symbols]
        self.by_name: dict[str, Symbol] = {}                     # the first of a name
        self.by_code: dict[int, Symbol] = {}
        self.entries: dict[int, CodeType] = {}                   # entry code, by id() too
        for symbol in symbols:
            self.by_name.setdefault(symbol.name, symbol)
            if symbol.code is not None:
                self.by_code[id(symbol.code)] = symbol


@notrace
def _files() -> list[tuple[str, int]]:
    """(module, number of lines) of every file of the kernel rooms, in link order."""
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    found = []
    for room in _ROOMS:
        paths = [[*os.path.relpath(folder, package).split(os.sep), name]
                 for folder, _folders, names in os.walk(os.path.join(package, room))
                 for name in names if name.endswith(".py")]
        for path in sorted(paths):
            module = ".".join(path).removesuffix(".py").removesuffix(".__init__")
            if not (module + ".").startswith("kernel.trace.") or module == _TRACE_MARKER:
                with open(os.path.join(package, *path), "rb") as file:
                    found.append((module, file.read().count(b"\n") + 1))
    return found


@notrace
def syscall_source_name(name: str) -> str:
    """What Linux's SYSCALL_DEFINE calls a system call: newstat for stat."""
    return _SOURCE_NAMES.get(name, name)


@notrace
def linux_name(name: str) -> str:
    """What Linux calls our function: a keyword of Python has an underscore behind it."""
    return name[:-1] if name.endswith("_") and iskeyword(name[:-1]) else _LINKED_NAMES.get(name, name)


@notrace
def _functions_of(module: str) -> list[tuple[str, CodeType]]:
    """(name, code) of the functions of one file that are Linux's."""
    space = vars(importlib.import_module(f"{_PACKAGE}.{module}"))
    found: dict[int, tuple[str, CodeType]] = {}
    for name, thing in space.items():
        if not isinstance(thing, FunctionType) or thing.__module__ != space["__name__"] or name != thing.__qualname__:
            continue
        code = thing.__code__
        if (getattr(thing, "__notrace__", False) and name not in _LINUX_NOTRACE) or code.co_flags & _CO_GENERATOR:
            continue
        call = name[4:] if name.startswith("sys_") else ""
        if call and call in DECLARED and find_syscall(call).function is thing:
            name = f"__x64_sys_{_SOURCE_NAMES.get(call, call)}"
        found.setdefault(code.co_firstlineno, (linux_name(name), code))
    return [found[line] for line in sorted(found)]


@functools.cache
def kallsyms_table() -> KallsymsTable:
    """Every symbol. Imports every file of the kernel first: the table does not depend on what has run so far."""
    symbols = [Symbol(TEXT_START, "_stext", "")]
    base = TEXT_START
    for module, nr_lines in _files():
        for name, code in _functions_of(module):
            line = code.co_firstlineno
            symbols.append(Symbol(base + line * LINE_SIZE, name, module, code, line,
                                  traceable=name not in _LINUX_NOTRACE and module != _TRACE_MARKER))
        base += (nr_lines + 1) * LINE_SIZE
    symbols.append(Symbol(base, "_etext", ""))
    assert base < ENTRY_TEXT_START
    for index, (name, offset) in enumerate(_ASSEMBLY):
        address = ENTRY_TEXT_START + index * _ASSEMBLY_SIZE
        symbols.append(Symbol(address, name, "arch.x86.entry.entry_64", call_offset=offset))
    table = KallsymsTable(symbols, ENTRY_TEXT_START + len(_ASSEMBLY) * _ASSEMBLY_SIZE)
    for module, names in _ENTRY_CODE.items():
        for name in names:
            code = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name).__code__
            table.entries[id(code)] = code
    return table


@notrace
def symbol_at(address: int) -> tuple[Symbol, int] | None:
    """(symbol, its size) of the function that an address lies in."""
    table = kallsyms_table()
    if not TEXT_START <= address < table.end:
        return None
    index = bisect_right(table.addresses, address) - 1
    if index < 0:
        return None
    after = table.addresses[index + 1] if index + 1 < len(table.addresses) else table.end
    return table.symbols[index], after - table.addresses[index]


def kallsyms_lookup(kernel: Kernel, address: int) -> tuple[str, int, int] | None:
    """(name, offset, size) of the function that an address lies in."""
    found = symbol_at(address)
    if found is None:
        return None
    symbol, size = found
    return symbol.name, address - symbol.address, size


def kallsyms_lookup_name(kernel: Kernel, name: str) -> int:
    """The address of a function; 0: there is none. The first one, when several files have one of that name."""
    symbol = kallsyms_table().by_name.get(name)
    return symbol.address if symbol is not None else 0


def sprint_symbol(kernel: Kernel, address: int) -> str:
    """`name+0x10/0x40`, or the bare address."""
    found = kallsyms_lookup(kernel, address)
    return f"{found[0]}+{found[1]:#x}/{found[2]:#x}" if found is not None else f"0x{address:x}"


def sprint_symbol_no_offset(kernel: Kernel, address: int) -> str:
    """`name`, or the bare address."""
    found = kallsyms_lookup(kernel, address)
    return found[0] if found is not None else f"0x{address:x}"


def is_ksym_addr(address: int) -> bool:
    """Whether an address lies in the kernel's text."""
    return symbol_at(address) is not None
