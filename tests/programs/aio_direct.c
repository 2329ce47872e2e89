/* Asynchronous direct I/O on ext4: argv[1] is a file to make. */
#include "check.h"
#include <linux/aio_abi.h>
#include <linux/falloc.h>

static aio_context_t ctx;
static char *buffer;
static struct iocb requests[64], *list[64];
static struct io_event events[64];

static int submit(int fd, int op, int n, size_t size)
{
    for (int i = 0; i < n; i++) {
        requests[i] = (struct iocb){.aio_data = i, .aio_lio_opcode = op, .aio_fildes = fd,
                                    .aio_buf = (unsigned long)(buffer + i * size), .aio_nbytes = size, .aio_offset = i * size};
        list[i] = &requests[i];
    }
    return syscall(SYS_io_submit, ctx, n, list);
}

static int complete(int n, long res)
{
    int right = syscall(SYS_io_getevents, ctx, n, 64, events, NULL) == n;
    for (int i = 0; i < n; i++) right &= events[i].res == res;
    return right;
}

int main(int argc, char **argv)
{
    char name[100];
    int fd = open(argv[1], O_RDWR | O_CREAT | O_DIRECT, 0600);
    posix_memalign((void **)&buffer, 4096, 1 << 18);
    CHECK("io_setup", syscall(SYS_io_setup, 64, &ctx) == 0);
    CHECK("unwritten extents", fallocate(fd, 0, 0, 1 << 18) == 0);
    memset(buffer, 'x', 1 << 18);
    CHECK("writes into them", submit(fd, IOCB_CMD_PWRITE, 64, 4096) == 64);
    CHECK("go on behind our back", *(volatile unsigned *)(ctx + 8) == *(volatile unsigned *)(ctx + 12));
    CHECK("and end", complete(64, 4096));
    memset(buffer, 0, 1 << 18);
    CHECK("reads", submit(fd, IOCB_CMD_PREAD, 64, 4096) == 64 && complete(64, 4096));
    int right = 1;
    for (int i = 0; i < 1 << 18; i++) right &= buffer[i] == 'x';
    CHECK("what was written", right);

    CHECK("parts of blocks", submit(fd, IOCB_CMD_PWRITE, 32, 512) == 32 && complete(32, 512));
    int sync = open(argv[1], O_RDWR | O_DIRECT | O_DSYNC);
    CHECK("O_DSYNC", submit(sync, IOCB_CMD_PWRITE, 8, 4096) == 8 && complete(8, 4096));
    close(sync);
    CHECK("a hole", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 16) == 0);
    CHECK("writes that fill it", submit(fd, IOCB_CMD_PWRITE, 16, 4096) == 16 && complete(16, 4096));
    char *map = mmap(NULL, 1 << 18, PROT_READ, MAP_SHARED, fd, 0);
    CHECK("cached pages", map[0] == 'x' && map[1 << 17] == 'x');
    memset(buffer, 'y', 4096);
    CHECK("go when a write ends", submit(fd, IOCB_CMD_PWRITE, 1, 4096) == 1 && complete(1, 4096) && map[0] == 'y');
    memset(buffer, 'x', 4096);
    CHECK("back again", submit(fd, IOCB_CMD_PWRITE, 1, 4096) == 1 && complete(1, 4096) && map[0] == 'x');

    snprintf(name, sizeof name, "%s.cut", argv[1]);
    int cut = open(name, O_RDWR | O_CREAT | O_DIRECT, 0600);
    fallocate(cut, 0, 0, 1 << 18);
    CHECK("writes", submit(cut, IOCB_CMD_PWRITE, 64, 4096) == 64);
    CHECK("a truncation waits for them", ftruncate(cut, 4096) == 0 && complete(64, 4096));
    CHECK("writes of a file", submit(cut, IOCB_CMD_PWRITE, 1, 4096) == 1);
    close(cut);
    CHECK("that is closed", complete(1, 4096));
    int disk = open("/dev/sda", O_RDONLY | O_DIRECT);
    CHECK("a device", submit(disk, IOCB_CMD_PREAD, 16, 4096) == 16 && complete(16, 4096));
    CHECK("its super block", buffer[1024 + 56] == 0x53 && (unsigned char)buffer[1024 + 57] == 0xef);
    requests[0].aio_buf++;
    CHECK("EINVAL is the event's", syscall(SYS_io_submit, ctx, 1, list) == 1 && complete(1, -EINVAL));
    CHECK("exit while they go on", submit(fd, IOCB_CMD_PREAD, 64, 4096) == 64);
    DONE();
}
