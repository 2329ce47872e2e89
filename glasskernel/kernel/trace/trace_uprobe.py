"""Events at places of programs: `echo 'p:open /bin/bash:0x4245a0 %di' > uprobe_events`.

Linux: kernel/trace/trace_uprobe.c (5.3). Same: definitions, events/uprobes/, the lines, uprobe_profile, the error log;
    registers, user memory, $stackN, $retval, @+FILE_OFFSET; a name that is defined again replaces its event.
Differs: the file below an overlay is found by opening it (Linux: d_real()).
Owns: TraceUprobe (state.calls[...].data). Context: definitions in a task's, handlers in the task that hit the probe.
Gaps: reference counters: `PATH:OFFSET(REF)` is EINVAL; several probes of one event name.
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.ptrace import AX, BP, BX, CX, DI, DX, IP, R8, R9, R10, R11, R12, R13, R14, R15, SI, SP
from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file_table import fput
from glasskernel.fs.mount import path_put
from glasskernel.fs.path_walk import kern_path
from glasskernel.fs.tracefs.inode import tracefs_create_file
from glasskernel.fs.types import O_RDONLY, S_IFMT, S_IFREG
from glasskernel.kernel.current import register
from glasskernel.kernel.events.uprobes import UprobeConsumer, uprobe_register, uprobe_unregister
from glasskernel.kernel.events.uprobes_xol import uprobes_init
from glasskernel.kernel.trace.trace import TraceArray, TraceEventFile, TraceState
from glasskernel.kernel.trace.trace_dynevent import DynEventOperations, dyn_event_file, dyn_event_register
from glasskernel.kernel.trace.trace_events import TraceEventCall
from glasskernel.kernel.trace.trace_events_files import trace_add_event_call, trace_remove_event_call
from glasskernel.kernel.trace.trace_events_filter import tracing_log_err
from glasskernel.kernel.trace.trace_kprobe import traceprobe_parse_event_name
from glasskernel.kernel.trace.trace_probe import (
    BAD_MEM_ADDR,
    BAD_REG_NAME,
    BAD_STACK_NUM,
    BAD_VAR,
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
from glasskernel.kernel.trace.trace_probe_fetch import Fetch
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.lib.errno import EBUSY, ECANCELED, EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import U64_MAX, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.fs.types import Inode, Path
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

UPROBE_EVENT_SYSTEM = "uprobes"
FILE_NOT_FOUND = "Failed to find the given file"
NO_REGULAR_FILE = "Not a regular file"
REFCNT_OPEN_BRACE = "Reference counter brace is not closed"
BAD_REFCNT = "Invalid reference counter offset"
BAD_UPROBE_OFFS = "Invalid uprobe offset"
SYM_ON_UPROBE = "Symbol is not available with uprobe"
NO_FILE_OFFSET = BAD_MEM_ADDR

_REGISTERS = {"ax": AX, "bx": BX, "cx": CX, "dx": DX, "si": SI, "di": DI, "bp": BP, "sp": SP, "r8": R8, "r9": R9,
              "r10": R10, "r11": R11, "r12": R12, "r13": R13, "r14": R14, "r15": R15, "ip": IP}
_SEGMENTS = {"cs": 0x33, "ss": 0x2B}


@slotted
class TraceUprobe:
    """struct trace_uprobe. files: the trace arrays in which it is on."""

    state: TraceState
    filename: str
    path: Path
    inode: Inode
    offset: int
    is_return: bool
    args: list[ProbeArg]
    call: TraceEventCall = None  # type: ignore[assignment]
    consumer: UprobeConsumer = field(default_factory=UprobeConsumer)
    files: list[TraceEventFile] = field(default_factory=list)
    nhit: int = 0


# ---- arguments ---------------------------------------------------------------------------------------------------
@notrace
def probe_user_read(_task: TaskStruct, address: int, size: int) -> bytes:
    """Up to `size` bytes of the current task's memory, as far as they can be had."""
    try:
        return copy_from_user(address, size)
    except KernelError:
        first = 0x1000 - (address & 0xFFF)
        try:
            return copy_from_user(address, first) if first < size else b""
        except KernelError:
            return b""


@notrace
def _user_stack(number: int) -> Fetch:
    def fetch(task: TaskStruct) -> int:
        return int.from_bytes(probe_user_read(task, task.thread.regs[SP] + 8 * number & U64_MAX, 8), "little")

    return fetch


