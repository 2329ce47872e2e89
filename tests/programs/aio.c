/* Asynchronous I/O through the raw calls: io_setup(2) and its relatives. argv[1]: the file; argv[2] "direct": O_DIRECT. */
#include "check.h"
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <sys/uio.h>

static long io_setup(unsigned n, aio_context_t *c) { return syscall(SYS_io_setup, n, c); }
static long io_destroy(aio_context_t c) { return syscall(SYS_io_destroy, c); }
static long io_submit(aio_context_t c, long n, struct iocb **p) { return syscall(SYS_io_submit, c, n, p); }
static long io_cancel(aio_context_t c, struct iocb *i, struct io_event *e) { return syscall(SYS_io_cancel, c, i, e); }
static long io_getevents(aio_context_t c, long min, long n, struct io_event *e, struct timespec *t)
{ return syscall(SYS_io_getevents, c, min, n, e, t); }

struct ring { unsigned id, nr, head, tail, magic, compat, incompat, header_length; struct io_event events[]; };
static char *buffer;
static struct io_event events[64];
static aio_context_t ctx;

static struct iocb request(int fd, int op, void *buf, size_t n, long long at, long data)
{
    struct iocb r = {.aio_data = data, .aio_lio_opcode = op, .aio_fildes = fd, .aio_buf = (unsigned long)buf,
                     .aio_nbytes = n, .aio_offset = at};
    return r;
}

static long submit1(struct iocb *r) { return io_submit(ctx, 1, &r); }

static long long result(struct iocb *r) /* of one request, when it is over */
{
    if (submit1(r) != 1) return -1000 - errno;
    if (io_getevents(ctx, 1, 1, events, NULL) != 1) return -2000;
    if (events[0].obj != (unsigned long)r || events[0].data != r->aio_data || events[0].res2) return -3000;
    return events[0].res;
}

static void on_alarm(int s) { (void)s; }

