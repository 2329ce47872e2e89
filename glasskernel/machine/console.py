"""The console: a terminal line with one interrupt, byte streams to the host, and host signals.

Stands for the board's serial port and the panel around it. Knows nothing of Linux.
Everything the host sends enters through input(), resize(), hangup() and request_signal(): a recorder needs no
other place. Owns: the receive FIFO, the window size, the signals that wait to be taken.
Invariants: something new to see raises IRQ; the host's terminal is not read, and its mode not changed, before
    claim(): a program that only writes leaves the terminal to whoever else uses it (`glasskernel run ls | less`).
Contract with machine.machine: post_irq(irq), add_host_fd(fd, on_readable), remove_host_fd(fd).
"""
from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from typing import Protocol

IRQ = 4                        # where a PC has its first serial port
READ_SIZE = 4096


class HostStream(Protocol):
    """A byte stream of the host's process, or one in memory."""

    def read(self, size: int) -> bytes | None:
        """At most `size` bytes; b"" at the end; None: a host signal came first. Freezes the machine meanwhile."""
        ...

    def write(self, data: bytes) -> int | None:
        """Takes at least one byte of `data` and answers how many; None: a host signal came first.

        Raises BrokenPipeError, OSError.
        """
        ...

    def isatty(self) -> bool: ...

    def kind(self) -> str:
        """"tty", "fifo", "file", "chr" or "socket"."""
        ...


class FdStream:
    """A descriptor of the host process. attention_fd: readable when a host signal waits; ends a call with None."""

    __slots__ = ("_in_pieces", "attention_fd", "fd")

    def __init__(self, fd: int, attention_fd: int | None = None) -> None:
        self.fd = fd
        self.attention_fd = attention_fd
        self._in_pieces = self.kind() in ("fifo", "socket")

    def read(self, size: int) -> bytes | None:
        attention = self.attention_fd
        while True:
            if attention is not None:
                readable, _, _ = select.select([self.fd, attention], [], [])
                if attention in readable:
                    return None
            try:
                return os.read(self.fd, size)
            except BlockingIOError:                    # the host's descriptor is O_NONBLOCK
                if attention is None:
                    select.select([self.fd], [], [])
            except OSError as e:
                if e.errno == errno.EIO:               # the terminal is gone
                    return b""
                raise

    def write(self, data: bytes) -> int | None:
        attention = self.attention_fd
        while True:
            if attention is not None and self._in_pieces:
                _, writable, _ = select.select([attention], [self.fd], [])
                if not writable:
                    return None
                data = data[: select.PIPE_BUF]         # so much goes without blocking now
            try:
                return os.write(self.fd, data)
            except BlockingIOError:
                if attention is None or not self._in_pieces:
                    select.select([], [self.fd], [])

    def isatty(self) -> bool:
        return os.isatty(self.fd)

    def kind(self) -> str:
        mode = os.fstat(self.fd).st_mode
        if stat.S_ISCHR(mode):
            return "tty" if os.isatty(self.fd) else "chr"
        if stat.S_ISREG(mode):
            return "file"
        return "socket" if stat.S_ISSOCK(mode) else "fifo"


class MemoryStream:
    """Bytes to read, and a place for what is written: the streams of the Python API and of tests."""

    __slots__ = ("_offset", "_source", "written")

    def __init__(self, source: bytes = b"") -> None:
        self._source = source
        self._offset = 0
        self.written = bytearray()

    def read(self, size: int) -> bytes | None:
        data = self._source[self._offset : self._offset + size]
        self._offset += len(data)
        return data

    def write(self, data: bytes) -> int | None:
        self.written += data
        return len(data)

    def isatty(self) -> bool:
        return False

    def kind(self) -> str:
        return "fifo"

    def getvalue(self) -> bytes:
        """Everything written so far."""
        return bytes(self.written)


class Board(Protocol):
    """What the console needs of the machine."""

    def post_irq(self, irq: int, when_ns: int | None = None) -> None: ...
    def add_host_fd(self, fd: int, on_readable: Callable[[], None]) -> None: ...
    def remove_host_fd(self, fd: int) -> None: ...


