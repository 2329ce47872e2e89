"""ftrace's own entries: what tracers and the core write into the ring buffer.

Linux: kernel/trace/trace_entries.h, trace_export.c (5.3). Same: numbers, fields and format texts. They cannot be
    switched on: events/ftrace/* have a format file only. Their text is drawn by trace_output.py and by the tracers.
Gaps: mmiotrace, branch, hwlat, bprint and bputs: nothing here writes such entries.
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import TraceEventCall, parse_fields, trace_system
from glasskernel.lib.types import notrace

TRACE_FN, TRACE_CTX, TRACE_WAKE, TRACE_STACK, TRACE_PRINT = 1, 2, 3, 4, 5
TRACE_GRAPH_RET, TRACE_GRAPH_ENT, TRACE_USER_STACK, TRACE_RAW_DATA = 10, 11, 12, 16

ftrace = trace_system("ftrace")

_SWITCH = """unsigned int prev_pid; unsigned int next_pid; unsigned int next_cpu; unsigned char prev_prio;
    unsigned char prev_state; unsigned char next_prio; unsigned char next_state"""
_THREE = r"\t=> %ps\n\t=> %ps\n\t=> %ps\n"
_STACK = (f'"{_THREE}" "{_THREE}" ' + r'"\t=> %ps\n\t=> %ps\n", '
          + ", ".join(f"(void *)REC->caller[{i}]" for i in range(8)))


@notrace
def _nothing() -> None:
    return None


@notrace
def _entry(number: int, name: str, fields: str, print_fmt: str) -> TraceEventCall:
    return ftrace.add(TraceEventCall("ftrace", name, parse_fields(fields), print_fmt, _nothing, id=number,
                                     ignore_enable=True))


function = _entry(TRACE_FN, "function", "unsigned long ip; unsigned long parent_ip",
                  '" %ps <-- %ps", (void *)REC->ip, (void *)REC->parent_ip')
funcgraph_entry = _entry(TRACE_GRAPH_ENT, "funcgraph_entry", "unsigned long func; int depth",
                         '"--> %ps (%d)", (void *)REC->func, REC->depth')
funcgraph_exit = _entry(
    TRACE_GRAPH_RET, "funcgraph_exit",
    "unsigned long func; unsigned long overrun; unsigned long long calltime; unsigned long long rettime; int depth",
    '"<-- %ps (%d) (start: %llx  end: %llx) over: %d", '
    "(void *)REC->func, REC->depth, REC->calltime, REC->rettime, REC->depth")
context_switch = _entry(
    TRACE_CTX, "context_switch", _SWITCH,
    '"%u:%u:%u  ==> %u:%u:%u [%03u]", '
    "REC->prev_pid, REC->prev_prio, REC->prev_state, REC->next_pid, REC->next_prio, REC->next_state, REC->next_cpu")
wakeup = _entry(
    TRACE_WAKE, "wakeup", _SWITCH,
    '"%u:%u:%u  ==+ %u:%u:%u [%03u]", '
    "REC->prev_pid, REC->prev_prio, REC->prev_state, REC->next_pid, REC->next_prio, REC->next_state, REC->next_cpu")
kernel_stack = _entry(TRACE_STACK, "kernel_stack", "int size; unsigned long caller[8]", _STACK)
user_stack = _entry(TRACE_USER_STACK, "user_stack", "unsigned int tgid; unsigned long caller[8]", _STACK)
print_ = _entry(TRACE_PRINT, "print", "unsigned long ip; char buf[]", '"%ps: %s", (void *)REC->ip, REC->buf')
raw_data = _entry(TRACE_RAW_DATA, "raw_data", "unsigned int id; char buf[]",
                  '"id:%04x %08x", REC->id, (int)REC->buf[0]')
