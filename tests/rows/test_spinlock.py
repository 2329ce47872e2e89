"""A153: spinlocks, the user's and the kernel's."""
import re

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.locking.spinlock import (
    SpinLock,
    _raw_spin_lock,
    _raw_spin_lock_bh,
    _raw_spin_unlock,
    _raw_spin_unlock_bh,
)
from glasskernel.kernel.sched.core import schedule_timeout_uninterruptible
from glasskernel.kernel.sched.types import SOFTIRQ_MASK

COUNT_C = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
static pthread_spinlock_t lock;
static volatile long total;
static volatile int ready;
static void *count(void *cpu) {
    cpu_set_t one; CPU_ZERO(&one); CPU_SET((long)cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    __sync_fetch_and_add(&ready, 1);
    while (ready < 2) ;
    struct rusage before, after;
    getrusage(RUSAGE_THREAD, &before);
    for (int i = 0; i < 300000; i++) { pthread_spin_lock(&lock); total = total + 1; pthread_spin_unlock(&lock); }
    getrusage(RUSAGE_THREAD, &after);
    return (void *)(after.ru_nvcsw - before.ru_nvcsw);
}
int main(void) {
    pthread_t threads[2]; void *waits[2];
    pthread_spin_init(&lock, 0);
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], 0, count, (void *)i);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], &waits[i]);
    printf("%ld, slept %ld %ld\n", total, (long)waits[0], (long)waits[1]);
    return 0;
}
"""


def test_two_cpus_under_a_spinlock_count_exactly_and_never_sleep(run_c):
    result = run_c(COUNT_C, flags=("-O1", "-static", "-pthread"), cpus=2)
    assert (result.status, result.stdout) == (0, b"600000, slept 0 0\n")


def test_d_move_takes_the_rename_lock(boot):
    script = """cd /sys/kernel/tracing; echo d_move > set_graph_function; echo function_graph > current_tracer
        touch /tmp/a; mv /tmp/a /tmp/b; echo 0 > tracing_on; cat trace"""
    text = boot(cmdline="oops=panic preempt=full").run(["/bin/sh", "-c", script]).stdout.decode()
    body = re.search(r"d_move\(\) \{\n(.*?)\n[^\n]*\|  \}", text, re.S)
    calls = re.findall(r"\|    (\w+)\(\)", body[1])
    assert calls[0] == "_raw_spin_lock" and calls[-1] == "_raw_spin_unlock" and "__d_move" in calls


@pytest.fixture
def task(boot):
    """The boot task of a kernel that does nothing."""
    register.task = boot().machine.this_cpu.task
    yield register.task
    del register.task


def test_a_lock_keeps_preemption_and_softirqs_away(task):
    lock, before = SpinLock(), task.preempt_count
    _raw_spin_lock(lock)
    assert (task.preempt_count, lock.owner) == (before + 1, task)
    _raw_spin_unlock(lock)
    _raw_spin_lock_bh(lock)
    assert task.preempt_count & SOFTIRQ_MASK
    _raw_spin_unlock_bh(lock)
    assert (task.preempt_count, lock.owner) == (before, None)


def test_misuse_is_a_bug(task):
    lock = SpinLock()
    with pytest.raises(AssertionError, match="wrong owner"):
        _raw_spin_unlock(lock)
    _raw_spin_lock(lock)
    with pytest.raises(AssertionError, match="recursion"):
        _raw_spin_lock(lock)
    with pytest.raises(AssertionError, match="scheduling while atomic"):
        schedule_timeout_uninterruptible(1)
