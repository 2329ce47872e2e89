"""What every test may use: a booted kernel, guest programs in C, the host's Linux as the reference, and invariants.

boot(**machine)           a Kernel; afterwards it had no oops and leaked nothing
run(command, ...)         one program, or a line of shell, on a fresh kernel
build_c(source)           compiles C, once
run_c(source, *argv)      a C program on a fresh kernel
host(command, ...)        the same command on this host's own Linux
agree(script, ...)        a shell script on both: the same output, the same status
"""
from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import pytest

# Whoever runs us in the background may have set these to be ignored, and our children would inherit that.
for _signal in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
CACHE = pathlib.Path(tempfile.gettempdir()) / f"glasskernel-test-programs-{os.getuid()}"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C", "TZ": "UTC"}
STATIC = ("-O1", "-static", "-pthread")


def need(tool: str, package: str) -> str:
    """Path of a tool; a test that needs a missing one fails with the hint."""
    path = shutil.which(tool, path=PATH)
    if path is None:
        pytest.fail(f"{tool} is missing: apt-get install {package} (or: make test)")
    return path


class TookTooLongError(BaseException):
    """Not an Exception: the kernel under test would take that for an oops of its own."""


@pytest.fixture(autouse=True)
def patience(request):
    """No test hangs: after 60 s (or @pytest.mark.patience(seconds)) it fails where it is."""

    def give_up(_signo, _frame):
        raise TookTooLongError(f"{request.node.name}: took more than {seconds} s")

    marker = request.node.get_closest_marker("patience")
    seconds = marker.args[0] if marker else int(os.environ.get("GLASSKERNEL_TEST_PATIENCE", "60"))
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


COLLECT_EVERY = 10
closed_kernels = [0]


@pytest.fixture(autouse=True)
def close_kernels(monkeypatch):
    """Every kernel that a test makes is closed afterwards: its suspended stacks would keep its descriptors for ever."""
    from glasskernel.init.kernel import Kernel

    made = []
    boot = Kernel.__init__

    def note(self, *arguments, **options):
        made.append(self)
        boot(self, *arguments, **options)

    monkeypatch.setattr(Kernel, "__init__", note)
    yield
    for kernel in made:
        if hasattr(kernel, "tty"):
            kernel.close()
            closed_kernels[0] += 1
    if closed_kernels[0] >= COLLECT_EVERY:         # each is one large cycle, with an engine of 80 MB
        closed_kernels[0] = 0
        del kernel, made
        gc.collect()


@dataclasses.dataclass
class HostResult:
    """How a command ended on the host, in the words of glasskernel.Result."""

    status: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def host(tmp_path):
    """host(argv or shell text) -> HostResult on this host's Linux, in an empty directory."""

    def go(command, *, stdin=b"", env=None, cwd=None, timeout=60):
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        directory = cwd
        if directory is None:
            directory = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
        done = subprocess.run(
            argv, input=stdin, capture_output=True, env={**ENV, **(env or {})}, cwd=directory, timeout=timeout,
            umask=0o022,
        )
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return HostResult(status, done.stdout, done.stderr)

    return go


@pytest.fixture(scope="session")
def build_c():
    """Compiles C source once: build_c(source_text_or_path, *flags) -> path of the program."""
    gcc = need("gcc", "gcc libc6-dev")
    CACHE.mkdir(mode=0o755, exist_ok=True)
    assert CACHE.stat().st_uid == os.getuid(), f"{CACHE} belongs to somebody else"

    def build(source, *flags):
        path = pathlib.Path(source) if isinstance(source, pathlib.Path) else None
        text = path.read_text() if path else source
        headers = "".join(h.read_text() for h in sorted(PROGRAMS.glob("*.h")))
        flags = flags or STATIC
        key = hashlib.sha256("\0".join((text, headers, *flags)).encode()).hexdigest()[:24]
        binary = CACHE / key
        if not binary.exists():
            scratch = CACHE / f"{key}.{os.getpid()}"
            command = [gcc, "-x", "c", "-", "-o", str(scratch), f"-I{PROGRAMS}", *flags]
            done = subprocess.run(command, input=text.encode(), capture_output=True)
            assert done.returncode == 0, done.stderr.decode()
            scratch.rename(binary)
        return binary

    return build


