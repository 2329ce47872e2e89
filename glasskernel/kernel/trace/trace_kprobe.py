"""Events at kernel functions: `echo 'p:myprobe vfs_read count=$arg3:u64' > kprobe_events`.

Linux: kernel/trace/trace_kprobe.c (5.3). Same: definitions of kprobe_events, events/kprobes/, the
    lines, kprobe_profile, the error log; a name that is defined again replaces its event; no change while it is on.
Differs: a kprobe is an ftrace hook (as Linux's on an ftrace location), so it can stand at the entry of a function only:
    anything else is "not an instruction boundary". $argN and %di %si %dx %cx %r8 %r9 are the function's Python
    arguments, those behind the sixth lie on the stack: $stack1 and so on, above the return address, $stack0. A function
    that is left by a KernelError returns its errno, negative, as in Linux; one that another exception ends (a task that
    exits) does not return.
Owns: TraceKprobe (state.calls[...].data). Context: definitions in a task's, hooks in any.
Gaps: $stack and the other registers (kernel stacks have no address); kprobe_events with other separators than newlines;
    see trace_probe.py.
"""
from __future__ import annotations

import re
from dis import opname
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from glasskernel.fs.tracefs.inode import tracefs_create_file
from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import (
    is_ksym_addr,
    kallsyms_lookup_name,
    sprint_symbol,
    sprint_symbol_no_offset,
)
from glasskernel.kernel.trace.fgraph import FtraceRetStack, ftrace_push_return
from glasskernel.kernel.trace.ftrace import (
    FtraceOps,
    ftrace_init,
    ftrace_set_filter_ip,
    register_ftrace_function,
    unregister_ftrace_function,
)
from glasskernel.kernel.trace.stacktrace import caller_address
from glasskernel.kernel.trace.trace import TraceArray, TraceEventFile, TraceState
from glasskernel.kernel.trace.trace_dynevent import DynEventOperations, dyn_event_file, dyn_event_register
from glasskernel.kernel.trace.trace_events import TraceEventCall
from glasskernel.kernel.trace.trace_events_files import trace_add_event_call, trace_remove_event_call
from glasskernel.kernel.trace.trace_events_filter import tracing_log_err
from glasskernel.kernel.trace.trace_probe import (
    BAD_ARG_NUM,
    BAD_MEM_ADDR,
    BAD_REG_NAME,
    BAD_STACK_NUM,
    BAD_VAR,
    FILE_ON_KPROBE,
    PARAM_MAX_STACK,
    RETVAL_ON_PROBE,
    ProbeArg,
    ProbeError,
    ProbeEvent,
    ProbeTarget,
    probe_definition,
    probe_event,
    traceprobe_parse_probe_arg,
)
from glasskernel.kernel.trace.trace_probe_fetch import Fetch, probe_mem_read, probe_user_only
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.lib.errno import EBUSY, ECANCELED, EILSEQ, EINVAL, ENOENT, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

MAXACT_NO_KPROBE = "Maxactive is not for kprobe"
BAD_MAXACT = "Invalid maxactive number"
MAXACT_TOO_BIG = "Maxactive is too big"
KRETPROBE_MAXACTIVE_MAX = 4096
FAIL_REG_PROBE = "Failed to register probe event"
NO_GROUP_NAME = "Group name is not specified"
GROUP_TOO_LONG = "Group name is too long"
NO_EVENT_NAME = "Event name is not specified"
EVENT_TOO_LONG = "Event name is too long"
MAX_EVENT_NAME_LEN = 64
BAD_PROBE_ADDR = "Invalid probed address or symbol"
BAD_RETPROBE = "Retprobe address must be an function entry"
BAD_INSN_BNDRY = "Probe point is not an instruction boundary"
BAD_GROUP_NAME = "Group name must follow the same rules as C identifiers"
BAD_EVENT_NAME = "Event name must follow the same rules as C identifiers"
KPROBE_EVENT_SYSTEM = "kprobes"

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*$")
_SYMBOL = re.compile(r"([A-Za-z_][\w.]*)([+-](?:0x[0-9a-fA-F]+|\d+))?$")
_ARGUMENT_REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")


@slotted
class KprobeContext:
    """What a probe is hit with, instead of pt_regs."""

    frame: FrameType
    returned: Any
    symbol: str