class Console:
    """The line, and the panel of signals.

    line_fd: the host's terminal, read once claimed; None: input() is the only source.
    line_out: where the line's output goes; None: it is lost.
    cooked: the host's terminal still processes output by itself (until claim()).
    on_claim: puts the host's terminal into raw mode. on_attention: takes the host signals that wait.
    """

    def __init__(self, machine: Board) -> None:
        self.machine = machine
        self.line_fd: int | None = None
        self.line_out: HostStream | None = None
        self.cooked = False
        self.utf8 = False                                     # the terminal sends and shows UTF-8
        self.rows = 24
        self.cols = 80
        self.claimed = False
        self.on_claim: Callable[[], None] | None = None
        self.on_attention: Callable[[], None] | None = None
        self._received = bytearray()
        self._signals: list[int] = []
        self._hung_up = False

    # ---- the guest's side -------------------------------------------------------------------------------------------
    @property
    def received(self) -> int:
        """Bytes in the receive FIFO."""
        return len(self._received)

    @property
    def hung_up(self) -> bool:
        """The other end of the line is gone for good."""
        return self._hung_up

    def claim(self) -> None:
        """The guest uses the line as a terminal: from now on its keys belong to the guest. Idempotent."""
        if self.claimed:
            return
        self.claimed = True
        if self.on_claim is not None:
            self.on_claim()
        self.cooked = False
        if self.line_fd is not None:
            self.machine.add_host_fd(self.line_fd, self._on_readable)

    def receive(self, size: int) -> bytes:
        """Takes up to `size` bytes out of the FIFO."""
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def transmit(self, data: bytes) -> None:
        """Sends all of `data`. The host's terminal may block us: the machine waits."""
        if self.cooked:
            # The host turns "\n" into "\r\n" itself: undo ours.
            data = data.replace(b"\r\n", b"\n")
        if data:
            self._send(data)

    def _send(self, data: bytes) -> None:
        out = self.line_out
        if out is None or self._hung_up:
            return
        try:
            while data:
                data = data[out.write(data) or 0 :]
        except OSError:
            self.hangup()

    def poll_host(self) -> None:
        """A host call was ended by a signal: takes it in now, not at the next turn."""
        if self.on_attention is not None:
            self.on_attention()

    def take_signals(self) -> list[int]:
        """The host signals that came since the last call, in order."""
        signals, self._signals = self._signals, []
        return signals

    # ---- the host's side: all that enters the machine from outside ---------------------------------------------------
    def attach(self, line_fd: int | None, line_out: HostStream | None, cooked: bool) -> None:
        """Plugs the line into the host's terminal, or into a stream."""
        self.line_fd = line_fd
        self.line_out = line_out
        self.cooked = cooked

    def watch(self, attention_fd: int, on_attention: Callable[[], None]) -> None:
        """attention_fd is readable when host signals wait; on_attention() takes them (resize, request_signal)."""
        self.on_attention = on_attention
        self.machine.add_host_fd(attention_fd, on_attention)

    def input(self, data: bytes) -> None:
        """Keys were pressed."""
        self._received += data
        self.machine.post_irq(IRQ)

    def resize(self, rows: int, cols: int) -> None:
        """The window has a new size."""
        if (rows, cols) != (self.rows, self.cols):
            self.rows = rows
            self.cols = cols
            self.machine.post_irq(IRQ)

    def hangup(self) -> None:
        """The line dropped: the terminal window was closed."""
        if not self._hung_up:
            self._hung_up = True
            if self.line_fd is not None and self.claimed:
                self.machine.remove_host_fd(self.line_fd)
            self.machine.post_irq(IRQ)

    def request_signal(self, signal: int) -> None:
        """The host's process got a signal that is meant for the guest's program."""
        self._signals.append(signal)
        self.machine.post_irq(IRQ)

    def _on_readable(self) -> None:
        assert self.line_fd is not None
        try:
            data = os.read(self.line_fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self.input(data)
        else:
            self.hangup()
