"""Events that are defined at run time: what kernel probes, user probes and synthetic events share; dynamic_events.

Linux: kernel/trace/trace_dynevent.c (5.3), trace_run_command() of kernel/trace/trace.c. Same: each kind registers its
    dyn_event_operations; a definition goes to the first kind that knows it; `-:[GROUP/]EVENT`; all are in
    dynamic_events, in the order in which they were defined.
Owns: state.dyn_event_ops. Context: task.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.tracefs.inode import tracefs_create_file
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.lib.errno import EBUSY, ECANCELED, EINVAL, ENOENT, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.kernel.trace.trace import TraceArray, TraceState
    from glasskernel.kernel.trace.trace_events import TraceEventCall


@slotted
class DynEventOperations:
    """struct dyn_event_operations. kind: the class of its calls; what they have as `data` is passed to the functions.

    create: one definition. Raises ECANCELED if it is of another kind. free: raises EBUSY if it is in use.
    """

    kind: type[TraceEventCall]
    create: Callable[[TraceState, str], None]
    show: Callable[[Any], str]
    is_busy: Callable[[Any], bool]
    free: Callable[[TraceState, Any], None]


def dyn_event_register(state: TraceState, ops: DynEventOperations) -> None:
    state.dyn_event_ops.append(ops)


@notrace
def dyn_events(state: TraceState,
               ops: DynEventOperations | None = None) -> list[tuple[DynEventOperations, TraceEventCall]]:
    """for_each_dyn_event(): of one kind, or all, in the order in which they were defined."""
    kinds = state.dyn_event_ops if ops is None else [ops]
    return [(kind, call) for call in state.calls.values() for kind in kinds if type(call) is kind.kind]


def dyn_event_release(state: TraceState, head: str, ops: DynEventOperations | None = None) -> None:
    """`-:[GROUP/]EVENT`, of one kind or of any. Errors: EINVAL, ENOENT, EBUSY."""
    group, slash, event = head[2:].partition("/")
    if not slash:
        group, event = "", head[2:]
    if head[1:2] != ":" or not event:
        raise KernelError(EINVAL)
    found = [(kind, call) for kind, call in dyn_events(state, ops) if call.name == event and group in ("", call.system)]
    if not found:
        raise KernelError(ENOENT)
    for kind, call in found:
        kind.free(state, call.data)


def dyn_events_release_all(state: TraceState, ops: DynEventOperations | None = None) -> None:
    """Its file is opened with O_TRUNC: all go, or none. Errors: EBUSY."""
    found = dyn_events(state, ops)
    if any(kind.is_busy(call.data) for kind, call in found):
        raise KernelError(EBUSY)
    for kind, call in found:
        kind.free(state, call.data)


@notrace
def create_or_delete_dyn_event(state: TraceState, command: str, ops: DynEventOperations) -> None:
    """One line of a kind's own file: create_or_delete_trace_kprobe(). Errors: those of its kind; EINVAL."""
    if command.startswith("-"):
        dyn_event_release(state, command.split()[0], ops)
        return
    try:
        ops.create(state, command)
    except KernelError as error:
        raise KernelError(EINVAL if error.errno == ECANCELED else error.errno) from None


@may_sleep
def create_dyn_event(state: TraceState, command: str) -> None:
    """One line. Errors: those of its kind; EINVAL, it is of none."""
    if command.startswith("-"):
        dyn_event_release(state, command.split()[0])
        return
    for ops in state.dyn_event_ops:
        try:
            ops.create(state, command)
            return
        except KernelError as error:
            if error.errno != ECANCELED:
                raise
    raise KernelError(EINVAL)


@may_sleep
def trace_parse_run_command(data: bytes, run: Callable[[str], None]) -> None:
    """Commands, one a line; # begins a comment. Those before a bad one hold."""
    for line in data.decode("latin-1").splitlines():
        command = line.partition("#")[0].strip()
        if command:
            run(command)


@notrace
def dyn_event_file(name: str, tr: TraceArray, node: TreeNode, ops: DynEventOperations | None = None) -> None:
    """The file that shows, makes and removes the events of one kind, or of all."""

    def show(tr: TraceArray) -> str:
        return "".join(kind.show(call.data) for kind, call in dyn_events(tr.state, ops))

    def write(tr: TraceArray, data: bytes) -> None:
        def run(command: str) -> None:
            if ops is None:
                create_dyn_event(tr.state, command)
            else:
                create_or_delete_dyn_event(tr.state, command, ops)

        trace_parse_run_command(data, run)

    tracefs_create_file(name, 0o644, node, tr, text_file(show, write, lambda tr: dyn_events_release_all(tr.state, ops)))


@notrace
def init_dynamic_event(tr: TraceArray, node: TreeNode) -> None:
    dyn_event_file("dynamic_events", tr, node)
