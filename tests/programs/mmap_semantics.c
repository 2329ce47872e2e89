/* Memory mappings: sharing, copy on write, protection, growth, holes, limits. */
#include "check.h"
#include <setjmp.h>

#define PAGE 4096UL
static sigjmp_buf env;
static void on_fault(int signo)
{
    siglongjmp(env, signo);
}
static int touch(volatile char *p, int writing) /* the signal it raises, or 0 */
{
    int signo = sigsetjmp(env, 1);
    if (!signo) {
        if (writing)
            *p = 1;
        else
            (void)*p;
    }
    return signo;
}

static char *anon(size_t size, int flags)
{
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
}

static int write_to(void *p)
{
    *(char *)p = 7;
    return *(char *)p;
}

static int limited(void *arg)
{
    struct rlimit limit = {64 << 20, 64 << 20};
    setrlimit(RLIMIT_AS, &limit);
    return anon(256 << 20, MAP_PRIVATE) == MAP_FAILED && errno == ENOMEM ? 0 : 1;
}

static int recurse(int n)
{
    volatile char frame[4000];
    frame[0] = (char)n;
    return n ? recurse(n - 1) + frame[0] * 0 : 0;
}

int main(void)
{
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    char *shared = anon(PAGE, MAP_SHARED), *private = anon(PAGE, MAP_PRIVATE);
    private[0] = shared[0] = 1;
    run_child(write_to, shared);
    run_child(write_to, private);
    CHECK("MAP_SHARED memory is shared with a child", shared[0] == 7);
    CHECK("MAP_PRIVATE memory is copied on write", private[0] == 1);

    int fd = memfd_create("m", 0);
    (void)!ftruncate(fd, 3 * PAGE);
    char *a = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *b = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    char byte;
    a[0] = 'A';
    CHECK("a shared write is seen by read", pread(fd, &byte, 1, 0) == 1 && byte == 'A');
    CHECK("and through a private mapping", b[0] == 'A');
    b[0] = 'B';
    a[0] = 'C';
    CHECK("until that one was written", b[0] == 'B');
    (void)!pwrite(fd, "w", 1, PAGE);
    CHECK("write is seen in a mapping", a[PAGE] == 'w');
    (void)!ftruncate(fd, PAGE);
    CHECK("truncation takes mapped pages away", touch(a + PAGE, 0) == SIGBUS);

    CHECK("mprotect to read-only", mprotect(private, PAGE, PROT_READ) == 0 && touch(private, 1) == SIGSEGV);
    CHECK("PROT_NONE", mprotect(private, PAGE, PROT_NONE) == 0 && touch(private, 0) == SIGSEGV);
    CHECK("and back", mprotect(private, PAGE, PROT_READ | PROT_WRITE) == 0 && private[0] == 1);
    CHECK("a hole is ENOMEM", munmap(private, PAGE) == 0 && FAILS(mprotect(private, PAGE, PROT_READ), ENOMEM));

    char *three = anon(3 * PAGE, MAP_PRIVATE);
    memset(three, 'x', 3 * PAGE);
    char *mid = mmap(three + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK("MAP_FIXED replaces what was there", mid == three + PAGE && mid[0] == 0);
    CHECK("and only that", three[0] == 'x' && three[2 * PAGE] == 'x');
    CHECK("MAP_FIXED_NOREPLACE refuses", FAILS(mmap(three, PAGE, PROT_READ,
          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST));
    munmap(mid, PAGE);
    CHECK("munmap splits", touch(mid, 0) == SIGSEGV && three[0] == 'x' && three[2 * PAGE] == 'x');

    char *grow = anon(2 * PAGE, MAP_PRIVATE);
    grow[0] = 'g';
    grow = mremap(grow, 2 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK("mremap grows", grow != MAP_FAILED && grow[0] == 'g' && grow[63 * PAGE] == 0);
    char *target = anon(4 * PAGE, MAP_PRIVATE);
    char *moved = mremap(grow, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    CHECK("MREMAP_FIXED moves", moved == target && moved[0] == 'g' && touch(grow, 0) == SIGSEGV);
    CHECK("mremap shrinks", mremap(moved, 4 * PAGE, PAGE, 0) == moved && touch(moved + PAGE, 0) == SIGSEGV);

    unsigned char vec[2] = {9, 9};
    char *two = anon(2 * PAGE, MAP_PRIVATE);
    two[0] = 1;
    CHECK("mincore", mincore(two, 2 * PAGE, vec) == 0 && vec[0] == 1 && vec[1] == 0);
    CHECK("MADV_DONTNEED gives zeros", madvise(two, PAGE, MADV_DONTNEED) == 0 && two[0] == 0);
    CHECK("an unaligned address is EINVAL", FAILS(munmap(two + 1, PAGE), EINVAL));
    CHECK("length 0 is EINVAL", FAILS(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL));
    CHECK("a bad descriptor is EBADF", FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 99, 0), EBADF));

    CHECK("RLIMIT_AS is ENOMEM", run_child(limited, NULL) == 0);
    CHECK("the stack grows", recurse(1000) == 0);
    char *heap = sbrk(0);
    CHECK("brk grows zeroed memory", sbrk(PAGE) == heap && heap[PAGE - 1] == 0);
    CHECK("and shrinks", sbrk(-(long)PAGE) == heap + PAGE && sbrk(0) == heap);
    DONE();
}
