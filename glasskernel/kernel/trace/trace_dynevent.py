"""dynamic_events: every event that was defined at run time, in one file.

Linux: kernel/trace/trace_dynevent.c (5.3). Same: kernel probes, user probes and synthetic events (`s:NAME ...`) in the
    order in which they were defined; a definition goes to the first kind that knows it; `-:[GROUP/]EVENT`.
Owns: nothing. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.tracefs.inode import tracefs_create_file
from glasskernel.kernel.trace.trace_events_synth import (
    SYNTH_SYSTEM,
    SynthEventCall,
    create_or_delete_synth_event,
    synth_event_show,
    unregister_synth_event,
)
from glasskernel.kernel.trace.trace_kprobe import KprobeEvent, trace_kprobe_create, unregister_trace_kprobe
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.kernel.trace.trace_uprobe import UprobeEvent, trace_uprobe_create, unregister_trace_uprobe
from glasskernel.lib.errno import EBUSY, EINVAL, ENOENT, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.kernel.trace.trace import TraceArray, TraceState
    from glasskernel.kernel.trace.trace_events import TraceEventCall

_DYNAMIC = (KprobeEvent, UprobeEvent, SynthEventCall)


@notrace
def dyn_events(state: TraceState) -> list[TraceEventCall]:
    return [call for call in state.calls.values() if isinstance(call, _DYNAMIC)]


@notrace
def _is_busy(call: TraceEventCall) -> bool:
    return bool(call.data.files or (isinstance(call, SynthEventCall) and call.data.ref))


@notrace
def _free(state: TraceState, call: TraceEventCall) -> None:
    """dyn_event_operations.free. Errors: EBUSY."""
    if isinstance(call, KprobeEvent):
        unregister_trace_kprobe(state, call.data)
    elif isinstance(call, UprobeEvent):
        unregister_trace_uprobe(state, call.data)
    else:
        unregister_synth_event(state, call.data)


def dyn_event_release(state: TraceState, head: str) -> None:
    """`-:[GROUP/]EVENT`, of any kind. Errors: EINVAL, ENOENT, EBUSY."""
    group, slash, event = head[2:].partition("/")
    if not slash:
        group, event = "", head[2:]
    if head[1:2] != ":" or not event:
        raise KernelError(EINVAL)
    found = [call for call in dyn_events(state) if call.name == event and group in ("", call.system)]
    if not found:
        raise KernelError(ENOENT)
    for call in found:
        _free(state, call)


@may_sleep
def create_dyn_event(state: TraceState, command: str) -> None:
    """One line. Errors: those of its kind; EINVAL, it is of none."""
    words = command.split()
    if words[0].startswith("-"):
        dyn_event_release(state, words[0])
    elif words[0].startswith("s:"):
        name = words[0][2:]
        if "/" in name and not name.startswith(f"{SYNTH_SYSTEM}/"):
            raise KernelError(EINVAL)
        create_or_delete_synth_event(state, " ".join([name.removeprefix(f"{SYNTH_SYSTEM}/").lstrip("!"), *words[1:]]))
    elif len(words) > 1 and "/" in words[1] and ":" in words[1]:
        trace_uprobe_create(state, command)
    else:
        trace_kprobe_create(state, command)


@may_sleep
def dyn_event_write(tr: TraceArray, data: bytes) -> None:
    """Commands, one a line; # begins a comment. Those before a bad one hold."""
    for line in data.decode("latin-1").splitlines():
        command = line.partition("#")[0].strip()
        if command:
            create_dyn_event(tr.state, command)


def dyn_events_release_all(tr: TraceArray) -> None:
    """The file is opened with O_TRUNC: all go, or none. Errors: EBUSY."""
    calls = dyn_events(tr.state)
    if any(_is_busy(call) for call in calls):
        raise KernelError(EBUSY)
    for call in calls:
        _free(tr.state, call)


@notrace
def _definitions(tr: TraceArray) -> str:
    return "".join(f"s:{SYNTH_SYSTEM}/{synth_event_show(call.data)}" if isinstance(call, SynthEventCall)
                   else call.data.definition() for call in dyn_events(tr.state))


@notrace
def init_dynamic_event(tr: TraceArray, node: TreeNode) -> None:
    tracefs_create_file("dynamic_events", 0o644, node, tr,
                        text_file(_definitions, dyn_event_write, dyn_events_release_all))