@slotted
class TraceKprobe:
    """struct trace_kprobe. files: the trace arrays in which it is on."""

    state: TraceState
    symbol: str
    ip: int
    is_return: bool
    args: list[ProbeArg]
    call: TraceEventCall = None  # type: ignore[assignment]
    ops: FtraceOps = None  # type: ignore[assignment]
    files: list[TraceEventFile] = field(default_factory=list)
    nhit: int = 0
    maxactive: int = 0                            # of a return probe: calls that it can follow at the same time
    active: list[TaskStruct] = field(default_factory=list)         # whose calls it follows
    nmissed: int = 0
    place: str = ""                               # as kprobe_events shows it: a symbol, or an address

    @notrace
    def kprobe_dispatcher(self, ip: int, parent_ip: int, ops: FtraceOps, frame: FrameType) -> None:
        if not self.is_return:
            self.record([self.ip], KprobeContext(frame, None, self.symbol))
            return
        if len(self.active) >= self.maxactive:    # kprobe_flush_task(): the dead do not return
            self.active = [task for task in self.active if not task.exit_state]
        if len(self.active) >= self.maxactive:
            self.nmissed += 1
        else:
            self.active.append(register.task)
            ftrace_init(self.state.kernel).errors.pop(register.task, None)
            ftrace_push_return(frame, ip, self.kretprobe_dispatcher)

    @notrace
    def kretprobe_dispatcher(self, call: FtraceRetStack, value: Any) -> None:
        if register.task in self.active:
            self.active.remove(register.task)
        if not self.files:                        # it was switched off meanwhile
            return
        if value is None and not returns(call.frame):
            value = raised_errno()
            if value is None:
                return
        parent = caller_address(call.frame.f_back, self.symbol)
        self.record([self.ip, parent], KprobeContext(call.frame, value, self.symbol))

    @notrace
    def record(self, head: list[int], context: KprobeContext) -> None:
        self.nhit += 1
        call_bpf = self.call.call_bpf
        perf_wants = call_bpf is None or call_bpf(self.state.kernel, self.call, context)
        values = (*head, *[arg.value(context) for arg in self.args])
        for file in tuple(self.files):
            if file.probe is not None and (perf_wants or isinstance(file, TraceEventFile)):
                file.probe(*values)


# ---- arguments ---------------------------------------------------------------------------------------------------
@notrace
def _argument(code: CodeType, index: int) -> Fetch:
    """Argument number `index`, from 0. One that the function has not holds nothing."""
    if index >= code.co_argcount:
        return lambda _context: 0
    name = code.co_varnames[index]
    return lambda context: context.frame.f_locals.get(name)


@notrace
def kprobe_target(kernel: Kernel, code: CodeType, is_return: bool) -> ProbeTarget:
    """What can be fetched at a kernel function."""

    def variable(text: str, pos: int) -> Fetch:
        if text == "retval":
            if not is_return:
                raise ProbeError(RETVAL_ON_PROBE, pos)
            return lambda context: context.returned
        kind, number = text[:-1].rstrip("0123456789") + text[-1:].rstrip("0123456789"), ""
        number = text[len(kind) :]
        if kind == "stack" and number:
            index = int(number)
            if index > PARAM_MAX_STACK:
                raise ProbeError(BAD_STACK_NUM, pos)
            if is_return:
                raise ProbeError(BAD_VAR, pos)    # the function's stack frame is gone
            if index == 0:
                return lambda context: caller_address(context.frame.f_back, context.symbol)
            return _argument(code, len(_ARGUMENT_REGISTERS) + index - 1)
        if kind == "arg" and number and not is_return:
            if not 0 < int(number) <= PARAM_MAX_STACK:
                raise ProbeError(BAD_ARG_NUM, pos)
            return _argument(code, int(number) - 1)
        raise ProbeError(BAD_VAR, pos)

    def register_of(text: str, pos: int) -> Fetch:
        if is_return and text == "ax":
            return lambda context: context.returned
        if is_return or text not in _ARGUMENT_REGISTERS:
            raise ProbeError(BAD_REG_NAME, pos)
        return _argument(code, _ARGUMENT_REGISTERS.index(text))

    def memory(text: str, pos: int) -> Fetch:
        if text.startswith("+"):
            raise ProbeError(FILE_ON_KPROBE, pos)
        if text[:1].isdigit():
            try:
                address = int(text, 0)
            except ValueError:
                raise ProbeError(BAD_MEM_ADDR, pos) from None
            return lambda _context: address
        match = _SYMBOL.match(text)
        base = kallsyms_lookup_name(kernel, match[1]) if match is not None else 0
        if match is None:
            raise ProbeError(BAD_MEM_ADDR, pos)
        if not base:
            raise ProbeError(BAD_MEM_ADDR, pos, ENOENT)
        address = base + int(match[2] or "0", 0)
        return lambda _context: address

    def name(text: str) -> Fetch | None:
        names = code.co_varnames[: code.co_argcount]
        return _argument(code, names.index(text)) if text in names and not is_return else None

    return ProbeTarget(variable, register_of, memory, name, probe_mem_read, probe_user_only,
                       lambda _context: register.task.comm)


