/* FIEMAP, FITRIM and EXT4_IOC_SHUTDOWN: argv[1] is a directory on ext4, argv[2] which, argv[3] the flag of a shutdown. */
#include "check.h"
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, unsigned)

static char name[200], data[65536];
static struct { struct fiemap map; struct fiemap_extent e[16]; } f;

static int fiemap(int fd, unsigned long long start, unsigned long long length, unsigned flags, unsigned count)
{
    memset(&f, 0, sizeof f);
    f.map.fm_start = start, f.map.fm_length = length, f.map.fm_flags = flags, f.map.fm_extent_count = count;
    return ioctl(fd, FS_IOC_FIEMAP, &f);
}

int main(int argc, char **argv)
{
    snprintf(name, sizeof name, "%s/file", argv[1]);
    int fd = open(name, O_RDWR | O_CREAT, 0600);
    if (!strcmp(argv[2], "fiemap")) {
        CHECK("nothing", fiemap(fd, 0, ~0ULL, 0, 16) == 0 && f.map.fm_mapped_extents == 0);
        pwrite(fd, data, 65536, 0);
        CHECK("data that has no block yet", fiemap(fd, 0, ~0ULL, 0, 16) == 0 && f.map.fm_mapped_extents == 1
              && (f.e[0].fe_flags & (FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_LAST)) == 7);
        CHECK("FIEMAP_FLAG_SYNC", fiemap(fd, 0, ~0ULL, FIEMAP_FLAG_SYNC, 16) == 0 && f.map.fm_mapped_extents == 1
              && f.e[0].fe_flags == FIEMAP_EXTENT_LAST && f.e[0].fe_physical && f.e[0].fe_length == 65536);
        fallocate(fd, 0, 131072, 65536);
        pwrite(fd, data, 4096, 1 << 20);
        fsync(fd);
        CHECK("three of them", fiemap(fd, 0, ~0ULL, 0, 16) == 0 && f.map.fm_mapped_extents == 3);
        CHECK("one is unwritten", f.e[1].fe_flags == FIEMAP_EXTENT_UNWRITTEN && f.e[1].fe_logical == 131072 && f.e[1].fe_length == 65536);
        CHECK("the last", f.e[2].fe_flags == FIEMAP_EXTENT_LAST && f.e[2].fe_logical == 1 << 20);
        CHECK("how many", fiemap(fd, 0, ~0ULL, 0, 0) == 0 && f.map.fm_mapped_extents == 3);
        CHECK("as many as there is room for", fiemap(fd, 0, ~0ULL, 0, 2) == 0 && f.map.fm_mapped_extents == 2 && f.e[1].fe_flags == FIEMAP_EXTENT_UNWRITTEN);
        CHECK("a part", fiemap(fd, 140000, 1000, 0, 16) == 0 && f.map.fm_mapped_extents == 1
              && f.e[0].fe_logical <= 140000 && f.e[0].fe_logical + f.e[0].fe_length >= 141000);      /* or cut, from 5.5 on */
        CHECK("a hole", fiemap(fd, 70000, 1000, 0, 16) == 0 && f.map.fm_mapped_extents == 0);
        CHECK("EINVAL: no length", FAILS(fiemap(fd, 0, 0, 0, 16), EINVAL));
        CHECK("EBADR: a flag that is not known", fiemap(fd, 0, ~0ULL, 0x800, 16) == -1 && errno == EBADR && f.map.fm_flags == 0x800);
    } else if (!strcmp(argv[2], "trim")) {
        struct fstrim_range r = {0, ~0ULL, 0};
        CHECK("FITRIM", ioctl(fd, FITRIM, &r) == 0 && r.len > 1 << 20);
        struct fstrim_range again = {0, ~0ULL, 0};
        CHECK("nothing is left to trim", ioctl(fd, FITRIM, &again) == 0 && again.len == 0);
        struct fstrim_range large = {0, ~0ULL, 1ULL << 50};
        CHECK("EINVAL: larger than a group", FAILS(ioctl(fd, FITRIM, &large), EINVAL));
        struct fstrim_range behind = {1ULL << 50, 4096, 0};
        CHECK("EINVAL: behind the end", FAILS(ioctl(fd, FITRIM, &behind), EINVAL));
    } else {
        unsigned flag = atoi(argv[3]);
        pwrite(fd, "synced", 6, 0);
        fsync(fd);
        pwrite(fd, "lost??", 6, 0);
        snprintf(name, sizeof name, "%s/other", argv[1]);
        close(open(name, O_CREAT, 0600));
        unsigned wrong = 7;
        CHECK("EINVAL: a flag that is not known", FAILS(ioctl(fd, EXT4_IOC_SHUTDOWN, &wrong), EINVAL));
        CHECK("shutdown", ioctl(fd, EXT4_IOC_SHUTDOWN, &flag) == 0);
        CHECK("EIO: write", FAILS(pwrite(fd, "x", 1, 0), EIO));
        CHECK("EIO: read", FAILS(pread(fd, data, 1, 0), EIO));
        CHECK("EIO: fsync", FAILS(fsync(fd), EIO));
        CHECK("EIO: open", FAILS(open(name, O_RDWR), EIO));
        snprintf(name, sizeof name, "%s/new", argv[1]);
        CHECK("EIO: create", FAILS(open(name, O_CREAT, 0600), EIO));
        CHECK("EIO: mkdir", FAILS(mkdir(name, 0700), EIO));
        CHECK("again is no error", ioctl(fd, EXT4_IOC_SHUTDOWN, &flag) == 0);
    }
    DONE();
}
