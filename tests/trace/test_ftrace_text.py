"""The text of the function tracers: what a real kernel printed is taken apart into records, and printed again."""
from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest

from glasskernel.kernel.trace.trace_graph_output import (
    ENT,
    RET,
    TRACE_GRAPH_PRINT_ABS_TIME,
    TRACE_GRAPH_PRINT_CPU,
    TRACE_GRAPH_PRINT_DURATION,
    TRACE_GRAPH_PRINT_OVERHEAD,
    TRACE_GRAPH_PRINT_OVERRUN,
    TRACE_GRAPH_PRINT_PROC,
    TRACE_GRAPH_PRINT_TAIL,
    GraphPrinter,
    trace_print_graph_duration,
)

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "trace"
LINE = re.compile(
    r"^(?: *(?P<s>\d+)\.(?P<us>\d{6}) \|  )? (?P<cpu>\d+)\) +(?P<comm>\S+)-(?P<pid>\d+) +\| "
    r"(?:. (?P<dur>[\d.]+) us +\|  |              \|  )(?P<indent> *)(?P<what>\S.*)$")


@dataclasses.dataclass
class Record:
    cpu: int
    ts: int
    pid: int
    payload: bytes
    is_entry: bool
    entry: None = None


def records_of(text):
    """(records in order, names by pid, addresses by function name) of a function_graph text."""
    records, comms, addresses, stacks = [], {}, {}, {}

    def address(name):
        return addresses.setdefault(name, 0x1000 + len(addresses))

    for line in text.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        cpu, pid, depth = int(found["cpu"]), int(found["pid"]), len(found["indent"]) // 2
        ts = int(found["s"] or 0) * 10**9 + int(found["us"] or 0) * 1000
        ns = round(float(found["dur"]) * 1000) if found["dur"] else 0
        comms[pid] = found["comm"]
        what = found["what"]
        stack = stacks.setdefault((cpu, pid), {})
        if what.startswith("}"):
            named = re.search(r"/\* (.*) \*/", what)
            name = named[1] if named else stack.get(depth, "?")
            records.append(Record(cpu, ts, pid, RET.pack(address(name), 0, 0, ns, depth), False))
        else:
            name = what[:what.index("()")]
            stack[depth] = name
            records.append(Record(cpu, ts, pid, ENT.pack(address(name), depth), True))
            if what.endswith(";"):
                records.append(Record(cpu, ts, pid, RET.pack(address(name), 0, 0, ns, depth), False))
    return records, comms, addresses


def print_all(printer, records):
    text = printer.headers()
    following = iter(range(len(records)))
    for at in following:
        record = records[at]
        if not record.is_entry:
            text += printer.exit(record)
            continue
        after = records[at + 1] if at + 1 < len(records) else None
        leaf = after if after and not after.is_entry and printer.is_leaf(record, after) else None
        text += printer.entry(record, leaf)
        if leaf:
            next(following)
    return text


@pytest.mark.parametrize(("sample", "extra"), [
    ("graph-default", 0), ("graph-abstime-tail", TRACE_GRAPH_PRINT_ABS_TIME | TRACE_GRAPH_PRINT_TAIL)])
def test_a_graph_reads_as_linux_prints_it(boot, sample, extra):
    """trace_functions_graph.c: what Linux printed is printed again, byte for byte."""
    text = (DATA / f"{sample}.txt").read_text()
    records, comms, addresses = records_of(text)
    printer = GraphPrinter(boot(), comms.__getitem__)
    printer.flags = (printer.flags | TRACE_GRAPH_PRINT_PROC | extra) & ~TRACE_GRAPH_PRINT_OVERHEAD
    printer.names = {number: name for name, number in addresses.items()}
    assert print_all(printer, records) == text.split("#\n", 1)[1]


@pytest.mark.parametrize(("ns", "text"), [
    (0, "0.000 us    "), (720, "0.720 us    "), (16_406, "16.406 us   "), (577_509, "577.509 us  "),
    (3_754_404, "3754.404 us "), (28_559_780, "28559.78 us "), (123_456_789, "123456.7 us "),
    (1_234_567_890, "1234567 us  "), (12_345_678_901, "12345678 us ")])
def test_a_duration_has_at_most_seven_digits(ns, text):
    """trace_print_graph_duration()"""
    assert trace_print_graph_duration(ns) == text


def test_columns_can_be_left_out(boot):
    printer = GraphPrinter(boot(), lambda pid: "sh")
    printer.flags = TRACE_GRAPH_PRINT_ABS_TIME | TRACE_GRAPH_PRINT_PROC
    assert printer.headers() == ("#     TIME         TASK/PID                      FUNCTION CALLS\n"
                                 "#      |            |    |                       |   |   |   |\n")
    call = Record(0, 26_999_864_000, 278, ENT.pack(1, 1), True)
    printer.names = {1: "page_add"}
    assert printer.entry(call, None) == "   26.999864 |      sh-278     |   page_add() {\n"


def test_a_switch_of_tasks_is_shown_between_lines(boot):
    """verif_pid()"""
    printer = GraphPrinter(boot(), {1: "bash", 2: "cat"}.__getitem__)
    printer.names = {1: "schedule"}
    call = Record(0, 0, 1, ENT.pack(1, 0), True)
    printer.entry(call, None)
    assert printer.entry(dataclasses.replace(call, pid=2), None) == (
        " ------------------------------------------\n"
        " 0)     bash-1     =>     cat-2     \n"
        " ------------------------------------------\n\n"
        " 0)               |  schedule() {\n")


def test_interrupts_have_arrows_or_are_left_out(boot):
    """funcgraph-irqs, funcgraph-overrun"""
    from glasskernel.kernel.kallsyms import kallsyms_lookup_name

    kernel = boot()
    irq = kallsyms_lookup_name(kernel, "do_IRQ")
    printer = GraphPrinter(kernel, lambda pid: "sh")
    begins, ends = Record(1, 0, 5, ENT.pack(irq, 2), True), Record(1, 0, 5, RET.pack(irq, 3, 0, 11_569, 2), False)
    printer.flags |= TRACE_GRAPH_PRINT_OVERRUN
    assert printer.entry(begins, None) == " 1)   ==========> |\n 1)               |      do_IRQ() {\n"
    assert printer.exit(ends) == " 1) + 11.569 us   |      }\n (Overruns: 3)\n 1)   <========== |\n"
    printer.flags = TRACE_GRAPH_PRINT_CPU | TRACE_GRAPH_PRINT_DURATION
    inside = Record(1, 0, 5, ENT.pack(irq + 16, 3), True)
    assert printer.entry(begins, None) == printer.entry(inside, None) == printer.exit(ends) == ""
    assert printer.entry(inside, None) != ""
