"""Strace: turns kernel events into strace's lines.

Owns: the line discipline. A call is printed when it starts, as far as its arguments are known then; the
    rest follows when it returns. When another task prints in between, the open line ends in
    ` <unfinished ...>` and the call comes back as `<... read resumed>`.
Invariants: at most one line is open (self._open is its task); `write` gets text in reading order.
Called: enter and exit in pairs for each task, from the syscall path; never twice at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from glasskernel.arch.x86.syscalls_64 import SYSCALL_NAMES
from glasskernel.lib.errno import ERRNO_NAMES, strerror
from glasskernel.tools.strace.call import EXIT, EXIT_BARE, Call, Glue, ReadMemory, octal
from glasskernel.tools.strace.decoders import generic
from glasskernel.tools.strace.kinds import signal_name
from glasskernel.tools.strace.structs import siginfo_text
from glasskernel.tools.strace.table import TABLE

RESULT_COLUMN: Final = 40
"""strace -a: results are aligned here when the call is shorter."""

RESTARTS: Final = {
    512: "ERESTARTSYS (To be restarted if SA_RESTART is set)",
    513: "ERESTARTNOINTR (To be restarted)",
    514: "ERESTARTNOHAND (To be restarted if no handler)",
    516: "ERESTART_RESTARTBLOCK (Interrupted by signal)",
}
EXEC: Final = frozenset(("execve", "execveat"))


@dataclass(slots=True, eq=False)
class _Pending:
    """A call that has started and not yet returned."""

    call: Call
    steps: Iterator[str]
    printed: bool = False  # an argument has been printed, so the next needs a comma
    done: bool = False  # all arguments have been printed


class Strace:
    """One log.

    follow: also print the children of the first task. With pid_column every line starts with the task's
    number, as in `strace -f -o FILE`; otherwise `[pid  N]` appears as soon as there are two tasks.
    stack_pointer, if given, tells a task's user stack pointer, which rt_sigreturn's frame is found by.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        read_memory: ReadMemory,
        follow: bool = True,
        string_limit: int = 32,
        pid_column: bool = False,
        stack_pointer: Callable[[int], int] | None = None,
    ) -> None:
        self._write = write
        self._read_memory = read_memory
        self._follow = follow
        self._string_limit = string_limit
        self._pid_column = pid_column
        self._stack_pointer = stack_pointer
        self._tasks: set[int] = set()
        self._first: int | None = None
        self._pending: dict[int, _Pending] = {}
        self._open: int | None = None
        self._column = 0

    # --- events -------------------------------------------------------------------------------------------

    def enter(self, pid: int, nr: int, args: tuple[int, int, int, int, int, int]) -> None:
        """A task is about to execute a system call."""
        if not self._shown(pid):
            return
        pending = self._begin(pid, nr, args)
        self._leader(pid)
        self._text(pending.call.name + "(" + _advance(pending))

    def exit(
        self, pid: int, nr: int, args: tuple[int, int, int, int, int, int], ret: int, now_ns: int
    ) -> None:
        """The call returned `ret`: a result, -errno, or one of the restart codes."""
        if not self._shown(pid):
            return
        pending = self._pending.pop(pid, None)
        if pending is None:  # attached in the middle of a call
            pending = self._begin(pid, nr, args)
            del self._pending[pid]
            self._leader(pid)
            self._text(pending.call.name + "(" + _advance(pending))
        self._resume(pid, pending.call.name)
        pending.call.ret = ret
        self._result(_advance(pending), _result_text(pending.call))

    def signal(self, pid: int, signo: int, info: Mapping[str, int]) -> None:
        """A signal is delivered to the task; info holds siginfo's fields by name."""
        if self._shown(pid):
            shown = f" {siginfo_text(signo, info)}" if info else ""
            self._line(pid, f"--- {signal_name(signo)}{shown} ---")

    def stopped(self, pid: int, signo: int) -> None:
        """The task's group stopped."""
        if self._shown(pid):
            self._line(pid, f"--- stopped by {signal_name(signo)} ---")

    def exited(self, pid: int, status: int) -> None:
        """The task is gone; status is wait(2)'s word."""
        if not self._shown(pid):
            return
        pending = self._pending.pop(pid, None)
        if pending is not None:
            self._resume(pid, pending.call.name)
            self._result("" if pending.done else " <unfinished ...>", "?")
        if status & 0x7F:
            core = " (core dumped)" if status & 0x80 else ""
            self._line(pid, f"+++ killed by {signal_name(status & 0x7F)}{core} +++")
        else:
            self._line(pid, f"+++ exited with {status >> 8 & 0xFF} +++")
        self._tasks.discard(pid)

    # --- lines --------------------------------------------------------------------------------------------

    def _shown(self, pid: int) -> bool:
        """Whether this task is logged; a new one is announced as strace does when it attaches."""
        if pid in self._tasks:
            return True
        if self._first is None:
            self._first = pid
        elif not self._follow and pid != self._first:
            return False
        elif not self._pid_column:
            self._write(f"strace: Process {pid} attached\n")
        self._tasks.add(pid)
        return True

    def _begin(self, pid: int, nr: int, args: tuple[int, int, int, int, int, int]) -> _Pending:
        name = SYSCALL_NAMES.get(nr) or f"syscall_{nr:#x}"
        call = Call(pid, name, args, self._read_memory, self._string_limit)
        if name == "rt_sigreturn" and self._stack_pointer is not None:
            call.stack_pointer = self._stack_pointer(pid)
        pending = _Pending(call, TABLE.get(name, generic)(call))
        self._pending[pid] = pending
        return pending

    def _leader(self, pid: int) -> None:
        """Start a line for this task, breaking off another's."""
        if self._open is not None:
            self._write(" <unfinished ...>\n")
        self._open, self._column = pid, 0
        if self._pid_column:
            self._text(f"{pid:<5} ")
        elif len(self._tasks) > 1:
            self._text(f"[pid {pid:5}] ")

    def _resume(self, pid: int, name: str) -> None:
        if self._open != pid:
            self._leader(pid)
            self._text(f"<... {name} resumed>")

    def _text(self, text: str) -> None:
        self._column += len(text)
        self._write(text)

    def _result(self, arguments: str, result: str) -> None:
        before = f"{arguments}) "
        padding = " " * max(0, RESULT_COLUMN - self._column - len(before))
        self._write(f"{before}{padding}= {result}\n")
        self._open = None

    def _line(self, pid: int, text: str) -> None:
        self._leader(pid)
        self._write(text + "\n")
        self._open = None


def _advance(pending: _Pending) -> str:
    """The text of the arguments up to the decoder's next mark, or its end."""
    parts: list[str] = []
    for step in pending.steps:
        if step is EXIT or step is EXIT_BARE:
            if pending.printed and step is EXIT:
                parts.append(", ")
                pending.printed = False
            return "".join(parts)
        if pending.printed and not isinstance(step, Glue):
            parts.append(", ")
        parts.append(step)
        pending.printed = True
    pending.done = True
    return "".join(parts)


def _result_text(call: Call) -> str:
    ret = call.ret
    assert ret is not None
    if -4096 < ret < 0:
        if -ret in RESTARTS:
            return f"? {RESTARTS[-ret]}"
        name = ERRNO_NAMES.get(-ret)
        return f"-1 {name} ({strerror(-ret)})" if name else f"-1 (errno {-ret})"
    if call.hex_result:
        shown = hex(ret & 0xFFFFFFFFFFFFFFFF) if ret else "0"
    else:
        shown = octal(ret) if call.octal_result else str(ret)
    return f"{shown} ({call.comment})" if call.comment else shown
