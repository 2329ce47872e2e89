"""A trace as text while it is made: a call graph, one tree a task, in the columns of uftrace and function_graph.

    # DURATION     TID      FUNCTION
       0.040 us [    20] | vfs_open();
                [    20] | do_filp_open() {
       1.200 us [    20] | } /* do_filp_open */
"""
from __future__ import annotations

from collections.abc import Callable

from glasskernel.tools.trace.model import ENTER, KERNEL, LEAVE, Record

HEADER = "# DURATION     TID      FUNCTION\n"
_GREY, _BLUE, _GREEN, _YELLOW, _RED, _PLAIN = "\x1b[90m", "\x1b[36m", "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_SLOW_NS, _VERY_SLOW_NS = 10_000, 1_000_000


def duration(ns: int) -> str:
    """Ten columns, in the unit that fits."""
    for unit, size in (("us", 1_000), ("ms", 1_000_000), (" s", 1_000_000_000)):
        if ns < 1000 * size or unit == " s":
            return f"{ns / size:7.3f} {unit}"
    raise AssertionError


class CallGraphWriter:
    """Turns records into lines. A call with nothing inside is one line, which is why the last one is held back.

    min_ns: leaves shorter than this are not shown (what contains something that is shown, is).
    colour: ANSI colours. write: gets whole lines.
    """

    def __init__(self, write: Callable[[str], None], *, colour: bool = False, min_ns: int = 0) -> None:
        self._write = write
        self._colour = colour
        self._min_ns = min_ns
        self._open: dict[int, list[Record]] = {}
        self._shown: dict[int, int] = {}           # how many of the open calls have a line already
        self._last_tid: int | None = None
        self._begun = False

    def add(self, record: Record) -> None:
        """The next record. The first one brings the header along."""
        if not self._begun:
            self._begun = True
            self._write(HEADER)
        stack = self._open.setdefault(record.tid, [])
        if record.kind == ENTER:
            if not self._min_ns:
                self._show_open(record.tid)
            stack.append(record)
        elif record.kind == LEAVE:
            if stack:
                self._leave(stack, record)
        else:
            self._show_open(record.tid)
            self._line(None, record.tid, len(stack), f"/* {record.name}: {record.text} */", _YELLOW)

    def close(self) -> None:
        """What is still open at the end has no end."""
        for tid in self._open:
            self._show_open(tid)

    def _leave(self, stack: list[Record], record: Record) -> None:
        entered = stack.pop()
        took = record.time_ns - entered.time_ns
        if self._shown.get(record.tid, 0) > len(stack):
            self._shown[record.tid] = len(stack)
            result = f" = {record.text}" if record.text else ""
            self._line(took, record.tid, len(stack), f"}}{result} /* {entered.name} */", _GREY)
        elif took >= self._min_ns:
            if self._min_ns:
                self._show_open(record.tid)
            result = f" = {record.text}" if record.text else ""
            leaf = f"{entered.name}({entered.text}){result};"
            self._line(took, record.tid, len(stack), leaf, self._colour_of(entered))

    def _show_open(self, tid: int) -> None:
        stack = self._open.get(tid, [])
        for depth in range(self._shown.get(tid, 0), len(stack)):
            call = stack[depth]
            self._line(None, tid, depth, f"{call.name}({call.text}) {{", self._colour_of(call))
        self._shown[tid] = len(stack)

    @staticmethod
    def _colour_of(record: Record) -> str:
        return _BLUE if record.side == KERNEL else _GREEN

    def _line(self, took: int | None, tid: int, depth: int, text: str, colour: str) -> None:
        if self._last_tid not in (None, tid):
            self._write("\n")
        self._last_tid = tid
        time = duration(took) if took is not None else " " * 10
        indent = "  " * depth
        if self._colour:
            if took is not None and took >= _SLOW_NS:
                time = f"{_RED if took >= _VERY_SLOW_NS else _YELLOW}{time}{_PLAIN}"
            text = f"{colour}{text}{_PLAIN}"
        self._write(f" {time} [{tid:6}] | {indent}{text}\n")


