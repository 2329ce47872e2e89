"""How much fits: processes, threads, memory of the host, and what boot costs."""
import subprocess
import sys

from tests.conftest import ENV

THOUSAND = """
#include "check.h"
int main(void) {
    int gate[2], n, alive = 0;
    char c;
    pipe(gate);
    for (n = 0; n < 1000; n++) {
        pid_t pid = fork();
        if (pid < 0) break;
        if (pid == 0) { close(gate[1]); read(gate[0], &c, 1); _exit(n & 0x7f); }
    }
    CHECK("a thousand forks", n == 1000);
    FILE *f = popen("ps -e --no-headers | wc -l", "r");
    if (fscanf(f, "%d", &alive) != 1) alive = -1;
    pclose(f);
    CHECK("ps sees them all", alive > 1000);
    FILE *load = fopen("/proc/loadavg", "r");
    int running = 0, total = 0;
    if (fscanf(load, "%*s %*s %*s %d/%d", &running, &total) != 2) total = -1;
    CHECK("so does loadavg", total > 1000);
    close(gate[1]);
    int status, sum = 0, expected = 0, reaped = 0;
    while (wait(&status) > 0) { reaped++; sum += WEXITSTATUS(status); }
    for (n = 0; n < 1000; n++) expected += n & 0x7f;
    CHECK("all are reaped, with their own statuses", reaped == 1000 && sum == expected);
    DONE();
}"""

THREADS = """
#include "check.h"
#include <pthread.h>
static pthread_barrier_t all;
static void *meet(void *arg) { pthread_barrier_wait(&all); return arg; }
int main(void) {
    enum { N = 500 };
    pthread_t t[N];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    pthread_barrier_init(&all, NULL, N + 1);
    long ok = 1;
    for (long i = 0; i < N; i++) ok &= pthread_create(&t[i], &small, meet, (void *)i) == 0;
    CHECK("threads start", ok);
    pthread_barrier_wait(&all);
    for (long i = 0; i < N; i++) { void *r; pthread_join(t[i], &r); ok &= (long)r == i; }
    CHECK("and end", ok);
    DONE();
}"""


def test_a_thousand_processes_live_at_once(run_c):
    result = run_c(THOUSAND)
    assert result.status == 0, result.stdout.decode()


def test_five_hundred_threads_meet(run_c):
    result = run_c(THREADS)
    assert result.status == 0, result.stdout.decode()


def measured(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_an_idle_machine_takes_less_than_150_mb_of_the_host():
    code = """
from glasskernel import Kernel
kernel = Kernel(memory=512 << 20)
kernel.run(["/bin/sh", "-c", "ls / | wc -l"])
status = open("/proc/self/status").read()
print(int(status.split("VmRSS:")[1].split()[0]) / 1024)"""
    assert measured(code) < 150


BOOT = """
import time
from glasskernel import Kernel
Kernel()
best = {}
for memory in (512, 16384) * 5:
    start = time.process_time()
    Kernel(memory=memory << 20)
    best[memory] = min(best.get(memory, 9), time.process_time() - start)
print(best[16384] / best[512])"""


def test_boot_does_not_take_longer_with_more_memory():
    """The aim is 20 %; the bound leaves room for a busy host, and a cost that grew with memory would be 32 times."""
    assert measured(BOOT) < 1.5


def test_a_process_that_fills_and_frees_memory_gives_it_back(boot):
    kernel = boot(memory=128 << 20)
    script = "grep -E '^(MemFree|Cached)' /proc/meminfo | awk '{s += $2} END {print s}'"
    before = int(kernel.run(["/bin/sh", "-c", script]).stdout)
    for _ in range(3):
        assert kernel.run(["/usr/bin/python3", "-c", "x = bytearray(60 << 20); print(len(x))"], env=ENV).status == 0
    after = int(kernel.run(["/bin/sh", "-c", script]).stdout)
    assert abs(before - after) < 3000
