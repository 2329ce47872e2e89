"""What no input may do: the right error for each, inside and from the command line, and never a traceback."""
import os
import struct
import subprocess
import sys

import pytest

from glasskernel import Share
from tests.conftest import PROGRAMS

ENOEXEC, EACCES, ELIBBAD = 8, 13, 80
TRUE = "int main(void) { return 0; }"


def patched(image, offset, fmt, value):
    return image[:offset] + struct.pack(fmt, value) + image[offset + struct.calcsize(fmt) :]


def wrong_elves(image):
    """name -> a file that starts like a program and is none."""
    phoff = struct.unpack_from("<Q", image, 32)[0]
    return {
        "empty": b"",
        "a single byte": b"\x7f",
        "not a program": b"\x00\x01\x02\x03 this is nothing" * 10,
        "only the magic number": image[:4],
        "half an ELF header": image[:32],
        "no program headers behind it": image[:64],
        "32-bit": patched(patched(image, 4, "B", 1), 18, "<H", 3),
        "big-endian": patched(image, 5, "B", 2),
        "for ARM": patched(image, 18, "<H", 40),
        "for AArch64": patched(image, 18, "<H", 183),
        "an object file": patched(image, 16, "<H", 1),
        "a core file": patched(image, 16, "<H", 4),
        "program headers of another size": patched(image, 54, "<H", 55),
        "no program header": patched(image, 56, "<H", 0),
        "too many program headers": patched(image, 56, "<H", 0xFFFE),
        "program headers beyond the end": patched(image, 32, "<Q", len(image) + 5),
        "program headers at a wild offset": patched(image, 32, "<Q", 1 << 63),
        "a truncated first segment": image[: phoff + 56 * struct.unpack_from("<H", image, 56)[0]],
    }


NAMES = sorted(wrong_elves(bytes(4096)))


