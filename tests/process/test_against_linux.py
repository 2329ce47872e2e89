"""Process life against Linux: each program of c/ prints here what it printed there.

c/NAME.linux was recorded by `python tests/process/test_against_linux.py`, as root on a real kernel: a host under a
container's system-call filter would answer otherwise.
"""
import pathlib
import subprocess
import sys
import tempfile

import pytest

PROGRAMS = sorted((pathlib.Path(__file__).parent / "c").glob("*.c"))


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.stem)
def test_same_as_linux(source, run_c):
    guest = run_c(source)
    assert guest.stdout.decode() == source.with_suffix(".linux").read_text()
    assert (guest.status, guest.stderr) == (0, b"")


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("name", ["threads", "futexes", "jobs"])
def test_the_number_of_cpus_changes_nothing(name, cpus, run_c):
    source = PROGRAMS[0].parent / f"{name}.c"
    assert run_c(source, cpus=cpus).stdout.decode() == source.with_suffix(".linux").read_text()


def record():
    with tempfile.TemporaryDirectory() as scratch:
        for source in PROGRAMS:
            binary = f"{scratch}/{source.stem}"
            subprocess.run(["gcc", "-w", "-O1", "-static", "-pthread", source, "-o", binary], check=True)
            done = subprocess.run([binary], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
            assert (done.returncode, done.stderr) == (0, b""), (source, done)
            source.with_suffix(".linux").write_bytes(done.stdout)


if __name__ == "__main__":
    sys.exit(record())
