"""`glasskernel run`: one program on a fresh kernel, its standard streams connected to ours.

Invariants: thin. Everything the guest sees is made by the Kernel object; this file turns options into its
    arguments and its Result into an exit status and, after a failed execve, one line of text.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from glasskernel.cli.guest_files import GuestFiles
    from glasskernel.cli.options import RootImage
    from glasskernel.init.kernel import Kernel, Result
    from glasskernel.kernel.printk import PrintkLog

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENOENT, ENOEXEC, ELIBBAD = 2, 8, 80
EXIT_STUCK: Final = 125  # the kernel panicked, or nothing in it can go on
KERN_CRIT: Final = 2
GC_THRESHOLDS: Final = 20_000, 20, 20  # the kernel's own objects die by reference count: cycles are rare


def run_command(
    candidates: Sequence[list[str]],
    *,
    root: str | RootImage | None,
    cpus: int,
    memory: int,
    numa: int,
    shares: Sequence[tuple[str, str, bool]],
    disks: Sequence[dict[str, Any]],
    no_disk: bool,
    seed: int,
    pace: str,
    append: str,
    panic_on_oops: bool,
    env: Sequence[tuple[str, str | None]],
    cwd: str | None,
    user: tuple[int | str, int | None] | None,
    strace: bool = False,
    output: str | None = None,
    report: bool = False,
    watch: Callable[[Kernel, ExitStack], None] | None = None,
) -> int:
    """Runs the first of `candidates` (argv lists) that exists. Returns the exit status a shell would show.

    watch(kernel, stack): called before the program starts; what it puts on the stack is called when it is over.
    """
    started = time.perf_counter()
    if output is not None and not strace:
        raise click.UsageError("-o FILE is where --strace writes: give --strace too")
    with ExitStack() as stack:
        log = open_log(output, stack) if strace else None
        if isinstance(root, str) and os.path.isfile(root):
            root = unpack(root, stack)
        # Importing and booting make many objects and no garbage: not worth looking through, now or later.
        gc.disable()
        from glasskernel.cli.guest_files import guest_files
        from glasskernel.cli.machine import machine_disks
        from glasskernel.cli.terminal import HostTerminal
        from glasskernel.init.kernel import Kernel, KernelStopped, Share

        files = guest_files(root, shares)
        environ = environment(env)
        uid, gid, home = identity(user, files)
        environ.setdefault("HOME", home)
        try:
            kernel = Kernel(
                cpus=cpus,
                memory=memory,
                numa=numa,
                seed=seed,
                shares=[Share(*share) for share in shares],
                **machine_disks(root, disks, no_disk, seed),
                pace=pace,
                cmdline=f"{append} oops=panic".strip() if panic_on_oops else append,
            )
        except (ValueError, OSError) as e:
            raise click.UsageError(str(e)) from None
        finally:
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            gc.enable()
        if log is not None:
            from glasskernel.cli.strace import attach_strace

            attach_strace(kernel, log, output is not None)
        watching = stack.enter_context(ExitStack())
        if watch is not None:
            watch(kernel, watching)
        cwd = cwd or start_directory(home, root, files)
        kernel.log.sinks.append(console_message)
        status = EXIT_STUCK
        try:
            with HostTerminal(kernel.console) as host:
                for argv in candidates:
                    result = kernel.run(argv, env=environ, cwd=cwd, uid=uid, gid=gid, streams=host.streams)
                    if result.exec_error != ENOENT or result.failed_path:
                        break
            status = result.status
            if result.exec_error:
                explain(argv[0], result, files, environ, cwd)
            watching.close()
            if any(disk.keeps for disk in kernel.params.disks):
                kernel.shutdown()
        except KernelStopped as e:
            print(f"glasskernel: {str(e).splitlines()[0]}", file=sys.stderr)
        watching.close()
        if kernel.oopses:
            print(f"glasskernel: {kernel.oops_count} oops: that is a bug in Glasskernel", file=sys.stderr)
            if os.environ.get("GLASSKERNEL_TRACEBACK") == "1":
                print(*kernel.oopses, sep="\n", file=sys.stderr)
        if report:
            show(kernel, time.perf_counter() - started)
        return status


def environment(settings: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """The guest's environment: nothing of the host's but what was asked for (and the kind of terminal)."""
    env = {"PATH": DEFAULT_PATH}
    if sys.stdin.isatty():
        env["TERM"] = os.environ.get("TERM", "dumb")
    for key, value in settings:
        if value is None:
            env.pop(key, None)
        else:
            env[key] = value
    return env


def console_message(record: PrintkLog) -> None:
    """The kernel's emergencies (an oops, a panic) go to stderr; \\r because the terminal may be raw."""
    if record.level & 7 <= KERN_CRIT:
        os.write(2, record.text + (b"\r\n" if os.isatty(2) else b"\n"))