def cli(*args, **options):
    command = [sys.executable, "-m", "glasskernel", "run", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_program_is_enoexec_inside_as_on_linux(name, boot, build_c, tmp_path, host):
    """execve(2): ENOEXEC: an executable is not in a recognized format, is for the wrong architecture, ..."""
    binary = wrong_elves(build_c(TRUE).read_bytes())[name]
    path = tmp_path / "program"
    path.write_bytes(binary)
    path.chmod(0o755)
    code = ("import os, sys\ntry: os.execv(sys.argv[1], ['x'])\nexcept OSError as e: print(e.errno)")
    expected = host(["/usr/bin/python3", "-c", code, str(path)])
    result = boot(shares=[Share(str(tmp_path), "/t")]).run(["/usr/bin/python3", "-c", code, "/t/program"])
    assert (result.status, result.stdout) == (expected.status, expected.stdout)


@pytest.mark.parametrize("name", ["32-bit", "for ARM", "half an ELF header", "not a program", "empty"])
def test_the_command_line_says_so_in_one_line(name, build_c, tmp_path):
    path = tmp_path / "program"
    path.write_bytes(wrong_elves(build_c(TRUE).read_bytes())[name])
    path.chmod(0o755)
    done = cli("--share", f"{tmp_path}:/t", "--", "/t/program")
    assert done.returncode == 126
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("glasskernel: /t/program: cannot run: Exec format error (")
    assert done.stdout == ""


def test_a_missing_program_is_127_and_one_that_may_not_run_126(tmp_path):
    (tmp_path / "data").write_text("no x bit")
    done = cli("--", "/no/such/program")
    assert (done.returncode, done.stderr) == (
        127, "glasskernel: /no/such/program: cannot run: No such file or directory\n",
    )
    done = cli("--", "nosuchcommand")
    assert (done.returncode, done.stderr) == (127, "glasskernel: nosuchcommand: cannot run: command not found\n")
    done = cli("--share", f"{tmp_path}:/t", "--", "/t/data")
    assert (done.returncode, done.stderr) == (126, "glasskernel: /t/data: cannot run: Permission denied\n")
    done = cli("--", "/etc")
    assert (done.returncode, done.stderr) == (126, "glasskernel: /etc: cannot run: Permission denied\n")


def test_random_damage_to_a_program_never_hurts_the_kernel(boot, build_c, tmp_path):
    """Headers with random bytes changed: ENOEXEC, a signal, or by luck it runs; the kernel goes on."""
    import random

    image = build_c(TRUE).read_bytes()
    rng = random.Random(5)
    for number in range(60):
        damaged = bytearray(image)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(4, 64 + 56 * 6)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path = tmp_path / f"p{number}"
        path.write_bytes(damaged)
        path.chmod(0o755)
    script = "ulimit -v 4000000; ulimit -t 5; for p in /t/p*; do timeout -s KILL 2 $p; done 2>/dev/null; echo alive"
    result = boot(shares=[Share(str(tmp_path), "/t")]).run(["/bin/bash", "-c", script])
    assert result.stdout.endswith(b"alive\n")


# ---- wild pointers and limits ----------------------------------------------------------------------------------------

def test_wild_pointers_in_every_system_call_are_errors_only(run_c):
    """Every number 0..450 with pointers that point nowhere: an error or success, never an oops (panic on oops is on)."""
    result = run_c(PROGRAMS / "wild_pointers.c")
    assert result.status == 0, result.stdout[-500:]
    assert result.stdout.endswith(b"alive\n")


def test_reading_into_bad_memory_is_efault(run_c):
    result = run_c("""
#include "check.h"
#include <sys/uio.h>
int main(void) {
    char *ro = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *bad = (char *)0x1234;
    int zero = open("/dev/zero", O_RDONLY), p[2], f = open("/tmp/f", O_RDWR | O_CREAT, 0600);
    pipe(p); write(f, "hello", 5); write(p[1], "hello", 5);
    CHECK("a device", FAILS(read(zero, bad, 10), EFAULT));
    CHECK("a read-only page", FAILS(read(zero, ro, 10), EFAULT));
    CHECK("a file", FAILS(pread(f, bad, 5, 0), EFAULT));
    CHECK("a pipe", FAILS(read(p[0], bad, 5), EFAULT));
    CHECK("kernel memory", FAILS(read(zero, (void *)0xffff888000000000, 8), EFAULT));
    CHECK("writing from bad memory", FAILS(write(p[1], bad, 5), EFAULT));
    char *two = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(two + 4096, 4096);
    CHECK("a short count where only the beginning is good", read(zero, two + 4000, 500) == 96);
    CHECK("a path", FAILS(open(bad, O_RDONLY), EFAULT));
    CHECK("an argument vector", FAILS(execve("/bin/true", (char **)8, NULL), EFAULT));
    struct iovec v[2] = {{two, 10}, {bad, 10}};
    CHECK("readv: what came before counts", readv(zero, v, 2) == 10);
    CHECK("a signal set", FAILS(syscall(SYS_rt_sigprocmask, 0, bad, 0, 8), EFAULT));
    CHECK("a status word", (fork() || (_exit(0), 0)) && FAILS(wait4(-1, (int *)bad, 0, NULL), EFAULT));
    DONE();
}""")
    assert result.status == 0, result.stdout.decode()


def test_a_fork_bomb_stops_at_the_limit_of_processes(run):
    """setrlimit(2): RLIMIT_NPROC: fork(2) fails with the error EAGAIN."""
    script = "ulimit -u 60; bomb() { bomb | bomb & }; bomb; sleep 2; echo alive"
    result = run(["/bin/bash", "-c", script], uid=1000, gid=1000, cwd="/tmp")
    assert b"alive" in result.stdout
    assert b"Resource temporarily unavailable" in result.stderr


def test_ten_thousand_open_files_and_then_emfile(run_c):
    result = run_c("""
#include "check.h"
int main(void) {
    struct rlimit limit = {10003, 10003};
    int fd = -1, n = 3;
    CHECK("setrlimit", setrlimit(RLIMIT_NOFILE, &limit) == 0);
    while ((fd = open("/dev/null", O_RDONLY)) >= 0)
        n = fd + 1;
    int why = errno;
    CHECK("EMFILE", why == EMFILE);
    CHECK("after ten thousand", n == 10003);
    CHECK("so for a pipe", FAILS(pipe((int[2]){0}), EMFILE));
    CHECK("and dup", FAILS(dup(0), EMFILE));
    close(500);
    CHECK("the lowest free number comes back", open("/dev/null", O_RDONLY) == 500);
    DONE();
}""")
    assert result.status == 0, result.stdout.decode()


def test_paths_too_deep_too_long_or_circular(agree):
    """path_resolution(7): ELOOP after 40 links, ENAMETOOLONG at 255 and 4096 bytes."""
    agree("""
        ln -s a b; ln -s b a; cat a; ln -s self self; cat self/x; cat $(printf %05000d 0); cat $(printf %0256d 0)
        touch $(printf %0255d 0) && ls | wc -l; x=f; for i in $(seq 41); do ln -s $x l$i; x=l$i; done; echo hi >f; cat l40; cat l41
        p=$(printf 'a/%.0s' $(seq 2100)); ls $p; cat f/; cat f/x; ls ''""")


def test_a_runaway_stack_is_a_segmentation_fault(run_c):
    source = "int f(int n) { volatile char a[4096]; a[0] = n; return f(n + 1) + a[0]; } int main(void) { return f(0); }"
    assert run_c(source, flags=("-O0", "-static", "-w")).status == 139


def test_a_memory_hog_gets_enomem_or_is_killed_and_the_kernel_lives(boot, build_c):
    hog = build_c("""
#include "check.h"
int main(int argc, char **argv) {
    long got = 0;
    for (;;) {
        char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) break;
        memset(p, 1, 1 << 20);
        got++;
    }
    printf("ENOMEM after %ld MB\\n", got);
    return errno != ENOMEM;
}""")
    kernel = boot(memory=64 << 20, shares=[Share(str(hog.parent), "/programs")])
    result = kernel.run([f"/programs/{hog.name}"])
    assert result.status in (0, 128 + 9, 128 + 7), result
    assert kernel.run(["/bin/echo", "alive"]).stdout == b"alive\n"
    limited = kernel.run(["/bin/sh", "-c", f"ulimit -v 20000; exec /programs/{hog.name}"])
    assert (limited.status, limited.stdout[:6]) == (0, b"ENOMEM")
    filled = kernel.run(["/bin/sh", "-c", "cat /dev/zero >/tmp/full; echo $?; rm /tmp/full; echo alive"])
    assert filled.stdout == b"1\nalive\n"
    assert b"No space left on device" in filled.stderr


def test_a_program_larger_than_memory_cannot_take_the_kernel_with_it(boot):
    kernel = boot(memory=32 << 20)
    kernel.run(["/usr/bin/python3", "-c", "x = bytearray(100 << 20)"])
    assert kernel.run(["/bin/echo", "alive"]).stdout == b"alive\n"


# ---- a bug of ours ---------------------------------------------------------------------------------------------------

def test_a_bug_in_the_kernel_kills_one_task_and_is_told_in_dmesg(boot):
    kernel = boot(cmdline="")

    def broken(_regs):
        return 1 // 0

    from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS

    kernel.sys_call_table[SYSCALL_NUMBERS["sync"]] = broken
    result = kernel.run(["/bin/bash", "-c", "echo before; sync; echo $?; echo after"])
    assert result.stdout == b"before\n139\nafter\n"
    log = kernel.dmesg()
    assert "BUG: ZeroDivisionError: integer division or modulo by zero" in log
    assert "Comm: sync" in log
    assert "RIP: 0033:0x" in log and "RAX: " in log
    assert "Call Trace:" in log and " do_syscall_64 (" in log and " broken (" in log
    assert "User backtrace:" in log
    assert len(kernel.oopses) == 1
    assert kernel.run(["/bin/echo", "alive"]).stdout == b"alive\n"


def test_panic_on_oops_ends_the_machine_with_one_python_exception(boot):
    from glasskernel import Kernel

    kernel = Kernel(cmdline="oops=panic")
    kernel.sys_call_table[39] = lambda _regs: [][1]
    with pytest.raises(RuntimeError, match="kernel panic: IndexError"):
        kernel.run(["/bin/sh", "-c", "echo $PPID; exec /usr/bin/python3 -c 'import os; os.getpid()'"])
    kernel.close()


def test_nothing_the_guest_prints_breaks_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "glasskernel", "run", "--", "/bin/sh", "-c", r"printf '\377\376\000\033[31m'; exit 9"],
        capture_output=True, timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, b"\xff\xfe\x00\x1b[31m", b"")


def test_a_closed_standard_output_is_sigpipe_for_the_guest():
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "glasskernel", "run", "--", "/usr/bin/yes"],
        stdout=write_end, stderr=subprocess.PIPE, timeout=120,
    )
    os.close(write_end)
    assert done.returncode in (141, -13)
    assert b"Traceback" not in done.stderr
