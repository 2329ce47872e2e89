"""What goes into a kernel and what comes out: boot parameters, a program to run, how it ended."""
from __future__ import annotations

from typing import NamedTuple

from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.console import HostStream, MemoryStream
from glasskernel.machine.disk import Disk

# The wall clock of every run begins here (2019-09-15 20:00 UTC, the day of Linux 5.3), so that runs are repeatable.
BOOT_TIME_NS = 1_568_577_600 * 1_000_000_000


class Share(NamedTuple):
    """A host directory that the guest sees at `guest`."""

    host: str
    guest: str
    writable: bool = False


class Device(NamedTuple):
    """A disk or a partition, as the guest names it, and what is on it. fresh: an ext4 that was just made."""

    name: str
    fs_type: str = "ext4"
    fresh: bool = False


@slotted(frozen=True)
class BootParams:
    """What the boot loader would hand over.

    root_dev: it has the root file system, instead of the host's directories. home_dev: it is mounted on /root.
    """

    cmdline: str = ""
    boot_time_ns: int = BOOT_TIME_NS
    root: str | None = None
    shares: tuple[Share, ...] = ()
    disks: tuple[Disk, ...] = ()
    root_dev: Device | None = None
    home_dev: Device | None = None


@slotted
class Command:
    """A program for PID 1 to run."""

    argv: list[bytes]
    envp: list[bytes]
    cwd: bytes
    uid: int
    gid: int
    streams: tuple[HostStream, HostStream, HostStream]
    status: int | None = None              # wait status word
    error: int = 0                         # errno of execve, if it failed
    failed_path: bytes = b""               # which file (or the working directory) that was
    pid: int = 0


class Result(NamedTuple):
    """How a program ended. status: as a shell shows it: exit code, 128 + signal, 127 not found, 126 not executable.

    stdout, stderr: what it wrote, if the run captured it. exec_error: errno of a failed execve, else 0.
    failed_path: the file, or the working directory, that exec_error is about, if one was found.
    """

    status: int
    stdout: bytes = b""
    stderr: bytes = b""
    exec_error: int = 0
    wait_status: int = 0
    failed_path: bytes = b""

    def __bool__(self) -> bool:
        return self.status == 0


class KernelStopped(RuntimeError):
    """The kernel panicked, or no task of it can ever go on. The first line of the text says which."""


@notrace
def result_of(command: Command, memory: tuple[MemoryStream, MemoryStream, MemoryStream] | None) -> Result:
    """A finished Command in the words of a shell."""
    status = command.status or 0
    if command.error:
        code = 127 if command.error == 2 else 126
    elif status & 0x7F:
        code = 128 + (status & 0x7F)
    else:
        code = status >> 8 & 0xFF
    out, err = (memory[1].getvalue(), memory[2].getvalue()) if memory else (b"", b"")
    return Result(code, out, err, command.error, status, command.failed_path)