def identity(user: tuple[int | str, int | None] | None, files: GuestFiles) -> tuple[int, int, str]:
    """(uid, gid, home) of who the program is to be."""
    name, gid = user or (0, 0)
    if isinstance(name, int):
        return name, name if gid is None else gid, "/root" if name == 0 else "/"
    from glasskernel.cli.guest_files import look_up_user

    passwd = files.read("/etc/passwd")
    found = look_up_user(passwd[0], name) if passwd else None
    if found is None:
        raise click.UsageError(f"--user: the guest's /etc/passwd has no user {name!r}")
    return found


def start_directory(home: str, root: str | RootImage | None, files: GuestFiles) -> str:
    """Without --cwd: home if the guest has it, else /. The default root has no home but /root."""
    exists = home == "/root" if root is None else files.is_directory(home)
    return home if exists else "/"


def explain(program: str, result: Result, files: GuestFiles, env: dict[str, str], cwd: str) -> None:
    """The one line after an execve that failed."""
    from glasskernel.lib.errno import strerror

    reason = strerror(result.exec_error)
    failed = os.fsdecode(result.failed_path)
    if failed == cwd and program != cwd:
        print(f"glasskernel: --cwd {cwd}: {reason}", file=sys.stderr)
        return
    path = failed or files.which(program, env.get("PATH", DEFAULT_PATH), cwd)
    found = files.read(path, 4096, cwd)
    if result.exec_error == ENOENT and found is not None and found[0][:2] in (b"#!", b"\x7fE"):
        reason = "its interpreter is missing"
    elif result.exec_error == ENOENT and "/" not in program:
        reason = "command not found"
    elif found is not None and result.exec_error in (ENOEXEC, ELIBBAD):
        from glasskernel.cli.exec_error import describe_exec_failure

        reason = f"{reason} ({describe_exec_failure(*found)})"
    print(f"glasskernel: {path}: cannot run: {reason}", file=sys.stderr)


def show(kernel: Kernel, host_seconds: float) -> None:
    """--report."""
    from glasskernel.arch.x86.syscalls_64 import SYSCALL_NAMES
    from glasskernel.cli.report import RunReport, show_report
    from glasskernel.kernel.sched.core import nr_context_switches
    from glasskernel.mm.page_alloc import PGFAULT, PGMAJFAULT

    major = kernel.mem.vm_event[PGMAJFAULT]
    counts = {
        "minor page faults": kernel.mem.vm_event[PGFAULT] - major,
        "major page faults": major,
        "context switches": nr_context_switches(kernel),
        "processes": kernel.pids.total_forks,
    }
    enosys = {SYSCALL_NAMES.get(nr, f"#{nr}"): count for nr, count in kernel.enosys.items()}
    report = RunReport(host_seconds, kernel.now_ns, kernel.syscall_statistics(), enosys, counts)
    show_report(report, sys.stderr)


def open_log(path: str | None, stack: ExitStack) -> Callable[[str], None]:
    """Where --strace writes: stderr, or a file that is closed at the end. Guest strings may hold any byte."""
    fd = 2
    if path is not None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as e:
            raise click.UsageError(f"-o {path}: {e.strerror}") from None
    if path is None and os.isatty(2):
        # The guest may have put this terminal into raw mode.
        return lambda text: _write_all(2, text.replace("\n", "\r\n"))
    # Whole lines go out at once, so that they do not mix with what the program writes to our stderr.
    stream = open(fd, "w", buffering=1, encoding="utf-8", errors="surrogateescape", closefd=path is not None)  # noqa: SIM115
    stack.enter_context(stream)

    def write(text: str) -> None:
        stream.write(text)

    return write


def _write_all(fd: int, text: str) -> None:
    data = text.encode(errors="surrogateescape")
    while data:
        data = data[os.write(fd, data) :]


def unpack(archive: str, stack: ExitStack) -> str:
    """A tar archive as a host directory that lives as long as the run; the guest writes into memory."""
    import shutil
    import tempfile

    from glasskernel.cli.unpack import BadArchive, unpack_tar

    folder = tempfile.mkdtemp(prefix="glasskernel-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    try:
        unpack_tar(archive, folder)
    except BadArchive as e:
        raise click.UsageError(f"--root: {archive} cannot be unpacked: {e}") from None
    return folder
