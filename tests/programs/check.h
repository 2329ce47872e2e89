/* What every guest program here shares: one line a check, exit status 0 only if all passed. */
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures __attribute__((unused));

/* CHECK("what must hold", condition): prints PASS or FAIL with errno and the line. */
#define CHECK(what, ok)                                                                       \
    do {                                                                                      \
        errno = 0;                                                                            \
        int ok_ = !!(ok), errno_ = errno;                                                     \
        if (ok_)                                                                              \
            printf("PASS %s\n", what);                                                        \
        else                                                                                  \
            printf("FAIL %s (line %d, errno %d %s)\n", what, __LINE__, errno_, strerror(errno_)); \
        fflush(stdout);                                                                       \
        failures += !ok_;                                                                     \
    } while (0)

/* The call fails, and with this errno. */
#define FAILS(call, error) ((long)(call) == -1 && errno == (error))

#define DONE() return failures != 0

static inline int run_child(int (*body)(void *), void *arg) /* its wait status */
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        _exit(body(arg));
    waitpid(pid, &status, 0);
    return status;
}

static inline void sleep_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

static inline long long now_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* A fresh directory for the files of a test, which becomes the working directory. */
static inline void enter_scratch(void)
{
    static char name[] = "/tmp/checkXXXXXX";
    if (!mkdtemp(name) || chdir(name))
        exit(2);
}
#endif
