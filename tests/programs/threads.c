/* Threads and futexes: mutual exclusion, condition variables, barriers, robust mutexes, thread locals. */
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>

enum { THREADS = 4, ROUNDS = 2000 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long counter, arrived, turn, serial;
static __thread int local = 5;

static void *add(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    local += (int)(long)arg;
    return (void *)(long)local;
}

static void *meet(void *arg)
{
    __sync_fetch_and_add(&arrived, 1);
    if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
        __sync_fetch_and_add(&serial, 1);
    return (void *)(long)(__sync_fetch_and_add(&arrived, 0) == THREADS);
}

static void *ping(void *arg)
{
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % 2 != (long)arg)
            pthread_cond_wait(&cond, &mutex);
        turn++;
        pthread_cond_broadcast(&cond);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void *die_holding(void *lock)
{
    pthread_mutex_lock(lock);
    return NULL; /* exits as its owner */
}

static void *leave(void *arg)
{
    syscall(SYS_exit, 0); /* only this thread */
    return NULL;
}

static int futex(int *word, int op, int value, struct timespec *timeout)
{
    return (int)syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

int main(void)
{
    pthread_t t[THREADS];
    void *result;
    int ok = 1;
    for (long i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, add, (void *)i);
    for (long i = 0; i < THREADS; i++) {
        pthread_join(t[i], &result);
        ok &= (long)result == 5 + i;
    }
    CHECK("a mutex excludes", counter == THREADS * ROUNDS);
    CHECK("thread locals are each thread's own", ok && local == 5);

    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, meet, NULL);
    ok = 1;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], &result);
        ok &= (long)result;
    }
    CHECK("nobody passes a barrier before all have come", ok);
    CHECK("exactly one is its serial thread", serial == 1);

    for (long i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, ping, (void *)i);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    CHECK("condition variables alternate two threads", turn == 200);

    pthread_mutexattr_t attr;
    pthread_mutex_t robust;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attr);
    pthread_create(&t[0], NULL, die_holding, &robust);
    pthread_join(t[0], NULL);
    CHECK("a dead owner's robust mutex is EOWNERDEAD", pthread_mutex_lock(&robust) == EOWNERDEAD);
    CHECK("and can be repaired", pthread_mutex_consistent(&robust) == 0 && pthread_mutex_unlock(&robust) == 0);

    int word = 1;
    struct timespec ts = {0, 20000000};
    CHECK("FUTEX_WAIT with another value is EAGAIN", FAILS(futex(&word, FUTEX_WAIT, 0, NULL), EAGAIN));
    long long before = now_ns(CLOCK_MONOTONIC);
    CHECK("FUTEX_WAIT times out", FAILS(futex(&word, FUTEX_WAIT, 1, &ts), ETIMEDOUT));
    CHECK("after its timeout", now_ns(CLOCK_MONOTONIC) - before >= 20000000);
    CHECK("FUTEX_WAKE wakes nobody", futex(&word, FUTEX_WAKE, 1, NULL) == 0);
    CHECK("an odd address is EINVAL", FAILS(futex((int *)((char *)&word + 1), FUTEX_WAKE, 1, NULL), EINVAL));

    sem_t *sem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_init(sem, 1, 0);
    if (fork() == 0) {
        sleep_ms(10);
        sem_post(sem);
        _exit(0);
    }
    CHECK("a futex in shared memory works between processes", sem_wait(sem) == 0);
    wait(NULL);
    pthread_create(&t[0], NULL, leave, NULL);
    CHECK("exit(2) ends one thread only", pthread_join(t[0], &result) == 0);
    DONE();
}
