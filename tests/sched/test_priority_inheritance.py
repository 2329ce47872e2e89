"""futex(2), FUTEX_LOCK_PI: the owner runs with the priority of the most important waiter."""
from __future__ import annotations

import re

import pytest

from glasskernel import Share

INVERSION = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static pthread_mutex_t lock; static volatile int held, stop; static long waited_us;
static long now_us(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000L + t.tv_nsec / 1000; }
static void spin_us(long us) { for (long end = now_us() + us; now_us() < end && !stop;); }
static void become(int priority) { struct sched_param p = {priority}; sched_setscheduler(0, priority ? SCHED_FIFO : SCHED_OTHER, &p); }
static void *low(void *a) { become(10); pthread_mutex_lock(&lock); held = 1; spin_us(3000); pthread_mutex_unlock(&lock); return 0; }
static void *middle(void *a) { become(20); spin_us(200000); return 0; }
static void *high(void *a) { become(30); long t = now_us(); pthread_mutex_lock(&lock); waited_us = now_us() - t; pthread_mutex_unlock(&lock); stop = 1; return 0; }
int main(int argc, char **argv) {
    cpu_set_t one; CPU_ZERO(&one); CPU_SET(0, &one); sched_setaffinity(0, sizeof one, &one);
    pthread_mutexattr_t attr; pthread_mutexattr_init(&attr);
    if (argc > 1) pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&lock, &attr);
    struct sched_param p = {50}; sched_setscheduler(0, SCHED_FIFO, &p);
    pthread_t l, m, h;
    pthread_create(&l, 0, low, 0);
    while (!held) usleep(100);
    pthread_create(&h, 0, high, 0);
    usleep(200);
    pthread_create(&m, 0, middle, 0);
    pthread_join(h, 0); pthread_join(m, 0); pthread_join(l, 0);
    printf("%ld\n", waited_us);
    return 0;
}
"""

CHAIN = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>
static pthread_mutex_t a, b; static volatile int step; static int tid[3];
static int prio_of(int pid) {                     /* field 18 of /proc/PID/stat: prio - 100 */
    char path[64], text[512]; int prio; snprintf(path, 64, "/proc/self/task/%d/stat", pid);
    FILE *f = fopen(path, "r"); fread(text, 1, 511, f); fclose(f);
    sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %d", &prio); return prio; }
static void become(int priority) { struct sched_param p = {priority}; sched_setscheduler(0, SCHED_FIFO, &p); }
static void *first(void *x) { tid[0] = syscall(SYS_gettid); pthread_mutex_lock(&a); step = 1; while (step < 4) usleep(100); pthread_mutex_unlock(&a); return 0; }
static void *second(void *x) { tid[1] = syscall(SYS_gettid); become(5); pthread_mutex_lock(&b); step = 2; pthread_mutex_lock(&a); pthread_mutex_unlock(&a); pthread_mutex_unlock(&b); return 0; }
static void *third(void *x) { tid[2] = syscall(SYS_gettid); become(40); step = 3; pthread_mutex_lock(&b); pthread_mutex_unlock(&b); return 0; }
int main(void) {
    pthread_mutexattr_t attr; pthread_mutexattr_init(&attr); pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&a, &attr); pthread_mutex_init(&b, &attr);
    pthread_t t[3];
    pthread_create(t, 0, first, 0); while (step < 1) usleep(100);
    printf("%d\n", prio_of(tid[0]));
    pthread_create(t + 1, 0, second, 0); while (step < 2) usleep(100); usleep(2000);
    printf("%d %d\n", prio_of(tid[0]), prio_of(tid[1]));
    pthread_create(t + 2, 0, third, 0); while (step < 3) usleep(100); usleep(2000);
    printf("%d %d %d\n", prio_of(tid[0]), prio_of(tid[1]), prio_of(tid[2]));
    struct sched_param p = {60}; sched_setscheduler(tid[2], SCHED_FIFO, &p);
    printf("%d %d %d\n", prio_of(tid[0]), prio_of(tid[1]), prio_of(tid[2]));
    step = 4; usleep(5000);
    pthread_join(t[0], 0); pthread_join(t[1], 0); pthread_join(t[2], 0);
    return 0;
}
"""


@pytest.mark.parametrize("preempt", ["none", "full"])
def test_a_middle_task_cannot_hold_up_a_high_one(run_c, preempt):
    """The classic inversion: low holds the lock, high wants it, middle computes for 200 ms."""
    options = {"cpus": 1, "cmdline": f"oops=panic preempt={preempt}"}
    with_pi = run_c(INVERSION, "pi", flags=("-pthread",), **options)
    assert with_pi.status == 0, with_pi.stderr
    assert int(with_pi.stdout) < 10_000
    without = run_c(INVERSION, flags=("-pthread",), **options)
    assert int(without.stdout) > 150_000


def test_the_boost_goes_along_a_chain_of_locks_and_ends_with_it(run_c):
    result = run_c(CHAIN, flags=("-pthread",), cpus=2)
    assert result.status == 0, result.stderr
    assert result.stdout.decode().split("\n")[:4] == ["20", "-6 -6", "-41 -41 -41", "-61 -61 -61"]


DEADLOCK = r"""
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static pthread_mutex_t a, b; static volatile int ready;
static void *other(void *x) { pthread_mutex_lock(&b); ready = 1; pthread_mutex_lock(&a); pthread_mutex_unlock(&a); pthread_mutex_unlock(&b); return 0; }
#include <linux/futex.h>
#include <sys/syscall.h>
int main(void) {
    pthread_mutexattr_t attr; pthread_mutexattr_init(&attr); pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&a, &attr); pthread_mutex_init(&b, &attr);
    pthread_mutex_lock(&a);
    pthread_t t; pthread_create(&t, 0, other, 0);
    while (!ready) usleep(100);
    usleep(2000);
    long r = syscall(SYS_futex, &b, FUTEX_LOCK_PI_PRIVATE, 0, 0);
    printf("%ld %d\n", r, errno == EDEADLK);
    pthread_mutex_unlock(&a);
    pthread_join(t, 0);
    return 0;
}
"""


def test_a_circle_of_owners_is_a_deadlock(run_c):
    result = run_c(DEADLOCK, flags=("-pthread",))
    assert result.stdout == b"-1 1\n"


def test_sched_pi_setprio_tells_of_each_boost_and_its_end(build_c, boot):
    binary = build_c(CHAIN, "-pthread")
    kernel = boot(cpus=2, shares=[Share(str(binary.parent), "/programs")])
    script = f"cd /sys/kernel/tracing; echo 1 > events/sched/sched_pi_setprio/enable; /programs/{binary.name} >/dev/null; cat trace"
    changes = re.findall(r"sched_pi_setprio: .* oldprio=(\d+) newprio=(\d+)", kernel.run(["sh", "-c", script]).stdout.decode())
    lifted = [("120", "94"), ("94", "59"), ("94", "59"), ("59", "39"), ("59", "39")]      # FIFO 5, 40 and 60 wait
    assert sorted(changes) == sorted([*lifted, ("39", "120"), ("39", "94")])
