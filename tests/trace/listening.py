"""Listening to a kernel's tracepoints without tracefs: every event that it raises, as text."""
from __future__ import annotations

from collections import Counter, defaultdict

from glasskernel.kernel.current import register
from glasskernel.kernel.trace.events import event_calls
from glasskernel.kernel.trace.trace import tracing_gen_ctx
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister

TRACE_FLAG_IRQS_OFF = 1


class Listener:
    """lines[event]: the texts; counts[event]; records[event]: the unpacked fields. limit: texts kept of each event."""

    def __init__(self, kernel, names=None, limit=400):
        self.kernel = kernel
        self.limit = limit
        self.counts = Counter()
        self.lines = defaultdict(list)
        self.records = defaultdict(list)
        self.irqs_off = defaultdict(set)
        self.probes = []
        for call in event_calls():
            if call.system not in ("ftrace", "syscalls") and (names is None or call.name in names):
                self.listen(call)

    def listen(self, call):
        def probe(*arguments):
            values = call.assign(*arguments)
            if values is None:
                return
            self.counts[call.name] += 1
            if self.counts[call.name] <= self.limit:
                payload = call.pack(values)
                self.records[call.name].append(call.unpack(payload))
                self.lines[call.name].append(call.print(self.kernel, payload))
                flags = tracing_gen_ctx(register.task, call.irqs_off)
                self.irqs_off[call.name].add(bool(flags & TRACE_FLAG_IRQS_OFF))

        tracepoint_probe_register(self.kernel, call.tracepoint, probe)
        self.probes.append((call.tracepoint, probe))

    def stop(self):
        for name, probe in self.probes:
            tracepoint_probe_unregister(self.kernel, name, probe)
        self.probes.clear()
