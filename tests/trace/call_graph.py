"""Who calls whom inside the kernel, recorded with the graph tracer's hooks while a program runs."""
from __future__ import annotations

from collections import Counter

from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import kallsyms_table
from glasskernel.kernel.trace.fgraph import FgraphOps, register_ftrace_graph, unregister_ftrace_graph
from glasskernel.kernel.trace.ftrace import ftrace_init

ROOT = "<root>"


class CallGraph:
    """edges[caller, callee] counts calls; ROOT calls what an entry of the kernel calls first. A context manager."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.edges = Counter()
        self.names = names = {symbol.address: symbol.name for symbol in kallsyms_table().symbols}

        def entry(trace):
            calls = register.task.ret_stack.calls
            self.edges[names[calls[-2].func] if len(calls) > 1 else ROOT, names[trace.func]] += 1
            return True

        self.gops = FgraphOps(entry, lambda trace: None)

    def __enter__(self):
        ftrace_init(self.kernel)
        register_ftrace_graph(self.kernel, self.gops)
        return self

    def __exit__(self, *_exception):
        unregister_ftrace_graph(self.kernel, self.gops)

    def reaches(self, caller, callee, calls=3):
        """Whether there is a way of at most so many calls from one to the other."""
        children = {}
        for one, other in self.edges:
            children.setdefault(one, []).append(other)
        front = [caller]
        for _ in range(calls):
            front = list(dict.fromkeys(below for name in front for below in children.get(name, ())))
            if callee in front:
                return True
        return False
