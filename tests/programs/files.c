/* Files and names: open flags, links, rename, attributes, holes, directories. */
#include "check.h"
#include <dirent.h>
#include <sys/uio.h>

static char text[64];
static const char *content(const char *name)
{
    int fd = open(name, O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return text;
}

static int make(const char *name, const char *data)
{
    int fd = open(name, O_CREAT | O_RDWR | O_TRUNC, 0644);
    if (write(fd, data, strlen(data)) < 0)
        return -1;
    return fd;
}

int main(void)
{
    struct stat st, st2;
    enter_scratch();
    int fd = make("a", "hello");
    CHECK("O_EXCL refuses what exists", FAILS(open("a", O_CREAT | O_EXCL, 0644), EEXIST));
    int app = open("a", O_WRONLY | O_APPEND);
    lseek(app, 0, SEEK_SET);
    CHECK("O_APPEND writes at the end", write(app, "!", 1) == 1 && !strcmp(content("a"), "hello!"));
    CHECK("O_TRUNC", close(open("a", O_WRONLY | O_TRUNC)) == 0 && stat("a", &st) == 0 && st.st_size == 0);
    CHECK("O_DIRECTORY", FAILS(open("a", O_DIRECTORY), ENOTDIR));
    CHECK("a directory cannot be written", FAILS(open(".", O_WRONLY), EISDIR));
    CHECK("reading one is EISDIR", FAILS(read(open(".", O_RDONLY), text, 1), EISDIR));
    CHECK("a file is not a directory", FAILS(open("a/b", O_RDONLY), ENOTDIR));
    char longname[300], longpath[5001];
    memset(longname, 'n', sizeof longname - 1);
    longname[sizeof longname - 1] = 0;
    memset(longpath, 'p', 5000);
    longpath[5000] = 0;
    for (int i = 0; i < 5000; i += 100)
        longpath[i] = '/';
    CHECK("a name over 255 bytes is ENAMETOOLONG", FAILS(open(longname, O_RDONLY), ENAMETOOLONG));
    CHECK("a path of 5000 bytes too", FAILS(open(longpath, O_RDONLY), ENAMETOOLONG));
    CHECK("an empty path is ENOENT", FAILS(open("", O_RDONLY), ENOENT));

    (void)!write(fd, "data", 4);
    CHECK("link", link("a", "b") == 0 && stat("b", &st) == 0 && st.st_nlink == 2);
    CHECK("onto an existing name is EEXIST", FAILS(link("a", "b"), EEXIST));
    CHECK("unlink leaves the other name", unlink("a") == 0 && stat("b", &st2) == 0 && st2.st_ino == st.st_ino);
    CHECK("a deleted file lives while it is open", unlink("b") == 0 && fstat(fd, &st) == 0 && st.st_nlink == 0);
    CHECK("rmdir of a full directory", mkdir("d", 0755) == 0 && close(make("d/f", "1")) == 0 && FAILS(rmdir("d"), ENOTEMPTY));
    CHECK("unlink of a directory is EISDIR", FAILS(unlink("d"), EISDIR));

    CHECK("symlink", symlink("d/f", "s") == 0 && !strcmp(content("s"), "1"));
    CHECK("readlink", readlink("s", text, 64) == 3 && !memcmp(text, "d/f", 3));
    CHECK("lstat", lstat("s", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 3);
    CHECK("O_NOFOLLOW is ELOOP", FAILS(open("s", O_RDONLY | O_NOFOLLOW), ELOOP));
    CHECK("a loop is ELOOP", symlink("l2", "l1") == 0 && symlink("l1", "l2") == 0 && FAILS(open("l1", O_RDONLY), ELOOP));
    CHECK("a dangling link is ENOENT", symlink("none", "x") == 0 && FAILS(stat("x", &st), ENOENT));

    close(make("r1", "one")), close(make("r2", "two"));
    CHECK("RENAME_NOREPLACE", FAILS(syscall(SYS_renameat2, AT_FDCWD, "r1", AT_FDCWD, "r2", 1), EEXIST));
    CHECK("RENAME_EXCHANGE", syscall(SYS_renameat2, AT_FDCWD, "r1", AT_FDCWD, "r2", 2) == 0 && !strcmp(content("r1"), "two"));
    CHECK("rename replaces", rename("r1", "r2") == 0 && !strcmp(content("r2"), "two") && FAILS(stat("r1", &st), ENOENT));
    CHECK("a directory into itself is EINVAL", FAILS(rename("d", "d/e"), EINVAL));
    CHECK("a file over a directory is EISDIR", FAILS(rename("r2", "d"), EISDIR));
    int dir = open("d", O_RDONLY | O_DIRECTORY);
    CHECK("openat", openat(dir, "f", O_RDONLY) >= 0 && FAILS(openat(dir, "r2", O_RDONLY), ENOENT));

    umask(027);
    CHECK("umask", close(open("m", O_CREAT | O_RDWR, 0666)) == 0 && stat("m", &st) == 0 && (st.st_mode & 07777) == 0640);
    CHECK("chmod", chmod("m", 04711) == 0 && stat("m", &st) == 0 && (st.st_mode & 07777) == 04711);
    struct timespec when[2] = {{100, 5}, {200, 7}};
    CHECK("utimensat", utimensat(AT_FDCWD, "m", when, 0) == 0 && stat("m", &st) == 0 && st.st_mtim.tv_sec == 200 &&
                           st.st_mtim.tv_nsec == 7 && st.st_atim.tv_sec == 100);
    when[0].tv_nsec = UTIME_OMIT, when[1].tv_nsec = UTIME_NOW;
    CHECK("UTIME_OMIT, UTIME_NOW", utimensat(AT_FDCWD, "m", when, 0) == 0 && stat("m", &st) == 0 && st.st_atim.tv_sec == 100 && st.st_mtim.tv_sec > 1000);
    struct statx sx;
    CHECK("statx", statx(AT_FDCWD, "m", 0, STATX_BASIC_STATS, &sx) == 0 && sx.stx_mode == st.st_mode && sx.stx_ino == st.st_ino);

    int sparse = make("sparse", "");
    CHECK("a write far out makes a hole", pwrite(sparse, "end", 3, 1 << 20) == 3 && fstat(sparse, &st) == 0 &&
                                              st.st_size == (1 << 20) + 3 && st.st_blocks * 512 < st.st_size);
    CHECK("which reads as zeros", pread(sparse, text, 4, 5000) == 4 && !memcmp(text, "\0\0\0\0", 4));
    CHECK("SEEK_DATA finds data", lseek(sparse, 0, SEEK_DATA) <= 1 << 20);
    CHECK("SEEK_HOLE at the end is the size", lseek(sparse, 1 << 20, SEEK_HOLE) == (1 << 20) + 3);
    CHECK("a negative offset is EINVAL", FAILS(lseek(sparse, -1, SEEK_SET), EINVAL));
    struct iovec iov[2] = {{"ab", 2}, {"cd", 2}};
    CHECK("writev", pwritev(sparse, iov, 2, 0) == 4 && pread(sparse, text, 4, 0) == 4 && !memcmp(text, "abcd", 4));
    CHECK("ftruncate shrinks", ftruncate(sparse, 2) == 0 && pread(sparse, text, 9, 0) == 2);

    for (int i = 0; i < 200; i++) {
        sprintf(text, "d/entry%03d", i);
        close(open(text, O_CREAT | O_WRONLY, 0600));
    }
    int seen = 0, dots = 0;
    DIR *stream = opendir("d");
    for (struct dirent *e; (e = readdir(stream));)
        e->d_name[0] == '.' ? dots++ : (seen += e->d_type == DT_REG);
    CHECK("getdents lists every entry once", seen == 201 && dots == 2);
    int tmpfile_fd = open(".", O_TMPFILE | O_RDWR, 0600);
    CHECK("O_TMPFILE (or unsupported)", tmpfile_fd >= 0 || errno == EOPNOTSUPP || errno == EISDIR);
    CHECK("mkfifo", mkfifo("p", 0600) == 0 && stat("p", &st) == 0 && S_ISFIFO(st.st_mode));
    CHECK("a FIFO without reader is ENXIO", FAILS(open("p", O_WRONLY | O_NONBLOCK), ENXIO));
    DONE();
}
