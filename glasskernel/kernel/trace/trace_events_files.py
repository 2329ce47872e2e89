"""Switching trace events on and off, and the directory events/.

Linux: kernel/trace/trace_events.c (5.3). Same: set_event's words, 0 1 X and ?, pid filters with event-fork, format,
    id.
Differs: an event's directory is filled when somebody looks into it.
Owns: tr.events, the probes of events. Context: task; probes in any.
Invariants: file.probe listens to the tracepoint exactly while EVENT_FILE_FL_ENABLED is set.
Filters and triggers come through state.filter_ops, from trace_events_filter.py and trace_events_trigger.py.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from glasskernel.fs.tracefs.inode import tracefs_create_dir, tracefs_create_file, tracefs_remove_recursive
from glasskernel.kernel.current import register
from glasskernel.kernel.trace.trace import (
    EVENT_FILE_FL_ENABLED,
    EVENT_FILE_FL_SOFT_DISABLED,
    EVENT_FILE_FL_SOFT_MODE,
    TRACE_ITER_EVENT_FORK,
    TraceArray,
    TraceEventFile,
    trace_buffer_write,
    tracing_update_buffers,
)
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.trace.trace_events import TraceEventCall

HEADER_PAGE = """\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
HEADER_EVENT = """# compressed entry header
\ttype_len    :    5 bits
\ttime_delta  :   27 bits
\tarray       :   32 bits

\tpadding     : type == 29
\ttime_extend : type == 30
\ttime_stamp : type == 31
\tdata max type_len  == 28
"""
TRIGGER_HELP = """# Available triggers:
# traceon traceoff snapshot stacktrace enable_event disable_event enable_hist disable_hist hist
"""
SUBSYSTEM_FILTER = """### global filter ###
# Use this to set filters for multiple events.
# Only events with the given fields will be affected.
# If no events are modified, an error message will be displayed here
"""


# ---- on and off --------------------------------------------------------------------------------------------------
@notrace
def make_probe(file: TraceEventFile) -> Callable[..., None]:
    """trace_event_raw_event_*(): from a tracepoint's arguments to a record."""
    tr, call = file.tr, file.call
    assign, pack, number, irqs_off, name = call.assign, call.pack, call.id, call.irqs_off, call.name

    def trace_event_raw_event(*arguments: Any) -> None:
        if tr.buffer.off and not file.triggers:
            return
        if (tr.filtered_pids is not None and event_ignored(tr, name,
                                                           arguments)) or file.flags & EVENT_FILE_FL_SOFT_DISABLED:
            if not file.triggers:
                return
        values = assign(*arguments)
        if values is None:
            return
        payload = pack(values)
        triggers = file.triggers
        recorded = True
        if triggers:
            for trigger in tuple(triggers):
                trigger.before(file, payload)
            recorded = not (file.flags & EVENT_FILE_FL_SOFT_DISABLED
                            or (tr.filtered_pids is not None and event_ignored(tr, name, arguments)))
        if recorded:
            keep = file.filter
            if keep is None or keep(payload):
                trace_buffer_write(tr, number, payload, irqs_off)
        if triggers:
            for trigger in tuple(triggers):
                trigger.after(file, payload)

    return trace_event_raw_event


@notrace
def event_ignored(tr: TraceArray, name: str, arguments: Sequence[Any]) -> bool:
    """set_event_pid: neither the running task nor the one that the event is about is in the list."""
    pids = tr.filtered_pids
    assert pids is not None
    if register.task.pid in pids:
        return False
    if name in ("sched_switch", "sched_wakeup", "sched_wakeup_new", "sched_waking"):
        return not any(getattr(task, "pid", -1) in pids for task in arguments)
    return True


def trace_event_reg(file: TraceEventFile, on: bool) -> None:
    """Connects an event with its tracepoint, or ends that."""
    call, kernel = file.call, file.tr.kernel
    if on:
        file.probe = make_probe(file)
    if call.register is not None:
        call.register(file, on)
    elif on:
        assert file.probe is not None
        tracepoint_probe_register(kernel, call.tracepoint, file.probe)
    elif file.probe is not None:
        tracepoint_probe_unregister(kernel, call.tracepoint, file.probe)
    if not on:
        file.probe = None


