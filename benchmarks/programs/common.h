/* What every benchmark program shares. The last argument is always the number of operations; the harness
 * runs each program with N and 2N and takes the difference of host times, so set-up costs drop out. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static inline void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static inline long count(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s ... N\n", argv[0]);
        exit(2);
    }
    return atol(argv[argc - 1]);
}

/* The harness wants to see this: a peer that gives up early must not look fast. */
static inline int done(void)
{
    puts("done");
    return 0;
}
