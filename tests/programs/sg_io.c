/* SG_IO: argv[1] is a disk of 8 MB; argv[2]: the caller is nobody special. */
#include "check.h"
#include <scsi/sg.h>
#include <sys/ioctl.h>

static unsigned char sense[32], data[1 << 16];
static struct sg_io_hdr h;

static int command(int fd, const void *cdb, int length, int direction, unsigned size)
{
    memset(&h, 0, sizeof h);
    memset(sense, 0, sizeof sense);
    h.interface_id = 'S';
    h.dxfer_direction = direction;
    h.cmd_len = length;
    h.cmdp = (void *)cdb;
    h.dxfer_len = size;
    h.dxferp = data;
    h.sbp = sense;
    h.mx_sb_len = sizeof sense;
    h.timeout = 5000;
    return ioctl(fd, SG_IO, &h);
}

static int refused(int asc) { return h.status == 2 && h.masked_status == 1 && h.driver_status == 8 && !h.host_status
                                     && (h.info & 1) && h.sb_len_wr == 18 && sense[2] == 5 && sense[12] == asc; }

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR), version = 0;
    unsigned char read10[10] = {0x28, 0, 0, 0, 0, 8, 0, 0, 2}, write10[10] = {0x2a, 0, 0, 0, 0, 8, 0, 0, 2};
    unsigned char inquiry[6] = {0x12, 0, 0, 0, 96}, unknown[10] = {0x41}, ata[16] = {0x85}, unmap[10] = {0x42, 0, 0, 0, 0, 0, 0, 0, 24};
    unsigned char capacity[10] = {0x25}, format[6] = {0x04};
    CHECK("version", ioctl(fd, SG_GET_VERSION_NUM, &version) == 0 && version == 30527);
    CHECK("inquiry", command(fd, inquiry, 6, SG_DXFER_FROM_DEV, 96) == 0 && h.status == 0 && h.info == 0);
    CHECK("who it is", !memcmp(data + 8, "MDISK   ssd ", 12) && h.resid == 96 - 66);
    CHECK("less than all of it", command(fd, inquiry, 6, SG_DXFER_FROM_DEV, 16) == 0 && h.resid == 0);
    CHECK("capacity", command(fd, capacity, 10, SG_DXFER_FROM_DEV, 8) == 0 && data[2] == 0x3f && data[3] == 0xff);
    if (argc > 2) {
        close(fd);
        fd = open(argv[1], O_RDONLY);
        CHECK("reading is allowed", command(fd, read10, 10, SG_DXFER_FROM_DEV, 1024) == 0);
        CHECK("EPERM: writing is not, without a descriptor for it", FAILS(command(fd, write10, 10, SG_DXFER_TO_DEV, 1024), EPERM));
        CHECK("EPERM: an unknown command", FAILS(command(fd, (unsigned char[6]){0xd0}, 6, SG_DXFER_NONE, 0), EPERM));
        DONE();
    }
    for (int i = 0; i < 1024; i++) data[i] = i * 7;
    CHECK("write", command(fd, write10, 10, SG_DXFER_TO_DEV, 1024) == 0 && h.status == 0);
    memset(data, 0, 1024);
    CHECK("read", command(fd, read10, 10, SG_DXFER_FROM_DEV, 1024) == 0 && data[5] == 35 && data[1023] == (unsigned char)(1023 * 7));
    char page[1024];
    CHECK("the page cache reads the same", pread(fd, page, 1024, 4096) == 1024 && !memcmp(page, data, 1024));
    CHECK("memory that does not fit", command(fd, read10, 10, SG_DXFER_FROM_DEV, 512) == 0 && refused(0x24));
    CHECK("the wrong direction", command(fd, read10, 10, SG_DXFER_TO_DEV, 1024) == 0 && refused(0x24));
    read10[4] = 0x40;
    CHECK("behind the end", command(fd, read10, 10, SG_DXFER_FROM_DEV, 1024) == 0 && refused(0x21));
    CHECK("an unknown command", command(fd, unknown, 10, SG_DXFER_NONE, 0) == 0 && refused(0x20));
    CHECK("ATA PASS-THROUGH", command(fd, ata, 16, SG_DXFER_FROM_DEV, 512) == 0 && refused(0x20));
    CHECK("FORMAT UNIT", command(fd, format, 6, SG_DXFER_NONE, 0) == 0 && refused(0x20));
    memset(data, 0, 24);
    data[1] = 22, data[3] = 16, data[15] = 8, data[19] = 2;
    CHECK("UNMAP", command(fd, unmap, 10, SG_DXFER_TO_DEV, 24) == 0 && h.status == 0);
    read10[4] = 0;
    CHECK("reads zeros then", command(fd, read10, 10, SG_DXFER_FROM_DEV, 1024) == 0 && data[5] == 0 && data[1023] == 0);
    CHECK("UNMAP without ranges", command(fd, unmap, 10, SG_DXFER_TO_DEV, 8) == 0 && refused(0x24));
    h.interface_id = 'Q';
    CHECK("EINVAL: no version 3 header", FAILS(ioctl(fd, SG_IO, &h), EINVAL));
    CHECK("EFAULT: the header", FAILS(ioctl(fd, SG_IO, 8), EFAULT));
    CHECK("EFAULT: the command", FAILS(command(fd, (void *)8, 6, SG_DXFER_NONE, 0), EFAULT));
    struct { void *base; size_t length; } vector[2] = {{data, 100}, {data + 1000, 924}};
    memset(data, 1, 2048);
    memset(&h.interface_id, 0, sizeof h);
    h.interface_id = 'S', h.dxfer_direction = SG_DXFER_FROM_DEV, h.cmd_len = 10, h.cmdp = read10, h.dxfer_len = 1024;
    h.dxferp = vector, h.iovec_count = 2, h.sbp = sense, h.mx_sb_len = 32;
    CHECK("scattered", ioctl(fd, SG_IO, &h) == 0 && data[99] == 0 && data[100] == 1 && data[1000] == 0 && data[1923] == 0 && data[1924] == 1);
    unsigned where[2];
    CHECK("where it is", ioctl(fd, 0x5382, where) == 0 && where[0] == 0 && ioctl(fd, 0x5386, where) == 0 && where[0] == 0);
    DONE();
}