def __ftrace_event_enable_disable(file: TraceEventFile, enable: bool, soft_disable: bool = False) -> None:
    """An event on or off; soft: for a trigger, which may want it called but not recorded. Errors: of the
    registration."""
    was = file.flags & EVENT_FILE_FL_ENABLED
    if enable:
        if soft_disable:
            file.sm_ref += 1
            file.flags |= EVENT_FILE_FL_SOFT_MODE
            if not was:
                file.flags |= EVENT_FILE_FL_SOFT_DISABLED
        else:
            file.flags &= ~EVENT_FILE_FL_SOFT_DISABLED
        if not was:
            trace_event_reg(file, True)
            file.flags |= EVENT_FILE_FL_ENABLED
        return
    if soft_disable:
        file.sm_ref -= 1
        if file.sm_ref > 0:
            return
        if not file.flags & EVENT_FILE_FL_SOFT_DISABLED:
            file.flags &= ~EVENT_FILE_FL_SOFT_MODE
            return
        file.flags &= ~EVENT_FILE_FL_SOFT_MODE
    elif file.flags & EVENT_FILE_FL_SOFT_MODE:
        file.flags |= EVENT_FILE_FL_SOFT_DISABLED
        return
    if was:
        trace_event_reg(file, False)
        file.flags &= ~(EVENT_FILE_FL_ENABLED | EVENT_FILE_FL_SOFT_DISABLED)


def ftrace_event_enable_disable(file: TraceEventFile, enable: bool) -> None:
    __ftrace_event_enable_disable(file, enable)


@notrace
def _switchable(call: TraceEventCall) -> bool:
    return not call.ignore_enable


@notrace
def files_of(tr: TraceArray) -> list[TraceEventFile]:
    return [file for files in tr.events.values() for file in files.values()]


def ftrace_clear_events(tr: TraceArray) -> None:
    """Every event off."""
    for file in files_of(tr):
        ftrace_event_enable_disable(file, False)


def ftrace_set_clr_event(tr: TraceArray, text: str, enable: bool) -> None:
    """system:event, system:*, *:event, or a name of either. Errors: EINVAL (there is none)."""
    match, sub, event = text, "", ""
    if ":" in text:
        sub, _, event = text.partition(":")
        match = ""
        sub, event = "" if sub == "*" else sub, "" if event == "*" else event
    found = False
    for file in files_of(tr):
        call = file.call
        if not _switchable(call) or (match and match not in (call.name, call.system)):
            continue
        if (sub and sub != call.system) or (event and event != call.name):
            continue
        ftrace_event_enable_disable(file, enable)
        found = True
    if not found:
        raise KernelError(EINVAL)


# ---- files -------------------------------------------------------------------------------------------------------
@notrace
def _bool_of(data: bytes) -> bool:
    text = data.strip()
    if text not in (b"0", b"1"):
        raise KernelError(EINVAL)
    return text == b"1"


@notrace
def _enable_show(file: TraceEventFile) -> str:
    on = file.flags & EVENT_FILE_FL_ENABLED and not file.flags & EVENT_FILE_FL_SOFT_DISABLED
    return f"{int(bool(on))}{'*' if file.flags & (EVENT_FILE_FL_SOFT_MODE | EVENT_FILE_FL_SOFT_DISABLED) else ''}\n"


@notrace
def _enable_store(file: TraceEventFile, data: bytes) -> None:
    on = _bool_of(data)
    tracing_update_buffers(file.tr.state, file.tr)
    ftrace_event_enable_disable(file, on)


@notrace
def _system_files(where: tuple[TraceArray, str]) -> list[TraceEventFile]:
    tr, system = where
    return [f for f in files_of(tr) if (not system or f.call.system == system) and _switchable(f.call)]


@notrace
def _system_enable_show(where: tuple[TraceArray, str]) -> str:
    states = 0
    for file in _system_files(where):
        states |= 2 if file.flags & EVENT_FILE_FL_ENABLED and not file.flags & EVENT_FILE_FL_SOFT_DISABLED else 1
    return "?01X"[states] + "\n"


@notrace
def _system_enable_store(where: tuple[TraceArray, str], data: bytes) -> None:
    on = _bool_of(data)
    tracing_update_buffers(where[0].state, where[0])
    for file in _system_files(where):
        ftrace_event_enable_disable(file, on)


@notrace
def _filter_show(file: TraceEventFile) -> str:
    return (file.filter_string or "none") + "\n"


@notrace
def _filter_store(file: TraceEventFile, data: bytes) -> None:
    """Whoever can read filters (state.filter_ops) takes it; "0" removes one in any case."""
    text = data.decode("latin-1").strip()
    if text == "0":
        file.filter, file.filter_string = None, ""
        return
    apply = file.tr.state.filter_ops.get("filter")
    if apply is None:
        raise KernelError(EINVAL)
    apply(file, text)


@notrace
def _subsystem_filter_show(where: tuple[TraceArray, str]) -> str:
    show = where[0].state.filter_ops.get("subsystem_filter_show")
    return show(*where) if show is not None else SUBSYSTEM_FILTER


