"""sd disks, partitions, /sys/block, /proc and ioctls, as programs see them."""
import struct

from glasskernel.machine.disk import Disk

GPT = r"printf 'label: gpt\nstart=4096, size=4M, name=first\nsize=2M\n' | sfdisk -q /dev/sda; "
IOCTLS = r"""
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/hdreg.h>
#include <linux/blkpg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#define IS(call, want) if ((call) != (want)) { printf("line %d: %s is %ld (errno %d)\n", __LINE__, #call, (long)(call), errno); return 1; }
int main(void) {
    int fd = open("/dev/sda", O_RDWR), p = open("/dev/sda1", O_RDWR), i; unsigned long l; unsigned long long u, range[2];
    unsigned short s; struct hd_geometry geo; char page[4096];
    IS(ioctl(fd, BLKGETSIZE64, &u), 0); IS(u, 16ull << 20);
    IS(ioctl(p, BLKGETSIZE64, &u), 0); IS(u, 4ull << 20);
    IS(ioctl(fd, BLKGETSIZE, &l), 0); IS(l, 32768);
    IS(ioctl(fd, BLKSSZGET, &i), 0); IS(i, 512);
    IS(ioctl(fd, BLKPBSZGET, &i), 0); IS(i, 4096);
    IS(ioctl(fd, BLKBSZGET, &i), 0); IS(i, 4096);
    IS(ioctl(fd, BLKIOMIN, &i), 0); IS(i, 4096);
    IS(ioctl(fd, BLKIOOPT, &i), 0); IS(i, 0);
    IS(ioctl(fd, BLKALIGNOFF, &i), 0); IS(i, 0);
    IS(ioctl(fd, BLKROTATIONAL, &s), 0); IS(s, 0);
    IS(ioctl(fd, BLKSECTGET, &s), 0); IS(s, 2560);
    IS(ioctl(fd, BLKRAGET, &l), 0); IS(l, 256);
    IS(ioctl(fd, BLKRASET, 64), 0); IS(ioctl(fd, BLKRAGET, &l), 0); IS(l, 64);
    IS(ioctl(fd, BLKROGET, &i), 0); IS(i, 0);
    i = 1; IS(ioctl(p, BLKROSET, &i), 0); IS(ioctl(p, BLKROGET, &i), 0); IS(i, 1);
    IS(write(p, "x", 1), -1); IS(errno, EPERM);
    i = 0; IS(ioctl(p, BLKROSET, &i), 0);
    IS(ioctl(p, HDIO_GETGEO, &geo), 0); IS(geo.start, 4096); IS(geo.heads, 255); IS(geo.sectors, 63);
    memset(page, 'z', sizeof page);
    IS(pwrite(p, page, sizeof page, 8192), 4096);
    range[0] = 8192; range[1] = 2048;
    IS(ioctl(p, BLKZEROOUT, range), 0);
    IS(pread(p, page, sizeof page, 8192), 4096); IS(page[0], 0); IS(page[2047], 0); IS(page[2048], 'z');
    range[1] = 4096; IS(ioctl(p, BLKDISCARD, range), 0);
    IS(pread(p, page, sizeof page, 8192), 4096); IS(page[4095], 0);
    range[0] = 1; IS(ioctl(p, BLKDISCARD, range), -1); IS(errno, EINVAL);
    range[0] = 8ull << 20; IS(ioctl(p, BLKDISCARD, range), -1); IS(errno, EINVAL);
    IS(ioctl(fd, BLKSECDISCARD, range), -1); IS(errno, EOPNOTSUPP);
    IS(ioctl(fd, BLKFLSBUF, 0), 0);
    IS(ioctl(fd, BLKRRPART, 0), -1); IS(errno, EBUSY);          /* sda1 is open */
    IS(ioctl(p, BLKRRPART, 0), -1); IS(errno, EINVAL);
    IS(ioctl(fd, 0x12345, 0), -1); IS(errno, ENOTTY);
    struct blkpg_partition part = { .start = 12 << 20, .length = 1 << 20, .pno = 5 };
    struct blkpg_ioctl_arg arg = { .op = BLKPG_ADD_PARTITION, .datalen = sizeof part, .data = &part };
    IS(ioctl(fd, BLKPG, &arg), 0); IS(access("/dev/sda5", F_OK), 0);
    IS(ioctl(fd, BLKPG, &arg), -1); IS(errno, EBUSY);
    arg.op = BLKPG_RESIZE_PARTITION; part.length = 2 << 20; IS(ioctl(fd, BLKPG, &arg), 0);
    arg.op = BLKPG_DEL_PARTITION; IS(ioctl(fd, BLKPG, &arg), 0); IS(access("/dev/sda5", F_OK), -1);
    IS(ioctl(fd, BLKPG, &arg), -1); IS(errno, ENXIO);
    close(p);
    IS(ioctl(fd, BLKRRPART, 0), 0); IS(access("/dev/sda2", F_OK), 0);
    return 0;
}
"""


