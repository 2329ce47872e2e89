"""bpf_shell(script, **machine): a line of shell inside; /bpf has the objects and loaders of tests/bpf/programs, compiled."""
from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess

import pytest

from tests.conftest import CACHE, ENV, need

SOURCES = pathlib.Path(__file__).parent / "programs"
OBJECT = ("clang", "-O2", "-Wall", "-Werror", "-g", "-target", "bpf", "-I/usr/include/x86_64-linux-gnu", "-c")


@pytest.fixture(scope="session")
def bpf_programs():
    """The directory with NAME.o for each BPF program and NAME for each loader (attach*.c)."""
    need("clang", "clang")
    sources = sorted(SOURCES.glob("*.c"))
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:24]
    directory = CACHE / f"bpf-{key}"
    if not directory.exists():
        CACHE.mkdir(mode=0o755, exist_ok=True)
        scratch = CACHE / f"{directory.name}.{hashlib.sha256(str(pathlib.Path.cwd()).encode()).hexdigest()[:8]}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o755)
        for source in sources:
            if source.stem.startswith("attach"):
                command = ["gcc", "-O1", "-Wall", "-Werror", str(source), "-o", str(scratch / source.stem), "-lbpf"]
            else:
                command = [*OBJECT, str(source), "-o", str(scratch / f"{source.stem}.o")]
            done = subprocess.run(command, capture_output=True)
            assert done.returncode == 0, done.stderr.decode()
        scratch.rename(directory)
    return directory


@pytest.fixture
def bpf_shell(boot, bpf_programs):
    from glasskernel import Share

    def go(script, **options):
        kernel = boot(shares=[Share(str(bpf_programs), "/bpf")], **options)
        return kernel.run(["/bin/sh", "-c", script], env=ENV, cwd="/root")

    return go


@pytest.fixture
def bpf_c(run_c):
    """bpf_c(body, **machine): the body of main() with insns.h in front; m is an array of one 8-byte value, h a hash."""
    prelude = (pathlib.Path(__file__).parent / "insns.h").read_text()

    def go(body, functions="", **options):
        source = (prelude + functions + "\nint main(int argc, char **argv) { free_memlock(); log_level = 1;\n"
                  "int m = map_new(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0), h = map_new(BPF_MAP_TYPE_HASH, 8, 48, 8, 0);\n"
                  + body + "\n}\n")
        return run_c(source, flags=("-O1", "-static", "-w"), **options)

    return go
