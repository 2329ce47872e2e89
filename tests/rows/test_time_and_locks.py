"""Inventory A7, A8: interrupts, timers, locks."""
import re

from tests.conftest import PROGRAMS


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def passes(result):
    assert result.status == 0, result.stdout.decode() + result.stderr.decode()
    assert b"FAIL" not in result.stdout and b"PASS" in result.stdout


def counts(run, script):
    out = text(run(["/bin/bash", "-c", f"cat /proc/interrupts; echo ==; {script}; echo ==; cat /proc/interrupts"]))
    before, _, after = out.split("==\n")
    return [{line.split()[0]: [int(x) for x in line.split()[1:] if x.isdigit()] for line in part.splitlines()[1:]}
            for part in (before, after)]


def test_exceptions_come_at_an_instruction_and_interrupts_at_any_time(boot, build_c):
    """A133: the same page fault at the same instruction in every run; the timer hits a loop at different ones."""
    import pytest

    from glasskernel import Share
    from glasskernel.arch.x86.entry import common

    binary = build_c(PROGRAMS / "hogs.c")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    interrupted = set()
    plain = common.exit_to_usermode_loop

    def look(task):
        interrupted.add(task.thread.regs[16])
        return plain(task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "exit_to_usermode_loop", look)
        kernel.run([f"/programs/{binary.name}", "100", "o:0:0", "o:0:0"])
    assert interrupted


def test_proc_interrupts_has_a_column_for_each_cpu_and_linuxs_rows(boot):
    """A135, A151 in part: one column per online CPU; the special rows in their order; counts grow."""
    out = boot(cpus=3).run(["cat", "/proc/interrupts"]).stdout.decode()
    assert out.splitlines()[0].split() == ["CPU0", "CPU1", "CPU2"]
    rows = re.findall(r"^ *(\w+):", out, re.MULTILINE)
    special = [r for r in rows if not r.isdigit()]
    wanted = ["NMI", "LOC", "SPU", "PMI", "IWI", "RES", "CAL", "TLB", "TRM", "THR", "MCE", "MCP", "ERR", "MIS"]
    assert [r for r in special if r in wanted] == wanted


def test_local_timer_interrupts_tick_on_a_busy_cpu(run, build_c):
    """A139, A140: LOC grows by HZ a second on a busy CPU; vector 236."""
    from glasskernel.machine.machine import LOCAL_TIMER_VECTOR

    assert LOCAL_TIMER_VECTOR == 0xEC == 236
    before, after = counts(run, "taskset -c 2 timeout 0.4 sh -c 'while :; do :; done'")
    ticks = after["LOC:"][2] - before["LOC:"][2]
    assert 95 <= ticks <= 125, ticks


def test_an_idle_cpu_does_not_tick(run):
    before, after = counts(run, "sleep 100")
    assert sum(after["LOC:"]) - sum(before["LOC:"]) < 200


def test_softirqs_are_ten_rows_in_order_and_timers_raise_them(run):
    """A142, A141: the deferred half of interrupts; SCHED and TIMER grow on a busy machine."""
    out = text(run(["/bin/bash", "-c", "cat /proc/softirqs; timeout 0.3 sh -c 'while :; do :; done'; cat /proc/softirqs"]))
    rows = re.findall(r"^ *(\w+): +(.*)$", out, re.MULTILINE)
    names = ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"]
    assert [name for name, _ in rows] == names * 2
    total = [sum(map(int, values.split())) for _, values in rows]
    assert total[11] > total[1] or total[17] > total[7]


def test_a_kernel_timer_fires_once_and_can_be_cancelled():
    """A148, C07: 5000 ms after it was armed, and the wheel's grain of 64 jiffies that far ahead; del_timer() cancels."""
    from glasskernel import Kernel
    from glasskernel.kernel.current import register
    from glasskernel.kernel.time import timer as t

    kernel = Kernel()
    register.task = kernel.machine.this_cpu.task
    fired = []
    first, second = (t.TimerList(lambda timer, n=n: fired.append((n, kernel.now_ns))) for n in (1, 2))
    start = kernel.now_ns
    now = t.jiffies()
    for timer in (first, second):
        t.mod_timer(timer, now + 1250)
    t.del_timer(second)
    kernel.run(["/bin/sleep", "10"])
    assert [n for n, _ in fired] == [1]
    assert 5 <= (fired[0][1] - start) / 1e9 < 5 + 64 / 250
    kernel.close()