@notrace
def uprobe_target(tu_offset: int, is_return: bool) -> ProbeTarget:
    """What can be fetched in a program. The context of a fetch is its task."""

    def variable(text: str, pos: int) -> Fetch:
        if text == "retval":
            if not is_return:
                raise ProbeError(RETVAL_ON_PROBE, pos)
            return lambda task: task.thread.regs[AX]
        if text == "stack":
            return lambda task: task.thread.regs[SP]
        number = text[5:]
        if text.startswith("stack") and number.isdigit():
            if int(number) > PARAM_MAX_STACK:
                raise ProbeError(BAD_STACK_NUM, pos)
            return _user_stack(int(number))
        raise ProbeError(BAD_STACK_NUM if text.startswith("stack") else BAD_VAR, pos)

    def register_of(text: str, pos: int) -> Fetch:
        index = _REGISTERS.get(text)
        if index is not None:
            return lambda task: task.thread.regs[index]
        if text == "flags":
            return lambda task: task.thread.get_eflags()
        if text in _SEGMENTS:
            return lambda _task: _SEGMENTS[text]
        if text == "orig_ax":
            return lambda task: task.thread.orig_ax & U64_MAX
        raise ProbeError(BAD_REG_NAME, pos)

    def memory(text: str, pos: int) -> Fetch:
        try:
            if text.startswith("+"):              # an offset in the file: FETCH_OP_FOFFS
                file_offset = int(text[1:], 0)
                return lambda task: translate_user_vaddr(task, tu_offset, file_offset)
            if not text[:1].isdigit():
                raise ProbeError(SYM_ON_UPROBE, pos)
            address = int(text, 0)
        except ValueError:
            raise ProbeError(BAD_MEM_ADDR, pos) from None
        return lambda _task: address

    return ProbeTarget(variable, register_of, memory, lambda _name: None, probe_user_read, probe_user_read,
                       lambda _task: register.task.comm)


@notrace
def translate_user_vaddr(task: TaskStruct, offset: int, file_offset: int) -> int:
    """Where an offset of the probe's file is mapped: as far from the probe as in the file."""
    utask = task.utask
    ip = task.thread.regs[IP]
    if utask is not None and utask.return_instances and ip == utask.return_instances[-1].orig_ret_vaddr:
        ip = utask.return_instances[-1].func
    return int(ip - offset + file_offset) & U64_MAX


# ---- a hit -------------------------------------------------------------------------------------------------------
@notrace
def _dispatcher(tu: TraceUprobe) -> UprobeConsumer:
    if tu.is_return:
        return UprobeConsumer(None, lambda func, task: uretprobe_dispatcher(tu, func, task))
    return UprobeConsumer(lambda task: uprobe_dispatcher(tu, task), None)


@may_sleep
def uprobe_dispatcher(tu: TraceUprobe, task: TaskStruct) -> None:
    tu.nhit += 1
    __uprobe_trace_func(tu, [task.thread.regs[IP]], task)


@may_sleep
def uretprobe_dispatcher(tu: TraceUprobe, func: int, task: TaskStruct) -> None:
    tu.nhit += 1
    __uprobe_trace_func(tu, [func, task.thread.regs[IP]], task)


def __uprobe_trace_func(tu: TraceUprobe, head: list[int], task: TaskStruct) -> None:
    call_bpf = tu.call.call_bpf
    perf_wants = call_bpf is None or call_bpf(task.kernel, tu.call, task)
    values = (*head, *[arg.value(task) for arg in tu.args])
    for file in tuple(tu.files):
        if file.probe is not None and (perf_wants or isinstance(file, TraceEventFile)):
            file.probe(*values)


class UprobeEvent(ProbeEvent):
    """The event of a TraceUprobe."""

    __slots__ = ()

    def where(self, kernel: Kernel, record: dict[str, Any]) -> str:
        if self.data.is_return:
            return f"{record['__probe_ret_ip']:#x} <- {record['__probe_func']:#x}"
        return f"{record['__probe_ip']:#x}"


@may_sleep
def trace_uprobe_register(file: TraceEventFile, on: bool) -> None:
    """The event goes on or off in one trace array."""
    (probe_event_enable if on else probe_event_disable)(file.call.data, file)


@may_sleep
def probe_event_enable(tu: TraceUprobe, file: TraceEventFile) -> None:
    """Raises what uprobe_register() raises."""
    tu.files.append(file)
    if len(tu.files) > 1:
        return
    uprobes_init(tu.state.kernel)
    tu.consumer = _dispatcher(tu)
    try:
        uprobe_register(tu.state.kernel, tu.inode, tu.offset, tu.consumer)
    except KernelError:
        tu.files.remove(file)
        raise


@may_sleep
def probe_event_disable(tu: TraceUprobe, file: TraceEventFile) -> None:
    tu.files.remove(file)
    if not tu.files:
        uprobe_unregister(tu.state.kernel, tu.inode, tu.offset, tu.consumer)


# ---- definitions -------------------------------------------------------------------------------------------------
@notrace
def trace_uprobes(state: TraceState) -> list[TraceUprobe]:
    """All of them, in the order in which they were defined."""
    return [call.data for call in state.calls.values() if isinstance(call, UprobeEvent)]


@notrace
def find_probe_event(state: TraceState, group: str, name: str) -> TraceUprobe | None:
    return next((tu for tu in trace_uprobes(state) if tu.call.name == name and group in ("", tu.call.system)), None)


