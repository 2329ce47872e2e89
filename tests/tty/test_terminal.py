"""What a user at the terminal sees: job control, editors, pagers, Ctrl-C, window size, pipes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.tty.screen import Screen

# realtime: in virtual time a job in the background is over as soon as nobody else has anything to do
BASH = ("run", "--pace", "realtime", "--env", "PS1=$ ", "--", "/bin/bash", "--norc", "--noprofile", "-i")


def glasskernel(*arguments, **options):
    command = [sys.executable, "-m", "glasskernel", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


@contextlib.contextmanager
def started(program, **streams):
    """A shell program in the guest, for as long as the test needs it."""
    process = subprocess.Popen([sys.executable, "-m", "glasskernel", "run", "--", "sh", "-c", program],
                               stdout=subprocess.PIPE, **streams)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_a_pipe_goes_through():
    done = glasskernel("run", "--", "tr", "a-z", "A-Z", input=b"some words\n" * 1000)
    assert (done.stdout, done.returncode) == (b"SOME WORDS\n" * 1000, 0)


def test_a_closed_pipe_ends_the_program_with_sigpipe():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "glasskernel", "run", "--", "yes"], stdin=subprocess.DEVNULL, stdout=writer,
        stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE


def test_interrupt_reaches_a_program_that_waits_for_its_input():
    with started("trap 'echo caught; exit 7' INT; echo on; read x", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"caught\n"
        assert process.wait() == 7


def test_terminate_ends_a_program_that_computes():
    with started("echo on; while :; do :; done", stdin=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


def test_output_only_leaves_the_terminal_alone():
    with Screen("run", "--", "sh", "-c", "tty; stty size; echo done", rows=31, cols=77) as screen:
        assert screen.end() == 0
        assert screen.seen == b"/dev/hvc0\r\n31 77\r\ndone\r\n"


def test_another_user_owns_the_terminal():
    with Screen("run", "--user", "1000:1000", "--", "sh", "-c", "id -u; ls -ln $(tty); echo x >$(tty)") as screen:
        assert screen.end() == 0
        assert screen.seen.split(b"\r\n")[0] == b"1000"
        assert b"crw--w---- 1 1000 5 229, 0" in screen.seen and screen.seen.endswith(b"x\r\n")


def test_another_user_may_open_its_streams_by_name():
    done = glasskernel("run", "--user", "1000", "--", "sh", "-c", "cat /dev/stdin >/dev/stdout", input=b"text")
    assert (done.stdout, done.stderr) == (b"text", b"")


def test_job_control_in_bash():
    with Screen(*BASH) as screen:
        screen.expect(rb"\$ ")
        screen.type("sleep 1000\r")
        screen.expect(rb"sleep 1000\r\n")
        screen.type("\x1a")
        screen.expect(rb"\^Z\r\n\[1\]\+  Stopped +sleep 1000\r\n.*\$ ")
        screen.type("bg; jobs\r")
        screen.expect(rb"\[1\]\+ sleep 1000 &\r\n\[1\]\+  Running +sleep 1000 &\r\n.*\$ ")
        screen.type("fg\r")
        screen.expect(rb"sleep 1000\r\n")
        screen.type("\x03")
        screen.expect(rb"\^C\r\n.*\$ ")
        screen.type("echo status $?; cat & \r")
        screen.expect(rb"status 130\r\n\[1\] \d+\r\n.*\$ ")
        screen.type_until("\r", rb"\[1\]\+  Stopped +cat\r\n.*\$ ")
        screen.type("kill %1\r")
        screen.expect(rb"\$ ")
        screen.type_until("/bin/true\r", rb"Terminated +cat\r\n")
        screen.type("exit 5\r")
        assert screen.end() == 5


def test_line_editing_and_window_size_in_bash():
    with Screen(*BASH, rows=20, cols=60) as screen:
        screen.expect(rb"\$ ")
        screen.type("ecHo\x1b[D\x1b[D\x7fcho x\x01\x0b")       # readline: raw mode, arrows, ^A ^K
        screen.type("trap 'stty size' WINCH; stty size\r")
        screen.expect(rb"20 60\r\n.*\$ ")
        screen.resize(25, 90)
        screen.signal(signal.SIGWINCH)
        screen.type("\r")
        screen.expect(rb"25 90\r\n")
        screen.type("\x04")
        screen.expect(rb"exit")
        assert screen.end() == 0


def test_canonical_input_at_the_console():
    with Screen("run", "--", "sh", "-c", "read x; echo got $x; cat") as screen:
        screen.type("no\x15ye\x7fes\r")
        screen.expect(rb"got yes\r\n")
        screen.type("line\r")
        screen.expect(rb"line\r\nline\r\n")
        screen.type("\x04")
        assert screen.end() == 0


def test_vi_edits_a_file():
    with Screen(*BASH) as screen:
        screen.expect(rb"\$ ")
        screen.type("busybox vi /tmp/file\r")
        screen.expect(rb"/tmp/file")
        screen.type("ihello\x1b")
        screen.expect(rb"hello.*\[Modified\]")
        screen.type("yyp:wq\r")
        screen.expect(rb"\$ $")
        screen.type("cat /tmp/file; echo end\r")
        screen.expect(rb"hello\r\nhello\r\nend\r\n")
        screen.type("exit\r")
        assert screen.end() == 0


def test_less_pages_and_searches():
    with Screen(*BASH, rows=10) as screen:
        screen.expect(rb"\$ ")
        screen.type("seq 100 | less\r")
        screen.expect(rb"1\r\n2\r\n.*\r\n9\r\n")
        screen.type(" ")
        screen.expect(rb"18\r\n")
        screen.type("/77\r")
        screen.expect(rb"77")
        screen.type("q")
        screen.expect(rb"\$ ")
        screen.type("exit\r")
        assert screen.end() == 0


def test_top_shows_processes_and_quits():
    with Screen("run", "--pace", "realtime", "--", "top", "-d", "1") as screen:
        screen.expect(rb"load average.*Tasks:.*PID")
        screen.type("q")
        assert screen.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_when_the_host_ends_us(number):
    with Screen("run", "--", "sh", "-c", "stty raw; echo on; read x") as screen:
        screen.expect(rb"on")
        screen.signal(number)
        assert screen.end() == 128 + number


def test_closing_the_window_hangs_the_guest_up():
    with Screen("run", "--", "sh", "-c", "trap 'exit 9' HUP; echo on; while read x; do :; done; exit 8") as screen:
        screen.expect(rb"on")
        screen.hang_up()
        assert screen.process.wait(60) in (8, 9)             # the end of input, or the signal: whichever is first
