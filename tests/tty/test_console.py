"""The console line, the streams of the host, and what the CLI does with the host's terminal."""

import contextlib
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest

from glasskernel.cli.terminal import HostTerminal, RawTerminal
from glasskernel.machine.console import IRQ, Console, FdStream, MemoryStream


class Board:
    """What the console needs of a machine."""

    def __init__(self):
        self.irqs = []
        self.fds = {}

    def post_irq(self, irq, when_ns=None):
        self.irqs.append(irq)

    def add_host_fd(self, fd, on_readable):
        self.fds[fd] = on_readable

    def remove_host_fd(self, fd):
        self.fds.pop(fd, None)


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def terminal():
    """(master, slave) of a host pty."""
    master, slave = pty.openpty()
    yield master, slave
    for fd in (master, slave):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_keys_raise_the_interrupt_and_wait_in_the_fifo(board):
    console = Console(board)
    console.input(b"abc")
    assert board.irqs == [IRQ]
    assert (console.receive(2), console.received, console.receive(9)) == (b"ab", 1, b"c")


def test_a_terminal_is_neither_read_nor_changed_before_the_guest_uses_it(board, terminal):
    master, slave = terminal
    console = Console(board)
    console.attach(slave, FdStream(slave), cooked=True)
    raw = RawTerminal(slave)
    console.on_claim = raw.enter
    before = termios.tcgetattr(slave)
    console.transmit(b"only output\r\n")
    assert (board.fds, termios.tcgetattr(slave)) == ({}, before)
    console.claim()
    assert list(board.fds) == [slave]
    assert not termios.tcgetattr(slave)[3] & termios.ICANON
    raw.leave()
    assert termios.tcgetattr(slave) == before


def test_newlines_are_right_on_a_cooked_and_on_a_raw_terminal(board, terminal):
    """The guest's ONLCR and the host's must not both add a carriage return."""
    master, slave = terminal
    console = Console(board)
    console.attach(slave, FdStream(slave), cooked=True)
    raw = RawTerminal(slave)
    console.on_claim = raw.enter
    console.transmit(b"one\r\ntwo\rX\r\n")
    assert os.read(master, 100) == b"one\r\ntwo\rX\r\n"
    console.claim()
    console.transmit(b"three\r\nfour\n")
    assert os.read(master, 100) == b"three\r\nfour\n"
    raw.leave()


def test_the_end_of_the_terminal_is_a_hangup(board, terminal):
    master, slave = terminal
    console = Console(board)
    console.attach(slave, FdStream(slave), cooked=False)
    console.claim()
    os.close(master)
    board.fds[slave]()
    assert console.hung_up
    console.transmit(b"nobody reads this")


def test_streams_read_to_the_end_and_report_a_broken_pipe():
    reader, writer = os.pipe()
    stream = FdStream(reader)
    os.write(writer, b"xyz")
    os.close(writer)
    assert [stream.read(2), stream.read(2), stream.read(2)] == [b"xy", b"z", b""]
    os.close(reader)
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        FdStream(writer).write(b"x")
    os.close(writer)


def test_a_host_signal_ends_a_blocked_read_and_a_blocked_write():
    reader, writer = os.pipe()
    attention, alarm = os.pipe()
    os.write(alarm, b"\x02")
    assert FdStream(reader, attention).read(10) is None
    stream = FdStream(writer, attention)
    total = 0
    while (sent := stream.write(b"x" * 65536)) is not None:
        total += sent
    assert total >= 4096
    for fd in (reader, writer, attention, alarm):
        os.close(fd)


def test_memory_stream_is_a_file_in_memory():
    stream = MemoryStream(b"input")
    assert [stream.read(3), stream.read(3), stream.read(3)] == [b"inp", b"ut", b""]
    stream.write(b"out")
    stream.write(b"put")
    assert (stream.getvalue(), stream.isatty(), stream.kind()) == (b"output", False, "fifo")


# ---- the CLI's side ---------------------------------------------------------------------------------------------
def test_window_size_and_its_changes_reach_the_console(board, terminal):
    master, slave = terminal
    ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    console = Console(board)
    with HostTerminal(console, (slave, slave, slave)):
        assert (console.rows, console.cols) == (33, 99)
        ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
        os.kill(os.getpid(), signal.SIGWINCH)
        board.fds[next(iter(board.fds))]()
        assert (console.rows, console.cols) == (40, 120)


def test_host_signals_are_passed_on_and_the_old_handlers_come_back(board):
    null = os.open("/dev/null", os.O_RDWR)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    console = Console(board)
    with HostTerminal(console, (null, null, null)) as host:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        console.poll_host()
        assert console.take_signals() == [signal.SIGTERM, signal.SIGUSR1]
        assert [s.isatty() for s in host.streams] == [False] * 3
    assert {n: signal.getsignal(n) for n in before} == before
    assert board.fds == {}
    os.close(null)


LEAVE = {
    "return": "pass",
    "exception": "raise ZeroDivisionError",
    "exit": "sys.exit(3)",
    "impatience": "\n".join(["for _ in range(9):\n    os.kill(os.getpid(), 2)\n    console.poll_host()"]),
}


PROGRAM = """
import os, signal, sys, termios
from glasskernel.cli.terminal import HostTerminal
from glasskernel.machine.console import Console
class Board:
    def post_irq(self, irq, when_ns=None): pass
    def add_host_fd(self, fd, on_readable): pass
    def remove_host_fd(self, fd): pass
def is_raw():
    return not termios.tcgetattr(0)[3] & termios.ECHO
console = Console(Board())
with HostTerminal(console):
    console.claim()
    assert is_raw()
    {}
"""


@pytest.mark.parametrize("way", LEAVE)
def test_the_terminal_is_restored_whatever_happens(terminal, way):
    master, slave = terminal
    before = termios.tcgetattr(slave)
    program = PROGRAM.format(LEAVE[way].replace("\n", "\n    "))
    done = subprocess.run([sys.executable, "-c", program], stdin=slave, stdout=slave, stderr=subprocess.PIPE)
    assert termios.tcgetattr(slave) == before
    assert done.returncode == {"return": 0, "exception": 1, "exit": 3, "impatience": -2}[way], done.stderr.decode()


def test_a_stop_from_outside_gives_the_terminal_back_meanwhile(terminal):
    master, slave = terminal
    before = termios.tcgetattr(slave)
    program = PROGRAM.format("os.kill(os.getpid(), signal.SIGTSTP); console.poll_host(); assert is_raw()")
    # A group of its own, with its parent in the session: not orphaned, so that SIGTSTP works.
    with subprocess.Popen([sys.executable, "-c", program], stdin=slave, stdout=slave, process_group=0) as process:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        assert termios.tcgetattr(slave) == before
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0
    assert termios.tcgetattr(slave) == before