def unregister_trace_uprobe(state: TraceState, tu: TraceUprobe) -> None:
    """Errors: EBUSY, it is on somewhere."""
    if tu.files:
        raise KernelError(EBUSY)
    trace_remove_event_call(state, tu.call)
    path_put(tu.path)                             # free_trace_uprobe()


@notrace
def _kstrtoul(text: str) -> int:
    """Raises ValueError."""
    if not text[:1].isdigit() or "_" in text:
        raise ValueError(text)
    return int(text, 8) if len(text) > 1 and text.isdigit() and text[0] == "0" else int(text, 0)


@may_sleep
def trace_uprobe_create(state: TraceState, command: str) -> None:
    """One definition. Errors: ECANCELED (none of ours), EINVAL, ENOENT, EBUSY, E2BIG, ENOSPC, those of a path walk."""
    words = command.split()
    if command[0] not in "pr" or len(words) < 2 or "/" not in words[1]:
        raise KernelError(ECANCELED)
    filename, colon, place = words[1].rpartition(":")
    if not colon:
        raise KernelError(ECANCELED)
    if not place[:1].isdigit():
        raise KernelError(EINVAL)
    try:
        __trace_uprobe_create(state, words, filename, place)
    except ProbeError as error:
        tracing_log_err(state, "trace_uprobe", " ".join(words), error.error, error.pos)
        raise KernelError(error.errno) from None


@may_sleep
def __trace_uprobe_create(state: TraceState, words: list[str], filename: str, place: str) -> None:
    """Raises ProbeError."""
    head = words[0]
    at = len(head) + 1
    try:
        path = kern_path(state.kernel, filename.encode("latin-1"))
    except KernelError as error:
        raise ProbeError(FILE_NOT_FOUND, at, error.errno) from None
    try:
        inode = path.dentry.d_inode
        if inode is None or inode.i_mode & S_IFMT != S_IFREG:
            raise ProbeError(NO_REGULAR_FILE, at)
        tu = alloc_trace_uprobe(state, words, filename, place, path, d_real_inode(path))
        old = find_probe_event(state, tu.call.system, tu.call.name)
        if old is not None:
            unregister_trace_uprobe(state, old)
    except (ProbeError, KernelError):
        path_put(path)
        raise
    trace_add_event_call(state, tu.call)


@may_sleep
def d_real_inode(path: Path) -> Inode:
    """The inode whose pages are mapped. Errors: those of open(2)."""
    file = dentry_open(path, O_RDONLY)
    inode = file.f_mapping.host
    fput(file)
    assert inode is not None
    return inode


@notrace
def alloc_trace_uprobe(state: TraceState, words: list[str], filename: str, place: str, path: Path,
                       inode: Inode) -> TraceUprobe:
    head = words[0]
    at = len(head) + 1
    is_return = head[0] == "r"
    text, brace, counter = place.partition("(")
    if brace:
        end = at + len(words[1])
        if not counter.endswith(")") or counter.count(")") != 1:
            raise ProbeError(REFCNT_OPEN_BRACE, end)
        raise ProbeError(BAD_REFCNT, end - len(counter))
    try:
        offset = _kstrtoul(text)
    except ValueError:
        raise ProbeError(BAD_UPROBE_OFFS, at + len(filename) + 1) from None
    group = UPROBE_EVENT_SYSTEM
    if head[1:2] == ":":
        group, event = traceprobe_parse_event_name(head[2:], UPROBE_EVENT_SYSTEM, 2)
    else:
        event = f"p_{re.split('[._-]', filename.rpartition('/')[2])[0]}_{offset:#x}"
    args: list[ProbeArg] = []
    target = uprobe_target(offset, is_return)
    at += len(words[1]) + 1
    for word in words[2:]:
        args.append(traceprobe_parse_probe_arg(word, at, target, args, state.kernel))
        at += len(word) + 1
    tu = TraceUprobe(state, filename, path, inode, offset, is_return, args)
    tu.call = probe_event(UprobeEvent, group, event, tu, trace_uprobe_register)
    return tu


trace_uprobe_ops = DynEventOperations(
    UprobeEvent, trace_uprobe_create, lambda tu: probe_definition(tu, f"{tu.filename}:0x{tu.offset:016x}"),
    lambda tu: bool(tu.files), unregister_trace_uprobe)


# ---- files -------------------------------------------------------------------------------------------------------
@notrace
def _profile(tr: TraceArray) -> str:
    return "".join(f"  {tu.filename} {tu.call.name:<44} {tu.nhit:15}\n" for tu in trace_uprobes(tr.state))


@notrace
def init_uprobe_trace(tr: TraceArray, node: TreeNode) -> None:
    """uprobe_events, uprobe_profile"""
    dyn_event_register(tr.state, trace_uprobe_ops)
    dyn_event_file("uprobe_events", tr, node, trace_uprobe_ops)
    tracefs_create_file("uprobe_profile", 0o444, node, tr, text_file(_profile))