@notrace
def returns(frame: FrameType) -> bool:
    """Whether a function that ends executes a return; else an exception ends it."""
    return opname[frame.f_code.co_code[frame.f_lasti]] in ("RETURN_VALUE", "RETURN_CONST")


@notrace
def raised_errno() -> int | None:
    """-errno of the KernelError that ends a function. None: another exception does."""
    task = register.task
    state = ftrace_init(task.kernel)
    errno = state.errors.get(task)
    return -errno if errno is not None else None


class KprobeEvent(ProbeEvent):
    """The event of a TraceKprobe."""

    __slots__ = ()

    def where(self, kernel: Kernel, record: dict[str, Any]) -> str:
        if self.data.is_return:
            return (f"{sprint_symbol(kernel, record['__probe_ret_ip'])} <- "
                    f"{sprint_symbol_no_offset(kernel, record['__probe_func'])}")
        return sprint_symbol(kernel, record["__probe_ip"])


def kprobe_register(file: TraceEventFile, on: bool) -> None:
    """The event goes on or off in one trace array."""
    probe: TraceKprobe = file.call.data
    kernel = probe.state.kernel
    if on:
        probe.files.append(file)
        if len(probe.files) == 1:
            if probe.is_return:
                ftrace_init(kernel).watch_errors(1)
            register_ftrace_function(kernel, probe.ops)
        return
    probe.files.remove(file)
    if not probe.files:
        unregister_ftrace_function(kernel, probe.ops)
        if probe.is_return:
            ftrace_init(kernel).watch_errors(-1)


# ---- definitions -------------------------------------------------------------------------------------------------
@notrace
def trace_kprobes(state: TraceState) -> list[TraceKprobe]:
    """All of them, in the order in which they were defined."""
    return [call.data for call in state.calls.values() if isinstance(call, KprobeEvent)]


@notrace
def _find(state: TraceState, group: str, name: str) -> TraceKprobe | None:
    return next((p for p in trace_kprobes(state) if p.call.name == name and group in ("", p.call.system)), None)


def unregister_trace_kprobe(state: TraceState, probe: TraceKprobe) -> None:
    """Errors: EBUSY, it is on somewhere."""
    if probe.files:
        raise KernelError(EBUSY)
    trace_remove_event_call(state, probe.call)


@notrace
def traceprobe_parse_event_name(text: str, default_group: str, pos: int) -> tuple[str, str]:
    """(group, event) of `group/event`. Raises ProbeError."""
    group, slash, event = text.partition("/")
    if not slash:
        group, event = default_group, text
    else:
        if not group:
            raise ProbeError(NO_GROUP_NAME, pos)
        if len(group) + 1 > MAX_EVENT_NAME_LEN:
            raise ProbeError(GROUP_TOO_LONG, pos)
        if not _IDENTIFIER.match(group):
            raise ProbeError(BAD_GROUP_NAME, pos)
        pos += len(group) + 1
    if not event:
        raise ProbeError(NO_EVENT_NAME, pos)
    if len(event) > MAX_EVENT_NAME_LEN:
        raise ProbeError(EVENT_TOO_LONG, pos)
    if not _IDENTIFIER.match(event):
        raise ProbeError(BAD_EVENT_NAME, pos)
    return group, event


def trace_kprobe_create(state: TraceState, command: str) -> None:
    """One definition. Errors: ECANCELED (it is none of ours), EINVAL, ENOENT, EBUSY, EILSEQ, E2BIG, ENOSPC."""
    words, at = [], 0
    for word in command.split():
        words.append((at, word))
        at += len(word) + 1
    if command[0] not in "pr" or len(words) < 2 or ("/" in words[1][1] and ":" in words[1][1]):
        raise KernelError(ECANCELED)
    try:
        __trace_kprobe_create(state, words)
    except ProbeError as error:
        tracing_log_err(state, "trace_kprobe", " ".join(word for _, word in words), error.error, error.pos)
        raise KernelError(error.errno) from None


