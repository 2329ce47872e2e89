/* The limits of a file system: argv[1] is a directory on it, argv[2] which one, argv[3] how many. */
#include "check.h"
#include <dirent.h>
#include <limits.h>
#include <sys/statfs.h>

static char name[PATH_MAX], data[1 << 16];
static const char *top;

static char *in(const char *format, int number)
{
    int n = snprintf(name, sizeof name, "%s/", top);
    snprintf(name + n, sizeof name - n, format, number);
    return name;
}

static int fill(const char *format) /* until the disk is full: how many bytes went */
{
    int fd = open(in(format, 0), O_WRONLY | O_CREAT, 0600), total = 0;
    for (;;) {
        ssize_t n = write(fd, data, sizeof data);
        if (n < 0) break;
        total += n;
    }
    int error = errno;
    close(fd);
    errno = error;
    return total;
}

int main(int argc, char **argv)
{
    top = argv[1];
    int count = argc > 3 ? atoi(argv[3]) : 0;
    struct stat st;
    struct statfs sf, before;
    if (!strcmp(argv[2], "space")) {
        for (int round = 0; round < 2; round++) {
            int fd = open(in("db", 0), O_RDWR | O_CREAT, 0600);
            CHECK("a file that is there before", pwrite(fd, "before", 6, 0) == 6 && fsync(fd) == 0);
            statfs(top, &before);
            int total = fill("full"), error = errno;
            CHECK("ENOSPC in the end", error == ENOSPC && total > (int)(before.f_bavail * before.f_bsize) / 2);
            statfs(top, &sf);
            CHECK("almost nothing is left", sf.f_bavail < 64);
            CHECK("ENOSPC: fallocate", posix_fallocate(fd, 0, 8 << 20) == ENOSPC);
            CHECK("writing in place still works", pwrite(fd, "during", 6, 0) == 6 && fsync(fd) == 0);
            CHECK("a sync is no error", fsync(fd) == 0);
            CHECK("room again", unlink(in("full", 0)) == 0);
            sync();
            statfs(top, &sf);
            CHECK("all of it", sf.f_bavail >= before.f_bavail - 16);
            CHECK("and it can be used", fill("again") >= total - (1 << 20) && unlink(in("again", 0)) == 0);
            close(fd);
        }
    } else if (!strcmp(argv[2], "mmap")) {
        int fd = open(in("map", 0), O_RDWR | O_CREAT, 0600);
        ftruncate(fd, 16 << 20);
        char *map = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        fill("full");
        pid_t pid = fork();
        if (!pid) {
            for (int i = 0; i < 16 << 20; i += 4096) map[i] = 1;
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        CHECK("SIGBUS: no block for a page", WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        unlink(in("map", 0));
        unlink(in("full", 0));
    } else if (!strcmp(argv[2], "inodes")) {
        statfs(top, &before);
        int made = 0;
        for (;; made++) {
            int fd = open(in("f%d", made), O_WRONLY | O_CREAT | O_EXCL, 0600);
            if (fd < 0) break;
            close(fd);
        }
        int error = errno;
        CHECK("ENOSPC: no inode is left", error == ENOSPC && made == (int)before.f_ffree);
        CHECK("not for a directory either", FAILS(mkdir(in("d", 0), 0700), ENOSPC));
        CHECK("but for data", (fill("f0"), stat(in("f0", 0), &st), st.st_size > 0));
        for (int i = 0; i < made; i++) unlink(in("f%d", i));
        statfs(top, &sf);
        CHECK("all come back", sf.f_ffree == before.f_ffree && mkdir(in("d", 0), 0700) == 0);
    } else if (!strcmp(argv[2], "links")) {
        close(open(in("file", 0), O_CREAT, 0600));
        char first[PATH_MAX];
        strcpy(first, name);
        int made = 1;
        while (made <= count && link(first, in("l%d", made)) == 0) made++;
        int error = errno;
        CHECK("EMLINK", error == EMLINK && stat(first, &st) == 0 && (int)st.st_nlink == made);
        printf("links %d\n", made);
        for (int i = 1; i < made; i++) unlink(in("l%d", i));
        CHECK("one again", stat(first, &st) == 0 && st.st_nlink == 1);
    } else if (!strcmp(argv[2], "many")) {
        int right = 1;
        for (int i = 0; i < count; i++) {
            int fd = open(in("a-name-that-is-not-short-%d", i), O_CREAT | O_EXCL | O_WRONLY, 0600);
            right &= fd >= 0;
            close(fd);
        }
        CHECK("as many files", right);
        sync();
        DIR *d = opendir(top);
        int seen = 0;
        for (struct dirent *e; (e = readdir(d));) seen += !strncmp(e->d_name, "a-name", 6);
        closedir(d);
        CHECK("each is listed once", seen == count);
        for (int i = 0; i < count; i += 97) right &= stat(in("a-name-that-is-not-short-%d", i), &st) == 0;
        CHECK("each is found", right && FAILS(stat(in("a-name-that-is-not-short-%d", count), &st), ENOENT));
    } else if (!strcmp(argv[2], "unlink")) {
        int right = 1;
        for (int i = 0; i < count; i++) right &= unlink(in("a-name-that-is-not-short-%d", i)) == 0;
        CHECK("all go", right && rmdir(top) == 0);
    } else if (!strcmp(argv[2], "names")) {
        memset(data, 'n', 256);
        data[255] = 0;
        snprintf(name, sizeof name, "%s/%s", top, data);
        CHECK("255 bytes", close(open(name, O_CREAT, 0600)) == 0 && stat(name, &st) == 0);
        CHECK("a directory of 255 bytes", unlink(name) == 0 && mkdir(name, 0700) == 0 && rmdir(name) == 0);
        data[255] = 'n', data[256] = 0;
        snprintf(name, sizeof name, "%s/%s", top, data);
        CHECK("ENAMETOOLONG: open", FAILS(open(name, O_CREAT, 0600), ENAMETOOLONG));
        CHECK("ENAMETOOLONG: mkdir", FAILS(mkdir(name, 0700), ENAMETOOLONG));
        CHECK("ENAMETOOLONG: stat", FAILS(stat(name, &st), ENAMETOOLONG));
        CHECK("ENAMETOOLONG: symlink", FAILS(symlink("x", name), ENAMETOOLONG));
        memset(data, 'x', 5000);
        data[5000] = 0;
        CHECK("ENAMETOOLONG: what a symlink says", FAILS(symlink(data, in("l", 0)), ENAMETOOLONG));
        CHECK("ENAMETOOLONG: a path", FAILS(open(data, O_RDONLY), ENAMETOOLONG));
    } else if (!strcmp(argv[2], "sparse")) {
        long long tera = 1LL << 40;
        int fd = open(in("sparse", 0), O_RDWR | O_CREAT, 0600);
        CHECK("1 TB", ftruncate(fd, tera) == 0 && fstat(fd, &st) == 0 && st.st_size == tera && st.st_blocks == 0);
        CHECK("written at its end", pwrite(fd, "end", 3, tera - 3) == 3 && pwrite(fd, "middle", 6, tera / 2) == 6);
        CHECK("stored", fsync(fd) == 0 && fstat(fd, &st) == 0 && st.st_blocks <= 32);
        CHECK("read", pread(fd, data, 10, tera - 10) == 10 && !memcmp(data, "\0\0\0\0\0\0\0end", 10));
        CHECK("its holes", lseek(fd, 0, SEEK_DATA) == tera / 2 && lseek(fd, tera / 2, SEEK_HOLE) < tera / 2 + 65536);
        char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, tera / 4);
        map[7] = 'm';
        CHECK("mapped", msync(map, 4096, MS_SYNC) == 0 && pread(fd, data, 1, tera / 4 + 7) == 1 && data[0] == 'm');
        long long max = 16LL << 40;
        if (argc > 3) max = atoll(argv[3]);
        CHECK("the largest file", ftruncate(fd, max) == 0 && fstat(fd, &st) == 0 && st.st_size == max);
        CHECK("EFBIG: beyond", FAILS(ftruncate(fd, max + 4096), EFBIG));
        CHECK("a byte at its end", pwrite(fd, "x", 1, max - 1) == 1 && fsync(fd) == 0);
        CHECK("what fits", pwrite(fd, "yz", 2, max - 1) == 1);
        CHECK("EFBIG: a write there", FAILS(pwrite(fd, "x", 1, max), EFBIG));
        CHECK("EFBIG: fallocate there", posix_fallocate(fd, max, 4096) == EFBIG);
        struct rlimit limit = {1 << 20, RLIM_INFINITY};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        CHECK("EFBIG: RLIMIT_FSIZE", FAILS(pwrite(fd, "x", 1, 1 << 20), EFBIG) && pwrite(fd, "xx", 2, (1 << 20) - 1) == 1);
        CHECK("EFBIG: truncate", ftruncate(fd, 1 << 20) == 0 && FAILS(ftruncate(fd, (1 << 20) + 1), EFBIG));
    }
    DONE();
}
