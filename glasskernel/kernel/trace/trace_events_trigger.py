"""Triggers: what shall happen when an event does. `echo 'traceoff:1 if prev_pid == 0' > events/.../trigger`.

Linux: kernel/trace/trace_events_trigger.c (5.3). Same: traceon, traceoff, snapshot, stacktrace, enable_event,
    disable_event, with counts and filters; one trigger of a kind for each event; an event with triggers is called
    without being recorded (soft mode: `0*` in its enable file); stack traces come behind the record.
Owns: TraceEventFile.triggers. Context: writing in a task's, triggers in any.
Histograms come through state.filter_ops, from trace_events_hist.py.
Invariants: file.sm_ref counts its triggers, and the triggers elsewhere that switch it.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.trace.trace import (
    EVENT_FILE_FL_SOFT_DISABLED,
    EVENT_FILE_FL_TRIGGER_MODE,
    TraceEventFile,
    TraceState,
    trace_stack,
    tracer_tracing_off,
    tracer_tracing_on,
    tracing_alloc_snapshot_instance,
    tracing_snapshot_instance,
)
from glasskernel.kernel.trace.trace_events_files import __ftrace_event_enable_disable as trace_event_enable_disable
from glasskernel.kernel.trace.trace_events_filter import FilterParseError, create_event_filter, kstrtoull
from glasskernel.lib.errno import EEXIST, EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.trace.trace_events_filter import Predicate

UNLIMITED = -1


@slotted
class EventTriggerData:
    """struct event_trigger_data. target: the event that enable_event and disable_event switch. count: how often yet."""

    cmd: EventCommand
    count: int = UNLIMITED
    filter: Predicate | None = None
    filter_str: str = ""
    target: TraceEventFile | None = None

    @notrace
    def before(self, file: TraceEventFile, payload: bytes) -> None:
        if not self.cmd.post_trigger:
            self.call(file, payload)

    @notrace
    def after(self, file: TraceEventFile, payload: bytes) -> None:
        if self.cmd.post_trigger:
            self.call(file, payload)

    @notrace
    def call(self, file: TraceEventFile, payload: bytes) -> None:
        if self.filter is not None and not self.filter(payload):
            return
        if self.count and self.cmd.func(file, self) and self.count > 0:
            self.count -= 1

    @notrace
    def line(self) -> str:
        """event_trigger_print(), event_enable_trigger_print()"""
        target = f":{self.target.call.system}:{self.target.call.name}" if self.target is not None else ""
        count = "unlimited" if self.count == UNLIMITED else f"count={self.count}"
        return f"{self.cmd.name}{target}:{count}{f' if {self.filter_str}' if self.filter_str else ''}\n"


@slotted
class EventCommand:
    """struct event_command. func(file, data) -> whether it did something, which uses up the count.

    post_trigger: behind the record. has_target: `:system:event` follows the name. prepare: at registration.
    """

    name: str
    func: Callable[[TraceEventFile, EventTriggerData], bool]
    post_trigger: bool = False
    has_target: bool = False
    prepare: Callable[[TraceEventFile], None] | None = None


# ---- what they do ------------------------------------------------------------------------------------------------
def traceon_trigger(file: TraceEventFile, data: EventTriggerData) -> bool:
    if not file.tr.buffer.off:
        return False
    tracer_tracing_on(file.tr)
    return True


def traceoff_trigger(file: TraceEventFile, data: EventTriggerData) -> bool:
    if file.tr.buffer.off:
        return False
    tracer_tracing_off(file.tr)
    return True


def snapshot_trigger(file: TraceEventFile, data: EventTriggerData) -> bool:
    tracing_snapshot_instance(file.tr)
    return True


def stacktrace_trigger(file: TraceEventFile, data: EventTriggerData) -> bool:
    trace_stack(file.tr, file.call.irqs_off)
    return True


@notrace
def _switch(data: EventTriggerData, enable: bool) -> bool:
    target = data.target
    assert target is not None
    if enable == (not target.flags & EVENT_FILE_FL_SOFT_DISABLED):
        return False
    if enable:
        target.flags &= ~EVENT_FILE_FL_SOFT_DISABLED
    else:
        target.flags |= EVENT_FILE_FL_SOFT_DISABLED
    return True


def event_enable_trigger(file: TraceEventFile, data: EventTriggerData) -> bool:
    return _switch(data, data.cmd.name == "enable_event")


def hist_enable_trigger(file: TraceEventFile, data: EventTriggerData) -> bool:
    done: bool = file.tr.state.filter_ops["hist_enable"](file, data)
    return done


@notrace
def _by_itself(file: TraceEventFile, data: EventTriggerData) -> bool:
    raise AssertionError("a histogram's trigger data act by themselves")


TRIGGER_COMMANDS = {cmd.name: cmd for cmd in (
    EventCommand("traceon", traceon_trigger), EventCommand("traceoff", traceoff_trigger),
    EventCommand("snapshot", snapshot_trigger, prepare=lambda file: tracing_alloc_snapshot_instance(file.tr)),
    EventCommand("stacktrace", stacktrace_trigger, post_trigger=True),
    EventCommand("enable_event", event_enable_trigger, has_target=True),
    EventCommand("disable_event", event_enable_trigger, has_target=True),
    EventCommand("enable_hist", hist_enable_trigger, has_target=True),
    EventCommand("disable_hist", hist_enable_trigger, has_target=True),
    EventCommand("hist", _by_itself),
)}


# ---- coming and going --------------------------------------------------------------------------------------------
@notrace
def _same(data: EventTriggerData, other: EventTriggerData) -> bool:
    return data.cmd is other.cmd and data.target is other.target


def register_trigger(file: TraceEventFile, data: EventTriggerData) -> None:
    """Errors: EEXIST, the event has one like it."""
    if any(_same(data, other) for other in file.triggers):
        raise KernelError(EEXIST)
    if data.cmd.prepare is not None:
        data.cmd.prepare(file)
    if data.target is not None:
        trace_event_enable_disable(data.target, True, True)
    file.triggers.insert(0, data)
    trace_event_trigger_enable_disable(file, True)


def unregister_trigger(file: TraceEventFile, data: EventTriggerData) -> None:
    """Removes the one that is like data, if there is one."""
    for other in file.triggers:
        if _same(data, other):
            file.triggers.remove(other)
            trace_event_trigger_enable_disable(file, False)
            if other.target is not None:
                trace_event_enable_disable(other.target, False, True)
            return


def trace_event_trigger_enable_disable(file: TraceEventFile, enable: bool) -> None:
    trace_event_enable_disable(file, enable, True)
    if enable:
        file.flags |= EVENT_FILE_FL_TRIGGER_MODE
    elif not file.triggers:
        file.flags &= ~EVENT_FILE_FL_TRIGGER_MODE


@notrace
def _split(text: str) -> tuple[str, str]:
    """(the first word, what follows)"""
    parts = text.replace("\t", " ").split(" ", 1)
    return parts[0], parts[1].strip() if len(parts) > 1 else ""


def event_trigger_callback(file: TraceEventFile, cmd: EventCommand, remove: bool, param: str) -> None:
    """`[system:event][:count] [if filter]`. Errors: EINVAL, EEXIST."""
    data = EventTriggerData(cmd)
    first, condition = ("", param) if param.startswith("if ") else _split(param)
    numbers = first.split(":") if first else []
    if cmd.has_target:
        if len(numbers) < 2:
            raise KernelError(EINVAL)
        data.target = file.tr.events.get(numbers[0], {}).get(numbers[1])
        if data.target is None or data.target.call.ignore_enable:
            raise KernelError(EINVAL)
        numbers = numbers[2:]
    if remove:
        unregister_trigger(file, data)
        return
    if numbers:
        try:
            data.count = kstrtoull(numbers[0])
        except ValueError:
            raise KernelError(EINVAL) from None
        if data.count < 0:
            raise KernelError(EINVAL)
    if condition:
        word, data.filter_str = _split(condition)
        if word != "if" or not data.filter_str:
            raise KernelError(EINVAL)
        try:
            data.filter = create_event_filter(file.call, data.filter_str)
        except FilterParseError:
            raise KernelError(EINVAL) from None
    register_trigger(file, data)


def trigger_process_regex(file: TraceEventFile, text: str) -> None:
    """One line written to a trigger file. Errors: EINVAL, EEXIST."""
    name, remove = text.removeprefix("!"), text.startswith("!")
    end = next((i for i, c in enumerate(name) if c in ": \t"), len(name))
    cmd = TRIGGER_COMMANDS.get(name[:end])
    if cmd is None:
        raise KernelError(EINVAL)
    if cmd.name == "hist":
        file.tr.state.filter_ops["hist"](file, remove, name[end + 1 :].strip())
        return
    event_trigger_callback(file, cmd, remove, name[end + 1 :].strip())


@notrace
def trigger_show(file: TraceEventFile) -> str:
    return "".join(data.line() for data in file.triggers)


@notrace
def clear_event_triggers(file: TraceEventFile) -> None:
    """The trace array of the event goes."""
    file.tr.state.filter_ops["hist_forget"](file)
    for data in tuple(file.triggers):
        unregister_trigger(file, data)


@notrace
def init_event_triggers(state: TraceState) -> None:
    state.filter_ops |= {"trigger": trigger_process_regex, "trigger_show": trigger_show,
                         "clear_triggers": clear_event_triggers}