def test_nanosleep_of_a_millisecond_wakes_within_a_fraction_of_a_tick(run_c):
    """A149."""
    result = run_c("""
#include "check.h"
int main(void) {
    long long worst = 0;
    for (int i = 0; i < 20; i++) {
        long long before = now_ns(CLOCK_MONOTONIC);
        sleep_ms(1);
        long long late = now_ns(CLOCK_MONOTONIC) - before - 1000000;
        if (late > worst) worst = late;
    }
    printf("%lld\\n", worst);
    return 0;
}""")
    assert 0 <= int(result.stdout) < 400_000


def test_adding_under_a_lock_gives_the_exact_total(run_c):
    """A153, A154, A155: spin lock, mutex and semaphore on four CPUs; a blocked waiter uses no CPU."""
    passes(run_c("""
#include "check.h"
#include <pthread.h>
#include <semaphore.h>
static pthread_spinlock_t spin;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static sem_t sem;
static volatile long a, b, c;
static void *add(void *arg) {
    for (int i = 0; i < 3000; i++) {
        pthread_spin_lock(&spin); a++; pthread_spin_unlock(&spin);
        pthread_mutex_lock(&mutex); b++; pthread_mutex_unlock(&mutex);
        sem_wait(&sem); c++; sem_post(&sem);
    }
    return NULL;
}
static void *wait_long(void *arg) {
    pthread_mutex_lock(&mutex);
    pthread_mutex_unlock(&mutex);
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (void *)(ts.tv_sec * 1000000000L + ts.tv_nsec);
}
int main(void) {
    pthread_t t[4];
    pthread_spin_init(&spin, 0);
    sem_init(&sem, 0, 1);
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, add, NULL);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    CHECK("spin lock", a == 12000);
    CHECK("mutex", b == 12000);
    CHECK("semaphore", c == 12000);
    pthread_mutex_lock(&mutex);
    pthread_create(&t[0], NULL, wait_long, NULL);
    sleep_ms(200);
    pthread_mutex_unlock(&mutex);
    void *cpu;
    pthread_join(t[0], &cpu);
    CHECK("a waiter uses no CPU", (long)cpu < 5000000);
    DONE();
}"""))


def test_time_never_tears(run_c):
    """A157: gettimeofday through the vDSO, on four CPUs at once, never goes back."""
    passes(run_c("""
#include "check.h"
#include <pthread.h>
#include <sys/time.h>
static void *look(void *arg) {
    struct timeval a, b;
    long bad = 0;
    gettimeofday(&a, NULL);
    for (int i = 0; i < 5000; i++) {
        gettimeofday(&b, NULL);
        bad += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_usec < a.tv_usec) || b.tv_usec >= 1000000;
        a = b;
    }
    return (void *)bad;
}
int main(void) {
    pthread_t t[4];
    long bad = 0;
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, look, NULL);
    for (int i = 0; i < 4; i++) { void *r; pthread_join(t[i], &r); bad += (long)r; }
    CHECK("monotone and whole", bad == 0);
    DONE();
}"""))


def test_threads_that_fault_on_one_page_get_one_page(run_c):
    """A158, A159."""
    passes(run_c("""
#include "check.h"
#include <pthread.h>
enum { PAGES = 64 };
static char *area;
static pthread_barrier_t start;
static void *touch(void *arg) {
    pthread_barrier_wait(&start);
    for (int i = 0; i < PAGES; i++) __sync_fetch_and_add((int *)(area + i * 4096), 1);
    return NULL;
}
int main(void) {
    pthread_t t[4];
    area = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_barrier_init(&start, NULL, 4);
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, touch, NULL);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    int ok = 1;
    for (int i = 0; i < PAGES; i++) ok &= *(int *)(area + i * 4096) == 4;
    CHECK("every increment is in the same page", ok);
    DONE();
}"""))


def test_an_uncontended_mutex_makes_no_system_call(boot, build_c):
    """A160."""
    from glasskernel import Share

    binary = build_c("""
#include <pthread.h>
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
int main(void) { for (int i = 0; i < 10000; i++) { pthread_mutex_lock(&m); pthread_mutex_unlock(&m); } return 0; }""")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    assert kernel.run([f"/programs/{binary.name}"]).status == 0
    assert "futex" not in kernel.syscall_statistics()
