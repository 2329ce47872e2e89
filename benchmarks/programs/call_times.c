/* How long single system calls take here, in ns: in a loop (the median), and as the first of a fresh process (the least
 * of several processes). Where the figures of glasskernel/machine/costs.py come from: run it on Linux, in an empty
 * directory of an ext4 file system. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LOOPS = 400, FRESH = 20 };
static char buffer[1 << 20];
static int fd, memory;
static char *pages;
static struct stat status;
static pid_t child;

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static char *name(int i)
{
    static char text[32];
    sprintf(text, "f%d", i);
    return text;
}

/* Each case: what is timed, and what comes before (when == 0) and after (when == 2) without being timed. */
static long call(int what, int i, int when)
{
    switch (what * 3 + when) {
    case 1: return syscall(SYS_getppid);
    case 4: return stat("a", &status);
    case 7: return fd = open("a", O_RDONLY);
    case 8: case 18: case 21: return close(fd);
    case 9: case 12: return fd = open("a", O_RDONLY);
    case 10: return close(fd);
    case 13: return read(fd, buffer, 4096);
    case 14: return close(fd);
    case 16: return rename(i & 1 ? "b" : "a", i & 1 ? "a" : "b");
    case 19: return fd = open(name(i), O_CREAT | O_WRONLY, 0644);
    case 20: return close(fd);
    case 22: return unlink(name(i));
    case 25: return link("a", name(i));
    case 26: return unlink(name(i));
    case 28: return write(fd, buffer, 4096);
    case 31: return pwrite(memory, buffer, sizeof buffer, (long)(i % 8) << 20);
    case 34: return pages[4096L * i] = 1;
    case 37:
        child = fork();
        if (!child)
            _exit(0);
        return child;
    case 40:
        child = vfork();            /* the parent goes on when the child's exec has succeeded */
        if (!child) {
            execl("/proc/self/exe", "call_times", "-", NULL);
            _exit(1);
        }
        return child;
    case 38: case 41: return waitpid(child, NULL, 0);
    }
    return 0;
}

static const char *const names[] = {"getppid", "stat", "open", "close", "read 4 KiB", "rename", "creat", "unlink", "link",
                                    "write, new page", "write 1 MiB, shmem", "fault, new page", "fork", "vfork, execve"};

static int order(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

static long timed(int what, int i)
{
    long begin, end;
    call(what, i, 0);
    begin = now();
    call(what, i, 1);
    end = now();
    call(what, i, 2);
    return end - begin;
}

static void prepare(int what)
{
    memset(buffer, 1, sizeof buffer);
    if (what == 9)
        fd = open("w", O_CREAT | O_TRUNC | O_WRONLY, 0644);
    memory = memfd_create("m", 0);
    pages = mmap(NULL, 4096L * LOOPS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(pages, 4096L * LOOPS, MADV_NOHUGEPAGE);
    now();
}

/* The child: one call, as the first thing that a fresh program does. */
static int first_call(int what, int out)
{
    long first;
    prepare(what);
    if (what == 7)
        close(open(name(0), O_CREAT | O_WRONLY, 0644));
    first = timed(what, 0);
    if (what == 5)
        rename("b", "a");
    if (what == 6)
        unlink(name(0));
    return write(out, &first, sizeof first) != sizeof first;
}

int main(int argc, char **argv)
{
    static long times[LOOPS];
    char number[32];
    long first;
    int what, i, p[2];

    if (argc > 1 && *argv[1] == '-')
        return 0;
    if (argc > 1)
        return first_call(atoi(argv[1]), 1);
    fd = open("a", O_CREAT | O_RDWR, 0644);
    if (fd < 0 || write(fd, buffer, 8192) != 8192 || pipe(p))
        return 1;
    close(fd);
    for (what = 0; what < (int)(sizeof names / sizeof *names); what++) {
        long least = 1L << 62;
        sprintf(number, "%d", what);
        for (i = 0; i < FRESH; i++) {
            child = fork();
            if (!child) {
                dup2(p[1], 1);
                execl("/proc/self/exe", "call_times", number, NULL);
                _exit(1);
            }
            waitpid(child, NULL, 0);
            if (read(p[0], &first, sizeof first) == sizeof first && first < least)
                least = first;
        }
        prepare(what);
        for (i = 0; i < LOOPS; i++)
            times[i] = timed(what, i);
        qsort(times, LOOPS, sizeof *times, order);
        printf("%-20s loop %8ld  first %8ld\n", names[what], times[LOOPS / 2], least);
    }
    return 0;
}