@notrace
def _subsystem_filter_store(where: tuple[TraceArray, str], data: bytes) -> None:
    text = data.decode("latin-1").strip()
    apply = where[0].state.filter_ops.get("subsystem_filter")
    if apply is not None:
        apply(*where, text)
        return
    if text != "0":
        raise KernelError(EINVAL)
    for file in _system_files(where):
        file.filter, file.filter_string = None, ""


@notrace
def _trigger_show(file: TraceEventFile) -> str:
    show = file.tr.state.filter_ops.get("trigger_show")
    text = show(file) if show is not None else ""
    return text or TRIGGER_HELP


@notrace
def _trigger_store(file: TraceEventFile, data: bytes) -> None:
    apply = file.tr.state.filter_ops.get("trigger")
    if apply is None:
        raise KernelError(EINVAL)
    apply(file, data.decode("latin-1").strip())


@notrace
def _trigger_clear(file: TraceEventFile) -> None:
    clear = file.tr.state.filter_ops.get("trigger_clear")
    if clear is not None:
        clear(file)


@notrace
def _set_event_show(tr: TraceArray) -> str:
    return "".join(f"{f.call.system}:{f.call.name}\n" for f in files_of(tr)
                   if f.flags & EVENT_FILE_FL_ENABLED and not f.flags & EVENT_FILE_FL_SOFT_DISABLED)


@notrace
def _set_event_store(tr: TraceArray, data: bytes) -> None:
    tracing_update_buffers(tr.state, tr)
    for word in data.partition(b"\0")[0].decode("latin-1").split():
        ftrace_set_clr_event(tr, word.lstrip("!"), not word.startswith("!"))


@notrace
def _available_events(tr: TraceArray) -> str:
    return "".join(f"{f.call.system}:{f.call.name}\n" for f in files_of(tr) if _switchable(f.call))


@notrace
def _pids_show(tr: TraceArray) -> str:
    return "".join(f"{pid}\n" for pid in sorted(tr.filtered_pids or {}))


@notrace
def _pids_store(tr: TraceArray, data: bytes) -> None:
    words = data.partition(b"\0")[0].split()
    tracing_update_buffers(tr.state, tr)
    try:
        pids = [int(word) for word in words]
    except ValueError:
        raise KernelError(EINVAL) from None
    if any(not 0 <= pid <= 0x7FFF_FFFF for pid in pids):
        raise KernelError(EINVAL)
    if pids:
        tr.filtered_pids = {**(tr.filtered_pids or {}), **dict.fromkeys(pids)}


@notrace
def _pids_clear(tr: TraceArray) -> None:
    tr.filtered_pids = None


event_fops = {
    "enable": text_file(_enable_show, _enable_store),
    "id": text_file(lambda file: f"{file.call.id}\n"),
    "filter": text_file(_filter_show, _filter_store),
    "trigger": text_file(_trigger_show, _trigger_store, _trigger_clear),
    "hist": text_file(lambda file: file.tr.state.filter_ops["hist_show"](file)),
    "format": text_file(lambda file: file.call.format_text()),
}
system_enable_fops = text_file(_system_enable_show, _system_enable_store)
subsystem_filter_fops = text_file(_subsystem_filter_show, _subsystem_filter_store)
set_event_fops = text_file(_set_event_show, _set_event_store, ftrace_clear_events)
set_event_pid_fops = text_file(_pids_show, _pids_store, _pids_clear)
available_events_fops = text_file(_available_events)


# ---- directories -------------------------------------------------------------------------------------------------
@notrace
def _filler(function: Callable[..., None], *arguments: object) -> Callable[[TreeNode], None]:
    return lambda node: function(node, *arguments)


@notrace
def event_create_dir(node: TreeNode, file: TraceEventFile) -> None:
    """The files of one event. ftrace's own entries have a format only."""
    if _switchable(file.call):
        for name, mode in (("enable", 0o644), ("id", 0o444), ("filter", 0o644), ("trigger", 0o644), ("hist", 0o444)):
            tracefs_create_file(name, mode, node, file, event_fops[name])
    tracefs_create_file("format", 0o444, node, file, event_fops["format"])


@notrace
def event_subsystem_dir(node: TreeNode, tr: TraceArray, system: str) -> None:
    if any(_switchable(f.call) for f in tr.events[system].values()):
        tracefs_create_file("filter", 0o644, node, (tr, system), subsystem_filter_fops)
        tracefs_create_file("enable", 0o644, node, (tr, system), system_enable_fops)
    for file in tr.events[system].values():
        tracefs_create_dir(file.call.name, node, _filler(event_create_dir, file))