int main(int argc, char **argv)
{
    int direct = argc > 2 && !strcmp(argv[2], "direct") ? O_DIRECT : 0;
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | direct, 0600);
    struct iocb r, many[32], *list[32];
    CHECK("the file opens", fd >= 0);
    posix_memalign((void **)&buffer, 4096, 1 << 20);
    CHECK("EINVAL: no events", FAILS(io_setup(0, &ctx), EINVAL));
    ctx = 1;
    CHECK("EINVAL: a context that is not 0", FAILS(io_setup(8, &ctx), EINVAL));
    ctx = 0;
    CHECK("EFAULT", FAILS(io_setup(8, (void *)8), EFAULT));
    CHECK("EAGAIN: more than aio-max-nr", FAILS(io_setup(100000000, &ctx), EAGAIN) || errno == EINVAL);
    CHECK("io_setup", io_setup(32, &ctx) == 0 && ctx);
    struct ring *ring = (void *)ctx;
    CHECK("the ring is mapped", ring->magic == 0xa10a10a1 && ring->header_length == 32 && ring->nr >= 64);
    CHECK("EINVAL: no such context", FAILS(io_destroy(ctx + 4096), EINVAL));

    memset(buffer, 'a', 65536);
    r = request(fd, IOCB_CMD_PWRITE, buffer, 65536, 0, 7);
    CHECK("pwrite", result(&r) == 65536);
    memset(buffer, 0, 65536);
    r = request(fd, IOCB_CMD_PREAD, buffer, 65536, 0, 8);
    CHECK("pread", result(&r) == 65536 && buffer[0] == 'a' && buffer[65535] == 'a');
    r = request(fd, IOCB_CMD_PREAD, buffer, 65536, 61440, 9);
    CHECK("pread that ends at the end", result(&r) == 4096);
    r = request(fd, IOCB_CMD_PREAD, buffer, 4096, 65536, 9);
    CHECK("pread at the end", result(&r) == 0);
    memset(buffer, 'b', 8192);
    struct iovec v[2] = {{buffer, 4096}, {buffer + 8192, 4096}};
    memset(buffer + 8192, 'c', 4096);
    r = request(fd, IOCB_CMD_PWRITEV, v, 2, 4096, 1);
    CHECK("pwritev", result(&r) == 8192);
    memset(buffer, 0, 16384);
    r = request(fd, IOCB_CMD_PREADV, v, 2, 4096, 2);
    CHECK("preadv", result(&r) == 8192 && buffer[1] == 'b' && buffer[4097] == 0 && buffer[8193] == 'c');
    r = request(fd, IOCB_CMD_FSYNC, NULL, 0, 0, 3);
    CHECK("fsync", result(&r) == 0);
    r = request(fd, IOCB_CMD_FDSYNC, NULL, 0, 0, 4);
    CHECK("fdsync", result(&r) == 0);

    r = request(99, IOCB_CMD_PREAD, buffer, 4096, 0, 0);
    CHECK("EBADF", FAILS(submit1(&r), EBADF));
    r = request(fd, 77, buffer, 4096, 0, 0);
    CHECK("EINVAL: the operation", FAILS(submit1(&r), EINVAL));
    r = request(fd, IOCB_CMD_PREAD, buffer, 4096, -1, 0);
    CHECK("EINVAL: a negative position", FAILS(submit1(&r), EINVAL));
    r = request(fd, IOCB_CMD_FSYNC, buffer, 0, 0, 0);
    CHECK("EINVAL: fsync with a buffer", FAILS(submit1(&r), EINVAL));
    r = request(fd, IOCB_CMD_PREAD, buffer, 4096, 0, 0);
    r.aio_reserved2 = 1;
    CHECK("EINVAL: reserved", FAILS(submit1(&r), EINVAL));
    CHECK("EFAULT: the list", FAILS(io_submit(ctx, 1, (void *)8), EFAULT));
    list[0] = (void *)8;
    CHECK("EFAULT: a request", FAILS(io_submit(ctx, 1, list), EFAULT));
    CHECK("EINVAL: a negative number", FAILS(io_submit(ctx, -1, list), EINVAL));
    CHECK("none is none", io_submit(ctx, 0, list) == 0);
    r = request(fd, IOCB_CMD_PREAD, (void *)4096, 4096, 0, 5);
    CHECK("EFAULT in the buffer is the event's", result(&r) == -EFAULT);
    int rd = open(argv[1], O_RDONLY);
    r = request(rd, IOCB_CMD_PWRITE, buffer, 4096, 0, 0);
    CHECK("EBADF: not open for that", FAILS(submit1(&r), EBADF));
    close(rd);

    for (int i = 0; i < 16; i++) {
        memset(buffer + i * 4096, 'A' + i, 4096);
        many[i] = request(fd, IOCB_CMD_PWRITE, buffer + i * 4096, 4096, (15 - i) * 4096, i);
        list[i] = &many[i];
    }
    CHECK("sixteen at once", io_submit(ctx, 16, list) == 16);
    CHECK("their events", io_getevents(ctx, 16, 32, events, NULL) == 16);
    unsigned seen = 0;
    for (int i = 0; i < 16; i++) seen |= (events[i].res == 4096) << events[i].data;
    CHECK("each of them", seen == 0xffff);
    many[3].aio_fildes = 99;
    CHECK("it stops at the first that is wrong", io_submit(ctx, 16, list) == 3);
    CHECK("three events", io_getevents(ctx, 3, 32, events, NULL) == 3);
    for (int i = 0; i < 16; i++) {
        many[i] = request(fd, IOCB_CMD_PREAD, buffer + i * 4096, 4096, i * 4096, i);
    }
    CHECK("sixteen reads", io_submit(ctx, 16, list) == 16 && io_getevents(ctx, 16, 16, events, NULL) == 16);
    int right = 1;
    for (int i = 0; i < 16; i++) right &= buffer[i * 4096] == 'A' + 15 - i;
    CHECK("read what was written", right);

    struct timespec none = {0, 0}, some = {0, 20000000};
    CHECK("no event, no time", io_getevents(ctx, 1, 1, events, &none) == 0);
    long long before = now_ns(CLOCK_MONOTONIC);
    CHECK("no event in time", io_getevents(ctx, 1, 1, events, &some) == 0 && now_ns(CLOCK_MONOTONIC) - before >= 20000000);
    CHECK("EINVAL: min > nr", FAILS(io_getevents(ctx, 2, 1, events, &none), EINVAL));
    CHECK("EINVAL: min < 0", FAILS(io_getevents(ctx, -1, 1, events, &none), EINVAL));
    struct sigaction act = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &act, NULL);
    struct itimerval soon = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    CHECK("EINTR", FAILS(io_getevents(ctx, 1, 1, events, NULL), EINTR));

    int counter = eventfd(0, 0);
    r = request(fd, IOCB_CMD_PREAD, buffer, 4096, 0, 1);
    r.aio_flags = IOCB_FLAG_RESFD;
    r.aio_resfd = counter;
    unsigned long long n = 0;
    CHECK("an eventfd counts", submit1(&r) == 1 && read(counter, &n, 8) == 8 && n == 1);
    CHECK("and the event is there", io_getevents(ctx, 1, 1, events, &none) == 1 && events[0].res == 4096);
    r.aio_resfd = fd;
    CHECK("EINVAL: no eventfd", FAILS(submit1(&r), EINVAL));

    int p[2];
    pipe(p);
    r = request(p[0], IOCB_CMD_POLL, NULL, 0, 0, 11);
    r.aio_buf = POLLIN;
    CHECK("poll waits", submit1(&r) == 1 && io_getevents(ctx, 0, 1, events, &none) == 0);
    write(p[1], "x", 1);
    CHECK("poll ends", io_getevents(ctx, 1, 1, events, NULL) == 1 && (events[0].res & POLLIN) && events[0].data == 11);
    CHECK("poll of what is ready", result(&r) == POLLIN);
    read(p[0], &n, 1);
    CHECK("poll waits again", submit1(&r) == 1);
    CHECK("EINPROGRESS: cancelled", FAILS(io_cancel(ctx, &r, events), EINPROGRESS));
    CHECK("its event", io_getevents(ctx, 1, 1, events, NULL) == 1 && events[0].res == 0);
    CHECK("EINVAL: nothing to cancel", FAILS(io_cancel(ctx, &r, events), EINVAL));
    r = request(p[0], IOCB_CMD_PREAD, buffer, 1, 0, 0);
    write(p[1], "y", 1);
    CHECK("a pipe can be read", result(&r) == 1 && buffer[0] == 'y');

    r = request(fd, IOCB_CMD_PREAD, buffer, 4096, 0, 77);
    CHECK("submit for the ring", submit1(&r) == 1);
    while (__atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) == ring->head) usleep(1000);
    CHECK("the program reads the ring itself", ring->events[ring->head].data == 77 && ring->events[ring->head].res == 4096);
    ring->head = (ring->head + 1) % ring->nr;
    CHECK("and the kernel sees that", io_getevents(ctx, 1, 1, events, &none) == 0);
    int ok = 1;
    for (int i = 0; i < 500; i++) ok &= result(&r) == 4096; /* round the ring */
    CHECK("five hundred in turn", ok);

    unsigned all = 0;
    int full = 0;
    for (int i = 0; i < 32; i++) list[i] = &r;
    for (int i = 0; i < 1000; i++) {
        long got = io_submit(ctx, 32, list);
        if (got <= 0) { full = errno; break; }
        all += got;
    }
    CHECK("EAGAIN: the ring is full", full == EAGAIN && all >= 64);
    while (all) {
        long got = io_getevents(ctx, 1, 64, events, NULL);
        if (got <= 0) break;
        all -= got;
    }
    CHECK("all of them come", all == 0);

    pid_t pid = fork();
    if (!pid) _exit(!(io_submit(ctx, 1, list) == -1 && errno == EINVAL));
    int status;
    waitpid(pid, &status, 0);
    CHECK("a child has no contexts", status == 0);
    CHECK("io_destroy", io_destroy(ctx) == 0);
    CHECK("only once", FAILS(io_destroy(ctx), EINVAL));
    ctx = 0;
    CHECK("another", io_setup(4, &ctx) == 0);
    pipe(p);
    r = request(p[0], IOCB_CMD_POLL, NULL, 0, 0, 11);
    r.aio_buf = POLLIN;
    CHECK("exit with a request under way", submit1(&r) == 1);
    DONE();
}
