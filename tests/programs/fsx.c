/* A file and its model in memory: random operations, each compared. argv: file, seed, operations, options (letters):
 * d: also O_DIRECT and asynchronous; f: also fallocate with its modes; m: also through a mapping. */
#include "check.h"
#include <linux/aio_abi.h>
#include <linux/falloc.h>

#define MAX (1 << 18)
static unsigned char model[MAX + 8192], *aligned, *got;
static long size;
static unsigned long long state;

static unsigned dice(unsigned n) /* xorshift: the same everywhere */
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)(state >> 11) % n;
}

static void die(const char *what, int step, long at, long n)
{
    printf("step %d: %s at %ld, %ld bytes, size %ld: %s\n", step, what, at, n, size, strerror(errno));
    fflush(stdout);
    _exit(1);
}

static void compare(const unsigned char *data, long at, long n, const char *what, int step)
{
    for (long i = 0; i < n; i++)
        if (data[i] != model[at + i]) {
            printf("step %d: %s: byte %ld is %#x, not %#x; size %ld\n", step, what, at + i, data[i], model[at + i], size);
            fflush(stdout);
            _exit(1);
        }
}

static void grow(long end) /* what was behind the end reads as zeros: the model is kept so */
{
    if (end > size) size = end;
}

static long submit(aio_context_t ctx, int fd, int op, void *data, long n, long at)
{
    struct iocb r = {.aio_lio_opcode = op, .aio_fildes = fd, .aio_buf = (unsigned long)data, .aio_nbytes = n, .aio_offset = at};
    struct iocb *list = &r;
    struct io_event event;
    if (syscall(SYS_io_submit, ctx, 1, &list) != 1 || syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL) != 1) return -1;
    if (event.res < 0) errno = -event.res;
    return event.res < 0 ? -1 : event.res;
}

int main(int argc, char **argv)
{
    int steps = atoi(argv[3]), with_direct = !!strchr(argv[4], 'd'), with_falloc = !!strchr(argv[4], 'f'), with_map = !!strchr(argv[4], 'm');
    state = strtoull(argv[2], NULL, 0) * 0x9E3779B97F4A7C15ULL + 1;
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600), direct = with_direct ? open(argv[1], O_RDWR | O_DIRECT) : -1;
    aio_context_t ctx = 0;
    if (fd < 0 || (with_direct && (direct < 0 || syscall(SYS_io_setup, 4, &ctx)))) die("open", 0, 0, 0);
    posix_memalign((void **)&aligned, 4096, MAX);
    posix_memalign((void **)&got, 4096, MAX + 8192);
    unsigned char *map = mmap(NULL, MAX, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int step = 1; step <= steps; step++) {
        long at = dice(MAX), n = 1 + dice(dice(3) ? 8192 : 65536);
        if (at + n > MAX) n = MAX - at;
        unsigned op = dice(20);
        if (op < 5) {
            for (long i = 0; i < n; i++) model[at + i] = dice(255) + 1;
            if (pwrite(fd, model + at, n, at) != n) die("write", step, at, n);
            grow(at + n);
        } else if (op < 8) {
            long want = at >= size ? 0 : at + n > size ? size - at : n;
            if (pread(fd, got, n, at) != want) die("read", step, at, n);
            compare(got, at, want, "read", step);
        } else if (op == 8) {
            if (ftruncate(fd, at)) die("truncate", step, at, 0);
            if (at < size) memset(model + at, 0, size - at);
            size = at;
        } else if (op == 9) {
            if (dice(2) ? fsync(fd) : fdatasync(fd)) die("fsync", step, 0, 0);
            if (!dice(3)) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        } else if (op < 12 && with_map && size) {
            at %= size;
            if (at + n > size) n = size - at;
            if (dice(2)) {
                for (long i = 0; i < n; i++) map[at + i] = model[at + i] = dice(255) + 1;
                if (!dice(4)) msync(map, MAX, MS_SYNC);
            } else compare(map + at, at, n, "mapping", step);
        } else if (op < 16 && with_direct) {
            long unit = dice(2) ? 512 : 4096, room = MAX / unit;
            at = dice(room) * unit, n = (1 + dice(dice(2) ? 4 : 32)) * unit;
            if (at + n > MAX) n = MAX - at;
            int aio = dice(2);
            if (dice(2)) {
                for (long i = 0; i < n; i++) aligned[i] = model[at + i] = dice(255) + 1;
                if ((aio ? submit(ctx, direct, IOCB_CMD_PWRITE, aligned, n, at) : pwrite(direct, aligned, n, at)) != n) die("direct write", step, at, n);
                grow(at + n);
            } else {
                long want = at >= size ? 0 : at + n > size ? size - at : n;
                if ((aio ? submit(ctx, direct, IOCB_CMD_PREAD, got, n, at) : pread(direct, got, n, at)) != want) die("direct read", step, at, n);
                compare(got, at, want, "direct read", step);
            }
        } else if (op >= 16 && with_falloc) {
            switch (dice(5)) {
            case 0:
                if (fallocate(fd, 0, at, n)) die("fallocate", step, at, n);
                grow(at + n);
                break;
            case 1:
                if (fallocate(fd, FALLOC_FL_KEEP_SIZE, at, n)) die("fallocate keep size", step, at, n);
                break;
            case 2:
                if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, n)) die("punch", step, at, n);
                memset(model + at, 0, n);
                break;
            case 3:
                if (fallocate(fd, FALLOC_FL_ZERO_RANGE, at, n)) die("zero", step, at, n);
                memset(model + at, 0, n);
                grow(at + n);
                break;
            default:
                at &= ~4095, n = (n + 4095) & ~4095;
                if (at + n >= size) break;
                if (dice(2)) {
                    if (fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, at, n)) die("collapse", step, at, n);
                    memmove(model + at, model + at + n, MAX - at - n);
                    memset(model + MAX - n, 0, n);
                    size -= n;
                } else if (size + n <= MAX) {
                    if (fallocate(fd, FALLOC_FL_INSERT_RANGE, at, n)) die("insert", step, at, n);
                    memmove(model + at + n, model + at, MAX - at - n);
                    memset(model + at, 0, n);
                    size += n;
                }
            }
        }
        struct stat st;
        if (!(step % 16) && (fstat(fd, &st) || st.st_size != size)) die("stat", step, st.st_size, 0);
    }
    if (pread(fd, got, MAX, 0) != size) die("last read", steps, 0, MAX);
    compare(got, 0, size, "last read", steps);
    return 0;
}
