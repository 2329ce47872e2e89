"""System calls as events: syscalls:sys_enter_NAME and sys_exit_NAME, made from the declarations of the calls.

Linux: kernel/trace/trace_syscalls.c, the metadata of SYSCALL_DEFINE (5.3). Same: names, fields (every argument takes
    eight bytes), format texts, the text of a line (`sys_openat(dfd: ffffff9c, ...)`, `sys_openat -> 0x3`); calls of
    int $0x80 are not shown; one listener at each end of a call serves them all.
Differs: made at the first look at tracefs. Gaps: types in the text with the option verbose.
Owns: the system "syscalls"; TraceState.syscall_probes.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.ptrace import DI, DX, R8, R9, R10, SI
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import kallsyms_table, syscall_source_name
from glasskernel.kernel.trace.syscall_prototypes import PROTOTYPES
from glasskernel.kernel.trace.trace_events import (
    FtraceEventField,
    TraceEventCall,
    TraceSystem,
    Values,
    field_at,
    trace_system,
)
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.syscalls import DECLARED, Registers, Syscall, find_syscall
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace import TraceEventFile

_ARGUMENTS = (DI, SI, DX, R10, R8, R9)
_OUR_TYPES = {"int": "int", "s32": "int", "u32": "unsigned int", "u16": "umode_t", "long": "long", "s64": "loff_t",
              "ulong": "unsigned long", "u64": "u64", "size_t": "size_t", "UserPtr": "void *"}
_PROTOTYPE = re.compile(r"(\w+)\(([^)]*)\)")

Record = Callable[..., None]


@slotted
class SyscallMetadata:
    """struct syscall_metadata. args: (type, name)."""

    name: str                          # "sys_openat"
    syscall_nr: int
    args: tuple[tuple[str, str], ...]


@slotted
class SyscallProbes:
    """What listens to sys_enter or sys_exit for all files of one kernel: who wants which number."""

    files: dict[int, list[TraceEventFile]] = field(default_factory=dict)
    probe: Record | None = None


class SyscallEvent(TraceEventCall):
    """The event of one call's entry or exit. data: its SyscallMetadata."""

    __slots__ = ()

    def trace(self, kernel: Kernel, payload: bytes | memoryview) -> str:
        """print_syscall_enter(), print_syscall_exit()"""
        values = self.unpack(payload)
        name = self.data.name
        if self.tracepoint == "sys_exit":
            return f"{name} -> 0x{values['ret'] & 0xFFFF_FFFF_FFFF_FFFF:x}"
        return f"{name}({', '.join(f'{argument}: {values[argument]:x}' for _, argument in self.data.args)})"


@notrace
def _arguments(text: str) -> tuple[tuple[str, str], ...]:
    """(type, name) of each argument of a prototype."""
    found = []
    for argument in (" ".join(part.split()) for part in text.split(",")):
        if argument:
            c_type, _, name = argument.rpartition(" ")
            found.append((c_type, name))
    return tuple(found)


@notrace
def syscall_arguments(call: Syscall) -> tuple[tuple[str, str], ...]:
    """(C type, name) of each argument: from the table of prototypes, else from our own declaration."""
    prototypes = {name: text for name, text in _PROTOTYPE.findall(PROTOTYPES)}
    text = prototypes.get(syscall_source_name(call.name))
    if text is not None:
        return _arguments(text)
    return tuple((_OUR_TYPES[c_type], name) for name, c_type in call.arguments)


@notrace
def _set_enter_print_fmt(args: tuple[tuple[str, str], ...]) -> str:
    text = ", ".join(f"{name}: 0x%08lx" for _, name in args)
    return f'"{text}"' + "".join(f", ((unsigned long)(REC->{name}))" for _, name in args)


@notrace
def _enter_assign(number: int, count: int) -> Callable[[Registers, int], Values | None]:
    registers = _ARGUMENTS[:count]

    def ftrace_syscall_enter(regs: Registers, nr: int) -> Values | None:
        return (nr, *[regs[r] for r in registers]) if nr == number else None

    return ftrace_syscall_enter


@notrace
def _exit_assign(number: int) -> Callable[[Registers, int], Values | None]:
    def ftrace_syscall_exit(_regs: Registers, ret: int) -> Values | None:
        return (number, ret) if register.task.thread.orig_ax == number else None

    return ftrace_syscall_exit


@notrace
def _nr_field() -> FtraceEventField:
    return field_at("int", "__syscall_nr", 8, 4, True)


@notrace
def _add_events(system: TraceSystem, call: Syscall, number: int) -> None:
    meta = SyscallMetadata(f"sys_{syscall_source_name(call.name)}", number, syscall_arguments(call))
    enter = [_nr_field()]
    enter += [field_at(c_type, name, 16 + 8 * i, 8, False) for i, (c_type, name) in enumerate(meta.args)]
    leave = [_nr_field(), field_at("long", "ret", 16, 8, True)]
    kind, count = meta.name[4:], len(meta.args)
    for name, fields, print_fmt, assign, point in (
        (f"sys_exit_{kind}", leave, '"0x%lx", REC->ret', _exit_assign(number), "sys_exit"),
        (f"sys_enter_{kind}", enter, _set_enter_print_fmt(meta.args), _enter_assign(number, count), "sys_enter"),
    ):
        system.add(SyscallEvent(system.name, name, fields, print_fmt, assign, point, register=reg_event_syscall,
                                data=meta))


@notrace
def init_syscall_trace() -> TraceSystem:
    """Makes the events of every declared call, by number."""
    kallsyms_table()                             # imports every file that declares one
    system = trace_system("syscalls")
    for name, number in sorted(SYSCALL_NUMBERS.items(), key=lambda item: item[1]):
        if name in DECLARED:
            _add_events(system, find_syscall(name), number)
    return system


# ---- on and off ----------------------------------------------------------------------------------------------------
@notrace
def reg_event_syscall(file: TraceEventFile, on: bool) -> None:
    """Switches one event of one trace array on (file.probe records it) or off."""
    state = file.tr.state
    if state.syscall_probes is None:
        state.syscall_probes = {"sys_enter": SyscallProbes(), "sys_exit": SyscallProbes()}
    point = file.call.tracepoint
    probes: SyscallProbes = state.syscall_probes[point]
    number = file.call.data.syscall_nr
    if on:
        probes.files.setdefault(number, []).append(file)
        if probes.probe is None:
            probes.probe = _enter_probe(probes) if point == "sys_enter" else _exit_probe(probes)
            tracepoint_probe_register(state.kernel, point, probes.probe)
        return
    probes.files[number].remove(file)
    if not probes.files[number]:
        del probes.files[number]
    if not probes.files and probes.probe is not None:
        tracepoint_probe_unregister(state.kernel, point, probes.probe)
        probes.probe = None


@notrace
def _record(files: list[TraceEventFile] | None, *arguments: Any) -> None:
    if files is not None and not register.task.thread.ts_compat:
        for file in files:
            if file.probe is not None:
                file.probe(*arguments)


@notrace
def _enter_probe(probes: SyscallProbes) -> Record:
    def ftrace_syscall_enter(regs: Registers, nr: int) -> None:
        _record(probes.files.get(nr), regs, nr)

    return ftrace_syscall_enter


@notrace
def _exit_probe(probes: SyscallProbes) -> Record:
    def ftrace_syscall_exit(regs: Registers, ret: int) -> None:
        _record(probes.files.get(register.task.thread.orig_ax), regs, ret)

    return ftrace_syscall_exit