@pytest.fixture
def boot():
    """boot(**options) -> Kernel; afterwards no kernel may have had an oops, or have lost anything.

    Without home=True (or GLASSKERNEL_TEST_HOME=1) there is no disk below /root, and disks= are left as they are.
    """
    from glasskernel import Kernel

    kernels = []

    def make(**options):
        options.setdefault("cmdline", "oops=panic")
        options.setdefault("home", os.environ.get("GLASSKERNEL_TEST_HOME") == "1")
        kernel = Kernel(**options)
        kernels.append(kernel)
        return kernel

    yield make
    from glasskernel.tools.invariants import check_kernel

    try:
        for kernel in kernels:
            if kernel.sysctl.panic_on_oops:
                assert not kernel.oopses, kernel.oopses[0]
            assert check_kernel(kernel) == []
    finally:
        for kernel in kernels:
            kernel.close()


@pytest.fixture
def run(boot):
    """run(argv or shell text, **options) -> Result of that program on a fresh kernel."""

    def go(command, *, stdin=b"", env=None, cwd="/root", uid=0, gid=0, **options):
        kernel = boot(**options)
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        return kernel.run(argv, stdin=stdin, env={**ENV, **(env or {})}, cwd=cwd, uid=uid, gid=gid)

    return go


@pytest.fixture
def run_c(boot, build_c):
    """run_c(source, *argv, **options) -> Result of a C program inside; its directory is shared at /programs."""
    from glasskernel import Share

    def go(source, *argv, stdin=b"", flags=(), uid=0, gid=0, env=None, cwd="/root", **options):
        binary = build_c(source, *flags)
        options["shares"] = [*options.get("shares", ()), Share(str(binary.parent), "/programs")]
        environment = {**ENV, **(env or {})}
        return boot(**options).run(
            [f"/programs/{binary.name}", *argv], stdin=stdin, env=environment, cwd=cwd, uid=uid, gid=gid
        )

    return go


def without_pids(text):
    """bash: line 5:  4664 Killed  sleep 10"""
    return re.sub(r"(line \d+:) +\d+ ", r"\1 PID ", text)


@pytest.fixture
def agree(host, boot):
    """agree(script) runs it on this host's Linux and on Glasskernel, each in an empty directory, as the same user.

    Output and status must be the same; answers Glasskernel's Result. shell: which program reads the script.
    stderr=False: what is written there may differ.
    """

    def go(script, *, shell="/bin/bash", stdin=b"", env=None, stderr=True, **options):
        argv = [shell, "-c", script]
        expected = host(argv, stdin=stdin, env=env)
        if options or "kernel" not in state:
            state["kernel"] = boot(**options)
        kernel = state["kernel"]
        state["runs"] = state.get("runs", 0) + 1
        directory = f"/tmp/{state['runs']}"
        uid, gid = os.getuid(), os.getgid()
        assert kernel.run(["/bin/mkdir", directory], uid=uid, gid=gid).status == 0
        result = kernel.run(argv, stdin=stdin, env={**ENV, **(env or {})}, cwd=directory, uid=uid, gid=gid)
        errors = result.stderr.decode("latin-1")
        assert result.stdout.decode("latin-1") == expected.stdout.decode("latin-1"), errors
        if stderr:
            assert without_pids(errors) == without_pids(expected.stderr.decode("latin-1"))
        assert result.status == expected.status
        return result

    state = {}
    return go


def watch_calls(kernel, look):
    """look.enter(task, nr) and look.exit(task, nr, result) see every system call of this kernel."""
    from glasskernel.kernel.current import current
    from glasskernel.kernel.tracepoint import tracepoint_probe_register

    tracepoint_probe_register(kernel, "sys_enter", lambda regs, nr: look.enter(current(), nr))
    tracepoint_probe_register(
        kernel, "sys_exit", lambda regs, ret: look.exit(current(), current().thread.orig_ax, ret))
