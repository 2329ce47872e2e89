/* Says what is below a directory. Files: PATH f SIZE ID OLDEST NEWEST GOOD REST ATTR, where GOOD leading records are whole
   and REST is "-" (nothing behind them), "zero" (zeros, and parts of records) or "bad". Run as: look DIRECTORY */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define RECORD 64

static void record(char *at, int id, int version, int k)
{
    memset(at, '.', RECORD);
    at[snprintf(at, RECORD, "id %d version %d record %d", id, version, k)] = ' ';
    at[RECORD - 1] = '\n';
}

static int whole(const char *at, int k, int *id, int *version)       /* is this record k of some version of some file? */
{
    char expected[RECORD + 1];
    int number;
    if (sscanf(at, "id %d version %d record %d", id, version, &number) != 3 || number != k) return 0;
    record(expected, *id, *version, k);
    return !memcmp(at, expected, RECORD);
}

static int file(const char *path, long size)
{
    static char data[(1 << 20) + RECORD];
    char expected[RECORD + 1];
    int fd = open(path, O_RDONLY), id = -1, oldest = -1, newest = -1, good = 0, i, version;
    long got = 0, n = 0, k;
    memset(data, 0, sizeof data);
    while (got < 1 << 20 && (n = read(fd, data + got, (1 << 20) - got)) > 0) got += n;
    if (fd < 0 || n < 0 || got != size) { printf("%s unreadable\n", path); return 1; }
    for (; (good + 1) * RECORD <= got; good++) {
        if (!whole(data + good * RECORD, good, &i, &version) || (id >= 0 && i != id)) break;
        id = i;
        if (oldest < 0 || version < oldest) oldest = version;
        if (version > newest) newest = version;
    }
    const char *rest = good * RECORD == got ? "-" : "zero";
    for (k = good; k * RECORD < got; k++) {             /* zeros, or what was written: a truncation zeroes a tail first */
        if (whole(data + k * RECORD, k, &i, &version) && (id < 0 || i == id)) id = i, newest = version;
        record(expected, id, newest, k);
        for (int b = 0; b < RECORD && k * RECORD + b < got; b++) {
            char c = data[k * RECORD + b];
            if (c && c != expected[b]) rest = "bad";
        }
    }
    if (oldest < 0) oldest = newest;
    char attr[16] = "";
    n = fgetxattr(fd, "user.v", attr, sizeof attr - 1);
    printf("%s f %ld %d %d %d %d %s %s\n", path, size, id, oldest, newest, good, rest, n > 0 ? attr : "-");
    close(fd);
    return 0;
}

static int walk(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    int bad = !dir;
    if (!dir) printf("%s unreadable\n", path);
    while (dir && (d = readdir(dir))) {
        char name[512], target[256];
        struct stat st;
        if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..")) continue;
        snprintf(name, sizeof name, "%s/%s", path, d->d_name);
        const char *shown = name + 2;
        if (lstat(name, &st)) { printf("%s unreadable\n", shown); bad = 1; continue; }
        if (S_ISREG(st.st_mode)) bad |= file(shown, st.st_size);
        else if (S_ISLNK(st.st_mode)) {
            ssize_t n = readlink(name, target, sizeof target - 1);
            printf("%s l %.*s\n", shown, n > 0 ? (int)n : 0, target);
        } else if (S_ISDIR(st.st_mode)) { printf("%s d\n", shown); bad |= walk(name); }
    }
    if (dir) closedir(dir);
    return bad;
}

int main(int argc, char **argv)
{
    if (argc != 2 || chdir(argv[1])) return 2;
    int bad = walk(".");
    printf("end\n");
    return bad;
}
