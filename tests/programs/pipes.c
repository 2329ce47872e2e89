/* Pipes: order, capacity, atomic writes, end of file, SIGPIPE, non-blocking mode. */
#include "check.h"
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>

static int chunks_mixed; /* a PIPE_BUF write torn apart */
static int out_fd;

static int writer(const char *letter)
{
    char block[PIPE_BUF];
    memset(block, *letter, sizeof block);
    for (int i = 0; i < 20; i++)
        if (write(out_fd, block, sizeof block) != sizeof block)
            return 1;
    return 0;
}

static volatile int sigpipes;
static void on_sigpipe(int signo)
{
    sigpipes++;
}

int main(void)
{
    int p[2];
    char c, buf[65536];
    CHECK("pipe", pipe(p) == 0);
    CHECK("bytes arrive in order", write(p[1], "abc", 3) == 3 && read(p[0], buf, 2) == 2 &&
                                       !memcmp(buf, "ab", 2) && read(p[0], buf, 9) == 1 && buf[0] == 'c');
    CHECK("a pipe cannot seek", FAILS(lseek(p[0], 0, SEEK_SET), ESPIPE));
    CHECK("the read end cannot be written", FAILS(write(p[0], "x", 1), EBADF));
    CHECK("F_GETPIPE_SZ is 65536", fcntl(p[0], F_GETPIPE_SZ) == 65536);
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    fcntl(p[1], F_SETFL, O_NONBLOCK);
    CHECK("an empty pipe is EAGAIN", FAILS(read(p[0], &c, 1), EAGAIN));
    memset(buf, 'z', sizeof buf);
    CHECK("it holds exactly its capacity", write(p[1], buf, sizeof buf) == 65536);
    CHECK("a full pipe is EAGAIN", FAILS(write(p[1], "x", 1), EAGAIN));
    int held = 0;
    CHECK("FIONREAD counts", ioctl(p[0], FIONREAD, &held) == 0 && held == 65536);
    struct pollfd pf = {p[1], POLLOUT};
    CHECK("a full pipe is not writable", poll(&pf, 1, 0) == 0);
    (void)!read(p[0], buf, 4096);
    CHECK("but is when a page is free", poll(&pf, 1, 0) == 1 && pf.revents == POLLOUT);
    while (read(p[0], buf, sizeof buf) > 0)
        ;
    CHECK("F_SETPIPE_SZ rounds up to pages", fcntl(p[1], F_SETPIPE_SZ, 5000) == 8192);
    CHECK("and takes effect", write(p[1], buf, sizeof buf) == 8192);
    CHECK("it cannot shrink below its contents", FAILS(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY));
    close(p[1]);
    while (read(p[0], buf, sizeof buf) > 0)
        ;
    CHECK("without writers read returns 0", read(p[0], &c, 1) == 0);
    pf = (struct pollfd){p[0], POLLIN};
    CHECK("and poll says POLLHUP", poll(&pf, 1, 0) == 1 && pf.revents & POLLHUP);
    close(p[0]);

    (void)!pipe(p);
    signal(SIGPIPE, on_sigpipe);
    close(p[0]);
    CHECK("without readers write is EPIPE", FAILS(write(p[1], "x", 1), EPIPE));
    CHECK("after SIGPIPE", sigpipes == 1);
    pf = (struct pollfd){p[1], POLLOUT};
    CHECK("and poll says POLLERR", poll(&pf, 1, 0) == 1 && pf.revents & POLLERR);
    close(p[1]);

    (void)!pipe(p);
    out_fd = p[1];
    pid_t kids[2];
    for (int i = 0; i < 2; i++)
        if ((kids[i] = fork()) == 0)
            _exit(writer(i ? "b" : "a"));
    close(p[1]);
    size_t total = 0, got;
    static char all[40 * PIPE_BUF];
    while ((got = read(p[0], all + total, sizeof all - total)) > 0 && got != (size_t)-1)
        total += got;
    for (size_t i = 0; i < total; i++)
        chunks_mixed |= all[i] != all[i / PIPE_BUF * PIPE_BUF];
    CHECK("two writers' bytes all arrive", total == sizeof all);
    CHECK("writes up to PIPE_BUF are not torn", !chunks_mixed);
    int status;
    CHECK("both writers succeeded", waitpid(kids[0], &status, 0) > 0 && status == 0 &&
                                        waitpid(kids[1], &status, 0) > 0 && status == 0);
    close(p[0]);
    CHECK("pipe2 O_CLOEXEC", pipe2(p, O_CLOEXEC) == 0 && fcntl(p[0], F_GETFD) == FD_CLOEXEC);
    CHECK("a bad address is EFAULT", FAILS(syscall(SYS_pipe, 8), EFAULT));
    DONE();
}
