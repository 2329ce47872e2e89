/* Random mmap, munmap, mprotect, mremap, madvise, fork and file calls on 32 pages, against a table of what each page
 * must hold and allow. Prints one line; exit status 0 if every look agreed. Arguments: seed, steps. */
#include "check.h"
#include <setjmp.h>

#define PAGES 32
#define PAGE 4096L
static char *base;
static struct { int mapped, prot, shared; unsigned char fill; long offset; } model[PAGES];
static unsigned char file_fill[PAGES];
static sigjmp_buf jump;
static unsigned long state;

static unsigned rnd(unsigned n) { state = state * 6364136223846793005UL + 1442695040888963407UL; return (state >> 33) % n; }
static void fault(int sig) { siglongjmp(jump, sig); }
static void die(const char *what, int page, int step)
{
    printf("step %d page %d: %s\n", step, page, what);
    exit(1);
}

/* What a load (or a store) does: -1 for a fault, else the byte. */
static int touch(int page, int store, int value)
{
    volatile unsigned char *p = (unsigned char *)base + page * PAGE + rnd(PAGE);
    int sig = sigsetjmp(jump, 1);
    if (sig)
        return -1;
    if (store)
        memset((void *)((unsigned long)p & -PAGE), value, PAGE);
    return *p;
}

static int expected(int p) { return model[p].shared ? file_fill[model[p].offset] : model[p].fill; }

static void look(int page, int step)
{
    int got = touch(page, 0, 0);
    if (model[page].mapped && model[page].prot & PROT_READ) {
        if (got != expected(page))
            die(got < 0 ? "cannot be read" : "holds something else", page, step);
    } else if (got >= 0)
        die("can be read", page, step);
}

int main(int argc, char **argv)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC};
    int steps = argc > 2 ? atoi(argv[2]) : 2000;
    state = argc > 1 ? atoi(argv[1]) : 1;
    struct sigaction action = {.sa_handler = fault};
    sigaction(SIGSEGV, &action, NULL);
    int fd = open("mm_stress.data", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (ftruncate(fd, PAGES * PAGE) < 0)
        return 2;
    base = mmap(NULL, 4 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    munmap(base, 4 * PAGES * PAGE);
    base += PAGES * PAGE;
    for (int step = 0; step < steps; step++) {
        int first = rnd(PAGES), count = 1 + rnd(6), what = rnd(12);
        if (first + count > PAGES)
            count = PAGES - first;
        char *at = base + first * PAGE;
        int whole = 1;
        for (int p = first; p < first + count; p++)
            whole &= model[p].mapped;
        switch (what) {
        case 0: case 1:
            if (mmap(at, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
                die("mmap", first, step);
            for (int p = first; p < first + count; p++)
                model[p] = (typeof(model[0])){1, PROT_READ | PROT_WRITE, 0, 0, 0};
            break;
        case 2: {
            int offset = rnd(PAGES - count + 1);
            if (mmap(at, count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset * PAGE) != at)
                die("mmap shared", first, step);
            for (int p = first; p < first + count; p++)
                model[p] = (typeof(model[0])){1, PROT_READ | PROT_WRITE, 1, 0, offset + p - first};
            break;
        }
        case 3:
            munmap(at, count * PAGE);
            for (int p = first; p < first + count; p++)
                model[p].mapped = 0;
            break;
        case 4: case 5: {
            int prot = prots[rnd(4)];
            if ((mprotect(at, count * PAGE, prot) == 0) != whole)
                die("mprotect", first, step);
            for (int p = first; p < first + count && model[p].mapped; p++)
                model[p].prot = prot;
            break;
        }
        case 6: case 7: case 8: {
            int value = 1 + rnd(255), got = touch(first, 1, value);
            int allowed = model[first].mapped && model[first].prot & PROT_WRITE;
            if ((got == value) != allowed)
                die(allowed ? "cannot be written" : "can be written", first, step);
            if (allowed && model[first].shared)
                file_fill[model[first].offset] = value;
            else if (allowed)
                model[first].fill = value;
            break;
        }
        case 9:
            if (whole && madvise(at, count * PAGE, MADV_DONTNEED))
                die("madvise", first, step);
            for (int p = first; whole && p < first + count; p++)
                model[p].fill = 0;
            break;
        case 10: {
            int target = rnd(PAGES), size = 1 + rnd(4);
            if (!model[first].mapped || target + size > PAGES || (target <= first && first < target + size))
                break;
            typeof(model[0]) moved = model[first];
            if (mremap(at, PAGE, size * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + target * PAGE) == MAP_FAILED)
                die("mremap", first, step);
            model[first].mapped = 0;
            model[target] = moved;
            for (int i = 1; i < size; i++) {
                model[target + i] = moved;
                model[target + i].fill = 0;
                model[target + i].offset += i;
                if (moved.shared && moved.offset + i >= PAGES)     /* behind the end of the file: unmap it again */
                    munmap(base + (target + i) * PAGE, PAGE), model[target + i].mapped = 0;
            }
            break;
        }
        case 11:
            if (rnd(4))
                break;
            pid_t pid = fork();
            if (!pid) {                      /* the child sees what we saw, and its stores stay its own */
                for (int p = 0; p < PAGES; p++)
                    look(p, step);
                for (int p = 0; p < PAGES; p++)
                    if (model[p].mapped && !model[p].shared && model[p].prot & PROT_WRITE)
                        touch(p, 1, 0xEE);
                exit(0);
            }
            int status;
            waitpid(pid, &status, 0);
            if (status)
                die("the child disagrees", first, step);
            break;
        }
        look(rnd(PAGES), step);
        if (step % 50 == 0)
            for (int p = 0; p < PAGES; p++) {
                unsigned char byte;
                look(p, step);
                if (pread(fd, &byte, 1, p * PAGE + 77) != 1 || byte != file_fill[p])
                    die("read(2) sees something else", p, step);
            }
    }
    printf("%d steps agree\n", steps);
    return 0;
}
