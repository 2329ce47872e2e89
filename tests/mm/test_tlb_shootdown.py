"""The TLB and CAL rows of /proc/interrupts: CPUs that run threads of a process are told when its page tables lose something."""
from __future__ import annotations

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
volatile int stop;
void *spin(void *a) { while (!stop); return 0; }
int main(int argc, char **argv) {
    int n = argc - 1;
    pthread_t t[8];
    for (int i = 0; i < n; i++) pthread_create(t + i, 0, spin, 0);
    for (volatile long i = 0; i < 2000000; i++);
    for (int i = 0; i < 20; i++) {
        char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        p[0] = 1;
        munmap(p, 65536);
    }
    stop = 1;
    for (int i = 0; i < n; i++) pthread_join(t[i], 0);
    FILE *f = fopen("/proc/interrupts", "r");
    char line[256];
    while (fgets(line, 256, f)) if (!strncmp(line, "TLB", 3) || !strncmp(line, "CAL", 3)) fputs(line, stdout);
    return 0;
}
"""


def counts(result):
    assert result.status == 0, result.stderr
    rows = {line.split(":")[0]: [int(x) for x in line.split()[1:] if x.isdigit()] for line in result.stdout.decode().splitlines()}
    return rows["TLB"], rows["CAL"]


def test_munmap_interrupts_the_cpus_that_run_other_threads(run_c):
    tlb, cal = counts(run_c(PROGRAM, "x", "x", flags=("-pthread",)))
    assert sorted(tlb)[-2] >= 20 and sum(tlb) <= 60          # two CPUs spin; the fourth is idle and lazy
    assert sum(1 for n in cal if n) >= 2


def test_a_process_with_one_thread_interrupts_nobody(run_c):
    tlb, cal = counts(run_c(PROGRAM, flags=("-pthread",)))
    assert sum(tlb) == sum(cal) == 0