@notrace
def _fill_events(tr: TraceArray, node: TreeNode) -> None:
    tracefs_create_file("header_page", 0o444, node, None, text_file(lambda _none: HEADER_PAGE))
    tracefs_create_file("header_event", 0o444, node, None, text_file(lambda _none: HEADER_EVENT))
    tracefs_create_file("enable", 0o644, node, (tr, ""), system_enable_fops)
    for system in tr.events:
        tracefs_create_dir(system, node, _filler(event_subsystem_dir, tr, system))


@notrace
def event_trace_add_tracer(tr: TraceArray, node: TreeNode) -> None:
    """What a trace array needs for events: set_event, set_event_pid, events/."""
    for call in tr.state.calls.values():
        tr.events.setdefault(call.system, {})[call.name] = TraceEventFile(tr, call)
    tr.data.setdefault("flag_listeners", []).append(_flag_changed)
    tracefs_create_file("set_event", 0o644, node, tr, set_event_fops)
    tracefs_create_file("set_event_pid", 0o644, node, tr, set_event_pid_fops)
    tracefs_create_dir("events", node, lambda events: _fill_events(tr, events))
    if not tr.name:
        tracefs_create_file("available_events", 0o444, node, tr, available_events_fops)


@notrace
def event_trace_del_tracer(tr: TraceArray) -> None:
    """The trace array goes: nothing listens for it any longer."""
    clear = tr.state.filter_ops.get("clear_triggers")
    if clear is not None:
        for file in files_of(tr):
            clear(file)
    ftrace_clear_events(tr)
    trace_event_follow_fork(tr, False)


@notrace
def _events_node(tr: TraceArray) -> TreeNode | None:
    return (tr.dir.children or {}).get(b"events") if tr.dir is not None else None


def trace_add_event_call(state: Any, call: TraceEventCall) -> None:
    """A new event (a probe) in every trace array; call.id is set here."""
    call.id = state.next_event_type
    state.next_event_type += 1
    state.calls[call.id] = call
    state.calls_by_name.setdefault(call.name, call)
    for tr in state.trace_arrays:
        new_system = call.system not in tr.events
        file = tr.events.setdefault(call.system, {})[call.name] = TraceEventFile(tr, call)
        events = _events_node(tr)
        if events is None or events.fill is not None:
            continue                              # nobody has looked yet
        if new_system:
            tracefs_create_dir(call.system, events, _filler(event_subsystem_dir, tr, call.system))
            continue
        system = (events.children or {})[call.system.encode()]
        if system.fill is None:
            tracefs_create_dir(call.name, system, _filler(event_create_dir, file))


def trace_remove_event_call(state: Any, call: TraceEventCall) -> None:
    """It goes from every trace array. It must be off."""
    state.calls.pop(call.id, None)
    if state.calls_by_name.get(call.name) is call:
        del state.calls_by_name[call.name]
    for tr in state.trace_arrays:
        del tr.events[call.system][call.name]
        events = _events_node(tr)
        system = (events.children or {}).get(call.system.encode()) if events is not None else None
        if system is not None:
            node = (system.children or {}).get(call.name.encode())
            if node is not None:
                tracefs_remove_recursive(node)
            if not tr.events[call.system]:
                tracefs_remove_recursive(system)
        if not tr.events[call.system]:
            del tr.events[call.system]


# ---- event-fork --------------------------------------------------------------------------------------------------
@notrace
def _flag_changed(tr: TraceArray, mask: int, enabled: bool) -> None:
    if mask == TRACE_ITER_EVENT_FORK:
        trace_event_follow_fork(tr, enabled)


def trace_event_follow_fork(tr: TraceArray, enable: bool) -> None:
    """options/event-fork: children of the tasks in set_event_pid are in it too, until they exit."""
    followers = tr.data.pop("event_fork", None)
    if followers is not None:
        tracepoint_probe_unregister(tr.kernel, "sched_process_fork", followers[0])
        tracepoint_probe_unregister(tr.kernel, "sched_process_exit", followers[1])
    if not enable:
        return

    def event_filter_pid_sched_process_fork(parent: TaskStruct, child: TaskStruct) -> None:
        if tr.filtered_pids is not None and parent.pid in tr.filtered_pids:
            tr.filtered_pids[child.pid] = None

    def event_filter_pid_sched_process_exit(task: TaskStruct) -> None:
        if tr.filtered_pids is not None:
            tr.filtered_pids.pop(task.pid, None)

    tr.data["event_fork"] = (event_filter_pid_sched_process_fork, event_filter_pid_sched_process_exit)
    tracepoint_probe_register(tr.kernel, "sched_process_fork", event_filter_pid_sched_process_fork)
    tracepoint_probe_register(tr.kernel, "sched_process_exit", event_filter_pid_sched_process_exit)
