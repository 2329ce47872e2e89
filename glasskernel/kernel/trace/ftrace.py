"""Hooks at the entry of kernel functions, and who hangs on them.

Linux: kernel/trace/ftrace.c, arch/x86/kernel/ftrace.c (5.3). Same: a record for every function that can be traced;
    each ftrace_ops has a filter and a notrace hash (an empty filter means every function); a function nobody wants
    costs nothing; /proc/sys/kernel/ftrace_enabled.
Differs: instead of patching call sites, the interpreter tells us: sys.setprofile() up to Python 3.11 (of every call,
    so the rest of the kernel runs slower meanwhile), sys.monitoring from 3.12 on (of hooked functions only). A hook
    gets the function's frame, in place of pt_regs. The interpreter tells nothing while a hook runs: no recursion.
Owns: FtraceState (kernel.ftrace), made by the first who asks. Gaps: trampolines, direct calls.
Invariants: `hooks` holds exactly the functions that an enabled ops or the graph tracer wants; the interpreter is told
    about us only while machine.run() runs, and only while `hooks` is not empty.
Context: hooks run in any context, and must not sleep.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import Symbol, kallsyms_table
from glasskernel.kernel.trace.fgraph import FgraphOps, RetStack, ftrace_return_to_handler, function_graph_enter
from glasskernel.kernel.trace.stacktrace import caller_address
from glasskernel.lib.errno import EBUSY, EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

FTRACE_OPS_FL_ENABLED = 1 << 0
FTRACE_OPS_FL_PID = 1 << 13

FtraceFunc = Callable[[int, int, "FtraceOps", FrameType], None]
FtraceHash = dict[int, None]                      # addresses of functions


@slotted
class FtraceOps:
    """struct ftrace_ops. func(ip, parent_ip, ops, frame). needs_parent: func looks at parent_ip."""

    func: FtraceFunc
    private: Any = None
    filter_hash: FtraceHash = field(default_factory=dict)
    notrace_hash: FtraceHash = field(default_factory=dict)
    flags: int = 0
    needs_parent: bool = True


@slotted
class DynFtrace:
    """struct dyn_ftrace: a function that can be traced. ops: who wants it now. graph: so does the graph tracer."""

    ip: int
    symbol: Symbol
    ops: tuple[FtraceOps, ...] = ()
    graph: bool = False
    needs_parent: bool = False                    # one of ops does


class FtraceState:
    """kernel.ftrace"""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.cpus = kernel.machine.cpus
        self.enabled = bool(kernel.sysctl.ftrace_enabled)
        self.records = [DynFtrace(s.address, s) for s in kallsyms_table().symbols if s.traceable]
        self.by_ip = {record.ip: record for record in self.records}
        self.ops_list: list[FtraceOps] = []
        self.graph_ops: FgraphOps | None = None
        self.global_ops = FtraceOps(_no_func)     # set_ftrace_filter of the top instance, and of the graph tracer
        self.graph_functions: FtraceHash = {}     # set_graph_function, set_graph_notrace
        self.graph_notrace_functions: FtraceHash = {}
        self.instances: dict[Any, Any] = {}       # trace array -> ftrace_filter.FtraceInstance
        self.commands: dict[str, Callable[..., None]] = {}       # of set_ftrace_filter
        self.profile: Any = None                  # ftrace_profile.FtraceProfile
        self.hooks: dict[int, DynFtrace] = {}     # by id() of the code object
        # Return probes want to know which error ended a function: they watch the errors being made.
        self.error_watchers = 0
        self.errors: dict[TaskStruct, int] = {}   # the last errno of each task
        code = KernelError.__init__.__code__
        self.error_record = DynFtrace(0, Symbol(0, "", "", code), (FtraceOps(self.note_error, needs_parent=False),))
        self.listener: Listener = Monitoring(self) if sys.version_info >= (3, 12) else Profile(self)
        kernel.machine.on_run = self.on_run

    @notrace
    def on_run(self, begins: bool) -> None:
        self.listener.set(begins and bool(self.hooks))

    @notrace
    def update(self) -> None:
        """ftrace_run_update_code(): after any change of ops, hashes or the graph tracer."""
        self.hooks.clear()
        wanted = [(ops, ops.filter_hash, ops.notrace_hash) for ops in self.ops_list] if self.enabled else []
        graph = self.graph_ops is not None and self.enabled
        graph_filter, graph_notrace = self.global_ops.filter_hash, self.global_ops.notrace_hash
        for record in self.records:
            ip = record.ip
            record.ops = tuple(
                ops for ops, only, never in wanted if (not only or ip in only) and ip not in never
            )
            record.needs_parent = any(ops.needs_parent for ops in record.ops)
            record.graph = graph and (not graph_filter or ip in graph_filter) and ip not in graph_notrace
            if record.ops or record.graph:
                self.hooks[id(record.symbol.code)] = record
        if self.error_watchers and self.hooks:
            self.hooks[id(self.error_record.symbol.code)] = self.error_record
        self.listener.set(self.kernel.machine.running and bool(self.hooks))

    @notrace
    def watch_errors(self, watchers: int) -> None:
        """More return probes, or fewer. The caller changes its hooks next."""
        self.error_watchers += watchers
        if not self.error_watchers:
            self.errors.clear()
            self.update()

    @notrace
    def note_error(self, ip: int, parent_ip: int, ops: FtraceOps, frame: FrameType) -> None:
        """KernelError.__init__() begins."""
        self.errors[register.task] = frame.f_locals["errno"]

    @notrace
    def enter(self, record: DynFtrace, frame: FrameType) -> None:
        """A hooked function begins."""
        if record.ops:
            parent_ip = 0
            if record.needs_parent:
                parent_ip = caller_address(frame.f_back, record.symbol.name)
            for ops in record.ops:
                ops.func(record.ip, parent_ip, ops, frame)
        if record.graph:
            function_graph_enter(self, record, frame)


@notrace
def _no_func(ip: int, parent_ip: int, ops: FtraceOps, frame: FrameType) -> None:
    return None


class Listener:
    """How the interpreter tells us about calls. set(True) as often as the hooks change."""

    def __init__(self, state: FtraceState) -> None:
        self.state = state

    @notrace
    def set(self, on: bool) -> None:
        raise NotImplementedError


class Profile(Listener):
    """sys.setprofile(): every call and return of Python and C functions of this thread, on whatever greenlet."""

    def __init__(self, state: FtraceState) -> None:
        super().__init__(state)
        self.on = False
        self.previous: Any = None
        find, enter = state.hooks.get, state.enter

        def ftrace_caller(frame: FrameType, event: str, value: Any) -> None:
            if event == "call":
                record = find(id(frame.f_code))
                if record is not None:
                    enter(record, frame)
            elif event == "return":
                stack: RetStack | None = register.task.ret_stack
                if stack is not None:
                    calls = stack.calls
                    if calls and calls[-1].frame is frame:
                        ftrace_return_to_handler(state, stack, frame, value)

        self.caller = ftrace_caller

    @notrace
    def set(self, on: bool) -> None:
        if on != self.on:
            self.on = on
            if on:
                self.previous = sys.getprofile()
                sys.setprofile(self.caller)
            else:
                sys.setprofile(self.previous)
                self.previous = None


class Monitoring(Listener):
    """sys.monitoring: start and return of hooked functions; unwinding of any, which cannot be had for one."""

    def __init__(self, state: FtraceState) -> None:
        super().__init__(state)
        self.codes: dict[int, CodeType] = {}      # those with events set, by id()
        self.tool = -1

    @notrace
    def start(self, code: CodeType, _offset: int) -> None:
        record = self.state.hooks.get(id(code))
        if record is not None:
            self.state.enter(record, sys._getframe(1))

    @notrace
    def returns(self, _code: CodeType, _offset: int, value: Any) -> None:
        stack: RetStack | None = register.task.ret_stack
        if stack is not None and stack.calls:
            frame = sys._getframe(1)
            if stack.calls[-1].frame is frame:
                ftrace_return_to_handler(self.state, stack, frame, value)

    @notrace
    def unwinds(self, _code: CodeType, _offset: int, _exception: BaseException) -> None:
        stack: RetStack | None = register.task.ret_stack
        if stack is not None and stack.calls:
            frame = sys._getframe(1)
            if stack.calls[-1].frame is frame:
                ftrace_return_to_handler(self.state, stack, frame, None)

    @notrace
    def set(self, on: bool) -> None:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        events = monitoring.events
        wanted: dict[int, CodeType] = {}
        if on:
            wanted = {key: code for key, r in self.state.hooks.items() if (code := r.symbol.code) is not None}
        if wanted and self.tool < 0:
            self.tool = next(n for n in (2, 3, 4, 1, 0) if monitoring.get_tool(n) is None)
            monitoring.use_tool_id(self.tool, "glasskernel ftrace")
            monitoring.register_callback(self.tool, events.PY_START, self.start)
            monitoring.register_callback(self.tool, events.PY_RETURN, self.returns)
            monitoring.register_callback(self.tool, events.PY_UNWIND, self.unwinds)
            monitoring.set_events(self.tool, events.PY_UNWIND)
        for key, code in self.codes.items():
            if key not in wanted:
                monitoring.set_local_events(self.tool, code, 0)
        for key, code in wanted.items():
            if key not in self.codes:
                monitoring.set_local_events(self.tool, code, events.PY_START | events.PY_RETURN)
        self.codes = wanted
        if not wanted and self.tool >= 0:
            monitoring.set_events(self.tool, 0)
            for event in (events.PY_START, events.PY_RETURN, events.PY_UNWIND):
                monitoring.register_callback(self.tool, event, None)
            monitoring.free_tool_id(self.tool)
            self.tool = -1


# ---- for the rest of the kernel ----------------------------------------------------------------------------------
def ftrace_init(kernel: Kernel) -> FtraceState:
    """Makes the records: kernel.ftrace. The second call answers what the first one made."""
    if kernel.ftrace is None:
        kernel.ftrace = FtraceState(kernel)
    return kernel.ftrace


def register_ftrace_function(kernel: Kernel, ops: FtraceOps) -> None:
    """From now on ops.func is called by the functions that its hashes name. Errors: EBUSY, it already is."""
    state = ftrace_init(kernel)
    if ops.flags & FTRACE_OPS_FL_ENABLED:
        raise KernelError(EBUSY)
    ops.flags |= FTRACE_OPS_FL_ENABLED
    state.ops_list.append(ops)
    state.update()


def unregister_ftrace_function(kernel: Kernel, ops: FtraceOps) -> None:
    """The contrary. Errors: EBUSY, it is not."""
    state = ftrace_init(kernel)
    if not ops.flags & FTRACE_OPS_FL_ENABLED:
        raise KernelError(EBUSY)
    ops.flags &= ~FTRACE_OPS_FL_ENABLED
    state.ops_list.remove(ops)
    state.update()


def ftrace_set_filter_ip(kernel: Kernel, ops: FtraceOps, ip: int, remove: int, reset: int) -> None:
    """Adds a function to ops's filter, or takes it out. Errors: EINVAL, no such function can be traced."""
    state = ftrace_init(kernel)
    if ip not in state.by_ip:
        raise KernelError(EINVAL)
    if reset:
        ops.filter_hash.clear()
    if remove:
        ops.filter_hash.pop(ip, None)
    else:
        ops.filter_hash[ip] = None
    if ops.flags & FTRACE_OPS_FL_ENABLED:
        state.update()


def register_ftrace_command(kernel: Kernel, name: str, function: Callable[..., None]) -> None:
    """`pattern:name:parameter` calls function(instance, hash, pattern, name, parameter, enable)."""
    ftrace_init(kernel).commands[name] = function
