"""Memory policies, the areas that tasks remember, what is promised, and files that are closed late."""
from __future__ import annotations

HEAD = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define CHECK(c) do { if (!(c)) { printf("%d: %s errno %d\n", __LINE__, #c, errno); return 1; } } while (0)
static long set(int mode, unsigned long *mask, unsigned long max) { return syscall(SYS_set_mempolicy, mode, mask, max); }
static long get(int *mode, unsigned long *mask, unsigned long max, void *at, long flags) {
    return syscall(SYS_get_mempolicy, mode, mask, max, at, flags); }
static long bind_(void *at, long len, int mode, unsigned long *mask, unsigned long max, int flags) {
    return syscall(SYS_mbind, at, len, mode, mask, max, flags); }
enum { DEFAULT, PREFERRED, BIND, INTERLEAVE, LOCAL };
"""


def test_set_mempolicy_and_get_mempolicy(run_c):
    """set_mempolicy(2): children inherit it; a policy without any node that exists is EINVAL."""
    result = run_c(HEAD + r"""
int main(void) {
    unsigned long one = 1, two = 2, both = 3, seen = 0; int mode = -1, st;
    CHECK(!get(&mode, &seen, 64, 0, 0) && mode == DEFAULT && seen == 0);
    CHECK(!set(BIND, &one, 64) && !get(&mode, &seen, 64, 0, 0) && mode == BIND && seen == 1);
    if (!fork()) _exit(get(&mode, &seen, 64, 0, 0) || mode != BIND);
    wait(&st); CHECK(st == 0);
    CHECK(set(BIND, &two, 64) == -1 && errno == EINVAL);
    CHECK(set(BIND, 0, 0) == -1 && errno == EINVAL);
    CHECK(set(DEFAULT, &one, 64) == -1 && errno == EINVAL);
    CHECK(set(77, &one, 64) == -1 && errno == EINVAL);
    CHECK(!set(INTERLEAVE, &both, 64) && !get(&mode, &seen, 64, 0, 0) && mode == INTERLEAVE && seen == 1);
    CHECK(!get(&mode, 0, 0, 0, 1) && mode == 0);                            /* MPOL_F_NODE: the next one */
    CHECK(!get(0, &seen, 64, 0, 4) && seen == 1);                           /* MPOL_F_MEMS_ALLOWED */
    CHECK(!set(DEFAULT, 0, 0) && get(&mode, 0, 0, 0, 1) == -1 && errno == EINVAL);
    CHECK(get(&mode, 0, 0, &mode, 0) == -1 && errno == EINVAL);
    CHECK(!get(&mode, 0, 0, &mode, 3) && mode == 0);                        /* the node of a page */
    return 0; }""")
    assert result.status == 0, result.stdout


def test_mbind_splits_areas_and_forbids_holes(run_c):
    """mbind(2): the policy belongs to the range; areas with different policies stay apart."""
    result = run_c(HEAD + r"""
int main(void) {
    unsigned long one = 1; int mode;
    char *p = mmap(0, 16 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(!bind_(p + 4 * 4096, 4 * 4096, BIND, &one, 64, 0));
    memset(p, 1, 16 * 4096);
    CHECK(!get(&mode, 0, 0, p + 5 * 4096, 2) && mode == BIND);
    CHECK(!get(&mode, 0, 0, p, 2) && mode == DEFAULT && !get(&mode, 0, 0, p + 9 * 4096, 2) && mode == DEFAULT);
    CHECK(bind_(p + 1, 4096, BIND, &one, 64, 0) == -1 && errno == EINVAL);
    CHECK(!munmap(p + 12 * 4096, 4096) && bind_(p, 16 * 4096, BIND, &one, 64, 0) == -1 && errno == EFAULT);
    CHECK(!mprotect(p + 5 * 4096, 4096, PROT_READ) && !mprotect(p + 5 * 4096, 4096, 3));
    CHECK(!get(&mode, 0, 0, p + 5 * 4096, 2) && mode == BIND);
    return 0; }""")
    assert result.status == 0, result.stdout


def test_an_area_that_another_thread_unmaps_is_forgotten(run_c):
    """vmacache: what one thread remembers is wrong as soon as another changes the map."""
    result = run_c(HEAD + r"""
#include <setjmp.h>
#include <signal.h>
static char *p; static sigjmp_buf back; static volatile int step;
static void caught(int s) { siglongjmp(back, 1); }
static void *other(void *a) { while (step != 1); munmap(p, 8192); step = 2; return 0; }
int main(void) {
    pthread_t t; signal(SIGSEGV, caught);
    p = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); p[0] = 1;
    pthread_create(&t, 0, other, 0); step = 1; while (step != 2);
    if (!sigsetjmp(back, 1)) { p[4096] = 1; return 2; }
    pthread_join(t, 0);
    return 0; }""")
    assert result.status == 0


def test_the_commit_limit_counts_when_overcommit_is_off(boot):
    """proc(5), overcommit_memory 2: more than CommitLimit is refused, also to fork(2)."""
    kernel = boot()
    result = kernel.run(["/bin/bash", "-c", "echo 2 > /proc/sys/vm/overcommit_memory; echo 1 > /proc/sys/vm/overcommit_ratio\n"
                         "python3 -c 'import mmap; mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)'; echo $?; echo 0 > /proc/sys/vm/overcommit_memory"])
    assert result.stdout.splitlines()[-1:] != [b"0"]


def test_a_file_is_released_before_close_returns(run_c):
    """task_work: ->release() runs on the way back to user mode, so the other end of a pipe sees it at once."""
    result = run_c(HEAD + r"""
int main(void) {
    int p[2], q[2]; char c;
    CHECK(!pipe(p) && !close(p[1]) && read(p[0], &c, 1) == 0);
    CHECK(!pipe(q)); pid_t k = fork();
    if (!k) { close(q[1]); _exit(read(q[0], &c, 1) != 0); }
    int st; close(q[0]); close(q[1]); CHECK(waitpid(k, &st, 0) == k && st == 0);
    return 0; }""")
    assert result.status == 0, result.stdout
