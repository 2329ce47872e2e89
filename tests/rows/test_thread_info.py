"""A061: what is each thread's own and architecture dependent."""

TLS_C = r"""
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static __thread int mine = 7;
static unsigned long base[2];
static int *address[2];
static void *thread(void *argument)
{
    long n = (long)argument;
    syscall(SYS_arch_prctl, ARCH_GET_FS, &base[n]);
    address[n] = &mine;
    mine += n + 1;
    return (void *)(long)mine;
}
int main(void)
{
    pthread_t other;
    void *result;
    pthread_create(&other, NULL, thread, (void *)1);
    thread((void *)0);
    pthread_join(other, &result);
    printf("%d %d %ld ", base[0] != base[1], base[0] == (unsigned long)pthread_self(), (long)result);
    printf("%d %d\n", mine, (char *)address[0] - (char *)base[0] == (char *)address[1] - (char *)base[1]);
    return 0;
}
"""


def test_a061_the_base_of_thread_local_storage_is_per_thread(run_c):
    """fs base is switched with the thread: one variable, two places, at the same distance from it."""
    done = run_c(TLS_C, flags=("-pthread",))
    assert (done.status, done.stdout) == (0, b"1 1 9 8 1\n"), done
