"""seccomp(2): strict mode and filters, for the task that asked and its children only."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasskernel.kernel.seccomp import seccomp_check_filter
from glasskernel.lib.bpf import run_filter
from glasskernel.lib.errno import KernelError

HEAD = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define NR BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define IF(n, action) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n, 0, 1), BPF_STMT(BPF_RET | BPF_K, action)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
static int install(struct sock_filter *f, int n, int flags) {
    struct sock_fprog prog = {n, f};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog); }
#define FILTER(flags, ...) ({ struct sock_filter f[] = {__VA_ARGS__}; install(f, sizeof f / sizeof *f, flags); })
static int child(void (*function)(void)) { int status; fflush(stdout); if (!fork()) { function(); _exit(99); } wait(&status); return status; }
"""

MODES = HEAD + r"""
#define getppid() syscall(SYS_getppid)             /* the C library's knows no errors */
static void strict(void) { prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT); write(1, "alive\n", 6); syscall(SYS_exit, 7); }
static void strict_dies(void) { prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT); getpid(); }
static void errno_(void) { FILTER(0, NR, IF(SYS_getppid, SECCOMP_RET_ERRNO | 77), ALLOW);
    int r = getppid(); int e = errno; printf("%d %d %d\n", r, e, prctl(PR_GET_SECCOMP)); fflush(stdout);
    if (!fork()) { r = getppid(); printf("child %d\n", r); fflush(stdout); _exit(0); } wait(0); fflush(stdout); _exit(0); }
static void kill_(void) { FILTER(0, NR, IF(SYS_getppid, SECCOMP_RET_KILL_PROCESS), ALLOW); getppid(); }
static void handler(int s, siginfo_t *i, void *c) { printf("SIGSYS %d %d %d\n", i->si_code, i->si_errno, i->si_syscall); }
static void trap(void) { struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO}; sigaction(SIGSYS, &a, 0);
    FILTER(0, NR, IF(SYS_getppid, SECCOMP_RET_TRAP | 5), ALLOW); printf("%ld\n", syscall(SYS_getppid)); fflush(stdout); _exit(0); }
static void two(void) { FILTER(0, NR, IF(SYS_getppid, SECCOMP_RET_ERRNO | 1), ALLOW); FILTER(0, NR, IF(SYS_getppid, SECCOMP_RET_ERRNO | 2), ALLOW);
    getppid(); printf("%d\n", errno); FILTER(0, NR, IF(SYS_getppid, SECCOMP_RET_ALLOW), ALLOW); getppid(); printf("%d\n", errno); fflush(stdout); _exit(0); }
static void trace(void) { FILTER(0, NR, IF(SYS_getppid, SECCOMP_RET_TRACE), ALLOW); int r = getppid(); printf("%d %d\n", r, errno == ENOSYS); fflush(stdout); _exit(0); }
static void arguments(void) { FILTER(0, NR, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup2, 0, 3), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 50, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM), ALLOW);
    printf("%d", dup2(1, 40)); printf(" %d\n", dup2(1, 60)); fflush(stdout); _exit(0); }
static void execs(void) { FILTER(0, NR, IF(SYS_uname, SECCOMP_RET_ERRNO | EACCES), ALLOW); execlp("uname", "uname", NULL); }
int main(void) {
    int s = child(strict); printf("%d\n", WEXITSTATUS(s));
    s = child(strict_dies); printf("%d\n", WTERMSIG(s));
    child(errno_);
    s = child(kill_); printf("%d\n", WTERMSIG(s));
    child(trap); child(two); child(trace); child(arguments);
    s = child(execs); printf("%d\n", WEXITSTATUS(s));
    printf("%d %d\n", getppid() > 0, prctl(PR_GET_SECCOMP));
    return 0;
}
"""
EXPECTED = ["alive", "7", "9", "-1 77 2", "child -1", "31", "SIGSYS 1 5 110", "110", "2", "2", "-1 1", "40 -1", "1", "1 0"]


def test_modes_actions_and_inheritance(run_c):
    result = run_c(MODES)
    assert result.status == 0, result.stderr
    assert result.stdout.decode().split("\n")[:-1] == EXPECTED