@notrace
def _maxactive(head: str, is_return: bool, cpus: int) -> int:
    """The number behind `r`. Raises ProbeError."""
    number = head[1:].partition(":")[0]
    if not number:
        return max(10, 2 * cpus)
    if not is_return:
        raise ProbeError(MAXACT_NO_KPROBE, 1)
    if not number.isdigit() or not int(number):
        raise ProbeError(BAD_MAXACT, 1)
    if int(number) > KRETPROBE_MAXACTIVE_MAX:
        raise ProbeError(MAXACT_TOO_BIG, 1)
    return int(number)


@notrace
def _place(state: TraceState, place: str, at: int, is_return: bool) -> tuple[int, str, str]:
    """(address, symbol, how kprobe_events shows it) of SYMBOL[+OFFS] or ADDRESS. Raises ProbeError."""
    kernel = state.kernel
    by_ip = ftrace_init(kernel).by_ip
    name, plus, offset = place.partition("+")
    if place[:1].isdigit():
        try:
            ip = int(place, 0)
        except ValueError:
            raise ProbeError(BAD_PROBE_ADDR, at) from None
        if not is_ksym_addr(ip):
            raise ProbeError(FAIL_REG_PROBE, at)
        if ip not in by_ip:
            raise ProbeError(BAD_INSN_BNDRY, at, EILSEQ)
        return ip, sprint_symbol_no_offset(kernel, ip), f"0x{ip:016x}"
    try:
        distance = int(offset, 0) if plus else 0
    except ValueError:
        raise ProbeError(BAD_PROBE_ADDR, at) from None
    base = kallsyms_lookup_name(kernel, name)
    if not base or distance < 0:
        raise ProbeError(BAD_PROBE_ADDR, at, EINVAL if distance < 0 else ENOENT)
    if not distance:
        return base, name, name
    ip = base + distance                          # `_stext+1234`, which is how perf names functions
    if ip not in by_ip:
        if is_return:
            raise ProbeError(BAD_RETPROBE, at)
        raise ProbeError(BAD_INSN_BNDRY, at, EILSEQ)
    return ip, sprint_symbol_no_offset(kernel, ip), f"{name}+{distance}"


@notrace
def __trace_kprobe_create(state: TraceState, words: list[tuple[int, str]]) -> None:
    head, (at, place) = words[0][1], words[1]
    is_return = head[0] == "r"
    maxactive = _maxactive(head, is_return, len(state.kernel.machine.cpus))
    group, event = KPROBE_EVENT_SYSTEM, ""
    if ":" in head:
        group, event = traceprobe_parse_event_name(head.partition(":")[2], KPROBE_EVENT_SYSTEM, head.index(":") + 1)
    ip, symbol, shown = _place(state, place, at, is_return)
    record = ftrace_init(state.kernel).by_ip.get(ip)
    if record is None or record.symbol.code is None:
        raise ProbeError(FAIL_REG_PROBE, at)      # notrace: on Linux's list of functions not to be probed
    args: list[ProbeArg] = []
    target = kprobe_target(state.kernel, record.symbol.code, is_return)
    for pos, text in words[2:]:
        args.append(traceprobe_parse_probe_arg(text, pos, target, args, state.kernel))
    event = event or f"{head[0]}_{shown.replace('+', '_') if shown != symbol else symbol + '_0'}"
    old = _find(state, group, event)
    if old is not None:
        unregister_trace_kprobe(state, old)
    probe = TraceKprobe(state, symbol, ip, is_return, args, maxactive=maxactive, place=shown)
    probe.ops = FtraceOps(probe.kprobe_dispatcher, probe, needs_parent=False)
    ftrace_set_filter_ip(state.kernel, probe.ops, ip, 0, 0)
    probe.call = probe_event(KprobeEvent, group, event, probe, kprobe_register)
    trace_add_event_call(state, probe.call)


trace_kprobe_ops = DynEventOperations(
    KprobeEvent, trace_kprobe_create, lambda probe: probe_definition(probe, probe.place),
    lambda probe: bool(probe.files), unregister_trace_kprobe)


# ---- files -------------------------------------------------------------------------------------------------------
@notrace
def _profile(tr: TraceArray) -> str:
    return "".join(f"  {p.call.name:<44} {p.nhit:15} {p.nmissed:15}\n" for p in trace_kprobes(tr.state))


@notrace
def init_kprobe_trace(tr: TraceArray, node: TreeNode) -> None:
    """kprobe_events, kprobe_profile"""
    dyn_event_register(tr.state, trace_kprobe_ops)
    dyn_event_file("kprobe_events", tr, node, trace_kprobe_ops)
    tracefs_create_file("kprobe_profile", 0o444, node, tr, text_file(_profile))
