"""A user in front of a terminal: `glasskernel ...` on a pty of the host, keys in, screen out."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

DEADLINE = 60.0                          # seconds until a step counts as failed; a busy host is slow


class Screen:
    """with Screen("run", "--", "bash") as s: s.expect(rb"[$#] "); s.type("ls\\r")"""

    def __init__(self, *arguments, rows=24, cols=80, stdin=None, env=None):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "glasskernel", *arguments],
            stdin=self.slave if stdin is None else stdin, stdout=self.slave, stderr=self.slave,
            env={**os.environ, "TERM": "xterm", **(env or {})}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
        )
        self.seen = b""                  # all output so far
        self.at = 0                      # what expect() has not looked at yet begins here

    def __enter__(self):
        return self

    def __exit__(self, kind, error, tb):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def type(self, keys):
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def resize(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))

    def signal(self, number=signal.SIGINT):
        os.kill(self.process.pid, number)

    def hang_up(self):
        """The window is closed."""
        os.close(self.master)
        self.master = os.open("/dev/null", os.O_RDWR)

    def is_restored(self):
        """The terminal is as it was before the start."""
        return termios.tcgetattr(self.slave) == self.before

    def type_until(self, keys, pattern):
        """Types again and again: bash tells of a job's end only before a prompt."""
        for _ in range(20):
            self.type(keys)
            if self.expect(pattern, timeout=DEADLINE / 20):
                return
        raise AssertionError(f"no {pattern!r} in {self.seen[self.at:]!r}")

    def expect(self, pattern, timeout=None):
        """Waits until the pattern (bytes, a regular expression) appears behind the last match; answers the match.

        timeout: answers None after so many seconds instead of failing.
        """
        end = time.monotonic() + (timeout or DEADLINE)
        while True:
            found = re.compile(pattern, re.S).search(self.seen, self.at)
            if found:
                self.at = found.end()
                return found
            left = end - time.monotonic()
            if timeout and left <= 0:
                return None
            assert left > 0, f"no {pattern!r} in {self.seen[self.at:]!r}"
            readable = self.is_readable(min(left, 0.2))
            if readable:
                try:
                    self.seen += os.read(self.master, 65536)
                    continue
                except OSError:
                    pass
            assert readable or self.process.poll() is None, f"ended without {pattern!r}: {self.seen[self.at:]!r}"

    def is_readable(self, seconds):
        poller = select.poll()
        poller.register(self.master, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def end(self):
        """Waits for the end; answers the exit status. The terminal must be as it was before."""
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running: {self.seen[self.at:]!r}"
            if self.is_readable(0.05):
                self.seen += os.read(self.master, 65536)
        while self.is_readable(0):
            self.seen += os.read(self.master, 65536)
        assert self.is_restored()
        return self.process.returncode
