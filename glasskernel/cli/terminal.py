"""The host's terminal and signals, for `run` and `shell`.

Owns: the mode of the host's terminal while a guest uses it, and the host process's signal handlers.
The terminal goes into raw mode only when the guest first reads from its console or changes its settings
(Console.on_claim). Until then it stays as it was: `glasskernel run -- ls | less` leaves it to less, and Ctrl-C
arrives as SIGINT, which is passed on.
Invariants: on every way out (return, exception, exit of the interpreter, SIGTSTP) the terminal's old mode is
    back; a signal handler of ours does nothing but end the host's select(): the number itself comes through the
    wakeup descriptor, between two turns of the machine.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import termios
from types import FrameType, TracebackType
from typing import Any, Final

from glasskernel.machine.console import Console, FdStream, HostStream

PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
IMPATIENCE: Final = 3              # so many of one signal, and the guest still runs: it is for us

IUTF8: Final = 0o40000             # not in Python's termios
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class RawTerminal:
    """The mode of one terminal. enter() and leave() may be called again and again; leave() when it is over.

    As a context manager: raw inside, as before outside.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.saved: list[Any] | None = None

    def enter(self) -> None:
        """Every key goes through, nothing is echoed or added. Keeps the old mode."""
        if self.saved is not None:
            return
        try:
            saved = termios.tcgetattr(self.fd)
            raw = [*saved[:_CC], list(saved[_CC])]
            raw[_IFLAG] &= ~(
                termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
                | termios.ICRNL | termios.IXON
            )
            raw[_OFLAG] &= ~termios.OPOST
            raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            raw[_CC][termios.VMIN] = 1
            raw[_CC][termios.VTIME] = 0
            termios.tcsetattr(self.fd, termios.TCSADRAIN, raw)
        except termios.error:              # the terminal is gone
            return
        self.saved = saved
        atexit.register(self.leave)

    def leave(self) -> None:
        """Gives the terminal back as it was. Never raises."""
        saved, self.saved = self.saved, None
        if saved is None:
            return
        atexit.unregister(self.leave)
        # From the background (the shell took the terminal meanwhile) SIGTTOU would stop us.
        previous = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.fd, termios.TCSADRAIN, saved)
        signal.signal(signal.SIGTTOU, previous)

    def __enter__(self) -> RawTerminal:
        self.enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.leave()


class HostTerminal:
    """Connects a machine's console with this process: streams, terminal, window size, signals.

        with HostTerminal(kernel.console) as host:
            kernel.run(argv, streams=host.streams)

    Main thread only.
    """

    def __init__(self, console: Console, fds: tuple[int, int, int] = (0, 1, 2)) -> None:
        self.console = console
        self.fds = fds
        self.raw: RawTerminal | None = None
        self.streams: tuple[HostStream, HostStream, HostStream]
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = -1
        self._wakeup: tuple[int, int] = (-1, -1)
        self._counts: dict[int, int] = {}

    def __enter__(self) -> HostTerminal:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._wakeup = (reader, writer)
        first, second, third = (FdStream(fd, reader) for fd in self.fds)
        self.streams = (first, second, third)
        terminals = [fd for fd in self.fds if _is_open_terminal(fd)]
        handled = list(PASSED_ON)
        if terminals:
            fd = terminals[0]
            self.raw = RawTerminal(fd)
            # Output goes to a descriptor that is a terminal for writing: 1 or 2 if they are, else 0, which is one too.
            self.console.attach(fd, FdStream(terminals[-1]), cooked=True)
            self.console.on_claim = self.raw.enter
            self._take_size()
            with contextlib.suppress(termios.error):
                self.console.utf8 = bool(termios.tcgetattr(fd)[_IFLAG] & IUTF8)
            handled += [signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT]
        self.console.watch(reader, self._on_attention)
        self._previous_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in handled:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGWINCH:     # nohup stays nohup
                self._previous[number] = signal.signal(number, _ignore)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.raw is not None:
            self.raw.leave()
        for number, previous in self._previous.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._previous_wakeup)
        self.console.machine.remove_host_fd(self._wakeup[0])
        self.console.on_attention = self.console.on_claim = None
        for fd in self._wakeup:
            os.close(fd)

    def _on_attention(self) -> None:
        """Host signals came: each byte of the pipe is a number."""
        try:
            numbers = os.read(self._wakeup[0], 4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGWINCH:
                self._take_size()
            elif number == signal.SIGTSTP:
                self._stop()
            elif number in PASSED_ON:
                self._count(number)
                self.console.request_signal(number)

    def _count(self, number: int) -> None:
        """A guest that does not listen must not keep the user from getting out."""
        self._counts[number] = self._counts.get(number, 0) + 1
        if self._counts[number] > IMPATIENCE and number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            if self.raw is not None:
                self.raw.leave()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _take_size(self) -> None:
        assert self.raw is not None
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self.raw.fd)
            if size.lines and size.columns:
                self.console.resize(size.lines, size.columns)

    def _stop(self) -> None:
        """The user's shell stops us: the terminal must be as it was meanwhile."""
        assert self.raw is not None
        was_raw = self.raw.saved is not None
        self.raw.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])
        os.kill(os.getpid(), signal.SIGTSTP)
        # ... stopped here, until SIGCONT
        signal.signal(signal.SIGTSTP, _ignore)
        if was_raw:
            self.raw.enter()
        self._take_size()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Only so that the wakeup descriptor gets the number."""


def _is_open_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False
