/* Changes files and says what it was promised: "have", "grow", "gone", "link", "dir", "attr" hold from that line on;
   "will" announces a version, "may" takes promises back before they are broken. Run as: work DIRECTORY SEED STEPS [PREFIX OF PATHS] */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define RECORD 64
static unsigned long dice;
static unsigned roll(unsigned n) { dice = dice * 6364136223846793005UL + 1442695040888963407UL; return (dice >> 33) % n; }

static const char *prefix = "";

static void say(const char *format, ...)         /* KIND PATH ... */
{
    char text[256], line[300];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    int kind = strcspn(text, " ") + 1;
    int n = snprintf(line, sizeof line, "%.*s%s%s\n", kind, text, prefix, text + kind) - 1;
    if (write(1, line, n + 1) != n + 1) _exit(9);
}

static void check(int ok, const char *what)
{
    if (!ok) { fprintf(stderr, "%s: %s\n", what, strerror(errno)); _exit(1); }
}

static void record(char *at, int id, int version, int k)
{
    memset(at, '.', RECORD);
    at[snprintf(at, RECORD, "id %d version %d record %d", id, version, k)] = ' ';
    at[RECORD - 1] = '\n';
}

static void put(int fd, int id, int version, int from, int count)
{
    static char buffer[4096 * RECORD];
    for (int k = 0; k < count; k++) record(buffer + k * RECORD, id, version, from + k);
    check(pwrite(fd, buffer, count * RECORD, (off_t)from * RECORD) == count * RECORD, "write");
}

static void sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    check(fd >= 0 && fsync(fd) == 0 && close(fd) == 0, path);
}

static int version_of[64], log_records;

static void replace(int n)                       /* the classical way: new file, fsync, rename, fsync */
{
    char name[32];
    int version = ++version_of[n], count = 1 + roll(300);
    snprintf(name, sizeof name, "d%d/file%d", n % 3, n);
    say("will %s %d %d %d", name, n, version, count);
    int fd = open("new", O_CREAT | O_TRUNC | O_RDWR, 0644);
    check(fd >= 0, "new");
    put(fd, n, version, 0, count);
    check(fsync(fd) == 0, "fsync");
    check(rename("new", name) == 0, "rename");
    if (roll(2)) check(fsync(fd) == 0, "fsync");
    else { char dir[8]; snprintf(dir, sizeof dir, "d%d", n % 3); sync_directory(dir); }
    say("have %s %d %d %d", name, n, version, count);
    close(fd);
}

static void append(void)
{
    int fd = open("log", O_WRONLY | (roll(4) ? 0 : O_SYNC)), count = 1 + roll(20);
    check(fd >= 0, "log");
    put(fd, 99, 0, log_records, count);
    log_records += count;
    check(fdatasync(fd) == 0, "fdatasync");
    say("grow log 99 %d", log_records);
    close(fd);
}

static void shorten(void)
{
    say("may log");
    log_records /= 2;
    check(truncate("log", (off_t)log_records * RECORD) == 0, "truncate");
    int fd = open("log", O_RDONLY);
    check(fsync(fd) == 0, "fsync");
    say("grow log 99 %d", log_records);
    close(fd);
}

static void in_place(int version, int mapped)
{
    int fd = open("place", O_RDWR);
    say("will place 50 %d 128", version);
    if (mapped) {
        char *p = mmap(0, 128 * RECORD, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        check(p != MAP_FAILED, "mmap");
        for (int k = 0; k < 128; k++) record(p + k * RECORD, 50, version, k);
        check(msync(p, 128 * RECORD, MS_SYNC) == 0, "msync");
        munmap(p, 128 * RECORD);
    } else {
        put(fd, 50, version, 0, 128);
        check(fdatasync(fd) == 0, "fdatasync");
    }
    say("place place 50 %d 128", version);
    close(fd);
}

static void names(int n)
{
    char dir[32], deep[48], soft[32], hard[32];
    snprintf(dir, sizeof dir, "n%d", n);
    snprintf(deep, sizeof deep, "n%d/deep", n);
    snprintf(soft, sizeof soft, "soft%d", n);
    snprintf(hard, sizeof hard, "n%d/hard", n);
    check(mkdir(dir, 0755) == 0 && mkdir(deep, 0755) == 0, dir);
    check(symlink("log", soft) == 0, soft);
    check(link("place", hard) == 0, hard);
    sync_directory(dir);
    sync_directory(".");
    say("dir %s", deep);
    say("link %s log", soft);
    if (roll(2)) {
        say("may %s", soft);
        say("may %s", deep);
        check(unlink(soft) == 0 && rmdir(deep) == 0, soft);
        sync_directory(dir);
        sync_directory(".");
        say("gone %s", soft);
        say("gone %s", deep);
    }
}

static void attribute(int value)
{
    char text[16];
    int fd = open("place", O_RDWR);
    snprintf(text, sizeof text, "%d", value);
    check(fsetxattr(fd, "user.v", text, strlen(text), 0) == 0, "setxattr");
    check(fsync(fd) == 0, "fsync");
    say("attr place %d", value);
    close(fd);
}

static void reserve(int n)                       /* unwritten extents */
{
    char name[32];
    snprintf(name, sizeof name, "reserved%d", n);
    int fd = open(name, O_CREAT | O_RDWR, 0600), count = 64 + roll(64);
    check(posix_fallocate(fd, 0, count * RECORD) == 0, "fallocate");
    say("will %s %d 1 %d", name, 60, count);
    put(fd, 60, 1, 0, count);
    check(fsync(fd) == 0, "fsync");
    sync_directory(".");
    say("have %s %d 1 %d", name, 60, count);
    close(fd);
}

static void noise(int n)                         /* nobody syncs this */
{
    char name[32];
    for (int k = 0; k < 6; k++) {
        snprintf(name, sizeof name, "noise%d.%d", n, k);
        int fd = open(name, O_CREAT | O_RDWR, 0600);
        check(fd >= 0, name);
        put(fd, 70, 0, 0, 1 + roll(100));
        close(fd);
    }
    for (int k = 0; k < 6; k += 2) {
        snprintf(name, sizeof name, "noise%d.%d", n, k);
        check(unlink(name) == 0, name);
    }
}

int main(int argc, char **argv)
{
    check(argc >= 4 && chdir(argv[1]) == 0, "chdir");
    if (argc > 4) prefix = argv[4];
    dice = strtoul(argv[2], 0, 10) * 7919 + 1;
    int steps = atoi(argv[3]), place = 0;
    check(mkdir("d0", 0755) == 0 && mkdir("d1", 0755) == 0 && mkdir("d2", 0755) == 0, "mkdir");
    int fd = open("log", O_CREAT | O_RDWR, 0644);
    check(fsync(fd) == 0, "fsync");
    close(fd);
    say("will place 50 0 128");
    fd = open("place", O_CREAT | O_RDWR, 0644);
    put(fd, 50, 0, 0, 128);
    check(fsync(fd) == 0, "fsync");
    close(fd);
    sync_directory(".");
    sync_directory("..");
    say("grow log 99 0");
    say("place place 50 0 128");
    say("dir d0");
    for (int step = 0; step < steps; step++) {
        switch (roll(10)) {
        case 0: case 1: replace(roll(6)); break;
        case 2: append(); break;
        case 3: noise(step); break;
        case 4: in_place(++place, step & 1); break;
        case 5: names(step); break;
        case 6: attribute(step); break;
        case 7: reserve(step); break;
        case 8: if (roll(3)) append(); else shorten(); break;
        case 9: sleep(1 + roll(12)); break;      /* write-back and the journal's own timer */
        }
    }
    sync();
    return 0;
}
