"""--report on a terminal and in a pipe."""

import io

from glasskernel.cli.report import RunReport, show_report

REPORT = RunReport(1.5, 2_000_000, {"write": 2, "read": 7, "brk": 2}, {"bpf": 1}, {"page faults": 1234})


def test_lines_in_a_pipe():
    out = io.StringIO()
    show_report(REPORT, out)
    assert out.getvalue().splitlines() == [
        "host-time 1.500 s",
        "virtual-time 0.002000 s",
        "page-faults 1234",
        "syscalls 11",
        "syscall read 7",
        "syscall brk 2",
        "syscall write 2",
        "enosys bpf 1",
    ]


def test_tables_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    show_report(REPORT, out)
    text = out.getvalue()
    assert "System calls" in text and "1,234" in text and "bpf" in text
    assert text.index("read") < text.index("brk") < text.index("write")
