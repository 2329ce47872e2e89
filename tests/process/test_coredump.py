"""core(5): when a core file is written, and that a debugger can read it."""
import struct

import pytest
from elftools.elf.elffile import ELFFile

from glasskernel import Share

CRASH = r"""
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
static void *waits(void *arg) { for (;;) pause(); }
int main(int argc, char **argv)
{
    pthread_t t;
    char *page = mmap((void *)0x10000000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    strcpy(page, "what was in memory");
    if (argc > 1) prctl(PR_SET_DUMPABLE, 0);
    pthread_create(&t, 0, waits, 0);
    usleep(1000);
    *(volatile int *)0x1234 = 1;
}
"""


@pytest.fixture
def crash(build_c, boot, tmp_path):
    """crash(shell text) -> Result; the program is $CRASH, the working directory is tmp_path."""
    binary = build_c(CRASH, "-O1", "-static", "-pthread", "-w")

    def run(script):
        kernel = boot(shares=[Share(str(binary.parent), "/programs"), Share(str(tmp_path), "/out", True)])
        return kernel.run(["/bin/sh", "-c", f"CRASH=/programs/{binary.name}; cd /out; {script}"])

    return run


def notes(core):
    return [n for segment in core.iter_segments() if segment["p_type"] == "PT_NOTE" for n in segment.iter_notes()]


def test_a_debugger_finds_threads_signal_and_memory(crash, tmp_path):
    done = crash("ulimit -c unlimited; $CRASH; echo $?")
    assert done.stdout == b"139\n"
    assert b"core dumped" in done.stderr
    with (tmp_path / "core").open("rb") as file:
        core = ELFFile(file)
        assert core["e_type"] == "ET_CORE"
        found = notes(core)
        assert sum(n["n_type"] == "NT_PRSTATUS" for n in found) == 2
        siginfo = next(n for n in found if n["n_type"] in ("NT_SIGINFO", 0x53494749))["n_descdata"]
        assert struct.unpack_from("<iii", siginfo) == (11, 0, 1)
        assert struct.unpack_from("<Q", siginfo, 16) == (0x1234,)
        area = next(s for s in core.iter_segments() if s["p_vaddr"] == 0x10000000)
        assert area.data().rstrip(b"\0") == b"what was in memory"
        assert area["p_filesz"] == 8192


@pytest.mark.parametrize("script", ["$CRASH", "ulimit -c unlimited; $CRASH undumpable",
                                    "ulimit -c unlimited; mkdir core; $CRASH"])
def test_no_core_and_no_core_bit(crash, tmp_path, script):
    done = crash(f"{script}; echo $?")
    assert done.stdout == b"139\n"
    assert b"core dumped" not in done.stderr
    assert not (tmp_path / "core").is_file()


def test_the_limit_cuts_the_core(crash, tmp_path):
    assert b"core dumped" in crash("ulimit -c 16; $CRASH").stderr
    assert (tmp_path / "core").stat().st_size == 16 * 512
