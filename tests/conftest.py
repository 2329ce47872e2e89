"""What every test may use: a booted kernel, guest programs in C, and invariants that are checked afterwards."""
from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
CACHE = pathlib.Path(tempfile.gettempdir()) / f"glasskernel-test-programs-{os.getuid()}"


def need(tool: str, package: str) -> str:
    """Path of a tool; a test that needs a missing one fails with the hint."""
    path = shutil.which(tool)
    if path is None:
        pytest.fail(f"{tool} is missing: apt-get install {package} (or: make test)")
    return path


@pytest.fixture(scope="session")
def build_c():
    """Compiles C source once: build_c(source_text_or_path, *flags) -> path of the program."""
    gcc = need("gcc", "gcc libc6-dev")
    CACHE.mkdir(mode=0o700, exist_ok=True)

    def build(source, *flags):
        path = pathlib.Path(source) if isinstance(source, pathlib.Path) else None
        text = path.read_text() if path else source
        headers = "".join(h.read_text() for h in sorted(PROGRAMS.glob("*.h")))
        flags = flags or ("-O1", "-static", "-pthread")
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
    """boot(**options) -> Kernel; afterwards no kernel may have had an oops, or have lost anything."""
    from glasskernel import Kernel

    kernels = []

    def make(**options):
        options.setdefault("cmdline", "oops=panic")
        kernel = Kernel(**options)
        kernels.append(kernel)
        return kernel

    yield make
    from glasskernel.tools.invariants import check_kernel

    for kernel in kernels:
        assert not kernel.oopses, kernel.oopses[0]
        assert check_kernel(kernel) == []


@pytest.fixture
def run(boot):
    """run(argv or shell text, **options) -> Result of that program on a fresh kernel."""

    def go(command, *, stdin=b"", env=None, cwd="/root", uid=0, gid=0, **options):
        kernel = boot(**options)
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        return kernel.run(argv, stdin=stdin, env=env, cwd=cwd, uid=uid, gid=gid)

    return go


@pytest.fixture
def run_c(boot, build_c):
    """run_c(source, *argv, **options) -> Result of a C program inside; its directory is shared at /programs."""
    from glasskernel import Share

    def go(source, *argv, stdin=b"", flags=(), uid=0, gid=0, **options):
        binary = build_c(source, *flags)
        options["shares"] = [*options.get("shares", ()), Share(str(binary.parent), "/programs")]
        return boot(**options).run([f"/programs/{binary.name}", *argv], stdin=stdin, uid=uid, gid=gid)

    return go