def test_disks_are_sda_and_sdb(sh, memory_disk):
    out, kernel = sh([memory_disk(), memory_disk(8, model="hdd")], "ls -l /dev/sda /dev/sdb; cat /proc/partitions; "
                     "cat /sys/block/sd[ab]/queue/rotational /sys/block/sdb/device/model /sys/block/sda/dev; "
                     "tail -n 5 /proc/devices | head -n 2")
    lines = out.splitlines()
    assert lines[0].split()[:6] == ["brw-rw----", "1", "root", "disk", "8,", "0"] and lines[1].split()[4:6] == ["8,", "16"]
    assert lines[2:6] == ["major minor  #blocks  name", "", "   8        0      16384 sda", "   8       16       8192 sdb"]
    assert lines[6:] == ["0", "1", "hdd             ", "8:0", "132 sd", "133 sd"]
    assert "sd 1:0:0:0: [sdb] 16384 512-byte logical blocks: (8.39 MB/8.00 MiB)" in kernel.dmesg()


def test_gpt_and_its_names(sh, memory_disk):
    """A partition table that is written inside is there at once, and at the next boot."""
    disk = memory_disk()
    out, _ = sh([disk], GPT + "lsblk -rno NAME,SIZE,TYPE /dev/sda; cat /sys/class/block/sda2/partition /sys/block/sda/sda1/start")
    assert out == "sda 16M disk\nsda1 4M part\nsda2 2M part\n2\n4096\n"
    again = Disk(size=disk.size)
    again.write_bytes(0, disk.read_bytes(0, disk.size))
    out, kernel = sh([again], "cat /sys/block/sda/sda1/uevent; ls /sys/dev/block | tr '\\n' ' '")
    assert out == "MAJOR=8\nMINOR=1\nDEVNAME=sda1\nDEVTYPE=partition\nPARTN=1\nPARTNAME=first\n" + (
        "8:0 8:1 8:2 ")
    assert " sda: sda1 sda2\n" in kernel.dmesg()


def test_mbr_with_logical_partitions(sh, memory_disk):
    out, kernel = sh([memory_disk()], r"printf 'label: dos\nsize=1M\nsize=6M,type=5\nsize=1M\nsize=1M\nsize=1M\nsize=2M\n' | "
                     "sfdisk -q /dev/sda; lsblk -rno NAME,SIZE /dev/sda; cat /sys/block/sda/sda6/size")
    assert out.splitlines() == ["sda 16M", "sda1 1M", "sda2 1K", "sda3 1M", "sda4 1M", "sda5 1M", "sda6 2M", "4096"]
    assert " sda: sda1 sda2 < sda5 sda6 > sda3 sda4" in kernel.dmesg()


def test_a_damaged_gpt_falls_back_to_its_copy(sh, memory_disk):
    disk = memory_disk()
    sh([disk], GPT)
    again = Disk(size=disk.size)
    again.write_bytes(0, disk.read_bytes(0, disk.size))
    again.write_bytes(512 + 60, b"damage")
    _, kernel = sh([again], "test -b /dev/sda2")
    assert "Alternate GPT is used" in kernel.dmesg()


def test_a_sector_of_a_partition_is_behind_its_start(sh, memory_disk):
    disk = memory_disk()
    sh([disk], GPT + "printf hello | dd of=/dev/sda1 bs=512 seek=3 conv=sync,fsync 2>/dev/null")
    assert disk.read_bytes((4096 + 3) * 512, 5) == b"hello"


def test_statistics_of_disk_and_partition(sh, memory_disk):
    out, _ = sh([memory_disk()], GPT + "dd if=/dev/sda1 of=/dev/null bs=4k count=5 iflag=direct 2>/dev/null; "
                "dd if=/dev/zero of=/dev/sda1 bs=8k count=3 oflag=direct 2>/dev/null; cat /sys/block/sda/sda1/stat; "
                "grep sda1 /proc/diskstats; cat /sys/block/sda/inflight")
    stat, disk, inflight = out.splitlines()
    fields = stat.split()
    assert len(fields) == 15 and fields[4] == "3" and fields[6] == "48" and fields[8] == "0"
    assert int(fields[0]) >= 5 and int(fields[2]) >= 40
    assert disk.split()[:3] == ["8", "1", "sda1"] and disk.split()[3:] == fields and inflight.split() == ["0", "0"]


