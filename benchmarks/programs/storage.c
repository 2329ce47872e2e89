/* storage MODE DIR|DEVICE... N: one kind of work on a disk's file system. Files are SPAN long at most, then begin again.
 *   append  write 64 KB at the end     seqread  read 64 KB, cached      cold  the same, dropped from the cache before each pass
 *   write SIZE, read SIZE              at random places of a file that is there, cached
 *   dread, dwrite                      4 KB at random places, O_DIRECT
 *   fsync                              write 4 KB at the end, fsync
 *   grow                               N times 64 KB at the end of one file, fsync, drop from the cache, read all of it
 *   create, files                      N empty files in one directory; the same, then stat and unlink each
 *   mount DEVICE TYPE                  mount and umount on DIR
 */
#include "common.h"
#include <sys/mount.h>

enum { PIECE = 65536, PAGE = 4096, SPAN = 16 << 20 };
static char *buffer;

static unsigned place(unsigned size)
{
    static unsigned state = 1;
    state = state * 1664525 + 1013904223;
    return (state >> 8) % (SPAN / size) * size;
}

static void fill(int fd)
{
    for (long at = 0; at < SPAN; at += PIECE)
        check(pwrite(fd, buffer, PIECE, at) == PIECE, "pwrite");
    check(fsync(fd) == 0, "fsync");
}

static void files(long n, int all)
{
    char name[32];
    struct stat st;
    for (long i = 0; i < n; i++) {
        snprintf(name, sizeof name, "file%ld", i);
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
        check(fd >= 0 && close(fd) == 0, name);
    }
    for (long i = 0; all && i < n; i++) {
        snprintf(name, sizeof name, "file%ld", i);
        check(stat(name, &st) == 0 && st.st_size == 0, name);
    }
    for (long i = 0; all && i < n; i++) {
        snprintf(name, sizeof name, "file%ld", i);
        check(unlink(name) == 0, name);
    }
}

static void work(const char *mode, int fd, long size, long n)
{
    long at = 0;
    int again = !strcmp(mode, "append") || !strcmp(mode, "fsync"), cold = !strcmp(mode, "cold");
    if (!again)
        fill(fd);
    for (long i = 0; i < n; i++) {
        if (again && at + size > SPAN)
            check(ftruncate(fd, 0) == 0, "ftruncate");
        if (at + size > SPAN)
            at = 0;
        if (cold && at == 0)
            check(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
        if (!strcmp(mode, "read") || !strcmp(mode, "dread"))
            check(pread(fd, buffer, size, place(size)) == size, mode);
        else if (!strcmp(mode, "write") || !strcmp(mode, "dwrite"))
            check(pwrite(fd, buffer, size, place(size)) == size, mode);
        else if (again)
            check(pwrite(fd, buffer, size, at) == size, mode);
        else
            check(pread(fd, buffer, size, at) == size, mode);
        if (!strcmp(mode, "fsync"))
            check(fsync(fd) == 0, mode);
        at += size;
    }
}

static void grow(int fd, long n)
{
    for (long i = 0; i < n; i++)
        check(write(fd, buffer, PIECE) == PIECE, "write");
    check(fsync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "fsync");
    for (long i = 0; i < n; i++)
        check(pread(fd, buffer, PIECE, i * PIECE) == PIECE, "pread");
}

int main(int argc, char **argv)
{
    long n = count(argc, argv);
    const char *mode = argv[1], *dir = argv[2];
    char name[32];
    check(posix_memalign((void **)&buffer, PAGE, PIECE) == 0, "posix_memalign");
    memset(buffer, 'x', PIECE);
    if (!strcmp(mode, "mount")) {
        while (n--)
            check(mount(argv[3], dir, argv[4], 0, NULL) == 0 && umount(dir) == 0, argv[3]);
        return done();
    }
    snprintf(name, sizeof name, "gk-bench.%d", getpid());
    check(chdir(dir) == 0, dir);
    if (!strcmp(mode, "create") || !strcmp(mode, "files")) {
        check(mkdir(name, 0700) == 0 && chdir(name) == 0, name);
        files(n, mode[0] == 'f');
        check(chdir("..") == 0 && (mode[0] == 'c' || rmdir(name) == 0), name);
    } else {
        int fd = open(name, O_RDWR | O_CREAT | (mode[0] == 'd' ? O_DIRECT : 0), 0600);
        check(fd >= 0, name);
        if (!strcmp(mode, "grow"))
            grow(fd, n);
        else
            work(mode, fd, argc > 4 ? atol(argv[3]) : mode[0] == 'd' || mode[0] == 'f' ? PAGE : PIECE, n);
        check(unlink(name) == 0, name);
    }
    return done();
}
