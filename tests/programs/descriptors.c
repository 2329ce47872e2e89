/* Descriptors, record locks and file limits. */
#include "check.h"
#include <sys/file.h>

static int try_lock(void *arg) /* in another process: 0 if the first byte is locked by our parent */
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    int fd = *(int *)arg;
    if (!FAILS(fcntl(fd, F_SETLK, &fl), EAGAIN))
        return 1;
    if (fcntl(fd, F_GETLK, &fl) || fl.l_type != F_WRLCK || fl.l_pid != getppid())
        return 2;
    fl = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};
    return fcntl(fd, F_SETLK, &fl) ? 3 : 0;
}

static volatile int xfsz;
static void on_xfsz(int signo)
{
    xfsz++;
}

static int file_size_limit(void *arg)
{
    struct rlimit limit = {1000, 1000};
    int fd = open("big", O_CREAT | O_RDWR | O_TRUNC, 0600);
    char block[2000] = {0};
    signal(SIGXFSZ, on_xfsz);
    setrlimit(RLIMIT_FSIZE, &limit);
    if (write(fd, block, 2000) != 1000 || xfsz)
        return 1;
    if (!FAILS(write(fd, block, 1), EFBIG) || xfsz != 1)
        return 2;
    return FAILS(ftruncate(fd, 5000), EFBIG) && xfsz == 2 ? 0 : 3;
}

static int open_limit(void *arg)
{
    struct rlimit limit = {20, 20};
    setrlimit(RLIMIT_NOFILE, &limit);
    while (dup(0) >= 0)
        ;
    if (errno != EMFILE)
        return 1;
    return FAILS(dup2(0, 20), EBADF) && FAILS(fcntl(0, F_DUPFD, 20), EINVAL) ? 0 : 2;
}

static int keeps_flock(void *arg)
{
    int fd = open("lock", O_RDWR);
    return FAILS(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK) ? 0 : 1;
}

int main(void)
{
    enter_scratch();
    int fd = open("lock", O_CREAT | O_RDWR, 0600);
    int copy = dup(fd);
    (void)!write(fd, "abc", 3);
    CHECK("dup shares the offset", lseek(copy, 0, SEEK_CUR) == 3);
    int again = open("lock", O_RDWR);
    CHECK("another open has its own", lseek(again, 0, SEEK_CUR) == 0);
    CHECK("the lowest free number is taken", close(copy) == 0 && dup(fd) == copy);
    CHECK("dup2 to itself", dup2(fd, fd) == fd);
    CHECK("dup3 to itself is EINVAL", FAILS(dup3(fd, fd, 0), EINVAL));
    CHECK("dup3 O_CLOEXEC", dup3(fd, 50, O_CLOEXEC) == 50 && fcntl(50, F_GETFD) == FD_CLOEXEC);
    CHECK("dup clears it", fcntl(dup(50), F_GETFD) == 0);
    CHECK("F_DUPFD starts at its argument", fcntl(fd, F_DUPFD, 60) == 60);
    CHECK("F_SETFL changes O_APPEND only", fcntl(fd, F_SETFL, O_APPEND | O_RDONLY) == 0 &&
                                               (fcntl(fd, F_GETFL) & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_RDWR));
    CHECK("flags are shared by dup", fcntl(60, F_GETFL) & O_APPEND);
    CHECK("a closed descriptor is EBADF", FAILS(close(99), EBADF) && FAILS(read(99, NULL, 0), EBADF));
    CHECK("close_range (or unsupported)", syscall(436, 50, 70, 0) == 0 ? FAILS(fcntl(60, F_GETFD), EBADF) : errno == ENOSYS);

    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    CHECK("F_SETLK", fcntl(fd, F_SETLK, &fl) == 0);
    CHECK("keeps other processes out of its range", run_child(try_lock, &fd) == 0);
    CHECK("the owner itself may lock again", fcntl(again, F_SETLK, &fl) == 0);
    CHECK("closing any descriptor drops the locks", close(again) == 0 && run_child(try_lock, &fd) != 0);
    CHECK("flock", flock(fd, LOCK_EX) == 0 && run_child(keeps_flock, NULL) == 0);
    CHECK("LOCK_UN", flock(fd, LOCK_UN) == 0 && run_child(keeps_flock, NULL) != 0);

    CHECK("RLIMIT_FSIZE: short write, then SIGXFSZ and EFBIG", run_child(file_size_limit, NULL) == 0);
    CHECK("RLIMIT_NOFILE: EMFILE", run_child(open_limit, NULL) == 0);
    struct rlimit limit = {10, 5};
    CHECK("a soft limit over the hard one is EINVAL", FAILS(setrlimit(RLIMIT_NOFILE, &limit), EINVAL));
    CHECK("prlimit reads", prlimit(0, RLIMIT_NOFILE, NULL, &limit) == 0 && limit.rlim_cur > 5);
    DONE();
}