def test_ioctls(boot, build_c, memory_disk):
    from glasskernel import Share
    from tests.conftest import CACHE

    program = build_c(IOCTLS)
    kernel = boot(disks=[memory_disk(model="ssd")], shares=[Share(str(CACHE), "/programs")])
    result = kernel.run(["/bin/sh", "-ec", GPT + f"/programs/{program.name}"])
    assert result.status == 0, result


def test_the_scheduler_is_a_file(sh, memory_disk):
    out, _ = sh([memory_disk()], "cd /sys/block/sda/queue; cat scheduler; ls iosched | tr '\\n' ' '; "
                         "echo 8 > iosched/fifo_batch; cat iosched/fifo_batch; echo bfq > scheduler; cat scheduler; "
                         "cat iosched/slice_idle iosched/low_latency; echo kyber > scheduler; cat iosched/read_lat_nsec; "
                         "echo none > scheduler; cat scheduler; test -d iosched || echo gone; echo cfq > scheduler || echo no")
    assert out == ("[mq-deadline] kyber bfq none \nfifo_batch front_merges read_expire write_expire writes_starved 8\n"
                   "mq-deadline kyber [bfq] none \n8\n1\n2000000\n[none] mq-deadline kyber bfq \ngone\nno\n")


def test_queue_files_that_act(sh, memory_disk):
    out, kernel = sh([memory_disk()], "cd /sys/block/sda/queue; for f in nr_requests max_sectors_kb read_ahead_kb nomerges write_cache; "
                     "do cat $f; done; echo 16 > nr_requests; echo 64 > max_sectors_kb; echo 2 > nomerges; echo 'write through' > write_cache; "
                     "for f in nr_requests max_sectors_kb nomerges write_cache fua; do cat $f; done; "
                     "echo 3 > max_sectors_kb || true; echo x > nr_requests || echo no; "
                     "dd if=/dev/sda of=/dev/null bs=256k count=2 iflag=direct 2>/dev/null; cut -c 1-9 ../stat")
    assert out.splitlines()[:5] == ["64", "1280", "128", "0", "write back"]
    assert out.splitlines()[5:11] == ["16", "64", "2", "write through", "1", "no"]
    assert int(out.splitlines()[11]) >= 8                            # 512 KB in pieces of 64 KB
    assert kernel.block.disks[-1].queue.nr_requests == 16


def test_a_read_only_disk(sh, memory_disk):
    out, _ = sh([memory_disk(read_only=True)], "cat /sys/block/sda/ro; dd if=/dev/zero of=/dev/sda count=1 2>&1 | grep -c 'not permitted'; "
                "dd if=/dev/sda of=/dev/null count=1 2>/dev/null")
    assert out == "1\n1\n"


def test_a_reader_of_a_cold_disk_waits_for_io(sh, memory_disk):
    """The interrupt, the BLOCK softirq, iowait, and the chain of functions below it."""
    out, kernel = sh([memory_disk(model="hdd")], "grep -c mdisk /proc/interrupts; dd if=/dev/sda of=/dev/null bs=1M 2>/dev/null; "
                     "awk '/mdisk/ {print ($2 + $3 + $4 + $5 > 10)}' /proc/interrupts; awk '/BLOCK/ {print ($2 > 10)}' /proc/softirqs; "
                     "awk '/^cpu / {print ($6 > 0)}' /proc/stat")
    assert out == "1\n1\n1\n1\n"
    assert struct.calcsize("Q") == 8 and kernel.now_ns > 50_000_000


def test_a_disk_file_survives_the_kernel(sh, tmp_path):
    path = str(tmp_path / "disk.img")
    sh([Disk(path, 4 << 20)], "printf persistent > /tmp/x; dd if=/tmp/x of=/dev/sda bs=512 seek=100 conv=sync,fsync 2>/dev/null")
    out, _ = sh([Disk(path)], "dd if=/dev/sda bs=512 skip=100 count=1 2>/dev/null | tr -d '\\0'")
    assert out == "persistent"


def test_the_run_with_a_disk_is_repeatable(sh, memory_disk):
    def once():
        out, kernel = sh([memory_disk(model="hdd", seed=9)], "for s in bfq kyber mq-deadline; do echo $s > /sys/block/sda/queue/scheduler; "
                         "dd if=/dev/urandom of=/dev/sda bs=4k count=30 conv=fsync 2>/dev/null & dd if=/dev/sda of=/dev/null bs=4k skip=2000 count=50 2>/dev/null; "
                         "wait; cat /sys/block/sda/stat; done; cat /proc/uptime")
        return out, kernel.now_ns

    assert once() == once()