THREADS = HEAD + r"""
static volatile int go;
static void *other(void *a) { while (go < 1) usleep(100); long r = syscall(SYS_getppid); printf("%d\n", r == -1 && errno == 88); go = 2;
    while (go < 3) usleep(100); r = syscall(SYS_getppid); printf("%d\n", r == -1 && errno == 88); return 0; }
int main(void) {
    pthread_t t; pthread_create(&t, 0, other, 0);
    FILTER(0, NR, IF(SYS_getuid, SECCOMP_RET_ERRNO | 88), ALLOW);
    go = 1; while (go < 2) usleep(100);
    printf("%d\n", FILTER(SECCOMP_FILTER_FLAG_TSYNC, NR, IF(SYS_getppid, SECCOMP_RET_ERRNO | 88), ALLOW));
    go = 3; pthread_join(t, 0);
    return 0;
}
"""


def test_tsync_gives_the_filters_to_all_threads(run_c):
    assert run_c(THREADS, flags=("-pthread",)).stdout == b"0\n0\n1\n"


ERRORS = HEAD + r"""
#define TRY(x) do { errno = 0; long r = x; printf("%ld %d\n", r, errno); } while (0)
int main(void) {
    struct sock_filter ok[] = {ALLOW}, load[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), ALLOW}, open_end[] = {NR};
    struct sock_fprog p = {1, ok};
    setuid(1000);
    TRY(syscall(SYS_seccomp, 1, 0, &p));
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    p.filter = load; p.len = 2; TRY(syscall(SYS_seccomp, 1, 0, &p));
    p.filter = open_end; p.len = 1; TRY(syscall(SYS_seccomp, 1, 0, &p));
    p.len = 0; TRY(syscall(SYS_seccomp, 1, 0, &p));
    TRY(syscall(SYS_seccomp, 1, 0, 0));
    TRY(syscall(SYS_seccomp, 9, 0, 0));
    unsigned action = SECCOMP_RET_ERRNO; printf("%ld", syscall(SYS_seccomp, 2, 0, &action));
    printf(" "); action = 0x12340000; TRY(syscall(SYS_seccomp, 2, 0, &action));
    p.filter = ok; p.len = 1; printf("%ld", syscall(SYS_seccomp, 1, 0, &p));
    printf(" %d\n", prctl(PR_SET_SECCOMP, 1));
    return 0;
}
"""


def test_errors(run_c):
    out = run_c(ERRORS).stdout.decode().split("\n")[:-1]
    assert out == ["-1 13", "-1 22", "-1 22", "-1 22", "-1 14", "-1 22", "0 -1 95", "0 -1"]


def test_status_shows_the_mode_and_calls_of_others_pay_nothing(boot):
    kernel = boot()
    assert kernel.run(["grep", "Seccomp", "/proc/self/status"]).stdout == b"Seccomp:\t0\n"
    assert not any(task.ti_flags & 1 << 8 for task in kernel.tasks)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_arithmetic_is_that_of_32_bits(a, k):
    def value(*body):
        return run_filter((*body, (0x16, 0, 0, 0)), lambda _size, _offset: a, 64)

    load = (0x20, 0, 0, 0)
    assert value(load, (0x04, 0, 0, k)) == (a + k) % 2**32
    assert value(load, (0x14, 0, 0, k)) == (a - k) % 2**32
    assert value(load, (0x24, 0, 0, k)) == a * k % 2**32
    assert value(load, (0x84, 0, 0, 0)) == -a % 2**32
    assert value(load, (0x54, 0, 0, k)) == a & k
    assert value(load, (0x07, 0, 0, 0), (0x00, 0, 0, k), (0xAC, 0, 0, 0)) == a ^ k
    assert value(load, (0x02, 0, 0, 3), (0x00, 0, 0, k), (0x60, 0, 0, 3)) == a
    if k:
        assert value(load, (0x34, 0, 0, k)) == a // k


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 4), st.integers(0, 4), st.integers(0, 80)), min_size=1, max_size=6),
       st.integers(0, 2**32 - 1))
def test_a_program_that_passes_the_check_ends(program, word):
    program = [*program, (0x06, 0, 0, 1)]
    try:
        seccomp_check_filter(program)
    except KernelError:
        return
    assert 0 <= run_filter(program, lambda _size, _offset: word, 64) < 2**32


def test_jumps_backwards_do_not_exist():
    with pytest.raises(KernelError):
        seccomp_check_filter([(0x05, 0, 0, 0xFFFF_FFFF), (0x06, 0, 0, 0)])
